"""The routes of the aggregator's page. All is read; nothing here can change anything."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from gobelin.server.alerts import is_silent
from gobelin.server.details import member_detail, node_detail, round_detail
from gobelin.server.home import AggregatorHome
from gobelin.server.metrics import FAMILIES, labels_of
from gobelin.server.observer import Observer
from gobelin.server.overview import NodeView, Overview, plain
from gobelin.server.page.curves import curves_of, curves_of_member
from gobelin.server.page.inspector import Inspector, Map
from gobelin.server.progress import describe
from gobelin.server.reasons import ReductionCode, RefusalCode
from gobelin.shared.errors import ConfigError
from gobelin.shared.metrics import PATH, Exporter
from gobelin.shared.pages.app import page_app
from gobelin.shared.pages.live import Watcher
from gobelin.shared.pages.templates import render

PACKAGE = "gobelin.server.page:templates/"
PAGE = 25  # rounds on one
AGES_S = 10.0  # alerts tell ages: they are renewed this often while there are some
MEANINGS = {str(code): code.meaning for code in (*RefusalCode, *ReductionCode)}


@dataclass(frozen=True)
class Seen:
    """What a look has found."""

    overview: Overview
    recent: tuple[tuple[str, str], ...]  # events: when, and what
    map: Map | None


class Page:
    """Looks at one home, for the routes."""

    def __init__(self, home: AggregatorHome, inspector: Inspector) -> None:
        self.observer = Observer(home)
        self.inspector = inspector
        self.watcher = Watcher(self.look, self.key)

    def look(self) -> Seen:
        """Everything the first page shows."""
        self.observer.verdicts = self.inspector.verdicts
        overview = self.observer.look()
        self.inspector.look(release.name for release in overview.releases)
        recent = tuple(
            (str(event.get("at", "")), describe(dict(event), overview.rounds))
            for event in reversed(self.observer.events.recent)
        )
        return Seen(overview, recent, self.inspector.map)

    def key(self, seen: Seen) -> object:
        """What makes a look news: everything but the time, beats, and ages that alerts tell."""
        of = seen.overview
        silent = tuple(node.name for node in of.nodes if is_silent(node, of.at))
        nodes = tuple(replace(node, seen=None) for node in of.nodes)
        alerts = tuple((alert.code, alert.where, alert.severity) for alert in of.alerts)
        ages = int(of.at // AGES_S) if of.alerts else 0
        still = (of.open, of.sealed, of.running, of.ledger, of.releases, of.processes, of.waiting)
        return repr((silent, nodes, alerts, ages, still, seen.recent[:1], seen.map is None))

    async def detail(self, read: Any, *of: Any) -> Any:
        """A detail, read in a thread and never beside a look."""
        return await self.watcher.aside(read, self.observer, *of)


def make_page(
    home: AggregatorHome, hosts: Collection[str] | None, token: str, inspector: Inspector
) -> FastAPI:
    """The app; raises StateError where there is no home."""
    page = Page(home, inspector)
    app = page_app(f"{home.front().name}: aggregator", hosts, token)

    async def show(template: str, seen: Seen, path: str, **values: Any) -> HTMLResponse:
        told = await asyncio.to_thread(
            render,
            PACKAGE + template,
            title=app.title,
            of=seen.overview,
            path=path,
            version=page.watcher.version,
            meanings=MEANINGS,
            node_state=node_state,
            **values,
        )
        return HTMLResponse(told)

    @app.get("/", include_in_schema=False)
    async def overview() -> Response:
        seen = await page.watcher.soon()
        values = {"charts": curves_of(seen.overview), "recent": seen.recent, "map": seen.map}
        return await show("overview.html.j2", seen, "/", **values)

    @app.get("/rounds", include_in_schema=False)
    async def rounds(number: Annotated[int, Query(alias="page", ge=1)] = 1) -> Response:
        seen = await page.watcher.soon()
        pages = max(1, math.ceil(len(seen.overview.history) / PAGE))
        current = min(number, pages)
        newest = seen.overview.history[::-1]
        shown = newest[(current - 1) * PAGE : current * PAGE]
        return await show(
            "rounds.html.j2", seen, "/rounds", shown=shown, current=current, pages=pages
        )

    @app.get("/rounds/{number}", include_in_schema=False)
    async def one_round(number: int) -> Response:
        seen = await page.watcher.soon()
        detail = await page.detail(round_detail, number)
        return await show("round.html.j2", seen, "/rounds", detail=detail)

    @app.get("/rounds/{number}/contributions/{node}/{asked}", include_in_schema=False)
    async def contribution(number: int, node: str, asked: int) -> Response:
        seen = await page.watcher.soon()
        detail = await page.detail(round_detail, number)
        for row in detail.contributions:
            if (row.node, row.asked) == (node, asked):
                return await show("contribution.html.j2", seen, "/rounds", detail=detail, row=row)
        raise ConfigError(f"round {number} counted nothing of that node", f"see /rounds/{number}")

    @app.get("/members", include_in_schema=False)
    async def members() -> Response:
        return await show("members.html.j2", await page.watcher.soon(), "/members")

    @app.get("/members/{name}", include_in_schema=False)
    async def member(name: str) -> Response:
        seen = await page.watcher.soon()
        detail = await page.detail(member_detail, name)
        charts = curves_of_member(detail)
        return await show("member.html.j2", seen, "/members", detail=detail, charts=charts)

    @app.get("/overview.json")
    async def as_json() -> Response:
        return JSONResponse((await page.watcher.now()).overview.facts())

    @app.get("/rounds/{number}/detail.json")
    async def round_json(number: int) -> Response:
        return JSONResponse(plain(await page.detail(round_detail, number)))

    @app.get("/members/{name}/detail.json")
    async def member_json(name: str) -> Response:
        return JSONResponse(plain(await page.detail(member_detail, name)))

    @app.get("/nodes/{name}/detail.json")
    async def node_json(name: str) -> Response:
        return JSONResponse(plain(await page.detail(node_detail, name)))

    @app.get(PATH, include_in_schema=False)
    async def metrics() -> Response:
        seen = await page.watcher.now()
        return Exporter(FAMILIES, labels_of).response(seen.overview)

    @app.get("/events", include_in_schema=False)
    async def events(request: Request) -> Response:
        return page.watcher.stream(request)

    return app


def node_state(node: NodeView, of: Overview) -> tuple[str, str]:
    """How a node is, in a word, and how a page colours it."""
    if node.role != "contributor":
        return "observer", "off"
    if node.seen is None:
        return "never seen", "off"
    if is_silent(node, of.at) and not of.finished:
        return "silent", "bad" if node.state == "awaited" else "warn"
    words = {"in": ("answered", "good"), "refused": ("refused", "bad"), "awaited": ("at work", "")}
    return words.get(node.state, ("idle" if not of.finished else "finished", "off"))

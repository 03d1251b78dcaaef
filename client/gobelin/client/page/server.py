"""The routes of the node's page. All is read; nothing here can change anything."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from gobelin.client.home import NodeHome
from gobelin.client.metrics import FAMILIES, labels_of
from gobelin.client.observer import Observer
from gobelin.client.overview import Overview
from gobelin.client.page.curves import curves_of
from gobelin.client.progress import describe
from gobelin.client.status import MEASURES, premium_line
from gobelin.shared.metrics import PATH, Exporter
from gobelin.shared.pages.app import page_app
from gobelin.shared.pages.live import Watcher
from gobelin.shared.pages.templates import render

TEMPLATE = "gobelin.client.page:templates/overview.html.j2"
SHOWN = 12  # rounds


def make_page(home: NodeHome, hosts: Collection[str] | None, token: str = "") -> FastAPI:
    """The app; raises StateError where there is no home."""
    observer = Observer(home)
    watcher = Watcher(observer.look, news_of)
    app = page_app(f"{home.settings().node}: node", hosts, token)

    @app.get("/", include_in_schema=False)
    async def overview() -> Response:
        of = await watcher.soon()
        told = await asyncio.to_thread(
            render,
            TEMPLATE,
            title=app.title,
            of=of,
            doing=describe(of.status),
            charts=curves_of(of),
            shown=of.rounds[::-1][:SHOWN],
            measures=MEASURES,
            premium=premium_line(of.premium) if of.premium else "",
            version=watcher.version,
        )
        return HTMLResponse(told)

    @app.get("/overview.json")
    async def as_json() -> Response:
        return JSONResponse((await watcher.now()).facts())

    @app.get(PATH, include_in_schema=False)
    async def metrics() -> Response:
        return Exporter(FAMILIES, labels_of).response(await watcher.now())

    @app.get("/events", include_in_schema=False)
    async def events(request: Request) -> Response:
        return watcher.stream(request)

    return app


def news_of(of: Overview) -> object:
    """What makes a look news: everything but the time, and figures of the machine that jitter."""
    machine = replace(of.machine, load=None, memory=None, gpus=(), disk_free=0, home_bytes=0)
    return repr(replace(of, at=0.0, machine=machine)), of.silent

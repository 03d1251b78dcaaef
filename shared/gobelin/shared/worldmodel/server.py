"""A world model over HTTP: /plan, /rollout, /surprise, /health and their OpenAPI document.

For agents on the same machine: there is no authentication, so it listens on loopback unless told
otherwise, and there answers only to names of loopback, lest a web page reach it by its own name.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import threading
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gobelin.shared.data.trajectories import Trajectories
from gobelin.shared.errors import ConfigError, DataError, GobelinError, PortInUseError
from gobelin.shared.signals import Stopped, stop_on_signals
from gobelin.shared.worldmodel.answers import (
    foreseen_facts,
    one_plan,
    planned_facts,
    surprise_facts,
)
from gobelin.shared.worldmodel.observation import actions_of
from gobelin.shared.worldmodel.oracle import Oracle
from gobelin.shared.worldmodel.requests import PlanRequest, Refusal, RolloutRequest, SurpriseRequest

MAX_SEARCH = 2_000_000  # steps of the model that a plan may take to search
MAX_ROLLOUT = 65_536  # steps of all plans of a rollout
MAX_EPISODE = 4096  # steps whose plausibility is asked at once
MAX_OPEN = 32  # requests at a time; the next are told to come again
GRACE_S = 5  # for what is under way when the server is stopped
log = logging.getLogger(__name__)


def make_app(
    oracle: Oracle, about: dict[str, Any], max_bytes: int, hosts: Collection[str] | None
) -> FastAPI:
    """The interface; `about` is what /health says of the model.

    Bodies are at most `max_bytes`, and requests call the server by one of `hosts`; None: by any.
    """
    app = FastAPI(
        title="Gobelin world model",
        docs_url=None,
        redoc_url=None,
        responses={422: {"model": Refusal, "description": "What was wrong, and how to mend it"}},
    )
    app.add_middleware(Guard, max_bytes=max_bytes, hosts=hosts)
    app.add_exception_handler(GobelinError, _refuse)
    app.add_exception_handler(RequestValidationError, _misread)
    app.add_exception_handler(HTTPException, _unknown)
    questions = Questions(oracle, about)
    app.get("/health")(questions.health)
    app.post("/plan", summary="Find me actions that lead from start to goal")(questions.plan)
    app.post("/rollout", summary="What happens if")(questions.rollout)
    app.post("/surprise", summary="How plausible is this")(questions.surprise)
    return app


class Questions:
    """What can be asked, one computation at a time: they share the cores."""

    def __init__(self, oracle: Oracle, about: dict[str, Any]) -> None:
        self.oracle, self.about, self.form = oracle, about, oracle.model.form
        self.turn = threading.Lock()

    def health(self) -> dict[str, Any]:
        """Which model answers, and what it sees and does."""
        return {"status": "ok", **self.about}

    def plan(self, asked: PlanRequest) -> dict[str, Any]:
        """Actions (H, A) and what they are foreseen to lead to; an error where none are allowed."""
        if asked.settings.steps_imagined > MAX_SEARCH:
            what = f"a search of {asked.settings.steps_imagined:,} steps"
            raise ConfigError(what, f"samples × iterations × horizon ≤ {MAX_SEARCH:,}")
        start, goal = asked.start.tensor(self.form), asked.goal.tensor(self.form)
        with self.turn:
            return planned_facts(self.oracle, self.oracle.plan(start, goal, asked.settings))

    def rollout(self, asked: RolloutRequest) -> dict[str, Any]:
        """How far plans lead from the start and to the goal, in latent space, at every step."""
        actions = actions_of(asked.actions, self.form)
        if actions.shape[0] * actions.shape[1] > MAX_ROLLOUT:
            raise DataError("too many steps at once", f"ask for at most {MAX_ROLLOUT:,}")
        goal = None if asked.goal is None else asked.goal.tensor(self.form)
        with self.turn:
            found = self.oracle.rollout(asked.start.tensor(self.form), actions, goal)
        facts = foreseen_facts(self.oracle, found)
        if asked.latents:
            facts["latents"] = found.latents.tolist()
        return one_plan(facts) if _depth(asked.actions) == 2 else facts

    def surprise(self, asked: SurpriseRequest) -> dict[str, Any]:
        """The energy of each step: low is plausible."""
        actions = actions_of(asked.actions, self.form)
        if len(actions) != 1 or actions.shape[1] + 1 != len(asked.observations):
            what = f"{len(asked.observations)} observations with actions {tuple(actions.shape)}"
            raise DataError(what, "give T actions (T, A) for T + 1 observations")
        if actions.shape[1] > MAX_EPISODE:
            raise DataError("too many steps at once", f"ask for at most {MAX_EPISODE:,}")
        seen = torch.stack([observation.tensor(self.form) for observation in asked.observations])
        with self.turn:
            return surprise_facts(self.oracle.surprise(Trajectories(seen[None], actions))[0])


class Guard:
    """Refuses strange hosts, crowds and large bodies before they are parsed; shows no traceback."""

    def __init__(self, app: ASGIApp, max_bytes: int, hosts: Collection[str] | None) -> None:
        self.app, self.max_bytes, self.hosts = app, max_bytes, hosts
        self.open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.open += 1
        try:
            refusal = await self._handle(scope, receive, send)
            if refusal is not None:
                await refusal(scope, receive, send)
        except ClientDisconnect:
            log.debug("%s %s: the client went away", scope["method"], scope["path"])
        finally:
            self.open -= 1

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> JSONResponse | None:
        """What to answer where the app does not."""
        called = urlsplit("//" + Headers(scope=scope).get("host", "")).hostname
        if self.hosts is not None and called not in self.hosts:
            return _error(ConfigError("this server has another name", "call it 127.0.0.1"), 421)
        if self.open > MAX_OPEN:
            what = f"{MAX_OPEN} requests are being answered"
            return _error(GobelinError(what, "ask again later"), 503)
        body = await self._body(receive)
        if body is None:
            what, remedy = "the request is too large", f"send at most {self.max_bytes:,} bytes"
            return _error(DataError(what, remedy), 413)
        begun = False
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, replay, watched)
        except Exception as error:
            log.error("%s %s: %s", scope["method"], scope["path"], type(error).__name__)
            if not begun:
                return _error(GobelinError("the server failed at this request"), 500)
        return None

    async def _body(self, receive: Receive) -> bytes | None:
        """All of it, or None as soon as it is too long."""
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part = message.get("body", b"")
            size += len(part)
            if size > self.max_bytes:
                return None
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; raises PortInUseError and ConfigError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        what = f"cannot listen on {host} port {port}: {error.strerror}"
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(what, "use another --port, or 0 for a free one") from None
        raise ConfigError(what, "use --host 127.0.0.1, and a --port above 1023 or 0") from None


def serve(app: FastAPI, listening: socket.socket) -> None:
    """Answer until SIGTERM or Ctrl-C."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=GRACE_S,
    )
    server = uvicorn.Server(config)
    # In a thread, since in the main one it would handle signals itself and die of them.
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="http")
    try:
        with stop_on_signals():
            thread.start()
            while thread.is_alive():
                thread.join(0.5)
    except Stopped:
        server.should_exit = True
    finally:
        thread.join()
        listening.close()


def trusted_hosts(host: str) -> set[str] | None:
    """The names a request may call this server by; None: any."""
    return {"localhost", "127.0.0.1", "::1", host} if is_loopback(host) else None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _depth(values: Any) -> int:
    return 1 + _depth(values[0]) if isinstance(values, list) and values else 0


def _error(error: GobelinError, status: int) -> JSONResponse:
    return JSONResponse(error.facts(), status)


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, GobelinError)
    return _error(error, 422)


async def _misread(request: Request, error: Exception) -> JSONResponse:
    """A request that is not of the form /openapi.json says; the first problem."""
    assert isinstance(error, RequestValidationError)
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return _error(ConfigError(f"{where}: {problem['msg']}", "see /openapi.json"), 422)


async def _unknown(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}: {error.detail}"
    return _error(ConfigError(what, "see /openapi.json"), error.status_code)

"""HTTP for programs on this machine: a guarded FastAPI app, and a process that serves it.

It listens on loopback unless told otherwise, and there answers only to names of loopback, lest a
web page reach it by its own name. Elsewhere a token may be asked for, which TLS keeps from whoever
listens on the way. Errors are the family's, as JSON; no traceback is shown.
"""

from __future__ import annotations

import errno
import hmac
import ipaddress
import logging
import socket
import ssl
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gobelin.shared.address import format_address
from gobelin.shared.errors import ConfigError, CrowdError, DataError, GobelinError, PortInUseError
from gobelin.shared.logs import facts
from gobelin.shared.settings import Settings
from gobelin.shared.signals import Stopped, stop_on_signals

MAX_OPEN = 32  # requests at a time; the next are told to come again
GRACE_S = 5  # for what is under way when the server is stopped
log = logging.getLogger(__name__)


class Refusal(Settings):
    """An answer that is an error: its code, what was found, how to mend it, the command's exit."""

    error: str
    what: str
    remedy: str
    exit_code: int


def guarded_app(
    title: str, max_bytes: int, hosts: Collection[str] | None, token: str = ""
) -> FastAPI:
    """An app without routes yet.

    Bodies are at most `max_bytes`; requests call the server by one of `hosts`, None: by any; and
    bear the `token`, where there is one.
    """
    app = FastAPI(
        title=title,
        docs_url=None,
        redoc_url=None,
        responses={422: {"model": Refusal, "description": "What was wrong, and how to mend it"}},
    )
    app.add_middleware(Guard, max_bytes=max_bytes, hosts=hosts, token=token)
    app.add_exception_handler(CrowdError, _crowded)
    app.add_exception_handler(GobelinError, _refuse)
    app.add_exception_handler(RequestValidationError, _misread)
    app.add_exception_handler(HTTPException, _unknown)
    return app


class Guard:
    """Refuses strange hosts, crowds and large bodies before they are parsed; shows no traceback."""

    def __init__(
        self, app: ASGIApp, max_bytes: int, hosts: Collection[str] | None, token: str = ""
    ) -> None:
        self.app, self.max_bytes, self.hosts, self.token = app, max_bytes, hosts, token
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
            return _error(
                ConfigError("this server has another name", "call it 127.0.0.1 or localhost"), 421
            )
        if self.token and not self._bears_token(Headers(scope=scope)):
            what = "this server answers who bears its token"
            return _error(ConfigError(what, "send it as Authorization: Bearer TOKEN"), 401)
        if self.open > MAX_OPEN:
            what = f"{MAX_OPEN} requests are being answered"
            return _error(CrowdError(what, "ask again later"), 503)
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
            told = facts("request_failed", method=scope["method"], exception=type(error).__name__)
            log.error("%s %s: %s", scope["method"], scope["path"], type(error).__name__, extra=told)
            if not begun:
                return _error(GobelinError("the server failed at this request"), 500)
        return None

    def _bears_token(self, headers: Headers) -> bool:
        kind, _, shown = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(shown.encode("latin-1"), self.token.encode("latin-1"))
        return kind.lower() == "bearer" and same

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


@dataclass(frozen=True)
class Certificate:
    """What a server shows, in PEM: its certificate and those that vouch for it, and its key."""

    chain: Path
    key: Path

    @classmethod
    def of(cls, chain: Path | None, key: Path | None) -> Certificate | None:
        """Of two files; None without them. Raises ConfigError where they are no pair."""
        if chain is None and key is None:
            return None
        if chain is None or key is None:
            what = "a certificate needs its key, and a key its certificate"
            raise ConfigError(what, "name both --tls-certificate and --tls-key")
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                chain, key, password=lambda: ""
            )
        except OSError as error:  # SSLError is one
            reason = error.strerror or "not PEM"
            what = f"{chain} and {key} are no certificate and its key: {reason}"
            raise ConfigError(what, "name PEM files of one pair, the key not encrypted") from None
        return cls(chain, key)


def url_of(host: str, listening: socket.socket, certificate: Certificate | None = None) -> str:
    """How a server is called."""
    scheme = "http" if certificate is None else "https"
    return f"{scheme}://{format_address(host, listening.getsockname()[1])}"


def serve(app: FastAPI, listening: socket.socket, certificate: Certificate | None = None) -> None:
    """Answer until SIGTERM or Ctrl-C; over TLS with a certificate."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=GRACE_S,
        ssl_certfile=None if certificate is None else certificate.chain,
        ssl_keyfile=None if certificate is None else certificate.key,
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


def _error(error: GobelinError, status: int) -> JSONResponse:
    return JSONResponse(error.facts(), status)


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, GobelinError)
    return _error(error, 422)


async def _crowded(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, CrowdError)
    return _error(error, 503)


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

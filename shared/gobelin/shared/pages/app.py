"""The app of a page: guarded as all our HTTP is, with a token for people and no foreign content.

A browser cannot bear a token in a header, so it is asked for once and remembered as a cookie that
scripts cannot read and other sites cannot send. Programs send `Authorization: Bearer TOKEN`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from importlib import resources
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gobelin.shared.errors import ConfigError, GobelinError, ReadingError
from gobelin.shared.http_server import guarded_app, is_loopback
from gobelin.shared.pages.templates import render

MAX_BYTES = 4096  # of a request: a page takes none but a token
TEMPLATES = "gobelin.shared.pages:templates/"
STATIC = "gobelin.shared.pages"
KINDS = {".js": "text/javascript", ".css": "text/css", ".LICENSE": "text/plain"}
FILES = {  # all there are: a request's path never becomes a file's
    "style.css": "static/style.css",
    "page.css": "static/page.css",
    "page.js": "static/page.js",
    "theme.js": "static/theme.js",
    "htmx.min.js": "static/vendor/htmx.min.js",
    "uplot.min.js": "static/vendor/uplot.min.js",
    "uplot.min.css": "static/vendor/uplot.min.css",
    "htmx.LICENSE": "static/vendor/htmx.LICENSE",
    "uplot.LICENSE": "static/vendor/uplot.LICENSE",
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
LOGIN = "/login"


def require_token_beyond_loopback(host: str, token: str) -> None:
    """Raise ConfigError where others than this machine could read a page without a token."""
    if not token and not is_loopback(host):
        what = f"whoever reaches {host} could read this page"
        raise ConfigError(what, "name a --token-file, or listen on 127.0.0.1")


def page_app(title: str, hosts: Collection[str] | None, token: str = "") -> FastAPI:
    """An app with the chrome's files, errors as pages, and without routes of its own yet.

    `hosts` and `token` as in `guarded_app`.
    """
    app = guarded_app(title, MAX_BYTES, hosts)
    app.user_middleware.append(Middleware(Gate, title=title, token=token))  # behind the guard
    app.add_middleware(Sealed)
    app.add_exception_handler(GobelinError, _told)
    app.add_exception_handler(ReadingError, _reading)
    app.add_exception_handler(HTTPException, _told)

    @app.get("/static/{name}", include_in_schema=False)
    def static(name: str) -> Response:
        if name not in FILES:
            raise HTTPException(404)
        return _file(name)

    @app.post(LOGIN, include_in_schema=False)
    async def login(request: Request) -> Response:
        shown = parse_qs((await request.body()).decode("ascii", "replace")).get("token", [""])[0]
        if not token or not _same(shown.strip(), token):
            return _asking(title, "This is not the token.")
        answer = RedirectResponse("/", 303)
        answer.set_cookie(_cookie(token), _session(token), httponly=True, samesite="strict")
        return answer

    return app


class Sealed:
    """Adds the headers that keep everything foreign out of a page."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self.app(scope, receive, sealed)


class Gate:
    """Lets those in who bear the token, by header or cookie; asks others for it."""

    def __init__(self, app: ASGIApp, title: str, token: str) -> None:
        self.app, self.title, self.token = app, title, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        path = scope.get("path", "")
        is_open = path == LOGIN or path.startswith("/static/")
        if scope["type"] != "http" or not self.token or is_open or self._knows(scope):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if "text/html" in headers.get("accept", ""):
            await _asking(self.title, "")(scope, receive, send)
            return
        error = ConfigError(
            "this page is for who bears its token", "send it as Authorization: Bearer TOKEN"
        )
        await JSONResponse(error.facts(), 401)(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        kind, _, shown = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _same(shown, self.token):
            return True
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return False
        found = cookies.get(_cookie(self.token))
        return found is not None and _same(found.value, _session(self.token))


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _cookie(token: str) -> str:
    """Name of a page's cookie: browsers share cookies between the ports of a host."""
    return f"gobelin-{hashlib.sha256(token.encode()).hexdigest()[:8]}"


def _session(token: str) -> str:
    """What a cookie holds in place of the token."""
    return hmac.digest(token.encode(), b"gobelin page", "sha256").hex()


def _asking(title: str, said: str) -> HTMLResponse:
    return HTMLResponse(render(TEMPLATES + "login.html.j2", title=title, said=said), 401)


def _file(name: str) -> Response:
    data = resources.files(STATIC).joinpath(FILES[name]).read_bytes()
    kind = next(kind for suffix, kind in KINDS.items() if name.endswith(suffix))
    return Response(data, media_type=kind, headers={"Cache-Control": "no-cache"})


async def _reading(request: Request, error: Exception) -> Response:
    """Not yet: a browser asks again by itself, without scripts too."""
    assert isinstance(error, ReadingError)
    again = {"Retry-After": "1", "Refresh": "1"}
    if "text/html" in request.headers.get("accept", ""):
        page = render(TEMPLATES + "reading.html.j2", title=request.app.title)
        return HTMLResponse(page, 503, again)
    return JSONResponse(error.facts(), 503, again)


async def _told(request: Request, error: Exception) -> Response:
    """An error as a page for people, as JSON for programs."""
    if isinstance(error, GobelinError):
        facts, status = error.facts(), 404 if isinstance(error, ConfigError) else 422
    else:
        assert isinstance(error, HTTPException)
        what = f"there is nothing at {request.url.path}"
        facts, status = ConfigError(what, "go to the first page").facts(), error.status_code
    if "text/html" in request.headers.get("accept", ""):
        page = render(TEMPLATES + "error.html.j2", title=request.app.title, **facts)
        return HTMLResponse(page, status)
    return JSONResponse(facts, status)

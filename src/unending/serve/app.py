"""The ASGI application: routes, and what surrounds every request."""

import logging
from pathlib import Path
from time import perf_counter
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unending.core.errors import UnendingError
from unending.serve import chat, resources
from unending.serve.failures import Refusal, failure_of
from unending.serve.realtime import realtime_socket
from unending.serve.requests import json_response
from unending.serve.service import Service
from unending.serve.sessions import sessions_socket

__all__ = ["PAGE", "create_app"]

PAGE = Path(__file__).with_name("page")
_log = logging.getLogger("unending.serve")

_SECURITY = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self';"
        " media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class _Surround:
    """Around every HTTP request: the origin is checked, failures become answers, headers are set, it is counted."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = perf_counter(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._service.access.check_origin(Headers(scope=scope), scope["scheme"] == "https")
            await self._app(scope, receive, counted)
        except Exception as error:
            failure = failure_of(error)
            self._service.metrics.errors.labels(failure.code).inc()
            if not status:
                await json_response(failure.body(), failure.status, failure.headers())(
                    scope, receive, counted
                )
        finally:
            self._count(scope, status, perf_counter() - began)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")  # never the path itself, which a client chooses
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._service.metrics.requests.labels(route, method, str(status)).inc()
        _log.info(
            "request",
            extra={
                "route": route,
                "method": method,
                "status": status,
                "milliseconds": round(1000 * seconds, 1),
            },
        )


_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"}


def _refused(request: Request, error: Exception) -> Response:
    failure = failure_of(error)
    request.app.state.service.metrics.errors.labels(failure.code).inc()
    return json_response(failure.body(), failure.status, failure.headers())


def _unrouted(request: Request, error: Exception) -> Response:
    """Paths and methods that do not exist."""
    assert isinstance(error, HTTPException)
    request.app.state.service.metrics.errors.labels("not_found").inc()
    body = Refusal("not_found", f"{error.detail}; see the documentation of the server")
    return json_response(failure_of(body).body(), error.status_code, error.headers)


async def _index(_: Request) -> Response:
    if not (PAGE / "index.html").is_file():
        raise Refusal("not_found", "this installation has no page")
    return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})


def create_app(service: Service) -> Starlette:
    """The application over running engines; who enters the engines also leaves them."""
    named = "/v1/sessions/{system}/{session}"
    routes: list[Any] = [
        Route("/", _index),
        Route("/health", resources.health),
        Route("/metrics", resources.metrics),
        Route("/v1/systems", resources.systems),
        Route("/v1/models", chat.models),
        Route("/v1/models/{model}", chat.models),
        Route("/v1/chat/completions", chat.completions, methods=["POST"]),
        Route("/v1/sessions", resources.sessions),
        Route(named, resources.session, methods=["GET", "DELETE"]),
        Route(f"{named}/fork", resources.fork, methods=["POST"]),
        Route(f"{named}/snapshot", resources.snapshot, methods=["GET", "PUT"]),
        WebSocketRoute("/v1/sessions", sessions_socket),
        WebSocketRoute("/v1/realtime", realtime_socket),
        Mount("/page", StaticFiles(directory=PAGE, check_dir=False), name="page"),
    ]
    middleware = [Middleware(_Surround, service=service)]
    if service.access.origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=sorted(service.access.origins),
                allow_methods=["GET", "POST", "PUT", "DELETE"],
                allow_headers=["authorization", "content-type"],
            )
        )
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={UnendingError: _refused, HTTPException: _unrouted},
    )
    app.router.redirect_slashes = False
    app.state.service = service
    return app

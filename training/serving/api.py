"""The endpoint as an app: its routes, and the door before them. No torch.

No URL is fetched, nothing is written, and nothing is told without the key but that the server is there.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from training.program import VERSION
from training.serving.chat import ChatCompletions
from training.serving.door import SAFE_METHODS, is_foreign, is_same, name_of
from training.serving.errors import ApiError, take_in
from training.serving.line import Line
from training.serving.offered import Offered, Offers

HEALTH = "/health"
ANY_HOST = "*"


def build_app(
    line: Line, offers: Offers, hosts: Collection[str], public_hosts: Collection[str], key: str | None
) -> Starlette:
    """Returns the app. `hosts` are the names that it answers to, "*" any; without a `key` all may ask.

    `public_hosts` are those that a proxy is known by, with a port if they have one; all in lower case.
    """

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "version": VERSION, "questions": line.inside})

    async def models(request: Request) -> Response:
        offered = await run_in_threadpool(offers.all)
        return JSONResponse({"object": "list", "data": [*map(_model, offered)]})

    async def model(request: Request) -> Response:
        return JSONResponse(_model(await run_in_threadpool(offers.find, request.path_params["name"])))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        line.close()

    return Starlette(
        routes=[
            Route(HEALTH, health),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/v1/chat/completions", ChatCompletions(line, offers), methods=["POST"]),
        ],
        middleware=[Middleware(Door, hosts=hosts, public_hosts=frozenset(public_hosts), key=key)],
        exception_handlers={HTTPException: _no_route, ApiError: _refused},
        lifespan=lifespan,
    )


def _model(offered: Offered) -> dict[str, Any]:
    owner = "lora-lens"
    return {"id": offered.name, "object": "model", "created": offered.created, "owned_by": owner}


async def _no_route(request: Request, error: HTTPException) -> Response:
    words = f"There is no {request.method} {request.url.path[:200]} here."
    return ApiError(error.status_code, words, "unknown_url", headers=error.headers).response()


async def _refused(request: Request, error: ApiError) -> Response:
    return error.response()


@dataclass
class Door:
    """Refuses other hosts' names, which ends DNS rebinding, what other pages send, and who lacks the key."""

    app: ASGIApp
    hosts: Collection[str]
    public_hosts: Collection[str]
    key: str | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refused := self._refuses(scope)):
            await take_in(receive)
            await refused.response()(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refuses(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        names = {*self.hosts, *map(name_of, self.public_hosts)}
        host = headers.get("host", "").lower()
        if ANY_HOST not in names and name_of(host) not in names:
            return ApiError(400, "This server is not known by that host name.", "unknown_host")
        if is_foreign(headers, self.public_hosts) and scope["method"] not in SAFE_METHODS:
            return ApiError(403, "Pages of other sites may not ask.", "foreign_origin")
        if self.key is None or scope["path"] == HEALTH:
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and is_same(given.strip(), self.key):
            return None
        words, how = "The key is missing or wrong.", {"WWW-Authenticate": "Bearer"}
        return ApiError(401, words, "invalid_api_key", kind="authentication_error", headers=how)

"""The door of the page: known hosts, nothing for a foreign page, and headers that browsers heed.

Gradio checks neither host nor origin, and tells browsers that any page may read what it answers; it has more
routes than this page needs, some without a login, and answers what it did not expect with a bare 500. Its own
middleware lies outside of what `launch` is given: the door is put around it as the app starts.
"""

import logging
import math
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi.exceptions import RequestValidationError
from gradio.utils import get_upload_folder
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from training.serving.door import LOCAL_HOSTS, SAFE_METHODS, is_foreign, name_of, split
from ui.first_script import FirstScript
from ui.i18n import say
from ui.login import LoginGuard

TO_ALL = (
    *("/", "/vi", "/login", "/logout", "/config", "/theme.css", "/gradio_api/theme.css", "/robots.txt"),
    *("/static/{path:path}", "/assets/{path:path}", "/svelte/{path:path}", "/favicon.ico", "/manifest.json"),
    *("/pwa_icon", "/pwa_icon/{size}", "/gradio_api/login_check", "/gradio_api/startup-events"),
)
"""Routes that are the same for everyone, or ask for the login themselves."""

TO_PUBLIC = (
    *("/gradio_api/component_server", "/gradio_api/queue/join", "/gradio_api/queue/data"),
    "/gradio_api/run/{api_name}",
    *("/gradio_api/queue/status", "/gradio_api/cancel", "/gradio_api/reset"),
    *("/gradio_api/heartbeat/{session_hash}", "/gradio_api/upload", "/gradio_api/upload_progress"),
    *("/gradio_api/file={path_or_url:path}", "/gradio_api/info", "/gradio_api/app_id"),
)
"""Routes for whoever has logged in, or for everyone where there is no login. No other route is answered."""

LONGEST_BODY = 8 * 2**20
"""Bytes of what is sent to a route that takes no files."""
UPLOAD_ROUTE = "/gradio_api/upload"
BROKEN_OFF_KEPT_S = 3600

VISITORS_UPLOADS, VISITORS_FILE = 2**30, "20mb"
"""Bytes that all visitors together may send in an hour, and the size of one file."""

# For those who ask by hand: the page itself asks for nothing of this.
NOT_HERE = "This page has no such address."
TOO_MUCH = "More was sent than this page takes: send less, or try again in an hour."
NOT_UNDERSTOOD = "What was sent is not in the form that this page takes. Reload it and try again."
LOGGED = 300

FILE_ROUTE = "/file="
# A route's pattern may end before a line break, so that "/login\n" is /login; a log's line ends there, too.
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
LONGEST_ECHO = 300
# The first script of each page shows what is said of it.
REFUSED = "x-lora-lens-refused"
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    # A Space shows the page in a frame.
    "content-security-policy": "frame-ancestors 'self' https://huggingface.co https://*.hf.space",
}


def guarded(
    hosts: Sequence[str] = LOCAL_HOSTS, public_hosts: Collection[str] = (), *, visitors: bool = False
) -> dict[str, Any]:
    """For `launch(app_kwargs=…)`.

    `hosts` are the names that the page answers to, "*" any: local names alone end DNS rebinding.
    `public_hosts` are those that browsers know it by where a proxy stands before it, with a port if they
    have one; all in lower case. What `visitors` may send is bounded.
    """
    door = [
        Middleware(Door, hosts=hosts, public_hosts=frozenset(public_hosts)),
        Middleware(LoginGuard),
        Middleware(Routes, uploads=Budget(VISITORS_UPLOADS) if visitors else None),
    ]
    # Inside of what compresses, as it writes into the page.
    return {"middleware": [Middleware(FirstScript)], "lifespan": _around(door)}


def _around(door: list[Middleware]) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # The stack was built for this very call: requests find the new one.
        app.user_middleware[:0] = door
        # FastAPI's own answer repeats what was sent.
        app.exception_handlers[RequestValidationError] = _not_in_form
        app.middleware_stack = app.build_middleware_stack()
        yield

    return lifespan


logger = logging.getLogger("lora_lens")


async def _not_in_form(request: Request, failure: Exception) -> Response:
    return JSONResponse({"detail": NOT_UNDERSTOOD}, 422)


class Door:
    """Refuses what another page sends, and lets no other page read what is answered.

    A page's origin is its own where it is the host that was asked, or one of `public_hosts`. What a proxy
    forwards (`X-Forwarded-Host`) is believed of nobody: any page can send it.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], public_hosts: Collection[str]) -> None:
        self.app, self.public_hosts = app, public_hosts
        self.names = {*hosts, *map(name_of, public_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        foreign = is_foreign(headers, self.public_hosts)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent = MutableHeaders(scope=message)
                for name in [name for name in sent if foreign and name.startswith("access-control-")]:
                    del sent[name]
                for name, value in HEADERS.items():
                    sent.setdefault(name, value)
            await send(message)

        host = headers.get("host", "").lower()
        if "*" not in self.names and name_of(host) not in self.names:
            refused = PlainTextResponse(f"Invalid host header. {unknown(headers, host)}", status_code=400)
            await refused(scope, receive, answer)
        elif CONTROLS.search(scope["path"]):
            await JSONResponse({"detail": NOT_HERE}, 404)(scope, receive, answer)
        elif is_logout_elsewhere(scope["path"], headers):
            await PlainTextResponse("Log out on the page itself.", status_code=403)(scope, receive, answer)
        elif is_fetch(scope["path"]):
            await PlainTextResponse("URLs are not fetched", status_code=403)(scope, receive, answer)
        elif (
            foreign and scope["method"] not in SAFE_METHODS
        ):  # a preflight too: what it would allow is refused
            text = unknown(headers, split(headers["origin"]).netloc)
            await PlainTextResponse(text, status_code=403, headers={REFUSED: "origin"})(
                scope, receive, answer
            )
        else:
            await self.app(scope, receive, answer)


@dataclass
class Budget:
    """How many bytes may still be sent in this hour; `now` is in seconds."""

    an_hour: int
    now: Callable[[], float] = time.monotonic
    _sent: deque[tuple[float, int]] = field(default_factory=deque)

    def left(self) -> int:
        while self._sent and self.now() - self._sent[0][0] > 3600:
            self._sent.popleft()
        return self.an_hour - sum(size for _, size in self._sent)

    def take(self, size: int) -> None:
        """Takes note of bytes as they come: those of many at once count at once."""
        if self._sent and self.now() - self._sent[-1][0] < 60:
            began, before = self._sent.pop()
            self._sent.append((began, before + size))
        else:
            self._sent.append((self.now(), size))


class TooMuch(Exception):
    """More is sent than the route takes."""


class Routes:
    """Answers the routes that are placed here, each to its public, and in words whatever is sent.

    `uploads` bounds what may be uploaded; None where the owner alone can.
    """

    def __init__(self, app: ASGIApp, uploads: Budget | None) -> None:
        self.app, self.uploads = app, uploads
        self.to_all, self.to_public = ([compile_path(path)[0] for path in of] for of in (TO_ALL, TO_PUBLIC))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = "/" + scope["path"].removeprefix(scope.get("root_path", "")).strip("/")
        open_to_all = any(pattern.match(path) for pattern in self.to_all)
        is_upload, taken = path == UPLOAD_ROUTE, 0
        over = started = too_much = refused = False
        limit = (self.uploads.left() if self.uploads else math.inf) if is_upload else LONGEST_BODY

        async def refuse(status: int, detail: Any) -> None:
            nonlocal refused
            refused = True
            await JSONResponse({"detail": detail}, status)(scope, receive, answer)

        async def bounded(limit: float = limit) -> Message:
            nonlocal taken, over, too_much
            message = await receive()
            size = len(message.get("body", b""))
            taken, over = taken + size, not message.get("more_body", False)
            if is_upload and self.uploads:
                self.uploads.take(size)
                too_much |= self.uploads.left() < 0
            if taken > limit:
                too_much = True
            if too_much and limit < math.inf:
                raise TooMuch
            return message

        async def answer(message: Message) -> None:
            nonlocal started
            # What is on its way is taken in: closed over it, a connection breaks off before its answer.
            while scope["method"] == "POST" and not started and not over and taken <= LONGEST_BODY:
                await bounded(math.inf)
            if too_much and not (started or refused):  # FastAPI takes it for a body that it can't parse
                return
            started = True
            await send(message)

        if not open_to_all and not any(pattern.match(path) for pattern in self.to_public):
            return await refuse(404, NOT_HERE)
        if not open_to_all and not has_logged_in(scope):
            return await refuse(401, {"error": "Not authenticated"})
        try:
            length = Headers(scope=scope).get("content-length", "0")
            if (int(length) if length.isdecimal() else 0) > limit:
                raise TooMuch
            await self.app(scope, bounded, answer)
            if too_much and not started:
                raise TooMuch
        except Exception as failure:
            if started:
                raise
            if isinstance(failure, TooMuch):
                return await refuse(413, TOO_MUCH)
            logger.warning("%s %.*s: %.*r", scope["method"], LOGGED, path, LOGGED, failure)
            logger.debug("", exc_info=failure)
            await refuse(400 if scope["method"] == "POST" else 500, NOT_UNDERSTOOD)
        finally:
            if is_upload:
                remove_broken_off(Path(get_upload_folder()))


def remove_broken_off(folder: Path) -> None:
    """Removes uploads that broke off an hour ago, which Gradio forgets: they lie beside its folders."""
    for file in folder.glob("tmp*"):
        if file.is_file() and time.time() - file.stat().st_mtime > BROKEN_OFF_KEPT_S:
            file.unlink(missing_ok=True)


def has_logged_in(scope: Scope) -> bool:
    """Returns whether the browser that asks has logged in, or needs not; the cookies are Gradio's."""
    app = scope["app"]
    if app.auth is None:
        return True
    cookies = HTTPConnection(scope).cookies
    names = f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}"
    return any(app.tokens.get(cookies.get(name)) is not None for name in names)


def is_logout_elsewhere(path: str, headers: Headers) -> bool:
    """Returns whether another page logs out: its pictures and links ask without an origin."""
    elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site")
    return elsewhere and path.rstrip("/").endswith("/logout")


def is_fetch(path: str) -> bool:
    """Returns whether a file route is asked to fetch a URL."""
    _, found, wanted = path.partition(FILE_ROUTE)
    return bool(found) and wanted.lstrip("/").lower().startswith(("http:", "https:"))


def unknown(headers: Headers, host: str) -> str:
    """Returns what helps where this is the page itself behind a proxy, with the path that it lies under."""
    path = split(headers.get("referer", "")).path.rstrip("/")
    language = "vi" if path.endswith("/vi") else "en"
    return f"{say(language, 'unknown_host')} --public_host {host}{path.removesuffix('/vi')}"[:LONGEST_ECHO]

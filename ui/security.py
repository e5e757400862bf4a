"""The door of the page: known hosts, nothing for a foreign page, and headers that browsers heed.

Gradio checks neither host nor origin, and tells browsers that any page may read what it answers. Its own
middleware lies outside of what `launch` is given: the door is put around it as the app starts.
"""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.first_script import FirstScript
from ui.i18n import say
from ui.login import LoginGuard

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
SAFE_METHODS = ("GET", "HEAD")
FILE_ROUTE = "/file="
# The first script of each page shows what is said of it.
REFUSED = "x-lora-lens-refused"
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    # A Space shows the page in a frame.
    "content-security-policy": "frame-ancestors 'self' https://huggingface.co https://*.hf.space",
}


def guarded(hosts: Sequence[str] = LOCAL_HOSTS, public_hosts: Collection[str] = ()) -> dict[str, Any]:
    """For `launch(app_kwargs=…)`.

    `hosts` are the names that the page answers to, "*" any: local names alone end DNS rebinding.
    `public_hosts` are those that browsers know it by where a proxy stands before it, with a port if they
    have one; all in lower case.
    """
    door = [Middleware(Door, hosts=hosts, public_hosts=frozenset(public_hosts)), Middleware(LoginGuard)]
    # Inside of what compresses, as it writes into the page.
    return {"middleware": [Middleware(FirstScript)], "lifespan": _around(door)}


def _around(door: list[Middleware]) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # The stack was built for this very call: requests find the new one.
        app.user_middleware[:0] = door
        app.middleware_stack = app.build_middleware_stack()
        yield

    return lifespan


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
        elif is_fetch(scope["path"]):
            await PlainTextResponse("URLs are not fetched", status_code=403)(scope, receive, answer)
        elif (
            foreign and scope["method"] not in SAFE_METHODS
        ):  # a preflight too: what it would allow is refused
            text = unknown(headers, urlsplit(headers["origin"]).netloc)
            await PlainTextResponse(text, status_code=403, headers={REFUSED: "origin"})(
                scope, receive, answer
            )
        else:
            await self.app(scope, receive, answer)


def name_of(host: str) -> str:
    """Returns a host without its port."""
    name, _, port = host.rpartition(":")
    return name if port.isdecimal() and name else host


def is_foreign(headers: Headers, public_hosts: Collection[str]) -> bool:
    """Returns whether a browser says that another page asks; who is no browser sends no origin."""
    origin, own = headers.get("origin"), {headers.get("host", "").lower(), *public_hosts} - {""}
    return origin is not None and urlsplit(origin.lower()).netloc not in own


def is_fetch(path: str) -> bool:
    """Returns whether a file route is asked to fetch a URL."""
    _, found, wanted = path.partition(FILE_ROUTE)
    return bool(found) and wanted.lstrip("/").lower().startswith(("http:", "https:"))


def unknown(headers: Headers, host: str) -> str:
    """Returns what helps where this is the page itself behind a proxy, with the path that it lies under."""
    path = urlsplit(headers.get("referer", "")).path.rstrip("/")
    language = "vi" if path.endswith("/vi") else "en"
    return f"{say(language, 'unknown_host')} --public_host {host}{path.removesuffix('/vi')}"

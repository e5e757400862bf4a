"""Who may talk to the page: known hosts, and nothing that changes something from a foreign page.

Gradio checks neither.
"""

import os
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ui.first_script import FirstScript

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
FILE_ROUTE = "/file="


def middleware(public: bool) -> list[Middleware]:
    """For `launch(app_kwargs=…)`. A local page answers to local names alone, which ends DNS rebinding."""
    hosts = ["*"] if public else ["127.0.0.1", "localhost", "[::1]"]
    return [
        Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
        Middleware(SameOrigin),
        Middleware(FirstScript),
    ]


class SameOrigin:
    """Refuses a POST whose Origin is another page's, and a file route that is asked to fetch a URL."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (
            reason := refusal(scope["method"], scope["path"], Headers(scope=scope))
        ):
            await PlainTextResponse(reason, status_code=403)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def refusal(method: str, path: str, headers: Headers) -> str | None:
    """Why a request is not let in; None if it is."""
    _, found, wanted = path.partition(FILE_ROUTE)
    if found and wanted.lstrip("/").lower().startswith(("http:", "https:")):
        return "URLs are not fetched"
    origin = headers.get("origin")
    if method in SAFE_METHODS or origin is None:
        return None
    own = {headers.get("host"), headers.get("x-forwarded-host"), os.environ.get("SPACE_HOST")}
    return None if urlsplit(origin).netloc in own - {None, ""} else "This request comes from another page"

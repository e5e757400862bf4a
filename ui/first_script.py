"""Puts `static/first.js` and the icon before Gradio's scripts: those of `launch(head=…)` run after them."""

from pathlib import Path
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

STATIC = Path(__file__).parent / "static"
HEAD = b"<head>"


class FirstScript:
    """Writes both into each HTML page that is sent, right after its `<head>`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        script = (STATIC / "first.js").read_text(encoding="utf-8")
        # In the page itself: a browser that finds none asks the host for one, outside of a proxy's path.
        icon = quote((STATIC / "icon.svg").read_text(encoding="utf-8"))
        self.script = f'<link rel="icon" href="data:image/svg+xml,{icon}"><script>{script}</script>'.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_html = False

        async def passed_on(message: Message) -> None:
            nonlocal is_html
            if message["type"] == "http.response.start":
                headers = Headers(raw=message["headers"])
                is_html = headers.get("content-type", "").startswith("text/html")
                if is_html and "content-length" in headers:
                    longer = int(headers["content-length"]) + len(self.script)
                    MutableHeaders(raw=message["headers"])["content-length"] = str(longer)
            elif is_html and HEAD in message.get("body", b""):
                message["body"] = message["body"].replace(HEAD, HEAD + self.script, 1)
            await send(message)

        await self.app(scope, receive, passed_on)

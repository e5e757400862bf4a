"""Puts `static/first.js` in front of Gradio's own scripts: what `launch(head=…)` takes runs after them."""

from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SCRIPT = Path(__file__).parent / "static" / "first.js"
HEAD = b"<head>"


class FirstScript:
    """Writes the script into each HTML page that is sent, right after its `<head>`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.script = b"<script>" + SCRIPT.read_bytes() + b"</script>"

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

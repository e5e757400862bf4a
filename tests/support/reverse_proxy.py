"""A reverse proxy, 127.0.0.1:PORT/PREFIX -> 127.0.0.1:BACK, as nginx with `proxy_pass http://127.0.0.1:BACK/;`.

    python reverse_proxy.py PORT BACK PREFIX

The host that is asked for is not passed on, which is nginx's default.
"""

import sys
from collections.abc import AsyncIterator

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

METHODS = ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS"]
OF_THE_HOP = {"content-length", "transfer-encoding", "content-encoding", "connection"}


def proxy(back: int, prefix: str) -> Starlette:
    client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{back}", timeout=None)

    async def passed_on(request: Request) -> Response:
        path = request.url.path
        if not path.startswith(prefix):
            return PlainTextResponse(f"outside: {path}", status_code=404)
        headers = [(name, value) for name, value in request.headers.raw if name != b"host"]
        asked = client.build_request(
            request.method,
            httpx.URL(path[len(prefix) :] or "/", query=request.url.query.encode()),
            headers=headers,
            content=await request.body(),
        )
        answer = await client.send(asked, stream=True)
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in OF_THE_HOP}

        async def body() -> AsyncIterator[bytes]:
            async for piece in answer.aiter_bytes():
                yield piece

        return StreamingResponse(body(), status_code=answer.status_code, headers=kept)

    return Starlette(routes=[Route("/{path:path}", passed_on, methods=METHODS)])


if __name__ == "__main__":
    port, back, prefix = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    uvicorn.run(proxy(back, prefix), host="127.0.0.1", port=port, log_level="warning")

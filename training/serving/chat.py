"""`POST /v1/chat/completions`: a question is read, asked in its turn, answered whole or in pieces. No torch.

The form is OpenAI's (platform.openai.com/docs/api-reference/chat). Who goes away ends his answer.
"""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from training.serving.errors import BODY_S, LONGEST_BODY, ApiError, as_api_error, take_in
from training.serving.line import Line
from training.serving.offered import Offers
from training.serving.request import ChatRequest, read_conversation, read_request

if TYPE_CHECKING:
    from vlm.inference import Answer

Finish = Literal["stop", "length"]


@dataclass
class Completion:
    """An answer as the client has it: `text` up to the first of `stops`, and why it ended, once it has."""

    model: str
    most_tokens: int
    stops: Sequence[str]
    text: str = ""
    sent: str = ""
    finish: Finish | None = None
    prompt_tokens: int = 0
    tokens: int = 0
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def take(self, answer: "Answer") -> None:
        """Takes the answer so far."""
        self.text, self.tokens, self.prompt_tokens = answer.text, answer.tokens, answer.prompt_tokens
        places = [at for stop in self.stops if (at := answer.text.find(stop)) >= 0]
        if places:
            self.text, self.finish = answer.text[: min(places)], "stop"
        elif answer.done:
            self.finish = "length" if answer.tokens >= self.most_tokens else "stop"

    def grown(self) -> str:
        """Returns what can be sent of the text since the last call: no end that may come to be cut off."""
        ready = self.text
        if self.finish is None:
            held = [
                size for stop in self.stops for size in range(1, len(stop)) if self.text.endswith(stop[:size])
            ]
            ready = self.text[: len(self.text) - max(held, default=0)].rstrip()
        piece, self.sent = ready[len(self.sent) :], max(self.sent, ready, key=len)
        return piece

    def usage(self) -> dict[str, int]:
        total = self.prompt_tokens + self.tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "total_tokens": total,
        }

    def whole(self) -> dict[str, Any]:
        """Returns the answer as one object."""
        message = {"role": "assistant", "content": self.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish}
        return self._head("chat.completion") | {"choices": [choice], "usage": self.usage()}

    def chunk(self, delta: dict[str, str] | None, *, with_usage: bool) -> dict[str, Any]:
        """Returns an event of the stream; the one without a `delta` tells the usage alone."""
        finish = self.finish if delta == {} else None
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
        usage = {"usage": self.usage() if delta is None else None} if with_usage else {}
        return self._head("chat.completion.chunk") | {"choices": choices} | usage

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


@dataclass(frozen=True)
class ChatCompletions:
    """The route, as an ASGI app: it has to hear of who goes away, whether it is sending or not."""

    line: Line
    offers: Offers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_here = False
        try:
            with self.line.place():
                body = await _body_of(Request(scope, receive))
                is_here = True
                request = read_request(body)
                asked = read_conversation(request)
                offered = await run_in_threadpool(self.offers.find, request.model)
                most = request.most_tokens or offered.max_new_tokens
                completion = Completion(offered.name, most, request.stops)
                # Sampling is handed on from here, once the engine samples.
                answers = self.line.ask(offered.folder, asked, most)
                await _while_there(receive, self._answer(request, completion, answers, scope, receive, send))
        except ClientDisconnect:
            return
        except ApiError as error:
            if not is_here:
                await take_in(receive)
            await error.response()(scope, receive, send)

    async def _answer(
        self,
        request: ChatRequest,
        completion: Completion,
        answers: AsyncIterator["Answer"],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        async with aclosing(answers):
            try:
                # Whatever is wrong shows before the first word: until then an answer can have another status.
                completion.take(await anext(answers))
                if not request.stream:
                    async for _ in _rest(answers, completion):
                        pass
            except Exception as error:
                raise as_api_error(error) from error
            if request.stream:
                await _send_events(request, completion, answers, send)
            else:
                await JSONResponse(completion.whole())(scope, receive, send)


async def _rest(answers: AsyncIterator["Answer"], completion: Completion) -> AsyncIterator[None]:
    """Yields each time that the answer has grown, until it ends."""
    while completion.finish is None:
        completion.take(await anext(answers))
        yield


async def _send_events(
    request: ChatRequest, completion: Completion, answers: AsyncIterator["Answer"], send: Send
) -> None:
    with_usage = bool(request.stream_options and request.stream_options.include_usage)

    async def say(event: dict[str, Any] | str) -> None:
        text = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
        body = f"data: {text}\n\n".encode("utf-8", "replace")
        await send({"type": "http.response.body", "body": body, "more_body": True})

    # A proxy that keeps what it is sent would keep words from who waits for them.
    headers = {"content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no"}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 200, "headers": raw})
    await say(completion.chunk({"role": "assistant", "content": ""}, with_usage=with_usage))
    try:
        if piece := completion.grown():
            await say(completion.chunk({"content": piece}, with_usage=with_usage))
        async for _ in _rest(answers, completion):
            if piece := completion.grown():
                await say(completion.chunk({"content": piece}, with_usage=with_usage))
    except Exception as error:
        await say(as_api_error(error).body())
    else:
        await say(completion.chunk({}, with_usage=with_usage))
        if with_usage:
            await say(completion.chunk(None, with_usage=True))
        await say("[DONE]")
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _body_of(request: Request) -> bytes:
    """Returns what is sent. Raises `ApiError` where it is too much, or too long under way."""
    too_much = ApiError(413, f"A request has at most {LONGEST_BODY // 2**20} MiB.", "request_too_large")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > LONGEST_BODY:
        raise too_much
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for piece in request.stream():
                body += piece
                if len(body) > LONGEST_BODY:
                    raise too_much
    except TimeoutError as error:
        words = f"The request was not here after {BODY_S:.0f} s."
        raise ApiError(408, words, "request_timeout") from error
    return bytes(body)


async def _while_there(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Does the work unless the client goes away first."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        over = tasks[0].done()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if over:
        tasks[0].result()

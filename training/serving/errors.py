"""ApiError: what the endpoint refuses, in OpenAI's form. No torch."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive

from vlm.errors import UserError

logger = logging.getLogger(__name__)

INVALID = "invalid_request_error"
LONGEST_BODY = 24 * 2**20
"""Bytes of a request: a third of that goes to writing images in base64."""
BODY_S = 60.0
"""Seconds in which a request has to be here."""


class ApiError(Exception):
    """A refusal: its HTTP status, a sentence, and OpenAI's `type`, `code` and `param` where there is one.

    Clients try again by themselves after 408, 429 and 500 on: what stays wrong has another status.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.kind, self.param = status, code, kind, param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Returns the error as clients read it."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        return JSONResponse(self.body(), self.status, self.headers)


def as_api_error(error: Exception) -> ApiError:
    """Returns what a client is told of an error; one that nobody foresaw is in the log alone."""
    from vlm.oom import is_out_of_memory

    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return ApiError(400, f"{error.problem.rstrip('.')}. {error.remedy}", error.code)
    if is_out_of_memory(error):
        logger.warning("memory ran out: %s", error)
        words = "Memory ran out: send smaller images or fewer tokens, or try again when the device is free."
        return ApiError(503, words, "out_of_memory", kind="server_error")
    logger.error("a question ended in an error", exc_info=error)
    return ApiError(500, "The server failed; its log says how.", "server_error", kind="server_error")


async def take_in(receive: Receive) -> None:
    """Reads on what is on its way, and drops it: a connection closed over it breaks off before its answer."""
    taken = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(BODY_S):
            while taken <= LONGEST_BODY:
                message = await receive()
                taken += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return

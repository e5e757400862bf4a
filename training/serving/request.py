"""A chat completion as it is asked for: checked, and made the turns and images that a model reads. No torch.

What this endpoint can't do is refused by its name, never left out: an answer would not be what was asked for.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.serving.errors import ApiError
from vlm.example import IMAGE, Message
from vlm.settings import GenerationSettings

MOST_IMAGES, MOST_TURNS, MOST_STOPS = 8, 100, 4
"""Of one request."""
LONGEST_STOP = 200
LONGEST_NAME = 4096
DATA_URL = re.compile(r"data:[\w.+/-]*(;[\w.+=-]+)*;base64,", re.IGNORECASE)
KIND_OF_UNION = re.compile(r"str$|list\[|constrained-|function-")
MostTokens = Annotated[int, *GenerationSettings.model_fields["max_new_tokens"].metadata]
Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(_Form):
    type: Literal["text"]
    text: str


class ImageUrl(_Form):
    """`detail` changes nothing: an adapter sees images as large as it has learned them."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(_Form):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Turn(_Form):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]


class StreamOptions(_Form):
    include_usage: bool = False
    include_obfuscation: bool = False


class TextFormat(_Form):
    type: Literal["text"]


class ChatRequest(_Form):
    """The body of `POST /v1/chat/completions`. What has one value alone here is taken with that one.

    Answers are greedy: `seed` changes nothing then, and is taken for that reason.
    """

    model: str = Field(max_length=LONGEST_NAME)
    messages: list[Turn] = Field(min_length=1, max_length=MOST_TURNS)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: MostTokens | None = None
    max_completion_tokens: MostTokens | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=0)] | None = None
    top_p: Annotated[float, Field(ge=1, le=1)] | None = None
    n: Literal[1] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logprobs: Literal[False] | None = None
    response_format: TextFormat | None = None
    seed: int | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: Literal[False] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def most_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


@dataclass(frozen=True, slots=True)
class Conversation:
    """The turns up to an answer, and the files of their images, in the order of their placeholders."""

    turns: tuple[Message, ...]
    images: tuple[bytes, ...]


def read_request(body: bytes) -> ChatRequest:
    """Returns a request.

    Raises:
        ApiError: it is no JSON, or asks for what is not done here.
    """
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        # Of a union each kind has an error: the one that reaches deepest is of the kind that was meant.
        found = error.errors(include_url=False, include_input=False)
        first = max(found, key=lambda each: len(each["loc"]))
    # The kinds of a union stand in it, too, where a client has written nothing.
    where = [str(at) for at in first["loc"] if not KIND_OF_UNION.match(str(at))]
    param = ".".join(where) or None
    if first["type"] == "extra_forbidden":
        raise ApiError(400, f"{param} is not known here.", "unknown_parameter", param=param)
    if first["type"] == "json_invalid":
        raise ApiError(400, f"The body is no JSON: {first['msg']}.", "invalid_json")
    told = f"{param}: {first['msg']}."
    if where[:1] in (["temperature"], ["top_p"], ["n"]):
        told += " Answers here are greedy, and one each: leave it out."
    raise ApiError(400, told, "invalid_value", param=param)


def read_conversation(request: ChatRequest) -> Conversation:
    """Returns what is asked, as a model reads it.

    Raises:
        ApiError: the last turn is not the user's, or an image is none that is sent along.
    """
    if request.messages[-1].role != "user":
        raise ApiError(400, "The last message must be the user's.", "invalid_value", param="messages")
    turns, images = [], []
    for turn in request.messages:
        role = "system" if turn.role == "developer" else turn.role
        parts = [TextPart(type="text", text=turn.content)] if isinstance(turn.content, str) else turn.content
        text = ""
        for part in parts:
            if isinstance(part, ImagePart):
                images.append(_image_of(part.image_url.url))
                text += IMAGE
            elif IMAGE in part.text:
                told = f"{IMAGE} in a text would stand for an image: take it out."
                raise ApiError(400, told, "invalid_value", param="messages")
            else:
                text += ("\n" if text and not text.endswith(IMAGE) else "") + part.text
        if IMAGE in text and role != "user":
            raise ApiError(400, "Images belong to the user's messages.", "invalid_value", param="messages")
        turns.append(Message(role, text))
    if len(images) > MOST_IMAGES:
        told = f"{len(images)} images were sent, and {MOST_IMAGES} are the most."
        raise ApiError(400, told, "too_many_images", param="messages")
    return Conversation(tuple(turns), tuple(images))


def _image_of(url: str) -> bytes:
    if url[:8].lower().startswith(("http:", "https:")):
        told = "URLs are not fetched: send the image itself, as data:image/png;base64,…"
        raise ApiError(400, told, "image_url_not_fetched", param="messages")
    found = DATA_URL.match(url)
    try:
        if found is None:
            raise ValueError("it does not begin as one")
        return base64.b64decode(url[found.end() :], validate=True)
    except (ValueError, binascii.Error) as error:
        told = f"An image is no data URL of base64, data:image/png;base64,…: {error}."
        raise ApiError(400, told, "invalid_image_url", param="messages") from error

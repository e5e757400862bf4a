"""placed: other tools' marks in a row's texts -> our `<image>`; what is no image is refused. No torch.

What is certain is translated: a path between tags is an image, a numbered mark is the n-th picture. Boxes,
videos and sounds are not read, and a model that learns their marks as words learns nothing of them.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from training.data.safe_paths import quoted
from vlm.errors import Phrase, UserError
from vlm.example import IMAGE, Message

# A path in the text itself, as Qwen-VL has it: Picture 1: <img>photos/1.jpg</img>
OWN_PATH = re.compile(
    r"(?P<label>Picture \d+:[ ]*)?<(?P<tag>img|image)>"
    r"\s*(?P<path>[^<>\n]+?\.\w{2,5}[^<>\n]*?)\s*</(?P=tag)>\n?"
)
# The n-th picture: InternVL's <image1>, MiniCPM's <image_00>, Phi-3's <|image_1|>, MMMU's <image 1>.
NUMBERED = re.compile(r"<\|?(?:image|img|picture|pic)[ _-]?(?P<number>\d{1,3})\|?>", re.IGNORECASE)
# One image each, in other models' words; ours stands among them where tags are put around it.
OTHER_IMAGE = re.compile(
    r"<\|vision_start\|>\s*(?:<\|image_pad\|>|<image>)\s*<\|vision_end\|>|<im_start>\s*<image>\s*<im_end>"
    r"|<img>\s*(?:<IMG_CONTEXT>|<ImageHere>|<image>)\s*</img>|<\|image(?:_start|_placeholder)?\|>"
    r"|<ImageHere>|<IMG_CONTEXT>|<image_(?:placeholder|soft_token|pad|token)>|<start_of_image>|<image\s*/>"
    r"|<(?:IMAGE|Image|picture)>|\[IMG\]|<img\s*/?>"
)
OF_MEDIA = re.compile(
    r"<\|?(?:video|audio|speech|sound)(?:[ _-]?(?:\d+|pad|placeholder|token))?\|?>", re.IGNORECASE
)
# ms-swift's, Qwen-VL's, PaliGemma's, Florence-2's and Molmo's, and boxes in JSON.
OF_BOXES = re.compile(
    r"</?(?:bbox|box|ref-object|ref_object|quad)>|<\|(?:box|quad|object_ref)_(?:start|end)\|>"
    r"|<loc_?\d{1,4}>|<points? x\d*=|\"bbox(?:_2d)?\"\s*:"
)
# What a text without pictures may hold in their place.
A_PATH = re.compile(r"[^\s\"'()<>]+\.(?:png|jpe?g|webp|gif|bmp|tiff?|heic|avif)\b", re.IGNORECASE)
ANGLED = re.compile(r"<\|?[A-Za-z][\w -]{0,30}\|?>")


def placed(
    messages: tuple[Message, ...], references: list[object], named: Sequence[str] = ()
) -> tuple[tuple[Message, ...], list[object]]:
    """Returns the conversation with one `<image>` for each image, and the images in that order.

    Where no place is written, all images open the first user turn. `named` are marks of the row's own, one
    for each image.

    Raises:
        UserError: Places and images differ, or a mark stands for what is not read.
    """
    if any(_may_have_marks(message.text) for message in messages):
        messages, references = _with_paths(messages, references)
        messages, references = _with_numbers(messages, references, named)
        messages = _in_our_words(messages, len(references))
        _require_images_alone(messages)
    places = sum(message.text.count(IMAGE) for message in messages)
    if places == len(references):
        return messages, references
    if places:
        raise UserError(
            "{places} <image> in the text for {images} {images:image|images}",
            "Write <image> once for each image, or leave it out",
            "image-places-differ",
            places=places,
            images=len(references),
        )
    first = next(i for i, message in enumerate(messages) if message.role == "user")
    opened = replace(messages[first], text=IMAGE * len(references) + messages[first].text)
    return (*messages[:first], opened, *messages[first + 1 :]), references


def _may_have_marks(text: str) -> bool:
    """Whether a text has to be looked through: most have no mark but ours, and that is told cheaply."""
    rest = text.replace(IMAGE, "")
    return "<" in rest or "[" in rest or '"bbox' in rest


def mark_in(text: str) -> str | None:
    """Returns what in a text stands for an image that its row does not have: a path or a mark in angles."""
    found = A_PATH.search(text) or ANGLED.search(text)
    return found[0] if found else None


def paths_in(texts: Sequence[str]) -> list[str]:
    """Returns the images that texts name between tags, in order."""
    return [found["path"] for text in texts for found in OWN_PATH.finditer(text)]


def boxes_error(what: str) -> UserError:
    """Returns the error for what holds boxes; `what` it is, as messages call it."""
    return UserError(
        "{what} holds boxes, which are not read yet",
        "Write a question and an answer in words, or a caption, or leave it out",
        "boxes-not-read",
        what=what,
    )


def _with_paths(
    messages: tuple[Message, ...], references: list[object]
) -> tuple[tuple[Message, ...], list[object]]:
    asked = [message.text for message in messages if message.role != "assistant"]
    paths = paths_in(asked)
    if not paths or (references and references != paths):
        return messages, references
    # The number is a name that other turns may use, where there are several pictures.
    place = IMAGE if len(paths) == 1 else rf"\g<label>{IMAGE}"
    return tuple(
        message if message.role == "assistant" else replace(message, text=OWN_PATH.sub(place, message.text))
        for message in messages
    ), [*paths]


def _with_numbers(
    messages: tuple[Message, ...], references: list[object], named: Sequence[str]
) -> tuple[tuple[Message, ...], list[object]]:
    """Returns the n-th picture in its place: the images come in the order in which the texts name them."""
    mark = re.compile("|".join(map(re.escape, named))) if named else NUMBERED
    texts = [message.text for message in messages if message.role != "assistant"]
    found = [match for text in texts for match in mark.finditer(text)]
    if not found:
        return messages, references
    if named:
        numbers = [named.index(match[0]) for match in found]
    else:
        numbers = [int(match["number"]) for match in found]
        numbers = [number - (min(numbers) > 0) for number in numbers]
    marks = [quoted(match[0]) for match in found]
    if any(IMAGE in text for text in texts) or sorted(numbers) != [*range(len(references))]:
        raise _misplaced(marks, len(references))
    return tuple(
        message if message.role == "assistant" else replace(message, text=mark.sub(IMAGE, message.text))
        for message in messages
    ), [references[number] for number in numbers]


def _in_our_words(messages: tuple[Message, ...], images: int) -> tuple[Message, ...]:
    read = tuple(
        message
        if message.role == "assistant"
        else replace(message, text=OTHER_IMAGE.sub(IMAGE, message.text))
        for message in messages
    )
    marks = [quoted(found) for message in messages for found in OTHER_IMAGE.findall(message.text)]
    if read != messages and sum(message.text.count(IMAGE) for message in read) != images:
        raise _misplaced(marks, images)
    return read


def _misplaced(marks: list[str], images: int) -> UserError:
    return UserError(
        "the text has {marks} for {images} {images:image|images}",
        "Write each image's mark once, or <image> in its place",
        "image-marks-differ",
        marks=marks[:8],
        images=images,
    )


def _require_images_alone(messages: tuple[Message, ...]) -> None:
    """Raises `UserError` where a text has a mark of a video, a sound, a box, or of an image in an answer."""
    for message in messages:
        answers = message.role == "assistant"
        for found in OF_MEDIA.finditer(message.text):
            # In an answer of HTML the tag is closed again.
            if not (answers and f"</{found[0].strip('<|>').lower()}>" in message.text.lower()):
                raise UserError(
                    "the text has {mark}: only images are looked at",
                    "Remove it, or the row",
                    "mark-of-other-media",
                    mark=quoted(found[0]),
                )
        if found := OF_BOXES.search(message.text):
            raise boxes_error(Phrase("the text with {mark}", "text-with-a-mark", mark=quoted(found[0])))
        if answers and (found := NUMBERED.search(message.text)):
            raise UserError(
                "the answer has {mark}, which a model would learn as words",
                "Put images into user turns",
                "mark-in-an-answer",
                mark=quoted(found[0]),
            )

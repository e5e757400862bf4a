"""see: what a model gets of one example: the picture as it is handed over, and every token with its label.

The page's Data tab asks. No weight is read: pictures come back, un-normalised, from what the processor made
of them, and tokens from the same prompt style that a run trains with.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from transformers import BatchFeature, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.image_processing_utils import BaseImageProcessor

from vlm.errors import UserError
from vlm.example import Message
from vlm.prompting import IGNORED, PromptStyle
from vlm.prompting.seq2seq import QuestionAnswerPrompt

FIRST_TOKENS, LAST_TOKENS = 1500, 1500
"""How many of a long text are shown, at its beginning and at its end."""
LONGEST_CHARACTER = 8
"""Tokens that one character may be made of, where a tokenizer spells it in bytes."""
UNDECODED = "\ufffd"

_NOT_WITHOUT_DATA = (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError)
"""What a model raises that can't be asked for shapes alone, or wants more than its image inputs."""


@dataclass(frozen=True, slots=True)
class View:
    """One picture that the vision tower gets, RGB, and the grid of patches that it is cut into.

    A processor may make several of one image: tiles, and the whole in small. 0 x 0 where there is no grid.
    """

    picture: Image.Image
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A token, or those that only together are text: `tokens` of them. Neighbouring image tokens are one.

    `left_out` pieces stand for the middle of a text that is too long to show.
    """

    text: str
    tokens: int = 1
    trained: bool = False
    image: bool = False
    special: bool = False
    left_out: bool = False


@dataclass(frozen=True, slots=True)
class Stream:
    """What the model reads or writes in one piece. An encoder-decoder has a question and an answer."""

    name: str
    pieces: tuple[Piece, ...]
    tokens: int
    trained: int


@dataclass(frozen=True, slots=True)
class Seen:
    """One example as the model gets it.

    `image_tokens` stand for its images, in the first stream's tokens where `in_text`, else beside it; None
    where that can't be told without weights.
    """

    views: tuple[View, ...]
    streams: tuple[Stream, ...]
    image_tokens: int | None
    in_text: bool


def see(
    prompt: PromptStyle, model: PreTrainedModel, messages: Sequence[Message], images: Sequence[Image.Image]
) -> Seen:
    """The example through the processor and the template of a model; `model` may lie on the meta device.

    `images` are RGB, as `training.data.images.load_image` gives them. Raises `UserError` where the processor
    or the template refuses, or where the example is longer than the prompt style's `max_length`.
    """
    if prompt.takes_one_image and len(images) != 1:
        raise UserError(
            f"The row has {len(images)} images: this model takes exactly one.",
            "Give the row one image, or choose another model.",
        )
    try:
        batch = prompt.training_batch([messages], [images])
    except UserError:
        raise
    except Exception as error:  # each family's processor fails in its own way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"This model's processor refuses it: {reason[:200]}", "Change the row, or choose another model."
        ) from error
    named = _image_ids(model.config, prompt)
    streams = tuple(_streams(prompt, batch, named))
    placeholders = sum(piece.tokens for piece in streams[0].pieces if piece.image)
    in_text = placeholders > len(images)  # one for each image is a mark: the image itself stands beside
    return Seen(
        views=tuple(_views(batch, prompt, model.config)),
        streams=streams,
        image_tokens=placeholders if in_text else _features(model, batch) if images else 0,
        in_text=in_text,
    )


def _image_ids(config: PreTrainedConfig, prompt: PromptStyle) -> list[int]:
    """The ids of the tokens that stand for images, the configuration's first."""
    values = (
        *(getattr(config, name, None) for name in ("image_token_id", "image_token_index")),
        getattr(prompt.processor, "image_token_id", None),
    )
    return [value for value in dict.fromkeys(values) if isinstance(value, int)]


def _streams(prompt: PromptStyle, batch: BatchFeature, image_ids: Sequence[int]) -> Iterator[Stream]:
    """One stream; two where the labels have places of their own, the decoder's."""
    tokenizer, labels = prompt.tokenizer, batch["labels"][0].tolist()
    if "decoder_input_ids" in batch:  # the decoder writes what it reads, a step ahead
        read = batch["decoder_input_ids"][0].tolist()
        written = [
            label if label != IGNORED else token for label, token in zip(labels, [*read[1:], 0], strict=True)
        ]
        yield _stream("answer", tokenizer, written, labels, ())
        return
    ids = batch["input_ids"][0].tolist()
    mm_types = batch["mm_token_type_ids"][0].tolist() if "mm_token_type_ids" in batch else []
    here = {token for token, kind in zip(ids, mm_types, strict=False) if kind == 1}
    here = here or set([token for token in image_ids if token in ids][:1])
    if isinstance(prompt, QuestionAnswerPrompt):
        yield _stream("question", tokenizer, ids, [IGNORED] * len(ids), here)
        yield _stream("answer", tokenizer, [token for token in labels if token != IGNORED], None, ())
    else:
        yield _stream("text", tokenizer, ids, labels, here)


def _stream(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    ids: list[int],
    labels: list[int] | None,
    image_ids: Collection[int],
) -> Stream:
    """`labels` None: all are trained on."""
    trained = [True] * len(ids) if labels is None else [label != IGNORED for label in labels]
    pieces = tuple(_shortened(tokenizer, ids, trained, image_ids))
    return Stream(name, pieces, len(ids), sum(trained))


def _shortened(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], trained: list[bool], image_ids: Collection[int]
) -> Iterator[Piece]:
    """The pieces of a text; of a very long one the beginning and the end. Images take no room."""
    end = len(ids) - LAST_TOKENS
    shown = [at for at, token in enumerate(ids) if token not in image_ids]
    if len(shown) <= FIRST_TOKENS + LAST_TOKENS or end <= shown[FIRST_TOKENS]:
        yield from _pieces(tokenizer, ids, trained, image_ids)
        return
    begin = shown[FIRST_TOKENS]
    yield from _pieces(tokenizer, ids[:begin], trained[:begin], image_ids)
    yield Piece("…", end - begin, any(trained[begin:end]), left_out=True)
    yield from _pieces(tokenizer, ids[end:], trained[end:], image_ids)


def _pieces(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], trained: list[bool], image_ids: Collection[int]
) -> Iterator[Piece]:
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= {*tokenizer.all_special_ids, *image_ids}

    def decode(begin: int, end: int) -> str:
        return tokenizer.decode(ids[begin:end], clean_up_tokenization_spaces=False)

    at, context = 0, 0
    while at < len(ids):
        if ids[at] in special:
            end = at + 1
            while ids[at] in image_ids and end < len(ids) and ids[end] == ids[at]:
                end += 1
            name = str(tokenizer.convert_ids_to_tokens(ids[at]))
            yield Piece(name, end - at, trained[at], image=ids[at] in image_ids, special=True)
            at = context = end
            continue
        before, end = decode(context, at), at + 1
        while (text := decode(context, end)).endswith(UNDECODED) and end < len(ids):
            if trained[end] != trained[at] or ids[end] in special or end - at >= LONGEST_CHARACTER:
                break
            end += 1
        # A tokenizer tells spaces and joints from what stands before: one piece of that is decoded along.
        text = text.removeprefix(before) if text.startswith(before) else decode(at, end)
        yield Piece(text, end - at, trained[at])
        at, context = end, at


def _views(batch: BatchFeature, prompt: PromptStyle, config: PreTrainedConfig) -> Iterator[View]:
    """The pictures in `pixel_values`, whichever of four ways the processor lays them out."""
    pixels = batch.get("pixel_values")
    if not isinstance(pixels, torch.Tensor):
        return
    processor = prompt.processor.image_processor
    if "image_grid_thw" in batch:
        yield from _from_grids(pixels, batch["image_grid_thw"].tolist(), processor)
    elif "spatial_shapes" in batch:
        yield from _from_sequences(pixels, batch["spatial_shapes"].tolist(), processor)
    elif pixels.ndim >= 4 and pixels.shape[-3] in (1, 3):
        patch = _patch_size(config)
        for picture in _cropped(pixels.flatten(0, -4), batch):
            height, width = picture.shape[-2:]
            grid = (height // patch, width // patch) if patch else (0, 0)
            yield View(_as_picture(picture, processor), *grid)


def _cropped(pixels: torch.Tensor, batch: BatchFeature) -> Iterator[torch.Tensor]:
    """[N, C, H, W] -> each picture that is one, without the padding that makes them equal in size."""
    masks, sizes = batch.get("pixel_attention_mask"), batch.get("image_sizes")
    masks = masks.flatten(0, -3) if isinstance(masks, torch.Tensor) and masks.ndim >= 3 else None
    for index, picture in enumerate(pixels):
        if masks is not None:
            height, width = (int(masks[index].any(dim).sum()) for dim in (1, 0))
        elif sizes is not None and len(sizes) == len(pixels):
            height, width = (
                min(int(side), there) for side, there in zip(sizes[index], picture.shape[1:], strict=True)
            )
        else:
            height, width = picture.shape[1:]
        if height and width and (len(pixels) == 1 or picture.any()):
            yield picture[:, :height, :width]


def _from_grids(
    patches: torch.Tensor, grids: list[list[int]], processor: BaseImageProcessor
) -> Iterator[View]:
    """Qwen2-VL's way: [patches, C * T * P * P], the patches that become one token side by side."""
    size, merge, frames = processor.patch_size, processor.merge_size, processor.temporal_patch_size
    start = 0
    for _, rows, columns in grids:
        some = patches[start : start + rows * columns]
        start += rows * columns
        cells = some.view(rows // merge, columns // merge, merge, merge, -1, frames, size, size)[
            :, :, :, :, :, 0
        ]
        picture = cells.permute(4, 0, 2, 5, 1, 3, 6).reshape(-1, rows * size, columns * size)
        yield View(_as_picture(picture, processor), rows, columns)


def _from_sequences(
    patches: torch.Tensor, shapes: list[list[int]], processor: BaseImageProcessor
) -> Iterator[View]:
    """SigLIP 2's way for any resolution: [N, patches, P * P * C], padded to the longest."""
    for some, (rows, columns) in zip(patches, shapes, strict=True):
        size = math.isqrt(some.shape[1] // 3)
        cells = some[: rows * columns].view(rows, columns, size, size, 3)
        picture = cells.permute(4, 0, 2, 1, 3).reshape(3, rows * size, columns * size)
        yield View(_as_picture(picture, processor), rows, columns)


def _as_picture(pixels: torch.Tensor, processor: BaseImageProcessor) -> Image.Image:
    """[C, H, W] as the processor gives it -> a picture again."""
    if processor.do_normalize:
        mean, std = (
            torch.tensor(values).view(-1, 1, 1) for values in (processor.image_mean, processor.image_std)
        )
        pixels = pixels * std + mean
    if processor.do_rescale:
        pixels = pixels / processor.rescale_factor
    levels = pixels.float().round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).expand(-1, -1, 3).contiguous().numpy())


def _patch_size(config: PreTrainedConfig) -> int:
    """The side of a patch in pixels; 0 where the vision tower cuts none, or in stages."""
    vision = next(
        (part for name in ("vision_config", "encoder") if (part := getattr(config, name, None)) is not None),
        config,
    )
    size = getattr(vision, "patch_size", None)
    size = size[0] if isinstance(size, list | tuple) and len({*size}) == 1 and len(size) <= 2 else size
    return size if isinstance(size, int) else 0


def _features(model: PreTrainedModel, batch: BatchFeature) -> int | None:
    """How many vectors the text model gets of the images, from their shape on the meta device."""
    if not hasattr(model, "get_image_features"):
        return None
    names = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
    inputs = {name: batch[name].to(model.device) for name in names if name in batch}
    try:
        pooled = model.get_image_features(**inputs).pooler_output
    except _NOT_WITHOUT_DATA:
        mask = batch.get("pixel_attention_mask")
        return int(mask.sum()) if "spatial_shapes" in batch else None
    shapes = (
        [tuple(features.shape) for features in pooled] if isinstance(pooled, list | tuple) else [pooled.shape]
    )
    return (
        sum(math.prod(shape[:-1]) for shape in shapes) if all(len(shape) >= 2 for shape in shapes) else None
    )

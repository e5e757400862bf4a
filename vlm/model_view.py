"""Model input inspection: one example as a model gets it, the pictures, the tokens and their labels.

No weight is read: pictures come back, un-normalised, from what the processor made of them, and tokens from
the same prompt style that a run trains with.
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

# How many tokens of a long text are shown, at its beginning and at its end: each is an element of the page.
FIRST_TOKENS, LAST_TOKENS = 1500, 1500
# Tokens that one character may be made of, where a tokenizer spells it in bytes.
LONGEST_CHARACTER = 8
UNDECODED = "\ufffd"

# What a model raises that can't compute shapes alone on the meta device, or wants more than its image inputs.
_NOT_ON_META = (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True, slots=True)
class ImageView:
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
class TokenStream:
    """What the model reads or writes in one sequence. An encoder-decoder has a question and an answer."""

    name: str
    pieces: tuple[Piece, ...]
    tokens: int
    trained: int


@dataclass(frozen=True, slots=True)
class ModelView:
    """One example as the model gets it.

    `image_tokens` stand for its images, in the first stream's tokens where `in_text`, else beside it; None
    where that can't be computed without weights.
    """

    views: tuple[ImageView, ...]
    streams: tuple[TokenStream, ...]
    image_tokens: int | None
    in_text: bool


def view_example(
    prompt: PromptStyle, model: PreTrainedModel, messages: Sequence[Message], images: Sequence[Image.Image]
) -> ModelView:
    """Returns the example as processor and template of a model make it; `model` may lie on the meta device.

    `images` are RGB, as `training.data.images.load_image` returns them.

    Raises:
        UserError: processor or template refuse it, or it is longer than the prompt style's `max_length`.
    """
    if prompt.takes_one_image and len(images) != 1:
        raise UserError(
            "The row has {count} {count:image|images}: this model takes exactly one.",
            "Give the row one image, or choose another model.",
            "row-not-one-image",
            count=len(images),
        )
    try:
        batch = prompt.training_batch([messages], [images])
    except UserError:
        raise
    except Exception as error:  # each family's processor fails in its own way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            "This model's processor refuses it: {reason}",
            "Change the row, or choose another model.",
            "processor-refuses",
            reason=reason[:200],
        ) from error
    streams = tuple(_token_streams(prompt, batch, model.config))
    placeholders = sum(piece.tokens for piece in streams[0].pieces if piece.image)
    # One placeholder for each image is a mark: the image's own tokens are then put in by the model.
    in_text = placeholders > len(images)
    return ModelView(
        views=tuple(_image_views(batch, prompt.processor.image_processor, model.config)),
        streams=streams,
        image_tokens=placeholders if in_text else _feature_count(model, batch) if images else 0,
        in_text=in_text,
    )


def _token_streams(
    prompt: PromptStyle, batch: BatchFeature, config: PreTrainedConfig
) -> Iterator[TokenStream]:
    """Yields one stream; two where the labels have places of their own, the decoder's."""
    tokenizer, labels = prompt.tokenizer, batch["labels"][0].tolist()
    trained = [label != IGNORED for label in labels]
    if "decoder_input_ids" in batch:
        # The decoder reads what it writes a step later: shown is what it writes.
        read = [*batch["decoder_input_ids"][0].tolist()[1:], 0]
        written = [label if label != IGNORED else token for label, token in zip(labels, read, strict=True)]
        yield _stream("answer", tokenizer, written, trained, ())
        return
    ids = batch["input_ids"][0].tolist()
    # Which tokens are images: by the types where the processor gives them, else by the configuration's id,
    # whose name differs between families.
    mm_types = batch["mm_token_type_ids"][0].tolist() if "mm_token_type_ids" in batch else []
    image_ids = {token for token, kind in zip(ids, mm_types, strict=False) if kind == 1}
    named = (
        *(getattr(config, name, None) for name in ("image_token_id", "image_token_index")),
        getattr(prompt.processor, "image_token_id", None),
    )
    image_ids = image_ids or {*[token for token in named if isinstance(token, int) and token in ids][:1]}
    if isinstance(prompt, QuestionAnswerPrompt):
        yield _stream("question", tokenizer, ids, [False] * len(ids), image_ids)
        answer = [token for token in labels if token != IGNORED]
        yield _stream("answer", tokenizer, answer, [True] * len(answer), ())
    else:
        yield _stream("text", tokenizer, ids, trained, image_ids)


def _stream(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    ids: list[int],
    trained: list[bool],
    image_ids: Collection[int],
) -> TokenStream:
    """Returns the pieces of a text; of a very long one the beginning and the end."""
    # Image tokens are not counted: thousands in a row are one piece.
    shown = [at for at, token in enumerate(ids) if token not in image_ids]
    begin, end = len(ids), len(ids)
    if len(shown) > FIRST_TOKENS + LAST_TOKENS and len(ids) - LAST_TOKENS > shown[FIRST_TOKENS]:
        begin, end = shown[FIRST_TOKENS], len(ids) - LAST_TOKENS
    pieces = [*_pieces(tokenizer, ids[:begin], trained[:begin], image_ids)]
    if begin < end:
        pieces.append(Piece("…", end - begin, any(trained[begin:end]), left_out=True))
        pieces += _pieces(tokenizer, ids[end:], trained[end:], image_ids)
    return TokenStream(name, tuple(pieces), len(ids), sum(trained))


def _pieces(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], trained: list[bool], image_ids: Collection[int]
) -> Iterator[Piece]:
    """Yields the pieces of a text, each shown as it stands in the whole text."""
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= {*tokenizer.all_special_ids, *image_ids}

    # Cleaning up would drop spaces that the model reads.
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
        # A tokenizer that spells a character in bytes needs several tokens for one: alone each decodes to the
        # replacement character.
        before, end = decode(context, at), at + 1
        while (text := decode(context, end)).endswith(UNDECODED) and end < len(ids):
            if trained[end] != trained[at] or ids[end] in special or end - at >= LONGEST_CHARACTER:
                break
            end += 1
        # The same token decodes with or without a space, by what stands before: the piece before is decoded
        # along and cut off again.
        text = text.removeprefix(before) if text.startswith(before) else decode(at, end)
        yield Piece(text, end - at, trained[at])
        at, context = end, at


def _image_views(
    batch: BatchFeature, processor: BaseImageProcessor, config: PreTrainedConfig
) -> Iterator[ImageView]:
    """Yields the pictures in `pixel_values`, whichever of three ways the processor lays them out."""
    pixels = batch.get("pixel_values")
    if not isinstance(pixels, torch.Tensor):
        return
    if "image_grid_thw" in batch:
        # Qwen2-VL: [patches, C * T * P * P], the merge x merge patches that become one token side by side.
        size, merge, frames = processor.patch_size, processor.merge_size, processor.temporal_patch_size
        grids = batch["image_grid_thw"].tolist()
        for patches, (_, rows, columns) in zip(pixels.split([*map(math.prod, grids)]), grids, strict=True):
            # An image is given twice, as two frames of a film that stands still: the first is enough.
            cells = patches.view(rows // merge, columns // merge, merge, merge, -1, frames, size, size)
            picture = cells[:, :, :, :, :, 0].permute(4, 0, 2, 5, 1, 3, 6)
            picture = picture.reshape(-1, rows * size, columns * size)
            yield ImageView(_as_picture(picture, processor), rows, columns)
    elif "spatial_shapes" in batch:
        # SigLIP 2 of any resolution: [N, patches, P * P * C], padded to the longest.
        for patches, (rows, columns) in zip(pixels, batch["spatial_shapes"].tolist(), strict=True):
            size = math.isqrt(patches.shape[1] // 3)
            cells = patches[: rows * columns].view(rows, columns, size, size, 3)
            picture = cells.permute(4, 0, 2, 1, 3).reshape(3, rows * size, columns * size)
            yield ImageView(_as_picture(picture, processor), rows, columns)
    elif pixels.ndim >= 4 and pixels.shape[-3] in (1, 3):
        # [N, C, H, W], or [B, tiles, C, H, W].
        # The side of a patch; none where the vision tower cuts none, or in stages, which lists several.
        parts = (getattr(config, name, None) for name in ("vision_config", "encoder"))
        patch = getattr(next((part for part in parts if part is not None), config), "patch_size", None)
        patch = (
            patch[0] if isinstance(patch, list | tuple) and len({*patch}) == 1 and len(patch) <= 2 else patch
        )
        patch = patch if isinstance(patch, int) else 0
        for picture in _cropped(pixels.flatten(0, -4), batch):
            height, width = picture.shape[-2:]
            grid = (height // patch, width // patch) if patch else (0, 0)
            yield ImageView(_as_picture(picture, processor), *grid)


def _cropped(pixels: torch.Tensor, batch: BatchFeature) -> Iterator[torch.Tensor]:
    """Yields the pictures of [N, C, H, W] without padding, and without those that are padding alone."""
    masks, sizes = batch.get("pixel_attention_mask"), batch.get("image_sizes")
    masks = masks.flatten(0, -3) if isinstance(masks, torch.Tensor) and masks.ndim >= 3 else None
    for index, picture in enumerate(pixels):
        height, width = picture.shape[1:]
        if masks is not None:
            height, width = (int(masks[index].any(dim).sum()) for dim in (1, 0))
        elif sizes is not None and len(sizes) == len(pixels):
            # Pixtral's sizes are without padding; LLaVA-NeXT's are those before scaling, maybe larger.
            height, width = min(int(sizes[index][0]), height), min(int(sizes[index][1]), width)
        if height and width and (len(pixels) == 1 or picture.any()):
            yield picture[:, :height, :width]


def _as_picture(pixels: torch.Tensor, processor: BaseImageProcessor) -> Image.Image:
    """Returns pixels as the processor made them, [C, H, W], as a picture, with rescaling and mean undone."""
    if processor.do_normalize:
        mean, std = (
            torch.tensor(values).view(-1, 1, 1) for values in (processor.image_mean, processor.image_std)
        )
        pixels = pixels * std + mean
    if processor.do_rescale:
        pixels = pixels / processor.rescale_factor
    levels = pixels.float().round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).expand(-1, -1, 3).contiguous().numpy())


def _feature_count(model: PreTrainedModel, batch: BatchFeature) -> int | None:
    """Returns how many vectors of images the text model gets, from their shapes on the meta device."""
    if not hasattr(model, "get_image_features"):
        return None
    names = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
    inputs = {name: batch[name].to(model.device) for name in names if name in batch}
    try:
        pooled = model.get_image_features(**inputs).pooler_output
    except _NOT_ON_META:
        # Where images have different numbers of tokens, the model indexes by the mask's values: they are
        # known here though not on the meta device.
        return int(batch["pixel_attention_mask"].sum()) if "spatial_shapes" in batch else None
    shapes = [features.shape for features in (pooled if isinstance(pooled, list | tuple) else [pooled])]
    return sum(math.prod(s[:-1]) for s in shapes) if all(len(s) >= 2 for s in shapes) else None

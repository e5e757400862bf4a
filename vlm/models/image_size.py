"""Image size: how many pixels and tiles a processor makes of an image, by the settings of a model.

What a processor can do is read off its attributes, so that no family is known by its name. Those that show
every image in one size are refused: their vision towers have positions for that size alone.
"""

import copy
import inspect
import math
from collections.abc import Mapping
from typing import Any

from transformers import ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from vlm.errors import UserError
from vlm.settings import ModelSettings

# What the switch for tiles is called: Idefics2 to SmolVLM and LFM2-VL; InternVL, GOT-OCR, Aya and Cohere;
# Gemma 3; Aria.
TILE_SWITCHES = ("do_image_splitting", "crop_to_patches", "do_pan_and_scan", "split_image")

Values = dict[str, Any]


def with_image_size(processor: ProcessorMixin, settings: ModelSettings) -> ProcessorMixin:
    """Returns the processor with the image size of these settings, itself where they ask for none.

    Raises:
        UserError: its images have no such size.
    """
    if not settings.image_size:
        return processor
    sized = copy.copy(processor)
    # Some processors hand their image processor arguments with each call, which go before its own values.
    given = getattr(processor, "images_kwargs", {})
    sized.image_processor, sized.images_kwargs = sized_images(processor.image_processor, given, settings)
    return sized


def sized_images(
    images: BaseImageProcessor, given: Mapping[str, Any], settings: ModelSettings
) -> tuple[BaseImageProcessor, Values]:
    """Returns an image processor with the size of these settings, and the arguments of its calls with it.

    Raises:
        UserError: its images have no such size.
    """
    if not settings.image_size:
        return images, dict(given)
    own, least, most = vars(images), settings.image_min_pixels, settings.image_max_pixels
    switch = next((name for name in TILE_SWITCHES if name in own), None)
    changes: Values = {}
    if settings.image_tiles != "auto":
        if switch is None:
            raise UserError(
                "This model cuts no image into tiles.",
                "Leave --image_tiles out.",
                "no-image-tiles",
                change={"image_tiles": "auto"},
            )
        changes[switch] = settings.image_tiles == "on"
        if settings.image_tiles == "off" and "max_patches" in own:
            # As a saved processor says it, too: some turn the switch itself on again when they are loaded.
            changes |= {"min_patches": 1, "max_patches": 1}
    if most or least:
        tiled = bool({**own, **given, **changes}.get(switch))
        changes |= _pixel_bounds(images, least, most, tiled=tiled)
    sized = type(images).from_dict(images.to_dict(), **changes)
    return sized, {**given, **{name: value for name, value in changes.items() if name in given}}


def _pixel_bounds(images: BaseImageProcessor, least: int | None, most: int | None, *, tiled: bool) -> Values:
    """Returns the attributes that bound an image's pixels; where it is `tiled`, those of its tiles together.

    The small copy of the whole that goes with tiles is not counted.
    """
    own = vars(images)
    size, tile = dict(own.get("size") or {}), own.get("max_image_size")
    tile = tile["longest_edge"] if isinstance(tile, dict) else None  # Aria has a number of that name
    if "image_grid_thw" in images.model_input_names and size.keys() >= {"shortest_edge", "longest_edge"}:
        # Qwen-VL and those after it. What is called an edge counts pixels; GLM's of both frames of an image.
        both = "temporal_factor" in inspect.signature(images.resize).parameters
        frames = images.temporal_patch_size if both else 1
        before = (size["shortest_edge"] // frames, size["longest_edge"] // frames)
        low, high = _bounds(before, least, most, 1, (images.patch_size * images.merge_size) ** 2)
        return {"size": {"shortest_edge": frames * low, "longest_edge": frames * high}}
    if "max_image_tokens" in own:  # LFM2-VL: tokens where an image is whole, and tiles of one size
        token = (images.encoder_patch_size * images.downsample_factor) ** 2
        low, high = _bounds((images.min_image_tokens, images.max_image_tokens), least, most, token)
        high = min(high, max(low, images.max_image_tokens)) if tiled else high
        tiles = max(1, most // images.tile_size**2) if most else images.max_tiles
        bounds = {"min_image_tokens": min(low, high), "max_image_tokens": high}
        return bounds | {"min_tiles": min(images.min_tiles, tiles), "max_tiles": tiles}
    if "max_num_patches" in own and not least:  # SigLIP 2 in an image's own shape
        return {"max_num_patches": _bounds((1, 1), least, most, images.patch_size**2)[1]}
    if "max_patches" in own and tiled and size.keys() >= {"height", "width"}:  # InternVL, GOT-OCR, Cohere
        before = (own.get("min_patches", 1), images.max_patches)
        low, high = _bounds(before, least, most, size["height"] * size["width"])
        return {"min_patches": low, "max_patches": high}
    if tile and tiled and not least:  # Idefics 3 and SmolVLM scale every image to one edge, of whole tiles
        high = _bounds((1, 1), least, most, 1, tile**2)[1]
        return {"size": {"longest_edge": math.isqrt(high) // tile * tile}}
    if not tile and size.keys() == {"shortest_edge", "longest_edge"}:  # Idefics 2, whose tiles are quarters
        before = (size["shortest_edge"] ** 2, size["longest_edge"] ** 2)
        low, high = _bounds(before, least, most, 4 if tiled else 1)
        longest = math.isqrt(high)
        return {"size": {"shortest_edge": min(math.isqrt(low - 1) + 1, longest), "longest_edge": longest}}
    if not tile and size.keys() == {"longest_edge"} and not least:
        # Pixtral: sides are rounded up to patches, two of which may be one token, and no edge may be longer
        # than its own, for which its tower has positions.
        step = images.patch_size
        step = 2 * (step if isinstance(step, int) else step["height"])
        high = math.isqrt(_bounds((1, 1), least, most, 1, step**2)[1]) // step * step
        return {"size": {"longest_edge": min(size["longest_edge"], high)}}
    flags = {"--image_min_pixels": least, "--image_max_pixels": most}
    raise UserError(
        "This model has no {flags} to set: it sees images in a size of its own.",
        "Leave {flags} out, or choose a model that scales images, such as Qwen-VL.",
        "fixed-image-size",
        flags=[flag for flag, pixels in flags.items() if pixels],
    )


def _bounds(
    before: tuple[int, int], least: int | None, most: int | None, unit: int, smallest: int = 0
) -> tuple[int, int]:
    """Returns the fewest and the most units of so many pixels; what is not given gives way to what is.

    Raises:
        UserError: not even a unit, or the `smallest` image, has as few pixels.
    """
    low, high = before
    if most and most < max(unit, smallest):
        raise UserError(
            "{most:,} pixels are fewer than this model sees of any image.",
            "Give --image_max_pixels {fewest} or more.",
            "too-few-pixels",
            change={"image_max_pixels": max(unit, smallest)},
            most=most,
            fewest=max(unit, smallest),
        )
    low = -(-least // unit) if least else low
    high = most // unit if most else max(low, high)
    return min(low, high), high

"""Image size: pixels and tiles as they are asked for, however a processor has them, or refused in words."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from transformers import BatchFeature

from support.families import FAMILIES
from support.slow import slow_but
from vlm.errors import UserError
from vlm.example import IMAGE, Message
from vlm.models.loading import load_processor, read_config
from vlm.prompting import prompt_style
from vlm.settings import IMAGE_SIZE_FILE, ModelSettings, image_size_of

LARGE, SMALL = (160, 120), (14, 12)
PATCH, TILE = 7, 28 * 28

Shown = Callable[..., BatchFeature]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """What a tiny model of a family gets of one image, so many pixels across and down."""
    root = tmp_path_factory.mktemp("families")

    def show(family: str, size: tuple[int, int], **settings: object) -> BatchFeature:
        if not (root / family).exists():
            FAMILIES[family](root / family)
        wanted = ModelSettings(model=str(root / family), **settings)
        prompt = prompt_style(read_config(wanted.model), load_processor(wanted), 4096)
        turns = (Message("user", IMAGE + "colour?"), Message("assistant", "red"))
        return prompt.training_batch([turns], [[Image.radial_gradient("L").convert("RGB").resize(size)]])

    return show


def pixels(batch: BatchFeature) -> int:
    """The pixels that the model gets of its one image, all tiles together, without padding."""
    values = batch["pixel_values"]
    for grid in ("image_grid_thw", "spatial_shapes"):
        if grid in batch:
            return int(batch[grid].prod(-1).sum()) * PATCH**2
    if "pixel_attention_mask" in batch:
        return int(batch["pixel_attention_mask"].sum())
    if "image_sizes" in batch:
        return int(batch["image_sizes"].prod())
    return values.numel() // values.shape[-3]


def tokens(batch: BatchFeature) -> int:
    return batch["input_ids"].shape[-1]


# A family for each way in which processors have a number of pixels, and whether a small copy of the whole is
# added to tiles.
MAKES = {
    **{"qwen2_vl": False, "glm4v": False, "idefics2": True, "mistral3": False},
    **{"smolvlm": True, "internvl": True, "cohere2_vision": True, "aya_vision": True, "lfm2_vl": True},
}
# They have the image processor of one above.
LIKE_OTHERS = ("idefics3", "qwen2_5_vl", "qwen3_vl", "qwen3_5")
OF_ONE_SIZE = ("llava", "llava_next", "gemma3", "florence2", "got_ocr2")


@pytest.mark.parametrize("family", MAKES)
def test_a_large_image_has_at_most_the_pixels_that_are_asked_for(shown: Shown, family: str) -> None:
    before = shown(family, LARGE)
    for tiles in (1, 2, 3):
        after = shown(family, LARGE, image_max_pixels=tiles * TILE)
        assert pixels(after) <= tiles * TILE + MAKES[family] * TILE
        assert tokens(after) <= tokens(before)
    fewest = shown(family, LARGE, image_max_pixels=TILE)
    assert pixels(fewest) <= TILE * (2 if family == "idefics2" else 1) < pixels(before)


@pytest.mark.parametrize("family", ["qwen2_vl", "glm4v", "idefics2", "internvl", "lfm2_vl"])
def test_a_small_image_has_at_least_the_pixels_that_are_asked_for(shown: Shown, family: str) -> None:
    least = 2 * TILE
    assert pixels(shown(family, SMALL)) < least <= pixels(shown(family, SMALL, image_min_pixels=least))


@pytest.mark.parametrize(
    "family", ["smolvlm", "idefics2", "internvl", "aya_vision", "cohere2_vision", "lfm2_vl"]
)
def test_tiles_are_turned_off_and_on_again(shown: Shown, family: str) -> None:
    on, off = (shown(family, LARGE, image_tiles=tiles) for tiles in ("on", "off"))
    assert pixels(off) < pixels(on)
    assert tokens(off) < tokens(on)
    assert pixels(on) == pixels(shown(family, LARGE))


@pytest.mark.parametrize("family", ["gemma3", "got_ocr2"])
def test_a_model_that_leaves_its_tiles_off_can_have_them(shown: Shown, family: str) -> None:
    wide = (900, 400)  # Gemma's crops have 256 pixels a side at least
    assert pixels(shown(family, wide)) < pixels(shown(family, wide, image_tiles="on"))
    assert tokens(shown(family, wide)) < tokens(shown(family, wide, image_tiles="on"))


@pytest.mark.parametrize("family", OF_ONE_SIZE)
def test_a_model_of_one_size_says_so(shown: Shown, family: str) -> None:
    with pytest.raises(UserError, match="has no --image_max_pixels to set") as refused:
        shown(family, LARGE, image_max_pixels=2 * TILE)
    assert refused.value.code == "fixed-image-size"


@pytest.mark.parametrize("family", slow_but({"smolvlm", "llava", "blip"}, FAMILIES))
def test_every_family_shows_no_more_than_is_asked_for_or_refuses(shown: Shown, family: str) -> None:
    if family not in MAKES and family not in LIKE_OTHERS:
        with pytest.raises(UserError, match="to set: it sees images in a size of its own"):
            shown(family, LARGE, image_max_pixels=2 * TILE)
        return
    after = shown(family, LARGE, image_max_pixels=2 * TILE)
    assert pixels(after) <= 3 * TILE
    assert pixels(after) <= pixels(shown(family, LARGE))


def test_what_a_processor_lacks_and_too_few_pixels_are_refused_in_words(shown: Shown) -> None:
    with pytest.raises(UserError, match="cuts no image into tiles") as no_tiles:
        shown("qwen2_vl", LARGE, image_tiles="on")
    with pytest.raises(UserError, match="has no --image_min_pixels to set"):
        shown("smolvlm", LARGE, image_min_pixels=5 * TILE)  # scales every image to one edge
    with pytest.raises(UserError, match="has no --image_max_pixels to set"):
        shown("smolvlm", LARGE, image_tiles="off", image_max_pixels=5 * TILE)
    with pytest.raises(UserError, match="100 pixels are fewer than this model sees") as too_few:
        shown("internvl", LARGE, image_max_pixels=100)
    assert (no_tiles.value.change, too_few.value.change) == (
        {"image_tiles": "auto"},
        {"image_max_pixels": TILE},
    )


def test_nothing_changes_where_nothing_is_asked_for(shown: Shown, tiny_base: Path) -> None:
    plain = load_processor(ModelSettings(model=str(tiny_base)))
    assert ModelSettings().image_size == {}
    assert "images_kwargs" not in vars(plain)
    assert pixels(shown("qwen2_vl", LARGE)) == pixels(shown("qwen2_vl", LARGE, image_max_pixels=56 * 56))


def test_an_adapters_folder_says_how_large_it_sees_and_a_strangers_is_not_believed(tmp_path: Path) -> None:
    file = tmp_path / IMAGE_SIZE_FILE
    assert image_size_of(tmp_path) == {}
    file.write_text(json.dumps({"image_max_pixels": 5000, "image_tiles": "auto", "model": "evil/model"}))
    assert image_size_of(tmp_path) == {"image_max_pixels": 5000}
    for damaged in ("[1", '{"image_max_pixels": -5}', '{"image_tiles": "many"}', "7", "[" * 5000, "\xff"):
        file.write_text(damaged, encoding="latin-1")
        with pytest.raises(UserError, match="of the adapter can't be read") as refused:
            image_size_of(tmp_path)
        assert refused.value.code == "adapter-image-size"

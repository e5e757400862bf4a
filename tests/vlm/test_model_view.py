"""What the model sees: pictures are what the processor handed over, tokens those of the training batch."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.families import FAMILIES
from vlm.errors import UserError
from vlm.example import IMAGE, Message
from vlm.meta_model import architecture
from vlm.model_view import FIRST_TOKENS, LAST_TOKENS, ModelView, view_example
from vlm.models.loading import load_processor
from vlm.prompting import PromptStyle, prompt_style
from vlm.settings import ModelSettings

QUESTION, ANSWER = "what is it?", "a red cat"
ASKED = (Message("user", IMAGE + QUESTION), Message("assistant", ANSWER))
OFF_BY = 1.5
"""Levels of 256: what resizing in another order and rounding may make of a smooth picture."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {}


@pytest.fixture
def model(request: pytest.FixtureRequest, folders: dict[str, Path], tmp_path_factory) -> str:
    """The folder of a tiny model of this family, or the starter."""
    name = request.param
    if name == "starter":
        return name
    if name not in folders:
        folders[name] = tmp_path_factory.mktemp(name.replace("-", "_"))
        FAMILIES[name](folders[name])
    return str(folders[name])


def picture(width: int = 90, height: int = 60) -> Image.Image:
    """Smooth, and different in each corner and channel."""
    across, down = Image.linear_gradient("L").rotate(90), Image.linear_gradient("L")
    return Image.merge("RGB", [across, down, Image.new("L", across.size, 60)]).resize((width, height))


def eye(model: str, max_length: int = 4096) -> PromptStyle:
    config = architecture(model, None).config
    return prompt_style(config, load_processor(ModelSettings(model=model)), max_length)


def look(model: str, messages=ASKED, images: int = 1) -> ModelView:
    return view_example(eye(model), architecture(model, None), messages, [picture()] * images)


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, float) - np.asarray(other.resize(one.size), float)).mean())


def text_of(seen: ModelView, trained: bool | None = None) -> str:
    pieces = [piece for stream in seen.streams for piece in stream.pieces]
    return "".join(piece.text for piece in pieces if trained is None or piece.trained is trained)


EVERY_LAYOUT = ["starter", "blip-2", "qwen2_vl", "mistral3", "smolvlm", "lfm2_vl", "llava_next", "paligemma"]


@pytest.mark.parametrize("model", EVERY_LAYOUT, indirect=True)
def test_the_whole_picture_comes_back_from_what_the_processor_handed_over(model):
    seen = look(model)
    assert min(difference(view.picture, picture()) for view in seen.views) < OFF_BY


@pytest.mark.parametrize("model", ["smolvlm", "lfm2_vl"], indirect=True)
def test_tiles_are_the_parts_of_the_picture_in_reading_order(model):
    whole = picture()
    views = look(model).views
    assert len(views) == 5
    corners = [(0, 0, 45, 30), (45, 0, 90, 30), (0, 30, 45, 60), (45, 30, 90, 60)]
    for view, corner in zip(views, corners, strict=False):
        assert difference(view.picture, whole.crop(corner)) < 3 * OFF_BY


@pytest.mark.parametrize("model", EVERY_LAYOUT, indirect=True)
def test_the_patch_grid_divides_each_picture_into_squares(model):
    for view in look(model).views:
        assert view.picture.width / view.columns == view.picture.height / view.rows


@pytest.mark.parametrize("model", ["idefics2"], indirect=True)
def test_padding_that_makes_pictures_equal_in_size_is_not_shown(model):
    views = view_example(eye(model), architecture(model, None), ASKED, [picture(30, 90)]).views
    assert all(view.picture.width < view.picture.height for view in views)


@pytest.mark.parametrize("model", [*EVERY_LAYOUT, "florence2", "vision-encoder-decoder"], indirect=True)
def test_exactly_the_answer_and_its_end_are_trained(model):
    seen = look(model)
    trained = text_of(seen, trained=True)
    ends = [
        piece.text for stream in seen.streams for piece in stream.pieces if piece.trained and piece.special
    ]
    for end in ends:
        trained = trained.replace(end, "")
    assert trained.strip() == ANSWER
    assert QUESTION in text_of(seen, trained=False).strip()


@pytest.mark.parametrize("model", [*EVERY_LAYOUT, "florence2", "vision-encoder-decoder"], indirect=True)
def test_lengths_are_those_of_the_training_batch(model):
    batch = eye(model).training_batch([ASKED], [[picture()]])
    seen = look(model)
    labels = batch["labels"][0]
    ids = batch["decoder_input_ids" if "decoder_input_ids" in batch else "input_ids"][0]
    assert seen.streams[0].tokens == len(ids)
    assert sum(stream.trained for stream in seen.streams) == int((labels != -100).sum())
    for stream in seen.streams:
        assert sum(piece.tokens for piece in stream.pieces) == stream.tokens
        assert sum(piece.tokens for piece in stream.pieces if piece.trained) == stream.trained


@pytest.mark.parametrize("model", ["starter", "smolvlm", "qwen2_vl", "paligemma"], indirect=True)
def test_image_tokens_are_counted_in_the_text_or_beside_it(model):
    seen = look(model)
    assert seen.in_text == (model != "starter")
    patches = sum(view.rows * view.columns for view in seen.views)
    assert 0 < seen.image_tokens <= patches
    if seen.in_text:
        assert sum(piece.tokens for piece in seen.streams[0].pieces if piece.image) == seen.image_tokens


def test_the_starters_image_tokens_are_those_that_its_weights_make():
    from vlm.models.loading import load_base

    loaded = load_base(ModelSettings(device="cpu"))
    batch = eye("starter").training_batch([ASKED], [[picture()]])
    features = loaded.model.get_image_features(batch["pixel_values"]).pooler_output
    assert look("starter").image_tokens == features.shape[1]


@pytest.mark.parametrize("model", ["smolvlm"], indirect=True)
def test_each_answer_of_a_conversation_is_trained_and_each_image_has_its_views(model):
    turns = (*ASKED, Message("user", IMAGE + "and this?"), Message("assistant", "two blue dogs"))
    seen = look(model, turns, images=2)
    trained = text_of(seen, trained=True)
    assert ANSWER in trained
    assert "two blue dogs" in trained
    assert "and this?" not in trained
    assert len(seen.views) == 2 * len(look(model).views)


@pytest.mark.parametrize("model", ["starter", "smolvlm", "qwen2_vl"], indirect=True)
def test_characters_of_several_tokens_are_whole_and_nothing_is_lost(model):
    vietnamese = "một chú mèo màu đỏ 🐈"
    seen = look(model, (Message("user", IMAGE + "gì?"), Message("assistant", vietnamese)))
    assert vietnamese in text_of(seen, trained=True)
    assert "\ufffd" not in text_of(seen)


@pytest.mark.parametrize("model", ["qwen2_vl"], indirect=True)
def test_control_tokens_that_somebody_typed_are_plain_text(model):
    typed = (Message("user", IMAGE + "hi <|im_end|>"), Message("assistant", ANSWER))
    plain = [piece for piece in look(model, typed).streams[0].pieces if not piece.special]
    assert "<|im_end|>" in "".join(piece.text for piece in plain)


@pytest.mark.parametrize("model", ["smolvlm"], indirect=True)
def test_of_a_very_long_text_the_middle_is_left_out_and_counted(model):
    prompt = eye(model)
    prompt.max_length = 1 << 30
    long = (Message("user", IMAGE + "x y " * 5000), Message("assistant", ANSWER))
    seen = view_example(prompt, architecture(model, None), long, [picture()])
    (gap,) = (piece for piece in seen.streams[0].pieces if piece.left_out)
    assert sum(piece.tokens for piece in seen.streams[0].pieces) == seen.streams[0].tokens
    assert gap.tokens > 1000
    assert len(seen.streams[0].pieces) <= FIRST_TOKENS + LAST_TOKENS + 100
    assert ANSWER in text_of(seen, trained=True)


def test_a_question_that_is_its_own_answer_is_still_two_texts():
    same = look("starter", (Message("user", IMAGE + "red"), Message("assistant", "red")))
    assert [(stream.name, stream.trained > 0) for stream in same.streams] == [
        ("question", False),
        ("answer", True),
    ]


def test_a_model_that_takes_one_image_refuses_two():
    with pytest.raises(UserError, match="2 images: this model takes exactly one"):
        look("starter", (Message("user", IMAGE * 2 + QUESTION), Message("assistant", ANSWER)), images=2)


@pytest.mark.parametrize("model", ["qwen2_vl"], indirect=True)
def test_what_the_processor_refuses_is_told_and_is_no_bug(model):
    with pytest.raises(UserError, match="processor refuses it"):
        view_example(eye(model), architecture(model, None), ASKED, [picture(3000, 4)])


def test_an_example_longer_than_the_limit_is_refused():
    with pytest.raises(UserError, match="is the most"):
        view_example(
            eye("starter", 8),
            architecture("starter", None),
            (Message("user", "a b " * 30), ASKED[1]),
            [picture()],
        )


def test_no_weight_is_read():
    assert all(parameter.is_meta for parameter in architecture("starter", None).parameters())
    assert math.prod(look("starter").views[0].picture.size) > 0

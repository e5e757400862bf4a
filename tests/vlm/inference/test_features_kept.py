"""Image features kept between questions: by image and by what encodes it, in a bounded number of bytes."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from support.adapter_folders import settings_of, trained
from support.families import FAMILIES
from vlm import adapters
from vlm.image_features import ImageEncoder
from vlm.inference import Engine
from vlm.inference.asked import asked_about
from vlm.inference.inputs import KeptFeatures, Row
from vlm.models.loading import load_base
from vlm.settings import ModelSettings

QUESTION = "what is this?"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
    folder = tmp_path_factory.mktemp("base") / "smolvlm"
    FAMILIES["smolvlm"](folder)
    return ModelSettings(model=str(folder), device="cpu")


@pytest.fixture(scope="module")
def of_towers(base: ModelSettings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters of the text alone, of the text and the vision tower, and of the text and the connector."""
    own = settings_of("lora")
    folders = {}
    for name, changes in {
        "text": {"use_vision_lora": False},
        "vision": {"use_vision_lora": True},
        "connector": {"use_vision_lora": False, "connector": "lora"},
    }.items():
        folders[name] = tmp_path_factory.mktemp("adapters") / name
        adapters.save(trained(load_base(base).model, own.model_copy(update=changes)), folders[name])
    return folders


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sets of images each pass of the encoder had."""
    passes: list[int] = []
    encode = ImageEncoder.encode

    def counted(self: ImageEncoder, inputs: list) -> list:
        passes.append(len(inputs))
        return encode(self, inputs)

    monkeypatch.setattr(ImageEncoder, "encode", counted)
    return passes


def picture(shade: int = 90) -> Image.Image:
    return Image.merge(
        "RGB", [Image.linear_gradient("L"), Image.radial_gradient("L"), Image.new("L", (256, 256), shade)]
    )


def text_of(engine: Engine, base: ModelSettings, who: list[Path | None], shade: int = 90) -> list[str]:
    *_, said = engine.ask(base, picture(shade), QUESTION, who, 4)
    return [answer.text for answer in said]


def test_a_second_question_about_an_image_encodes_nothing(base: ModelSettings, encoded: list[int]) -> None:
    engine = Engine()
    text_of(engine, base, [None])
    del encoded[:]
    text_of(engine, base, [None])
    *_, (other,) = engine.ask(base, picture(), "how many?", [None], 4)
    assert encoded == []
    assert other.done
    text_of(engine, base, [None], shade=91)
    assert encoded == [1]


def test_an_adapter_of_the_text_shares_the_bases_features_and_no_other_does(
    base: ModelSettings, of_towers: dict[str, Path], encoded: list[int]
) -> None:
    engine = Engine()
    text_of(engine, base, [None, *of_towers.values()])
    assert len(engine._base.inputs.kept) == 3
    del encoded[:]
    text_of(engine, base, [of_towers["vision"], None, of_towers["text"], of_towers["connector"]])
    assert encoded == []


@pytest.mark.parametrize("tower", ["text", "vision", "connector"])
def test_beside_an_adapter_of_any_tower_the_bases_logits_are_bit_equal(
    tower: str, base: ModelSettings, of_towers: dict[str, Path]
) -> None:
    """In a batch of its own, and as a row of a mixed batch beside what an equal batch of the base gives."""
    alone, beside = Engine(), Engine()
    text_of(alone, base, [None])
    text_of(beside, base, [of_towers[tower], None])
    asked = asked_about(picture(), QUESTION)
    one, adapted = Row(asked, None, {}), Row(asked, of_towers[tower], {})
    for rows, untouched in (([one], [one]), ([adapted, one], [one, one])):
        logits = []
        for engine, asked_of in ((beside, rows), (alone, untouched)):
            memory = engine._base
            batch = memory.batch(asked_of)
            with memory.answering([row.folder for row in asked_of]) as generate, torch.inference_mode():
                found = generate(**batch, max_new_tokens=3, return_dict_in_generate=True, output_logits=True)
            logits.append(torch.stack(found.logits)[:, -1])
        assert torch.equal(*logits)


def test_an_adapter_that_was_trained_again_is_not_shown_by_its_old_features(
    base: ModelSettings, of_towers: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(of_towers["vision"], tmp_path / "mine")
    engine = Engine()
    before = text_of(engine, base, [folder])
    shutil.rmtree(folder)
    shutil.copytree(of_towers["connector"], folder)
    assert text_of(engine, base, [folder]) == text_of(Engine(), base, [of_towers["connector"]])
    assert text_of(Engine(), base, [of_towers["vision"]]) == before


def test_what_was_used_last_is_kept_within_so_many_bytes() -> None:
    kept, features = KeptFeatures(2 * 400), {"pooler_output.0": torch.zeros(100)}
    keys = [(name, "{}", None) for name in "abc"]
    for key in keys[:2]:
        kept.put(key, features)
    assert kept.get(keys[0]) is features
    kept.put(keys[2], features)
    assert (len(kept), kept.bytes) == (2, 800)
    assert kept.get(keys[1]) is None
    assert kept.get(keys[0]) is features
    kept.put(("too large", "{}", None), {"pooler_output.0": torch.zeros(900)})
    assert (len(kept), kept.bytes) == (0, 0)


def test_what_is_kept_counts_in_what_the_engine_holds_and_goes_with_it(base: ModelSettings) -> None:
    engine = Engine()
    text_of(engine, base, [None])
    _, before = engine.held()
    text_of(engine, base, [None], shade=10)
    assert engine.held()[1] > before
    assert engine.let_go()
    assert engine.held() == ("cpu", 0)

"""Several answerers in one batch, many pictures in batches: each row is the answer that it is alone."""

import itertools
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from support.adapter_folders import settings_of, trained
from support.families import FAMILIES
from support.slow import slow_but
from vlm import adapters
from vlm.inference import Answer, Engine
from vlm.inference.asked import asked_about
from vlm.inference.inputs import Row
from vlm.models.loading import load_base
from vlm.settings import ModelSettings, Sampling

QUESTION = "what is this?"
# Their image tokens, positions and processors differ most.
CHAT_FAMILIES = ("smolvlm", "qwen2_vl", "qwen3_vl", "llava_next", "gemma3", "internvl", "aya_vision")


def drawn(number: int) -> Image.Image:
    image = Image.new("RGB", (56, 56), (20 * number % 256, 90, 200))
    ImageDraw.Draw(image).ellipse((8, 8, 20 + 3 * number % 30, 40), fill="white")
    return image


Build = Callable[[str], tuple[ModelSettings, list[Path]]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """By a family's name its tiny base, and a LoRA of the text, one of both towers, and one more."""

    @cache
    def build(family: str) -> tuple[ModelSettings, list[Path]]:
        folder = tmp_path_factory.mktemp(family.replace("-", "_"))
        FAMILIES[family](folder / "base")
        settings = ModelSettings(model=str(folder / "base"), device="cpu")
        saved = []
        for number, vision in enumerate((False, True, True)):
            own = settings_of("lora").model_copy(update={"use_vision_lora": vision})
            model = trained(load_base(settings).model, own)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.mul_(1 + 0.5 * number)
            saved.append(folder / f"adapter-{number}")
            adapters.save(model, saved[-1])
        return settings, saved

    return build


def alone(settings: ModelSettings, folder: Path | None, picture: Image.Image, tokens: int = 8) -> str:
    *_, (answer,) = Engine().ask(settings, picture, QUESTION, [folder], tokens)
    return answer.text


@pytest.mark.parametrize("family", slow_but({"qwen2_vl"}, CHAT_FAMILIES))
def test_base_and_three_adapters_of_a_family_answer_together_as_each_does_alone(
    family: str, built: Build
) -> None:
    settings, folders = built(family)
    who = [folders[0], None, folders[1], folders[2], None]
    *_, said = Engine().ask(settings, drawn(1), QUESTION, who, 8)
    assert [answer.text for answer in said] == [alone(settings, folder, drawn(1)) for folder in who]
    assert all(answer.done and answer.together for answer in said)
    assert len({answer.text for answer in said}) == 4


@pytest.mark.slow
def test_a_model_that_takes_no_features_answers_in_turns(built: Build) -> None:
    settings, folders = built("mllama")
    who = [folders[0], None, folders[1]]
    engine = Engine()
    shown = list(engine.ask(settings, drawn(1), QUESTION, who, 6))
    assert engine._base.inputs.encoder is None
    assert [answer.text for answer in shown[-1]] == [alone(settings, f, drawn(1), 6) for f in who]
    assert not any(answer.together for answer in shown[-1])
    assert any(said[0].done and said[1] == Answer() for said in shown)


@pytest.mark.parametrize("family", slow_but({"smolvlm"}, ("smolvlm", "qwen3_vl", "mllama", "florence2")))
def test_many_pictures_and_questions_in_batches_have_the_answers_of_each_alone(
    family: str, built: Build
) -> None:
    settings, folders = built(family)
    lines = ["what is this?", "how many are there, and what else can be seen in it?"]
    questions = [(drawn(number), line) for number, line in itertools.product(range(5), lines)]
    who = [None, folders[1]]
    engine = Engine()
    found = list(engine.ask_many(settings, questions, who, 6, batch_size=4))
    one_by_one = Engine()
    wanted = [list(one_by_one.ask(settings, image, line, who, 6))[-1] for image, line in questions]
    assert [[a.text for a in said] for said in found] == [[a.text for a in said] for said in wanted]
    assert all(answer.done and answer.together for said in found for answer in said)


def test_pictures_of_a_batch_are_opened_when_it_is_their_turn_and_a_stop_ends_it(built: Build) -> None:
    settings, _ = built("smolvlm")
    opened: list[int] = []

    def opening(number: int) -> Callable[[], Image.Image]:
        return lambda: opened.append(number) or drawn(number)

    engine = Engine()
    questions = [(opening(number), QUESTION) for number in range(6)]
    answers = engine.ask_many(settings, questions, [None], 3, "me", batch_size=2)
    next(answers)
    assert opened == [0, 1]
    engine.stop("me")
    assert len(list(answers)) == 1
    assert opened == [0, 1]


def test_a_row_that_ends_keeps_its_answer_while_the_others_go_on(built: Build) -> None:
    settings, folders = built("smolvlm")
    engine = Engine()
    who = [None, *folders]
    shown = list(engine.ask(settings, drawn(1), QUESTION, who, 40))
    steps = [[answer.tokens for answer in said] for said in shown]
    assert all(
        later >= earlier for a, b in itertools.pairwise(steps) for earlier, later in zip(a, b, strict=True)
    )
    for at, answer in enumerate(shown[-1]):
        first = next(said[at] for said in shown if said[at].done)
        assert (first.text, first.tokens) == (answer.text, answer.tokens)


def test_a_batch_that_fails_leaves_nothing_of_itself_behind(
    built: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT does not take the rows' adapters off its layers where one of these raises."""
    settings, folders = built("smolvlm")
    engine, who = Engine(), [None, folders[1]]
    wanted = list(engine.ask(settings, drawn(1), QUESTION, who, 4))[-1]
    layer = engine._base.loaded.model.lm_head

    def fails(*_: object) -> None:
        raise RuntimeError("no such luck")

    hook = layer.register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="no such luck"):
        list(engine.ask(settings, drawn(1), QUESTION, who, 4))
    hook.remove()
    for again in ([None], [folders[1]], who):
        said = list(engine.ask(settings, drawn(1), QUESTION, again, 4))[-1]
        assert [answer.text for answer in said] == [wanted[who.index(folder)].text for folder in again]


def test_beams_are_answered_when_they_are_done_in_turns_and_as_transformers_does(built: Build) -> None:
    settings, folders = built("smolvlm")
    engine, beams = Engine(), Sampling(num_beams=3)
    shown = list(engine.ask(settings, drawn(1), QUESTION, [None, folders[1]], 6, sampling=beams))
    assert [[answer.done for answer in said] for said in shown] == [[True, False], [True, True]]
    base = load_base(settings)
    inputs = engine._base.inputs.of_pixels([Row(asked_about(drawn(1), QUESTION), None, {})])
    wanted = base.model.generate(**inputs, max_new_tokens=6, num_beams=3, do_sample=False)
    assert shown[-1][0].text == engine._base.inputs.prompt.decode(wanted, inputs)[0]
    assert shown[-1][0].tokens <= 6

"""What is asked: a question, a conversation with its images; how tokens are chosen; whose turn it is."""

import threading
import time
from pathlib import Path
from queue import Queue

import pytest
import torch
from PIL import Image
from transformers import GenerationConfig

from support.families import FAMILIES
from training.batching.collator import Collator
from training.data.images import load_image
from vlm.errors import UserError
from vlm.example import IMAGE, Example, Message
from vlm.inference import Engine
from vlm.inference.asked import asked_about
from vlm.inference.inputs import Row
from vlm.models.image_size import with_image_size
from vlm.models.loading import load_base
from vlm.prompting import prompt_style
from vlm.settings import GREEDY, SAMPLING_RANGES, ModelSettings, Sampling

TURNS = (
    Message("user", f"{IMAGE}what is this?"),
    Message("assistant", "a field"),
    Message("user", f"and this {IMAGE}, is it the same?"),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
    folder = tmp_path_factory.mktemp("base") / "qwen2_vl"
    FAMILIES["qwen2_vl"](folder)
    return ModelSettings(model=str(folder), device="cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    names = [folder / f"{number}.png" for number in (1, 2)]
    for number, name in enumerate(names, 1):
        Image.new("RGB", (56 * number, 84), (60 * number, 20, 90)).save(name)
    return names


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


@pytest.mark.parametrize("pixels", [None, 3136])
def test_a_conversation_of_several_images_is_the_trainings_own_to_the_last_number(
    pixels: int | None, base: ModelSettings, files: list[Path], engine: Engine
) -> None:
    images = [load_image(file) for file in files]
    *_, (answer,) = engine.ask(base, images, TURNS, [None], 4)
    assert answer.done
    sized = base.model_copy(update={"image_max_pixels": pixels, "image_min_pixels": pixels})
    loaded = load_base(sized)
    prompt = prompt_style(loaded.model.config, with_image_size(loaded.processor, sized), None)
    example = Example("1", tuple(files), (*TURNS, Message("assistant", "no")))
    wanted = Collator(prompt).inputs([example])
    row = Row(asked_about(images, TURNS), None, sized.image_size)
    given = engine._base.inputs.of_pixels([row])
    assert given.keys() == wanted.keys()
    assert all(torch.equal(given[name], wanted[name]) for name in wanted)
    batch = engine._base.batch([row])
    assert torch.equal(batch["input_ids"], wanted["input_ids"])
    assert torch.equal(batch["attention_mask"], wanted["attention_mask"])
    encoder = engine._base.inputs.encoder
    with torch.no_grad():
        seen = encoder.encode_images(**encoder.inputs(wanted)).pooler_output
    assert len(seen) == 2
    for tensor, own in zip(batch["mm_encoder_outputs"]["image"].pooler_output, seen, strict=True):
        assert torch.equal(tensor, own)


def test_an_earlier_turn_changes_the_answer(base: ModelSettings, files: list[Path], engine: Engine) -> None:
    image = load_image(files[0])
    turns = [Message("user", f"{IMAGE}what is this?"), Message("assistant", "a cat"), Message("user", "why?")]
    answers = [list(engine.ask(base, image, said, [None], 8))[-1][0].text for said in (turns, "why?")]
    assert answers[0] != answers[1]


@pytest.mark.parametrize(
    ("question", "count", "code"),
    [
        ([], 1, "conversation-no-question"),
        ([Message("user", IMAGE), Message("assistant", "a cat")], 1, "conversation-no-question"),
        (TURNS, 1, "conversation-images"),
        (f"what is {IMAGE}?", 1, "conversation-images"),
        (TURNS, 0, "ask-no-image"),
    ],
)
def test_a_conversation_that_can_not_be_answered_is_refused_before_a_model_is_loaded(
    question: str | list[Message], count: int, code: str
) -> None:
    images = [Image.new("RGB", (8, 8))] * count
    with pytest.raises(UserError) as refused:
        next(Engine().ask("nowhere", images, question, [None]))
    assert refused.value.code == code


def test_a_model_of_one_image_is_asked_about_one(tiny_base: Path, files: list[Path]) -> None:
    with pytest.raises(UserError, match="one image at a time, not at 2") as refused:
        list(Engine().ask(str(tiny_base), [load_image(file) for file in files], "which?", [None]))
    assert refused.value.code == "one-image-model"


@pytest.mark.parametrize(("setting", "ends"), SAMPLING_RANGES.items())
def test_a_sampling_setting_out_of_its_range_is_refused(setting: str, ends: tuple[float, float]) -> None:
    for value in ends:
        assert getattr(Sampling(**{setting: value}), setting) == value
    for value in (ends[0] - 1, ends[1] + 1, float("nan")):
        with pytest.raises(UserError, match=f"{setting} is ") as refused:
            Sampling(**{setting: value})
        assert refused.value.code == "sampling-range"


def said(
    engine: Engine, base: ModelSettings, image: Image.Image, sampling: Sampling, rows: int = 1
) -> list[str]:
    *_, answers = engine.ask(base, image, "what is this?", [None] * rows, 12, sampling=sampling)
    return [answer.text for answer in answers]


def test_a_seed_repeats_an_answer_alone_and_beside_others_and_a_temperature_varies_it(
    base: ModelSettings, files: list[Path], engine: Engine
) -> None:
    image = load_image(files[0])
    greedy = said(engine, base, image, GREEDY)
    drawn = [said(engine, base, image, Sampling(temperature=1.5, seed=seed))[0] for seed in (1, 2, 1)]
    assert drawn[0] == drawn[2]
    assert len({*drawn, *greedy}) == 3
    assert said(engine, base, image, Sampling(temperature=1.5, seed=1), rows=2) == [drawn[0]] * 2
    before = torch.random.get_rng_state()
    said(engine, base, image, Sampling(temperature=1.5, seed=1))
    assert torch.equal(torch.random.get_rng_state(), before)
    # So few of the most likely tokens that one is left.
    assert said(engine, base, image, Sampling(temperature=1.5, top_p=0.001)) == greedy
    assert said(engine, base, image, Sampling(temperature=1.5, top_k=1)) == greedy
    assert said(engine, base, image, Sampling(repetition_penalty=5.0)) != greedy


def test_the_models_own_sampling_is_read_and_greedy_where_it_has_none(
    base: ModelSettings, engine: Engine, files: list[Path]
) -> None:
    said(engine, base, load_image(files[0]), GREEDY)
    model = engine._base.loaded.model
    kept = model.generation_config
    assert engine.own_sampling(base) == GREEDY
    try:
        model.generation_config = GenerationConfig(
            do_sample=True, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05
        )
        own = Sampling(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05)
        assert engine.own_sampling(base) == own
        model.generation_config = GenerationConfig(do_sample=True, temperature=90.0)
        assert engine.own_sampling(base).temperature == SAMPLING_RANGES["temperature"][1]
    finally:
        model.generation_config = kept
    assert Engine().own_sampling(base) == GREEDY


def test_questions_wait_in_their_order_and_a_stopped_one_leaves_the_queue_at_once(
    base: ModelSettings, files: list[Path], engine: Engine
) -> None:
    image, done = load_image(files[0]), Queue()

    def ask(name: str) -> None:
        done.put((name, list(engine.ask(base, image, "why?", [None], 3, name))))

    first = engine.ask(base, image, "why?", [None], 60, "first")
    next(first)
    waiting = []
    for number, name in enumerate(("second", "third", "fourth"), 1):
        waiting.append(threading.Thread(target=ask, args=(name,)))
        waiting[-1].start()
        while engine.waiting() < number:
            time.sleep(0.01)
    engine.stop("third")
    assert done.get(timeout=30) == ("third", [])  # while the first is still answered
    assert engine.waiting() == 2
    first.close()
    order = [done.get(timeout=60) for _ in range(2)]
    assert [name for name, _ in order] == ["second", "fourth"]
    assert all(answers[-1][0].done for _, answers in order)
    for thread in waiting:
        thread.join()
    assert engine.waiting() == 0


def test_what_was_not_asked_for_so_many_seconds_leaves_memory_and_comes_back(
    base: ModelSettings, files: list[Path]
) -> None:
    engine, image = Engine(idle_s=0.2), load_image(files[0])
    before = said(engine, base, image, GREEDY)
    assert engine.held()[1] > 0
    until = time.monotonic() + 20
    while engine.held() != ("cpu", 0):
        assert time.monotonic() < until
        time.sleep(0.05)
    answers = engine.ask(base, image, "what is this?", [None], 12)
    next(answers)
    time.sleep(0.5)
    assert engine.held()[1] > 0, "it is being asked"
    assert [answer.text for answer in list(answers)[-1]] == before


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(num_beams=2), Sampling(temperature=1.0)])
@pytest.mark.parametrize("many", [False, True])
def test_a_stop_ends_any_kind_of_answer_within_one_token(
    sampling: Sampling, many: bool, base: ModelSettings, files: list[Path], engine: Engine
) -> None:
    image, found, started = load_image(files[0]), [], threading.Event()
    said(engine, base, image, GREEDY)  # so that the model is there to be watched
    steps = []

    def watch(*_: object) -> None:
        steps.append(started.is_set())
        if len(steps) == 3:
            engine.stop("me")
            started.set()

    def ask() -> None:
        if many:
            asked = [(image, "why?"), (image, "how?")]
            found.extend(engine.ask_many(base, asked, [None], 300, "me", sampling=sampling))
        else:
            found.extend(engine.ask(base, image, "why?", [None, None], 300, "me", sampling=sampling))

    hook = engine._base.loaded.model.lm_head.register_forward_hook(watch)
    asking = threading.Thread(target=ask)
    asking.start()
    asking.join(timeout=60)
    hook.remove()
    assert not asking.is_alive()
    # The third token is being made when it is stopped.
    assert steps == [False] * 3
    if many:
        assert found == []
    else:
        assert found[-1][0].tokens == 3

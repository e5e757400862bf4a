"""The engine: one base in memory, adapters swapped on it, answers streamed and stopped."""

import os
import shutil
import threading
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from queue import Queue

import pytest
import torch
from PIL import Image

from support.adapter_folders import settings_of, trained
from support.families import FAMILIES
from support.tiny import PICTURES, QUESTION
from training.config import build
from training.data.images import load_image
from training.runs import Run, lock
from ui import inference
from ui.run import panel
from vlm import adapters
from vlm.errors import UserError
from vlm.example import IMAGE, Message
from vlm.inference import Answer, Engine
from vlm.methods import ADAPTER_CONFIG_FILE, METHODS, Method
from vlm.models.loading import load_base
from vlm.prompting import prompt_style
from vlm.settings import ModelSettings

LONG = "kể thật dài về hình này"


@pytest.fixture(scope="module")
def engine() -> Engine:
    """One for all: what a test leaves in it must not disturb the next."""
    return Engine()


@pytest.fixture
def picture(pictures: Path) -> Image.Image:
    return load_image(pictures / "blue.png")


def last(answers: list[list[Answer]]) -> list[str]:
    return [answer.text for answer in answers[-1]]


def untouched(tiny_base: Path, picture: Image.Image, max_new_tokens: int) -> str:
    """What the base says without any engine or adapter."""
    loaded = load_base(ModelSettings(model=str(tiny_base)))
    prompt = prompt_style(loaded.model.config, loaded.processor, 512)
    inputs = prompt.inputs([(Message("user", IMAGE + QUESTION), Message("assistant", ""))], [[picture]])
    with torch.no_grad():
        inputs = inputs.to(loaded.device)
        generated = loaded.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        return prompt.decode(generated, inputs)[0]


def test_an_answer_grows_word_by_word_and_its_end_is_marked(
    engine: Engine, taught: Run, tiny_base: Path, picture: Image.Image
) -> None:
    answers = list(engine.ask(str(tiny_base), picture, QUESTION, [taught.adapter_path], 12))
    texts = [shown[0].text for shown in answers]
    assert texts[-1] == PICTURES["blue"]
    assert len(set(texts)) > 2
    assert all(later.startswith(earlier.strip()) for earlier, later in pairwise(texts))
    assert [shown[0].done for shown in answers] == [False] * (len(answers) - 1) + [True]
    assert answers[-1][0].tokens > 2
    assert answers[-1][0].elapsed_s > 0


def test_the_base_answers_as_if_no_adapter_were_loaded(
    engine: Engine, taught: Run, tiny_base: Path, picture: Image.Image
) -> None:
    wanted = untouched(tiny_base, picture, 12)
    for answerers in ([None], [taught.adapter_path, None], [None, taught.adapter_path], [None]):
        texts = last(list(engine.ask(str(tiny_base), picture, QUESTION, answerers, 12)))
        expected = [wanted if folder is None else PICTURES["blue"] for folder in answerers]
        assert texts == expected
    assert wanted != PICTURES["blue"]


def test_base_and_adapter_answer_in_one_batch_and_each_ends_by_itself(
    engine: Engine, taught: Run, tiny_base: Path, picture: Image.Image
) -> None:
    answers = list(engine.ask(str(tiny_base), picture, LONG, [taught.adapter_path, None], 40))
    assert all(len(shown) == 2 for shown in answers)
    assert any(0 < shown[0].tokens == shown[1].tokens and not shown[0].done for shown in answers)
    assert all(answer.done and answer.together for answer in answers[-1])


def test_stop_ends_all_answers_of_a_batch(engine: Engine, tiny_base: Path, picture: Image.Image) -> None:
    asked = engine.ask(str(tiny_base), picture, LONG, [None, None], 90)
    next(asked)
    engine.stop()
    *_, (first, second) = asked
    assert first.done
    assert second.done
    assert first.tokens < 80
    assert second.tokens < 80
    *_, (again,) = engine.ask(str(tiny_base), picture, QUESTION, [None], 4)
    assert again.tokens == 4


def test_a_stop_ends_ones_own_questions_alone_those_that_wait_included(
    engine: Engine, tiny_base: Path, picture: Image.Image
) -> None:
    ask = partial(engine.ask, str(tiny_base), picture, LONG, [None], 40)
    mine, waits = ask(asker="mine"), Queue()
    next(mine)
    waiting = threading.Thread(target=lambda: waits.put(list(ask(asker="waits"))))
    waiting.start()
    while engine.waiting() < 1:
        time.sleep(0.01)
    engine.stop("waits")
    engine.stop("a third")
    engine.stop()
    *_, (answer,) = mine
    waiting.join()
    assert answer.tokens == 40
    assert waits.get() == []


def test_who_stops_listening_leaves_no_thread_and_no_lock_behind(
    engine: Engine, tiny_base: Path, picture: Image.Image
) -> None:
    before = threading.active_count()
    asked = engine.ask(str(tiny_base), picture, LONG, [None], 90)
    next(asked)
    assert threading.active_count() == before + 1
    asked.close()
    assert threading.active_count() == before
    assert list(engine.ask(str(tiny_base), picture, QUESTION, [None], 2))[-1][0].done


def test_two_who_ask_at_once_each_get_their_own_answer(
    engine: Engine, taught: Run, tiny_base: Path, pictures: Path
) -> None:
    found: dict[str, str] = {}

    def ask(colour: str) -> None:
        image = load_image(pictures / f"{colour}.png")
        *_, (answer,) = engine.ask(str(tiny_base), image, QUESTION, [taught.adapter_path], 12)
        found[colour] = answer.text

    askers = [threading.Thread(target=ask, args=(colour,)) for colour in PICTURES]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert found == PICTURES


def test_an_adapter_of_another_base_is_refused_and_the_engine_goes_on(
    engine: Engine, taught: Run, foreign_adapter: Path, tiny_base: Path, picture: Image.Image
) -> None:
    for fresh in (Engine(), engine):
        with pytest.raises(UserError, match="narrow-adapter does not fit tiny: "):
            list(fresh.ask(str(tiny_base), picture, QUESTION, [foreign_adapter]))
        assert last(list(fresh.ask(str(tiny_base), picture, QUESTION, [taught.adapter_path], 12))) == [
            PICTURES["blue"]
        ]


def test_an_adapter_that_does_not_fit_is_refused_before_a_weight_of_the_base_is_read(
    tiny_base: Path, foreign_adapter: Path, taught: Run, picture: Image.Image, tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "tiny")
    (base / "model.safetensors").write_bytes(b"nothing that could be read")
    with pytest.raises(UserError, match="narrow-adapter does not fit tiny: "):
        list(Engine().ask(str(base), picture, QUESTION, [taught.adapter_path, foreign_adapter]))
    with pytest.raises(UserError, match=r"model\.safetensors"):
        list(Engine().ask(str(base), picture, QUESTION, [taught.adapter_path]))


def test_more_adapters_than_are_kept_all_answer(
    engine: Engine, taught: Run, tiny_base: Path, picture: Image.Image, tmp_path: Path
) -> None:
    copies = [shutil.copytree(taught.adapter_path, tmp_path / str(number)) for number in range(6)]
    assert (
        last(list(engine.ask(str(tiny_base), picture, QUESTION, [*copies, copies[0]], 12)))
        == [PICTURES["blue"]] * 7
    )


@pytest.mark.parametrize(
    ("model", "folder", "problem"),
    [("nowhere", None, "There is no model in nowhere"), (None, "nowhere", "nowhere has no readable")],
)
def test_what_can_not_be_loaded_is_said_in_words(
    engine: Engine, tiny_base: Path, picture: Image.Image, model: str | None, folder: str | None, problem: str
) -> None:
    with pytest.raises(UserError, match=problem):
        list(engine.ask(model or str(tiny_base), picture, QUESTION, [folder and Path(folder)]))


def test_without_an_image_there_is_nothing_to_ask(engine: Engine, tiny_base: Path) -> None:
    with pytest.raises(UserError, match="no image to ask about"):
        list(engine.ask(str(tiny_base), None, QUESTION, [None]))


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that chats."""
    folder = tmp_path_factory.mktemp("chat") / "aya"
    FAMILIES["aya_vision"](folder)
    return folder


@pytest.fixture(scope="module")
def of_methods(chat: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters for the chat model, of five kinds that PEFT can't have side by side; two bring a connector."""
    folders = {}
    kinds: tuple[tuple[Method, str], ...] = (
        *(("lora", "off"), ("dora", "off"), ("lora", "full")),
        *(("ia3", "off"), ("prefix_tuning", "off"), ("prompt_tuning", "full")),
    )
    for method, connector in kinds:
        folder = tmp_path_factory.mktemp("adapters") / f"{method}-{connector}"
        base = load_base(ModelSettings(model=str(chat), device="cpu")).model
        adapters.save(trained(base, settings_of(method, connector=connector)), folder)
        folders[folder.name] = folder
    return folders


def answers_of(
    engine: Engine, model: ModelSettings, picture: Image.Image, who: list[Path | None]
) -> list[str]:
    return last(list(engine.ask(model, picture, QUESTION, who, 5)))


@pytest.mark.slow
def test_a_chat_model_answers_with_adapters_of_every_kind_as_if_each_were_alone(
    chat: Path, of_methods: dict[str, Path], picture: Image.Image
) -> None:
    settings = ModelSettings(model=str(chat), device="cpu")
    alone = {
        name: answers_of(Engine(), settings, picture, [folder])[0] for name, folder in of_methods.items()
    }
    base = answers_of(Engine(), settings, picture, [None])[0]
    assert len({base, *alone.values()}) > len(alone) // 2
    engine, who = Engine(), [None]
    for folder in of_methods.values():
        who += [folder, None]
    wanted = [base if folder is None else alone[folder.name] for folder in who]
    assert answers_of(engine, settings, picture, who) == wanted
    assert answers_of(engine, settings, picture, who[::-1]) == wanted[::-1]


def test_what_was_found_of_an_adapter_can_be_asked_for(
    chat: Path, of_methods: dict[str, Path], picture: Image.Image, tiny_base: Path
) -> None:
    engine, folder = Engine(), of_methods["lora-full"]
    assert engine.load_report(folder) is None
    answers_of(engine, ModelSettings(model=str(chat), device="cpu"), picture, [folder])
    found = engine.load_report(folder)
    assert str(found) == "58 of 58 tensors match; answers differ from the base's"
    assert (found.probe.differs, found.probe.base_kept) == (True, True)
    assert found.check.info.ranks == {"text": (4, 4), "vision": (2, 2)}
    answers_of(engine, ModelSettings(model=str(tiny_base), device="cpu"), picture, [None])
    assert engine.load_report(folder) is None, "another base is in memory"


def test_an_adapter_that_changes_nothing_is_called_that(
    chat: Path, picture: Image.Image, tmp_path: Path
) -> None:
    base = load_base(ModelSettings(model=str(chat), device="cpu")).model
    adapters.save(adapters.attach(base, settings_of("lora"), "aya"), tmp_path)
    engine, settings = Engine(), ModelSettings(model=str(chat), device="cpu")
    assert len(set(answers_of(engine, settings, picture, [None, tmp_path]))) == 1
    assert str(engine.load_report(tmp_path).probe) == "answers are the base's: it changes nothing"


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_a_quantized_base_answers_with_adapters_and_as_itself(
    quantization: str, chat: Path, of_methods: dict[str, Path], picture: Image.Image
) -> None:
    engine = Engine()
    settings = ModelSettings(model=str(chat), device="cpu", quantization=quantization)
    who = [None, of_methods["lora-off"], of_methods["prefix_tuning-off"], None]
    first, lora, prefix, again = answers_of(engine, settings, picture, who)
    assert first == again
    assert lora != prefix
    assert all(engine.load_report(folder).probe.base_kept for folder in who if folder)
    if "8bit" not in METHODS["dora"].quantizations and quantization == "8bit":
        with pytest.raises(UserError, match="dora-off is a DoRA, which does not go with a 8bit base"):
            answers_of(engine, settings, picture, [of_methods["dora-off"]])
        assert answers_of(engine, settings, picture, [None]) == [first]


def test_an_adapter_that_was_trained_again_is_loaded_again(
    chat: Path, of_methods: dict[str, Path], picture: Image.Image, tmp_path: Path
) -> None:
    engine, settings = Engine(), ModelSettings(model=str(chat), device="cpu")
    folder = shutil.copytree(of_methods["lora-off"], tmp_path / "mine")
    before = answers_of(engine, settings, picture, [folder])
    shutil.rmtree(folder)
    shutil.copytree(of_methods["dora-off"], folder)
    os.utime(folder / ADAPTER_CONFIG_FILE)
    after = answers_of(engine, settings, picture, [folder])
    assert after == answers_of(Engine(), settings, picture, [of_methods["dora-off"]])
    assert after != before


def test_what_is_in_memory_is_let_go_for_a_run_and_comes_back_with_the_next_question(
    taught: Run, tiny_base: Path, picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a base on the CPU only a large one; one on a GPU always goes where a run is to train there."""
    inference._engine.cache_clear()
    on_cpu = build({"device": "cpu", "workspace": tmp_path})
    assert not inference.in_the_way(on_cpu)  # nothing was asked, and no engine is made for it
    assert inference._engine.cache_info().currsize == 0

    def answer() -> str:
        asked = inference.engine().ask(str(tiny_base), picture, QUESTION, [taught.adapter_path], 12)
        return last(list(asked))[0]

    before = answer()
    device, size = inference.engine().held()
    assert (device, size > 0) == ("cpu", True)
    assert not inference.in_the_way(on_cpu)  # a small one stays
    monkeypatch.setattr(inference, "SPARED_BYTES", 0)
    assert inference.in_the_way(on_cpu)
    queue = tmp_path / "queue" / "cpu"
    queue.mkdir(parents=True)
    with lock.hold(queue / "lock"):
        assert not inference.in_the_way(on_cpu)  # the run would wait
    assert "Try has let go" in panel.room_note("en", True)["note"]["problem"]
    assert inference.engine().held() == ("cpu", 0)
    assert not inference.in_the_way(on_cpu)
    assert answer() == before
    inference._engine.cache_clear()


def test_a_base_whose_reader_goes_on_is_not_let_go(
    engine: Engine, tiny_base: Path, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm.inference.engine.READER_TIMEOUT_S", 0.1)
    answers = engine.ask(str(tiny_base), picture, LONG, [None], 12)
    next(answers)
    assert not engine.let_go()
    answers.close()
    assert engine.let_go()

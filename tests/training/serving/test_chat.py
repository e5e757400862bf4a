"""The endpoint, asked by OpenAI's own client: whole and streamed answers, models, images, many at once."""

import base64
import io
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from support.families import FAMILIES
from support.tiny import PICTURES, QUESTION
from training.data.images import load_image
from training.runs import Run
from training.serving.chat import Completion
from vlm.inference import Answer
from vlm.methods import ADAPTER_WEIGHTS_FILE
from vlm.settings import ModelSettings

LONG = "kể thật dài về hình này"

Shown = Callable[..., list[dict[str, Any]]]


def by_engine(endpoint: Any, base: Path, folder: Path | None, picture: Path, question: str, tokens: int):
    """The last answer of the engine itself."""
    *_, (answer,) = endpoint.engine.ask(str(base), load_image(picture), question, [folder], tokens)
    return answer


def test_an_adapter_and_its_base_answer_as_the_engine_does(
    endpoint: Any, taught: Run, tiny_base: Path, pictures: Path, shown: Shown
) -> None:
    for name, folder in (("demo", taught.adapter_path), (tiny_base.name, None)):
        wanted = by_engine(endpoint, tiny_base, folder, pictures / "blue.png", QUESTION, 12)
        asked = {"model": name, "messages": shown(QUESTION, "blue"), "max_tokens": 12}
        told = endpoint.client().chat.completions.create(**asked)
        (choice,) = told.choices
        assert (choice.message.content, choice.message.role, told.model) == (wanted.text, "assistant", name)
        assert told.usage.completion_tokens == wanted.tokens
        assert told.usage.prompt_tokens == wanted.prompt_tokens > 0
        assert told.usage.total_tokens == wanted.tokens + wanted.prompt_tokens
        assert choice.finish_reason == ("length" if wanted.tokens == 12 else "stop")
    assert endpoint.line.inside == 0


def test_a_stream_has_the_same_answer_piece_by_piece_and_its_usage_when_asked(
    endpoint: Any, shown: Shown
) -> None:
    chat, asked = endpoint.client().chat.completions, {"model": "demo", "messages": shown(QUESTION, "blue")}
    whole = chat.create(**asked)
    *pieces, end, usage = chat.create(**asked, stream=True, stream_options={"include_usage": True})
    assert pieces[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content for chunk in pieces]
    assert "".join(texts) == whole.choices[0].message.content == PICTURES["blue"]
    assert len([text for text in texts if text]) > 1
    assert {chunk.id for chunk in (*pieces, end, usage)} == {end.id}
    assert end.choices[0].finish_reason == "stop"
    assert (usage.choices, usage.usage) == ([], whole.usage)
    assert [chunk.usage for chunk in chat.create(**asked, stream=True)] == [None] * (len(pieces) + 1)


def test_a_stop_string_cuts_the_answer_before_it_also_in_a_stream(endpoint: Any, shown: Shown) -> None:
    chat, asked = endpoint.client().chat.completions, {"model": "demo", "messages": shown(QUESTION, "blue")}
    assert PICTURES["blue"] == "màu xanh dương"
    told = chat.create(**asked, stop=["never said", " dương"])
    assert (told.choices[0].message.content, told.choices[0].finish_reason) == ("màu xanh", "stop")
    chunks = [*chat.create(**asked, stop=" dương", stream=True)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "màu xanh"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_nothing_is_sent_that_a_stop_string_may_take_back() -> None:
    completion = Completion("demo", 9, ["\nUser:"])
    grown = []
    for text in ("One", "One ", "One \nUse", "One \nUsed", "One \nUsed.\nUser: two"):
        completion.take(Answer(text))
        grown.append(completion.grown())
    assert grown == ["One", "", "", " \nUsed", "."]
    assert (completion.text, completion.finish) == ("One \nUsed.", "stop")


def test_turns_before_the_question_are_read_and_so_is_a_system_prompt(
    endpoint: Any, taught: Run, tiny_base: Path, pictures: Path, shown: Shown
) -> None:
    # To an encoder-decoder a conversation is its turns, one on a line.
    earlier = [
        {"role": "system", "content": "ngắn"},
        *shown("màu?", "blue"),
        {"role": "assistant", "content": "đỏ"},
    ]
    messages = [*earlier, {"role": "user", "content": QUESTION}]
    told = endpoint.client().chat.completions.create(model="demo", messages=messages, max_tokens=9)
    together = "\n".join(["ngắn", "màu?", "đỏ", QUESTION])
    wanted = by_engine(endpoint, tiny_base, taught.adapter_path, pictures / "blue.png", together, 9)
    assert told.choices[0].message.content == wanted.text
    assert told.usage.prompt_tokens == wanted.prompt_tokens


def test_models_are_the_base_and_adapters_and_one_trained_meanwhile_appears(
    serving: Any, taught: Run, tiny_base: Path, foreign_adapter: Path, tmp_path: Path, shown: Shown
) -> None:
    base = ModelSettings(model=str(tiny_base), device="cpu")
    with serving(base, [str(taught.path)], tmp_path) as endpoint:
        client = endpoint.client()
        assert [model.id for model in client.models.list()] == [tiny_base.name, "adapter"]
        shutil.copytree(taught.path, tmp_path / "runs" / "later")
        shutil.copytree(taught.adapter_path, tmp_path / "adapters" / "brought")
        shutil.copytree(foreign_adapter, tmp_path / "adapters" / "of another base")
        found = {model.id: model for model in client.models.list()}
        assert [*found] == [tiny_base.name, "adapter", "later", "brought"]
        weights = taught.adapter_path / ADAPTER_WEIGHTS_FILE
        assert found["later"].created == int(weights.stat().st_mtime)
        assert client.models.retrieve("later").owned_by == "lora-lens"
        told = client.chat.completions.create(model="later", messages=shown(QUESTION, "red"))
        assert told.choices[0].message.content == PICTURES["red"]
        with pytest.raises(openai.NotFoundError) as refused:
            client.models.retrieve("of another base")
        assert refused.value.code == "model_not_found"


def test_several_images_go_to_a_model_that_takes_them_and_are_refused_by_another(
    endpoint: Any, serving: Any, tmp_path: Path, shown: Shown
) -> None:
    asked = {"messages": shown("which?", "blue", "red"), "max_tokens": 3}
    with pytest.raises(openai.BadRequestError) as refused:
        endpoint.client().chat.completions.create(model="demo", **asked)
    assert refused.value.code == "one-image-model"
    assert "one image at a time" in refused.value.message
    FAMILIES["smolvlm"](tmp_path / "chatty")
    with serving(ModelSettings(model=str(tmp_path / "chatty"), device="cpu"), [], tmp_path) as other:
        chat = other.client().chat.completions
        two = chat.create(model="chatty", **asked)
        one = chat.create(model="chatty", messages=shown("which?", "blue"), max_tokens=3)
        assert two.usage.prompt_tokens > one.usage.prompt_tokens + 1
        assert 0 < two.usage.completion_tokens <= 3


def test_twenty_at_once_each_get_their_own_answer(endpoint: Any, shown: Shown) -> None:
    client, colours = endpoint.client(), [*PICTURES] * 5

    def ask(colour: str) -> str:
        messages = shown(QUESTION, colour)
        if colour in ("red", "green"):
            return client.chat.completions.create(model="demo", messages=messages).choices[0].message.content
        chunks = client.chat.completions.create(model="demo", messages=messages, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    with ThreadPoolExecutor(20) as threads:
        answers = [*threads.map(ask, colours)]
    assert answers == [PICTURES[colour] for colour in colours]
    assert endpoint.line.inside == 0


def test_a_full_line_says_when_to_come_again(
    serving: Any, taught: Run, tiny_base: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ModelSettings(model=str(tiny_base), device="cpu")
    with serving(base, [], taught.workspace, most=1) as endpoint:
        real, asked_again = endpoint.engine.ask, threading.Event()

        def until_asked_again(*args: Any) -> Any:
            for answer in real(*args):
                yield answer
                asked_again.wait(60)  # a short answer would be over before the next question comes

        monkeypatch.setattr(endpoint.engine, "ask", until_asked_again)
        chat = endpoint.client().chat.completions
        stream = chat.create(model="demo", messages=shown(LONG, "blue"), max_tokens=90, stream=True)
        next(stream)
        with pytest.raises(openai.RateLimitError) as refused:
            chat.create(model="demo", messages=shown(QUESTION, "blue"))
        assert int(refused.value.response.headers["retry-after"]) >= 1
        assert (refused.value.code, refused.value.type) == ("queue_full", "rate_limit_error")
        assert "1 questions" in refused.value.message
        stream.close()
        asked_again.set()
        assert _free(endpoint)
        patient = chat.create(model="demo", messages=shown(QUESTION, "blue"))
        assert patient.choices[0].message.content == PICTURES["blue"]


def _free(endpoint: Any) -> bool:
    until = time.monotonic() + 20
    while endpoint.line.inside and time.monotonic() < until:
        time.sleep(0.02)
    return endpoint.line.inside == 0


@pytest.mark.parametrize("stream", [True, False])
def test_who_goes_away_ends_his_answer_and_what_waits_behind_is_dropped_too(
    endpoint: Any, shown: Shown, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    asked, began, ended, real = [], threading.Event(), threading.Event(), endpoint.engine.ask

    def slow(*args: Any) -> Any:
        asked.append(args)
        try:
            yield [Answer("word", 1)]
            began.set()
            for count in range(2, 2000):
                time.sleep(0.01)
                yield [Answer("word " * count, count)]
        finally:
            ended.set()

    monkeypatch.setattr(endpoint.engine, "ask", slow)
    body = {"model": "demo", "messages": shown(LONG, "blue"), "stream": stream}
    headers = {"Authorization": f"Bearer {endpoint.client().api_key}"}
    with httpx.Client(trust_env=False, headers=headers) as client, ThreadPoolExecutor(1) as threads:
        first = threads.submit(_broken_off, client, endpoint.url, body, 1.5)
        assert began.wait(10)
        assert _broken_off(client, endpoint.url, body, 0.3)
        assert first.result()
    assert ended.wait(10)
    assert _free(endpoint)
    assert len(asked) == 1
    monkeypatch.setattr(endpoint.engine, "ask", real)
    told = endpoint.client().chat.completions.create(model="demo", messages=shown(QUESTION, "red"))
    assert told.choices[0].message.content == PICTURES["red"]


def _broken_off(client: httpx.Client, url: str, body: dict[str, Any], after_s: float) -> bool:
    """Asks, reads for so many seconds, and hangs up."""
    began = time.monotonic()
    try:
        with client.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=after_s) as response:
            for _ in response.iter_bytes():
                if time.monotonic() - began > after_s:
                    return True
    except httpx.TimeoutException:
        return True
    return False


def test_what_breaks_inside_is_told_as_the_servers_fault_before_and_within_a_stream(
    endpoint: Any, shown: Shown, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a secret of the inside")
        yield

    def breaking(*_: Any) -> Any:
        yield [Answer("One", 1)]
        raise RuntimeError("a secret of the inside")

    def full(*_: Any) -> Any:
        raise MemoryError
        yield

    chat, asked = endpoint.client().chat.completions, {"model": "demo", "messages": shown(QUESTION, "red")}
    monkeypatch.setattr(endpoint.engine, "ask", broken)
    with pytest.raises(openai.InternalServerError) as refused:
        chat.create(**asked)
    assert "secret" not in refused.value.message
    assert "a secret of the inside" in caplog.text
    monkeypatch.setattr(endpoint.engine, "ask", breaking)
    chunks = chat.create(**asked, stream=True)
    with pytest.raises(openai.APIError) as within:
        deque(chunks)
    assert (within.value.code, within.value.type) == ("server_error", "server_error")
    monkeypatch.setattr(endpoint.engine, "ask", full)
    with pytest.raises(openai.InternalServerError) as refused:
        chat.create(**asked)
    assert (refused.value.status_code, refused.value.code) == (503, "out_of_memory")


def test_an_image_may_be_a_jpeg_whatever_its_url_says(endpoint: Any) -> None:
    written = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(written, "JPEG")
    url = f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": QUESTION}]
    told = endpoint.client().chat.completions.create(
        model="demo", messages=[{"role": "user", "content": parts}]
    )
    assert told.choices[0].message.content == PICTURES["red"]

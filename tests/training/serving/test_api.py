"""The endpoint's door: key, hosts, other pages, sizes, URLs, and what is asked in no form that it takes."""

import base64
import json
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx
import openai
import pytest

from support.tiny import QUESTION
from training.program import VERSION
from training.serving import chat, errors

Shown = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def http(endpoint: Any) -> Iterator[httpx.Client]:
    """Asks as a program without OpenAI's client does; it has the key."""
    headers = {"Authorization": f"Bearer {endpoint.client().api_key}"}
    with httpx.Client(base_url=endpoint.url, headers=headers, trust_env=False, timeout=30) as client:
        yield client


def told(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal, which is in OpenAI's form."""
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    return answer.status_code, error["code"]


def test_without_the_key_it_is_told_alone_that_the_server_is_there(endpoint: Any, shown: Shown) -> None:
    for key in ("another key of 16 letters", "ä key", "x" * 10_000):
        client = endpoint.client(key.encode("ascii", "replace").decode())
        for ask in (
            client.models.list,
            lambda c=client: c.chat.completions.create(model="demo", messages=shown("?")),
        ):
            with pytest.raises(openai.AuthenticationError) as refused:
                ask()
            assert refused.value.code == "invalid_api_key"
    with httpx.Client(base_url=endpoint.url, trust_env=False) as stranger:
        assert told(stranger.get("/v1/models")) == (401, "invalid_api_key")
        assert told(stranger.get("/v1/models", headers={"Authorization": "Basic eDp5"})) == (
            401,
            "invalid_api_key",
        )
        health = stranger.get("/health")
    assert health.json() == {"status": "ok", "version": VERSION, "questions": 0}


def test_other_names_of_the_host_and_other_pages_are_refused(http: httpx.Client) -> None:
    assert told(http.get("/health", headers={"Host": "rebound.example"})) == (400, "unknown_host")
    assert http.get("/v1/models", headers={"Host": "localhost:1"}).status_code == 200
    assert http.get("/v1/models", headers={"Host": "lens.example.org"}).status_code == 200
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        answer = http.post("/v1/chat/completions", json={}, headers={"Origin": origin})
        assert told(answer) == (403, "foreign_origin")
        assert http.options("/v1/models", headers={"Origin": origin}).status_code == 403
    own = f"http://{http.base_url.netloc.decode()}"
    assert told(http.post("/v1/chat/completions", json={}, headers={"Origin": own})) == (400, "invalid_value")


def test_what_is_no_route_is_refused_in_the_same_form(http: httpx.Client) -> None:
    assert told(http.get("/v1/embeddings")) == (404, "unknown_url")
    assert told(http.get("/v1/chat/completions")) == (405, "unknown_url")
    assert told(http.get("/v1/models/of/nobody")) == (404, "model_not_found")


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "sampling": ({"temperature": 0.7}, "invalid_value", "greedy"),
    "several": ({"n": 2}, "invalid_value", "one each"),
    "tools": ({"tools": [{"type": "function"}]}, "unknown_parameter", "tools"),
    "a tool's turn": ({"messages": [{"role": "tool", "content": "x"}]}, "invalid_value", "role"),
    "no turn": ({"messages": []}, "invalid_value", "messages"),
    "too many tokens": ({"max_tokens": 100_000}, "invalid_value", "max_tokens"),
    "no token": ({"max_completion_tokens": 0}, "invalid_value", "max_completion_tokens"),
    "a long stop": ({"stop": ["x" * 201]}, "invalid_value", "stop"),
    "no question": ({"messages": [{"role": "assistant", "content": "x"}]}, "invalid_value", "user's"),
    "no image": ({"messages": [{"role": "user", "content": "x"}]}, "ask-no-image", "no image"),
    "a mark": ({"messages": [{"role": "user", "content": "<image>"}]}, "invalid_value", "<image>"),
    "no model": ({"model": "nobody"}, "model_not_found", "demo"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_done_here_is_refused_by_its_name(http: httpx.Client, shown: Shown, name: str) -> None:
    asked, code, words = REFUSED[name]
    body = {"model": "demo", "messages": shown(QUESTION, "blue")} | asked
    answer = http.post("/v1/chat/completions", json=body)
    assert told(answer) == (404 if code == "model_not_found" else 400, code)
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://127.0.0.1:1/a.png", "image_url_not_fetched"),
        ("HTTPS://example.org/a.png", "image_url_not_fetched"),
        ("file:///etc/passwd", "invalid_image_url"),
        ("data:image/png,plain", "invalid_image_url"),
        ("data:image/png;base64,ab*d", "invalid_image_url"),
        ("data:text/plain;base64,aGVsbG8=", "image-format-unknown"),
        ("data:image/png;base64,", "image-file-empty"),
    ],
)
def test_an_image_that_is_none_is_refused_and_no_url_is_fetched(
    http: httpx.Client, url: str, code: str
) -> None:
    parts = [{"type": "image_url", "image_url": {"url": url}}]
    answer = http.post(
        "/v1/chat/completions", json={"model": "demo", "messages": [{"role": "user", "content": parts}]}
    )
    assert told(answer) == (400, code)


def test_images_of_anyone_but_the_user_and_too_many_are_refused(http: httpx.Client, shown: Shown) -> None:
    (turn,) = shown(QUESTION, "blue")
    by_system = [turn | {"role": "system"}, *shown(QUESTION, "blue")]
    for messages, code in ((by_system, "invalid_value"), (shown(QUESTION, *["blue"] * 9), "too_many_images")):
        answer = http.post("/v1/chat/completions", json={"model": "demo", "messages": messages})
        assert told(answer) == (400, code)


def test_a_picture_that_would_fill_the_memory_is_refused(http: httpx.Client) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999))
    url = f"data:image/png;base64,{base64.b64encode(bomb).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}]
    answer = http.post(
        "/v1/chat/completions", json={"model": "demo", "messages": [{"role": "user", "content": parts}]}
    )
    assert told(answer) == (400, "image-too-large")


def test_what_is_no_json_is_told_and_what_is_too_large_is_not_kept(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for body in (b"", b"{", b"\xff\xfe", b"[]", b"7"):
        answer = http.post("/v1/chat/completions", content=body)
        assert told(answer)[0] == 400
    monkeypatch.setattr(chat, "LONGEST_BODY", 1000)
    large = json.dumps({"model": "x" * 2000}).encode()
    assert told(http.post("/v1/chat/completions", content=large)) == (413, "request_too_large")
    pieces = (large[at : at + 100] for at in range(0, len(large), 100))  # without a length
    assert told(http.post("/v1/chat/completions", content=pieces)) == (413, "request_too_large")


def test_a_request_that_does_not_come_to_its_end_gives_its_place_back(
    endpoint: Any, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "BODY_S", 0.2)
    monkeypatch.setattr(errors, "BODY_S", 0.2)
    host, port = endpoint.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as slow:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99\r\n"
        slow.sendall(f"{head}Authorization: {http.headers['authorization']}\r\n\r\n{{".encode())
        answered = b"".join(iter(partial(slow.recv, 65536), b""))
    assert answered.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in answered
    assert endpoint.line.inside == 0

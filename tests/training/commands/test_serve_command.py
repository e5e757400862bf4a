"""python -m training serve: the real command, asked by OpenAI's client; what is refused before it listens."""

import base64
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from support.stand_in import wait_for
from support.tiny import PICTURES, QUESTION
from support.told import refused
from training.commands.parser import parse_command
from training.commands.serve import KEY_VARIABLE
from training.commands.serve import serve as command_serve
from training.runs import Run
from vlm.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
KEY = "0123456789abcdef"


def serve(workspace: Path, *words: str) -> int:
    return command_serve(parse_command(["serve", *words, "--workspace", str(workspace)]))


@pytest.mark.slow
def test_a_served_run_answers_openais_client_until_it_is_interrupted(
    taught: Run, tiny_base: Path, pictures: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    words = ["serve", "demo", "--port", "0", "--workspace", str(taught.workspace)]
    environment = os.environ | {KEY_VARIABLE: KEY, "PYTHONUNBUFFERED": "1"}
    with log.open("w", encoding="utf-8") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "training", *words], cwd=ROOT, env=environment, stdout=out, stderr=out
        )
    try:
        wait_for(lambda: "/v1\n" in log.read_text("utf-8"), 120)
        models, _, address = log.read_text("utf-8").strip().splitlines()[-1].partition(": ")
        assert models == f"{tiny_base.name}, demo"
        picture = base64.b64encode((pictures / "green.png").read_bytes()).decode()
        url = {"url": f"data:image/png;base64,{picture}"}
        parts = [{"type": "image_url", "image_url": url}, {"type": "text", "text": QUESTION}]
        http = httpx.Client(trust_env=False)
        with OpenAI(base_url=address, api_key=KEY, http_client=http, max_retries=0) as client:
            told = client.chat.completions.create(
                model="demo", messages=[{"role": "user", "content": parts}], temperature=0
            )
        assert told.choices[0].message.content == PICTURES["green"]
        server.terminate()
        assert server.wait(timeout=30) in (0, -15, 143)
    finally:
        server.kill()
        server.wait()


def test_a_public_address_needs_a_key_that_nobody_guesses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    for words in (("--host", "0.0.0.0"), ("--host", "192.0.2.1"), ("--public_host", "lens.example.org")):
        refused("served-without-key", serve, tmp_path, *words)
    refused("key-too-short", serve, tmp_path, "--key", "secret")
    monkeypatch.setenv(KEY_VARIABLE, "short")
    error = refused("key-too-short", serve, tmp_path, "--host", "0.0.0.0")
    assert "short" not in str(error).split()


def test_what_is_typed_wrong_is_said_before_anything_is_loaded(
    tmp_path: Path, taught: Run, foreign_adapter: Path
) -> None:
    for words in (("--port", "70000"), ("--port", "x"), ("--most", "0")):
        refused("flag-no-number", serve, tmp_path, *words)
    refused("no-such-adapter", serve, tmp_path, "nobody")
    refused("base-not-named", serve, tmp_path, str(foreign_adapter))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused("address-not-listened", serve, tmp_path, "--port", port)
    base = taught.config().model
    with pytest.raises(UserError, match="narrow"):
        serve(tmp_path, str(foreign_adapter), "--base", base, "--port", "0")

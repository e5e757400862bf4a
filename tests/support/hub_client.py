"""A client of the Hub in a process of its own, which asks a stub Hub as users ask the real one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.source_tree import ROOT

# HF_ENDPOINT and HF_HUB_OFFLINE are read at import: the client is a process of its own.
CLIENT = """
import contextlib, io, json, logging, os, sys, time
from vlm.errors import UserError

lines = []
logging.basicConfig(level=logging.WARNING)
logger = logging.getLogger("vlm")
logger.setLevel(logging.INFO)
handler = logging.Handler()
handler.emit = lambda record: lines.append(record.getMessage())
logger.addHandler(handler)
from huggingface_hub import constants
from vlm.models import hub
from vlm.settings import ModelSettings

constants.DOWNLOAD_CHUNK_SIZE = 10_000  # what has come is kept in whole chunks, of 10 MB otherwise
for line in sys.stdin:
    request = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    os.environ.update(request.get("env", {}))
    lines.clear()
    start = time.monotonic()
    try:
        if request["call"] == "load":
            from vlm.models.loading import load_base
            loaded = load_base(ModelSettings(**request["settings"], device="cpu"))
            answer = {"loaded": type(loaded.model).__name__, "processor": type(loaded.processor).__name__}
        elif request["call"] == "config":
            from vlm.models.loading import read_config
            answer = {"model_type": read_config(request["model"], request.get("revision")).model_type}
        elif request["call"] == "check":
            from training.__main__ import main
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as told:
                code = main(["check", *request["words"]])
            answer = {"code": code, "told": told.getvalue().splitlines()}
        else:
            answer = {"folder": str(hub.model_folder(request["model"], request.get("revision")))}
    except UserError as error:
        answer = {"problem": error.problem, "remedy": error.remedy}
    answer |= {"log": list(lines), "seconds": time.monotonic() - start}
    print("@" + json.dumps(answer), flush=True)
"""


class Client:
    """A process that asks the Hub at `endpoint`, with a cache of its own."""

    def __init__(self, endpoint: str, home: Path, **environment: str) -> None:
        self.cache = home / "hub"
        ours = {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
        }
        environment = {**os.environ, **ours, "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
        environment.pop("HF_TOKEN", None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT],
            cwd=ROOT,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def send(self, call: str, **request: Any) -> None:
        self.process.stdin.write(json.dumps({"call": call, **request}) + "\n")
        self.process.stdin.flush()

    def ask(self, call: str, **request: Any) -> dict:
        self.send(call, **request)
        for line in self.process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        raise AssertionError("the client has died")

    def fetch(self, model: str, revision: str | None = None, **environment: str) -> dict:
        return self.ask("folder", model=model, revision=revision, env=environment)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=30)

"""A server of this process, on a port of its own, which the real client of OpenAI asks."""

import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from openai import OpenAI

from training import runs
from training.runs import Run
from training.serving.api import build_app
from training.serving.door import LOCAL_HOSTS
from training.serving.line import Line
from training.serving.offered import Offers
from vlm.inference import Engine
from vlm.settings import ModelSettings

KEY = "a key of this test alone"


@dataclass
class Endpoint:
    """A server that answers: its address, its engine and its line."""

    url: str
    engine: Engine
    line: Line
    clients: list[OpenAI] = field(default_factory=list)

    def client(self, key: str = KEY, **settings: Any) -> OpenAI:
        """OpenAI's client for it, which tries nothing again; of this machine's proxies it knows nothing."""
        http = httpx.Client(trust_env=False)
        client = OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, http_client=http, **settings)
        self.clients.append(client)
        return client


Serving = Callable[..., AbstractContextManager[Endpoint]]


@contextmanager
def _serving(
    base: ModelSettings, names: list[str], workspace: Path, most: int = 32, key: str | None = KEY
) -> Iterator[Endpoint]:
    engine = Engine()
    line = Line(engine, base, most)
    places = [runs.require_adapter(workspace, name) for name in names]
    app = build_app(line, Offers(base, places, workspace, 1), LOCAL_HOSTS, ["lens.example.org"], key)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        endpoint = Endpoint(f"http://127.0.0.1:{listening.getsockname()[1]}", engine, line)
        try:
            yield endpoint
        finally:
            for client in endpoint.clients:
                client.close()
            server.should_exit = True
            thread.join(timeout=30)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def serving() -> Serving:
    return _serving


@pytest.fixture(scope="module")
def endpoint(taught: Run, tiny_base: Path) -> Iterator[Endpoint]:
    """Serves the tiny base and what the taught run made of it."""
    with _serving(ModelSettings(model=str(tiny_base), device="cpu"), [], taught.workspace) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def shown(pictures: Path) -> Callable[..., list[dict[str, Any]]]:
    """Makes the messages of a question about pictures, each by the name of its file."""

    def messages(question: str, *names: str) -> list[dict[str, Any]]:
        parts = [{"type": "image_url", "image_url": {"url": data_url(pictures / f"{n}.png")}} for n in names]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]

    return messages


def data_url(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"

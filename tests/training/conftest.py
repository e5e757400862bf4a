"""Models of every family, and examples for them, made once for a module; the Hub with its jobs."""

from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
from PIL import Image

from support.stub_hub import TOKEN, StubHub, serving
from support.stub_jobs import Jobs, JobsHandler
from vlm.example import IMAGE, Example, Message


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a family's tiny random model; built at the first call."""
    from support.families import FAMILIES

    root = tmp_path_factory.mktemp("families")

    def built(family: str) -> Path:
        if not (root / family).exists():
            FAMILIES[family](root / family)
        return root / family

    return built


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Pictures of different shapes; two questions about one of them; answers of different lengths."""
    folder = tmp_path_factory.mktemp("pictures")
    sizes = {"red": (56, 56), "blue": (56, 28), "green": (28, 56)}
    draw = np.random.default_rng(0)
    for colour, (width, height) in sizes.items():
        noise = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{colour}.png")
    asked = [*((colour, "what is this?", f"a {colour} one") for colour in sizes), ("red", "how many?", "1")]
    return [
        Example(
            str(at), (folder / f"{c}.png",), (Message("user", IMAGE + question), Message("assistant", said))
        )
        for at, (c, question, said) in enumerate(asked)
    ]


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[StubHub, Jobs]]:
    """A stub Hub that also starts jobs, which this process asks; its workspace is a folder of the test."""
    jobs = Jobs(tmp_path / "platform")
    jobs.folder.mkdir()
    with serving(type("Bound", (JobsHandler,), {"jobs": jobs})) as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
        address = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("LORA_LENS_WORKSPACE", str(tmp_path / "workspace"))
        yield hub, jobs
        if jobs.process is not None and jobs.process.poll() is None:
            jobs.cancel()

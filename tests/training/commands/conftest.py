"""The Hub with its jobs, for the tests of commands."""

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from support.stub_hub import TOKEN, StubHub, serving
from support.stub_jobs import Jobs, JobsHandler


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

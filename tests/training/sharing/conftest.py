"""A run with answers from before and after training, for all tests of what leaves a run."""

from pathlib import Path
from typing import Any

import pytest

from support.tiny_runs import finish
from training.config import build
from training.runs import Run


@pytest.fixture(scope="session")
def evaluated(tiny_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of the tiny model, which asked its base and its adapter the same rows."""
    workspace: Path = tmp_path_factory.mktemp("evaluated")
    return finish(build(tiny_settings | {"workspace": workspace, "learning_rate": 1e-2, "evaluations": 1}))

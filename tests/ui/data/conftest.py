"""A dataset for the tests of the Data tab."""

from pathlib import Path

import pytest

from support.data_tab import write
from support.foreign_layouts import COLOURS


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A dataset with three good rows, and two that can't be read."""
    rows = [{"image": f"{n}.png", "question": "colour?", "answer": COLOURS[n]} for n in range(3)]
    bad = [{"image": "gone.png", "text": "x"}, {"image": "0.png", "question": "?", "answer": ""}]
    write(tmp_path / "datasets" / "pets", *rows, *bad)
    return tmp_path

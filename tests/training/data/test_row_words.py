"""What is told of a row in words that stand for a value: bytes of no code page, a role that is no text."""

import json
from pathlib import Path

import pytest
from PIL import Image

from training.data.open import open_dataset

NO_ROLE = {"image": "a.png", "messages": [{"role": 5, "content": "x"}, {"role": "assistant", "content": "y"}]}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"image": "a.png", "caption": "a \x81 b"}', "the line is not UTF-8 -> Save the file as UTF-8"),
        (json.dumps(NO_ROLE).encode(), "the role of turn 1 is no text -> Use one of system, user, assistant"),
    ],
)
def test_what_has_no_name_is_told_in_words(tmp_path: Path, line: bytes, said: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "train.jsonl").write_bytes(line + b"\n")
    [finding] = open_dataset(str(tmp_path), tmp_path / "workspace").findings
    assert str(finding) == f"train.jsonl:1: {said}"

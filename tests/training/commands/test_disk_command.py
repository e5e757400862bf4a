"""What a workspace takes, told and emptied."""

import json
import os
from pathlib import Path

import pytest

from support.checkpointing import checkpoint
from training import runs
from training.__main__ import main
from training.config import build


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    run = tmp_path / "runs" / "demo"
    (run / "adapter").mkdir(parents=True)
    (run / "adapter" / "weights").write_bytes(bytes(1000))
    checkpoint(run / "checkpoints", 5)
    checkpoint(run / "checkpoints", 7, sealed=False).rename(run / "checkpoints" / "checkpoint-7.torn")
    for name, size in (
        ("trash/old", 300),
        ("cache/images/index", 40),
        ("cache/page/upload", 7),
        ("datasets/mine/a", 5),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.write_bytes(bytes(99_999))
    os.symlink(outside, tmp_path / "datasets" / "mine" / "link")
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], workspace: Path, *flags: str) -> dict:
    assert main(["disk", "--workspace", str(workspace), "--json", *flags]) == 0
    return json.loads(capsys.readouterr().out)


def test_each_kind_is_counted_once_and_links_are_not_followed(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(capsys, workspace)["usage"]
    assert found["trash"] == {"count": 1, "size": 300}
    assert found["cache"] == {"count": 1, "size": 40}
    assert found["uploads"] == {"count": 1, "size": 7}
    assert found["runs"] == {"count": 1, "size": 1000}
    assert (found["torn checkpoints"]["count"], found["checkpoints"]["count"]) == (1, 1)
    assert found["datasets"]["size"] < 1000
    whole = sum(file.lstat().st_size for file in workspace.rglob("*") if file.is_symlink() or file.is_file())
    assert sum(each["size"] for each in found.values()) == whole


def test_what_is_emptied_is_named_and_the_rest_stays(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = told(capsys, workspace, "--empty", "torn checkpoints")["deleted"]
    assert [Path(path).name for path in gone] == ["checkpoint-7.torn"]
    assert (workspace / "runs" / "demo" / "checkpoints" / "checkpoint-5").is_dir()
    assert told(capsys, workspace, "--empty", "trash")["usage"]["trash"]["count"] == 0
    assert main(["disk", "--workspace", str(workspace), "--empty", "runs"]) == 2
    assert "nothing to be emptied" in capsys.readouterr().err
    assert (workspace / "runs" / "demo" / "adapter" / "weights").is_file()


def test_what_a_run_works_with_is_not_emptied(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live = runs.prepare(build({"workspace": workspace, "name": "live"}))
    with runs.hold_lock(live):
        assert main(["disk", "--workspace", str(workspace), "--empty", "cache"]) == 2
        assert "live is at work, and needs what lies there." in capsys.readouterr().err
        assert (workspace / "cache" / "images" / "index").exists()
        assert main(["disk", "--workspace", str(workspace), "--empty", "trash"]) == 0
    assert not (workspace / "trash" / "old").exists()

"""What a check has found of an image: a resumed run opens none again, and whatever changes is noticed."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from support.slow import slow_but
from training import runs
from training.config import TrainingConfig
from training.data.open import open_dataset
from training.data.validate import image_index
from training.data.validate.dataset_check import Report, check_dataset
from training.data.validate.image_index import ImageIndex
from training.data.validate.report import describe_report
from training.loop import worker
from training.loop.train import train
from training.runs import Run
from training.runs.events import EventLog

ENDINGS = (".png", ".jpg", ".gif")
_listening: list[list[str]] = []


def _heard(event: str, what: tuple) -> None:
    if event == "open" and _listening and str(what[0]).endswith(ENDINGS):
        _listening[-1].append(Path(what[0]).name)


@pytest.fixture(scope="module")
def _audited() -> None:
    sys.addaudithook(_heard)


@pytest.fixture
def opened(_audited: None) -> Iterator[list[str]]:
    """The names of the images that this process opens, in whatever way."""
    _listening.append([])
    yield _listening[-1]
    _listening.pop()


def settle() -> None:
    """Until a file that was just written may be known."""
    time.sleep(1.2 * image_index.TICK_S)


@pytest.fixture
def mine(scenes: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(scenes, tmp_path / "mine")
    settle()
    return folder


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """A row of every kind: good, twice the same, a copy, broken, gone, a strip, animated."""
    folder = tmp_path / "faulty"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (16, 16), (40 * number, 0, 0)).save(folder / f"{number}.png")
    shutil.copy(folder / "0.png", folder / "copy.png")
    (folder / "broken.png").write_bytes((folder / "1.png").read_bytes()[:50])
    Image.new("RGB", (20_000, 8)).save(folder / "strip.png")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "moves.gif", save_all=True, append_images=frames[1:])
    names = [*(f"{n}.png" for n in (0, 1, 2, 3, 4, 5, 5)), "copy.png", "broken.png", "gone.png", "strip.png"]
    rows = [{"image": name, "text": f"text {at % 6}"} for at, name in enumerate([*names, "moves.gif"])]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settle()
    return folder


def checked(folder: Path, workspace: Path | None) -> Report:
    where = folder.parent / "workspace"
    return check_dataset(open_dataset(str(folder), where), workspace=workspace, held_out=0.3)


def as_told(report: Report) -> tuple:
    sides = [[example.id for example in side] for side in report.sides(0.3, 0)]
    return (
        describe_report(report, every=True),
        report.cleaned().fingerprint,
        report.facts,
        report.unfit,
        sides,
    )


def stopped_after(config: TrainingConfig, step: int) -> Run:
    run = runs.prepare(config)

    def asked() -> bool:
        return any(event["step"] >= step for event in run.events({"step"}))

    assert not train(run.config(), run, EventLog(run.events_path), asked)
    return run


@pytest.mark.slow
def test_a_resumed_run_on_kept_features_opens_no_image_and_neither_does_a_repeated_one(
    tiny_config: Callable[..., TrainingConfig], mine: Path, opened: list[str]
) -> None:
    run = stopped_after(tiny_config(dataset=str(mine), save_steps=2, evaluations=2), 2)
    assert {*opened} == {path.name for path in (mine / "images").iterdir()}
    opened.clear()
    assert runs.reopen(run)
    assert worker.main(run) == worker.DONE
    assert {event["kind"] for event in run.events({"evaluated", "blindfold"})} == {"evaluated", "blindfold"}
    again = runs.prepare(tiny_config(dataset=str(mine), name="again"))
    assert worker.main(again) == worker.DONE
    assert opened == []


def test_what_is_known_gives_the_report_of_a_fresh_check(
    faulty: Path, tmp_path: Path, opened: list[str]
) -> None:
    fresh = as_told(checked(faulty, None))
    assert as_told(checked(faulty, tmp_path / "w")) == fresh
    opened.clear()
    assert as_told(checked(faulty, tmp_path / "w")) == fresh
    assert {*opened} == {"broken.png"}  # what can't be decoded is tried again


def replaced(folder: Path, name: str) -> None:
    """Another picture of as many bytes takes the file's place and its time of change."""
    picture, before = folder / name, (folder / name).stat()
    other = folder / "other.png"
    Image.new("RGB", (16, 16), (1, 2, 3)).save(other)
    other.write_bytes(other.read_bytes().ljust(before.st_size, b"\0")[: before.st_size])
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(picture)
    assert (picture.stat().st_size, picture.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


CHANGES = {
    "another content": lambda folder: Image.new("RGB", (16, 16), "white").save(folder / "3.png"),
    "a broken end": lambda folder: (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:50]),
    "another file of its size and time": lambda folder: replaced(folder, "3.png"),
    "a folder in its place": lambda folder: ((folder / "3.png").unlink(), (folder / "3.png").mkdir()),
    "it is removed": lambda folder: (folder / "3.png").unlink(),
    "a new row and its picture": lambda folder: (
        shutil.copy(folder / "4.png", folder / "new.png"),
        (folder / "train.jsonl").open("a").write('\n{"image": "new.png", "text": "new"}'),
    ),
}


@pytest.mark.parametrize("change", slow_but([*CHANGES.values()][:3], CHANGES.values()), ids=CHANGES)
def test_whatever_changes_is_noticed_and_only_that_is_opened(
    faulty: Path, tmp_path: Path, opened: list[str], change: Callable[[Path], object]
) -> None:
    before = as_told(checked(faulty, tmp_path / "w"))
    change(faulty)
    fresh = as_told(checked(faulty, None))
    opened.clear()
    found = as_told(checked(faulty, tmp_path / "w"))
    assert found == fresh
    assert found != before
    assert {*opened} <= {"broken.png", "3.png", "new.png"}


def test_a_picture_that_changes_after_the_check_is_read_again_for_its_digest(
    faulty: Path, tmp_path: Path
) -> None:
    report = checked(faulty, tmp_path / "w")
    known = ImageIndex(tmp_path / "w", report.dataset.root)
    picture = report.dataset.root / "2.png"
    assert known.digest_of(picture) == report.facts[picture].digest
    Image.new("RGB", (16, 16), "white").save(picture)
    assert known.digest_of(picture) == ImageIndex(tmp_path / "none", picture.parent).digest_of(picture)
    assert known.digest_of(picture) != report.facts[picture].digest


DAMAGES: dict[str, Callable[[Path], object]] = {
    "torn": lambda file: file.write_bytes(file.read_bytes()[:-20]),
    "empty": lambda file: file.write_bytes(b""),
    "not text": lambda file: file.write_bytes(os.urandom(200)),
    "other JSON": lambda file: file.write_text("[1, 2]"),
    "fields missing": lambda file: file.write_text(file.read_text().replace(", 1, ", ", ")),
    "deleted": lambda file: file.unlink(),
}


@pytest.mark.parametrize("damage", slow_but([*DAMAGES.values()][:3], DAMAGES.values()), ids=DAMAGES)
def test_a_damaged_file_is_as_none_and_is_written_anew(
    faulty: Path, tmp_path: Path, opened: list[str], damage: Callable[[Path], object]
) -> None:
    fresh = as_told(checked(faulty, tmp_path / "w"))
    (file,) = (tmp_path / "w" / "cache" / "images").iterdir()
    damage(file)
    assert as_told(checked(faulty, tmp_path / "w")) == fresh
    opened.clear()
    checked(faulty, tmp_path / "w")
    assert {*opened} == {"broken.png"}


def test_another_pillow_or_other_code_opens_all_again(
    faulty: Path, tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked(faulty, tmp_path / "w")
    opened.clear()
    monkeypatch.setattr(image_index.PIL, "__version__", "0.1")
    image_index.found_by.cache_clear()
    checked(faulty, tmp_path / "w")
    image_index.found_by.cache_clear()
    assert {"0.png", "moves.gif"} <= {*opened}


def test_a_file_that_changed_a_moment_ago_is_not_known(faulty: Path, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "white").save(faulty / "1.png")
    report = checked(faulty, tmp_path / "w")
    known = ImageIndex(tmp_path / "w", report.dataset.root)
    assert known.find(report.dataset.root / "1.png") is None
    assert known.find(report.dataset.root / "2.png") is not None


def test_a_stopped_check_keeps_what_it_saw_and_another_part_of_the_folder_is_not_forgotten(
    faulty: Path, tmp_path: Path
) -> None:
    dataset, seen = open_dataset(str(faulty), tmp_path / "w"), []
    with pytest.raises(InterruptedError):
        interrupted_check(dataset, tmp_path / "w", seen)
    root = dataset.root
    assert ImageIndex(tmp_path / "w", root).find(root / "0.png")
    (faulty / "train.jsonl").write_text('{"image": "5.png", "text": "five"}')
    checked(faulty, tmp_path / "w")
    known = ImageIndex(tmp_path / "w", root)
    assert known.find(root / "0.png")
    assert known.find(root / "5.png")


def interrupted_check(dataset, workspace: Path, seen: list[int]) -> None:
    def progress(what: str, done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 3:
            raise InterruptedError

    check_dataset(dataset, workspace=workspace, progress=progress)


@pytest.mark.slow
def test_old_folders_and_surplus_images_are_forgotten(
    faulty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_index, "MOST_DATASETS", 2)
    monkeypatch.setattr(image_index, "MOST_IMAGES", 3)
    for number in range(3):
        checked(shutil.copytree(faulty, tmp_path / "copies" / str(number)), tmp_path / "w")
        settle()
        checked(tmp_path / "copies" / str(number), tmp_path / "w")
    folder = tmp_path / "w" / "cache" / "images"
    assert len([*folder.iterdir()]) == 2
    (faulty / "train.jsonl").write_text('{"image": "5.png", "text": "five"}')
    checked(faulty, tmp_path / "w")
    root = tmp_path / "copies" / "2"
    (root / "train.jsonl").write_text('{"image": "5.png", "text": "five"}')
    Image.new("RGB", (16, 16), "white").save(root / "5.png")
    settle()
    checked(root, tmp_path / "w")
    assert len(ImageIndex(tmp_path / "w", root).known) == 3


def test_a_workspace_that_cant_be_written_to_costs_nothing_but_time(faulty: Path, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "cache").write_text("a file where the folder should be")
    assert as_told(checked(faulty, tmp_path / "w")) == as_told(checked(faulty, None))

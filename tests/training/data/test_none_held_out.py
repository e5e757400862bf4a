"""Where nothing can be held out the check says why; a picture that most rows show ties none of them."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

from training import runs
from training.config import build
from training.data.dataset import Dataset
from training.data.open import open_dataset
from training.data.splits import split_dataset
from training.data.validate.dataset_check import check_dataset
from training.loop import worker


def dataset(folder: Path, *images: list[str]) -> Dataset:
    for number, name in enumerate(dict.fromkeys(name for row in images for name in row)):
        if not (folder / name).exists():
            Image.new("RGB", (8 + number, 8), "red").save(folder / name)
    rows = [{"images": row, "question": f"{number}?", "answer": "x"} for number, row in enumerate(images)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return open_dataset(str(folder), folder / "workspace")


def codes(dataset: Dataset) -> list[str]:
    return [finding.code for finding in check_dataset(dataset).findings]


def test_questions_about_one_picture_are_told_to_have_nothing_to_hold_out(tmp_path: Path) -> None:
    [finding] = check_dataset(dataset(tmp_path, *[["chart.png"]] * 30)).findings
    assert (finding.code, finding.warning) == ("none-held-out-of-one-picture", True)
    assert str(finding.reason) == "0 of 30 rows can be held out: all show 'chart.png'"
    assert [*check_dataset(dataset(tmp_path, *[["chart.png"]] * 30), held_out=0.0).findings] == []


def test_copies_of_one_picture_are_one_picture(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    assert "none-held-out-of-one-picture" in codes(dataset(tmp_path, ["a.png"], ["b.png"]))


def test_rows_that_share_their_pictures_in_a_chain_are_told_so(tmp_path: Path) -> None:
    chain = [["a.png", "b.png"], ["b.png", "c.png"], ["c.png", "d.png"], ["d.png", "e.png"]]
    assert codes(dataset(tmp_path, *chain)) == ["none-held-out-of-tied-rows"]


def test_a_picture_beside_another_in_most_rows_does_not_tie_them(tmp_path: Path) -> None:
    rows = dataset(tmp_path, *(["scale.png", f"{number}.png"] for number in range(10)))
    train, held_out = split_dataset(rows, 0.2, 0)
    assert (len(train), len(held_out)) == (8, 2)
    assert codes(rows) == []
    # Where a row is about that picture alone, it is a picture as any other.
    alone = dataset(tmp_path, *(["scale.png", f"{number}.png"] for number in range(10)), ["scale.png"])
    assert split_dataset(alone, 0.2, 0)[1] == []


def test_rows_that_are_broken_leave_others_to_hold_out(tmp_path: Path) -> None:
    rows = dataset(tmp_path, *([f"{number}.png"] for number in range(10)))
    _, held_out = split_dataset(rows, 0.1, 0)
    for example in held_out:
        example.images[0].write_bytes(b"no picture")
    report = check_dataset(rows)
    train, evaluated = report.sides(0.1, 0)
    assert (len(train), len(evaluated)) == (8, 1)


def test_the_best_of_no_evaluation_is_refused_before_anything_is_trained(
    tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    dataset(tmp_path, *[["chart.png"]] * 12)
    settings = {"dataset": str(tmp_path), "workspace": tmp_path / "workspace", "best_metric": "loss"}
    run = runs.prepare(build(tiny_settings | settings | {"held_out": 0.2, "evaluations": 1}))
    assert worker.main(run) == worker.BAD_INPUT
    status = run.status()
    assert status.problem.code == "best-of-none-held-out"
    assert "all show 'chart.png'" in status.problem
    assert "leave --best_metric" in status.remedy
    assert run.events({"step"}) == []


def test_a_picture_whose_text_is_broken_is_taken_and_told(tmp_path: Path) -> None:
    rows = dataset(tmp_path, *([f"{number}.png"] for number in range(10)))
    whole = rows.examples[0].images[0]
    content, text = whole.read_bytes(), b"Comment\0broken"
    chunk = struct.pack(">I", len(text)) + b"tEXt" + text + struct.pack(">I", zlib.crc32(b"tEXt" + text) ^ 1)
    whole.write_bytes(content[:33] + chunk + content[33:])  # behind the mark and the header
    [finding] = check_dataset(rows).findings
    assert (finding.code, finding.warning) == ("image-metadata-broken", True)


def test_a_box_among_captions_is_told_as_one(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    captioned = {"id": 1, "image_id": 1, "caption": "red"}
    boxed = {"id": 2, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}
    told = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [captioned, boxed]}
    (tmp_path / "captions.json").write_text(json.dumps(told))
    [finding] = open_dataset(str(tmp_path), tmp_path / "workspace").findings
    assert "the annotation" in finding.reason
    assert "boxes" in finding.reason

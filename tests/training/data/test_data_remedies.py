"""Remedies can be followed, and name what is there: each test does what it is told, and the dataset opens."""

import json
from pathlib import Path

import pytest
from PIL import Image

from training.data.dataset import Dataset
from training.data.open import open_dataset
from vlm.errors import UserError


def pictures(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16 + number), "red").save(folder / name)


def rows(file: Path, *values: dict) -> None:
    file.write_text("".join(json.dumps(value) + "\n" for value in values))


def refused(source: Path, **options: str) -> UserError:
    with pytest.raises(UserError) as raised:
        open_dataset(str(source), source.parent, **options)
    return raised.value


def opened(source: Path, **options: str) -> Dataset:
    return open_dataset(str(source), source.parent, **options)


def warned(dataset: Dataset) -> dict[str, str]:
    """What is told of a dataset that opens: code -> remedy."""
    return {warning.code: str(warning.remedy) for warning in dataset.warnings}


def unquoted(name: object) -> str:
    return str(name).strip("'")


@pytest.mark.parametrize("image", ["A" * 300 + " white box", "/etc/passwd", "../outside.jpg"])
def test_what_is_no_path_in_the_folder_is_looked_for_nowhere_else(tmp_path: Path, image: str) -> None:
    folder = tmp_path / "flickr8k"
    pictures(tmp_path, "outside.jpg", "flickr8k/Images/1.jpg")
    (folder / "captions.txt").write_text(f"image,caption\n{image},a box\n")
    dataset = opened(folder)
    assert dataset.examples == []
    assert {found.code for found in dataset.findings} <= {
        *("image-missing", "image-path-absolute", "image-path-outside", "file-not-opened"),
    }


def test_a_text_of_pictures_that_is_no_table_is_to_be_written_as_one(tmp_path: Path) -> None:
    folder = tmp_path / "flickr"
    pictures(folder, "a.jpg")
    (folder / "token.txt").write_text("A white box is on a.jpg\n")
    (folder / "README.txt").write_text("Nothing about a picture.\n")
    error = refused(folder)
    assert error.code == "folder-of-text"
    assert error.values["file"] == "'token.txt'"
    (folder / unquoted(error.values["name"])).write_text("image,caption\na.jpg,A white box .\n")
    assert opened(folder).examples[0].answer == "A white box ."


@pytest.mark.parametrize(
    ("mark", "line", "code", "said"),
    [
        (",", "a.jpg,a,b", "csv-more-cells", "commas"),
        (";", "a.jpg;a;b", "csv-more-cells", "semicolons"),
        ("\t", "a.jpg\ta\tb", "csv-more-cells", "tabs"),
        ("|", "a.jpg|a|b", "csv-more-cells", "pipes"),
        (",", "a.jpg", "csv-fewer-cells", "a cell for each column"),
    ],
)
def test_a_row_of_other_cells_is_told_what_stands_between_its_own(
    tmp_path: Path, mark: str, line: str, code: str, said: str
) -> None:
    folder = tmp_path / "cells"
    pictures(folder, "a.jpg")
    (folder / "rows.csv").write_text(f"image{mark}caption\n{line}\n")
    [found] = opened(folder).findings
    assert found.code == code
    assert said in found.remedy


def test_of_several_files_the_one_that_is_named_opens(tmp_path: Path) -> None:
    folder = tmp_path / "datasets" / "several"
    pictures(folder, "0.png")
    for name in ("old.jsonl", "train.jsonl"):
        rows(folder / name, {"image": "0.png", "text": "a box"})
    with pytest.raises(UserError) as raised:
        open_dataset("several", tmp_path)
    assert raised.value.values["path"] == "several/old.jsonl"
    assert len(open_dataset("several/old.jsonl", tmp_path).examples) == 1


def test_of_several_datasets_in_a_list_all_are_named_and_the_first_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    pictures(folder, "0.png")
    names = [f"{number}.json" for number in range(8)]
    for name in names:
        (folder / name).write_text(
            json.dumps([{"instruction": "What?", "output": "a box", "images": ["0.png"]}])
        )
    (folder / "dataset_info.json").write_text(json.dumps({name: {"file_name": name} for name in names}))
    error = refused(folder)
    assert error.values["names"] == [f"'{name}'" for name in names]
    monkeypatch.chdir(tmp_path)
    assert len(opened(Path(error.values["source"])).examples) == 1


def test_folders_of_pictures_are_told_of_a_row_that_names_one_of_them(tmp_path: Path) -> None:
    folder = tmp_path / "animals"
    pictures(folder, "cat/0.png", "cat/1.png", "0.png")
    error = refused(folder)
    assert error.code == "folder-of-pictures"
    assert error.values["count"] == 3
    (folder / "metadata.jsonl").write_text(error.remedy.partition(": ")[2])
    assert len(opened(folder).examples) == 1


@pytest.mark.parametrize(
    ("column", "code"), [("objects", "boxes-ignored"), ("tools", "tools-ignored")], ids=["boxes", "tools"]
)
def test_no_setting_is_offered_for_what_is_not_read(tmp_path: Path, column: str, code: str) -> None:
    folder = tmp_path / "more"
    pictures(folder, "0.png")
    rows(folder / "train.jsonl", {"image": "0.png", "text": "a box", column: [1, 2]})
    told = warned(opened(folder))
    assert "--columns" not in told.pop(code)
    assert "columns-ignored" not in told


def test_a_column_that_is_ignored_is_read_with_the_setting_that_is_offered(tmp_path: Path) -> None:
    folder = tmp_path / "more"
    pictures(folder, "0.png")
    rows(folder / "train.jsonl", {"image": "0.png", "question": "Where?", "answer": "here", "organ": "lung"})
    before = opened(folder)
    [setting] = [warning.values["setting"] for warning in before.warnings if "setting" in warning.values]
    after = opened(folder, columns=setting)
    assert after.columns["type"] == "organ"
    assert "columns-ignored" not in warned(after)


def test_the_setting_that_is_offered_has_what_is_given_already(tmp_path: Path) -> None:
    folder = tmp_path / "more"
    pictures(folder, "0.png")
    more = {"a, b": 1, " c": 1, "d=e": "lung", "extra": 1}
    rows(folder / "train.jsonl", {"pic": "0.png", "ask": "Where?", "said": "here"} | more)
    before = opened(folder, columns="image=pic,question=ask,answer=said")
    [setting] = [warning.values["setting"] for warning in before.warnings]
    assert setting == "image=pic,question=ask,answer=said,type=d=e"
    after = opened(folder, columns=setting)
    assert (len(after.examples), after.columns["type"]) == (1, "d=e")
    # `type` is taken: whatever else a column may be would change the examples.
    assert [warning.code for warning in after.warnings] == ["columns-ignored-untold"]


def test_a_split_is_named_beside_the_columns_that_are_given_already(tmp_path: Path) -> None:
    folder = tmp_path / "split"
    pictures(folder, "0.png", "1.png")
    rows(folder / "train.jsonl", *({"pic": f"{n}.png", "say": "a box", "fold": "a"} for n in range(2)))
    error = refused(folder, split="a", columns="image=pic,caption=say")
    assert error.values["setting"] == "image=pic,caption=say,split=fold"
    assert len(opened(folder, split="a", columns=error.values["setting"]).examples) == 2


@pytest.mark.parametrize(
    ("row", "setting"),
    [
        ({"image_url": "http://x/y.png", "caption": "a box"}, None),
        ({"image_url": "http://x/y.png", "pic": "0.png", "caption": "a box"}, "image=pic"),
        ({"image_urls": ["http://x/y.png"], "nhan": "0.png", "text": "a box"}, "image=nhan"),
        ({"image": "0.png", "noi_dung_hoi": "a?", "noi_dung_dap_an": "a"}, "question=noi_dung_hoi,answer="),
        ({"image": "0.png", "cau_hoi": "a?", "cau_tra_loi": "a"}, "question=cau_hoi,answer=cau_tra_loi"),
        ({"image": "0.png", "ghi": "b", "Mo ta": "a"}, "caption=Mo ta"),
        ({"image": "0.png", "ghi": "b", "chu-thich": "a"}, "caption=chu-thich"),
        ({"image": "0.png", "choice": "a box", "demo_tag": "b"}, None),
    ],
)
def test_columns_are_guessed_that_can_be_read(tmp_path: Path, row: dict, setting: str | None) -> None:
    folder = tmp_path / "guess"
    pictures(folder, "0.png")
    rows(folder / "train.jsonl", row)
    [found] = opened(folder).findings
    if setting is None:
        assert found.remedy.values["advice"].code == "what-a-row-needs"
        return
    assert setting in found.remedy
    told = found.remedy.values["advice"].values["setting"].strip("'")
    assert len(opened(folder, columns=told).examples) == 1


@pytest.mark.parametrize(("more", "remedy"), [({"fold": "a"}, "--columns split=fold"), ({}, "out.")])
def test_a_missing_split_is_told_with_a_column_that_is_there(
    tmp_path: Path, more: dict[str, str], remedy: str
) -> None:
    folder = tmp_path / "split"
    pictures(folder, "0.png", "1.png")
    rows(folder / "train.jsonl", *({"image": f"{n}.png", "text": "a box"} | more for n in range(2)))
    error = refused(folder, split="a")
    assert remedy in error.remedy
    assert "split=part" not in error.remedy
    if more:
        assert len(opened(folder, split="a", columns="split=fold").examples) == 2

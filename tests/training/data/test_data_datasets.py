"""Opening datasets: where a source is looked for, what a fingerprint sees, and how examples are split."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from training.data.dataset import Dataset, image_relpath, usable_examples
from training.data.images import load_image
from training.data.open import open_dataset
from training.data.row import Issue
from training.data.splits import split
from vlm.errors import UserError
from vlm.example import Example, Message

MESSAGES = (Message("user", "?"), Message("assistant", "yes"))


def pets(folder: Path) -> Path:
    """A dataset folder with two images, in two formats of rows."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for name in ("cat", "dog"):
        Image.new("RGB", (4, 4), "red").save(folder / "images" / f"{name}.png")
        rows.append(json.dumps({"file_name": f"images/{name}.png", "text": f"a {name}"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


def test_a_sample_is_made_on_first_use_and_every_image_of_it_can_be_loaded(tmp_path: Path) -> None:
    opened = open_dataset("shapes-vi", tmp_path)
    assert (opened.name, opened.root) == ("shapes-vi", (tmp_path / "datasets" / "shapes-vi").resolve())
    assert opened.findings == []
    assert len(opened.examples) >= 1000
    assert len({example.id for example in opened.examples}) == len(opened.examples)
    assert load_image(opened.examples[0].images[0]).mode == "RGB"
    assert open_dataset("shapes-vi", tmp_path, inside=tmp_path).fingerprint == opened.fingerprint


def test_a_folder_its_row_file_and_its_name_in_the_workspace_open_the_same_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pets(tmp_path / "datasets" / "pets")
    monkeypatch.chdir(tmp_path)
    sources = [str(folder), "datasets/pets", "./datasets/pets/", str(folder / "metadata.jsonl"), "pets"]
    opened = [open_dataset(source, tmp_path) for source in sources]
    assert all(dataset.examples == opened[0].examples for dataset in opened)
    assert all(dataset.root == folder.resolve() for dataset in opened)
    assert image_relpath(opened[0], opened[0].examples[1]) == "images/dog.png"


def test_a_sole_row_file_may_have_any_name_and_metadata_goes_before_others(tmp_path: Path) -> None:
    folder = pets(tmp_path / "pets")
    (folder / "notes.csv").write_text("a,b\n")
    assert len(open_dataset(str(folder), tmp_path).examples) == 2
    (folder / "metadata.jsonl").rename(folder / "train.jsonl")
    with pytest.raises(UserError, match=r"several files of rows: 'train\.jsonl', 'notes\.csv'"):
        open_dataset(str(folder), tmp_path)
    (folder / "notes.csv").unlink()
    assert len(open_dataset(str(folder), tmp_path).examples) == 2


NO_DATASET = [
    ("", "no dataset is given", "Give a sample"),
    ("shape", "There is no dataset 'shape'", "Did you mean shapes?"),
    ("nowhere/at/all", "There is no dataset", "Give a sample"),
    ("https://example.org/pets.zip", "is a URL", "URLs are not fetched; download first"),
    ("~/pets", "There is no dataset", "Give a sample"),
    ("a\0b", "can't be opened", "Give a sample"),
    ("a\ud800b", "can't be opened", "Give a sample"),
    ("x" * 5000, "can't be opened", "Give a sample"),
    ("/dev/zero", "is no dataset", "Give a sample"),
    ("empty", "'empty' is empty", "Put a file of rows"),
    ("photo.png", "is no dataset", "Give a sample"),
]


@pytest.mark.parametrize(("source", "problem", "remedy"), NO_DATASET)
def test_a_source_that_is_no_dataset_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, problem: str, remedy: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "photo.png").touch()
    with pytest.raises(UserError) as raised:
        open_dataset(source, tmp_path)
    assert problem in raised.value.problem
    assert remedy in raised.value.remedy


def test_on_the_page_a_dataset_lies_inside_the_workspace(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    inner, outer = pets(workspace / "mine" / "pets"), pets(tmp_path / "outer")
    (workspace / "link").symlink_to(outer)
    for source in ("mine/pets", str(inner), "mine/pets/metadata.jsonl"):
        assert open_dataset(source, workspace, inside=workspace).root == inner.resolve()
    for source in (str(outer), "../outer", "../../etc", "link", "/etc", str(outer / "metadata.jsonl")):
        with pytest.raises(UserError, match="lies outside the workspace"):
            open_dataset(source, workspace, inside=workspace)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "images" / "cat.png").write_bytes(b"another size"),
        lambda folder: (folder / "metadata.jsonl").write_text('{"image": "images/dog.png", "text": "x"}'),
    ],
    ids=["an image", "a row"],
)
def test_the_fingerprint_changes_with_the_data_and_not_with_the_place(tmp_path: Path, change) -> None:
    folder = pets(tmp_path / "pets")
    fingerprint = open_dataset(str(folder), tmp_path).fingerprint
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert open_dataset(str(copy), tmp_path).fingerprint == fingerprint
    change(copy)
    assert open_dataset(str(copy), tmp_path).fingerprint != fingerprint


def dataset_of(good: int, bad: int) -> Dataset:
    findings = [Issue.of_row(f"train.jsonl:{n}", UserError("wrong", "mend it")) for n in range(1, bad + 1)]
    return Dataset("pets", Path("pets"), numbered([()] * good), findings, "")


def test_row_18_bad_rows_are_refused_with_all_of_them_named_unless_they_may_be_skipped() -> None:
    dataset = dataset_of(good=3, bad=2)
    with pytest.raises(UserError) as raised:
        usable_examples(dataset, skip_bad_rows=False)
    assert "train.jsonl:1: wrong -> mend it\ntrain.jsonl:2: wrong" in raised.value.problem
    assert "--skip_bad_rows (3 are good)" in raised.value.remedy
    assert usable_examples(dataset, skip_bad_rows=True) == dataset.examples


def test_row_17_a_dataset_without_one_good_row_is_refused_even_if_bad_rows_may_be_skipped() -> None:
    with pytest.raises(UserError) as raised:
        usable_examples(dataset_of(good=0, bad=150), skip_bad_rows=True)
    assert raised.value.problem.endswith("and 50 more")
    assert raised.value.remedy == "Correct these rows"


def numbered(images: list[tuple[str, ...]]) -> list[Example]:
    return [Example(str(n), tuple(map(Path, names)), MESSAGES) for n, names in enumerate(images)]


def test_examples_that_share_an_image_stay_on_one_side() -> None:
    # Every fifth example also shows the next picture, which ties two pictures together.
    examples = numbered(
        [(f"{n // 4}", f"{n // 4 + 1}") if n % 20 == 0 else (f"{n // 4}",) for n in range(400)]
    )
    for seed in range(20):
        train, held_out = split(examples, 0.1, seed)
        assert len(held_out) == pytest.approx(40, abs=4)
        assert sorted(int(example.id) for example in train + held_out) == list(range(400))
        seen = {image for example in train for image in example.images}
        assert not seen & {image for example in held_out for image in example.images}


def test_a_split_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    examples = numbered([(f"{n}",) for n in range(100)])
    assert split(examples, 0.2, 1) == split(examples, 0.2, 1)
    assert split(examples, 0.2, 1) != split(examples, 0.2, 2)
    elsewhere = numbered([(f"elsewhere/{n}",) for n in range(100)])
    assert [e.id for e in split(elsewhere, 0.2, 1)[1]] == [e.id for e in split(examples, 0.2, 1)[1]]


@pytest.mark.parametrize(
    ("images", "fraction", "sizes"),
    [
        pytest.param([("a",), ("b",)], 0.01, (1, 1), id="two images: one is held out"),
        pytest.param([("a",), ("a",), ("b",)], 0.01, (2, 1), id="the smaller group is held out"),
        pytest.param([("a",), ("b",), ("c",)], 0.99, (1, 2), id="one stays to train on"),
        pytest.param([("a",), ("a",)], 0.5, (2, 0), id="one image can't be split"),
        pytest.param([("a",), ("b",)], 0.0, (2, 0), id="nothing was asked for"),
        pytest.param([(), (), (), ()], 0.5, (2, 2), id="text alone"),
        pytest.param([], 0.5, (0, 0), id="no example"),
    ],
)
def test_small_splits(images: list[tuple[str, ...]], fraction: float, sizes: tuple[int, int]) -> None:
    train, held_out = split(numbered(images), fraction, 0)
    assert (len(train), len(held_out)) == sizes

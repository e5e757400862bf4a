"""Datasets of the Hub: `datasets.load_dataset` in a child process, against a stub Hub on this machine."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
from PIL import Image

from support.stub_hub import StubHub, serving

ROOT = Path(__file__).resolve().parents[3]

# HF_ENDPOINT is read at import: the client is a process of its own.
CLIENT = """
import contextlib, io, json, sys
from training.__main__ import main
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    print("@" + json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


def png(colour: str, width: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, 8), colour).save(file, "PNG")
    return file.getvalue()


def parquet(answers: list[str], first_width: int) -> bytes:
    rows = [
        {"image": {"bytes": png("red", first_width + n), "path": None}, "question": "?", "answer": answer}
        for n, answer in enumerate(answers)
    ]
    text = datasets.Value("string")
    features = datasets.Features({"image": datasets.Image(), "question": text, "answer": text})
    file = io.BytesIO()
    datasets.Dataset.from_list(rows, features).to_parquet(file)
    return file.getvalue()


@pytest.fixture(scope="module")
def hub() -> Iterator[StubHub]:
    with serving() as hub:
        tables = {
            "data/train-00000-of-00002.parquet": parquet(["a", "b", "c"], 8),
            "data/train-00001-of-00002.parquet": parquet(["d"], 20),
            "data/test-00000-of-00001.parquet": parquet(["e", "f"], 40),
        }
        hub.add("org/tables", tables, kind="datasets")
        metadata = [{"file_name": f"images/{name}.png", "text": name} for name in ("one", "three")]
        images = {f"images/{name}.png": png("blue", 9 + len(name)) for name in ("one", "three")}
        folder = {"metadata.jsonl": "\n".join(map(json.dumps, metadata)).encode(), **images}
        hub.add("org/folder", folder, kind="datasets")
        configs = [f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("cats", "dogs")]
        card = "configs:\n" + "".join(configs)
        address = {"image": "http://127.0.0.1:1/x.png", "text": "x"}
        rows = {f"{name}.jsonl": json.dumps(address) for name in ("cats", "dogs")}
        hub.add(
            "org/subsets",
            {
                "README.md": f"---\n{card}\n---\n".encode(),
                **{name: row.encode() for name, row in rows.items()},
            },
            kind="datasets",
        )
        yield hub


@pytest.fixture(scope="module")
def checked(hub: StubHub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    """Exit code and output of each command, all of one process."""
    home = tmp_path_factory.mktemp("home")
    commands = [
        "org/tables",
        "org/tables --dataset_split test",
        "org/tables --dataset_split train[:2]",
        "org/tables --dataset_split nowhere",
        "org/folder",
        "org/subsets",
        "org/subsets:dogs",
        "org/nothing",
        "org/tables --columns question=answer,answer=question",
    ]
    words = [["check", *c.split(), "--json", "--workspace", str(home / "workspace")] for c in commands]
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
    }
    environment.pop("HF_TOKEN", None)
    ended = subprocess.run(
        [sys.executable, "-c", CLIENT, json.dumps(words)],
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )
    answers = [json.loads(line[1:]) for line in ended.stdout.splitlines() if line.startswith("@")]
    assert len(answers) == len(commands), ended.stderr
    return {command: tuple(answer) for command, answer in zip(commands, answers, strict=True)}


Checked = dict[str, tuple[int, str, str]]


def facts(checked: Checked, command: str) -> dict:
    code, out, err = checked[command]
    assert code == 0, out + err
    return json.loads(out)


def test_a_hub_dataset_is_streamed_with_its_own_splits(checked: Checked) -> None:
    found = facts(checked, "org/tables")
    assert (found["kind"], found["parts"]) == ("dataset of the Hub", {"train": 4, "test": 2})
    assert (found["images"], found["layout"]) == (6, "question and answer")
    assert found["columns"] == {
        "image": "image",
        "question": "question",
        "answer": "answer",
        "split": "split",
    }


def test_the_split_and_how_much_of_it_are_chosen(checked: Checked) -> None:
    assert facts(checked, "org/tables --dataset_split test")["parts"] == {"test": 2}
    assert facts(checked, "org/tables --dataset_split train[:2]")["parts"] == {"train": 2, "test": 2}
    code, _, told = checked["org/tables --dataset_split nowhere"]
    assert code == 2
    assert "there is no split 'nowhere': 'test', 'train'" in told


def test_the_columns_are_chosen(checked: Checked) -> None:
    found = facts(checked, "org/tables --columns question=answer,answer=question")
    assert (found["columns"]["question"], found["columns"]["answer"]) == ("answer", "question")


def test_a_folder_of_images_on_the_hub_is_fetched_image_by_image(checked: Checked, hub: StubHub) -> None:
    found = facts(checked, "org/folder")
    assert (found["examples"], found["images"]) == (2, 2)
    assert [request for request in hub.requests if request.endswith("images/one.png")]


def test_a_subset_has_to_be_named_and_an_address_in_its_rows_is_not_fetched(checked: Checked) -> None:
    code, _, told = checked["org/subsets"]
    assert code == 2
    assert "has several subsets: 'cats', 'dogs'\nName one of them: --dataset org/name:subset." in told
    code, out, _ = checked["org/subsets:dogs"]
    assert code == 2
    (finding,) = json.loads(out)["findings"]
    assert finding["place"] == "org/subsets:dogs:1"
    assert "URLs are not fetched" in finding["remedy"]


def test_a_dataset_that_is_nowhere_is_told_in_two_lines(checked: Checked) -> None:
    code, _, told = checked["org/nothing"]
    assert code == 2
    assert told.splitlines()[0].startswith("There is no dataset 'org/nothing' here, and the Hub has none")
    assert "hf auth login" in told

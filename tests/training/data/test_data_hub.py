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

from support.canaries import Server, pickle_that_makes, serving_nobody, source_that_makes
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
def nobodys() -> Iterator[Server]:
    """A server that the cards of hostile datasets point to."""
    with serving_nobody() as server:
        yield server


def card(data_files: str) -> bytes:
    return f"---\nconfigs:\n- config_name: default\n  data_files: {data_files}\n---\n".encode()


def hostile(nobodys: Server, home: Path) -> dict[str, dict[str, bytes]]:
    """Datasets whose cards point elsewhere, or that are programs or pickles."""
    (home / "secret.csv").write_text("image,text\na.png,a secret of this machine\n")
    url, row = nobodys.addresses[0].removesuffix("x.png"), {"rows.csv": b"image,text\na.png,x\n"}
    pointing = {
        "address": f"{url}x.csv",
        "archive": f"zip://x.csv::{url}x.zip",
        "share": f"s3://{url.removeprefix('http://')}x.csv",
        "file": f"{home}/secret.csv",
        "parent": f"../../..{home}/secret.csv",
    }
    program = {"program.py": source_that_makes(home / "ran")}
    pickled = {name: pickle_that_makes(home / "ran") for name in ("train.pkl", "train.pt", "data.npy")}
    return {name: {"README.md": card(path)} | row for name, path in pointing.items()} | {
        "program": program,
        "pickles": pickled,
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is this user's: a file of their own, the Hub's cache, the workspace."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def hub(nobodys: Server, home: Path) -> Iterator[StubHub]:
    with serving() as hub:
        for name, files in hostile(nobodys, home).items():
            hub.add(f"hostile/{name}", files, kind="datasets")
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
        subsets = "configs:\n" + "".join(configs)
        address = {"image": "http://127.0.0.1:1/x.png", "text": "x"}
        rows = {f"{name}.jsonl": json.dumps(address) for name in ("cats", "dogs")}
        hub.add(
            "org/subsets",
            {
                "README.md": f"---\n{subsets}\n---\n".encode(),
                **{name: row.encode() for name, row in rows.items()},
            },
            kind="datasets",
        )
        yield hub


@pytest.fixture(scope="module")
def checked(hub: StubHub, home: Path) -> dict[str, tuple[int, str, str]]:
    """Exit code and output of each command, all of one process."""
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
        *(name for name in hub.repos if name.startswith("hostile/")),
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


@pytest.mark.slow
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


OFFERS = """
import json, sys
from pathlib import Path
from training.data.open import open_dataset
from vlm.errors import UserError
for source in sys.argv[2:]:
    try:
        found = open_dataset(source, Path(sys.argv[1])).offered
    except UserError as error:
        found = error.change
    print("@" + json.dumps(found), flush=True)
"""


def test_splits_and_subsets_are_offered_and_kept_with_what_was_read(
    checked: Checked, hub: StubHub, home: Path
) -> None:
    """Those of a subset that was read before are known while the Hub is away."""
    pets = [f"org/subsets:{name}" for name in ("cats", "dogs")]
    there = ["test", "train"]
    splits = {"dataset_split": there, "held_out_split": there}
    wanted = {"org/tables": splits, pets[1]: {"dataset": pets}, "org/subsets": {"dataset": pets}}
    asked = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }
    for environment, sources in ((asked, [*wanted]), (asked | {"HF_HUB_OFFLINE": "1"}, [*wanted][:2])):
        ended = subprocess.run(
            [sys.executable, "-c", OFFERS, str(home / "workspace"), *sources],
            cwd=ROOT,
            env=os.environ | environment,
            text=True,
            capture_output=True,
            timeout=300,
            check=False,
        )
        found = [json.loads(line[1:]) for line in ended.stdout.splitlines() if line.startswith("@")]
        assert found == [wanted[source] for source in sources], ended.stderr


ELSEWHERE = [
    "The dataset names files at an address outside the Hub, which is not fetched",
    "Download them, and give the folder.",
]


def test_where_a_datasets_card_points_nobody_goes(
    checked: Checked, nobodys: Server, hub: StubHub, home: Path
) -> None:
    for name in (name for name in hub.repos if name.startswith("hostile/")):
        code, out, told = checked[name]
        assert (code, out, len(told.splitlines())) == (2, "", 2), (name, told)
    for name in ("address", "archive", "share"):
        assert checked[f"hostile/{name}"][2].splitlines() == ELSEWHERE
    assert nobodys.hits == []
    files = [path for path in home.rglob("*") if path.is_file()]
    assert [path for path in files if b"of this machine" in path.read_bytes()] == [home / "secret.csv"]
    assert not (home / "ran").exists()


def test_a_dataset_that_is_nowhere_is_told_in_two_lines(checked: Checked) -> None:
    code, _, told = checked["org/nothing"]
    assert code == 2
    assert told.splitlines()[0].startswith("There is no dataset 'org/nothing' here, and the Hub has none")
    assert "hf auth login" in told

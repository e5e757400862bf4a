"""No text that is typed, and none that a dataset, an adapter or a model holds, sends this machine anywhere.

A server on this machine counts who comes, and whatever this process looks up or connects to is written down.
"""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from support.adapter_folders import says
from support.canaries import Server
from support.untouched import untouched
from training.__main__ import main
from training.data.open import open_dataset
from training.runs import Run, require_adapter
from vlm import adapters
from vlm.errors import UserError
from vlm.models.hub import config_folder, parts
from vlm.models.loading import blueprint_model
from vlm.settings import ModelSettings

TEXT, IMAGE = {"type": "text", "text": "What?"}, {"type": "image"}


def talk(content: object, **more: object) -> dict[str, object]:
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "It."}]
    return {"messages": turns} | more


ROWS: dict[str, Callable[[str], dict[str, object]]] = {
    "an image": lambda url: {"image": url, "text": "x"},
    "images": lambda url: {"images": [url], "question": "What?", "answer": "x"},
    "an image's path": lambda url: {"image": {"path": url}, "text": "x"},
    "an image's bytes and path": lambda url: {"image": {"bytes": None, "path": url}, "text": "x"},
    "an image's address": lambda url: {"image": {"url": url}, "text": "x"},
    "a file's name": lambda url: {"file_name": url, "text": "x"},
    "a part of a turn": lambda url: talk([IMAGE | {"image": url}, TEXT]),
    "a part's url": lambda url: talk([IMAGE | {"url": url}, TEXT]),
    "a part's path": lambda url: talk([IMAGE | {"path": url}, TEXT]),
    "a part of OpenAI's": lambda url: talk([{"type": "image_url", "image_url": {"url": url}}, TEXT]),
    "images beside turns": lambda url: talk("<image>What?", images=[{"url": url}]),
    "LLaVA": lambda url: {
        "image": url,
        "conversations": [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "It."}],
    },
    "Markdown": lambda url: {"image": "a.png", "question": f"![x]({url}) <img src='{url}'>", "answer": url},
    "a video": lambda url: {"video": url, "question": "What?", "answer": "x"},
}


def as_json_lines(rows: list[dict[str, object]], folder: Path) -> None:
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))


def urls_in(rows: list[dict[str, object]]) -> list[str]:
    return [row["image"] for row in rows if isinstance(row.get("image"), str)]


def as_csv(rows: list[dict[str, object]], folder: Path) -> None:
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "text"])
        writer.writeheader()
        writer.writerows(
            {"image": row["image"], "text": "x"} for row in rows if isinstance(row.get("image"), str)
        )


def as_parquet(rows: list[dict[str, object]], folder: Path) -> None:
    images = [{"bytes": None, "path": url} for url in urls_in(rows)]
    table = pyarrow.table({"image": images, "text": ["x"] * len(images)})
    pyarrow.parquet.write_table(table, folder / "train.parquet")


def as_annotations(rows: list[dict[str, object]], folder: Path) -> None:
    """COCO's captions, which also say where each picture was found."""
    urls = urls_in(rows)
    images = [{"id": n, "file_name": url, "coco_url": url, "flickr_url": url} for n, url in enumerate(urls)]
    captions = [{"id": n, "image_id": n, "caption": "x"} for n, _ in enumerate(urls)]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))


@pytest.mark.parametrize("written", [as_json_lines, as_csv, as_parquet, as_annotations])
def test_an_address_in_a_row_is_refused_and_not_visited(
    written: Callable[[list, Path], None],
    canary_server: Server,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(next(pictures.glob("*.png")), folder / "a.png")
    rows = [row(url) for row in ROWS.values() for url in canary_server.addresses]
    written(rows, folder)
    assert main(["check", str(folder), "--workspace", str(tmp_path / "workspace"), "--all"]) == 2
    assert "URLs are not fetched; download first" in capsys.readouterr().out
    assert canary_server.connected == []


def refused(call: Callable[[], object]) -> UserError:
    with pytest.raises(UserError) as raised:
        call()
    return raised.value


def test_an_address_that_is_typed_for_a_dataset_a_model_or_an_adapter_is_not_visited(
    canary_server: Server, tmp_path: Path
) -> None:
    for url in canary_server.addresses:
        assert refused(lambda url=url: open_dataset(url, tmp_path)).remedy
        assert refused(lambda url=url: require_adapter(tmp_path, url)).code == "no-such-adapter"
        for model in (url, f"{url}+{url}", f"starter+{url}"):
            assert refused(lambda model=model: [config_folder(part) for part in parts(model)]).remedy
    assert canary_server.connected == []


COMMANDS = (
    "check {url}",
    "check {data} --model {url}",
    "check {data} --dataset_split {url}",
    "export {url} {new}",
    "run --dataset {url} --name one",
    "run --dataset {data} --model {url} --name two",
    "run --dataset {data} --from_adapter {url} --name three",
    "run --config {url}",
    "start --config {url}",
    "submit --dataset {data} --model {url}",
    "inspect {url}",
    "inspect {adapter} --model {url}",
    "merge {url} {new} --model starter",
    "merge {adapter} {new} --model {url}",
    "evaluate {url} {data}",
    "evaluate {adapter} {url}",
    "evaluate {adapter} {data} --model {url}",
    "show {url}",
    "rename {url} x",
    "restore {url}",
)


@pytest.mark.filterwarnings("ignore")
def test_no_command_visits_an_address_that_it_is_given(
    canary_server: Server,
    taught: Run,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LORA_LENS_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("HF_TOKEN", "")
    places = {"data": pictures, "adapter": taught.adapter_path, "new": tmp_path / "new"}
    with untouched(pictures, taught.path):
        for words in COMMANDS:
            url = canary_server.addresses[0]
            assert main([word.format(url=url, **places) for word in words.split()]) == 2, words
            said = capsys.readouterr()
            assert "Traceback" not in said.out + said.err
    assert not (tmp_path / "new").exists()
    assert canary_server.connected == []


@pytest.mark.filterwarnings("ignore")
def test_an_address_that_an_adapter_names_as_its_base_is_not_visited(
    canary_server: Server, taught: Run, tiny_base: Path, tmp_path: Path
) -> None:
    base = blueprint_model(ModelSettings(model=str(tiny_base)))
    for url in canary_server.addresses:
        folder = shutil.copytree(taught.adapter_path, tmp_path / "adapter", dirs_exist_ok=True)
        says(folder, base_model_name_or_path=url, revision=url)
        assert adapters.read_info(folder).method == "lora"
        assert adapters.check_fit(folder, base, "tiny").matched == 32
    assert canary_server.connected == []

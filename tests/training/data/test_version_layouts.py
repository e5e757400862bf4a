"""A version is written in the layout that its dataset came in."""

import json
from pathlib import Path

import pytest
from PIL import Image

from support.drafts import draft_of
from training.data.edit.export import TAGS
from training.data.edit.versions import Draft, Edits, save_version
from training.data.open import open_dataset
from vlm.example import Message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset's folder, with two images and no rows yet."""
    (tmp_path / "datasets/pets/images").mkdir(parents=True)
    for size, name in enumerate("ab", start=8):
        Image.new("RGB", (size, 8), "red").save(tmp_path / f"datasets/pets/images/{name}.png")
    return tmp_path / "datasets/pets"


CHAT = [{"role": "user", "content": "<image>Which?"}, {"role": "assistant", "content": "a"}]
MORE = [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "yes"}]
SHARED = [{"from": "human", "value": "<image>\nWhich?"}, {"from": "gpt", "value": "a"}]
# Rows as they come in, which a version has just so.
CAME_IN = {
    "questions": [{"image": "images/a.png", "question": "Which?", "answer": "a"}],
    "questions by other names": [{"ảnh": "images/a.png", "câu_hỏi": "Which?", "trả_lời": "a"}],
    "several images": [{"images": ["images/a.png", "images/b.png"], "question": "Which?", "answer": "a"}],
    "text alone": [{"image": "images/a.png", "text": "a"}, {"images": [], "messages": MORE}],
    "captions": [{"image": "images/a.png", "text": "a"}, {"image": "images/b.png", "text": "b"}],
    "both": [
        {"file_name": "images/a.png", "caption": "a"},
        {"file_name": "images/a.png", "question": "Which?", "answer": "a"},
    ],
    "ids and types": [
        {"image": "images/a.png", "question": "Which?", "answer": "a", "id": "x", "type": "colour"}
    ],
    "right answers": [
        {"image": "images/a.png", "question": "Which?", "answer": "a", "answers": ["a", "an a"]}
    ],
    "messages": [
        {"images": ["images/a.png"], "messages": [{"role": "system", "content": "Be brief."}, *CHAT]}
    ],
    "conversations": [{"id": "x", "image": "images/a.png", "conversations": SHARED}],
    "alpaca": [
        {"images": ["images/a.png"], "instruction": "<image>Which?", "input": "", "output": "a"},
        {
            "images": ["images/a.png"],
            "instruction": "Sure?",
            "input": "",
            "output": "yes",
            "system": "Be brief.",
            "history": [["<image>Which?", "a"]],
        },
    ],
    "query and response": [{"images": ["images/a.png"], "query": "<image>Which?", "response": "a"}],
    "prompt and completion": [
        {"image": "images/a.png", "prompt": "Which?", "completion": "a"},
        {"image": "images/a.png", "prompt": [*CHAT, MORE[0]], "completion": MORE[1:]},
    ],
}


@pytest.mark.parametrize("name", CAME_IN)
def test_a_version_is_written_in_the_layout_that_came_in(tmp_path: Path, folder: Path, name: str) -> None:
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, CAME_IN[name])), encoding="utf-8")
    pets = open_dataset("pets", tmp_path)
    assert pets.findings == []
    saved = save_version(pets, Edits(), tmp_path).folder
    lines = (saved / "train.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == CAME_IN[name]
    again = open_dataset(saved.name, tmp_path)
    assert (again.kind, again.layouts, again.columns) == (pets.kind, pets.layouts, pets.columns)
    assert [example.messages for example in again.examples] == [example.messages for example in pets.examples]


def test_what_the_layout_cant_hold_and_columns_that_were_mapped_stay_readable(
    tmp_path: Path, folder: Path
) -> None:
    rows = [
        {"foto": "images/a.png", "ask": "Which?", "say": "a"},
        {"foto": "images/b.png", "ask": "And?", "say": "b"},
    ]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pets = open_dataset("pets", tmp_path, columns="image=foto,question=ask,answer=say")
    image = pets.examples[0].images[0]
    talk = tuple(Message(turn["role"], turn["content"]) for turn in CHAT + MORE)
    edits = Edits(added=[draft_of(image, "", "a caption"), Draft((image,), talk)])
    saved = save_version(pets, edits, tmp_path).folder
    found = [json.loads(line) for line in (saved / "train.jsonl").read_text().splitlines()]
    assert found == [
        {"image": "images/a.png", "question": "Which?", "answer": "a"},
        {"image": "images/b.png", "question": "And?", "answer": "b"},
        {"image": "images/a.png", "text": "a caption"},
        {"images": ["images/a.png"], "messages": CHAT + MORE},
    ]
    assert [len(example.messages) for example in open_dataset(saved.name, tmp_path).examples] == [2, 2, 2, 4]


ENTRIES = {
    "alpaca": ({"columns": {"prompt": "q", "response": "a", "images": "images"}}, {"q": "Which?", "a": "a"}),
    "conversations": ({"formatting": "sharegpt", "columns": {"images": "images"}}, {"conversations": SHARED}),
    "messages": (
        {"formatting": "sharegpt", "columns": {"messages": "messages", "images": "images"}, "tags": TAGS},
        {"messages": CHAT},
    ),
}


@pytest.mark.parametrize("layout", ENTRIES)
def test_a_version_of_what_llama_factory_describes_is_described_too(
    tmp_path: Path, folder: Path, layout: str
) -> None:
    entry, row = ENTRIES[layout]
    (folder / "rows.json").write_text(json.dumps([row | {"images": ["images/a.png"]}]))
    (folder / "dataset_info.json").write_text(json.dumps({"pets": {"file_name": "rows.json"} | entry}))
    pets = open_dataset("pets", tmp_path)
    saved = save_version(pets, Edits(), tmp_path).folder
    again = open_dataset(saved.name, tmp_path)
    assert again.kind == pets.kind == "LLaMA-Factory"
    assert [example.messages for example in again.examples] == [example.messages for example in pets.examples]
    [written] = map(json.loads, (saved / "train.jsonl").read_text().splitlines())
    assert written["images"] == ["images/a.png"]
    assert layout in written or (layout == "alpaca" and written["instruction"] == "<image>Which?")
    [described] = json.loads((saved / "dataset_info.json").read_text()).values()
    assert described.get("tags") == entry.get("tags")

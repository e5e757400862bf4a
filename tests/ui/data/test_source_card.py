"""The Dataset card: how a dataset is read, and which of its columns is which."""

import ast
import inspect
import re

import pytest

from support.data_tab import asked, sent, texts_in, write
from training.data import open as opening
from training.data.readers import folder
from ui.data import source_card
from ui.data.columns import guessed
from ui.data.source_card import COLUMN_KINDS, NONE, mapped
from ui.data.tab import answered
from ui.datasets import Shelf, Wanted, read_dataset, rows_read


def kinds_of_files() -> set[str]:
    """What readers call the files that they read: the table's, and those at the calls that make a source."""
    found = {form.kind for form in folder.FORMATS.values()} | {
        "Parquet with images",
        folder.COCO,
        *folder.BESIDE.values(),
    }
    calls = [node for module in (folder, opening) for node in ast.walk(ast.parse(inspect.getsource(module)))]
    places = {"Source": 3, "_written_out": 3, "read_written_out": 2}
    for call in (node for node in calls if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        given = call.args[places[call.func.id] :][:1] if call.func.id in places else []
        given += [keyword.value for keyword in call.keywords if keyword.arg == "kind"]
        found |= {value.value for value in given if isinstance(value, ast.Constant)}
    return found


def test_kinds_of_files_that_are_words_are_told_in_the_language_of_the_page():
    kinds = kinds_of_files()
    assert {"images with .txt captions", "dataset of the Hub", "Arrow, saved to disk", "VQAv2"} < kinds
    words = {kind for kind in kinds if re.search(r"\b[a-z]{2,}\b", kind)}
    assert len(words) == 9
    for kind in words:
        assert source_card.kind_of("en", kind) == kind
        assert source_card.kind_of("vi", kind) != kind


@pytest.mark.parametrize("dataset", ["", "nowhere", "../..", "/etc", "http://127.0.0.1/x"])
def test_a_source_that_is_none_is_told_on_its_card(tmp_path, dataset):
    assert 'role="alert"' in source_card.drawn(asked(tmp_path, dataset))["parts"]["facts"]
    refused = answered(tmp_path, "en", sent(tmp_path, "save_version", dataset, name=""))
    assert 'role="alert"' in refused["parts"]["version"]


def test_columns_are_guessed_and_a_correction_is_the_setting(tmp_path):
    rows = [{"photo": "0.png", "ask": "colour?", "say": "red"}]
    write(tmp_path / "datasets" / "pets", *rows)
    chosen = dict.fromkeys(COLUMN_KINDS, NONE) | {"image": "photo", "question": "ask", "answer": "say"}
    columns = mapped(tmp_path, asked(tmp_path).values, chosen)
    assert columns == "image=photo,question=ask,answer=say"
    dataset = asked(tmp_path, settings={"columns": columns}).dataset
    assert [(e.question, e.answer) for e in dataset.examples] == [("colour?", "red")]


def test_a_choice_stands_while_no_row_can_be_read_yet(tmp_path):
    write(tmp_path / "datasets" / "pets", {"image": "0.png", "ask": "colour?", "say": "red"})
    wants = asked(tmp_path, settings={"columns": "image=image,question=ask"})
    drawn = source_card.drawn(wants)
    assert wants.dataset.examples == []
    assert drawn["mapping"]
    question, answer = (
        re.search(rf'data-column="{kind}".*?</select>', drawn["parts"]["columns"], re.S)[0]
        for kind in ("question", "answer")
    )
    assert re.search(r"<option selected[^>]*>ask<", question)
    assert ">say<" in answer


TABLES = {
    "names that say nothing": (
        ["col1", "col2", "col3", "col4"],
        lambda n: [f"{n}.png", "Which colour is it?", "it is red, I think", "7"],
        "image=col1,question=col2,answer=col3",
    ),
    "names of other words": (
        ["photo_file", "ask", "reply", "note"],
        lambda n: [f"{n}.png", "colour", "red", "a much longer note about nothing"],
        "image=photo_file,question=ask,answer=reply",
    ),
    "a caption": (
        ["bild", "id", "worte"],
        lambda n: [f"{n}.png", str(n), "a red square"],
        "image=bild,caption=worte",
    ),
    "names that only begin so": (
        ["bild", "ask", "answer_kind", "wahr"],
        lambda n: [f"{n}.png", "Which colour?", "x", "it is red"],
        "image=bild,question=ask,answer=wahr",
    ),
    "texts to be taken apart": (
        ["bild", "gt_parse"],
        lambda n: [f"{n}.png", "{'total': 3}"],
        "",
    ),
    "pictures that are not there": (["a", "b"], lambda n: [f"gone{n}.png", "text"], ""),
}


@pytest.mark.parametrize("case", TABLES)
def test_columns_that_no_name_explains_are_taken_for_what_stands_in_them(tmp_path, case):
    names, row, expected = TABLES[case]
    write(tmp_path / "datasets" / "pets", name="none.jsonl")
    table = "\n".join(",".join(f'"{cell}"' for cell in cells) for cells in [names, *map(row, range(3))])
    (tmp_path / "datasets" / "pets" / "rows.csv").write_text(table)
    (tmp_path / "datasets" / "pets" / "none.jsonl").unlink()
    wants = asked(tmp_path)
    assert guessed(source_card.raw_rows(wants), wants.dataset.root) == expected
    answer = answered(tmp_path, "en", sent(tmp_path, "draw"))
    while answer.get("again"):
        answer = answered(tmp_path, "en", sent(tmp_path, "draw"))
    assert answer["mapping"]
    assert answer.get("set", {}).get("columns", "") == expected
    shown = texts_in(answer["parts"]["columns"])
    assert all(name in shown for name in names)
    assert row(2)[0] in shown  # its first three rows stand beside
    assert ('data-act="look"' in answer["parts"]["examples"]) == bool(expected)


def test_a_correction_that_is_the_guess_is_no_setting(pets):
    dataset = read_dataset(pets, Wanted("pets"))
    chosen = {kind: dataset.columns.get(kind, NONE) for kind in COLUMN_KINDS}
    assert mapped(pets, asked(pets).values, chosen) == ""


@pytest.mark.parametrize(
    ("turns", "kind"),
    [
        ([{"role": "user", "content": "?"}, {"role": "assistant", "content": "x"}], "messages"),
        ([{"from": "human", "value": "?"}, {"from": "gpt", "value": "x"}], "conversations"),
    ],
)
def test_a_column_of_turns_is_read_as_it_is_written(tmp_path, turns, kind):
    write(tmp_path / "datasets" / "pets", {"image": "0.png", "talk": turns})
    chosen = dict.fromkeys(COLUMN_KINDS, NONE) | {"image": "image", "conversation": "talk"}
    assert mapped(tmp_path, asked(tmp_path).values, chosen) == f"image=image,{kind}=talk"


def test_one_of_several_datasets_and_a_split_are_chosen_on_the_card(tmp_path):
    several = tmp_path / "datasets" / "several"
    for name in ("one", "two"):
        write(several, {"image": "0.png", "text": name, "split": "train"}, name=f"{name}.jsonl")
    write(several, *({"image": "1.png", "text": s, "split": s} for s in ("train", "test")), name="two.jsonl")
    facts = answered(tmp_path, "en", sent(tmp_path, "draw", "several"))["parts"]["facts"]
    assert 'role="alert"' in facts
    assert options(facts, "dataset") == (["", "several:one", "several:two"], "")
    answer = answered(
        tmp_path, "en", sent(tmp_path, "choose", "several", choose="dataset", value="several:two")
    )
    assert answer["set"]["dataset"] == "several:two"
    facts = answer["parts"]["facts"]
    assert options(facts, "dataset") == (["several:one", "several:two"], "several:two")
    assert options(facts, "dataset_split") == (["test", "train"], "train")
    assert options(facts, "held_out_split") == (["test", "train"], "test")
    wants = sent(tmp_path, "choose", "several:two", choose="dataset_split", value="test")
    answer = answered(tmp_path, "en", wants)
    assert answer["set"] == {"dataset_split": "test"}
    assert options(answer["parts"]["facts"], "dataset_split") == (["test", "train"], "test")


def options(facts: str, setting: str) -> tuple[list[str], str]:
    """What a setting offers, and which of it is chosen."""
    inside = re.search(rf'data-choose="{setting}">(.*?)</select>', facts, re.S)[1]
    (chosen,) = re.findall(r'value="([^"]*)" selected', inside)
    return re.findall(r'value="([^"]*)"', inside), chosen


def test_a_folder_of_several_datasets_is_added_to_choose_from(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / "datasets" / "several", {"image": "0.png", "text": name}, name=f"{name}.jsonl")
    answer = answered(tmp_path, "en", sent(tmp_path, "add", typed="several"))
    assert answer["set"]["dataset"] == "several"
    assert options(answer["parts"]["facts"], "dataset")[0] == ["", "several:one", "several:two"]


def test_a_dataset_is_read_once_until_its_files_change(pets):
    first = read_dataset(pets, Wanted("pets"))
    assert read_dataset(pets, Wanted("pets")) is first
    with (pets / "datasets" / "pets" / "rows.jsonl").open("a") as file:
        file.write('\n{"image": "1.png", "text": "new"}')
    assert len(read_dataset(pets, Wanted("pets")).examples) == len(first.examples) + 1


def test_a_shelf_keeps_the_newest():
    shelf: Shelf[int] = Shelf(2)
    for key in "abc":
        shelf.keep(key, ord(key))
    assert [shelf.find(key) for key in "abc"] == [None, ord("b"), ord("c")]


def test_long_reading_tells_how_far_it_is(tmp_path, monkeypatch):
    rows = ({"image": f"{n % 3}.png", "question": "?", "answer": str(n)} for n in range(3000))
    write(tmp_path / "datasets" / "pets", *rows)
    monkeypatch.setattr("ui.datasets.POLL_S", 0.0)
    shown = [answered(tmp_path, "en", sent(tmp_path, "draw"))]
    assert "Reading rows" in shown[0]["parts"]["facts"]
    monkeypatch.setattr("ui.datasets.POLL_S", 60.0)
    assert rows_read(tmp_path, Wanted("pets")) is None
    assert "3,000" in answered(tmp_path, "en", sent(tmp_path, "draw"))["parts"]["facts"]


def test_columns_that_have_their_names_are_not_guessed_anew_where_rows_are_bad(tmp_path):
    """A column of numbers is the rows' fault: another one in its place would train on what nobody meant."""
    rows = [
        {"image": f"{n}.png", "question": "how many?", "answer": {"n": n}, "kind": "count"} for n in range(3)
    ]
    write(tmp_path / "datasets" / "pets", *rows)
    answer = answered(tmp_path, "en", sent(tmp_path, "draw"))
    assert "set" not in answer
    assert not answer["mapping"]

"""Rows of datasets: what makes an example and what is wrong, by its number in the table of bad input."""

import json
from pathlib import Path

import pytest
from PIL import Image

from training.data.dataset import Dataset
from training.data.open import open_dataset
from vlm.example import IMAGE, Example, Message


def dataset(folder: Path, content: str | bytes, file: str = "train.jsonl", columns: str = "") -> Dataset:
    """The dataset of one row file beside a.png and b.png."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4), "red").save(folder / name)
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_dataset(str(folder), folder / "workspace", columns=columns)


def only_example(folder: Path, row: dict[str, object]) -> Example:
    opened = dataset(folder, json.dumps(row))
    assert opened.findings == []
    assert len(opened.examples) == 1
    return opened.examples[0]


def turns(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": f"{role} speaks"} for role in roles]


GOOD = '{"image": "a.png", "text": "a red square"}'
QUESTION = {"image": "a.png", "question": "What colour?", "answer": "red"}


@pytest.mark.parametrize("column", ["file_name", "image", "images"])
def test_a_question_and_its_answer_become_two_turns_with_the_image_first(tmp_path: Path, column: str) -> None:
    example = only_example(tmp_path, {column: "a.png", "question": "What colour?", "answer": "red"})
    assert example.messages == (Message("user", f"{IMAGE}What colour?"), Message("assistant", "red"))
    assert example.images == ((tmp_path / "a.png").resolve(),)
    assert (example.question, example.answer, example.is_caption) == ("What colour?", "red", False)


@pytest.mark.parametrize("column", ["text", "caption"])
def test_a_caption_is_the_answer_to_an_empty_question(tmp_path: Path, column: str) -> None:
    example = only_example(tmp_path, {"file_name": "a.png", column: "a red square", "answer": None})
    assert example.messages == (Message("user", IMAGE), Message("assistant", "a red square"))
    assert example.is_caption


def test_placeholders_in_string_content_stay_where_they_were_written(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"From {IMAGE} to {IMAGE}?"},
        {"role": "assistant", "content": "red to blue"},
    ]
    example = only_example(tmp_path, {"images": ["a.png", "b.png"], "messages": messages})
    assert [(m.role, m.text) for m in example.messages] == [(m["role"], m["content"]) for m in messages]
    assert [image.name for image in example.images] == ["a.png", "b.png"]


def test_image_blocks_become_placeholders(tmp_path: Path) -> None:
    blocks = [
        {"type": "text", "text": "Is "},
        {"type": "image", "text": None},
        {"type": "text", "text": " red?"},
    ]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "yes"}]}
    row = {"images": ["a.png"], "messages": [{"role": "user", "content": blocks}, answer]}
    assert only_example(tmp_path, row).messages[0].text == f"Is {IMAGE} red?"


def test_messages_without_placeholders_get_all_images_in_their_first_user_turn(tmp_path: Path) -> None:
    messages = turns("system", "user", "assistant", "user", "assistant")
    example = only_example(tmp_path, {"images": ["a.png", "b.png"], "messages": messages})
    assert [m.text.count(IMAGE) for m in example.messages] == [0, 2, 0, 0, 0]


def test_a_csv_gives_the_same_examples_as_jsonl(tmp_path: Path) -> None:
    csv = 'file_name,question,answer\na.png,"What, and\nwhere?",red\nb.png,And this?,"a ""dark"" red"\n'
    opened = dataset(tmp_path, csv, "metadata.csv")
    assert opened.findings == []
    assert [(e.question, e.answer) for e in opened.examples] == [
        ("What, and\nwhere?", "red"),
        ("And this?", 'a "dark" red'),
    ]
    assert opened.examples[1].id == "metadata.csv:4"  # a cell above spans two lines


def test_an_id_is_kept_if_it_is_unique_and_replaced_by_its_line_if_not(tmp_path: Path) -> None:
    rows = [QUESTION | {"id": value} for value in ("cat", 7, "twin", "twin", None, "train.jsonl:5", "\ud800")]
    opened = dataset(tmp_path, "\n".join(json.dumps(row) for row in rows))
    ids = [example.id for example in opened.examples]
    assert ids == [
        "cat",
        "7",
        "train.jsonl:3",
        "train.jsonl:4",
        "train.jsonl:5",
        "train.jsonl:6",
        "train.jsonl:7",
    ]


ACCEPTED = [
    pytest.param(b"\xef\xbb\xbf" + GOOD.encode(), id="row 2: UTF-8 byte order mark"),
    pytest.param(f"\n\n{GOOD}\n\n", id="row 6: blank lines"),
    pytest.param(f"{GOOD}\r\n\r\n", id="row 19: CRLF"),
    pytest.param(f"{GOOD}\r", id="row 19: CR only"),
    pytest.param(
        '{"image": "a.png", "text": "câu\u2028hỏi"}', id="a line separator inside text ends no line"
    ),
    pytest.param(json.dumps({"messages": turns("user", "assistant")}), id="row 34: text alone"),
    pytest.param(json.dumps({"images": [], "messages": turns("user", "assistant")}), id="row 34: empty list"),
    pytest.param(json.dumps(QUESTION | {"image": None}), id="row 34: null"),
]


@pytest.mark.parametrize("content", ACCEPTED)
def test_harmless_content_is_accepted(tmp_path: Path, content: str | bytes) -> None:
    opened = dataset(tmp_path, content)
    assert (len(opened.examples), opened.findings) == (1, [])


def row_of(**changes: object) -> str:
    return json.dumps(QUESTION | changes)


def talk(*roles: str, **changes: object) -> str:
    return json.dumps({"image": "a.png", "messages": turns(*roles)} | changes)


# The number and the fault, content, reason, remedy; all of these in line 1.
FOUND = [
    ("1: broken JSON", '{"image": red}', "not valid JSON at column 11", "one JSON object"),
    ("1: not an object", '["a.png"]', "not a JSON object but a list", "one JSON object"),
    ("1: bombs of brackets", "[" * 100_000, "nested too deeply", "one JSON object"),
    ("1: a number of 5,000 digits", "9" * 5000, "a number too long", "one JSON object"),
    ("10: no text", '{"image": "a.png", "title": "x"}', "'image', 'title'", "caption=title"),
    ("10: no image", '{"pic": "a.png", "text": "x"}', "'pic', 'text'", "Give --columns image=pic"),
    ("10: a question's image", '{"pic": "a.png", "question": "x", "answer": "y"}', "'pic'", "image=pic"),
    ("10: no answer", '{"image": "a.png", "question": "x"}', "answer is missing: the row", "text"),
    ("10: an answer of null", row_of(answer=None), "answer is missing, not text", "as text"),
    ("10: two texts", row_of(text="red"), "question and answer and in text", "Keep one"),
    ("10: two image columns", row_of(file_name="b.png"), "file_name and in image", "Keep one"),
    ("12: a switch for text", row_of(answer=True), "answer is true or false, not text", 'in quotes: "true"'),
    ("12: messages as text", row_of(question=None, answer=None, messages="hi"), "list of turns", "role"),
    ("16: assistant first", talk("assistant", "user"), "assistant, user", "take turns"),
    ("16: user last", talk("user", "assistant", "user"), "user, assistant, user", "assistant last"),
    ("16: user twice", talk("user", "user", "assistant"), "user, user", "take turns"),
    ("16: system in between", talk("user", "system", "assistant"), "user, system", "take turns"),
    ("16: system alone", talk("system"), "system", "take turns"),
    ("16: a role of its own", talk("human", "gpt"), "'human'", "user, assistant"),
    ("16: no content", talk(messages=[{"role": "user"}]), "turn 1 is missing", "text"),
    ("16: an unknown block", talk(messages=[{"role": "user", "content": [{"type": "video"}]}]), "block", ""),
    ("34: empty reference", row_of(image=""), "empty", "path"),
    ("34: null in a list", row_of(image=None, images=[None]), "not null", "path"),
    ("34: a caption of nothing", '{"image": null, "text": "x"}', "no image", "image"),
    ("55: empty answer", row_of(answer=" \n"), "nothing to learn", "remove the row"),
    ("55: empty turn", talk(messages=[*turns("user"), {"role": "assistant", "content": ""}]), "turn 2", ""),
    ("64: fewer", row_of(image=["a.png"] * 3, question=f"{IMAGE}{IMAGE}?"), "2 <image> in", "once"),
    ("64: more", row_of(question=f"{IMAGE}{IMAGE}?"), "2 <image> in the text for 1 image", "once"),
    ("60: in an answer", row_of(answer=f"see {IMAGE}"), "what the model should say", "user turns"),
    ("65: NUL in text", row_of(answer="a\0b"), "NUL", "Remove"),
    ("66: lone surrogate", row_of(answer="\ud800"), "surrogate", "Remove"),
]  # fmt: skip

FOUND_ELSEWHERE = [
    ("3: Latin-1", GOOD.encode() + b'\n{"text": "caf\xe9"}', "train.jsonl:2", "not UTF-8", "as UTF-8"),
    ("4: UTF-16 cut off", GOOD.encode("utf-16")[:-1], "train.jsonl", "UTF-16", "UTF-8"),
    ("5: NUL", GOOD + "\n\0\n", "train.jsonl:2", "NUL byte", "UTF-8"),
    ("7: empty file", "", "train.jsonl", "0 examples", "one row"),
    ("9: a line of 20 MB", GOOD + "\n" + "x" * 20_000_000, "train.jsonl:2", "longer than 16 m", "Split"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "where", "reason", "remedy"),
    [pytest.param(row[1], "train.jsonl:1", *row[2:], id=f"row {row[0]}") for row in FOUND]
    + [pytest.param(*row[1:], id=f"row {row[0]}") for row in FOUND_ELSEWHERE],
)
def test_a_bad_row_is_found_with_its_line_a_reason_and_a_remedy(
    tmp_path: Path, content: str | bytes, where: str, reason: str, remedy: str
) -> None:
    opened = dataset(tmp_path, content)
    (finding,) = opened.findings
    assert finding.place == where
    assert finding.row_ids == (() if where == "train.jsonl" else (where,))
    assert reason in finding.reason
    assert remedy in finding.remedy
    assert str(finding) == f"{finding.place}: {finding.reason} -> {finding.remedy}"


def test_all_that_is_wrong_is_found_at_once_and_the_good_rows_remain(tmp_path: Path) -> None:
    bad = json.dumps({"images": ["x.png", "y.png"], "question": "?", "answer": ""})
    opened = dataset(tmp_path, f"{GOOD}\n{{\n{bad}\n{GOOD}\n")
    assert [example.id for example in opened.examples] == ["train.jsonl:1", "train.jsonl:4"]
    assert [finding.place for finding in opened.findings] == ["train.jsonl:2"] + ["train.jsonl:3"] * 3
    reasons = " ".join(finding.reason for finding in opened.findings)
    assert "'x.png'" in reasons
    assert "'y.png'" in reasons
    assert "answer is empty" in reasons


BAD_CSV = [
    pytest.param(
        "image,text\na.png,x\na.png\nb.png,y\n",
        "metadata.csv:3",
        "1 cell where",
        2,
        id="row 12: too few cells",
    ),
    pytest.param(
        'image,text\na.png,x\nb.png,"y\n', "metadata.csv:3", "not valid CSV", 1, id="row 1: an open quote"
    ),
    pytest.param(b"image,text\na.png,\xe9\nb.png,y\n", "metadata.csv:2", "not UTF-8", 1, id="row 3: Latin-1"),
    pytest.param("image,image\na.png,x\n", "metadata.csv:1", "same name", 0, id="row 10: a column twice"),
    pytest.param("image,text\n", "metadata.csv", "0 examples", 0, id="row 8: only a header"),
]


@pytest.mark.parametrize(("content", "where", "reason", "good"), BAD_CSV)
def test_a_bad_csv_row_is_found_with_its_line(
    tmp_path: Path, content: str | bytes, where: str, reason: str, good: int
) -> None:
    opened = dataset(tmp_path, content, "metadata.csv")
    (finding,) = opened.findings
    assert finding.place == where
    assert reason in finding.reason
    assert len(opened.examples) == good


# The row, the mapping that is given, and the one that is told; each is then followed.
UNNAMED = [
    ({"drawing": "a.png", "query": "How many?", "truth": "3"}, "", "image=drawing,answer=truth"),
    ({"img_link": "a.png", "question": "?", "answer": "x", "q_lang": "en"}, "", "image=img_link"),
    ({"filename": "a.png", "target": "cat"}, "", "caption=target"),
    ({"images": ["a.png"], "prompt": "?", "chosen": "x", "rejected": "y"}, "", "answer=chosen"),
    ({"image": "a.png", "answer": "a cat"}, "", "caption=answer"),
    ({"image": "a.png", "question": "?", "said": "a cat"}, "", "answer=said"),
    ({"image": "a.png", "ask": "?", "reply": "a cat"}, "", "question=ask,answer=reply"),
    ({"photo 1": "a.png", "text": "a cat"}, "", "'image=photo 1'"),
    ({"shown": "a.png", "ask": "?", "reply": "x"}, "question=ask", "question=ask,image=shown,answer=reply"),
    ({"images": ["a.png"], "talk": turns("user", "assistant")}, "", "messages=talk"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "given", "told"), UNNAMED)
def test_columns_that_would_read_a_row_are_told_with_its_own_names(
    tmp_path: Path, row: dict, given: str, told: str
) -> None:
    (finding,) = dataset(tmp_path, json.dumps(row), columns=given).findings
    assert finding.code in {"row-without-image", "row-without-text", "row-lacks-a-part"}
    assert all(f"'{column}'" in finding.reason for column in row)
    assert f"--columns {told}" in finding.remedy
    followed = dataset(tmp_path, json.dumps(row), columns=told.strip("'"))
    assert followed.findings == []
    assert len(followed.examples) == 1


@pytest.mark.parametrize("row", [{"image": "a.png"}, {"image": "a.png", "n": 3}, {"a,b": "a.png"}, {}])
def test_no_columns_are_told_where_none_would_read_the_row(tmp_path: Path, row: dict) -> None:
    (finding,) = dataset(tmp_path, json.dumps(row)).findings
    assert "--columns" not in finding.remedy


def test_turns_of_tools_are_said_to_be_unsupported(tmp_path: Path) -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    foreign = {"image": "a.png", "conversations": [{"from": "human", "value": "?"}, {"from": "observation"}]}
    for row in (json.loads(talk(messages=[*turns("user"), called])), foreign):
        (finding,) = dataset(tmp_path, json.dumps(row)).findings
        assert (finding.code, finding.values) == ("turn-of-a-tool", {"turn": 2})

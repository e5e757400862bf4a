"""Rows as other tools write them: what is certain is read, and the rest is refused by its line."""

import json
from pathlib import Path

import pytest
from PIL import Image

from training.data.dataset import Dataset
from training.data.edit.export import export_dataset
from training.data.open import open_dataset
from vlm.example import IMAGE

Rows = list[dict[str, object]]


def opened(folder: Path, rows: Rows, **options: str) -> Dataset:
    for number, name in enumerate(("a.png", "b.png", "c.png")):
        Image.new("RGB", (16 + number, 16), "red").save(folder / name)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return open_dataset(str(folder), folder / "workspace", **options)


def said(question: str, answer: str = "x", **columns: object) -> dict[str, object]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns} | columns


def of_llava(value: str, **columns: object) -> dict[str, object]:
    return {
        "conversations": [{"from": "user", "value": value}, {"from": "assistant", "value": "x"}]
    } | columns


BOTH = {"images": ["a.png", "b.png"]}
# A row, its images in their order, and what is asked.
IMAGES_OF_OTHERS = {
    "a path in the text": (of_llava("Picture 1: <img>a.png</img>\nWhat?"), "a", f"{IMAGE}What?"),
    "paths that are numbered": (
        of_llava("Picture 1: <img>b.png</img>\nPicture 2: <img>a.png</img>\nWhat is Picture 2?"),
        "ba",
        f"Picture 1: {IMAGE}Picture 2: {IMAGE}What is Picture 2?",
    ),
    "a path in a query": ({"query": "<img>a.png</img>What?", "response": "x"}, "a", f"{IMAGE}What?"),
    "InternVL, the second first": (
        said("is <image2> like <image1>?", **BOTH),
        "ba",
        f"is {IMAGE} like {IMAGE}?",
    ),
    "MiniCPM": (said("<image_00> or <image_01>?", **BOTH), "ab", f"{IMAGE} or {IMAGE}?"),
    "MiniCPM, named": (
        said("<image_01> or <image_00>?", image={"<image_00>": "b.png", "<image_01>": "a.png"}),
        "ab",
        f"{IMAGE} or {IMAGE}?",
    ),
    "Phi-3": (said("<|image_1|>\nWhat?", images=["a.png"]), "a", f"{IMAGE}\nWhat?"),
    "MMMU": (
        {
            "question": "<image 1> or <image 2>?",
            "answer": "x",
            "image_1": "a.png",
            "image_2": "b.png",
            "image_3": None,
        },
        "ab",
        f"{IMAGE} or {IMAGE}?",
    ),
    "Qwen2-VL": (
        said("<|vision_start|><|image_pad|><|vision_end|>What?", image="a.png"),
        "a",
        f"{IMAGE}What?",
    ),
    "Llama": (said("<|image|>What?", image="a.png"), "a", f"{IMAGE}What?"),
    "LLaVA, its first": (said("<im_start><image><im_end>What?", image="a.png"), "a", f"{IMAGE}What?"),
    "DeepSeek": (said("<image_placeholder>What?", image="a.png"), "a", f"{IMAGE}What?"),
}


@pytest.mark.parametrize("name", IMAGES_OF_OTHERS)
def test_the_marks_of_other_models_stand_for_the_images_that_they_name(tmp_path: Path, name: str) -> None:
    row, images, asked = IMAGES_OF_OTHERS[name]
    dataset = opened(tmp_path, [row])
    assert dataset.findings == []
    [example] = dataset.examples
    assert "".join(image.stem for image in example.images) == images
    assert example.messages[0].text == asked


NOT_READ = {
    "one number of two": (said("<image1>?", **BOTH), "image-marks-differ"),
    "a number without an image": (said("what is in <image1>?"), "image-marks-differ"),
    "two marks for one image": (said("<|image|><|image|>?", image="a.png"), "image-marks-differ"),
    "a number in an answer": (said("which?", "<image1>", image="a.png"), "mark-in-an-answer"),
    "a video": (said("<video>What?", image="a.png"), "mark-of-other-media"),
    "a video's path": (said("<video>v.mp4</video>What?"), "mark-of-other-media"),
    "a sound": (said("<audio>What?"), "mark-of-other-media"),
    "Qwen's video": (said("<|video_pad|>What?", image="a.png"), "mark-of-other-media"),
    "ms-swift's box": (said("<image>Find <ref-object>", "<bbox>", image="a.png"), "boxes-not-read"),
    "Qwen-VL's box": (
        said("Find it", "<ref>cat</ref><box>(1,2),(3,4)</box>", image="a.png"),
        "boxes-not-read",
    ),
    "PaliGemma's box": (
        {"image": "a.png", "prefix": "detect", "suffix": "<loc0001><loc0002> cat"},
        "boxes-not-read",
    ),
    "a box in JSON": (said("Find it", '[{"bbox_2d": [1, 2, 3, 4]}]', image="a.png"), "boxes-not-read"),
    "boxes alone": (
        {"image": "a.png", "objects": {"bbox": [[1, 2, 3, 4]], "category": [1]}},
        "boxes-not-read",
    ),
    "a box's class": (
        {"filename": "a.png", "class": "cat", "xmin": 1, "ymin": 1, "xmax": 2, "ymax": 2},
        "boxes-not-read",
    ),
    "CreateML": (
        {"image": "a.png", "annotations": [{"label": "cat", "coordinates": {"x": 1}}]},
        "boxes-not-read",
    ),
}


@pytest.mark.parametrize("name", NOT_READ)
def test_a_mark_of_what_is_not_read_refuses_its_line_alone(tmp_path: Path, name: str) -> None:
    row, code = NOT_READ[name]
    dataset = opened(tmp_path, [{"image": "b.png", "text": "good"}, row])
    assert [(finding.code, finding.place) for finding in dataset.findings] == [(code, "train.jsonl:2")]
    assert [example.answer for example in dataset.examples] == ["good"]


def test_words_that_only_look_like_marks_are_learned_as_they_are(tmp_path: Path) -> None:
    html = "<video></video><img src='a.png'><div>[1]</div>"
    dataset = opened(tmp_path, [said("Write its HTML: a < b", html, image="a.png")])
    assert [example.answer for example in dataset.examples] == [html]
    assert dataset.findings == []


@pytest.mark.parametrize("text", ["Look at images/1.png", "What is in <pic>?"])
def test_texts_that_name_images_while_most_rows_have_none_are_told(tmp_path: Path, text: str) -> None:
    dataset = opened(tmp_path, [said(text), said(text), said("What?", image="a.png")])
    [warning] = dataset.warnings
    assert (warning.code, len(warning.row_ids)) == ("texts-name-images", 2)
    assert opened(tmp_path, [said(text), said("a", image="a.png"), said("b", image="b.png")]).warnings == []


def turns(*said: tuple[str, dict[str, object]]) -> dict[str, object]:
    """Questions, each with its answer and what the answer's turn says besides."""
    listed = [
        [{"role": "user", "content": "?"}, {"role": "assistant", "content": a} | more] for a, more in said
    ]
    return {"images": ["a.png"], "messages": [turn for pair in listed for turn in pair]}


@pytest.mark.parametrize(
    "says",
    [
        {"weight": 0},
        {"weight": 0.0},
        {"loss": False},
        {"loss_mask": 0},
        {"train_on_turn": False},
        {"train": False},
    ],
    ids=str,
)
def test_a_turn_that_says_so_is_read_and_not_learned(tmp_path: Path, says: dict[str, object]) -> None:
    rows = [
        turns(("wrong", says), ("right", {})),
        turns(("right", {}), ("wrong", says)),
        turns(("wrong", says)),
    ]
    dataset = opened(tmp_path, rows)
    first, cut = dataset.examples
    assert [(turn.text, turn.learned) for turn in first.messages[1::2]] == [("wrong", False), ("right", True)]
    # What is learned does not depend on what comes after it.
    assert [(turn.text, turn.learned) for turn in cut.messages[1::2]] == [("right", True)]
    assert [finding.code for finding in dataset.findings] == ["no-turn-is-learned"]


def test_a_turn_that_is_not_learned_stays_so_when_it_is_exported(tmp_path: Path) -> None:
    dataset = opened(tmp_path, [turns(("wrong", {"weight": 0}), ("right", {"weight": 1}))])
    export_dataset(dataset, tmp_path / "out", "messages")
    again = open_dataset(str(tmp_path / "out"), tmp_path)
    assert [example.messages for example in again.examples] == [
        example.messages for example in dataset.examples
    ]


def test_keys_of_turns_that_say_nothing_here_are_listed(tmp_path: Path) -> None:
    dataset = opened(
        tmp_path, [turns(("a", {"name": "Bob", "weight": 1})), turns(("b", {"emotion": "glad"}))]
    )
    assert [(found.code, found.values["keys"]) for found in dataset.warnings] == [
        ("turn-keys-ignored", ["'emotion'", "'name'"])
    ]


PAGE = {"store": "Quán Gió", "items": [{"n": 2}]}
# A row, and what is learned of it.
COLUMNS = {
    "ChartQA": ({"imgname": "a.png", "query": "?", "label": "14"}, "?", "14"),
    "ChartQA, a list": ({"imgname": "a.png", "query": "?", "label": ["14"]}, "?", "14"),
    "VQA-RAD, a number": ({"image_name": "a.png", "question": "?", "answer": 2}, "?", "2"),
    "a fraction": ({"img_name": "a.png", "question": "?", "answer": 3.5}, "?", "3.5"),
    "half of a pair elsewhere": ({"image": "a.png", "question": "?", "response": "x"}, "?", "x"),
    "PaliGemma": ({"image": "a.png", "prefix": "caption en", "suffix": "a cat"}, "caption en", "a cat"),
    "Donut": (
        {"file_name": "a.png", "ground_truth": json.dumps({"gt_parse": PAGE})},
        "",
        '{"store":"Quán Gió","items":[{"n":2}]}',
    ),
    "an object": (
        {"image": "a.png", "question": "?", "answer": PAGE},
        "?",
        '{"store":"Quán Gió","items":[{"n":2}]}',
    ),
    "objects": (
        {"image": "a.png", "question": "?", "answer": [{"z": 1}, {"a": 2}]},
        "?",
        '[{"z":1},{"a":2}]',
    ),
    "ScienceQA": (
        {"image": "a.png", "question": "Which?", "choices": ["cat", "dog"], "answer": 1},
        "Which?\nA. cat\nB. dog",
        "dog",
    ),
    "A-OKVQA": (
        {"image": "a.png", "question": "Which?", "choices": ["cat", "dog"], "correct_choice_idx": 0},
        "Which?\nA. cat\nB. dog",
        "cat",
    ),
    "MMMU": (
        {"image_1": "a.png", "question": "Which?", "options": "['cat', 'dog']", "answer": "B"},
        "Which?\nA. cat\nB. dog",
        "dog",
    ),
    "MMBench": (
        {"image": "a.png", "question": "Which?", "A": "cat", "B": "dog", "answer": "A"},
        "Which?\nA. cat\nB. dog",
        "cat",
    ),
    "a table of labels": ({"filename": "a.png", "label": "cat"}, "What is this?", "cat"),
    "a class": ({"filename": "a.png", "class": "cat"}, "What is this?", "cat"),
    "a label beside a caption": ({"image": "a.png", "text": "a cat sits", "label": 3}, "", "a cat sits"),
    "an id without an ending": ({"image_id": "a", "question": "?", "answer": "x"}, "?", "x"),
    "Karpathy": ({"filename": "a.png", "sentences": [{"raw": "a cat"}, {"raw": "it"}]}, "", "a cat"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_that_public_datasets_have_are_known(tmp_path: Path, name: str) -> None:
    row, question, answer = COLUMNS[name]
    dataset = opened(tmp_path, [row])
    assert dataset.findings == []
    [example] = dataset.examples
    assert (example.question, example.answer) == (question, answer)
    assert [image.name for image in example.images] == ["a.png"]


def test_a_question_that_is_given_is_asked_where_rows_have_none(tmp_path: Path) -> None:
    rows = [
        {"image": "a.png", "label": "cat"},
        {"image": "b.png", "text": "a dog runs"},
        {"image": "c.png", "question": "Its own?", "answer": "yes"},
    ]
    dataset = opened(tmp_path, rows, question="Which animal?")
    asked = [(example.question, example.answer) for example in dataset.examples]
    assert asked == [("Which animal?", "cat"), ("Which animal?", "a dog runs"), ("Its own?", "yes")]
    assert [example.question for example in opened(tmp_path, rows).examples] == [
        "What is this?",
        "",
        "Its own?",
    ]

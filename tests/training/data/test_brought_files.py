"""Folders and tables as other tools leave them: read as what they are, or refused in words."""

import json
import unicodedata
from pathlib import Path

import pytest

from support.brought import made, opened, picture, told
from training.data.edit.uploads import add_upload
from training.data.open import open_dataset
from vlm.errors import UserError

VIETNAMESE = "Ảnh\tCâu hỏi\tTrả lời\n1.png\tĐây là gì?\thộp\n"
ROW = json.dumps({"image": "1.png", "question": "Đây là gì?", "answer": "hộp"}, ensure_ascii=False)
# Files beside 1.png, and what is read of them.
TABLES = {
    "kaggle": ({"captions.txt": 'image,caption\n1.png,"A box , white"\n'}, [("1.png", "", "A box , white")]),
    "flickr8k": (
        {"F.token.txt": '1.png#0\tA "white" box .\n1.png#1\t"A box"\n'},
        [("1.png", "", 'A "white" box .'), ("1.png", "", '"A box"')],
    ),
    "no header": ({"c.csv": '1.png,"A box, white"\n'}, [("1.png", "", "A box, white")]),
    "flickr30k": (
        {"r.csv": 'image_name| comment_number| comment\n1.png| 0| Two , "x .\n'},
        [("1.png", "", 'Two , "x .')],
    ),
    "pipes": ({"c.csv": "image|question|answer\n1.png|What, x?|a; b\n"}, [("1.png", "What, x?", "a; b")]),
    "tabs": ({"c.tsv": "image\tquestion\tanswer\n1.png\tWhat?\ta b\n"}, [("1.png", "What?", "a b")]),
    "semicolons": ({"c.txt": "image;caption\n1.png;a, b\n"}, [("1.png", "", "a, b")]),
    "Excel's text": ({"U.txt": VIETNAMESE.encode("utf-16")}, [("1.png", "Đây là gì?", "hộp")]),
    "UTF-16 CSV": ({"U.csv": VIETNAMESE.encode("utf-16")}, [("1.png", "Đây là gì?", "hộp")]),
    "UTF-16 JSONL": ({"u.jsonl": ROW.encode("utf-16")}, [("1.png", "Đây là gì?", "hộp")]),
    "UTF-16 JSON": ({"u.json": f"[{ROW}]".encode("utf-16")}, [("1.png", "Đây là gì?", "hộp")]),
    "UTF-16 caption": ({"1.txt": "hộp".encode("utf-16")}, [("1.png", "", "hộp")]),
    "keyed by id": (
        {"k.json": json.dumps({"7": {"image": "1.png", "question": "?", "answer": "x"}})},
        [("1.png", "?", "x")],
    ),
    "keyed by image": ({"k.json": '{"1.png": {"caption": "x"}}'}, [("1.png", "", "x")]),
    "captions by image": ({"k.json": '{"1.png": ["x", "y"]}'}, [("1.png", "", "x")]),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_read_whatever_stands_between_their_cells(tmp_path: Path, name: str) -> None:
    files, expected = TABLES[name]
    dataset = opened(tmp_path, {"1.png": None, **files})
    assert dataset.findings == []
    assert told(dataset) == expected


def test_parts_of_one_document_are_its_splits(tmp_path: Path) -> None:
    parts = {"train": [{"image": "1.png", "text": "a"}], "test": [{"image": "2.png", "text": "b"}]}
    dataset = opened(tmp_path, {"1.png": None, "2.png": None, "all.json": json.dumps(parts)})
    assert [example.id in dataset.held_out for example in dataset.examples] == [False, True]


PAGES = {
    "Windows-1258": b"\xd0\xe2y l\xe0 gi\xcc? m\xf4\xf2t c\xe1i h\xf4\xf2p m\xe0u \xf0o\xd2",
    "Windows-1252": "une boîte très élégante".encode("cp1252"),
    "Shift-JIS": "これは赤い箱です".encode("cp932"),
    "GBK": "这是一个红色的盒子".encode("gbk"),
    "EUC-KR": "이것은 빨간 상자입니다".encode("cp949"),
    "Windows-1251": "красная коробка".encode("cp1251"),
}


@pytest.mark.parametrize("page", PAGES)
def test_a_legacy_code_page_is_refused_and_named(tmp_path: Path, page: str) -> None:
    files = {"1.png": None, "c.csv": b"image;text\n1.png;" + PAGES[page] + b"\n"}
    [finding] = opened(tmp_path, files).findings
    assert (finding.code, finding.place) == ("line-not-utf-8", "c.csv:2")
    assert page in finding.reason
    with pytest.raises(UserError, match=page) as refused:
        opened(tmp_path / "json", {"c.json": b'[\n{"text": "' + PAGES[page] + b'"}]'})
    assert refused.value.code == "json-not-text"


@pytest.mark.parametrize("name", ["u.jsonl", "u.json"])
def test_utf_16_that_breaks_off_is_told(tmp_path: Path, name: str) -> None:
    cut = f"[{ROW}]".encode("utf-16")[:-1]
    if name == "u.jsonl":
        assert [found.code for found in opened(tmp_path, {name: cut}).findings] == ["rows-utf-16"]
    else:
        with pytest.raises(UserError) as refused:
            opened(tmp_path, {name: cut})
        assert refused.value.code == "json-utf-16"


WHAT = "What is this?"
CLASSES = {
    "plain": (
        {"cat/1.png": None, "dog/2.png": None},
        [("cat/1.png", WHAT, "cat"), ("dog/2.png", WHAT, "dog")],
    ),
    "wrapped": (
        {"x/cat/1.png": None, "x/dog/2.png": None},
        [("cat/1.png", WHAT, "cat"), ("dog/2.png", WHAT, "dog")],
    ),
    "deeper": (
        {"cat/a/1.png": None, "dog/b/2.png": None},
        [("cat/a/1.png", WHAT, "cat"), ("dog/b/2.png", WHAT, "dog")],
    ),
    "Vietnamese": (
        {"quả cam/1.png": None, "quả ổi/2.png": None},
        [("quả cam/1.png", "Đây là gì?", "quả cam"), ("quả ổi/2.png", "Đây là gì?", "quả ổi")],
    ),
}


@pytest.mark.parametrize("name", CLASSES)
def test_folders_of_pictures_are_classes(tmp_path: Path, name: str) -> None:
    files, expected = CLASSES[name]
    assert told(opened(tmp_path, files)) == expected


def test_splits_above_the_classes_are_kept_and_the_question_may_be_given(tmp_path: Path) -> None:
    files = {"train/cat/1.png": None, "train/dog/2.png": None, "val/cat/3.png": None}
    dataset = opened(tmp_path, files, question="Which animal?")
    assert dataset.parts == {"train": 2, "val": 1}
    assert [(e.question, e.answer, e.id in dataset.held_out) for e in dataset.examples] == [
        ("Which animal?", "cat", False),
        ("Which animal?", "dog", False),
        ("Which animal?", "cat", True),
    ]


@pytest.mark.parametrize(
    "names",
    [("images/1.png", "masks/1.png"), ("train/1.png", "val/2.png"), ("cat/1.png",), ("1.png", "x/2.png")],
)
def test_folders_that_are_called_after_no_class_are_none(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as refused:
        opened(tmp_path, dict.fromkeys(names))
    assert refused.value.code == "folder-of-pictures"


def test_a_dropped_folder_with_subfolders_is_a_dataset_of_classes(tmp_path: Path) -> None:
    names = ["pets/cat/1.png", "pets/cat/2.png", "pets/dog/1.png"]
    files = [made(tmp_path / "sent", {f"{number}.png": None}) / f"{number}.png" for number in range(3)]
    name = add_upload(files, tmp_path, names)
    dataset = open_dataset(name, tmp_path)
    assert (name, [answer for _, _, answer in told(dataset)]) == ("pets", ["cat", "cat", "dog"])


LABELME = json.dumps({"version": "5", "shapes": [{"points": [[1, 2], [3, 4]]}], "imagePath": "1.png"})
VIA = {"1.png9": {"filename": "1.png", "regions": [{"shape_attributes": {"name": "rect"}}]}}
COCO = json.dumps(
    {"images": [{"id": 1, "file_name": "1.png"}], "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]}
)
STUDIO = [{"data": {"image": "1.png"}, "annotations": [{"result": [{"value": {"rectanglelabels": ["x"]}}]}]}]
YOLO = "0 0.302 0.328 0.396 0.344\n1 0.5 0.5 1 .25\n"
BOXES = {
    "YOLO beside": {"1.txt": YOLO, "classes.txt": "box\n"},
    "YOLO with confidence": {"1.txt": "0 0.3 0.3 0.3 0.3 0.97\n"},
    "YOLO polygons": {"1.txt": "0 0.1 0.2 0.3 0.4 0.5 0.6\n"},
    "Ultralytics": {"images/train/2.png": None, "labels/train/2.txt": YOLO, "data.yaml": "nc: 1\n"},
    "Roboflow's YOLO": {"train/images/2.png": None, "train/labels/2.txt": YOLO, "README.txt": "Thanks\n"},
    "COCO": {"_annotations.coco.json": COCO},
    "COCO as downloaded": {
        "annotations/instances_train2017.json": COCO,
        "annotations/instances_val2017.json": COCO,
    },
    "VOC": {
        "JPEGImages/2.png": None,
        "Annotations/2.xml": "<annotation><object><bndbox/></object></annotation>".replace(
            "<bndbox/>", "<bndbox></bndbox>"
        ),
    },
    "labelme beside": {"1.json": LABELME},
    "labelme": {"2.png": None, "x/1.json": LABELME, "x/2.json": LABELME},
    "labelme alone": {"x.json": LABELME},
    "VIA": {"via.json": json.dumps(VIA)},
    "VIA 2": {"via.json": json.dumps({"_via_settings": {}, "_via_img_metadata": VIA, "_via_version": "2"})},
    "VIA's table": {"via.csv": 'filename,region_count,region_shape_attributes\n1.png,1,"{}"\n'},
    "TensorFlow's table": {"_annotations.csv": "filename,class,xmin,ymin,xmax,ymax\n1.png,cat,1,2,3,4\n"},
    "Label Studio": {"export.json": json.dumps(STUDIO)},
}


@pytest.mark.parametrize("name", BOXES)
def test_boxes_are_recognised_and_never_learned_as_text(tmp_path: Path, name: str) -> None:
    try:
        dataset = opened(tmp_path, {"1.png": None, **BOXES[name]})
    except UserError as refused:
        codes, examples = {refused.code}, []
    else:
        codes, examples = {finding.code for finding in dataset.findings}, dataset.examples
    assert codes == {"boxes-not-read"}
    assert examples == []


def test_numbers_that_are_a_caption_are_no_boxes(tmp_path: Path) -> None:
    dataset = opened(tmp_path, {"1.png": None, "1.txt": "3 apples, 0.5 kg"})
    assert [example.answer for example in dataset.examples] == ["3 apples, 0.5 kg"]


@pytest.mark.parametrize(("of_rows", "of_files"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_match_in_either_spelling_of_the_same_letters(
    tmp_path: Path, of_rows: str, of_files: str
) -> None:
    name = "ảnh/ảnh đỏ.png"
    row = json.dumps({"image": unicodedata.normalize(of_rows, name), "text": "đỏ"})
    files = {unicodedata.normalize(of_files, name): picture(), "train.jsonl": row}
    dataset = opened(tmp_path, files)
    assert dataset.findings == []
    assert [example.answer for example in dataset.examples] == ["đỏ"]


def test_another_case_is_still_a_finding_that_names_the_file(tmp_path: Path) -> None:
    rows = '{"image": "1.png", "text": "a"}\n{"image": "cat.PNG", "text": "b"}'
    [finding] = opened(tmp_path, {"1.png": None, "cat.png": None, "train.jsonl": rows}).findings
    assert (finding.code, finding.values["nearest"]) == ("image-elsewhere", "'cat.png'")


def of(*images: object) -> str:
    return "".join(json.dumps({"image": image, "text": "x"}) + "\n" for image in images)


HERE = {"images/photo 0.png": None, "images/photo 1.png": None}
# Paths that are wrong alike and lack something: it is found, and said once.
FOUND = {
    "a folder": (of("photo 0.png", "photo 1.png"), "images-in-another-folder"),
    "backslashes": (of(".\\images\\photo 0.png", "images\\photo 1.png"), None),
    "an ending": (of("photo 0", "photo 1"), "images-without-ending"),
    "a folder, with one file missing": (
        of("photo 0.png", "photo 1.png", "gone.png"),
        "images-in-another-folder",
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_all_paths_lack_is_found_and_said_once(tmp_path: Path, name: str) -> None:
    rows, code = FOUND[name]
    dataset = opened(tmp_path, HERE | {"train.jsonl": rows})
    assert [image for image, _, _ in told(dataset)] == [*HERE]
    assert [warning.code for warning in dataset.warnings] == ([code] if code else [])


BEGINNINGS = [
    "/content/drive/MyDrive/data/",
    "C:\\Users\\me\\data\\",
    "data/train/",
    "../",
    "file:///old/me/",
    "https://host.example/data/",
]


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_wrong_beginning_is_named_once_and_its_remedy_mends_all_rows(
    tmp_path: Path, beginning: str
) -> None:
    joint = "\\" if "\\" in beginning else "/"
    rows = of(*(f"{beginning}images{joint}photo {number}.png" for number in (0, 1)))
    dataset = opened(tmp_path, HERE | {"train.jsonl": rows})
    [finding] = dataset.findings
    assert (finding.code, len(finding.row_ids), dataset.lost) == ("images-begin-elsewhere", 2, 2)
    assert finding.values["beginning"] == f"'{beginning}'".replace("\\", "/")
    again = opened(tmp_path, HERE | {"train.jsonl": rows}, image_root=finding.values["root"])
    assert [image for image, _, _ in told(again)] == [*HERE]
    assert again.findings == []


def test_the_folder_of_the_images_may_be_given(tmp_path: Path) -> None:
    rows = of("photo 0.png", "/mnt/old/images/photo 1.png", "/mnt/../photo 0.png")
    dataset = opened(tmp_path, HERE | {"train.jsonl": rows}, image_root="images")
    assert [image for image, _, _ in told(dataset)] == [*HERE, "images/photo 0.png"]
    for root, code in (
        ("gone", "image-root-missing"),
        ("../..", "image-path-outside"),
        ("/etc", "image-path-absolute"),
    ):
        with pytest.raises(UserError) as refused:
            opened(tmp_path, {}, image_root=root)
        assert refused.value.code == code


def test_no_path_leads_out_of_the_dataset_by_the_folder_of_its_images(tmp_path: Path) -> None:
    made(tmp_path, {"secret.png": None})
    rows = of(f"{tmp_path}/secret.png", "../secret.png", "images/../../secret.png")
    dataset = opened(tmp_path, HERE | {"train.jsonl": rows}, image_root="images")
    assert dataset.examples == []
    assert len(dataset.findings) == 3


LISTED = {
    "words": {"file_name": "words.json"},
    "mllm_demo": {"file_name": "demo.json", "columns": {"prompt": "q", "response": "a", "images": "images"}},
}


def test_one_of_several_datasets_in_a_folder_is_taken_by_its_name(tmp_path: Path) -> None:
    demo = json.dumps([{"q": "<image>?", "a": "x", "images": ["1.png"]}])
    files = {"dataset_info.json": json.dumps(LISTED), "words.json": "[]", "demo.json": demo, "1.png": None}
    with pytest.raises(UserError) as refused:
        opened(tmp_path, files)
    # Those with images come first, and the remedy opens the first.
    assert refused.value.values["names"] == ["'mllm_demo'", "'words'"]
    dataset = open_dataset(refused.value.values["source"], tmp_path / "workspace")
    assert (dataset.name, told(dataset)) == ("mllm_demo", [("1.png", "?", "x")])
    several = {"a.jsonl": of("1.png"), "b.jsonl": of("1.png", "1.png"), "1.png": None}
    folder = made(tmp_path / "several", several)
    assert len(open_dataset(f"{folder}:b", tmp_path).examples) == 2


def test_of_several_files_those_that_show_pictures_are_offered_first_and_each_opens(tmp_path: Path) -> None:
    words = json.dumps({"question": "Why?", "answer": "so"})
    files = {"a.jsonl": words, "b.csv": "image,caption\n1.png,x\n", "c.jsonl": words, "1.png": None}
    folder, workspace = made(tmp_path / "several", files), tmp_path / "workspace"
    with pytest.raises(UserError) as refused:
        open_dataset(str(folder), workspace)
    offered = [f"{folder}:{name}" for name in "bac"]
    assert refused.value.values["files"] == ["'b.csv'", "'a.jsonl'", "'c.jsonl'"]
    assert refused.value.change == {"dataset": offered}
    first = open_dataset(offered[0], workspace)
    assert (first.name, first.offered, told(first)) == ("b", {"dataset": offered}, [("1.png", "", "x")])
    by_file_name = open_dataset(f"{folder}:c.jsonl", workspace)
    assert [finding.place for finding in by_file_name.findings] == ["c.jsonl:1"], "it has no picture"


@pytest.mark.parametrize(
    "files",
    [
        {"dataset_info.json": json.dumps({"pets": {"file_name": "pets.json"}}), "pets.json": "[]"},
        {"pets.jsonl": of("1.png"), "1.png": None},
    ],
    ids=["a list", "a file"],
)
def test_a_name_that_no_dataset_of_the_folder_has_is_no_other_ones(files: dict, tmp_path: Path) -> None:
    folder = made(tmp_path / "data", files)
    with pytest.raises(UserError, match=r"'data' has no dataset 'pests': it has 'pets'\n") as refused:
        open_dataset(f"{folder}:pests", tmp_path / "workspace")
    assert refused.value.code == "dataset-not-in-folder"
    assert refused.value.change == {"dataset": [f"{folder}:pets"]}


def test_the_splits_that_are_there_are_offered(tmp_path: Path) -> None:
    files = {"train.jsonl": of("1.png"), "val.jsonl": of("2.png"), "test.jsonl": of("3.png")}
    pictures = dict.fromkeys(("1.png", "2.png", "3.png"))
    there = ["test", "train", "val"]
    offered = {"dataset_split": there, "held_out_split": there}
    assert opened(tmp_path, files | pictures).offered == offered
    with pytest.raises(UserError) as refused:
        opened(tmp_path, files, split="dev")
    assert refused.value.change == {"dataset_split": there}
    with pytest.raises(UserError) as refused:
        opened(tmp_path, files, held_out_split="train")
    assert refused.value.change == {"held_out_split": ["test", "val"]}


def test_a_row_beside_a_picture_that_is_no_object_is_told(tmp_path: Path) -> None:
    dataset = opened(tmp_path, {"1.png": None, "1.json": "{", "2.png": None, "2.json": '{"caption": "x"}'})
    assert [(found.code, found.place) for found in dataset.findings] == [("json-beside-no-object", "1.json")]
    assert [example.answer for example in dataset.examples] == ["x"]

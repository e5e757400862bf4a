"""Every dataset, image and text row of the table of bad input, 1 to 69, through `python -m training check`.

A case makes a dataset, and says what must be told and the exit code: 2 where a run would be refused.
Long because it is a table.
"""

import base64
import codecs
import io
import json
import os
import pickle
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image, PngImagePlugin

from support import raised_codes
from support.families import FAMILIES, OTHER_TEXT_MODELS
from support.vietnamese import untranslated
from training.__main__ import main
from training.data.open import open_dataset
from training.runs import checkpoints
from vlm.errors import UserError

LINE = re.compile(r"^(error|warning)?\s*\S.*: .+ -> .+$")


@dataclass(frozen=True)
class Case:
    """One line of the table: how the dataset is made, what is told of it, and the exit code."""

    row: int
    what: str
    make: Callable[[Path], object]
    told: tuple[str, ...] = ()
    code: int = 2
    flags: tuple[str, ...] = ()
    model: str = ""


def pictures(folder: Path) -> None:
    for number, name in enumerate("ab"):
        Image.new("RGB", (16, 16 + number), "red").save(folder / f"{name}.png")


def rows(*values: object, file: str = "train.jsonl") -> Callable[[Path], None]:
    """Writes a.png and b.png, and one line for each value; a text is a line as it stands."""

    def make(folder: Path) -> None:
        pictures(folder)
        lines = [value if isinstance(value, str) else json.dumps(value) for value in values]
        (folder / file).write_text("\n".join(lines), encoding="utf-8")

    return make


def content(data: bytes | str, file: str = "train.jsonl") -> Callable[[Path], None]:
    """Writes a.png and b.png, and a file of rows with this content."""

    def make(folder: Path) -> None:
        pictures(folder)
        (folder / file).write_bytes(data if isinstance(data, bytes) else data.encode())

    return make


def shown(data: Callable[[], bytes] | Image.Image, name: str = "x.png", **options: object) -> Callable:
    """A good row, and one that shows this picture."""

    def make(folder: Path) -> None:
        if isinstance(data, Image.Image):
            data.save(folder / name, **options)
        else:
            (folder / name).write_bytes(data())
        rows(GOOD, GOOD_B, {"image": name, "text": "a picture"})(folder)

    return make


def row(**changes: object) -> dict[str, object]:
    return {"image": "a.png", "question": "Which colour?", "answer": "red"} | changes


def talk(*roles: str) -> dict[str, object]:
    return {"image": "a.png", "messages": [{"role": role, "content": f"{role} speaks"} for role in roles]}


def refers_to(reference: object) -> Callable[[Path], None]:
    return rows(GOOD, {"image": reference, "text": "x"})


GOOD, GOOD_B = {"image": "a.png", "text": "a red square"}, {"image": "b.png", "text": "a taller one"}
BOTH = (json.dumps(GOOD) + "\n" + json.dumps(GOOD_B) + "\n").encode()
PIXELS = base64.b64encode(b"\x89PNG" + bytes(range(256)) * 40).decode()


def picture_bytes(kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, kind)
    return file.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and carries no pixels."""
    return png_chunks(width, height, [])


def png_chunks(width: int, height: int, extra: list[tuple[bytes, bytes]]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width + 1) * height if width * height < 1000 else 1))
    chunks = [(b"IHDR", header), *extra, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def png_with_a_bomb(chunk: str) -> bytes:
    file, info = io.BytesIO(), PngImagePlugin.PngInfo()
    if chunk == "zTXt":
        info.add_text("Comment", "x" * 5_000_000, zip=True)
    else:
        return png_chunks(8, 8, [(b"iCCP", b"profile\0\0" + zlib.compress(b"\0" * 5_000_000))])
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def a_line_of_500_mb(folder: Path) -> None:
    content(BOTH)(folder)
    with (folder / "train.jsonl").open("ab") as file:
        file.truncate(500_000_000)


def renamed(make_file: Callable[[Path], object]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        pictures(folder)
        make_file(folder / "other")
        (folder / "other").rename(folder / "train.jsonl")

    return make


def zipped(name: str, data: bytes = b"x", **attributes: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "evil.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("metadata.jsonl", json.dumps(GOOD))
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            for attribute, value in attributes.items():
                setattr(entry, attribute, value)
            archive.writestr(entry, data)
        return folder / "evil.zip"

    return make


def hidden_alone(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "hidden.zip", "w") as archive:
        archive.writestr("pictures/.DS_Store", b"x")
        archive.writestr("__MACOSX/pictures/._a.png", b"x")
    return folder / "hidden.zip"


def a_million_entries(folder: Path) -> Path:
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, *[0] * 4, *[0] * 3, 1, *[0] * 4, 0, 0) + b"a"
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(entry) * 1_000_000, 0, 0)
    (folder / "many.zip").write_bytes(entry * 1_000_000 + end)
    return folder / "many.zip"


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "train.jsonl")
    return folder / "train.jsonl"


def an_image_that_is_a_pipe(folder: Path) -> None:
    refers_to("pipe.png")(folder)
    os.mkfifo(folder / "pipe.png")


def a_link_out(folder: Path) -> None:
    refers_to("link.png")(folder)
    Image.new("RGB", (8, 8)).save(folder.parent / "secret.png")
    (folder / "link.png").symlink_to(folder.parent / "secret.png")


def another_spelling(folder: Path) -> None:
    refers_to(unicodedata.normalize("NFC", "mèo.png"))(folder)
    (folder / "a.png").with_name(unicodedata.normalize("NFD", "mèo.png")).write_bytes(picture_bytes())


def a_split_that_overlaps(folder: Path) -> None:
    rows(GOOD | {"split": "train"}, GOOD_B | {"split": "train"}, GOOD | {"text": "x", "split": "test"})(
        folder
    )


def animation() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def palette_with_a_hole() -> Image.Image:
    image = Image.new("P", (8, 8), 0)
    image.info["transparency"] = 0
    return image


def rotated() -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10), "red").save(file, "JPEG", exif=exif)
    return file.getvalue()


FILE_CASES = [
    Case(1, "broken JSON", rows(GOOD, '{"image": red}'), ("train.jsonl:2: not valid JSON at column 11",)),
    Case(1, "in a list", content(b"[{},\n{]", "a.json"), ("a.json:2: not valid JSON at column 2",)),
    Case(2, "byte order mark", content(codecs.BOM_UTF8 + BOTH), code=0),
    Case(
        3,
        "Latin-1",
        content(BOTH + b'{"text": "caf\xe9"}'),
        ("train.jsonl:3: the line is not UTF-8 but probably Windows-1252 -> Save the",),
    ),
    Case(4, "UTF-16", content(BOTH.decode().encode("utf-16")), code=0),
    Case(
        4,
        "UTF-16 that breaks off",
        content(BOTH.decode().encode("utf-16")[:-1]),
        ("train.jsonl: the file is UTF-16 that breaks off -> Save it",),
    ),
    Case(
        4,
        "UTF-16 without a mark",
        content(BOTH.decode().encode("utf-16-le")),
        ("train.jsonl:1: the line holds a NUL",),
    ),
    Case(5, "NUL byte", content(BOTH + b"\0\n"), ("train.jsonl:3: the line holds a NUL byte",)),
    Case(6, "blank lines", content(b"\n\n" + BOTH.replace(b"\n", b"\n\n \n")), code=0),
    Case(7, "empty file", content(b""), ("train.jsonl: 0 examples",)),
    Case(7, "empty list", content(b"[]", "train.json"), ("train.json: 0 examples",)),
    Case(7, "empty JSON", content(b"", "train.json"), ("train.json: 0 examples",)),
    Case(7, "empty CSV", content(b"", "train.csv"), ("train.csv: 0 examples",)),
    Case(8, "only a header", content(b"image,text\n", "train.csv"), ("train.csv: 0 examples",)),
    Case(8, "one row", rows(GOOD), ("1 example: nothing can be held out",), 0),
    Case(9, "500 MB in a line", a_line_of_500_mb, ("train.jsonl:3: the line is longer than 16 million",)),
    Case(
        10,
        "missing column",
        rows(GOOD, {"pic": "a.png", "caption": "x"}),
        ("train.jsonl:2: no image: the row has the columns 'pic', 'caption' -> Give --columns image=pic",),
    ),
    Case(11, "unknown columns", rows(GOOD | {"licence": "y"}, GOOD_B), ("ignored: 'licence'",), 0),
    Case(12, "mixed types", rows(row(), row(answer=3), row(answer=[1])), code=0),
    Case(
        12,
        "a switch",
        rows(row(), row(answer=True)),
        ("train.jsonl:2: answer is true or false, not text",),
    ),
    Case(
        13, "same ids", rows(row(id=7), row(id=7, question="And?")), ("1 id stands in more than one row",), 0
    ),
    Case(13, "same rows", rows(GOOD, GOOD, GOOD_B), ("1 row repeats others",), 0),
    Case(14, "overlap", a_split_that_overlaps, ("1 held-out row shows a picture that is trained on",), 0),
    Case(
        15, "val_size=5", rows(GOOD, GOOD_B), ("--held_out: '5' can't be used.",), flags=("--held_out", "5")
    ),
    Case(
        16,
        "assistant first",
        rows(GOOD, talk("assistant", "user")),
        ("train.jsonl:2: the roles come as assistant",),
    ),
    Case(
        16,
        "user last",
        rows(GOOD, talk("user", "assistant", "user")),
        ("train.jsonl:2: the roles come as user",),
    ),
    Case(
        17,
        "all rows invalid",
        rows({"image": "a.png"}, {}),
        ("train.jsonl:1: no text", "train.jsonl:2: no image", "A run would be refused"),
    ),
    Case(17, "none left", rows({"image": "a.png"}), ("A run would",), flags=("--skip_bad_rows",)),
    Case(
        18,
        "some rows invalid",
        rows(GOOD, GOOD_B, {}, {}),
        ("train.jsonl:3: no image", "train.jsonl:4: no image"),
    ),
    Case(18, "skipped", rows(GOOD, GOOD_B, {}), ("train.jsonl:3: no image",), 0, ("--skip_bad_rows",)),
    Case(19, "CRLF", content(BOTH.replace(b"\n", b"\r\n")), code=0),
    Case(19, "CR alone", content(BOTH.replace(b"\n", b"\r")), code=0),
    Case(
        20,
        "formula cells",
        content('image,text\na.png,"=HYPERLINK(""http://x"")"\nb.png,+1\n', "train.csv"),
        code=0,
    ),
    Case(
        21,
        "Parquet as JSONL",
        renamed(lambda path: pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), path)),
        ("'train.jsonl' is a Parquet file, not .jsonl", "Call it .parquet"),
    ),
    Case(21, "a pickle", renamed(lambda path: path.write_bytes(pickle.dumps([1, 2]))), ("is a pickle",)),
    Case(21, "a program", content("import os\nprint(1)\n"), ("train.jsonl:1: not valid JSON",)),
    Case(22, "a way out", zipped("../x.png"), ("'../x.png' leads outside",)),
    Case(
        22,
        "a link",
        zipped("a.png", b"/etc/hostname", external_attr=(stat.S_IFLNK | 0o777) << 16),
        ("is a link",),
    ),
    Case(22, "hidden files alone", hidden_alone, ("holds no files, or hidden ones alone",)),
    Case(22, "a bomb", zipped("a.txt", bytes(20_000_000)), ("unpacks to more than 100 times its size",)),
    Case(22, "a million entries", a_million_entries, ("holds more than 200,000 files",)),
    Case(24, "a pipe", a_pipe, ("is a named pipe, not a file",)),
    Case(24, "an image is a pipe", an_image_that_is_a_pipe, ("train.jsonl:2: 'pipe.png' is a named pipe",)),
    Case(24, "a device", lambda folder: Path("/dev/zero"), ("is no dataset",)),
    Case(
        24,
        "a folder for a file",
        lambda folder: (folder / "metadata.jsonl").mkdir(),
        ("is a folder, not a file",),
    ),
]

REFERENCE_CASES = [
    Case(
        25,
        "missing files",
        rows(GOOD, {"image": ["x.png", "y.png"], "text": "x"}),
        ("train.jsonl:2: 'x.png' does not exist", "train.jsonl:2: 'y.png' does not exist"),
    ),
    Case(26, "parent folder", refers_to("../../x.jpg"), ("'../../x.jpg' lies outside the dataset folder",)),
    Case(27, "absolute path", refers_to("/etc/hostname"), ("'/etc/hostname' is an absolute path",)),
    Case(28, "home", refers_to("~/.ssh/x"), ("begins with ~, which is not expanded",)),
    Case(29, "a link out", a_link_out, ("'link.png' is a link that leads outside",)),
    Case(30, "a web address", refers_to("http://127.0.0.1/x.png"), ("URLs are not fetched; download first",)),
    Case(31, "file:", refers_to("file:///etc/hostname"), ("a file: address is not followed",)),
    Case(31, "data:", refers_to(f"data:image/png;base64,{PIXELS}"), ("image data stands in the row itself",)),
    Case(31, "base64", refers_to(PIXELS), ("image data stands in the row itself",)),
    Case(32, "capitals", refers_to("A.PNG"), ("'A.PNG' does not exist -> Write 'a.png', which exists",)),
    Case(32, "accents", another_spelling, code=0),
    Case(
        33,
        "ten images",
        rows(GOOD, row(image=["a.png", "b.png"] * 5)),
        ("train.jsonl:2: the row has 10 images: this model takes exactly one",),
        model="composed",
    ),
    Case(
        33,
        "ten images that it takes",
        rows(GOOD, row(image=["a.png", "b.png"] * 5)),
        code=0,
        model="qwen2_vl",
    ),
    Case(34, "null and no question", rows(GOOD, {"image": None, "text": "x"}), ("train.jsonl:2: no image",)),
    Case(34, "text alone", rows(GOOD, row(image=None), row(images=[], image=None)), code=0),
    Case(
        34,
        "text alone refers",
        rows(GOOD, row(image=[], question="<image>?")),
        ("1 <image> in the text for 0",),
    ),
    Case(
        34,
        "null in a list",
        rows(GOOD, row(image=[None])),
        ("train.jsonl:2: an image must be a path, not null",),
    ),
]

IMAGE_CASES = [
    Case(
        35,
        "truncated JPEG",
        shown(lambda: picture_bytes("JPEG")[:1000], "x.jpg"),
        ("'x.jpg' can't be decoded",),
    ),
    Case(36, "zero bytes", shown(lambda: b""), ("'x.png' is not an image", "it is empty")),
    Case(36, "text", shown(lambda: b"hello"), ("'x.png' is not an image",)),
    Case(36, "an error page", shown(lambda: b"<!DOCTYPE html><html>"), ("it is a web page",)),
    Case(37, "1 x 1", shown(Image.new("RGB", (1, 1))), ("the image has 1 x 1 pixels: hardly a picture",), 0),
    Case(37, "2 x 2", shown(Image.new("RGB", (2, 2))), ("2 x 2 pixels",), 0, model="qwen2_vl"),
    Case(38, "3000 x 4", shown(Image.new("RGB", (3000, 4))), ("some models refuse such a strip",), 0),
    Case(
        38,
        "3000 x 4 for one that refuses",
        shown(Image.new("RGB", (3000, 4))),
        ("train.jsonl:3: 'x.png' has 3000 x 4 pixels: this model's processor refuses it: absolute aspect",),
        model="qwen2_vl",
    ),
    Case(38, "3000 x 4 for one that takes it", shown(Image.new("RGB", (3000, 4))), code=0, model="idefics3"),
    Case(39, "30,000 x 30,000", shown(lambda: png_of(30_000, 30_000)), ("has more than 50 megapixels",)),
    Case(40, "12,000 x 12,000", shown(lambda: png_of(12_000, 12_000)), ("has more than 50 megapixels",)),
    Case(41, "100,000 x 1", shown(Image.new("L", (100_000, 1))), ("no model takes such a strip",)),
    Case(42, "CMYK", shown(Image.new("CMYK", (16, 16)), "x.jpg"), code=0),
    Case(43, "16-bit PNG", shown(Image.new("I;16", (16, 16), 40_000)), code=0),
    Case(44, "32-bit float", shown(Image.new("F", (16, 16)), "x.tiff"), ("32 bits in one channel",)),
    Case(44, "32-bit integer", shown(Image.new("I", (16, 16)), "x.tiff"), ("32 bits in one channel",)),
    Case(45, "transparent", shown(Image.new("RGBA", (16, 16), (255, 0, 0, 0))), code=0),
    Case(46, "palette", shown(palette_with_a_hole()), code=0),
    Case(46, "grey and alpha", shown(Image.new("LA", (16, 16))), code=0),
    Case(46, "1 bit", shown(Image.new("1", (16, 16))), code=0),
    Case(47, "an animation", shown(animation, "x.gif"), ("the image has 3 frames: the first is used",), 0),
    Case(48, "turned by EXIF", shown(rotated, "x.jpg"), code=0),
    Case(
        49, "SVG", shown(lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "x.svg"), ("an SVG drawing",)
    ),
    Case(50, "EPS", shown(lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n", "x.eps"), ("an EPS drawing",)),
    Case(50, "a broken PDF", shown(lambda: b"%PDF-1.4\n", "x.pdf"), ("'x.pdf' can't be decoded",)),
    Case(50, "PDF", shown(lambda: picture_bytes("PDF"), "x.pdf"), code=0),
    Case(50, "PSD", shown(lambda: b"8BPS\0\1", "x.psd"), ("a Photoshop file",)),
    Case(50, "FITS", shown(lambda: b"SIMPLE  =                    T", "x.fits"), ("a FITS file",)),
    Case(51, "PNG called JPEG", shown(picture_bytes, "x.jpg"), code=0),
    Case(52, "a zTXt bomb", shown(lambda: png_with_a_bomb("zTXt")), ("'x.png' can't be decoded",)),
    Case(52, "an iCCP bomb", shown(lambda: png_with_a_bomb("iCCP")), ("'x.png' can't be decoded",)),
    Case(53, "NaN", shown(Image.new("F", (16, 16), float("nan")), "x.tiff"), ("32 bits in one channel",)),
    Case(54, "AVIF", shown(lambda: picture_bytes("AVIF"), "x.avif"), code=0),
    Case(
        54,
        "a broken HEIC",
        shown(lambda: b"\0\0\0\x18ftypheic\0\0\0\0", "x.heic"),
        ("not an image of a known format",),
    ),
    Case(54, "JPEG XL", shown(lambda: b"\0\0\0\x0cJXL \r\n\x87\n", "x.jxl"), ("a JPEG XL image",)),
]

QWEN = {"model": "qwen2_vl"}
TEXT_CASES = [
    Case(
        55,
        "empty answer",
        rows(GOOD, row(answer=" \n")),
        ("train.jsonl:2: answer is empty: there is nothing to learn",),
    ),
    Case(56, "empty question", rows(row(), row(question="")), ("1 of 2 rows has no question",), 0),
    Case(
        56,
        "all questions empty",
        rows(row(question=""), row(question="", image="b.png")),
        ("2 of 2 rows",),
        0,
    ),
    Case(
        57,
        "an answer of 1 MB",
        rows(GOOD, row(answer="red blue " * 111_112)),
        ("train.jsonl:2: the row has", "tokens, and 1,024 is the most", "1 of 2 are too long"),
        **QWEN,
    ),
    Case(57, "which no model was asked about", rows(GOOD, row(answer="red blue " * 111_112)), code=0),
    Case(
        58,
        "image tokens cut off",
        shown(Image.new("RGB", (400, 300))),
        (
            "train.jsonl:3: 1 image and the template take",
            "image tokens would be cut off -> Give --max_length",
        ),
        flags=("--max_length", "40"),
        **QWEN,
    ),
    Case(
        59,
        "an image token",
        rows(GOOD, row(question="what is <|image_pad|>?")),
        ("train.jsonl:2: turn 1 holds '<|image_pad|>', a control token of this model",),
        **QWEN,
    ),
    Case(
        60,
        "<image> in a question",
        rows(GOOD, row(question="<image><image>?")),
        ("2 <image> in the text for 1",),
    ),
    Case(
        60,
        "<image> in an answer",
        rows(GOOD, row(answer="<image>")),
        ("has <image> in what the model should",),
    ),
    Case(
        61,
        "another turn",
        rows(GOOD, row(question="hi<|im_end|><|im_start|>assistant")),
        ("train.jsonl:2: turn 1 holds '<|im_end|>', '<|im_start|>', a control token",),
        **QWEN,
    ),
    Case(
        62,
        "a stop token",
        rows(GOOD, row(answer="red<|im_end|>")),
        ("train.jsonl:2: turn 2 holds '<|im_end|>', which ends this model's answers",),
        **QWEN,
    ),
    Case(
        63,
        "a video token",
        rows(GOOD, row(question="<|video_pad|>")),
        ("train.jsonl:2: the text has '<|video_pad|>': only images are looked at",),
        **QWEN,
    ),
    Case(
        64,
        "fewer <image>",
        rows(GOOD, row(image=["a.png"] * 3, question="<image>?")),
        ("train.jsonl:2: 1 <image> in",),
    ),
    Case(
        64,
        "more <image>",
        rows(GOOD, row(question="<image> <image>")),
        ("train.jsonl:2: 2 <image> in the text for 1",),
    ),
    Case(
        65,
        "NUL",
        rows(GOOD, row(answer="a\0b")),
        ("train.jsonl:2: answer holds a NUL or half a surrogate pair",),
    ),
    Case(
        66,
        "lone surrogate",
        rows(GOOD, row(answer="\ud800")),
        ("train.jsonl:2: answer holds a NUL or half a surrogate",),
    ),
    Case(
        67,
        "strange signs",
        rows(row(answer="\u202eabc\u202c Z̸̧a͜l̷g̕o 👩‍👩‍👧 \ufeffinside"), GOOD_B),
        code=0,
    ),
    Case(
        68, "HTML", rows(row(answer="<script>alert(1)</script><img src=x onerror=alert(1)>"), GOOD_B), code=0
    ),
    Case(
        69,
        "an answer masked to nothing",
        rows(GOOD, row(answer="\u200b\u200d")),
        ("train.jsonl:2: turn 2: this model's tokenizer makes no token of the answer",),
        model="vision-encoder-decoder with BERT",
    ),
]

CASES = FILE_CASES + REFERENCE_CASES + IMAGE_CASES + TEXT_CASES
ELSEWHERE = {23}
"""Rows that a check can't show; each has a test of its own below."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Callable[[str], str]:
    made = {"composed": str(tiny_base)}

    def built(name: str) -> str:
        if name not in made:
            folder = tmp_path_factory.mktemp("model") / "base"
            {**FAMILIES, **OTHER_TEXT_MODELS}[name](folder)
            made[name] = str(folder)
        return made[name]

    return built


@pytest.fixture(autouse=True)
def told_in_vietnamese() -> Iterator[None]:
    """Whatever a case makes the program say, a Vietnamese page says in Vietnamese."""
    yield
    assert [fault for said in [*raised_codes.of_this_test] for fault in untranslated(said)] == []


def test_every_row_of_the_table_has_a_case() -> None:
    assert {case.row for case in CASES} | ELSEWHERE == {*range(1, 70)}


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case.row}: {case.what}") for case in CASES])
def test_bad_input(
    case: Case, tmp_path: Path, models: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    source = case.make(folder)
    source = source if isinstance(source, Path) else folder
    model = ["--model", models(case.model)] if case.model else []
    capsys.readouterr()
    words = ["check", str(source), "--workspace", str(tmp_path / "workspace"), "--all", *case.flags, *model]
    code = main(words)
    output = capsys.readouterr()
    said = output.out + output.err
    assert code == case.code, said
    for text in case.told:
        assert text in said
    assert "Traceback" not in said
    assert max(map(len, said.splitlines())) < 600, "what a dataset says is quoted short"
    if not case.told:
        assert "error" not in said, said
    for line in output.out.splitlines():
        if line.startswith(("error  ", "warning  ")):
            assert LINE.match(line), line
    if source.suffix == ".zip":
        assert not [path for path in tmp_path.rglob("*") if path.name in ("x.png", "a.txt")]


def test_row_23_a_dataset_that_changes_during_a_run_is_not_resumed(tmp_path: Path) -> None:
    rows(GOOD, GOOD_B)(tmp_path)
    before = open_dataset(str(tmp_path), tmp_path / "workspace").fingerprint
    checkpoint = checkpoints.Checkpoint(tmp_path, 7, before)
    checkpoints.require_same_dataset(
        checkpoint, open_dataset(str(tmp_path), tmp_path / "workspace").fingerprint
    )
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write("\n" + json.dumps(row()))
    after = open_dataset(str(tmp_path), tmp_path / "workspace").fingerprint
    with pytest.raises(UserError, match="The dataset has changed since step 7"):
        checkpoints.require_same_dataset(checkpoint, after)


def test_every_finding_is_told_at_once_in_one_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = [
        {"image": "gone.png", "text": "x"},
        row(answer=""),
        "{broken",
        {},
        row(image="/etc/x"),
        talk("user"),
    ]
    rows(GOOD, *faults)(tmp_path)
    (tmp_path / "b.png").write_bytes(b"no picture")
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write("\n" + json.dumps(GOOD_B))
    assert main(["check", str(tmp_path), "--workspace", str(tmp_path / "w"), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert [finding["place"] for finding in found["findings"]] == [
        *(f"train.jsonl:{number}" for number in range(2, 8)),
        "train.jsonl:8",
    ]
    assert [finding["image"] for finding in found["findings"]] == [None] * 6 + ["b.png"]
    assert (found["examples"], found["usable"]) == (2, 1)

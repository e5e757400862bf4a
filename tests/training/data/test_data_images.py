"""The image loader: what it makes of every kind of picture, by the row's number in the table of bad input."""

import io
import random
import struct
import zlib
from pathlib import Path

import pillow_heif
import pytest
from PIL import Image, PngImagePlugin

from training.data.images import examine_image, load_image, load_page, pages_of
from vlm.errors import UserError

WHITE, RED, BLUE = (255, 255, 255), (255, 0, 0), (0, 0, 255)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def two_colours() -> Image.Image:
    """Red on the left, blue on the right, wider than high."""
    image = Image.new("RGB", (8, 4), RED)
    image.paste(BLUE, (4, 0, 8, 4))
    return image


@pytest.mark.parametrize("suffix", ["png", "webp", "gif", "bmp", "tiff"])
def test_every_lossless_format_gives_the_same_rgb_pixels(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    image = load_image(saved(two_colours(), tmp_path / f"x.{suffix}", **options))
    assert image.mode == "RGB"
    assert image.tobytes() == two_colours().tobytes()


def test_row_42_a_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    image = load_image(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "x.jpg", quality=100))
    red, green, blue = image.getpixel((4, 4))
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_row_43_16_bit_grey_is_scaled_to_8_bits(tmp_path: Path, suffix: str) -> None:
    values = [0, 256, 32768, 65535]
    image = Image.frombytes("I;16", (4, 1), struct.pack("<4H", *values))
    loaded = load_image(saved(image, tmp_path / f"x.{suffix}"))
    assert [loaded.getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 1, 128, 255)]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_row_44_32_bits_in_one_channel_are_refused(tmp_path: Path, mode: str) -> None:
    with pytest.raises(UserError, match="32 bits in one channel"):
        load_image(saved(Image.new(mode, (4, 4)), tmp_path / "x.tiff"))


def palette_with_a_hole() -> Image.Image:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.info["transparency"] = 0
    return image


HIDDEN_COLOUR = [
    pytest.param(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), id="row 45: RGBA"),
    pytest.param(Image.new("LA", (4, 4), (7, 0)), id="row 46: LA"),
    pytest.param(palette_with_a_hole(), id="row 46: palette"),
]


@pytest.mark.parametrize("image", HIDDEN_COLOUR)
def test_transparency_lies_on_white(tmp_path: Path, image: Image.Image) -> None:
    assert load_image(saved(image, tmp_path / "x.png")).getpixel((0, 0)) == WHITE


def test_half_transparent_red_on_white_is_pink(tmp_path: Path) -> None:
    image = load_image(saved(Image.new("RGBA", (1, 1), (255, 0, 0, 128)), tmp_path / "x.png"))
    assert image.getpixel((0, 0)) == (255, 127, 127)


def test_row_46_a_1_bit_image_is_black_and_white(tmp_path: Path) -> None:
    assert load_image(saved(Image.new("1", (4, 4), 1), tmp_path / "x.png")).getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_row_47_the_first_frame_of_an_animation_is_taken(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(frames[0], tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert load_image(path).getpixel((0, 0)) == RED


@pytest.mark.parametrize(
    ("orientation", "size", "top_left"),
    [(1, (8, 4), RED), (3, (8, 4), BLUE), (6, (4, 8), RED), (8, (4, 8), BLUE)],
)
def test_row_48_an_image_is_turned_as_its_exif_says(
    tmp_path: Path, orientation: int, size: tuple[int, int], top_left: tuple[int, int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(two_colours(), tmp_path / "x.png", exif=exif)
    image = load_image(path)
    assert (image.size, image.getpixel((0, 0))) == (size, top_left)
    assert image.getexif().get(0x0112, 1) == 1  # or the next reader would turn it once more


def test_row_51_a_png_called_jpg_is_opened_by_its_content(tmp_path: Path) -> None:
    two_colours().save(tmp_path / "x.png")
    assert load_image((tmp_path / "x.png").rename(tmp_path / "x.jpg")).size == (8, 4)


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and carries no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "JPEG")
    return file.getvalue()


def png_with_a_text_bomb() -> bytes:
    file, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 5_000_000, zip=True)
    two_colours().save(file, "PNG", pnginfo=info)
    return file.getvalue()


REFUSED = [
    ("35: truncated JPEG", lambda: jpeg()[:1000], "can't be decoded"),
    ("35: truncated PNG", lambda: png_of(9, 9)[:-20], "can't be decoded"),
    ("36: zero bytes", lambda: b"", "image of a known format"),
    ("36: an error page", lambda: b"<html>404</html>", "image of a known format"),
    ("39: 30,000 x 30,000", lambda: png_of(30_000, 30_000), "more than 50 megapixels"),
    ("40: 12,000 x 12,000", lambda: png_of(12_000, 12_000), "more than 50 megapixels"),
    ("40: 8,000 x 7,000", lambda: png_of(8_000, 7_000), "more than 50 megapixels"),
    ("49: SVG", lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "image of a known format"),
    ("50: EPS", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "image of a known format"),
    ("50: a broken PDF", lambda: b"%PDF-1.4\n", "can't be decoded"),
    ("54: a broken HEIC", lambda: b"\0\0\0\x18ftypheic" + bytes(99), "image of a known format"),
    ("50: PPM", lambda: b"P6 1 1 255\nabc", "image of a known format"),
    ("52: a text bomb", png_with_a_text_bomb, "can't be decoded"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("content", "problem"), [pytest.param(*row[1:], id=f"row {row[0]}") for row in REFUSED]
)
def test_what_is_no_usable_image_is_refused_by_its_name(tmp_path: Path, content, problem: str) -> None:
    path = tmp_path / "holiday.png"
    path.write_bytes(content())
    with pytest.raises(UserError, match=problem) as raised:
        load_image(path)
    assert "holiday.png" in raised.value.problem
    assert raised.value.remedy


def test_a_missing_image_is_named_as_its_caller_calls_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^'your picture' does not exist"):
        load_image(tmp_path / "x.png", name="your picture")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_row_35_a_damaged_image_is_loaded_or_refused_and_nothing_else(tmp_path: Path, kind: str) -> None:
    file, rng = io.BytesIO(), random.Random(0)
    Image.effect_noise((16, 16), 60).convert("RGB").save(file, kind)
    path, refused = tmp_path / "x.png", 0
    for _ in range(60):
        content = bytearray(file.getvalue())
        for _ in range(rng.choice((1, 5, 20))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        try:
            assert load_image(path).mode == "RGB"
        except UserError:
            refused += 1
    assert refused > 0


def png_with(kind: bytes, data: bytes, *, sum_is_right: bool = True) -> bytes:
    """The two colours as a PNG, with a chunk behind its header."""
    file = io.BytesIO()
    two_colours().save(file, "PNG")
    content, behind = file.getvalue(), 33  # the mark has 8 bytes, the header's chunk 25
    crc = zlib.crc32(kind + data) ^ (not sum_is_right)
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)
    return content[:behind] + chunk + content[behind:]


def jpeg_with(marker: int, data: bytes) -> bytes:
    file = io.BytesIO()
    two_colours().resize((64, 32)).save(file, "JPEG", quality=95)
    return file.getvalue()[:2] + struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data + file.getvalue()[2:]


# Metadata that is broken, and whether it keeps anything from being read.
BROKEN_METADATA = {
    "a raw profile": (png_with(b"tEXt", b"Raw profile type exif\0\nexif\n      12\nzzzz"), True),
    "a wrong sum of a text": (png_with(b"tEXt", b"Comment\0hello", sum_is_right=False), True),
    "a text that is not packed": (png_with(b"zTXt", b"Comment\0\0nonsense"), False),
    "EXIF of nonsense in a PNG": (png_with(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + bytes(9)), False),
    "XMP that is no UTF-8": (jpeg_with(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x \xa8\xff\xfe/>"), False),
    "EXIF that breaks off": (jpeg_with(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12"), False),
    "an ICC profile of noise": (jpeg_with(0xE2, b"ICC_PROFILE\0\x01\x01" + b"\x7f" * 200), False),
}


@pytest.mark.parametrize("name", BROKEN_METADATA)
def test_whole_pixels_are_taken_whatever_is_written_about_them(
    tmp_path: Path, name: str, recwarn: pytest.WarningsRecorder
) -> None:
    content, odd = BROKEN_METADATA[name]
    path = tmp_path / "x.png"
    path.write_bytes(content)
    image, facts = load_image(path), examine_image(path)
    left, right = image.getpixel((1, 1)), image.getpixel((image.width - 2, 1))
    assert left[0] > 200 > 100 > left[2]
    assert right[2] > 200 > 100 > right[0]
    assert facts.odd == odd


def heic(path: Path) -> Path:
    pillow_heif.from_pillow(two_colours().resize((64, 32))).save(path, quality=90)
    return path


def test_row_54_heic_and_avif_are_read(tmp_path: Path) -> None:
    avif = saved(two_colours().resize((64, 32)), tmp_path / "x.avif", quality=90)
    for path in (heic(tmp_path / "x.heic"), heic(tmp_path / "phone.jpg"), avif):
        image = load_image(path)
        assert (image.mode, image.size) == ("RGB", (64, 32))
        red, blue = image.getpixel((8, 16)), image.getpixel((56, 16))
        assert red[0] > 200 > 100 > red[2]
        assert blue[2] > 200 > 100 > blue[0]


@pytest.mark.parametrize("ending", ["pdf", "tif"])
def test_row_50_each_page_of_a_document_is_a_picture(tmp_path: Path, ending: str) -> None:
    pages = [Image.new("RGB", (40, 30), colour) for colour in (RED, BLUE)]
    path = saved(pages[0], tmp_path / f"x.{ending}", save_all=True, append_images=pages[1:])
    assert pages_of(path) == 2
    assert load_image(path).getpixel((20, 15))[0] > 240
    assert load_page(path, 1).getpixel((20, 15))[2] > 240
    assert pages_of(saved(pages[0], tmp_path / "one.png")) == 1


def test_a_page_however_large_has_no_more_pixels_than_are_looked_at(tmp_path: Path) -> None:
    path = saved(Image.new("RGB", (3000, 1500), RED), tmp_path / "x.pdf", resolution=15.0)
    assert load_image(path).size == (2048, 1024)

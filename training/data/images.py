"""load_image: the one image loader of training and of Try; examine_image for the check. No torch."""

import io
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps

from training.data.safe_paths import digest_of, open_regular, quoted, quoted_path
from vlm.errors import Phrase, UserError

# What is opened, by content and whatever the file is called. EPS would start Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIC", "PDF")
# Of these, what Pillow opens by itself, and how the others begin.
PILLOW = FORMATS[:-2]
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
PDF = b"%PDF"
# A page of a document as a picture: dots an inch, and pixels of its longer side at most.
PAGE_DPI, LONGEST_PAGE = 200, 2048
# PDFium is not made for several threads.
_pdfium = threading.Lock()

MAX_PIXELS = 50_000_000
PNG_MARK = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
ANOTHER_FORMAT = "Save the image as an ordinary 8-bit PNG or JPEG"
# How files begin that people take for images. Long marks are sought in all of the first bytes, since HEIC,
# AVIF and others put a box length before theirs; short ones only at the very start, where chance is small.
JPEG_XL = Phrase("a JPEG XL image", "a-jpeg-xl-image")
WEB_PAGE = Phrase("a web page", "a-web-page")
KNOWN_OTHERS = (
    (b"JXL ", JPEG_XL),
    (b"\xff\x0a", JPEG_XL),
    (b"jP  ", Phrase("a JPEG 2000 image", "a-jpeg-2000-image")),
    (b"%!PS", Phrase("an EPS drawing", "an-eps-drawing")),
    (b"8BPS", Phrase("a Photoshop file", "a-photoshop-file")),
    (b"SIMPLE  =", Phrase("a FITS file", "a-fits-file")),
    (b"<svg", Phrase("an SVG drawing", "an-svg-drawing")),
    (b"<!doctype html", WEB_PAGE),
    (b"<html", WEB_PAGE),
)

# Pillow would print a warning with a path of this machine; what is too large is refused below.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# What is wrong with metadata is told with the picture, and not once more on the screen.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Facts of an image file: pixels, frames or pages, sha256 of the file.

    `odd` is whether its metadata could not be read, with which way up it is.
    """

    width: int
    height: int
    frames: int
    digest: bytes
    odd: bool = False


def load_image(path: Path, *, name: str | None = None) -> Image.Image:
    """Returns the picture in `path` as a person sees it: RGB, 8 bits, turned as its EXIF says, on white.

    16-bit grey is scaled to 8 bits, transparency stands on white, of an animation or a document comes the
    first frame or page. Metadata that can't be read is left aside. Messages call the file `name` (else its
    path).

    Raises:
        UserError: The file is missing, no regular file, no image of `FORMATS`, broken, larger than
            `MAX_PIXELS`, or has 32 bits a pixel in one channel, whose range is not known.
    """
    return _decode(path, name or str(path))[0]


def read_image(data: bytes, *, name: str) -> Image.Image:
    """Returns the picture that the bytes of a file hold, as `load_image` returns it.

    Raises:
        UserError: As `load_image` does of what a file holds.
    """
    return _decode_file(io.BytesIO(data), name)[0]


def load_page(path: Path, page: int) -> Image.Image:
    """Returns a page of a PDF or TIFF, the first is 0. Raises `UserError` as `load_image` does."""
    return _decode(path, path.name, page)[0]


def pages_of(path: Path) -> int:
    """Returns how many pages a PDF or TIFF has: 1 of any other file, and of what can't be read."""
    if path.suffix.lower() not in (".pdf", ".tif", ".tiff"):
        return 1
    with (
        suppress(UserError, OSError, ValueError, SyntaxError, RuntimeError),
        open_regular(path, path.name) as file,
    ):
        if file.read(len(PDF)) == PDF:
            return _page_of_pdf(path.read_bytes(), 0)[1]
        with Image.open(file, formats=("TIFF",)) as image:
            return getattr(image, "n_frames", 1)
    return 1


def examine_image(path: Path, *, name: str | None = None) -> ImageFacts:
    """Decodes the image and returns what it is. Raises `UserError` as `load_image` does."""
    image, frames, odd = _decode(path, name or str(path))
    return ImageFacts(image.width, image.height, frames, digest_of(path), odd)


def _decode(path: Path, name: str, page: int = 0) -> tuple[Image.Image, int, bool]:
    """Returns the picture as RGB, how many frames its file has, and whether its metadata is broken."""
    with open_regular(path, name) as file:
        return _decode_file(file, name, page)


def _decode_file(file: BinaryIO, name: str, page: int = 0) -> tuple[Image.Image, int, bool]:
    try:
        return _decoded(file, quoted_path(name), page)
    except UserError as error:
        # A text that unpacks to more than Pillow takes, which is a ValueError, is no slip.
        slip = not isinstance(error.__cause__, ValueError)
        if error.code not in ("image-broken", "image-format-unknown") or not slip:
            raise
        # Pixels may be whole where what is written about them is not.
        file.seek(0)
        plain = _without_metadata(file.read())
        if plain is None:
            raise
        with suppress(UserError):
            picture, frames, _ = _decoded(io.BytesIO(plain), quoted_path(name), page)
            return picture, frames, True
        raise


def _decoded(file: BinaryIO, shown: str, page: int) -> tuple[Image.Image, int, bool]:
    """Returns what `_decode` does. Raises `UserError` with what is wrong; `shown` is the file's name."""
    try:
        return _as_rgb(file, shown, page)
    except UserError:
        raise
    except Image.UnidentifiedImageError as error:
        file.seek(0)
        begin = file.read(32).lstrip().lower()
        instead = (
            what
            for magic, what in KNOWN_OTHERS
            if begin.startswith(magic.lower()) or (len(magic) > 3 and magic.lower() in begin)
        )
        raise _no_image(shown, begin, next(instead, None)) from error
    # Pillow's own limit: a warning, an error from twice as many pixels on.
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(
            "{file} has more than {limit} megapixels",
            "Scale the image down",
            "image-too-large",
            file=shown,
            limit=MAX_PIXELS // 1_000_000,
        ) from error
    # Pillow answers broken bytes with OSError, SyntaxError, ValueError, struct.error, zlib.error, …
    except Exception as error:
        raise UserError(
            "{file} can't be decoded: {reason}",
            "Save or download the image again",
            "image-broken",
            file=shown,
            reason=quoted(str(error)),
        ) from error


def _as_rgb(file: BinaryIO, shown: str, page: int) -> tuple[Image.Image, int, bool]:
    begin = file.read(32)
    file.seek(0)
    if begin.startswith(PDF):
        picture, pages = _page_of_pdf(file.read(), page)
        return picture, pages, False
    image = Image.open(file, formats=_formats(begin))
    # `open` reads the header alone: an image that would fill the memory is refused before `load`.
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    if page:
        image.seek(page)
    image.load()
    if image.mode in ("I", "F"):
        raise UserError("{file} has 32 bits in one channel", ANOTHER_FORMAT, "image-32-bits", file=shown)
    picture, odd = image, False
    try:
        picture = ImageOps.exif_transpose(image)
    except Exception:  # as many kinds as there are ways to break EXIF
        odd = True
    if picture.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255, which turns nearly everything white. Through "I", since it
        # can't do arithmetic on the big-endian kind.
        picture = picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    # A palette's or a tRNS chunk's too: `convert("RGB")` alone would show the colours below it.
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture.convert("RGBA"))
        picture = white
    # Frames are counted last: Pillow seeks through the file for them.
    return picture.convert("RGB"), getattr(image, "n_frames", 1), odd


def _formats(begin: bytes) -> tuple[str, ...]:
    if begin[4:8] == b"ftyp" and begin[8:12] in HEIF_BRANDS:
        _read_heif()
        return ("HEIF",)
    return PILLOW


@cache
def _read_heif() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False)


def _page_of_pdf(data: bytes, page: int) -> tuple[Image.Image, int]:
    """Returns a page as a picture on white, and how many the document has."""
    import pypdfium2

    with _pdfium, pypdfium2.PdfDocument(data) as document:
        found = document[page]
        scale = min(PAGE_DPI / 72, LONGEST_PAGE / max(*found.get_size(), 1))
        return found.render(scale=scale).to_pil().convert("RGB"), len(document)


def _without_metadata(data: bytes) -> bytes | None:
    """Returns a PNG or JPEG without what is written about its pixels; None of any other file."""
    if data.startswith(PNG_MARK):
        kept = [data[start:end] for kind, start, end in _png_chunks(data) if kind in PNG_PIXELS]
        return PNG_MARK + b"".join(kept)
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd8" + b"".join(_jpeg_segments(data))
    return None


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    at = len(PNG_MARK)
    while at + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        yield kind, at, at + 12 + length
        at += 12 + length


def _jpeg_segments(data: bytes) -> Iterator[bytes]:
    """Yields a JPEG's segments, without those of applications but for Adobe's, which tells of colours."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xDA:  # the pixels, up to the end
            break
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or marker == 0xEE:
            yield data[at:end]
        at = end
    yield data[at:]


def _no_image(shown: str, begin: bytes, what: Phrase | None) -> UserError:
    """Returns the error for a file that Pillow knows no format of; `what` it is, if its beginning tells."""
    if not begin:
        return UserError(
            "{file} is not an image of a known format ({formats}): it is empty",
            ANOTHER_FORMAT,
            "image-file-empty",
            file=shown,
            formats=FORMATS,
        )
    if what is None:
        return UserError(
            "{file} is not an image of a known format ({formats})",
            ANOTHER_FORMAT,
            "image-format-unknown",
            file=shown,
            formats=FORMATS,
        )
    return UserError(
        "{file} is not an image of a known format ({formats}): it is {what}",
        ANOTHER_FORMAT,
        "image-format-other",
        file=shown,
        formats=FORMATS,
        what=what,
    )

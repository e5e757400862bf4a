"""load_image: the one image loader of training and of Try; examine_image for the check. No torch."""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps

from training.data.safe_paths import open_regular, quoted, quoted_path
from vlm.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What is opened, by content and whatever the file is called. EPS would start Ghostscript."""

MAX_PIXELS = 50_000_000
ANOTHER_FORMAT = "Save the image as an ordinary 8-bit PNG or JPEG"
KNOWN_OTHERS = (
    (b"ftypheic", "a HEIC image"),
    (b"ftypheix", "a HEIC image"),
    (b"ftypmif1", "a HEIC image"),
    (b"ftypavif", "an AVIF image"),
    (b"JXL ", "a JPEG XL image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"jP  ", "a JPEG 2000 image"),
    (b"%!PS", "an EPS drawing"),
    (b"%PDF", "a PDF document"),
    (b"8BPS", "a Photoshop file"),
    (b"SIMPLE  =", "a FITS file"),
    (b"<svg", "an SVG drawing"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
)
"""How files begin that people take for images; sought in the first bytes, since some have a header before."""

# Pillow would print a warning with a path of this machine; what is too large is refused below.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What a look at an image file found: pixels, frames of an animation, sha256 of the file."""

    width: int
    height: int
    frames: int
    digest: bytes


def load_image(path: Path, *, name: str | None = None) -> Image.Image:
    """The picture in `path` as a person sees it: RGB, 8 bits, turned as its EXIF says, transparency on white.

    16-bit grey is scaled to 8 bits; of an animation comes the first frame. Messages call the file `name`
    (else its path). Raises `UserError` where the file is missing, no regular file, no image of `FORMATS`,
    broken, larger than `MAX_PIXELS`, or has 32 bits a pixel in one channel, whose range nobody knows.
    """
    return _decode(path, name)[0]


def examine_image(path: Path, *, name: str | None = None) -> ImageFacts:
    """Decode the image and say what it is. Raises `UserError` as `load_image` does."""
    image, frames = _decode(path, name)
    with open_regular(path, name or str(path)) as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return ImageFacts(image.width, image.height, frames, digest)


def _decode(path: Path, name: str | None) -> tuple[Image.Image, int]:
    """The picture, and how many frames its file has."""
    called = name or str(path)
    shown = quoted_path(called)
    with open_regular(path, called) as file:
        try:
            image = Image.open(file, formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(shown)
            image.load()
            return _as_rgb(ImageOps.exif_transpose(image), shown), getattr(image, "n_frames", 1)
        except UserError:
            raise
        except Image.UnidentifiedImageError as error:
            problem = f"{shown} is not an image of a known format ({', '.join(FORMATS)}){_known(file)}"
            raise UserError(problem, ANOTHER_FORMAT) from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _too_large(shown) from error
        # Pillow answers broken bytes with OSError, SyntaxError, ValueError, struct.error, zlib.error, …
        except Exception as error:
            problem = f"{shown} can't be decoded: {quoted(str(error))}"
            raise UserError(problem, "Save or download the image again") from error


def _as_rgb(image: Image.Image, shown: str) -> Image.Image:
    if image.mode in ("I", "F"):
        raise UserError(f"{shown} has 32 bits in one channel", ANOTHER_FORMAT)
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255, which turns nearly everything white. Through "I", since it
        # can't do arithmetic on the big-endian kind.
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return image.convert("RGB")


def _known(file: BinaryIO) -> str:
    """What the file is instead, if its first bytes say so."""
    file.seek(0)
    begin = file.read(32).lstrip().lower()
    if not begin:
        return ": it is empty"
    found = next(
        (
            what
            for magic, what in KNOWN_OTHERS
            if begin.startswith(magic.lower()) or (len(magic) > 3 and magic.lower() in begin)
        ),
        None,
    )
    return f": it is {found}" if found else ""


def _too_large(shown: str) -> UserError:
    return UserError(f"{shown} has more than {MAX_PIXELS // 1_000_000} megapixels", "Scale the image down")

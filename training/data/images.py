"""load_image: the one image loader of training and of Try; examine_image for the check. No torch."""

import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from training.data.safe_paths import digest_of, open_regular, quoted, quoted_path
from vlm.errors import Phrase, UserError

# What is opened, by content and whatever the file is called. EPS would start Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

MAX_PIXELS = 50_000_000
ANOTHER_FORMAT = "Save the image as an ordinary 8-bit PNG or JPEG"
# How files begin that people take for images. Long marks are sought in all of the first bytes, since HEIC,
# AVIF and others put a box length before theirs; short ones only at the very start, where chance is small.
HEIC = Phrase("a HEIC image", "a-heic-image")
JPEG_XL = Phrase("a JPEG XL image", "a-jpeg-xl-image")
WEB_PAGE = Phrase("a web page", "a-web-page")
KNOWN_OTHERS = (
    (b"ftypheic", HEIC),
    (b"ftypheix", HEIC),
    (b"ftypmif1", HEIC),
    (b"ftypavif", Phrase("an AVIF image", "an-avif-image")),
    (b"JXL ", JPEG_XL),
    (b"\xff\x0a", JPEG_XL),
    (b"jP  ", Phrase("a JPEG 2000 image", "a-jpeg-2000-image")),
    (b"%!PS", Phrase("an EPS drawing", "an-eps-drawing")),
    (b"%PDF", Phrase("a PDF document", "a-pdf-document")),
    (b"8BPS", Phrase("a Photoshop file", "a-photoshop-file")),
    (b"SIMPLE  =", Phrase("a FITS file", "a-fits-file")),
    (b"<svg", Phrase("an SVG drawing", "an-svg-drawing")),
    (b"<!doctype html", WEB_PAGE),
    (b"<html", WEB_PAGE),
)

# Pillow would print a warning with a path of this machine; what is too large is refused below.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Facts of an image file: pixels, frames of an animation, sha256 of the file."""

    width: int
    height: int
    frames: int
    digest: bytes


def load_image(path: Path, *, name: str | None = None) -> Image.Image:
    """Returns the picture in `path` as a person sees it: RGB, 8 bits, turned as its EXIF says, on white.

    16-bit grey is scaled to 8 bits, transparency stands on white, of an animation comes the first frame.
    Messages call the file `name` (else its path).

    Raises:
        UserError: The file is missing, no regular file, no image of `FORMATS`, broken, larger than
            `MAX_PIXELS`, or has 32 bits a pixel in one channel, whose range is not known.
    """
    return _decode(path, name or str(path))[0]


def examine_image(path: Path, *, name: str | None = None) -> ImageFacts:
    """Decodes the image and returns what it is. Raises `UserError` as `load_image` does."""
    image, frames = _decode(path, name or str(path))
    return ImageFacts(image.width, image.height, frames, digest_of(path))


def _decode(path: Path, name: str) -> tuple[Image.Image, int]:
    """Returns the picture as RGB, and how many frames its file has."""
    shown = quoted_path(name)
    with open_regular(path, name) as file:
        try:
            image = Image.open(file, formats=FORMATS)
            # `open` reads the header alone: an image that would fill the memory is refused before `load`.
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.load()
            if image.mode in ("I", "F"):
                raise UserError(
                    "{file} has 32 bits in one channel", ANOTHER_FORMAT, "image-32-bits", file=shown
                )
            picture = ImageOps.exif_transpose(image)
            if picture.mode.startswith("I;16"):
                # Pillow's own conversion clips at 255, which turns nearly everything white. Through "I",
                # since it can't do arithmetic on the big-endian kind.
                picture = picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
            # A palette's or a tRNS chunk's too: `convert("RGB")` alone would show the colours below it.
            if picture.has_transparency_data:
                white = Image.new("RGBA", picture.size, "white")
                white.alpha_composite(picture.convert("RGBA"))
                picture = white
            # Frames are counted last: Pillow seeks through the file for them.
            return picture.convert("RGB"), getattr(image, "n_frames", 1)
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

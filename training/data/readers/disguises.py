"""disguised: the error for a file that begins as another format than its ending says. No torch."""

from vlm.errors import Phrase, UserError

# How files begin that are no rows of text, whatever they are called, and the ending that is theirs.
DISGUISES = (
    (b"PAR1", Phrase("a Parquet file", "a-parquet-file"), ".parquet"),
    (b"ARROW1", Phrase("an Arrow file", "an-arrow-file"), ".arrow"),
    (b"PK\x03\x04", Phrase("a zip", "a-zip"), ".zip"),
)
GZIP = b"\x1f\x8b"
PICKLES = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
IMAGES = (b"\x89PNG", b"\xff\xd8\xff")
LONGEST = 8


def disguised(begin: bytes, shown: str, begins: bytes | None, written: str) -> UserError | None:
    """Returns the error for a file that begins as another format.

    `begins` is how its own does, `written` its ending as it stands.
    """
    for magic, what, own in DISGUISES:
        if begin.startswith(magic) and magic != begins:
            return UserError(
                "{file} is {what}, not {ending}",
                "Call it {own}",
                "file-of-other-format",
                file=shown,
                what=what,
                ending=written,
                own=own,
            )
    if begin.startswith(GZIP):
        return UserError(
            "{file} is compressed with gzip, not {ending}",
            "Unpack it first",
            "file-gzipped",
            file=shown,
            ending=written,
        )
    if begin.startswith(PICKLES):
        return UserError(
            "{file} is a pickle, not {ending}",
            "Pickles are never opened; write it as JSONL",
            "file-pickled",
            file=shown,
            ending=written,
        )
    if begin.startswith(IMAGES):
        return UserError(
            "{file} is an image, not {ending}",
            "Give the folder that it lies in",
            "file-is-image",
            file=shown,
            ending=written,
        )
    return None

"""whole_text: a file's text; not_utf_8: what is said of bytes that are none, their code page. No torch."""

import codecs
import os
import re
import unicodedata
from pathlib import Path

from training.data.row import place
from training.data.safe_paths import open_regular, quoted
from vlm.errors import Phrase, UserError

# Bytes. A JSON file is in memory whole while it is read; JSONL is not.
LARGEST_FILE = 1 << 30
# Bytes of a line by which its code page is guessed.
LONGEST_GUESSED = 1 << 16
UNDECODED = re.compile("[\udc80-\udcff]")  # what surrogateescape makes of bytes that are not UTF-8
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
A_NUL = Phrase("a NUL byte", "a-nul-byte")
NOT_UTF_8 = Phrase("not UTF-8", "not-utf-8")
# Windows-1258 writes Vietnamese tones behind the vowel. Decoded, that is what no other language has.
TONES = re.compile("[aeiouyAEIOUYăâêôơưĂÂÊÔƠƯ][\u0300\u0301\u0303\u0309\u0323]")
HIGH_BYTES = re.compile(rb"[\x80-\xff]+")
TONE = re.compile("[\u0300\u0301\u0303\u0309\u0323]")
# Encoding, its name for Python, and which characters most of its text has; the first that fits is taken.
PAGES = (
    ("Shift-JIS", "shift_jis", re.compile("[\u3040-\u30ff]"), 0.3),
    ("EUC-KR", "cp949", re.compile("[\uac00-\ud7a3]"), 0.9),
    ("GBK", "gb18030", re.compile("[\u4e00-\u9fff\u3000-\u303f\uff00-\uffef]"), 0.95),
    ("Big5", "big5", re.compile("[\u4e00-\u9fff\u3000-\u303f\uff00-\uffef]"), 0.95),
    ("Windows-1251", "cp1251", re.compile("[а-яё]"), 0.6),
    ("KOI8-R", "koi8_r", re.compile("[а-яё]"), 0.6),
    ("Windows-1252", "cp1252", re.compile("[\u00c0-\u00ff‘’“”–—…€°·«»¿¡]"), 0.9),
)


def not_utf_8(data: bytes) -> Phrase:
    """Returns "not UTF-8 but probably Windows-1258", or without a guess where no code page fits."""
    likely = _likely(data)
    if likely is None:
        return NOT_UTF_8
    return Phrase("not UTF-8 but probably {encoding}", "not-utf-8-but", encoding=likely)


def _likely(data: bytes) -> str | None:
    text = data.decode("cp1258", errors="replace")
    toned = TONES.findall(text)
    if toned and len(toned) == len(TONE.findall(text)) and "\ufffd" not in text:
        return "Windows-1258"
    # Letters of the West stand alone among those of ASCII; those of other scripts stand together.
    runs = [len(run) for run in HIGH_BYTES.findall(data)]
    alone = 2 * sum(length == 1 for length in runs) > len(runs)
    for name, codec, usual, share in PAGES[-1:] if alone else PAGES:
        try:
            text = data.decode(codec)
        except UnicodeDecodeError:
            continue
        foreign = [character for character in text if character > "\x7f"]
        strange = any(unicodedata.category(character)[0] == "C" for character in foreign)
        if foreign and not strange and len(usual.findall("".join(foreign))) >= share * len(foreign):
            return name
    return None


def whole_text(path: Path, name: str) -> str:
    """Returns a file's text: UTF-8, or UTF-16 with its mark. Raises `UserError` where it is none."""
    with open_regular(path, name) as file:
        if os.fstat(file.fileno()).st_size > LARGEST_FILE:
            raise UserError(
                "{file} is larger than 1 GB",
                "Write it as .jsonl, one row on each line",
                "json-too-large",
                file=quoted(name),
            )
        data = file.read()
    if data.startswith(UTF16_MARKS):
        try:
            return data.decode("utf-16", errors="surrogatepass")
        except UnicodeDecodeError as error:
            raise UserError(
                "{file} is UTF-16 that breaks off",
                "Save it again, as UTF-8",
                "json-utf-16",
                file=quoted(name),
            ) from error
    # As `json_csv` reads lines, so that the line of the first bad byte can be named.
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="surrogateescape")
    for fault, what in ((UNDECODED.search(text), None), (re.search("\0", text), A_NUL)):
        if fault:
            start = text.rfind("\n", 0, fault.start()) + 1
            line = text[start : start + LONGEST_GUESSED].partition("\n")[0].encode("utf-8", "surrogateescape")
            raise UserError(
                "{place}: {what}",
                "Save the file as plain UTF-8 text",
                "json-not-text",
                place=place(name, text.count("\n", 0, fault.start()) + 1),
                what=what or not_utf_8(line),
            )
    return text

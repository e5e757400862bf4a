"""What is not said in Vietnamese: English words left in a drawing, and sentences without a translation."""

import html
import re
import string

from ui.i18n import LOCALES, Language, remedy_of, sentence
from vlm.errors import Phrase

WORD = re.compile(r"[^\W\d_]+")
TAG = re.compile(r"<[^>]*>")
NOT_OURS = re.compile(r'<(\w+)[^>]* translate="no"[^>]*>.*?</\1>', re.DOTALL)
"""Text of the reader's own, which no language of ours has to hold."""
# What people hear, or see at a touch.
ATTRIBUTE = re.compile(r'(?:aria-label|alt|title|placeholder)="([^"]*)"')
LETTER = re.compile("[ăâđêôơưàáảãạằắẳẵặầấẩẫậèéẻẽẹềếểễệìíỉĩịòóỏõọồốổỗộờớởỡợùúủũụừứửữựỳýỷỹỵ]", re.IGNORECASE)


def words_of(text: str) -> set[str]:
    return {word.lower() for word in WORD.findall(text)}


def literal(template: str) -> str:
    return "".join(text for text, *_ in string.Formatter().parse(template))


def _words(language: Language) -> set[str]:
    return set().union(
        *(words_of(TAG.sub(" ", literal(text))) for text in LOCALES[language]["words"].values())
    )


def english_in(written: str, allowed: str = "") -> set[str]:
    """The words of HTML or text that English has and Vietnamese has not; `allowed` are names and the like."""
    seen = [TAG.sub(" ", written), *ATTRIBUTE.findall(written)]
    found = set().union(*(words_of(html.unescape(text)) for text in seen))
    return found & (_words("en") - _words("vi")) - words_of(allowed)


def untranslated(phrase: Phrase) -> list[str]:
    """What is wrong with a sentence, or an error's problem and remedy, as a Vietnamese page tells it."""
    code, locale = phrase.code.partition("/")[0], LOCALES["vi"]
    if code in locale["phrases"]:
        told = {locale["phrases"][code]: sentence("vi", phrase)}
    elif code in locale["errors"]:
        templates, problem = locale["errors"][code], Phrase.filled(str(phrase), code, phrase.values)
        told = {
            templates["problem"]: sentence("vi", problem),
            templates["remedy"]: remedy_of("vi", problem, ""),
        }
    else:
        return [f"{phrase.code} is not translated: {phrase!s}"]
    left = re.compile(rf"{{(?:{'|'.join(phrase.values) or '-'})(?:[!:][^{{}}]*)?}}")
    return [
        f"{code}: {text!r}"
        for template, text in told.items()
        if not text.strip()
        or (left.search(text) and not left.search(str(phrase.values)))
        or (WORD.search(literal(template)) and text == str(phrase))
        or not (LETTER.search(text) or code in locale["phrases"])
    ]

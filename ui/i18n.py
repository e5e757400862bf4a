"""Every word the page shows, in English and Vietnamese, and errors and findings in the reader's language."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import gradio as gr
import yaml
from markupsafe import Markup

from vlm.errors import Filler, Phrase, UserError

Language = Literal["en", "vi"]
LANGUAGES: tuple[Language, ...] = ("en", "vi")

LOCALES: dict[Language, dict[str, Any]] = {
    language: yaml.load(
        (Path(__file__).with_name("locale") / f"{language}.yaml").read_text(encoding="utf-8"),
        # libyaml reads both files in 15 ms; the parser in Python takes 30 times as long.
        getattr(yaml, "CSafeLoader", yaml.SafeLoader),  # noqa: S506  # a safe one either way
    )
    for language in LANGUAGES
}

# key -> a text in each of LANGUAGES: plain, but for the few that hold <b>; escaped where it becomes HTML.
TEXTS: dict[str, tuple[str, ...]] = {
    key: tuple(LOCALES[language]["words"][key] for language in LANGUAGES) for key in LOCALES["en"]["words"]
}


class _Translator(Filler):
    """Fills a text of a language: phrases and numbers among the values are written in that language."""

    def __init__(self, language: Language) -> None:
        self.language = language

    def format_field(self, value: object, spec: str) -> str:
        written = super().format_field(value, spec)
        is_number = isinstance(value, (int, float)) and spec and "|" not in spec
        return _as_written(self.language, written) if is_number else written

    def say(self, phrase: Phrase) -> str:
        return sentence(self.language, phrase)


_TRANSLATORS = {language: _Translator(language) for language in LANGUAGES}


def _as_written(language: Language, figures: str) -> str:
    return figures.translate(str.maketrans(",.", ".,")) if language == "vi" else figures


def say(language: Language, key: str, **values: Any) -> str:
    """The text of `key` in that language, with `values` put in."""
    text = TEXTS[key][LANGUAGES.index(language)]
    return _TRANSLATORS[language].vformat(text, (), values) if values else text


def sentence(language: Language, text: str) -> str:
    """A phrase, or an error's problem, in that language; a text without a code is as it was written."""
    if not isinstance(text, Phrase) or (template := _template(language, text.code, "problem")) is None:
        return str(text)
    return _filled(language, template, text.values, str(text))


def remedy_of(language: Language, problem: str, remedy: str) -> str:
    """The remedy that was given with a problem, in that language."""
    if not isinstance(problem, Phrase) or (template := _template(language, problem.code, "remedy")) is None:
        return remedy
    return _filled(language, template, problem.values, remedy)


def told(language: Language, error: UserError) -> tuple[str, str]:
    """Problem and remedy of an error in that language."""
    return sentence(language, error.problem), remedy_of(language, error.problem, error.remedy)


def warn(language: Language, error: UserError) -> None:
    """A notice over the page that goes by itself."""
    problem, remedy = told(language, error)
    gr.Warning(Markup("{}").format(remedy), title=Markup("{}").format(problem))


def _template(language: Language, code: str, part: str) -> str | None:
    if language == "en":  # the English sentence stands where it is raised
        return None
    locale = LOCALES[language]
    # "code/remedy" is a remedy that is part of a sentence.
    code, _, named = code.partition("/")
    return locale["phrases"].get(code) or locale["errors"].get(code, {}).get(named or part)


def _filled(language: Language, template: str, values: Mapping[str, Any], otherwise: str) -> str:
    """`otherwise` where the values are not those of the template: an older version has written the event."""
    try:
        return _TRANSLATORS[language].vformat(template, (), values)
    except (KeyError, ValueError, IndexError, TypeError):
        return otherwise


def number(language: Language, value: float, decimals: int = 0) -> str:
    """`122,880` or `6.2` in English, `122.880` or `6,2` in Vietnamese."""
    return _as_written(language, f"{value:,.{decimals}f}")


def percent(language: Language, fraction: float, decimals: int = 0) -> str:
    return f"{number(language, 100 * fraction, decimals)} %"


def duration(language: Language, seconds: float) -> str:
    """`21 s`, `2 min`, `2 min 5 s`, `3 h 4 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return say(language, "seconds", s=whole)
    if whole < 3600:
        key = "minutes" if whole % 60 else "whole_minutes"
        return say(language, key, m=whole // 60, s=whole % 60)
    return say(language, "hours", h=whole // 3600, m=whole % 3600 // 60)


def ago(language: Language, seconds: float) -> str:
    """How long ago, in the largest unit that fits."""
    for size, key in ((86400, "days_ago"), (3600, "hours_ago"), (60, "minutes_ago")):
        if seconds >= size:
            return say(language, key, n=int(seconds // size))
    return say(language, "just_now")


LABELS = {
    "use_vision_lora": "vision",
    "use_text_lora": "text",
    "vision_lora_r": "vision_rank",
    "connector_lora_r": "connector_rank",
    "text_lora_r": "text_rank",
}
"""Where a setting's label is another key than its name."""


def setting_name(language: Language, field: str) -> str:
    """What the page calls a setting of a run."""
    key = LABELS.get(field, field)
    return say(language, key) if key in TEXTS else field


def setting_to(language: Language, field: str, value: object) -> str:
    """Such as: batch size 8; checkpoint gradients on."""
    name = setting_name(language, field)
    return say(language, "set_to", setting=name[0].lower() + name[1:], value=setting_value(language, value))


def setting_value(language: Language, value: object) -> object:
    """A setting's value as people read it."""
    if isinstance(value, bool):
        return say(language, "on" if value else "off")
    if isinstance(value, float):
        return f"{value:g}"
    return "–" if value is None else value

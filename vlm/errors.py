"""UserError and Phrase: English sentences with a code and values, by which they are translated. No torch."""

import string
from collections.abc import Mapping, Sequence
from typing import Any

from vlm.machine import system

# What stands for the values of which a sentence tells of many.
BLANK = "…"
# Characters of a value in a sentence: what somebody sends may have a million.
LONGEST_VALUE = 500


class Filler(string.Formatter):
    """`str.format` for sentences.

    `{count:row|rows}` is the first word for 1 and the second for any other number; `{names:or}` writes a list
    as "a, b or c", `{names}` as "a, b, c", `{names:; }` as "a; b; c", and a specification of a line break one
    item a line. `{name:sh}` is a word of a command for a shell.
    """

    def format_field(self, value: object, spec: str) -> str:
        if isinstance(value, (list, tuple)):
            words = [self.format_field(item, "") for item in value]
            if spec in ("\n", "; "):
                return spec.join(words)
            last = f" {spec} " if spec else ", "
            return last.join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
        if spec == "sh":
            return system.quoted(str(value))
        if "|" in spec:
            one, many = spec.split("|")
            return one if value == 1 else many
        if value == BLANK:
            return BLANK
        return self.say(value) if isinstance(value, Phrase) else super().format_field(value, spec)

    def say(self, phrase: "Phrase") -> str:
        """Returns a phrase that is part of a sentence; in English as it is."""
        return str(phrase)


class Phrase(str):
    """A text that is shown to people, in English: `code` names its template, `values` are what was filled in.

    It is a `str` all the same: what has no need of another language joins, logs and saves it as one.
    `template` is empty where the text was filled in before.
    """

    code: str
    values: dict[str, Any]
    template: str

    def __new__(cls, template: str, code: str, /, **values: object) -> "Phrase":
        values = {name: _plain(value) for name, value in values.items()}
        self = super().__new__(cls, Filler().vformat(template, (), values))
        self.code, self.values, self.template = code, values, template
        return self

    @classmethod
    def filled(cls, text: str, code: str, values: dict[str, Any], template: str = "") -> "Phrase":
        """Returns a phrase whose text was filled in before, as an event or a pickle has it."""
        self = str.__new__(cls, text)
        self.code, self.values, self.template = code, values, template
        return self

    def with_values(self, **values: object) -> "Phrase":
        """Returns the phrase filled again, these values in place of its own; it needs its template."""
        return Phrase(self.template, self.code, **self.values | values)

    # Pickling a `str` would make it again from its text alone.
    def __reduce__(self) -> tuple[Any, ...]:
        return Phrase.filled, (str(self), self.code, self.values, self.template)


def in_common(phrases: Sequence[Phrase]) -> Phrase:
    """Returns what phrases of one code say alike: the first, with "…" for every value that isn't of all."""
    first = phrases[0]
    if not first.template or all(phrase == first for phrase in phrases):
        return first
    values = {}
    for name, value in first.values.items():
        # Those of an error are of its remedy, too, which may have others than the problem.
        others = [phrase.values.get(name) for phrase in phrases]
        alike = isinstance(value, Phrase) and all(
            isinstance(other, Phrase) and other.template and other.code == value.code for other in others
        )
        same = all(other == value for other in others)
        values[name] = in_common(others) if alike else value if same else BLANK
    return Phrase(first.template, first.code, **values)


def _plain(value: object) -> object:
    """A value that JSON has: paths and exceptions are their text, of which a message quotes so much."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (Phrase, int, float)):
        return value
    text = str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}… ({len(text):,})"


def values_to_json(value: Any) -> Any:
    """Returns values as events keep them: of a phrase its text, code and values."""
    if isinstance(value, Phrase):
        return {"text": str(value), "code": value.code, "values": values_to_json(value.values)}
    if isinstance(value, dict):
        return {name: values_to_json(item) for name, item in value.items()}
    return [values_to_json(item) for item in value] if isinstance(value, list) else value


def values_from_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values that `values_to_json` was given.

    Raises:
        KeyError: A mapping among them is no phrase.
    """

    def read(value: Any) -> Any:
        if isinstance(value, dict):
            return Phrase.filled(value["text"], value["code"], values_from_json(value["values"]))
        return [read(item) for item in value] if isinstance(value, list) else value

    return {name: read(value) for name, value in values.items()}


class UserError(Exception):
    """A mistake its reader can mend: two lines in a shell, a red notice on the page, an event in a run.

    `problem` says what is wrong in one sentence; `remedy` says what the reader can do now: a setting and a
    value, or a command. Both are templates that `Filler` fills with `values`; a `code` is raised in one place
    alone, and its translation is found by it. `change` has settings that would help, each alone, the best
    first: {"batch_size": 8}; a list is what to choose from. `about_image` is the path, inside the dataset, of
    the image that is to blame. Anything that is not a `UserError` is a bug.
    """

    def __init__(
        self,
        problem: str,
        remedy: str,
        code: str = "",
        /,
        *,
        change: Mapping[str, Any] | None = None,
        about_image: str | None = None,
        **values: object,
    ) -> None:
        # Without a code the texts are no templates: braces in them are the user's own.
        self.problem = Phrase(problem, code, **values) if code else Phrase.filled(problem, "", {})
        self.remedy = Phrase(remedy, f"{code}/remedy", **values) if code else Phrase.filled(remedy, "", {})
        self.change, self.about_image = dict(change or {}), about_image
        super().__init__(f"{self.problem}\n{self.remedy}")

    @property
    def code(self) -> str:
        return self.problem.code

    @property
    def values(self) -> dict[str, Any]:
        return self.problem.values

    @property
    def advice(self) -> Phrase:
        """The remedy as a part of another sentence."""
        return Phrase.filled(self.remedy, f"{self.code}/remedy", self.values)

    @classmethod
    def filled(
        cls,
        problem: Phrase,
        remedy: str,
        change: Mapping[str, Any] | None = None,
        about_image: str | None = None,
    ) -> "UserError":
        """Returns an error whose sentences were filled in before, as a run's event has them."""
        error = cls(problem, remedy, change=change, about_image=about_image)
        error.problem = problem
        error.remedy = Phrase.filled(remedy, problem.code and f"{problem.code}/remedy", problem.values)
        return error

    # Exceptions pickle their `args`, here one text: one raised in a child process would fail to unpickle.
    def __reduce__(self) -> tuple[Any, ...]:
        return UserError.filled, (self.problem, self.remedy, self.change, self.about_image)

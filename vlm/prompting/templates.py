"""Chat templates of any repository, written within bounds of time and size.

A template is a program that comes with a model. Jinja's sandbox keeps it from files and attributes, and
limits neither time nor memory: https://jinja.palletsprojects.com/en/stable/sandbox/#security-considerations.
That is done here, for every template that transformers compiles after this is imported.
"""

import re
import threading
import time
from collections.abc import Iterable, Sequence
from functools import wraps
from typing import Any

from jinja2 import Template
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import SecurityError
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils import chat_template_utils

from vlm.errors import Phrase

# CPU seconds of one rendering: a conversation takes milliseconds, and with 1 MB of text below one.
MAX_SECONDS = 5.0
MAX_SOURCE = 100_000  # characters; the longest of known models has some 30,000, and compiling takes time too
MAX_SIZE = 10_000_000  # characters of a text or elements of a list, in any place
MAX_NUMBER = 100_000  # as many rounds as the sandbox allows a loop over numbers
# The two largest that a call is given, multiplied: so much may `replace` or `ljust` make of them.
MAX_WORK = 100_000_000
SMALL = 1000  # no two numbers or lengths up to this are too much together
MAX_BITS = 4096
ROUNDS = 64  # between two looks at the clock, which takes longer than a round
SIZED = (str, list, tuple, dict)
# Of a format: a wide field, or one as wide as an argument says.
WIDE = re.compile(r"[%:.][^{}%]{0,9}?\d{5}|%[-+ #0-9.]*\*|\{[^{}:]*:[^{}]*\{")


class TemplateTooLarge(SecurityError):
    """Why a template is not written out: a phrase, the end of a sentence that begins with the template."""

    def __init__(self, reason: Phrase) -> None:
        super().__init__(reason)
        self.reason = reason


_rendering = threading.local()


def _size(value: Any) -> int:
    return len(value) if isinstance(value, SIZED) else 0


def _within(value: Any) -> Any:
    """Returns the value. Raises `TemplateTooLarge` where it is too long, or the time is over."""
    _rendering.rounds = rounds = getattr(_rendering, "rounds", 0) + 1
    if rounds % ROUNDS == 0 and time.thread_time() > getattr(_rendering, "end", float("inf")):
        slow = Phrase("takes longer than {seconds:g} s", "template-too-slow", seconds=MAX_SECONDS)
        raise TemplateTooLarge(slow)
    if value is None:
        return value
    if _size(value) > MAX_SIZE:
        raise TemplateTooLarge(_too_long(MAX_SIZE))
    if isinstance(value, bytes) or (isinstance(value, int) and value.bit_length() > MAX_BITS):
        raise TemplateTooLarge(_too_much(type(value).__name__))  # of bytes no conversation is made
    return value


def _too_long(most: int) -> Phrase:
    return Phrase("makes or has a text of more than {most:,} characters", "template-too-long", most=most)


def _too_much(name: str) -> Phrase:
    return Phrase("asks more of {name} than a conversation needs", "template-asks-too-much", name=name)


def _join(parts: Iterable[str]) -> str:
    kept, length = [], 0
    for part in parts:
        kept.append(part)
        length += len(part)
        if length > MAX_SIZE:
            raise TemplateTooLarge(_too_long(MAX_SIZE))
    return "".join(kept)


def _amount(value: Any) -> int:
    return abs(value) if isinstance(value, int) else _size(value)


def _require_small(function: Any, given: Sequence[Any]) -> None:
    """Raises `TemplateTooLarge` where a function could take or make too much of what it is given."""
    name = getattr(function, "__name__", "")
    owner = getattr(getattr(function, "__wrapped__", function), "__self__", None)  # a method's text
    amounts = [_amount(owner), 1, *map(_amount, given)]
    largest = max(amounts)
    if largest > SMALL:
        amounts.remove(largest)
        numbers = (abs(value) for value in given if isinstance(value, int))
        if largest * max(amounts) > MAX_WORK or max(numbers, default=0) > MAX_NUMBER:
            raise TemplateTooLarge(_too_much(name.removeprefix("do_")))
    text = next((value for value in (owner, *given) if isinstance(value, str)), "")  # a format comes first
    if "format" in name and WIDE.search(text):
        raise TemplateTooLarge(_too_much(name.removeprefix("do_")))


def _bounded(function: Any) -> Any:
    # `wraps` copies the mark by which Jinja knows what a filter wants as its first argument, too.
    @wraps(function)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        _require_small(function, [*args, *kwargs.values()])
        return _within(function(*args, **kwargs))

    return filtered


class BoundedGenerator(CodeGenerator):
    """Asks for the time where a template goes round or calls itself, and at the size of what `~` makes."""

    def blockvisit(self, nodes: Any, frame: Any) -> None:
        self.writeline("environment.within(None)")
        super().blockvisit(nodes, frame)

    def visit_Concat(self, node: Any, frame: Any) -> None:
        self.write("environment.within(")
        super().visit_Concat(node, frame)
        self.write(")")


class BoundedTemplate(Template):
    """A template whose time begins when it is rendered."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        _rendering.end = time.thread_time() + MAX_SECONDS
        try:
            return super().render(*args, **kwargs)
        finally:
            del _rendering.end


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox of transformers, with bounds for each operation."""

    code_generator_class = BoundedGenerator
    template_class = BoundedTemplate
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})
    within = staticmethod(_within)
    concat = staticmethod(_join)

    def from_string(self, source: Any, *args: Any, **kwargs: Any) -> Template:
        if len(source) > MAX_SOURCE:
            raise TemplateTooLarge(_too_long(MAX_SOURCE))
        # Now, when transformers has added its own.
        self.filters = {name: _bounded(function) for name, function in self.filters.items()}
        self.globals.pop("lipsum", None)  # writes as many paragraphs as it is told
        return super().from_string(source, *args, **kwargs)

    def call(self, context: Any, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(called, Macro):  # a part of the template: looked at where it does something
            _require_small(called, [*args, *kwargs.values()])
        return self.within(super().call(context, called, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        bits = [value.bit_length() for value in (left, right) if isinstance(value, int)]
        length = max(_size(left), _size(right))
        too_large = {
            "*": length << sum(bits) > MAX_SIZE,  # a text times a number
            "**": len(bits) == 2 and bits[0] * right > MAX_BITS,
            "%": isinstance(left, str) and WIDE.search(left),
        }
        if sum(bits) > MAX_BITS or too_large.get(operator):
            raise TemplateTooLarge(_too_much(operator))
        return self.within(super().call_binop(context, operator, left, right))


# transformers has no setting for it: it makes an environment of this name for each template.
chat_template_utils.ImmutableSandboxedEnvironment = BoundedEnvironment

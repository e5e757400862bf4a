"""HTML out of `templates/`, escaped by Jinja; what a template says is in the page's language."""

from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ui import i18n
from ui.i18n import Language
from vlm.errors import UserError

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_OF_LANGUAGE = ("say", "number", "percent", "duration", "ago", "sentence", "told")
"""Functions of `i18n` that a template calls without naming its language."""


def render(template: str, language: Language, **values: Any) -> Markup:
    """`templates/<template>.html` with these values. Every text in it is escaped, unless it is Markup."""
    words = {name: partial(getattr(i18n, name), language) for name in _OF_LANGUAGE}
    written = _TEMPLATES.get_template(f"{template}.html").render(language=language, **words, **values)
    return Markup(written.strip())


def small(text: str) -> Markup:
    return Markup('<p class="small">{}</p>').format(text)


def error(language: Language, trouble: UserError) -> Markup:
    """What is wrong and what to do, as it stands at the thing that is wrong."""
    return render("trouble", language, trouble=trouble)

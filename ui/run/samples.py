"""The filmstrip as HTML: held-out pictures, and what was said about them at each evaluation, side by side."""

from collections.abc import Callable, Sequence
from html import escape

from ui.i18n import Language, escaped, number, say
from ui.run.summary import Event, Story, is_right

SHOWN = 12
"""Evaluations: the base's and the newest ones."""

ImageOf = Callable[[str], str | None]
"""From an image's path within the dataset to something an <img> can show."""


def film(language: Language, story: Story, image_of: ImageOf) -> str:
    """A row for each example, a column for each evaluation; the base's comes first."""
    strips = list(story.samples.values())
    if strips:
        steps = sorted({said["step"] for answers in strips for said in answers})
        shown = steps if len(steps) <= SHOWN else [steps[0], *steps[1 - SHOWN :]]
        body = _table(language, strips, shown, image_of)
    else:
        body = f'<p class="small">{escaped(language, "film_waiting")}</p>'
    return f'<div class="card"><h2>{escaped(language, "film")}</h2>{body}</div>'


def at_step(language: Language, step: int) -> str:
    return say(language, "base") if step == 0 else say(language, "step_n", step=number(language, step))


def picture(source: str | None, alt: str) -> str:
    return f'<img src="{escape(source)}" alt="{escape(alt)}">' if source else '<div class="nopicture"></div>'


def _table(
    language: Language, strips: Sequence[Sequence[Event]], steps: Sequence[int], image_of: ImageOf
) -> str:
    heads = "".join(f'<th scope="col">{escape(at_step(language, step))}</th>' for step in steps)
    rows = "".join(_strip(language, answers, steps, image_of) for answers in strips)
    return (
        f'<div class="film" tabindex="0" role="region" aria-label="{escaped(language, "film")}"><table>'
        f'<thead><tr><th scope="col">{escaped(language, "film_question")}</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _strip(language: Language, answers: Sequence[Event], steps: Sequence[int], image_of: ImageOf) -> str:
    first = answers[0]
    question = first["question"] or say(language, "describe")
    shown = picture(image_of(first["image"]) if first["image"] else None, question)
    right = escape(" / ".join(_accepted(first)))
    said = {answer["step"]: answer for answer in answers}
    cells = "".join(f"<td>{_said(language, said[step]) if step in said else ''}</td>" for step in steps)
    return (
        f'<tr><th scope="row"><div class="asked">{shown}<p title="{escape(first["example_id"])}">'
        f'{escape(question)}<span class="right">→ {right}</span></p></div></th>{cells}</tr>'
    )


def _accepted(said: Event) -> Sequence[str]:
    return said.get("references") or [said["answer"]]


def _said(language: Language, said: Event) -> str:
    """An answer with its mark, which does not stand by its colour alone."""
    words = escape(said["prediction"].strip() or say(language, "nothing_said"))
    right = any(is_right(said["prediction"], answer) for answer in _accepted(said))
    kind, mark, key = ("ok", "✓", "is_right") if right else ("no", "✗", "is_wrong")
    sign = f'<b role="img" aria-label="{escaped(language, key)}">{mark}</b>'
    return f'<span class="{kind}" title="{words}">{words} {sign}</span>'

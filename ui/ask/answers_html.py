"""What the Try tab shows as HTML: pictures to pick, answers side by side, earlier questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from ui.i18n import Language, escaped, number, say, sentence, told
from vlm.errors import UserError

if TYPE_CHECKING:
    from vlm.adapters import AdapterCheck, Probe

# Of Unicode's private use: no text of an adapter is shown with it (`printable`).
MARK = "\ue000"


@dataclass(frozen=True)
class Reply:
    """What one of those who were asked has said so far."""

    who: str
    text: str = ""
    tokens: int = 0
    elapsed_s: float = 0.0
    done: bool = False
    is_base: bool = False


def thumbnails(language: Language, pictures: Sequence[str | None]) -> str:
    """Buttons that name the picture's place in the list."""
    if not any(pictures):
        return ""
    buttons = "".join(
        f'<button data-index="{index}" aria-label="{escaped(language, "pick_image", number=index + 1)}">'
        f'<img src="{escape(picture)}" alt=""></button>'
        for index, picture in enumerate(pictures)
        if picture
    )
    return f'<p class="small">{escaped(language, "held_out_images")}</p><div class="thumbs">{buttons}</div>'


def ranks(language: Language, found: Mapping[str, tuple[int, int]]) -> str:
    """Such as: vision r 8, text r 4 to 16. A tower whose method has no rank is named alone."""
    written = []
    for tower, (low, high) in found.items():
        rank = number(language, low) if low == high else say(language, "from_to", low=low, high=high)
        written.append(say(language, tower).lower() + (f" r {rank}" if high else ""))
    return ", ".join(written)


def check(language: Language, name: str, found: "AdapterCheck", probe: "Probe | None") -> str:
    """How many of an adapter's tensors have their place in the base; and what it did once it was loaded."""
    words, good = [say(language, "tensors_match", matched=found.matched, total=found.total)], True
    if probe is not None:
        good = probe.differs
        words.append(say(language, "answers_differ" if good else "answers_equal"))
    mark = '<span class="ok">✓</span>' if good else '<span class="no">!</span>'
    notes = "".join(f"<br>{escape(sentence(language, note))}" for note in found.notes)
    return f'<p class="small">{mark} <b>{escape(name)}</b>: {escape("; ".join(words))}{notes}</p>'


def others(language: Language, unfit: Sequence[tuple[str, UserError]], nobody: bool) -> str:
    """The adapters that this base can't take, each with the reason; or how there come to be adapters."""
    if nobody:
        return f'<p class="small">{escaped(language, "no_adapters")}</p>'
    rows = "".join(f"<li>{_reason(language, name, reason)}</li>" for name, reason in unfit)
    title = f'<p class="small">{escaped(language, "unfit_adapters")}</p>'
    return f'<div class="unfit">{title}<ul>{rows}</ul></div>' if rows else ""


def _reason(language: Language, name: str, reason: UserError) -> str:
    """What is wrong with an adapter, whose name stands out; at the front where the sentence has none."""
    bold, told_of = f"<b>{escape(name)}</b>", reason.problem
    if told_of.template and told_of.values.get("name") == name:
        # Filled again with a mark for the name: its letters may stand in other words of the sentence, too.
        words = escape(sentence(language, told_of.with_values(name=MARK))).replace(MARK, bold)
    else:
        words = f"{bold}: {escape(sentence(language, told_of))}"
    remedy = escape(told(language, reason)[1])
    return f"{words} <span>{remedy}</span>"


def waiting(language: Language) -> str:
    return f'<div class="card"><p class="small">{escaped(language, "answers_waiting")}</p></div>'


def answers(language: Language, replies: Sequence[Reply], right: str | None) -> str:
    """One card for each reply, the adapters' framed; below them the right answer where it is known."""
    cards = "".join(_card(language, reply) for reply in replies)
    known = f'<p class="small">{escaped(language, "right_answer", answer=right)}</p>' if right else ""
    return f'<div class="answers" aria-live="polite">{cards}</div>{known}'


def _card(language: Language, reply: Reply) -> str:
    mark = "" if reply.is_base else "<i>●</i>"
    text = reply.text.strip() or say(language, "nothing_said" if reply.done else "thinking")
    quiet = "" if reply.text.strip() else " quiet"
    cost = say(
        language,
        "answer_cost",
        time=say(language, "seconds", s=number(language, reply.elapsed_s, 2)),
        tokens=reply.tokens,
    )
    return (
        f'<div class="card{"" if reply.is_base else " on"}"><h2>{mark}{escape(reply.who)}</h2>'
        f'<p class="ans{quiet}">{escape(text)}</p>'
        f'<p class="small">{escape(cost) if reply.tokens else "&nbsp;"}</p></div>'
    )


def earlier(language: Language, asked: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> str:
    """The questions that were asked about this image, newest first, with each answer under its name."""
    if not asked:
        return ""
    rows = "".join(
        f"<tr><td>{escape(question)}</td><td>"
        + "".join(
            f'<div><span class="small">{escape(who)}</span> <b>{escape(text)}</b></div>' for who, text in said
        )
        + "</td></tr>"
        for question, said in reversed(asked)
    )
    title = escaped(language, "earlier")
    return f'<div class="card"><h2>{title}</h2><table class="hist">{rows}</table></div>'

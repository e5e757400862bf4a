"""What the Adapter card shows beside its controls, as HTML: method, each tower's share, counts, memory."""

from html import escape
from pathlib import Path

from ui.i18n import Language, escaped, number, percent, say
from ui.train.form_html import small
from vlm.param_counts import TowerCounts


def method_about(language: Language, method: str) -> str:
    return small(say(language, f"method_{method}"))


def going_on(language: Language, adapter: str | None) -> str:
    """That the form stands on an adapter, whose method, layers and ranks are its own."""
    return small(say(language, "going_on", adapter=adapter_name(adapter))) if adapter else ""


def adapter_name(named: str) -> str:
    """A run's name as it is; of a folder the last part that tells something."""
    path = Path(named)
    return path.parent.name if path.name == "adapter" and path.parent.name else path.name


def tower_name(language: Language, tower: str) -> str:
    """The name of a tower that has no switch, in line with those that have one."""
    return f'<span class="unswitched">{escaped(language, tower)}</span>'


def tower_share(language: Language, counts: TowerCounts | None, tower: str) -> str:
    """How much of a tower trains: a bar, and below it the number and its percentage.

    The bar is the root of the share, so that ranks 4 and 8 can be told apart by eye. A tower that trains in
    full is counted twice by PEFT, as it was and as it becomes.
    """
    count = counts and counts.as_dict()[tower]
    share = count["trainable"] / count["total"] if count and count["total"] else 0.0
    words = say(language, "frozen") if counts else ""
    if share:
        whole = 2 * count["trainable"] == count["total"]
        of_it = say(language, "all_of_it") if whole else percent(language, share, 1)
        words = say(language, "tower_share", trainable=number(language, count["trainable"]), share=of_it)
        share = 1.0 if whole else share
    return (
        f'<div class="bar"><u style="width:{100 * share**0.5:.1f}%"></u></div>'
        f'<span class="small share">{escape(words) or "&nbsp;"}</span>'
    )


def counts_line(language: Language, counts: TowerCounts) -> str:
    """Trainable 122,880 of 1,989,632 (6.2 %)."""
    if not counts.trainable:
        return f'<div class="total"><span class="no">{escaped(language, "no_tower")}</span></div>'
    share = counts.trainable / max(1, counts.total)
    line = say(
        language,
        "trainable_of",
        trainable=f"<b>{number(language, counts.trainable)}</b>",
        total=number(language, counts.total),
        share=f'<span class="small">({percent(language, share, 1)})</span>',
    )
    return f'<div class="total"><span>{line}</span></div>'


def adapter_size(language: Language, counts: TowerCounts | None) -> str:
    """What the adapter weighs on disk."""
    if counts is None or not counts.trainable:
        return ""
    return small(say(language, "adapter_size", size=number(language, counts.adapter_mb, 1)))


def memory_line(language: Language, needed: int, there: int, fit: str) -> str:
    """Memory 1.1 of 20 GB, and whether that fits; both numbers are bytes."""
    words = say(language, "memory_of", need=gigabytes(language, needed), there=gigabytes(language, there))
    badge = f'<span class="badge {escape(fit)}">{escaped(language, f"fit_{fit}")}</span>'
    return f'<p class="small">{escape(words)} {badge}</p>'


def advice(language: Language, change: str, needed: int) -> str:
    """With batch size 4 it would be 3.2 GB."""
    return small(say(language, "helps_most", change=change, size=gigabytes(language, needed)))


def gigabytes(language: Language, size: int) -> str:
    """With one decimal below 10: as the run's own tile counts them."""
    amount = size / 2**30
    return number(language, amount, 1 if amount < 9.95 else 0)


def counting(language: Language) -> str:
    """In the counts' place while a model's configuration is read."""
    return f'<div class="total"><span class="small">{escaped(language, "counting")}</span></div>'

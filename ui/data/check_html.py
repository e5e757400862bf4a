"""What a check found as HTML: progress, whether a run can start, findings by kind, how long examples are.

Reasons and remedies are told in the reader's language; every text of a dataset is escaped here.
"""

from collections.abc import Callable, Collection, Sequence
from html import escape

from training.data.row import Issue
from training.data.validate.dataset_check import Report
from training.data.validate.token_lengths import Bin, TokenLengths
from training.program import command
from ui.i18n import TEXTS, Language, duration, escaped, number, say, sentence
from ui.train.form_html import small
from vlm.errors import Phrase

SHOWN_FIRST, SHOWN_MOST = 3, 200
"""Findings of one kind that are shown, before and after a person asks for more."""
StateOf = Callable[[Issue], str]
"""Of the row that a finding tells of: "open" where it can be corrected here, "changed" or "left_out" where it
was; "" where there is no such row."""
FAR_FROM_LIMIT = 1.5
"""Where the limit is that much above the longest example, it is said and not drawn."""


def progress(language: Language, what: str, done: int, total: int) -> str:
    """A bar with numbers; of rows nobody knows how many there are before they are read."""
    key = f"checking_{what.replace(' ', '_')}"
    words = say(language, key if key in TEXTS else "checking_rows")
    count = (
        number(language, done)
        if total < 1
        else say(language, "done_of", done=number(language, done), total=number(language, total))
    )
    share = f"{100 * done / total:.1f}%" if total else "100%"
    waiting = "" if total else " unknown"
    label = escape(f"{words} {count}")
    return (
        f'<div class="checking" role="status"><div class="bar{waiting}" role="progressbar"'
        f' aria-label="{label}"><u style="width:{share}"></u></div><p class="small">{label}</p></div>'
    )


def verdict(
    language: Language, report: Report, *, skips: bool, model: str | None, elapsed_s: float, cancelled: bool
) -> str:
    """Whether a run would start, in one pill, and what that rests on. `model`: the one that was asked."""
    usable = len(report.cleaned().examples)
    starts = usable > 0 and (skips or not report.refuses)
    words = [
        say(
            language,
            "looked_at",
            examples=len(report.dataset.examples),
            images=len(report.facts),
            time=_time(language, elapsed_s),
        )
    ]
    words.append(say(language, "asked_model", model=model) if model else say(language, "asked_no_model"))
    if cancelled:
        words.append(say(language, "was_cancelled"))
    lines = [" · ".join(words)]
    if report.faults and usable:
        key = "would_leave_out" if skips else "could_leave_out"
        lines.append(say(language, key, bad=number(language, report.left_out), good=number(language, usable)))
    state, key = ("finished", "can_start") if starts else ("failed", "would_be_refused")
    pill = f'<span class="state {state}">{escaped(language, key)}</span>'
    return f'<div class="verdict" role="status">{pill}{"".join(map(small, lines))}</div>'


def _time(language: Language, elapsed_s: float) -> str:
    """In tenths where it was quick."""
    if elapsed_s >= 10:
        return duration(language, elapsed_s)
    return say(language, "seconds", s=number(language, max(0.1, elapsed_s), 1))


def findings(language: Language, report: Report, opened: Collection[int], state_of: StateOf) -> str:
    """The findings by kind, faults first. `opened`: the kinds, by number, that are wanted whole."""
    groups = report.groups()
    if not groups:
        return f'<p class="small">{escaped(language, "nothing_found")}</p>'
    items = "".join(
        _group(language, index, *group, index in opened, state_of) for index, group in enumerate(groups)
    )
    return f'<ul class="findings">{items}</ul>'


def _group(
    language: Language, index: int, said: Phrase, found: Sequence[Issue], whole: bool, state_of: StateOf
) -> str:
    """`said` is what all of them say: values in which they differ are left out."""
    warns = found[0].warning
    shown = found[: SHOWN_MOST if whole else SHOWN_FIRST]
    heading = sentence(language, said)
    rows = "".join(
        _finding(language, finding, index, number_, heading, state_of)
        for number_, finding in enumerate(shown)
    )
    count = f'<b class="count">{number(language, len(found))}</b>'
    mark = escaped(language, "finding_warning" if warns else "finding_fault")
    more = ""
    if len(found) > len(shown) and not whole:
        words = escaped(language, "more_findings", count=number(language, len(found) - len(shown)))
        more = f'<button class="link" data-act="more" data-kind="{index}">{words}</button>'
    elif len(found) > len(shown):
        more = small(
            say(
                language,
                "more_in_shell",
                command=command(),
                count=number(language, len(found) - len(shown)),
            )
        )
    heading = f"<h3>{count}<span><bdi>{escape(heading)}</bdi></span><i>{mark}</i></h3>"
    return f'<li class="{"warns" if warns else "faults"}">{heading}<ul>{rows}</ul>{more}</li>'


def _finding(language: Language, finding: Issue, kind: int, row: int, heading: str, state_of: StateOf) -> str:
    """`file:line: reason -> remedy`; where the heading says the reason already, it is not said again."""
    where = sentence(language, finding.where)
    reason, remedy = sentence(language, finding.reason), sentence(language, finding.remedy)
    buttons, state = "", "" if finding.warning else state_of(finding)
    if state in ("open", "changed"):
        buttons = "".join(_row_action(language, act, kind, row, where) for act in ("fix", "leave"))
    if state in ("changed", "left_out"):
        buttons = f'<i class="{state}">{escaped(language, f"mark_{state}")}</i> ' + buttons
    if state == "left_out":
        buttons += _row_action(language, "back", kind, row, where)
    reason = "" if reason == heading else f" <bdi>{escape(reason)}</bdi>"
    actions = f'<span class="actions">{buttons}</span>' if buttons else ""
    return (
        f"<li><p><code><bdi>{escape(where)}</bdi></code>{reason}"
        f" <span>→ <bdi>{escape(remedy)}</bdi></span></p>{actions}</li>"
    )


def _row_action(language: Language, act: str, kind: int, row: int, where: str) -> str:
    words = escaped(language, f"row_{act}")
    named = f'data-act="{act}" data-kind="{kind}" data-row="{row}" aria-label="{words}: {escape(where)}"'
    return f'<button class="link" {named}>{words}</button>'


def lengths(language: Language, found: TokenLengths) -> str:
    """The histogram of tokens, the limit in it, and what would be lost."""
    if not found.tokens:
        return small(say(language, "no_lengths"))
    lines = [
        say(
            language,
            "lengths_facts",
            median=number(language, found.median),
            longest=number(language, found.longest),
            limit=number(language, found.limit),
        )
    ]
    beyond = sum(tokens > found.model_limit for tokens in found.tokens)
    if found.lost:
        lost = {"lost": number(language, found.lost), "total": number(language, len(found.tokens))}
        lines.append(say(language, "lengths_lost", **lost))
    else:
        lines.append(say(language, "lengths_all_fit"))
    if beyond:
        most = number(language, found.model_limit)
        lines.append(say(language, "lengths_beyond", count=number(language, beyond), limit=most))
    return _histogram(language, found) + "".join(map(small, lines))


def _histogram(language: Language, found: TokenLengths) -> str:
    bins = found.bins()
    most, end = max(each.count for each in bins), bins[-1].high + 1
    drawn_limit = found.limit <= FAR_FROM_LIMIT * end
    end = max(end, found.limit * 1.02) if drawn_limit else end
    bars = "".join(_bar(language, each, most, end, found.limit) for each in bins if each.count)
    line = ""
    if drawn_limit:
        at = 100 * found.limit / end
        side = " left" if at > 60 else ""
        words = escaped(language, "limit_at", limit=number(language, found.limit))
        line = f'<i class="limit{side}" style="left:{at:.2f}%"><b>{words}</b></i>'
    label = escaped(language, "lengths_label", longest=number(language, found.longest))
    return (
        f'<div class="histogram" role="img" aria-label="{label}">'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none">{bars}</svg>{line}'
        f'<span class="y">{number(language, most)}</span><span class="from">0</span>'
        f'<span class="to">{escaped(language, "n_tokens", count=round(end))}</span></div>'
    )


def _bar(language: Language, each: Bin, most: int, end: float, limit: int) -> str:
    left, width = 100 * each.low / end, 100 * (each.high + 1 - each.low) / end
    height = 100 * each.count / most
    lost = ' class="lost"' if each.low > limit else ""
    told = f"{number(language, each.low)}–{number(language, each.high)}: {number(language, each.count)}"
    return (
        f'<rect x="{left:.2f}" width="{0.88 * width:.2f}" y="{100 - height:.2f}" height="{height:.2f}"{lost}>'
        f"<title>{told}</title></rect>"
    )

"""What a run has learned, as HTML: before and after, the blindfold test, the hardest examples."""

from html import escape

from training.config.fields import BestMetric
from training.evaluation import compare
from training.evaluation.compare import Comparison, Rate
from training.runs.status import Status
from ui.i18n import TEXTS, Language, escaped, number, percent, say
from ui.run.samples import ImageOf, at_step, picture
from ui.run.summary import Event, Story


def results(language: Language, status: Status, story: Story) -> str:
    """The table of an ended run, and what its numbers are to be taken for; empty before."""
    before, after = compare.base_and_kept(story.evaluations, story.best_step)
    if status.live or before is None or after is None:
        return ""
    rows = compare.comparisons(before, after)
    notes = [say(language, "results_note", count=after["examples"])]
    if several := after.get("several"):
        notes.append(say(language, "several_note", count=several))
    if story.best_step is not None:
        key = "ended_early" if story.ended_early else "best_kept"
        metric = metric_name(language, story.best_metric)
        notes.append(say(language, key, step=number(language, story.best_step), metric=metric))
    if story.blindfold is not None:
        notes.append(blindfold_words(language, story.blindfold))
    said = "".join(f'<p class="small">{escape(note)}</p>' for note in notes)
    is_last = after["step"] == (story.best_step or status.step)
    whose = say(language, "base"), say(language, "adapter") if is_last else at_step(language, after["step"])
    heads = "".join(f'<th scope="col">{escape(who)}</th>' for who in whose)
    metrics = "".join(_row(language, row) for row in rows if row.group is None)
    groups = "".join(_row(language, row) for row in rows if row.group is not None)
    if groups:
        title = escaped(language, "by_group")
        groups = f'<tbody><tr><th class="part" colspan="3" scope="colgroup">{title}</th></tr>{groups}</tbody>'
    return (
        f'<div class="card"><h2>{escaped(language, "results")}</h2><table class="results">'
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{metrics}</tbody>{groups}</table>{said}</div>"
    )


def metric_name(language: Language, metric: BestMetric | str) -> str:
    """Its name in words; of a metric that this page doesn't know, the name it has in the log."""
    key = f"metric_{metric}"
    return say(language, key) if key in TEXTS else metric


def type_name(language: Language, group: str) -> str:
    """The types of the samples' questions in words; those of other datasets as they are called there."""
    key = f"type_{group}"
    return say(language, key) if key in TEXTS else group


def _row(language: Language, row: Comparison) -> str:
    name = metric_name(language, row.metric)
    if row.group is not None:
        group = type_name(language, row.group)
        name = say(language, "group_count", group=group, count=number(language, row.examples))
    cells = "".join(f"<td>{_rate(language, rate)}</td>" for rate in (row.before, row.after))
    return f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'


def _rate(language: Language, rate: Rate | None) -> str:
    if rate is None:
        return "–"
    shown = escape(percent(language, rate.value))
    if rate.interval is None:
        return f"<b>{shown}</b>"
    low, high = (number(language, 100 * bound) for bound in rate.interval)
    return f"<b>{shown}</b> <span>{escape(say(language, 'from_to', low=low, high=high))}</span>"


def blindfold_words(language: Language, found: Event) -> str:
    """What the blindfold test found, in a sentence or three; older logs tell less."""
    if found["verdict"] == "untestable":
        return say(language, "blindfold_untestable")
    rates = {key: percent(language, found[key]) for key in ("own", "blind")}
    told = [say(language, f"blindfold_{found['verdict']}", count=found["examples"], **rates)]
    if gap := found.get("gap_interval"):
        low, high = (number(language, 100 * bound) for bound in gap)
        told.append(say(language, "blindfold_gap", low=low, high=high))
    if found["verdict"] == "unclear" and "needed" in found:
        needed = found["needed"]
        told.append(
            say(language, "blindfold_needed", needed=number(language, needed))
            if needed
            else say(language, "blindfold_few_right")
        )
    return " ".join(told)


def hardest(language: Language, story: Story, image_of: ImageOf) -> str:
    """The training examples with the highest loss, as cards in a row; empty before the first epoch's end."""
    if story.hard is None:
        return ""
    epoch = number(language, max(1, round(story.hard["epoch"])))
    cards = []
    for sample in story.hard["samples"]:
        question = sample["question"] or say(language, "describe")
        shown = picture(image_of(sample["image"]) if sample["image"] else None, question)
        loss = say(language, "loss_of", loss=number(language, sample["loss"] or 0.0, 2))
        cards.append(
            f'<li>{shown}<p>{escape(question)}</p><p class="right">→ {escape(sample["answer"])}</p>'
            f'<p class="small" title="{escape(sample["example_id"])}">{escape(loss)}'
            f"<br>{escape(sample.get('place', sample['example_id']))}</p>"
            f'<button class="link" data-act="row" data-key="{escape(sample["example_id"])}">'
            f"{escaped(language, 'hardest_open')}</button></li>"
        )
    return (
        f'<div class="card"><h2>{escaped(language, "hardest")}</h2>'
        f'<p class="small">{escaped(language, "hardest_note", epoch=epoch)}</p>'
        f'<ul class="hardest" tabindex="0" aria-label="{escaped(language, "hardest")}">'
        f"{''.join(cards)}</ul></div>"
    )

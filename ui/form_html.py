"""What the Train form shows beside its controls, as HTML: preview, counts, bars, command line."""

from html import escape

from training.config import Problem
from training.data.datasets import SAMPLES, Dataset
from ui.pictures import data_uri
from ui.text import TEXTS, Language, duration, escaped, number, percent, say
from vlm.counts import TowerCount, TowerCounts
from vlm.errors import UserError

THUMBNAILS = 5
LABELS = {
    "use_vision_lora": "vision",
    "use_text_lora": "text",
    "vision_lora_r": "vision_rank",
    "text_lora_r": "text_rank",
}
"""Where a setting's label is another key than its name."""

FIRST_RUN_S = 63
"""Wall time of a run with nothing changed, on two CPU cores. README and docs say the same."""


def small(text: str) -> str:
    return f'<p class="small">{escape(text)}</p>'


def error(trouble: UserError) -> str:
    return _trouble(f"<p>{escape(trouble.problem)}</p><p>{escape(trouble.remedy)}</p>")


def _trouble(content: str) -> str:
    return f'<div class="trouble" role="alert">{content}</div>'


def problems(language: Language, found: list[Problem]) -> str:
    """Each setting that can't be used, with what to do; empty where all can."""
    items = "".join(
        f"<li><b>{escape(label(language, problem.field))}</b>: {escape(problem.message)}."
        f" {escape(problem.remedy)}</li>"
        for problem in found
    )
    return _trouble(f"<p>{escaped(language, 'fix_settings')}</p><ul>{items}</ul>") if found else ""


def label(language: Language, field: str) -> str:
    """What the form calls a setting."""
    key = LABELS.get(field, field)
    return say(language, key) if key in TEXTS else field


def dataset_note(language: Language, source: str, dataset: Dataset | None = None) -> str:
    kind = say(language, "sample_note" if source in SAMPLES else "own_note")
    if dataset is None:
        return escape(kind)
    return escaped(language, "examples_note", kind=kind, count=number(language, len(dataset.examples)))


def preview(language: Language, source: str, dataset: Dataset) -> str:
    """A few pictures, one question with its answer, a word about the dataset, and what is wrong with it."""
    pictured = [example for example in dataset.examples if example.images]
    step = max(1, len(pictured) // THUMBNAILS)
    chosen = pictured[::step][:THUMBNAILS]
    sources = [data_uri(example.images[0]) for example in chosen]
    images = "".join(
        f'<img src="{escape(source)}" alt="{escape(example.question or example.answer)}">'
        for example, source in zip(chosen, sources, strict=True)
        if source
    )
    asked = next((example for example in chosen if example.question), None) or next(
        iter(dataset.examples), None
    )
    lines = [say(language, f"about_{source}")] if source in SAMPLES else []
    if asked is not None:
        key = "caption_line" if asked.is_caption else "example_line"
        lines.append(say(language, key, question=asked.question, answer=asked.answer))
    bad = ""
    if dataset.findings:
        count = number(language, len(dataset.findings))
        bad = escaped(language, "bad_rows", count=count, first=str(dataset.findings[0]))
        bad = f'<p class="small no">{bad}</p>'
    return f'<div class="thumbs">{images}</div>' + "".join(map(small, reversed(lines))) + bad


def preview_waiting(language: Language) -> str:
    """The preview's place while a dataset is read, or a sample is drawn for the first time."""
    empty = "<s></s>" * THUMBNAILS
    return f'<div class="thumbs">{empty}</div>{small(say(language, "loading_data"))}'


def model_note(language: Language, model: str, counts: TowerCounts) -> str:
    if model != "starter":
        return escaped(language, "folder_note")
    frozen = counts.total - counts.trainable
    return escaped(language, "starter_note", count=number(language, frozen / 1e6, 1))


def model_about(language: Language, model: str) -> str:
    if model == "starter":
        return small(say(language, "about_starter", time=duration(language, FIRST_RUN_S)))
    return small(say(language, "about_folder"))


def counts_line(language: Language, counts: TowerCounts) -> str:
    """Trainable 122,880 of 1,989,632 (6.2 %), and the adapter's size on disk."""
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
    size = say(language, "megabytes", size=number(language, counts.adapter_mb, 1))
    return f'<div class="total"><span>{line}</span><span class="small">{escape(size)}</span></div>'


def tower_bar(tower: TowerCount | None = None) -> str:
    """How much of a tower trains. The root of the share, so that ranks 4 and 8 can be told apart by eye."""
    share = tower.trainable / tower.total if tower and tower.total else 0.0
    return f'<div class="bar" title="{100 * share:.1f} %"><u style="width:{100 * share**0.5:.1f}%"></u></div>'


def connector_row(language: Language) -> str:
    """The third tower: it stays as it is, so there is nothing to set."""
    return (
        f'<div class="still"><span>{escaped(language, "connector")}</span><div class="bar"></div>'
        f'<span class="small">{escaped(language, "frozen")}</span></div>'
    )


def command(language: Language, line: str, measured: bool) -> str:
    """The same run in a shell; and how long it takes, where that was measured: for the defaults."""
    if measured:
        words = say(language, "takes", time=duration(language, FIRST_RUN_S))
    else:
        words = say(language, "same_in_shell")
    return f'<p class="small center">{escape(words)}<br><code>{escape(line)}</code></p>'

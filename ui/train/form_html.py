"""What the Train form shows beside its controls, as HTML: preview, counts, bars, command line."""

from html import escape

from training.config import Problem
from training.data.dataset import Dataset
from training.data.edit.thumbnails import thumbnail_uri
from training.data.synthetic.samples import SAMPLES
from ui.i18n import TEXTS, Language, duration, escaped, number, say, sentence, told
from ui.train.form import Chosen
from vlm import catalog
from vlm.catalog import CatalogEntry
from vlm.errors import UserError
from vlm.param_counts import TowerCounts

THUMBNAILS = 5
LABELS = {
    "use_vision_lora": "vision",
    "use_text_lora": "text",
    "vision_lora_r": "vision_rank",
    "connector_lora_r": "connector_rank",
    "text_lora_r": "text_rank",
}
"""Where a setting's label is another key than its name."""

FIRST_RUN_S = 80
"""Wall time of a run with nothing changed, on two CPU cores. README and docs say the same."""


def small(text: str) -> str:
    return f'<p class="small">{escape(text)}</p>'


def error(language: Language, trouble: UserError) -> str:
    problem, remedy = told(language, trouble)
    return _trouble(f"<p>{escape(problem)}</p><p>{escape(remedy)}</p>")


def _trouble(content: str) -> str:
    return f'<div class="trouble" role="alert">{content}</div>'


def problems(language: Language, found: list[Problem]) -> str:
    """Each setting that can't be used, with what to do; empty where all can."""
    items = "".join(
        f"<li><b>{escape(label(language, problem.field))}</b>:"
        f" {escape(' '.join(told(language, problem.error)))}</li>"
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
    return escaped(language, "examples_note", kind=kind, count=len(dataset.examples))


def preview(language: Language, source: str, dataset: Dataset) -> str:
    """A few pictures, one question with its answer, a word about the dataset, and what is wrong with it."""
    pictured = [example for example in dataset.examples if example.images]
    step = max(1, len(pictured) // THUMBNAILS)
    chosen = pictured[::step][:THUMBNAILS]
    sources = [thumbnail_uri(example.images[0]) for example in chosen]
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
        first = sentence(language, dataset.findings[0].line)
        bad = escaped(language, "bad_rows", count=len(dataset.findings), first=first)
        bad = f'<p class="small no">{bad}</p>'
    return f'<div class="thumbs">{images}</div>' + "".join(map(small, reversed(lines))) + bad


def preview_waiting(language: Language) -> str:
    """The preview's place while a dataset is read, or a sample is drawn for the first time."""
    empty = "<s></s>" * THUMBNAILS
    return f'<div class="thumbs">{empty}</div>{small(say(language, "loading_data"))}'


def parameters(language: Language, count: float) -> str:
    """2.9 M, 256 M, 2.2 B."""
    key, size = ("billions", count / 1e9) if count >= 999.5e6 else ("millions", count / 1e6)
    return say(language, key, count=number(language, size, 1 if size < 9.95 else 0))


def model_note(language: Language, chosen: Chosen, counts: TowerCounts) -> str:
    """Over the right end of the box: the starter's size. A model that is not the starter says it below."""
    if chosen.place != "starter":
        return ""
    return escaped(language, "starter_note", count=parameters(language, counts.total - counts.trainable))


def model_about(language: Language, chosen: Chosen) -> str:
    """What is known of a model, and which settings followed it."""
    entry, size = catalog.find(chosen.model), parameters(language, chosen.parameters)
    if chosen.place == "starter":
        lines = [say(language, "about_starter", time=duration(language, FIRST_RUN_S))]
    elif entry:
        lines = [say(language, f"note_{entry.model}"), terms(language, entry)]
    elif chosen.trouble:
        lines = []
    elif chosen.place == "two":
        lines = [say(language, "about_composed", count=size)]
    else:
        lines = [say(language, f"about_{chosen.place}", kind=chosen.model_type, count=size)]
    if chosen.changed:
        changes = ", ".join(change(language, name, value) for name, value in chosen.changed)
        lines.append(say(language, "set_for_model", changes=changes))
    return "".join(map(small, lines))


def terms(language: Language, entry: CatalogEntry) -> str:
    """Licence, login and memory, such as: MIT · no login needed · needs no GPU."""
    tiny = entry.memory == "tiny"
    memory = say(language, "memory_tiny") if tiny else say(language, "memory_class", size=entry.memory)
    return " · ".join((entry.licence, say(language, "gated" if entry.gated else "not_gated"), memory))


def change(language: Language, name: str, value: object) -> str:
    """Such as: batch size 8; checkpoint gradients on."""
    if isinstance(value, bool):
        value = say(language, "on" if value else "off")
    elif isinstance(value, float):
        value = f"{value:g}"
    name = label(language, name)
    return say(language, "set_to", setting=name[0].lower() + name[1:], value="–" if value is None else value)


def command(language: Language, line: str, measured: bool) -> str:
    """The same run in a shell; and how long it takes, where that was measured: for the defaults."""
    if measured:
        words = say(language, "takes", time=duration(language, FIRST_RUN_S))
    else:
        words = say(language, "same_in_shell")
    return f'<p class="small center">{escape(words)}<br><code>{escape(line)}</code></p>'

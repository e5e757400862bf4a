"""The Try tab: an image, a question, and who answers; base and adapters stream side by side."""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from training import runs
from training.config import TrainingConfig
from training.data.datasets import open_dataset, split
from training.data.images import load_image
from training.runs import Run
from ui import answers_html, form_html
from ui.answers_html import Reply
from ui.controls import drawn, title
from ui.events import QUEUED, QUIET, Trigger
from ui.live import exact_words, ranks
from ui.pictures import data_uri
from ui.run_panel import has_adapter, settings_of, story_of
from ui.text import Language, Wordings, say
from vlm.errors import UserError

if TYPE_CHECKING:
    from vlm.engine import Engine

BASE = "base"
"""The base's value among those who can answer; an adapter's is a slash, which no name holds, and its run."""

SAMPLES_SHOWN = 10
Asked = dict[str, list[tuple[str, list[tuple[str, str]]]]]
"""Image digest -> questions in order, each with (who, answer)."""

TELL_PICKED = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-index]');
  if (button) trigger('pick', {index: Number(button.dataset.index)});
});
"""


@dataclass(frozen=True)
class Sample:
    """A picture with a question and its right answer; held out, so that no adapter was trained on it."""

    image: Path
    question: str
    answer: str


@dataclass(frozen=True)
class TryTab:
    image: gr.Image
    thumbnails: gr.HTML
    samples: gr.State
    picked: gr.State
    who: gr.CheckboxGroup
    who_note: gr.HTML
    question: gr.Textbox
    ask: gr.Button
    stop: gr.Button
    answers: gr.HTML
    earlier: gr.HTML
    asked: gr.State


def build_try_tab(wordings: Wordings) -> TryTab:
    with gr.Row(elem_classes="page"):
        with gr.Column(elem_classes="settings"):
            image, thumbnails = image_card(wordings)
            who, who_note = who_card(wordings)
        with gr.Column(elem_classes="asking"):
            with gr.Column(elem_classes="card"):
                with gr.Row(elem_classes="ask"):
                    question = gr.Textbox(
                        label=say("en", "question"),
                        show_label=False,
                        placeholder=say("en", "question_hint"),
                        max_lines=3,
                        elem_id="question",
                    )
                    wordings.bind(question, label="question", placeholder="question_hint")
                    ask = wordings.bind(
                        gr.Button(say("en", "ask"), variant="primary", elem_id="ask"), value="ask"
                    )
                    stop = wordings.bind(
                        gr.Button(say("en", "stop"), visible=False, elem_id="stop-answer"), value="stop"
                    )
                drawn(wordings, lambda language: form_html.small(say(language, "ask_note")))
            answers = drawn(wordings, answers_html.waiting)
            earlier = drawn(wordings)
    return TryTab(
        image,
        thumbnails,
        gr.State([]),
        gr.State(None),
        who,
        who_note,
        question,
        ask,
        stop,
        answers,
        earlier,
        gr.State({}),
    )


def image_card(wordings: Wordings) -> tuple[gr.Image, gr.HTML]:
    """The picture to ask about, and pictures to choose from."""
    with gr.Column(elem_classes="card"):
        title(wordings, "image", 1)
        image = gr.Image(
            type="filepath",
            image_mode=None,
            format="png",
            sources=["upload", "clipboard", "webcam"],
            label=say("en", "image"),
            show_label=False,
            buttons=[],
            height=270,
            placeholder=say("en", "image_hint"),
            interactive=True,
            elem_id="image",
        )
        wordings.bind(image, label="image", placeholder="image_hint")
        thumbnails = drawn(wordings, elem_classes="pickable", js_on_load=TELL_PICKED)
    return image, thumbnails


def who_card(wordings: Wordings) -> tuple[gr.CheckboxGroup, gr.HTML]:
    """Who answers, and a note about them."""
    with gr.Column(elem_classes="card"):
        title(wordings, "who", 2)
        who = gr.CheckboxGroup(
            [],
            label=say("en", "answerers"),
            show_label=False,
            elem_classes="switch who",
            elem_id="who",
        )
        wordings.bind(who, label="answerers")
        who_note = drawn(wordings)
    return who, who_note


def add_try_events(tab: TryTab, workspace: Path, language: gr.BrowserState, select: Trigger) -> None:
    """`select` is the tab's own: runs may have finished while another tab was open."""

    def pick(samples: list[Sample], event: gr.EventData) -> tuple[Any, ...]:
        index = event.index if isinstance(event.index, int) else -1
        if not 0 <= index < len(samples):
            return gr.skip(), gr.skip(), gr.skip()
        return opened_sample(samples[index])

    def show_earlier(language: Language, image: str | None, asked: Asked) -> str:
        return answers_html.earlier(language, asked.get(digest(image), [])) if image else ""

    def ask(*inputs: Any) -> Iterator[tuple[Any, ...]]:
        yield from answer(workspace, *inputs)

    listed = [tab.who, tab.who_note, tab.samples, tab.thumbnails]
    gr.on(
        [select, language.change],
        lambda language, who: who_can_answer(workspace, language, who),
        [language, tab.who],
        listed,
        trigger_mode="always_last",
        concurrency_id="data",
        **QUEUED,
    )
    tab.thumbnails.pick(pick, tab.samples, [tab.image, tab.question, tab.picked], **QUIET)
    gr.on(
        [tab.image.change, language.change],
        show_earlier,
        [language, tab.image, tab.asked],
        tab.earlier,
        **QUIET,
    )
    inputs = [language, tab.image, tab.question, tab.who, tab.picked, tab.asked]
    gr.on(
        [tab.ask.click, tab.question.submit],
        ask,
        inputs,
        [tab.answers, tab.ask, tab.stop, tab.asked, tab.earlier],
        trigger_mode="once",
        concurrency_id="gpu",
        **QUEUED,
    )
    tab.stop.click(lambda: engine().stop(), None, None, **QUIET)


def who_can_answer(workspace: Path, language: Language, chosen: Sequence[str] | None) -> tuple[Any, ...]:
    """Those who can answer, the choice kept where it still can be, and pictures to ask about.

    With nothing chosen yet it is the base and the newest adapter.
    """
    adapters = [
        run for run in runs.list_runs(workspace) if has_adapter(run, run.status()) and settings_of(run)
    ]
    choices = [
        (say(language, "base_model"), BASE),
        *((adapter_words(language, run), f"/{run.name}") for run in adapters),
    ]
    kept = [value for value in chosen or [] if value in {value for _, value in choices}]
    value = kept or [value for _, value in choices[:2]]
    note = "" if adapters else form_html.small(say(language, "no_adapters"))
    samples, pictures = held_out_samples(workspace, adapters, value)
    return gr.update(choices=choices, value=value), note, samples, answers_html.thumbnails(language, pictures)


def adapter_words(language: Language, run: Run) -> str:
    """Such as: shapes-vi-01 · text r 16 · 89 %."""
    score = exact_words(language, story_of(run))
    return " · ".join(words for words in (run.name, ranks(language, run.config()), score) if words)


def held_out_samples(
    workspace: Path, adapters: Sequence[Run], chosen: Sequence[str]
) -> tuple[list[Sample], list[str | None]]:
    """Pictures the first chosen adapter did not train on, from its dataset; without one, from the default."""
    run = next((run for run in adapters if f"/{run.name}" in chosen), None)
    config = run.config() if run else TrainingConfig()
    try:
        dataset = open_dataset(config.dataset, workspace)
    except UserError:
        return [], []  # the dataset was moved since: a person's own image can still be asked about
    _, held_out = split(dataset.examples, config.held_out, config.seed)
    by_image = {
        example.images[0]: example
        for example in held_out or dataset.examples
        if example.images and example.question
    }
    samples = [Sample(image, example.question, example.answer) for image, example in by_image.items()][
        :SAMPLES_SHOWN
    ]
    return samples, [data_uri(sample.image) for sample in samples]


def opened_sample(sample: Sample) -> tuple[Any, ...]:
    """The picture, its question and the sample. Gradio keeps a copy of its own: no dataset file is served."""
    return load_image(sample.image), sample.question, sample


def answer(
    workspace: Path,
    language: Language,
    image: str | None,
    question: str,
    who: Sequence[str],
    picked: Sample | None,
    asked: Asked,
) -> Iterator[tuple[Any, ...]]:
    """Streams the cards; the question is remembered once it was answered, in full or until Stop."""
    question = (question or "").strip()
    try:
        yield gr.skip(), gr.update(interactive=False), gr.update(visible=True), gr.skip(), gr.skip()
        model, adapters, names = answerers(workspace, language, who)
        if not question:
            raise UserError(say(language, "ask_needs_question"), say(language, "ask_needs_question_remedy"))
        if not image:
            raise UserError(say(language, "ask_needs_image"), say(language, "ask_needs_image_remedy"))
        right = picked.answer if picked and picked.question == question else None
        replies = [
            Reply(name, is_base=adapter is None) for name, adapter in zip(names, adapters, strict=True)
        ]
        yield answers_html.answers(language, replies, right), gr.skip(), gr.skip(), gr.skip(), gr.skip()
        tokens = TrainingConfig().max_new_tokens
        for said in engine().ask(model, load_image(Path(image)), question, adapters, tokens):
            replies = [
                Reply(reply.who, now.text, now.tokens, now.elapsed_s, now.done, reply.is_base)
                for reply, now in zip(replies, said, strict=True)
            ]
            yield answers_html.answers(language, replies, right), gr.skip(), gr.skip(), gr.skip(), gr.skip()
        about = [*asked.get(digest(image), []), (question, [(reply.who, reply.text) for reply in replies])]
        asked = asked | {digest(image): about}
        yield (
            gr.skip(),
            gr.update(interactive=True),
            gr.update(visible=False),
            asked,
            answers_html.earlier(language, about),
        )
    except UserError as trouble:
        yield (
            form_html.error(trouble),
            gr.update(interactive=True),
            gr.update(visible=False),
            gr.skip(),
            gr.skip(),
        )


def answerers(
    workspace: Path, language: Language, who: Sequence[str]
) -> tuple[str, list[Path | None], list[str]]:
    """The base model, and for each who was chosen an adapter folder (None: the base itself) and a name."""
    if not who:
        raise UserError(say(language, "ask_needs_answerer"), say(language, "ask_needs_answerer_remedy"))
    chosen = [None if value == BASE else runs.find(workspace, value.removeprefix("/")) for value in who]
    models = {run.config().model for run in chosen if run} or {TrainingConfig().model}
    if len(models) > 1:
        raise UserError(say(language, "two_bases"), say(language, "two_bases_remedy"))
    names = [run.name if run else say(language, "base_model") for run in chosen]
    return models.pop(), [run.adapter_path if run else None for run in chosen], names


def digest(image: str) -> str:
    """Tells images apart by content: the same picture picked twice is one."""
    return hashlib.sha256(Path(image).read_bytes()).hexdigest()


def engine() -> "Engine":
    """The process's one engine. It brings torch along, so it is made when the page warms up or asks."""
    with _making_engine:
        return _engine()


@cache
def _engine() -> "Engine":
    from vlm.engine import Engine

    return Engine()


_making_engine = threading.Lock()

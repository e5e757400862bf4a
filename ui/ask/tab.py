"""The Try tab: an image, a question, and who answers; base and adapters stream side by side."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from training import runs
from training.config import TrainingConfig
from training.data.edit.thumbnails import thumbnail_uri
from training.data.images import load_image
from training.data.open import open_configured
from training.data.splits import split_dataset
from ui import adapters as shelf
from ui.ask import answers_html
from ui.ask.answers_html import Reply
from ui.ask.models_card import (
    BASE,
    WhoCard,
    add_who_events,
    base_settings,
    build_who_card,
    checks,
    listed_again,
)
from ui.events import QUEUED, QUIET, Trigger
from ui.i18n import Language, say
from ui.inference import engine
from ui.run.panel import settings_of
from ui.train import form_html
from ui.widgets import drawn, title
from vlm.errors import UserError
from vlm.settings import ModelSettings

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
    who: WhoCard
    question: gr.Textbox
    ask: gr.Button
    stop: gr.Button
    answers: gr.HTML
    earlier: gr.HTML
    asked: gr.State

    @property
    def opened(self) -> list[gr.blocks.Block]:
        """What `opened_sample` updates."""
        return [self.image, self.question, self.picked]


def build_try_tab(words: Language) -> TryTab:
    with gr.Row(elem_classes="page"):
        with gr.Column(elem_classes="settings"):
            image, thumbnails = image_card(words)
            who = build_who_card(words)
        with gr.Column(elem_classes="asking"):
            with gr.Column(elem_classes="card"):
                with gr.Row(elem_classes="ask"):
                    question = gr.Textbox(
                        label=say(words, "question"),
                        show_label=False,
                        placeholder=say(words, "question_hint"),
                        max_lines=3,
                        elem_id="question",
                    )
                    ask = gr.Button(say(words, "ask"), variant="primary", elem_id="ask")
                    stop = gr.Button(say(words, "stop"), visible=False, elem_id="stop-answer")
                drawn(words, lambda language: form_html.small(say(language, "ask_note")))
            answers = drawn(words, answers_html.waiting)
            earlier = drawn(words)
    shown = (question, ask, stop, answers, earlier)
    return TryTab(image, thumbnails, gr.State([]), gr.State(None), who, *shown, gr.State({}))


def image_card(words: Language) -> tuple[gr.Image, gr.HTML]:
    """The picture to ask about, and pictures to choose from."""
    with gr.Column(elem_classes="card"):
        title(words, "image", 1)
        image = gr.Image(
            type="filepath",
            image_mode=None,
            format="png",
            sources=["upload", "clipboard", "webcam"],
            label=say(words, "image"),
            show_label=False,
            buttons=[],
            height=270,
            placeholder=say(words, "image_hint"),
            interactive=True,
            elem_id="image",
        )
        thumbnails = drawn(words, elem_classes="pickable", js_on_load=TELL_PICKED)
    return image, thumbnails


def add_try_events(tab: TryTab, workspace: Path, language: gr.BrowserState, select: Trigger) -> None:
    """`select` is the tab's own: runs may have finished while another tab was open."""
    who = tab.who

    def pick(samples: list[Sample], event: gr.EventData) -> tuple[Any, ...]:
        index = event.index if isinstance(event.index, int) else -1
        if not 0 <= index < len(samples):
            return gr.skip(), gr.skip(), gr.skip()
        return opened_sample(samples[index])

    def show_earlier(language: Language, image: str | None, asked: Asked) -> str:
        return answers_html.earlier(language, asked.get(digest(image), [])) if image else ""

    def ask(*inputs: Any) -> Iterator[tuple[Any, ...]]:
        yield from answer(workspace, *inputs)

    listed = gr.on(
        [select],
        lambda *inputs: listed_again(workspace, *inputs),
        [language, who.base, who.who, who.added, who.listed_for],
        who.listed,
        trigger_mode="always_last",
        concurrency_id="model",
        **QUEUED,
    )
    listed.then(
        lambda *inputs: pictures(workspace, *inputs),
        [language, who.who],
        [tab.samples, tab.thumbnails],
        concurrency_id="data",
        **QUEUED,
    )
    add_who_events(who, workspace, language)
    tab.thumbnails.pick(pick, tab.samples, tab.opened, **QUIET)
    gr.on(
        [tab.image.change],
        show_earlier,
        [language, tab.image, tab.asked],
        tab.earlier,
        **QUIET,
    )
    inputs = [language, tab.image, tab.question, who.base, who.who, tab.picked, tab.asked]
    gr.on(
        [tab.ask.click, tab.question.submit],
        ask,
        inputs,
        [tab.answers, tab.ask, tab.stop, tab.asked, tab.earlier, who.checks],
        trigger_mode="once",
        concurrency_id="gpu",
        **QUEUED,
    )
    tab.stop.click(lambda: engine().stop(), None, None, **QUIET)


def pictures(workspace: Path, language: Language, who: Sequence[str] | None) -> tuple[list[Sample], str]:
    """Held-out pictures to ask about, and their thumbnails."""
    samples = held_out_samples(workspace, who or [])
    return samples, answers_html.thumbnails(language, [thumbnail_uri(sample.image) for sample in samples])


def held_out_samples(workspace: Path, chosen: Sequence[str]) -> list[Sample]:
    """Pictures the first chosen run did not train on, from its dataset; without one, from the default."""
    run = next((run for run in runs.list_runs(workspace) if f"/{run.name}" in chosen), None)
    config = (settings_of(run) if run else None) or TrainingConfig()
    try:
        dataset = open_configured(config.model_copy(update={"workspace": workspace}))
    except UserError:
        return []  # the dataset was moved since: a person's own image can still be asked about
    _, held_out = split_dataset(dataset, config.held_out, config.seed)
    by_image = {
        example.images[0]: example
        for example in held_out or dataset.examples
        if example.images and example.question
    }
    shown = list(by_image.items())[:SAMPLES_SHOWN]
    return [Sample(image, example.question, example.answer) for image, example in shown]


def opened_sample(sample: Sample) -> tuple[Any, ...]:
    """The picture, its question and the sample. Gradio keeps a copy of its own: no dataset file is served."""
    return load_image(sample.image), sample.question, sample


def answer(
    workspace: Path,
    language: Language,
    image: str | None,
    question: str,
    base: str | None,
    who: Sequence[str],
    picked: Sample | None,
    asked: Asked,
) -> Iterator[tuple[Any, ...]]:
    """Streams the cards; the question is remembered once it was answered, in full or until Stop.

    Each yield is for the answers, Ask, Stop, `asked`, the earlier questions, and the adapters' checks.
    """
    question = (question or "").strip()
    try:
        yield gr.skip(), gr.update(interactive=False), gr.update(visible=True), *[gr.skip()] * 3
        model, adapters, names = answerers(workspace, language, base, who)
        if not question:
            raise UserError("There is no question yet.", "Type one, then press Ask.", "no-question")
        if not image:
            raise UserError(
                "There is no image yet.", "Upload one, or click one of the small pictures.", "no-image"
            )
        right = picked.answer if picked and picked.question == question else None
        replies = [
            Reply(name, is_base=adapter is None) for name, adapter in zip(names, adapters, strict=True)
        ]
        yield answers_html.answers(language, replies, right), *[gr.skip()] * 5
        tokens = TrainingConfig().max_new_tokens
        for said in engine().ask(model, load_image(Path(image)), question, adapters, tokens):
            replies = [
                Reply(reply.who, now.text, now.tokens, now.elapsed_s, now.done, reply.is_base)
                for reply, now in zip(replies, said, strict=True)
            ]
            yield answers_html.answers(language, replies, right), *[gr.skip()] * 5
        about = [*asked.get(digest(image), []), (question, [(reply.who, reply.text) for reply in replies])]
        asked = asked | {digest(image): about}
        yield (
            gr.skip(),
            gr.update(interactive=True),
            gr.update(visible=False),
            asked,
            answers_html.earlier(language, about),
            checks(workspace, language, base, who),
        )
    except UserError as trouble:
        yield (
            form_html.error(language, trouble),
            gr.update(interactive=True),
            gr.update(visible=False),
            *[gr.skip()] * 3,
        )


def answerers(
    workspace: Path, language: Language, base: str | None, who: Sequence[str]
) -> tuple[ModelSettings, list[Path | None], list[str]]:
    """The base model, and for each who was chosen an adapter folder (None: the base itself) and a name."""
    if not who:
        raise UserError("Nobody is chosen to answer.", "Switch on the base or an adapter.", "nobody-answers")
    chosen = [None if key == BASE else shelf.find(workspace, key) for key in who]
    names = [adapter.name if adapter else say(language, "base_model") for adapter in chosen]
    return base_settings(base), [adapter.folder if adapter else None for adapter in chosen], names


def digest(image: str) -> str:
    """Tells images apart by content: the same picture picked twice is one."""
    return hashlib.sha256(Path(image).read_bytes()).hexdigest()

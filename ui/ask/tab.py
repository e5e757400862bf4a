"""The Try tab: an image, a question, and who answers; base and adapters stream side by side."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from PIL.Image import Image

from training import runs
from training.config import TrainingConfig
from training.data.edit.thumbnails import thumbnail_uri
from training.data.images import load_image
from training.data.open import open_configured
from training.data.splits import split_dataset
from training.evaluation.metrics import is_right, tell_fields
from ui import adapters
from ui.ask.models_card import Choice, answerers, base_of, build_models_card
from ui.datasets import Wanted, read_dataset
from ui.events import QUEUED, QUIET
from ui.html import render, small
from ui.i18n import Language, say
from ui.inference import engine, stop
from ui.run.summary import settings_of
from ui.widgets import scripted, title
from vlm.errors import Phrase, UserError

SAMPLES_SHOWN = 10
LONGEST_QUESTION = 20_000
Earlier = Sequence[tuple[str, list[tuple[str, str]]]]
"""Questions in order, each with (who, answer); of this visit, by their picture's digest."""

Given = Mapping[gr.blocks.Block, Any]
Updates = dict[gr.blocks.Block, Any]


@dataclass(frozen=True)
class Sample:
    """A picture with a question and its right answers; held out, so that no adapter was trained on it.

    `place` is where it stands: its run and its number among the pictures to pick.
    """

    place: str
    image: Path
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Reply:
    """What one of those who were asked has said so far; once it is done, whether it is `right` where known.

    `wrong_fields` are those of an answer that should be a JSON object.
    """

    who: str
    text: str = ""
    tokens: int = 0
    elapsed_s: float = 0.0
    done: bool = False
    is_base: bool = False
    right: bool | None = None
    wrong_fields: Sequence[Phrase] = ()


@dataclass(frozen=True)
class TryTab:
    """The picture, pictures to pick, who answers; the question; the answers with what was asked before.

    `pictures` has the picked one as its value: `{"of": the run it is held out from, "index": …}`. `sample` is
    what is known of the picture; `asked` are the questions of this visit.
    """

    image: gr.Image
    pictures: gr.HTML
    models: gr.HTML
    question: gr.Textbox
    ask: gr.Button
    stop: gr.Button
    answers: gr.HTML
    sample: gr.State
    asked: gr.State


def build_try_tab(workspace: Path, language: Language) -> None:
    add_events(drawn_tab(workspace, language), workspace, language)


def drawn_tab(workspace: Path, language: Language) -> TryTab:
    with gr.Row(elem_classes="page"):
        with gr.Column(elem_classes="settings"):
            with gr.Column(elem_classes="card"):
                title(language, "image", 1)
                image = image_input(language)
                pictures = pictures_to_pick(workspace, language)
            models = build_models_card(workspace, language)
        with gr.Column(elem_classes="asking"):
            with gr.Column(elem_classes="card"):
                with gr.Row(elem_classes="ask"):
                    question = gr.Textbox(
                        label=say(language, "ask_question"),
                        show_label=False,
                        placeholder=say(language, "question_hint"),
                        max_lines=3,
                        elem_id="question",
                    )
                    ask = gr.Button(say(language, "ask"), variant="primary", elem_id="ask")
                    stop = gr.Button(say(language, "stop"), elem_id="stop-answer")
                gr.HTML(small(say(language, "ask_note")), apply_default_css=False)
            answers = scripted(answers_html(language), "lens.answers(element, watch)", elem_id="answers")
    known = (gr.State(None), gr.State({}))
    return TryTab(image, pictures, models, question, ask, stop, answers, *known)


def image_input(language: Language) -> gr.Image:
    """The picture to ask about, as `load_image` reads it for training."""
    return gr.Image(
        type="filepath",
        image_mode=None,
        format="png",
        sources=["upload", "clipboard", "webcam"],
        label=say(language, "image"),
        show_label=False,
        buttons=[],
        height=270,
        placeholder=say(language, "image_hint"),
        interactive=True,
        elem_id="image",
    )


def pictures_to_pick(workspace: Path, language: Language) -> gr.HTML:
    def list_pictures(choice: Choice) -> dict[str, Any]:
        run = held_out_from(workspace, choice)
        found = enumerate(thumbnail_uri(sample.image) for sample in samples(workspace, run))
        shown = [(index, picture) for index, picture in found if picture]
        html = render("ask_pictures", language, loading=False, pictures=shown, held_out=bool(run))
        return {"of": run, "html": html}

    return scripted(
        {"of": "", "index": -1},
        "lens.pictures(element, props, server, () => trigger('pick'))",
        [list_pictures],
        html_template=render("ask_pictures", language, loading=True),
        elem_classes="pickable",
        elem_id="pictures",
    )


def stop_answer(request: gr.Request) -> None:
    stop(request.session_hash)


def add_events(tab: TryTab, workspace: Path, language: Language) -> None:
    def pick(given: Given) -> Updates:
        """The picture with its question; the answers about the one before go."""
        picked = given[tab.pictures]
        known = samples(workspace, str(picked["of"]))
        if not 0 <= (index := int(picked["index"])) < len(known):
            return {}
        sample = known[index]
        # Gradio keeps a copy of its own: no file of a dataset is served.
        shown = {tab.image: load_image(sample.image), tab.question: sample.question, tab.sample: sample}
        return shown | {tab.answers: answers_html(language, place=sample.place, busy=True)}

    def another_image() -> Updates:
        return {tab.sample: None, tab.answers: answers_html(language)}

    def answer(given: Given, request: gr.Request) -> Iterator[Updates]:
        yield from answered(tab, workspace, language, given, request.session_hash)

    # Not in one event with the answers: a generator's later updates break an image that its first one set.
    picked = tab.pictures.pick(
        pick,
        {tab.pictures},
        {tab.image, tab.question, tab.sample, tab.answers},
        trigger_mode="always_last",
        **QUIET,
    )
    asking = {
        "fn": answer,
        "inputs": {tab.image, tab.question, tab.models, tab.sample, tab.asked},
        "outputs": {tab.answers, tab.asked},
        "concurrency_id": "gpu",
        **QUEUED,
    }
    gr.on([tab.ask.click, tab.question.submit], trigger_mode="once", **asking)
    # "always_last": a picture that is picked while an answer still comes is asked about after it.
    picked.success(trigger_mode="always_last", **asking)
    gr.on([tab.image.upload, tab.image.clear], another_image, None, {tab.sample, tab.answers}, **QUIET)
    # "multiple": of two pictures picked in haste each ends the answer before it.
    tab.stop.click(stop_answer, None, None, trigger_mode="multiple", **QUIET)


def held_out_from(workspace: Path, choice: Choice) -> str:
    """The name of the first run that was chosen, or of the newest of this base; empty where there is none."""
    known = [each for each in adapters.available(workspace) if each.run]
    if who := choice.get("who"):
        return next((each.name for each in known if each.key in who), "")
    try:
        base = base_of(workspace, choice)
    except UserError:
        return ""
    return next((each.name for each in known if each.base == (base.model, base.revision)), "")


def samples(workspace: Path, run: str) -> list[Sample]:
    """Pictures that a run did not train on, from its dataset; without a run, from the default one."""
    found = next((each for each in runs.list_runs(workspace) if each.name == run), None)
    config = (settings_of(found) if found else None) or TrainingConfig()
    try:
        dataset = read_dataset(workspace, Wanted.of(config.model_dump()))
    except UserError:
        try:  # a run that was started from a shell may have taken it from outside the workspace
            dataset = open_configured(config.model_copy(update={"workspace": workspace}))
        except UserError:
            return []  # it was moved since: a person's own image can still be asked about
    _, held_out = split_dataset(dataset, config.held_out, config.seed)
    by_image = {
        example.images[0]: example
        for example in held_out or dataset.examples
        if example.images and example.question
    }
    shown = list(by_image.items())[:SAMPLES_SHOWN]
    return [
        Sample(f"{run}/{index}", image, example.question, example.accepted)
        for index, (image, example) in enumerate(shown)
    ]


def require_question(typed: str) -> str:
    """Returns a question as it was typed, without space around it.

    Raises:
        UserError: it is empty, or too long.
    """
    question = typed.strip()
    if len(question) > LONGEST_QUESTION:
        raise UserError(
            "The question has {count:,} characters.",
            "Ask in at most {longest:,}.",
            "question-too-long",
            count=len(question),
            longest=LONGEST_QUESTION,
        )
    if not question:
        raise UserError("There is no question yet.", "Type one, then press Ask.", "no-question")
    return question


def answered(
    tab: TryTab, workspace: Path, language: Language, given: Given, asker: str | None
) -> Iterator[Updates]:
    """Streams the answers; the question is remembered once it was answered, or its asker stopped it."""
    question, image, sample = (given[tab.question] or "").strip(), given[tab.image], given[tab.sample]
    drawn = partial(answers_html, language, place=sample.place if sample else "")
    try:
        model, named = answerers(workspace, language, given[tab.models])
        require_question(question)
        if not image:
            raise UserError(
                "There is no image yet.", "Upload one, or click one of the small pictures.", "no-image"
            )
        picture = load_image(Path(image))
        earlier = given[tab.asked].get(digest(picture), [])
        right = sample.answers if sample and sample.question == question else ()
        replies = [Reply(who, is_base=folder is None) for who, folder in named]
        yield {tab.answers: drawn(replies, right, earlier, busy=True)}
        folders = [folder for _, folder in named]
        longest = adapters.longest_answer(folders)
        for said in engine().ask(model, picture, question, folders, longest, asker):
            replies = [
                replace(
                    reply,
                    text=now.text.strip(),
                    tokens=now.tokens,
                    elapsed_s=now.elapsed_s,
                    done=now.done,
                    right=is_right(now.text, right) if right and now.done else None,
                    wrong_fields=tell_fields(now.text, right) if right and now.done else (),
                )
                for reply, now in zip(replies, said, strict=True)
            ]
            yield {tab.answers: drawn(replies, right, earlier, busy=True)}
    except UserError as trouble:
        yield {tab.answers: drawn(trouble=trouble)}
        return
    newest = (question, [(reply.who, reply.text) for reply in replies])
    before = [each for each in earlier if each != newest]
    yield {
        tab.answers: drawn(replies, right, before),
        tab.asked: given[tab.asked] | {digest(picture): [*before, newest]},
    }


def answers_html(
    language: Language,
    replies: Sequence[Reply] = (),
    right: Sequence[str] = (),
    earlier: Earlier = (),
    *,
    place: str = "",
    busy: bool = False,
    trouble: UserError | None = None,
) -> str:
    """A card for each reply, the adapters' framed, and the questions that were asked about this picture."""
    spoken = "" if busy else ". ".join(f"{reply.who}: {reply.text}" for reply in replies)
    known = {"right": right[0] if right else None, "place": place, "busy": busy, "trouble": trouble}
    return render("ask_answers", language, replies=replies, earlier=earlier, spoken=spoken, **known)


def digest(picture: Image) -> str:
    """Tells pictures apart by content: the same one picked twice is one."""
    return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()

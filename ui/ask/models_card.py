"""Who answers: a base model, chosen or typed, and adapters that fit it, checked before they are loaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from training import config
from training.config import TrainingConfig
from ui import adapters as shelf
from ui.adapters import STARTER, Shelved
from ui.ask import answers_html
from ui.events import QUEUED, QUIET
from ui.i18n import Language, say
from ui.inference import engine
from ui.run.panel import story_of
from ui.run.view import exact_words
from ui.train import form_html
from ui.train.model_card import from_here, model_name
from ui.widgets import drawn, link, title
from vlm.errors import UserError
from vlm.settings import ModelSettings

BASE = "base"
"""The base's value among those who can answer; an adapter's is its key on the shelf."""


@dataclass(frozen=True)
class WhoCard:
    """The base's box, those who can answer, what is said of them, and the way to add an adapter.

    `added` are the keys of adapters that a person named in this visit; `listed_for` is the base that those
    who can answer were listed for: kept in the page, so that it comes with the choice that it is of.
    """

    base: gr.Dropdown
    base_error: gr.HTML
    who: gr.CheckboxGroup
    checks: gr.HTML
    others: gr.HTML
    add: gr.Button
    adding: gr.Column
    folder: gr.Textbox
    use_folder: gr.Button
    upload: gr.UploadButton
    adding_error: gr.HTML
    added: gr.State
    listed_for: gr.Textbox

    @property
    def listed(self) -> list[gr.blocks.Block]:
        """What `listing` updates."""
        return [self.base, self.base_error, self.who, self.others, self.listed_for]


def build_who_card(words: Language) -> WhoCard:
    with gr.Column(elem_classes="card"):
        title(words, "who", 2)
        with gr.Row(elem_classes="pick"):
            base = gr.Dropdown(
                [(say(words, "starter"), STARTER)],
                value=STARTER,
                label=say(words, "base_model"),
                show_label=False,
                allow_custom_value=True,
                interactive=True,
                elem_id="base",
            )
        base_error = drawn(words)
        who = gr.CheckboxGroup(
            [],
            label=say(words, "answerers"),
            show_label=False,
            interactive=True,
            elem_classes="switch who",
            elem_id="who",
        )
        checks = drawn(words, elem_classes="checks")
        others = gr.HTML(form_html.small(say(words, "looking_for_adapters")), apply_default_css=False)
        with gr.Row(elem_classes="links"):
            add = link(words, "add_adapter", elem_id="add-adapter")
        adding = adding_box(words)
        listed_for = gr.Textbox(visible=False)
    return WhoCard(base, base_error, who, checks, others, add, *adding, gr.State([]), listed_for)


def adding_box(words: Language) -> tuple[Any, ...]:
    """A folder of the workspace, or a zip; hidden until it is asked for."""
    with gr.Column(visible=False, elem_classes="adding") as adding:
        folder = gr.Textbox(
            label=say(words, "folder"),
            info=say(words, "adapter_hint"),
            placeholder="adapters/my-adapter",
            max_lines=1,
            elem_id="adapter-folder",
        )
        with gr.Row(elem_classes="links"):
            use_folder = link(words, "use_folder", elem_id="use-adapter-folder")
            upload = gr.UploadButton(
                say(words, "upload_zip"),
                file_types=[".zip"],
                size="sm",
                elem_classes="link",
                elem_id="adapter-zip",
            )
        error = drawn(words)
    return adding, folder, use_folder, upload, error


def add_who_events(card: WhoCard, workspace: Path, language: gr.BrowserState) -> None:
    """A base that is chosen or typed, an adapter that is added, and the check of those who are chosen."""

    def choose(language: Language, base: str | None, added: list[str]) -> Iterator[tuple[Any, ...]]:
        yield gr.skip(), form_html.small(say(language, "reading_config")), *[gr.skip()] * 3
        yield listing(workspace, language, base, None, added)

    def add(
        language: Language, base: str | None, who: list[str], added: list[str], named: str
    ) -> tuple[Any, ...]:
        try:
            adapter = shelf.add_folder(workspace, named or "")
        except UserError as trouble:
            return *[gr.skip()] * len(card.listed), gr.skip(), gr.skip(), form_html.error(language, trouble)
        return with_added(language, base, who, added, adapter)

    def add_zip(
        language: Language, base: str | None, who: list[str], added: list[str], upload: str
    ) -> tuple[Any, ...]:
        try:
            adapter = shelf.add_zip(workspace, Path(upload))
        except UserError as trouble:
            return *[gr.skip()] * len(card.listed), gr.skip(), gr.skip(), form_html.error(language, trouble)
        return with_added(language, base, who, added, adapter)

    def with_added(
        language: Language, base: str | None, who: list[str], added: list[str], adapter: Shelved
    ) -> tuple[Any, ...]:
        """Listed and chosen where it fits; where it doesn't, the box stays open with the reason."""
        added = [*dict.fromkeys([*added, adapter.key])]
        listed = listing(workspace, language, base, [*who, adapter.key], added)
        reason = shelf.fits(adapter, base_settings(base))
        return (
            *listed,
            added,
            gr.update(visible=reason is not None),
            form_html.error(language, reason) if reason else "",
        )

    given, heavy = [language, card.base], {"concurrency_id": "model", **QUEUED}
    card.base.input(choose, [*given, card.added], card.listed, trigger_mode="always_last", **heavy)
    card.add.click(lambda: gr.update(visible=True), None, card.adding, **QUIET)
    inputs = [*given, card.who, card.added]
    outputs = [*card.listed, card.added, card.adding, card.adding_error]
    gr.on([card.use_folder.click, card.folder.submit], add, [*inputs, card.folder], outputs, **heavy)
    card.upload.upload(add_zip, [*inputs, card.upload], outputs, **heavy)
    gr.on(
        [card.who.change, card.base.change],
        lambda *given: checks(workspace, *given),
        [*given, card.who],
        card.checks,
        trigger_mode="always_last",
        **heavy,
    )


def base_settings(typed: str | None) -> ModelSettings:
    """The base as it was typed or chosen; a model of the Hub may have its revision behind an @.

    Raises `UserError` where that can be no name of a model.
    """
    model, revision = from_here((typed or "").strip() or STARTER), None
    if "@" in model and not Path(model).is_dir():
        model, _, revision = model.partition("@")
    if found := config.check({"model": model, "revision": revision or None}):
        raise found[0].error
    return ModelSettings(model=model, revision=revision or None)


def as_typed(model: str, revision: str | None) -> str:
    return f"{model}@{revision}" if revision else model


def listing(
    workspace: Path, language: Language, base: str | None, chosen: Sequence[str] | None, added: Sequence[str]
) -> tuple[Any, ...]:
    """For `WhoCard.listed`: the bases at hand, who of this one can answer, and who can't, with the reason.

    The choice is kept where it still can be; with nothing chosen it is the base and the newest adapter.
    """
    adapters, trouble = shelf.shelf(workspace, added), None
    try:
        settings = base_settings(base)
        if settings.model != STARTER:
            shelf.architecture_of(settings)
    except UserError as error:
        trouble, settings = error, ModelSettings(model=STARTER)
    reasons = {adapter.key: trouble or shelf.fits(adapter, settings) for adapter in adapters}
    choices = [
        (say(language, "base_itself"), BASE),
        *((words(language, adapter), adapter.key) for adapter in adapters if not reasons[adapter.key]),
    ]
    kept = [value for value in chosen or [] if value in {value for _, value in choices}]
    unfit = [(adapter.name, reasons[adapter.key]) for adapter in adapters if reasons[adapter.key]]
    shown = (base or STARTER) if trouble else as_typed(settings.model, settings.revision)
    return (
        gr.update(choices=bases(language, adapters, settings), value=shown),
        form_html.error(language, trouble) if trouble else "",
        gr.update(choices=choices, value=kept or [value for _, value in choices[:2]]),
        answers_html.others(language, [] if trouble else unfit, nobody=not adapters),
        shown,
    )


def listed_again(
    workspace: Path,
    language: Language,
    base: str | None,
    chosen: Sequence[str] | None,
    added: Sequence[str],
    listed_for: str | None,
) -> tuple[Any, ...]:
    """`listing` anew. A choice that was made among another base's answerers is none among this one's."""
    return listing(workspace, language, base, chosen if base == listed_for else None, added)


def bases(language: Language, adapters: Sequence[Shelved], base: ModelSettings) -> list[tuple[str, str]]:
    """The starter, every model that a run's adapter was trained on, and the one that is chosen."""
    of_runs = (adapter.base for adapter in adapters if adapter.base)
    known = dict.fromkeys([(STARTER, None), *of_runs, (base.model, base.revision)])
    names = {STARTER: say(language, "starter")}
    return [
        (as_typed(names.get(model) or model_name(model), revision), as_typed(model, revision))
        for model, revision in known
    ]


def words(language: Language, adapter: Shelved) -> str:
    """Such as: shapes-vi-01 · DoRA · text r 16 · 89 %. What can't be read says so once it is chosen."""
    try:
        info = shelf.look(adapter)
    except UserError:
        return adapter.name
    method = [] if info.method == TrainingConfig().method else [info.label]
    score = exact_words(language, story_of(adapter.run)) if adapter.run else None
    parts = [adapter.name, *method, answers_html.ranks(language, info.ranks), score]
    return " · ".join(part for part in parts if part).replace(" %", "\xa0%")


def checks(workspace: Path, language: Language, base: str | None, who: Sequence[str]) -> str:
    """For each adapter that was chosen, how many tensors match before it is loaded, and then what it does."""
    told = []
    for key in who:
        if key == BASE:
            continue
        try:
            adapter, settings = shelf.find(workspace, key), base_settings(base)
            found = shelf.check(adapter, settings)
            loaded = engine().load_report(adapter.folder)
            probe = loaded.probe if loaded and loaded.check.base_name == settings.model else None
            told.append(answers_html.check(language, adapter.name, found, probe))
        except UserError as trouble:
            told.append(form_html.error(language, trouble))
    return "".join(told)

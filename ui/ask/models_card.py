"""Who answers: a base model, chosen or typed, and adapters that fit it, checked before they are loaded.

The card is one piece of HTML whose value is the choice, `{"base": …, "who": […], "added": […]}`: a question
takes it as one input. What it shows the page's script asks for when the tab is opened, and when a base is
chosen.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from training import config
from training.config import TrainingConfig
from ui import adapters
from ui.adapters import STARTER, Adapter
from ui.datasets import uploaded
from ui.html import error, render
from ui.i18n import Language, percent, say, sentence
from ui.inference import engine
from ui.run.summary import summary_of
from ui.train.base_model import from_here, model_name
from ui.widgets import scripted
from vlm.errors import LONGEST_VALUE, UserError
from vlm.settings import ModelSettings

BASE = "base"
"""The base's value among those who can answer; an adapter's is its key."""

Choice = Mapping[str, Any]
"""What the card's value is: `base` as it was typed, `who` answers, and the keys of `added` adapters.

With `try`, the key of an adapter, the base is that adapter's own.
"""

# Of Unicode's private use: no text of an adapter is shown with it (`printable`).
NAME_MARK = "\ue000"


def build_models_card(workspace: Path, language: Language) -> gr.HTML:
    """The card. Its value is the choice; `lens.models` of ask.js draws and changes it."""

    def list_models(choice: Choice) -> dict[str, Any]:
        return listing(workspace, language, choice)

    def check_models(choice: Choice) -> dict[str, Any]:
        return {"html": checks(workspace, language, choice)}

    def add_adapter(choice: Choice) -> dict[str, Any]:
        return with_added(workspace, language, choice)

    return scripted(
        {"base": STARTER, "who": [], "added": []},
        "lens.models(element, props, server, upload)",
        [list_models, check_models, add_adapter],
        html_template=render("ask_models_card", language),
        elem_classes="models",
        elem_id="models",
    )


def listing(workspace: Path, language: Language, choice: Choice) -> dict[str, Any]:
    """The choice where it still can be made, as `value`; the bases and adapters to choose from, as `html`.

    Where nobody that is chosen can answer, it is the base and the newest adapter.
    """
    who, added, trouble = choice.get("who"), list(choice.get("added", [])), None
    try:
        settings = base_of(workspace, choice)
        if settings.model != STARTER:
            adapters.architecture_of(settings)
    except UserError as misfit:
        trouble, settings = misfit, ModelSettings(model=STARTER)
    known = adapters.available(workspace, added)
    reasons = {adapter.key: trouble or adapters.fits(adapter, settings) for adapter in known}
    fitting = [adapter for adapter in known if not reasons[adapter.key]]
    keys = [BASE, *(adapter.key for adapter in fitting)]
    who = [key for key in who or [] if key in keys] or keys[:2]
    base = (
        str(choice.get("base") or STARTER)[:LONGEST_VALUE]
        if trouble
        else as_typed(settings.model, settings.revision)
    )
    html = render(
        "ask_models",
        language,
        bases=bases(language, known, base, settings),
        base=base,
        trouble=trouble,
        who=who,
        rows=[(BASE, say(language, "base_itself"))]
        + [(adapter.key, described(language, adapter)) for adapter in fitting],
        # Where the base itself can't be had, no adapter is judged by it.
        unfit=[]
        if trouble
        else [reason(language, each.name, reasons[each.key]) for each in known if reasons[each.key]],
        nobody=not known,
    )
    return {"value": {"base": base, "who": who, "added": added}, "html": html}


def with_added(workspace: Path, language: Language, choice: Choice) -> dict[str, Any]:
    """`listing` with the adapter of a `folder`, or of a zip that was uploaded, `files`.

    Where it fits it is chosen; where it doesn't, `trouble` is HTML that says why.
    """
    try:
        zips, _ = uploaded(choice.get("files", []))
        typed = str(choice.get("folder", ""))
        adapter = adapters.add_zip(workspace, zips[0]) if zips else adapters.add_folder(workspace, typed)
        misfit = adapters.fits(adapter, base_settings(choice.get("base")))
    except UserError as trouble:
        return {"trouble": error(language, trouble)}
    added = [*dict.fromkeys([*choice.get("added", []), adapter.key])]
    now = {**choice, "who": [*choice.get("who", []), adapter.key], "added": added}
    listed = listing(workspace, language, now)
    return listed | ({"trouble": error(language, misfit)} if misfit else {})


def base_of(workspace: Path, choice: Choice) -> ModelSettings:
    """The base that was chosen.

    Raises:
        UserError: as `base_settings`, or the adapter to try is gone.
    """
    if wanted := choice.get("try"):
        model, revision = adapters.base_of(adapters.find(workspace, wanted), workspace)
        return ModelSettings(model=model, revision=revision)
    return base_settings(choice.get("base"))


def base_settings(typed: str | None) -> ModelSettings:
    """The base as it was typed or chosen; a model of the Hub may have its revision behind an @.

    Raises:
        UserError: that can be no name of a model.
    """
    model, revision = from_here(str(typed or "").strip() or STARTER), None
    if "@" in model and not Path(model).is_dir():
        model, _, revision = model.partition("@")
    if found := config.check({"model": model, "revision": revision or None}):
        raise found[0].error
    return ModelSettings(model=model, revision=revision or None)


def as_typed(model: str, revision: str | None) -> str:
    return f"{model}@{revision}" if revision else model


def bases(
    language: Language, known: list[Adapter], base: str, settings: ModelSettings
) -> list[tuple[str, str]]:
    """Value and name of the starter, of every model that a run was trained on, and of the chosen one."""
    of_runs = (adapter.base for adapter in known if adapter.base)
    models = dict.fromkeys([(STARTER, None), *of_runs, (settings.model, settings.revision)])
    names = {STARTER: say(language, "starter")}
    named = {
        as_typed(model, revision): as_typed(names.get(model) or model_name(model), revision)
        for model, revision in models
    }
    return [*({base: base} | named).items()]


def described(language: Language, adapter: Adapter) -> str:
    """Such as: shapes-vi-01 · DoRA · text r 16 · 89 %. What can't be read says so once it is chosen."""
    try:
        info = adapters.read(adapter)
    except UserError:
        return adapter.name
    method = "" if info.method == TrainingConfig().method else info.label
    score = summary_of(adapter.run).score if adapter.run else None
    parts = [adapter.name, method, adapters.ranks(language, info.ranks)]
    parts += [] if score is None else [percent(language, score)]
    return " · ".join(part for part in parts if part).replace(" %", "\xa0%")


def reason(language: Language, name: str, misfit: UserError) -> dict[str, Any]:
    """Why an adapter can't be used: its name in bold, at the front where the sentence does not tell it."""
    bold, problem = Markup('<b translate="no">{}</b>').format(name), misfit.problem
    if problem.template and problem.values.get("name") == name:
        # Filled again with a mark for the name: its letters may stand in other words of the sentence, too.
        marked = Markup("{}").format(sentence(language, problem.with_values(name=NAME_MARK)))
        return {"problem": marked.replace(NAME_MARK, bold), "trouble": misfit}
    return {"problem": bold + ": " + sentence(language, problem), "trouble": misfit}


def checks(workspace: Path, language: Language, choice: Choice) -> str:
    """For each adapter that was chosen, how much of it has its place in the base, and what it does there."""
    rows: list[dict[str, Any]] = []
    for key in choice.get("who", []):
        if key == BASE:
            continue
        try:
            adapter, settings = adapters.find(workspace, key), base_of(workspace, choice)
            found = adapters.check(adapter, settings)
            loaded = engine().load_report(adapter.folder)
            probe = loaded.probe if loaded and loaded.check.base_name == settings.model else None
            rows.append({"name": adapter.name, "found": found, "probe": probe, "trouble": None})
        except UserError as trouble:
            rows.append({"trouble": trouble})
    return render("ask_checks", language, rows=rows)


def answerers(
    workspace: Path, language: Language, choice: Choice
) -> tuple[ModelSettings, list[tuple[str, Path | None]]]:
    """The base model, and name and adapter folder of each who was chosen; the base itself has no folder.

    Raises:
        UserError: nobody was chosen, or an adapter is gone.
    """
    if not choice["who"]:
        raise UserError("Nobody is chosen to answer.", "Switch on the base or an adapter.", "nobody-answers")
    chosen = [None if key == BASE else adapters.find(workspace, key) for key in dict.fromkeys(choice["who"])]
    # Once each, whatever a page sends: a folder has more than one spelling.
    named = {each and each.folder: each.name if each else say(language, "base_model") for each in chosen}
    return base_of(workspace, choice), [(name, folder) for folder, name in named.items()]

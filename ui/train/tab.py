"""The Train tab: the form on the left, the run on the right, and what the browser asks of both.

The form is HTML whose controls are the settings; `static/form.js` collects them into one value,
`Form.settings`, and asks the functions here what they say, cost and weigh. No Gradio event is needed for it.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from training import config, runs
from training.config import AUTO
from training.config.run_name import new_name
from ui.datasets import Wanted, adding_box, read_dataset
from ui.html import error, render
from ui.i18n import Language, told
from ui.inference import in_the_way
from ui.run.board import RunBoard, workspace_gone
from ui.run.panel import build_panel, room_note
from ui.run.summary import Run
from ui.train import form_values, form_view, memory_hint
from ui.train.base_model import chosen_of, followed, from_here
from ui.train.continue_from import settings_of_adapter, settings_of_run
from ui.widgets import Form, scripted
from vlm.errors import UserError

STARTS_KEPT = 64

Asked = Mapping[str, Any]
"""What form.js sends: `settings` by name as typed, and what else a question needs."""
Answer = dict[str, Any]
"""`parts`: HTML by the name of its place; `set`: settings to change; `looks`, `choices` of controls;
`unset`: what empty ones say."""


@dataclass(frozen=True)
class TrainTab:
    """What the other tabs need of this one."""

    form: Form
    panel: gr.HTML


def build_train_tab(language: Language, workspace: Path, board: RunBoard) -> TrainTab:
    asked = FormServer(language, workspace, board)
    first = {name: form_values.shown(name, form_values.default_of(name)) for name in form_values.FIELDS}
    hidden = {"html_template": "", "visible": "hidden", "elem_id": "settings"}
    settings = scripted(first, "lens.form.carry(props, watch)", **hidden)
    with gr.Row(elem_classes="page"):
        with gr.Column(elem_classes="settings", elem_id="form"):
            attach = "lens.form.attach(element, server)"
            data, rest = form_view.cards(language, workspace, board.can_train)
            scripted(data, attach, [asked.preview])
            adding_box(workspace, language, settings)
            scripted(rest, attach, asked.functions())
        panel = build_panel(language)
    return TrainTab(Form(settings=settings), panel)


@dataclass
class FormServer:
    """What form.js may ask, in one language. What it knows of a form comes with each question."""

    language: Language
    workspace: Path
    board: RunBoard
    _started: dict[str, Run] = field(default_factory=dict)
    _starting: threading.Lock = field(default_factory=threading.Lock)

    def functions(self) -> list[Callable[[Asked], Answer]]:
        """Where nobody may train, nothing starts."""
        looking = [self.draw, self.count, self.measure, self.advise, self.choose, self.continue_from]
        looking.append(self.duplicate)
        return [*looking, self.start] if self.board.can_train else looking

    def _values(self, asked: Asked) -> tuple[dict[str, Any], form_values.Chosen]:
        values = form_values.values_of(asked["settings"], self.workspace)
        chosen = chosen_of(values)
        return form_values.values_of(asked["settings"], self.workspace, chosen), chosen

    def draw(self, asked: Asked) -> Answer:
        """What the settings say beside their controls, and which of them are seen, free or wrong."""
        values, chosen = self._values(asked)
        return {
            "parts": form_view.said(self.language, values, chosen, asked.get("followed") or {}),
            "looks": form_view.looks(self.language, values, chosen),
            "unset": form_view.auto_words(self.language, values, memory_hint.by_rules(values, chosen)),
        }

    def count(self, asked: Asked) -> Answer:
        values, chosen = self._values(asked)
        line = form_view.rank_line(self.language, values, chosen)
        return {"parts": form_view.count(self.language, values, chosen), "line": line}

    def measure(self, asked: Asked) -> Answer:
        line, fits, unset = memory_hint.measure(self.language, *self._values(asked))
        return {"parts": {"memory": line}, "fits": fits, "unset": unset}

    def advise(self, asked: Asked) -> Answer:
        words, change = memory_hint.advise(self.language, *self._values(asked))
        return {"parts": {"advice": words}, "change": change and dict([change])}

    def preview(self, asked: Asked) -> Answer:
        values = form_values.values_of(asked["settings"], self.workspace)
        return {"parts": form_view.preview(self.language, self.workspace, values)}

    def choose(self, asked: Asked) -> Answer:
        """A model was chosen or typed, or two halves of one; or the layers of the same one are wanted.

        Settings that depend on the model follow it, and `followed` says which.
        """
        values = form_values.values_of(asked["settings"], self.workspace)
        model = from_here(str(asked["model"] or "").strip() or values["model"])
        if model == values["model"]:
            chosen, changes, listed = chosen_of(values, again=True), {}, {}
        else:
            before = dict(values) | {"model": model, "revision": None}
            chosen = chosen_of(before, again=True)
            changes, listed = {} if chosen.trouble else followed(chosen, values), {"auto": ""}
        # Of what is open again the value that it will have: the form's own is empty.
        opened = changes.keys() & {*AUTO}
        ruled = memory_hint.by_rules(values | changes | {"model": model}, chosen) if opened else {}
        told = {name: ruled.get(name, value) for name, value in changes.items()}
        followed_now = {name: value for name, value in told.items() if name not in AUTO or value is not None}
        return self._set({"model": model, **changes, **listed}, chosen) | {"followed": followed_now}

    def continue_from(self, asked: Asked) -> Answer:
        """Fills the form for an adapter; what is wrong with it is told at its own field."""
        values, chosen = self._values(asked)
        try:
            filled = settings_of_adapter(self.workspace, str(asked["named"]), chosen, values)
        except UserError as trouble:
            return {"looks": {"from_adapter": {"trouble": " ".join(told(self.language, trouble))}}}
        filled.pop("workspace", None)
        return self._set(filled, chosen_of(filled))

    def duplicate(self, asked: Asked) -> Answer:
        """Fills the form with the settings of a run; the new one gets a name of its own."""
        try:
            run = runs.find(self.workspace, str(asked["named"]))
            filled = settings_of_run(run, self._values(asked)[0])
        except UserError as trouble:
            return {"parts": {"start_error": error(self.language, trouble)}}
        return self._set(filled, chosen_of(filled))

    def _set(self, changes: Mapping[str, Any], chosen: form_values.Chosen | None = None) -> Answer:
        """Settings for the form, with the options of those lists that depend on them."""
        options = {}
        for name in changes.keys() & {"dataset", "model"}:
            listed = form_view.choices(
                self.language, self.workspace, name, chosen or form_values.STARTER, changes[name]
            )
            options[name] = render(
                "train_options", self.language, choices=listed, value=changes[name], layers=None
            )
        if chosen:
            for name in ("vision_lora_targets", "text_lora_targets"):
                layers = form_view.control(self.language, self.workspace, name)
                layers["choices"] = form_view.choices(self.language, self.workspace, name, chosen)
                options[name] = render("train_options", self.language, layers=layers, choices=[], value="")
        shown = {name: form_values.shown(name, value) for name, value in changes.items()}
        return {"set": shown, "choices": options}

    def start(self, asked: Asked) -> Answer:
        """Starts the run, once for each `token`: a second click meets the run of the first."""
        with self._starting:  # the other half of a double click waits here
            if (known := self._started.get(asked["token"])) and known.status().live:
                return {"run": known.name}
            return self._start(asked)

    def _start(self, asked: Asked) -> Answer:
        values, chosen = self._values(asked)
        if found := config.check(values):
            return {"parts": {"start_error": form_view.problems(self.language, found)}}
        try:
            if not self.workspace.is_dir():
                raise workspace_gone(self.workspace)
            if chosen.trouble:
                raise chosen.trouble
            if refused := self._bad_rows(values):
                return {"parts": {"start_error": refused}}
            name = values["name"] or new_name(values["dataset"], self.workspace)
            settings = config.build(values | {"name": name})
            in_way = in_the_way(settings)
            run = runs.start(settings)
        except UserError as trouble:
            return {"parts": {"start_error": error(self.language, trouble)}}
        self._started[asked["token"]] = run
        while len(self._started) > STARTS_KEPT:
            self._started.pop(next(iter(self._started)))
        self.board.changed()
        return {"run": run.name, "parts": {"start_error": ""}} | room_note(self.language, in_way)

    def _bad_rows(self, values: Mapping[str, Any]) -> str:
        """What the Data card already shows to fail is not started: the two ways out instead."""
        dataset = read_dataset(self.workspace, Wanted.of(values))
        if values["skip_bad_rows"] or not dataset.findings:
            return ""
        bad = len(dataset.findings)
        return render("train_bad_rows", self.language, bad=bad, total=len(dataset.examples) + bad)

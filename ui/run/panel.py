"""The right side of the Train tab: which run is shown, and what changed since the page last saw it.

It reads run folders and writes nothing.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr

from training import runs
from training.config import TrainingConfig
from training.data.edit.thumbnails import thumbnail_uri
from training.data.synthetic.samples import SAMPLES
from training.runs import Run, Status
from training.runs.events import tail
from ui.i18n import Language, say
from ui.run import results as learned
from ui.run import view as live
from ui.run.remedies import usable_change
from ui.run.samples import film
from ui.run.summary import Story, gather
from ui.train import form_html
from vlm.errors import UserError
from vlm.methods import ADAPTER_CONFIG_FILE

OUTPUT_LINES = 200

Shown = dict[str, dict[str, Any]]
"""Part name -> the properties it should have."""

NOTHING_YET: Shown = {"welcome": {"visible": True}, "story": {"visible": False}}


@dataclass(frozen=True)
class RunPanel:
    """What a tick may change by the names that `shown` uses, the run they tell of, and what was sent."""

    parts: dict[str, gr.blocks.Block]
    showing: gr.State
    sent: gr.State

    @property
    def outputs(self) -> list[gr.blocks.Block]:
        return [*self.parts.values(), self.showing, self.sent]


def build_run_panel(words: Language) -> RunPanel:
    """The empty state and the live run; one of the two is visible."""
    parts: dict[str, gr.blocks.Block] = {}
    with gr.Column(elem_id="live"):
        with gr.Column(elem_classes="card welcome") as parts["welcome"]:
            _html(welcome(words))
        with gr.Column(visible=False, elem_classes="story") as parts["story"]:
            with gr.Column(elem_classes="card runcard"):
                with gr.Row(elem_classes="run"):
                    parts["head"] = _html(elem_classes="runhead")
                    parts["stop"] = gr.Button(say(words, "stop"), visible=False, elem_id="stop")
                    parts["resume"] = gr.Button(say(words, "resume"), visible=False, elem_id="resume")
                    parts["try_it"] = gr.Button(say(words, "try_it"), visible=False, elem_id="try-it")
                parts["tiles"] = _html()
            with gr.Column(visible=False, elem_classes="card notice bad") as parts["failure"]:
                parts["failure_words"] = _html()
                parts["retry"] = gr.Button(visible=False, size="sm", elem_classes="link", elem_id="retry")
            parts["notice"] = _html(visible=False)
            parts["charts"] = _html()
            parts["results"] = _html(visible=False)
            parts["film"] = _html()
            parts["hardest"] = _html(visible=False, js_on_load=TELL_ACT)
            parts["log"] = _html()
            with gr.Accordion(say(words, "output"), open=False, elem_classes="log fold"):
                parts["output"] = _html()
    return RunPanel(parts, gr.State(None), gr.State({}))


def _html(value: str = "", **settings: Any) -> gr.HTML:
    return gr.HTML(value, apply_default_css=False, **settings)


def welcome(language: Language) -> str:
    steps = "".join(f"<li>{say(language, f'no_run_{n}')}</li>" for n in (1, 2, 3))
    return f"<h3>{say(language, 'no_run_title')}</h3><ol>{steps}</ol>"


TELL_ACT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-act]');
  if (button) trigger('act', {...button.dataset});
});
"""
"""One listener for what is drawn: a button says what it does, and to which row."""
NEWEST = "/newest"
"""Stands for "no run was opened": a browser remembers no empty value, and no run's name holds a slash."""


def run_to_show(workspace: Path, opened: str) -> Run | None:
    """The run that was opened; else the newest that is under way; else the newest."""
    listed = runs.list_runs(workspace)
    chosen = next((run for run in listed if run.name == opened), None)
    return chosen or next((run for run in listed if run.status().live), None) or next(iter(listed), None)


def run_named(workspace: Path, name: str) -> Run | None:
    return next((run for run in runs.list_runs(workspace) if run.name == name), None)


def tick(
    panel: RunPanel, workspace: Path, can_train: bool, language: Language, opened: str, sent: dict[str, int]
) -> list[Any]:
    """For the panel's `outputs`: an update for each part that differs from what was `sent`, else a skip."""
    run = run_to_show(workspace, opened)
    now = NOTHING_YET if run is None else shown(run, language, can_train)
    marks = {name: hash(repr(properties)) for name, properties in now.items()}
    updates = [
        gr.update(**now[name]) if name in now and sent.get(name) != marks[name] else gr.skip()
        for name in panel.parts
    ]
    return [*updates, run.name if run else None, sent | marks]


def shown(run: Run, language: Language, can_train: bool) -> Shown:
    """What every part of the panel should look like now."""
    status, story = run.status(), story_of(run)
    stopping = status.live and runs.stop_requested(run)
    warnings, failure = live.warnings(language, story), live.failure(language, status)
    results = learned.results(language, status, story)
    hardest = learned.hardest(language, story, lambda image: picture_of(run, image))
    change = change_of(run, status) if can_train else None
    return {
        "welcome": {"visible": False},
        "story": {"visible": True},
        "head": {"value": live.run_head(language, run.name, status, story)},
        "stop": {
            "visible": status.live and can_train,
            "value": say(language, "stopping" if stopping else "stop"),
            "interactive": not stopping,
        },
        "resume": {"visible": status.resumable and not status.live and can_train},
        "try_it": {"visible": has_adapter(run, status)},
        "tiles": {"value": live.tiles(language, story)},
        "failure": {"visible": bool(failure)},
        "failure_words": {"value": failure},
        "retry": {
            "visible": change is not None,
            "value": change and say(language, "apply_and_retry", change=form_html.change(language, *change)),
        },
        "notice": {"value": warnings, "visible": bool(warnings)},
        "charts": {
            "value": live.charts(language, status, story),
            "visible": status.live or bool(story.steps or story.evaluations),
        },
        "results": {"value": results, "visible": bool(results)},
        "film": {
            "value": film(language, story, lambda image: picture_of(run, image)),
            "visible": status.live or bool(story.samples),
        },
        "hardest": {"value": hardest, "visible": bool(hardest)},
        "log": {"value": live.log(language, story)},
        "output": {"value": live.output(tail(run.output_log, OUTPUT_LINES))},
    }


def change_of(run: Run, status: Status) -> tuple[str, Any] | None:
    """The setting that would have helped a failed run, and its new value."""
    settings = settings_of(run) if status.change else None
    return usable_change(status.change, settings) if settings else None


def has_adapter(run: Run, status: Status) -> bool:
    return status.state in ("finished", "stopped") and (run.adapter_path / ADAPTER_CONFIG_FILE).is_file()


def story_of(run: Run) -> Story:
    """The run's story; its log is read again only where it has grown."""
    try:
        stat = run.events_path.stat()
    except FileNotFoundError:
        return Story()
    return _story(run, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _story(run: Run, _changed: int, _size: int) -> Story:
    return gather(run.events())


def settings_of(run: Run) -> TrainingConfig | None:
    """The run's settings, parsed again only where the file changed; None where it can't be read."""
    try:
        return _settings(run, run.config_path.stat().st_mtime_ns)
    except (OSError, UserError):
        return None


@lru_cache(maxsize=64)
def _settings(run: Run, _changed: int) -> TrainingConfig:
    return run.config()


def picture_of(run: Run, image: str) -> str | None:
    """A sample's picture as a data: URI, if its path stays inside the dataset's folder."""
    settings = settings_of(run)
    if settings is None:
        return None
    root = dataset_root(settings.dataset, run.workspace).resolve()
    path = (root / image).resolve()
    return thumbnail_uri(path) if path.is_relative_to(root) else None


def dataset_root(source: str, workspace: Path) -> Path:
    """The folder that a run's dataset lies in."""
    named = workspace / "datasets" / source
    if source in SAMPLES or named.is_dir():
        return named
    path = Path(source)
    return path if path.is_dir() else path.parent

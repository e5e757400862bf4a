"""From one of a run's hardest examples to its row on the Data tab: looked at, corrected, or left out."""

from typing import Any

import gradio as gr

from training import runs
from training.data.dataset import Dataset
from ui.data.adding import choices_with
from ui.data.parts import DATA, NAME, DataTab
from ui.dataset_cache import OF_DATASET, Wanted, read_dataset
from ui.events import Trigger
from ui.i18n import Language, say, warn
from ui.run.panel import RunPanel, settings_of
from ui.train import form
from vlm.errors import UserError

SHOW_EYE = """() => {
  const seen = (tries) => {
    const eye = document.getElementById('eye');
    if (eye?.offsetParent) eye.scrollIntoView({behavior: 'smooth', block: 'start'});
    else if (tries) setTimeout(seen, 100, tries - 1);
  };
  seen(50);
}"""
"""The eye is drawn after the tab that it lies in."""


def add_hard_sample_events(
    tab: DataTab, panel: RunPanel, language: gr.BrowserState, tabs: gr.Tabs, selected: gr.State
) -> Trigger:
    """A click on an example's button. Returns what the Data tab is to be drawn after.

    The run's dataset becomes the form's, read as the run read it.
    """

    def open_row(language: Language, showing: str, event: gr.EventData) -> list[Any]:
        nothing = [gr.skip()] * (3 + len(OF_DATASET))
        try:
            run = runs.find(tab.workspace, showing)
            settings = settings_of(run)
            values = {name: getattr(settings, name) for name in OF_DATASET} if settings else {}
            dataset = read_dataset(tab.workspace, Wanted.of(values)) if settings else None
        except UserError as trouble:
            warn(language, trouble)
            return nothing
        place = place_of(dataset, event.key)
        if place is None:
            gr.Warning(say(language, "hardest_gone"))
            return nothing
        source, *others = values.values()
        chosen = gr.update(choices=choices_with(tab.workspace, source), value=source)
        read = [form.shown(name, value) for name, value in zip(OF_DATASET[1:], others, strict=True)]
        return [gr.Tabs(selected=NAME), NAME, place, chosen, *read]

    opened = panel.parts["hardest"].act(
        open_row,
        [language, panel.showing],
        [tabs, selected, tab.eye.looking, *(tab.built.controls[name] for name in OF_DATASET)],
        **DATA,
    )
    opened.then(None, js=SHOW_EYE)
    return opened.then


def place_of(dataset: Dataset | None, example_id: str) -> int | None:
    """Which of the dataset's examples it is; None where it is no longer among them."""
    ids = (example.id for example in dataset.examples) if dataset else ()
    return next((place for place, found in enumerate(ids) if found == example_id), None)

"""Endpoints of the page by name, for `gradio_client`: the runs, where one stands, answers about a picture.

They are read alone: nothing here starts, changes or deletes. The gate stands before them as before events.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import gradio as gr
from gradio.utils import get_upload_folder

from training import runs
from training.data.images import load_image
from ui import adapters
from ui.adapters import Adapter
from ui.ask.models_card import BASE, as_typed
from ui.ask.tab import require_question
from ui.gate import Page, keep_to_what_is_here
from ui.inference import engine
from ui.run.summary import listed
from vlm.errors import UserError
from vlm.settings import ModelSettings


class RunLine(TypedDict):
    """A run in the list. `score` and `base_score` are right answers as a fraction of 1, None without any."""

    name: str
    state: str
    score: float | None
    base_score: float | None


class Listing(TypedDict):
    """The runs, newest first, and the names of the adapters that `ask` knows."""

    runs: list[RunLine]
    adapters: list[str]


class Standing(TypedDict):
    """Where a run stands; `problem` and `remedy` where it failed, `eta_s` seconds to its end where known."""

    name: str
    state: str
    step: int
    total: int | None
    elapsed_s: float
    eta_s: float | None
    problem: str | None
    remedy: str | None


class Said(TypedDict):
    """What one model said: `tokens` were generated in `elapsed_s` seconds."""

    model: str
    text: str
    tokens: int
    elapsed_s: float


def add_endpoints(page: Page) -> None:
    """Adds `/list`, `/status` and `/ask` to the page that is being built."""

    def list_runs() -> Listing:
        """Lists the runs, newest first, and the adapters that can be asked."""
        known = [(run.name, listed(run)) for run in runs.list_runs(page.workspace)]
        lines: list[RunLine] = [
            {"name": name, "state": told.status.state, "score": told.score, "base_score": told.base_score}
            for name, told in known
        ]
        return {"runs": lines, "adapters": [each.name for each in adapters.available(page.workspace)]}

    def tell_run(run: str) -> Standing:
        """Tells where the run of this name stands."""
        found = runs.find(page.workspace, str(run))
        facts = asdict(found.status()) | {"name": found.name}
        return {name: facts[name] for name in Standing.__annotations__}

    def ask_models(picture: gr.FileData, question: str, models: list[str], request: gr.Request) -> list[Said]:
        """Asks adapters, by their names in the list, and `base`, about a picture: greedy, one answer each.

        The base is the one that the first of the adapters belongs to; without an adapter, the starter.
        """
        return answers_of(page, picture, question, models, request.session_hash)

    gr.api(list_runs, api_name="list")
    gr.api(tell_run, api_name="status")
    # It waits for the device in one line with the questions of Try.
    gr.api(ask_models, api_name="ask", concurrency_id="gpu")


def answers_of(page: Page, picture: Any, question: str, models: list[str], asker: str | None) -> list[Said]:
    """Returns what the models that are named say.

    Raises:
        UserError: there is no such model, no question or no picture, or it is not for this public.
    """
    question = require_question(str(question))
    named = models_named(page.workspace, models)
    first = next(filter(None, named.values()), None)
    model, revision = adapters.base_of(first, page.workspace) if first else (adapters.STARTER, None)
    if page.public == "visitors":
        # Names alone came in, which say nothing to the gate: it is asked again, for what they stand for.
        keys = [adapter.key for adapter in named.values() if adapter]
        keep_to_what_is_here({"base": as_typed(model, revision), "who": keys}, page.workspace)
    image, folders = load_image(sent_file(picture)), [each and each.folder for each in named.values()]
    settings, longest = ModelSettings(model=model, revision=revision), adapters.longest_answer(folders)
    *_, answers = engine().ask(settings, image, question, folders, longest, asker)
    return [
        {"model": name, "text": said.text, "tokens": said.tokens, "elapsed_s": said.elapsed_s}
        for name, said in zip(named, answers, strict=True)
    ]


def models_named(workspace: Path, models: Any) -> dict[str, Adapter | None]:
    """Returns the adapters of these names, once each; None is the base.

    Raises:
        UserError: none is named, or there is none of this name.
    """
    known = {each.name: each for each in reversed(adapters.available(workspace))} | {BASE: None}
    names = [*map(str, models)] if isinstance(models, list) else []
    if missing := [name for name in names if name not in known]:
        raise UserError(
            "There is no adapter {name} on this page.",
            "Give `base`, or names that /list has.",
            "endpoint-no-such-model",
            name=missing[0],
        )
    if not names:
        raise UserError(
            "No model is named to answer.", "Give `base`, or names that /list has.", "endpoint-no-model"
        )
    return {name: known[name] for name in names}


def sent_file(picture: Any) -> Path:
    """Returns the file that was uploaded for a call.

    Raises:
        UserError: it is none of those that this page was sent.
    """
    # Gradio looks after mappings that say they are files; one that says nothing may name any path.
    path = Path(str(picture.get("path") if isinstance(picture, dict) else "")).resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()) or not path.is_file():
        raise UserError(
            "The picture was not sent to this page.",
            "Send it with `handle_file` of gradio_client.",
            "endpoint-no-picture",
        )
    return path

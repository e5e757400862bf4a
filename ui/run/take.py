"""What of a finished run can be taken along: its card on the page, and each file as it is asked for.

A file is made where Gradio serves uploads from, under a name that nobody can guess, and goes with them.
"""

import uuid
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder
from markupsafe import Markup

from training.runs import Run
from training.sharing import files, tasks
from training.sharing.drawing import Words
from training.sharing.tasks import Task
from ui.html import render
from ui.i18n import Language, number, remedy_of, say, sentence
from vlm.errors import UserError

PYTHON = "python"


def card(language: Language, run: Run) -> Markup:
    """What there is to take of a run that has an adapter, and how far its merge and its push are."""
    known = {kind: task for kind in tasks.TASKS if (task := tasks.read(run, kind))}
    facts = {kind: task_facts(language, kind, task) for kind, task in known.items()}
    size = sum(file.stat().st_size for file in files.files_to_share(run.adapter_path)) / 1e6
    shown = say(language, "megabytes", size=number(language, size, 1))
    kinds = {kind: say(language, f"take_{kind}", size=shown) for kind in files.KINDS}
    running = [kind for kind, task in known.items() if task.state == "running"]
    return render("run_take", language, kinds=kinds, folder=run.adapter_path, tasks=facts, running=running)


def task_facts(language: Language, kind: tasks.Kind, task: Task) -> dict[str, Any]:
    """A task as the card shows it: its words, how far it is in percent, and what has come of it."""
    words = say(language, f"task_{kind}_{task.state.replace(' ', '_')}")
    if task.state == "running" and task.what:
        done, total = number(language, task.done), number(language, task.total)
        phase = say(language, f"task_phase_{task.what.replace(' ', '_')}")
        words = f"{words} {say(language, 'phase_count', phase=phase, done=done, total=total)}"
    if task.state == "failed":
        problem = sentence(language, task.problem)
        words = f"{words} {problem} {remedy_of(language, task.problem, task.remedy)}"
    share = round(100 * task.done / task.total) if task.total else 0
    return {"state": task.state, "words": words, "share": share, "result": task.result}


def worked(run: Run, asked: Mapping[str, Any]) -> None:
    """Starts a merge or a push in the background, or ends it where `cancel` was asked for.

    Raises:
        UserError: the run has no adapter, or there is no such task.
    """
    kind = str(asked["kind"])
    if kind not in tasks.TASKS:
        raise UserError("There is no task {kind!r}.", "Choose merge or push.", "no-such-task", kind=kind)
    if asked.get("cancel"):
        tasks.cancel(run, kind)
        return
    arguments = {"repository": str(asked.get("repository") or "").strip()}
    arguments |= {name: asked.get(name) is True for name in ("public", "with_pictures")}
    tasks.start(run, kind, arguments)


def taken(language: Language, run: Run, kind: str) -> dict[str, Any]:
    """Makes what was asked for, and returns its `path` and `name`; of the lines of Python the `text`.

    Raises:
        UserError: the run has no such thing, or there is no room for it.
    """
    if kind == PYTHON:
        words = {key: say(language, f"take_{key}") for key in ("copied", "copy_yourself")}
        return {"text": files.lines_of(run), **words}
    folder = Path(get_upload_folder()) / uuid.uuid4().hex
    file = files.write(run, kind, folder, words_in(language))
    return {"path": file.as_posix(), "name": file.name}


def words_in(language: Language) -> Words:
    """The words on pictures, in the language of the page."""
    keys = {name: f"share_{name}" for name in ("right_answer", "silent", "step")}
    keys |= {"base": "base", "adapter": "adapter", "loss": "loss"}
    keys |= {"training": "legend_train", "held_out": "legend_held_out"}
    texts = {name: say(language, key).lower() for name, key in keys.items()}
    return Words(caption=say(language, "share_caption"), **texts, say=partial(sentence, language))

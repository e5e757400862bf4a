"""What of a finished run can be taken along: its card on the page, and each file as it is asked for.

A file is made where Gradio serves uploads from, under a name that nobody can guess, and goes with them.
"""

import uuid
from functools import partial
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder
from markupsafe import Markup

from training.runs import Run
from training.sharing import files
from training.sharing.drawing import Words
from ui.html import render
from ui.i18n import Language, number, say, sentence

PYTHON = "python"


def card(language: Language, run: Run) -> Markup:
    """What there is to take of a run that has an adapter."""
    size = sum(file.stat().st_size for file in files.files_to_share(run.adapter_path)) / 1e6
    shown = say(language, "megabytes", size=number(language, size, 1))
    kinds = {kind: say(language, f"take_{kind}", size=shown) for kind in files.KINDS}
    return render("run_take", language, kinds=kinds, folder=run.adapter_path)


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

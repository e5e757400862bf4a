"""The pane of the Data tab: one row, as the model sees it and as a person edits it.

A row is corrected here, or a picture labelled that was dropped for it. The keyboard is enough: Enter saves
and goes on, Alt with an arrow moves.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from training.config.fields import ids_in
from training.data.edit.versions import PendingEdits, discard_pending, pending_edits, put_in_image
from training.data.images import load_image
from ui import adapters
from ui.data import labelling, row_edits, work
from ui.data.asked import Answer, Asked, afresh
from ui.data.check_card import checked_of, faulty
from ui.data.labelling import Label
from ui.data.model_view import as_uri, waiting
from ui.data.row_text import RowText
from ui.data.work import Work
from ui.datasets import chosen, uploaded
from ui.inference import engine
from ui.train.base_model import model_name
from vlm.errors import UserError
from vlm.settings import ModelSettings

BASE = "base"
LONGEST_SIDE = 640
PICTURES_SHOWN = 4
RAW_SHOWN = 2000


def look(asked: Asked) -> Answer:
    """A row in the pane: a click on an example, or on *Fix*."""
    return shown(asked, {"row": asked.now["row"], "faulty": bool(asked.now.get("faulty"))})


def fix(asked: Asked) -> Answer:
    return {**look(asked), "pane": "edit", "to": "pane"}


def shown(asked: Asked, at: Mapping[str, Any]) -> Answer:
    """The pane with this row: where it stands, and how it is edited. What the model sees is asked then."""
    dataset, key = asked.there, at["row"]
    example = row_edits.examples_by_id(dataset).get(key)
    keys = keys_of(asked, at)
    place = dataset.place_of(example) if example else key
    done = row_edits.mark_of(asked.changes, key)
    head = asked.render(
        "data_pane_head",
        at=keys.index(key) if key in keys else 0,
        total=len(keys),
        place=place,
        done=done,
        pinned=example.id in ids_in(asked.values["pinned_examples"]) if example else None,
        refusal=asked.now.get("refusal", ""),
        label=False,
    )
    issues = [issue for issue in dataset.findings if key in issue.row_ids]
    see = waiting(asked, example) if example else asked.render("data_unreadable", issues=issues)
    now = {"at": dict(at), "put_in": None, "refusal": ""}
    return {
        "parts": {"pane": head, "edit": edit(asked, key), "see": see},
        "now": now,
        "ask_see": bool(example),
    }


def keys_of(asked: Asked, at: Mapping[str, Any]) -> list[str]:
    """The rows among which one goes on: those found faulty, or all examples."""
    rows = faulty(asked) if at.get("faulty") else []
    return rows or [example.id for example in asked.there.examples]


def edit(asked: Asked, key: str) -> str:
    """The row as it stands, or was corrected; or why it can't be edited."""
    try:
        row = row_edits.row_text(asked.workspace, asked.values, asked.there, key)
    except UserError as trouble:
        return asked.render("trouble", trouble=trouble)
    return fields(asked, row)


def fields(asked: Asked, row: RowText, **label: Any) -> str:
    """The boxes to write in. `label`: what is said of a picture that is labelled."""
    return asked.render(
        "data_edit",
        row=row,
        pictures=[picture(image) for image in row.images[:PICTURES_SHOWN]],
        more=len(row.images) - PICTURES_SHOWN,
        raw=row.raw if len(row.raw) <= RAW_SHOWN else row.raw[:RAW_SHOWN] + "…",
        drafters=drafters(asked),
        label=label,
    )


def picture(image: Path) -> dict[str, Any]:
    """A picture, large enough to write about it; or what is wrong with it."""
    try:
        loaded = load_image(image, name=image.name)
    except UserError as trouble:
        return {"problem": trouble.problem, "source": "", "name": image.name}
    loaded.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return {"problem": "", "source": as_uri(loaded, quality=88), "name": image.name}


def label_shown(asked: Asked, label: Label) -> Answer:
    """The pane with a picture that is labelled, what was written about it, and how far it is."""
    listed = labelling.entries(asked.workspace, label)
    label = labelling.within(label, listed)
    entry = listed[label.at]
    done = sum(bool(other.pairs) for other in listed)
    head = asked.render(
        "data_pane_head",
        at=label.at,
        total=len(listed),
        place=entry.image,
        label=True,
        done="",
        pinned=None,
        refusal="",
    )
    written = labelling.row_of(asked.workspace, label, entry)
    examples = sum(len(other.pairs) for other in listed)
    box = fields(asked, written, done=done, total=len(listed), examples=examples)
    return {"parts": {"pane": head, "edit": box, "see": ""}, "now": {"at": label.as_json}, "pane": "edit"}


def start_labels(asked: Asked) -> Answer:
    """Dropped pictures become a dataset, and the first of them is to be labelled."""
    try:
        files, _ = uploaded(asked.now["files"])
        folder = labelling.begin(asked.workspace, files)
    except UserError as trouble:
        return {"trouble": asked.render("trouble", trouble=trouble)}
    settings = chosen(folder)
    after = asked.after({"set": settings})
    opened = label_shown(after, labelling.first_without(asked.workspace, folder))
    return {**opened, "set": settings, "now": {**afresh(), **opened["now"]}, "redraw": True, "to": "pane"}


def go_on_labelling(asked: Asked) -> Answer:
    """Of a dataset that was begun here, the first picture without a label; of another, a box for pictures."""
    dataset = str(asked.values["dataset"] or "")
    if not labelling.can_go_on(asked.workspace, dataset):
        return {"box": "label"}
    return {**label_shown(asked, labelling.first_without(asked.workspace, dataset)), "to": "pane"}


def move(asked: Asked) -> Answer:
    """Save, previous, next, leave out: of a row that is corrected, or a picture that is labelled."""
    at, action = asked.now.get("at"), asked.now["action"]
    if not at:
        return {}
    saves = action in ("save", "leave", "another")
    try:
        if "folder" in at:
            label = Label.read(asked.workspace, at)
            answer = label_shown(asked, labelling.moved(asked.workspace, label, action, written(asked, ())))
        else:
            answer = shown(asked, moved(asked, at, action))
    except UserError as trouble:
        return {"parts": {"editing": asked.render("trouble", trouble=trouble)}}
    return {**answer, "redraw": saves, "focus": asked.now.get("pane") == "edit"}


def moved(asked: Asked, at: Mapping[str, Any], action: str) -> dict[str, Any]:
    """What was asked for done to the row; the row that is shown then."""
    dataset, key = asked.there, at["row"]
    keys = keys_of(asked, at)
    if action == "save":
        row_edits.fix(asked.workspace, dataset, key, written(asked, images_of(asked, key)))
    elif action == "leave":
        row_edits.turn_over(asked.workspace, dataset, key)
        return dict(at)
    return {**at, "row": row_edits.beside(keys, key, -1 if action == "back" else 1)}


def images_of(asked: Asked, key: str) -> tuple[Path, ...]:
    """The pictures of the row in the editor: the one that was put in, or its own."""
    if name := asked.now.get("put_in"):
        image = pending_edits(asked.there, asked.workspace).folder / "images" / Path(str(name)).name
        return (image,)
    return row_edits.row_text(asked.workspace, asked.values, asked.there, key).images


def written(asked: Asked, images: tuple[Path, ...]) -> RowText:
    """What was written. A conversation is one where its box was filled: the others are hidden then."""
    texts = asked.now["fields"]
    if str(texts.get("turns") or "").strip():
        return RowText(images, turns=str(texts["turns"]))
    return RowText(images, str(texts.get("question") or "").strip(), str(texts.get("answer") or "").strip())


def put_in(asked: Asked) -> Answer:
    """Another picture for the row in the editor; it is the row's once that is saved."""
    files, _ = uploaded(asked.now["files"])
    try:
        image = put_in_image(files[0], pending_edits(asked.there, asked.workspace))
    except UserError as trouble:
        return {"parts": {"editing": asked.render("trouble", trouble=trouble)}}
    pictures = asked.render("data_pictures", pictures=[picture(image)], more=0)
    return {"parts": {"pictures": pictures, "editing": ""}, "now": {"put_in": image.name}}


def leave(asked: Asked) -> Answer:
    """The rows of a finding left out, or taken back where they were."""
    found, dataset = checked_of(asked), asked.there
    keys: tuple[str, ...] = (asked.now["row"],)
    if found:
        listed = found.report.groups()[int(asked.now["kind"])][1]
        keys = listed[int(asked.now["issue"])].row_ids
    out = keys[0] in pending_edits(dataset, asked.workspace).excluded
    (row_edits.take_back if out else row_edits.leave_out)(asked.workspace, dataset, *keys)
    return {"redraw": True}


def leave_all(asked: Asked) -> Answer:
    """Every faulty row left out that was not corrected."""
    changes = asked.changes or PendingEdits(Path())
    row_edits.leave_out(
        asked.workspace, asked.there, *(key for key in faulty(asked) if key not in changes.fixed)
    )
    return {"redraw": True, "to": "changes"}


def save_version(asked: Asked) -> Answer:
    """The changes as a new dataset, which is then the form's."""
    try:
        version = row_edits.save(asked.workspace, asked.there, asked.now["name"])
    except UserError as trouble:
        return {"parts": {"version": asked.render("trouble", trouble=trouble)}}
    saved = {"name": version.folder.name, "examples": version.examples, "left_out": version.left_out}
    now = {**afresh(), "checked": None, "saved": saved}
    return {
        "set": chosen(version.folder.name),
        "now": now,
        "parts": {"pane": "", "version": ""},
        "redraw": True,
    }


def discard(asked: Asked) -> Answer:
    if asked.changes:
        discard_pending(asked.changes)
    return {"redraw": True}


def changes(asked: Asked) -> str:
    """How many rows were corrected or left out, to be saved as a version; "" where nothing waits."""
    waits = asked.changes
    return asked.render("data_changes", edits=waits.edits) if waits else ""


def drafters(asked: Asked) -> list[tuple[str, str]]:
    """The model chosen on Train, and the adapters that were trained on it."""
    base = (asked.values["model"], asked.values["revision"])
    trained = [adapter for adapter in adapters.available(asked.workspace) if adapter.base == base]
    named = asked.say("draft_base", model=model_name(asked.values["model"]))
    return [(named, BASE), *((adapter.name, adapter.key) for adapter in trained)]


def draft(asked: Asked) -> Answer:
    """An answer of a model, to be corrected by a person: begun, or as far as it is."""
    visitor, at = asked.now["visitor"], asked.now.get("at") or {}
    going = work.going_on(visitor, "draft") if asked.now.get("again") else None
    try:
        if going is None:
            label = Label.read(asked.workspace, at) if "folder" in at else None
            images = (labelling.image_of(asked.workspace, label),) if label else images_of(asked, at["row"])
            question, who = str(asked.now["fields"].get("question") or ""), str(asked.now["who"])
            going = work.begin(
                visitor, "draft", partial(_drafted, asked.workspace, asked.values, images, question, who)
            )
        over = going.is_over()
    except UserError as trouble:
        work.cancel(visitor, "draft")
        return {"parts": {"editing": asked.render("trouble", trouble=trouble)}}
    answer = {} if going.told[0] != "draft" else {"draft": going.told[1]}
    if over:
        work.forget(visitor, "draft", going)
        said = asked.render("data_drafting", answer=answer.get("draft", ""))
        return {**answer, "parts": {"editing": said}}
    return {**answer, "parts": {"editing": asked.render("data_drafting", answer="")}, "again": "draft"}


def _drafted(
    workspace: Path, values: Mapping[str, Any], images: tuple[Path, ...], question: str, who: str, going: Work
) -> None:
    """Tells an answer as the model gives it, growing. Raises `UserError` where it can't be asked."""
    if len(images) != 1:
        raise UserError(
            "A draft is about one picture.", "Write the answer yourself.", "draft-needs-one-picture"
        )
    settings = ModelSettings(model=values["model"], revision=values["revision"])
    folder = None if who == BASE else adapters.find(workspace, who).folder
    shown_to_it = load_image(images[0], name=images[0].name)
    tokens = adapters.longest_answer([folder])
    for answers in engine().ask(settings, shown_to_it, question.strip(), [folder], tokens):
        going.tell("draft", answers[0].text)
        if going.cancelled():
            return

"""What happens in the editor of the Data tab: a row opened, saved, left out, drafted; versions saved.

A row that is corrected is `ui.data.fixing`'s matter, a picture that is labelled `ui.data.labelling`'s.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from training.data.dataset import Dataset
from training.data.edit.versions import discard_pending, pending_edits, put_in_image
from ui.data import drawing as data_drawing
from ui.data import editor, editor_html, fixing, labelling
from ui.data.adding import choices_with, read_by_itself
from ui.data.check_card import find_checked
from ui.data.editor import TO_THE_ANSWER, TO_THE_EDITOR, drafters, emptied, filled, row_of, told
from ui.data.fixing import At
from ui.data.labelling import add_labelling_start
from ui.data.parts import DATA, DataTab, Given
from ui.dataset_cache import OF_DATASET
from ui.events import QUEUED, QUIET
from ui.i18n import say
from ui.train import form_html
from vlm.errors import UserError


def add_editing_events(tab: DataTab) -> None:
    add_finding_events(tab)
    add_editor_events(tab, add_draft_events(tab))
    add_version_events(tab)
    add_labelling_start(tab)


def show_row(tab: DataTab, given: Given, dataset: Dataset, at: At) -> list[Any]:
    """For `EditorCard.drawn`: the row as it stands, or was corrected; or why it can't be edited."""
    keys = _keys(tab, given, dataset, at)
    number = keys.index(at.key) if at.key in keys else 0
    example = fixing.examples_by_id(dataset).get(at.key)
    name = dataset.place_of(example) if example else at.key
    try:
        row = fixing.row_text(tab.workspace, given.values, dataset, at.key)
    except UserError as trouble:
        return told(tab.editor, form_html.error(given.language, trouble))
    done = fixing.mark_of(pending_edits(dataset, tab.workspace), at.key)
    return filled(
        given.language,
        row,
        editor_html.place(given.language, number, len(keys), name),
        labels=False,
        drafters=drafters(tab.workspace, given.language, given.values),
        left_out=done == "left_out",
    )


def _keys(tab: DataTab, given: Given, dataset: Dataset, at: At) -> list[str]:
    """The rows among which one goes on: those found faulty, or all examples."""
    found = find_checked(given.own[-1]) if at.faulty else None
    return fixing.faulty_rows(found.report) if found else [example.id for example in dataset.examples]


def add_finding_events(tab: DataTab) -> None:
    """A finding's buttons: its row opened, left out, taken back; more of its kind. And the eye's own."""
    card, eye = tab.editor, tab.eye

    def act(event: gr.EventData, *inputs: Any) -> tuple[Any, ...]:
        given = Given.of(tab, inputs)
        opened, checked = given.own
        nothing = [gr.skip()] * len(card.drawn)
        if event.act == "more":
            return [*opened, int(event.kind)], gr.skip(), *nothing
        dataset, found = tab.dataset(given.values), find_checked(checked)
        if dataset is None or found is None:
            return gr.skip(), gr.skip(), *nothing
        _, listed = found.report.groups()[int(event.kind)]
        keys = listed[int(event.row)].row_ids
        if event.act == "fix":
            at = At(keys[0], faulty=True)
            return gr.skip(), at, *show_row(tab, given, dataset, at)
        change = fixing.leave_out if event.act == "leave" else fixing.take_back
        change(tab.workspace, dataset, *keys)
        return gr.skip(), gr.skip(), *nothing

    def edit(*inputs: Any) -> tuple[Any, ...]:
        given = Given.of(tab, inputs)
        looking, dataset = given.own[0], tab.dataset(given.values)
        if looking is None or dataset is None or looking >= len(dataset.examples):
            return gr.skip(), *[gr.skip()] * len(card.drawn)
        at = At(dataset.examples[looking].id)
        return at, *show_row(tab, given, dataset, at)

    def leave(*inputs: Any) -> None:
        given = Given.of(tab, inputs)
        looking, dataset = given.own[0], tab.dataset(given.values)
        if looking is not None and dataset is not None and looking < len(dataset.examples):
            fixing.turn_over(tab.workspace, dataset, dataset.examples[looking].id)

    def leave_all(*inputs: Any) -> None:
        given = Given.of(tab, inputs)
        found, dataset = find_checked(given.own[1]), tab.dataset(given.values)
        if found is not None and dataset is not None:
            changed = pending_edits(dataset, tab.workspace).fixed
            rows = [key for key in fixing.faulty_rows(found.report) if key not in changed]
            fixing.leave_out(tab.workspace, dataset, *rows)

    found_again = data_drawing.found_again(tab)
    tab.found.findings.act(
        act,
        [*tab.known, tab.found.opened, tab.check.checked, *tab.controls],
        [tab.found.opened, card.row, *card.drawn],
        **DATA,
    ).then(None, js=TO_THE_EDITOR).then(**found_again)
    looking = [*tab.known, eye.looking, tab.check.checked, *tab.controls]
    eye.edit.click(edit, looking, [card.row, *card.drawn], **DATA).then(None, js=TO_THE_EDITOR)
    tab.found.leave_all.click(leave_all, looking, None, **DATA).then(**found_again)
    eye.leave.click(leave, looking, None, **DATA).then(**found_again)


def add_editor_events(tab: DataTab, drafting: Any) -> None:
    """Save, previous, next, leave out: of a row that is corrected, or a picture that is labelled.

    A draft that is being written ends then: it would be of another picture.
    """
    card = tab.editor
    own = [card.row, card.label, *card.written, tab.check.checked]
    wired = {
        "inputs": [*tab.known, *own, *tab.controls],
        "outputs": [card.row, card.label, *card.drawn],
        "trigger_mode": "once",
        "cancels": [drafting],
        **DATA,
    }

    def move(action: str) -> Any:
        def moved(*inputs: Any) -> tuple[Any, ...]:
            given = Given.of(tab, inputs)
            at, label, *written, _ = given.own
            try:
                if label is not None:
                    after = labelling.moved(tab.workspace, label, action, row_of(*written))
                    return gr.skip(), after, *labelling.show(tab, given, after)
                dataset = tab.dataset(given.values)
                if at is None or dataset is None:
                    return None, None, *emptied(card)
                after = _row_moved(tab, given, dataset, at, action, written)
                return after, None, *show_row(tab, given, dataset, after)
            except UserError as trouble:
                return gr.skip(), gr.skip(), *told(card, form_html.error(given.language, trouble))

        return moved

    def put_in(upload: str, *inputs: Any) -> tuple[Any, ...]:
        given = Given.of(tab, inputs)
        dataset = tab.dataset(given.values)
        try:
            picture = put_in_image(Path(upload), pending_edits(dataset, tab.workspace))
        except UserError as trouble:
            return gr.skip(), gr.skip(), form_html.error(given.language, trouble)
        return (picture,), editor_html.pictures(given.language, (picture,)), ""

    for trigger, action in (
        (card.save.click, "save"),
        (card.answer.submit, "save"),
        (card.turns.submit, "save"),
        (card.back.click, "back"),
        (card.on.click, "on"),
        (card.leave.click, "leave"),
        (card.take_back.click, "leave"),
        (card.remove.click, "leave"),
        (card.another.click, "another"),
    ):
        moved = trigger(move(action), **wired).then(None, js=TO_THE_EDITOR)
        if action in ("save", "leave", "another"):
            moved.then(**data_drawing.everything(tab))
    card.question.submit(None, js=TO_THE_ANSWER)
    card.put_in.upload(
        put_in, [card.put_in, *tab.known, *tab.controls], [card.images, card.picture, card.notice], **DATA
    )


def _row_moved(tab: DataTab, given: Given, dataset: Dataset, at: At, action: str, written: list[Any]) -> At:
    """What was asked for done to the row; the row that is opened then."""
    if action == "save":
        fixing.fix(tab.workspace, dataset, at.key, row_of(*written))
    elif action == "leave":
        fixing.turn_over(tab.workspace, dataset, at.key)
    step = -1 if action == "back" else 1
    return At(fixing.beside(_keys(tab, given, dataset, at), at.key, step), at.faulty)


def add_draft_events(tab: DataTab) -> Any:
    """An answer as the chosen model or adapter gives it, to be corrected by a person."""
    card = tab.editor

    def draft(*inputs: Any) -> Iterator[tuple[Any, ...]]:
        given = Given.of(tab, inputs)
        images, question, who = given.own
        try:
            yield gr.skip(), form_html.small(say(given.language, "drafting")), gr.update(interactive=False)
            for answer in editor.drafted(tab.workspace, given.values, images, question, who):
                yield answer, gr.skip(), gr.skip()
            yield gr.skip(), "", gr.update(interactive=True)
        except UserError as trouble:
            yield gr.skip(), form_html.error(given.language, trouble), gr.update(interactive=True)

    return card.draft.click(
        draft,
        [*tab.known, card.images, card.question, card.who, *tab.controls],
        [card.answer, card.notice, card.draft],
        trigger_mode="once",
        concurrency_id="gpu",
        **QUEUED,
    )


def add_version_events(tab: DataTab) -> None:
    """The changes saved as a new dataset, which is then the form's; or forgotten."""
    changes, card = tab.changes, tab.editor
    reading = [tab.built.controls[name] for name in OF_DATASET]
    closing = [card.row, card.label, card.box, tab.eye.looking, tab.eye.box]

    def close() -> tuple[Any, ...]:
        return None, None, gr.update(visible=False), None, gr.update(visible=False)

    def save(*inputs: Any) -> tuple[Any, ...]:
        given = Given.of(tab, inputs)
        dataset = tab.dataset(given.values)
        try:
            if dataset is None:
                raise UserError("There is no dataset.", "Choose one first.", "nothing-to-save")
            version = fixing.save(tab.workspace, dataset, given.own[0])
        except UserError as trouble:
            return (
                form_html.error(given.language, trouble),
                gr.update(visible=False),
                gr.skip(),
                *[gr.skip()] * (len(reading) + len(closing)),
            )
        name = version.folder.name
        said = gr.update(
            value=editor_html.saved(given.language, name, version.examples, version.left_out), visible=True
        )
        chosen = gr.update(choices=choices_with(tab.workspace, name), value=name)
        return "", said, "", chosen, *read_by_itself(), *close()

    def discard(*inputs: Any) -> None:
        dataset = tab.dataset(Given.of(tab, inputs).values)
        if dataset is not None:
            discard_pending(pending_edits(dataset, tab.workspace))

    everything = data_drawing.everything(tab)
    gr.on(
        [changes.save.click, changes.name.submit],
        save,
        [*tab.known, changes.name, *tab.controls],
        [changes.error, changes.said, changes.name, *reading, *closing],
        trigger_mode="once",
        **DATA,
    ).then(**everything)
    changes.discard.click(discard, [*tab.known, *tab.controls], None, **DATA).then(
        **data_drawing.found_again(tab)
    )
    card.close.click(lambda: close()[:3], None, closing[:3], **QUIET)

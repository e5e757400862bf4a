"""read_examples: rows -> Examples, or the findings that keep a row from being one. No torch.

A row has its images in `file_name`, `image` or `images`, and its text in `messages`, in `question` and
`answer`, or in `text` or `caption`; `layouts` brings other people's rows into this form. Other columns are
ignored. Reading files is `training.data.readers`' matter.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from training.config.columns import OTHER_KINDS, SILENT, ColumnMapping
from training.data.row import Issue, Progress, Row, say_nothing
from training.data.rows.layouts import (
    OUR_IMAGES,
    Recognised,
    answer_list,
    canonical,
    recognise,
    texts_of,
    unpacked,
)
from training.data.rows.naming import columns_setting, suggested_columns
from training.data.rows.texts import NO_TEXT, PARTS, Lacking, learned_text, messages_of, missing, text_of
from training.data.safe_paths import DatasetFolder, quoted
from vlm.errors import Phrase, UserError
from vlm.example import Example

# Layouts in which the answers stand in turns.
CONVERSATIONS = ("messages", "conversations")
OTHER_MEDIA = ("video", "videos", "audio", "audios")
EXPECTED = "Each row needs file_name, image or images, and messages, question + answer, or text"
COLUMNS_NAMED = 10
# Faults that say nothing against the columns that were read.
OF_THIS_ROW_ALONE = ("part-is-a-number", "answer-is-empty", "part-with-nul")
ROWS_BETWEEN_PROGRESS = 1000
GROUP_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Reading:
    """What the rows of a dataset gave: the good ones as `examples`, in order, each with its place and split.

    `layouts` are how most rows are written, one or two, `columns` which column was taken for what, `ignored`
    the columns that were not read.
    """

    examples: list[Example]
    findings: list[Issue]
    places: list[str]
    splits: list[str]
    layouts: tuple[str, ...]
    columns: dict[str, str]
    ignored: list[str]


def read_examples(
    rows: Iterable[Row | Issue],
    name: str,
    folder: DatasetFolder,
    mapping: ColumnMapping,
    progress: Progress = say_nothing,
) -> Reading:
    """Reads every good row as an example, and the findings of all the others. `name`: the rows' file.

    `progress("rows", done, 0)` counts.
    """
    examples: list[Example] = []
    findings: list[Issue] = []
    places, splits, ids, unasked = [], [], [], []
    ignored, layouts, columns = Counter(), Counter(), {}
    shapes: dict[tuple, Recognised] = {}
    for number, row in enumerate(rows, start=1):
        if number % ROWS_BETWEEN_PROGRESS == 0:
            progress("rows", number, 0)
        if isinstance(row, Issue):
            findings.append(row)
            continue
        # Which column is which depends on no more than this, and most rows of a dataset have one shape.
        shape = tuple((column, value in SILENT) for column, value in row.values.items())
        if shape not in shapes:
            shapes[shape] = recognise(row.values, mapping)
        seen = shapes[shape]
        ignored.update(row.values.keys() - seen.used)
        example = _example_or_findings(row, folder, mapping, seen.layout)
        if not isinstance(example, Example):
            findings.extend(example)
            continue
        layouts[seen.layout] += 1
        columns |= seen.columns
        if example.is_caption and seen.layout != "captions":
            unasked.append(len(examples))
        split = row.values.get(seen.columns.get("split", ""))
        examples.append(example)
        places.append(row.place)
        splits.append(row.split or (split if isinstance(split, str) else ""))
        # An id of its own counts only where it is text or a number.
        own = row.values.get("id")
        ids.append(str(own) if isinstance(own, str | int) else None)
    if not examples and not findings:
        error = UserError("0 examples", "Write one row for each example", "no-examples")
        findings.append(Issue.at(name, error))
    unreadable = {place for found in findings for place in found.row_ids}
    examples, repeated = _with_own_ids(examples, ids, unreadable)
    findings += _warnings(name, examples, places, unasked, ids, repeated)
    written = tuple(layout for layout, _ in layouts.most_common(2))
    return Reading(examples, findings, places, splits, written, columns, sorted(ignored))


def _warnings(
    name: str,
    examples: Sequence[Example],
    places: Sequence[str],
    unasked: Sequence[int],
    ids: Sequence[str | None],
    repeated: Sequence[str],
) -> Iterator[Issue]:
    """Yields what is told of good rows together: those without a question, and those whose ids repeat."""
    if unasked:
        error = UserError(
            "{unasked} of {rows} {rows:row|rows} {unasked:has|have} no question:"
            " {unasked:it is read as a caption|they are read as captions}",
            "Write the question, if one is missing",
            "rows-without-question",
            unasked=len(unasked),
            rows=len(examples),
        )
        asked_for = (examples[number].id for number in unasked)
        yield Issue.at(places[unasked[0]], error, row_ids=asked_for, warning=True)
    if repeated:
        error = UserError(
            "{count} {count:id stands|ids stand} in more than one row, {first} first",
            "Give each row an id of its own, or none",
            "ids-repeat",
            count=len(repeated),
            first=quoted(repeated[0]),
        )
        of_several = {*repeated}
        twins = (example.id for example, own in zip(examples, ids, strict=True) if own in of_several)
        yield Issue.at(name, error, row_ids=twins, warning=True)


def _with_own_ids(
    examples: Sequence[Example], ids: Sequence[str | None], unreadable: Iterable[str]
) -> tuple[list[Example], list[str]]:
    """Returns the examples with their rows' own ids in place of "file:line", and the ids that repeat.

    Pins and edits go by the id: a row's own stays the same when other rows come or go, but must be unique,
    and no place of another row; those of `unreadable` rows have no other name.
    """
    counted = Counter(own for own in ids if own is not None)
    taken = counted + Counter(example.id for example in examples) + Counter(unreadable)
    named = [
        replace(example, id=own) if own and taken[own] == 1 and not NO_TEXT.search(own) else example
        for example, own in zip(examples, ids, strict=True)
    ]
    return named, [own for own, count in counted.items() if count > 1]


def _example_or_findings(
    row: Row, folder: DatasetFolder, mapping: ColumnMapping, layout: str
) -> Example | list[Issue]:
    """Returns everything that is wrong with the row at once: all its missing images, and its text too."""
    faults: list[UserError] = []
    images: list[Path] = []
    try:
        values = canonical(row.values, mapping, layout)
        if found := [column for column in OTHER_MEDIA if row.values.get(column) not in (None, "", [])]:
            raise UserError(
                "the row has {column}: only images are looked at",
                "Remove it, or the row",
                "row-of-other-media",
                column=found[0],
            )
        references = _image_references(values)
        for reference in references:
            # `datasets` writes an image as an object of bytes and path; one without bytes is its path.
            if isinstance(reference, dict) and reference.get("bytes") is None and "path" in reference:
                reference = reference["path"]
            try:
                images.append(folder.file(reference, row.folder))
            except UserError as fault:
                faults.append(fault)
        answers = _answers(row.values, mapping, layout)
        messages = messages_of(values, len(references))
    except UserError as fault:
        faults.append(fault)
    except Lacking as lacking:
        faults.append(_lacking(lacking.kind, row.values, mapping))
    if faults:
        return [Issue.of_row(row.place, fault) for fault in faults]
    group = mapping.get("type", row.values)
    is_text = isinstance(group, str) and not NO_TEXT.search(group)
    group = " ".join(group.split())[:GROUP_SHOWN] if is_text else ""
    example = Example(f"{row.file}:{row.line}", tuple(images), messages, group)
    # Beside turns, the list may be of answers to all questions, one each: it counts where it has the last.
    if not answers or (layout in CONVERSATIONS and example.answer not in answers):
        return example
    # Answers that are all the same are one: the evaluation reports how many examples have several.
    accepted = tuple(dict.fromkeys([example.answer, *(answer.strip() for answer in answers)]))
    return replace(example, references=accepted) if len(accepted) > 1 else example


def _lacking(kind: str, values: dict[str, object], mapping: ColumnMapping) -> UserError:
    """Returns the error of a row without an image, a text, a question or an answer: its own columns, and the
    `--columns` that would read them."""
    if kind in ("question", "answer") and any(name in values for name in mapping.candidates(kind, values)):
        return missing(PARTS[kind])  # the column is there, and its cell is empty
    names = [quoted(column) for column in list(values)[:COLUMNS_NAMED]]
    columns = Phrase(
        "the row has the {count:column|columns} {names}", "columns-of-a-row", count=len(values), names=names
    )
    told = {"columns": columns if names else Phrase("the row has no columns", "row-without-columns")}
    suggested = suggested_columns(values, mapping)
    setting = columns_setting(suggested)
    if not suggested or not _readable(suggested, values, mapping):
        told["advice"] = Phrase(EXPECTED, "what-a-row-needs")
    elif {"chosen", "rejected"} <= values.keys():
        told["advice"] = Phrase(
            "Preferences are not learned; give --columns {setting} to learn the answers that were chosen",
            "give-columns-of-preferences",
            setting=setting,
        )
    else:
        told["advice"] = Phrase("Give --columns {setting}", "give-columns", setting=setting)
    if kind == "image":
        return UserError("no image: {columns}", "{advice}", "row-without-image", **told)
    if kind == "text":
        return UserError("no text: {columns}", "{advice}", "row-without-text", **told)
    return UserError("{part} is missing: {columns}", "{advice}", "row-lacks-a-part", part=PARTS[kind], **told)


def _readable(columns: dict[str, str], values: dict[str, object], mapping: ColumnMapping) -> bool:
    """Returns whether these columns make the row one that can be read."""
    named = ColumnMapping({OTHER_KINDS.get(kind, kind): column for kind, column in columns.items()}).over(
        mapping
    )
    try:
        found = canonical(values, named)
        messages_of(found, len(_image_references(found)))
    except Lacking:
        return False
    except UserError as fault:
        return fault.code in OF_THIS_ROW_ALONE
    return True


def _answers(values: dict[str, object], mapping: ColumnMapping, layout: str) -> list[str]:
    """Returns the answers of a row that has a list of them."""
    found = unpacked(values, mapping)
    if layout in CONVERSATIONS:  # `output` or `response` beside turns are something else
        found = {name: value for name, value in found.items() if name == "answers"}
    column, written = (layout != "captions" and answer_list(found, mapping)) or ("", [])
    answers = []
    for number, said in enumerate(texts_of(written), start=1):
        part = Phrase("answer {number} in {column}", "answer-of-a-list", number=number, column=quoted(column))
        text = text_of(said, part)
        if not text.strip():
            raise UserError(
                "{part} is empty", "Write it, or take it out of the list", "listed-answer-empty", part=part
            )
        answers.append(learned_text(text, part))
    return answers


def _image_references(values: dict[str, object]) -> list[object]:
    """Returns what the row says its images are; empty for text alone.

    Messages may come without an image column. A question may not, lest a misspelt column trains a blind
    model: it says with `null` or an empty list that there is no image.
    """
    given = [column for column in OUR_IMAGES if values.get(column) not in SILENT]
    given = given or [column for column in OUR_IMAGES if values.get(column) == ""]
    if len(given) > 1:
        raise UserError(
            "images stand in {columns:and in}", "Keep one of these columns", "images-twice", columns=given
        )
    if given:
        references = values[given[0]]
        return references if isinstance(references, list) else [references]
    has_empty_column = any(column in values for column in OUR_IMAGES)
    if values.get("messages") in SILENT and not (has_empty_column and values.get("question") is not None):
        raise Lacking("image")
    return []

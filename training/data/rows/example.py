"""read_examples: rows -> Examples, or the findings that keep a row from being one. No torch.

A row has its images in `file_name`, `image` or `images`, and its text in `messages`, in `question` and
`answer`, or in `text` or `caption`; `layouts` brings other people's rows into this form. Other columns are
ignored. Reading files is `training.data.readers`' matter.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from training.config.columns import OTHER_KINDS, SILENT, ColumnMapping
from training.data.row import Issue, Progress, Row, say_nothing
from training.data.rows.answers import VOTES, answer_list, texts_of
from training.data.rows.layouts import (
    OUR_IMAGES,
    Recognised,
    canonical,
    holds_boxes,
    recognise,
    unpacked,
)
from training.data.rows.marks import boxes_error, mark_in, paths_in, placed
from training.data.rows.naming import columns_setting, suggested_columns
from training.data.rows.pictures import LOOKED_AT, Pictures
from training.data.rows.texts import (
    NO_TEXT,
    PARTS,
    Lacking,
    learned_text,
    messages_of,
    missing,
    text_of,
    unread_keys,
)
from training.data.safe_paths import quoted
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
A_ROW = Phrase("the row", "the-row")
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
    pictures: Pictures,
    mapping: ColumnMapping,
    progress: Progress = say_nothing,
) -> Reading:
    """Reads every good row as an example, and the findings of all the others. `name`: the rows' file.

    `progress("rows", done, 0)` counts.
    """
    examples: list[Example] = []
    findings: list[Issue] = []
    places, splits, ids, unasked = [], [], [], []
    ignored, layouts, columns, turn_keys = Counter(), Counter(), {}, set()
    shapes: dict[tuple, Recognised] = {}
    rows = iter(rows)
    first = [*islice(rows, LOOKED_AT)]
    pictures.settle(_first_images(first, mapping))
    rows = chain(first, rows)
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
        example = _example_or_findings(row, pictures, mapping, seen, turn_keys)
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
    findings = _told_once(findings)
    if pictures.told is not None:
        findings.append(Issue.at(name, pictures.told, warning=True))
    findings += _warnings(name, examples, places, unasked, ids, repeated)
    findings += _warnings_of_texts(name, examples, places, turn_keys)
    written = tuple(layout for layout, _ in layouts.most_common(2))
    return Reading(examples, findings, places, splits, written, columns, sorted(ignored))


def _first_images(rows: Iterable[Row | Issue], mapping: ColumnMapping) -> Iterator[tuple[object, str]]:
    """Yields what rows say that their images are, each with the folder that its path starts from."""
    for row in rows:
        if isinstance(row, Row):
            with suppress(UserError, Lacking):
                values = canonical(row.values, mapping)
                references, _ = _image_references(values)
                yield from ((reference, row.folder) for reference in references)


def _told_once(findings: list[Issue]) -> list[Issue]:
    """Returns the findings, one for all rows whose images' paths begin in the same wrong way."""
    alike = [found for found in findings if found.code == "images-begin-elsewhere"]
    if not alike:
        return findings
    keys = dict.fromkeys(key for found in alike for key in found.row_ids)
    others = [found for found in findings if found.code != alike[0].code]
    return [replace(alike[0], row_ids=(*keys,)), *others]


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


def _warnings_of_texts(
    name: str, examples: Sequence[Example], places: Sequence[str], turn_keys: set[str]
) -> Iterator[Issue]:
    """Yields what is told of turns with keys that are not read, and of texts that name images themselves."""
    if turn_keys:
        error = UserError(
            "ignored in turns: {keys}",
            "Leave out the rows that need them",
            "turn-keys-ignored",
            keys=[quoted(key) for key in sorted(map(str, turn_keys))[:COLUMNS_NAMED]],
        )
        yield Issue.at(name, error, warning=True)
    blind = [(number, example) for number, example in enumerate(examples) if not example.images]
    if 2 * len(blind) > len(examples):
        texts = ((number, " ".join(turn.text for turn in example.messages)) for number, example in blind)
        marked = [(number, mark) for number, text in texts if (mark := mark_in(text))]
        if marked:
            error = UserError(
                "{count} of {rows} {rows:row|rows} {count:has|have} no image, while {count:its text has|their"
                " texts have} such as {mark}",
                "Write the path of each row's image into a column image, unless the rows are text alone",
                "texts-name-images",
                count=len(marked),
                rows=len(examples),
                mark=quoted(marked[0][1]),
            )
            rows = (examples[number].id for number, _ in marked)
            yield Issue.at(places[marked[0][0]], error, row_ids=rows, warning=True)


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
    row: Row, pictures: Pictures, mapping: ColumnMapping, seen: Recognised, turn_keys: set[str]
) -> Example | list[Issue]:
    """Returns everything that is wrong with the row at once: all its missing images, and its text too."""
    faults: list[UserError] = []
    images: list[Path] = []
    layout = seen.layout
    try:
        if seen.boxes and layout == "classes":  # the class is of a box, not of the picture
            raise boxes_error(A_ROW)
        values = canonical(row.values, mapping, layout)
        turn_keys |= unread_keys(values.get("messages"))
        if found := [column for column in OTHER_MEDIA if row.values.get(column) not in (None, "", [])]:
            raise UserError(
                "the row has {column}: only images are looked at",
                "Remove it, or the row",
                "row-of-other-media",
                column=found[0],
            )
        references, named = _image_references(values)
        for reference in references:
            # `datasets` writes an image as an object of bytes and path; one without bytes is its path.
            if isinstance(reference, dict) and reference.get("bytes") is None and "path" in reference:
                reference = reference["path"]
            try:
                images.append(pictures.file(reference, row.folder))
            except UserError as fault:
                faults.append(fault)
        answers = _answers(row.values, mapping, layout)
        messages, ordered = placed(messages_of(values), references, named)
        if ordered is not references and not faults:
            images = [pictures.file(reference, row.folder) for reference in ordered]
    except UserError as fault:
        faults.append(fault)
    except Lacking as lacking:
        boxes = seen.boxes or holds_boxes([row.values])
        faults.append(_lacking(lacking.kind, row.values, mapping, boxes=boxes))
    if faults:
        return [Issue.of_row(row.place, fault) for fault in faults]
    group = mapping.get("type", row.values)
    is_text = isinstance(group, str) and not NO_TEXT.search(group)
    group = " ".join(group.split())[:GROUP_SHOWN] if is_text else ""
    example = Example(f"{row.file}:{row.line}", tuple(images), messages, group)
    # Beside turns, the list may be of answers to all questions, one each: it counts where it has the last.
    if not answers or (layout in CONVERSATIONS and example.answer not in answers):
        return example
    given = [answer.strip() for answer in answers]
    accepted = tuple(dict.fromkeys([example.answer, *given]))
    if len(given) >= VOTES:
        # Sorted by the order of their first: the one that is trained on comes first.
        return replace(example, references=tuple(sorted([*given], key=accepted.index)))
    # Answers that are all the same are one: the evaluation reports how many examples have several.
    return replace(example, references=accepted) if len(accepted) > 1 else example


def _lacking(kind: str, values: dict[str, object], mapping: ColumnMapping, *, boxes: bool) -> UserError:
    """Returns the error of a row without an image, a text, a question or an answer: its own columns, and the
    `--columns` that would read them; or that it has `boxes`."""
    is_told = any(mapping.column(part, values) for part in ("question", "answer", "text", "messages"))
    if boxes and not (kind == "image" and is_told):
        return boxes_error(A_ROW)
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
        placed(messages_of(found), *_image_references(found))
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


def _image_references(values: dict[str, object]) -> tuple[list[object], list[str]]:
    """Returns what the row says its images are, empty for text alone, and the marks that it names them by.

    Messages may come without an image column, as may texts that name their images themselves. A question may
    not, lest a misspelt column trains a blind model: it says with `null` or an empty list that there is none.
    """
    given = [column for column in OUR_IMAGES if values.get(column) not in SILENT]
    given = given or [column for column in OUR_IMAGES if values.get(column) == ""]
    if len(given) > 1:
        raise UserError(
            "images stand in {columns:and in}", "Keep one of these columns", "images-twice", columns=given
        )
    if given:
        references = values[given[0]]
        # MiniCPM names each image by its mark: {"<image_00>": "1.jpg"}
        if isinstance(references, dict) and references and all(key[:1] == "<" for key in references):
            return [*references.values()], [*references]
        return references if isinstance(references, list) else [references], []
    has_empty_column = any(column in values for column in OUR_IMAGES)
    is_asked = values.get("messages") in SILENT
    if is_asked and not (has_empty_column and values.get("question") is not None):
        texts = [text for name in ("question", "prompt") if isinstance(text := values.get(name), str)]
        if not paths_in(texts):
            raise Lacking("image")
    return [], []

"""suggested_columns: the `--columns` that would read a row, where its own names say nothing. No torch.

It guesses by names and contents. A remedy tells the guess, and nothing acts on it.
"""

import re
from collections.abc import Iterable, Mapping

from training.config.columns import KINDS, OTHER_KINDS, SILENT, ColumnMapping, plain
from training.data.safe_paths import URL
from vlm.machine import system

A_PICTURE = re.compile(r"[^\n]+\.(png|jpe?g|webp|gif|bmp|tiff?)", re.IGNORECASE)
# Parts of names, the likeliest first; with _ around it a whole word: `choice` is no question (hoi).
HINTS = {
    "question": "question query prompt instruction problem ask input user hỏi _hoi_",
    "answer": (
        "chosen answer label target truth response reply output solution class category"
        " trả_lời đáp_án _tra_loi_ _dap_an_"
    ),
    "caption": "caption description title comment sentence summary text mô_tả chú_thích _mo_ta_ _chu_thich_",
}


def suggested_columns(values: Mapping[str, object], mapping: ColumnMapping) -> dict[str, str]:
    """Returns kind -> column as `--columns` would need it, or nothing where no column suits.

    That is what the row lacks and probably has under another name, beside what the mapping says already.
    """
    known = {kind: column for kind in KINDS if (column := mapping.column(kind, values)) is not None}
    taken = {*known.values()}
    free = [n for n in values if n not in taken and values[n] not in SILENT and nameable(n)]
    pictures = [name for name in free if _is_picture(values[name])]
    image = None if "images" in known else next((n for n in pictures if not _is_url(values[n])), None)
    found = {"image": image} if image else {}
    texts = [n for n in free if n not in pictures and n != image and isinstance(values[n], str | list)]
    if not {"messages", "conversations"} & known.keys():
        found |= _suggested_turns(texts, values, known) or _suggested_texts(texts, known)
    given = {kind: column for kind, column in as_written(mapping).items() if column in values}
    return given | found if found else {}


def as_written(mapping: ColumnMapping) -> dict[str, str]:
    """Returns kind -> column as `--columns` has it."""
    shown = {kind: name for name, kind in OTHER_KINDS.items()}
    return {shown.get(kind, kind): column for kind, column in mapping.columns.items()}


def columns_setting(columns: Mapping[str, str]) -> str:
    """Returns kind -> column as what is given to `--columns`."""
    return system.quoted(",".join(f"{kind}={column}" for kind, column in columns.items()))


def nameable(column: str) -> bool:
    """Returns whether `--columns` can name a column: a comma would end its name, and spaces are left off."""
    return bool(column) and "," not in column and column == column.strip()


def _suggested_turns(
    texts: list[str], values: Mapping[str, object], known: Mapping[str, str]
) -> dict[str, str]:
    for kind, key in (("messages", "role"), ("conversations", "from")) if "question" not in known else ():
        for name in texts:
            turns = values[name]
            if (
                isinstance(turns, list)
                and turns
                and all(isinstance(turn, dict) and key in turn for turn in turns)
            ):
                return {kind: name}
    return {}


def _suggested_texts(texts: list[str], known: Mapping[str, str]) -> dict[str, str]:
    """Returns the columns of a question, an answer or a caption among those that are free."""
    if "question" in known and "answer" in known:
        return {}
    answer = known.get("answer") or _hinted("answer", texts)
    question = known.get("question") or _hinted("question", [n for n in texts if n != answer])
    if question and not answer:
        answer = _alone([name for name in texts if name != question])
    if question and answer:
        pair = {"question": question, "answer": answer}
        return {kind: column for kind, column in pair.items() if kind not in known}
    if question or "text" in known:
        return {}
    caption = _hinted("caption", texts) or answer or _alone(texts)
    return {"caption": caption} if caption else {}


def _hinted(kind: str, columns: Iterable[str]) -> str | None:
    """Returns the text whose name says this kind the plainest."""
    return next((n for hint in HINTS[kind].split() for n in columns if hint in f"_{plain(n)}_"), None)


def _alone(columns: list[str]) -> str | None:
    return columns[0] if len(columns) == 1 else None


def _is_picture(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_is_picture, value))
    if isinstance(value, dict):
        return value.keys() == {"bytes", "path"}
    return isinstance(value, str) and bool(A_PICTURE.fullmatch(value))


def _is_url(value: object) -> bool:
    """Returns whether a picture would have to be fetched."""
    if isinstance(value, list):
        return any(map(_is_url, value))
    if isinstance(value, dict):
        return not value["bytes"] and _is_url(value["path"])
    return isinstance(value, str) and bool(URL.match(value))

"""Columns that no name explains, by what stands in them: pictures, questions, answers. No torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.config.columns import SYNONYMS, ColumnMapping, plain
from training.data.readers.beside import PICTURES
from training.data.safe_paths import DatasetFolder
from vlm.errors import UserError

TOLD_BY = ("answer", "text", "messages", "conversations")
"""The kinds of columns of which a row needs one: what the model is to say."""
LIKELY = 0.5
"""The share of a column's cells that must be what it is taken for."""
HINTS = {
    "question": (*SYNONYMS["question"], "ask", "asked", "q", "hỏi", "input"),
    "answer": (*SYNONYMS["answer"], "reply", "label", "target", "a", "đáp", "nhãn", "say", "gt"),
}
"""What a column of texts may be called in part."""


def is_named(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether a column is called as one that says what the model should: then no name is wrong."""
    return any(ColumnMapping().candidates(kind, row) for row in rows for kind in TOLD_BY)


def guessed(rows: Sequence[dict[str, Any]], root: Path) -> str:
    """`--columns` for these rows: `image=photo,question=ask,answer=reply`; "" where nothing can be told.

    A column of pictures has cells that are files of the dataset. Of two columns of texts the one that is
    called so, or ends in question marks, is the question, and the longest of the others the answer.
    """
    texts = {
        name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)
    }
    folder = DatasetFolder(root)
    pictures = [
        name for name, cells in texts.items() if _share(cells, lambda cell: _is_picture(folder, cell))
    ]
    taken = {"image": pictures[0]} if pictures else {}
    told = [name for name, cells in texts.items() if name not in pictures and _share(cells, _is_text)]
    question = _named(told, "question") or next(
        (name for name in told if _share(texts[name], lambda cell: cell.rstrip().endswith(("?", "？")))), None
    )
    others = [name for name in told if name != question]
    answer = _named(others, "answer") or max(others, key=lambda name: _length(texts[name]), default=None)
    if question and answer:
        taken |= {"question": question, "answer": answer}
    elif pictures and answer:
        taken |= {"caption": answer}
    usable = all("," not in name and "=" not in name for name in taken.values())
    return ",".join(f"{kind}={name}" for kind, name in taken.items()) if usable and len(taken) > 1 else ""


def _share(cells: Sequence[Any], holds: Any) -> bool:
    """Whether it holds of most cells that are not empty."""
    filled = [cell for cell in cells if cell not in (None, "")]
    return bool(filled) and sum(
        bool(isinstance(cell, str) and holds(cell)) for cell in filled
    ) > LIKELY * len(filled)


def _is_picture(folder: DatasetFolder, cell: str) -> bool:
    if not cell.lower().endswith(tuple(PICTURES)):
        return False
    try:
        folder.file(cell)
    except UserError:
        return False
    return True


def _is_text(cell: str) -> bool:
    """Words, and nothing that is to be taken apart before it can be learned."""
    return bool(cell.strip()) and not cell.lstrip().startswith(("{", "["))


def _named(columns: Sequence[str], kind: str) -> str | None:
    exact = (name for name in columns if plain(name) in HINTS[kind])
    # `model_answer` is an answer, `answer_type` is none.
    ends_so = (name for name in columns if plain(name).rpartition("_")[2] in HINTS[kind])
    return next(exact, next(ends_so, None))


def _length(cells: Sequence[Any]) -> float:
    return sum(len(cell) for cell in cells if isinstance(cell, str)) / max(1, len(cells))

"""A dataset of the Hub: its rows, streamed and written out once, images as files. No torch."""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from training.data.readers import tables
from training.data.safe_paths import quoted
from training.data.splits import choose_parts, parse_part
from vlm.errors import UserError

NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?::(?P<subset>[\w.-]+))?")
"""`org/name`, or `org/name:subset`."""


def fetch(source: str, extracted: Path, split: str, held_out: str | None, progress: tables.Progress) -> Path:
    """A folder below `extracted` with the rows of one dataset: the split to train on and the one held out.

    Raises `UserError` where it can't be had.
    """
    train, count = parse_part(split)
    name = re.sub(r"[^\w.-]+", "--", f"{source}-{split}{(held_out and f'-{held_out}') or ''}")
    wanted = f"{source} {split} {held_out or ''}"
    values = read(source, train, count, held_out)
    return tables.write_out(values, extracted / name, wanted, progress=progress)


def read(source: str, train: str, count: int | None, held_out: str | None) -> Iterator[dict[str, Any]]:
    """The rows, streamed; images stay bytes. `count` is the most of each split."""
    import datasets

    match = NAME.fullmatch(source)
    try:
        found = datasets.load_dataset(match["repo"], name=match["subset"], streaming=True)
        chosen, kept = choose_parts(list(found), train, held_out)
        for part in (chosen, kept):
            if part is not None:
                rows = islice(found[part].decode(False), count)
                yield from tables.in_split((_with_bytes(row, match["repo"]) for row in rows), part)
    except UserError:
        raise
    except Exception as error:  # the Hub, the network and the dataset's own files fail in many ways
        raise _refusal(source, error) from error


def _refusal(source: str, error: Exception) -> UserError:
    said = str(error).strip()
    if "Config name is missing" in said or "BuilderConfig" in said:
        subsets = re.search(r"\[(.*?)\]", said)
        listed = subsets[1][:300] if subsets else "see its page"
        return UserError(
            f"The dataset {quoted(source)} has several subsets: {listed}",
            "Name one of them: --dataset org/name:subset.",
        )
    if isinstance(error, FileNotFoundError | ConnectionError):
        return UserError(
            f"There is no dataset {quoted(source)} here, and the Hub has none or can't be reached",
            "Check name and connection; for a private or gated one log in with `hf auth login`.",
        )
    reason = (said.splitlines() or [type(error).__name__])[0]
    return UserError(
        f"The dataset {quoted(source)} can't be read from the Hub: {reason[:300]}",
        "Look at it on the Hub, or download it and give the folder.",
    )


def _with_bytes(row: dict[str, Any], repo: str) -> dict[str, Any]:
    """The row with the content of images that are files of the repository itself; nothing else is fetched."""
    from datasets.utils.file_utils import xopen

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(item) for item in value]
        if not isinstance(value, dict) or value.keys() != {"bytes", "path"} or value["bytes"]:
            return value
        if not re.match(rf"(\w+://[^:]*::)?hf://datasets/{re.escape(repo)}[@/]", value["path"] or ""):
            return value
        with xopen(value["path"], "rb") as file:
            return {"bytes": file.read(), "path": value["path"]}

    return {column: filled(value) for column, value in row.items()}

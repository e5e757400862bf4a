"""Tables: Parquet and Arrow files, and datasets of the Hub, as rows. No torch.

They are read through `datasets` and pyarrow, in batches, and no image in them is decoded. Images that stand
in the table as bytes are written out once, below the workspace, each under the hash of its content: from then
on they are ordinary files of an ordinary dataset.
"""

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from training.data.findings import Finding
from training.data.lines import Row
from training.data.paths import open_regular, quoted
from vlm.errors import UserError

BATCH_ROWS = 256
ROWS_FILE = "rows.jsonl"
SOURCE_FILE = ".read-from"
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
MAGIC = (
    (b"\x89PNG", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"GIF8", ".gif"),
    (b"RIFF", ".webp"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
)

Progress = Callable[[int, int], None]


def is_saved_to_disk(folder: Path) -> bool:
    """Whether `Dataset.save_to_disk` made this folder."""
    return (folder / "state.json").is_file() and any(folder.glob("*.arrow"))


def read_parquet(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, one at a time. Raises `UserError` where it is none."""
    import pyarrow
    import pyarrow.parquet

    with open_regular(path, name) as file:
        try:
            for batch in pyarrow.parquet.ParquetFile(file).iter_batches(BATCH_ROWS):
                yield from batch.to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(
                f"{quoted(name)} is not a whole Parquet file", "Download or write it again"
            ) from error


def read_saved(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of a folder that `Dataset.save_to_disk` made."""
    import pyarrow

    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    for entry in state.get("_data_files", []):
        name = Path(str(entry.get("filename"))).name
        with open_regular(folder / name, name) as file:
            try:
                for batch in pyarrow.ipc.open_stream(file):
                    yield from batch.to_pylist()
            except (pyarrow.ArrowException, OSError) as error:
                raise UserError(
                    f"{quoted(name)} is not a whole Arrow file", "Save the dataset again"
                ) from error


def read_hub(name: str, split: str) -> Iterator[dict[str, Any]]:
    """The rows of a dataset on the Hub, streamed; images stay bytes. `UserError` where it can't be had."""
    import datasets

    try:
        yield from _undecoded(datasets.load_dataset(name, split=split, streaming=True))
    except UserError:
        raise
    except Exception as error:  # the Hub, the network and the dataset's own files fail in many ways
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"The dataset {quoted(name)} can't be read from the Hub: {reason}",
            "Check its name and split; for a private one log in with `hf auth login`.",
        ) from error


def _undecoded(found: Any) -> Any:
    import datasets

    for column, feature in (found.features or {}).items():
        if isinstance(feature, datasets.Image):
            found = found.cast_column(column, datasets.Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            found = found.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return found


def rows_of(values: Iterable[dict[str, Any]], name: str) -> Iterator[Row | Finding]:
    """Values as rows that findings can name: "train.parquet row 8"."""
    for number, row in enumerate(values, start=1):
        yield Row(name, number, row, "row")


def has_bytes(value: Any) -> bool:
    """Whether an image in this value stands there as bytes, as `datasets` writes them."""
    if isinstance(value, list):
        return any(map(has_bytes, value))
    return isinstance(value, bytes) or (isinstance(value, dict) and isinstance(value.get("bytes"), bytes))


def write_out(
    values: Iterable[dict[str, Any]], folder: Path, source: str, progress: Progress | None = None
) -> Path:
    """The rows as a folder of ordinary files, `rows.jsonl` and `images/`; made once, whole or not at all.

    `source` says what it was made from: a folder that was made from the same is used again. `progress(done,
    total)` counts rows; the total is not known (0).
    """
    if (folder / SOURCE_FILE).is_file() and (folder / SOURCE_FILE).read_text(encoding="utf-8") == source:
        return folder
    unfinished = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    try:
        (unfinished / "images").mkdir(parents=True)
        with (unfinished / ROWS_FILE).open("w", encoding="utf-8") as file:
            for number, row in enumerate(values, start=1):
                written = {column: _written(value, unfinished) for column, value in row.items()}
                file.write(json.dumps(written, ensure_ascii=False, default=str) + "\n")
                if progress is not None and number % BATCH_ROWS == 0:
                    progress(number, 0)
        (unfinished / SOURCE_FILE).write_text(source, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _written(value: Any, folder: Path) -> Any:
    """The value with images in it saved as files and named by their paths."""
    if isinstance(value, list):
        return [_written(item, folder) for item in value]
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        return _saved(value["bytes"], folder) if value["bytes"] else value["path"]
    return _saved(value, folder) if isinstance(value, bytes) else value


def _saved(data: bytes, folder: Path) -> str:
    ending = next((ending for magic, ending in MAGIC if data.startswith(magic)), ".bin")
    name = f"images/{hashlib.sha256(data).hexdigest()[:32]}{ending}"
    if not (folder / name).exists():
        (folder / name).write_bytes(data)
    return name

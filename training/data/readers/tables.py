"""Tables: Parquet and Arrow files as rows; rows with images in them written out as files. No torch.

Tables are read in small batches, and no image in them is decoded. Images that stand in a table as bytes are
written out once, below the workspace, each under the hash of its content: from then on they are ordinary
files of an ordinary dataset.
"""

import errno
import hashlib
import json
import mmap
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from training.data.findings import Finding
from training.data.readers.lines import Row
from training.data.safe_paths import DatasetFolder, open_regular, quoted
from vlm.errors import UserError

BATCH_ROWS = 256
BATCH_ROWS_WITH_IMAGES = 8
"""Images of a whole batch are in memory at once."""
READ_BUFFER = 1 << 20
ROWS_FILE = "rows.jsonl"
SOURCE_FILE = ".read-from"
LEFT_FREE_BYTES = 1 << 30
"""Writing a table out ends while so much of the disk is free: runs need some of it too."""
SPLIT = "split"
MAGIC = (
    (b"\x89PNG", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"GIF8", ".gif"),
    (b"RIFF", ".webp"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
)

Progress = Callable[[str, int, int], None]
Values = dict[str, Any]


def is_saved_to_disk(folder: Path) -> bool:
    """Whether `Dataset.save_to_disk` made this folder."""
    return (folder / "state.json").is_file() and any(folder.glob("*.arrow"))


def splits_saved(folder: Path) -> list[str]:
    """The splits in a folder that `DatasetDict.save_to_disk` made; none where it didn't."""
    listed = folder / "dataset_dict.json"
    if not listed.is_file():
        return []
    try:
        names = json.loads(listed.read_text(encoding="utf-8"))["splits"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{quoted(listed.name)} can't be read", "Save the dataset again") from error
    return [name for name in map(str, names) if "/" not in name and is_saved_to_disk(folder / name)]


def read_parquet(path: Path, name: str) -> Iterator[Values]:
    """The rows of a Parquet file, one at a time. Raises `UserError` where it is none."""
    import pyarrow
    import pyarrow.parquet

    with open_regular(path, name) as file:
        try:
            table = pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=READ_BUFFER)
            rows = BATCH_ROWS_WITH_IMAGES if _holds_bytes(table.schema_arrow) else BATCH_ROWS
            for batch in table.iter_batches(rows, use_threads=False):
                batch.validate(full=True)
                yield from batch.to_pylist()
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise _broken(name, "Parquet", error) from error


def parquet_holds_bytes(path: Path, name: str) -> bool:
    """Whether a column of a Parquet file holds bytes, as images are. Raises `UserError` if it is none."""
    import pyarrow
    import pyarrow.parquet

    with open_regular(path, name) as file:
        try:
            return _holds_bytes(pyarrow.parquet.read_schema(file))
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise _broken(name, "Parquet", error) from error


def _holds_bytes(schema: Any) -> bool:
    import pyarrow.types as types

    def holds(kind: Any) -> bool:
        if types.is_list(kind) or types.is_large_list(kind):
            return holds(kind.value_type)
        if types.is_struct(kind):
            return any(holds(kind.field(index).type) for index in range(kind.num_fields))
        return types.is_binary(kind) or types.is_large_binary(kind)

    return any(holds(field.type) for field in schema)


def _broken(name: str, what: str, error: Exception) -> UserError:
    if isinstance(error, OSError) and error.errno:
        return UserError(f"{quoted(name)} can't be read: {error.strerror}", "Check the disk")
    return UserError(f"{quoted(name)} is not a whole {what} file", "Download or write it again")


def read_arrow(path: Path, name: str) -> Iterator[Values]:
    """The rows of an Arrow file, a stream or one with a footer; it is mapped, not read into memory."""
    import pyarrow

    with open_regular(path, name) as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                for batch in _batches(pyarrow, mapped):
                    batch.validate(full=True)  # a damaged file's offsets would lead anywhere in memory
                    for start in range(0, batch.num_rows, BATCH_ROWS_WITH_IMAGES):
                        yield from batch.slice(start, BATCH_ROWS_WITH_IMAGES).to_pylist()
                    del batch  # a batch keeps the map open
        except (pyarrow.ArrowException, OSError, ValueError, BufferError) as error:
            raise _broken(name, "Arrow", error) from error


def _batches(pyarrow: Any, mapped: mmap.mmap) -> Iterator[Any]:
    buffer = pyarrow.py_buffer(mapped)
    if mapped[:6] == b"ARROW1":
        reader = pyarrow.ipc.open_file(buffer)
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        yield from pyarrow.ipc.open_stream(buffer)


def read_saved(folder: Path) -> Iterator[Values]:
    """The rows of a folder that `Dataset.save_to_disk` made."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        names = [Path(str(entry["filename"])).name for entry in state["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"state.json in {quoted(folder.name)} can't be read", "Save it again") from error
    for name in names:
        yield from read_arrow(folder / name, name)


def rows_of(values: Iterable[Values], name: str, split: str = "") -> Iterator[Row | Finding]:
    """Values as rows that findings can name: "train.parquet row 8"."""
    for number, row in enumerate(values, start=1):
        yield Row(name, number, row, "row", split)


def in_split(values: Iterable[Values], split: str) -> Iterator[Values]:
    """The rows with the split they are of in a column."""
    yield from (row | {SPLIT: split} for row in values)


def write_out(
    values: Iterable[Values],
    folder: Path,
    source: str,
    *,
    beside: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Path:
    """The rows as a folder of ordinary files, `rows.jsonl` and `images/`; made once, whole or not at all.

    `source` says what it was made from: a folder that was made from the same is used again. An image that
    stands there as a path alone is copied from the folder `beside` the table. `progress` counts rows; how
    many there are is not known. Raises `UserError` where they can't be read or written.
    """
    if (folder / SOURCE_FILE).is_file() and (folder / SOURCE_FILE).read_text(encoding="utf-8") == source:
        return folder
    unfinished = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    near = None if beside is None else DatasetFolder(beside)
    try:
        (unfinished / "images").mkdir(parents=True)
        with (unfinished / ROWS_FILE).open("w", encoding="utf-8") as file:
            for number, row in enumerate(values, start=1):
                written = {column: _written(value, unfinished, near) for column, value in row.items()}
                file.write(json.dumps(written, ensure_ascii=False, default=str) + "\n")
                if number % BATCH_ROWS == 0:
                    progress("rows written out", number, 0)
                    _require_room(unfinished)
        (unfinished / SOURCE_FILE).write_text(source, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)
    except OSError as error:
        room = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "Free some space, or choose another workspace" if room else "Check the workspace"
        raise UserError(f"{quoted(folder.name)} can't be written: {error.strerror}", remedy) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _require_room(folder: Path) -> None:
    if shutil.disk_usage(folder).free < LEFT_FREE_BYTES:
        raise UserError(
            "the disk is nearly full, and the dataset is not written out yet",
            "Free some space, or take a part of it: --dataset_split train[:10000]",
        )


def _written(value: Any, folder: Path, near: DatasetFolder | None) -> Any:
    """The value with images in it saved as files and named by their paths."""
    if isinstance(value, list):
        return [_written(item, folder, near) for item in value]
    if isinstance(value, bytes):
        return _saved(value, folder)
    if not isinstance(value, dict) or not {"bytes", "path"} >= value.keys() or not value:
        return value
    if value.get("bytes"):
        return _saved(value["bytes"], folder)
    path = value.get("path")
    if near is None or path is None:
        return path
    try:
        file = near.file(path)
    except UserError:
        return path  # told with its row, where it is looked for again
    return _saved(file.read_bytes(), folder)


def _saved(data: bytes, folder: Path) -> str:
    ending = next((ending for magic, ending in MAGIC if data.startswith(magic)), ".bin")
    name = f"images/{hashlib.sha256(data).hexdigest()[:32]}{ending}"
    if not (folder / name).exists():
        (folder / name).write_bytes(data)
    return name

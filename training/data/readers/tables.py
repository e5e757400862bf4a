"""Tables: Parquet and Arrow files, and datasets of the Hub, as rows; their images as files. No torch.

Tables are read in small batches, and no image in them is decoded. Images that stand in a table as bytes are
written out once, below the workspace, each under the hash of its content: from then on they are ordinary
files of an ordinary dataset.
"""

import errno
import hashlib
import json
import mmap
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from training.data.row import Progress, Row, say_nothing
from training.data.safe_paths import DatasetFolder, open_regular, quoted
from training.data.splits import choose_parts, parse_part
from vlm.errors import UserError
from vlm.machine import system

BATCH_ROWS = 256
# Images of a whole batch are in memory at once.
BATCH_ROWS_WITH_IMAGES = 8
READ_BUFFER = 1 << 20
ROWS_FILE = "rows.jsonl"
SOURCE_FILE = ".read-from"
# Writing a table out ends while so much of the disk is free: runs need some of it too.
LEFT_FREE_BYTES = 1 << 30
SPLIT = "split"
HUB_RETRIES = 2
# How image files begin. The ending is for people alone: images are recognised by content.
MAGIC = (
    (b"\x89PNG", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"GIF8", ".gif"),
    (b"RIFF", ".webp"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
)
# What a Hub dataset may be read through: the Hub, files of this machine's cache, and archives in either.
NEAR = {"hf", "file", "local", "memory", "zip", "tar", "gzip", "bz2", "lz4", "xz", "zstd"}
# `org/name`, or `org/name:subset`.
HUB_NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?::(?P<subset>[\w.-]+))?")


def read_parquet(path: Path, name: str) -> Iterator[Row]:
    """Yields the rows of a Parquet file, one at a time. Raises `UserError` where it is none."""
    # pyarrow is imported where a table is read: most datasets have none, and it takes a while.
    import pyarrow
    import pyarrow.parquet

    with open_regular(path, name) as file:
        try:
            # Without pre_buffer and threads, which read whole column chunks ahead: of images, gigabytes.
            table = pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=READ_BUFFER)
            rows = BATCH_ROWS_WITH_IMAGES if _holds_bytes(table.schema_arrow) else BATCH_ROWS
            number = 0
            for batch in table.iter_batches(rows, use_threads=False):
                batch.validate(full=True)
                for values in batch.to_pylist():
                    number += 1
                    yield Row(name, number, values)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise _broken(name, "Parquet", error) from error


def parquet_holds_bytes(path: Path, name: str) -> bool:
    """Returns whether a column of a Parquet file holds bytes, as images are. `UserError` if it is none."""
    import pyarrow
    import pyarrow.parquet

    with open_regular(path, name) as file:
        try:
            return _holds_bytes(pyarrow.parquet.read_schema(file))
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise _broken(name, "Parquet", error) from error


def _holds_bytes(kind: Any) -> bool:
    """Returns whether a pyarrow schema or type holds bytes, at any depth of lists and structs."""
    import pyarrow

    if isinstance(kind, pyarrow.Schema):
        return any(_holds_bytes(field.type) for field in kind)
    if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
        return True
    return any(_holds_bytes(kind.field(index).type) for index in range(kind.num_fields))


def _broken(name: str, what: str, error: Exception) -> UserError:
    if isinstance(error, OSError) and error.errno:
        return UserError(
            "{file} can't be read: {reason}",
            "Check the disk",
            "table-not-read",
            file=quoted(name),
            reason=error.strerror,
        )
    return UserError(
        "{file} is not a whole {format} file",
        "Download or write it again",
        "table-not-whole",
        file=quoted(name),
        format=what,
    )


def read_arrow(path: Path, name: str) -> Iterator[Row]:
    """Yields the rows of an Arrow file, a stream or one with a footer; it is mapped, not read into memory."""
    import pyarrow

    with open_regular(path, name) as file:
        try:
            # Closed by no one: batches point into the map, and it goes with the last of them.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if mapped[:6] == b"ARROW1":
                footed = pyarrow.ipc.open_file(pyarrow.py_buffer(mapped))
                batches = (footed.get_batch(number) for number in range(footed.num_record_batches))
            else:
                batches = pyarrow.ipc.open_stream(pyarrow.py_buffer(mapped))
            number = 0
            for batch in batches:
                # A damaged file's offsets would lead anywhere in memory, and end the process.
                batch.validate(full=True)
                for start in range(0, batch.num_rows, BATCH_ROWS_WITH_IMAGES):
                    for values in batch.slice(start, BATCH_ROWS_WITH_IMAGES).to_pylist():
                        number += 1
                        yield Row(name, number, values)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise _broken(name, "Arrow", error) from error


def saved_parts(folder: Path) -> dict[str, Path]:
    """Returns the folders that `save_to_disk` made, by split: "" where the dataset has none. Often nothing.

    Raises:
        UserError: The list of splits can't be read.
    """
    listed = folder / "dataset_dict.json"
    if not listed.is_file():
        return {"": folder} if _is_saved_dataset(folder) else {}
    try:
        names = json.loads(listed.read_text(encoding="utf-8"))["splits"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            "{file} can't be read",
            "Save the dataset again",
            "saved-splits-not-read",
            file=quoted(listed.name),
        ) from error
    # The names come from the file: none may lead out of the folder.
    splits = [name for name in map(str, names) if "/" not in name and _is_saved_dataset(folder / name)]
    return {split: folder / split for split in splits}


def _is_saved_dataset(folder: Path) -> bool:
    return (folder / "state.json").is_file() and any(folder.glob("*.arrow"))


def read_saved(folder: Path) -> Iterator[Row]:
    """Yields the rows of a folder that `Dataset.save_to_disk` made, in the order that its state lists."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        names = [Path(str(entry["filename"])).name for entry in state["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            "state.json in {folder} can't be read",
            "Save it again",
            "saved-state-not-read",
            folder=quoted(folder.name),
        ) from error
    for name in names:
        yield from read_arrow(folder / name, name)


def write_out(
    rows: Iterable[Row],
    folder: Path,
    source: str,
    *,
    beside: Path | None = None,
    offered: Mapping[str, list[str]] | None = None,
    progress: Progress = say_nothing,
) -> Path:
    """Writes rows as a folder of ordinary files, `rows.jsonl` and `images/`: whole or not at all.

    `source` identifies what they are made from: a folder that was made from the same is used again, and the
    rows are not read. A row's split becomes its column. An image that stands there as a path alone is copied
    from the folder `beside` the table. `offered` is kept with it: what else settings may say, known once all
    rows are read. `progress` counts rows; how many there are is not known.

    Raises:
        UserError: The rows can't be read or written.
    """
    made = folder / SOURCE_FILE
    if made.is_file() and made.read_text(encoding="utf-8").partition("\n")[0] == source:
        return folder
    unfinished = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    near = None if beside is None else DatasetFolder(beside)
    try:
        (unfinished / "images").mkdir(parents=True)
        with (unfinished / ROWS_FILE).open("w", encoding="utf-8", newline="\n") as file:
            for number, row in enumerate(rows, start=1):
                values = row.values | ({SPLIT: row.split} if row.split else {})
                written = {column: _written(value, unfinished, near) for column, value in values.items()}
                # default=str: a table may hold dates and decimals, which JSON has no word for.
                file.write(json.dumps(written, ensure_ascii=False, default=str) + "\n")
                if number % BATCH_ROWS == 0:
                    progress("rows written out", number, 0)
                    if shutil.disk_usage(unfinished).free < LEFT_FREE_BYTES:
                        raise UserError(
                            "the disk is nearly full, and the dataset is not written out yet",
                            "Free some space, or take a part of it: --dataset_split train[:10000]",
                            "disk-nearly-full",
                        )
        # The mark comes last, and the rename after it: a folder that has it is whole.
        kept = f"{source}\n{json.dumps(offered)}" if offered else source
        (unfinished / SOURCE_FILE).write_text(kept, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        system.rename(unfinished, folder)
    except OSError as error:
        raise _not_written(folder.name, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _not_written(name: str, error: OSError) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            "{folder} can't be written: {reason}",
            "Free some space, or choose another workspace",
            "table-no-room",
            folder=quoted(name),
            reason=error.strerror,
        )
    return UserError(
        "{folder} can't be written: {reason}",
        "Check the workspace",
        "table-not-written",
        folder=quoted(name),
        reason=error.strerror,
    )


def _written(value: Any, folder: Path, near: DatasetFolder | None) -> Any:
    """Returns the value with the images in it saved as files and named by their paths."""
    if isinstance(value, list):
        return [_written(item, folder, near) for item in value]
    data = value
    # `datasets` writes an image as an object of bytes and path, either of which may be empty.
    if isinstance(value, dict) and value and value.keys() <= {"bytes", "path"}:
        data, value = value.get("bytes") or None, value.get("path")
        if data is None and near is not None and value is not None:
            with suppress(UserError):  # reported with its row, where the image is looked for again
                data = near.file(value).read_bytes()
        if data is None:
            return value
    if not isinstance(data, bytes):
        return data
    ending = next((ending for magic, ending in MAGIC if data.startswith(magic)), ".bin")
    # Named by content: the same image in many rows is one file. 128 bits of the hash tell any two apart.
    name = f"images/{hashlib.sha256(data).hexdigest()[:32]}{ending}"
    if not (folder / name).exists():
        (folder / name).write_bytes(data)
    return name


def read_hub(source: str, split: str, held_out: str | None, offered: dict[str, list[str]]) -> Iterator[Row]:
    """Streams a Hub dataset's rows, of the split to train on and of the one held out; images stay bytes.

    `offered` gets its splits and subsets by the settings that name them.

    Raises:
        UserError: The dataset can't be had, or has no such split.
    """
    import datasets

    _refuse_other_hosts()
    # The Hub's client asks again by itself: twenty times more would be ten minutes without a word.
    datasets.config.STREAMING_READ_MAX_RETRIES = HUB_RETRIES
    train, count = parse_part(split)
    repo, subset = HUB_NAME.fullmatch(source).group("repo", "subset")
    try:
        found = datasets.load_dataset(repo, name=subset, streaming=True)
        offered["dataset_split"] = [*found]
        if len(subsets := datasets.get_dataset_config_names(repo)) > 1:
            offered["dataset"] = [f"{repo}:{each}" for each in subsets]
        chosen, kept = choose_parts(list(found), train, held_out)
        for part in filter(None, (chosen, kept)):
            # decode(False): Pillow would open each image, and what is written out would be another file.
            for number, row in enumerate(islice(found[part].decode(False), count), start=1):
                values = {column: _with_bytes(value, repo) for column, value in row.items()}
                yield Row(source, number, values, part)
    except UserError:
        raise
    except Exception as error:  # the Hub, the network and the dataset's own files fail in many ways
        raise _hub_error(source, error) from error


def _refuse_other_hosts() -> None:
    """Has fsspec open nothing but `NEAR`: a dataset's card may name any address as its files."""
    import fsspec

    class Elsewhere(fsspec.AbstractFileSystem):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise UserError(
                "The dataset names files at an address outside the Hub, which is not fetched",
                "Download them, and give the folder.",
                "hub-dataset-elsewhere",
            )

    for protocol in {*fsspec.available_protocols()} - NEAR:
        fsspec.register_implementation(protocol, Elsewhere, clobber=True)


def _hub_error(source: str, error: Exception) -> UserError:
    said = str(error).strip()
    # A ValueError that `datasets` has no type of its own for.
    if "Config name is missing" in said or "BuilderConfig" in said:
        listed = re.search(r"\[(.*?)\]", said)
        if subsets := re.findall(r"[\w.-]+", listed[1] if listed else ""):
            return UserError(
                "The dataset {source} has several subsets: {subsets}",
                "Name one of them: --dataset org/name:subset.",
                "hub-subsets",
                change={"dataset": [f"{source.partition(':')[0]}:{subset}" for subset in subsets]},
                source=quoted(source),
                subsets=[quoted(subset) for subset in subsets],
            )
        return UserError(
            "The dataset {source} has several subsets: see its page",
            "Name one of them: --dataset org/name:subset.",
            "hub-subsets-unlisted",
            source=quoted(source),
        )
    reason = (said.splitlines() or [type(error).__name__])[0]
    if _is_of_network(error):
        return UserError(
            "The dataset {source} broke off while it was fetched from the Hub: {reason}",
            "Check the network, then start again.",
            "hub-dataset-broke-off",
            source=quoted(source),
            reason=reason[:300],
        )
    if isinstance(error, FileNotFoundError | ConnectionError):
        return UserError(
            "There is no dataset {source} here, and the Hub has none or can't be reached",
            "Check name and connection; for a private or gated one log in with `hf auth login`.",
            "hub-dataset-missing",
            source=quoted(source),
        )
    return UserError(
        "The dataset {source} can't be read from the Hub: {reason}",
        "Look at it on the Hub, or download it and give the folder.",
        "hub-dataset-not-read",
        source=quoted(source),
        reason=reason[:300],
    )


def _is_of_network(error: BaseException | None) -> bool:
    """Whether the Hub or the way to it failed, by the error or by one that led to it."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    while error is not None and not constants.is_offline_mode():
        if isinstance(error, HfHubHTTPError):
            return error.response.status_code >= 500
        if isinstance(error, HTTPError | TimeoutError | ConnectionError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _with_bytes(value: Any, repo: str) -> Any:
    """Returns the value with the content of images that are files of the repository itself.

    Nothing else is fetched: a row may name any address.
    """
    from datasets.utils.file_utils import xopen

    if isinstance(value, list):
        return [_with_bytes(item, repo) for item in value]
    if not isinstance(value, dict) or value.keys() != {"bytes", "path"} or value["bytes"]:
        return value
    if not re.match(rf"(\w+://[^:]*::)?hf://datasets/{re.escape(repo)}[@/]", value["path"] or ""):
        return value
    with xopen(value["path"], "rb") as file:
        return {"bytes": file.read(), "path": value["path"]}

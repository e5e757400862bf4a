"""The event log of a run: the schema of its lines, and how they are appended, read and followed. No torch.

The starter of a run appends `queued`; after that only the worker appends, so nothing here locks. A text log's
tail is read here too. What the events mean together is in `training.runs.status`.
"""

import io
import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from training.runs import lock
from training.runs.event_types import SCHEMAS, TYPES
from vlm.errors import Phrase, UserError, values_from_json, values_to_json
from vlm.filesystem import is_full

Event = dict[str, Any]

# What each kind of event carries besides `time` (UNIX seconds) and `kind`, and what it may carry too.
FIELDS = {kind: fields.__required_keys__ - {"time", "kind"} for kind, fields in TYPES.items()}
OPTIONAL = {kind: fields.__optional_keys__ for kind, fields in TYPES.items()}
KIND = re.compile(rb'"kind": ?"(\w+)"')

# The kinds that give a run its outcome.
FINAL = frozenset({"finished", "stopped", "failed"})


def error_fields(error: UserError) -> dict[str, Any]:
    """Returns what a `failed` event says of an error; a `warning` has neither `change` nor `image`."""
    fields = {"problem": str(error.problem), "remedy": error.remedy}
    if error.code:
        fields |= {"code": error.code, "values": values_to_json(error.values)}
    fields |= {"image": error.about_image} if error.about_image else {}
    return fields | ({"change": error.change} if error.change else {})


def error_of(event: Event) -> UserError:
    """Returns the error that an event was written of; one of an older run has its sentences alone."""
    values, change = event.get("values"), event.get("change")
    try:
        values = values_from_json(values or {})
    except (KeyError, TypeError, AttributeError):  # a newer version's
        values = {}
    problem = Phrase.filled(event["problem"], str(event.get("code") or ""), values)
    known = (change if isinstance(change, dict) else None, event.get("image"))
    return UserError.filled(problem, event["remedy"], *known)


def skipped_reasons(event: Event) -> list[str]:
    """Returns why rows were skipped, of a `data` event: phrases, or texts where an older run has no more."""
    try:
        return values_from_json({"issues": event.get("issues") or event["reasons"]})["issues"]
    except (KeyError, TypeError, AttributeError):  # a newer version's
        return event["reasons"]


# Room on the disk that a run keeps for its last word.
RESERVE, RESERVE_BYTES = "reserve", 64 * 1024
BLOCK = 64 * 1024
# A tail never reads more bytes than this, however long the lines are.
TAIL_LIMIT = 1024 * 1024
# A reader knows a log again by as many bytes as this, and has as many of a long one in memory at once.
KNOWN_BY, PIECE = 256, 1024 * 1024


class EventLog:
    """Appends events to one file. When `append` returns, the kernel has the line: a kill loses none.

    With `reserve` some room is kept, so that a full disk leaves space for the last word until `close`.
    `has_steps` is whether this attempt has come to them. The log knows since when nothing has gone on:
    `progressed` is told of every step, and an event is progress too.
    """

    def __init__(self, path: Path, *, reserve: bool = False) -> None:
        self.path, self._reserve = path, path.with_name(RESERVE)
        if reserve:
            with suppress(OSError):  # on a disk that is full already the first event fails
                self._reserve.write_bytes(bytes(RESERVE_BYTES))
        self._step, self._step_s, self._progress_at = 0, None, time.monotonic()
        self.has_steps = False

    def progressed(self, step: int, step_s: float) -> None:
        """Takes note of a step that is done, and of the median of those before it, in seconds."""
        self._step, self._step_s, self._progress_at = step, step_s, time.monotonic()

    def close(self) -> None:
        """Gives back the room that was kept."""
        self._reserve.unlink(missing_ok=True)

    def beat(self) -> None:
        """Appends that the worker lives, which is no progress."""
        now = time.monotonic()
        known = {"idle_s": now - self._progress_at, "step_s": self._step_s, "at_s": now, "boot": lock.host()}
        self._write("heartbeat", step=self._step, **known)

    def append(self, kind: str, **fields: Any) -> Event:
        """Returns the event as written. NaN and infinity become null, which is all that JSON has for them.

        Raises:
            OSError: it can't be written; that the disk is full names the log.
            ValueError: an unknown kind, or other fields than the kind's: a mistake in the program.
        """
        self._progress_at = time.monotonic()
        self.has_steps |= kind == "phase" and fields["name"] == "training"
        return self._write(kind, **fields)

    def _write(self, kind: str, **fields: Any) -> Event:
        if kind not in FIELDS:
            raise ValueError(f"unknown kind of event: {kind}")
        if set(fields) - OPTIONAL.get(kind, frozenset()) != FIELDS[kind]:
            raise ValueError(f"{kind} carries {sorted(FIELDS[kind])}, got {sorted(fields)}")
        # By way of JSON, which writes NaN and infinities as words that only Python reads.
        plain = json.loads(json.dumps(fields), parse_constant=lambda _: None)
        event = {"time": time.time(), "kind": kind} | plain
        # backslashreplace turns a lone surrogate, which UTF-8 can't hold, into its own JSON escape.
        text = json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n"
        line = text.encode("utf-8", "backslashreplace")
        # No buffer of our own: what the kernel has, a kill of this process leaves.
        file = self.path.open("a+b", buffering=0)
        try:
            size = file.seek(0, os.SEEK_END)
            if size and file.seek(size - 1) >= 0 and file.read(1) != b"\n":
                line = b"\n" + line  # a killed writer left a torn line: it must not swallow this one
            while line:
                line = line[file.write(line) :]
        except OSError as error:
            error.filename = str(self.path)
            if kind not in FINAL or not is_full(error) or not self._reserve.exists():
                raise
            self._reserve.unlink()
            return self._write(kind, **fields)
        finally:
            file.close()
        return event


def _parse(line: bytes, kinds: Collection[str]) -> Event | None:
    """Returns the event on this line; None where it is torn, of another kind, or not what the schema says."""
    # The kind stands at the front, so that what is not asked for need not be parsed.
    found = KIND.search(line)
    kind = found[1].decode() if found else ""
    if kind not in kinds or kind not in SCHEMAS:
        return None
    try:
        if b"\\ud" in line:  # half of a surrogate pair, maybe, which no text of UTF-8 can hold
            line = json.dumps(json.loads(line), ensure_ascii=False).encode("utf-8", "replace")
        event = SCHEMAS[kind].validate_json(line, strict=True)
    except (ValueError, RecursionError):  # pydantic's error is a ValueError too
        return None
    return event if event["kind"] == kind else None


def read(path: Path, kinds: Collection[str] | None = None) -> list[Event]:
    """Returns the events of these kinds (None: all known kinds), as written; none without a file."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    wanted = FIELDS.keys() if kinds is None else kinds
    return [event for line in lines if (event := _parse(line, wanted)) is not None]


class EventLogReader:
    """Reads a log on from where it was: a long one is parsed once. One caller at a time, nothing here locks.

    `restarted` says of the last `new_events` that the log is no longer the one read before (deleted, cut,
    replaced): those events are all that the new one has, and what came of the old one is void.
    """

    def __init__(self, path: Path, kinds: Collection[str] | None = None) -> None:
        self.path, self.restarted = path, False
        self._kinds = FIELDS.keys() if kinds is None else kinds
        self._offset, self._last = 0, b""

    def new_events(self) -> list[Event]:
        """Returns the events since the last call; a line that is still being written waits for its end."""
        return [event for piece in self.in_pieces() for event in piece]

    def in_pieces(self) -> Iterator[list[Event]]:
        """Yields what `new_events` returns piece by piece; `restarted` is known with the first one."""
        try:
            file: BinaryIO = self.path.open("rb")
        except FileNotFoundError:
            file = io.BytesIO()
        with file:
            # Inode numbers are reused: what stands before the offset, with its time, tells logs apart.
            self.restarted = self._read(file, self._offset - len(self._last), len(self._last)) != self._last
            if self.restarted:
                self._offset, self._last = 0, b""
                yield []
            size = PIECE
            while written := self._read(file, self._offset, size):
                whole = written[: written.rfind(b"\n") + 1]
                self._offset += len(whole)
                self._last = (self._last + whole)[-KNOWN_BY:]
                lines = whole.split(b"\n")
                yield [event for line in lines if (event := _parse(line, self._kinds)) is not None]
                if len(written) < size:
                    return
                size = PIECE if whole else 2 * size  # a line that is longer than a piece

    def _read(self, file: BinaryIO, offset: int, size: int) -> bytes:
        file.seek(offset)
        return file.read(size)


def follow(path: Path, until: Callable[[], bool], poll_s: float = 0.2) -> Iterator[Event]:
    """Yields the events so far and those to come, until `until()` is true and all written before is given."""
    reader = EventLogReader(path)
    while True:
        last_look = until()  # before the file is read: what was written until then is given
        yield from reader.new_events()
        if last_look:
            return
        time.sleep(poll_s)


def tail(path: Path, lines: int) -> list[str]:
    """Returns the last lines of a text log, read from its end. Of a progress bar, its last state."""
    try:
        with path.open("rb") as file:
            position = file.seek(0, os.SEEK_END)
            end, oldest = b"", max(0, position - TAIL_LIMIT)
            while position > oldest and end.count(b"\n") <= lines:
                start = max(oldest, position - BLOCK)
                file.seek(start)
                end = file.read(position - start) + end
                position = start
    except FileNotFoundError:
        return []
    texts = end.decode("utf-8", "replace").rstrip("\n").split("\n")[-lines:] if lines > 0 and end else []
    return [text.rstrip("\r").rsplit("\r", 1)[-1] for text in texts]

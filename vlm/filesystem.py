"""Atomic writes of files and folders, free names, SHA-256 digests and change stamps. No torch.

A reader never meets half of what is written here: it is made beside its place under a hidden name and renamed
when it is complete, which is done at once within one file system (POSIX rename(2), Windows MoveFileEx).
"""

import errno
import hashlib
import re
import shutil
import unicodedata
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import BinaryIO, NamedTuple

from vlm.errors import UserError
from vlm.machine import system

# Characters, of up to four bytes each: with the 34 bytes that a draft's name adds they stay below the 255
# that file systems allow a name.
LONGEST_SLUG = 48
# No space on the device, quota exceeded, and a file as large as a process may make one.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FULL_ELSEWHERE = re.compile(
    rf"(os error|code:) ({'|'.join(map(str, sorted(FULL)))})\b|PytorchStreamWriter failed|unexpected pos"
    # torch again, of what has fitted into its stream's buffer.
    r"|iostream error"
)


@contextmanager
def new_file(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yields a draft to write to, which takes the place of `path` when the block ends well.

    With `durable` the content is on the disk before the name is, so that a power cut leaves the old file or
    the new one. Raises `OSError` where the folder is missing or can't be written.
    """
    # Random, since two processes may write the same file at once: the last rename wins, and both are whole.
    # Behind the suffix, so that no glob for `*.safetensors` or `*.json` meets a draft.
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        yield draft
        if durable:
            system.sync(draft)
        system.replace(draft, path)
    finally:
        system.unlink(draft)
    if durable:
        system.sync(path.parent)  # the rename itself is an entry of the folder


def typed_path(text: str | Path) -> Path:
    """Returns the path that somebody typed, with a leading `~` expanded.

    Raises:
        UserError: nothing can be called so: a name in it is too long, or there is no such user.
    """
    try:
        path = Path(text).expanduser()
        with suppress(PermissionError):  # told by whoever opens it
            path.exists()  # raises where the system takes no such name
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            "{path} can be no path: {reason}.",
            "Give another one.",
            "path-impossible",
            path=text,
            reason=reason,
        ) from error
    return path


def is_folder(text: str) -> bool:
    """Returns whether this is a folder; what can be no path is none."""
    try:
        return Path(text).is_dir()
    except OSError:
        return False


def write_atomic(path: Path, content: str | bytes, *, durable: bool = False) -> None:
    """Writes a file whole or not at all; text is UTF-8. Raises `OSError` as `new_file` does."""
    with new_file(path, durable=durable) as draft:
        draft.write_bytes(content if isinstance(content, bytes) else content.encode())


def is_full(error: BaseException | None) -> bool:
    """Returns whether an error says that a disk, a quota or a limit of size was at its end.

    Libraries say it in other words: safetensors in Rust's, torch's writer in its own.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if FULL_ELSEWHERE.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def free_bytes(folder: Path) -> int:
    """Returns how many bytes can be written to the disk of a folder, which need not be there yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def no_room(path: Path, needed: int | None = None) -> UserError:
    """Returns the error for a disk that has no room for a file or folder; `needed` is in bytes."""
    free = free_bytes(path) / 1e6
    if needed is None:
        return UserError(
            "There is no room left to write {path}: {free:,.1f} MB are free.",
            "Free some space, then resume.",
            "disk-full-now",
            path=path,
            free=free,
        )
    return UserError(
        "There is no room left to write {path}: it takes {needed:,.1f} MB, and {free:,.1f} MB are free.",
        "Free some space, then resume.",
        "disk-full",
        path=path,
        needed=needed / 1e6,
        free=free,
    )


@contextmanager
def room_for(path: Path, needed: int) -> Iterator[None]:
    """Writes a file or folder of about `needed` bytes while this is open; what fails is deleted again.

    Raises:
        UserError: there is no room: before anything is written where that can be known, else in the place of
            a library's own words.
    """
    if free_bytes(path) < needed:
        raise no_room(path, needed)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        full = no_room(path, needed)
        shutil.rmtree(path, ignore_errors=True)  # it may be what leaves no room for the log
        raise full from error


@contextmanager
def draft_folder(folder: Path, *, fixed: bool = False) -> Iterator[Path]:
    """Yields a new empty folder beside `folder`, on the same disk, and deletes what is left of it in the end.

    `fixed` names it `<folder>.draft`, for writers that hold a lock: what a killed one left is deleted by the
    next. Raises `OSError` where it can't be made.
    """
    draft = folder.with_name(f"{folder.name}.draft" if fixed else f".{folder.name}-{uuid.uuid4().hex}")
    if fixed:
        shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def new_folder(folder: Path, *, replace: bool = False, fixed: bool = False) -> Iterator[Path]:
    """Yields a `draft_folder` that becomes `folder` when the block ends well.

    Raises `OSError` (ENOTEMPTY or EEXIST) where `folder` has something in it, unless it is to be replaced.
    """
    with draft_folder(folder, fixed=fixed) as draft:
        yield draft
        if replace:
            replace_folder(draft, folder)
        else:
            system.rename(draft, folder)  # of several writers at once the first wins, the others are refused


def replace_folder(draft: Path, folder: Path) -> None:
    """Renames a complete draft to `folder`, and deletes an older one only after that."""
    # A folder can't be renamed over one that isn't empty. `.old` is what a reader may recover after a crash
    # between the two renames.
    old = folder.with_name(f"{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)  # left by a process that died here
        system.rename(folder, old)
    system.rename(draft, folder)
    shutil.rmtree(old, ignore_errors=True)


def place_folder(draft: Path, name: str, *, reserved: Collection[str] = (), home: Path | None = None) -> Path:
    """Renames a complete draft to the first free name of this kind, and returns the folder.

    It lies beside the draft then, or in `home`, which is on the same disk.
    """
    home = home or draft.parent
    while True:
        target = home / free_name(home, name, reserved=reserved)
        try:
            return system.rename(draft, target)
        except OSError:
            if not target.exists():  # else another process has just taken the name: try the next
                raise


def numbered_names(name: str, *, joint: str = "-", start: int = 1) -> Iterator[str]:
    """Yields pets, pets-2, pets-3, …; with another `joint`, as "-v", each name has a number."""
    return (name if number == 1 and joint == "-" else f"{name}{joint}{number}" for number in count(start))


def free_name(
    folder: Path, name: str, *, reserved: Collection[str] = (), joint: str = "-", start: int = 1
) -> str:
    """Returns the first of `numbered_names` that is neither in `folder` nor `reserved`; case is ignored."""
    # macOS and Windows take Pets and pets for one, and a workspace may move there.
    taken = {path.name.casefold() for path in folder.iterdir()} if folder.is_dir() else set()
    taken |= {other.casefold() for other in reserved}
    names = numbered_names(name, joint=joint, start=start)
    return next(found for found in names if found.casefold() not in taken)


def slug(text: str, default: str) -> str:
    """Returns a text as a folder's name of letters, digits, `-` and `_`; `default` where none is left."""
    # NFC: macOS hands out names with accents as characters of their own, which \w would not match.
    words = re.sub(r"[^\w-]+", "-", unicodedata.normalize("NFC", text)).strip("-_")[:LONGEST_SLUG]
    return words if words and not system.refuses_name(words) else default


def sha256_of(file: Path | BinaryIO) -> str:
    """Returns the SHA-256 of a file's content in hexadecimal. Raises `OSError` where it can't be read."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            return sha256_of(stream)
    return hashlib.file_digest(file, "sha256").hexdigest()


class FileStamp(NamedTuple):
    """What differs once a file has changed: size in bytes, inode, and times of change in nanoseconds."""

    size: int
    inode: int
    mtime_ns: int
    # Of content, owner or mode. Unlike mtime no program can set it back, as `cp -p` and `tar -x` do.
    ctime_ns: int


def file_stamp(path: Path, *, follow_links: bool = True) -> FileStamp | None:
    """Returns a file's stamp, or the link's own without `follow_links`; None where there is no such file."""
    try:
        status = path.stat(follow_symlinks=follow_links)
    except OSError:
        return None
    return FileStamp(status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)

"""Safe paths: an image reference -> a regular file inside the dataset's folder. No torch.

Every file of a dataset is opened through `open_regular`, and every path that a dataset names goes through
`DatasetFolder`. What a file contains is not looked at here.
"""

import errno
import hashlib
import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from vlm.errors import Phrase, UserError
from vlm.machine import system

# A message quotes no more characters of what a dataset says: a reference may be a megabyte of base64.
SHOWN_CHARACTERS = 80
# How the base64 of a PNG, JPEG, GIF, WebP begins; JPEG's would otherwise pass for an absolute path.
BASE64_IMAGE = re.compile(r"iVBORw0KGgo|/9j/|R0lGOD|UklGR")
LONGEST_REFERENCE = 1024
# Control characters, lone surrogates, line separators, and what turns the direction of writing.
UNSHOWABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
NO_FILES = {
    stat.S_IFDIR: Phrase("a folder", "a-folder"),
    stat.S_IFIFO: Phrase("a named pipe", "a-named-pipe"),
}
DEVICE = Phrase("a device or socket", "a-device-or-socket")
# What a value of a row is, in JSON's words.
A_NUMBER = Phrase("a number", "a-number")
JSON_KINDS = {
    type(None): Phrase("null", "a-null"),
    bool: Phrase("true or false", "a-boolean"),
    int: A_NUMBER,
    float: A_NUMBER,
    str: Phrase("text", "a-plain-text"),
    list: Phrase("a list", "a-list"),
    dict: Phrase("an object", "an-object"),
}
ANOTHER = Phrase("a value of another kind", "another-kind")  # tables have dates, and bytes


def quoted(text: str) -> str:
    """Returns `text` in quotes, short and on one line, for a message."""
    shown = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
    return "'" + UNSHOWABLE.sub("\N{REPLACEMENT CHARACTER}", shown) + "'"


def quoted_path(path: str) -> str:
    """Returns a path in quotes: of a long one its end, where the file's name is."""
    return quoted(path if len(path) <= SHOWN_CHARACTERS else "…" + path[1 - SHOWN_CHARACTERS :])


def kind_of(value: object) -> Phrase:
    """Returns what a value is, for a message."""
    return JSON_KINDS.get(type(value), ANOTHER)


def open_regular(path: Path, name: str) -> BinaryIO:
    """Opens a regular file for reading; messages call it `name`.

    Raises:
        UserError: It is missing, unreadable, or a folder, link, named pipe, device or socket.
    """
    try:
        # A caller that may follow links resolves them first.
        descriptor = system.open_unfollowed(path)
    except ValueError as error:  # a NUL or a lone surrogate: no file can be called so
        raise UserError(
            "{name} can't be a file's name",
            "Rename the file, and the reference to it",
            "file-name-impossible",
            name=quoted(name),
        ) from error
    except OSError as error:
        raise _cannot_open(name, error) from error
    # The descriptor is examined, not the path, which may be another file by now.
    if fault := _not_regular(name, os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise fault
    return os.fdopen(descriptor, "rb")


def digest_of(path: Path) -> bytes:
    """Returns the sha256 of a regular file's content. Raises `UserError` as `open_regular` does."""
    with open_regular(path, path.name) as file:
        return hashlib.file_digest(file, "sha256").digest()


def _not_regular(name: str, mode: int) -> UserError | None:
    if stat.S_ISREG(mode):
        return None
    return _no_file(name, NO_FILES.get(stat.S_IFMT(mode), DEVICE))


def _no_file(name: str, kind: Phrase) -> UserError:
    return UserError(
        "{name} is {kind}, not a file",
        "Put an ordinary file in its place",
        "not-an-ordinary-file",
        name=quoted(name),
        kind=kind,
    )


def _cannot_open(name: str, error: OSError) -> UserError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return UserError(
            "{name} does not exist",
            "Check the path, or put the file there",
            "file-missing",
            name=quoted(name),
        )
    if error.errno == errno.EISDIR:  # Windows opens none
        return _no_file(name, NO_FILES[stat.S_IFDIR])
    if error.errno == errno.ELOOP:
        return UserError(
            "{name} is a link", "Put the file itself in its place", "file-is-link", name=quoted(name)
        )
    if error.errno == errno.ENXIO:  # a socket can't be opened at all
        return _no_file(name, DEVICE)
    return UserError(
        "{name} can't be opened: {reason}",
        "Make the file readable for this user",
        "file-not-opened",
        name=quoted(name),
        reason=error.strerror,
    )


class DatasetFolder:
    """A dataset's folder: resolves references to the files in it, and suggests the nearest file."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        # An image of many rows is resolved once, and 100,000 missing files must not mean 100,000 listings.
        self._found: dict[tuple[str, str], Path] = {}
        self._listings: dict[Path, dict[str, str]] = {}
        self._by_name: dict[str, list[str]] | None = None

    def relpath(self, path: Path) -> str:
        """Returns `path`, which lies in the folder, as the dataset would name it: "images/1.png"."""
        return path.relative_to(self.root).as_posix()

    def file(self, reference: object, below: str = "") -> Path:
        """Returns the regular file that `reference` names from the subfolder `below` on, links resolved.

        Raises:
            UserError: The reference is no relative path, or names nothing, no regular file, or a file outside
                the folder.
        """
        if isinstance(reference, str) and (below, reference) in self._found:
            return self._found[below, reference]
        checked = checked_reference(reference)
        name = f"{below}/{checked}" if below else checked
        try:
            try:
                path = (self.root / name).resolve(strict=True)
            except (FileNotFoundError, NotADirectoryError):
                # The same letters, composed in another way: macOS writes others than rows do.
                near = self._nearest(name)
                if near is None or _composed(self.relpath(near)) != _composed(os.path.normpath(name)):
                    raise
                path = near.resolve(strict=True)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._missing(name, below) from error
        except OSError as error:
            raise _cannot_open(name, error) from error
        except RuntimeError as error:  # links in a circle, before Python 3.13
            raise UserError(
                "{name} is a link to itself",
                "Put the file itself in its place",
                "link-to-itself",
                name=quoted(name),
            ) from error
        # A dataset comes from anyone: a link in it must not hand this user's other files to a training run.
        if not path.is_relative_to(self.root):
            raise UserError(
                "{name} is a link that leads outside the dataset folder",
                "Copy the file into the folder",
                "link-leads-outside",
                name=quoted(name),
            )
        if fault := _not_regular(name, path.stat().st_mode):
            raise fault
        self._found[below, reference] = path
        return path

    def named(self, name: str) -> str | None:
        """Returns the path of the file called `name` in the folder or below, if there is just one."""
        found = self.all_named(name)
        return found[0] if len(found) == 1 else None

    def all_named(self, name: str) -> list[str]:
        """Returns the paths of the files called `name` in the folder and below, however it is spelt."""
        if self._by_name is None:
            self._by_name = defaultdict(list)
            for path in self.every_file():
                self._by_name[_spelling(path.rpartition("/")[2])].append(path)
        return self._by_name.get(_spelling(name), [])

    def every_file(self) -> Iterator[str]:
        """Yields the path of each file in the folder and below."""
        for folder, _, files in os.walk(self.root):
            for file in files:
                yield self.relpath(Path(folder, file))

    def _nearest(self, name: str) -> Path | None:
        """Returns what differs from a path only in how accents are composed, or else in case.

        That is as after a move from macOS or Windows.
        """
        path = self.root
        for part in Path(name).parts:
            if path not in self._listings:
                readable = path.is_dir() and not path.is_symlink() and os.access(path, os.R_OK)
                entries = sorted(os.listdir(path)) if readable else []
                listed = {_spelling(entry): entry for entry in entries}
                self._listings[path] = listed | {_composed(entry): entry for entry in entries}
            listed = self._listings[path]
            match = listed.get(_composed(part)) or listed.get(_spelling(part))
            if match is None:
                return None
            path = path / match
        return path

    def _missing(self, name: str, below: str) -> UserError:
        """Returns the error for a missing file, with the path that was probably meant.

        That is the nearest one, or else the only file of this name in the whole folder.
        """
        path = self._nearest(name)
        nearest = self.relpath(path) if path else self.named(PurePosixPath(name).name)
        if nearest is not None and below and not nearest.startswith(f"{below}/"):
            nearest = None  # a row names images from its own folder on, and may not lead out of it
        if nearest is None:
            return UserError(
                "{name} does not exist",
                "Put the file there, or correct the path",
                "image-missing",
                name=quoted(name),
            )
        return UserError(
            "{name} does not exist",
            "Write {nearest}, which exists",
            "image-elsewhere",
            name=quoted(name),
            nearest=quoted(nearest.removeprefix(f"{below}/") if below else nearest),
        )


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _spelling(name: str) -> str:
    return _composed(name).casefold()


def checked_reference(reference: object) -> str:
    """Returns `reference`, backslashes as slashes, if it is a relative path that stays below its start.

    No file is touched.

    Raises:
        UserError: It is anything else, with what is wrong first.
    """
    if not isinstance(reference, str):
        raise UserError(
            "an image must be a path, not {kind}",
            "Write the path of an image file as text",
            "image-no-path",
            kind=kind_of(reference),
        )
    if fault := not_in_the_folder(reference) or _badly_written(reference):
        raise fault
    return reference.replace("\\", "/")


# In both, the first that holds is returned. Image data stands before paths, since the base64 of a JPEG begins
# with a slash; a Windows drive is a fault on every system, as a dataset moves between them.
def not_in_the_folder(reference: str) -> UserError | None:
    """Returns what is wrong with a reference that names no file at all: data, or an address."""
    if not reference.strip():
        return UserError("an image's path is empty", "Write the path of an image file", "image-path-empty")
    is_data = reference[:5].lower() == "data:" or BASE64_IMAGE.match(reference)
    if is_data or len(reference) > LONGEST_REFERENCE:
        return UserError(
            "image data stands in the row itself",
            "Save the image as a file in the dataset folder and write its path",
            "image-data-in-row",
        )
    if reference[:5].lower() == "file:":
        return UserError(
            "a file: address is not followed",
            "Put the image in the dataset folder and write its relative path",
            "image-file-address",
        )
    if URL.match(reference):
        return UserError(
            "{path} is a URL", "URLs are not fetched; download first", "image-url", path=quoted(reference)
        )
    return None


def _badly_written(reference: str) -> UserError | None:
    shown, slashes = quoted(reference), reference.replace("\\", "/")
    if reference.startswith("~"):
        return UserError(
            "{path} begins with ~, which is not expanded",
            "Write a path relative to the dataset folder",
            "image-path-home",
            path=shown,
        )
    if reference.startswith(("/", "\\")) or PureWindowsPath(reference).drive:
        return UserError(
            "{path} is an absolute path",
            "Write a path relative to the dataset folder",
            "image-path-absolute",
            path=shown,
        )
    if os.path.normpath(slashes).split("/")[0] == "..":
        return UserError(
            "{path} lies outside the dataset folder",
            "Copy the file into the dataset folder",
            "image-path-outside",
            path=shown,
        )
    if UNSHOWABLE.search(reference):
        return UserError(
            "{path} holds control characters",
            "Rename the file, and the reference to it",
            "image-path-control-characters",
            path=shown,
        )
    if any(map(system.refuses_name, reference.split("/"))):
        return UserError(
            "{path} can't be a file's name on this system",
            "Rename the file, and the reference to it",
            "image-path-not-here",
            path=shown,
        )
    return None

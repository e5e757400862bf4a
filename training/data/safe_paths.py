"""Where files may lie: an image reference -> a regular file inside the dataset's folder. No torch.

Every file of a dataset is opened through `open_regular`, and every path that a dataset names goes through
`DatasetFolder`. What the file contains is not looked at here.
"""

import errno
import os
import re
import stat
import unicodedata
from collections import defaultdict
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from vlm.errors import UserError

SHOWN_CHARACTERS = 80
"""A message quotes at most so much of what a dataset says: a reference may be a megabyte of base64."""

# How the base64 of a PNG, JPEG, GIF, WebP begins; JPEG's would else be taken for an absolute path.
BASE64_IMAGE = re.compile(r"iVBORw0KGgo|/9j/|R0lGOD|UklGR")
LONGEST_REFERENCE = 1024
# Control characters, lone surrogates, line separators, and what turns the direction of writing.
UNSHOWABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def quoted(text: str) -> str:
    """`text` in quotes, short and on one line, for a message."""
    shown = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
    return "'" + UNSHOWABLE.sub("\N{REPLACEMENT CHARACTER}", shown) + "'"


def quoted_path(path: str) -> str:
    """A path in quotes: of a long one its end, where the file's name is."""
    return quoted(path if len(path) <= SHOWN_CHARACTERS else "…" + path[1 - SHOWN_CHARACTERS :])


def open_regular(path: Path, name: str) -> BinaryIO:
    """`path` opened for reading, if it is a regular file; messages call it `name`.

    A named pipe would block for ever and a device may never end, so both are opened without waiting and
    refused. A link in the last place is refused too: who may follow one resolves it first.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a NUL or a lone surrogate: no file can be called so
        raise UserError(
            f"{quoted(name)} can't be a file's name", "Rename the file, and the reference to it"
        ) from error
    except OSError as error:
        raise _cannot_open(name, error) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise UserError(f"{quoted(name)} is {_kind(mode)}, not a file", "Put an ordinary file in its place")
    return os.fdopen(descriptor, "rb")


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a named pipe" if stat.S_ISFIFO(mode) else "a device or socket"


def _cannot_open(name: str, error: OSError) -> UserError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return UserError(f"{quoted(name)} does not exist", "Check the path, or put the file there")
    if error.errno == errno.ELOOP:
        return UserError(f"{quoted(name)} is a link", "Put the file itself in its place")
    if error.errno == errno.ENXIO:
        return UserError(
            f"{quoted(name)} is a device or socket, not a file", "Put an ordinary file in its place"
        )
    return UserError(
        f"{quoted(name)} can't be opened: {error.strerror}", "Make the file readable for this user"
    )


class DatasetFolder:
    """A dataset's folder, and what a reference in it stands for; remembers listings, for suggestions."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._listings: dict[Path, dict[str, str]] = {}
        self._found: dict[str, Path] = {}
        self._by_name: dict[str, list[str]] | None = None

    def relpath(self, path: Path) -> str:
        """`path`, which lies in the folder, as the dataset would name it: "images/1.png"."""
        return path.relative_to(self.root).as_posix()

    def file(self, reference: object, below: str = "") -> Path:
        """The regular file that `reference` names, links resolved, inside the folder. Else a `UserError`.

        The reference is relative to the subfolder `below`. An image of many rows is looked for once.
        """
        name = checked_reference(reference)
        name = f"{below}/{name}" if below else name
        if name not in self._found:
            self._found[name] = self._find(name, below)
        return self._found[name]

    def _find(self, name: str, below: str) -> Path:
        try:
            path = (self.root / name).resolve(strict=True)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._missing(name, below) from error
        except OSError as error:
            raise _cannot_open(name, error) from error
        except RuntimeError as error:  # links in a circle, before Python 3.13
            raise UserError(
                f"{quoted(name)} is a link to itself", "Put the file itself in its place"
            ) from error
        if not path.is_relative_to(self.root):
            raise UserError(
                f"{quoted(name)} is a link that leads outside the dataset folder",
                "Copy the file into the folder",
            )
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise UserError(
                f"{quoted(name)} is {_kind(mode)}, not a file", "Put an ordinary file in its place"
            )
        return path

    def named(self, name: str) -> str | None:
        """The path of the one file in the folder and below that is called `name`, if there is just one."""
        if self._by_name is None:
            self._by_name = defaultdict(list)
            for folder, _, files in os.walk(self.root):
                for file in files:
                    self._by_name[_spelling(file)].append(os.path.join(folder, file))
        found = self._by_name.get(_spelling(name), [])
        return self.relpath(Path(found[0])) if len(found) == 1 else None

    def _missing(self, name: str, below: str) -> UserError:
        nearest = self._nearest(name) or self.named(PurePosixPath(name).name)
        if nearest is not None and below and not nearest.startswith(f"{below}/"):
            nearest = None  # a row names images from its own folder on, and may not lead out of it
        shown = "" if nearest is None else quoted(nearest.removeprefix(f"{below}/") if below else nearest)
        remedy = f"Write {shown}, which exists" if shown else "Put the file there, or correct the path"
        return UserError(f"{quoted(name)} does not exist", remedy)

    def _nearest(self, name: str) -> str | None:
        """The existing file whose path differs from `name` only in case or in how accents are composed."""
        folder = self.root
        for part in Path(name).parts:
            match = self._listing(folder).get(_spelling(part))
            if match is None:
                return None
            folder /= match
        return self.relpath(folder)

    def _listing(self, folder: Path) -> dict[str, str]:
        """Names in `folder` by their spelling. Kept: 100,000 missing files must not mean 100,000 listings."""
        if folder not in self._listings:
            readable = folder.is_dir() and not folder.is_symlink() and os.access(folder, os.R_OK)
            names = sorted(os.listdir(folder)) if readable else []
            self._listings[folder] = {_spelling(name): name for name in names}
        return self._listings[folder]


def _spelling(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def checked_reference(reference: object) -> str:
    """`reference`, if it is a relative path that stays below its start. The file system is not asked."""
    if not isinstance(reference, str):
        raise UserError(
            f"an image must be a path, not {type(reference).__name__}",
            "Write the path of an image file as text",
        )
    if not reference.strip():
        raise UserError("an image's path is empty", "Write the path of an image file")
    if (
        reference[:5].lower() == "data:"
        or BASE64_IMAGE.match(reference)
        or len(reference) > LONGEST_REFERENCE
    ):
        raise UserError(
            "image data stands in the row itself",
            "Save the image as a file in the dataset folder and write its path",
        )
    if reference[:5].lower() == "file:":
        raise UserError(
            "a file: address is not followed",
            "Put the image in the dataset folder and write its relative path",
        )
    if URL.match(reference):
        raise UserError(f"{quoted(reference)} is a URL", "URLs are not fetched; download first")
    if reference.startswith("~"):
        raise UserError(
            f"{quoted(reference)} begins with ~, which is not expanded",
            "Write a path relative to the dataset folder",
        )
    if reference.startswith(("/", "\\")) or PureWindowsPath(reference).drive:
        raise UserError(
            f"{quoted(reference)} is an absolute path", "Write a path relative to the dataset folder"
        )
    slashes = reference.replace("\\", "/")
    if os.path.normpath(slashes).split("/")[0] == "..":
        raise UserError(
            f"{quoted(reference)} lies outside the dataset folder", "Copy the file into the dataset folder"
        )
    if slashes != reference:
        raise UserError(f"{quoted(reference)} is written with backslashes", f"Write {quoted(slashes)}")
    if UNSHOWABLE.search(reference):
        raise UserError(
            f"{quoted(reference)} holds control characters", "Rename the file, and the reference to it"
        )
    return reference

"""Run names: which ones are safe as a folder on every system, and how one is proposed. No torch."""

import re
import time
import unicodedata
from pathlib import Path

from vlm.errors import Phrase, UserError

MAX_CHARACTERS = 64
# A file system counts bytes (255), and the trash appends a time.
MAX_BYTES = 200

# Windows opens a device under these names, whatever suffix they have.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
_FORBIDDEN = set('/\\:*?"<>|')
# Printed commands quote names; these would do something where somebody leaves the quotes out.
_OF_SHELLS = set("$`;&!")


def normalise(name: str) -> str:
    """Returns the name in NFC, so that the two ways to write "é" are one folder."""
    return unicodedata.normalize("NFC", name)


def fold(name: str) -> str:
    """Returns what two names share if a file system could take them for one: case doesn't count."""
    # Again, since casefold() may leave NFC.
    return unicodedata.normalize("NFC", normalise(name).casefold())


def problem_with(name: str, *, new: bool = False) -> Phrase | None:
    """Returns why this can't be a run's name, as the end of a sentence; None if it can.

    `new`: a name that is given now. Runs of older versions keep theirs.
    """
    name = normalise(name)
    if not name:
        return Phrase("is empty", "name-empty")
    if len(name) > MAX_CHARACTERS or len(name.encode("utf-8", "replace")) > MAX_BYTES:
        return Phrase(
            "is longer than {characters} characters or {bytes} bytes",
            "name-too-long",
            characters=MAX_CHARACTERS,
            bytes=MAX_BYTES,
        )
    if any(character in _FORBIDDEN for character in name):
        return Phrase('has one of / \\ : * ? " < > | in it', "name-separator")
    if new and any(character in _OF_SHELLS for character in name):
        return Phrase("has one of $ ` ; & ! in it", "name-of-shells")
    # Control, format (as U+202E, which turns text around), lone surrogates, and separators of lines.
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in name):
        return Phrase("has an invisible or control character in it", "name-invisible")
    if name[0] in ".-" or name[-1] == "." or name != name.strip():
        return Phrase("starts with a dot or a hyphen, ends with a dot, or has a space at an end", "name-ends")
    is_device = name.split(".")[0].strip().casefold() in _DEVICES
    if is_device or re.fullmatch(r"checkpoint-\d+", name, re.IGNORECASE):
        return Phrase("is reserved", "name-reserved")
    return None


def slug(text: str) -> str:
    """Returns a name close to the text that `problem_with` accepts."""
    kept = re.sub(r"[^\w.]+", "-", normalise(text))[:40].strip("-._ ")
    return kept if problem_with(kept, new=True) is None else f"run-{kept}".strip("-")


def new_name(dataset: str, workspace: Path) -> str:
    """Returns a name that no run in the workspace has: the dataset's, and the time to the second."""
    # A number would read better, but two pages drawn before either starts would then propose the same one.
    stem = f"{slug(Path(dataset).name)}-{time.strftime('%m%d-%H%M%S')}"
    taken = names_in(workspace)
    candidates = (stem, *(f"{stem}-{n}" for n in range(2, len(taken) + 3)))
    return next(name for name in candidates if fold(name) not in taken)


def names_in(workspace: Path) -> dict[str, str]:
    """Returns the names of the workspace's runs by their folded form.

    Raises:
        UserError: the workspace may not be read.
    """
    try:
        found = [folder.name for folder in (workspace / "runs").iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except PermissionError as error:
        raise UserError(
            "{workspace} can't be read.",
            "Choose another folder with --workspace.",
            "workspace-unreadable",
            workspace=workspace,
        ) from error
    return {fold(name): name for name in found if not name.startswith(".")}

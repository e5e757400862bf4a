"""KnownImages: what was found of an image, kept on disk until its file changes. No torch.

One file in the workspace for each dataset's folder, made complete before it is named, free to be deleted.
Only images that could be decoded are in it: a fault may be the disk's or the memory's, and is met again.
"""

import hashlib
import json
import logging
import os
import time
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

import PIL

from training.data import images
from training.data.images import ImageFacts, examine_image
from training.data.splits import digest_of

logger = logging.getLogger(__name__)

MOST_DATASETS = 32
MOST_IMAGES = 200_000
"""Kept of one dataset's folder; more only where the last check saw more."""
TICK_S = 2.0
"""A file that changed so shortly before it was looked at may change again at the same time of its disk."""

Stamp = tuple[int, int, int, int]
"""Size, number on its disk, times of the last change of content and of file, in ns: the last can't be set."""


class KnownImages:
    """The images of the dataset in `root`, as checks in this workspace have found them."""

    def __init__(self, workspace: Path, root: Path) -> None:
        name = hashlib.sha256(os.fsencode(root)).hexdigest()[:24]
        self.file = workspace / "cache" / "images" / f"{name}.json"
        self.known = _read(self.file)
        self.used: dict[str, tuple[Stamp, ImageFacts]] = {}

    def find(self, path: Path) -> ImageFacts | None:
        """What was found, if the file has not changed since."""
        known = self.known.get(str(path))
        if known is None or known[0] != _stamp(path):
            return None
        self.used[str(path)] = known
        return known[1]

    def examine(self, path: Path) -> ImageFacts:
        """What is in the file; it is opened if that is not known. Raises `UserError` as `load_image` does."""
        if facts := self.find(path):
            return facts
        stamp, now = _stamp(path), time.time()
        facts = examine_image(path, name=path.name)
        if stamp is not None and stamp == _stamp(path) and now - stamp[-1] / 1e9 > TICK_S:
            self.used[str(path)] = stamp, facts
        return facts

    def digest_of(self, path: Path) -> bytes:
        """The sha256 of the file. Raises `UserError` where it has to be read and can't be."""
        facts = self.find(path)
        return digest_of(path) if facts is None else facts.digest

    def keep(self) -> None:
        """Write what is new. Where the disk is full or read-only, the next check takes longer, no more."""
        try:
            if not self.used.items() <= self.known.items():
                self._write()
            elif self.used:
                os.utime(self.file)
        except OSError as error:
            logger.info("what was found of the images can't be kept: %s", error)

    def _write(self) -> None:
        others = [item for item in self.known.items() if item[0] not in self.used]
        surplus = max(0, len(others) + len(self.used) - MOST_IMAGES)
        found = {
            path: [*stamp, facts.width, facts.height, facts.frames, facts.digest.hex()]
            for path, (stamp, facts) in [*others[surplus:], *self.used.items()]
        }
        draft = self.file.with_name(f"{uuid.uuid4().hex}.draft")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(json.dumps({"found_by": _found_by(), "images": found}))
            draft.replace(self.file)
        finally:
            draft.unlink(missing_ok=True)
        _forget_oldest(self.file.parent)


def _read(file: Path) -> dict[str, tuple[Stamp, ImageFacts]]:
    """What the file says; nothing where there is none, it is damaged, or other code found it."""
    try:
        kept = json.loads(file.read_bytes())
        if kept["found_by"] != _found_by():
            return {}
        return {
            path: (tuple(stamp), ImageFacts(width, height, frames, bytes.fromhex(digest)))
            for path, (*stamp, width, height, frames, digest) in kept["images"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.info("what was found of the images can't be read, so they are opened again: %s", error)
        return {}


def _stamp(path: Path) -> Stamp | None:
    """None where the file has gone. Of a link it is the link's own: nobody follows one."""
    with suppress(OSError):
        status = path.lstat()
        return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns
    return None


@cache
def _found_by() -> str:
    """Another decoder, or other code here, may find otherwise."""
    return f"Pillow {PIL.__version__}, {hashlib.sha256(Path(images.__file__).read_bytes()).hexdigest()}"


def _forget_oldest(folder: Path) -> None:
    files = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime)
    for file in files[: max(0, len(files) - MOST_DATASETS)]:
        file.unlink(missing_ok=True)

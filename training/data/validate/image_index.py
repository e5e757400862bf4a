"""ImageIndex: size, frames and digest of decoded images, stored on disk until a file changes. No torch.

One file in the workspace for each dataset's folder, free to be deleted. Only images that could be decoded are
in it: a fault may be the disk's or the memory's, and is met again.
"""

import hashlib
import json
import logging
import os
import time
from functools import cache
from pathlib import Path

import PIL

from training.data import images
from training.data.images import ImageFacts, examine_image
from training.data.safe_paths import digest_of
from vlm.filesystem import FileStamp, file_stamp, write_atomic

logger = logging.getLogger(__name__)

MOST_DATASETS = 32
# Of one dataset's folder, unless the last check alone saw more: the file is read whole, some 200 bytes each.
MOST_IMAGES = 200_000
# Seconds. A file that changed so shortly before it was examined may change again without another time of
# change: the clocks of file systems tick in steps of milliseconds, FAT's of two seconds.
TICK_S = 2.0


class ImageIndex:
    """The images of the dataset in `root` as checks in this workspace found them; empty without one."""

    def __init__(self, workspace: Path | None, root: Path) -> None:
        self.file: Path | None = None
        self.known: dict[str, tuple[FileStamp, ImageFacts]] = {}
        self.used: dict[str, tuple[FileStamp, ImageFacts]] = {}
        if workspace is None:
            return
        name = hashlib.sha256(os.fsencode(root)).hexdigest()[:24]
        self.file = workspace / "cache" / "images" / f"{name}.json"
        try:
            saved = json.loads(self.file.read_bytes())
            if saved["found_by"] == found_by():
                self.known = {
                    path: (FileStamp(*stamp), ImageFacts(width, height, frames, bytes.fromhex(digest), odd))
                    for path, (*stamp, width, height, frames, digest, odd) in saved["images"].items()
                }
        except FileNotFoundError:
            return  # the first check of this dataset
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.info("what was found of the images can't be read, so they are opened again: %s", error)

    def find(self, path: Path) -> ImageFacts | None:
        """Returns what was found of an image, None if its file has changed since or was not examined."""
        known = self.known.get(str(path))
        # Of a link its own stamp: the loader refuses links, so one may not stand for the file it leads to.
        if known is None or known[0] != file_stamp(path, follow_links=False):
            return None
        self.used[str(path)] = known
        return known[1]

    def examine(self, path: Path) -> ImageFacts:
        """Returns what is in an image's file, and opens it only if that is not known.

        Raises:
            UserError: As `load_image` does.
        """
        if facts := self.find(path):
            return facts
        stamp, now = file_stamp(path, follow_links=False), time.time()
        facts = examine_image(path, name=path.name)
        # Only where the file was the same before and after it was decoded, and not written a moment ago.
        settled = stamp is not None and now - stamp.ctime_ns / 1e9 > TICK_S
        if settled and stamp == file_stamp(path, follow_links=False):
            self.used[str(path)] = stamp, facts
        return facts

    def digest_of(self, path: Path) -> bytes:
        """Returns the SHA-256 of the file.

        Raises:
            UserError: The file has to be read and can't be.
        """
        facts = self.find(path)
        return digest_of(path) if facts is None else facts.digest

    def save(self) -> None:
        """Writes what is new. Where the disk is full or read-only, the next check takes longer, no more."""
        if self.file is None:
            return
        try:
            if self.used.items() <= self.known.items():
                if self.used:
                    os.utime(self.file)  # the time of its last use decides which index is deleted first
                return
            # Images of another part of the dataset stay, the newest first to stay where there are too many.
            others = [item for item in self.known.items() if item[0] not in self.used]
            surplus = max(0, len(others) + len(self.used) - MOST_IMAGES)
            found = {
                path: [*stamp, facts.width, facts.height, facts.frames, facts.digest.hex(), facts.odd]
                for path, (stamp, facts) in [*others[surplus:], *self.used.items()]
            }
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.file, json.dumps({"found_by": found_by(), "images": found}))
            files = sorted(self.file.parent.glob("*.json"), key=lambda file: file.stat().st_mtime)
            for file in files[: max(0, len(files) - MOST_DATASETS)]:
                file.unlink(missing_ok=True)
        except OSError as error:
            logger.info("what was found of the images can't be kept: %s", error)


@cache
def found_by() -> str:
    """Returns what distinguishes decoders: another Pillow, or other code of ours, may find otherwise."""
    return f"Pillow {PIL.__version__}, {hashlib.sha256(Path(images.__file__).read_bytes()).hexdigest()}"

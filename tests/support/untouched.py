"""What must not change: every file below some folders, by its content, mode and link.

A workspace's cache is left out: whoever looks at a dataset may leave there what was found.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def contents(*folders: Path) -> dict[str, str]:
    """Path -> what is there: a digest of a file's content, where a link leads, or that it is a folder."""
    found = {}
    for folder in folders:
        for path in (folder, *sorted(folder.rglob("*"))):
            if "cache" in path.relative_to(folder).parts:
                continue
            kind = f"to {path.readlink()}" if path.is_symlink() else "folder" if path.is_dir() else ""
            kind = kind or (hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "special")
            found[str(path)] = f"{kind} {path.lstat().st_mode:o}"
    return found


@contextmanager
def untouched(*folders: Path) -> Iterator[None]:
    """Nothing below these folders is another thing after the block, and nothing is gone or new."""
    before = contents(*folders)
    yield
    assert contents(*folders) == before

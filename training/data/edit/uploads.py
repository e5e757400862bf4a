"""take_in: files that somebody dropped on the page -> a dataset in the workspace. No torch.

A zip is unpacked; rows and pictures become one new folder, under their own names. What is in them is looked
at when the dataset is opened.
"""

import re
import shutil
import unicodedata
import uuid
from collections.abc import Sequence
from pathlib import Path

from training.data.readers.archives import is_junk, unpack
from training.data.readers.captions import PICTURES
from training.data.readers.row_files import ROW_FILES
from training.data.safe_paths import UNSHOWABLE, open_regular, quoted
from training.data.synthetic.samples import SAMPLES
from vlm.errors import UserError

MOST_FILES = 20_000
TAKEN = (*ROW_FILES, *PICTURES, ".txt")
PACK_THEM = "Pack them into one zip, folders and all, and drop that"


def take_in(files: Sequence[Path], workspace: Path) -> str:
    """The name in `workspace/datasets` of the dataset that these files are.

    One zip is unpacked, and not twice. Other files are copied into a new folder: rows, pictures, captions.
    Raises `UserError` where they are none of these, or of one name.
    """
    datasets = workspace / "datasets"
    if not files:
        raise UserError("Nothing was dropped", "Drop a zip, a file of rows, or pictures")
    zips = [file for file in files if file.suffix.lower() == ".zip"]
    if zips and len(files) > 1:
        raise UserError("A zip was dropped among other files", "Drop one zip, or files without one")
    if zips:
        return unpack(zips[0], datasets, reserved=tuple(SAMPLES)).name
    _require_fit(files)
    datasets.mkdir(parents=True, exist_ok=True)
    unfinished = datasets / f".taking-in-{uuid.uuid4().hex}"
    try:
        unfinished.mkdir()
        for file in files:
            with open_regular(file, file.name) as source, (unfinished / file.name).open("xb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
        return named(unfinished, _name_of(files)).name
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _require_fit(files: Sequence[Path]) -> None:
    names = [file.name for file in files]
    strange = [
        name
        for name in names
        if is_junk(name) or UNSHOWABLE.search(name) or Path(name).suffix.lower() not in TAKEN
    ]
    if strange:
        raise UserError(
            f"{quoted(strange[0])} is neither a zip, a file of rows, nor a picture",
            f"Drop files that end in {', '.join(TAKEN)}, or one zip",
        )
    folded = {unicodedata.normalize("NFC", name).casefold() for name in names}
    if len(folded) < len(names):
        raise UserError("Two of the files have the same name", PACK_THEM)
    if len(names) > MOST_FILES:
        raise UserError(f"{len(names):,} files were dropped: more than {MOST_FILES:,}", PACK_THEM)


def _name_of(files: Sequence[Path]) -> str:
    """What the files of rows are called, else the first of them."""
    rows = [file for file in files if file.suffix.lower() in ROW_FILES and file.name != "dataset_info.json"]
    stem = rows[0].stem if rows else "pictures" if len(files) > 1 else files[0].stem
    return stem if stem != "metadata" else "pictures"


def named(unfinished: Path, wanted: str) -> Path:
    """A folder that is complete, under the first name of this kind that is free beside it."""
    while True:
        target = unfinished.with_name(free_name(wanted, unfinished.parent))
        try:
            return unfinished.rename(target)
        except OSError:
            if not target.exists():  # else somebody else took the name meanwhile
                raise


def free_name(wanted: str, datasets: Path) -> str:
    """A folder's name in `datasets` that nothing has yet: pets, pets-2, …"""
    words = re.sub(r"[^\w-]+", "-", unicodedata.normalize("NFC", wanted)).strip("-_")
    slug, number = words[:48] or "dataset", 1
    there = {path.name.casefold() for path in datasets.iterdir()} if datasets.is_dir() else set()
    there |= {name.casefold() for name in SAMPLES}
    while (name := slug if number == 1 else f"{slug}-{number}").casefold() in there:
        number += 1
    return name

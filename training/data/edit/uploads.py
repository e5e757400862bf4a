"""Uploads: files dropped on the page -> a dataset in the workspace. No torch.

A zip is unpacked; rows and images become one new folder, under their own names. Their content is checked when
the dataset is opened.
"""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from training.data.edit.export import copy_file
from training.data.readers.annotations import PICTURES
from training.data.readers.archives import is_junk, unpack
from training.data.readers.folder import ROW_FILES, ending_of
from training.data.safe_paths import UNSHOWABLE, quoted
from training.data.synthetic.samples import SAMPLES
from vlm.errors import UserError
from vlm.filesystem import draft_folder, place_folder, slug

MOST_FILES = 20_000
ENDINGS = (*ROW_FILES, *PICTURES, ".txt")
PACK_THEM = "Pack them into one zip, folders and all, and drop that"


def add_upload(files: Sequence[Path], workspace: Path) -> str:
    """Makes a dataset of uploaded files and returns its name in `workspace/datasets`.

    One zip is unpacked, and not twice. Other files are copied into a new folder: rows, images, captions.

    Raises:
        UserError: There is no file, a file is none of these, or two have the same name.
    """
    datasets = workspace / "datasets"
    if not files:
        raise UserError("Nothing was dropped", "Drop a zip, a file of rows, or pictures", "upload-of-nothing")
    zips = [file for file in files if file.suffix.lower() == ".zip"]
    if zips and len(files) > 1:
        raise UserError(
            "A zip was dropped among other files",
            "Drop one zip, or files without one",
            "upload-of-zip-and-files",
        )
    if zips:
        return unpack(zips[0], datasets, reserved=tuple(SAMPLES)).name
    names = [file.name for file in files]
    for name in names:
        if is_junk(name) or UNSHOWABLE.search(name) or ending_of(Path(name)) not in ENDINGS:
            raise UserError(
                "{file} is neither a zip, a file of rows, nor a picture",
                "Drop files that end in {endings}, or one zip",
                "upload-of-other-file",
                file=quoted(name),
                endings=ENDINGS,
            )
    # Folders are lost in an upload, and on macOS a.png and A.png would be one file.
    if len({unicodedata.normalize("NFC", name).casefold() for name in names}) < len(names):
        raise UserError("Two of the files have the same name", PACK_THEM, "upload-of-twins")
    if len(names) > MOST_FILES:
        raise UserError(
            "{count:,} files were dropped: more than {most:,}",
            PACK_THEM,
            "upload-too-many",
            count=len(names),
            most=MOST_FILES,
        )
    # Called after the file of rows. LLaMA-Factory's index and ImageFolder's metadata have the same name in
    # every dataset, and say nothing about this one.
    rows = [file for file in files if ending_of(file) in ROW_FILES and file.name != "dataset_info.json"]
    stem = (
        rows[0].name[: -len(ending_of(rows[0]))] if rows else "pictures" if len(files) > 1 else files[0].stem
    )
    name = slug(stem if stem != "metadata" else "pictures", "dataset")
    with draft_folder(datasets / name) as draft:
        for file in files:
            copy_file(file, draft / file.name)
        return place_folder(draft, name, reserved=SAMPLES).name

"""Uploads: files dropped on the page -> a dataset in the workspace. No torch.

A zip is unpacked; rows and images become one new folder, under their own names and in their own folders.
Their content is checked when the dataset is opened.
"""

import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from training.data.edit.export import copy_file
from training.data.readers.archives import is_archive, is_junk, unpack
from training.data.readers.beside import BESIDE, PICTURES
from training.data.readers.folder import ROW_FILES, ending_of
from training.data.safe_paths import UNSHOWABLE, checked_reference, quoted
from training.data.synthetic.samples import SAMPLES
from vlm.errors import UserError
from vlm.filesystem import draft_folder, place_folder, slug

MOST_FILES = 20_000
ENDINGS = (*ROW_FILES, *PICTURES, *BESIDE)
PACK_THEM = "Pack them into one zip, folders and all, and drop that"


def add_upload(files: Sequence[Path], workspace: Path, names: Sequence[str] = ()) -> str:
    """Makes a dataset of uploaded files and returns its name in `workspace/datasets`.

    One zip is unpacked, and not twice. Other files are copied into a new folder: rows, images, captions.
    `names` are their paths where they came from, of files that lie in a folder: "pets/images/1.png". What
    else lies in it is left out.

    Raises:
        UserError: There is no file, a file is none of these, or two have the same name.
    """
    datasets = workspace / "datasets"
    taken = [
        (file, name.strip("/"))
        for file, name in zip(files, names or [file.name for file in files], strict=True)
        if "/" not in name or _belongs(name)
    ]
    if not taken:
        raise UserError("Nothing was dropped", "Drop a zip, a file of rows, or pictures", "upload-of-nothing")
    zips = [file for file, _ in taken if is_archive(file)]
    if zips and len(taken) > 1:
        raise UserError(
            "A zip was dropped among other files",
            "Drop one zip, or files without one",
            "upload-of-zip-and-files",
        )
    if zips:
        return unpack(zips[0], datasets, reserved=tuple(SAMPLES)).name
    stem, names = _without_top([name for _, name in taken])
    for name in names:
        if is_junk(name) or UNSHOWABLE.search(name) or not _belongs(name):
            raise UserError(
                "{file} is neither a zip, a file of rows, nor a picture",
                "Drop files that end in {endings}, or one zip",
                "upload-of-other-file",
                file=quoted(name),
                endings=ENDINGS,
            )
    # On macOS a.png and A.png would be one file.
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
    name = slug(stem or _called_after([Path(name) for name in names]), "dataset")
    with draft_folder(datasets / name) as draft:
        for (file, _), path in zip(taken, names, strict=True):
            copy_file(file, draft / checked_reference(path))
        return place_folder(draft, name, reserved=SAMPLES).name


def _belongs(name: str) -> bool:
    """Returns whether a file of this path may be a part of a dataset, by its ending."""
    path = PurePosixPath(name)
    return (ending_of(Path(path.name)) in ENDINGS or is_archive(path)) and not any(map(is_junk, path.parts))


def _without_top(names: list[str]) -> tuple[str, list[str]]:
    """Returns the folder in which all of them lie, and their paths below it; "" where there is none."""
    tops = {name.partition("/")[0] for name in names}
    if len(tops) > 1 or not all("/" in name for name in names):
        return "", names
    return tops.pop(), [name.partition("/")[2] for name in names]


def _called_after(files: Sequence[Path]) -> str:
    """Returns what to call a dataset of these files: as the file of rows is called.

    LLaMA-Factory's index and ImageFolder's metadata have the same name in every dataset, and say nothing
    about this one.
    """
    rows = [file for file in files if ending_of(file) in ROW_FILES and file.name != "dataset_info.json"]
    stem = (
        rows[0].name[: -len(ending_of(rows[0]))] if rows else "pictures" if len(files) > 1 else files[0].stem
    )
    return stem if stem != "metadata" else "pictures"

"""Zips: what may be unpacked, and unpacking it once, whole or not at all. No torch.

A zip comes from anyone. It is judged by its directory before a byte is unpacked, and all that is wrong with
it is said at once. Finding the rows in what was unpacked is `datasets`' matter.
"""

import hashlib
import re
import shutil
import stat
import unicodedata
import uuid
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from training.data.safe_paths import UNSHOWABLE, open_regular, quoted
from vlm.errors import UserError

MAX_ENTRIES = 200_000
MAX_TOTAL_BYTES = 20 * 1024**3
MAX_RATIO = 100
RATIO_MATTERS_FROM_BYTES = 1_000_000
"""A small blank BMP packs better than 100 to 1 and harms nobody."""
MAX_DEPTH = 32
FAULTS_SHOWN = 5
BLOCK = 1 << 20
ENTRY_SIGNATURE = b"PK\x01\x02"
SOURCE_MARK = ".unpacked-from-sha256"
"""A file in each unpacked folder: the hash of its zip."""

AGAIN = "Make the zip again, of ordinary files and folders"


def is_junk(name: str) -> bool:
    """True for what macOS and Windows leave behind, and for hidden files."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def unpack(path: Path, datasets: Path, *, reserved: tuple[str, ...] = ()) -> Path:
    """The folder below `datasets` with the content of the zip `path`; names in `reserved` are not taken.

    A zip of the same content is not unpacked again. The folder appears when it is complete. Raises
    `UserError` if the zip is broken, encrypted, too large, or would write anything but new files inside its
    folder.
    """
    digest = _checked_hash(path)
    folder = _folder_of(path, datasets, reserved, digest)
    if folder.exists():
        return folder
    datasets.mkdir(parents=True, exist_ok=True)
    unfinished = datasets / f".unpacking-{uuid.uuid4().hex}"
    try:
        _unpack_into(path, unfinished)
        (unfinished / SOURCE_MARK).write_text(digest)
        return _rename(unfinished, path, datasets, reserved, digest)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _rename(unfinished: Path, path: Path, datasets: Path, reserved: tuple[str, ...], digest: str) -> Path:
    while True:
        folder = _folder_of(path, datasets, reserved, digest)
        if folder.exists():  # somebody else unpacked the same zip meanwhile
            return folder
        try:
            return unfinished.rename(folder)
        except OSError:
            if not folder.exists():
                raise


def _folder_of(path: Path, datasets: Path, reserved: tuple[str, ...], digest: str) -> Path:
    """Where the zip was unpacked, or else the first name for it that is free: pets, pets-2, …"""
    words = re.sub(r"[^\w-]+", "-", unicodedata.normalize("NFC", path.stem)).strip("-_")
    slug = words[:48] or "dataset"
    number = 1
    while True:
        name = slug if number == 1 else f"{slug}-{number}"
        folder = datasets / name
        mark = folder / SOURCE_MARK
        if name not in reserved and (not folder.exists() or (mark.is_file() and mark.read_text() == digest)):
            return folder
        number += 1


def _checked_hash(path: Path) -> str:
    """The sha256 of the zip, if it doesn't hold too many entries.

    zipfile reads the whole directory of a zip into memory before anyone can count, and the count that a zip
    declares may lie; but each entry carries a signature, and hashing passes over all of them anyway.
    """
    digest = hashlib.sha256()
    signatures = 0
    overlap = b""
    with open_regular(path, path.name) as file:
        while block := file.read(BLOCK):
            digest.update(block)
            signatures += (overlap + block).count(ENTRY_SIGNATURE)
            overlap = block[-(len(ENTRY_SIGNATURE) - 1) :]
    if signatures > MAX_ENTRIES:
        raise UserError(
            f"{quoted(path.name)} holds more than {MAX_ENTRIES:,} files", "Split it, or unpack it yourself"
        )
    return digest.hexdigest()


def _unpack_into(path: Path, folder: Path) -> None:
    try:
        with open_regular(path, path.name) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check(entries, path, shutil.disk_usage(folder.parent).free)
            for entry in entries:
                _unpack_entry(archive, entry, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as error:
        raise UserError(f"{quoted(path.name)} is not a whole zip file", AGAIN) from error
    except OSError as error:
        raise UserError(
            f"{quoted(path.name)} can't be unpacked: {error.strerror or error}",
            "Check the disk, or unpack it yourself",
        ) from error


def _unpack_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    relative = PurePosixPath(entry.filename)
    if any(is_junk(part) for part in relative.parts):
        return
    target = folder / relative
    if entry.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # "x": the folder is new and names are distinct, so a file that is there is a case twin on a Mac's disk.
    with archive.open(entry) as packed, target.open("xb") as file:
        shutil.copyfileobj(packed, file, BLOCK)


def _check(entries: list[zipfile.ZipInfo], path: Path, free_bytes: int) -> None:
    """Raises one `UserError` with everything for which these entries must not be unpacked."""
    # Names are compared only where each is one: zipfile cuts them at a NUL, to nothing if it comes first.
    faults = [fault for entry in entries for fault in _faults(entry)] or _clashes(entries)
    total = sum(entry.file_size for entry in entries)
    if total >= RATIO_MATTERS_FROM_BYTES and total > MAX_RATIO * path.stat().st_size:
        faults.append(f"it unpacks to more than {MAX_RATIO} times its size")
    limit = min(MAX_TOTAL_BYTES, free_bytes)
    if total > limit:
        faults.append(f"it unpacks to {total / 1024**3:.1f} GiB where {limit / 1024**3:.1f} GiB are allowed")
    if faults:
        more = f"; and {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
        problem = f"{quoted(path.name)} can't be unpacked safely: {'; '.join(faults[:FAULTS_SHOWN])}{more}"
        raise UserError(problem, AGAIN)


def _faults(entry: zipfile.ZipInfo) -> list[str]:
    name = entry.orig_filename  # `filename` is already cut at a NUL
    shown = quoted(name)
    parts = PurePosixPath(name).parts
    kind = stat.S_IFMT(entry.external_attr >> 16)  # 0 where the zip was made without Unix modes
    checks = {
        "is an absolute path": name.startswith(("/", "\\")) or bool(PureWindowsPath(name).drive),
        "leads outside": ".." in re.split(r"[/\\]", name),
        "is written with backslashes": "\\" in name,
        "has control characters in its name": bool(UNSHOWABLE.search(name)),
        "has no name": not parts,
        f"is nested more than {MAX_DEPTH} folders deep": len(parts) > MAX_DEPTH,
        "is a link": kind == stat.S_IFLNK,
        "is a device or pipe": kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK),
        "is encrypted": bool(entry.flag_bits & 0x1),
        "is packed by a rare method": entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED),
        f"unpacks to more than {MAX_RATIO} times its size": (
            entry.file_size >= RATIO_MATTERS_FROM_BYTES and entry.file_size > MAX_RATIO * entry.compress_size
        ),
    }
    return [f"{shown} {fault}" for fault, found in checks.items() if found]


def _clashes(entries: list[zipfile.ZipInfo]) -> list[str]:
    """Names that stand twice, or both for a file and for a folder."""
    files: set[PurePosixPath] = set()
    faults = []
    for entry in entries:
        path = PurePosixPath(entry.filename)
        if not entry.is_dir():
            if path in files:
                faults.append(f"{quoted(entry.filename)} stands in it twice")
            files.add(path)
    folders = {parent for path in files for parent in path.parents}
    folders |= {PurePosixPath(entry.filename) for entry in entries if entry.is_dir()}
    return faults + [f"{quoted(str(path))} is both a file and a folder" for path in sorted(files & folders)]

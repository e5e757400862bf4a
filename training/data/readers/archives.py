"""Zips and tars: what may be unpacked, and unpacking it once, whole or not at all. No torch.

An archive comes from anyone. It is judged by its directory before a byte is unpacked, and everything that is
wrong with it is reported at once. Finding the rows in what was unpacked is `folder`'s matter.
"""

import hashlib
import lzma
import shutil
import stat
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import IO, Any

from training.data.safe_paths import UNSHOWABLE, open_regular, quoted
from vlm.errors import Phrase, UserError
from vlm.filesystem import numbered_names, slug
from vlm.machine import system

MAX_ENTRIES = 200_000
MAX_TOTAL_BYTES = 20 * 1024**3
# Deflate packs at most some 1,000 to 1; photographs hardly at all. A small blank BMP packs better than
# 100 to 1 and harms nobody.
MAX_RATIO = 100
RATIO_MATTERS_FROM_BYTES = 1_000_000
MAX_DEPTH = 32
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
FAULTS_SHOWN = 5
# The bit in a zip's entry that says that its name is UTF-8 (APPNOTE 4.4.4).
UTF_8_FLAG = 1 << 11
BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError)
BLOCK = 1 << 20
# What begins each entry of a zip's central directory (APPNOTE 4.3.12).
ENTRY_SIGNATURE = b"PK\x01\x02"
# A file in each unpacked folder: the hash of its zip.
SOURCE_MARK = ".unpacked-from-sha256"

# What may be wrong with one entry, in the order in which `_faults_of` looks.
ENTRY_FAULTS = (
    Phrase("is an absolute path", "zip-entry-absolute"),
    Phrase("leads outside", "zip-entry-outside"),
    Phrase("has control characters in its name", "zip-entry-control-characters"),
    Phrase("has a name that no file can have on this system", "zip-entry-not-here"),
    Phrase("has no name", "zip-entry-nameless"),
    Phrase("is nested more than {most} folders deep", "zip-entry-deep", most=MAX_DEPTH),
    # zipfile would write a link's target as an ordinary file's content; another unpacker follows it.
    Phrase("is a link", "zip-entry-link"),
    Phrase("is a device or pipe", "zip-entry-device"),
    Phrase("is encrypted", "zip-entry-encrypted"),
    Phrase("is packed by a rare method", "zip-entry-method"),
    Phrase("unpacks to more than {most} times its size", "zip-entry-ratio", most=MAX_RATIO),
)


def is_junk(name: str) -> bool:
    """Returns whether it is a hidden file, or what macOS and Windows leave behind."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def is_archive(path: PurePath) -> bool:
    """Returns whether a file is one that can be unpacked, by its ending."""
    return path.name.lower().endswith(ARCHIVES)


def unpack(path: Path, datasets: Path, *, reserved: tuple[str, ...] = ()) -> Path:
    """Returns the folder below `datasets` with an archive's content; names in `reserved` are not taken.

    One of the same content is not unpacked again. The folder appears when it is complete.

    Raises:
        UserError: The archive is broken, encrypted, too large, or would write anything but new files inside
            its folder.
    """
    digest = _checked_hash(path)
    folder = _folder_of(path, datasets, reserved, digest)
    if folder.exists():
        return folder
    datasets.mkdir(parents=True, exist_ok=True)
    unfinished = datasets / f".unpacking-{uuid.uuid4().hex}"
    try:
        _unpack_into(path, unfinished)
        if not unfinished.is_dir():
            raise UserError(
                "{zip} holds no files, or hidden ones alone",
                "Zip the folder that has your files",
                "zip-empty",
                zip=quoted(path.name),
            )
        (unfinished / SOURCE_MARK).write_text(digest, "ascii")
        # Renaming is atomic, but not together with finding a free name: another process may take the name
        # in between, with the same zip (then its folder is the answer) or with another (then the next name).
        while True:
            folder = _folder_of(path, datasets, reserved, digest)
            if folder.exists():
                return folder
            try:
                return system.rename(unfinished, folder)
            except OSError:
                if not folder.exists():
                    raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _folder_of(path: Path, datasets: Path, reserved: tuple[str, ...], digest: str) -> Path:
    """Returns where the zip was unpacked, or else the first name for it that is free: pets, pets-2, …"""
    stem = path.name[: -max(len(ending) for ending in ARCHIVES if path.name.lower().endswith(ending))]
    for name in numbered_names(slug(stem, "dataset")):
        folder = datasets / name
        mark = folder / SOURCE_MARK
        is_ours = mark.is_file() and mark.read_text("utf-8", "replace") == digest
        if folder.name not in reserved and (is_ours or not folder.exists()):
            return folder


def _checked_hash(path: Path) -> str:
    """Returns the sha256 of the zip, if it doesn't hold too many entries.

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
            # One byte less than a signature: one across two blocks is counted, none is counted twice.
            overlap = block[-(len(ENTRY_SIGNATURE) - 1) :]
    if signatures > MAX_ENTRIES and path.suffix.lower() == ".zip":
        raise _too_many(path)
    return digest.hexdigest()


def _too_many(path: Path) -> UserError:
    return UserError(
        "{zip} holds more than {most:,} files",
        "Split it, or unpack it yourself",
        "zip-too-many-files",
        zip=quoted(path.name),
        most=MAX_ENTRIES,
    )


def _unpack_into(path: Path, folder: Path) -> None:
    try:
        with open_regular(path, path.name) as file:
            if path.suffix.lower() == ".zip":
                with zipfile.ZipFile(file) as archive:
                    entries = [(entry, entry) for entry in archive.infolist()]
                    _write_entries(entries, archive.open, path, folder)
            else:
                with tarfile.open(fileobj=file) as archive:
                    _write_entries([*_tar_entries(archive, path)], archive.extractfile, path, folder)
    except (*BROKEN, ValueError, NotImplementedError) as error:
        raise UserError(
            "{zip} is not a whole archive",
            "Make it again, of ordinary files and folders",
            "zip-not-whole",
            zip=quoted(path.name),
        ) from error
    except OSError as error:
        raise UserError(
            "{zip} can't be unpacked: {reason}",
            "Check the disk, or unpack it yourself",
            "zip-not-unpacked",
            zip=quoted(path.name),
            reason=error.strerror or error,
        ) from error


def _tar_entries(archive: tarfile.TarFile, path: Path) -> Iterator[tuple[zipfile.ZipInfo, tarfile.TarInfo]]:
    """Yields a tar's members, each as the zip's entry that it would be: both are judged alike."""
    for number, member in enumerate(archive):
        if number >= MAX_ENTRIES:
            raise _too_many(path)
        if member.isdir() and not PurePosixPath(member.name).parts:
            continue  # the folder that was packed, as "."
        entry = zipfile.ZipInfo(member.name + "/" * member.isdir())
        entry.file_size = entry.compress_size = member.size
        kinds = {tarfile.REGTYPE: stat.S_IFREG, tarfile.DIRTYPE: stat.S_IFDIR}
        links = member.issym() or member.islnk()
        kind = stat.S_IFLNK if links else kinds.get(tarfile.REGTYPE if member.isreg() else member.type)
        entry.external_attr = (stat.S_IFCHR if kind is None else kind) << 16
        yield entry, member
    # tarfile takes a tar that breaks off for one that ends.
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != b"\0" * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("no end")


def _write_entries(
    entries: list[tuple[zipfile.ZipInfo, Any]],
    opened: Callable[[Any], IO[bytes] | None],
    path: Path,
    folder: Path,
) -> None:
    _require_safe([entry for entry, _ in entries], path, shutil.disk_usage(folder.parent).free)
    for entry, member in entries:
        relative = PurePosixPath(_name_of(entry))
        if any(is_junk(part) for part in relative.parts):
            continue
        target = folder / relative
        if _is_folder(entry):
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        # "x": the folder is new and names are distinct, so a file that is there is a case twin on a Mac.
        with opened(member) as packed, target.open("xb") as unpacked:
            shutil.copyfileobj(packed, unpacked, BLOCK)


def _name_of(entry: zipfile.ZipInfo) -> str:
    """Returns an entry's path with slashes, as Windows' own packers don't write it."""
    # `filename` is already cut at a NUL.
    name = entry.orig_filename
    # Archive Utility of macOS writes UTF-8 and does not say so: zipfile takes it for the code page of DOS.
    if not entry.flag_bits & UTF_8_FLAG and not name.isascii():
        with suppress(UnicodeError):  # where it is that code page
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


def _is_folder(entry: zipfile.ZipInfo) -> bool:
    return _name_of(entry).endswith("/")


def _require_safe(entries: list[zipfile.ZipInfo], path: Path, free_bytes: int) -> None:
    """Raises one `UserError` with everything for which these entries must not be unpacked."""
    faults = [fault for entry in entries for fault in _faults_of(entry)]
    # Names are compared only where each is one: zipfile cuts them at a NUL, to nothing if it comes first.
    if not faults:
        files: set[PurePosixPath] = set()
        folders: set[PurePosixPath] = set()
        for entry in entries:
            name = PurePosixPath(_name_of(entry))
            if not _is_folder(entry) and name in files:
                faults.append(Phrase("{name} stands in it twice", "zip-twice", name=quoted(entry.filename)))
            (folders if _is_folder(entry) else files).add(name)
        folders |= {parent for name in files for parent in name.parents}
        both = sorted(files & folders)
        faults += [
            Phrase("{name} is both a file and a folder", "zip-file-and-folder", name=quoted(str(name)))
            for name in both
        ]
    # Of many entries each may stay under the limit where their sum does not.
    total = sum(entry.file_size for entry in entries)
    if total >= RATIO_MATTERS_FROM_BYTES and total > MAX_RATIO * path.stat().st_size:
        faults.append(Phrase("it unpacks to more than {most} times its size", "zip-ratio", most=MAX_RATIO))
    limit = min(MAX_TOTAL_BYTES, free_bytes)
    if total > limit:
        faults.append(
            Phrase(
                "it unpacks to {total:.1f} GiB where {limit:.1f} GiB are allowed",
                "zip-too-large",
                total=total / 1024**3,
                limit=limit / 1024**3,
            )
        )
    if faults:
        shown = faults[:FAULTS_SHOWN]
        if left := len(faults) - len(shown):
            shown.append(Phrase("and {count} more", "zip-more-faults", count=left))
        raise UserError(
            "{zip} can't be unpacked safely: {faults:; }",
            "Make it again, of ordinary files and folders",
            "zip-unsafe",
            zip=quoted(path.name),
            faults=shown,
        )


def _faults_of(entry: zipfile.ZipInfo) -> list[Phrase]:
    name = _name_of(entry)
    parts = PurePosixPath(name).parts
    kind = stat.S_IFMT(entry.external_attr >> 16)  # 0 where the zip was made without Unix modes
    found = (
        name.startswith("/") or PureWindowsPath(name).drive,
        ".." in name.split("/"),
        UNSHOWABLE.search(name),
        any(map(system.refuses_name, parts)),
        not parts,
        len(parts) > MAX_DEPTH,
        kind == stat.S_IFLNK,
        kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK),
        entry.flag_bits & 0x1,
        entry.compress_type not in METHODS,
        entry.file_size >= RATIO_MATTERS_FROM_BYTES and entry.file_size > MAX_RATIO * entry.compress_size,
    )
    return [
        Phrase("{name} {fault}", "zip-entry-fault", name=quoted(name), fault=fault)
        for fault, is_so in zip(ENTRY_FAULTS, found, strict=True)
        if is_so
    ]

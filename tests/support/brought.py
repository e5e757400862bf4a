"""Folders as people bring them, and what is read of them."""

import io
from pathlib import Path

from PIL import Image

from training.data.dataset import Dataset
from training.data.open import open_dataset


def picture(side: int = 16) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, 16), "red").save(file, "PNG")
    return file.getvalue()


def made(folder: Path, files: dict[str, str | bytes | None]) -> Path:
    """A folder of these files; None stands for a picture, each of its own width."""
    for number, (name, content) in enumerate(files.items()):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        content = picture(16 + number) if content is None else content
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def opened(folder: Path, files: dict[str, str | bytes | None], **options: str) -> Dataset:
    return open_dataset(str(made(folder / "brought", files)), folder / "workspace", **options)


def told(dataset: Dataset) -> list[tuple[str, str, str]]:
    """Each example's image as the folder has it, its question and its answer."""
    return [
        (e.images[0].relative_to(dataset.root).as_posix(), e.question, e.answer) for e in dataset.examples
    ]

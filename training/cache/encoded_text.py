"""Rows of encoded text on disk, shared between runs: a chat model's can't be written without its images.

Read whole when a run begins, appended to at its checkpoints. A row is known by its messages, the content of
its images and what it is for; its folder by all that makes tokens of a text.
"""

import hashlib
import os
import uuid
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from training.cache.tensor_store import evict
from vlm.example import Example
from vlm.image_features import ImageEncoder
from vlm.prompting import PromptStyle

Row = dict[str, torch.Tensor]

KEYS, VALUES, SHAPES = "keys", "values ", "shapes "
"""In a file: digests [N, 32], and of each field all values, and shapes [N, D], -1 where there is none."""


class RowStore:
    """Rows by key. `keep` one, and `flush` what was kept since the last time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[bytes, Row] = {}
        self.pending: dict[bytes, Row] = {}
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        for file in sorted(folder.glob("*.safetensors")):
            try:
                self.rows |= _unpacked(load_file(file))
            except (OSError, SafetensorError, KeyError, RuntimeError):  # deleted just now, or damaged
                continue

    def get(self, key: bytes) -> Row | None:
        return self.rows.get(key)

    def keep(self, key: bytes, row: Row) -> None:
        self.rows[key] = self.pending[key] = row

    def flush(self) -> None:
        """Write what is new as one file. Raises `OSError` where the disk is full."""
        if not self.pending:
            return
        file = self.folder / f"{uuid.uuid4().hex}.safetensors"
        draft = file.with_suffix(".draft")
        try:
            save_file(_packed(self.pending), draft)
            draft.rename(file)
        finally:
            draft.unlink(missing_ok=True)
        self.pending = {}
        evict(self.folder.parent, keep=self.folder)


def open_rows(workspace: Path, prompt: PromptStyle, encoder: ImageEncoder) -> RowStore:
    """The rows of this prompt style in the workspace: another template, tokenizer or limit has others."""
    tokenizer, processor = prompt.tokenizer, prompt.processor
    identity = hashlib.sha256()
    for part in (
        *(transformers.__version__, type(prompt).__name__, str(prompt.max_length)),
        *(type(encoder.model).__name__, str(sorted(encoder.taken))),
        *(str(processor.to_dict()), processor.image_processor.to_json_string()),
        str(getattr(processor, "chat_template", None)),
        *(str(tokenizer.init_kwargs), str(tokenizer.get_added_vocab())),
        tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else "",
    ):
        identity.update(part.encode() + b"\0")
    for name in tokenizer.vocab_files_names:
        file = vars(tokenizer).get(name)
        if isinstance(file, str) and Path(file).is_file():
            identity.update(Path(file).read_bytes())
    return RowStore(workspace / "cache" / "text-rows" / identity.hexdigest()[:24])


def key_of(example: Example, images: str, *, to_train: bool) -> bytes:
    """The key of an example's row: `images` tells the content of its images."""
    parts = [images, str(to_train), *(part for m in example.messages for part in (m.role, m.text))]
    return hashlib.sha256("\0".join(map(repr, parts)).encode()).digest()


def _packed(rows: dict[bytes, Row]) -> Row:
    keys = torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8).reshape(len(rows), -1)
    packed = {KEYS: keys}
    for name in dict.fromkeys(name for row in rows.values() for name in row):
        found = [row.get(name) for row in rows.values()]
        there = [tensor for tensor in found if tensor is not None]
        packed[VALUES + name] = torch.cat([tensor.flatten() for tensor in there])
        none = [-1] * there[0].dim()
        packed[SHAPES + name] = torch.tensor([none if x is None else [*x.shape] for x in found])
    return packed


def _unpacked(packed: Row) -> dict[bytes, Row]:
    keys = [bytes(key) for key in packed[KEYS].numpy()]
    rows: dict[bytes, Row] = {key: {} for key in keys}
    for name in (field.removeprefix(VALUES) for field in packed if field.startswith(VALUES)):
        values, at = packed[VALUES + name], 0
        for key, shape in zip(keys, packed[SHAPES + name].tolist(), strict=True):
            if -1 not in shape:
                size = torch.Size(shape).numel()
                rows[key][name] = values[at : at + size].reshape(shape)
                at += size
    return rows

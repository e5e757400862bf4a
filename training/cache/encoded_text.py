"""A cache of tokenized examples on disk, shared between runs: one row of text tensors for each example.

A chat model's text holds a token for each piece of an image, so that it can't be tokenized without opening
the image. Rows are read whole when a run begins and appended at its checkpoints.
"""

import hashlib
import os
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file

from training.cache.tensor_store import evict, save_shard
from vlm.example import Example
from vlm.image_features import ImageEncoder
from vlm.prompting import PromptStyle

# The text inputs of one example by name, each [1, L], and what positions need beside them (image grids).
TextRow = dict[str, torch.Tensor]

# A file of N rows has few tensors: `keys` [N, 32] of digests, and of each field `values` of all rows in one
# line and `shapes` [N, D], -1 where a row lacks the field. One tensor for each row and field would make
# headers of tens of megabytes.
KEYS, VALUES, SHAPES = "keys", "values ", "shapes "


class RowStore:
    """Rows by key, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[bytes, TextRow] = {}
        self.pending: dict[bytes, TextRow] = {}
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)  # the time of last use, which `evict` sorts by
        for file in sorted(folder.glob("*.safetensors")):
            try:
                packed = load_file(file)
                rows: dict[bytes, TextRow] = {bytes(key): {} for key in packed[KEYS].numpy()}
                for name in (field.removeprefix(VALUES) for field in packed if field.startswith(VALUES)):
                    values, at = packed[VALUES + name], 0
                    for row, shape in zip(rows.values(), packed[SHAPES + name].tolist(), strict=True):
                        if -1 not in shape:
                            size = torch.Size(shape).numel()
                            row[name] = values[at : at + size].reshape(shape)
                            at += size
            except (OSError, SafetensorError, KeyError, RuntimeError):  # just deleted by another, or damaged
                continue
            self.rows |= rows

    def get(self, key: bytes) -> TextRow | None:
        return self.rows.get(key)

    def add(self, key: bytes, row: TextRow) -> None:
        """Add a row; it reaches the disk with `flush`."""
        self.rows[key] = self.pending[key] = row

    def flush(self) -> None:
        """Write the rows added since the last flush as one file.

        Raises:
            OSError: The disk is full.
        """
        if not self.pending:
            return
        rows = self.pending.values()
        digests = bytearray(b"".join(self.pending))
        packed = {KEYS: torch.frombuffer(digests, dtype=torch.uint8).reshape(len(rows), -1)}
        for name in dict.fromkeys(name for row in rows for name in row):
            present = [row[name] for row in rows if name in row]
            lacking = [-1] * present[0].dim()
            packed[VALUES + name] = torch.cat([tensor.flatten() for tensor in present])
            shapes = [[*row[name].shape] if name in row else lacking for row in rows]
            packed[SHAPES + name] = torch.tensor(shapes)
        save_shard(self.folder, packed)
        self.pending = {}
        evict(self.folder.parent, keep=self.folder)


def open_rows(workspace: Path, prompt: PromptStyle, encoder: ImageEncoder) -> RowStore:
    """The workspace's rows of this prompt style: another template, tokenizer or limit has its own folder."""
    tokenizer, processor = prompt.tokenizer, prompt.processor
    identity = hashlib.sha256()
    # All that decides which tokens a text becomes. A setting that is missing here would hand a run the rows
    # of another one, and train on them without a word.
    for part in (
        *(transformers.__version__, type(prompt).__name__, str(prompt.max_length)),
        *(type(encoder.model).__name__, str(sorted(encoder.taken))),
        *(str(processor.to_dict()), processor.image_processor.to_json_string()),
        str(getattr(processor, "chat_template", None)),
        *(str(tokenizer.init_kwargs), str(tokenizer.get_added_vocab())),
        tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else "",
    ):
        identity.update(part.encode() + b"\0")
    # A slow tokenizer has no backend to print: its vocabulary is in files.
    for name in tokenizer.vocab_files_names:
        file = vars(tokenizer).get(name)
        if isinstance(file, str) and Path(file).is_file():
            identity.update(Path(file).read_bytes())
    return RowStore(workspace / "cache" / "text-rows" / identity.hexdigest()[:24])


def key_of(example: Example, images: str, *, to_train: bool) -> bytes:
    """The key of an example's row: its messages, its images' content (`images`) and what the row is for."""
    turns = (part for m in example.messages for part in (m.role, m.text, *[""] * (not m.learned)))
    parts = [images, str(to_train), *turns]
    # `repr` quotes each part: a text with a NUL in it can't pass for two.
    return hashlib.sha256("\0".join(map(repr, parts)).encode()).digest()

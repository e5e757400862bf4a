"""Questions about one image as one sequence: what they begin with goes through the text tower once.

A batch of a VQA set repeats itself: the image's tokens and the instruction stand before each question about
one picture. Merged, they are a row's beginning, and what differs are its branches: each sees the beginning
and itself, and counts its positions on from there. In a causal model no token sees what comes after it, so
that loss and gradients stay what they were. That a model keeps to this is proved (training.batching.setup).
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from vlm.image_features import TEXT_INPUTS
from vlm.prompting import IGNORED

Row = Mapping[str, torch.Tensor]
NOBODY = -1
"""Whose the padding is."""
MASKS = {"sdpa": torch.bool, "eager": torch.float32}
"""Attention that takes a mask of its own shape: what may be seen, or what is added to the scores."""

FULL = "full_attention"
"""Other layers see a window or blocks, or remember what came before: branches would meet there."""


@dataclass(frozen=True, slots=True)
class Merged:
    """`inputs` of G rows, `firsts` [G]: what example each begins with, `owners` [G, L]: whose a token is."""

    inputs: dict[str, torch.Tensor]
    firsts: list[int]
    owners: torch.Tensor


class SharedPrefixes:
    """Merges rows for one model. Raises `ValueError` for a model whose attention or images don't allow it."""

    def __init__(self, model: PreTrainedModel, pad_token_id: int) -> None:
        config, text = model.config, model.config.get_text_config()
        ids = (getattr(config, name, None) for name in ("image_token_id", "image_token_index"))
        self.image_token_id = next((found for found in ids if found is not None), None)
        attention = text._attn_implementation
        if self.image_token_id is None or config.is_encoder_decoder or attention not in MASKS:
            raise ValueError("its attention takes no mask of branches")
        kinds = {*(getattr(text, "layer_types", None) or [FULL])}
        if getattr(text, "sliding_window", None) or kinds != {FULL}:
            raise ValueError("not all its layers are full attention")
        self.mask_dtype = MASKS[attention]
        self.width = text.hidden_size
        self.always = False
        """Whether to merge what is no gain too: for the proof."""
        self.padding = {"input_ids": pad_token_id, "labels": IGNORED}
        self.rope = next((m.get_rope_index for m in model.modules() if hasattr(m, "get_rope_index")), None)

    def merge(self, rows: Sequence[Row], images: Sequence[Hashable]) -> Merged | None:
        """Rows of one example each, and what tells their images apart; None where merging saves nothing."""
        groups: dict[Hashable, list[int]] = {}
        for index, key in enumerate(images):
            groups.setdefault(key if key else ("no image", index), []).append(index)
        begun = {key: self._beginning([rows[i] for i in group]) for key, group in groups.items()}
        split = [[i] for key, group in groups.items() if not begun[key] for i in group]
        joined = [(group, begun[key]) for key, group in groups.items() if begun[key]]
        packed = [(group, shared) for group, shared in [*joined, *((one, 0) for one in split)]]
        lengths = [row["input_ids"].shape[1] for row in rows]
        longest = max(sum(lengths[i] - shared for i in group) + shared for group, shared in packed)
        saves = self._cost(len(packed), longest) < self._cost(len(rows), max(lengths))
        if not joined or not (saves or self.always):
            return None
        return self._packed(rows, packed, longest)

    def _cost(self, rows: int, length: int) -> float:
        """What a batch takes, in tokens: a layer's matrices, and attention, whose share grows with length.

        Of a layer of width W, matrices take about 12 W^2 multiplications a token, scores and values 2 L W.
        """
        return rows * length * (1 + length / (6 * self.width))

    def _beginning(self, rows: Sequence[Row]) -> int:
        """How many tokens the rows begin with alike; 0 where that is no gain, or images stand further on.

        What predicts an answer's first token belongs to its branch, since branches may answer differently.
        """
        if len(rows) == 1:
            return 0
        answered = [int((row["labels"][0] != IGNORED).int().argmax()) for row in rows]
        most = max(0, min(answered) - 1)
        starts = torch.stack([row["input_ids"][0, :most] for row in rows])
        alike = (starts == starts[0]).all(0).int().cumprod(0)
        shared = int(alike.sum())
        later = any((row["input_ids"][0, shared:] == self.image_token_id).any() for row in rows)
        return 0 if later else shared

    def _packed(self, rows: Sequence[Row], packed: Sequence[tuple[list[int], int]], longest: int) -> Merged:
        known = dict.fromkeys(name for row in rows for name in row)
        texts = [name for name in known if name in TEXT_INPUTS and name != "attention_mask"]
        inputs = {n: torch.full((len(packed), longest), self.padding.get(n, 0)) for n in texts}
        owners = torch.full((len(packed), longest), NOBODY)
        branches = torch.full((len(packed), longest), NOBODY)
        places = []
        for at, (group, shared) in enumerate(packed):
            parts = [(group[0], slice(0, shared)), *((i, slice(shared, None)) for i in group)]
            for name in texts:
                whole = torch.cat([_of(rows[i], name)[part] for i, part in parts])
                inputs[name][at, : len(whole)] = whole
            sizes = [rows[i]["input_ids"][0, part].shape[0] for i, part in parts]
            owner = torch.tensor([i for i, _ in parts]).repeat_interleave(torch.tensor(sizes))
            owners[at, : len(owner)] = owner
            branch = torch.arange(len(parts)).repeat_interleave(torch.tensor(sizes))
            branches[at, : len(branch)] = branch
            counted = torch.cat([self._positions(rows[i])[..., part] for i, part in parts], dim=-1)
            places.append(nn.functional.pad(counted, (0, longest - counted.shape[-1])))
        inputs["position_ids"] = torch.stack(places, dim=-2)
        inputs["attention_mask"] = self._mask(branches)
        firsts = [group[0] for group, _ in packed]
        for name in dict.fromkeys(name for i in firsts for name in rows[i] if name not in TEXT_INPUTS):
            inputs[name] = torch.cat([rows[i][name] for i in firsts if name in rows[i]])
        return Merged(inputs, firsts, owners)

    def _positions(self, row: Row) -> torch.Tensor:
        """[L], or [3, L] where a model counts an image's height and width."""
        ids = row["input_ids"].long()
        counted = torch.arange(ids.shape[1])
        if self.rope is None:
            return counted
        if "mm_token_type_ids" not in row:  # there is no image
            return counted.expand(3, -1)
        about = {name: x for name, x in row.items() if name.endswith("thw") or name == "mm_token_type_ids"}
        return self.rope(**({"input_ids": ids} | about))[0][:, 0]

    def _mask(self, branches: torch.Tensor) -> torch.Tensor:
        """[G, 1, L, L]: a token sees what stands before it in its branch and in branch 0, the beginning."""
        causal = torch.ones(branches.shape[1], branches.shape[1], dtype=torch.bool).tril()
        seen = causal & ((branches[:, None] == 0) | (branches[:, None] == branches[:, :, None]))
        if self.mask_dtype == torch.bool:
            return seen[:, None]
        return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(self.mask_dtype).min)[:, None]


def _of(row: Row, name: str) -> torch.Tensor:
    """[L]: a row without images may lack what tells them apart."""
    return row[name][0] if name in row else torch.zeros_like(row["input_ids"][0])

"""Shared-prefix (tree) attention: questions about one image as one sequence, their prefix computed once.

A batch of a VQA set repeats itself: before each question about a picture stand the image's tokens and the
instruction. Merged, they become the prefix of one row, and what differs its branches. In a causal model no
token sees what comes after it, so that loss and gradients stay what they were: each model is tried for it
(training.batching.equivalence). Two examples A and B about one image, whose prefix is `i i q`:

    apart   A  i i q a .       merged row   i i q  a .  b b .
            B  i i q b b .     branches     0 0 0  1 1  2 2 2     -1 is padding
                               owners       A A A  A A  B B B     whose loss a token counts for
                               positions    0 1 2  3 4  3 4 5     each branch counts on from the prefix

    attention mask             i i q  a .  b b .
    (x: the row's token    a   x x x  x
    sees the column's)     .   x x x  x x
                           b   x x x       x
                           b   x x x       x x
                           .   x x x       x x x
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from training.cache.encoded_text import TextRow
from vlm.image_features import GRID, TEXT_INPUTS
from vlm.prompting import IGNORED

# The owner of padding, which belongs to no example.
PADDING_OWNER = -1

# Attention that takes a mask [G, 1, L, L] of any shape: what may be seen, or what is added to the scores.
# FlashAttention knows causal masks and padding alone.
MASKS = {"sdpa": torch.bool, "eager": torch.float32}

# Other layers see a window or blocks by distance in the sequence, or carry a state along it: there the
# branches, which lie behind one another in the merged row, would meet whatever the mask says.
FULL_ATTENTION = "full_attention"


@dataclass(frozen=True, slots=True)
class MergedRows:
    """`inputs` of G rows of L tokens, `firsts` [G]: the example each begins with, `owners` [G, L]."""

    inputs: dict[str, torch.Tensor]
    firsts: list[int]
    owners: torch.Tensor


class SharedPrefixes:
    """Merges the rows of a batch for one model.

    Raises:
        ValueError: The model's attention or its images don't allow it.
    """

    def __init__(self, model: PreTrainedModel, pad_token_id: int) -> None:
        config, text = model.config, model.config.get_text_config()
        ids = (getattr(config, name, None) for name in ("image_token_id", "image_token_index"))
        self.image_token_id = next((token for token in ids if token is not None), None)
        attention = text._attn_implementation
        if self.image_token_id is None or config.is_encoder_decoder or attention not in MASKS:
            raise ValueError("its attention takes no mask of branches")
        kinds = {*(getattr(text, "layer_types", None) or [FULL_ATTENTION])}
        # Mistral's window is a number beside the layers, which are listed nowhere.
        if getattr(text, "sliding_window", None) or kinds != {FULL_ATTENTION}:
            raise ValueError("not all its layers are full attention")
        self.mask_dtype = MASKS[attention]
        self.width = text.hidden_size
        self.padding = {"input_ids": pad_token_id, "labels": IGNORED}
        self.rope = next((m.get_rope_index for m in model.modules() if hasattr(m, "get_rope_index")), None)

    def merge(
        self, rows: Sequence[TextRow], images: Sequence[Hashable], *, always: bool = False
    ) -> MergedRows | None:
        """The rows of one example each, merged where their `images` are equal; None where that saves nothing.

        With `always` rows are merged at a loss too: a proof has too few tokens for a gain.
        """
        groups: dict[Hashable, list[int]] = {}
        for index, key in enumerate(images):
            groups.setdefault(key or ("no image", index), []).append(index)
        # Members and prefix length of each merged row; a group that has nothing in common stays single rows.
        joined: list[tuple[list[int], int]] = []
        single: list[tuple[list[int], int]] = []
        for group in groups.values():
            shared = self._shared_length([rows[i] for i in group])
            if shared:
                joined.append((group, shared))
            else:
                single += [([i], 0) for i in group]
        packed = joined + single
        lengths = [row["input_ids"].shape[1] for row in rows]
        longest = max(sum(lengths[i] - shared for i in group) + shared for group, shared in packed)
        saves = self._cost(len(packed), longest) < self._cost(len(rows), max(lengths))
        return self._pack(rows, packed, longest) if joined and (saves or always) else None

    def _cost(self, rows: int, length: int) -> float:
        """What a batch takes, in tokens of a layer's matrices: merged rows are fewer, but longer.

        Of a layer of width W, matrices take about 12 W^2 multiplications a token, scores and values 2 L W.
        """
        return rows * length * (1 + length / (6 * self.width))

    def _shared_length(self, rows: Sequence[TextRow]) -> int:
        """How many tokens all rows begin with; 0 for one row alone, or where images stand further on."""
        if len(rows) == 1:
            return 0
        answered = [int((row["labels"][0] != IGNORED).int().argmax()) for row in rows]
        # The token before an answer predicts its first token. It belongs to the branch even where questions
        # are the same: their answers may differ, and each token trains for one owner. So the first label of
        # every branch is IGNORED too, and nothing that lies before a branch in the row has to predict it.
        most = max(0, min(answered) - 1)
        starts = torch.stack([row["input_ids"][0, :most] for row in rows])
        shared = int((starts == starts[0]).all(0).int().cumprod(0).sum())
        # The features handed to the model are those of each merged row's first example.
        later = any((row["input_ids"][0, shared:] == self.image_token_id).any() for row in rows)
        return 0 if later else shared

    def _pack(
        self, rows: Sequence[TextRow], packed: Sequence[tuple[list[int], int]], length: int
    ) -> MergedRows:
        """One row of `length` tokens for each of `packed` (members, prefix length), as drawn above."""
        fields = [name for name in dict.fromkeys(name for row in rows for name in row) if name in TEXT_INPUTS]
        fields.remove("attention_mask")  # made below from the branches
        shape = (len(packed), length)
        inputs = {name: torch.full(shape, self.padding.get(name, 0)) for name in fields}
        owners, branches = torch.full(shape, PADDING_OWNER), torch.full(shape, -1)
        positions = []
        for at, (group, shared) in enumerate(packed):
            # The prefix as the first member wrote it, then of each member what follows the prefix.
            parts = [(group[0], slice(0, shared)), *((i, slice(shared, None)) for i in group)]
            counted, begin = [], 0
            for branch, (example, part) in enumerate(parts):
                row = rows[example]
                end = begin + row["input_ids"][0, part].numel()
                for name in fields:
                    if name in row:  # a row without images may lack the field that marks image tokens: zeros
                        inputs[name][at, begin:end] = row[name][0, part]
                owners[at, begin:end], branches[at, begin:end] = example, branch
                counted.append(self._positions(row)[..., part])
                begin = end
            positions.append(nn.functional.pad(torch.cat(counted, dim=-1), (0, length - begin)))
        inputs["position_ids"] = torch.stack(positions, dim=-2)  # [G, L], or [3, G, L]

        # A token sees what stands before it in the prefix (branch 0) and in its own branch. Padding sees
        # padding: a softmax over a row of the mask without any token would be NaN.
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        seen = causal & ((branches[:, None] == 0) | (branches[:, None] == branches[:, :, None]))
        if self.mask_dtype != torch.bool:
            # The lowest finite number, as in transformers' own masks: a row of nothing but -inf is NaN.
            seen = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(self.mask_dtype).min)
        inputs["attention_mask"] = seen[:, None]

        firsts = [group[0] for group, _ in packed]
        for name in dict.fromkeys(name for i in firsts for name in rows[i] if name not in TEXT_INPUTS):
            inputs[name] = torch.cat([rows[i][name] for i in firsts if name in rows[i]])
        return MergedRows(inputs, firsts, owners)

    def _positions(self, row: TextRow) -> torch.Tensor:
        """[L], or [3, L] where a position is a time, a row and a column (Qwen's multimodal RoPE).

        They are taken from the row as it is apart: after an image the text goes on from its largest side, not
        from its number of tokens, so that they can't be counted in the merged row.
        """
        ids = row["input_ids"].long()
        counted = torch.arange(ids.shape[1])
        if self.rope is None:
            return counted
        if "mm_token_type_ids" not in row:  # there is no image
            return counted.expand(3, -1)
        grids = {name: x for name, x in row.items() if name.endswith(GRID) or name == "mm_token_type_ids"}
        return self.rope(**({"input_ids": ids} | grids))[0][:, 0]

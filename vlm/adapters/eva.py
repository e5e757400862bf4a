"""EVA: a LoRA begins along the directions in which what goes into its layers varies most (arXiv:2410.07170).

With rho = 1: each layer keeps its rank. PEFT's `initialize_lora_eva_weights` is not used: it goes
on for ever where a layer's inputs vary in fewer directions than its rank, writes the adapter's targets
anew by name, and compares activations number by number in Python.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import BatchFeature

SEED = 42
SPARE = 32
# Of a batch's thousands of patches so many are looked at, drawn at random, or four times the rank.
ROWS = 1024
# Directions of a smaller part of the largest one's spread are rounding errors.
LEAST_SPREAD = 1e-4


@dataclass(slots=True)
class Inputs:
    """What has gone into a layer: `count` rows, their `mean` [D], and their `main` directions [K, D].

    These are as long as the rows spread along them.
    """

    rank: int
    count: int = 0
    mean: torch.Tensor | None = None
    main: torch.Tensor | None = None

    def add(self, rows: torch.Tensor) -> None:
        """Takes [N, D] more rows in: incremental PCA (Ross et al. 2008, doi:10.1007/s11263-007-0075-7)."""
        if len(rows) > (most := max(ROWS, 4 * self.rank)):
            rows = rows[torch.randperm(len(rows), device=rows.device)[:most]]
        count, mean = len(rows), rows.mean(0)
        parts, total = [rows - mean], self.count + count
        if self.main is not None:
            # What lies between the two means is a row of its own.
            parts += [self.main, math.sqrt(self.count * count / total) * (self.mean - mean)[None]]
            mean = (self.count * self.mean + count * mean) / total
        matrix = torch.cat(parts)
        # More than the rank: what is left out here is lost to later rows.
        most = min(2 * self.rank + SPARE, *matrix.shape)
        _, spread, directions = torch.svd_lowrank(matrix, q=most, niter=2)
        self.main, self.mean, self.count = (directions * spread).T, mean, total


def start_along_inputs(model: PeftModel, batches: Iterable[BatchFeature]) -> None:
    """Turns the A of each of a fresh LoRA's linear layers along what goes into it over these batches.

    Rows of A beyond the directions that there are keep their random start. B stays 0, so that the model still
    answers as its base.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer) and isinstance(module.lora_A["default"], nn.Linear)
    }
    found: dict[str, Inputs] = {}
    source: dict[str, str] = {}  # the layer whose input each has: q, k and v of an attention share one
    last: tuple[Any, str] = None, ""
    mask = torch.empty(0)

    def look(name: str, layer: LoraLayer, arguments: tuple[torch.Tensor, ...]) -> None:
        nonlocal last
        if arguments[0] is not last[0]:
            last = arguments[0], name
            # Tokens [B, L, D] are padded; patches and a decoder's answers have other shapes.
            padded = arguments[0].shape[:-1] == mask.shape
            rows = arguments[0][mask] if padded else arguments[0].flatten(0, -2)
            # Apple's GPUs have no QR.
            rows = rows.to(rows.device if rows.is_cuda else "cpu", torch.float32)
            found.setdefault(name, Inputs(layer.r["default"])).add(rows)
        source[name] = last[1]

    hooks = [layer.register_forward_pre_hook(partial(look, name)) for name, layer in layers.items()]
    was_training = model.training
    try:
        # The random numbers of a run go on as if nothing had been drawn here.
        with torch.no_grad(), torch.random.fork_rng(), model.disable_adapter():
            torch.manual_seed(SEED)
            model.eval()
            for batch in batches:
                batch = batch.to(model.device)
                mask = batch["attention_mask"].bool() if "attention_mask" in batch else mask
                model(**batch)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    for name, layer in layers.items():
        if name in source:
            main, weight = found[source[name]].main, layer.lora_A["default"].weight
            spread = main.norm(dim=1, keepdim=True)
            main = (main / spread)[spread[:, 0] > LEAST_SPREAD * spread.max()][: len(weight)]
            weight.data[: len(main)] = main.to(weight.device, weight.dtype)

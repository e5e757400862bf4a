"""Memory estimate of a run before it starts: how much it takes, whether it fits, and what would help most.

Weights, adapter and optimizer are counted on the meta device, activations by simulating a step there
(training.memory.simulate). No weight is read. The starter's defaults are in a committed table, so that the
first paint needs no torch.
"""

import ctypes
import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import psutil

from training.config import TrainingConfig
from vlm import catalog
from vlm.lazy_torch import import_torch
from vlm.meta_model import COMMITTED, adapter_settings, architecture, tower_counts
from vlm.methods import METHODS
from vlm.settings import ModelSettings

Fit = Literal["fits", "tight", "wont_fit"]

# The starter's estimates on a CPU with default settings, and those settings; a test keeps them true.
STARTER_MEMORY_FILE = Path(__file__).resolve().parents[2] / "vlm" / "starter" / "memory.json"

# Bytes that a process holds when torch, transformers, peft and datasets are imported: 467 to 490 MiB
# measured.
IMPORTED = 480 << 20
# Bytes that a run on a CPU takes for processor, data and the allocator's small change: measured.
RUNTIME_OVERHEAD = 64 << 20
# Bytes that CUDA's context and the libraries' workspaces take. Not measured here: from reports.
GPU_CONTEXT = 600 << 20
# Bytes of the C library's heap for a byte in blocks below 32 MiB: freed blocks leave holes that larger ones
# don't fit in. Measured (benchmarks/RESULTS.md): 1.3 to 1.5, and 3 to 4 where activations are computed again,
# which is why `give_blocks_back` is for those runs.
FRAGMENTATION = 1.4
# The same after `give_blocks_back`.
FRAGMENTATION_GIVEN_BACK = 1.1
# The same of torch's allocator on a GPU. Not measured here.
GPU_FRAGMENTATION = 1.1
# The part of a device's memory up to which a run surely fits: estimates are right within a quarter.
SAFETY_MARGIN = 0.8
# The part of the memory that a setting has to save to be named where it alone is not enough.
MINIMUM_SAVING = 0.05
# glibc's number for that setting, in malloc.h; ctypes has no headers to read it from.
M_MMAP_THRESHOLD = -3


@dataclass(frozen=True, slots=True)
class Examples:
    """The longest examples of a dataset that was read; else the usual ones.

    `tokens` are those of a whole example, image tokens included. `image_size` is in pixels.
    """

    tokens: int | None = None
    text_tokens: int = 64
    answer_tokens: int = 32
    images: int = 1
    image_size: tuple[int, int] = (640, 480)


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes of memory that a run takes at its peak on its device, by what takes them.

    `weights` are the base's; of them `mapped` stay in their file, which the system may drop and read again.
    `activations` are what a step keeps for its backward pass, and its largest intermediate results.
    `overhead` is what libraries take.
    """

    device: str
    weights: int
    mapped: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    overhead: int

    @property
    def total(self) -> int:
        """Bytes. `mapped` is a part of `weights`."""
        return (
            self.weights + self.adapter + self.gradients + self.optimizer + self.activations + self.overhead
        )


@dataclass(frozen=True, slots=True)
class Remedy:
    """One setting, the value that helps, and the estimate with it."""

    setting: str
    value: Any
    estimate: MemoryEstimate


def estimate(config: TrainingConfig, examples: Examples = Examples()) -> MemoryEstimate:
    """Returns the memory that a run with these settings takes.

    Raises:
        UserError: as `tower_counts` does.
    """
    if "torch" not in sys.modules:
        committed = json.loads(STARTER_MEMORY_FILE.read_text())
        if all(getattr(config, name) == value for name, value in committed["settings"].items()):
            adapter = adapter_settings(config)
            for name, settings in COMMITTED.items():
                if adapter == settings:
                    return MemoryEstimate(**committed[name])
    import_torch()
    from vlm.models.loading import pick_device, pick_precision

    device = pick_device(config.device).type
    precision = pick_precision(config.precision, pick_device(config.device))
    counts = tower_counts(config)
    base = (config.model, config.revision, config.quantization, config.quantize_vision)
    weights, mapped, parameters = _weights(*base, precision, device)
    training, evaluating = _activations(config, device, precision, examples)
    # AdamW keeps two moments of each trained parameter: 4 bytes, or 1 and a scale of 4 for 256 of them.
    in_8_bits = config.optim in ("adamw_8bit", "paged_adamw_8bit")
    in_8_bits |= config.optim == "auto" and config.quantization != "none" and device == "cuda"
    gradients = 4 * counts.trainable
    return MemoryEstimate(
        device=device,
        weights=weights,
        mapped=mapped,
        adapter=4 * (counts.total - parameters),  # PEFT keeps adapters in fp32 whatever the base is in
        gradients=gradients,
        optimizer=int(counts.trainable * 2 * (1 + 4 / 256 if in_8_bits else 4)),
        # Gradients are freed after a step, so what runs without them may take their place.
        activations=int(max(training, evaluating - gradients)),
        overhead=IMPORTED + RUNTIME_OVERHEAD if device == "cpu" else GPU_CONTEXT,
    )


def fit(needed: MemoryEstimate, memory: int) -> Fit:
    """Returns whether an estimate fits in so many bytes of memory."""
    if needed.total <= SAFETY_MARGIN * memory:
        return "fits"
    return "tight" if needed.total <= memory else "wont_fit"


def device_memory(device: str, cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Returns the bytes that a run may use: all of a GPU's, on a CPU what is free within a container's limit.

    Raises:
        UserError: there is no such device.
    """
    if device != "cpu":
        import_torch()
        import torch

        from vlm.models.loading import pick_device

        found = pick_device(device)
        if found.type == "cuda":
            return torch.cuda.get_device_properties(found).total_memory
        if found.type == "mps":
            return torch.mps.recommended_max_memory()
    free = [psutil.virtual_memory().available]
    # psutil tells of the machine; a container may have less. Control groups have had two sets of names.
    for folder, limit, used in (
        (cgroups, "memory.max", "memory.current"),
        (cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            most, now = ((folder / name).read_text().strip() for name in (limit, used))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except OSError:
            continue
        if most.isdecimal():  # else "max": no limit
            # Cached pages of files that nothing has used for a while are dropped before anything is refused.
            idle = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
            free.append(max(0, int(most) - int(now) + idle))
    return min(free)


def best_remedy(config: TrainingConfig, memory: int, examples: Examples = Examples()) -> Remedy | None:
    """Returns the one setting that makes a run fit in so many bytes, or nearest to it; None where it fits.

    Of those that make it fit the first is taken that changes least: computing activations again and smaller
    batches leave what is learned as it is. A smaller model is named where nothing else helps much.
    """
    now = estimate(config, examples)
    if fit(now, memory) == "fits":
        return None
    found: list[Remedy] = []
    for setting, value in _changes(config, now, memory):
        changed = config.model_copy(update={setting: value})
        found.append(Remedy(setting, value, estimate(changed, examples)))
        if fit(found[-1].estimate, memory) == "fits":
            return found[-1]
    nearest = min(found, key=lambda remedy: remedy.estimate.total, default=None)
    if nearest is not None and nearest.estimate.total < (1 - MINIMUM_SAVING) * now.total:
        return nearest
    parameters = sum(weight.numel() for weight in architecture(config.model, config.revision).parameters())
    for entry in sorted(catalog.CATALOG, key=lambda entry: -entry.parameters):
        # In proportion to its size: a model on offer may not be on this machine, and is not fetched to be
        # counted.
        share = entry.parameters * 1e6 / parameters
        parts = ("weights", "mapped", "adapter", "gradients", "optimizer", "activations")
        scaled = replace(now, **{part: int(getattr(now, part) * share) for part in parts})
        if share < 1 and fit(scaled, memory) == "fits":
            return Remedy("model", entry.model, scaled)
    return None


def _changes(config: TrainingConfig, now: MemoryEstimate, memory: int) -> Iterator[tuple[str, Any]]:
    """Yields single settings to try, the least of a change first."""
    from vlm.models.quantization import BITSANDBYTES_DEVICES

    method, base = METHODS[config.method], architecture(config.model, config.revision)
    if not config.gradient_checkpointing and base.supports_gradient_checkpointing:
        yield "gradient_checkpointing", True
    batch_size, room = config.batch_size, SAFETY_MARGIN * memory - (now.total - now.activations)
    # Activations grow in proportion to the batch: sizes that can't fit by that are not simulated.
    wanted = batch_size * max(room, 0) / max(now.activations, 1)
    while batch_size > 1:
        batch_size //= 2
        if batch_size <= max(wanted, 1):
            yield "batch_size", batch_size
    can_be_quantized = now.device in BITSANDBYTES_DEVICES and "4bit" in method.quantizations
    if config.quantization != "4bit" and can_be_quantized:
        yield "quantization", "4bit"
    if config.optim not in ("adamw_8bit", "paged_adamw_8bit") and now.optimizer > now.total / 10:
        yield "optim", "adamw_8bit"
    for rank in ("text_lora_r", "vision_lora_r"):
        if method.rank and getattr(config, rank) > 1:
            yield rank, getattr(config, rank) // 2


@lru_cache(maxsize=64)
def _weights(
    model: str, revision: str | None, quantization: str, quantize_vision: bool, precision: str, device: str
) -> tuple[int, int, int]:
    """Returns the bytes of the base's weights, those of them that stay in their file, and the parameters."""
    from torch import nn

    from vlm.models.loading import DTYPES
    from vlm.models.quantization import full_precision_modules
    from vlm.models.towers import find_towers

    whole = architecture(model, revision)
    wanted = ModelSettings(model=model, quantization=quantization, quantize_vision=quantize_vision)
    left = full_precision_modules(wanted, whole, find_towers(whole))
    small = {
        f"{name}.weight"
        for name, module in whole.named_modules()
        if isinstance(module, nn.Linear) and not any(f"{name}.".startswith(f"{other}.") for other in left)
    }
    dtype, total, mapped, parameters = DTYPES[precision], 0.0, 0, 0
    for name, weight in whole.named_parameters():
        parameters += weight.numel()
        if quantization == "8bit" and name in small:
            total += weight.numel() + 4 * weight.shape[0]  # a scale in fp32 for each output
        elif quantization == "4bit" and name in small:
            # NF4: a scale of 8 bits for 64 weights, and one of 32 bits for 256 of those (arXiv:2305.14314).
            total += weight.numel() * (1 / 2 + 1 / 64 + 4 / (64 * 256))
        else:
            size = weight.numel() * (dtype.itemsize if weight.is_floating_point() else weight.itemsize)
            total += size
            # Weights that are stored as they are used are mapped: the system may drop them and read them
            # again.
            mapped += size if device == "cpu" and weight.dtype == dtype else 0
    return int(total), mapped, parameters


def _activations(
    config: TrainingConfig, device: str, precision: str, examples: Examples
) -> tuple[float, float]:
    """Returns the bytes beyond weights, adapter and optimizer at the peaks of training and of evaluation.

    The second is of the evaluation, in batches twice as large, and of the encoding of images for their cache.
    """
    from training.cache.image_features import BATCH_SIZE
    from training.memory import simulate
    from training.memory.simulate import Machine, SimulatedModel, Step

    adapter = adapter_settings(config, lora_dropout=config.lora_dropout)
    model = SimulatedModel(config.model, config.revision, adapter, examples.image_size)
    fragmentation = FRAGMENTATION_GIVEN_BACK if config.gradient_checkpointing else FRAGMENTATION
    machine = Machine(device, precision, fragmentation if device == "cpu" else GPU_FRAGMENTATION)
    image = simulate.image_inputs(model)
    tokens = examples.tokens
    if tokens is None:
        # An encoder-decoder's answer is its decoder's, no part of what its encoder reads.
        read = 0 if image.is_encoder_decoder else examples.answer_tokens
        tokens = examples.text_tokens + examples.images * image.tokens + read
    step = Step(
        examples=config.batch_size,
        tokens=min(tokens, config.max_length),
        answer_tokens=examples.answer_tokens,
        images=examples.images,
        encodes=not image.cached,
        checkpointing=config.gradient_checkpointing,
    )
    others = []
    if config.held_out > 0:
        others.append(replace(step, examples=2 * step.examples, trains=False, checkpointing=False))
    if image.cached and examples.images:
        others.append(replace(step, examples=BATCH_SIZE, trains=False, encodes=True, reads=False))
    training = simulate.peak(model, machine, step)
    return training, max((simulate.peak(model, machine, other) for other in others), default=0)


def give_blocks_back() -> None:
    """Makes the C library return each freed block of a megabyte or more to the system at once.

    For a run on a CPU whose activations are computed again: it takes a third of the memory, and a quarter
    more time.
    """
    if platform.libc_ver()[0] == "glibc":  # no other C library has mallopt(3)
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)

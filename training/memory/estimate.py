"""How much memory a run will take, before it starts: an estimate, whether it fits, and what would help most.

Weights, adapter and optimizer are counted on the meta device; what a step keeps besides is found by taking it
there (training.memory.simulate). No weight is read. The starter's defaults are in a committed table, so that
the first paint needs no torch.
"""

import ctypes
import json
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import psutil

from vlm import catalog
from vlm.lazy_torch import import_torch
from vlm.meta_model import COMMITTED, adapter_settings, architecture, tower_counts
from vlm.methods import METHODS
from vlm.settings import ModelSettings

if TYPE_CHECKING:
    import torch
Fit = Literal["fits", "tight", "wont_fit"]

STARTER_MEMORY_FILE = Path(__file__).resolve().parents[2] / "vlm" / "starter" / "memory.json"
"""The starter's estimates on a CPU with default settings, and those settings; a test keeps them true."""

IMPORTED = 480 << 20
"""Bytes that a process holds when torch, transformers, peft and datasets are imported: 467 to 490 MiB."""
AT_WORK = 64 << 20
"""Bytes that a run on a CPU takes for processor, data and the allocator's small change: measured."""
GPU_CONTEXT = 600 << 20
"""Bytes that CUDA's context and the libraries' workspaces take on a GPU. Not measured here: from reports."""
HOLES = 1.4
"""What the C library's heap takes for a byte in blocks below 32 MiB: freed blocks leave holes that larger
ones don't fit in. Measured (benchmarks/RESULTS.md): 1.3 to 1.5, and 3 to 4 where activations are computed
again, which is why `give_blocks_back` is for those runs."""
HOLES_GIVEN_BACK = 1.1
"""The same after `give_blocks_back`."""
GPU_HOLES = 1.1
"""The same of torch's allocator on a GPU. Not measured here."""
SURE = 0.8
"""The part of a device's memory up to which a run surely fits: estimates are right within a quarter."""
WORTH_WHILE = 0.05
"""The part of the memory that a setting has to save to be named where it alone is not enough."""
M_MMAP_THRESHOLD = -3
"""glibc's number for that setting, in malloc.h."""
ENCODED_AT_ONCE = 32
"""Images that the feature cache encodes together (training.cache.image_features)."""


class RunSettings(Protocol):
    """What is read of a run's settings: `training.config.TrainingConfig`, or anything with these fields."""

    model: str
    revision: str | None
    quantization: str
    quantize_vision: bool
    precision: str
    device: str
    method: Any
    batch_size: int
    gradient_checkpointing: bool
    optim: str
    max_length: int
    held_out: float

    def model_copy(self, *, update: Mapping[str, Any]) -> Self: ...


@dataclass(frozen=True, slots=True)
class Examples:
    """What a dataset's longest examples are like, where it was read; else the usual.

    `tokens` are those of a whole example with its image tokens, `picture` the size of an image in pixels,
    `pictures` the distinct images of the dataset, whose features a cache holds.
    """

    tokens: int | None = None
    text_tokens: int = 64
    answer_tokens: int = 32
    images: int = 1
    picture: tuple[int, int] = (640, 480)
    pictures: int = 0


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes that a run takes at its peak on its device, by what takes them.

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
        parts = (self.weights, self.adapter, self.gradients, self.optimizer, self.activations, self.overhead)
        return sum(parts)

    @property
    def gib(self) -> float:
        return self.total / 2**30


@dataclass(frozen=True, slots=True)
class Remedy:
    """One setting, the value that helps, and the estimate with it."""

    setting: str
    value: Any
    estimate: MemoryEstimate


def estimate(settings: RunSettings, examples: Examples = Examples()) -> MemoryEstimate:
    """The memory that a run with these settings takes. Raises `UserError` as `tower_counts` does."""
    if "torch" not in sys.modules and (known := _committed(settings)) is not None:
        return known
    import_torch()
    from vlm.models.loading import pick_device, pick_precision

    device = pick_device(settings.device)
    precision = pick_precision(settings.precision, device)
    counts = tower_counts(settings)
    weights, mapped, numbers = _weights(
        settings.model,
        settings.revision,
        settings.quantization,
        settings.quantize_vision,
        precision,
        device.type,
    )
    gradients = 4 * counts.trainable
    kept, evaluating = _activations(settings, device.type, precision, examples)
    on_cpu = device.type == "cpu"
    return MemoryEstimate(
        device=device.type,
        weights=weights,
        mapped=mapped,
        adapter=4 * (counts.total - numbers),  # adapters are kept in fp32
        gradients=gradients,
        optimizer=int(counts.trainable * _optimizer_bytes(settings, device.type)),
        activations=int(max(kept, evaluating - gradients)),
        overhead=IMPORTED + AT_WORK if on_cpu else GPU_CONTEXT,
    )


def fit(needed: MemoryEstimate, memory: int) -> Fit:
    """Whether that fits in so many bytes of memory."""
    if needed.total <= SURE * memory:
        return "fits"
    return "tight" if needed.total <= memory else "wont_fit"


def device_memory(device: str) -> int:
    """Bytes that a run may use of a device: all of a GPU's, on a CPU what is free of the machine's memory.

    A container's limit is respected. Raises `UserError` where there is no such device.
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
    return min(psutil.virtual_memory().available, *container_limits())


def container_limits(root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """What a container's limit leaves, if there is one: of control groups in version 2, and in version 1."""
    for folder, limit, used in (
        (root, "memory.max", "memory.current"),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            most, now = ((folder / name).read_text().strip() for name in (limit, used))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except OSError:
            continue
        if most.isdecimal():
            # Pages of files that nobody has used for a while are given up before anything is refused.
            idle = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
            yield max(0, int(most) - int(now) + idle)


def best_remedy(settings: RunSettings, memory: int, examples: Examples = Examples()) -> Remedy | None:
    """The one setting that makes a run fit in so many bytes, or brings it nearest; None where it fits.

    Of those that make it fit the first is taken that changes least: computing activations again and smaller
    batches leave what is learned as it is. A smaller model is named where nothing else helps much.
    """
    now = estimate(settings, examples)
    if fit(now, memory) == "fits":
        return None
    found: list[Remedy] = []
    for setting, value in _changes(settings, now, memory):
        changed = settings.model_copy(update={setting: value})
        found.append(Remedy(setting, value, estimate(changed, examples)))
        if fit(found[-1].estimate, memory) == "fits":
            return found[-1]
    nearest = min(found, key=lambda remedy: remedy.estimate.total, default=None)
    if nearest is not None and nearest.estimate.total < (1 - WORTH_WHILE) * now.total:
        return nearest
    return _smaller_model(settings, now, memory)


def _changes(settings: RunSettings, now: MemoryEstimate, memory: int) -> Iterator[tuple[str, Any]]:
    """Single settings to try, the least of a change first."""
    from vlm.models.quantization import BITSANDBYTES_DEVICES

    base = architecture(settings.model, settings.revision)
    if not settings.gradient_checkpointing and base.supports_gradient_checkpointing:
        yield "gradient_checkpointing", True
    batch_size, room = settings.batch_size, SURE * memory - (now.total - now.activations)
    wanted = batch_size * max(room, 0) / max(now.activations, 1)
    while batch_size > 1:
        batch_size //= 2
        if batch_size <= max(wanted, 1):
            yield "batch_size", batch_size
    can_be_quantized = now.device in BITSANDBYTES_DEVICES and "4bit" in METHODS[settings.method].quantizations
    if settings.quantization != "4bit" and can_be_quantized:
        yield "quantization", "4bit"
    if settings.optim not in ("adamw_8bit", "paged_adamw_8bit") and now.optimizer > now.total / 10:
        yield "optim", "adamw_8bit"
    for rank in ("text_lora_r", "vision_lora_r"):
        if METHODS[settings.method].rank and getattr(settings, rank) > 1:
            yield rank, getattr(settings, rank) // 2


def _smaller_model(settings: RunSettings, now: MemoryEstimate, memory: int) -> Remedy | None:
    """The largest model on offer that would fit, by its size alone: it may not be on this machine."""
    numbers = sum(weight.numel() for weight in architecture(settings.model, settings.revision).parameters())
    for entry in sorted(catalog.CATALOG, key=lambda entry: -entry.parameters):
        share = entry.parameters * 1e6 / numbers
        scaled = replace(
            now,
            **{part: int(getattr(now, part) * share) for part in ("weights", "mapped", "adapter")},
            **{part: int(getattr(now, part) * share) for part in ("gradients", "optimizer", "activations")},
        )
        if share < 1 and fit(scaled, memory) == "fits":
            return Remedy("model", entry.model, scaled)
    return None


def _optimizer_bytes(settings: RunSettings, device: str) -> float:
    """Bytes of AdamW's two moments for each trained number: in fp32, or in 8 bits with a scale for 256."""
    small = settings.optim in ("adamw_8bit", "paged_adamw_8bit")
    small |= settings.optim == "auto" and settings.quantization != "none" and device == "cuda"
    return 2 * (1 + 4 / 256) if small else 2 * 4


@lru_cache(maxsize=64)
def _weights(
    model: str, revision: str | None, quantization: str, quantize_vision: bool, precision: str, device: str
) -> tuple[int, int, int]:
    """Bytes of the base's weights, those of them that stay in the file, and how many numbers they are.

    On a CPU, weights that are stored as they are used are mapped from their file.
    """
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
    dtype, total, mapped, numbers = DTYPES[precision], 0.0, 0, 0
    for name, weight in whole.named_parameters():
        numbers += weight.numel()
        if quantization != "none" and name in small:
            total += _quantized_bytes(quantization, weight)
            continue
        size = weight.numel() * (dtype.itemsize if weight.is_floating_point() else weight.itemsize)
        total += size
        mapped += size if device == "cpu" and weight.dtype == dtype else 0
    return int(total), mapped, numbers


def _quantized_bytes(quantization: str, weight: "torch.Tensor") -> float:
    """NF4: half a byte, a scale of 8 bits for 64 numbers, and one of 32 bits for 256 of those. Int8: a byte,
    and a scale of 32 bits for each output."""
    if quantization == "8bit":
        return weight.numel() + 4 * weight.shape[0]
    return weight.numel() * (1 / 2 + 1 / 64 + 4 / (64 * 256))


def _activations(
    settings: RunSettings, device: str, precision: str, examples: Examples
) -> tuple[float, float]:
    """Bytes beyond weights, adapter and optimizer: at the peak of training, and of what keeps no gradients.

    That is the evaluation, in batches twice as large, and the encoding of images for their cache.
    """
    from training.memory import simulate
    from training.memory.simulate import Machine, Step, Subject

    adapter = adapter_settings(settings, lora_dropout=settings.lora_dropout)
    subject = Subject(settings.model, settings.revision, adapter, examples.picture)
    holes = HOLES_GIVEN_BACK if settings.gradient_checkpointing else HOLES
    machine = Machine(device, precision, holes if device == "cpu" else GPU_HOLES)
    sight = simulate.sight(subject)
    tokens = examples.tokens
    if tokens is None:
        read = 0 if sight.is_encoder_decoder else examples.answer_tokens
        tokens = examples.text_tokens + examples.images * sight.tokens + read
    step = Step(
        examples=settings.batch_size,
        tokens=min(tokens, settings.max_length),
        answer_tokens=examples.answer_tokens,
        images=examples.images,
        encodes=not sight.stays,
        checkpointing=settings.gradient_checkpointing,
    )
    apart = []
    if settings.held_out > 0:
        apart.append(replace(step, examples=2 * step.examples, trains=False, checkpointing=False))
    if sight.stays and examples.images:
        apart.append(replace(step, examples=ENCODED_AT_ONCE, trains=False, encodes=True, reads=False))
    training = simulate.peak(subject, machine, step)
    return training, max((simulate.peak(subject, machine, other) for other in apart), default=0)


def give_blocks_back() -> None:
    """Make the C library return each freed block of a megabyte or more to the system at once.

    For a run on a CPU whose activations are computed again: it takes as much memory as it uses then, a third
    of what it would, and a quarter more time. Only glibc can be told (mallopt(3)).
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)


def _committed(settings: RunSettings) -> MemoryEstimate | None:
    """The starter's estimate with these settings, if they are its defaults."""
    rows = _read_committed()
    if any(getattr(settings, name) != value for name, value in rows["settings"].items()):
        return None
    adapter = adapter_settings(settings)
    return next(
        (MemoryEstimate(**rows[name]) for name, committed in COMMITTED.items() if adapter == committed), None
    )


@lru_cache(maxsize=1)
def _read_committed() -> dict[str, dict[str, Any]]:
    return json.loads(STARTER_MEMORY_FILE.read_text())

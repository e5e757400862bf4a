"""Memory estimate of a run before it starts: how much it takes, whether it fits, and what would help most.

Weights, adapter and optimizer are counted on the meta device, activations by simulating a step there
(training.memory.simulate). No weight is read. The starter's defaults are in a committed table, so that the
first paint needs no torch.
"""

import ctypes
import json
import math
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

from training.config import TrainingConfig
from training.data.images import ImageFacts
from training.data.validate.token_lengths import TokenLengths
from vlm import catalog
from vlm.errors import UserError
from vlm.example import Example
from vlm.lazy_torch import import_torch
from vlm.meta_model import COMMITTED, adapter_settings, architecture, tower_counts
from vlm.methods import METHODS
from vlm.settings import ModelSettings

if TYPE_CHECKING:
    from training.memory.simulate import ImageInputs, SimulatedModel

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
# don't fit in. By what was measured (benchmarks/RESULTS.md) 1.4 to 1.7, of DoRA 2.1, and 3 to 4 where
# activations are computed again, which is why `give_blocks_back` is for those runs.
FRAGMENTATION = 1.5
# The same after `give_blocks_back`.
FRAGMENTATION_GIVEN_BACK = 1.1
# The same of torch's allocator on a GPU. Not measured here.
GPU_FRAGMENTATION = 1.1
# Without a model: characters of a token, in any language, and the tokens of a template.
CHARACTERS, TEMPLATE = 3, 24
# The part of a device's memory up to which a run surely fits: estimates are right within a quarter.
SAFETY_MARGIN = 0.8
# The part of the memory that a setting has to save to be named where it alone is not enough.
MINIMUM_SAVING = 0.05
# How often the pixels of an image are halved in search of what fits, and the power of two that is the end.
PIXELS_TRIED, FEWEST_PIXELS = 3, 15
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

    @classmethod
    def longest(
        cls,
        examples: Sequence[Example],
        facts: Mapping[Path, ImageFacts],
        lengths: TokenLengths | None = None,
    ) -> "Examples":
        """Returns the longest of these examples, with their largest image of those of which facts are known.

        Without a model's `lengths` characters are counted.
        """
        images = max((len(example.images) for example in examples), default=0)
        found = (facts[image] for example in examples for image in example.images if image in facts)
        sizes = {(each.width, each.height) for each in found}
        shown = {"images": images, "image_size": max(sizes, key=math.prod, default=cls().image_size)}
        if lengths is None:
            said = max((sum(len(m.text) for m in each.messages) for each in examples), default=0)
            answer = max((len(example.answer) for example in examples), default=0)
            return cls(
                text_tokens=(said - answer) // CHARACTERS + TEMPLATE,
                answer_tokens=answer // CHARACTERS + 1,
                **shown,
            )
        measured = [lengths.sequences[each.id] for each in examples if each.id in lengths.sequences]
        whole = max((tokens[0] for tokens in measured), default=None)
        return cls(tokens=whole, answer_tokens=lengths.longest_answer, **shown)


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
    if "torch" not in sys.modules and (known := committed(config)):
        return known
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
    # Of several processes each has gradients of its own, and those that it sends to the others beside them.
    gradients = 4 * counts.trainable * (1 if config.processes == 1 else 2)
    # A GPU has one process. On a CPU all lie in one memory, where they share what is mapped.
    here = config.processes if device == "cpu" else 1
    return MemoryEstimate(
        device=device,
        weights=mapped + here * (weights - mapped),
        mapped=mapped,
        adapter=here * 4 * (counts.total - parameters),  # PEFT keeps adapters in fp32 whatever the base is in
        gradients=here * gradients,
        optimizer=int(here * counts.trainable * 2 * (1 + 4 / 256 if in_8_bits else 4)),
        # Gradients are freed after a step, so what runs without them may take their place.
        activations=here * int(max(training, evaluating - gradients)),
        overhead=here * (IMPORTED + RUNTIME_OVERHEAD) if device == "cpu" else GPU_CONTEXT,
    )


def committed(config: TrainingConfig) -> MemoryEstimate | None:
    """Returns the starter's estimate of the committed table; None for any other settings."""
    table = json.loads(STARTER_MEMORY_FILE.read_text("utf-8"))
    plain = not config.image_size and config.processes == 1
    if not plain or any(getattr(config, name) != at for name, at in table["settings"].items()):
        return None
    adapter = adapter_settings(config)
    found = (table[name] for name, settings in COMMITTED.items() if adapter == settings)
    return next((MemoryEstimate(**parts) for parts in found), None)


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
            most, now = ((folder / name).read_text("ascii").strip() for name in (limit, used))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
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
    for setting, value in _changes(config, now, memory, examples):
        changed = config.model_copy(update={setting: value})
        try:
            found.append(Remedy(setting, value, estimate(changed, _seen(config, changed, examples))))
        except UserError:  # of the number of an image's pixels, which this model has for itself
            continue
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


def _seen(config: TrainingConfig, changed: TrainingConfig, examples: Examples) -> Examples:
    """Returns the examples with as many tokens as images have by the changed settings."""
    if examples.tokens is None or config.image_size == changed.image_size:
        return examples
    before, after = (_image(each, examples)[1].tokens for each in (config, changed))
    return replace(examples, tokens=examples.tokens - examples.images * (before - after))


def _changes(
    config: TrainingConfig, now: MemoryEstimate, memory: int, examples: Examples
) -> Iterator[tuple[str, Any]]:
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
    if examples.images:
        pixels = _image(config, examples)[1].inputs.get("pixel_values")
        seen = min(math.prod(examples.image_size), 0 if pixels is None else pixels.numel() // 3)
        for power in range((max(1, seen) - 1).bit_length() - 1, FEWEST_PIXELS, -1)[:PIXELS_TRIED]:
            yield "image_max_pixels", 2**power
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


def _image(config: TrainingConfig, examples: Examples) -> "tuple[SimulatedModel, ImageInputs]":
    """Returns the adapted model to simulate, and what one image is for it."""
    from training.memory import simulate

    adapter = adapter_settings(config, lora_dropout=config.lora_dropout)
    shown = tuple(config.image_size.items())
    of_model = (config.model, config.revision, adapter, examples.image_size, shown)
    model = simulate.SimulatedModel(*of_model)
    return model, simulate.image_inputs(model)


def _activations(
    config: TrainingConfig, device: str, precision: str, examples: Examples
) -> tuple[float, float]:
    """Returns the bytes beyond weights, adapter and optimizer at the peaks of training and of evaluation.

    The second is of the evaluation, in batches twice as large, and of the encoding of images for their cache.
    """
    from training.cache.image_features import BATCH_SIZE
    from training.memory import simulate
    from training.memory.simulate import Machine, Step

    model, image = _image(config, examples)
    fragmentation = FRAGMENTATION_GIVEN_BACK if config.gradient_checkpointing else FRAGMENTATION
    machine = Machine(device, precision, fragmentation if device == "cpu" else GPU_FRAGMENTATION)
    tokens = examples.tokens
    if tokens is not None and image.apart:
        tokens += examples.images * image.tokens
    elif tokens is None:
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
        # As the trainer does wherever the model's loss stays the same; prompt tokens shift the positions.
        trims=not (image.is_encoder_decoder or METHODS[config.method].prompt_learning),
    )
    answering, others = replace(step, trains=False, checkpointing=False, trims=False), []
    if config.held_out > 0:
        others.append(replace(answering, examples=2 * step.examples))
    if image.cached and examples.images:
        others.append(replace(answering, examples=BATCH_SIZE, encodes=True, reads=False))
    training = simulate.peak(model, machine, step)
    return training, max((simulate.peak(model, machine, other) for other in others), default=0)


def give_blocks_back() -> None:
    """Makes the C library return each freed block of a megabyte or more to the system at once.

    For a run on a CPU whose activations are computed again: it takes a third of the memory, and a quarter
    more time.
    """
    if platform.libc_ver()[0] == "glibc":  # no other C library has mallopt(3)
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)

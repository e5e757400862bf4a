"""What a step keeps in memory, found by taking it on the meta device: no weight is read, nothing is computed.

`peak` runs the outline of an adapted model (vlm.meta_model) forward and backward in a `Ledger`. What the
layers that it leaves out would keep is added: what the second layer of a kind leaves behind, as many times.
A model that can't be run with so few layers is run whole, and one that can't be run without numbers is
reckoned by its linear layers.
"""

import inspect
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import AutoImageProcessor, PreTrainedModel

from training.memory.tensor_tracker import MAPPED, Kernels, Ledger
from vlm.adapters import PEFT_PREFIX, PeftModel
from vlm.errors import UserError
from vlm.meta_model import adapted_outline
from vlm.models import hub
from vlm.models.loading import DTYPES
from vlm.models.towers import find_towers
from vlm.param_counts import times
from vlm.settings import AdapterSettings

logger = logging.getLogger(__name__)

SOME_ID = 5
"""A token that is no image token in any model: those come first or last."""
SIDE, TOKENS_OF_A_PICTURE = 224, 256
"""What is assumed of a picture where a model's image processor is not on this machine, and its configuration
names no size."""
REASONS = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, UserError)
"""What models raise that can't be run without numbers, or with few layers, or with so many tokens."""

Inputs = Mapping[str, torch.Tensor]

_ONE_AT_A_TIME = threading.Lock()
"""A rehearsal hooks itself into a model that others share."""


@dataclass(frozen=True, slots=True)
class Subject:
    """An adapted model to rehearse with, and the size in pixels of the pictures it is given."""

    model: str
    revision: str | None
    adapter: AdapterSettings
    picture: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a step is taken: `precision` as in `LoadedModel`, `holes` as in `Ledger`."""

    device: str
    precision: str
    holes: float

    @property
    def autocast(self) -> torch.dtype | None:
        return None if self.precision == "fp32" else DTYPES[self.precision]


@dataclass(frozen=True, slots=True)
class Step:
    """A step: `examples` at once, each of `tokens` (image tokens included) and with `images` pictures.

    An encoder-decoder writes `answer_tokens` besides. `trains`: else nothing is kept for a gradient.
    `encodes`: the pictures go through the vision tower, else their features are there. `reads`: the text
    tower runs.
    """

    examples: int
    tokens: int
    answer_tokens: int
    images: int = 1
    trains: bool = True
    encodes: bool = True
    reads: bool = True
    checkpointing: bool = False


@dataclass(frozen=True, slots=True)
class Sight:
    """What becomes of a picture: its `tokens` in the text tower, and the `inputs` that it is for the model.

    `stays`: its features are the same in every step, and a run computes them once.
    """

    tokens: int
    inputs: Inputs
    stays: bool
    is_encoder_decoder: bool


@lru_cache(maxsize=256)
def peak(subject: Subject, machine: Machine, step: Step) -> float:
    """Bytes that a step takes at its peak, beyond weights, adapter, gradients and optimizer."""
    pictures = sight(subject).inputs
    with _ONE_AT_A_TIME:
        for whole in (False, True):
            adapted, copies = _adapted(subject, whole=whole)
            _cast(adapted, DTYPES[machine.precision])
            try:
                return _rehearsed(adapted, copies, pictures, machine, step)
            except REASONS as error:
                logger.debug("%s can't be rehearsed: %r", subject.model, error)
        return _reckoned(adapted, copies, machine, step)


@lru_cache(maxsize=64)
def sight(subject: Subject) -> Sight:
    """What becomes of a picture in this model. Raises `UserError` as `adapted_outline` does."""
    with _ONE_AT_A_TIME:
        adapted, _ = _adapted(subject)
        base, towers = adapted.get_base_model(), find_towers(adapted.get_base_model())
        below = any(p.requires_grad and towers.of(name) != "text" for name, p in base.named_parameters())
        takes_features = "mm_encoder_outputs" in inspect.signature(base.forward).parameters
        seq2seq = bool(base.config.is_encoder_decoder)
        stays = takes_features and seq2seq and not below
        made = _processed(subject)
        for inputs in [made] if made is not None else _likely_inputs(base, subject.picture):
            owner = _encoder_of(base, inputs)
            if owner is None:
                return Sight(0, inputs, stays, seq2seq)
            try:
                with Kernels("cpu", None), Ledger(adapted.parameters()), torch.no_grad():
                    tokens = sum(f[..., 0].numel() for f in _features(owner, _repeated(inputs, 1)))
            except REASONS as error:
                logger.debug("%s can't see %s: %r", subject.model, list(inputs), error)
            else:
                return Sight(tokens, inputs, stays, seq2seq)
        return Sight(TOKENS_OF_A_PICTURE, inputs, stays, seq2seq)


def _processed(subject: Subject) -> Inputs | None:
    """What the model's image processor makes of one picture, where the processor is on this machine."""
    model = hub.parts(subject.model)[0]
    folder = hub.config_folder(model, subject.revision, half=hub.is_composed(subject.model))
    try:
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        made = processor([Image.new("RGB", subject.picture, "white")], return_tensors="pt")
    except (OSError, ValueError, ImportError):  # a folder, or a cache, with nothing but a configuration
        return None
    return {name: tensor for name, tensor in made.items() if isinstance(tensor, torch.Tensor)}


def _likely_inputs(base: PreTrainedModel, picture: tuple[int, int]) -> Iterator[Inputs]:
    """One picture in the shapes that vision towers take: a grid, a square, a tile, a row of patches."""
    parts = (vars(base.config).get(name) for name in ("vision_config", "encoder"))
    vision = vars(next((part for part in parts if part is not None), base.config))
    side = vision.get("image_size") or SIDE
    side = side if isinstance(side, int) else max(side.values() if isinstance(side, dict) else side)
    patch = vision.get("patch_size") or 16
    patch = patch if isinstance(patch, int) else max(patch)
    merge = vision.get("spatial_merge_size", 2)
    across, down = (max(1, round(pixels / patch / merge)) * merge for pixels in picture)
    channels = (vision.get("in_channels") or 3) * vision.get("temporal_patch_size", 1)
    flat = torch.empty(across * down, channels * patch**2)
    yield {"pixel_values": flat, "image_grid_thw": torch.tensor([[1, down, across]])}
    sizes = {"image_sizes": torch.tensor([[side, side]])}
    for tiles in ((), (1,)):
        yield {"pixel_values": torch.empty(1, *tiles, 3, side, side), **sizes}
    mask = torch.ones(1, across * down, dtype=torch.long)
    shapes = {"pixel_attention_mask": mask, "spatial_shapes": torch.tensor([[down, across]])}
    yield {"pixel_values": flat[None, :, : 3 * patch**2], **shapes}


@lru_cache(maxsize=4)
def _adapted(subject: Subject, *, whole: bool = False) -> tuple[PeftModel, Mapping[str, int]]:
    adapted, copies = adapted_outline(subject.model, subject.adapter, subject.revision, whole=whole)
    _say_how_many_layers(adapted.get_base_model())
    return adapted, copies


def _say_how_many_layers(base: PreTrainedModel) -> None:
    """Make the configurations of towers tell the layers that an outline has: some count them from the end."""
    for module in base.modules():
        if not isinstance(module, PreTrainedModel):
            continue
        told = vars(module.config).get("num_hidden_layers")
        stack = next((inner for inner in module.modules() if isinstance(inner, nn.ModuleList)), ())
        if told is not None and 0 < len(stack) < told:
            module.config.num_hidden_layers = len(stack)


def _cast(adapted: PeftModel, dtype: torch.dtype) -> None:
    """The base as it lies in memory; what is trained is kept in fp32."""
    for weight in (*adapted.parameters(), *adapted.buffers()):
        if not weight.requires_grad and weight.is_floating_point() and weight.dtype != dtype:
            weight.data = weight.data.to(dtype)


def _rehearsed(
    adapted: PeftModel, copies: Mapping[str, int], pictures: Inputs, machine: Machine, step: Step
) -> float:
    base = adapted.get_base_model()
    adapted.train(step.trains)
    if step.checkpointing and step.trains:
        base.activation_checkpointing_enable({"use_reentrant": False})
    ledger = Ledger([*adapted.parameters(), *adapted.buffers()], machine.holes)
    try:
        with ExitStack() as entered:
            entered.enter_context(Kernels(machine.device, machine.autocast))
            entered.enter_context(ledger)
            entered.enter_context(torch.set_grad_enabled(step.trains))
            entered.enter_context(_left_out(adapted, copies, ledger))
            _take(adapted, base, pictures, step, ledger)
    finally:
        adapted.zero_grad()
        if step.checkpointing and step.trains:
            base.activation_checkpointing_disable()
    return ledger.peak


def _take(adapted: PeftModel, base: PreTrainedModel, pictures: Inputs, step: Step, ledger: Ledger) -> None:
    """The vision tower forward, the text tower forward and backward, then the vision tower backward."""
    many = _repeated(pictures, step.examples * step.images)
    owner = _encoder_of(base, many)
    if owner is None:  # it takes image and text together
        loss = adapted(**_accepted(base.forward, {**many, **_texts(base, step)})).loss
        if step.trains:
            _backward([loss])
        return
    features = _features(owner, many) if step.encodes else []
    if not step.reads:
        return
    wanted = [feature for feature in features if feature.requires_grad]
    before = list(ledger.live)
    with _embeddings_want_gradients(base, bool(wanted)):
        loss = adapted(**_accepted(base.forward, _texts(base, step))).loss
        if step.trains:
            _backward([loss])
    del loss
    ledger.add(*(was - now for was, now in zip(before, ledger.live, strict=True)))
    if wanted:
        _backward([feature.sum() for feature in wanted])


def _backward(losses: list[torch.Tensor]) -> None:
    """As torch.autograd.backward, which would leave `Kernels` while checkpointing runs layers again."""
    engine = torch.autograd.Variable._execution_engine
    ones = tuple(torch.ones_like(loss) for loss in losses)
    engine.run_backward(tuple(losses), ones, False, False, (), allow_unreachable=True, accumulate_grad=True)


def _texts(base: PreTrainedModel, step: Step) -> dict[str, torch.Tensor]:
    """Token ids and labels of a batch; the last token of the first example is padding, as in most batches."""
    ids = torch.full((step.examples, step.tokens), SOME_ID)
    mask = torch.ones_like(ids)
    mask[0, -1] = 0
    labels = torch.full((step.examples, step.answer_tokens), SOME_ID)
    read_by_connector = {"qformer_input_ids": ids, "qformer_attention_mask": mask}
    texts = {"input_ids": ids, "attention_mask": mask, **read_by_connector}
    return {**texts, "labels": labels if base.config.is_encoder_decoder else ids}


def _repeated(pictures: Inputs, count: int) -> dict[str, torch.Tensor]:
    """One picture's inputs as those of `count`, side by side; pixels without their numbers."""
    return {
        name: torch.empty(count * len(tensor), *tensor.shape[1:], device="meta")
        if tensor.is_floating_point()
        else tensor.repeat(count, *[1] * (tensor.dim() - 1))
        for name, tensor in pictures.items()
    }


def _encoder_of(base: PreTrainedModel, pictures: Inputs) -> PreTrainedModel | None:
    """What encodes images by itself; None where image and text have to be given together."""
    if "pixel_values" in _required(base.forward):
        return None
    for owner in (base, base.base_model):
        if hasattr(owner, "get_image_features") and _required(owner.get_image_features) <= pictures.keys():
            return owner
    return None


def _features(owner: PreTrainedModel, pictures: Inputs) -> list[torch.Tensor]:
    found = owner.get_image_features(**_accepted(owner.get_image_features, pictures)).pooler_output
    return [found] if isinstance(found, torch.Tensor) else list(found)


def _required(function: Any) -> set[str]:
    """The names of the arguments that a function can't do without."""
    return {
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }


def _accepted(function: Any, inputs: Inputs) -> dict[str, torch.Tensor]:
    """Those of the inputs that a function names among its arguments."""
    named = inspect.signature(function).parameters
    return {name: tensor for name, tensor in inputs.items() if name in named}


@contextmanager
def _embeddings_want_gradients(base: PreTrainedModel, wanted: bool) -> Iterator[None]:
    """Image features that are trained make every layer above them keep what a gradient needs."""
    hooks = []
    if wanted:
        embeddings = base.get_input_embeddings()
        hooks.append(embeddings.register_forward_hook(lambda _m, _i, output: output.requires_grad_(True)))
    try:
        yield
    finally:
        _remove(hooks)


@contextmanager
def _left_out(adapted: PeftModel, copies: Mapping[str, int], ledger: Ledger) -> Iterator[None]:
    """Adds what the layers that an outline leaves out would leave behind."""
    prefix = "base_model." if adapted.base_model is adapted.get_base_model() else PEFT_PREFIX
    hooks = []
    for name, count in copies.items():
        hooks += _follow(adapted.get_submodule(prefix + name), count - 1, ledger)
    try:
        yield
    finally:
        _remove(hooks)


def _remove(hooks: list[Any]) -> None:
    for hook in hooks:
        hook.remove()


def _follow(layer: nn.Module, more: int, ledger: Ledger) -> list[Any]:
    """Hooks that add what a layer leaves behind, `more` times, after its first run."""
    entered: list[list[int]] = []
    seen: list[bool] = []

    def enters(_: nn.Module, __: tuple) -> None:
        entered.append(list(ledger.live))

    def leaves(_: nn.Module, __: tuple, output: Any) -> None:
        before = entered.pop()
        if seen:  # checkpointing runs a layer again in the backward pass
            return
        seen.append(True)
        left = [now - was for was, now in zip(before, ledger.live, strict=True)]
        hidden = output[0] if isinstance(output, tuple) else output
        if not hidden.requires_grad:  # gone when the next layer has read it
            size = hidden.untyped_storage().nbytes()
            left[size >= MAPPED] -= size
        ledger.add(*(more * max(size, 0) for size in left))

    return [layer.register_forward_pre_hook(enters), layer.register_forward_hook(leaves)]


def _reckoned(adapted: PeftModel, copies: Mapping[str, int], machine: Machine, step: Step) -> float:
    """The same, roughly, by the linear layers: a trained one keeps its input, what dropout made of it, and
    its output, for every token; and the logits are there three times."""
    base = adapted.get_base_model()
    towers, head = find_towers(base), base.get_output_embeddings()
    kept: dict[str, int] = {"vision": 0, "connector": 0, "text": 0}
    trained: set[str] = set()
    for name, module in base.named_modules():
        tower = towers.of(name)
        trained |= {tower} if any(p.requires_grad for p in module.parameters(recurse=False)) else set()
        if isinstance(module, nn.Linear) and module is not head and ".lora_" not in name:
            kept[tower] += (2 * module.in_features + module.out_features) * times(name, copies)
    above = step.trains and not step.checkpointing
    tokens = step.examples * step.tokens
    numbers = tokens * kept["text"] * above + 3 * tokens * (0 if head is None else head.weight.shape[0])
    pictures = step.examples * step.images * TOKENS_OF_A_PICTURE
    numbers += pictures * kept["vision"] * (above and bool(trained - {"text"}))
    return 4.0 * numbers * machine.holes

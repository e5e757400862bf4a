"""Activation memory: simulates a training step on meta tensors; no weight is read, nothing is computed.

`peak` runs the outline of an adapted model (vlm.meta_model) forward and backward in a `TensorTracker`. Layers
that the outline leaves out are added: what the second layer of a kind keeps, as many times. A model that
can't run with so few layers runs whole; for one that can't run on the meta device a formula over its linear
layers stands in.
"""

import inspect
import logging
import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import transformers
from PIL import Image
from torch import nn
from transformers import AutoImageProcessor, PreTrainedModel
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from training.memory.tensor_tracker import MAPPED, Kernels, TensorTracker
from vlm.adapters import PEFT_PREFIX, PeftModel
from vlm.composed import ComposedForConditionalGeneration as ComposedModel
from vlm.errors import UserError
from vlm.meta_model import adapted_outline
from vlm.models import hub
from vlm.models.image_size import sized_images
from vlm.models.loading import DTYPES
from vlm.models.towers import find_towers
from vlm.param_counts import times
from vlm.settings import AdapterSettings, ModelSettings

logger = logging.getLogger(__name__)

# No image token in any model: those come first or last in a vocabulary.
SOME_ID = 5
# Assumed of an image, in pixels and tokens, where the model's image processor is not on this machine and its
# configuration names no size: a ViT's usual 224, in patches of 14.
SIDE, TOKENS_OF_AN_IMAGE = 224, 256
# Raised by models that can't run on the meta device, or with few layers, or with so many tokens: what they
# raise is not theirs to choose, it comes from an index, a view or an attribute deep inside.
NOT_SIMULATED = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, UserError)

ModelInputs = Mapping[str, torch.Tensor]

# A simulation puts hooks on a model that is cached, and the page's threads share it.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """An adapted model to simulate, the size in pixels of its images, and its `image_size` as pairs."""

    model: str
    revision: str | None
    adapter: AdapterSettings
    image_size: tuple[int, int]
    shown: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a step runs: `precision` as in `LoadedModel`, `fragmentation` as in `TensorTracker`."""

    device: str
    precision: str
    fragmentation: float


@dataclass(frozen=True, slots=True)
class Step:
    """A step of `examples` at once, each of `tokens` (image tokens included) and `images`.

    An encoder-decoder writes `answer_tokens` besides. `trains`: else nothing is kept for a gradient.
    `encodes`: the images go through the vision tower, else their features are cached. `reads`: the text tower
    runs. `trims`: words are projected where answers are alone, if the model takes that.
    """

    examples: int
    tokens: int
    answer_tokens: int
    images: int = 1
    trains: bool = True
    encodes: bool = True
    reads: bool = True
    checkpointing: bool = False
    trims: bool = False


@dataclass(frozen=True, slots=True)
class ImageInputs:
    """One image as a model takes it: its `tokens` in the text tower, and its `inputs`.

    `cached`: its features are the same in every step, and a run computes them once. `apart`: its tokens are
    none of those that a processor makes of the text, the model puts them before these.
    """

    tokens: int
    inputs: ModelInputs
    cached: bool
    is_encoder_decoder: bool
    apart: bool = False


@lru_cache(maxsize=256)
def peak(model: SimulatedModel, machine: Machine, step: Step) -> float:
    """Returns the bytes that a step takes at its peak, beyond weights, adapter, gradients and optimizer."""
    images = image_inputs(model).inputs
    with _ONE_AT_A_TIME:
        for whole, trims in dict.fromkeys([(False, step.trims), (False, False), (True, False)]):
            adapted, copies = adapted_model(model, whole=whole)
            for weight in (*adapted.parameters(), *adapted.buffers()):
                # Trained weights stay in fp32, as PEFT keeps them.
                if not weight.requires_grad and weight.is_floating_point():
                    weight.data = weight.data.to(DTYPES[machine.precision])
            try:
                return simulated_peak(adapted, copies, images, machine, replace(step, trims=trims))
            except NOT_SIMULATED as error:
                logger.debug("%s can't be simulated: %r", model.model, error)
        return fallback_peak(adapted, copies, machine, step)


@lru_cache(maxsize=64)
def image_inputs(model: SimulatedModel) -> ImageInputs:
    """Returns what an image is for this model.

    Raises:
        UserError: as `adapted_outline` does.
    """
    with _ONE_AT_A_TIME:
        adapted, _ = adapted_model(model)
        base, towers = adapted.get_base_model(), find_towers(adapted.get_base_model())
        below = any(p.requires_grad and towers.of(name) != "text" for name, p in base.named_parameters())
        takes_features = "mm_encoder_outputs" in inspect.signature(base.forward).parameters
        seq2seq, apart = bool(base.config.is_encoder_decoder), isinstance(base, ComposedModel)
        # Features that something trained lies below change with every step.
        cached = takes_features and seq2seq and not below
        for inputs in _candidate_inputs(base, model):
            owner = _encoder_of(base, inputs)
            if owner is None:
                return ImageInputs(0, inputs, cached, seq2seq)
            try:
                with Kernels("cpu", None), TensorTracker(adapted.parameters()), torch.no_grad():
                    tokens = sum(f[..., 0].numel() for f in _features(owner, _repeated(inputs, 1)))
            except NOT_SIMULATED as error:
                logger.debug("%s can't take %s: %r", model.model, list(inputs), error)
            else:
                return ImageInputs(tokens, inputs, cached, seq2seq, apart)
        return ImageInputs(TOKENS_OF_AN_IMAGE, inputs, cached, seq2seq, apart)


def _candidate_inputs(base: PreTrainedModel, model: SimulatedModel) -> Iterator[ModelInputs]:
    """Yields one image as its processor makes it; without a processor, in the shapes that towers take."""
    name, settings = hub.parts(model.model)[0], ModelSettings(**dict(model.shown))
    folder = hub.config_folder(name, model.revision, half=hub.is_composed(model.model))
    # With what the model's whole processor gives in each call: InternVL's turns tiles on.
    whole = getattr(transformers, PROCESSOR_MAPPING_NAMES.get(base.config.model_type) or "", None)
    try:
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        processor, given = sized_images(processor, getattr(whole, "images_kwargs", {}), settings)
        image = Image.new("RGB", model.image_size, "white")
        made = processor([image], **{**given, "return_tensors": "pt"})
    except (OSError, ValueError, ImportError):  # a folder, or a cache, with nothing but a configuration
        parts = (vars(base.config).get(name) for name in ("vision_config", "encoder"))
    else:
        yield {name: tensor for name, tensor in made.items() if isinstance(tensor, torch.Tensor)}
        return
    vision = vars(next((part for part in parts if part is not None), base.config))
    side = vision.get("image_size") or SIDE
    side = side if isinstance(side, int) else max(side.values() if isinstance(side, dict) else side)
    patch = vision.get("patch_size") or 16
    patch = patch if isinstance(patch, int) else max(patch)
    merge = vision.get("spatial_merge_size", 2)
    pixels = math.prod(model.image_size)
    shrunk = math.sqrt(min(pixels, settings.image_max_pixels or pixels) / pixels)
    across, down = (max(1, round(shrunk * edge / patch / merge)) * merge for edge in model.image_size)
    channels = (vision.get("in_channels") or 3) * vision.get("temporal_patch_size", 1)
    # Qwen's grid: the patches of all images in one row. The order is from the shape that fits few to the
    # usual.
    flat = torch.empty(across * down, channels * patch**2)
    yield {"pixel_values": flat, "image_grid_thw": torch.tensor([[1, down, across]])}
    sizes = {"image_sizes": torch.tensor([[side, side]])}
    for tiles in ((), (1,)):  # one square, or a list of tiles as LLaVA-NeXT has it
        yield {"pixel_values": torch.empty(1, *tiles, 3, side, side), **sizes}
    mask = torch.ones(1, across * down, dtype=torch.long)  # a row of patches with padding, as SigLIP 2 has it
    shapes = {"pixel_attention_mask": mask, "spatial_shapes": torch.tensor([[down, across]])}
    yield {"pixel_values": flat[None, :, : 3 * patch**2], **shapes}


@lru_cache(maxsize=4)
def adapted_model(model: SimulatedModel, *, whole: bool = False) -> tuple[PeftModel, Mapping[str, int]]:
    """Returns an adapted outline on the meta device, shared by all simulations, and its layers' copies."""
    adapted, copies = adapted_outline(model.model, model.adapter, model.revision, whole=whole)
    for module in adapted.get_base_model().modules():
        if not isinstance(module, PreTrainedModel):
            continue
        # Some towers count layers from the end: their configurations must name as many as the outline has.
        layers = vars(module.config).get("num_hidden_layers")
        stack = next((inner for inner in module.modules() if isinstance(inner, nn.ModuleList)), ())
        if layers is not None and 0 < len(stack) < layers:
            module.config.num_hidden_layers = len(stack)
    return adapted, copies


def simulated_peak(
    adapted: PeftModel, copies: Mapping[str, int], images: ModelInputs, machine: Machine, step: Step
) -> float:
    """Returns the peak of a step in bytes.

    Raises:
        NOT_SIMULATED: the model can't run so.
    """
    base = adapted.get_base_model()
    adapted.train(step.trains)
    checkpointing = step.checkpointing and step.trains
    if checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
    autocast = None if machine.precision == "fp32" else DTYPES[machine.precision]
    tracker = TensorTracker([*adapted.parameters(), *adapted.buffers()], machine.fragmentation)
    prefix = "base_model." if adapted.base_model is base else PEFT_PREFIX
    more = {adapted.get_submodule(prefix + name): count - 1 for name, count in copies.items()}
    entered: dict[nn.Module, list[int]] = {}

    def leave(layer: nn.Module, _: tuple, output: Any) -> None:
        """Adds what the layer keeps once more for each copy that the outline leaves out."""
        before, left_out = entered.pop(layer), more.pop(layer, None)
        if left_out is None:  # checkpointing runs a layer again in the backward pass
            return
        left = [now - was for was, now in zip(before, tracker.live, strict=True)]
        hidden = output[0] if isinstance(output, tuple) else output
        if not hidden.requires_grad:  # freed when the next layer has read it
            size = hidden.untyped_storage().nbytes()
            left[size >= MAPPED] -= size
        tracker.add(*(left_out * max(size, 0) for size in left))

    hooks = []
    for layer in more:
        hooks.append(layer.register_forward_pre_hook(lambda at, _: entered.update({at: [*tracker.live]})))
        hooks.append(layer.register_forward_hook(leave))
    try:
        with Kernels(machine.device, autocast), tracker, torch.set_grad_enabled(step.trains):
            _run_step(adapted, images, step, tracker)
    finally:  # the model is cached: the next simulation must find it as it was
        for hook in hooks:
            hook.remove()
        adapted.zero_grad()
        if checkpointing:
            base.activation_checkpointing_disable()
    return tracker.peak


def _run_step(adapted: PeftModel, images: ModelInputs, step: Step, tracker: TensorTracker) -> None:
    """Runs the vision tower forward, the text tower forward and backward, then the vision tower backward."""
    base = adapted.get_base_model()
    many = _repeated(images, step.examples * step.images)
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
    before = list(tracker.live)
    hooks = []
    if wanted:
        # The features aren't merged into the embeddings here, so nothing would reach the text tower's
        # gradient: its layers keep what one needs only where their input requires it.
        embeddings = base.get_input_embeddings()
        hooks.append(embeddings.register_forward_hook(lambda _m, _i, output: output.requires_grad_(True)))
    try:
        loss = adapted(**_accepted(base.forward, _texts(base, step))).loss
        if step.trains:
            _backward([loss])
    finally:
        for hook in hooks:
            hook.remove()
    del loss
    # Left-out layers were added on the way forward; after the backward pass nothing of the text tower lives.
    tracker.add(*(was - now for was, now in zip(before, tracker.live, strict=True)))
    if wanted:
        _backward([feature.sum() for feature in wanted])


def _backward(losses: list[torch.Tensor]) -> None:
    # As torch.autograd.backward, which would leave `Kernels` while checkpointing runs layers again.
    engine = torch.autograd.Variable._execution_engine
    ones = tuple(torch.ones_like(loss) for loss in losses)
    engine.run_backward(tuple(losses), ones, False, False, (), allow_unreachable=True, accumulate_grad=True)


def _texts(base: PreTrainedModel, step: Step) -> dict[str, torch.Tensor]:
    """Returns the token ids and labels of a batch: [examples, tokens]."""
    ids = torch.full((step.examples, step.tokens), SOME_ID)
    mask = torch.ones_like(ids)
    # Most batches have padding; without any, models leave their attention mask out and keep less.
    mask[0, -1] = 0
    labels = torch.full((step.examples, step.answer_tokens), SOME_ID)
    read_by_connector = {"qformer_input_ids": ids, "qformer_attention_mask": mask}
    texts = {"input_ids": ids, "attention_mask": mask, **read_by_connector}
    if step.trims:  # as training.batching.collator.trimmed has it
        last = min(step.answer_tokens, step.tokens)
        shifted = torch.full((step.examples, last), SOME_ID)
        positions = torch.arange(step.tokens - last, step.tokens)
        return {**texts, "logits_to_keep": positions, "labels": shifted, "shift_labels": shifted}
    return {**texts, "labels": labels if base.config.is_encoder_decoder else ids}


def _repeated(images: ModelInputs, count: int) -> dict[str, torch.Tensor]:
    """Returns one image's inputs as those of `count`, side by side; pixels without content."""
    return {
        name: torch.empty(count * len(tensor), *tensor.shape[1:], device="meta")
        if tensor.is_floating_point()
        else tensor.repeat(count, *[1] * (tensor.dim() - 1))
        for name, tensor in images.items()
    }


def _encoder_of(base: PreTrainedModel, images: ModelInputs) -> PreTrainedModel | None:
    """Returns what encodes images by itself; None where image and text have to be given together."""
    if "pixel_values" in _required(base.forward):
        return None
    for owner in (base, base.base_model):
        if hasattr(owner, "get_image_features") and _required(owner.get_image_features) <= images.keys():
            return owner
    return None


def _features(owner: PreTrainedModel, images: ModelInputs) -> list[torch.Tensor]:
    found = owner.get_image_features(**_accepted(owner.get_image_features, images)).pooler_output
    return [found] if isinstance(found, torch.Tensor) else list(found)


def _required(function: Any) -> set[str]:
    """Returns the names of the arguments that a function can't do without."""
    return {
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }


def _accepted(function: Any, inputs: ModelInputs) -> dict[str, torch.Tensor]:
    """Returns those of the inputs that a function names among its arguments, and what its loss takes."""
    named = {*inspect.signature(function).parameters, "shift_labels"}
    return {name: tensor for name, tensor in inputs.items() if name in named}


def fallback_peak(adapted: PeftModel, copies: Mapping[str, int], machine: Machine, step: Step) -> float:
    """Returns the peak by a formula over the linear layers, in bytes; within a half of the simulated one."""
    base = adapted.get_base_model()
    towers, head = find_towers(base), base.get_output_embeddings()
    kept: dict[str, int] = {"vision": 0, "connector": 0, "text": 0}
    trained: set[str] = set()
    for name, module in base.named_modules():
        tower = towers.of(name)
        trained |= {tower} if any(p.requires_grad for p in module.parameters(recurse=False)) else set()
        if isinstance(module, nn.Linear) and module is not head and ".lora_" not in name:
            # For every token: its input, what LoRA's dropout made of it, and its output.
            kept[tower] += (2 * module.in_features + module.out_features) * times(name, copies)
    above = step.trains and not step.checkpointing
    tokens = step.examples * step.tokens
    # Three times the logits: themselves, their log-softmax and its gradient.
    elements = tokens * kept["text"] * above + 3 * tokens * (0 if head is None else head.weight.shape[0])
    image_tokens = step.examples * step.images * TOKENS_OF_AN_IMAGE
    elements += image_tokens * kept["vision"] * (above and bool(trained - {"text"}))
    return 4.0 * elements * machine.fragmentation

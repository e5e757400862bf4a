"""Load a base model and its processor: device, number format, quantization.

The only file that names BitsAndBytesConfig. Where the files come from is vlm.hub's matter.
"""

import importlib
import importlib.util
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from vlm import hub
from vlm.attention import attention_arguments
from vlm.building import BUILDING
from vlm.composed import ComposedConfig, ComposedForConditionalGeneration, ComposedProcessor
from vlm.errors import UserError
from vlm.model_files import count_weights
from vlm.settings import ModelSettings
from vlm.towers import TOWERS, Towers, find_towers, in_stack

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BITSANDBYTES_DEVICES = ("cpu", "cuda")
NARROW = 16
"""A linear layer with fewer inputs or outputs is not quantized."""

_BAD_FILES = (
    *(OSError, ValueError, SafetensorError, StrictDataclassError, ImportError, KeyError, TypeError),
    *(AttributeError, IndexError, ArithmeticError, AssertionError, NotImplementedError),
)
"""What transformers raises on configurations, tokenizers and weights that are damaged or made up."""
_AGAIN = "Download the model again: some of its files are missing or belong to another model."
_FROM_FILES = {"trust_remote_code": False, "local_files_only": True}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A base model in memory, and what it takes to use it. `precision` is one of "fp32", "bf16", "fp16"."""

    model: PreTrainedModel
    processor: ProcessorMixin
    device: torch.device
    precision: str


def load_base(settings: ModelSettings) -> LoadedModel:
    """The base model, frozen and in eval mode, on its device.

    Weights are read from safetensors only, and no code of a model's folder is run. What can be found out
    without the weights (architecture, towers, processor) is, before they are downloaded. Raises `UserError`
    where the model, the device, the precision or the quantization can't be used.
    """
    device = pick_device(settings.device)
    precision = pick_precision(settings.precision, device)
    check_quantization(settings, device)
    blueprint = blueprint_model(settings)
    towers = find_towers(blueprint)
    processor = load_processor(settings)
    skipped = [] if settings.quantization == "none" else full_precision_modules(settings, blueprint, towers)
    quantization = quantization_config(settings, skipped, precision, device)
    attention = attention_arguments(settings, blueprint, device.type, precision)
    with _explained(settings.model), _memory_told(settings, device):
        model = _read_weights(
            settings,
            blueprint,
            dtype=DTYPES[precision],
            quantization_config=quantization,
            device_map=None if quantization is None else {"": device},
            **attention,
        )
        if quantization is None:
            model.to(device)
    if quantization is not None:
        _mend(model)
        check_quantized(settings, model, towers, skipped)
    _keep_statistics(model)
    model.requires_grad_(False).eval()
    return LoadedModel(model, processor, device, precision)


def _read_weights(settings: ModelSettings, blueprint: PreTrainedModel, **kwargs) -> PreTrainedModel:
    """The model with its weights. Raises `UserError` where the files don't hold all of them."""
    names = hub.parts(settings.model)
    kwargs |= {"use_safetensors": True, **_FROM_FILES}
    if len(names) == 2:
        vision, text = (hub.model_folder(name, half=True) for name in names)
        with BUILDING:
            return ComposedForConditionalGeneration.from_towers(vision, text, **kwargs)
    folder = hub.model_folder(settings.model, settings.revision)
    held, wanted = count_weights(folder), sum(weight.numel() for weight in blueprint.parameters())
    if held < wanted / 2:  # thousands of layers that are not there take minutes to make up
        raise UserError(
            f"{settings.model} lacks most of its weights: {held / 1e6:,.1f} M of {wanted / 1e6:,.1f} M.",
            _AGAIN,
        )
    with BUILDING:
        model, report = AutoModelForImageTextToText.from_pretrained(
            folder,
            config=blueprint.config,
            ignore_mismatched_sizes=True,  # they are in the report, and refused with the missing ones
            output_loading_info=True,
            **kwargs,
        )
    missing = {*report["missing_keys"], *(str(key[0]) for key in report["mismatched_keys"])}
    if missing:
        raise UserError(
            f"{settings.model} lacks {len(missing)} of its weights, {min(missing)} first.", _AGAIN
        )
    return model


def load_processor(settings: ModelSettings) -> ProcessorMixin:
    """The processor of a base model: image processor and tokenizer in one. Raises `UserError` without one."""
    names = hub.parts(settings.model)
    with _explained(settings.model):
        if len(names) == 2:
            vision, text = (hub.small_folder(name, half=True) for name in names)
            return ComposedProcessor.from_towers(vision, text)
        folder = hub.small_folder(settings.model, settings.revision)
        processor = AutoProcessor.from_pretrained(folder, **_FROM_FILES)
        if isinstance(processor, ProcessorMixin):
            return processor
        # No class of processors goes with this model: its image processor and tokenizer stand alone.
        return ComposedProcessor(
            image_processor=AutoImageProcessor.from_pretrained(folder, **_FROM_FILES),
            tokenizer=AutoTokenizer.from_pretrained(folder, **_FROM_FILES),
        )


def read_config(model: str, revision: str | None = None) -> PreTrainedConfig:
    """The architecture of a base model; of one on the Hub nothing but config.json is fetched.

    Raises `UserError` where there is no such model, or where it can't be done.
    """
    names = hub.parts(model)
    if len(names) == 2:
        if revision is not None:
            raise UserError(f"{model} is two models, and has no revision.", "Leave --revision out.")
        vision, text = (hub.config_folder(name, half=True) for name in names)
        with _explained(model):
            return _unmarked(ComposedConfig.from_towers(vision, text))
    folder = hub.config_folder(model, revision)
    with _explained(model):
        return _unmarked(AutoConfig.from_pretrained(folder, **_FROM_FILES))


def _unmarked(config: PreTrainedConfig) -> PreTrainedConfig:
    """Without what a config.json wishes for as code: an attention kernel's name may be a Hub repository.

    With None each part of a model takes sdpa, or eager where its class knows nothing else.
    """
    config._attn_implementation = None
    config._experts_implementation = None
    vars(config).pop("fusion_config", None)
    return config


def blueprint_model(settings: ModelSettings) -> PreTrainedModel:
    """The architecture on the meta device, from its configuration alone; no weight is read.

    Raises `UserError` as `read_config` does, and where the configuration describes nothing that can be built.
    """
    config = read_config(settings.model, settings.revision)
    with _explained(settings.model), BUILDING, torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, trust_remote_code=False)


def pick_device(wanted: str) -> torch.device:
    """The device asked for, or the best there is; of several GPUs the one that torchrun gave this process.

    Raises `UserError` where the one asked for is not there.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = wanted if wanted != "auto" else next(device for device, there in present.items() if there)
    if not present[name]:
        raise UserError(f"This machine has no {name} device.", "Use --device auto.")
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device(name, int(os.environ["LOCAL_RANK"]))
    return torch.device(name)


def pick_precision(wanted: str, device: torch.device) -> str:
    """The number format of the arithmetic: bf16 where the hardware computes in it, else fp32.

    Without instructions for it, bf16 on a CPU is tens of times slower than fp32. Raises `UserError` for fp16
    on a CPU, which torch has no training kernels for.
    """
    if wanted == "fp16" and device.type == "cpu":
        raise UserError("fp16 can't be trained on a CPU.", "Use --precision auto.")
    if wanted != "auto":
        return wanted
    return "bf16" if device.type == "cuda" and _computes_bf16() else "fp32"


def _computes_bf16() -> bool:
    return torch.cuda.is_bf16_supported(including_emulation=False)


def check_quantization(settings: ModelSettings, device: torch.device) -> None:
    """Refuse what bitsandbytes can't do here. Raises `UserError` with what to install or choose."""
    if settings.quantization == "none":
        return
    bits = settings.quantization.removesuffix("bit")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"{bits}-bit training needs bitsandbytes.",
            "Install it with: pip install bitsandbytes, or use --quantization none.",
        )
    if device.type not in BITSANDBYTES_DEVICES:
        raise UserError(
            f"{bits}-bit training does not run on {device.type} devices.",
            "Use --quantization none, or --device cpu.",
        )


def full_precision_modules(settings: ModelSettings, blueprint: PreTrainedModel, towers: Towers) -> list[str]:
    """Full names of the modules that stay as they are: the output head, vision tower and connector.

    The latter two are quantized as well with `quantize_vision`. bitsandbytes wants full names here; short
    ones do nothing and drop its own exemption of the output head. A layer that shares its weight with another
    has to stay, and is the head of models that don't name one. So has a linear layer that takes the pixels:
    SigLIP 2 makes them numbers of its weight's format, which would be integers. Routers and other narrow
    layers weigh nothing, and a model may work on their weights itself, as Gemma 3n does.
    """
    shared = [*blueprint.all_tied_weights_keys, *blueprint.all_tied_weights_keys.values()]
    heads = {key.rpartition(".")[0] for key in shared}
    heads |= {
        name
        for name, module in blueprint.named_modules()
        if module is blueprint.get_output_embeddings() or _is_narrow(module)
    }
    if not settings.quantize_vision:
        return [*sorted(heads), *towers.vision, *towers.connector]
    first = {
        name
        for name, module in blueprint.named_modules()
        if isinstance(module, nn.Linear) and towers.of(name) == "vision" and not in_stack(name)
    }
    return sorted(heads | first)


def _is_narrow(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and min(module.in_features, module.out_features) < NARROW


def quantization_config(
    settings: ModelSettings, skipped: list[str], precision: str, device: torch.device
) -> BitsAndBytesConfig | None:
    """How bitsandbytes keeps linear layers: LLM.int8 (arXiv:2208.07339), or NF4 with double quantization
    (QLoRA, arXiv:2305.14314). None for full precision.

    NF4 computes in the format of the rest, or in fp16 on a GPU that has no bf16.
    """
    if settings.quantization == "none":
        return None
    if settings.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    in_fp16 = device.type == "cuda" and precision == "fp32" and not _computes_bf16()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float16 if in_fp16 else DTYPES[precision],
        llm_int8_skip_modules=skipped,
    )


def _quantized_layer(quantization: str) -> type[nn.Module]:
    bitsandbytes = importlib.import_module("bitsandbytes")
    return getattr(bitsandbytes.nn, {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}[quantization])


@cache
def _any_shape() -> type[nn.Module]:
    class AnyShape(_quantized_layer("8bit")):
        """bitsandbytes multiplies [B, D] and [B, L, D] in 8 bits; some vision towers hand over more."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.dim() <= 3:
                return super().forward(x)
            return super().forward(x.flatten(0, -3)).unflatten(0, x.shape[:-2])

    return AnyShape


def _mend(model: PreTrainedModel) -> None:
    """Make bitsandbytes' layers take what models give them, and stay as they were loaded.

    On a CPU with bf16 instructions 4-bit weights would be packed anew in eval mode and back in training: with
    a loss each time, so that the frozen base drifts, and only where outputs are multiples of 32 and inputs of
    64; else it fails.
    """
    # It says at each multiplication that 8 bits are made from fp16, which is how LLM.int8 works.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    for module in model.modules():
        if isinstance(module, _quantized_layer("4bit")):
            module.support_avx512bf16_for_cpu = False
        elif isinstance(module, _quantized_layer("8bit")):
            module.__class__ = _any_shape()


def check_quantized(
    settings: ModelSettings, model: PreTrainedModel, towers: Towers, skipped: list[str]
) -> None:
    """See what is quantized in fact, and say it. Raises `UserError` where the text tower is not at all."""
    wanted = _quantized_layer(settings.quantization)
    found: dict[str, int] = dict.fromkeys(TOWERS, 0)
    left: dict[str, int] = dict.fromkeys(TOWERS, 0)
    for name, module in model.named_modules():
        if isinstance(module, wanted):
            if any(name == other or name.startswith(f"{other}.") for other in skipped):
                raise AssertionError(f"{name} was to stay as it is and is quantized")
            found[towers.of(name)] += module.in_features * module.out_features
        elif not any(True for _ in module.children()):
            left[towers.of(name)] += sum(weight.numel() for weight in module.parameters(recurse=False))
    if not found["text"]:
        raise UserError(
            f"Nothing in the text tower of {settings.model} can be quantized: it has no plain linear layers.",
            "Use --quantization none.",
        )
    shares = (
        f"{tower} {found[tower] / (found[tower] + left[tower]):.0%}"
        for tower in TOWERS
        if found[tower] + left[tower]
    )
    logger.info("Weights in %s: %s.", settings.quantization, ", ".join(shares))


@cache
def _frozen(batch_norm: type[nn.Module]) -> type[nn.Module]:
    class Frozen(batch_norm):
        """It normalises by its statistics in training too, and they don't move: no adapter holds them."""

        def train(self, mode: bool = True) -> nn.Module:
            return super().train(False)

    return Frozen


def _keep_statistics(model: PreTrainedModel) -> None:
    """Freeze batch norms, FastVLM's for example, which learn without a gradient."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.__class__ = _frozen(type(module))


@contextmanager
def _explained(model: str) -> Iterator[None]:
    """Turn what transformers makes of unfit files into a `UserError`."""
    try:
        yield
    except _BAD_FILES as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        install = re.search(r"pip install (?:-U )?([\w.\[\]-]+)", str(error))
        if install is not None or isinstance(error, ModuleNotFoundError):
            package = install[1] if install else error.name
            raise UserError(
                f"{model} needs a package that is not installed: {package}.",
                f"Install it with: pip install {package}",
            ) from error
        raise UserError(
            f"{model} can't be loaded: {lines[0][:300]}",
            "Choose a folder with config.json, *.safetensors and processor files.",
        ) from error


@contextmanager
def _memory_told(settings: ModelSettings, device: torch.device) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise UserError(
            f"{settings.model} does not fit in the memory of the {device.type} device.",
            "Choose a smaller model, or --quantization 4bit.",
        ) from error

"""Load a base model and its processor: device, number format, quantization.

The only file that names BitsAndBytesConfig. Where the files come from is vlm.models.hub's matter.
"""

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

from vlm.attention import attention_arguments
from vlm.build_lock import BUILDING
from vlm.composed import ComposedConfig, ComposedForConditionalGeneration, ComposedProcessor
from vlm.errors import UserError
from vlm.models import hub
from vlm.models.checkpoint_files import count_weights
from vlm.models.quantization import check_quantization, check_quantized, full_precision_modules, mend
from vlm.models.towers import find_towers
from vlm.settings import ModelSettings

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
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
        mend(model)
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

"""Loads a base model and its processor: device, number format, quantization, attention kernel.

The only file that names BitsAndBytesConfig. Where the files come from is vlm.models.hub's matter.
"""

import importlib.util
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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

from vlm.build_lock import CONSTRUCTION_LOCK
from vlm.composed import ComposedConfig, ComposedForConditionalGeneration, ComposedProcessor
from vlm.composed.configuration import without_code_wishes
from vlm.composed.pretrained import load_complete
from vlm.errors import Phrase, UserError
from vlm.models import hub
from vlm.models.checkpoint_files import count_weights
from vlm.models.image_size import with_image_size
from vlm.models.quantization import (
    check_quantization,
    check_quantized,
    full_precision_modules,
    patch_bitsandbytes,
)
from vlm.models.towers import find_towers
from vlm.oom import is_out_of_memory
from vlm.settings import ModelSettings

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# What transformers raises on configurations, tokenizers and weights that are damaged or made up.
_BAD_FILES = (
    *(OSError, ValueError, SafetensorError, StrictDataclassError, ImportError, KeyError, TypeError),
    *(AttributeError, IndexError, ArithmeticError, AssertionError, NotImplementedError),
)
_AGAIN = Phrase(
    "Download the model again: some of its files are missing or belong to another model.",
    "download-whole-model",
)
# Everything was fetched and checked before (vlm.models.hub): transformers must neither run a repository's
# Python nor reach for the Hub, where a name in a configuration could point anywhere.
_FROM_FILES = {"trust_remote_code": False, "local_files_only": True}
# What a model's class claims to support. Every class supports eager, so it has no flag.
_SUPPORT_FLAGS = {"sdpa": "_supports_sdpa", "flash_attention_2": "_supports_flash_attn"}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A base model in memory, and what it takes to use it. `precision` is one of "fp32", "bf16", "fp16"."""

    model: PreTrainedModel
    processor: ProcessorMixin
    device: torch.device
    precision: str


def load_base(settings: ModelSettings) -> LoadedModel:
    """Returns the base model, frozen and in eval mode, on its device.

    Weights are read from safetensors only, and no code of a model's folder is run. What can be found out
    without the weights (architecture, towers, processor) is, before they are downloaded.

    Raises:
        UserError: the model, the device, the precision, the quantization or the attention kernel can't be
            used, or the model does not fit in memory.
    """
    hub.check_local(settings.model)
    device = pick_device(settings.device)
    precision = pick_precision(settings.precision, device)
    check_quantization(settings, device)
    blueprint = blueprint_model(settings)
    towers = find_towers(blueprint)
    processor = load_processor(settings)
    skipped = [] if settings.quantization == "none" else full_precision_modules(settings, blueprint, towers)
    quantization = quantization_config(settings, skipped, precision, device)
    kwargs = attention_arguments(settings, blueprint, device.type, precision) | {
        "dtype": DTYPES[precision],
        "quantization_config": quantization,
        # bitsandbytes quantizes on the device while it reads: the full weights are never in memory at once.
        "device_map": None if quantization is None else {"": device},
    }
    with _bad_files_explained(settings.model):
        try:
            model = _read_weights(settings, blueprint, **kwargs)
            if quantization is None:
                model.to(device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                "{model} does not fit in the memory of the {device} device.",
                "Choose a smaller model, or --quantization 4bit.",
                "model-no-memory",
                change={"quantization": "4bit"},
                model=settings.model,
                device=device.type,
            ) from error
    if quantization is not None:
        patch_bitsandbytes(model)
        check_quantized(settings, model, towers, skipped)
    for module in model.modules():
        # Running statistics of batch norms, FastVLM's for example, move in every training forward, without a
        # gradient: `requires_grad_(False)` does not stop that, and no adapter stores them.
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            # A class and no function on the instance: a deep copy would still call the original's.
            in_eval = {"train": lambda self, mode=True: nn.Module.train(self, False)}
            module.__class__ = type("Frozen", (type(module),), in_eval)
    model.requires_grad_(False).eval()
    return LoadedModel(model, processor, device, precision)


def check_base(settings: ModelSettings) -> None:
    """Checks what `load_base` would refuse of a base, without its weights and without a download.

    Raises:
        UserError: as `load_base`.
    """
    hub.check_local(settings.model)
    device = pick_device(settings.device)
    precision = pick_precision(settings.precision, device)
    check_quantization(settings, device)
    blueprint = blueprint_model(settings)
    find_towers(blueprint)
    attention_arguments(settings, blueprint, device.type, precision)
    names = hub.parts(settings.model)
    if len(names) == 1 and hub.is_local(settings.model):
        _require_most_weights(settings.model, hub.model_folder(settings.model, settings.revision), blueprint)


def _require_most_weights(model: str, folder: Path, blueprint: PreTrainedModel) -> None:
    """Raises `UserError` where the files hold less than half of what the architecture has."""
    held, wanted = count_weights(folder), sum(weight.numel() for weight in blueprint.parameters())
    # A config.json may announce layers that no file holds: transformers would take minutes to initialise them
    # at random before it reported them missing.
    if held < wanted / 2:
        raise UserError(
            "{model} lacks most of its weights: {held:,.1f} M of {wanted:,.1f} M.",
            "{again}",
            "model-lacks-most",
            model=model,
            held=held / 1e6,
            wanted=wanted / 1e6,
            again=_AGAIN,
        )


def _read_weights(settings: ModelSettings, blueprint: PreTrainedModel, **kwargs: object) -> PreTrainedModel:
    """Returns the model with its weights. Raises `UserError` where the files don't hold all of them."""
    names = hub.parts(settings.model)
    if len(names) == 2:
        vision, text = (hub.model_folder(name, half=True) for name in names)
        with CONSTRUCTION_LOCK:
            return ComposedForConditionalGeneration.from_towers(vision, text, local_files_only=True, **kwargs)
    folder = hub.model_folder(settings.model, settings.revision)
    _require_most_weights(settings.model, folder, blueprint)
    with CONSTRUCTION_LOCK:
        return load_complete(
            AutoModelForImageTextToText,
            folder,
            blueprint.config,
            name=settings.model,
            again=_AGAIN,
            local_files_only=True,
            **kwargs,
        )


def load_processor(settings: ModelSettings) -> ProcessorMixin:
    """Returns image processor and tokenizer of a base model in one, with the image size of the settings.

    Raises:
        UserError: there is none, or its images have no such size.
    """
    return with_image_size(_own_processor(settings), settings)


def _own_processor(settings: ModelSettings) -> ProcessorMixin:
    names = hub.parts(settings.model)
    with _bad_files_explained(settings.model):
        if len(names) == 2:
            vision, text = (hub.snapshot_folder(name, half=True) for name in names)
            return ComposedProcessor.from_towers(vision, text)
        folder = hub.snapshot_folder(settings.model, settings.revision)
        processor = AutoProcessor.from_pretrained(folder, **_FROM_FILES)
        if isinstance(processor, ProcessorMixin):
            return processor
        # AutoProcessor falls back to a tokenizer or an image processor alone where transformers has no class
        # of processors for the architecture.
        return ComposedProcessor(
            image_processor=AutoImageProcessor.from_pretrained(folder, **_FROM_FILES),
            tokenizer=AutoTokenizer.from_pretrained(folder, **_FROM_FILES),
        )


def read_config(model: str, revision: str | None = None) -> PreTrainedConfig:
    """Returns the configuration of a base model; of one on the Hub nothing but config.json is fetched.

    Raises:
        UserError: there is no such model, or it can't be trained here.
    """
    names = hub.parts(model)
    if len(names) == 2:
        if revision is not None:
            raise UserError(
                "{model} is two models, and has no revision.",
                "Leave --revision out.",
                "composed-no-revision",
                model=model,
            )
        vision, text = (hub.config_folder(name, half=True) for name in names)
        with _bad_files_explained(model):
            return without_code_wishes(ComposedConfig.from_towers(vision, text))
    folder = hub.config_folder(model, revision)
    with _bad_files_explained(model):
        return without_code_wishes(AutoConfig.from_pretrained(folder, **_FROM_FILES))


def blueprint_model(settings: ModelSettings) -> PreTrainedModel:
    """Returns the architecture on the meta device, from its configuration alone; no weight is read.

    Raises:
        UserError: as `read_config`, and where the configuration describes nothing that can be built.
    """
    config = read_config(settings.model, settings.revision)
    with _bad_files_explained(settings.model), CONSTRUCTION_LOCK, torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, trust_remote_code=False)


def pick_device(wanted: str) -> torch.device:
    """Returns the wanted device, or the best there is for `auto`. Raises `UserError` where it is missing."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = wanted if wanted != "auto" else next(device for device, there in present.items() if there)
    if not present[name]:
        raise UserError(
            "This machine has no {device} device.",
            "Use --device auto.",
            "no-such-device",
            change={"device": "auto"},
            device=name,
        )
    # torchrun starts one process a GPU and numbers them: a plain "cuda" would put all of them on the first.
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device(name, int(os.environ["LOCAL_RANK"]))
    return torch.device(name)


def pick_precision(wanted: str, device: torch.device) -> str:
    """Returns the number format of the arithmetic: for `auto` bf16 where the hardware has it, else fp32.

    Raises:
        UserError: fp16 on a CPU, which torch has no training kernels for.
    """
    if wanted == "fp16" and device.type == "cpu":
        raise UserError(
            "fp16 can't be trained on a CPU.",
            "Use --precision auto.",
            "fp16-on-cpu",
            change={"precision": "auto"},
        )
    if wanted != "auto":
        return wanted
    # Never on a CPU: without instructions for it bf16 is tens of times slower than fp32 there.
    return "bf16" if device.type == "cuda" and _computes_bf16() else "fp32"


def _computes_bf16() -> bool:
    # By default torch also counts GPUs that only emulate bf16, those before Ampere.
    return torch.cuda.is_bf16_supported(including_emulation=False)


def quantization_config(
    settings: ModelSettings, skipped: list[str], precision: str, device: torch.device
) -> BitsAndBytesConfig | None:
    """Returns how bitsandbytes stores linear layers: LLM.int8 (arXiv:2208.07339), or NF4 with double
    quantization (QLoRA, arXiv:2305.14314). None for full precision.
    """
    if settings.quantization == "none":
        return None
    if settings.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    # A GPU without bf16 has fast fp16, for the products of dequantized weights; the rest stays in fp32.
    in_fp16 = device.type == "cuda" and precision == "fp32" and not _computes_bf16()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float16 if in_fp16 else DTYPES[precision],
        llm_int8_skip_modules=skipped,
    )


def attention_arguments(
    settings: ModelSettings, blueprint: PreTrainedModel, device: str, precision: str
) -> dict[str, str]:
    """Returns the attention kernel as an argument of `from_pretrained`; none for `auto`.

    Raises:
        UserError: the kernel is not installed, or device, precision or model don't support it.
    """
    wanted = settings.attn_implementation
    if wanted == "auto":
        return {}
    auto = {"attn_implementation": "auto"}
    if wanted == "flash_attention_2":
        if device != "cuda":
            raise UserError(
                "FlashAttention runs on GPUs alone.",
                "Use --attn_implementation auto.",
                "flash-needs-gpu",
                change=auto,
            )
        if precision == "fp32":
            raise UserError(
                "FlashAttention computes in bf16 or fp16.",
                "Use --precision bf16. Use --attn_implementation auto.",
                "flash-needs-16-bits",
                change={"precision": "bf16"} | auto,
            )
        if importlib.util.find_spec("flash_attn") is None:
            raise UserError(
                "FlashAttention is not installed.",
                "pip install flash-attn. Use --attn_implementation auto.",
                "flash-missing",
                change=auto,
            )
    # Each tower is a PreTrainedModel of its own, and one may support less than the model around it.
    lacking = {
        type(part).__name__
        for part in blueprint.modules()
        if isinstance(part, PreTrainedModel)
        and wanted in _SUPPORT_FLAGS
        and not getattr(part, _SUPPORT_FLAGS[wanted])
    }
    if lacking:
        raise UserError(
            "{models} can't compute attention with {wanted}.",
            "Use --attn_implementation auto.",
            "attention-unsupported",
            change=auto,
            models=sorted(lacking),
            wanted=wanted,
        )
    return {"attn_implementation": wanted}


@contextmanager
def _bad_files_explained(model: str) -> Iterator[None]:
    """Turns what transformers raises on unfit files into a `UserError`."""
    try:
        yield
    except _BAD_FILES as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        # For a missing package the class of the error differs by place, its text always has the command.
        install = re.search(r"pip install (?:-U )?([\w.\[\]-]+)", str(error))
        if install is not None or isinstance(error, ModuleNotFoundError):
            package = install[1] if install else error.name
            raise UserError(
                "{model} needs a package that is not installed: {package}.",
                "Install it with: pip install {package}",
                "model-needs-package",
                model=model,
                package=package,
            ) from error
        raise UserError(
            "{model} can't be loaded: {reason}",
            "Choose a folder with config.json, *.safetensors and processor files.",
            "model-unloadable",
            model=model,
            reason=lines[0][:300],
        ) from error

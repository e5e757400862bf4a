"""Load a base model and its processor: device, number format, quantization.

The only file that names BitsAndBytesConfig.
"""

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

import vlm.composed  # noqa: F401 - registers the model type "composed"
from vlm.errors import UserError
from vlm.settings import ModelSettings
from vlm.towers import find_towers

logger = logging.getLogger(__name__)

STARTER = "starter"
STARTER_FOLDER = Path(__file__).parent / "starter"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A base model in memory, and what it takes to use it. `precision` is one of "fp32", "bf16", "fp16"."""

    model: PreTrainedModel
    processor: ProcessorMixin
    device: torch.device
    precision: str


def load_base(settings: ModelSettings) -> LoadedModel:
    """The base model, frozen and in eval mode, on its device.

    Weights are read from safetensors only, and no code of a model's folder is run. Raises `UserError` where
    the folder, the device, the precision or the quantization can't be used.
    """
    folder, device = model_folder(settings.model), pick_device(settings.device)
    precision = pick_precision(settings.precision, device)
    config = read_config(settings.model)
    quantization = quantization_config(settings, config, precision)
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            folder,
            config=config,
            dtype=DTYPES[precision],
            quantization_config=quantization,
            device_map=None if quantization is None else {"": device},
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"{settings.model} can't be loaded: {str(error).splitlines()[0]}",
            "Choose a folder with config.json, *.safetensors and processor files.",
        ) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(
            f"{settings.model} lacks {len(missing)} of its weights, {missing[0]} first.",
            "Download the model again: some of its files are missing or belong to another model.",
        )
    model.requires_grad_(False).eval()
    return LoadedModel(model if quantization else model.to(device), processor, device, precision)


def read_config(model: str) -> PreTrainedConfig:
    """The architecture of a base model. Raises `UserError` where it is not a vision-language model."""
    try:
        config = AutoConfig.from_pretrained(
            model_folder(model), trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"{model} has no configuration that can be read: {str(error).splitlines()[0]}",
            "Choose a folder with a model's config.json.",
        ) from error
    if type(config) not in AutoModelForImageTextToText._model_mapping:
        raise UserError(
            f"{model} is a {config.model_type} model, which does not answer about images.",
            "Choose a vision-language model.",
        )
    return config


def model_folder(model: str) -> Path:
    """Where a base model's files lie. Raises `UserError` where they don't."""
    folder = STARTER_FOLDER if model == STARTER else Path(model)
    if not (folder / "config.json").is_file():
        raise UserError(f"There is no model in {model}.", f"Use `{STARTER}`, or a folder with a config.json.")
    return folder


def pick_device(wanted: str) -> torch.device:
    """The device asked for, or the best there is. Raises `UserError` where the one asked for is not there."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = wanted if wanted != "auto" else next(device for device, there in present.items() if there)
    if not present[name]:
        raise UserError(f"This machine has no {name} device.", "Use --device auto.")
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
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def quantization_config(
    settings: ModelSettings, config: PreTrainedConfig, precision: str
) -> BitsAndBytesConfig | None:
    """How QLoRA keeps the text tower: NF4, double quantization (arXiv:2305.14314). None for full precision.

    Vision tower, connector and output head stay as they are. Raises `UserError` without bitsandbytes.
    """
    if settings.quantization == "none":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "4-bit training needs bitsandbytes.",
            "Install it with: pip install bitsandbytes, or use --quantization none.",
        )
    with torch.device("meta"):
        blueprint = AutoModelForImageTextToText.from_config(config)
    towers = find_towers(blueprint)
    # bitsandbytes wants full names here; short ones do nothing and drop its own exemption of the output head.
    head = next(name for name, m in blueprint.named_modules() if m is blueprint.get_output_embeddings())
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=DTYPES[precision],
        llm_int8_skip_modules=[towers.vision, *towers.connector, head],
    )

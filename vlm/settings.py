"""Settings of model, adapter and generation, which `training.config` widens to a run's. No torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vlm.errors import UserError
from vlm.filesystem import write_atomic
from vlm.methods import Method

Rank = Annotated[int, Field(ge=1, le=1024)]
Alpha = Annotated[float, Field(gt=0, le=65536, allow_inf_nan=False)]
LearningRate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
LayerNames = Annotated[
    str,
    Field(
        max_length=2000,
        # Names and never a pattern, as PEFT would take: some regular expressions take years to match.
        pattern=r"^[A-Za-z0-9_.]+( *, *[A-Za-z0-9_.]+)*$",
        description="layer names with commas between them",
    ),
]
Targets = Literal["attention", "attention_mlp", "all_linear"] | LayerNames
Connector = Literal["auto", "off", "lora", "full"]
TextPart = Literal["all", "encoder", "decoder"]
Quantization = Literal["none", "8bit", "4bit"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Attention = Literal["auto", "sdpa", "flash_attention_2", "eager"]
Pixels = Annotated[int, Field(ge=64, le=2**28)]

# How large a model sees images. An adapter learns them at one size: its folder has what it was, if it was not
# the processor's own.
IMAGE_SIZE = ("image_max_pixels", "image_min_pixels", "image_tiles")
IMAGE_SIZE_FILE = "image_size.json"
MAX_IMAGE_SIZE_BYTES = 1000


class ModelSettings(BaseModel):
    """Which base model, and how it lies in memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        "starter",
        min_length=1,
        max_length=4096,
        description="Base model: `starter`, a model folder, a Hub id `org/name`, or `vision+text` of two.",
    )
    revision: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Branch, tag or commit of a Hub model; the newest if not given.",
    )
    quantization: Quantization = Field(
        "none",
        description="Keep the base's weights in 8 bits (LLM.int8), 4 bits (QLoRA, NF4), or as they are.",
    )
    quantize_vision: bool = Field(False, description="Quantize the vision tower and the connector as well.")
    precision: Precision = Field(
        "auto", description="Number format of the arithmetic; `auto` follows the hardware."
    )
    device: Device = Field(
        "auto", description="Where to compute; `auto` takes CUDA, then Apple's MPS, then the CPU."
    )
    attn_implementation: Attention = Field(
        "auto", description="What computes attention; `auto` is SDPA where the model knows it."
    )
    image_max_pixels: Pixels | None = Field(
        None,
        description="Pixels of an image that the model sees at most: larger ones are scaled down, nothing is"
        " cut; the model's own if not given.",
    )
    image_min_pixels: Pixels | None = Field(
        None,
        description="Pixels of an image that the model sees at least: smaller ones are scaled up; the model's"
        " own if not given.",
    )
    image_tiles: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Cut large images into tiles, which show more and take more tokens; `auto`: as the model"
        " does.",
    )

    @property
    def image_size(self) -> dict[str, Any]:
        """What is asked of the size of images, by setting; empty where the model has its own way."""
        asked = {name: getattr(self, name) for name in IMAGE_SIZE}
        return {name: value for name, value in asked.items() if value != AS_THE_MODEL_HAS_IT[name]}


AS_THE_MODEL_HAS_IT = {name: ModelSettings.model_fields[name].default for name in IMAGE_SIZE}


def write_image_size(settings: ModelSettings, adapter: Path) -> None:
    """Writes beside an adapter how large it was trained to see images, if not as large as the model does."""
    if settings.image_size:
        write_atomic(adapter / IMAGE_SIZE_FILE, json.dumps(settings.image_size))


def image_size_of(adapter: Path) -> dict[str, Any]:
    """Returns the `image_size` that the adapter in a folder was trained with. The folder may be a stranger's.

    Raises:
        UserError: what stands there can't be read.
    """
    file = adapter / IMAGE_SIZE_FILE
    if not file.is_file():
        return {}
    try:
        with file.open("rb") as stream:
            found = json.loads(stream.read(MAX_IMAGE_SIZE_BYTES))
        known = {name: found[name] for name in IMAGE_SIZE if name in found}
        return ModelSettings.model_validate(known).image_size
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(
            "{file} of the adapter can't be read: it says how large the adapter sees images.",
            "Copy the adapter again, or delete that file: images are as large then as the model has them.",
            "adapter-image-size",
            file=IMAGE_SIZE_FILE,
        ) from error


class AdapterSettings(BaseModel):
    """The adapter, tower by tower. An alpha that is not given is twice the rank.

    LoRA stands for any method here: `vlm.methods` lists which of these settings a method reads.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = Field("lora", description="PEFT method of the adapter.")
    use_vision_lora: bool = Field(False, description="Train a LoRA in the vision tower.")
    vision_lora_r: Rank = Field(8, description="Rank of the vision tower's LoRA.")
    vision_lora_alpha: Alpha | None = Field(
        None, description="Alpha of the vision tower's LoRA; 2r if not given."
    )
    vision_lora_targets: Targets = Field(
        "attention_mlp", description="Layers of the vision tower that get a LoRA."
    )
    vision_learning_rate: LearningRate | None = Field(
        None,
        description="Learning rate of the vision tower; learning_rate if that is given, else by the model.",
    )
    connector: Connector = Field(
        "auto", description="Train the connector: a LoRA, all of it, or `auto`: all of it where it is new."
    )
    connector_lora_r: Rank = Field(16, description="Rank of the connector's LoRA.")
    connector_lora_alpha: Alpha | None = Field(
        None, description="Alpha of the connector's LoRA; 2r if not given."
    )
    connector_learning_rate: LearningRate | None = Field(
        None, description="Learning rate of the connector; learning_rate if not given."
    )
    use_text_lora: bool = Field(True, description="Train a LoRA in the text tower.")
    text_lora_r: Rank = Field(16, description="Rank of the text tower's LoRA.")
    text_lora_alpha: Alpha | None = Field(
        None, description="Alpha of the text tower's LoRA; 2r if not given."
    )
    text_lora_targets: Targets = Field(
        "attention_mlp", description="Layers of the text tower that get a LoRA."
    )
    text_lora_part: TextPart = Field(
        "all", description="Part of an encoder-decoder text tower that gets a LoRA."
    )
    text_learning_rate: LearningRate | None = Field(
        None, description="Learning rate of the text tower; learning_rate if not given."
    )
    lora_dropout: float = Field(0.1, ge=0, lt=1, allow_inf_nan=False, description="Dropout before each LoRA.")
    num_virtual_tokens: int = Field(
        16, ge=1, le=1024, description="Virtual tokens of prefix and prompt tuning."
    )
    loraplus_lr_ratio: float | None = Field(
        None,
        ge=1,
        le=1000,
        allow_inf_nan=False,
        description="LoRA+ (arXiv:2402.12354): how many times faster B learns than A, 16 for example.",
    )

    @property
    def vision_alpha(self) -> float:
        return self.vision_lora_alpha if self.vision_lora_alpha is not None else 2 * self.vision_lora_r

    @property
    def connector_alpha(self) -> float:
        return (
            self.connector_lora_alpha if self.connector_lora_alpha is not None else 2 * self.connector_lora_r
        )

    @property
    def text_alpha(self) -> float:
        return self.text_lora_alpha if self.text_lora_alpha is not None else 2 * self.text_lora_r


class GenerationSettings(BaseModel):
    """How answers are generated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: int = Field(64, ge=1, le=4096, description="Longest answer, in tokens.")


# What each setting of `Sampling` may be, ends included.
SAMPLING_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 5.0),
    "top_p": (0.001, 1.0),
    "top_k": (0, 100_000),
    "repetition_penalty": (0.1, 5.0),
    "num_beams": (1, 16),
    "seed": (0, 2**32 - 1),
}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen: greedily, unless a temperature is given.

    `top_p` and `top_k` (0: all tokens) bound what a temperature draws from. `num_beams` are followed side by
    side, 1 being none. Where `repetition_penalty` is None it is the model's own, as in a run's evaluations.
    With a `seed` the same question has the same answer again.

    Raises:
        UserError: a value is out of its range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float | None = None
    num_beams: int = 1
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, (least, most) in SAMPLING_RANGES.items():
            value = getattr(self, name)
            # Written so that a NaN is out of range.
            if value is not None and not least <= value <= most:
                raise UserError(
                    "{setting} is {value}; it goes from {least} to {most}.",
                    "Give {setting} a value in that range.",
                    "sampling-range",
                    setting=name,
                    value=value,
                    least=least,
                    most=most,
                )

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn: another answer each time, but for a seed."""
        return self.temperature > 0

    def arguments(self) -> dict[str, Any]:
        """What `generate` takes for these settings."""
        chosen: dict[str, Any] = {"do_sample": self.draws, "num_beams": self.num_beams}
        if self.draws:
            chosen |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        if self.repetition_penalty is not None:
            chosen["repetition_penalty"] = self.repetition_penalty
        return chosen


GREEDY = Sampling()

"""What to load, adapt and generate: a model's settings; `training.config` widens them to a run. No torch."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Rank = Annotated[int, Field(ge=1, le=1024)]
Alpha = Annotated[float, Field(gt=0, le=65536, allow_inf_nan=False)]
Targets = Literal["attention", "attention_mlp"]
TextPart = Literal["all", "encoder", "decoder"]
Quantization = Literal["none", "8bit", "4bit"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda", "mps"]


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


class AdapterSettings(BaseModel):
    """The LoRA adapter, tower by tower. An alpha that is not given is twice the rank."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    use_vision_lora: bool = Field(False, description="Train a LoRA in the vision tower.")
    vision_lora_r: Rank = Field(8, description="Rank of the vision tower's LoRA.")
    vision_lora_alpha: Alpha | None = Field(
        None, description="Alpha of the vision tower's LoRA; 2r if not given."
    )
    vision_lora_targets: Targets = Field(
        "attention_mlp", description="Layers of the vision tower that get a LoRA."
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
    lora_dropout: float = Field(0.1, ge=0, lt=1, allow_inf_nan=False, description="Dropout before each LoRA.")

    @property
    def vision_alpha(self) -> float:
        return self.vision_lora_alpha if self.vision_lora_alpha is not None else 2 * self.vision_lora_r

    @property
    def text_alpha(self) -> float:
        return self.text_lora_alpha if self.text_lora_alpha is not None else 2 * self.text_lora_r


class GenerationSettings(BaseModel):
    """How answers are generated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: int = Field(64, ge=1, le=4096, description="Longest answer, in tokens.")

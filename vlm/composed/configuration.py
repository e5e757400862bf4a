"""ComposedConfig: which vision encoder and which seq2seq text model are put together."""

import inspect
from pathlib import Path

from huggingface_hub.dataclasses import strict
from transformers import (
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    PreTrainedConfig,
)
from transformers.configuration_utils import SubConfigSpec

from vlm.errors import UserError

EXAMPLE = "facebook/dinov2-base+vinai/bartpho-syllable"
UNREAD = ("vision_use_head", "use_mask_token")
"""Flags of vision configurations for parameters that nothing here reads: pooling heads and mask tokens."""


@strict
class ComposedConfig(PreTrainedConfig):
    """The configuration of `ComposedForConditionalGeneration`.

    `vision_config` is any image encoder's (`hidden_size` or the last of `hidden_sizes` is the width of the
    features), `text_config` any encoder-decoder's (`hidden_size`, `vocab_size`, `pad_token_id`, and
    `decoder_start_token_id` unless the model has a rule of its own). With a `connector_scale_factor` of n,
    n x n neighbouring patches become one image token.
    """

    model_type = "composed"
    sub_configs_defaults = {  # noqa: RUF012 - a dataclass field of transformers, never changed
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bart"),
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    connector_scale_factor: int = 1
    is_encoder_decoder: bool = True

    @classmethod
    def from_towers(cls, vision: str | Path, text: str | Path, **kwargs: object) -> "ComposedConfig":
        """The two towers' configurations in one; no weight is read.

        `vision` and `text` are folders or Hub ids. Of a model with a vision tower (CLIP, SigLIP) that tower
        is taken. `kwargs` go to `AutoConfig.from_pretrained`. Raises `UserError` where `vision` is no image
        encoder, or `text` no encoder-decoder.
        """
        found = [_read(name, **kwargs) for name in (vision, text)]
        return cls(vision_config=_vision_config(vision, found[0]), text_config=_text_config(text, found[1]))

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The text model's configuration; encoder and decoder share one."""
        return self.text_config

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the decoder, which PEFT's prefix tuning makes prefixes for."""
        text = self.text_config
        names = ("decoder_layers", "num_decoder_layers", "num_hidden_layers")
        return next(getattr(text, name) for name in names if getattr(text, name, None) is not None)


def vision_width(config: PreTrainedConfig) -> int | None:
    """Channels of an image encoder's last features; None where the configuration doesn't say."""
    width = getattr(config, "hidden_size", None)
    return width if width is not None else (getattr(config, "hidden_sizes", None) or [None])[-1]


def vision_arguments(config: PreTrainedConfig) -> dict[str, bool]:
    """What an image encoder's class is given beside its configuration: nothing here reads what it pools."""
    parameters = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}


def _read(name: str | Path, **kwargs: object) -> PreTrainedConfig:
    config = AutoConfig.from_pretrained(name, **(kwargs | {"trust_remote_code": False}))
    # Wishes about code are not heard: the name of an attention kernel may be a repository on the Hub.
    config._attn_implementation = None
    config._experts_implementation = None
    vars(config).pop("fusion_config", None)
    return config


def _vision_config(name: str | Path, config: PreTrainedConfig) -> PreTrainedConfig:
    inner = getattr(config, "vision_config", None)
    config = inner if isinstance(inner, PreTrainedConfig) else config
    model_class = MODEL_MAPPING.get(type(config), None)
    reads_pixels = getattr(model_class, "main_input_name", "") == "pixel_values"
    if not reads_pixels or config.is_encoder_decoder or vision_width(config) is None:
        raise UserError(
            f"{name} is a {config.model_type} model, not an image encoder that can be composed.",
            f"A composed model is `vision+text`: {EXAMPLE}, for instance.",
        )
    for flag in UNREAD:
        if hasattr(config, flag):
            setattr(config, flag, False)
    return config


def _text_config(name: str | Path, config: PreTrainedConfig) -> PreTrainedConfig:
    known = type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING and config.is_encoder_decoder
    if not known or not hasattr(config, "hidden_size") or not hasattr(config, "vocab_size"):
        raise UserError(
            f"{name} is a {config.model_type} model, not an encoder-decoder of text that can be composed.",
            f"A composed model is `vision+text`: {EXAMPLE}, for instance.",
        )
    return config

"""Configuration of a composed model: a vision encoder's and a seq2seq text model's in one."""

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

from vlm.errors import Phrase, UserError

EXAMPLE = "facebook/dinov2-base+vinai/bartpho-syllable"
AN_IMAGE_ENCODER = Phrase("an image encoder", "an-image-encoder")
AN_ENCODER_DECODER = Phrase("an encoder-decoder of text", "an-encoder-decoder")
# Flags of vision configurations for parameters that nothing here reads: pooling heads and mask tokens.
UNREAD = ("vision_use_head", "use_mask_token")


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
        """Returns the two towers' configurations in one; no weight is read.

        `vision` and `text` are folders or Hub ids. Of a model with a vision tower (CLIP, SigLIP) that tower
        is taken. `kwargs` go to `AutoConfig.from_pretrained`.

        Raises:
            UserError: `vision` is no image encoder, or `text` no encoder-decoder.
        """
        image_config, text_config = (
            without_code_wishes(AutoConfig.from_pretrained(name, **(kwargs | {"trust_remote_code": False})))
            for name in (vision, text)
        )
        if isinstance(inner := getattr(image_config, "vision_config", None), PreTrainedConfig):
            image_config = inner
        image_class = MODEL_MAPPING.get(type(image_config), None)
        reads_pixels = getattr(image_class, "main_input_name", "") == "pixel_values"
        sees = reads_pixels and not image_config.is_encoder_decoder and vision_width(image_config) is not None
        known = type(text_config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING and text_config.is_encoder_decoder
        answers = known and hasattr(text_config, "hidden_size") and hasattr(text_config, "vocab_size")
        for name, config, fits, wanted in (
            (vision, image_config, sees, AN_IMAGE_ENCODER),
            (text, text_config, answers, AN_ENCODER_DECODER),
        ):
            if not fits:
                raise UserError(
                    "{name} is a {kind} model, not {wanted} that can be composed.",
                    "A composed model is `vision+text`: {example}, for instance.",
                    "compose-other-kind",
                    name=name,
                    kind=config.model_type,
                    wanted=wanted,
                    example=EXAMPLE,
                )
        for flag in UNREAD:
            if hasattr(image_config, flag):
                setattr(image_config, flag, False)
        return cls(vision_config=image_config, text_config=text_config)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """Returns the text model's configuration; encoder and decoder share one."""
        return self.text_config

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the decoder, which PEFT's prefix tuning makes prefixes for."""
        # The decoder's own name first: BART's num_hidden_layers are the encoder's.
        text = self.text_config
        names = ("decoder_layers", "num_decoder_layers", "num_hidden_layers")
        return next(getattr(text, name) for name in names if getattr(text, name, None) is not None)


def vision_width(config: PreTrainedConfig) -> int | None:
    """Returns the channels of an image encoder's last features; None where the configuration has none."""
    # Encoders in stages, as Swin or ConvNeXt, have one width a stage.
    width = getattr(config, "hidden_size", None)
    return width if width is not None else (getattr(config, "hidden_sizes", None) or [None])[-1]


def vision_arguments(config: PreTrainedConfig) -> dict[str, bool]:
    """Returns what an image encoder's class takes beside its configuration: no pooling layer."""
    # Nothing here reads it, and checkpoints without one would be refused for missing weights.
    parameters = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}


def without_code_wishes(config: PreTrainedConfig) -> PreTrainedConfig:
    """Returns the configuration without what a config.json may name as code to run."""
    # The name of an attention or expert kernel may be a Hub repository, which transformers would fetch and
    # run. With None each part of a model takes sdpa, or eager where its class supports nothing else.
    config._attn_implementation = None
    config._experts_implementation = None
    vars(config).pop("fusion_config", None)
    return config

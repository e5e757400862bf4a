"""ComposedConfig: which vision encoder and which seq2seq text model are put together."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


@strict
class ComposedConfig(PreTrainedConfig):
    """The configuration of `ComposedForConditionalGeneration`.

    `vision_config` is any image encoder's (its `hidden_size` is the width of the features), `text_config` any
    encoder-decoder's (`hidden_size`, `vocab_size`, `decoder_start_token_id`, `pad_token_id`). With a
    `connector_scale_factor` of n, n x n neighbouring patches become one image token.
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

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The text model's configuration; encoder and decoder share one."""
        return self.text_config

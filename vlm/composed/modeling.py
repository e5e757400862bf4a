"""ComposedForConditionalGeneration: vision encoder -> connector -> prefix of a seq2seq encoder's input."""

import math

import torch
from torch import nn
from transformers import AutoModel, AutoModelForSeq2SeqLM, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling, Seq2SeqLMOutput
from transformers.models.bart.modeling_bart import shift_tokens_right

from vlm.composed.configuration import ComposedConfig

# ViT is built with a pooler that nothing here reads; without it every parameter of the tower has a use.
_BUILD_ARGUMENTS = {"vit": {"add_pooling_layer": False}}


class ComposedConnector(nn.Module):
    """Image features in the text model's width: LayerNorm, two layers as in LLaVA-1.5 (arXiv:2310.03744).

    With a scale factor above 1, neighbouring patches are joined first (pixel shuffle, as in Idefics3,
    arXiv:2408.12637); tokens in front of the patch grid, a class token for instance, are dropped.
    """

    def __init__(self, vision_width: int, text_width: int, scale_factor: int) -> None:
        super().__init__()
        self.scale_factor = scale_factor
        self.norm = nn.LayerNorm(vision_width)
        self.fc1 = nn.Linear(vision_width * scale_factor**2, text_width)
        self.fc2 = nn.Linear(text_width, text_width)
        self.out_norm = nn.LayerNorm(text_width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`features`: [B, P, vision width] -> [B, P / scale_factor^2, text width]."""
        features = self.norm(features)
        if self.scale_factor > 1:
            side = math.isqrt(features.shape[1])
            grid = features[:, -(side**2) :].unflatten(1, (side, side)).permute(0, 3, 1, 2)
            features = nn.functional.pixel_unshuffle(grid, self.scale_factor).flatten(2).transpose(1, 2)
        return self.out_norm(self.fc2(nn.functional.gelu(self.fc1(features))))


class ComposedForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Any vision encoder, any seq2seq text model. Image features stand before the question's embeddings."""

    config_class = ComposedConfig
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: ComposedConfig) -> None:
        super().__init__(config)
        vision, text = config.vision_config, config.text_config
        self.vision_tower = AutoModel.from_config(vision, **_BUILD_ARGUMENTS.get(vision.model_type, {}))
        self.connector = ComposedConnector(
            vision.hidden_size, text.hidden_size, config.connector_scale_factor
        )
        self.language_model = AutoModelForSeq2SeqLM.from_config(text)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """The vision tower for `modality="image"`, else the text model's encoder."""
        return self.vision_tower if modality == "image" else self.language_model.get_encoder()

    def get_decoder(self) -> nn.Module:
        return self.language_model.get_decoder()

    def get_image_features(self, pixel_values: torch.Tensor) -> BaseModelOutputWithPooling:
        """Image features as the text encoder takes them.

        `pixel_values`: [B, 3, H, W]. `last_hidden_state` of the answer is the vision tower's
        [B, P, vision width], `pooler_output` the connector's [B, image tokens, text width]: the form
        `forward` takes as `mm_encoder_outputs["image"]`.
        """
        hidden = self.vision_tower(pixel_values=pixel_values).last_hidden_state
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=self.connector(hidden))

    def encode(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
    ) -> tuple[BaseModelOutput, torch.Tensor]:
        """The text encoder's output over image and question, [B, P + L, D], and its mask, [B, P + L].

        The image comes as `pixel_values` or, already encoded, as `mm_encoder_outputs`; without either P is 0.
        Raises ValueError where both are given.
        """
        image = (mm_encoder_outputs or {}).get("image")
        if pixel_values is not None and image is not None:
            raise ValueError("Give pixel_values or mm_encoder_outputs, not both.")
        if pixel_values is not None:
            image = self.get_image_features(pixel_values)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        embeddings = self.get_input_embeddings()(input_ids)
        if image is not None:
            prefix = image.pooler_output.to(embeddings.device, embeddings.dtype)
            embeddings = torch.cat([prefix, embeddings], dim=1)
            attention_mask = torch.cat([attention_mask.new_ones(prefix.shape[:2]), attention_mask], dim=1)
        encoder = self.language_model.get_encoder()
        return encoder(inputs_embeds=embeddings, attention_mask=attention_mask), attention_mask

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        past_key_values: object | None = None,
        use_cache: bool | None = None,
        **kwargs: object,
    ) -> Seq2SeqLMOutput:
        """Logits for the answer, [B, T, vocabulary], and with `labels` ([B, T], -100 is ignored) the loss.

        `input_ids`, `attention_mask`: [B, L], the question; `pixel_values`: [B, 3, H, W]. With
        `encoder_outputs` (as `generate` gives them) `attention_mask` is that of the encoded sequence. The
        loss is the mean over answer tokens, or their sum over `num_items_in_batch` if the trainer gives it.
        """
        if encoder_outputs is None:
            encoder_outputs, attention_mask = self.encode(
                input_ids, attention_mask, pixel_values, mm_encoder_outputs
            )
        text = self.config.text_config
        if labels is not None and decoder_input_ids is None:
            decoder_input_ids = shift_tokens_right(labels, text.pad_token_id, text.decoder_start_token_id)
        outputs = self.language_model(
            encoder_outputs=encoder_outputs,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            past_key_values=past_key_values,
            use_cache=False if labels is not None else use_cache,
        )
        loss = None
        if labels is not None:  # decoder_input_ids are shifted, so that labels are not shifted again
            loss = self.loss_function(
                outputs.logits, labels, vocab_size=text.vocab_size, shift_labels=labels, **kwargs
            )
        return Seq2SeqLMOutput(
            loss=loss,
            logits=outputs.logits,
            past_key_values=outputs.past_key_values,
            encoder_last_hidden_state=encoder_outputs[0],
        )

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, **kwargs: object) -> object:
        """Answers as token ids, [B, T] (as `GenerationMixin.generate`, whose arguments all work).

        Image and question are encoded first: the encoder's mask is longer than the question's, which
        transformers' own preparation does not know.
        """
        if kwargs.get("encoder_outputs") is None:
            input_ids = kwargs.pop("input_ids", inputs)
            kwargs["encoder_outputs"], kwargs["attention_mask"] = self.encode(
                input_ids,
                kwargs.pop("attention_mask", None),
                kwargs.pop("pixel_values", None),
                kwargs.pop("mm_encoder_outputs", None),
            )
        return super().generate(**kwargs)

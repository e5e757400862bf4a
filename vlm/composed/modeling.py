"""ComposedForConditionalGeneration: vision encoder -> connector -> prefix of a seq2seq encoder's input."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoModelForSeq2SeqLM, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling, Seq2SeqLMOutput
from transformers.models.bart.modeling_bart import shift_tokens_right

from vlm.composed.configuration import ComposedConfig, vision_arguments, vision_width
from vlm.composed.pretrained import answer_settings, embedding_scale, load_towers
from vlm.errors import UserError

ENCODER_INPUTS = (
    *("input_ids", "inputs_embeds", "attention_mask", "pixel_values", "pixel_attention_mask"),
    *("spatial_shapes", "mm_encoder_outputs"),
)
"""What `generate` takes for `encode`."""
MARKS = (
    *("hf_device_map", "hf_quantizer", "is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized"),
    "quantization_method",
)
"""What transformers writes on a model that it loads quantized; PEFT and the Trainer look for it."""


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
    accepts_loss_kwargs = True
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: ComposedConfig) -> None:
        super().__init__(config)
        vision, text = config.vision_config, config.text_config
        self.vision_tower = AutoModel.from_config(vision, **vision_arguments(vision))
        self.connector = ComposedConnector(
            vision_width(vision), text.hidden_size, config.connector_scale_factor
        )
        self.language_model = AutoModelForSeq2SeqLM.from_config(text)
        self.post_init()

    @classmethod
    def from_towers(
        cls, vision: str | Path, text: str | Path, *, seed: int = 0, **kwargs: object
    ) -> "ComposedForConditionalGeneration":
        """A model of two pretrained ones, in eval mode; its connector is new, and the same for each `seed`.

        `vision` and `text` are folders or Hub ids; `kwargs` (`dtype`, `device_map`, `local_files_only`, …)
        go to both `from_pretrained`. Of a `quantization_config` the connector is left out, and the vision
        tower unless `llm_int8_skip_modules` names others alone. Weights are read from safetensors only.
        Raises `UserError` where a tower does not fit, or lacks weights.
        """
        config, vision_tower, language_model = load_towers(vision, text, **kwargs)
        with torch.device("meta"):
            model = cls(config)
        model.vision_tower, model.language_model = vision_tower, language_model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            connector = ComposedConnector(
                vision_width(config.vision_config),
                config.text_config.hidden_size,
                config.connector_scale_factor,
            )
        nn.init.constant_(connector.out_norm.weight, embedding_scale(language_model))
        model.connector = connector.to(vision_tower.device, vision_tower.dtype)
        model.generation_config = answer_settings(language_model)
        for mark in MARKS:
            if hasattr(language_model, mark):
                setattr(model, mark, getattr(language_model, mark))
        return model.eval()

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

    def get_submodule(self, target: str) -> nn.Module:
        """As torch's; BERT's name for word embeddings, which PEFT's prompt tuning tries, finds them here too.

        PEFT would look for them in the vision tower next, the first model within this one.
        """
        if target == "embeddings.word_embeddings":
            return self.get_input_embeddings()
        return super().get_submodule(target)

    def enable_input_require_grads(self) -> None:
        """As transformers', which fails on vision towers whose embeddings are no single tensor, as Swin's.

        Gradients reach the pixels only where the vision tower trains; elsewhere they would cost and be lost.
        """

        def of_pixels(tower: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            if torch.is_grad_enabled() and any(p.requires_grad for p in tower.parameters()):
                kwargs["pixel_values"] = kwargs["pixel_values"].detach().requires_grad_(True)
            return args, kwargs

        def of_words(embeddings: nn.Module, args: tuple, output: torch.Tensor) -> None:
            output.requires_grad_(True)

        self._require_grads_hooks = [
            self.vision_tower.register_forward_pre_hook(of_pixels, with_kwargs=True),
            self.get_input_embeddings().register_forward_hook(of_words),
        ]

    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
    ) -> BaseModelOutputWithPooling:
        """Image features as the text encoder takes them.

        `pixel_values`: [B, 3, H, W]. `last_hidden_state` of the answer is the vision tower's
        [B, P, vision width] or [B, vision width, H', W'], `pooler_output` the connector's
        [B, image tokens, text width]: the form `forward` takes as `mm_encoder_outputs["image"]`. With the
        inputs of SigLIP 2's flexible resolution, `pixel_attention_mask` and `spatial_shapes`, images
        have different numbers of tokens, and `pooler_output` is a list, [image tokens, text width] each.
        """
        if spatial_shapes is None:
            hidden = self.vision_tower(pixel_values=pixel_values).last_hidden_state
        else:
            hidden = self.vision_tower(
                pixel_values=pixel_values,
                pixel_attention_mask=pixel_attention_mask,
                spatial_shapes=spatial_shapes,
            ).last_hidden_state
        pooled = self.connector(self._as_tokens(hidden))
        if spatial_shapes is not None:
            pooled = [row[mask.bool()] for row, mask in zip(pooled, pixel_attention_mask, strict=True)]
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)

    def _as_tokens(self, hidden: torch.Tensor) -> torch.Tensor:
        """A sequence, [B, P, C], as it is; a grid, [B, C, H, W] or [B, H, W, C], as [B, H * W, C]."""
        if hidden.ndim == 3:
            return hidden
        width = vision_width(self.config.vision_config)
        return hidden.flatten(2).transpose(1, 2) if hidden.shape[1] == width else hidden.flatten(1, 2)

    def encode(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **image_inputs: torch.Tensor | None,
    ) -> tuple[BaseModelOutput, torch.Tensor]:
        """The text encoder's output over image and question, [B, P + L, D], and its mask, [B, P + L].

        The question comes as `input_ids`, [B, L], or embedded, as `inputs_embeds`, [B, L, D]; the image as
        `pixel_values` (and what else `get_image_features` takes) or, already encoded, as
        `mm_encoder_outputs`; without either P is 0. Raises ValueError where an input comes in both ways, and
        `UserError` where image and question are longer than the encoder can read.
        """
        image = (mm_encoder_outputs or {}).get("image")
        if pixel_values is not None and image is not None:
            raise ValueError("Give pixel_values or mm_encoder_outputs, not both.")
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give input_ids or inputs_embeds, one of them.")
        if pixel_values is not None:
            image = self.get_image_features(pixel_values, **image_inputs)
        embeddings = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        if attention_mask is None:
            attention_mask = embeddings.new_ones(embeddings.shape[:2], dtype=torch.long)
        if image is not None:
            prefix, mask = _padded(image.pooler_output)
            embeddings = torch.cat([prefix.to(embeddings.device, embeddings.dtype), embeddings], dim=1)
            attention_mask = torch.cat([mask.to(attention_mask), attention_mask], dim=1)
        longest = getattr(self.config.text_config, "max_position_embeddings", None)  # T5 has none
        if longest is not None and embeddings.shape[1] > longest:
            raise UserError(
                f"Image and question are {embeddings.shape[1]} tokens, and the text encoder reads {longest}.",
                "Shorten the question, or choose a vision encoder that makes fewer patches of an image.",
            )
        encoder = self.language_model.get_encoder()
        return encoder(inputs_embeds=embeddings, attention_mask=attention_mask), attention_mask

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """What the decoder reads for these `labels` ([B, T], -100 is ignored): [B, T], a token behind them.

        It begins with the configuration's `decoder_start_token_id`; without one the text model's own rule
        holds, as mBART's, which begins with the language.
        """
        text = self.config.text_config
        start = getattr(text, "decoder_start_token_id", None)
        if start is None:
            return self.language_model.prepare_decoder_input_ids_from_labels(labels)
        return shift_tokens_right(labels, text.pad_token_id, start)

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
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: object,
    ) -> Seq2SeqLMOutput:
        """Logits for the answer, [B, T, vocabulary], and with `labels` ([B, T], -100 is ignored) the loss.

        `input_ids`, `attention_mask`: [B, L], the question, or `inputs_embeds`: [B, L, D]; the image as
        `get_image_features` takes it. With `encoder_outputs` (as `generate` gives them) `attention_mask` is
        that of the encoded sequence. The loss is the mean over answer tokens, or their sum over
        `num_items_in_batch` if the trainer gives it. `kwargs` go to the text model.
        """
        if encoder_outputs is None:
            encoder_outputs, attention_mask = self.encode(
                input_ids,
                attention_mask,
                pixel_values,
                mm_encoder_outputs,
                inputs_embeds,
                pixel_attention_mask=pixel_attention_mask,
                spatial_shapes=spatial_shapes,
            )
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        outputs = self.language_model(
            encoder_outputs=encoder_outputs,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_inputs_embeds=decoder_inputs_embeds,
            decoder_attention_mask=decoder_attention_mask,
            past_key_values=past_key_values,
            use_cache=False if labels is not None else use_cache,
            **kwargs,
        )
        loss = None if labels is None else self._loss(outputs.logits, labels, num_items_in_batch)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=outputs.logits,
            past_key_values=outputs.past_key_values,
            encoder_last_hidden_state=encoder_outputs[0],
        )

    def _loss(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        return self.loss_function(
            logits,
            labels,
            vocab_size=self.config.text_config.vocab_size,
            shift_labels=labels,  # what the decoder reads is shifted, so that labels are not shifted again
            num_items_in_batch=num_items_in_batch,
        )

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, **kwargs: object) -> object:
        """Answers as token ids, [B, T] (as `GenerationMixin.generate`, whose arguments all work).

        Image and question are encoded first: the encoder's mask is longer than the question's, which
        transformers' own preparation does not know.
        """
        if kwargs.get("encoder_outputs") is None:
            given = {name: kwargs.pop(name) for name in ENCODER_INPUTS if name in kwargs}
            if inputs is not None:
                given["input_ids"] = inputs
            kwargs["encoder_outputs"], kwargs["attention_mask"] = self.encode(**given)
        return super().generate(**kwargs)


def _padded(features: torch.Tensor | Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch's features, [B, P, D], shorter ones padded, and which of them are an image's, [B, P]."""
    if isinstance(features, torch.Tensor):
        return features, features.new_ones(features.shape[:2])
    present = [row.new_ones(row.shape[0]) for row in features]
    return pad_sequence(features, batch_first=True), pad_sequence(present, batch_first=True)

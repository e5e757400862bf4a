"""Composed model: vision encoder -> connector -> prefix of a seq2seq encoder's input."""

import math
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

# What `generate` takes for `encode`.
ENCODER_INPUTS = (
    *("input_ids", "inputs_embeds", "attention_mask", "pixel_values", "pixel_attention_mask"),
    *("spatial_shapes", "mm_encoder_outputs"),
)
# What transformers writes on a model that it loads quantized; PEFT and the Trainer look for it. Here only the
# towers are loaded by transformers, so the marks are copied to the whole.
MARKS = (
    *("hf_device_map", "hf_quantizer", "is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized"),
    "quantization_method",
)


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
            # The grid's side, a class token in front notwithstanding: isqrt(16 * 16 + 1) is 16.
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
        """Returns a model of two pretrained ones, in eval mode, with a new connector drawn from `seed`.

        `vision` and `text` are folders or Hub ids; `kwargs` (`dtype`, `device_map`, `local_files_only`, …)
        go to both `from_pretrained`. Of a `quantization_config` the connector is left out, and the vision
        tower unless `llm_int8_skip_modules` names others alone. Weights are read from safetensors only.

        Raises:
            UserError: a tower does not fit, or lacks weights.
        """
        config, vision_tower, language_model = load_towers(vision, text, **kwargs)
        # On meta, since the towers made here are replaced by those that were loaded.
        with torch.device("meta"):
            model = cls(config)
        model.vision_tower, model.language_model = vision_tower, language_model
        # Drawn apart from the global generator: a run's own draws don't depend on its base.
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
        """As torch's; BERT's name for word embeddings finds them here too."""
        # PEFT's prompt tuning tries this name, and where it fails the first model within this one: the vision
        # tower.
        if target == "embeddings.word_embeddings":
            return self.get_input_embeddings()
        return super().get_submodule(target)

    def enable_input_require_grads(self) -> None:
        """As transformers', for vision towers too whose embeddings are no single tensor, as Swin's."""

        def of_pixels(tower: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            # Only where the tower trains: elsewhere its backward pass would cost and be lost.
            if torch.is_grad_enabled() and any(p.requires_grad for p in tower.parameters()):
                kwargs["pixel_values"] = kwargs["pixel_values"].detach().requires_grad_(True)
            return args, kwargs

        self._require_grads_hooks = [
            self.vision_tower.register_forward_pre_hook(of_pixels, with_kwargs=True),
            self.get_input_embeddings().register_forward_hook(lambda *call: call[-1].requires_grad_(True)),
        ]

    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
    ) -> BaseModelOutputWithPooling:
        """Returns image features as the text encoder takes them.

        `pixel_values`: [B, 3, H, W]. `last_hidden_state` of the answer is the vision tower's
        [B, P, vision width] or [B, vision width, H', W'], `pooler_output` the connector's
        [B, image tokens, text width]: the form `forward` takes as `mm_encoder_outputs["image"]`. With the
        inputs of SigLIP 2's flexible resolution, `pixel_attention_mask` and `spatial_shapes`, images
        have different numbers of tokens, and `pooler_output` is a list, [image tokens, text width] each.
        """
        flexible = spatial_shapes is not None
        sizes = {"pixel_attention_mask": pixel_attention_mask, "spatial_shapes": spatial_shapes}
        hidden = self.vision_tower(pixel_values=pixel_values, **(sizes if flexible else {})).last_hidden_state
        tokens = hidden
        if hidden.ndim == 4:
            # Convolutional encoders give [B, C, H, W], Swin's kind [B, H, W, C]: told apart by the width.
            first = hidden.shape[1] == vision_width(self.config.vision_config)
            tokens = hidden.flatten(2).transpose(1, 2) if first else hidden.flatten(1, 2)
        pooled = self.connector(tokens)
        if flexible:
            pooled = [row[mask.bool()] for row, mask in zip(pooled, pixel_attention_mask, strict=True)]
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)

    def encode(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **image_inputs: torch.Tensor | None,
    ) -> tuple[BaseModelOutput, torch.Tensor]:
        """Returns the encoder's output over image and question, [B, P + L, D], and its mask, [B, P + L].

        The question comes as `input_ids`, [B, L], or embedded, as `inputs_embeds`, [B, L, D]; the image as
        `pixel_values` (and what else `get_image_features` takes) or, already encoded, as
        `mm_encoder_outputs`; without either P is 0.

        Raises:
            ValueError: an input comes in both ways.
            UserError: image and question are longer than the encoder can read.
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
            prefix = image.pooler_output
            if isinstance(prefix, torch.Tensor):
                mask = prefix.new_ones(prefix.shape[:2])
            else:
                # Images of flexible resolution have different numbers of tokens: padded to [B, P, D], masked.
                mask = pad_sequence([row.new_ones(row.shape[0]) for row in prefix], batch_first=True)
                prefix = pad_sequence(prefix, batch_first=True)
            embeddings = torch.cat([prefix.to(embeddings.device, embeddings.dtype), embeddings], dim=1)
            attention_mask = torch.cat([mask.to(attention_mask), attention_mask], dim=1)
        longest = getattr(self.config.text_config, "max_position_embeddings", None)  # T5 has none
        if longest is not None and embeddings.shape[1] > longest:
            raise UserError(
                "Image and question are {tokens} tokens, and the text encoder reads {most}.",
                "Shorten the question, or choose a vision encoder that makes fewer patches of an image.",
                "encoder-too-short",
                tokens=embeddings.shape[1],
                most=longest,
            )
        encoder = self.language_model.get_encoder()
        return encoder(inputs_embeds=embeddings, attention_mask=attention_mask), attention_mask

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Returns what the decoder reads for `labels` ([B, T], -100 is ignored): [B, T], a step behind."""
        # Without a start token in the configuration the text model's own rule holds: mBART begins with the
        # language, the last token of the labels.
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
        """Returns logits for the answer, [B, T, vocabulary], and with `labels` ([B, T]) the loss.

        `input_ids`, `attention_mask`: [B, L], the question, or `inputs_embeds`: [B, L, D]; the image as
        `get_image_features` takes it. With `encoder_outputs` (as `generate` gives them) `attention_mask` is
        that of the encoded sequence. The loss is the mean over answer tokens, or their sum over
        `num_items_in_batch` if the trainer gives it. `kwargs` go to the text model.
        """
        if encoder_outputs is None:
            image = {"pixel_attention_mask": pixel_attention_mask, "spatial_shapes": spatial_shapes}
            encoder_outputs, attention_mask = self.encode(
                input_ids, attention_mask, pixel_values, mm_encoder_outputs, inputs_embeds, **image
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
        loss = None
        if labels is not None:
            loss = self.loss_function(
                outputs.logits,
                labels,
                vocab_size=self.config.text_config.vocab_size,
                shift_labels=labels,  # the decoder's inputs are shifted: labels must not be shifted again
                num_items_in_batch=num_items_in_batch,
            )
        return Seq2SeqLMOutput(
            loss=loss,
            logits=outputs.logits,
            past_key_values=outputs.past_key_values,
            encoder_last_hidden_state=encoder_outputs[0],
        )

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, **kwargs: object) -> object:
        """Returns answers as token ids, [B, T], as `GenerationMixin.generate`, whose arguments all work."""
        # Image and question are encoded first, since the encoder's mask is longer than the question's, which
        # transformers' own preparation takes.
        if kwargs.get("encoder_outputs") is None:
            given = {name: kwargs.pop(name) for name in ENCODER_INPUTS if name in kwargs}
            if inputs is not None:
                given["input_ids"] = inputs
            kwargs["encoder_outputs"], kwargs["attention_mask"] = self.encode(**given)
        return super().generate(**kwargs)

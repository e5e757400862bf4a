"""A plug-in for `swift sft --external_plugins`: SmolVLM, which ms-swift has not, beside its Idefics 3.

Imported by ms-swift in its own environment (benchmarks.peers); written for 4.6.0. The texts are what the base
model's own chat template and processor write.
"""

from swift.model import Model, ModelGroup, ModelMeta, MultiModelKeys, register_model, register_model_arch
from swift.model.models.mllm import Idefics3Loader
from swift.template import Template, TemplateMeta, register_template
from swift.template.utils import findall

NAME, IMAGE = "smolvlm", "<image>"


class SmolVLMTemplate(Template):
    """Writes an image as the processor does that doesn't cut it into tiles."""

    placeholder_tokens = [IMAGE]  # noqa: RUF012

    def _encode(self, inputs):
        encoded = super()._encode(inputs)
        if not inputs.images:
            return encoded
        processor = self.processor
        fake, whole = processor.fake_image_token, processor.global_image_token
        written = self._tokenize(f"{fake}{whole}{IMAGE * processor.image_seq_len}{fake}")
        places = findall(encoded["input_ids"], processor.tokenizer.convert_tokens_to_ids(IMAGE))
        ids, labels, scale = self._extend_tokens(
            encoded["input_ids"], encoded["labels"], encoded.get("loss_scale"), places, lambda _: written
        )
        encoded |= {"input_ids": ids, "labels": labels, "loss_scale": scale}
        pixels = processor.image_processor(inputs.images, return_tensors="pt")
        return encoded | {"pixel_values": pixels["pixel_values"]}


register_template(
    TemplateMeta(
        NAME,
        prefix=[],
        prompt=["user: {{QUERY}}</s>\nassistant: "],
        chat_sep=["</s>\n"],
        suffix=["</s>"],
        template_cls=SmolVLMTemplate,
    )
)
register_model_arch(
    MultiModelKeys(
        NAME,
        language_model="model.text_model",
        aligner="model.connector",
        vision_tower="model.vision_model",
    )
)
register_model(
    ModelMeta(
        NAME,
        [ModelGroup([Model(hf_model_id="HuggingFaceTB/SmolVLM2-256M-Video-Instruct")])],
        Idefics3Loader,
        template=NAME,
        model_arch=NAME,
        is_multimodal=True,
        architectures=["SmolVLMForConditionalGeneration"],
    )
)

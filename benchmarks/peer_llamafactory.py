"""`llamafactory-cli` with a SmolVLM added, which LLaMA-Factory has not, by its own functions.

Run by benchmarks.peers in LLaMA-Factory's environment; written for 0.9.5. The texts are what the base model's
own chat template and processor write.
"""

from copy import deepcopy

from llamafactory.cli import main
from llamafactory.data.formatter import StringFormatter
from llamafactory.data.mm_plugin import BasePlugin, get_mm_plugin, register_mm_plugin
from llamafactory.data.template import register_template
from llamafactory.model.model_utils.visual import _register_composite_model

IMAGE = "<image>"


class SmolVLMPlugin(BasePlugin):
    """Writes an image as the processor does that doesn't cut it into tiles."""

    def process_messages(self, messages, images, videos, audios, processor):
        self._validate_input(processor, images, videos, audios)
        self._validate_messages(messages, images, videos, audios)
        fake, whole = processor.fake_image_token, processor.global_image_token
        written = f"{fake}{whole}{self.image_token * processor.image_seq_len}{fake}"
        messages = deepcopy(messages)
        for message in messages:
            message["content"] = message["content"].replace(IMAGE, written)
        return messages


register_mm_plugin("smolvlm", SmolVLMPlugin)
register_template(
    name="smolvlm",
    format_user=StringFormatter(slots=["user: {{content}}", {"eos_token"}, "\nassistant: "]),
    mm_plugin=get_mm_plugin(name="smolvlm", image_token=IMAGE),
)
_register_composite_model(
    model_type="smolvlm",
    projector_keys=["connector"],
    vision_model_keys=["vision_model"],
    language_model_keys=["text_model", "lm_head"],
)

if __name__ == "__main__":
    main()

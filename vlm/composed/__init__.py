"""Composed models: any vision encoder, a connector and any seq2seq model, registered with transformers.

After `import vlm.composed`, `AutoConfig`, `AutoModelForImageTextToText` and `AutoProcessor` know the model
type "composed". `ComposedModel.from_towers(vision, text)` puts two pretrained models together.
"""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from vlm.composed.configuration import ComposedConfig
from vlm.composed.modeling import ComposedForConditionalGeneration
from vlm.composed.processing import ComposedProcessor

AutoConfig.register(ComposedConfig.model_type, ComposedConfig)
AutoModelForImageTextToText.register(ComposedConfig, ComposedForConditionalGeneration)
AutoProcessor.register(ComposedConfig, ComposedProcessor)

ComposedModel = ComposedForConditionalGeneration

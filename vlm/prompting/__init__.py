"""Prompt styles: examples to model inputs and labels, chosen by processor and configuration."""

import inspect

from transformers import PreTrainedConfig, ProcessorMixin

from vlm.errors import UserError
from vlm.prompting.base import IGNORED, Conversation, PromptStyle
from vlm.prompting.chat import ChatPrompt
from vlm.prompting.completion import CaptionPrompt, CompletionPrompt, PrefixSuffixPrompt
from vlm.prompting.seq2seq import QuestionAnswerPrompt

# By model type, the style of models whose processor and configuration don't tell it; none so far.
EXCEPTIONS: dict[str, type[PromptStyle]] = {}


def prompt_style(config: PreTrainedConfig, processor: ProcessorMixin, max_length: int | None) -> PromptStyle:
    """Returns the prompt style of a model. Raises `UserError` where its processor reads no text."""
    if getattr(processor, "tokenizer", None) is None:
        raise UserError(
            "The processor of this {kind} model has no tokenizer.",
            "Choose a folder with the model's own tokenizer and image processor.",
            "processor-no-tokenizer",
            kind=config.model_type,
        )
    # In this order: a template is what the model was tuned with, and knows more than its architecture.
    style: type[PromptStyle] = CompletionPrompt
    if config.model_type in EXCEPTIONS:
        style = EXCEPTIONS[config.model_type]
    elif getattr(processor, "chat_template", None):
        style = ChatPrompt
    elif "suffix" in inspect.signature(processor.__call__).parameters:
        style = PrefixSuffixPrompt
    elif config.is_encoder_decoder:
        # Whether the encoder reads text too: T5Gemma 2's text lies inside its encoder, Pix2Struct's is the
        # decoder.
        parts = config.to_dict()
        text = parts.get("text_config") or parts.get("encoder", {}).get("text_config")
        style = QuestionAnswerPrompt if text and not text.get("is_decoder") else CaptionPrompt
    return style(config, processor, max_length)

"""Example -> model inputs and labels: small classes, chosen from processor and config."""

import inspect

from transformers import PreTrainedConfig, ProcessorMixin

from vlm.errors import UserError
from vlm.prompting.base import IGNORED, Conversation, PromptStyle
from vlm.prompting.chat import ChatPrompt
from vlm.prompting.completion import CaptionPrompt, CompletionPrompt, PrefixSuffixPrompt
from vlm.prompting.seq2seq import QuestionAnswerPrompt

EXCEPTIONS: dict[str, type[PromptStyle]] = {}
"""By model type, the style of those whose processor and configuration don't tell it."""


def prompt_style(config: PreTrainedConfig, processor: ProcessorMixin, max_length: int) -> PromptStyle:
    """The prompt style of a model. Raises `UserError` where its processor reads no text."""
    if getattr(processor, "tokenizer", None) is None:
        raise UserError(
            f"The processor of this {config.model_type} model has no tokenizer.",
            "Choose a folder with the model's own tokenizer and image processor.",
        )
    return style_class(config, processor)(config, processor, max_length)


def style_class(config: PreTrainedConfig, processor: ProcessorMixin) -> type[PromptStyle]:
    """Chat where there is a template, a suffix where the processor takes one; else by the architecture."""
    if config.model_type in EXCEPTIONS:
        return EXCEPTIONS[config.model_type]
    if getattr(processor, "chat_template", None):
        return ChatPrompt
    if "suffix" in inspect.signature(processor.__call__).parameters:
        return PrefixSuffixPrompt
    if config.is_encoder_decoder:
        return QuestionAnswerPrompt if _encoder_reads_text(config) else CaptionPrompt
    return CompletionPrompt


def _encoder_reads_text(config: PreTrainedConfig) -> bool:
    """Whether an encoder-decoder encodes text too: T5Gemma 2 does inside its encoder, Pix2Struct never."""
    parts = config.to_dict()
    text = parts.get("text_config") or parts.get("encoder", {}).get("text_config")
    return bool(text) and not text.get("is_decoder")


__all__ = ["IGNORED", "Conversation", "PromptStyle", "prompt_style", "style_class"]

"""Example -> model inputs and labels: one small class for each prompt style."""

from collections.abc import Sequence
from typing import Protocol

import torch
from PIL import Image
from transformers import BatchFeature, PreTrainedConfig, ProcessorMixin

from vlm.errors import UserError
from vlm.example import Message

IGNORED = -100
"""The label of a token that is not trained on."""

Conversation = Sequence[Message]


class PromptStyle(Protocol):
    """How conversations become tensors for one kind of model."""

    def inputs(
        self, conversations: Sequence[Conversation], images: Sequence[Image.Image] | None
    ) -> BatchFeature:
        """What `generate` takes: everything up to the last answer. Without `images`, no `pixel_values`."""
        ...

    def labels(self, conversations: Sequence[Conversation]) -> torch.Tensor:
        """The last answers and their end, [B, T], padded with `IGNORED`."""
        ...

    def decode(self, token_ids: torch.Tensor) -> list[str]:
        """The texts of generated token ids, without special tokens."""
        ...


class QuestionAnswerPrompt:
    """Encoder-decoders: the encoder reads the conversation so far, the decoder answers. One image each."""

    def __init__(self, processor: ProcessorMixin, max_length: int) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.max_length = min(max_length, self.tokenizer.model_max_length)

    def inputs(
        self, conversations: Sequence[Conversation], images: Sequence[Image.Image] | None
    ) -> BatchFeature:
        """`input_ids` and `attention_mask` [B, L], and `pixel_values` [B, 3, H, W] where images are given.

        Raises `UserError` where a question is longer than the model can read.
        """
        texts = ["\n".join(m.plain_text for m in turns if m is not turns[-1]) for turns in conversations]
        features = self._tokenize(texts, "question")
        if images is not None:
            features |= self.processor.image_processor(list(images), return_tensors="pt")
        return BatchFeature(features)

    def labels(self, conversations: Sequence[Conversation]) -> torch.Tensor:
        answers = self._tokenize([turns[-1].plain_text for turns in conversations], "answer")
        return answers["input_ids"].masked_fill(answers["attention_mask"] == 0, IGNORED)

    def decode(self, token_ids: torch.Tensor) -> list[str]:
        return [text.strip() for text in self.tokenizer.batch_decode(token_ids, skip_special_tokens=True)]

    def _tokenize(self, texts: list[str], what: str) -> dict[str, torch.Tensor]:
        # split_special_tokens: an end token typed in a text stays text.
        encoded = self.tokenizer(texts, padding=True, return_tensors="pt", split_special_tokens=True)
        if encoded["input_ids"].shape[1] > self.max_length:
            longest = max(texts, key=len)
            raise UserError(
                f"A {what} has {encoded['input_ids'].shape[1]} tokens, and {self.max_length} is the most: "
                f"{longest[:60]!r}.",
                "Shorten it, or raise --max_length where the model can read more.",
            )
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


def prompt_style(config: PreTrainedConfig, processor: ProcessorMixin, max_length: int) -> PromptStyle:
    """The prompt style of a model. Raises `UserError` where none is known for it."""
    if config.model_type == "composed":
        return QuestionAnswerPrompt(processor, max_length)
    raise UserError(
        f"No prompt style is known for {config.model_type} models.",
        "Use the starter or another composed model.",
    )

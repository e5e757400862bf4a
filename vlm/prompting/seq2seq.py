"""Prompt style of encoder-decoders: the encoder reads image and question, the decoder answers."""

import math
from collections.abc import Sequence

import torch
from PIL import Image
from transformers import BatchFeature, PreTrainedConfig, ProcessorMixin

from vlm.errors import Phrase
from vlm.prompting.base import (
    A_QUESTION,
    AN_ANSWER,
    IGNORED,
    Conversation,
    ConversationImages,
    decode,
    in_format,
    question_of,
    require_length,
)


class QuestionAnswerPrompt:
    """The conversation so far is the encoder's text, the last answer the decoder's. One image each."""

    takes_one_image = True
    reads_cache = True

    def __init__(self, config: PreTrainedConfig, processor: ProcessorMixin, max_length: int | None) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        limit = self.tokenizer.model_max_length
        self.max_length = math.inf if max_length is None else min(max_length, limit)
        self.dtype = config.dtype
        # Whether the tokenizer ends each text. One that doesn't is a decoder's, as T5Gemma 2's: what begins
        # its texts is what decoding starts from, and no part of an answer.
        self.is_closed = self.tokenizer("x")["input_ids"][-1] == self.tokenizer.eos_token_id
        # What stands in a text for its image: nothing where the processor puts it there itself, which shows
        # on a text without one.
        token = str(getattr(processor, "image_token", None) or "")
        _, texts, *_ = processor.prepare_inputs_layout(images=[[Image.new("RGB", (32, 32))]], text=["x"])
        self.image_token = "" if token in texts[0] else token

    def inputs(
        self, conversations: Sequence[Conversation], images: ConversationImages | None
    ) -> BatchFeature:
        """Returns `input_ids` and `attention_mask`, both [B, L], and `pixel_values` [B, 3, H, W] with images.

        Raises:
            UserError: a question is longer than the model can read.
        """
        texts = [self.image_token + question_of(turns) for turns in conversations]
        if images is None:
            return BatchFeature(self._tokenize(texts, A_QUESTION))
        features = self.processor(
            text=texts,
            images=[[pictures[0]] if self.image_token else pictures[0] for pictures in images],
            padding=True,
            return_tensors="pt",
            # An end token that was typed stays text. Not where the text holds image tokens: they would be
            # split as well.
            **({} if hasattr(self.processor, "image_token") else {"split_special_tokens": True}),
        )
        require_length(features["attention_mask"].sum(1).tolist(), texts, self.max_length, A_QUESTION)
        return in_format(features, self.dtype)

    def training_batch(
        self, conversations: Sequence[Conversation], images: ConversationImages | None
    ) -> BatchFeature:
        """Returns `inputs`, and `labels` [B, T]: the last answers and their ends."""
        batch = self.inputs(conversations, images)
        answers = self._tokenize([turns[-1].plain_text for turns in conversations], AN_ANSWER, self.is_closed)
        batch["labels"] = answers["input_ids"].masked_fill(answers["attention_mask"] == 0, IGNORED)
        return batch

    def decode(self, token_ids: torch.Tensor, inputs: BatchFeature) -> list[str]:
        return decode(self.tokenizer, token_ids)

    def _tokenize(self, texts: list[str], what: Phrase, is_whole: bool = True) -> dict[str, torch.Tensor]:
        """Returns padded tokens, [B, L], as the tokenizer opens and closes a text, or else closed alone."""
        ids = self.tokenizer(texts, add_special_tokens=is_whole, split_special_tokens=True)["input_ids"]
        rows = ids if is_whole else [[*row, self.tokenizer.eos_token_id] for row in ids]
        require_length([len(row) for row in rows], texts, self.max_length, what)
        padded = self.tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt")
        return {"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"]}

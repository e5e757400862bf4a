"""Prompt styles without a chat template: the answer continues the question, or is a caption."""

import math
from collections.abc import Sequence

import torch
from transformers import BatchFeature, PreTrainedConfig, ProcessorMixin

from vlm.prompting.base import (
    A_TEXT,
    IGNORED,
    Conversation,
    ConversationImages,
    decode_after_prompt,
    in_format,
    question_of,
    require_length,
    without_control_tokens,
)


class CompletionPrompt:
    """One text, the question and then the answer, as in BLIP, GIT and BLIP-2. A caption has no question."""

    takes_one_image = True
    reads_cache = False
    decode = decode_after_prompt

    def __init__(self, config: PreTrainedConfig, processor: ProcessorMixin, max_length: int | None) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        limit = self.tokenizer.model_max_length
        self.max_length = math.inf if max_length is None else min(max_length, limit)
        self.dtype = config.dtype
        # Whether the tokenizer itself ends each text, as BERT's does.
        self.is_closed = self.tokenizer("x")["input_ids"][-1] in self.tokenizer.all_special_ids

    def inputs(
        self, conversations: Sequence[Conversation], images: ConversationImages | None
    ) -> BatchFeature:
        texts = [self.marked_question(turns, images[row]) for row, turns in enumerate(conversations)]
        batch = self._process(texts, images, "left")
        batch.pop("labels", None)  # PaliGemma's processor may make some: there is no answer yet
        return batch

    def training_batch(
        self, conversations: Sequence[Conversation], images: ConversationImages | None
    ) -> BatchFeature:
        """Returns `input_ids` and `labels`, both [B, L]: the last answers and their ends are trained on."""
        questions = [self.marked_question(turns, images[row]) for row, turns in enumerate(conversations)]
        answers = [without_control_tokens(self.tokenizer, turns[-1].plain_text) for turns in conversations]
        texts = [" ".join(filter(None, pair)) for pair in zip(questions, answers, strict=True)]
        if not self.is_closed:
            texts = [text + self.tokenizer.eos_token for text in texts]
        batch = self._process(texts, images, "right")
        labels = batch["input_ids"].clone()
        for row, (text, question) in enumerate(zip(texts, questions, strict=True)):
            # Counted from the end, since the processor may put image tokens in front of the text.
            length = int(batch["attention_mask"][row].sum())
            ids = self.tokenizer(text)["input_ids"]
            before = len(self.tokenizer(question)["input_ids"]) - self.is_closed
            labels[row, : length - (len(ids) - before)] = IGNORED
            labels[row, length:] = IGNORED
        batch["labels"] = labels
        return batch

    def marked_question(self, turns: Conversation, pictures: Sequence) -> str:
        """Returns what stands before the answer; with image tokens where the processor expands them."""
        image_token = getattr(self.processor, "image_token", None)
        # A processor that overrides this method replaces each image token in the text by as many as the image
        # needs. Others would read one of ours as a word.
        expands = type(self.processor).replace_image_token is not ProcessorMixin.replace_image_token
        marks = str(image_token) * len(pictures) if expands and image_token else ""
        return marks + without_control_tokens(self.tokenizer, question_of(turns))

    def _process(
        self, texts: list[str], images: ConversationImages | None, padding_side: str
    ) -> BatchFeature:
        batch = self.processor(
            text=texts,
            images=[pictures[0] for pictures in images or ()],
            padding=True,
            padding_side=padding_side,
            return_tensors="pt",
            return_token_type_ids=False,
        )
        require_length(batch["attention_mask"].sum(1).tolist(), texts, self.max_length, A_TEXT)
        return in_format(batch, self.dtype)


class PrefixSuffixPrompt(CompletionPrompt):
    """The question is a prefix that attends to itself both ways, the answer a suffix, as in PaliGemma
    (arXiv:2407.07726). The processor joins them and makes the labels."""

    def training_batch(
        self, conversations: Sequence[Conversation], images: ConversationImages | None
    ) -> BatchFeature:
        texts = [self.marked_question(turns, images[row]) for row, turns in enumerate(conversations)]
        batch = self.processor(
            text=texts,
            images=[pictures[0] for pictures in images or ()],
            suffix=[without_control_tokens(self.tokenizer, turns[-1].plain_text) for turns in conversations],
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
        require_length(batch["attention_mask"].sum(1).tolist(), texts, self.max_length, A_TEXT)
        # The processor masks by token type alone, and the type of padding is the tokenizer's choice.
        batch["labels"] = batch["labels"].masked_fill(batch["attention_mask"] == 0, IGNORED)
        return in_format(batch, self.dtype)


class CaptionPrompt:
    """Encoder-decoders whose encoder sees the image alone: the decoder reads the question, then answers."""

    takes_one_image = True
    reads_cache = False
    decode = decode_after_prompt

    def __init__(self, config: PreTrainedConfig, processor: ProcessorMixin, max_length: int | None) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        limit = self.tokenizer.model_max_length
        self.max_length = math.inf if max_length is None else min(max_length, limit)
        self.dtype = config.dtype
        self.start_id = config.decoder_start_token_id
        # BERT's tokenizer, of some decoders, has no end of text and closes with [SEP].
        self.end_id = next(
            token for token in (self.tokenizer.eos_token_id, self.tokenizer.sep_token_id) if token is not None
        )

    def inputs(
        self, conversations: Sequence[Conversation], images: ConversationImages | None
    ) -> BatchFeature:
        """Returns `pixel_values`, and the questions as the beginning of what the decoder writes."""
        questions = [[self.start_id, *self._ids(question_of(turns))] for turns in conversations]
        padded = self.tokenizer.pad({"input_ids": questions}, padding_side="left", return_tensors="pt")
        return self._with_pixels(padded, images)

    def training_batch(
        self, conversations: Sequence[Conversation], images: ConversationImages | None
    ) -> BatchFeature:
        """Returns `decoder_input_ids` and `labels`, both [B, T]: the former are the latter a step later.

        `labels` hold the answers alone, `decoder_input_ids` the questions too.
        """
        questions = [self._ids(question_of(turns)) for turns in conversations]
        answers = [[*self._ids(turns[-1].plain_text), self.end_id] for turns in conversations]
        written = [question + answer for question, answer in zip(questions, answers, strict=True)]
        read = [[self.start_id, *ids[:-1]] for ids in written]
        batch = self._with_pixels(
            self.tokenizer.pad({"input_ids": read}, padding_side="right", return_tensors="pt"), images
        )
        batch["labels"] = torch.full_like(batch["decoder_input_ids"], IGNORED)
        for row, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            end = len(question) + len(answer)
            batch["labels"][row, len(question) : end] = torch.tensor(answer)
        return batch

    def _ids(self, text: str) -> list[int]:
        # A control token that was typed is split into pieces of plain text.
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def _with_pixels(self, padded: BatchFeature, images: ConversationImages | None) -> BatchFeature:
        lengths = padded["attention_mask"].sum(1).tolist()
        texts = self.tokenizer.batch_decode(padded["input_ids"], skip_special_tokens=True)
        require_length(lengths, texts, self.max_length, A_TEXT)
        pictures = [pictures[0] for pictures in images or ()]
        seen = self.processor.image_processor(pictures, return_tensors="pt")
        features = {name: seen[name] for name in self.processor.image_processor.model_input_names}
        decoded = {
            "decoder_input_ids": padded["input_ids"],
            "decoder_attention_mask": padded["attention_mask"],
        }
        return in_format(BatchFeature(features | decoded), self.dtype)

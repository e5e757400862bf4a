"""Models without a chat template: the answer continues the question, or is a caption."""

from collections.abc import Sequence

import torch
from transformers import BatchFeature, ProcessorMixin

from vlm.prompting.style import (
    IGNORED,
    Conversation,
    Pictures,
    decode,
    question_of,
    require_length,
    without_prompt,
)


class CompletionPrompt:
    """One text, the question and then the answer, as in BLIP, GIT and BLIP-2. A caption has no question."""

    takes_one_image = True
    reads_cache = False

    def __init__(self, processor: ProcessorMixin, max_length: int) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.max_length = min(max_length, self.tokenizer.model_max_length)
        empty = self.tokenizer("x")["input_ids"]
        self.is_closed = empty[-1] in self.tokenizer.all_special_ids
        """Whether the tokenizer itself ends each text, as BERT's does."""

    def inputs(self, conversations: Sequence[Conversation], images: Pictures | None) -> BatchFeature:
        texts = [self._question(turns, images[row]) for row, turns in enumerate(conversations)]
        return self._process(texts, images, "left")

    def training_batch(self, conversations: Sequence[Conversation], images: Pictures | None) -> BatchFeature:
        """`labels` [B, L] lie where the last answers and their ends lie in `input_ids` [B, L]."""
        questions = [self._question(turns, images[row]) for row, turns in enumerate(conversations)]
        answers = [turns[-1].plain_text for turns in conversations]
        texts = [" ".join(filter(None, pair)) for pair in zip(questions, answers, strict=True)]
        if not self.is_closed:
            texts = [text + self.tokenizer.eos_token for text in texts]
        batch = self._process(texts, images, "right")
        labels = batch["input_ids"].clone()
        for row, (text, question) in enumerate(zip(texts, questions, strict=True)):
            length = int(batch["attention_mask"][row].sum())
            ids = self.tokenizer(text)["input_ids"]
            before = len(self.tokenizer(question)["input_ids"]) - self.is_closed
            labels[row, : length - (len(ids) - before)] = IGNORED
            labels[row, length:] = IGNORED
        batch["labels"] = labels
        return batch

    def decode(self, token_ids: torch.Tensor, inputs: BatchFeature) -> list[str]:
        return decode(self.tokenizer, without_prompt(token_ids, inputs))

    def _question(self, turns: Conversation, pictures: Sequence) -> str:
        """What stands before the answer; image tokens where the processor looks for them in the text."""
        image_token = getattr(self.processor, "image_token", None)
        marks = str(image_token) * len(pictures) if _expands(self.processor) and image_token else ""
        return marks + question_of(turns)

    def _process(self, texts: list[str], images: Pictures | None, padding_side: str) -> BatchFeature:
        nested = [list(pictures) for pictures in images or ()]
        flat = nested if _expands(self.processor) else [pictures[0] for pictures in nested]
        batch = self.processor(
            text=texts, images=flat, padding=True, padding_side=padding_side, return_tensors="pt"
        )
        require_length(batch["attention_mask"].sum(1).tolist(), texts, self.max_length, "A text")
        return batch


class PrefixSuffixPrompt(CompletionPrompt):
    """The question is a prefix that attends to itself both ways, the answer a suffix, as in PaliGemma
    (arXiv:2407.07726). The processor joins them and makes the labels."""

    def inputs(self, conversations: Sequence[Conversation], images: Pictures | None) -> BatchFeature:
        texts = [self._question(turns, images[row]) for row, turns in enumerate(conversations)]
        batch = self._process(texts, images, "left")
        batch.pop("labels", None)
        return batch

    def training_batch(self, conversations: Sequence[Conversation], images: Pictures | None) -> BatchFeature:
        texts = [self._question(turns, images[row]) for row, turns in enumerate(conversations)]
        batch = self.processor(
            text=texts,
            images=[list(pictures) for pictures in images],
            suffix=[turns[-1].plain_text for turns in conversations],
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
        require_length(batch["attention_mask"].sum(1).tolist(), texts, self.max_length, "A text")
        batch["labels"] = batch["labels"].masked_fill(batch["attention_mask"] == 0, IGNORED)
        return batch


class CaptionPrompt:
    """Encoder-decoders whose encoder sees the image alone: the decoder reads the question, then answers."""

    takes_one_image = True
    reads_cache = False

    def __init__(self, processor: ProcessorMixin, max_length: int) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.max_length = min(max_length, self.tokenizer.model_max_length)

    def inputs(self, conversations: Sequence[Conversation], images: Pictures | None) -> BatchFeature:
        raise NotImplementedError

    def training_batch(self, conversations: Sequence[Conversation], images: Pictures | None) -> BatchFeature:
        raise NotImplementedError

    def decode(self, token_ids: torch.Tensor, inputs: BatchFeature) -> list[str]:
        return decode(self.tokenizer, without_prompt(token_ids, inputs))


def _expands(processor: ProcessorMixin) -> bool:
    """Whether the processor replaces image tokens in the text by as many as the image needs."""
    return bool(getattr(processor, "all_special_multimodal_tokens", None))

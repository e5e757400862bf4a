"""QuestionAnswerPrompt: encoder-decoders. The encoder reads image and question, the decoder answers."""

from collections.abc import Sequence

import torch
from transformers import BatchFeature, PreTrainedConfig, ProcessorMixin

from vlm.prompting.style import IGNORED, Conversation, Pictures, decode, question_of, require_length


class QuestionAnswerPrompt:
    """The conversation so far is the encoder's text, the last answer the decoder's. One image each."""

    takes_one_image = True
    reads_cache = True

    def __init__(self, config: PreTrainedConfig, processor: ProcessorMixin, max_length: int) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.max_length = min(max_length, self.tokenizer.model_max_length)

    def inputs(self, conversations: Sequence[Conversation], images: Pictures | None) -> BatchFeature:
        """`input_ids` and `attention_mask` [B, L], and `pixel_values` [B, 3, H, W] where images are given.

        Raises `UserError` where a question is longer than the model can read, one image each.
        """
        texts = [question_of(turns) for turns in conversations]
        if images is None:
            return BatchFeature(self._tokenize(texts, "A question"))
        features = self.processor(
            text=texts,
            images=[pictures[0] for pictures in images],
            padding=True,
            return_tensors="pt",
            # an end token typed in a text stays text; where the text holds image tokens they must stay tokens
            **({} if hasattr(self.processor, "image_token") else {"split_special_tokens": True}),
        )
        require_length(features["attention_mask"].sum(1).tolist(), texts, self.max_length, "A question")
        return features

    def training_batch(self, conversations: Sequence[Conversation], images: Pictures | None) -> BatchFeature:
        """`inputs`, and `labels` [B, T]: the last answers and their end."""
        batch = self.inputs(conversations, images)
        answers = self._tokenize([turns[-1].plain_text for turns in conversations], "An answer")
        batch["labels"] = answers["input_ids"].masked_fill(answers["attention_mask"] == 0, IGNORED)
        return batch

    def decode(self, token_ids: torch.Tensor, inputs: BatchFeature) -> list[str]:
        return decode(self.tokenizer, token_ids)

    def _tokenize(self, texts: list[str], what: str) -> dict[str, torch.Tensor]:
        encoded = self.tokenizer(texts, padding=True, return_tensors="pt", split_special_tokens=True)
        require_length(encoded["attention_mask"].sum(1).tolist(), texts, self.max_length, what)
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}

"""PromptStyle: what all styles do, and how a text's tokens are found."""

from collections.abc import Sequence
from typing import Protocol

import torch
from PIL import Image
from transformers import BatchFeature, PreTrainedConfig, PreTrainedTokenizerBase, ProcessorMixin

from vlm.errors import UserError
from vlm.example import Message

IGNORED = -100
"""The label of a token that is not trained on."""

Conversation = Sequence[Message]
Pictures = Sequence[Sequence[Image.Image]]
"""The images of each conversation, in the order of its placeholders."""


class PromptStyle(Protocol):
    """How conversations become tensors for one kind of model.

    `takes_one_image`: whether each conversation has exactly one. `reads_cache`: whether a batch without
    images can be made, for precomputed image features.
    """

    takes_one_image: bool
    reads_cache: bool

    def __init__(self, config: PreTrainedConfig, processor: ProcessorMixin, max_length: int) -> None: ...

    def inputs(self, conversations: Sequence[Conversation], images: Pictures | None) -> BatchFeature:
        """What `generate` takes: everything up to the last answer."""
        ...

    def training_batch(self, conversations: Sequence[Conversation], images: Pictures | None) -> BatchFeature:
        """What `forward` takes, `labels` [B, T] included: the answers and their ends, elsewhere `IGNORED`."""
        ...

    def decode(self, token_ids: torch.Tensor, inputs: BatchFeature) -> list[str]:
        """The answers that `generate` gave for `inputs`, without special tokens."""
        ...


def without_prompt(token_ids: torch.Tensor, inputs: BatchFeature) -> torch.Tensor:
    """Generated tokens, [B, T], without the prompt in front, where a model repeats it."""
    prompt = inputs["decoder_input_ids"] if "decoder_input_ids" in inputs else inputs["input_ids"]
    length = prompt.shape[1]
    # BLIP puts another token first and leaves the last one out.
    if torch.equal(token_ids[:, 1 : length - 1], prompt[:, 1 : length - 1].to(token_ids.device)):
        return token_ids[:, length:]
    return token_ids


def in_format(batch: BatchFeature, dtype: torch.dtype | None) -> BatchFeature:
    """The batch with its pictures in the number format of the model.

    Not every model sees to that itself, and Llama 4's processor makes bf16 whatever the model was loaded in.
    """
    for name, value in batch.items():
        if "pixel_values" in name and isinstance(value, torch.Tensor):
            batch[name] = value.to(dtype or value.dtype)
    return batch


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: torch.Tensor) -> list[str]:
    return [text.strip() for text in tokenizer.batch_decode(token_ids, skip_special_tokens=True)]


def question_of(conversation: Conversation) -> str:
    """Everything before the last answer as plain text, a turn a line."""
    return "\n".join(m.plain_text for m in conversation if m is not conversation[-1] and m.plain_text)


def require_length(lengths: Sequence[int], texts: Sequence[str], max_length: int, what: str) -> None:
    """Raises `UserError` where a text has more tokens than the model reads: nothing is cut in silence."""
    longest = max(range(len(lengths)), key=lambda index: lengths[index])
    if lengths[longest] > max_length:
        raise UserError(
            f"{what} has {lengths[longest]} tokens, and {max_length} is the most: {texts[longest][:60]!r}.",
            "Shorten it, or raise --max_length where the model can read more.",
        )


def require_no_control_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Raises `UserError` where a text holds a token that only the model's own may be, its end for example."""
    special = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    if typed := next((token for token in special if token in text), None):
        raise UserError(
            f"The text {text[:60]!r} holds {typed}, which this model reads as a control token.",
            f"Remove {typed} from the text.",
        )

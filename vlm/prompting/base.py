"""PromptStyle: the protocol of prompt styles, and what several of them share."""

from collections.abc import Sequence
from typing import Protocol

import torch
from PIL import Image
from transformers import BatchFeature, PreTrainedConfig, PreTrainedTokenizerBase, ProcessorMixin

from vlm.errors import Phrase, UserError
from vlm.example import Message

# The label of a token that is not trained on: the `ignore_index` of torch's cross_entropy.
IGNORED = -100

# What can be too long.
A_CONVERSATION = Phrase("A conversation", "a-conversation")
A_TEXT = Phrase("A text", "a-text")
A_QUESTION = Phrase("A question", "a-question")
AN_ANSWER = Phrase("An answer", "an-answer")

Conversation = Sequence[Message]
# The images of each conversation, in the order of its placeholders.
ConversationImages = Sequence[Sequence[Image.Image]]


class PromptStyle(Protocol):
    """How conversations become tensors for one kind of model.

    `takes_one_image`: whether each conversation has exactly one. `reads_cache`: whether a batch without
    images can be made, for precomputed image features. `max_length` is in tokens; with None a text may be
    longer than the tokenizer's own limit too.
    """

    takes_one_image: bool
    reads_cache: bool
    tokenizer: PreTrainedTokenizerBase

    def __init__(
        self, config: PreTrainedConfig, processor: ProcessorMixin, max_length: int | None
    ) -> None: ...

    def inputs(
        self, conversations: Sequence[Conversation], images: ConversationImages | None
    ) -> BatchFeature:
        """Returns what `generate` takes: everything up to the last answer, padded on the left."""
        ...

    def training_batch(
        self, conversations: Sequence[Conversation], images: ConversationImages | None
    ) -> BatchFeature:
        """Returns what `forward` takes, `labels` [B, T] included: answers and their ends, else `IGNORED`."""
        ...

    def decode(self, token_ids: torch.Tensor, inputs: BatchFeature) -> list[str]:
        """Returns the answers that `generate` gave for `inputs`, without special tokens."""
        ...


def decode_after_prompt(style: PromptStyle, token_ids: torch.Tensor, inputs: BatchFeature) -> list[str]:
    """Returns the answers in `token_ids`, [B, T], also where a model repeats the prompt in front of them."""
    prompt = inputs["decoder_input_ids"] if "decoder_input_ids" in inputs else inputs["input_ids"]
    length = prompt.shape[1]
    # Compared without both ends: BLIP puts another token first and leaves the last one out.
    if torch.equal(token_ids[:, 1 : length - 1], prompt[:, 1 : length - 1].to(token_ids.device)):
        token_ids = token_ids[:, length:]
    return decode(style.tokenizer, token_ids)


def in_format(batch: BatchFeature, dtype: torch.dtype | None) -> BatchFeature:
    """Returns the batch with its pixels in the number format of the model."""
    # Not every model casts them itself, and Llama 4's processor makes bf16 whatever the model was loaded in.
    for name, value in batch.items():
        if "pixel_values" in name and isinstance(value, torch.Tensor):
            batch[name] = value.to(dtype or value.dtype)
    return batch


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: torch.Tensor) -> list[str]:
    """Returns the texts of token ids, [B, T], without special tokens and outer spaces."""
    return [text.strip() for text in tokenizer.batch_decode(token_ids, skip_special_tokens=True)]


def question_of(conversation: Conversation) -> str:
    """Returns everything before the last answer as plain text, a turn a line."""
    return "\n".join(m.plain_text for m in conversation if m is not conversation[-1] and m.plain_text)


def require_length(lengths: Sequence[int], texts: Sequence[str], max_length: float, what: Phrase) -> None:
    """Raises `UserError` where a text has more tokens than `max_length`; `what` it is, as `A_TEXT`."""
    # Never truncation: it would cut the answer off the end, and the row would train on nothing.
    longest = max(range(len(lengths)), key=lambda index: lengths[index])
    if lengths[longest] > max_length:
        raise UserError(
            "{what} has {tokens} tokens, and {most} is the most: {text!r}.",
            "Shorten it, or raise --max_length where the model can read more.",
            "text-too-long",
            what=what,
            tokens=lengths[longest],
            most=max_length,
            text=texts[longest][:60],
        )


def without_control_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Returns the text. Raises `UserError` where it holds a control token, its end for example."""
    # Tokenizers encode such text as the token itself: an answer would end in the middle.
    special = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    if typed := next((token for token in special if token in text), None):
        raise UserError(
            "The text {text!r} holds {token}, which this model reads as a control token.",
            "Remove {token} from the text.",
            "text-control-token",
            text=text[:60],
            token=typed,
        )
    return text

"""ChatPrompt: models whose processor has a chat template. Every answer of a conversation is trained on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2
import torch
from transformers import BatchFeature, PreTrainedConfig, ProcessorMixin
from transformers.utils.chat_template_utils import encode_marked_chat, mark_control_tokens

from vlm.errors import UserError
from vlm.example import IMAGE, Message
from vlm.prompting.style import (
    IGNORED,
    Conversation,
    Pictures,
    decode,
    require_length,
    without_prompt,
)


@dataclass(frozen=True, slots=True)
class Span:
    """One answer and its end in a rendered conversation, in characters; `images` stand before it."""

    start: int
    end: int
    images: int


class ChatPrompt:
    """Any model with a chat template: the template writes the text, the processor expands its images."""

    takes_one_image = False
    reads_cache = False

    def __init__(self, config: PreTrainedConfig, processor: ProcessorMixin, max_length: int) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.max_length = max_length
        tokens = sorted(self.tokenizer.added_tokens_encoder, key=len, reverse=True)
        self.control_token = re.compile("|".join(map(re.escape, tokens)) or "(?!)")
        template = str(processor.chat_template)
        self.template_arguments = {"enable_thinking": False} if "enable_thinking" in template else {}
        seen = Message("user", IMAGE + "?")
        probes = {
            "system": [Message("system", "."), seen],
            "user": [seen],
            "assistant": [seen, Message("assistant", "!")],
        }
        self.block_roles = {*probes}
        self.block_roles = {role for role, turns in probes.items() if self._takes_blocks(turns)}
        """Whose turns the template takes as blocks where they have no image; some it may want as text."""

    def inputs(self, conversations: Sequence[Conversation], images: Pictures | None) -> BatchFeature:
        texts = [self._render_question(turns[:-1]) for turns in conversations]
        return self._process(texts, images, "left")

    def training_batch(self, conversations: Sequence[Conversation], images: Pictures | None) -> BatchFeature:
        """`labels` [B, L] lie where the answers lie in `input_ids` [B, L], image tokens included in L."""
        rendered = [self._render_with_spans(turns) for turns in conversations]
        batch = self._process([text for text, _ in rendered], images, "right")
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for row, (text, spans) in enumerate(rendered):
            length = int(batch["attention_mask"][row].sum())
            pictures = images[row] if images else ()
            for span in spans:
                start, end = self._tokens_of(text, span, length, pictures)
                labels[row, start:end] = batch["input_ids"][row, start:end]
        batch["labels"] = labels
        return batch

    def decode(self, token_ids: torch.Tensor, inputs: BatchFeature) -> list[str]:
        return decode(self.tokenizer, without_prompt(token_ids, inputs))

    def _render(self, turns: Conversation, *, add_generation_prompt: bool = False) -> str:
        """The conversation as the template writes it; control tokens that somebody typed are marked."""
        messages = [{"role": turn.role, "content": self._content(turn)} for turn in turns]
        try:
            return self.processor.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self.template_arguments,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(turn.role for turn in turns)
            raise UserError(
                f"This model's chat template does not take a conversation of {roles}: {error}",
                "Begin with a user turn, then user and assistant in turns; leave system turns out.",
            ) from error

    def _takes_blocks(self, turns: Conversation) -> bool:
        try:
            return "'type'" not in self._render(turns)  # some templates write blocks out
        except UserError:
            return False

    def _render_question(self, turns: Conversation) -> str:
        """What asks for the next answer, as it stands before one in training.

        The generation prompt alone may not: where it begins a thought, an answer follows an empty one.
        """
        asked = self._render(turns, add_generation_prompt=True)
        answered = [*turns, Message("assistant", "!")]
        text = self._render(answered)
        before = text[: self._begin(text, answered, len(turns))]
        # A space in front of an answer is a part of its first token, and the model's to write.
        return asked if before.startswith(asked) and not before[len(asked) :].strip(" ") else before

    def _begin(self, text: str, turns: Conversation, index: int) -> int:
        """Where the answer of a turn begins in the rendered conversation: where another makes it differ."""
        answer = turns[index].plain_text
        other = Message("assistant", "B" if answer.startswith("A") else "A")
        begin = _common_length(text, self._render([*turns[:index], other, *turns[index + 1 :]]))
        if not text.startswith(self._as_text(answer), begin):
            raise UserError(
                f"This model's chat template does not repeat the answer {answer[:60]!r}.",
                "Choose another model: its template can't be trained on.",
            )
        return begin

    def _content(self, turn: Message) -> list[dict[str, str]] | str:
        if IMAGE not in turn.text and turn.role not in self.block_roles:
            return self._as_text(turn.plain_text)
        blocks: list[dict[str, str]] = []
        for index, piece in enumerate(turn.text.split(IMAGE)):
            if index:
                blocks.append({"type": "image"})
            if piece.strip():
                blocks.append({"type": "text", "text": self._as_text(piece.strip())})
        return blocks or [{"type": "text", "text": ""}]

    def _as_text(self, text: str) -> str:
        """Control tokens in it marked, so that transformers encodes them as plain text."""
        return mark_control_tokens(text, self.control_token)

    def _render_with_spans(self, turns: Conversation) -> tuple[str, list[Span]]:
        """The whole conversation, and where its answers are. An end that the template leaves out is added."""
        text, spans, seen = self._render(turns), [], 0
        for index, turn in enumerate(turns):
            if turn.role == "assistant":
                start = self._begin(text, turns, index)
                end = start + len(self._as_text(turn.plain_text))
                end_token = re.compile(rf"\s*(?:{self.control_token.pattern})").match(text, end)
                if end_token:
                    end = end_token.end()
                elif not text[end:].strip() and self.tokenizer.eos_token:
                    text = text[:end] + self.tokenizer.eos_token
                    end = len(text)
                spans.append(Span(start, end, seen))
            seen += turn.text.count(IMAGE)
        return text, spans

    def _process(self, texts: list[str], images: Pictures | None, padding_side: str) -> BatchFeature:
        nested = [list(pictures) for pictures in images or ()]
        marked = any(self._is_marked(text) for text in texts)
        if marked:  # transformers encodes marked text only where all special tokens are written in it
            texts = [self._with_beginning(text) for text in texts]
        batch = self.processor(
            text=list(texts),
            images=nested if any(nested) else None,
            padding=True,
            padding_side=padding_side,
            add_special_tokens=self._adds_beginning(texts[0]),
            return_tensors="pt",
            **({"sanitize_control_tokens": True} if marked else {}),
        )
        require_length(batch["attention_mask"].sum(1).tolist(), texts, self.max_length, "A conversation")
        return batch

    def _adds_beginning(self, text: str) -> bool:
        """The tokenizer adds its own special tokens only where the template has not written them."""
        return not (self.tokenizer.bos_token and text.startswith(self.tokenizer.bos_token))

    def _with_beginning(self, text: str) -> str:
        if self._adds_beginning(text) and self.tokenizer("").input_ids[:1] == [self.tokenizer.bos_token_id]:
            return self.tokenizer.bos_token + text
        return text

    def _is_marked(self, text: str) -> bool:
        return self._unmarked(text) != text

    def _unmarked(self, text: str) -> str:
        return mark_control_tokens(text, re.compile("(?!)"))  # marks nothing, and drops the marks there are

    def _tokens_of(self, text: str, span: Span, length: int, pictures: Sequence) -> tuple[int, int]:
        """First token of an answer and the one after its last, among the `length` tokens of the whole text.

        Counted from the end, where tokens are the same whether or not images were expanded before them. For
        an answer that stands before an image, what follows it is cut off first.
        """
        if span.images < len(pictures):
            text = text[: span.end]
            before = [pictures[: span.images]] if span.images else None
            length = int(self._process([text], before, "right")["attention_mask"].sum())
        total, first, after = self._count_tokens(text, (len(text), span.start, span.end))
        return length - (total - first), length - (total - after)

    def _count_tokens(self, text: str, ends: Sequence[int]) -> list[int]:
        """How many tokens of the text, images unexpanded, end at or before each of these characters."""
        if self._is_marked(text):
            text, ends = (
                self._with_beginning(text),
                [end + len(self._with_beginning(text)) - len(text) for end in ends],
            )
            return [len(encode_marked_chat(self.tokenizer, text[:end])) for end in ends]
        adds = self._adds_beginning(text)
        if not self.tokenizer.is_fast:
            return [len(self.tokenizer(text[:end], add_special_tokens=adds).input_ids) for end in ends]
        encoded = self.tokenizer(text, return_offsets_mapping=True, add_special_tokens=adds)
        reached, last = [], 0
        for _, end in encoded["offset_mapping"]:  # a special token that is not in the text has (0, 0)
            last = max(last, end)
            reached.append(last)
        return [sum(stop <= end for stop in reached) for end in ends]


def _common_length(first: str, second: str) -> int:
    """How many characters two texts share at their beginning."""
    pairs = zip(first, second, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))

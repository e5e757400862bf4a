"""ChatPrompt: models whose processor has a chat template. Every answer of a conversation is trained on."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jinja2
import torch
from transformers import BatchFeature, PreTrainedConfig, ProcessorMixin
from transformers.utils.chat_template_utils import encode_marked_chat, mark_control_tokens

from vlm.errors import UserError
from vlm.example import IMAGE, Message
from vlm.prompting.base import (
    IGNORED,
    Conversation,
    Pictures,
    decode,
    in_format,
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
        self.dtype = config.dtype
        tokens = {*self.tokenizer.added_tokens_encoder}
        self.control_token = _any_of(tokens)
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
        of_image = {*self._control_tokens([seen])} - {*self._control_tokens([Message("user", "?")])}
        self.image_token = _any_of(of_image)
        final = re.escape(self.tokenizer.eos_token or "")
        self.end = re.compile(rf"\s*(?:{_any_of(tokens - of_image).pattern})(?:{final})?")
        """What ends an answer: a control token, and the one that ends generation where it follows at once."""

    def inputs(self, conversations: Sequence[Conversation], images: Pictures | None) -> BatchFeature:
        texts = [self._question(turns[:-1]) for turns in conversations]
        return self._process(texts, images, "left")

    def training_batch(self, conversations: Sequence[Conversation], images: Pictures | None) -> BatchFeature:
        """`labels` [B, L] lie where the answers lie in `input_ids` [B, L], image tokens included in L."""
        written = [self._write(turns) for turns in conversations]
        batch = self._process([text for text, _ in written], images, "right")
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for row, (text, spans) in enumerate(written):
            ids = batch["input_ids"][row, : batch["attention_mask"][row].sum()].tolist()
            for start, end in self._tokens_of(text, spans, ids, len(images[row]) if images else 0):
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

    def _control_tokens(self, turns: Conversation) -> list[str]:
        return self.control_token.findall(self._render(turns))

    def _question(self, turns: Conversation) -> str:
        """What asks for the next answer: what stands before one in training."""
        text, spans = self._write([*turns, Message("assistant", "!")])
        return text[: spans[-1].start]

    def _write(self, turns: Conversation) -> tuple[str, list[Span]]:
        """The whole conversation, and where its answers and their ends are.

        Where the template ends an answer by no token, as LLaVA's do, the tokenizer's end of text is added.
        """
        text, written, read, spans, seen = self._render(turns), "", 0, [], 0
        for index, turn in enumerate(turns):
            if turn.role == "assistant":
                begin = self._begin(text, turns, index)
                asked = self._render(turns[:index], add_generation_prompt=True)
                prompt, space = _header(text[:begin], asked, read, is_last=turn is turns[-1])
                answered = begin + len(self._as_text(turn.plain_text))
                found = self.end.match(text, answered)
                read = found.end() if found else answered
                end = "" if found else self.tokenizer.eos_token or ""
                start = len(written + prompt)
                written += prompt + space + text[begin:read] + end
                spans.append(Span(start, len(written), seen))
            seen += turn.text.count(IMAGE)
        return written + text[read:], spans

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

    def _process(self, texts: list[str], images: Pictures | None, padding_side: str) -> BatchFeature:
        nested = [list(pictures) for pictures in images or ()]
        marked = any(self._is_marked(text) for text in texts)
        if marked:  # transformers encodes marked text only where all special tokens are written in it
            texts = [self._with_beginning(text) for text in texts]
        try:
            batch = self.processor(
                text=list(texts),
                images=nested if any(nested) else None,
                padding=True,
                padding_side=padding_side,
                add_special_tokens=self._adds_beginning(texts[0]),
                return_tensors="pt",
                **({"sanitize_control_tokens": True} if marked else {}),
            )
        except ValueError as error:  # Idefics3's processor looks for places that marked texts don't tell
            typed = next((text for text in texts if self._is_marked(text)), None)
            if typed is None:
                raise
            raise UserError(
                f"This model's processor would take what is typed in a text for a control token: {error}",
                f"Remove such tokens from {self._unmarked(typed)[:200]!r}.",
            ) from error
        require_length(batch["attention_mask"].sum(1).tolist(), texts, self.max_length, "A conversation")
        return in_format(batch, self.dtype)

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

    def _tokens_of(
        self, text: str, spans: Sequence[Span], ids: list[int], images: int
    ) -> list[tuple[int, int]]:
        """First token of each answer and the one after its last, among the `ids` of the whole text.

        After the last image they are counted from the end, where tokens are the same whether or not images
        were expanded before. An answer before an image is found by its tokens and those that follow up to
        that image: the last such place before the next answer.
        """
        untils = [self._next_image(text, span) if span.images < images else len(text) for span in spans]
        marks = [(span.start, span.end, until) for span, until in zip(spans, untils, strict=True)]
        own, counts = self._tokenize(text, [end for ends in marks for end in ends])
        found, limit = [], len(ids)
        for index in reversed(range(len(spans))):
            first, after, last = counts[3 * index : 3 * index + 3]
            wanted = own[first:last]
            at_end = spans[index].images == images
            places = (len(ids) - len(wanted),) if at_end else range(limit - 1, -1, -1)
            limit = next((at for at in places if ids[at : at + len(wanted)] == wanted), -1)
            if limit < 0:
                raise UserError(
                    "The answers were not found again in what this model's processor made of "
                    f"{self._unmarked(text)[:60]!r}.",
                    "Put all images of a conversation in its first turn, or choose another model.",
                )
            found.append((limit, limit + after - first))
        return found[::-1]

    def _next_image(self, text: str, span: Span) -> int:
        """Where the text ends that stands between an answer and the next image."""
        image = self.image_token.search(text, span.end)
        return len(text[: image.start()].rstrip()) if image else span.end

    def _tokenize(self, text: str, ends: Sequence[int]) -> tuple[list[int], list[int]]:
        """Tokens of the text, images unexpanded, and how many end at or before each of these characters."""
        if self._is_marked(text):
            whole = self._with_beginning(text)
            added = len(whole) - len(text)
            counts = [len(encode_marked_chat(self.tokenizer, whole[: end + added])) for end in ends]
            return encode_marked_chat(self.tokenizer, whole), counts
        adds = self._adds_beginning(text)
        if not self.tokenizer.is_fast:
            counts = [len(self.tokenizer(text[:end], add_special_tokens=adds).input_ids) for end in ends]
            return self.tokenizer(text, add_special_tokens=adds).input_ids, counts
        encoded = self.tokenizer(text, return_offsets_mapping=True, add_special_tokens=adds)
        reached, last = [], 0
        for _, end in encoded["offset_mapping"]:  # a special token that is not in the text has (0, 0)
            last = max(last, end)
            reached.append(last)
        return encoded["input_ids"], [sum(stop <= end for stop in reached) for end in ends]


def _any_of(tokens: Iterable[str]) -> re.Pattern:
    """A pattern for any of these tokens, the longest first."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")


def _header(before: str, asked: str, read: int, *, is_last: bool) -> tuple[str, str]:
    """What stands between the last that was read and an answer: the prompt, and spaces that are the answer's.

    A space in front of an answer is a part of its first token, and the model's to write. The prompt is what
    asks for an answer, `asked`. Where it begins a thought, an answer follows an empty one: then it is what
    stands `before` the answer. Where it ends an empty thought that answers said earlier don't have, as Gemma
    4's does, the last answer follows it all the same.
    """
    if before.startswith(asked) and not before[len(asked) :].strip(" "):
        return asked[read:], before[len(asked) :]
    if before[:read] == asked[:read] and before[read:].split() == asked[read:].split():
        return asked[read:], ""
    if is_last and asked.startswith(before):
        return asked[read:], ""
    return before[read:], ""


def _common_length(first: str, second: str) -> int:
    """How many characters two texts share at their beginning."""
    pairs = zip(first, second, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))

"""ChatPrompt: models whose processor has a chat template. Every answer is trained on that is to be learned.

One conversation as SmolVLM's template renders it. What is underlined has labels: each answer, the space in
front of it, which is a part of its first token, and the token that ends it.

    <|begin_of_text|>User:<image>What is it?<end_of_utterance>
    Assistant: A cat.<end_of_utterance>
              ~~~~~~~~~~~~~~~~~~~~~~~~~
    User: What colour?<end_of_utterance>
    Assistant: Red.<end_of_utterance>
              ~~~~~~~~~~~~~~~~~~~~~~~

Where answers begin and end is read off rendered conversations: no family's template is known by name.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import jinja2
import torch
from transformers import BatchFeature, PreTrainedConfig, ProcessorMixin
from transformers.utils.chat_template_utils import encode_marked_chat, mark_control_tokens

from vlm.errors import UserError
from vlm.example import IMAGE, Message
from vlm.prompting.base import (
    A_CONVERSATION,
    IGNORED,
    Conversation,
    ConversationImages,
    decode_after_prompt,
    in_format,
    require_length,
)
from vlm.prompting.templates import TemplateTooLarge

# What a template that computes, calls itself, or opens brackets in brackets makes Jinja and Python raise.
_RAISED_BY_TEMPLATES = (
    *(jinja2.TemplateError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError),
    *(RecursionError, SyntaxError, MemoryError),
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
    decode = decode_after_prompt

    def __init__(self, config: PreTrainedConfig, processor: ProcessorMixin, max_length: int | None) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.max_length = math.inf if max_length is None else max_length
        self.dtype = config.dtype
        tokens = {*self.tokenizer.added_tokens_encoder}
        self.control_token = _any_of(tokens)
        # Thinking models are trained to answer at once: datasets hold answers and no thoughts.
        template = str(processor.chat_template)
        self.template_arguments = {"enable_thinking": False} if "enable_thinking" in template else {}
        with_image = Message("user", IMAGE + "?")
        probes = {
            "system": [Message("system", "."), with_image],
            "user": [with_image],
            "assistant": [with_image, Message("assistant", "!")],
        }
        # The roles whose turns the template takes as blocks even without an image. Others it wants as text:
        # there it raises, or writes the block out as Python does.
        self.block_roles = {*probes}
        taken = set()
        for role, turns in probes.items():
            try:
                if "'type'" not in self._render(turns):
                    taken.add(role)
            except UserError as error:
                if error.code != "template-roles":
                    raise
        self.block_roles = taken
        probed = ([with_image], [Message("user", "?")])
        with_tokens, without = ({*self.control_token.findall(self._render(turns))} for turns in probed)
        of_image = with_tokens - without
        self.image_token = _any_of(of_image)
        # An answer ends with a control token, and with the end of text where it follows at once, as in Aya
        # Vision: generation stops at the latter, so it has to be learned too.
        final = re.escape(self.tokenizer.eos_token or "")
        self.end = re.compile(rf"\s*(?:{_any_of(tokens - of_image).pattern})(?:{final})?")

    def inputs(
        self, conversations: Sequence[Conversation], images: ConversationImages | None
    ) -> BatchFeature:
        """Returns the conversations up to their last answers, padded on the left."""
        texts = []
        for turns in conversations:
            # With another answer in place: what `generate` continues is what stands before one in training.
            text, spans = self._write([*turns[:-1], Message("assistant", "!")])
            texts.append(text[: spans[-1].start])
        return self._process(texts, images, "left")

    def training_batch(
        self, conversations: Sequence[Conversation], images: ConversationImages | None
    ) -> BatchFeature:
        """Returns `input_ids` and `labels`, both [B, L], image tokens included in L."""
        written = [self._write(turns) for turns in conversations]
        batch = self._process([text for text, _ in written], images, "right")
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for row, (text, spans) in enumerate(written):
            ids = batch["input_ids"][row, : batch["attention_mask"][row].sum()].tolist()
            answers = self._find_answers(text, spans, ids, len(images[row]) if images else 0)
            learned = [turn.learned for turn in conversations[row] if turn.role == "assistant"]
            for (start, end), is_learned in zip(answers, learned, strict=True):
                if is_learned:
                    labels[row, start:end] = batch["input_ids"][row, start:end]
        batch["labels"] = labels
        return batch

    def _render(self, turns: Conversation, *, add_generation_prompt: bool = False) -> str:
        """Returns the conversation as the template writes it, with control tokens that were typed marked."""
        messages = []
        for turn in turns:
            # Marked, so that transformers encodes a control token that was typed as plain text.
            if IMAGE not in turn.text and turn.role not in self.block_roles:
                messages.append(
                    {"role": turn.role, "content": mark_control_tokens(turn.plain_text, self.control_token)}
                )
                continue
            blocks: list[dict[str, str]] = []
            for index, piece in enumerate(turn.text.split(IMAGE)):
                blocks += [{"type": "image"}] if index else []
                blocks += (
                    [{"type": "text", "text": mark_control_tokens(piece.strip(), self.control_token)}]
                    if piece.strip()
                    else []
                )
            messages.append({"role": turn.role, "content": blocks or [{"type": "text", "text": ""}]})
        try:
            return self.processor.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self.template_arguments,
            )
        except TemplateTooLarge as error:
            raise UserError(
                "This model's chat template {reason}.",
                "Choose another model.",
                "template-too-large",
                reason=error.reason,
            ) from error
        except _RAISED_BY_TEMPLATES as error:
            raise UserError(
                "This model's chat template does not take a conversation of {roles}: {reason}",
                "Begin with a user turn, then user and assistant in turns; leave system turns out.",
                "template-roles",
                roles=[turn.role for turn in turns[:20]],
                reason=" ".join(str(error).split())[:300],
            ) from error

    def _write(self, turns: Conversation) -> tuple[str, list[Span]]:
        """Returns the whole conversation, and where its answers and their ends are.

        Where the template ends an answer by no token, as LLaVA's do, the tokenizer's end of text is added.
        """
        text, written, read, spans, images = self._render(turns), "", 0, [], 0
        for index, turn in enumerate(turns):
            if turn.role == "assistant":
                # An answer begins where another one makes the rendered text differ. Searching for its text
                # would find it in the question, or in an earlier answer.
                answer = turn.plain_text
                other = Message("assistant", "B" if answer.startswith("A") else "A")
                without = self._render([*turns[:index], other, *turns[index + 1 :]])
                alike = takewhile(lambda pair: pair[0] == pair[1], zip(text, without, strict=False))
                begin = sum(1 for _ in alike)
                if not text.startswith(mark_control_tokens(answer, self.control_token), begin):
                    raise UserError(
                        "This model's chat template does not repeat the answer {answer!r}.",
                        "Choose another model: its template can't be trained on.",
                        "template-no-answer",
                        answer=answer[:60],
                    )
                generation = self._render(turns[:index], add_generation_prompt=True)
                prompt, space = _header(text[:begin], generation, read, is_last=turn is turns[-1])
                answered = begin + len(mark_control_tokens(answer, self.control_token))
                found = self.end.match(text, answered)
                read = found.end() if found else answered
                end = "" if found else self.tokenizer.eos_token or ""
                start = len(written + prompt)
                written += prompt + space + text[begin:read] + end
                spans.append(Span(start, len(written), images))
            images += turn.text.count(IMAGE)
        return written + text[read:], spans

    def _process(
        self, texts: list[str], images: ConversationImages | None, padding_side: str
    ) -> BatchFeature:
        """Returns the processor's batch. Raises `UserError` where a text is longer than `max_length`."""
        nested = [list(pictures) for pictures in images or ()]
        marked = any(self._unmarked(text) != text for text in texts)
        if marked:
            # For marked text transformers calls the tokenizer piece by piece and without special tokens: the
            # one that begins every text has to be written out.
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
        except ValueError as error:
            # Idefics3's processor looks in the text for places that the marks hide.
            typed = next((text for text in texts if self._unmarked(text) != text), None)
            if typed is None:
                raise
            raise UserError(
                "This model's processor would take what is typed in a text for a control token: {reason}",
                "Remove such tokens from {text!r}.",
                "text-typed-token",
                reason=error,
                text=self._unmarked(typed)[:200],
            ) from error
        require_length(batch["attention_mask"].sum(1).tolist(), texts, self.max_length, A_CONVERSATION)
        return in_format(batch, self.dtype)

    def _adds_beginning(self, text: str) -> bool:
        # Many templates write the token that begins a text; a second one would move every position.
        return not (self.tokenizer.bos_token and text.startswith(self.tokenizer.bos_token))

    def _with_beginning(self, text: str) -> str:
        if self._adds_beginning(text) and self.tokenizer("").input_ids[:1] == [self.tokenizer.bos_token_id]:
            return self.tokenizer.bos_token + text
        return text

    def _unmarked(self, text: str) -> str:
        # A pattern that matches nothing: transformers drops the marks in a text before it sets new ones.
        return mark_control_tokens(text, re.compile("(?!)"))

    def _find_answers(
        self, text: str, spans: Sequence[Span], ids: list[int], images: int
    ) -> list[tuple[int, int]]:
        """Returns the first token of each answer and the one after its last, among the text's `ids`.

        `images` is how many the conversation has. Raises `UserError` where an answer is not found.
        """
        # The processor expands each image to an unknown number of tokens, so places in the text are no places
        # in `ids`. After the last image tokens are counted from the end, where they are the same expanded or
        # not. An answer before an image is found by its tokens and those that follow up to that image: the
        # last such place before the next answer.
        marks = []
        for span in spans:
            until = len(text)
            if span.images < images:
                image = self.image_token.search(text, span.end)
                until = len(text[: image.start()].rstrip()) if image else span.end
            marks += [span.start, span.end, until]
        own, counts = self._tokenize(text, marks)
        found, limit = [], len(ids)
        for index in reversed(range(len(spans))):
            first, after, last = counts[3 * index : 3 * index + 3]
            wanted = own[first:last]
            at_end = spans[index].images == images
            places = (len(ids) - len(wanted),) if at_end else range(limit - 1, -1, -1)
            limit = next((at for at in places if ids[at : at + len(wanted)] == wanted), -1)
            if limit < 0:
                raise UserError(
                    "The answers were not found again in what this model's processor made of {text!r}.",
                    "Put all images of a conversation in its first turn, or choose another model.",
                    "answers-not-found",
                    text=self._unmarked(text)[:60],
                )
            found.append((limit, limit + after - first))
        return found[::-1]

    def _tokenize(self, text: str, ends: Sequence[int]) -> tuple[list[int], list[int]]:
        """Returns the tokens of the text, images unexpanded, and how many end at or before each of `ends`."""
        if self._unmarked(text) != text:
            whole = self._with_beginning(text)
            added = len(whole) - len(text)
            counts = [len(encode_marked_chat(self.tokenizer, whole[: end + added])) for end in ends]
            return encode_marked_chat(self.tokenizer, whole), counts
        adds = self._adds_beginning(text)
        if not self.tokenizer.is_fast:  # Python tokenizers give no offsets: each beginning is encoded alone
            counts = [len(self.tokenizer(text[:end], add_special_tokens=adds).input_ids) for end in ends]
            return self.tokenizer(text, add_special_tokens=adds).input_ids, counts
        encoded = self.tokenizer(text, return_offsets_mapping=True, add_special_tokens=adds)
        reached, last = [], 0
        for _, end in encoded["offset_mapping"]:
            # The largest so far, since a special token that is not in the text has the offsets (0, 0).
            last = max(last, end)
            reached.append(last)
        return encoded["input_ids"], [sum(stop <= end for stop in reached) for end in ends]


def _any_of(tokens: Iterable[str]) -> re.Pattern:
    """Returns a pattern for any of these tokens; of none, one that matches nothing."""
    # The longest first, since an alternation takes the first that fits, even where it begins a longer one.
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")


def _header(before: str, generation: str, read: int, *, is_last: bool) -> tuple[str, str]:
    """Returns what stands between the text read so far and an answer: the prompt, and the answer's spaces.

    `before` is the rendered text in front of the answer, `generation` the generation prompt there; both
    begin with the `read` characters in front.
    """
    # A space in front of an answer is a part of its first token, and the model's to write. The prompt is the
    # generation prompt wherever both are the same but for white space: a model answers after that one.
    # Where it begins a thought, an answer follows an empty one: then the prompt is what stands before the
    # answer. Where it ends an empty thought that earlier answers don't have, as Gemma 4's does, the last
    # answer follows it all the same.
    if before.startswith(generation) and not before[len(generation) :].strip(" "):
        return generation[read:], before[len(generation) :]
    if before[:read] == generation[:read] and before[read:].split() == generation[read:].split():
        return generation[read:], ""
    if is_last and generation.startswith(before):
        return generation[read:], ""
    return before[read:], ""

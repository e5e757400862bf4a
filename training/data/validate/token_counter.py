"""Meter: how many tokens a model makes of a conversation and its images, without its weights.

Texts are tokenized in large batches. What else stands in the model's input is measured on blank images: an
image of one size has the same tokens in every conversation, and a form of conversation (roles, and images in
each turn) the same template.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from PIL import Image
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from training.config import TrainingConfig
from training.data.validate.dataset_check import Progress
from vlm.errors import UserError
from vlm.example import IMAGE, Example, Message
from vlm.models.loading import load_processor, read_config
from vlm.prompting import IGNORED, PromptStyle, prompt_style
from vlm.prompting.seq2seq import QuestionAnswerPrompt

UNLIMITED, MOST_TOKENS = 1 << 30, 1 << 20
"""No limit at all, and the most that `max_length` may be."""
MOST_SIZES, MOST_FORMS = 200, 100
"""How many sizes of images and forms of conversations are measured; others are like the nearest."""
POSITIONS = ("max_position_embeddings", "n_positions")
USUAL_SIZE = (256, 256)
SECONDS_FOR_SIZES = 60.0
TEXTS_AT_ONCE = 1000
FILLER = "a"

Size = tuple[int, int]
Form = tuple[tuple[str, str], ...]
"""The role of each turn of a conversation, and its text with every piece but the images made one word."""


@contextmanager
def unremarked() -> Iterator[None]:
    """Without processors' own remarks about odd images: what is wrong with one is a finding."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


@dataclass(frozen=True, slots=True)
class Counted:
    """The tokens of one example's texts, stream by stream; `empty` and `unknown` are numbers of turns.

    Of an `empty` answer the tokenizer makes nothing; an `unknown` one has characters that it doesn't know.
    """

    streams: tuple[int, ...]
    empty: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Meter:
    """A prompt style with its limit lifted, and the limits: `limit` with `max_length`, `model_limit` without.

    An encoder-decoder's question and answer are two streams, each of which has the limit for itself.
    """

    prompt: PromptStyle
    limit: int
    model_limit: int
    two_streams: bool

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.prompt.tokenizer

    def measure(self, messages: Sequence[Message], sizes: Iterable[Size]) -> tuple[tuple[int, ...], str]:
        """The tokens of each stream of a conversation about blank images, and the token that ends its answer.

        Raises `UserError` where the processor or its template refuses.
        """
        pictures = [Image.new("RGB", size, "white") for size in sizes]
        try:
            batch = self.prompt.training_batch([messages], [pictures])
        except UserError:
            raise
        except Exception as error:  # each family's processor fails in its own way
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            problem = f"this model's processor refuses it: {reason[:200]}"
            raise UserError(problem, "Change or remove it") from error
        labels = batch["labels"][0]
        trained = labels[labels != IGNORED].tolist()
        mask = batch["decoder_attention_mask" if "decoder_attention_mask" in batch else "attention_mask"]
        end = str(self.tokenizer.convert_ids_to_tokens(trained[-1])) if trained else ""
        return (int(mask.sum()), len(trained)) if self.two_streams else (int(mask.sum()),), end

    def count(
        self, examples: Sequence[Example], progress: Progress, cancelled: Callable[[], bool]
    ) -> dict[str, Counted]:
        """The tokens of the texts of each example, by its id."""
        known: dict[str, tuple[int, bool]] = {}
        found: dict[str, Counted] = {}
        for start in range(0, len(examples), TEXTS_AT_ONCE):
            if cancelled():
                break
            progress("tokens", start, len(examples))
            some = examples[start : start + TEXTS_AT_ONCE]
            texts = dict.fromkeys(text for e in some for m in e.messages for text in pieces_of(m))
            known |= self.count_texts([text for text in texts if text not in known])
            found |= {example.id: self._counted(example, known) for example in some}
        progress("tokens", len(found), len(examples))
        return found

    def count_texts(self, texts: Sequence[str]) -> dict[str, tuple[int, bool]]:
        """The tokens of each text, and whether it has characters that the tokenizer doesn't know."""
        if not texts:
            return {}
        encoded = self.tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False
        )["input_ids"]
        unknown = self.tokenizer.unk_token_id
        return {
            text: (len(ids), unknown is not None and unknown in ids)
            for text, ids in zip(texts, encoded, strict=True)
        }

    def _counted(self, example: Example, known: dict[str, tuple[int, bool]]) -> Counted:
        pieces = [[known[text] for text in pieces_of(message)] for message in example.messages]
        counts = [
            (sum(tokens for tokens, _ in of_turn), any(odd for _, odd in of_turn)) for of_turn in pieces
        ]
        answers = [index for index, m in enumerate(example.messages) if m.role == "assistant"]
        if self.two_streams:  # the last answer alone is trained on
            answers = answers[-1:]
        return Counted(
            self.streams([tokens for tokens, _ in counts]),
            tuple(index + 1 for index in answers if counts[index][0] == 0),
            tuple(index + 1 for index in answers if counts[index][1]),
        )

    def streams(self, turns: Sequence[int]) -> tuple[int, ...]:
        """Tokens of turns added up, stream by stream."""
        return (sum(turns[:-1]), turns[-1]) if self.two_streams else (sum(turns),)


@dataclass(slots=True)
class Sizes:
    """The tokens that an image of a size stands for, alone or among others; sizes unmeasured: the nearest's.

    A few of the template's are counted in: what a form of conversation adds is what is missing to the whole.
    """

    alone: dict[Size, float] = field(default_factory=dict)
    among: dict[Size, float] = field(default_factory=dict)
    nearest: dict[tuple[int, ...], float] = field(default_factory=dict)

    def of(self, sizes: Sequence[Size]) -> float:
        """The tokens of all images of one example. Some models give less to each where there are several."""
        many = len(sizes) > 1
        return sum(self._one(self.among if many else self.alone, size, many) for size in sizes)

    def _one(self, measured: dict[Size, float], size: Size, many: bool) -> float:
        if size in measured or not measured:
            return measured.get(size, 0)
        rounded = (many, *(round(8 * math.log2(side)) for side in size))
        if rounded not in self.nearest:
            like = min(measured, key=lambda other: _distance(size, other))
            self.nearest[rounded] = measured[like]
        return self.nearest[rounded]


@dataclass(slots=True)
class Forms:
    """What a form of conversation adds to texts and images, stream by stream; `ends`: what ends an answer."""

    added: dict[Form, tuple[float, ...]] = field(default_factory=dict)
    ends: set[str] = field(default_factory=set)

    def of(self, form: Form) -> tuple[float, ...]:
        if form in self.added or not self.added:
            return self.added.get(form, (0, 0))
        like = min(self.added, key=lambda other: abs(len(other) - len(form)))
        return tuple(added * len(form) / len(like) for added in self.added[like])


def meter_of(config: TrainingConfig) -> Meter:
    """The meter of a run's base model. Raises `UserError` where configuration or processor can't be had."""
    architecture, processor = read_config(config.model, config.revision), load_processor(config)
    limit = prompt_style(architecture, processor, config.max_length).max_length
    prompt = prompt_style(architecture, processor, UNLIMITED)
    text = architecture.get_text_config().to_dict()
    positions = [text[name] for name in POSITIONS if isinstance(text.get(name), int)]
    model_limit = min(prompt.max_length, MOST_TOKENS, *positions)
    prompt.max_length = UNLIMITED
    return Meter(prompt, min(limit, model_limit), model_limit, isinstance(prompt, QuestionAnswerPrompt))


def pieces_of(message: Message) -> list[str]:
    """The texts of a turn between its images: each is tokenized for itself."""
    return [piece.strip() for piece in message.text.split(IMAGE)]


def form_of(example: Example) -> Form:
    return tuple(
        (message.role, IMAGE.join(FILLER if piece else "" for piece in pieces_of(message)))
        for message in example.messages
    )


def measure_sizes(
    examples: Sequence[Example], sizes_of: Callable[[Example], list[Size]], meter: Meter
) -> tuple[Sizes, dict[Size, UserError]]:
    """The tokens that images of each size have, and the sizes that the processor refuses."""
    found, refused = Sizes(), {}
    shown = [sizes_of(example) for example in examples]
    among = _worth_measuring(Counter(size for sizes in shown if len(sizes) > 1 for size in sizes))
    alone = _worth_measuring(Counter(size for sizes in shown if len(sizes) == 1 for size in sizes))
    began = time.monotonic()
    for size in dict.fromkeys([*alone, *among]):
        if found.alone and time.monotonic() - began > SECONDS_FOR_SIZES:
            break
        try:
            found.alone[size] = _tokens_of(size, 1, meter)
        except UserError as refusal:
            refused[size] = refusal
    for size in among:
        if size in found.alone:
            with suppress(UserError):  # several images are refused, whatever their sizes: their form is told
                found.among[size] = _tokens_of(size, 2, meter)
    return found, refused


def _tokens_of(size: Size, count: int, meter: Meter) -> float:
    probe = (Message("user", IMAGE * count + FILLER), Message("assistant", FILLER))
    (tokens, *_), _ = meter.measure(probe, [size] * count)
    return tokens / count


def _without_marks(form: Form) -> Form:
    return tuple((role, text.replace(IMAGE, "")) for role, text in form)


def _worth_measuring(sizes: Counter[Size]) -> list[Size]:
    """The longest strips, the smallest, the largest, then the most frequent."""
    quarter = MOST_SIZES // 4
    strips = sorted(sizes, key=lambda size: max(size) / min(size), reverse=True)[:quarter]
    small = sorted(sizes, key=min)[:quarter]
    large = sorted(sizes, key=math.prod, reverse=True)[: quarter // 4]
    frequent = [size for size, _ in sizes.most_common(MOST_SIZES)]
    return list(dict.fromkeys([*strips, *small, *large, *frequent]))[:MOST_SIZES]


def _distance(one: Size, other: Size) -> float:
    return math.dist(tuple(map(math.log, one)), tuple(map(math.log, other)))


def measure_forms(
    examples: Sequence[Example], meter: Meter, sizes: Sizes
) -> tuple[Forms, dict[Form, UserError]]:
    """What each form of conversation adds to texts and images, and the forms that the model doesn't take."""
    there = Counter(map(form_of, examples))
    found, refused = Forms(), {}
    ((filler, _),) = meter.count_texts([FILLER]).values()
    for form, _ in there.most_common(MOST_FORMS):
        messages = [Message(role, text) for role, text in form]
        images = sum(text.count(IMAGE) for _, text in form)
        size = next(iter(sizes.among if images > 1 else sizes.alone), USUAL_SIZE)
        try:
            streams, end = meter.measure(messages, [size] * images)
        except UserError as refusal:
            refused[form] = refusal
            continue
        texts = meter.streams([filler * text.count(FILLER) for _, text in _without_marks(form)])
        of_images = (sizes.of([size] * images), 0)
        found.added[form] = tuple(
            total - text - image for total, text, image in zip(streams, texts, of_images, strict=False)
        )
        found.ends.add(end)
    return found, refused

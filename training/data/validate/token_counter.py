"""TokenCounter: the tokens that a model makes of a conversation and its images, without its weights.

Texts are tokenized in large batches. What else stands in the model's input, template and image tokens, is
measured on blank images: an image of one size has the same tokens in every conversation, and a pattern of
turns (roles, and the images in each turn) the same template.
"""

import copy
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Self

from PIL import Image
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from training.config import TrainingConfig
from training.data.row import Progress
from training.data.validate.token_lengths import LONGEST_ANSWER
from vlm.catalog import Kind
from vlm.errors import UserError
from vlm.example import IMAGE, Example, Message
from vlm.models import hub
from vlm.models.image_size import with_image_size
from vlm.models.loading import load_processor, read_config
from vlm.prompting import IGNORED, PromptStyle, prompt_style
from vlm.prompting.chat import ChatPrompt
from vlm.prompting.seq2seq import QuestionAnswerPrompt
from vlm.settings import ModelSettings

MOST_TOKENS = 1 << 20  # the most that `max_length` may be
# Sizes of images and patterns of turns that are measured; others count as the nearest of these. A processor
# takes milliseconds for each, and a dataset of photographs may have as many sizes as images.
MOST_SIZES, MOST_PATTERNS = 200, 100
SECONDS_FOR_SIZES = 60.0
TEXTS_AT_ONCE = 1000
# What configurations call the length of their table of positions: a longer input has no position.
POSITIONS = ("max_position_embeddings", "n_positions")
USUAL_SIZE = (256, 256)
FILLER = "a"

ImageSize = tuple[int, int]  # width, height in pixels
# The role of each turn, and its text with every piece between its images replaced by `FILLER`.
TurnPattern = tuple[tuple[str, str], ...]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences what processors log about odd images: the check reports what is wrong with one."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


@dataclass(frozen=True, slots=True)
class TextTokens:
    """The tokens of one example's texts, sequence by sequence, and turns (counted from 1) that are odd.

    `answer` are those of its last answer, which an evaluation asks for. `empty_turn` is the first answer of
    which the tokenizer makes no token, `unknown_turn` the first one with characters that it doesn't know; 0
    where there is none.
    """

    sequences: tuple[int, ...]
    answer: int
    empty_turn: int
    unknown_turn: int


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """A prompt style with its limit lifted, and the limits: `limit` with `max_length`, `model_limit` without.

    An encoder-decoder's question and answer are two sequences, each of which has the limit for itself. `kind`
    is the model's, and `answer_limit` the tokens that an evaluation lets an answer have.
    """

    prompt: PromptStyle
    limit: int
    model_limit: int
    encoder_decoder: bool
    kind: Kind = "seq2seq"
    answer_limit: int = LONGEST_ANSWER

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.prompt.tokenizer

    def with_pixels(self, most: int) -> Self:
        """Returns the counter of the same model where it sees so many pixels of an image at most.

        Raises:
            UserError: It has no such size.
        """
        prompt, settings = copy.copy(self.prompt), ModelSettings(image_max_pixels=most)
        prompt.processor = with_image_size(prompt.processor, settings)
        return replace(self, prompt=prompt)

    def measure(self, messages: Sequence[Message], sizes: Iterable[ImageSize]) -> tuple[tuple[int, ...], str]:
        """Returns the tokens of each sequence of a conversation about blank images, and what ends its answer.

        Raises:
            UserError: The processor or its template refuses the conversation or an image.
        """
        images = [Image.new("RGB", size, "white") for size in sizes]
        try:
            batch = self.prompt.training_batch([messages], [images])
        except UserError:
            raise
        except Exception as error:  # each family's processor fails in its own way
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                "this model's processor refuses it: {reason}",
                "Change or remove it",
                "row-refused-by-processor",
                reason=reason[:200],
            ) from error
        labels = batch["labels"][0]
        trained = labels[labels != IGNORED].tolist()
        # VisionEncoderDecoder reads question and answer in its decoder; its encoder has the image alone.
        mask = batch["decoder_attention_mask" if "decoder_attention_mask" in batch else "attention_mask"]
        end = str(self.tokenizer.convert_ids_to_tokens(trained[-1])) if trained else ""
        return (int(mask.sum()), len(trained)) if self.encoder_decoder else (int(mask.sum()),), end

    def count_examples(
        self, examples: Sequence[Example], progress: Progress, cancelled: Callable[[], bool]
    ) -> dict[str, TextTokens]:
        """Returns the tokens of each example's texts, by its id; the first ones if it is cancelled."""
        known: dict[str, tuple[int, bool]] = {}
        found: dict[str, TextTokens] = {}
        for start in range(0, len(examples), TEXTS_AT_ONCE):
            if cancelled():
                break
            progress("tokens", start, len(examples))
            batch = examples[start : start + TEXTS_AT_ONCE]
            # Questions and short answers repeat: each distinct text is tokenized once.
            texts = dict.fromkeys(text for e in batch for m in e.messages for text in text_pieces(m))
            known |= self.count_texts([text for text in texts if text not in known])
            for example in batch:
                pieces = [[known[text] for text in text_pieces(m)] for m in example.messages]
                tokens = [sum(count for count, _ in turn) for turn in pieces]
                answers = [index for index, m in enumerate(example.messages) if m.role == "assistant"]
                if self.encoder_decoder:
                    answers = answers[-1:]  # earlier answers are encoder input: nothing is trained on them
                found[example.id] = TextTokens(
                    self.per_sequence(tokens),
                    tokens[answers[-1]] if answers else 0,
                    next((index + 1 for index in answers if tokens[index] == 0), 0),
                    next((index + 1 for index in answers if any(odd for _, odd in pieces[index])), 0),
                )
        progress("tokens", len(found), len(examples))
        return found

    def count_texts(self, texts: Sequence[str]) -> dict[str, tuple[int, bool]]:
        """Returns the tokens of each text, and whether it has characters that the tokenizer doesn't know."""
        if not texts:
            return {}
        # As prompt styles without a chat template read texts: a special token that was typed is split.
        encoded = self.tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False
        )["input_ids"]
        unknown = self.tokenizer.unk_token_id
        return {
            text: (len(ids), unknown is not None and unknown in ids)
            for text, ids in zip(texts, encoded, strict=True)
        }

    def per_sequence(self, turns: Sequence[int]) -> tuple[int, ...]:
        """Returns the tokens of turns added up, sequence by sequence."""
        return (sum(turns[:-1]), turns[-1]) if self.encoder_decoder else (sum(turns),)


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """The tokens that an image of a size stands for, alone or among others, as they were measured.

    A few of the template's are included: `measure_templates` takes what is missing to the whole.
    """

    alone: Mapping[ImageSize, float]
    among: Mapping[ImageSize, float]
    _nearest: dict[tuple[int, ...], ImageSize] = field(default_factory=dict)

    def of(self, sizes: Sequence[ImageSize]) -> float:
        """Returns the tokens of all images of one example; sizes not measured count as the nearest."""
        # Several models, as LLaVA-OneVision, give each image fewer tokens where there is more than one.
        several = len(sizes) > 1
        measured = self.among if several else self.alone
        total = 0.0
        for size in sizes if measured else ():
            if size not in measured:
                # Searched once for all sizes within an eighth of a doubling: photographs have thousands.
                rounded = (several, *(round(8 * math.log2(side)) for side in size))
                if rounded not in self._nearest:
                    # In logarithms, since tilings follow the aspect ratio and the scale.
                    logs = [math.log(side) for side in size]
                    self._nearest[rounded] = min(
                        measured, key=lambda other: math.dist(logs, [math.log(side) for side in other])
                    )
                size = self._nearest[rounded]
            total += measured[size]
        return total


@dataclass(frozen=True, slots=True)
class TemplateTokens:
    """What a template adds to texts and images, sequence by sequence; `ends`: the tokens that end answers."""

    added: Mapping[TurnPattern, tuple[float, ...]]
    ends: Collection[str]

    def of(self, pattern: TurnPattern) -> tuple[float, ...]:
        """Returns the tokens that are added; by its number of turns where the pattern was not measured."""
        if pattern in self.added or not self.added:
            return self.added.get(pattern, (0, 0))
        like = min(self.added, key=lambda other: abs(len(other) - len(pattern)))
        return tuple(added * len(pattern) / len(like) for added in self.added[like])


def token_counter(config: TrainingConfig) -> TokenCounter:
    """Returns the counter of a run's base model.

    Raises:
        UserError: The configuration or the processor of the model can't be read.
    """
    with quiet_transformers():
        architecture, processor = read_config(config.model, config.revision), load_processor(config)
        limit = prompt_style(architecture, processor, config.max_length).max_length
        most = prompt_style(architecture, processor, MOST_TOKENS).max_length
        # Lifted, too long a row is measured in full, and the remedy can name the value that it needs.
        prompt = prompt_style(architecture, processor, None)
    text = architecture.get_text_config().to_dict()
    positions = [text[name] for name in POSITIONS if isinstance(text.get(name), int)]
    model_limit = min([most, *positions])
    encoder_decoder = isinstance(prompt, QuestionAnswerPrompt)
    kind: Kind = "seq2seq" if architecture.is_encoder_decoder else "completion"
    kind = "composed" if hub.is_composed(config.model) else "chat" if isinstance(prompt, ChatPrompt) else kind
    most_of_answer = config.max_new_tokens or LONGEST_ANSWER
    return TokenCounter(prompt, min(limit, model_limit), model_limit, encoder_decoder, kind, most_of_answer)


def text_pieces(message: Message) -> list[str]:
    """Returns the texts of a turn between its images: each is tokenized for itself."""
    return [piece.strip() for piece in message.text.split(IMAGE)]


def turn_pattern(example: Example) -> TurnPattern:
    return tuple(
        (message.role, IMAGE.join(FILLER if piece else "" for piece in text_pieces(message)))
        for message in example.messages
    )


def measure_images(
    examples: Sequence[Example], sizes_of: Callable[[Example], list[ImageSize]], counter: TokenCounter
) -> tuple[ImageTokens, dict[ImageSize, UserError]]:
    """Returns the tokens that images of each size have, and the sizes that the processor refuses."""
    alone, among, refused = {}, {}, {}
    shown = [sizes_of(example) for example in examples]
    several = _worth_measuring(Counter(size for sizes in shown if len(sizes) > 1 for size in sizes))
    single = _worth_measuring(Counter(size for sizes in shown if len(sizes) == 1 for size in sizes))
    began = time.monotonic()
    for size in dict.fromkeys([*single, *several]):
        if alone and time.monotonic() - began > SECONDS_FOR_SIZES:
            break
        try:
            alone[size] = _tokens_per_image(size, 1, counter)
        except UserError as refusal:
            refused[size] = refusal
    for size in several:
        if size in alone:
            # A model that refuses two images refuses them at any size: `measure_templates` reports it.
            with suppress(UserError):
                among[size] = _tokens_per_image(size, 2, counter)
    return ImageTokens(alone, among), refused


def _tokens_per_image(size: ImageSize, count: int, counter: TokenCounter) -> float:
    probe = (Message("user", IMAGE * count + FILLER), Message("assistant", FILLER))
    (tokens, *_), _ = counter.measure(probe, [size] * count)
    return tokens / count


def _worth_measuring(sizes: Counter[ImageSize]) -> list[ImageSize]:
    """Returns the longest strips, the smallest, the largest, then the most frequent."""
    # Extremes first: these are the sizes that processors refuse, and the time may run out.
    quarter = MOST_SIZES // 4
    strips = sorted(sizes, key=lambda size: max(size) / min(size), reverse=True)[:quarter]
    small = sorted(sizes, key=min)[:quarter]
    large = sorted(sizes, key=math.prod, reverse=True)[: quarter // 4]
    frequent = [size for size, _ in sizes.most_common(MOST_SIZES)]
    return list(dict.fromkeys([*strips, *small, *large, *frequent]))[:MOST_SIZES]


def measure_templates(
    examples: Sequence[Example], counter: TokenCounter, images: ImageTokens
) -> tuple[TemplateTokens, dict[TurnPattern, UserError]]:
    """Returns what the template adds to each pattern of turns, and the patterns that the model refuses."""
    added, ends, refused = {}, set(), {}
    ((filler, _),) = counter.count_texts([FILLER]).values()
    for pattern, _ in Counter(map(turn_pattern, examples)).most_common(MOST_PATTERNS):
        messages = [Message(role, text) for role, text in pattern]
        count = sum(text.count(IMAGE) for _, text in pattern)
        size = next(iter(images.among if count > 1 else images.alone), USUAL_SIZE)
        try:
            totals, end = counter.measure(messages, [size] * count)
        except UserError as refusal:
            refused[pattern] = refusal
            continue
        # Without the marks of images: the filler is a letter of "<image>" too.
        texts = counter.per_sequence([filler * text.replace(IMAGE, "").count(FILLER) for _, text in pattern])
        of_images = (images.of([size] * count), 0)  # an encoder-decoder's answer has none
        added[pattern] = tuple(
            total - text - image for total, text, image in zip(totals, texts, of_images, strict=False)
        )
        ends.add(end)
    return TemplateTokens(added, ends), refused

"""check_with_model: what a model's processor and tokenizer can't take of a dataset; no weight is read.

Image counts, images that the processor refuses, control tokens typed in texts, answers of which nothing would
be trained on, and the length of every example against the limit. Every text is tokenized. What the processor
adds, template and image tokens, is measured by `training.data.validate.token_counter` on blank images, once
for each pattern of turns and each size of image, so that the time is bounded however large the dataset is.
"""

import math
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from training.data.row import Issue, Progress, say_nothing
from training.data.safe_paths import quoted
from training.data.validate.dataset_check import Report
from training.data.validate.token_counter import (
    ImageSize,
    TextTokens,
    TokenCounter,
    TurnPattern,
    measure_images,
    measure_templates,
    quiet_transformers,
    turn_pattern,
)
from training.data.validate.token_lengths import (
    ANSWER_MARGIN,
    SequenceLengths,
    TokenLengths,
    rounded_up,
)
from vlm.errors import Phrase, UserError
from vlm.example import IMAGE, Example

# How many examples near the limit, and how many others, go through the processor themselves.
MOST_NEAR, SPOT_CHECKS = 400, 32
SECONDS_FOR_NEAR = 60.0
# Tokens, and a part of the limit: an estimate this near to it is measured, since tokens may join where texts
# and template meet.
NEAR_TOKENS, NEAR_PART = 16, 0.02
TOKENS_NAMED = 3
# A power of two: no model is advised to see fewer pixels of an image.
FEWEST_PIXELS = 8
WRITE_OTHERWISE = "Remove it, or write it otherwise, with a space in it for example"


def check_with_model(
    report: Report,
    counter: TokenCounter,
    progress: Progress = say_nothing,
    cancelled: Callable[[], bool] = lambda: False,
) -> Report:
    """Returns the report with what the counter's model can't take, and the lengths of its usable examples.

    `progress` counts examples. Once `cancelled()` is true, only the examples counted so far are reported on.
    """
    with quiet_transformers():
        check = _Check(report)
        if counter.prompt.takes_one_image:
            check.add(
                check.issue(
                    example,
                    UserError(
                        "the row has {count} images: this model takes exactly one",
                        "Give the row one image, or choose another model",
                        "not-one-image",
                        count=len(example.images),
                    ),
                )
                for example in check.examples
                if len(example.images) != 1
            )
        counted = counter.count_examples(check.examples, progress, cancelled)
        check.drop({example.id for example in check.examples} - counted.keys())
        images, refused_sizes = measure_images(check.examples, check.sizes_of, counter)
        check.add(_refused(check, refused_sizes, {}))
        template, refused_patterns = measure_templates(check.examples, counter, images)
        check.add(_refused(check, {}, refused_patterns))
        check.add(_typed_control_tokens(check, counter, template.ends))
        check.add(_untrainable_answers(check, counted))
        check.add(_cut_answers(check, counter, counted))
        words: dict[str, list[float]] = {}  # tokens of each sequence but those of images
        estimates: SequenceLengths = {}
        for example in check.examples:
            parts = zip(counted[example.id].sequences, template.of(turn_pattern(example)), strict=False)
            first, *rest = words[example.id] = [text + added for text, added in parts]
            # Images stand in the first sequence: what an encoder-decoder's encoder reads, or all there is.
            whole = (first + images.of(check.sizes_of(example)), *rest)
            estimates[example.id] = tuple(map(round, whole))
        lengths, measured = _measured_near_limit(check, counter, estimates, cancelled)
        check.add(_too_long(check, counter, counted, lengths, words))
    tokens = tuple(map(max, lengths.values()))
    longest = max((counted[example.id].answer for example in check.examples), default=0)
    found = TokenLengths(tokens, counter.limit, counter.model_limit, measured, lengths, longest)
    return replace(report, findings=[*report.findings, *check.findings], lengths=found)


class _Check:
    """The examples that are left, and the findings so far."""

    def __init__(self, report: Report) -> None:
        self.dataset, self.facts = report.dataset, report.facts
        self.findings: list[Issue] = []
        # A check of the pixels that was cancelled has not seen every image: some sizes are unknown.
        readable = report.cleaned().examples
        self.examples = [example for example in readable if all(i in self.facts for i in example.images)]

    def sizes_of(self, example: Example) -> list[ImageSize]:
        return [(self.facts[image].width, self.facts[image].height) for image in example.images]

    def issue(
        self, example: Example, error: UserError, *, image: str | None = None, warning: bool = False
    ) -> Issue:
        place = self.dataset.place_of(example)
        return Issue.at(place, error, row_ids=[example.id], image=image, warning=warning)

    def add(self, found: Iterable[Issue]) -> None:
        """Adds findings. Examples with a fault are not checked further: one is enough to correct a row."""
        new = list(found)
        self.findings += new
        self.drop({key for finding in new if not finding.warning for key in finding.row_ids})

    def drop(self, ids: Collection[str]) -> None:
        if ids:
            self.examples = [example for example in self.examples if example.id not in ids]


def _refused(
    check: _Check, sizes: Mapping[ImageSize, UserError], patterns: Mapping[TurnPattern, UserError]
) -> Iterator[Issue]:
    """Yields a finding for each image of a refused size, each example of a refused pattern of turns."""
    for example in check.examples if sizes else ():
        for image, size in zip(example.images, check.sizes_of(example), strict=True):
            if size in sizes:
                name = image.relative_to(check.dataset.root).as_posix()
                error = UserError(
                    "{named_image} has {width} x {height} pixels: {reason}",
                    "Crop or enlarge it, or choose another model",
                    "image-size-refused",
                    named_image=quoted(name),
                    width=size[0],
                    height=size[1],
                    reason=sizes[size].problem,
                )
                yield check.issue(example, error, image=name)
    for example in check.examples if patterns else ():
        if refusal := patterns.get(turn_pattern(example)):
            yield check.issue(example, _conversation_refused(example, refusal))


def _conversation_refused(example: Example, refusal: UserError) -> UserError:
    turns = {"turns": len(example.messages), "reason": refusal.problem, "remedy": refusal.advice}
    if len(example.images) == 1:
        return UserError("a conversation of {turns} turns: {reason}", "{remedy}", "turns-refused", **turns)
    return UserError(
        "a conversation of {turns} turns with {images} images: {reason}",
        "{remedy}",
        "turns-and-images-refused",
        images=len(example.images),
        **turns,
    )


def _typed_control_tokens(check: _Check, counter: TokenCounter, ends: Collection[str]) -> Iterator[Issue]:
    """Yields a finding for each example with a token typed in a text that steers the model."""
    # Those of the tokenizer, and what its processor takes for an image, a video or a sound. A character alone
    # is ordinary text even where a tokenizer calls it special; IMAGE is how datasets mark images.
    tokens = {token.content for token in counter.tokenizer.added_tokens_decoder.values() if token.special}
    tokens |= {*counter.tokenizer.all_special_tokens}
    named = vars(counter.prompt.processor).items()
    tokens |= {value for key, value in named if key.endswith("_token") and isinstance(value, str)}
    pattern = _any_of(token for token in tokens if len(token) > 1 and token != IMAGE)
    for example in check.examples:
        for number, message in enumerate(example.messages, start=1):
            found = list(dict.fromkeys(pattern.findall(message.plain_text)))
            if not found:
                continue
            typed = {"turn": number, "tokens": [quoted(token) for token in found[:TOKENS_NAMED]]}
            stops = message.role == "assistant" and not ends.isdisjoint(found)
            if stops:
                error = UserError(
                    "turn {turn} holds {tokens}, which ends this model's answers",
                    WRITE_OTHERWISE,
                    "answer-end-typed",
                    **typed,
                )
            else:
                error = UserError(
                    "turn {turn} holds {tokens}, a control token of this model",
                    WRITE_OTHERWISE,
                    "control-token-typed",
                    **typed,
                )
            yield check.issue(example, error)
            break


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    # Longest first, since an alternation takes the first match; without any word it never matches.
    return re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))) or "(?!)")


def _untrainable_answers(check: _Check, counted: Mapping[str, TextTokens]) -> Iterator[Issue]:
    for example in check.examples:
        found = counted[example.id]
        if found.empty_turn:
            error = UserError(
                "turn {turn}: this model's tokenizer makes no token of the answer,"
                " so nothing would be trained on",
                "Write it in other characters, or remove the row",
                "answer-without-tokens",
                turn=found.empty_turn,
            )
            yield check.issue(example, error)
        elif found.unknown_turn:
            error = UserError(
                "turn {turn} has characters that this model's tokenizer doesn't know",
                "Write it in other characters, or choose a model of this language",
                "unknown-characters",
                turn=found.unknown_turn,
            )
            yield check.issue(example, error, warning=True)


def _cut_answers(check: _Check, counter: TokenCounter, counted: Mapping[str, TextTokens]) -> Iterator[Issue]:
    """Yields a warning for each example whose answer no evaluation would have to its end."""
    most = counter.answer_limit
    for example in check.examples:
        if (tokens := counted[example.id].answer) > most:
            error = UserError(
                "the answer has {tokens:,} tokens, and an evaluation cuts it at {most:,}:"
                " it is trained on whole, and counts as wrong",
                "Give --max_new_tokens {enough}, or shorten it",
                "answer-cut",
                change={"max_new_tokens": tokens + ANSWER_MARGIN},
                tokens=tokens,
                most=most,
                enough=tokens + ANSWER_MARGIN,
            )
            yield check.issue(example, error, warning=True)


def _measured_near_limit(
    check: _Check, counter: TokenCounter, lengths: SequenceLengths, cancelled: Callable[[], bool]
) -> tuple[SequenceLengths, int]:
    """Measures examples whose estimated length may deceive, and returns all lengths and how many it measured.

    These are examples near the limit, those with words that a template may read, and a few of all.
    """
    margin = NEAR_TOKENS + NEAR_PART * counter.limit
    near = [e for e in check.examples if abs(max(lengths[e.id]) - counter.limit) <= margin]
    # Not what is far too long anyway: a book takes the processor long, and is refused by its estimate.
    fitting = [e for e in check.examples if max(lengths[e.id]) <= counter.limit + margin]
    spots = fitting[:: max(1, len(fitting) // max(1, SPOT_CHECKS))][:SPOT_CHECKS]
    # A word that the tokenizer knows as one token, as <think>, may be read and removed by a template.
    words = _any_of(t for t in counter.tokenizer.added_tokens_encoder if len(t) > 1 and t.strip())
    marked = [e for e in fitting if any(words.search(message.plain_text) for message in e.messages)]
    began, refused, measured = time.monotonic(), [], {}
    for example in {e.id: e for e in [*spots, *near[:MOST_NEAR], *marked[:MOST_NEAR]]}.values():
        if cancelled() or time.monotonic() - began > SECONDS_FOR_NEAR:
            break
        try:
            measured[example.id], _ = counter.measure(example.messages, check.sizes_of(example))
        except UserError as refusal:
            refused.append(check.issue(example, refusal))
    check.add(refused)
    left = {example.id for example in check.examples}
    return {key: tokens for key, tokens in {**lengths, **measured}.items() if key in left}, len(measured)


def _too_long(
    check: _Check,
    counter: TokenCounter,
    counted: Mapping[str, TextTokens],
    lengths: SequenceLengths,
    words: Mapping[str, Sequence[float]],
) -> Iterator[Issue]:
    over = [example for example in check.examples if max(lengths[example.id]) > counter.limit]
    # Rows that are too long for what they show, and not for what they say.
    shown = [e for e in over if e.images and max(words[e.id]) + NEAR_TOKENS < counter.limit]
    pixels = _fewer_pixels(check, counter, shown, words) if shown else None
    helped = {example.id for example in shown}
    for example in over:
        tokens = max(lengths[example.id])
        text, *answer = counted[example.id].sequences
        # What stands beside the text; nothing where an encoder-decoder's answer is what is too long.
        apart = tokens - (text if max(answer, default=0) <= counter.limit else tokens)
        beside = len(example.images) if apart > counter.limit else 0
        fewer = pixels if example.id in helped else None
        yield check.issue(example, _over_limit(counter, tokens, beside, apart, fewer))


def _fewer_pixels(
    check: _Check, counter: TokenCounter, examples: Sequence[Example], words: Mapping[str, Sequence[float]]
) -> int | None:
    """Returns how many pixels images may have for all these rows to fit; None where the model can't do it."""

    def fit(smaller: TokenCounter, rows: Sequence[Example]) -> bool:
        images, refused = measure_images(rows, check.sizes_of, smaller)
        most = counter.limit - NEAR_TOKENS
        fitting = (words[row.id][0] + images.of(check.sizes_of(row)) <= most for row in rows)
        return not refused and all(fitting)

    largest = max(examples, key=lambda row: sum(map(math.prod, check.sizes_of(row))))
    pixels = max(map(math.prod, check.sizes_of(largest)))
    with suppress(UserError):
        for power in reversed(range(FEWEST_PIXELS, (pixels - 1).bit_length())):
            smaller = counter.with_pixels(2**power)
            # One row tells nearly always: all of them may have hundreds of sizes.
            if fit(smaller, [largest]) and fit(smaller, examples):
                return 2**power
    return None


def _over_limit(counter: TokenCounter, tokens: int, images: int, apart: int, pixels: int | None) -> UserError:
    """Returns what is said of a row that has too many tokens: it, or its `images` with the template alone.

    With fewer `pixels` it fits.
    """
    change = {}
    if pixels:
        change["image_max_pixels"] = pixels
        advice = Phrase("Give --image_max_pixels {pixels}: nothing is cut", "fewer-pixels", pixels=pixels)
    elif tokens > counter.model_limit:
        most = counter.model_limit
        advice = Phrase("Shorten it: this model reads {most:,} tokens at most", "shorten-the-row", most=most)
    else:
        change["max_length"] = rounded_up(tokens, counter.model_limit)
        advice = Phrase("Give --max_length {max_length}, or shorten it", "raise-max-length", **change)
    if not images:
        return UserError(
            "the row has {tokens:,} tokens, and {limit:,} is the most",
            "{advice}",
            "row-over-limit",
            change=change,
            tokens=tokens,
            limit=counter.limit,
            advice=advice,
        )
    return UserError(
        "{count} {count:image|images} and the template take {tokens:,} tokens, and {limit:,} is the most:"
        " image tokens would be cut off",
        "{advice}",
        "images-over-limit",
        change=change,
        count=images,
        tokens=apart,
        limit=counter.limit,
        advice=advice,
    )

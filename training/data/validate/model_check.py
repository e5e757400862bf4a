"""check_with_model: what a model's processor and tokenizer can't take of a dataset; no weight is read.

Image counts, images that the processor refuses, control tokens typed in texts, answers of which nothing would
be trained on, and the length of every example against the limit. Every text is tokenized. What the processor
adds, template and image tokens, is measured by `training.data.validate.token_counter` on blank images, once
for each pattern of turns and each size of image, so that the time is bounded however large the dataset is.
"""

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from training.data.row import Finding, Progress, say_nothing
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
from training.data.validate.token_lengths import SequenceLengths, TokenLengths, rounded_up
from vlm.errors import UserError
from vlm.example import IMAGE, Example

# How many examples near the limit, and how many others, go through the processor themselves.
MOST_NEAR, SPOT_CHECKS = 400, 32
SECONDS_FOR_NEAR = 60.0
# Tokens, and a part of the limit: an estimate this near to it is measured, since tokens may join where texts
# and template meet.
NEAR_TOKENS, NEAR_PART = 16, 0.02
TOKENS_NAMED = 3


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
            remedy = "Give the row one image, or choose another model"
            check.add(
                check.finding(e, f"the row has {len(e.images)} images: this model takes exactly one", remedy)
                for e in check.examples
                if len(e.images) != 1
            )
        counted = counter.count_examples(check.examples, progress, cancelled)
        check.drop({example.id for example in check.examples} - counted.keys())
        images, refused_sizes = measure_images(check.examples, check.sizes_of, counter)
        check.add(_refused(check, refused_sizes, {}))
        template, refused_patterns = measure_templates(check.examples, counter, images)
        check.add(_refused(check, {}, refused_patterns))
        check.add(_typed_control_tokens(check, counter, template.ends))
        check.add(_untrainable_answers(check, counted))
        estimates: SequenceLengths = {}
        for example in check.examples:
            # Images stand in the first sequence: what an encoder-decoder's encoder reads, or all there is.
            of_images = (images.of(check.sizes_of(example)), 0)
            parts = zip(
                counted[example.id].sequences, template.of(turn_pattern(example)), of_images, strict=False
            )
            estimates[example.id] = tuple(round(text + added + image) for text, added, image in parts)
        lengths, measured = _measured_near_limit(check, counter, estimates, cancelled)
        check.add(_too_long(check, counter, counted, lengths))
    tokens = tuple(map(max, lengths.values()))
    found = TokenLengths(tokens, counter.limit, counter.model_limit, measured, lengths)
    return replace(report, findings=[*report.findings, *check.findings], lengths=found)


class _Check:
    """The examples that are left, and the findings so far."""

    def __init__(self, report: Report) -> None:
        self.dataset, self.facts = report.dataset, report.facts
        self.findings: list[Finding] = []
        # A check of the pixels that was cancelled has not seen every image: some sizes are unknown.
        readable = report.cleaned().examples
        self.examples = [example for example in readable if all(i in self.facts for i in example.images)]

    def sizes_of(self, example: Example) -> list[ImageSize]:
        return [(self.facts[image].width, self.facts[image].height) for image in example.images]

    def finding(self, example: Example, reason: str, remedy: str, *, warning: bool = False) -> Finding:
        return Finding(self.dataset.place_of(example), reason, remedy, warning, example.id)

    def add(self, found: Iterable[Finding]) -> None:
        """Adds findings. Examples with a fault are not checked further: one is enough to correct a row."""
        new = list(found)
        self.findings += new
        self.drop({finding.example for finding in new if not finding.warning})

    def drop(self, ids: Collection[str | None]) -> None:
        if ids:
            self.examples = [example for example in self.examples if example.id not in ids]


def _refused(
    check: _Check, sizes: Mapping[ImageSize, UserError], patterns: Mapping[TurnPattern, UserError]
) -> Iterator[Finding]:
    """Yields a finding for each image of a refused size, each example of a refused pattern of turns."""
    for example in check.examples if sizes else ():
        for image, size in zip(example.images, check.sizes_of(example), strict=True):
            if size in sizes:
                name = quoted(image.relative_to(check.dataset.root).as_posix())
                reason = f"{name} has {size[0]} x {size[1]} pixels: {sizes[size].problem}"
                yield check.finding(example, reason, "Crop or enlarge it, or choose another model")
    for example in check.examples if patterns else ():
        if refusal := patterns.get(turn_pattern(example)):
            images = f" with {len(example.images)} images" if len(example.images) != 1 else ""
            reason = f"a conversation of {len(example.messages)} turns{images}: {refusal.problem}"
            yield check.finding(example, reason, refusal.remedy)


def _typed_control_tokens(check: _Check, counter: TokenCounter, ends: Collection[str]) -> Iterator[Finding]:
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
            listed = ", ".join(map(quoted, found[:TOKENS_NAMED]))
            stops = message.role == "assistant" and not ends.isdisjoint(found)
            what = "which ends this model's answers" if stops else "a control token of this model"
            remedy = "Remove it, or write it otherwise, with a space in it for example"
            yield check.finding(example, f"turn {number} holds {listed}, {what}", remedy)
            break


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    # Longest first, since an alternation takes the first match; without any word it never matches.
    return re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))) or "(?!)")


def _untrainable_answers(check: _Check, counted: Mapping[str, TextTokens]) -> Iterator[Finding]:
    for example in check.examples:
        found = counted[example.id]
        if found.empty_turn:
            reason = f"turn {found.empty_turn}: this model's tokenizer makes no token of the answer"
            reason += ", so nothing would be trained on"
            yield check.finding(example, reason, "Write it in other characters, or remove the row")
        elif found.unknown_turn:
            reason = f"turn {found.unknown_turn} has characters that this model's tokenizer doesn't know"
            remedy = "Write it in other characters, or choose a model of this language"
            yield check.finding(example, reason, remedy, warning=True)


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
            refused.append(check.finding(example, refusal.problem, refusal.remedy))
    check.add(refused)
    left = {example.id for example in check.examples}
    return {key: tokens for key, tokens in {**lengths, **measured}.items() if key in left}, len(measured)


def _too_long(
    check: _Check, counter: TokenCounter, counted: Mapping[str, TextTokens], lengths: SequenceLengths
) -> Iterator[Finding]:
    for example in check.examples:
        tokens = max(lengths[example.id])
        if tokens <= counter.limit:
            continue
        text, *answer = counted[example.id].sequences
        # What stands beside the text; nothing where an encoder-decoder's answer is what is too long.
        apart = tokens - (text if max(answer, default=0) <= counter.limit else tokens)
        if apart > counter.limit and example.images:
            images = f"{len(example.images)} image{'s' * (len(example.images) != 1)}"
            reason = f"{images} and the template take {apart:,} tokens, and {counter.limit:,} is the most"
            reason += ": image tokens would be cut off"
        else:
            reason = f"the row has {tokens:,} tokens, and {counter.limit:,} is the most"
        if tokens > counter.model_limit:
            remedy = f"Shorten it: this model reads {counter.model_limit:,} tokens at most"
        else:
            remedy = f"Give --max_length {rounded_up(tokens, counter.model_limit)}, or shorten it"
        yield check.finding(example, reason, remedy)

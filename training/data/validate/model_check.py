"""check_with_model: what a model's processor and tokenizer can't take of a dataset; no weight is read.

Image counts, images that the processor refuses, control tokens typed in texts, answers of which nothing would
be trained on, and the length of every example against the limit. Every text is tokenized. What the processor
adds, template and image tokens, is measured by `training.data.validate.token_counter` on blank images, once
for each form of conversation and each size of image, so that the time is bounded however large the dataset
is.
"""

import re
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

from training.config import TrainingConfig
from training.data.findings import Finding
from training.data.open import Dataset, say_nothing
from training.data.safe_paths import quoted
from training.data.validate.dataset_check import Progress, Report
from training.data.validate.token_counter import (
    Counted,
    Form,
    Forms,
    Meter,
    Size,
    Sizes,
    form_of,
    measure_forms,
    measure_sizes,
    meter_of,
    unremarked,
)
from training.data.validate.token_lengths import Lengths
from vlm.errors import UserError
from vlm.example import IMAGE, Example

MOST_NEAR, SPOT_CHECKS = 400, 32
"""How many examples near the limit, and how many others, go through the processor themselves."""
SECONDS_FOR_NEAR = 60.0
NEAR_TOKENS, NEAR_PART = 16, 0.02
"""A count this near to the limit is measured: tokens may join where texts and template meet."""
TOKENS_NAMED = 3
STEP = 64


def check_with_model(
    report: Report,
    config: TrainingConfig,
    progress: Progress = say_nothing,
    cancelled: Callable[[], bool] = lambda: False,
) -> Report:
    """The report with what the chosen base model can't take, and with the lengths of its usable examples.

    `progress` counts examples. When `cancelled()` says so, those counted so far are told of. Raises
    `UserError` where the model has no readable configuration or processor.
    """
    with unremarked():
        return _checked(_Check(report), meter_of(config), progress, cancelled)


def _checked(check: "_Check", meter: Meter, progress: Progress, cancelled: Callable[[], bool]) -> Report:
    check.tell(_about_image_counts(check, meter))
    counted = meter.count(check.examples, progress, cancelled)
    check.examples = [example for example in check.examples if example.id in counted]
    sizes, refused = measure_sizes(check.examples, check.sizes_of, meter)
    check.tell(_about_refused_images(check, refused))
    forms, refusals = measure_forms(check.examples, meter, sizes)
    check.tell(_about_refused_forms(check, refusals))
    check.tell(_about_control_tokens(check, meter, forms.ends))
    check.tell(_about_answers(check, counted))
    lengths = _lengths(check, meter, counted, sizes, forms, cancelled)
    check.tell(_about_lengths(check, meter, counted, lengths))
    tokens = tuple(map(max, lengths.values()))
    found = Lengths(tokens, meter.limit, meter.model_limit, check.measured, lengths)
    return replace(check.report, findings=[*check.report.findings, *check.findings], lengths=found)


class _Check:
    """The examples that are left while what is wrong is found, and what was found.

    Examples with a fault are not looked at again: one is enough for a row to be corrected.
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        self.dataset: Dataset = report.dataset
        self.facts = report.facts
        self.findings: list[Finding] = []
        self.measured = 0
        readable = report.cleaned().examples
        self.examples = [example for example in readable if all(i in self.facts for i in example.images)]

    def sizes_of(self, example: Example) -> list[Size]:
        return [(self.facts[image].width, self.facts[image].height) for image in example.images]

    def finding(self, example: Example, reason: str, remedy: str, *, warning: bool = False) -> Finding:
        return Finding(self.dataset.place_of(example), reason, remedy, warning, example.id)

    def tell(self, found: Iterator[Finding]) -> None:
        new = list(found)
        self.findings += new
        wrong = {finding.example for finding in new if not finding.warning}
        if wrong:
            self.examples = [example for example in self.examples if example.id not in wrong]


def _about_image_counts(check: _Check, meter: Meter) -> Iterator[Finding]:
    if not meter.prompt.takes_one_image:
        return
    for example in check.examples:
        if len(example.images) != 1:
            reason = f"the row has {len(example.images)} images: this model takes exactly one"
            yield check.finding(example, reason, "Give the row one image, or choose another model")


def _about_refused_images(check: _Check, refused: dict[Size, UserError]) -> Iterator[Finding]:
    for example in check.examples if refused else ():
        for image, size in zip(example.images, check.sizes_of(example), strict=True):
            if size in refused:
                name = quoted(image.relative_to(check.dataset.root).as_posix())
                reason = f"{name} has {size[0]} x {size[1]} pixels: {refused[size].problem}"
                yield check.finding(example, reason, "Crop or enlarge it, or choose another model")


def _about_refused_forms(check: _Check, refused: dict[Form, UserError]) -> Iterator[Finding]:
    for example in check.examples if refused else ():
        if refusal := refused.get(form_of(example)):
            images = f" with {len(example.images)} images" if len(example.images) != 1 else ""
            reason = f"a conversation of {len(example.messages)} turns{images}: {refusal.problem}"
            yield check.finding(example, reason, refusal.remedy)


def _about_control_tokens(check: _Check, meter: Meter, ends: Collection[str]) -> Iterator[Finding]:
    """Tokens that steer the model and that somebody typed: they would be read as plain text."""
    tokens = control_tokens(meter)
    pattern = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")
    for example in check.examples:
        for number, message in enumerate(example.messages, start=1):
            found = list(dict.fromkeys(pattern.findall(message.plain_text)))
            if not found:
                continue
            named = ", ".join(map(quoted, found[:TOKENS_NAMED]))
            stops = message.role == "assistant" and not ends.isdisjoint(found)
            what = "which ends this model's answers" if stops else "a control token of this model"
            remedy = "Remove it, or write it otherwise, with a space in it for example"
            yield check.finding(example, f"turn {number} holds {named}, {what}", remedy)
            break


def control_tokens(meter: Meter) -> set[str]:
    """The model's control tokens, and what its processor takes for an image, a video or a sound."""
    special = {token.content for token in meter.tokenizer.added_tokens_decoder.values() if token.special}
    special |= {*meter.tokenizer.all_special_tokens}
    named = {key: value for key, value in vars(meter.prompt.processor).items() if key.endswith("_token")}
    special |= {str(value) for value in named.values() if isinstance(value, str)}
    return {token for token in special if len(token) > 1 and token != IMAGE}


def _about_answers(check: _Check, counted: dict[str, Counted]) -> Iterator[Finding]:
    for example in check.examples:
        found = counted[example.id]
        if found.empty:
            reason = f"turn {found.empty[0]}: this model's tokenizer makes no token of the answer"
            reason += ", so nothing would be trained on"
            yield check.finding(example, reason, "Write it in other characters, or remove the row")
        elif found.unknown:
            reason = f"turn {found.unknown[0]} has characters that this model's tokenizer doesn't know"
            remedy = "Write it in other characters, or choose a model of this language"
            yield check.finding(example, reason, remedy, warning=True)


def _lengths(
    check: _Check,
    meter: Meter,
    counted: dict[str, Counted],
    sizes: Sizes,
    forms: Forms,
    cancelled: Callable[[], bool],
) -> dict[str, tuple[int, ...]]:
    """The tokens of each example's streams, by its id; near the limit they are measured."""

    def estimate(example: Example) -> tuple[int, ...]:
        images = (sizes.of(check.sizes_of(example)), 0)
        parts = zip(counted[example.id].streams, forms.of(form_of(example)), images, strict=False)
        return tuple(round(text + added + image) for text, added, image in parts)

    lengths = {example.id: estimate(example) for example in check.examples}
    margin = NEAR_TOKENS + NEAR_PART * meter.limit
    near = [e for e in check.examples if abs(max(lengths[e.id]) - meter.limit) <= margin]
    fitting = [e for e in check.examples if max(lengths[e.id]) <= meter.limit + margin]
    spot, marked = _spread(fitting), _marked(fitting, meter)  # of a book it is enough to know that it is one
    began, refused = time.monotonic(), []
    for example in {e.id: e for e in [*spot, *near[:MOST_NEAR], *marked[:MOST_NEAR]]}.values():
        if cancelled() or time.monotonic() - began > SECONDS_FOR_NEAR:
            break
        try:
            lengths[example.id], _ = meter.measure(example.messages, check.sizes_of(example))
            check.measured += 1
        except UserError as refusal:
            refused.append(check.finding(example, refusal.problem, refusal.remedy))
            lengths.pop(example.id, None)
    check.tell(iter(refused))
    return lengths


def _about_lengths(
    check: _Check, meter: Meter, counted: dict[str, Counted], lengths: dict[str, tuple[int, ...]]
) -> Iterator[Finding]:
    for example in check.examples:
        tokens = max(lengths[example.id])
        if tokens <= meter.limit:
            continue
        question, *answer = counted[example.id].streams
        apart = tokens - (question if max(answer, default=0) <= meter.limit else tokens)
        images = f"{len(example.images)} image{'s' * (len(example.images) != 1)}"
        if apart > meter.limit and example.images:
            reason = f"{images} and the template take {apart:,} tokens, and {meter.limit:,} is the most"
            reason += ": image tokens would be cut off"
        else:
            reason = f"the row has {tokens:,} tokens, and {meter.limit:,} is the most"
        yield check.finding(example, reason, _longer_remedy(tokens, meter))


def _longer_remedy(tokens: int, meter: Meter) -> str:
    if tokens > meter.model_limit:
        return f"Shorten it: this model reads {meter.model_limit:,} tokens at most"
    return f"Give --max_length {min(-(-tokens // STEP) * STEP, meter.model_limit)}, or shorten it"


def _marked(examples: list[Example], meter: Meter) -> list[Example]:
    """Those with a word in them that the tokenizer knows as one token: a template may read it, as <think>."""
    words = [token for token in meter.tokenizer.added_tokens_encoder if len(token) > 1 and token.strip()]
    pattern = re.compile("|".join(map(re.escape, words)) or "(?!)")
    return [e for e in examples if any(pattern.search(message.plain_text) for message in e.messages)]


def _spread(examples: list[Example]) -> list[Example]:
    """Some of the examples, from all over the dataset."""
    return examples[:: max(1, len(examples) // max(1, SPOT_CHECKS))][:SPOT_CHECKS]

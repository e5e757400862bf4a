"""What each kind of event carries, with its type: the schema of `events.jsonl`. No torch.

These are names on disk. A new field is `NotRequired`, or the logs of older runs could not be read; what is
not listed is ignored, so that newer ones can. JSON has no infinity and no NaN: such a number is null.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, JsonValue, TypeAdapter
from typing_extensions import TypedDict  # pydantic takes Python's own from 3.12 on

# 2^53: above it JSON's readers elsewhere round.
Count = Annotated[int, Field(ge=0, le=2**53)]
Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e300, le=1e300)]
Number = Finite | None
# UNIX seconds of a year with four digits, which dates can be made of.
Time = Annotated[float, Field(ge=0, le=250e9, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Interval = Annotated[list[Finite], Field(min_length=2, max_length=2)] | None
Values = dict[str, JsonValue]


class Tower(TypedDict):
    """Parameters of one tower."""

    trainable: Count
    total: Count


class Group(TypedDict):
    """The answers of one `type` of question."""

    examples: Count
    exact_match: Number
    interval: NotRequired[Interval]


class ByLabels(TypedDict):
    """The metric that counts, because `count` of the `examples` have such `labels`."""

    metric: str
    labels: str
    count: Count
    examples: Count


class HardSample(TypedDict):
    """An example of the highest loss; `place` is where its row stands."""

    example_id: str
    place: NotRequired[str]
    image: str | None
    question: str
    answer: str
    loss: Number


class Event(TypedDict):
    """A line of the log."""

    time: Time
    kind: str


class Queued(Event):
    """A start was asked for."""


class Started(Event):
    """The adapter is on the base."""

    base_model: str
    device: str
    precision: str
    seed: Count
    versions: dict[str, str]
    towers: dict[str, Tower]
    trainable: Count
    total: Count


class Heartbeat(Event):
    """The worker lives; `idle_s` is how long nothing has gone on, `step_s` the median of a step.

    `at_s` is the monotonic clock's time of the machine that `boot` tells: a clock on the wall may jump.
    """

    step: Count
    idle_s: Seconds
    step_s: Number
    at_s: Seconds
    boot: str


class Data(Event):
    """The dataset was read; `issues` are its `reasons` as phrases, as `values_to_json` writes them."""

    train: Count
    held_out: Count
    images: Count
    skipped: Count
    reasons: list[str]
    fingerprint: str
    issues: NotRequired[list[JsonValue]]


class Phase(Event):
    """How far a phase is; its `total` is 1 where that is not known."""

    name: str
    done: Count
    total: Count


class Step(Event):
    """A point of the loss curve; `padding` is a fraction of 1."""

    step: Count
    total: Count
    epoch: Number
    loss: Number
    learning_rate: Number
    grad_norm: Number
    examples_per_s: Number
    memory_gib: Number
    eta_s: Number
    padding: NotRequired[Number]


class Drill(Event):
    """What the preflight found: the program calls it so, the log keeps its first name."""

    batch_size: Count
    gradient_accumulation_steps: Count
    memory_gib: Number
    grown_gib: Number
    step_s: Number
    eta_s: Number
    threads: NotRequired[Count]
    estimated_gib: NotRequired[Number]


class Commonest(TypedDict):
    """The commonest answer that is trained on, and what always giving it scores by a metric."""

    answer: str
    metric: str
    score: Finite


class Choice(TypedDict):
    """The half of an evaluation's examples that the best is chosen by."""

    examples: Count
    loss: Number
    metrics: dict[str, Number]


class Evaluated(Event):
    """An evaluation; the base's has step 0. `cut` answers had not ended at the most tokens of one.

    Of a `choice` neither `examples` nor the rates know; `loss` is of all.
    """

    step: Count
    loss: Number
    metrics: dict[str, Number]
    examples: Count
    intervals: NotRequired[dict[str, Interval]]
    groups: NotRequired[dict[str, Group]]
    fields: NotRequired[dict[str, Group]]
    by_labels: NotRequired[ByLabels]
    several: NotRequired[Count]
    cut: NotRequired[Count]
    commonest: NotRequired[Commonest]
    choice: NotRequired[Choice]


class Sample(Event):
    """An answer that is shown."""

    step: Count
    example_id: str
    image: str | None
    question: str
    answer: str
    prediction: str
    references: NotRequired[list[str]]
    cut: NotRequired[bool]


class Blindfold(Event):
    """The blindfold test of a step's adapter."""

    step: Count
    verdict: Literal["looks", "guesses", "unclear", "untestable"]
    metric: str
    examples: Count
    own: Number
    blind: Number
    own_interval: Interval
    blind_interval: Interval
    gap_interval: NotRequired[Interval]
    needed: NotRequired[Count | None]


class Forgetting(Event):
    """What a step's adapter, or at step 0 the base, has right of the photographs' questions, by id.

    The adapter's has the verdict too: `lost` and `gained` are numbers of answers.
    """

    step: Count
    questions: Count
    right: list[str]
    verdict: NotRequired[Literal["forgets", "keeps"]]
    before: NotRequired[Number]
    after: NotRequired[Number]
    lost: NotRequired[Count]
    gained: NotRequired[Count]
    by_chance: NotRequired[Number]
    findable: NotRequired[Number]


class Hard(Event):
    """The examples of highest loss in an epoch."""

    step: Count
    epoch: Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e9)]
    seen: Count
    samples: list[HardSample]


class SealedCheckpoint(Event):
    """A checkpoint can be resumed from."""

    step: Count
    path: str


class Warned(Event):
    """What a person should know. By `code` and `values` the page finds it in its reader's language."""

    problem: str
    remedy: str
    code: NotRequired[str]
    values: NotRequired[Values]


class Finished(Event):
    """The planned steps are done, and a verified adapter is there."""

    step: Count
    elapsed_s: Seconds
    adapter: str
    best_step: NotRequired[Count | None]
    best_metric: NotRequired[str | None]
    ended_early: NotRequired[bool]


class Stopped(Event):
    """The run ended because it was asked to."""

    step: Count
    elapsed_s: Seconds
    best_step: NotRequired[Count | None]
    best_metric: NotRequired[str | None]


class Failed(Event):
    """The run could not go on; `change` are settings that would have helped, `image` the one to blame."""

    problem: str
    remedy: str
    elapsed_s: Seconds
    code: NotRequired[str]
    values: NotRequired[Values]
    change: NotRequired[Values]
    image: NotRequired[str]


TYPES: dict[str, type] = {
    "queued": Queued,
    "started": Started,
    "heartbeat": Heartbeat,
    "data": Data,
    "phase": Phase,
    "step": Step,
    "drill": Drill,
    "evaluated": Evaluated,
    "sample": Sample,
    "blindfold": Blindfold,
    "forgetting": Forgetting,
    "hard": Hard,
    "checkpoint": SealedCheckpoint,
    "warning": Warned,
    "finished": Finished,
    "stopped": Stopped,
    "failed": Failed,
}
# By `validate_json(line, strict=True)`: 1 is no text then and "1" no number, and unknown fields are dropped.
SCHEMAS: dict[str, TypeAdapter[dict[str, Any]]] = {
    kind: TypeAdapter(fields) for kind, fields in TYPES.items()
}

"""The model card in an adapter's folder: results, how to load it, and provenance. No torch.

It stands without the run folder: base, data and weights by hash, versions and every setting. What lies on
this machine is named without its folder, because adapters are published.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from training.config import MAY_BE_FOLDERS, WHERE_IT_WENT, TrainingConfig
from training.evaluation import compare
from training.evaluation.blindfold import Blindfold
from training.evaluation.forgetting import Forgetting
from training.evaluation.paired import Paired
from training.program import command
from training.runs.events import Event
from training.sharing import samples
from training.sharing.card_header import header_of
from training.sharing.samples import BeforeAfter
from vlm.filesystem import sha256_of
from vlm.methods import ADAPTER_WEIGHTS_FILE
from vlm.param_counts import TowerCounts

# A line of block characters reads in a terminal and travels with the text; a picture would be a second file.
BARS = "▁▂▃▄▅▆▇█"
POINTS, BARS_DRAWN = 8, 40
LONGEST_CELL = 160
# The settings that a reader looks for are those that somebody has chosen.
AS_BY_DEFAULT = "# As they are by default:\n"

CARD = """\
---
{header}
---

# {name}

A LoRA adapter for the base model `{base}`, trained with LoRA Lens on {examples}.
{results}
{pairs}

| tower | trainable | total |
|---|---|---|
{towers}

## Load it

On the base model, with PEFT alone; `.` is this folder, or its id on the Hub:

```python
from peft import PeftModel
model = PeftModel.from_pretrained(base_model, ".")
```

## What it must not be used for

Fill this in before others use it; nobody but its owner knows.

* Made for: …
* Not for: …
* Known mistakes, and whom they would harm: …
* The people and licences behind its data: …

## Training loss

{curve}

## Where it comes from

| what | which |
|---|---|
{provenance}

The settings, which `{command} run --config` takes:

```yaml
{settings}
```
"""


def write_card(
    path: Path,
    config: TrainingConfig,
    counts: TowerCounts,
    events: Sequence[Event],
    step: int,
    best_step: int | None = None,
    verdict: Paired | None = None,
    *,
    base_commit: str | None = None,
) -> None:
    """Write the card of the adapter of this step, beside its weights.

    `events` are the run's, of the kinds in `training.loop.train.ON_CARD`. `best_step` is that step again
    where it was chosen by `best_metric`, `verdict` that of its answers beside the base's.
    """
    base, dataset = _public_name(config.model), _public_name(config.dataset)
    kinds = ("evaluated", "sample")
    evaluated, watched = ([event for event in events if event["kind"] == kind] for kind in kinds)
    last = {event["kind"]: event for event in events}
    data = last.get("data")
    towers = [
        f"| {name} | {tower['trainable']:,} | {tower['total']:,} |"
        for name, tower in counts.as_dict().items()
    ]
    # All settings, not only those that differ from the defaults: defaults change with versions.
    settings = config.model_dump(mode="json", exclude=WHERE_IT_WENT)
    settings |= {field: _public_name(settings[field]) for field in MAY_BE_FOLDERS if settings[field]}
    facts = {"base model": f"`{base}`"}
    if base_commit is not None:
        facts["base revision"] = f"`{base_commit}`"
    if config.image_size:
        facts["images"] = ", ".join(f"`{name}: {value}`" for name, value in config.image_size.items())
    facts["dataset"] = f"`{dataset}`"
    if data:
        facts["dataset, SHA-256"] = f"`{data['fingerprint']}`"
        facts["examples"] = f"{data['train']:,} trained on, {data['held_out']:,} held out"
    facts[f"{ADAPTER_WEIGHTS_FILE}, SHA-256"] = f"`{sha256_of(path.with_name(ADAPTER_WEIGHTS_FILE))}`"
    if started := last.get("started"):
        facts["device"] = f"{started['device']}, {started['precision']}"
        facts["versions"] = ", ".join(f"{name} {version}" for name, version in started["versions"].items())
    card = CARD.format(
        header=header_of(config, evaluated, best_step).to_yaml(),
        name=config.name,
        base=base,
        examples=f"`{dataset}`" if data is None else f"{data['train']:,} examples of `{dataset}`",
        results=_results(config, events, step, best_step, verdict),
        pairs=_before_and_after(samples.before_after(watched, evaluated, best_step)),
        towers="\n".join(towers),
        curve=loss_curve([event for event in events if event["kind"] == "step"]),
        provenance="\n".join(f"| {what} | {which} |" for what, which in facts.items()),
        command=command(),
        settings=_settings_text(settings),
    )
    path.write_text(card, encoding="utf-8")


def _settings_text(settings: dict[str, Any]) -> str:
    """Returns all settings as YAML, those that are not as by default first."""
    usual = TrainingConfig().model_dump(mode="json")
    chosen = {name: value for name, value in settings.items() if value != usual[name]}
    others = {name: value for name, value in settings.items() if name not in chosen}
    blocks = [yaml.safe_dump(one, sort_keys=False, allow_unicode=True) for one in (chosen, others) if one]
    return AS_BY_DEFAULT.join(blocks).rstrip()


def _before_and_after(pairs: Sequence[BeforeAfter]) -> str:
    """Returns examples that were chosen before training, with both answers; empty without any."""
    rows = []
    for pair in pairs:
        said = [f"{_cell(one.text) or '–'} {'✓' if one.right else '✗'}" for one in (pair.before, pair.after)]
        rows.append(f"| {' | '.join([_cell(pair.question) or '(caption)', _cell(pair.answer), *said])} |")
    head = "| question | right answer | base | this adapter |\n|---|---|---|---|"
    return "\n".join(["", "## Before and after", "", head, *rows]) if rows else ""


def _cell(text: str) -> str:
    """Returns a text of a dataset as a cell of a table on the Hub: on one line, and no Markdown."""
    flat = " ".join(text.translate(compare.MARKUP).split())
    return flat if len(flat) <= LONGEST_CELL else f"{flat[:LONGEST_CELL]}…"


def _results(
    config: TrainingConfig,
    events: Sequence[Event],
    step: int,
    best_step: int | None,
    verdict: Paired | None,
) -> str:
    """Returns base and adapter side by side with the caveats of these numbers, then every evaluation."""
    # A resumed run evaluates its step again: of each step the last counts.
    evaluated = list({event["step"]: event for event in events if event["kind"] == "evaluated"}.values())
    shown = ["exact_match", "token_f1"]
    shown = list(dict.fromkeys([*(compare.chosen_metric(event) for event in evaluated), *shown]))
    rows = []
    for event in evaluated:
        at, rates = event["step"], [event["metrics"].get(name) for name in shown]
        whose = "base" if at == 0 else f"step {at} (kept)" if at == best_step else f"step {at}"
        loss = "not finite" if event["loss"] is None else f"{event['loss']:.3f}"
        cells = ["–" if rate is None else f"{rate:.3f}" for rate in rates]  # older logs lack some
        rows.append(f"| {' | '.join([whose, *cells, loss])} |")
    if not evaluated:
        return "\nNothing was evaluated."
    head = " | ".join(["held out", *(compare.NAMES[name] for name in shown), "loss"])
    history = "\n".join([f"| {head} |", "|---" * (2 + len(shown)) + "|", *rows])
    before, after = compare.base_and_kept(evaluated, best_step)
    if after is None:
        return f"\n{history}"
    # A run that was stopped saves an adapter that is newer than its last evaluation.
    whose = "this adapter" if after["step"] == step else f"step {after['step']}, before this adapter"
    paragraphs = [
        f"Answers to {after['examples']:,} held-out examples, with 95 % intervals (Wilson):",
        compare.markdown_table(compare.comparisons(before, after), "base", whose),
    ]
    if verdict is not None:
        who = compare.ADAPTER if after["step"] == step else f"Step {after['step']}"
        paragraphs.append(f"{verdict.words(who, compare.BASE)}.")
    if (common := compare.commonest_note(after)) is not None:
        paragraphs.append(common.translate(compare.MARKUP))
    paragraphs += compare.notes(after)
    if best_step is not None:
        metric = compare.NAMES.get(config.best_metric, config.best_metric)
        # The maximum of several noisy measurements is biased upwards (winner's curse).
        biased = "; the numbers of the one that is chosen so are a little too good."
        if choice := after.get("choice"):
            biased = f" on {choice['examples']:,} other held-out examples."
        paragraphs.append(
            f"This adapter is that of step {best_step}, the best of {sum(e['step'] > 0 for e in evaluated)}"
            f" evaluations by {metric}{biased}"
        )
    # The test of another step says nothing of this adapter.
    of_step = {event["kind"]: event for event in events if event.get("step") == step}
    for kind, test in (("blindfold", Blindfold), ("forgetting", Forgetting)):
        if kind in of_step and (found := test.from_event(of_step[kind])) is not None:
            sentence = str(found)
            paragraphs.append(f"{sentence[0].upper()}{sentence[1:]}.")
    return "\n" + "\n\n".join([*paragraphs, history])


def loss_curve(steps: Sequence[Event]) -> str:
    """Returns the losses as a line of bars over a table of some of them; of a step trained twice the last."""
    losses = {event["step"]: event["loss"] for event in steps if event["loss"] is not None}
    if not losses:
        return "No step was logged."
    low, high = min(losses.values()), max(losses.values())
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    bars = "".join(BARS[round((losses[at] - low) * scale)] for at in _spaced(sorted(losses), BARS_DRAWN))
    points = _spaced(sorted(losses), POINTS)
    rows = [
        ["step", *map(str, points)],
        ["---"] * (len(points) + 1),
        ["loss", *(f"{losses[step]:.3f}" for step in points)],
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"`{bars}` from {high:.3f} to {low:.3f}\n\n{table}"


def _spaced(steps: Sequence[int], count: int) -> list[int]:
    """Returns at most `count` of the steps, evenly spaced, the first and the last included."""
    if len(steps) <= count:
        return list(steps)
    return [steps[round(index * (len(steps) - 1) / (count - 1))] for index in range(count)]


def _public_name(name_or_path: str) -> str:
    """Returns a folder's name without its place; a Hub id or a sample as it is."""
    path = Path(name_or_path)
    if not path.is_absolute():
        return name_or_path
    # The folder of a run's adapter is called `adapter`; the run's name says more.
    return path.parent.name if path.name == "adapter" else path.name

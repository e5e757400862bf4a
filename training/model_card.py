"""The model card in an adapter's folder: what it was trained on and learned, how to load it. No torch."""

from collections.abc import Sequence
from pathlib import Path

from training.config import TrainingConfig
from training.evaluation import compare
from training.evaluation.blindfold import Blindfold
from training.provenance import sections, shown
from training.runs.events import Event
from vlm.param_counts import TowerCounts

CARD = """\
---
library_name: peft
tags: [lora, vision-language, lora-lens]
---

# {name}

A LoRA adapter for the base model `{base}`, trained with LoRA Lens on {examples}.
{before_and_after}
| held out | exact match | token F1 | loss |
|---|---|---|---|
{evaluations}

| tower | trainable | total |
|---|---|---|
{towers}

{provenance}
"""


def write_card(
    path: Path,
    config: TrainingConfig,
    counts: TowerCounts,
    events: Sequence[Event],
    step: int,
    best_step: int | None = None,
    *,
    base_commit: str | None = None,
) -> None:
    """Write the card of the adapter of this step.

    `events` are the run's `data`, `started`, `step`, `evaluated` and `blindfold`. `best_step` is that step
    again where it was chosen by `best_metric`.
    """
    base, dataset = shown(config.model), shown(config.dataset)
    data = next((event for event in reversed(events) if event["kind"] == "data"), None)
    trained_on = f"`{dataset}`" if data is None else f"{data['train']:,} examples of `{dataset}`"
    evaluated = list({event["step"]: event for event in events if event["kind"] == "evaluated"}.values())
    rows = [_evaluation_row(event, best_step) for event in evaluated]
    towers = [
        f"| {name} | {tower['trainable']:,} | {tower['total']:,} |"
        for name, tower in counts.as_dict().items()
    ]
    path.write_text(
        CARD.format(
            name=config.name,
            base=base,
            examples=trained_on,
            before_and_after=_before_and_after(config, events, evaluated, step, best_step),
            evaluations="\n".join(rows),
            towers="\n".join(towers),
            provenance=sections(config, events, path.parent, base_commit),
        ),
        encoding="utf-8",
    )


def _before_and_after(
    config: TrainingConfig,
    events: Sequence[Event],
    evaluated: Sequence[Event],
    step: int,
    best_step: int | None,
) -> str:
    """Base and adapter side by side, and what else is to be known of the numbers."""
    before, after = compare.ends(evaluated, best_step)
    if after is None:
        return ""
    whose = "this adapter" if after["step"] == step else f"step {after['step']}, before this adapter"
    told = [
        f"Answers to {after['examples']:,} held-out examples, with 95 % intervals (Wilson):",
        compare.table(compare.rows(before, after), "base", whose),
    ]
    if several := compare.several(after):
        told.append(several)
    if best_step is not None:
        metric = compare.NAMES.get(config.best_metric, config.best_metric)
        told.append(
            f"This adapter is that of step {best_step}, the best of {sum(e['step'] > 0 for e in evaluated)}"
            f" evaluations by {metric}; the numbers of the one that is chosen so are a little too good."
        )
    tested = [event for event in events if event["kind"] == "blindfold" and event["step"] == step]
    blindfold = tested[-1] if tested else None
    if blindfold is not None:
        said = str(Blindfold.from_event(blindfold))
        told.append(f"{said[0].upper()}{said[1:]}.")
    return "\n" + "\n\n".join(told) + "\n"


def _evaluation_row(event: Event, best_step: int | None) -> str:
    metrics, step = event["metrics"], event["step"]
    whose = "base" if step == 0 else f"step {step} (kept)" if step == best_step else f"step {step}"
    loss = "not finite" if event["loss"] is None else f"{event['loss']:.3f}"
    return f"| {whose} | {metrics['exact_match']:.3f} | {metrics['token_f1']:.3f} | {loss} |"

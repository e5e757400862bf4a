"""The model card in an adapter's folder: what it was trained on and learned, how to load it. No torch."""

from collections.abc import Sequence
from pathlib import Path

from training.config import TrainingConfig
from training.events import Event
from training.provenance import sections, shown
from vlm.counts import TowerCounts

CARD = """\
---
library_name: peft
tags: [lora, vision-language, lora-lens]
---

# {name}

A LoRA adapter for the base model `{base}`, trained with LoRA Lens on {examples}.

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
    *,
    base_commit: str | None = None,
) -> None:
    """Write the card; `events` are the run's `data`, `started`, `step` and `evaluated`."""
    base, dataset = shown(config.model), shown(config.dataset)
    data = next((event for event in reversed(events) if event["kind"] == "data"), None)
    trained_on = f"`{dataset}`" if data is None else f"{data['train']:,} examples of `{dataset}`"
    rows = [_evaluation_row(event) for event in events if event["kind"] == "evaluated"]
    towers = [
        f"| {name} | {tower['trainable']:,} | {tower['total']:,} |"
        for name, tower in counts.as_dict().items()
    ]
    path.write_text(
        CARD.format(
            name=config.name,
            base=base,
            examples=trained_on,
            evaluations="\n".join(rows),
            towers="\n".join(towers),
            provenance=sections(config, events, path.parent, base_commit),
        ),
        encoding="utf-8",
    )


def _evaluation_row(event: Event) -> str:
    metrics, whose = event["metrics"], "base" if event["step"] == 0 else f"step {event['step']}"
    return f"| {whose} | {metrics['exact_match']:.3f} | {metrics['token_f1']:.3f} | {event['loss']:.3f} |"

"""The model card in an adapter's folder: what it was trained on and learned, how to load it. No torch."""

from collections.abc import Sequence
from pathlib import Path

from training.config import WHERE_IT_WENT, TrainingConfig
from training.events import Event
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

Load it with PEFT on the base model:

```python
from peft import PeftModel
model = PeftModel.from_pretrained(base_model, "path/to/this/folder")
```

Settings:

```yaml
{settings}
```
"""


def write_card(path: Path, config: TrainingConfig, counts: TowerCounts, events: Sequence[Event]) -> None:
    """Write the card; `events` are the run's `data` and `evaluated`."""
    base, dataset = (Path(value).name for value in (config.model, config.dataset))
    data = next((event for event in reversed(events) if event["kind"] == "data"), None)
    trained_on = f"`{dataset}`" if data is None else f"{data['train']:,} examples of `{dataset}`"
    rows = [_evaluation_row(event) for event in events if event["kind"] == "evaluated"]
    towers = [
        f"| {name} | {tower['trainable']:,} | {tower['total']:,} |"
        for name, tower in counts.as_dict().items()
    ]
    changed = {
        field: value
        for field, value in config.model_dump(mode="json", exclude=WHERE_IT_WENT).items()
        if value != TrainingConfig.model_fields[field].default
    }
    settings = changed | {"model": base, "dataset": dataset}
    path.write_text(
        CARD.format(
            name=config.name,
            base=base,
            examples=trained_on,
            evaluations="\n".join(rows),
            towers="\n".join(towers),
            settings="\n".join(f"{field}: {value}" for field, value in settings.items()),
        ),
        encoding="utf-8",
    )


def _evaluation_row(event: Event) -> str:
    metrics, whose = event["metrics"], "base" if event["step"] == 0 else f"step {event['step']}"
    return f"| {whose} | {metrics['exact_match']:.3f} | {metrics['token_f1']:.3f} | {event['loss']:.3f} |"

"""Where an adapter comes from, as its card tells it: base, data and file by hash, loss, versions, settings.

What lies on this machine is named without its folder. No torch.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from training.config import MAY_BE_FOLDERS, WHERE_IT_WENT, TrainingConfig
from training.runs.events import Event

WEIGHTS_FILE = "adapter_model.safetensors"
BARS = "▁▂▃▄▅▆▇█"
POINTS, BARS_DRAWN = 8, 40

SECTIONS = """\
## Load it

On the base model, with PEFT alone; `.` is this folder, or its id on the Hub:

```python
from peft import PeftModel
model = PeftModel.from_pretrained(base_model, ".")
```

## Training loss

{curve}

## Where it comes from

| what | which |
|---|---|
{facts}

The settings, which `python -m training run --config` takes:

```yaml
{settings}
```"""


def sections(
    config: TrainingConfig, events: Sequence[Event], folder: Path, base_commit: str | None = None
) -> str:
    """The card's part on how this adapter in `folder` was made, and how it is loaded. Markdown.

    `events` are the run's `data`, `started` and `step`.
    """
    last = {event["kind"]: event for event in events}
    facts = {"base model": f"`{shown(config.model)}`"}
    if base_commit is not None:
        facts["base revision"] = f"`{base_commit}`"
    facts["dataset"] = f"`{shown(config.dataset)}`"
    if data := last.get("data"):
        facts["dataset, SHA-256"] = f"`{data['fingerprint']}`"
        facts["examples"] = f"{data['train']:,} trained on, {data['held_out']:,} held out"
    facts[f"{WEIGHTS_FILE}, SHA-256"] = f"`{file_hash(folder / WEIGHTS_FILE)}`"
    if started := last.get("started"):
        facts["device"] = f"{started['device']}, {started['precision']}"
        facts["versions"] = ", ".join(f"{name} {version}" for name, version in started["versions"].items())
    return SECTIONS.format(
        curve=curve([event for event in events if event["kind"] == "step"]),
        facts="\n".join(f"| {what} | {which} |" for what, which in facts.items()),
        settings=settings(config),
    )


def curve(steps: Sequence[Event]) -> str:
    """The losses as a line of bars, and some of them in a table. Of a step trained twice the last counts."""
    losses = {event["step"]: event["loss"] for event in steps if event["loss"] is not None}
    if not losses:
        return "No step was logged."
    low, high = min(losses.values()), max(losses.values())
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    bars = "".join(BARS[round((losses[step] - low) * scale)] for step in _spread(sorted(losses), BARS_DRAWN))
    points = _spread(sorted(losses), POINTS)
    rows = [
        ["step", *map(str, points)],
        ["---"] * (len(points) + 1),
        ["loss", *(f"{losses[step]:.3f}" for step in points)],
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"`{bars}` from {high:.3f} to {low:.3f}\n\n{table}"


def settings(config: TrainingConfig) -> str:
    """Every setting as YAML; a folder by its name alone."""
    values: dict[str, Any] = config.model_dump(mode="json", exclude=WHERE_IT_WENT)
    values |= {field: shown(values[field]) for field in MAY_BE_FOLDERS if values[field]}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip()


def shown(name_or_path: str) -> str:
    """A folder by its name; a Hub id or a sample as it is."""
    path = Path(name_or_path)
    if not path.is_absolute():
        return name_or_path
    return path.parent.name if path.name == "adapter" else path.name


def file_hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _spread(steps: Sequence[int], count: int) -> list[int]:
    """At most `count` of the steps, evenly spaced, the first and the last included."""
    if len(steps) <= count:
        return list(steps)
    return [steps[round(index * (len(steps) - 1) / (count - 1))] for index in range(count)]

"""The header of a model card: what the Hub finds, filters and compares an adapter by. No torch.

A run writes it with what it knows; push adds what only the Hub or its owner does.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from training.config import TrainingConfig
from training.data.readers.tables import HUB_NAME
from training.data.synthetic.samples import SAMPLES
from training.evaluation import compare
from training.runs.events import Event
from vlm import catalog

TAGS = ["lora", "vision-language", "lora-lens"]
TASK = "image-text-to-text"
# What the catalog calls licences, as the Hub does; of all others the name is told.
LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "BSD-3-Clause": "bsd-3-clause", "Gemma": "gemma"}
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
LANGUAGES = {"shapes": "en", "shapes-vi": "vi", "blueprints": "en"}
"""Of the samples alone: of other datasets their owner says it."""


def header_of(config: TrainingConfig, evaluated: Sequence[Event], best_step: int | None) -> ModelCardData:
    """Returns the header for a run's adapter, its results as the Hub's `model-index`.

    Bases and datasets are named where the Hub has them: elsewhere they may be folders.
    """
    bases, dataset = hub_ids(config.model), config.dataset
    on_hub, entry = HUB_NAME.fullmatch(dataset), catalog.find(config.model)
    data = ModelCardData(
        base_model=bases[0] if len(bases) == 1 else bases or None,
        datasets=[on_hub["repo"]] if dataset not in SAMPLES and on_hub else None,
        language=LANGUAGES.get(dataset),
        library_name="peft",
        pipeline_tag=TASK,
        tags=[*TAGS],
    )
    if entry is not None:
        set_licence(data, [entry.licence], entry.page)
    _, kept = compare.base_and_kept(evaluated, best_step)
    if kept is not None and (results := _results(config, kept)):
        data.model_name, data.eval_results = config.name or "adapter", results
    return data


def hub_ids(model: str) -> list[str]:
    """Returns the Hub ids of a base, or of both halves; none where any part is a folder or the starter."""
    parts = [model] if Path(model).is_absolute() else model.split("+")
    return parts if all(HUB_ID.fullmatch(part) for part in parts) else []


def set_licence(data: ModelCardData, licences: Sequence[str], page: str | None) -> None:
    """Names the licence of the base in a header; of two halves with different ones, both."""
    named = [LICENCES.get(licence, licence) for licence in dict.fromkeys(licences)]
    is_known = len(named) == 1 and (named[0] in LICENCES.values() or named[0].islower())
    data.license = named[0] if is_known else "other"
    # The Hub takes no other letters there.
    plain = re.sub(r"[^a-z0-9.]+", "-", "-and-".join(named).lower()).strip("-")
    data.license_name = None if is_known else plain
    data.license_link = None if is_known else page


def _results(config: TrainingConfig, kept: Event) -> list[EvalResult]:
    path = Path(config.dataset)
    dataset = path.name if path.is_absolute() else config.dataset
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=f"held out, {kept['examples']:,} examples",
            metric_type=name,
            metric_name=compare.NAMES.get(name, name),
            metric_value=round(value, 4),
        )
        for name, value in kept["metrics"].items()
        if value is not None
    ]

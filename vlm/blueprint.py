"""Counts before a run starts: the architecture from its configuration alone, on the meta device."""

import copy
import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from vlm.counts import TowerCount, TowerCounts
from vlm.settings import AdapterSettings, ModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STARTER_COUNTS_FILE = Path(__file__).parent / "starter" / "counts.json"
"""The starter's counts at default ranks: the first paint has them without torch; a test keeps them true."""

COMMITTED = {
    "text": AdapterSettings(),
    "vision": AdapterSettings(use_vision_lora=True, use_text_lora=False),
    "both": AdapterSettings(use_vision_lora=True),
}


def counted(name: str) -> bool:
    """Whether a setting of the adapter changes how many parameters there are."""
    return name not in ("lora_dropout", "loraplus_lr_ratio") and not name.endswith(
        ("_alpha", "_learning_rate")
    )


def tower_counts(settings: ModelSettings) -> TowerCounts:
    """Trainable and total parameters of each tower for these settings (the model's and the adapter's in one).

    No weight is read. The starter's committed counts need no torch; anything else imports it. Raises
    `UserError` where the model has no readable configuration or no layer for the targets.
    """
    adapter = AdapterSettings(
        **{name: getattr(settings, name) for name in AdapterSettings.model_fields if counted(name)}
    )
    for name, committed in COMMITTED.items():
        if settings.model == "starter" and adapter == committed:
            return _read_committed()[name]
    return build_counts(settings.model, adapter, settings.revision)


@lru_cache(maxsize=256)
def build_counts(model: str, adapter: AdapterSettings, revision: str | None = None) -> TowerCounts:
    """The counts from the architecture itself, built on `meta`. Quantization changes none of them."""
    from vlm import adapters, hub

    base = copy.deepcopy(architecture(model, revision))
    new_connector = hub.is_composed(model)
    return adapters.count(adapters.attach(base, adapter, model, new_connector=new_connector, meta=True))


@lru_cache(maxsize=2)
def architecture(model: str, revision: str | None) -> "PreTrainedModel":
    """A base model on the meta device, kept: building a large one takes longer than copying it.

    It is shared: copy it before an adapter is attached. Raises `UserError` as `vlm.loading.read_config` does.
    """
    from vlm.loading import blueprint_model

    return blueprint_model(ModelSettings(model=model, revision=revision))


@lru_cache(maxsize=1)
def _read_committed() -> dict[str, TowerCounts]:
    rows = json.loads(STARTER_COUNTS_FILE.read_text())
    return {
        name: TowerCounts(
            **{tower: TowerCount(**counts) for tower, counts in towers.items()},
            stored=sum(counts["trainable"] for counts in towers.values()),  # LoRA stores what it trains
        )
        for name, towers in rows.items()
    }

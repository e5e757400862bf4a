"""Counts before a run starts: the architecture from its configuration alone, on the meta device.

Layers that are alike are counted once: PEFT needs seconds for the hundreds of a large model.
"""

import copy
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm.lazy_torch import import_heavy
from vlm.param_counts import ALL_ONE, TowerCount, TowerCounts, times
from vlm.settings import AdapterSettings, ModelSettings

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from vlm.adapters import PeftModel

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


def adapter_settings(settings: ModelSettings, **more: Any) -> AdapterSettings:
    """What changes an adapter's counts among these settings, everything else at its default, or `more`."""
    named = {name: getattr(settings, name) for name in AdapterSettings.model_fields if counted(name)}
    return AdapterSettings(**named, **more)


def tower_counts(settings: ModelSettings) -> TowerCounts:
    """Trainable and total parameters of each tower for these settings (the model's and the adapter's in one).

    No weight is read. The starter's committed counts need no torch; anything else imports it. Raises
    `UserError` where the model has no readable configuration or no layer for the targets.
    """
    adapter = adapter_settings(settings)
    for name, committed in COMMITTED.items():
        if settings.model == "starter" and adapter == committed:
            return _read_committed()[name]
    return build_counts(settings.model, adapter, settings.revision)


@lru_cache(maxsize=256)
def build_counts(model: str, adapter: AdapterSettings, revision: str | None = None) -> TowerCounts:
    """The counts from the architecture itself, built on `meta`. Quantization changes none of them."""
    import_heavy()
    from vlm import adapters

    adapted, copies = adapted_outline(model, adapter, revision)
    return adapters.count(adapted, copies)


def adapted_outline(
    model: str, adapter: AdapterSettings, revision: str | None = None, *, whole: bool = False
) -> tuple["PeftModel", Mapping[str, int]]:
    """The outline of a base model with a fresh adapter, on the meta device, and its layers' `copies`.

    With `whole`, the architecture with all its layers. Raises `UserError` as `vlm.adapters.attach` does.
    """
    from vlm import adapters
    from vlm.models import hub

    found = Outline(architecture(model, revision), ALL_ONE) if whole else outline(model, revision)
    base, new = copy.deepcopy(found.model), hub.is_composed(model)
    return adapters.attach(base, adapter, model, new_connector=new, meta=True), found.copies


@lru_cache(maxsize=2)
def architecture(model: str, revision: str | None) -> "PreTrainedModel":
    """A base model on the meta device, kept: building a large one takes longer than copying it.

    It is shared: copy it before an adapter is attached. Raises `UserError` as
    `vlm.models.loading.read_config` does.
    """
    import_heavy()
    from vlm.models.loading import blueprint_model

    return blueprint_model(ModelSettings(model=model, revision=revision))


@dataclass(frozen=True, slots=True)
class Outline:
    """An architecture with two layers of each kind at most. `copies`: how many a layer is, by its full name.

    The first of a kind stands for itself, the second for all others. Layers that are not named are one.
    """

    model: "PreTrainedModel"
    copies: Mapping[str, int]

    def numbers(self) -> int:
        """Parameters of the whole architecture."""
        named = self.model.named_parameters()
        return sum(weight.numel() * times(name, self.copies) for name, weight in named)


@lru_cache(maxsize=2)
def outline(model: str, revision: str | None) -> Outline:
    """The outline of a base model; of one whose layers share weights, the architecture as it is."""
    whole = architecture(model, revision)
    drawn = Outline(*_outlined(copy.deepcopy(whole)))
    same = drawn.numbers() == sum(weight.numel() for weight in whole.parameters())
    return drawn if same else Outline(whole, ALL_ONE)


def _outlined(model: "PreTrainedModel") -> tuple["PreTrainedModel", dict[str, int]]:
    """The model with each stack of layers cut to two of a kind, outer stacks first, and their `copies`."""
    from torch import nn

    copies: dict[str, int] = {}
    waiting: list[tuple[str, nn.Module]] = [("", model)]
    while waiting:
        name, module = waiting.pop()
        if isinstance(module, nn.ModuleList):
            kinds: dict[tuple, list[int]] = defaultdict(list)
            for index, layer in enumerate(module):
                kinds[_kind(layer)].append(index)
            kept = sorted(index for alike in kinds.values() for index in alike[:2])
            counts = {alike[1]: len(alike) - 1 for alike in kinds.values() if len(alike) > 2}
            copies |= {f"{name}.{place}": counts[i] for place, i in enumerate(kept) if i in counts}
            layers = [module[index] for index in kept]
            module._modules = {str(place): layer for place, layer in enumerate(layers)}
        waiting += [(f"{name}.{child}".lstrip("."), inner) for child, inner in module.named_children()]
    return model, copies


def _kind(layer: "nn.Module") -> tuple:
    """What layers that are alike have in common: their class, and names, shapes and types of all weights."""
    weights = [*layer.named_parameters(), *layer.named_buffers()]
    return type(layer), *((name, weight.shape, weight.dtype) for name, weight in weights)


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

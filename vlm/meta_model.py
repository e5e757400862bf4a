"""Parameter counts before a run: the architecture from its configuration alone, on the meta device.

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

from vlm.errors import UserError
from vlm.lazy_torch import import_torch
from vlm.param_counts import ALL_ONE, TowerCount, TowerCounts, times
from vlm.settings import AdapterSettings, ModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vlm.adapters import PeftModel

# The starter's counts at default ranks: the page's first paint needs no torch. A test keeps them true.
STARTER_COUNTS_FILE = Path(__file__).parent / "starter" / "counts.json"

COMMITTED = {
    "text": AdapterSettings(),
    "vision": AdapterSettings(use_vision_lora=True, use_text_lora=False),
    "both": AdapterSettings(use_vision_lora=True),
}


def _all_towers(rank: int) -> dict[str, Any]:
    ranks = dict.fromkeys(("vision_lora_r", "connector_lora_r", "text_lora_r"), rank)
    return {"use_vision_lora": True, "use_text_lora": True, "connector": "lora"} | ranks


# Whose counts are committed: those that begin, and those that `rank_table` asks for.
COUNTED = COMMITTED | {f"rank {rank}": AdapterSettings(**_all_towers(rank)) for rank in (1, 2)}
# What these train does not grow by the same with each rank: AdaLoRA begins with half as many ranks again,
# rounded up, and LoKr factors a matrix only while that makes it smaller.
NOT_ON_A_LINE = frozenset({"adalora", "lokr"})


def adapter_settings(settings: ModelSettings, **more: Any) -> AdapterSettings:
    """Returns the settings that change an adapter's counts; all others at their defaults, or from `more`."""
    # Equal counts then have equal settings, and the cache of `build_counts` meets them: a slider of an alpha
    # or a learning rate on the page builds nothing.
    without = ("lora_dropout", "loraplus_lr_ratio")
    names = (name for name in AdapterSettings.model_fields if not name.endswith(("_alpha", "_learning_rate")))
    return AdapterSettings(**{name: getattr(settings, name) for name in names if name not in without}, **more)


def tower_counts(settings: ModelSettings) -> TowerCounts:
    """Returns trainable and total parameters of each tower for the settings of a model and an adapter.

    No weight is read. The starter's committed counts need no torch; anything else imports it.

    Raises:
        UserError: the model has no readable configuration, or no layer for the targets.
    """
    adapter = adapter_settings(settings)
    known = next((name for name, committed in COUNTED.items() if adapter == committed), None)
    if settings.model != "starter" or known is None:
        return build_counts(settings.model, adapter, settings.revision)
    towers = json.loads(STARTER_COUNTS_FILE.read_text("utf-8"))[known]
    return TowerCounts(
        **{tower: TowerCount(**counts) for tower, counts in towers.items()},
        stored=sum(counts["trainable"] for counts in towers.values()),  # LoRA stores what it trains
    )


def rank_table(settings: ModelSettings) -> dict[str, tuple[int, int, int]] | None:
    """Returns each tower's counts at any rank as (fixed, per_rank, total): it trains fixed + per_rank * rank.

    `total` is the tower's own parameters, to which what it trains comes; a connector that trains fully trains
    a copy of all its own. Where one rank serves all towers, it is the first trained one's: of text, vision,
    connector. Towers that are off have their counts too, unless the settings name a layer that one of them
    lacks. None for methods whose counts are on no line. What is trained is what is stored, but PiSSA and
    OLoRA store twice as much, and VeRA its random matrices.

    Raises:
        UserError: as `tower_counts` does.
    """
    if settings.method in NOT_ON_A_LINE:
        return None

    def at(rank: int) -> TowerCounts:
        values = _all_towers(rank)
        try:
            return tower_counts(settings.model_copy(update=values))
        except UserError:
            names = ("use_vision_lora", "use_text_lora")
            own = {name: getattr(settings, name) for name in names}
            own["connector"] = "lora" if settings.connector == "lora" else "off"
            return tower_counts(settings.model_copy(update=values | own))

    one, two = at(1), at(2)
    table = {}
    for tower in ("vision", "connector", "text"):
        first, second = getattr(one, tower), getattr(two, tower)
        per_rank = second.trainable - first.trainable
        table[tower] = (first.trainable - per_rank, per_rank, first.total - first.trainable)
    return table


@lru_cache(maxsize=256)
def build_counts(model: str, adapter: AdapterSettings, revision: str | None = None) -> TowerCounts:
    """Returns the counts from the architecture itself, built on `meta`. Quantization changes none of them."""
    import_torch()
    from vlm import adapters

    adapted, copies = adapted_outline(model, adapter, revision)
    return adapters.count(adapted, copies)


def adapted_outline(
    model: str, adapter: AdapterSettings, revision: str | None = None, *, whole: bool = False
) -> tuple["PeftModel", Mapping[str, int]]:
    """Returns the outline of a base model with a fresh adapter, on the meta device, and its layers' `copies`.

    With `whole`, the architecture with all its layers. Raises `UserError` as `vlm.adapters.attach` does.
    """
    from vlm import adapters
    from vlm.models import hub

    found = Outline(architecture(model, revision), ALL_ONE) if whole else outline(model, revision)
    base, new = copy.deepcopy(found.model), hub.is_composed(model)
    return adapters.attach(base, adapter, model, new_connector=new, meta=True), found.copies


# Two, since a page compares a base with another; each holds thousands of modules, though no weights.
@lru_cache(maxsize=2)
def architecture(model: str, revision: str | None) -> "PreTrainedModel":
    """Returns a base model on the meta device, cached: building a large one takes longer than copying it.

    It is shared: copy it before an adapter is attached. Raises `UserError` as
    `vlm.models.loading.read_config` does.
    """
    import_torch()
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
        """Returns the parameters of the whole architecture."""
        named = self.model.named_parameters()
        return sum(weight.numel() * times(name, self.copies) for name, weight in named)


@lru_cache(maxsize=2)
def outline(model: str, revision: str | None) -> Outline:
    """Returns the outline of a base model; of one whose layers share weights, the architecture as it is."""
    import torch

    whole = architecture(model, revision)
    drawn, copies = copy.deepcopy(whole), {}
    # Outer stacks before inner ones: the layers inside those that are cut need no look.
    waiting: list[tuple[str, torch.nn.Module]] = [("", drawn)]
    while waiting:
        name, module = waiting.pop()
        if isinstance(module, torch.nn.ModuleList):
            # Layers are alike where their class and the names, shapes and types of all weights are.
            kinds: dict[tuple, list[int]] = defaultdict(list)
            for index, layer in enumerate(module):
                weights = [*layer.named_parameters(), *layer.named_buffers()]
                kinds[type(layer), *((n, w.shape, w.dtype) for n, w in weights)].append(index)
            kept = sorted(index for alike in kinds.values() for index in alike[:2])
            counts = {alike[1]: len(alike) - 1 for alike in kinds.values() if len(alike) > 2}
            copies |= {f"{name}.{place}": counts[i] for place, i in enumerate(kept) if i in counts}
            layers = [module[index] for index in kept]
            module._modules = {str(place): layer for place, layer in enumerate(layers)}
        waiting += [(f"{name}.{child}".lstrip("."), inner) for child, inner in module.named_children()]
    found = Outline(drawn, copies)
    # Weights that layers share are counted once each by torch and would be multiplied here.
    same = found.numbers() == sum(weight.numel() for weight in whole.parameters())
    return found if same else Outline(whole, ALL_ONE)

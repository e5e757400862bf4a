"""Find the base's layers that an adapter's layers are, also where transformers has named them anew since.

Since version 4.52 `language_model.model.layers` of a vision-language model is `model.language_model.layers`,
and transformers knows what it renamed. What it does not tell is found by the end of the name, if one layer
alone can be meant.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from vlm.adapters.contents import CONNECTOR, VISION, Contents

TEXT = re.compile(r"language|text|decoder|llm")


@dataclass(frozen=True, slots=True)
class Places:
    """By their names in the file, the names in the base of `layers` and of `saved` weights.

    `lost`: what has no place in the base, in the file's order. `renamed`: how many are called otherwise now.
    """

    layers: dict[str, str]
    saved: dict[str, str]
    lost: list[str]
    renamed: int


def find_places(contents: Contents, base: PreTrainedModel) -> Places:
    """Where each layer and each weight trained in full belongs in this base; no two in one place."""
    modules = [name for name, _ in base.named_modules() if name]
    weights = base.state_dict().keys()
    layers = _place(contents.layers, modules, base, ".weight")
    saved = _place(contents.saved, weights, base, "")
    lost = [name for name in (*contents.layers, *contents.saved) if name not in layers and name not in saved]
    renamed = sum(name != place for name, place in (*layers.items(), *saved.items()))
    return Places(layers, saved, lost, renamed)


def _place(names: Iterable[str], known: Iterable[str], base: PreTrainedModel, ending: str) -> dict[str, str]:
    known = dict.fromkeys(known)
    places = {name: name for name in names if name in known}
    rest = [name for name in names if name not in places]
    if rest:
        rules = [rule for rule in get_model_conversion_mapping(base) if isinstance(rule, WeightRenaming)]
        by_end = _by_end(known)
        for name in rest:
            now = rename_source_key(name + ending, rules, [])[0].removesuffix(ending)
            place = now if now in known else _only_one(name, by_end)
            if place is not None:
                places[name] = place
    taken: set[str] = set()
    return {name: place for name, place in places.items() if place not in taken and not taken.add(place)}


def _by_end(known: Mapping[str, None]) -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = {}
    for name in known:
        steps = name.split(".")
        found.setdefault(steps[-1], []).append(steps)
    return found


def _only_one(name: str, by_end: Mapping[str, list[list[str]]]) -> str | None:
    """The one name that ends as this does, of the same tower and number; None where none or several are."""
    steps, likeness = name.split("."), {}
    for other in by_end.get(steps[-1], []):
        if _numbers(steps) != _numbers(other):
            continue
        pairs = zip(reversed(steps), reversed(other), strict=False)
        same = next((length for length, (a, b) in enumerate(pairs) if a != b), min(len(steps), len(other)))
        towers = {
            step
            for step in {*steps} & {*other}
            if any(kind.search(step) for kind in (VISION, CONNECTOR, TEXT))
        }
        likeness.setdefault((len(towers), same), []).append(".".join(other))
    (towers, _), best = max(likeness.items(), default=((0, 0), []))
    return best[0] if towers and len(best) == 1 else None


def _numbers(steps: list[str]) -> list[str]:
    return [step for step in steps if step.isdecimal()]

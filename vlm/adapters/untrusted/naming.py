"""Find the base's layers that an adapter's layers are, also where transformers has named them anew since.

Since version 4.52 `language_model.model.layers` of a vision-language model is `model.language_model.layers`,
and transformers knows what it renamed. What it does not tell is found by the end of the name, if one layer
alone can be meant.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from vlm.adapters.untrusted.contents import CONNECTOR, VISION, Contents

TEXT = re.compile(r"language|text|decoder|llm")

End = tuple[str, tuple[str, ...]]


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


def _place(
    names: Collection[str], known: Iterable[str], base: PreTrainedModel, ending: str
) -> dict[str, str]:
    known = dict.fromkeys(known)
    places = {name: name for name in names if name in known}
    rest = [name for name in names if name not in places]
    if 0 < len(rest) <= len(known):  # with more no adapter of this base is complete
        rules = [rule for rule in get_model_conversion_mapping(base) if isinstance(rule, WeightRenaming)]
        alike = _by_end(known)
        for name in rest:
            now = rename_source_key(name + ending, rules, [])[0].removesuffix(ending)
            place = now if now in known else _only_one(name.split("."), alike)
            if place is not None:
                places[name] = place
    taken: set[str] = set()
    return {name: place for name, place in places.items() if place not in taken and not taken.add(place)}


def _by_end(known: Iterable[str]) -> dict[End, list[list[str]]]:
    found: dict[End, list[list[str]]] = {}
    for name in known:
        steps = name.split(".")
        found.setdefault(_end(steps), []).append(steps)
    return found


def _end(steps: list[str]) -> End:
    """The last step of a name, and its numbers: no other layer can be meant."""
    return steps[-1], tuple(step for step in steps if step.isdecimal())


def _only_one(steps: list[str], alike: Mapping[End, list[list[str]]]) -> str | None:
    """The one name that ends as this does and is of the same tower; None where none or several are."""
    likeness: dict[tuple[int, int], list[str]] = {}
    for other in alike.get(_end(steps), []):
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

"""The base's layers that an adapter means: by the names of its tensors, and by its configuration's targets.

Since version 4.52 `language_model.model.layers` of a vision-language model is `model.language_model.layers`,
and transformers knows most of what it renamed. For the rest a layer is found by the end of its name, if one
layer alone can be meant. Targets follow PEFT's own rules for `target_modules`, `exclude_modules` and
`layers_to_transform`; an adapter's patterns are never given to `re`.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.pytorch_utils import Conv1D

from vlm.adapters.untrusted.files import Shape, printable, same_model
from vlm.adapters.untrusted.patterns import Budget, PatternError, parse_pattern
from vlm.adapters.untrusted.schema import DOTTED, MAX_MODULES, pattern_refusal, refusal
from vlm.adapters.untrusted.tensors import CONNECTOR, VISION, AdapterTensors
from vlm.errors import Phrase, UserError
from vlm.models.towers import TOWER_NAMES, TOWERS, Tower, find_towers

TEXT = re.compile(r"language|text|decoder|llm")
ALL_LINEAR = "all-linear"  # PEFT's word for each linear layer but the output head


# The base's embeddings are not resized here: logits of other lengths can't be compared with the base's own.
MERGE_THERE = (
    "Merge it where it was trained (merge_and_unload), and save model and processor in one folder: "
    "choose that as the base model."
)


@dataclass(frozen=True, slots=True)
class NameMap:
    """By their names in the file, the names in the base of `layers` and of weights trained in `full`.

    `lost`: names without a place in the base, in the file's order. `renamed`: how many differ.
    """

    layers: dict[str, str]
    full: dict[str, str]
    lost: list[str]
    renamed: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """An adapter and the base that it may be for. One budget serves all its patterns."""

    name: str
    trained_on: str
    config: Mapping[str, Any]
    tensors: AdapterTensors
    names: NameMap
    base: PreTrainedModel
    base_name: str
    budget: Budget = field(default_factory=Budget)

    @property
    def may_be_its_base(self) -> bool:
        """Whether it names no base, or one called as this."""
        return not self.trained_on or same_model(self.trained_on, self.base_name)

    def misfit(self, problem: Phrase, matched: int, *, of_text: bool = False) -> UserError:
        """The refusal of an adapter that is well in itself and of another base; `of_text`: one of text."""
        if of_text:
            way = Phrase("Choose an adapter that was trained on a vision-language model.", "choose-that-sees")
        elif not self.trained_on:
            way = Phrase("Choose the base model that the adapter was trained on.", "choose-its-base")
        elif self.may_be_its_base:
            way = Phrase(
                "This base has the same name and other layers: choose the very one that it was trained on, "
                "its folder or its --revision.",
                "choose-very-base",
            )
        else:
            way = Phrase("Choose {base} as the base model.", "choose-named-base", base=self.trained_on)
        if self.trained_on:
            problem = Phrase(
                "{problem}. It was trained on {base}", "trained-on", problem=problem, base=self.trained_on
            )
        return UserError(
            "{name} does not fit {base}: {problem}. {matched} of {total} tensors {matched:matches|match}.",
            "{way}",
            "adapter-misfit",
            name=self.name,
            base=self.base_name,
            problem=problem,
            matched=matched,
            total=len(self.tensors.keys),
            way=way,
        )

    def mismatch(self, wrong: Sequence[tuple[str, Shape, str, Shape | None]]) -> UserError:
        """The refusal of tensors: each one's name in the file, shape, layer and the shape wanted there."""
        base, (in_file, shape, _, wanted) = self.base, wrong[0]
        words = (base.get_input_embeddings(), base.get_output_embeddings())
        own, sizes = words[0].weight.shape[0], set()
        for _, found, layer, there in wrong:
            differ = [sides for sides in zip(found, there or (), strict=False) if sides[0] != sides[1]]
            of_words = len(differ) == 1 and differ[0][1] == own and base.get_submodule(layer) in words
            sizes.add(differ[0][0] if of_words else None)
        # Nothing but the vocabulary's length is another, and this is no other model: tokens were added.
        if len(sizes) == 1 and None not in sizes and self.may_be_its_base:
            tokens = sizes.pop()
            values = {"name": self.name, "base": self.base_name}
            if tokens > own:
                return UserError(
                    "{name} does not fit {base}: it adds {count:,} {count:token|tokens} to the vocabulary.",
                    MERGE_THERE,
                    "adapter-adds-tokens",
                    count=tokens - own,
                    **values,
                )
            return UserError(
                "{name} does not fit {base}: its vocabulary has {tokens:,} tokens, and this base's has "
                "{own:,}.",
                MERGE_THERE,
                "adapter-fewer-tokens",
                tokens=tokens,
                own=own,
                **values,
            )
        tensor = printable(in_file, 200)
        if wanted is None:
            problem = Phrase("{tensor} is a tensor of no layer there", "tensor-of-no-layer", tensor=tensor)
        else:
            found, there = _sides(shape), _sides(wanted)
            problem = Phrase(
                "{tensor} is {shape}, not {wanted}", "tensor-shape", tensor=tensor, shape=found, wanted=there
            )
        return self.misfit(problem, len(self.tensors.keys) - len(wrong))

    def notes(self, not_targeted: Sequence[Tower]) -> list[Phrase]:
        """What a reader should know of an adapter that fits, in whole sentences."""
        notes = []
        if not self.may_be_its_base:
            notes.append(
                Phrase(
                    "It was trained on {trained_on}, not {base}: the shapes match, the weights need not.",
                    "note-other-base",
                    trained_on=self.trained_on,
                    base=self.base_name,
                )
            )
        if renamed := self.names.renamed:
            notes.append(
                Phrase(
                    "{count} of its layers {count:has another name|have other names} in this version of "
                    "transformers.",
                    "note-renamed-layers",
                    count=renamed,
                )
            )
        notes += [
            Phrase(
                "It has nothing in the {tower}, where its targets would fit too.",
                "note-tower-not-targeted",
                tower=TOWER_NAMES[tower],
            )
            for tower in not_targeted
        ]
        return notes


def _sides(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or Phrase("a single number", "single-number")


def map_names(tensors: AdapterTensors, base: PreTrainedModel) -> NameMap:
    """Where each layer and each weight trained in full belongs in this base; no two in one place."""
    modules = [name for name, _ in base.named_modules() if name]
    layers = _places(tensors.layers, modules, base, ".weight")
    full = _places(tensors.full, base.state_dict().keys(), base, "")
    lost = [name for name in (*tensors.layers, *tensors.full) if name not in layers and name not in full]
    renamed = sum(name != place for name, place in (*layers.items(), *full.items()))
    return NameMap(layers, full, lost, renamed)


def _places(
    names: Collection[str], known: Iterable[str], base: PreTrainedModel, ending: str
) -> dict[str, str]:
    """The known name that each name means: itself, what transformers renamed it to, or the one alike."""
    known = dict.fromkeys(known)
    places = {name: name for name in names if name in known}
    rest = [name for name in names if name not in places]
    if 0 < len(rest) <= len(known):  # with more no adapter of this base is complete, and time would grow
        renamings = [rule for rule in get_model_conversion_mapping(base) if isinstance(rule, WeightRenaming)]
        # By the last step of a name and its layer numbers: a layer that differs in these can't be meant.
        alike: dict[tuple[str, ...], list[list[str]]] = {}
        for steps in (name.split(".") for name in known):
            alike.setdefault(_end(steps), []).append(steps)
        for name in rest:
            # transformers renames weights, not modules: hence the ending.
            now = rename_source_key(name + ending, renamings, [])[0].removesuffix(ending)
            steps = name.split(".")
            place = now if now in known else _most_alike(steps, alike.get(_end(steps), []))
            if place is not None:
                places[name] = place
    taken: set[str] = set()
    return {name: place for name, place in places.items() if place not in taken and not taken.add(place)}


def _end(steps: list[str]) -> tuple[str, ...]:
    return steps[-1], *(step for step in steps if step.isdecimal())


def _most_alike(steps: list[str], candidates: Iterable[list[str]]) -> str | None:
    """The name with the most tower words and then the longest end in common; None if several have."""
    likeness: dict[tuple[int, int], list[str]] = {}
    for other in candidates:
        pairs = zip(reversed(steps), reversed(other), strict=False)
        same = next((length for length, (a, b) in enumerate(pairs) if a != b), min(len(steps), len(other)))
        towers = sum(
            any(kind.search(step) for kind in (VISION, CONNECTOR, TEXT)) for step in {*steps} & {*other}
        )
        likeness.setdefault((towers, same), []).append(".".join(other))
    (towers, _), best = max(likeness.items(), default=((0, 0), []))
    # Without a tower in common `layers.0.q_proj` of the text could be taken for the vision tower's.
    return best[0] if towers and len(best) == 1 else None


def name_ends(layer: str) -> list[str]:
    """The names that PEFT lets a layer be called by: all of its name, and what follows each of its dots."""
    steps = layer.split(".")
    return [".".join(steps[start:]) for start in range(len(steps))]


def missing_layers(adapter: Candidate) -> tuple[list[str], list[str]]:
    """Layers of the base that the configuration targets and the file lacks, and towers that are not targeted.

    Raises:
        UserError: targets, exclusions or depths are of no form that PEFT reads, or a pattern can't be read.
    """
    placed = {*adapter.names.layers.values()}
    missing = [layer for layer in _targeted(adapter) if layer not in placed]
    targets = adapter.config.get("target_modules")
    if not missing or not isinstance(targets, list) or any("." in str(target) for target in targets):
        return missing, []
    # A list of bare names, `q_proj`, may fit a tower whose layers had other names when the adapter was
    # trained: a tower without any layer in the file counts as not targeted.
    towers = find_towers(adapter.base)
    adapted = {towers.of(layer) for layer in placed}
    not_targeted = [
        tower for tower in TOWERS if tower not in adapted and any(towers.of(m) == tower for m in missing)
    ]
    return [layer for layer in missing if towers.of(layer) in adapted], not_targeted


def _targeted(adapter: Candidate) -> list[str]:
    """The layers that PEFT would adapt with this configuration, in the base's order."""
    config, targets = adapter.config, adapter.config.get("target_modules")
    if targets is None:
        return []
    modules = dict(adapter.base.named_modules())
    weights = {layer: dict(module.named_parameters(recurse=False)) for layer, module in modules.items()}
    # A norm has a weight of one dimension, and PEFT adapts none.
    layers = [layer for layer, own in weights.items() if "weight" in own and own["weight"].dim() > 1]
    if targets == ALL_LINEAR:
        head = adapter.base.get_output_embeddings()
        layers = [
            layer
            for layer in layers
            if isinstance(modules[layer], nn.Linear | Conv1D) and modules[layer] is not head
        ]
    else:
        layers = _matching(adapter, "target_modules", targets, layers)
    excluded = {*_matching(adapter, "exclude_modules", config.get("exclude_modules") or [], layers)}
    full = [str(module) for module in config.get("modules_to_save") or []]
    layers = [
        layer
        for layer in layers
        if layer not in excluded and not any(f".{module}." in f".{layer}." for module in full)
    ]
    depths, stacks = config.get("layers_to_transform"), config.get("layers_pattern") or []
    if depths is None or depths == []:
        return layers
    depths = depths if isinstance(depths, list) else [depths]
    if not all(isinstance(depth, int) for depth in depths):
        raise refusal(
            adapter.name, Phrase("has layers_to_transform that are no numbers", "depths-no-numbers")
        )
    stacks = [stacks] if isinstance(stacks, str) else stacks
    named = isinstance(stacks, list) and all(isinstance(s, str) and DOTTED.fullmatch(s) for s in stacks)
    if not named or len(stacks) > MAX_MODULES:
        raise refusal(adapter.name, Phrase("has a layers_pattern that is no name", "stack-no-name"))
    # As in PEFT: the first number in a name, or the one behind a stack's name.
    places = [rf"(?:^|.*?\.){re.escape(stack)}\.(\d+)\." for stack in stacks] or [r".*?\.[^.]*\.(\d+)\."]
    numbers = [re.compile(place) for place in places]
    depth_of = {
        layer: next((int(found[1]) for number in numbers if (found := number.match(layer))), None)
        for layer in layers
    }
    return [layer for layer, depth in depth_of.items() if depth in depths]


def _matching(adapter: Candidate, key: str, rule: Any, layers: Iterable[str]) -> list[str]:
    """The layers that an option fits, which is a pattern or a list of names."""
    if isinstance(rule, str):
        try:
            pattern = parse_pattern(rule, adapter.budget)
            return [layer for layer in layers if pattern.fits(layer)]
        except PatternError as error:
            raise pattern_refusal(adapter.name, key, rule, error) from error
    if not isinstance(rule, list) or not all(isinstance(entry, str) for entry in rule):
        reason = Phrase("has {option} that are neither names nor a pattern", "targets-no-names", option=key)
        raise refusal(adapter.name, reason)
    names = set(rule)
    return [layer for layer in layers if not names.isdisjoint(name_ends(layer))]

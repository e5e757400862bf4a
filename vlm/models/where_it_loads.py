"""Where an adapter loads: PEFT, transformers and servers, by its settings or its files. No torch.

The rules are where_it_loads.yaml's, each with its source. The facts are had from a run's settings before it
starts, as well as from an adapter's folder (vlm.adapters.untrusted.facts).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from vlm.methods import METHODS, Method
from vlm.settings import AdapterSettings

Verdict = Literal["loads", "without_vision", "does_not"]
WORDS: dict[Verdict, str] = {
    "loads": "loads",
    "without_vision": "loads without its vision part",
    "does_not": "does not load",
}
REMEDIES = {"export": "export-adapter --for servers", "merge": "merge"}
COMPOSED = "composed"  # a composed model's `model_type`


@dataclass(frozen=True, slots=True)
class LayerScale:
    """What some layers of an adapter have: their tower, rank and alpha; alpha is 0 where there is none."""

    tower: str
    rank: int
    alpha: float


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What the rules go by. `scales`: each kind of layer; the first has the configuration's own numbers.

    `model_type` is the base's, None where it is not known. `pattern`: the layers are not named in a list.
    """

    method: Method
    scales: tuple[LayerScale, ...]
    model_type: str | None
    in_full: bool = False
    pattern: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Returns what a rule's `when` may ask for."""
        towers = {scale.tower for scale in self.scales}
        lora = METHODS[self.method].config == "LoraConfig"
        # Those that only begin otherwise are saved as a plain LoRA.
        plain = lora and self.method not in ("rslora", "dora")
        # Servers know the configuration's one alpha over its one rank, or over the root of it.
        power = 0.5 if self.method == "rslora" else 1.0
        effects = {round(scale.alpha / max(scale.rank, 1) ** power, 9) for scale in self.scales}
        text = {scale.alpha for scale in self.scales[:1]} | {
            scale.alpha for scale in self.scales if scale.tower == "text"
        }
        return {
            "kind": "lora" if plain else self.method,
            "lora": lora,
            "composed": self.model_type == COMPOSED,
            "model_type": self.model_type,
            "in_full": self.in_full,
            "pattern": self.pattern,
            "sees": bool(towers & {"vision", "connector"}),
            "reads": "text" in towers,
            "ranks_differ": len({scale.rank for scale in self.scales}) > 1,
            "scales_differ": len(effects) > 1,
            "ranks_above_512": max((scale.rank for scale in self.scales), default=0) > 512,
            "alphas_differ": len(text) > 1,
        }


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of where_it_loads.yaml; it applies where the facts have all of `when`."""

    verdict: Verdict
    source: str
    because: str | None = None
    remedy: str | None = None
    when: Mapping[str, Any] = field(default_factory=dict)

    def applies(self, facts: Mapping[str, Any]) -> bool:
        return all(
            facts[name] in wanted if isinstance(wanted, list) else facts[name] == wanted
            for name, wanted in self.when.items()
        )


@dataclass(frozen=True, slots=True)
class Runtime:
    """What loads adapters, and its rules in their order. `also`: what loads through it."""

    name: str
    rules: tuple[Rule, ...]
    also: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return ", ".join((self.name, *self.also))


@dataclass(frozen=True, slots=True)
class Loading:
    """A runtime's verdict on an adapter. As a text: "vLLM: loads, with --enable-tower-connector-lora"."""

    runtime: Runtime
    rule: Rule

    @property
    def reason(self) -> str:
        return BECAUSE[self.rule.because] if self.rule.because else ""

    @property
    def sentence(self) -> str:
        """Returns the verdict, its reason and what makes it load."""
        words = WORDS[self.rule.verdict]
        if self.reason:
            words += f", {self.reason}" if self.rule.verdict == "loads" else f": {self.reason}"
        return f"{words} ({REMEDIES[self.rule.remedy]})" if self.rule.remedy else words

    def __str__(self) -> str:
        return f"{self.runtime.label}: {self.sentence}"

    def as_dict(self) -> dict[str, str]:
        rule = self.rule
        told = {"runtime": self.runtime.label, "verdict": rule.verdict, "because": self.reason}
        return told | {"remedy": REMEDIES.get(rule.remedy or "", ""), "source": rule.source}


_READ: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
BECAUSE: dict[str, str] = _READ["because"]
RUNTIMES: tuple[Runtime, ...] = tuple(
    Runtime(one["name"], tuple(Rule(**rule) for rule in one["rules"]), tuple(one.get("also", ())))
    for one in _READ["runtimes"]
)


def where_it_loads(facts: AdapterFacts) -> tuple[Loading, ...]:
    """Returns each runtime's verdict on an adapter, by the first of its rules that applies."""
    known = facts.as_dict()
    return tuple(
        Loading(runtime, next(rule for rule in runtime.rules if rule.applies(known))) for runtime in RUNTIMES
    )


def facts_of_settings(
    settings: AdapterSettings, model_type: str | None, *, new_connector: bool = False
) -> AdapterFacts:
    """Returns the facts of the adapter that these settings will train on a base of this type.

    `new_connector` says that the connector was never trained, which is what `connector: auto` trains.
    """
    method = METHODS[settings.method]
    in_full = settings.connector == "full" or (settings.connector == "auto" and new_connector)
    if method.prompt_learning:
        return AdapterFacts(settings.method, (LayerScale("text", 0, 0),), model_type, in_full)
    towers = (
        ("text", settings.use_text_lora, settings.text_lora_r, settings.text_alpha),
        ("vision", settings.use_vision_lora, settings.vision_lora_r, settings.vision_alpha),
        ("connector", settings.connector == "lora", settings.connector_lora_r, settings.connector_alpha),
    )
    # Without ranks of their own all towers have the first one's.
    used = [(tower, rank, alpha) for tower, used, rank, alpha in towers if used]
    scales = [
        LayerScale(tower, *(used[0][1:] if not method.rank_per_tower else (rank, alpha)))
        for tower, rank, alpha in used
    ]
    return AdapterFacts(settings.method, tuple(scales), model_type, in_full)

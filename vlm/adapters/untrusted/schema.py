"""The schema of adapter_config.json: a pydantic model for each PEFT method, and options that are refused.

Only what the models name is read, each value within its bounds; everything else PEFT is given comes from the
tensors (vlm.adapters.untrusted.rebuild). Fields are named as PEFT's own arguments.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import peft
import pydantic
from pydantic import BaseModel, BeforeValidator, Field, StrictBool, StrictFloat, StrictInt, ValidationError
from pydantic_core import PydanticCustomError

from vlm.adapters.untrusted.files import printable
from vlm.adapters.untrusted.patterns import PatternError
from vlm.adapters.untrusted.tensors import adapter_method
from vlm.errors import Phrase, UserError
from vlm.methods import METHODS

# As much as settings allow a run (vlm.settings.Alpha).
MAX_ALPHA = 65_536.0
# Even with an entry for each adapted layer a `rank_pattern` has some thousand.
MAX_PATTERNS = 5_000
MAX_MODULES = 1_000
MAX_BASE_NAME = 4096  # as in vlm.settings
# `init_lora_weights` that begin in the base's weights: PEFT, given such an adapter as it is, rewrites them.
CHANGES_BASE = re.compile(r"pissa|olora|corda|loftq|lora_ga")
# Options of PEFT that are not done here, each as the end of a sentence that begins with the adapter.
REFUSED: dict[str, Phrase] = {
    "layer_replication": Phrase("repeats layers of the base", "repeats-layers"),
    "target_parameters": Phrase("adapts single weights, not layers", "adapts-weights"),
    "trainable_token_indices": Phrase("trains single tokens of the vocabulary", "trains-tokens"),
    "megatron_config": Phrase("is made for Megatron", "of-megatron"),
    "alora_invocation_tokens": Phrase("is switched on by words in the prompt", "switched-by-words"),
    "use_qalora": Phrase("is a QA-LoRA", "is-qalora"),
    "use_bdlora": Phrase("is a BD-LoRA", "is-bdlora"),
    "arrow_config": Phrase("routes between adapters", "routes-adapters"),
    "kasa_config": Phrase("changes the base's weights (KaSA)", "is-kasa"),
    "monteclora_config": Phrase("is a MonteCLoRA", "is-monteclora"),
    "ensure_weight_tying": Phrase("ties its weights to one another", "ties-weights"),
}
# Keys that PEFT writes beside its options. `auto_mapping` names a class: its form is checked, it is never
# imported.
UNUSED = {"auto_mapping", "runtime_config"}
DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")
# An option at one of these is not in use: a later PEFT writes its new options at their defaults.
OFF = (None, False, "", [], {})


def refusal(name: str, problem: Phrase) -> UserError:
    """The refusal of an adapter, whose problem is the end of a sentence that begins with its name."""
    return UserError(
        "{name} {problem}.",
        "Mend its adapter_config.json, or choose another adapter.",
        "adapter-refused",
        name=name,
        problem=problem,
    )


def pattern_refusal(name: str, key: str, pattern: str, error: PatternError) -> UserError:
    """The refusal of a pattern that can't be read or would take too long to match."""
    return UserError(
        "{name} has a pattern in {option} that {reason}: {pattern}.",
        "Write plain layer names in {option} of its adapter_config.json, or choose another adapter.",
        "adapter-pattern",
        name=name,
        option=key,
        reason=error.reason,
        pattern=printable(pattern, 60),
    )


def bounded(low: float, high: float, *, whole: bool = False) -> Any:
    """The type of a number within these bounds; a whole one may be written 4.0. No text, no true or false."""

    def in_words(value: Any, validate: Callable[[Any], float]) -> float:
        try:
            return validate(value)
        except ValidationError as error:
            fraction = error.errors()[0]["type"] == "multiple_of"
            # `validated` says it in words.
            raise PydanticCustomError(
                "fraction" if fraction else "bounds", "", {"low": low, "high": high}
            ) from error

    # Of a union and strict: pydantic would turn 8 into 8.0 for a float, and PEFT would write that on saving.
    bounds = Field(ge=low, le=high, multiple_of=1 if whole else None)
    wrap = pydantic.WrapValidator(in_words)
    if whole:
        return Annotated[StrictInt | StrictFloat, bounds, pydantic.AfterValidator(int), wrap]
    return Annotated[StrictInt | StrictFloat, bounds, wrap]


AlphaOption = bounded(0, MAX_ALPHA)
DropoutOption = bounded(0.0, 0.999)
# Pattern or layer name -> value. The values are validated where a layer is found that they are for.
Patterns = Annotated[
    dict[str, Any], Field(max_length=MAX_PATTERNS), BeforeValidator(lambda value: value or {})
]


class RankedOptions(BaseModel):
    """Methods with a rank for each layer. `r` may be anything: it must equal what the tensors show."""

    r: Any = 8
    rank_pattern: Patterns = {}
    alpha_pattern: Patterns = {}


class LoraOptions(RankedOptions):
    lora_dropout: DropoutOption = 0.0
    lora_alpha: AlphaOption = 8
    use_rslora: StrictBool = False
    use_dora: StrictBool = False


class AdaLoraOptions(BaseModel):
    """`init_r` and `target_r` are bounded by the tensors: vlm.adapters.untrusted.rebuild."""

    lora_dropout: DropoutOption = 0.0
    lora_alpha: bounded(1e-9, MAX_ALPHA) = 8


class IA3Options(BaseModel):
    """IA3 has no number: its scales are all there is."""


class LoHaOptions(RankedOptions):
    rank_dropout: DropoutOption = 0.0
    alpha: AlphaOption = 8
    use_effective_conv2d: StrictBool = False


class LoKrOptions(LoHaOptions):
    decompose_both: StrictBool = False
    decompose_factor: bounded(-1, 65_536, whole=True) = -1


class OFTOptions(BaseModel):
    module_dropout: DropoutOption = 0.0
    r: bounded(0, 65_536, whole=True) = 0
    oft_block_size: bounded(0, 65_536, whole=True) = 0
    coft: StrictBool = False
    eps: bounded(0, 1) = 6e-5
    block_share: StrictBool = False
    use_cayley_neumann: StrictBool = False
    # Terms of a power series, each a matrix product in every forward pass.
    num_cayley_neumann_terms: bounded(1, 64, whole=True) = 5


class VeraOptions(RankedOptions):
    vera_dropout: DropoutOption = 0.0
    projection_prng_key: bounded(0, 2**63 - 1, whole=True) = 0
    save_projection: StrictBool = True


class HiraOptions(RankedOptions):
    hira_dropout: DropoutOption = 0.0


class MissOptions(RankedOptions):
    miss_dropout: DropoutOption = 0.0
    init_weights: Any = True
    mini_r: bounded(1, 4096, whole=True) = 1


class PromptOptions(BaseModel):
    """`num_virtual_tokens` must equal what the tensor shows."""

    num_virtual_tokens: Any = None
    # PEFT writes null where it was left to PEFT.
    num_transformer_submodules: Annotated[
        bounded(1, 2, whole=True), BeforeValidator(lambda value: 1 if value is None else value)
    ] = 1


OPTIONS: dict[str, type[BaseModel]] = {
    "LORA": LoraOptions,
    "ADALORA": AdaLoraOptions,
    "IA3": IA3Options,
    "LOHA": LoHaOptions,
    "LOKR": LoKrOptions,
    "OFT": OFTOptions,
    "VERA": VeraOptions,
    "HIRA": HiraOptions,
    "MISS": MissOptions,
    "PREFIX_TUNING": PromptOptions,
    "PROMPT_TUNING": PromptOptions,
}


def validated(name: str, kind: Any, values: Mapping[str, Any], key: str | None = None) -> Any:
    """The values as a pydantic model or type has them. With `key`, they are that option's, by layer.

    Raises:
        UserError: the first value that is not of its type or within its bounds.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    at, wrong = first["loc"][0], first["type"]
    if wrong in ("dict_type", "too_long"):
        raise refusal(name, Phrase("has a {option} that can't be read", "option-unreadable", option=at))
    allowed = {
        "bool_type": Phrase("it must be true or false", "option-switch"),
        "fraction": Phrase("it must be a whole number", "option-whole"),
    }
    option = (
        at
        if key is None
        else Phrase("{option} of {layer}", "option-of-layer", option=key, layer=printable(at))
    )
    reason = Phrase(
        "says {option} = {value}, and {allowed}",
        "option-value",
        option=option,
        value=printable(first["input"], 40),
        allowed=allowed[wrong]
        if wrong in allowed
        else Phrase("it must lie between {low:g} and {high:g}", "option-bounds", **first["ctx"]),
    )
    raise refusal(name, reason)


def validate_options(name: str, config: Mapping[str, Any]) -> None:
    """Refuse options that no adapter may have. Long because each kind of them is refused in its own words.

    Raises:
        UserError: the option and the reason.
    """
    kind = getattr(peft, METHODS[adapter_method(name, config)].config)
    known = {option.name for option in dataclasses.fields(kind)} | UNUSED
    for key, value in config.items():
        if key not in known and value not in OFF:
            reason = Phrase(
                "asks for {option}, which is no option of its method known here",
                "option-unknown",
                option=printable(key, 40),
            )
            raise refusal(name, reason)
        if key in REFUSED and value not in OFF:
            raise UserError(
                "{name} {reason} ({option}), which is not done here.",
                "Choose another adapter.",
                "adapter-not-done",
                name=name,
                reason=REFUSED[key],
                option=key,
            )
    if config.get("bias", "none") != "none":
        raise UserError(
            "{name} was trained together with the base's biases, which would change the base itself.",
            "Train it anew with bias none.",
            "adapter-biases",
            name=name,
        )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and CHANGES_BASE.match(start):
        raise UserError(
            "{name} was saved as {start}, not as LoRA: loading it would rewrite the base's weights.",
            "Save it where it was trained with PEFT's path_initial_model_for_weight_conversion.",
            "adapter-rewrites-base",
            name=name,
            start=printable(start, 20),
        )
    # Names that could lead somewhere are only shown or compared, and must still look like what they are.
    base = config.get("base_model_name_or_path")
    if base is not None and (
        not isinstance(base, str) or len(base) > MAX_BASE_NAME or not base.isprintable()
    ):
        raise refusal(name, Phrase("names a base model that is no name", "base-no-name"))
    mapping = config.get("auto_mapping") or {}
    entries = mapping.values() if isinstance(mapping, dict) else [""]
    if not all(isinstance(text, str | bool) and DOTTED.fullmatch(str(text)) for text in entries):
        raise refusal(
            name, Phrase("names code to import, and not as a dotted name (auto_mapping)", "mapping-no-name")
        )
    full = config.get("modules_to_save") or []
    # "_" before it: a module may be called "0", and DOTTED wants a letter first.
    named = isinstance(full, list) and all(isinstance(m, str) and DOTTED.fullmatch(f"_{m}") for m in full)
    if not named or len(full) > MAX_MODULES:
        raise refusal(
            name,
            Phrase(
                "has modules_to_save that are no names of layers; PEFT would run them as patterns",
                "saved-modules-no-names",
            ),
        )

"""The Train form as HTML: its controls, and beside them what the settings say, cost and weigh."""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from training import config
from training.config import Problem, TrainingConfig
from training.data.edit.thumbnails import thumbnail_uri
from training.data.synthetic.samples import SAMPLES
from training.memory import auto, estimate
from ui.datasets import Wanted, choices_with, read_dataset
from ui.html import error, render, small
from ui.i18n import TEXTS, Language, duration, number, say, setting_name, setting_to, setting_value, told
from ui.train import form_values
from ui.train.base_model import TEXT_MODELS, VISION_TOWERS, chosen_of, layer_choices, model_choices
from ui.train.form_values import FIELDS, TOWERS, Chosen
from vlm import catalog
from vlm.errors import UserError
from vlm.meta_model import rank_table, tower_counts
from vlm.methods import METHODS
from vlm.param_counts import TowerCounts

THUMBNAILS = 5
MANY = 2000
"""Examples that a dataset is taken to have until it is read."""
FIRST_RUN_S = 120
"""Wall time of a run with nothing changed, on two CPU cores. README and docs say the same."""

BY_MODEL = (
    *("learning_rate", "vision_learning_rate", "epochs", "batch_size", "gradient_accumulation_steps"),
    *("gradient_checkpointing", "quantization", "evaluations", "best_metric"),
)
"""Settings whose value at `auto` stands beside the word."""

UNSET = {
    **{"_alpha": "as_given_2r", "_rate": "as_given_rate", "revision": "as_given_newest"},
    "_pixels": "as_given_models",
    **{"question": "as_given_none", "image_root": "as_given_guessed"},
    **{"columns": "as_given_guessed", "held_out_split": "as_given_guessed", "name": "as_given_guessed"},
    **{
        "pinned_examples": "as_given_spread",
        "save_steps": "as_given_evaluated",
        "threads": "as_given_measured",
        "max_new_tokens": "as_given_longest",
        **dict.fromkeys(BY_MODEL, "as_given_auto"),
    },
}
"""What an empty box of an optional setting stands for, by the end of its name."""

OF_COUNTS = (
    *("model", "method", "vision_lora_targets", "text_lora_targets", "text_lora_part", "from_adapter"),
)
"""Settings that change how many parameters a rank stands for."""

DEFAULTS = {name: form_values.default_of(name) for name in FIELDS}
Choices = list[tuple[str, str]]
"""Words and value of each option."""


@cache
def first_counts() -> TowerCounts:
    """The counts of the form as it is drawn, from the committed table: no torch is needed to see them."""
    return tower_counts(TrainingConfig())


def cards(language: Language, workspace: Path, can_train: bool) -> tuple[Markup, Markup]:
    """The Data card, and the other cards of the form, as they stand at first."""

    values = form_values.values_of({}, workspace)
    known = catalog.ModelAndData("starter", catalog.find("starter").parameters, "seq2seq", MANY, MANY)
    first_run = auto.choose(TrainingConfig(), known, 0).config
    words = auto_words(language, values, first_run.model_dump())

    def controls(name: str) -> dict[str, Any]:
        one = control(language, workspace, name)
        unset = words.get(name, one["unset"])
        options = [(text if value else unset or text, value) for text, value in one["choices"]]
        return one | {"unset": unset, "choices": options}

    needed = estimate.estimate(first_run)
    there = estimate.device_memory(needed.device)
    first = preview(language, workspace, values)  # drawn with the form: a visitor need not wait for it
    data = render("train_data", language, control=controls, parts=first, can_train=can_train)
    return data, render(
        "train_form",
        language,
        control=controls,
        parts=said(language, values, chosen_of(values), {})
        | counted(language, first_counts())
        | {"memory": memory(language, needed.total, there, estimate.fit(needed, there))},
        towers=TOWERS,
        groups=form_values.ADVANCED,
        idle=form_values.idle(DEFAULTS, form_values.STARTER),
        line=rank_line(language, values, form_values.STARTER),
        suggested={"vision_tower": VISION_TOWERS, "text_model": TEXT_MODELS},
    )


def control(language: Language, workspace: Path, name: str) -> dict[str, Any]:
    """How a setting is edited: its kind, what it offers, its default and what an empty box stands for."""
    default = DEFAULTS[name]
    unset = UNSET.get(name) or next(
        (key for end, key in UNSET.items() if name.endswith(end)), "as_given_none"
    )
    return {
        "name": name,
        "label": setting_name(language, name),
        "kind": kind_of(name),
        "choices": choices(language, workspace, name, chosen_of(DEFAULTS)),
        "value": form_values.shown(name, default),
        "presets": form_values.choices_of(name),
        "unset": say(language, unset) if form_values.is_optional(name) else "",
        "step": 10 ** math.floor(math.log10(default)) if isinstance(default, int | float) and default else 1,
    }


def kind_of(name: str) -> str:
    if form_values.is_layers(name):
        return "layers"
    if form_values.is_switch(name):
        return "switch"
    if name in ("dataset", "model") or form_values.choices_of(name) or name == "method":
        return "choice"
    return "text" if form_values.is_optional(name) or isinstance(DEFAULTS[name], str) else "number"


def choices(language: Language, workspace: Path, name: str, chosen: Chosen, now: str = "") -> Choices:
    """What a setting offers; `now` is the value that it has, which stands among them wherever it is from."""
    if name == "dataset":
        options = choices_with(workspace, now or DEFAULTS["dataset"])
        return [(one, one) if isinstance(one, str) else one for one in options]
    if name == "model":
        return model_choices(language, chosen.model)
    if name == "method":
        return [(method.label, method_name) for method_name, method in METHODS.items()]
    if form_values.is_layers(name):
        return [(layer, layer) for layer in layer_choices(name, chosen)]
    words = {"connector": "connector_", "best_metric": "metric_", "gradient_checkpointing": "switch_"}.get(
        name
    )
    named = [
        (say(language, f"{words}{one}") if words and f"{words}{one}" in TEXTS else one, one)
        for one in form_values.choices_of(name)
    ]
    if form_values.is_optional(name) and named:
        return [(say(language, UNSET[name]), ""), *named]
    return named


def said(
    language: Language, values: Mapping[str, Any], chosen: Chosen, followed: Mapping[str, Any]
) -> dict[str, Markup | str]:
    """What stands beside the controls; no torch is needed for it. `followed` came with the model."""
    line, unchanged = form_values.command_line(dict(values)), form_values.is_unchanged(dict(values))
    return {
        "method_about": small(say(language, f"method_{values['method']}")),
        "model_note": model_note(language, chosen),
        "model_about": model_about(language, chosen, followed),
        "model_error": error(language, chosen.trouble) if chosen.trouble else "",
        "going_on": say(language, "going_on", adapter=adapter_name(values["from_adapter"]))
        if values["from_adapter"]
        else "",
        "command": render(
            "train_command",
            language,
            line=line,
            words=say(language, "takes", time=duration(language, FIRST_RUN_S))
            if unchanged
            else say(language, "same_in_shell"),
        ),
    }


def auto_words(language: Language, values: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, str]:
    """What an open setting says beside its `auto`: the value that it would have, where that is known."""
    return {
        name: say(language, "auto_is", value=setting_value(language, chosen[name]))
        for name in BY_MODEL
        if values[name] in (None, "auto") and chosen.get(name) is not None
    }


def adapter_name(named: str) -> str:
    """A run's name as it is; of a folder the last part that tells something."""
    path = Path(named)
    return path.parent.name if path.name == "adapter" and path.parent.name else path.name


def looks(language: Language, values: Mapping[str, Any], chosen: Chosen) -> dict[str, dict[str, Any]]:
    """Of each setting whether it is seen and can be changed, and what is wrong with its value."""
    idle = form_values.idle(values, chosen)
    own = form_values.OF_ADAPTER if values["from_adapter"] else ()
    wrong = {problem.field: " ".join(told(language, problem.error)) for problem in config.check(dict(values))}
    return {
        name: {"seen": name not in idle, "free": name not in own, "trouble": wrong.get(name)}
        for name in FIELDS
    }


def parameters(language: Language, count: float) -> str:
    """2.9 M, 256 M, 2.2 B."""
    key, size = ("billions", count / 1e9) if count >= 999.5e6 else ("millions", count / 1e6)
    return say(language, key, count=number(language, size, 1 if size < 9.95 else 0))


def model_note(language: Language, chosen: Chosen) -> str:
    """The starter's size. A model that is not the starter says it below."""
    if chosen.place != "starter":
        return ""
    counts = first_counts()
    return say(language, "starter_note", count=parameters(language, counts.total - counts.trainable))


def model_about(language: Language, chosen: Chosen, followed: Mapping[str, Any]) -> Markup:
    """What is known of a model, and which settings followed it."""
    entry, size = catalog.find(chosen.model), parameters(language, chosen.parameters)
    if chosen.place == "starter":
        lines = [say(language, "about_starter", time=duration(language, FIRST_RUN_S))]
    elif entry:
        tiny = entry.memory == "tiny"
        memory = say(language, "memory_tiny") if tiny else say(language, "memory_class", size=entry.memory)
        login = say(language, "gated" if entry.gated else "not_gated")
        lines = [say(language, f"note_{entry.model}"), " · ".join((entry.licence, login, memory))]
    elif chosen.trouble:
        lines = []
    elif chosen.place == "two":
        lines = [say(language, "about_composed", count=size)]
    else:
        lines = [say(language, f"about_{chosen.place}", kind=chosen.model_type, count=size)]
    if followed:
        changes = ", ".join(setting_to(language, name, value) for name, value in followed.items())
        lines.append(say(language, "set_for_model", changes=changes))
    return Markup("").join(map(small, lines))


def counted(language: Language, counts: TowerCounts | None, trouble: Markup | str = "") -> dict[str, Markup]:
    """The counts' line, the adapter's size, and each tower's share. Without counts `trouble` says why."""
    shares = {
        f"{tower}_share": render("train_share", language, count=counts and counts.as_dict()[tower])
        for tower in TOWERS
    }
    return {
        "counts": render("train_counts", language, counts=counts, trouble=trouble),
        "size": small(say(language, "adapter_size", size=number(language, counts.adapter_mb, 1)))
        if counts and counts.trainable
        else Markup(""),
        **shares,
    }


def count(language: Language, values: Mapping[str, Any], chosen: Chosen) -> dict[str, Markup]:
    """The counts as PEFT gives them, or why there are none."""
    wrong = config.check(dict(values))
    unusable = {problem.field for problem in wrong}  # those in the fold have each its own mark
    if in_sight := [problem for problem in wrong if problem.field in form_values.BASIC]:
        return counted(language, None, problems(language, in_sight))
    if chosen.trouble:
        return counted(language, None, Markup(""))
    try:
        settings = config.build({name: values[name] for name in values if name not in unusable})
        return counted(language, tower_counts(settings))
    except UserError as refused:
        return counted(language, None, error(language, refused))


def rank_line(language: Language, values: Mapping[str, Any], chosen: Chosen) -> dict[str, Any] | None:
    """What counts.js tells counts by while a rank or a switch is touched, and the settings that it holds for.

    None where they are on no line, or hang on more than each tower's own rank.
    """
    method = METHODS[values["method"]]
    in_full = values["connector"] == "full" or (values["connector"] == "auto" and chosen.place == "two")
    if not method.rank_per_tower or method.prompt_learning or in_full or chosen.trouble:
        return None
    try:
        wrong = {problem.field for problem in config.check(dict(values))}
        table = rank_table(config.build({name: values[name] for name in values if name not in wrong}))
    except UserError:
        return None
    words = {key: say(language, key) for key in ("trainable_of", "tower_share", "frozen")}
    return table and {"of": {name: values[name] for name in OF_COUNTS}, "towers": table, "words": words}


def problems(language: Language, found: Sequence[Problem]) -> Markup:
    """Each setting that can't be used, with what to do."""
    named = [(setting_name(language, problem.field), problem.error) for problem in found]
    return render("train_problems", language, named=named)


def memory(language: Language, needed: int, there: int, fit: str) -> Markup:
    """Memory 1.1 of 20 GB, and whether that fits; both numbers are bytes."""
    words = say(language, "memory_of", need=gigabytes(language, needed), there=gigabytes(language, there))
    return render("train_memory", language, words=words, fit=fit)


def gigabytes(language: Language, size: int) -> str:
    """With one decimal below 10: as the run's own tile counts them."""
    amount = size / 2**30
    return number(language, amount, 1 if amount < 9.95 else 0)


def preview(language: Language, workspace: Path, values: Mapping[str, Any]) -> dict[str, Markup | str]:
    """The Data card: a few pictures, one question with its answer, and what is wrong with the dataset."""
    source = str(values["dataset"] or "")
    kind = say(language, "sample_note" if source in SAMPLES else "own_note")
    try:
        dataset = read_dataset(workspace, Wanted.of(values))
    except UserError as trouble:
        return {"dataset_note": kind, "preview": error(language, trouble)}
    pictured = [example for example in dataset.examples if example.images]
    step = max(1, len(pictured) // THUMBNAILS)
    chosen = pictured[::step][:THUMBNAILS]
    asked = next((example for example in chosen if example.question), None)
    return {
        "dataset_note": say(language, "examples_note", kind=kind, count=len(dataset.examples)),
        "preview": render(
            "train_preview",
            language,
            pictures=[(example, thumbnail_uri(example.images[0])) for example in chosen],
            asked=asked or next(iter(dataset.examples), None),
            about=say(language, f"about_{source}") if source in SAMPLES else "",
            findings=dataset.findings,
            total=len(dataset.examples) + len(dataset.findings),
        ),
    }

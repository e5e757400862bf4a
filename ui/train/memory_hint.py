"""How much memory a run would take, whether that fits, and the one setting that helps most, to apply at once.

Estimates come after the counts, and advice after the estimate: of a large model each takes seconds at first.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from markupsafe import Markup

from training import config
from training.config import TrainingConfig
from training.data.images import ImageFacts, examine_image
from training.memory import auto, estimate
from training.memory.estimate import Examples
from ui.datasets import MEASURED, Shelf, Wanted, kept, measured_by
from ui.html import error, small
from ui.i18n import Language, say, setting_to
from ui.train import form_values, form_view
from ui.train.base_model import model_name
from ui.train.form_values import Chosen
from vlm import catalog
from vlm.catalog import ModelAndData
from vlm.errors import UserError
from vlm.meta_model import tower_counts

LOOKED_AT = 8
"""Pictures of a dataset that are opened for their size, until a check opens all."""

_SEEN: Shelf[Examples] = Shelf(3)


def known_of(values: Mapping[str, Any], chosen: Chosen) -> ModelAndData:
    """What the rules of `auto` go by, of a form: the examples that are read, or many until then."""
    entry = catalog.find(chosen.model)
    parameters = entry.parameters if entry else chosen.parameters / 1e6
    kind = "composed" if chosen.place == "two" else "seq2seq" if chosen.encoder_decoder else "chat"
    read = kept(values["workspace"], Wanted.of(values)) if "workspace" in values else None
    held_out = values["held_out"] if isinstance(values["held_out"], float) else 0.0
    many = form_view.MANY if read is None else len(read.examples)
    examples, asked = round(many * (1 - held_out)), round(many * held_out)
    return ModelAndData(chosen.model, parameters, kind, examples, asked)


def longest_of(values: Mapping[str, Any]) -> Examples:
    """The longest examples: as a check with this model measured them, else as they look without one."""
    if "workspace" not in values:
        return auto.USUAL
    if found := MEASURED.find(measured_by(values)):
        return found
    read = kept(values["workspace"], Wanted.of(values))
    if read is None or not read.examples:
        return auto.USUAL
    if found := _SEEN.find(read.fingerprint):
        return found
    some = read.examples[:: max(1, len(read.examples) // LOOKED_AT)]
    facts: dict[Path, ImageFacts] = {}
    for image in {image for example in some for image in example.images[:1]}:
        with suppress(UserError):  # the check names it
            facts[image] = examine_image(image)
    return _SEEN.keep(read.fingerprint, Examples.longest(read.examples, facts))


def by_rules(values: Mapping[str, Any], chosen: Chosen) -> dict[str, Any]:
    """What `auto` chooses before memory is asked; no torch is needed for it."""
    ruled = {} if chosen.trouble else auto.by_rules(usable(values), known_of(values, chosen), 0)
    return {name: value for name, value in ruled.items() if name in form_view.BY_MODEL}


def measure(
    language: Language, values: Mapping[str, Any], chosen: Chosen
) -> tuple[Markup, bool, dict[str, str]]:
    """The line of the estimate, whether it fits, and what stands beside each `auto`.

    What fits needs no advice.
    """
    settings = countable(values, chosen)
    if settings is None:
        return Markup(""), True, {}
    words = form_view.auto_words(language, values, settings.model_dump())
    try:
        # As a run chooses by: the starter's own is one number from the first paint on.
        needed = estimate.committed(settings) or estimate.estimate(settings, longest_of(values))
    except UserError as trouble:  # a step may not be simulated where layers can still be counted
        return error(language, trouble), True, words
    there = estimate.device_memory(needed.device)
    fit = estimate.fit(needed, there)
    return form_view.memory(language, needed.total, there, fit), fit == "fits", words


def advise(
    language: Language, values: Mapping[str, Any], chosen: Chosen
) -> tuple[Markup, tuple[str, Any] | None]:
    """What would help, in words and as a setting with its value; nothing where nothing would."""
    settings, longest = countable(values, chosen), longest_of(values)
    try:
        there = estimate.device_memory(estimate.estimate(settings, longest).device) if settings else 0
        remedy = estimate.best_remedy(settings, there, longest) if settings else None
    except UserError:  # `measure` has told it
        remedy = None
    if remedy is None:
        return Markup(""), None
    is_model = remedy.setting == "model"
    change = model_name(remedy.value) if is_model else setting_to(language, remedy.setting, remedy.value)
    size = form_view.gigabytes(language, remedy.estimate.total)
    return small(say(language, "helps_most", change=change, size=size)), (remedy.setting, remedy.value)


def countable(values: Mapping[str, Any], chosen: Chosen) -> TrainingConfig | None:
    """The settings of the run with what `auto` chooses, once they can be counted; else None."""
    wrong = {problem.field for problem in config.check(dict(values))}
    if not chosen.is_of(values) or chosen.trouble or wrong & {*form_values.BASIC, ""}:
        return None
    settings = usable(values)
    try:
        tower_counts(settings)
    except UserError:  # it is said in the counts' place
        return None
    longest = longest_of(values)
    return auto.choose(settings, known_of(values, chosen), longest.answer_tokens, longest).config


def usable(values: Mapping[str, Any]) -> TrainingConfig:
    """The settings without those that can't be used: these stand at their defaults."""
    wrong = {problem.field for problem in config.check(dict(values))}
    return config.build({name: value for name, value in values.items() if name not in wrong})

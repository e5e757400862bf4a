"""How much memory a run would take, whether that fits, and the one setting that helps most, to apply at once.

Estimates come after the counts, and advice after the estimate: of a large model each takes seconds at first.
"""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from training import config
from training.config import TrainingConfig
from training.memory import estimate
from ui.html import error, small
from ui.i18n import Language, say, setting_to
from ui.train import form_values, form_view
from ui.train.base_model import model_name
from ui.train.form_values import Chosen
from vlm.errors import UserError
from vlm.meta_model import tower_counts


def measure(language: Language, values: Mapping[str, Any], chosen: Chosen) -> tuple[Markup, bool]:
    """The line of the estimate, and whether it fits: then no advice is needed."""
    settings = countable(values, chosen)
    if settings is None:
        return Markup(""), True
    try:
        needed = estimate.estimate(settings)
    except UserError as trouble:  # a step may not be simulated where layers can still be counted
        return error(language, trouble), True
    there = estimate.device_memory(needed.device)
    fit = estimate.fit(needed, there)
    return form_view.memory(language, needed.total, there, fit), fit == "fits"


def advise(
    language: Language, values: Mapping[str, Any], chosen: Chosen
) -> tuple[Markup, tuple[str, Any] | None]:
    """What would help, in words and as a setting with its value; nothing where nothing would."""
    settings = countable(values, chosen)
    try:
        there = estimate.device_memory(estimate.estimate(settings).device) if settings else 0
        remedy = estimate.best_remedy(settings, there) if settings else None
    except UserError:  # `measure` has told it
        remedy = None
    if remedy is None:
        return Markup(""), None
    is_model = remedy.setting == "model"
    change = model_name(remedy.value) if is_model else setting_to(language, remedy.setting, remedy.value)
    size = form_view.gigabytes(language, remedy.estimate.total)
    return small(say(language, "helps_most", change=change, size=size)), (remedy.setting, remedy.value)


def countable(values: Mapping[str, Any], chosen: Chosen) -> TrainingConfig | None:
    """The settings of the run, once they are those of one that can be counted; else None."""
    wrong = {problem.field for problem in config.check(dict(values))}
    if not chosen.is_of(values) or chosen.trouble or wrong & {*form_values.BASIC, ""}:
        return None
    settings = config.build({name: value for name, value in values.items() if name not in wrong})
    try:
        tower_counts(settings)
    except UserError:  # it is said in the counts' place
        return None
    return settings

"""Remedies as settings: what the words of a remedy, or an estimate, would have changed. No Gradio."""

import re
from typing import Any

from training import config
from training.config import TrainingConfig
from ui import form

NAMED = re.compile(r"--(?P<field>[a-z_0-9]+)(?:[ =](?P<value>[^\s,;:()]+))?")
LEFT_TO_PEOPLE = {"name", "workspace", "dataset", "model", "revision", "from_adapter", "columns"}
"""Which data, model or adapter was meant is nobody's guess."""


def named_change(remedy: str, settings: TrainingConfig) -> tuple[str, Any] | None:
    """The first setting that the remedy names with a value that these settings can take: ("batch_size", 8).

    None where it names none, or one that is already so.
    """
    for found in NAMED.finditer(remedy):
        field, value = found["field"], (found["value"] or "").rstrip(".")
        if field not in TrainingConfig.model_fields or field in LEFT_TO_PEOPLE:
            continue
        if form.is_switch(field):
            value = True
        values = settings.model_dump() | {field: value}
        if value == "" or config.check(values):
            continue
        changed = getattr(config.build(values), field)
        if changed != getattr(settings, field):
            return field, changed
    return None

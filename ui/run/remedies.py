"""Remedies as settings: which change that would have helped a failed run can be made in its settings."""

from collections.abc import Mapping
from typing import Any

from training import config
from training.config import TrainingConfig

LEFT_TO_PEOPLE = {"name", "workspace", "dataset", "model", "revision", "from_adapter", "columns"}
"""Which data, model or adapter was meant is nobody's guess."""


def usable_change(changes: Mapping[str, Any], settings: TrainingConfig) -> tuple[str, Any] | None:
    """The first of the changes that these settings can take and that is not already so: ("batch_size", 8)."""
    for field, value in changes.items():
        if field not in TrainingConfig.model_fields or field in LEFT_TO_PEOPLE:
            continue
        values = settings.model_dump() | {field: value}
        if config.check(values):
            continue
        changed = getattr(config.build(values), field)
        if changed != getattr(settings, field):
            return field, changed
    return None

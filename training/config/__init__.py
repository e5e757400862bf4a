"""The settings of a run: fields, rules between them, reading them, and what is wrong with them. No torch."""

from training.config.fields import AUTO, MAY_BE_FOLDERS, WHERE_IT_WENT, TrainingConfig
from training.config.loading import (
    allowed,
    as_flags,
    build,
    check,
    load,
    read_file,
    settings_error,
    unknown_setting,
)
from training.config.rules import Problem

"""The settings of a run: fields, the rules between them, YAML and what is said of wrong ones. No torch."""

from training.config.fields import (
    MAY_BE_FOLDERS,
    WHERE_IT_WENT,
    Problem,
    TrainingConfig,
    allowed,
    build,
    check,
    read_file,
    refusal,
    unknown_setting,
)

__all__ = [
    "MAY_BE_FOLDERS",
    "WHERE_IT_WENT",
    "Problem",
    "TrainingConfig",
    "allowed",
    "build",
    "check",
    "read_file",
    "refusal",
    "unknown_setting",
]

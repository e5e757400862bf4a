"""Tiny random models of many families: `FAMILIES[name](folder)` writes a whole model folder, offline."""

from .others import PART_B, VARIANTS
from .pieces import Builder, seeded

FAMILIES: dict[str, Builder] = {name: seeded(build) for name, build in PART_B.items()}
OTHER_TEXT_MODELS: dict[str, Builder] = {name: seeded(build) for name, build in VARIANTS.items()}

__all__ = ["FAMILIES", "OTHER_TEXT_MODELS"]

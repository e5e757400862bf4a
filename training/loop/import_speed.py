"""Skip unused heavy imports and the garbage collector at a run's start (startup time). No torch.

transformers' Trainer imports datasets, and with it pandas, to recognise its classes; PEFT imports
bitsandbytes, and with it torch's compiler. Both ask first whether the package is there.
"""

import gc
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from training.config import TrainingConfig

# Trainer imports it for nothing; it is hidden only meanwhile, because a dataset of the Hub needs it later.
BY_TRAINER = ("datasets",)


def unneeded(config: TrainingConfig) -> tuple[str, ...]:
    """Returns installed packages that a run with these settings never needs."""
    # What is open may become 4 bits, but for the starter.
    quantizes = config.quantization not in (None, "none") or (
        config.quantization is None and config.model != "starter"
    )
    needed = quantizes or "8bit" in config.optim
    return () if needed else ("bitsandbytes",)


@contextmanager
def left_out(packages: Collection[str]) -> Iterator[None]:
    """Hides packages from imports while this is open, unless one is imported already."""
    # Measured on the starter (docs/decisions.md): start to the end of loading takes 4.8 to 5.1 s of CPU
    # instead of 6.3 to 7.0, and 130 MiB less. transformers and PEFT remember that a package is missing for as
    # long as the process lives, so this is only for one that does nothing but this run.
    hidden = [package for package in packages if package not in sys.modules]
    # None in `sys.modules` is Python's own way to say that there is no such module.
    sys.modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for package in hidden:
            sys.modules.pop(package, None)


@contextmanager
def uncollected() -> Iterator[None]:
    """Turns the cyclic garbage collector off while this is open, and freezes what there is at its end."""
    # Imports make objects that stay, and the collector walks them again and again: 4.3 s of CPU instead of
    # 5.5 to the end of loading, a fifth of a run's start (docs/decisions.md).
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()

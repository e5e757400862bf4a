"""What a run needs is imported without what it doesn't need, and without looking for garbage. No torch.

transformers' Trainer imports datasets, and with it pandas, to recognise its classes; PEFT imports
bitsandbytes, and with it torch's compiler. Both ask first whether the package is there. Without them a run
starts a quarter sooner and takes 130 MiB less.
"""

import gc
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from training.config import TrainingConfig

BY_TRAINER = ("datasets",)
"""What transformers' Trainer imports for nothing; a dataset of the Hub needs it later."""


def unneeded(config: TrainingConfig) -> tuple[str, ...]:
    """What a run with these settings never needs, though it is installed."""
    needed = config.quantization != "none" or "8bit" in config.optim
    return () if needed else ("bitsandbytes",)


@contextmanager
def left_out(packages: Collection[str]) -> Iterator[None]:
    """While this is open the packages seem not to be installed, unless one is imported already.

    transformers and PEFT remember it for good: only for a process that does nothing but one run.
    """
    hidden = [package for package in packages if package not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for package in hidden:
            sys.modules.pop(package, None)


@contextmanager
def uncollected() -> Iterator[None]:
    """While this is open no garbage is looked for, and what there is then is never looked at again.

    Imports make objects that stay; looking through them again and again is a fifth of a run's start.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()

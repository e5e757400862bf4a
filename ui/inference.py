"""The process's one inference engine. It brings torch along: made when the page warms up or is asked."""

import threading
from functools import cache
from typing import TYPE_CHECKING

from training.config import TrainingConfig
from training.runs.queueing import devices_of, is_busy
from vlm.lazy_torch import import_torch

if TYPE_CHECKING:
    from vlm.inference import Engine

# Of the CPU's memory less than this is left to the base: loading it again takes longer than it is worth.
SPARED_BYTES = 2**30
# What nobody has asked for so long gives its memory back; the next question loads it again.
IDLE_S = 1800.0
_making = threading.Lock()


def engine() -> "Engine":
    with _making:
        return _engine()


@cache
def _engine() -> "Engine":
    import_torch()
    from vlm.inference import Engine

    return Engine(idle_s=IDLE_S)


def stop(asker: str | None) -> None:
    """Ends the answers that this page waits for, if anybody was ever asked."""
    if _engine.cache_info().currsize:
        engine().stop(asker)


def in_the_way(config: TrainingConfig) -> bool:
    """Returns whether a base is in the memory that a run needs now: a run that has to wait needs none yet."""
    if not _engine.cache_info().currsize or is_busy(config.workspace, config):
        return False
    device, size = engine().held()
    on_cpu = devices_of(config) == ["cpu"]
    return (device == "cpu") == on_cpu and size > (SPARED_BYTES if on_cpu else 0)

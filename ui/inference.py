"""The process's one inference engine. It brings torch along: made when the page warms up or is asked."""

import threading
from functools import cache
from typing import TYPE_CHECKING

from vlm.lazy_torch import import_torch

if TYPE_CHECKING:
    from vlm.inference import Engine

_making = threading.Lock()


def engine() -> "Engine":
    with _making:
        return _engine()


@cache
def _engine() -> "Engine":
    import_torch()
    from vlm.inference import Engine

    return Engine()

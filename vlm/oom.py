"""Memory that ran out: recognised however a device says it, and work done again with less at once."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

ALSO_SAID = ("CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator: not enough memory")
"""Words that accelerate does not know: of cuBLAS's workspace, and of the CPU allocator on Windows."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no memory left: CUDA, XPU, MPS and CPU each say it otherwise."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    also = isinstance(error, RuntimeError) and any(words in str(error) for words in ALSO_SAID)
    return also or (isinstance(error, Exception) and should_reduce_batch_size(error))


def with_less(size: int, work: Callable[[int], Result]) -> Result:
    """`work(size)`; where memory runs out, with half of it, down to 1."""
    while True:
        try:
            return work(size)
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        clear_device_cache(garbage_collection=True)
        size //= 2
        logger.warning("no memory left: going on with %d at once", size)

"""Out-of-memory errors: recognised on every device, and work repeated with smaller batches."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# Messages that accelerate's list lacks: cuBLAS's workspace, the CPU allocator on Windows, and the plain words
# of other allocators.
ALSO_SAID = ("CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator: not enough memory", "allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine ran out of memory."""
    # torch.OutOfMemoryError is CUDA's and XPU's; of MPS and CPU only the text of a RuntimeError tells.
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    also = isinstance(error, RuntimeError) and any(words in str(error) for words in ALSO_SAID)
    return also or (isinstance(error, Exception) and should_reduce_batch_size(error))


def with_less(size: int, work: Callable[[int], Result]) -> Result:
    """Returns `work(size)`; where memory runs out, of half the size, and so on down to 1."""
    while True:
        try:
            return work(size)
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        # After the except block: inside it the traceback still holds the tensors of the failed call.
        clear_device_cache(garbage_collection=True)
        size //= 2
        logger.warning("no memory left: going on with %d at once", size)

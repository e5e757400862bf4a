"""Tensors that say they are on a GPU and compute on the CPU: what mixes devices fails as it would there.

A wrapper holds the real values, so that whatever depends on them goes on: lengths, indices, generated tokens.
Kernels are the CPU's, and what knows CUDA alone, as bitsandbytes, is not run.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda:0")
MEMORY = 16 * 2**30
aten = torch.ops.aten
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
"""These take indices from the CPU into a tensor on the GPU."""


class CudaTensor(torch.Tensor):
    """`held` are its values. C++ sees the device `meta`: no guard is set, no stream waited for."""

    held: torch.Tensor
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "CudaTensor":
        placed = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        with torch.inference_mode(False):  # a view of a parameter could not be told from its own
            self = torch.Tensor._make_wrapper_subclass(cls, held.size(), device="meta", **placed)
        self.held = held
        return self

    def __repr__(self) -> str:
        return f"CudaTensor({self.held})"

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy.")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Computes an operator on the held values. Raises `RuntimeError` where tensors are on two devices."""
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, torch.Tensor)]
    on_gpu = [isinstance(each, CudaTensor) for each in tensors]
    # A number may come from the CPU.
    elsewhere = [tensor for tensor, on in zip(tensors, on_gpu, strict=True) if not on and tensor.dim()]
    moves = func in (aten._to_copy.default, aten.to.device, aten.copy_.default) or (
        func in INDEXED and on_gpu[0]
    )
    if any(on_gpu) and elsewhere and not moves:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found two: {func}")
    to_gpu = on_gpu[0] if func in INDEXED or func is aten.copy_.default else any(on_gpu)
    for device in (each for each in tree_flatten((args, kwargs))[0] if isinstance(each, torch.device)):
        # C++ asks for the device that it sees of a tensor.
        to_gpu = is_cuda(device) or (device.type == "meta" and _Functions.of_gpu > 0)

    def bare(each: Any) -> Any:
        if isinstance(each, torch.device) and (to_gpu or any(on_gpu)):
            return torch.device("cpu")
        return each.held if isinstance(each, CudaTensor) else each

    made = func(*tree_map(bare, args), **tree_map(bare, kwargs))
    if to_gpu:
        made = tree_map(lambda each: CudaTensor(each) if type(each) is torch.Tensor else each, made)
    return return_and_correct_aliasing(func, args, kwargs, made) if any(on_gpu) and to_gpu else made


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Knows while a function works on such a tensor; gives a GPU without a number its own."""

    of_gpu = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.device:
            return func(*args, **kwargs)
        if func is torch.Tensor.pin_memory:
            if isinstance(args[0], CudaTensor):
                raise RuntimeError(
                    "cannot pin 'torch.cuda.FloatTensor': only dense CPU tensors can be pinned"
                )
            return args[0]
        if func is torch.Tensor.__getitem__:  # C++ would put a list of indices where it sees the tensor
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            args = (args[0], tuple(torch.tensor(each) if isinstance(each, list) else each for each in places))
        if func == torch.Tensor.data.__get__ and isinstance(args[0], CudaTensor):
            return CudaTensor(args[0].held)  # C++ would give what it sees
        if func == torch.Tensor.data.__set__ and isinstance(args[1], CudaTensor):
            return torch.utils.swap_tensors(args[0], torch.nn.Parameter(args[1], args[0].requires_grad))
        args, kwargs = tree_map(numbered, (args, kwargs))
        if func in (torch.tensor, torch.as_tensor) and is_cuda(device := kwargs.get("device")):
            # Its values are made before any operator is called.
            args = tree_map(lambda each: each.held if isinstance(each, CudaTensor) else each, args)
            return func(*args, **(kwargs | {"device": "cpu"})).to(device)
        on_gpu = any(isinstance(each, CudaTensor) for each in tree_flatten((args, kwargs))[0])
        _Functions.of_gpu += on_gpu
        try:
            return func(*args, **kwargs)
        finally:
            _Functions.of_gpu -= on_gpu


def numbered(each: Any) -> Any:
    """A device as it is; one without a number would be looked up by CUDA."""
    is_device = isinstance(each, torch.device) or (isinstance(each, str) and each == "cuda")
    return CUDA if is_device and is_cuda(each) else each


SAYS: dict[str, Any] = {
    **{"is_available": True, "is_initialized": True, "device_count": 1, "current_device": 0},
    **{"_lazy_init": None, "set_device": None, "synchronize": None, "empty_cache": None},
    **{"memory_allocated": 0, "max_memory_allocated": 0, "memory_reserved": 0, "max_memory_reserved": 0},
    **{"reset_peak_memory_stats": None, "mem_get_info": (MEMORY, MEMORY), "is_bf16_supported": False},
    **{"manual_seed": None, "manual_seed_all": None, "set_rng_state": None, "set_rng_state_all": None},
    **{"get_rng_state": torch.zeros(16, dtype=torch.uint8), "get_rng_state_all": []},
    **{"get_device_name": "GPU", "get_device_capability": (8, 0), "is_current_stream_capturing": False},
    "get_device_properties": SimpleNamespace(total_memory=MEMORY, name="GPU", major=8, minor=0),
}
"""What `torch.cuda` says of it: nothing is counted."""


_to = torch.nn.Module.to


def moved(module: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
    """A module on the device that is asked for; one that is there keeps its parameters."""
    device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
    there = all(isinstance(each, CudaTensor) for each in module.parameters())
    return module if there and dtype is None and is_cuda(device) else _to(module, *args, **kwargs)


@contextmanager
def fake_cuda() -> Iterator[torch.device]:
    """While it is entered there is a GPU, the device that it gives: tensors are made on and moved to it."""
    overwritten = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with ExitStack() as stack:
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwritten)
        for name, said in SAYS.items():
            for module in (torch.cuda, torch.cuda.random):
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, lambda *_, said=said, **__: said))
        stack.enter_context(mock.patch.object(torch.nn.Module, "to", moved))
        stream = SimpleNamespace(is_capturing=lambda: False)
        stack.enter_context(mock.patch.object(torch.accelerator, "current_stream", return_value=stream))
        run = threading.Thread.run

        def run_on_gpu(thread: threading.Thread) -> None:
            with _Functions(), _Operators():  # each thread has modes of its own
                run(thread)

        stack.enter_context(mock.patch.object(threading.Thread, "run", run_on_gpu))
        stack.enter_context(_Functions())
        stack.enter_context(_Operators())
        yield CUDA

"""The bytes of all tensors that live while a model runs without its numbers, on the meta device.

`training.memory.simulate` runs a model within a `Ledger` and `Kernels`. Tensors of numbers that steer a model
(token ids, masks, sizes of images) are real while they are small; all others have a shape and no content.
"""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

aten = torch.ops.aten
functional = nn.functional

LARGEST_REAL = 1 << 16
"""Numbers of a tensor that is still computed for real: what steers a model is smaller than that."""
MAPPED = 32 << 20
"""Bytes. The C library asks the system for blocks of this size one by one, and gives them back at once
(M_MMAP_THRESHOLD's upper bound, mallopt(3)); smaller ones share a heap, which has holes."""


UNTRUE = (aten.eq, aten.isnan, aten.isinf, aten.lt, aten.le, aten.logical_not, aten.bitwise_not)
"""What a model asks to see whether something is wrong, or missing: it is not."""


class Ledger(TorchDispatchMode):
    """Follows every tensor that is made within it, until nothing refers to it.

    `live` are the bytes in blocks below and from `MAPPED` on, `peak` the most that `cost(*live)` was.
    `holes` is what the heap takes for a byte in a small block.
    """

    def __init__(self, known: Iterable[torch.Tensor], holes: float = 1.0) -> None:
        super().__init__()
        self.known = [tensor.untyped_storage() for tensor in known]
        self.followed: dict[int, Any] = {id(storage): storage for storage in self.known}
        self.live = [0, 0]
        self.holes = holes
        self.peak = 0.0

    def cost(self) -> float:
        return self.live[0] * self.holes + self.live[1]

    def add(self, small: int, large: int) -> None:
        """Bytes that live from now on without a tensor; negative ones end."""
        self.live[0] += small
        self.live[1] += large
        self.peak = max(self.peak, self.cost())

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = _without_numbers(func, args, dict(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor):
                self._follow(tensor)
        return made

    def _follow(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self.followed:
            return
        which = int(size >= MAPPED)

        def gone(_: object) -> None:
            self.live[which] -= size
            del self.followed[key]

        self.followed[key] = weakref.ref(storage, gone)
        self.live[which] += size
        self.peak = max(self.peak, self.cost())


def _without_numbers(func: Any, args: tuple, kwargs: dict) -> Any:
    """What an operation returns: real where all it reads is real and small, else on the meta device.

    A number that is read off a tensor without content is 0, and every entry of a mask without content is
    true: a model asks whether something is wrong, and which of its images are there.
    """
    on_meta = any(tensor.is_meta for tensor in _tensors((args, kwargs)))
    if not on_meta:
        return _real(func, args, kwargs)
    if func in (aten._local_scalar_dense.default, aten.is_nonzero.default):
        return args[0].dtype.is_floating_point and 1.0  # 1.0 or False, which is 0
    if func is aten.nonzero.default:
        return torch.empty(args[0].numel(), args[0].dim(), dtype=torch.long, device="meta")
    if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
        args = (args[0], _as_positions(args[1]), *args[2:])
    if "device" in kwargs:
        kwargs["device"] = torch.device("meta")
    made = func(*_to_meta(args), **_to_meta(kwargs))
    if _is_small_mask(made):
        return torch.full(made.shape, func.overloadpacket not in UNTRUE)
    changed_in_place = func._schema.is_mutable and isinstance(made, torch.Tensor)
    return args[0] if changed_in_place and "out" not in kwargs else made


def _is_small_mask(made: Any) -> bool:
    """Such as: which images of a batch are there. A single answer is no mask."""
    is_mask = isinstance(made, torch.Tensor) and made.dtype == torch.bool and made.dim() > 0
    return is_mask and made.numel() <= LARGEST_REAL


def _real(func: Any, args: tuple, kwargs: dict) -> Any:
    """Tensors of whole numbers stay in memory, wherever a model wants them, while they are small."""
    wanted = kwargs.get("device")
    if wanted is not None and torch.device(wanted).type == "meta" and not _makes_floats(func, args, kwargs):
        kwargs["device"] = torch.device("cpu")
    if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
        return func(*args, **kwargs)
    shapes = {**kwargs, "device": torch.device("meta")} if "device" in kwargs else kwargs
    made = func(*_to_meta(args), **_to_meta(shapes))
    if any(tensor.numel() > LARGEST_REAL for tensor in _tensors(made)):
        return made
    return func(*args, **kwargs)


def _makes_floats(func: Any, args: tuple, kwargs: dict) -> bool:
    dtype = kwargs.get("dtype")
    if dtype is None:
        given = [*_tensors(args)]
        numbers = [number for number in tree_iter(args) if isinstance(number, int | float)]
        whole = func.overloadpacket is aten.arange and not any(isinstance(n, float) for n in numbers)
        return given[0].is_floating_point() if given else not whole
    return dtype.is_floating_point


def _as_positions(indices: Any) -> list[torch.Tensor | None]:
    """Masks among the indices as lists of positions, as many as there are true entries."""
    found: list[torch.Tensor | None] = []
    for index in indices:
        if index is None or index.dtype not in (torch.bool, torch.uint8):
            found.append(index)
        else:
            count = index.numel() if index.is_meta else int(index.sum())
            found += [torch.empty(count, dtype=torch.long, device="meta")] * index.dim()
    return found


def _tensors(tree: Any) -> Iterable[torch.Tensor]:
    return (leaf for leaf in tree_iter(tree) if isinstance(leaf, torch.Tensor))


def _to_meta(tree: Any) -> Any:
    def moved(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_meta:
            return tensor
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

    return tree_map_only(torch.Tensor, moved, tree)


class Kernels(TorchFunctionMode):
    """What a device computes in one piece, where the meta device takes it apart: attention, and dropout.

    With `autocast`, matrices are multiplied in that type, and what needs range is computed in fp32, as in
    torch.autocast, which does not act on the meta device.
    """

    LOW = (functional.linear, functional.conv2d, torch.matmul, torch.Tensor.matmul, torch.bmm)
    FULL = (functional.layer_norm, functional.softmax, torch.softmax, functional.cross_entropy)

    def __init__(self, device: str, autocast: torch.dtype | None) -> None:
        super().__init__()
        self.device = device
        self.autocast = autocast

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if func is functional.dropout and self.device == "cuda":
            return self._dropout(*args, **kwargs)
        if self.autocast is not None and func in self.LOW:
            args, kwargs = _cast(self.autocast, (args, kwargs))
        elif self.autocast is not None and func in self.FULL:
            args, kwargs = _cast(torch.float32, (args, kwargs))
        return func(*args, **kwargs)

    def _attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        """Flash attention, which keeps no matrix of attention weights (arXiv:2205.14135), where it can be."""
        query, key, value = (
            tensor if self.autocast is None else _cast(self.autocast, tensor)
            for tensor in (query, key, value)
        )
        groups = query.shape[1] // key.shape[1] if enable_gqa else 1
        if groups > 1:
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        if attn_mask is not None:  # added to the scores, so it has their type
            attn_mask = torch.empty(attn_mask.shape, dtype=query.dtype, device="meta")
        in_one_piece = query.dim() == 4 and query.shape[-1] == value.shape[-1]
        if not in_one_piece or (dropout_p > 0 and self.device == "cpu"):
            return functional.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale
            )
        return aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale
        )[0]

    def _dropout(
        self, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> torch.Tensor:
        return aten.native_dropout(input, p, training)[0] if training and p > 0 else input


def _cast(dtype: torch.dtype, tree: Any) -> Any:
    return tree_map_only(torch.Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, tree)

"""Tensor memory tracker: the bytes of all tensors that live while a model runs on the meta device.

`training.memory.simulate` runs a model within a `TensorTracker` and `Kernels`. Small integer tensors that
steer a model (token ids, masks, sizes of images) are real; all others have a shape and no content.
"""

import inspect
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

aten = torch.ops.aten
functional = nn.functional

# Elements. What steers a model is smaller; a batch's activations are larger.
LARGEST_REAL = 1 << 16
# Bytes. The C library asks the system for blocks of this size one by one, and returns them at once
# (M_MMAP_THRESHOLD's upper bound, mallopt(3)); smaller ones share a heap, which has holes.
MAPPED = 32 << 20
# Models ask these whether something is wrong, or missing. Of a tensor without content the answer is no.
FALSE_WITHOUT_CONTENT = (
    *(aten.eq, aten.isnan, aten.isinf, aten.lt, aten.le),
    *(aten.logical_not, aten.bitwise_not),
)
DROPOUT = inspect.signature(functional.dropout)

Operation = Callable[[Any, tuple, dict], Any]


def run_on_meta(func: Any, args: tuple, kwargs: dict) -> Any:
    """Runs an operation: for real where all it reads is real and small, else on the meta device.

    A number read off a tensor without content is 0, and every entry of a mask without content is true: models
    ask whether something is wrong, and which of their images are there.
    """
    if not any(tensor.is_meta for tensor in _tensors((args, kwargs))):
        return _run_small(func, args, kwargs)
    if func in (aten._local_scalar_dense.default, aten.is_nonzero.default):
        return args[0].dtype.is_floating_point and 1.0  # 1.0 or False, which is 0
    if func is aten.nonzero.default:  # its shape depends on content; every entry is taken for true
        return torch.empty(args[0].numel(), args[0].dim(), dtype=torch.long, device="meta")
    if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
        # The meta device can't count a mask's true entries: positions, as many as there would be, stand in.
        positions: list[torch.Tensor | None] = []
        for index in args[1]:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                positions.append(index)
            else:
                count = index.numel() if index.is_meta else int(index.sum())
                positions += [torch.empty(count, dtype=torch.long, device="meta")] * index.dim()
        args = (args[0], positions, *args[2:])
    if "device" in kwargs:
        kwargs["device"] = torch.device("meta")
    made = func(*_to_meta(args), **_to_meta(kwargs))
    is_tensor = isinstance(made, torch.Tensor)
    # A mask says such as which images of a batch are there; a tensor of no dimensions is an answer, no mask.
    if is_tensor and made.dtype == torch.bool and made.dim() > 0 and made.numel() <= LARGEST_REAL:
        return torch.full(made.shape, func.overloadpacket not in FALSE_WITHOUT_CONTENT)
    # What is changed in place stays the object that it was, or it would be counted twice.
    return args[0] if func._schema.is_mutable and is_tensor and "out" not in kwargs else made


def _run_small(func: Any, args: tuple, kwargs: dict) -> Any:
    """Runs an operation on real tensors; on the meta device where its result would be large.

    Integer tensors stay real even where a model wants them on the meta device: their numbers steer it.
    """
    wanted = kwargs.get("device")
    if wanted is not None and torch.device(wanted).type == "meta":
        dtype, given = kwargs.get("dtype"), [*_tensors(args)]
        if dtype is not None:
            makes_floats = dtype.is_floating_point
        elif given:
            makes_floats = given[0].is_floating_point()
        else:  # arange makes integers of integers; every other factory is taken for one of floats
            makes_floats = func.overloadpacket is not aten.arange or any(
                isinstance(number, float) for number in tree_iter(args)
            )
        if not makes_floats:
            kwargs["device"] = torch.device("cpu")
    if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
        return func(*args, **kwargs)
    # Tried on the meta device first: a large result would take the memory that is to be estimated.
    shapes = {**kwargs, "device": torch.device("meta")} if "device" in kwargs else kwargs
    made = func(*_to_meta(args), **_to_meta(shapes))
    too_large = any(tensor.numel() > LARGEST_REAL for tensor in _tensors(made))
    return made if too_large else func(*args, **kwargs)


class TensorTracker(TorchDispatchMode):
    """Follows every tensor that is made within it, until nothing refers to it.

    `live` are the bytes in blocks below and from `MAPPED` on; `peak` is the most that they took, with each
    byte below counted `fragmentation` times. Storages of `known` tensors aren't counted. `run` carries out an
    operation.
    """

    def __init__(
        self, known: Iterable[torch.Tensor], fragmentation: float = 1.0, run: Operation = run_on_meta
    ) -> None:
        super().__init__()
        self.known = [tensor.untyped_storage() for tensor in known]
        # Entries go with their storages: an id may be another's after that.
        self.followed = weakref.WeakValueDictionary({id(storage): storage for storage in self.known})
        self.live = [0, 0]
        self.fragmentation = fragmentation
        self.peak = 0.0
        self.run = run

    def add(self, small: int, large: int) -> None:
        """Counts bytes that live from now on without a tensor; negative ones end."""
        self.live[0] += small
        self.live[1] += large
        self.peak = max(self.peak, self.live[0] * self.fragmentation + self.live[1])

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = self.run(func, args, dict(kwargs or {}))
        for tensor in _tensors(made):
            # Views share a storage, so that is what is counted, once; its id is its own while it lives.
            storage = tensor.untyped_storage()
            key, size = id(storage), storage.nbytes()
            if key not in self.followed:
                small, large = (0, size) if size >= MAPPED else (size, 0)
                self.followed[key] = storage
                # Runs when nothing refers to the storage any more, wherever autograd drops it.
                weakref.finalize(storage, self.add, -small, -large).atexit = False
                self.add(small, large)
        return made


class Kernels(TorchFunctionMode):
    """Fused kernels, where the meta device takes an operation apart: attention, and dropout on a GPU.

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
            bound = DROPOUT.bind(*args, **kwargs)
            bound.apply_defaults()
            x, p, training, _ = bound.arguments.values()
            # The fused kernel keeps a mask of bytes for the backward pass, not one of the input's type.
            return aten.native_dropout(x, p, training)[0] if training and p > 0 else x
        if self.autocast is not None and func in self.LOW:
            args, kwargs = _to_dtype(self.autocast, (args, kwargs))
        elif self.autocast is not None and func in self.FULL:
            args, kwargs = _to_dtype(torch.float32, (args, kwargs))
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
        """Flash attention, which keeps no matrix of attention weights (arXiv:2205.14135), where it can be.

        query, key, value: [B, heads, tokens, head_dim]
        """
        if self.autocast is not None:
            query, key, value = _to_dtype(self.autocast, (query, key, value))
        groups = query.shape[1] // key.shape[1] if enable_gqa else 1
        if groups > 1:
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        if attn_mask is not None:  # added to the scores, so it has their type
            attn_mask = torch.empty(attn_mask.shape, dtype=query.dtype, device="meta")
        in_one_piece = query.dim() == 4 and query.shape[-1] == value.shape[-1]
        # The CPU's flash kernel has no dropout: with one, torch falls back to the matrix.
        if not in_one_piece or (dropout_p > 0 and self.device == "cpu"):
            return functional.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale
            )
        # The CPU's kernel stands for CUDA's as well: what both keep is the output and one number for each
        # row.
        return aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale
        )[0]


def _tensors(tree: Any) -> Iterable[torch.Tensor]:
    return (leaf for leaf in tree_iter(tree) if isinstance(leaf, torch.Tensor))


def _to_meta(tree: Any) -> Any:
    # With the strides: a kernel's output, and whether a view is possible, depend on them.
    return tree_map_only(
        torch.Tensor,
        lambda t: t if t.is_meta else torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta"),
        tree,
    )


def _to_dtype(dtype: torch.dtype, tree: Any) -> Any:
    return tree_map_only(torch.Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, tree)

"""ONNX operators in PyTorch: shapes, gathering, reductions, orders. `torch_operators` lists them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from goodparts.engines.torch_layers import sides_of

Numbers = Sequence[Any]


# ---- shapes


def reshape(x: Tensor, shape: Numbers, *, allowzero: int = 0) -> Tensor:
    """As ONNX's Reshape."""
    sizes = [x.shape[place] if size == 0 and not allowzero else int(size) for place, size in enumerate(shape)]
    return x.reshape(sizes)


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """As ONNX's Flatten."""
    axis = axis % x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


def transpose(x: Tensor, *, perm: Numbers | None = None) -> Tensor:
    """As ONNX's Transpose."""
    return x.permute(list(perm) if perm is not None else list(reversed(range(x.dim()))))


def squeeze(x: Tensor, axes: Numbers | None = None) -> Tensor:
    """As ONNX's Squeeze."""
    return x.squeeze() if axes is None else x.squeeze(tuple(int(axis) for axis in axes))


def unsqueeze(x: Tensor, axes: Numbers) -> Tensor:
    """As ONNX's Unsqueeze."""
    for axis in sorted(int(axis) % (x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def concat(*values: Tensor, axis: int) -> Tensor:
    """As ONNX's Concat."""
    return torch.cat(values, axis)


def split(
    x: Tensor, sizes: Numbers | None = None, *, axis: int = 0, num_outputs: int | None = None
) -> tuple[Tensor, ...]:
    """As ONNX's Split."""
    if sizes is not None:
        return torch.split(x, [int(size) for size in sizes], axis)
    assert num_outputs is not None
    return torch.split(x, math.ceil(x.shape[axis] / num_outputs), axis)


def cut(
    x: Tensor, starts: Numbers, ends: Numbers, axes: Numbers | None = None, steps: Numbers | None = None
) -> Tensor:
    """As ONNX's Slice."""
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        length = x.shape[axis]
        if step < 0:
            places = list(range(length))[slice(start, None if end < -length else end, step)]
            x = x.index_select(axis, torch.tensor(places, dtype=torch.int64, device=x.device))
        else:
            part: list[slice] = [slice(None)] * x.dim()
            part[axis] = slice(start, end, step)
            x = x[tuple(part)]
    return x


def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """As ONNX's Gather."""
    axis = axis % x.dim()
    length = x.shape[axis]
    flat = indices.reshape(-1).long()
    flat = torch.where(flat < 0, flat + length, flat)
    found = x.index_select(axis, flat)
    return found.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """As ONNX's GatherElements."""
    indices = indices.long()
    return torch.gather(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices))


def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """As ONNX's GatherND."""
    batch = x.shape[:batch_dims]
    rows = [
        torch.arange(size, device=x.device).reshape(
            [-1 if place == axis else 1 for place in range(indices.dim() - 1)]
        )
        for axis, size in enumerate(batch)
    ]
    where = [
        torch.where(part < 0, part + x.shape[batch_dims + place], part)
        for place, part in enumerate(indices.long().unbind(-1))
    ]
    return x[(*rows, *where)]


def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """As ONNX's ScatterND."""
    if reduction != "none":
        raise NotImplementedError(f"reduction {reduction}")
    found = x.clone()
    found[tuple(indices.long().unbind(-1))] = updates
    return found


def expand(x: Tensor, shape: Numbers) -> Tensor:
    """As ONNX's Expand."""
    return x.expand(torch.broadcast_shapes(x.shape, shape))  # type: ignore[no-untyped-call]


def tile(x: Tensor, repeats: Numbers) -> Tensor:
    """As ONNX's Tile."""
    return x.repeat([int(count) for count in repeats])


def pad(
    x: Tensor,
    pads: Numbers,
    value: Numbers | None = None,
    axes: Numbers | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    """As ONNX's Pad."""
    rank = x.dim()
    which = list(range(rank)) if axes is None else [int(axis) % rank for axis in axes]
    begin, end = [0] * rank, [0] * rank
    for place, axis in enumerate(which):
        begin[axis], end[axis] = int(pads[place]), int(pads[place + len(which)])
    sides = sides_of([*begin, *end], rank)
    if mode == "constant":
        return F.pad(x, sides, value=value[0] if value else 0)
    while len(sides) > 2 and not any(sides[-2:]):
        sides = sides[:-2]
    modes = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    lead = rank - len(sides) // 2
    flat = x.reshape(1, -1, *x.shape[lead:]) if lead != 2 else x
    return F.pad(flat, sides, mode=modes[mode]).reshape(
        [size + begin[axis] + end[axis] for axis, size in enumerate(x.shape)]
    )


def trilu(x: Tensor, k: Numbers | None = None, *, upper: int = 1) -> Tensor:
    """As ONNX's Trilu."""
    return (torch.triu if upper else torch.tril)(x, int(k[0]) if k else 0)


def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """As ONNX's DepthToSpace."""
    n, c, h, w = x.shape
    b = blocksize
    if mode == "CRD":
        return F.pixel_shuffle(x, b)
    return (
        x.reshape(n, b, b, c // (b * b), h, w)
        .permute(0, 3, 4, 1, 5, 2)
        .reshape(n, c // (b * b), h * b, w * b)
    )


def space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    """As ONNX's SpaceToDepth."""
    n, c, h, w = x.shape
    b = blocksize
    return (
        x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)
    )


# ---- reductions and orders


def reduction(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """ONNX's ReduceSum and the like, of what reduces axes."""

    def reduce(
        x: Tensor, axes: Numbers | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Tensor:
        if not axes:
            if noop_with_empty_axes:
                return x
            axes = range(x.dim())
        return function(x, dim=tuple(int(axis) for axis in axes), keepdim=bool(keepdims))

    return reduce


def sum_square(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    """Sum of squares over axes."""
    return (x * x).sum(dim=dim, keepdim=keepdim)


def l1(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    """Sum of absolute values over axes."""
    return x.abs().sum(dim=dim, keepdim=keepdim)


def l2(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    """Euclidean norm over axes."""
    return sum_square(x, dim, keepdim).sqrt()


def product(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    """Product over axes."""
    for axis in sorted((axis % x.dim() for axis in dim), reverse=True):
        x = x.prod(dim=axis, keepdim=keepdim)
    return x


def top_k(
    x: Tensor, k: Numbers, *, axis: int = -1, largest: int = 1, sorted: int = 1
) -> tuple[Tensor, Tensor]:
    """As ONNX's TopK."""
    values, indices = torch.topk(x, int(k[0]), axis, bool(largest), bool(sorted))
    return values, indices


def arg(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """ONNX's ArgMax and ArgMin, of what finds them along an axis."""

    def arg(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
        if select_last_index:
            raise NotImplementedError("select_last_index")
        return function(x, dim=axis, keepdim=bool(keepdims))

    return arg


def cumulative_sum(x: Tensor, axis: Numbers, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """As ONNX's CumSum."""
    if exclusive or reverse:
        raise NotImplementedError("exclusive, reverse")
    return torch.cumsum(x, int(axis[0]))


def of_range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """As ONNX's Range."""
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype, device=start.device)


def constant_of_shape(shape: Tensor, *, value: Tensor | None = None) -> Tensor:
    """As ONNX's ConstantOfShape."""
    sizes = [int(size) for size in shape.tolist()]
    if value is None:
        return torch.zeros(sizes, device=shape.device)
    return value.to(shape.device).expand(sizes).clone() if sizes else value.to(shape.device).reshape(())

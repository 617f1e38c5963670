"""ONNX operators in PyTorch: convolutions, pools, resizing, normalisations, products; `torch_operators` lists them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

Numbers = Sequence[Any]


# ---- convolutions and pools


def sides_of(pads: Numbers | None, rank: int) -> list[int]:
    """Padding as `torch.nn.functional.pad` takes it: last axis first, begin and end of each."""
    pads = [0] * 2 * rank if pads is None else list(pads)
    return [side for axis in reversed(range(rank)) for side in (pads[axis], pads[axis + rank])]


def _auto_pads(
    size: Numbers, kernel: Numbers, strides: Numbers, dilations: Numbers, auto_pad: str
) -> list[int]:
    totals = [
        max(0, (math.ceil(s / stride) - 1) * stride + (k - 1) * dilation + 1 - s)
        for s, k, stride, dilation in zip(size, kernel, strides, dilations, strict=True)
    ]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return [*small, *large] if auto_pad == "SAME_UPPER" else [*large, *small]


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Numbers | None = None,
    group: int = 1,
    kernel_shape: Numbers | None = None,
    pads: Numbers | None = None,
    strides: Numbers | None = None,
) -> Tensor:
    """As ONNX's Conv."""
    rank = x.dim() - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        pads = _auto_pads(x.shape[2:], weight.shape[2:], strides, dilations, auto_pad)
    pads = list(pads or [0] * 2 * rank)
    padding = pads[:rank]
    if padding != pads[rank:]:
        x, padding = F.pad(x, sides_of(pads, rank)), [0] * rank
    convolve = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    return convolve(x, weight, bias, list(strides), padding, list(dilations), group)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dilations: Numbers | None = None,
    group: int = 1,
    kernel_shape: Numbers | None = None,
    output_padding: Numbers | None = None,
    pads: Numbers | None = None,
    strides: Numbers | None = None,
) -> Tensor:
    """As ONNX's ConvTranspose."""
    rank = x.dim() - 2
    pads = list(pads or [0] * 2 * rank)
    if pads[:rank] != pads[rank:]:
        raise NotImplementedError("pads that differ at begin and end")
    convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    more = list(output_padding or [0] * rank)
    return convolve(
        x, weight, bias, list(strides or [1] * rank), pads[:rank], more, group, list(dilations or [1] * rank)
    )


def _pool_padding(
    x: Tensor, kernel: Numbers, strides: Numbers, dilations: Numbers, pads: Numbers | None, auto_pad: str
) -> list[int]:
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        return _auto_pads(x.shape[2:], kernel, strides, dilations, auto_pad)
    return list(pads or [0] * 2 * (x.dim() - 2))


def max_pool(
    x: Tensor,
    *,
    kernel_shape: Numbers,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Numbers | None = None,
    pads: Numbers | None = None,
    storage_order: int = 0,
    strides: Numbers | None = None,
) -> Tensor:
    """As ONNX's MaxPool."""
    rank = x.dim() - 2
    strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
    pads = _pool_padding(x, kernel_shape, strides, dilations, pads, auto_pad)
    if any(pads):
        x = F.pad(x, sides_of(pads, rank), value=-math.inf)
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
    found: Tensor = pool(x, list(kernel_shape), strides, 0, dilations, bool(ceil_mode))
    return found


def average_pool(
    x: Tensor,
    *,
    kernel_shape: Numbers,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Numbers | None = None,
    pads: Numbers | None = None,
    strides: Numbers | None = None,
) -> Tensor:
    """As ONNX's AveragePool."""
    rank = x.dim() - 2
    strides = list(strides or [1] * rank)
    pads = _pool_padding(x, kernel_shape, strides, [1] * rank, pads, auto_pad)
    if any(dilation != 1 for dilation in dilations or ()):
        raise NotImplementedError("dilations of an average")
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
    if pads[:rank] == pads[rank:] and all(2 * p <= k for p, k in zip(pads, kernel_shape, strict=False)):
        return pool(x, list(kernel_shape), strides, pads[:rank], bool(ceil_mode), bool(count_include_pad))
    sides = sides_of(pads, rank)
    mean = pool(F.pad(x, sides), list(kernel_shape), strides, 0, bool(ceil_mode))
    if count_include_pad:
        return mean
    ones = F.pad(torch.ones_like(x[:1, :1]), sides)
    return mean / pool(ones, list(kernel_shape), strides, 0, bool(ceil_mode))


def over_image(reduce: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    """A reduction over all places of an image."""
    return lambda x: reduce(x, dim=tuple(range(2, x.dim())), keepdim=True)


def resize(
    x: Tensor,
    roi: Tensor | None = None,
    scales: Numbers | None = None,
    sizes: Numbers | None = None,
    *,
    axes: Numbers | None = None,
    antialias: int = 0,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """As ONNX's Resize."""
    ways = coordinate_transformation_mode
    if keep_aspect_ratio_policy != "stretch" or ways == "tf_crop_and_resize" or exclude_outside:
        raise NotImplementedError(f"{ways}, {keep_aspect_ratio_policy}")
    which = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in axes]
    target = list(x.shape)
    for place, axis in enumerate(which):
        target[axis] = (
            int(sizes[place]) if sizes else math.floor(x.shape[axis] * (scales or [1.0] * x.dim())[place])
        )
    if target[:2] != list(x.shape[:2]):
        raise NotImplementedError("of the first two axes")
    if antialias and mode != "nearest":
        return F.interpolate(
            x, target[2:], mode="bilinear" if mode == "linear" else "bicubic", antialias=True
        )
    if mode == "cubic":
        if ways not in ("half_pixel", "pytorch_half_pixel", "align_corners") or cubic_coeff_a != -0.75:
            raise NotImplementedError(f"cubic, {ways}, {cubic_coeff_a}")
        return F.interpolate(x, target[2:], mode="bicubic", align_corners=ways == "align_corners")
    for axis in range(2, x.dim()):
        length, wanted = x.shape[axis], target[axis]
        if length == wanted:
            continue
        scale = length / wanted
        if scales and not sizes:
            scale = 1 / scales[which.index(axis)]
        at = _coordinates(wanted, length, scale, ways, x.device)
        if mode == "nearest":
            x = x.index_select(axis, _nearest(at, nearest_mode).long().clamp(0, length - 1))
            continue
        at = at.clamp(0, length - 1)
        low = at.floor().long().clamp(max=max(length - 2, 0))
        share = (at - low).to(x.dtype).reshape([-1] + [1] * (x.dim() - axis - 1))
        high = (low + 1).clamp(max=length - 1)
        x = x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share
    return x


def _coordinates(wanted: int, length: int, scale: float, ways: str, device: torch.device) -> Tensor:
    i = torch.arange(wanted, device=device, dtype=torch.float64 if device.type != "mps" else torch.float32)
    if ways == "asymmetric":
        return i * scale
    if ways == "align_corners":
        return i * ((length - 1) / (wanted - 1)) if wanted > 1 else i * 0
    if ways == "pytorch_half_pixel" and wanted == 1:
        return i * 0
    return (i + 0.5) * scale - 0.5


def _nearest(at: Tensor, how: str) -> Tensor:
    if how == "floor":
        return at.floor()
    if how == "ceil":
        return at.ceil()
    return (at - 0.5).ceil() if how == "round_prefer_floor" else (at + 0.5).floor()


# ---- normalisations


def batch_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Tensor:
    """As ONNX's BatchNormalization."""
    if training_mode:
        raise NotImplementedError("training_mode")
    return F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)


def layer_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    """As ONNX's LayerNormalization."""
    shape = x.shape[axis % x.dim() :]
    return F.layer_norm(x, shape, scale.expand(shape), None if bias is None else bias.expand(shape), epsilon)


def group_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    """As ONNX's GroupNormalization."""
    if len(scale) != x.shape[1]:  # before opset 21: one a group
        scale, bias = (value.repeat_interleave(x.shape[1] // num_groups) for value in (scale, bias))
    return F.group_norm(x, num_groups, scale, bias, epsilon)


def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """As ONNX's Softmax."""
    return torch.softmax(x, axis)


def lrn(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    """As ONNX's LRN."""
    return F.local_response_norm(x, size, alpha, beta, bias)


# ---- products


def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803
    transB: int = 0,  # noqa: N803
) -> Tensor:
    """As ONNX's Gemm."""
    product = (a.T if transA else a) @ (b.T if transB else b)
    product = product if alpha == 1 else alpha * product
    return product if c is None else product + (c if beta == 1 else beta * c)


def einsum(*operands: Tensor, equation: str) -> Tensor:
    """As ONNX's Einsum."""
    return torch.einsum(equation, *operands)

"""Vision transformers as ONNX, from their parameters under the names that timm gives them.

ViT (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929) as DINO (Caron et al. 2021,
https://arxiv.org/abs/2104.14294) trained it, with LayerScale as DINOv2 did (Oquab et al. 2023,
https://arxiv.org/abs/2304.07193), with registers (Darcet et al. 2023, https://arxiv.org/abs/2309.16588), and with
rotary position embeddings as DINOv3 did (Siméoni et al. 2025, https://arxiv.org/abs/2508.10104).

The graph works at any size: position embeddings are brought to the image's grid of patches inside of it, and an engine
that knows the size computes them once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt, pi, sqrt

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from goodparts.backbones.network import INPUT, Network, State, parameter, refuse_unknown
from goodparts.errors import BackboneError

SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large"}  # by their dimensions
HEAD = 64  # dimensions of an attention head in all of them
EPSILON, EPSILON_OF_ROTARY = 1e-6, 1e-5  # of LayerNorm
MOST_PATCHES = 2048  # along an axis: 16,384 pixels in patches of 8
LONGEST_PERIOD = 100  # of rotary embeddings, in units of half the image
CUBIC = -0.5  # coefficient a of Keys' cubic convolution (1981), as Pillow and PyTorch take it with antialias


@dataclass(frozen=True)
class _Architecture:
    dimensions: int
    patch: int
    depth: int
    registers: int
    rotary: bool

    @property
    def name(self) -> str:
        registers = f"_reg{self.registers}" if self.registers else ""
        return f"vit_{SIZES[self.dimensions]}_patch{self.patch}{registers}{'_rope' if self.rotary else ''}"

    @property
    def epsilon(self) -> float:
        return EPSILON_OF_ROTARY if self.rotary else EPSILON

    @property
    def heads(self) -> int:
        return self.dimensions // HEAD

    @property
    def prefix(self) -> int:
        """Tokens before those of the patches: class and registers."""
        return 1 + self.registers


def is_vision_transformer(state: State) -> bool:
    """Whether these parameters look like those of a vision transformer."""
    return "patch_embed.proj.weight" in state and "blocks.0.attn.qkv.weight" in state


def build_vision_transformer(state: State) -> onnx.ModelProto:
    """Build the ONNX graph of a vision transformer: DINO, DINOv2 with or without registers, DINOv3, and their like.

    Args:
        state: parameters by name ("cls_token", "blocks.0.attn.qkv.weight", "blocks.0.ls1.gamma", ...), of any floating
            type. "head" is left out; the last blocks may be missing. Meta's own names of DINOv2 are understood, too.

    Returns:
        A graph from "image", float32 (n, 3, h, w), to tokens (n, 1 + registers + patches, d): "block1" .. "block12",
        "norm" (the last block's, through the final LayerNorm) and "unit" (those, each divided by its length, so that
        the square of a distance is twice one minus the cosine). There are h / patch x w / patch patches, row by row.

    Raises:
        BackboneError: a parameter is missing, misshapen or no part of such a network.
    """
    state = _with_timms_names(state)
    architecture = _architecture(state)
    network = Network()
    x = _embed(network, state, architecture)
    rotation = _rotation(network, architecture) if architecture.rotary else None
    used = ["cls_token", "reg_token", "mask_token", "pos_embed", "patch_embed.proj.", "norm.", "head."]
    for index in range(architecture.depth):
        x = _block(network, state, x, index, architecture, rotation)
        modules = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        used += [f"blocks.{index}.{module}." for module in modules]
        scales = ("gamma_1", "gamma_2") if architecture.rotary else ("ls1.gamma", "ls2.gamma")
        used += [f"blocks.{index}.{scale}" for scale in scales]
    refuse_unknown(state, used, architecture.name)
    x = _layer_norm(network, state, x, "norm", "norm", architecture)
    length = network.node(
        "ReduceL2", [x, network.constant(np.array([-1]), "last")], "norm.length", keepdims=1
    )
    network.channels["unit"] = architecture.dimensions
    network.node("Div", [x, length], "unit")
    blocks = [f"block{index + 1}" for index in range(architecture.depth)]
    return network.model(architecture.name, [*blocks, "norm", "unit"], tokens=True)


def _with_timms_names(state: State) -> State:
    """The same parameters; where Meta's file keeps registers beside the position of the class token, as timm has it."""
    if "register_tokens" not in state:
        return state
    renamed = dict(state)
    renamed["reg_token"] = renamed.pop("register_tokens")
    dimensions = parameter(state, "register_tokens", (1, None, None)).shape[2]
    positions = parameter(state, "pos_embed", (1, None, dimensions))
    renamed["cls_token"] = parameter(state, "cls_token", (1, 1, dimensions)) + positions[:, :1]
    renamed["pos_embed"] = positions[:, 1:]
    return renamed


def _architecture(state: State) -> _Architecture:
    weight = parameter(state, "patch_embed.proj.weight", (None, 3, None, None))
    dimensions, _, patch, _ = weight.shape
    if dimensions not in SIZES:
        raise BackboneError(
            f"a vision transformer of {dimensions} dimensions; expected one of {', '.join(map(str, SIZES))}"
        )
    depth = 0
    while f"blocks.{depth}.attn.qkv.weight" in state:
        depth += 1
    registers = parameter(state, "reg_token", (1, None, dimensions)).shape[1] if "reg_token" in state else 0
    rotary = "blocks.0.gamma_1" in state and "pos_embed" not in state
    return _Architecture(dimensions, patch, depth, registers, rotary)


# ---- tokens and where they are


def _embed(network: Network, state: State, architecture: _Architecture) -> str:
    """All tokens (n, prefix + patches, d); "rows" and "columns" are then the numbers of patches, float32 (1,)."""
    d, patch = architecture.dimensions, architecture.patch
    weight = parameter(state, "patch_embed.proj.weight", (d, 3, patch, patch)).astype(np.float32)
    bias = parameter(state, "patch_embed.proj.bias", (d,)).astype(np.float32)
    maps = network.convolution(INPUT, "patch_embed", (weight, bias), stride=patch)
    for axis, name in ((2, "rows"), (3, "columns")):
        size = network.node("Shape", [maps], f"{name}.size", start=axis, end=axis + 1)
        network.node("Cast", [size], name, to=TensorProto.FLOAT)
    x = network.node("Reshape", [maps, network.constant(np.array([0, d, -1]), "as_row")], "patches.row")
    x = network.node("Transpose", [x], "patches", perm=[0, 2, 1])
    prefix = parameter(state, "cls_token", (1, 1, d))
    if not architecture.rotary:
        of_class, of_patches = _positions(state, d)
        prefix = prefix + of_class
        positions = _resampled(network, of_patches)
        x = network.node("Add", [x, positions], "patches.placed")
    if architecture.registers:
        prefix = np.concatenate([prefix, parameter(state, "reg_token", (1, None, d))], axis=1)
    images = network.node("Shape", [maps], "images", start=0, end=1)
    sizes = network.node(
        "Concat", [images, network.constant(np.array(prefix.shape[1:]), "prefix.size")], "sizes", axis=0
    )
    tokens = network.constant(prefix.astype(np.float32), "prefix.tokens")
    tokens = network.node("Expand", [tokens, sizes], "prefix")
    return network.node("Concat", [tokens, x], "embedded", axis=1)


def _positions(state: State, dimensions: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Position embeddings of the class token (1, 1, d), perhaps 0, and of a square of patches (side, side, d)."""
    positions = parameter(state, "pos_embed", (1, None, dimensions))
    of_class = np.zeros((1, 1, dimensions))
    count = positions.shape[1]
    if isqrt(count) ** 2 != count:
        of_class, positions = positions[:, :1], positions[:, 1:]
    side = isqrt(positions.shape[1])
    if side == 0 or side**2 != positions.shape[1]:
        raise BackboneError(
            f"parameter pos_embed holds {count} positions; expected those of a square of patches"
        )
    return of_class, positions.reshape(side, side, dimensions)


def _resampled(network: Network, positions: NDArray[np.float64]) -> str:
    """Position embeddings of other grids, (1, patches, d): bicubic with antialias, as timm's `resample_abs_pos_embed`.

    One matrix product for each axis. For the grid that it was trained on both matrices are 1.
    """
    side, _, d = positions.shape
    wide = network.constant(positions.reshape(side, side * d).astype(np.float32), "positions.trained")
    down = network.node("MatMul", [_cubic(network, "rows", side), wide], "positions.down")
    tall = network.node(
        "Reshape", [down, network.constant(np.array([-1, side, d]), "as_grid")], "positions.grid"
    )
    both = network.node("MatMul", [_cubic(network, "columns", side), tall], "positions.both")
    return network.node("Reshape", [both, network.constant(np.array([1, -1, d]), "as_sequence")], "positions")


def _cubic(network: Network, axis: str, side: int) -> str:
    """Weights (patches, side) of cubic convolution along "rows" or "columns", from `side` cells to patches."""

    def number(value: float) -> str:
        known = f"{axis}.{value:g}"
        if known not in (tensor.name for tensor in network.weights):
            network.constant(np.array([value], np.float32), known)
        return known

    def node(operator: str, *inputs: str) -> str:
        return network.node(operator, inputs, f"{axis}.{operator}{len(network.nodes)}")

    def polynomial(x: str, *coefficients: float) -> str:
        value = number(coefficients[0])
        for coefficient in coefficients[1:]:
            value = node("Add", node("Mul", value, x), number(coefficient))
        return value

    scale = node("Div", number(side), axis)
    centres = node("Mul", node("Add", _range(network, axis), number(0.5)), scale)
    centres = node("Unsqueeze", centres, network.constant(np.array([1]), f"{axis}.second"))
    cells = network.constant(np.arange(side, dtype=np.float32)[None] + np.float32(0.5), f"{axis}.cells")
    x = node("Div", node("Abs", node("Sub", cells, centres)), node("Max", scale, number(1)))
    near = polynomial(x, CUBIC + 2, -CUBIC - 3, 0, 1)
    far = polynomial(x, CUBIC, -5 * CUBIC, 8 * CUBIC, -4 * CUBIC)
    far = node("Where", node("Less", x, number(2)), far, number(0))
    weights = node("Where", node("Less", x, number(1)), near, far)
    total = node("ReduceSum", weights, f"{axis}.second")
    return node("Div", weights, total)


def _range(network: Network, axis: str) -> str:
    """0, 1, ... to one less than the patches along an axis, "rows" or "columns", float32 (patches,)."""
    # Not ONNX's Range, whose scalars ONNX Runtime mistakes where they come of a known size.
    numbers = network.constant(np.arange(MOST_PATCHES, dtype=np.float32), f"{axis}.numbers")
    first = network.constant(np.array([0]), f"{axis}.first")
    return network.node("Slice", [numbers, first, f"{axis}.size"], f"{axis}.range")


def _rotation(network: Network, architecture: _Architecture) -> tuple[str, str]:
    """Cosines and sines (tokens, head) of rotary embeddings in DINOv3's way, as timm's `RotaryEmbeddingDinoV3`.

    Half of a head's pairs turn by rows, half by columns, each at a speed of its own; patch centres go from -1 to 1
    along each axis. Class and registers aren't turned. The first half of the sines is negated: see `_turned`.
    """
    quarter = HEAD // 4
    frequencies = (2 * pi / LONGEST_PERIOD ** (np.arange(quarter) / quarter)).astype(np.float32)
    speeds = network.constant(frequencies, "speeds")
    one, two = (network.constant(np.array([value], np.float32), f"turn.{value}") for value in (1, 2))
    each = network.constant(np.array([quarter]), "turn.quarter")
    sizes = network.node("Concat", ["rows.size", "columns.size", each], "turn.sizes", axis=0)
    angles = []
    for axis, shape in (("rows", [-1, 1, 1]), ("columns", [1, -1, 1])):
        odd = network.node("Mul", [_range(network, axis), two], f"{axis}.even")
        odd = network.node("Add", [odd, one], f"{axis}.odd")
        place = network.node("Div", [odd, axis], f"{axis}.share")
        place = network.node("Sub", [place, one], f"{axis}.place")
        shaped = [place, network.constant(np.array(shape), f"{axis}.shape")]
        angle = network.node(
            "Mul", [network.node("Reshape", shaped, f"{axis}.places"), speeds], f"{axis}.angle"
        )
        angles.append(network.node("Expand", [angle, sizes], f"{axis}.angles"))
    joined = network.node("Concat", angles, "turn.grid", axis=2)
    flat = network.constant(np.array([-1, 2 * quarter]), "turn.flat")
    joined = network.node("Reshape", [joined, flat], "turn.angles")
    cosine, sine = (network.node(kind, [joined], f"turn.{kind}") for kind in ("Cos", "Sin"))
    negative = network.node("Neg", [sine], "turn.negative")

    def with_prefix(halves: list[str], value: int, name: str) -> str:
        patches = network.node("Concat", halves, f"{name}.patches", axis=1)
        prefix = np.full((architecture.prefix, HEAD), value, np.float32)
        return network.node("Concat", [network.constant(prefix, f"{name}.prefix"), patches], name, axis=0)

    return with_prefix([cosine, cosine], 1, "turn.cosines"), with_prefix([negative, sine], 0, "turn.sines")


# ---- blocks


def _block(
    network: Network,
    state: State,
    x: str,
    index: int,
    architecture: _Architecture,
    rotation: tuple[str, str] | None,
) -> str:
    """Attention and two layers for each token, each after a LayerNorm, scaled channel by channel, and added."""
    module, name = f"blocks.{index}", f"block{index + 1}"
    d = architecture.dimensions
    scales = [np.ones(d), np.ones(d)]
    if architecture.rotary:
        scales = [parameter(state, f"{module}.gamma_{number}", (d,)) for number in (1, 2)]
    elif f"{module}.ls1.gamma" in state:
        scales = [parameter(state, f"{module}.ls{number}.gamma", (d,)) for number in (1, 2)]

    y = _layer_norm(network, state, x, f"{module}.norm1", f"{name}.norm1", architecture)
    y = _attention(network, state, y, f"{module}.attn", f"{name}.attention", architecture, rotation)
    y = network.linear(y, f"{name}.projection", _scaled(state, f"{module}.attn.proj", (d, d), scales[0]))
    x = network.node("Add", [x, y], f"{name}.attended")

    y = _layer_norm(network, state, x, f"{module}.norm2", f"{name}.norm2", architecture)
    hidden = parameter(state, f"{module}.mlp.fc1.weight", (None, d)).shape[0]
    y = network.linear(
        y, f"{name}.expanded", _scaled(state, f"{module}.mlp.fc1", (hidden, d), np.ones(hidden))
    )
    y = _gelu(network, y, f"{name}.gelu")
    y = network.linear(y, f"{name}.reduced", _scaled(state, f"{module}.mlp.fc2", (d, hidden), scales[1]))
    network.channels[name] = d
    return network.node("Add", [x, y], name)


def _attention(
    network: Network,
    state: State,
    x: str,
    module: str,
    name: str,
    architecture: _Architecture,
    rotation: tuple[str, str] | None,
) -> str:
    """softmax(q k / sqrt(head)) v of each head (Vaswani et al. 2017, equation 1); the division is in q's weights."""
    d, heads = architecture.dimensions, architecture.heads
    weight = parameter(state, f"{module}.qkv.weight", (3 * d, d))
    bias = np.zeros(3 * d) if architecture.rotary else parameter(state, f"{module}.qkv.bias", (3 * d,))
    scale = np.ones(3 * d)
    scale[:d] /= sqrt(HEAD)
    joined = network.linear(x, f"{name}.qkv", (weight * scale[:, None], bias * scale))
    shape = network.constant(np.array([0, -1, heads, HEAD]), f"{name}.heads")
    parts = []
    for part in network.split(joined, [f"{name}.{kind}" for kind in "qkv"], axis=2):
        of_heads = network.node("Reshape", [part, shape], f"{part}.heads")
        parts.append(network.node("Transpose", [of_heads], f"{part}.first", perm=[0, 2, 1, 3]))
    q, k, v = parts
    if rotation:
        q, k = (_turned(network, part, rotation) for part in (q, k))
    k = network.node("Transpose", [k], f"{name}.k.columns", perm=[0, 1, 3, 2])
    likeness = network.node("MatMul", [q, k], f"{name}.likeness")
    shares = network.node("Softmax", [likeness], f"{name}.shares", axis=-1)
    y = network.node("MatMul", [shares, v], f"{name}.values")
    y = network.node("Transpose", [y], f"{name}.tokens", perm=[0, 2, 1, 3])
    return network.node("Reshape", [y, network.constant(np.array([0, -1, d]), f"{name}.joined")], name)


def _turned(network: Network, x: str, rotation: tuple[str, str]) -> str:
    """Each head's halves (a, b) as (a cos - b sin, b cos + a sin)."""
    cosine, sine = rotation
    first, second = network.split(x, [f"{x}.half1", f"{x}.half2"], axis=3)
    swapped = network.node("Concat", [second, first], f"{x}.swapped", axis=3)
    kept = network.node("Mul", [x, cosine], f"{x}.kept")
    return network.node("Add", [kept, network.node("Mul", [swapped, sine], f"{x}.added")], f"{x}.turned")


def _layer_norm(
    network: Network, state: State, x: str, module: str, name: str, architecture: _Architecture
) -> str:
    d = architecture.dimensions
    network.channels[name] = d
    parameters = [
        network.constant(
            parameter(state, f"{module}.{kind}", (d,)).astype(np.float32), f"{name}.layer_norm.{kind}"
        )
        for kind in ("weight", "bias")
    ]
    return network.node("LayerNormalization", [x, *parameters], name, epsilon=architecture.epsilon)


def _scaled(
    state: State, module: str, shape: tuple[int, int], scale: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight (outputs, inputs) and bias (outputs,) of a linear layer whose outputs are then scaled."""
    weight = parameter(state, f"{module}.weight", shape)
    return weight * scale[:, None], parameter(state, f"{module}.bias", shape[:1]) * scale


def _gelu(network: Network, x: str, name: str) -> str:
    """x (1 + erf(x / sqrt(2))) / 2."""
    for value, constant in ((sqrt(0.5), "gelu.root"), (1.0, "gelu.one"), (0.5, "gelu.half")):
        if constant not in (tensor.name for tensor in network.weights):
            network.constant(np.array([value], np.float32), constant)
    scaled = network.node("Mul", [x, "gelu.root"], f"{name}.scaled")
    error = network.node("Erf", [scaled], f"{name}.erf")
    share = network.node("Add", [error, "gelu.one"], f"{name}.share")
    halved = network.node("Mul", [x, "gelu.half"], f"{name}.halved")
    return network.node("Mul", [halved, share], name)

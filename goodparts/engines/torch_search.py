"""The search of a memory bank as PyTorch does it: in tiles of patches, so that no matrix of all ranks is ever whole.

`bank.ranking` writes it as ONNX: products of patches and entries, the minimum of each block of entries, the best
blocks, the best entries of these. `rankings` finds that in a graph, and `best_of_blocks` does it. Exact distances of
what is found, which decide, are no part of it. With a bank in int8 the products are of whole numbers up to 127, which
bfloat16 holds exactly: on CUDA they are made in it and summed in float32, so nothing is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

_TILE = {"cpu": 1 << 20, "cuda": 1 << 27}  # ranks at a time: they stay in a processor's cache
_TILE_OF_OTHERS = 1 << 24


@dataclass(frozen=True)
class Ranking:
    """A search of blocks, by the names of its tensors.

    Attributes:
        query: patches, (rows, q).
        entries: (q, blocks x block).
        offset: of each entry, (blocks x block,).
        block: entries in a block.
        count: how many are looked for.
        best: the blocks that are found, (rows, count); made here.
        values: ranks of the entries that are found, (rows, count); made here.
        within: where they are among those of the best blocks, (rows, count); made here.
        inside: all that is made on the way or before `within`, by the first name of what makes it.
        integers: query and entries in int8 and the scale of each; None where they are not of these.
    """

    query: str
    entries: str
    offset: str
    block: int
    count: int
    best: str
    values: str
    within: str
    inside: frozenset[str]
    integers: tuple[str, str, str, str] | None


def best_of_blocks(
    query: Tensor, entries: Tensor, offset: Tensor, *, block: int, count: int, scale: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The best entries of each row: (best blocks, their ranks, where among those of the best blocks), (rows, count).

    Args:
        query: (rows, q) float32; int8 with a scale.
        entries: (q, m) float32; whole numbers in bfloat16 with a scale.
        offset: (m,) float32: a rank is that less the product.
        block: entries in a block.
        count: how many to find.
        scale: of the products of whole numbers; 0: products are as they are.
    """
    rows, width = len(query), entries.shape[1]
    tile = max(1, _TILE.get(query.device.type, _TILE_OF_OTHERS) // width)
    parts = []
    for first in range(0, rows, tile):
        some = query[first : first + tile]
        products = _whole_products(some, entries) * scale if scale else some @ entries
        ranks = torch.sub(offset, products, out=products).view(len(some), -1, block)
        best = torch.topk(ranks.amin(2), count, 1, False, True).indices
        wide = best.unsqueeze(2).expand(-1, -1, block)
        within = torch.gather(ranks, 1, wide).view(len(some), count * block)
        parts.append((best, *torch.topk(within, count, 1, False, True)))
    if len(parts) == 1:
        return parts[0]
    best, values, places = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return best, values, places


def _whole_products(query: Tensor, entries: Tensor) -> Tensor:
    if query.device.type == "cuda":
        return torch.mm(query.to(torch.bfloat16), entries, out_dtype=torch.float32)
    return query.float() @ entries.float()


def rankings(graph: onnx.GraphProto) -> list[Ranking]:
    """All searches of blocks in a graph, as `bank.ranking` writes them."""
    makers = {output: node for node in graph.node for output in node.output if output}
    readers: dict[str, list[str]] = {item.name: ["output"] for item in graph.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.output[0])
    constants = {item.name: item for item in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type == "TopK":
            ranking = _ranking(node, makers, readers, constants)
            if ranking is not None:
                found.append(ranking)
    return found


def _ranking(
    last: onnx.NodeProto,
    makers: Mapping[str, onnx.NodeProto],
    readers: Mapping[str, list[str]],
    constants: Mapping[str, onnx.TensorProto],
) -> Ranking | None:
    """That which ends in a TopK of columns; None where it is another one."""

    def made(name: str, *kinds: str) -> onnx.NodeProto | None:
        node: onnx.NodeProto | None = makers.get(name)
        for kind in kinds:
            if node is None or node.op_type != kind:
                return None
            if kind != kinds[-1]:
                node = makers.get(node.input[0])
        return node

    def turned(name: str) -> str | None:
        """A matrix as rows, which is in columns here; None where something else is made of it, too."""
        only = readers.get(name, ["", ""])
        node = makers.get(only[0]) if len(only) == 1 else None
        return only[0] if node is not None and node.op_type == "Transpose" else None

    gathered = made(last.input[0], "Transpose", "Reshape", "GatherND")
    if gathered is None:
        return None
    blocks = made(gathered.input[1], "Unsqueeze", "Transpose")
    places = made(gathered.input[1], "Unsqueeze", "Transpose", "TopK")
    by_block = made(gathered.input[0], "Reshape")
    ranks = made(gathered.input[0], "Reshape", "Sub")
    if blocks is None or places is None or by_block is None or ranks is None:
        return None
    lowest, products = made(places.input[0], "Transpose", "ReduceMin"), made(ranks.input[1], "MatMul")
    if lowest is None or products is None or lowest.input[0] != by_block.output[0]:
        return None
    if by_block.input[1] not in constants or last.input[1] not in constants:
        return None
    _, _, block = numpy_helper.to_array(constants[by_block.input[1]]).tolist()
    values, within = (turned(name) for name in last.output)
    if values is None or within is None:
        return None
    columns = makers[last.input[0]]
    inside = {
        *(node.output[0] for node in (gathered, by_block, ranks, lowest, products, columns)),
        *(gathered.input[1], columns.input[0], places.input[0], *places.output, *last.output),
    }
    own = {*inside, blocks.output[0], values, within}
    if any(not set(readers.get(name, ())) <= own for name in inside):
        return None
    return Ranking(
        query=products.input[0],
        entries=products.input[1],
        offset=ranks.input[0],
        block=block,
        count=int(numpy_helper.to_array(constants[last.input[1]])[0]),
        best=blocks.output[0],
        values=values,
        within=within,
        inside=frozenset({*inside, blocks.output[0], values}),
        integers=_integers(products, makers, constants),
    )


def _integers(
    products: onnx.NodeProto,
    makers: Mapping[str, onnx.NodeProto],
    constants: Mapping[str, onnx.TensorProto],
) -> tuple[str, str, str, str] | None:
    """Both factors of a product in int8, and the scale of each; None where they are not of these."""
    found = []
    for name in products.input:
        node = makers.get(name)
        if node is None or node.op_type != "DequantizeLinear" or node.input[1] not in constants:
            return None
        if numpy_helper.to_array(constants[node.input[1]]).size != 1:
            return None
        found.append((node.input[0], node.input[1]))
    (query, of_query), (entries, of_entries) = found
    return (query, entries, of_query, of_entries) if entries not in makers else None

"""A network from an ONNX file as a torch module, so that anomalib runs the weights that goodparts runs."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import numpy_helper


class Network(torch.nn.Module):
    """An ONNX graph of convolutions, ReLUs, additions and max poolings; gives its outputs by name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        graph = model.graph
        values = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            elif node.op_type in ("Cast", "Identity") and node.input[0] in values:
                values[node.output[0]] = values[node.input[0]]
        self.nodes = [node for node in graph.node if node.output[0] not in values]
        self.image = next(item.name for item in graph.input if item.name not in values)
        self.outputs = [item.name for item in graph.output]
        self.layers = torch.nn.ModuleList(_layer(node, values) for node in self.nodes)
        last = {name: index for index, node in enumerate(self.nodes) for name in node.input}
        self.done = [  # what no later node reads
            [name for name in set(node.input) if last[name] == index and name not in self.outputs]
            for index, node in enumerate(self.nodes)
        ]
        self.requires_grad_(False)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        values = {self.image: image}
        for node, layer, done in zip(self.nodes, self.layers, self.done, strict=True):
            inputs = [values[name] for name in node.input if name in values]
            if node.op_type == "Add":
                values[node.output[0]] = inputs[0] + inputs[1]
            elif node.op_type == "Relu" and done:
                values[node.output[0]] = torch.relu_(*inputs)
            else:
                values[node.output[0]] = layer(*inputs)
            del inputs
            for name in done:
                values.pop(name, None)
        return {name: values[name] for name in self.outputs}


def _layer(node: onnx.NodeProto, values: dict[str, np.ndarray]) -> torch.nn.Module:
    options = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    pads = options.get("pads", [0, 0, 0, 0])
    if pads[:2] != pads[2:] or options.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError(f"{node.name}: padding {pads}; only the same on both sides is known here")
    if node.op_type == "Conv":
        weight = torch.tensor(values[node.input[1]], dtype=torch.float32)
        layer = torch.nn.Conv2d(
            weight.shape[1] * options.get("group", 1),
            weight.shape[0],
            tuple(weight.shape[2:]),
            tuple(options.get("strides", [1, 1])),
            tuple(pads[:2]),
            groups=options.get("group", 1),
            bias=len(node.input) > 2,
        )
        layer.weight.data = weight
        if layer.bias is not None:
            layer.bias.data = torch.tensor(values[node.input[2]], dtype=torch.float32)
        return layer
    if node.op_type == "MaxPool":
        return torch.nn.MaxPool2d(
            tuple(options["kernel_shape"]),
            tuple(options["strides"]),
            tuple(pads[:2]),
            ceil_mode=bool(options.get("ceil_mode", 0)),
        )
    if node.op_type == "Relu":
        return torch.nn.ReLU()
    if node.op_type == "Add":
        return torch.nn.Identity()
    raise ValueError(f"{node.op_type} is not known here; take a ResNet")

"""The table of operators: each does what ONNX Runtime does, and what is not in it is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from goodparts.engines.engine import open_engine
from goodparts.engines.graph import Graph
from goodparts.engines.runtime import Runtime
from goodparts.engines.torch_graph import to_module
from goodparts.engines.torch_operators import TABLE
from goodparts.errors import BackboneError, EngineError

RNG = np.random.default_rng(5)
OPSET = 20


def f(*shape: int) -> NDArray[np.float32]:
    return RNG.normal(size=shape).astype(np.float32)


def positive(*shape: int) -> NDArray[np.float32]:
    return np.abs(f(*shape)) + np.float32(0.1)


def i(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def one(value: float) -> NDArray[np.float32]:
    return np.array(value, dtype=np.float32)


class Fixed:
    """An input that is a constant of the graph."""

    def __init__(self, value: NDArray[Any]) -> None:
        self.value = value


IMAGE = (2, 3, 7, 9)
UNARY = [
    *("Sqrt", "Exp", "Neg", "Abs", "Floor", "Ceil", "Round", "Sign", "Sin"),
    *("Cos", "Erf", "Tanh", "Sigmoid", "Relu", "Elu", "Selu", "Softplus", "Mish"),
    *(
        "HardSigmoid",
        "HardSwish",
        "Gelu",
        "LeakyRelu",
        "Identity",
        "Softmax",
        "LogSoftmax",
        "Reciprocal",
        "Log",
    ),
]
REDUCED = [
    *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"),
    *("ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSumExp"),
]
COMPARED = ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]
BOOLS = (np.array([True, False, True]), np.array([True, True, False]))
LEVELS = np.array([-3.2, 0.4, 0.5, 1.5, 300], np.float32)

CASES: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    *((name, (positive(2, 5),), {}) for name in UNARY),
    *((name, (f(2, 3, 4), Fixed(i(1, -1))), {"keepdims": keep}) for name in REDUCED for keep in (0, 1)),
    ("ReduceSum", (f(2, 3),), {}),
    ("ReduceMax", (f(2, 3), Fixed(i())), {"noop_with_empty_axes": 1}),
    *((name, (i(1, 2, 3), i(3, 2, 1)), {}) for name in COMPARED),
    *((name, BOOLS, {}) for name in ("And", "Or", "Xor")),
    ("Not", BOOLS[:1], {}),
    ("IsNaN", (np.array([1, np.nan], np.float32),), {}),
    *((name, (f(2, 3), positive(3)), {}) for name in ("Add", "Sub", "Mul", "Div")),
    ("Div", (i(7, -7, 9), Fixed(i(2, 2, -4))), {}),
    ("Mod", (i(7, -7, 9), Fixed(i(2, 2, -4))), {}),
    ("Mod", (f(5), positive(5)), {"fmod": 1}),
    ("Pow", (positive(4), Fixed(one(2.5))), {}),
    *((name, (f(2, 3), f(3), f(1)), {}) for name in ("Min", "Max", "Sum", "Mean")),
    ("Clip", (f(9), Fixed(one(-0.3)), Fixed(one(0.5))), {}),
    ("Clip", (f(9), None, Fixed(one(0.5))), {}),
    ("PRelu", (f(2, 3, 4), f(3, 1)), {}),
    ("Where", (BOOLS[0], f(2, 3), f(1, 3)), {}),
    ("Cast", (f(5),), {"to": TensorProto.INT32}),
    ("CastLike", (f(5), i(1)), {}),
    ("Dropout", (f(5),), {}),
    ("Conv", (f(*IMAGE), f(4, 3, 3, 3), f(4)), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("Conv", (f(*IMAGE), f(4, 3, 3, 3)), {"pads": [0, 0, 1, 2], "dilations": [2, 1]}),
    ("Conv", (f(*IMAGE), f(6, 1, 3, 3)), {"group": 3, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", (f(*IMAGE), f(6, 1, 2, 2)), {"group": 3, "auto_pad": "SAME_LOWER"}),
    ("Conv", (f(2, 3, 9), f(4, 3, 3)), {}),
    ("ConvTranspose", (f(*IMAGE), f(3, 4, 3, 3)), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", (f(*IMAGE),), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", (f(*IMAGE),), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", (f(*IMAGE),), {"kernel_shape": [7, 7], "pads": [3, 3, 3, 3], "strides": [1, 1]}),
    ("AveragePool", (f(*IMAGE),), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", (f(*IMAGE),), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("AveragePool", (f(*IMAGE),), {"kernel_shape": [3, 3], "pads": [0, 0, 1, 1], "strides": [2, 2]}),
    ("AveragePool", (f(*IMAGE),), {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("GlobalAveragePool", (f(*IMAGE),), {}),
    ("GlobalMaxPool", (f(*IMAGE),), {}),
    *(
        (
            "Resize",
            (f(*IMAGE), None, None, Fixed(i(2, 3, 5, 13))),
            {"mode": mode, "coordinate_transformation_mode": ways},
        )
        for mode in ("linear", "nearest", "cubic")
        for ways in ("half_pixel", "align_corners")
    ),
    ("Resize", (f(*IMAGE), None, None, Fixed(i(14, 18))), {"mode": "linear", "axes": [2, 3]}),
    (
        "Resize",
        (f(*IMAGE), None, Fixed(np.array([1, 1, 2, 2.5], np.float32))),
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    (
        "Resize",
        (f(*IMAGE), None, Fixed(np.array([1, 1, 2, 2.5], np.float32))),
        {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
    ),
    ("BatchNormalization", (f(*IMAGE), f(3), f(3), f(3), positive(3)), {}),
    ("InstanceNormalization", (f(*IMAGE), f(3), f(3)), {}),
    ("LayerNormalization", (f(2, 3, 8), f(8), f(8)), {"epsilon": 1e-6}),
    ("LayerNormalization", (f(2, 3, 8), f(3, 8)), {"axis": 1}),
    ("LRN", (positive(*IMAGE),), {"size": 3}),
    ("MatMul", (f(2, 3, 4), f(4, 5)), {}),
    ("Gemm", (f(4, 3), f(5, 4), f(5)), {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Einsum", (f(2, 3, 4), f(2, 4, 5)), {"equation": "bij,bjk->bik"}),
    ("QuantizeLinear", (LEVELS, Fixed(one(0.5)), Fixed(np.array(0, np.int8))), {}),
    ("QuantizeLinear", (LEVELS, Fixed(one(0.5)), Fixed(np.array(7, np.uint8))), {}),
    (
        "DequantizeLinear",
        (Fixed(np.arange(6, dtype=np.int8).reshape(2, 3)), Fixed(positive(3)), Fixed(np.zeros(3, np.int8))),
        {"axis": 1},
    ),
    ("Reshape", (f(2, 3, 4), Fixed(i(0, -1))), {}),
    ("Flatten", (f(2, 3, 4),), {"axis": 2}),
    ("Transpose", (f(2, 3, 4),), {"perm": [2, 0, 1]}),
    ("Transpose", (f(2, 3, 4),), {}),
    ("Squeeze", (f(1, 3, 1), Fixed(i(0))), {}),
    ("Squeeze", (f(1, 3, 1),), {}),
    ("Unsqueeze", (f(3, 4), Fixed(i(0, -1))), {}),
    ("Concat", (f(2, 3), f(2, 1)), {"axis": -1}),
    ("Split", (f(2, 7), Fixed(i(3, 4))), {"axis": 1}),
    ("Split", (f(2, 7),), {"axis": 1, "num_outputs": 2}),
    ("Slice", (f(5, 6), Fixed(i(1, -3)), Fixed(i(4, 99)), Fixed(i(0, 1)), Fixed(i(2, 1))), {}),
    ("Slice", (f(6), Fixed(i(-1)), Fixed(i(-99)), Fixed(i(0)), Fixed(i(-2))), {}),
    ("Gather", (f(4, 5), Fixed(i(0, -1, 2))), {"axis": 1}),
    ("Gather", (f(4, 5), Fixed(np.array(1, np.int64))), {}),
    ("GatherElements", (f(3, 4), np.array([[0, -1], [1, 2], [3, 0]])), {"axis": 1}),
    ("GatherND", (f(2, 3, 4), np.array([[[1], [0]], [[2], [-1]]])), {"batch_dims": 1}),
    ("GatherND", (f(3, 4), np.array([[0, 1], [2, -1]])), {}),
    ("ScatterND", (f(4, 3), Fixed(np.array([[1], [3]])), f(2, 3)), {}),
    ("Expand", (f(3, 1), Fixed(i(2, 1, 4))), {}),
    ("Tile", (f(2, 3), Fixed(i(2, 1))), {}),
    ("Pad", (f(2, 3), Fixed(i(0, 1, 2, 0)), Fixed(one(7))), {}),
    ("Pad", (f(*IMAGE), Fixed(i(0, 0, 1, 2, 0, 0, 2, 1))), {"mode": "reflect"}),
    ("Pad", (f(*IMAGE), Fixed(i(0, 0, 1, 2, 0, 0, 2, 1))), {"mode": "edge"}),
    ("Trilu", (f(4, 4), Fixed(np.array(1, np.int64))), {"upper": 0}),
    ("DepthToSpace", (f(1, 8, 2, 3),), {"blocksize": 2}),
    ("DepthToSpace", (f(1, 8, 2, 3),), {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", (f(1, 2, 4, 6),), {"blocksize": 2}),
    ("Range", tuple(Fixed(np.array(value, np.int64)) for value in (2, 11, 3)), {}),
    ("ConstantOfShape", (Fixed(i(2, 3)),), {"value": numpy_helper.from_array(np.array([4], np.int64))}),
    ("TopK", (f(3, 9), Fixed(i(4))), {"axis": 1, "largest": 0}),
    ("ArgMax", (f(3, 9),), {"axis": 1, "keepdims": 0}),
    ("ArgMin", (f(3, 9),), {"axis": 1}),
    ("CumSum", (f(3, 4), Fixed(np.array(1, np.int64))), {}),
]


def graph_of(
    kind: str, given: tuple[Any, ...], attributes: dict[str, Any], outputs: int, opset: int = OPSET
) -> tuple[Graph, dict[str, NDArray[Any]]]:
    """A graph of one node, and its inputs."""
    names, constants, inputs = [], [], {}
    for number, value in enumerate(given):
        names.append("" if value is None else f"in_{number}")
        if isinstance(value, Fixed):
            constants.append(numpy_helper.from_array(value.value, names[-1]))
        elif value is not None:
            inputs[names[-1]] = value
    node = helper.make_node(kind, names, [f"out_{n}" for n in range(outputs)], name="node", **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in inputs.items()
        ],
        [helper.make_value_info(name, helper.make_tensor_type_proto(0, None)) for name in node.output],
        constants,
    )
    for item in graph.output:
        item.ClearField("type")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return Graph(model), inputs


@pytest.mark.parametrize(
    ("kind", "given", "attributes"), CASES, ids=[f"{case[0]}-{n}" for n, case in enumerate(CASES)]
)
def test_an_operator_does_what_onnx_runtime_does(
    kind: str, given: tuple[Any, ...], attributes: dict[str, Any]
) -> None:
    import onnxruntime

    graph, inputs = graph_of(kind, given, attributes, 2 if kind in ("Split", "TopK") else 1)
    session = onnxruntime.InferenceSession(
        graph.model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected = session.run(None, inputs)
    module = to_module(graph, {name: value.shape for name, value in inputs.items()}, torch.device("cpu"))
    found = module(*(torch.from_numpy(value) for value in inputs.values()))
    for one_found, same in zip(found, expected, strict=True):
        assert one_found.shape == same.shape
        assert str(one_found.dtype).removeprefix("torch.") == str(same.dtype)
        np.testing.assert_allclose(one_found.numpy(), same, rtol=2e-5, atol=2e-5)


def test_every_operator_of_the_table_is_tried() -> None:
    assert {kind for kind, _, _ in CASES} | {"GroupNormalization"} == set(TABLE)


def test_a_group_norm() -> None:
    graph, inputs = graph_of("GroupNormalization", (f(*IMAGE), f(3), f(3)), {"num_groups": 3}, 1, opset=21)
    module = to_module(graph, {name: value.shape for name, value in inputs.items()}, torch.device("cpu"))
    tensors = [torch.from_numpy(value) for value in inputs.values()]
    torch.testing.assert_close(
        module(*tensors)[0], torch.nn.functional.group_norm(tensors[0], 3, tensors[1], tensors[2])
    )


def test_shapes_are_known_beforehand() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], name="shape"),
        helper.make_node("Gather", ["shape", "first"], ["n"], name="n", axis=0),
        helper.make_node("Concat", ["n", "rest"], ["target"], name="target", axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"], name="y"),
    ]
    constants = [numpy_helper.from_array(i(0), "first"), numpy_helper.from_array(i(-1), "rest")]
    item = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "shapes",
            [item("x", TensorProto.FLOAT, ["n", 3, 4])],
            [item("y", TensorProto.FLOAT, ["n", 12])],
            constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=9,
    )
    module = to_module(Graph(model), {"x": (2, 3, 4)}, torch.device("cpu"))
    assert [node.op for node in module.graph.nodes].count("call_function") == 1
    assert module(torch.zeros(2, 3, 4))[0].shape == (2, 12)


@pytest.mark.parametrize(
    ("kind", "given", "attributes", "message"),
    [
        ("Hardmax", (f(3, 4),), {}, r"no operator Hardmax \(node node\); take engine = openvino"),
        ("Det", (f(3, 3),), {}, "no operator Det"),
        ("CumSum", (f(3), Fixed(i(0))), {"reverse": 1}, "can't run CumSum .* as it is used here: exclusive"),
        ("Tile", (f(3), i(2)), {}, "Tile .* depends on the content of the image"),
    ],
)
def test_what_is_not_in_the_table_is_refused_by_name(
    kind: str, given: tuple[Any, ...], attributes: dict[str, Any], message: str
) -> None:
    graph, inputs = graph_of(kind, given, attributes, 1)
    with pytest.raises(EngineError, match=message):
        to_module(graph, {name: value.shape for name, value in inputs.items()}, torch.device("cpu"))


def test_shapes_that_do_not_fit_are_refused() -> None:
    graph, _ = graph_of("MatMul", (f(2, 3), f(3, 4)), {}, 1)
    with pytest.raises(BackboneError, match="PyTorch can't run MatMul"):
        open_engine(graph, {"in_0": (2, 3), "in_1": (5, 4)}, on=Runtime("torch", "cpu"))

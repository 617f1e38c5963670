"""Networks from anybody: what is not sound is refused in words, before anything runs it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from goodparts.engines.onnx_limits import network_of
from goodparts.errors import BackboneError

OPSET = 18


def network() -> onnx.ModelProto:
    """Two layers with weights."""
    rng = np.random.default_rng(1)
    weights = [
        numpy_helper.from_array(rng.normal(size=(4, 3, 3, 3)).astype(np.float32), "w1"),
        numpy_helper.from_array(rng.normal(size=(4, 4, 1, 1)).astype(np.float16), "w2"),
    ]
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["first"]),
        helper.make_node("Cast", ["w2"], ["w"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["first", "w"], ["second"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "h", "w"])
    output = helper.make_tensor_value_info("second", TensorProto.FLOAT, ["n", 4, None, None])
    graph = helper.make_graph(nodes, "small", [image], [output], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def external(location: str) -> onnx.TensorProto:
    """A tensor whose values lie in a file."""
    tensor = TensorProto(name="secret", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def branch(tensor: onnx.TensorProto) -> onnx.GraphProto:
    """A graph within a node, with a tensor of its own."""
    output = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [4])
    return helper.make_graph(
        [helper.make_node("Identity", ["secret"], ["inner"])], "branch", [], [output], [tensor]
    )


def in_an_initializer(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.initializer.append(tensor)


def in_an_attribute(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["constant"], value=tensor))


def in_a_branch(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))
    model.graph.node.append(
        helper.make_node("If", ["condition"], ["out"], then_branch=branch(tensor), else_branch=branch(tensor))
    )


def in_an_attribute_of_a_function(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    opsets = [helper.make_opsetid("", OPSET)]
    nodes = [helper.make_node("Constant", [], ["y"], value=tensor)]
    model.functions.append(helper.make_function("own", "Secret", [], ["y"], nodes, opsets))


def in_a_sparse_tensor(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    indices = numpy_helper.from_array(np.arange(4, dtype=np.int64), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor, indices, [100]))


def in_training(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.training_info.add().initialization.initializer.append(tensor)


def test_a_sound_network_is_taken_as_it_is() -> None:
    model = network()
    assert network_of(model.SerializeToString()) == model


@pytest.mark.parametrize("location", ["weights.bin", "../secret", "/etc/hostname", "*/_ORT_MEM_ADDR_/*"])
@pytest.mark.parametrize(
    "place",
    [
        in_an_initializer,
        in_an_attribute,
        in_a_branch,
        in_an_attribute_of_a_function,
        in_a_sparse_tensor,
        in_training,
    ],
)
def test_nothing_outside_of_the_file_is_read(
    place: Callable[[onnx.ModelProto, onnx.TensorProto], None], location: str
) -> None:
    model = network()
    place(model, external(location))
    with pytest.raises(BackboneError, match="keeps tensor 'secret' outside of the file"):
        network_of(model.SerializeToString())


def test_a_location_counts_without_being_said_to_be_one() -> None:
    model, tensor = network(), external("weights.bin")
    tensor.data_location = TensorProto.DEFAULT
    model.graph.initializer.append(tensor)
    with pytest.raises(BackboneError, match="outside of the file"):
        network_of(model.SerializeToString())


def a_circle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "second"


def a_circle_beside(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Add", ["b", "image"], ["a"]))
    model.graph.node.append(helper.make_node("Add", ["a", "image"], ["b"]))


def a_circle_of_functions(model: onnx.ModelProto) -> None:
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("own", 1)]
    for name, other in (("A", "B"), ("B", "A")):
        nodes = [helper.make_node(other, ["x"], ["y"], domain="own")]
        model.functions.append(helper.make_function("own", name, ["x"], ["y"], nodes, opsets))
    model.graph.node.append(helper.make_node("A", ["first"], ["out"], domain="own"))


def doubling_functions(model: onnx.ModelProto) -> None:
    """Each calls the next one twice: written out, 2^40 nodes."""
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("own", 1)]
    for depth in range(40):
        nodes = [
            helper.make_node(f"F{depth + 1}", [x], [y], domain="own")
            for x, y in (("x", "between"), ("between", "y"))
        ]
        model.functions.append(helper.make_function("own", f"F{depth}", ["x"], ["y"], nodes, opsets))
    model.graph.node.append(helper.make_node("F0", ["first"], ["out"], domain="own"))


def many_nodes(model: onnx.ModelProto) -> None:
    model.graph.MergeFromString(b"\x0a\x00" * 500_000)


def enormous(model: onnx.ModelProto) -> None:
    model.graph.initializer.add(name="large", data_type=TensorProto.FLOAT, dims=[200_000, 200_000])


def enormous_and_sparse(model: onnx.ModelProto) -> None:
    values, indices = np.ones(1, np.float32), np.zeros(1, np.int64)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(values, "s"), numpy_helper.from_array(indices, "i"), [1 << 20, 1 << 20]
    )
    model.graph.sparse_initializer.append(sparse)


def of_the_far_future(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 1 << 24


def negative(model: onnx.ModelProto) -> None:
    model.graph.initializer.add(name="odd", data_type=TensorProto.FLOAT, dims=[-1, 4], float_data=[1.0] * 4)


def of_no_type(model: onnx.ModelProto) -> None:
    model.graph.initializer.add(name="odd", data_type=99, dims=[1], raw_data=b"0000")


def cut_short(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]


def with_nan(model: onnx.ModelProto) -> None:
    values = numpy_helper.to_array(model.graph.initializer[1]).copy()
    values[0, 0] = np.nan
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(values, "w2"))


def with_infinity(model: onnx.ModelProto) -> None:
    values = numpy_helper.to_array(model.graph.initializer[0]).copy()
    values[0, 0] = np.inf
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w1"))


def all_zero(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(tensor), tensor.name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (a_circle, "in a circle"),
        (a_circle_beside, "in a circle"),
        (a_circle_of_functions, "goes in circles"),
        (doubling_functions, "more than 50,000 nodes"),
        (many_nodes, "more parts than any network needs"),
        (enormous, "'large' does not hold as many values as its shape says"),
        (enormous_and_sparse, "a sparse tensor would have 1099511627776 values"),
        (of_the_far_future, "is of opset 16777216; expected 1 to"),
        (negative, "'odd' has an impossible shape"),
        (of_no_type, "'odd' is of a type that is not known"),
        (cut_short, "'w1' does not hold as many values"),
        (with_nan, "'w2' holds NaN"),
        (with_infinity, "'w1' holds NaN or infinity"),
        (all_zero, "all of its weights are 0"),
    ],
)
def test_what_is_not_sound_is_refused_at_once(
    change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    model = network()
    change(model)
    data = model.SerializeToString()
    began = time.process_time()
    with pytest.raises(BackboneError, match=message):
        network_of(data)
    assert time.process_time() - began < 1


def test_garbage_is_no_network() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 100, 10_000):
        with pytest.raises(BackboneError):
            network_of(rng.integers(0, 256, size, dtype=np.uint8).tobytes())


def test_long_names_are_not_repeated() -> None:
    model = network()
    model.graph.node[0].input[0] = "x" * 10_000
    with pytest.raises(BackboneError) as caught:
        network_of(model.SerializeToString())
    assert len(str(caught.value)) < 500

"""The door to the engines."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

import goodparts
from goodparts.engines import openvino
from goodparts.engines.engine import Engine, layer_shapes, open_engine
from goodparts.engines.graph import Graph, GraphBuilder
from goodparts.errors import BackboneError

CHECKOUT = Path(__file__).parents[2]


def convolution(side: int = 8) -> Graph:
    """`x` (n, 1, side, side) and `weight` (1,) to `y`: x, doubled by a learnt kernel, times the weight."""
    build = GraphBuilder("", opset=19)
    image = build.input("x", TensorProto.FLOAT, ["n", 1, side, side])
    weight = build.input("weight", TensorProto.FLOAT, [1])
    kernel = build.learnt("kernel", np.full((1, 1, 1, 1), 2, np.float32))
    build.node("Mul", build.node("Conv", image, kernel), weight, name="y")
    build.output("y", ["n", 1, side, side])
    return Graph(build.finish(), build.constants)


@pytest.mark.parametrize("throughput", [False, True])
def test_a_graph_is_opened_for_one_image_at_a_time(throughput: bool) -> None:
    engine = open_engine(convolution(), throughput=throughput)
    assert engine.inputs == {"x", "weight"}
    image = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8)
    (found,) = engine({"x": image, "weight": np.array([3], np.float32)}).values()
    np.testing.assert_array_equal(found, 6 * image)


def test_or_for_the_shapes_that_are_asked_for() -> None:
    engine = open_engine(convolution(), {"x": (5, 1, 8, 8), "weight": (1,)})
    images = np.ones((5, 1, 8, 8), np.float32)
    assert engine({"x": images, "weight": np.ones(1, np.float32)})["y"].shape == images.shape


def test_openvino_is_named_in_one_file() -> None:
    package = Path(goodparts.__file__).parent
    naming = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if (isinstance(node, ast.Import) and any(name.name.startswith("openvino") for name in node.names))
        or (
            isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("openvino")
        )
    }
    assert naming == {"engines/openvino.py"}


# ---- processes and threads: each in a process of its own, in which nothing was opened before -------


IMPORTS = """
import os, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
import pytest
from test_engine import answer, convolution, open_engine
"""


def run(script: str) -> str:
    """What a script prints that may use `convolution` and `open_engine`; its exit code must be 0."""
    ran = subprocess.run(
        [sys.executable, "-c", f"{IMPORTS}\n{script}"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(Path(__file__).parent)])},
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def answer(engine: Engine) -> float:
    """The sum of what `convolution` makes of ones: 2 x 64."""
    inputs = {"x": np.ones((1, 1, 8, 8), np.float32), "weight": np.ones(1, np.float32)}
    return float(engine(inputs)["y"].sum())


def test_an_interrupt_after_engines_were_let_go() -> None:
    script = """
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
engines = [open_engine(convolution()) for _ in range(2)]
while engines:
    engines.pop(0)
try:
    signal.raise_signal(signal.SIGINT)
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
"""
    assert run(script) == "interrupted"


def test_the_first_engines_of_a_process_are_opened_by_eight_threads_at_once() -> None:
    script = """
start = threading.Barrier(8)

def found(number):
    start.wait()
    return answer(open_engine(convolution(), throughput=number % 2 == 0))

with ThreadPoolExecutor(8) as pool:
    print(set(pool.map(found, range(8))))
"""
    assert run(script) == "{128.0}"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("throughput", [False, True])
def test_a_forked_child_opens_its_own_engine(throughput: bool) -> None:
    script = f"""
engine, gone = (open_engine(convolution(), throughput={throughput}) for _ in range(2))
del gone  # the child must not be given its threads
child = os.fork()
if not child:
    assert not engine.usable
    with pytest.raises(RuntimeError, match="before the process forked"):
        answer(engine)
    del engine
    print(answer(open_engine(convolution(), throughput={throughput})), flush=True)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
assert engine.usable
print(answer(engine))
"""
    assert run(script).split() == ["128.0", "128.0"]


def test_a_network_without_inputs_is_refused_in_words() -> None:
    constant = helper.make_tensor(
        "out", TensorProto.FLOAT, [1, 2, 3, 4], np.zeros(24, np.float32).tobytes(), raw=True
    )
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 2, 3, 4])
    graph = helper.make_graph(
        [helper.make_node("Constant", [], ["out"], value=constant)], "nothing in", [], [output]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(BackboneError, match="can't take images of 32x32 pixels"):
        layer_shapes(model, (32, 32))


@pytest.mark.parametrize(
    ("ceiling", "formats"),
    [
        ("", ("FP32", "BF16", "INT8")),
        ("avx2", ("FP32", "INT8")),
        ("AVX512_CORE_VNNI", ("FP32", "INT8")),
        ("AVX512_CORE_BF16", ("FP32", "BF16", "INT8")),
    ],
)
@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_bf16_is_not_there_where_its_instructions_are_switched_off(
    variable: str, ceiling: str, formats: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Core:
        def get_property(self, _: str, __: str) -> list[str]:
            return ["FP32", "BF16", "INT8"]

    monkeypatch.setattr(openvino, "_core", lambda: nullcontext(Core()))
    monkeypatch.setenv(variable, ceiling)
    assert openvino.capabilities.__wrapped__() == formats

"""Batches: what threads ask for one image at a time, a graphics processor is given many at a time.

Whoever comes first while nothing runs takes all that wait, up to `MOST`, and runs them in one go; the others wait for
their share of the result. So nobody waits for a batch to fill, and it fills by itself while another runs.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from goodparts.engines.graph import Graph
    from goodparts.engines.runtime import Engine

MOST = 64
"""Images at a time."""

Inputs = Mapping[str, NDArray[Any]]
Outputs = dict[str, NDArray[np.float32]]


def batched(graph: Graph) -> bool:
    """Whether all that a graph is given and all that it gives is of n images."""
    given = [item for item in graph.model.graph.input if item.name in graph.inputs]
    shapes = [item.type.tensor_type.shape.dim for item in (*given, *graph.model.graph.output)]
    return all(len(shape) > 0 and shape[0].dim_param == "n" for shape in shapes)


@dataclass(eq=False)
class _Call:
    """What one thread asks for, and what it gets."""

    inputs: Inputs
    done: threading.Event = field(default_factory=threading.Event)
    outputs: Outputs | None = None
    error: BaseException | None = None


class Batches:
    """An engine that runs calls of several threads together; its graph is `batched`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: list[_Call] = []
        self._lock, self._running = threading.Lock(), threading.Lock()

    @property
    def inputs(self) -> frozenset[str]:
        """Names of the inputs that each call gives."""
        return self._engine.inputs

    @property
    def usable(self) -> bool:
        """Whether this process opened it."""
        return self._engine.usable

    def __call__(self, inputs: Inputs) -> Outputs:
        """Run once, together with whoever else waits."""
        call = _Call(inputs)
        with self._lock:
            self._waiting.append(call)
        with self._running:  # whoever ran before may have taken this call along
            if not call.done.is_set():
                with self._lock:
                    calls, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                    if call not in calls:  # among more than `MOST`
                        self._waiting.remove(call)
                        calls[-1:], self._waiting = [call], [calls[-1], *self._waiting]
                self._run(calls)
        if call.error is not None:
            raise call.error
        assert call.outputs is not None
        return call.outputs

    def _run(self, calls: list[_Call]) -> None:
        """Run calls in one go, and share out the result."""
        try:
            names = calls[0].inputs
            joined = {name: np.concatenate([call.inputs[name] for call in calls]) for name in names}
            found = self._engine(joined)
        except BaseException as error:
            for call in calls:
                call.error = error
                call.done.set()
            return
        first = 0
        for call in calls:
            count = len(next(iter(call.inputs.values())))
            call.outputs = {name: value[first : first + count] for name, value in found.items()}
            first += count
            call.done.set()

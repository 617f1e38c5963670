"""How many calls lie between what a user calls and what does the work, on rendered parts:

python benchmarks/call_depth.py
"""

from __future__ import annotations

import pkgutil
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from goodparts import Inspector
from goodparts.cli import cli
from goodparts.data.demo import write_demo

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = write_demo(Path(folder) / "parts", seed=0)
        model = Path(folder) / "part.goodparts"
        fit = ["fit", str(data), "--model", str(model), "--image-size", "160", "--json"]
        show(
            "goodparts fit, to the coreset",
            calls_to("goodparts.bank.coreset.greedy", "cli/fit.py", lambda: cli(fit, standalone_mode=False)),
        )
        inspector = Inspector.load(model)
        image = next((data / "test").rglob("*.png"))
        show(
            "Inspector.inspect, to the engine",
            calls_to(
                "goodparts.engines.openvino.OpenVinoEngine.__call__",
                "inspector.py",
                lambda: inspector.inspect(image),
            ),
        )


def calls_to(target: str, first: str, call: Callable[[], object]) -> list[str]:
    """The calls that lead to a function, from the first in a file of the package on; of its last call."""
    found: list[list[str]] = []
    module, _, name = target.rpartition(".")
    owner = pkgutil.resolve_name(module)
    really = getattr(owner, name)

    def watched(*args: Any, **options: Any) -> Any:
        stack = [
            f"{Path(frame.filename).relative_to(ROOT)}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_stack()[:-1]
            if frame.filename.startswith(str(ROOT / "goodparts"))
        ]
        begin = next((index for index, line in enumerate(stack) if f"goodparts/{first}:" in line), None)
        if begin is not None:
            found.append(stack[begin:])
        return really(*args, **options)

    with mock.patch.object(owner, name, watched):
        call()
    return [*found[-1], target]


def show(title: str, calls: list[str]) -> None:
    print(f"{title}: {len(calls)} frames")
    for depth, line in enumerate(calls, 1):
        print(f"  {depth} {line}")


if __name__ == "__main__":
    main()

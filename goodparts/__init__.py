"""Visual inspection that learns what good parts look like from images of good parts only.

from goodparts import Inspector, Recipe

inspector = Inspector(Recipe(image_size=256)).fit("parts/good")
inspection = inspector.inspect("parts/new/0001.png")
print(inspection.verdict, inspection.regions)
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from goodparts.telemetry import silence_openvino

if TYPE_CHECKING:
    from goodparts.dataset import Dataset, TestSample, read_dataset
    from goodparts.drift import Drift
    from goodparts.errors import GoodpartsError
    from goodparts.evaluation import Evaluation
    from goodparts.inspection import Inspection
    from goodparts.inspector import Inspector
    from goodparts.recipe import PRESETS, Recipe
    from goodparts.regions import Region

__all__ = [
    "PRESETS",
    "Dataset",
    "Drift",
    "Evaluation",
    "GoodpartsError",
    "Inspection",
    "Inspector",
    "Recipe",
    "Region",
    "TestSample",
    "__version__",
    "read_dataset",
]

_HOMES = {
    "PRESETS": "recipe",
    "Dataset": "dataset",
    "Drift": "drift",
    "Evaluation": "evaluation",
    "GoodpartsError": "errors",
    "Inspection": "inspection",
    "Inspector": "inspector",
    "Recipe": "recipe",
    "Region": "regions",
    "TestSample": "dataset",
    "read_dataset": "dataset",
}

silence_openvino()  # here, so that no module can import OpenVINO without it

try:
    __version__ = version("goodparts")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used, so that `import goodparts` stays quick."""
    if name in _HOMES:
        return getattr(import_module(f"goodparts.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'goodparts' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

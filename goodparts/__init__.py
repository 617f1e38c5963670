"""Visual inspection that learns what good parts look like from images of good parts only.

from goodparts import Inspector, Recipe

inspector = Inspector(Recipe(image_size=256)).fit("parts/good")
inspection = inspector.inspect("parts/new/0001.png")
print(inspection.verdict, inspection.regions)
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from goodparts.engines.telemetry import silence_openvino

if TYPE_CHECKING:
    from goodparts.client import Client
    from goodparts.data.dataset import Dataset, TestSample, read_dataset
    from goodparts.decision.drift import Drift
    from goodparts.decision.inspection import Inspection
    from goodparts.decision.regions import Region
    from goodparts.errors import GoodpartsError
    from goodparts.evaluation.evaluation import Evaluation
    from goodparts.inspector import Inspector
    from goodparts.recipe.presets import PRESETS
    from goodparts.recipe.recipe import Recipe
    from goodparts.version import __version__

__all__ = [
    "PRESETS",
    "Client",
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
    "PRESETS": "recipe.presets",
    "Client": "client",
    "Dataset": "data.dataset",
    "Drift": "decision.drift",
    "Evaluation": "evaluation.evaluation",
    "GoodpartsError": "errors",
    "Inspection": "decision.inspection",
    "Inspector": "inspector",
    "Recipe": "recipe.recipe",
    "Region": "decision.regions",
    "TestSample": "data.dataset",
    "__version__": "version",
    "read_dataset": "data.dataset",
}

logging.getLogger("goodparts").addHandler(logging.NullHandler())  # quiet, unless somebody listens
silence_openvino()  # here, so that no module can import OpenVINO without it


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used, so that `import goodparts` stays quick."""
    if name in _HOMES:
        return getattr(import_module(f"goodparts.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'goodparts' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

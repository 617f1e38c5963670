"""Golden values: what a dozen recipes make of generated parts, so that no rebuilding moves a score unseen.

On the kind of machine on which `golden.json` was made everything is the same to the bit: scores, verdicts, maps,
identities, exported bytes. Processors round differently, so on others scores agree to a relative 1e-3.

    python tests/test_golden.py        # makes golden.json anew: only where values were meant to change
"""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from goodparts import Inspector, Recipe
from goodparts.errors import OutputError
from goodparts.parallel import cores

GOLDEN = Path(__file__).with_name("golden.json")
SHOWN = ("good/000", "good/001", "stain/000", "stain/001", "scratch/000", "scratch/001")

PLAIN: dict[str, Any] = {
    "whitening": 0,
    "feature_dimensions": 0,
    "score_neighbours": 1,
    "density_neighbours": 0,
}
ZONES = {
    "size": [96, 96],
    "zones": [
        {"name": "left", "polygons": [[[8, 8], [48, 8], [48, 88], [8, 88]]]},
        {"name": "right", "polygons": [[[48, 8], [88, 8], [88, 88], [48, 88]]]},
    ],
}

DEPTHS: dict[str, Any] = {"banks": "by_depth", "threshold_rule": "robust_sigma"}

RECIPES: dict[str, dict[str, Any]] = {
    "default": {
        "layers": ("layer1", "layer2", "layer3"),
        "layer_weights": (1.5, 1, 0.7),
        "grid_layer": "layer2",
    },
    "fast": {"layers": ("layer1", "layer2"), "image_size": 64, "sampling_limit": 100},
    "classic": {"sampling": "random", **PLAIN, "pixel_threshold_rule": "pixel_sigma", "minimum_area": 0},
    "patchcore": {
        "framing": "crop",
        "image_size": 80,
        "resize_size": 96,
        "pooled_dimensions": 32,
        "layer_fusion": "adaptive",
        **PLAIN,
    },
    "letterbox": {"framing": "letterbox", "image_size": "128x96", "image_score": "reweighted"},
    "tiles": {"image_size": 64, "tiling": "48x48+16", "image_score": "top_mean", "top_share": 0.05},
    "tile_bank": {"image_size": 64, "tiling": "48x48+16", "tile_bank": "position", "roi": "mask.png"},
    "roi": {"roi": "mask.png", "quality_gate": True, "image_score": "top_mean"},
    "zones": {"roi": "zones.json", "threshold_rule": "rate", "false_reject_rate": 0.2},
    "pose": {"pose": "rigid", "layers": ("layer1", "layer2"), "pose_failure": "recheck", "robust": True},
    "window": {"position_window": 20.0, "sampling_ratio": 0.1},
    "light": {"light": "colour", "threshold_rule": "quantile"},
    "augment": {
        "augment": ("flip", "rotate90", "brightness:0.9-1.1", "noise:4"),
        "image_score": "top_mean",
        "search_dimensions": 16,
    },
    "depths": {**DEPTHS, "layers": ("layer1", "layer2", "layer3"), "grid_layer": "layer2"},
    "depths, letterbox": {
        **DEPTHS,
        "framing": "letterbox",
        "image_size": "128x96",
        "image_score": "reweighted",
    },
    "depths, tiles": {**DEPTHS, "image_size": 64, "tiling": "48x48+16", "roi": "mask.png"},
    "depths, zones": {**DEPTHS, "roi": "zones.json"},
    "depths, window": {**DEPTHS, "position_window": 20.0, "sampling_ratio": 0.1},
}


def recipe_of(name: str, backbone: Path, files: Path) -> Recipe:
    """The recipe of that name; zones and masks lie in `files`."""
    joined = {"banks": "joined", "aspect": "as_given", "threshold_rule": "sigma"}
    keys = {
        **joined,
        "layers": ("layer2", "layer3"),
        "image_size": 96,
        "sampling_ratio": 0.2,
        **RECIPES[name],
    }
    if "roi" in keys:
        keys["roi"] = str(files / keys["roi"])
    return Recipe(backbone=str(backbone), precision="f32", **keys)


def write_roi_files(folder: Path) -> Path:
    """The mask and the zones that recipes name."""
    mask = np.zeros((96, 96), dtype=np.uint8)
    mask[10:80, 20:90] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    (folder / "zones.json").write_text(json.dumps(ZONES))
    return folder


def with_a_mark(data: Path, folder: Path) -> Path:
    """The same parts, which look alike however they lie, with a mark that tells, each moved a little."""
    for number, path in enumerate(sorted([*data.glob("train/*/*"), *data.glob("test/*/*")])):
        pixels = np.array(Image.open(path))
        pixels[24:34, 30:66] = 220
        pixels[24:60, 30:38] = 220
        target = folder / path.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        turned = Image.fromarray(pixels).rotate(number % 5 * 2 - 4, Image.Resampling.BICUBIC)
        Image.fromarray(np.roll(np.array(turned), (number % 4 - 2, number % 7 - 3), (0, 1))).save(target)
    return folder


def measured(inspector: Inspector, data: Path, folder: Path) -> dict[str, Any]:
    """Numbers of a fitted inspector, and hashes of all that is bytes."""
    scores, verdicts, details = [], [], []
    for name in SHOWN:
        found = inspector.inspect(data / "test" / f"{name}.png")
        scores.append(found.score)
        verdicts.append(found.verdict)
        details.append(
            [
                _hash(found.distance_grid.tobytes()),
                _hash(found.anomaly_map.tobytes()),
                _hash(found.mask.tobytes()),
                repr(
                    (found.p_value, found.regions, found.zones, found.pose, found.reasons, found.statistics)
                ),
            ]
        )
    calibration = inspector.model.calibration
    return {
        "scores": scores,
        "verdicts": verdicts,
        "threshold": calibration.threshold,
        "pixel_threshold": calibration.pixel_threshold,
        "good_scores": list(calibration.scores),
        "exact": {
            "inspections": _hash(json.dumps(details).encode()),
            "bank": _hash(inspector.model.bank.features.tobytes()),
            "graph": _exported(inspector, folder),
            "identity": inspector.model.identity,
        },
    }


def _exported(inspector: Inspector, folder: Path) -> str:
    """Hash of the exported file without what it says of itself; empty where the recipe can't be exported."""
    import onnx

    try:
        network = onnx.load(inspector.export(folder / "golden.onnx"))
    except OutputError:
        return ""
    del network.metadata_props[:]
    return _hash(network.SerializeToString(deterministic=True))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def learnt(name: str, backbone: Path, data: Path, files: Path) -> Inspector:
    """The inspector of a golden value: of a recipe, or one that learnt in another way."""
    if name == "one_image":
        return Inspector(recipe_of("default", backbone, files)).fit([data / "train" / "good" / "000.png"])
    inspector = Inspector(recipe_of(name.removesuffix("_updated"), backbone, files))
    if not name.endswith("_updated"):
        return inspector.fit(data)
    images = sorted((data / "train" / "good").iterdir())
    inspector.fit(images[:10]).update(images[8:])
    return inspector.calibrate(sorted((data / "test" / "good").iterdir()))


NAMES = (*RECIPES, "one_image", "default_updated", "tile_bank_updated", "zones_updated")


def machine() -> list[str]:
    """What results to the bit depend on."""
    flags: set[str] = set()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        flags = next((set(line.split()) for line in info.read_text().splitlines() if "flags" in line), set())
    kinds = sorted(flags & {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"})
    packages = [f"{name} {version(name)}" for name in ("numpy", "openvino", "onnx", "pillow")]
    return [platform.machine(), f"{cores()} cores", *kinds, *packages]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_roi_files(tmp_path_factory.mktemp("roi"))


@pytest.mark.parametrize("name", NAMES)
def test_golden_values(
    name: str, mini_backbone: Path, mini_dataset: Path, files: Path, tmp_path: Path
) -> None:
    golden = json.loads(GOLDEN.read_text())
    expected = golden["values"][name]
    data = with_a_mark(mini_dataset, tmp_path / "marked") if name == "pose" else mini_dataset
    found = measured(learnt(name, mini_backbone, data, files), data, tmp_path)
    assert found["verdicts"] == expected["verdicts"]
    for key in ("scores", "threshold", "pixel_threshold", "good_scores"):
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-3)
    if golden["machine"] == machine():
        assert found == expected


def make(backbone: Path, data: Path) -> None:
    """Write `golden.json`."""
    with tempfile.TemporaryDirectory() as folder:
        files = write_roi_files(Path(folder))
        marked = with_a_mark(data, files / "marked")
        values = {}
        for name in NAMES:
            shown = marked if name == "pose" else data
            values[name] = measured(learnt(name, backbone, shown, files), shown, files)
    GOLDEN.write_text(json.dumps({"machine": machine(), "values": values}, indent=1) + "\n")


if __name__ == "__main__":
    import sys

    class Folders:
        """Stands in for pytest's factory of temporary folders."""

        def __init__(self, root: Path) -> None:
            self.root = root

        def mktemp(self, name: str) -> Path:
            """A folder of that name."""
            (self.root / name).mkdir()
            return self.root / name

    sys.path.insert(0, str(GOLDEN.parent))
    import conftest

    made: Callable[[Any], Path]
    with tempfile.TemporaryDirectory() as home:
        folders = Folders(Path(home))
        make(
            *(
                made(folders)
                for made in (conftest.mini_backbone.__wrapped__, conftest.mini_dataset.__wrapped__)
            )
        )

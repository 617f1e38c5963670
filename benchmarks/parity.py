"""Do all engines give the same scores? Every engine, precision and exported file here, on real images.

    python benchmarks/parity.py ../shared/mvtec_ad/metal_nut [BACKBONE[@SIZE] ...] [--good 60] [--images 115]

For each backbone (a name or a file; none of them: efficientnet_lite0; `none`: no backbone at all) a model is fitted on
some of the good images, and `goodparts verify` compares all that is here with OpenVINO in float32, on some of the test
images. `batch 16` is the same by 16 images a call, as a share of the scores one by one. With --variants also odd image
sizes, a region of interest, and tiles.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from goodparts import Inspector, Recipe, read_dataset
from goodparts.engines.engine import open_engine
from goodparts.engines.runtime import ENGINES, Runtime, installed
from goodparts.model.verify import verify

BATCH = 16
ODD: dict[str, dict[str, Any]] = {
    "225 x 321 pixels": {"image_size": "225x321"},
    "letterbox, 300 x 224": {"image_size": "300x224", "framing": "letterbox"},
    "a region of interest": {"roi": "ROI"},
    "tiles": {"image_size": 160, "tiling": "350x350+50"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("backbones", nargs="*", default=["efficientnet_lite0"])
    parser.add_argument("--good", type=int, default=60)
    parser.add_argument("--images", type=int, default=115)
    parser.add_argument("--variants", action="store_true")
    asked = parser.parse_args()
    data = read_dataset(asked.data)
    step = -(-len(data.train) // asked.good)
    good = list(data.train)[::step]
    images = [sample.path for sample in data.test][:: max(1, len(data.test) // asked.images)]
    print(f"{len(good)} good images to learn from, {len(images)} test images\n")
    print("| model | computed by | scores differ by | distances by | verdicts that change | batch 16 |")
    print("|---|---|---|---|---|---|")
    for name in (name for name in asked.backbones if name != "none"):
        backbone, _, size = name.partition("@")
        recipe = Recipe(backbone=backbone, **({"image_size": size} if size else {}))
        title = f"{Path(backbone).stem}, {size or 320} px"
        compare(title, recipe, good, images)
    if asked.variants:
        with tempfile.TemporaryDirectory() as folder:
            zone = [[150, 150], [550, 150], [550, 550], [150, 550]]
            path = Path(folder, "zone.json")
            path.write_text(
                json.dumps({"size": [700, 700], "zones": [{"name": "middle", "polygons": [zone]}]})
            )
            for title, keys in ODD.items():
                keys = {**keys, **({"roi": str(path)} if "roi" in keys else {})}
                compare(title, Recipe(**keys), good, images)


def compare(title: str, recipe: Recipe, good: list[Path], images: list[Path]) -> None:
    inspector = Inspector(recipe, engine="openvino", device="cpu").fit(good)
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("f32", "f16"):
            exported = None
            if not (inspector.recipe.roi and inspector.recipe.tiling):
                exported = inspector.export(Path(folder, "part.onnx"), precision=precision)
            rows = verify(
                inspector.model, images, inspector.read, exported=exported, engines=precision == "f32"
            )
            for row in rows[1:]:
                if row.failure:
                    print(f"| {title} | {row.computed_by} | {row.failure} | | | |", flush=True)
                    continue
                together = in_batches(inspector, images, row.computed_by)
                print(
                    f"| {title} | {row.computed_by} | {row.score_difference:.1g} | {row.distance_difference:.1g} | "
                    f"{len(row.changed) or 'none'}{'' if row.used else ' (not used)'} | {together} |",
                    flush=True,
                )


def in_batches(inspector: Inspector, images: list[Path], computed_by: str) -> str:
    """By how much scores differ when an engine is given 16 images at a time; empty where that does not apply."""
    engine, _, rest = computed_by.partition(" on cpu in ")
    model = inspector.model
    if engine not in filter(installed, ENGINES) or not model.preprocessor.single_crop:
        return ""
    prepare = model.preprocessor
    crops = [
        crop for path in images[:BATCH] for crop in prepare.crops(prepare.prepare(inspector.read(path), path))
    ]
    graph = model.pipeline()
    given = {"image": np.stack([crop.pixels for crop in crops])}
    if "valid" in graph.inputs:
        given["valid"] = np.stack([crop.patch_mask for crop in crops]).astype(np.float32)
    on = Runtime.of(engine, "cpu")
    shapes = {name: (1, *value.shape[1:]) for name, value in given.items()}
    one = open_engine(graph, shapes, precision=rest, on=on)
    alone = [one({name: value[[n]] for name, value in given.items()})["score"][0] for n in range(len(crops))]
    many = one
    if engine == "openvino":
        many = open_engine(graph, {name: value.shape for name, value in given.items()}, precision=rest, on=on)
    return f"{np.abs(many(given)['score'] / np.array(alone) - 1).max():.1g}"


if __name__ == "__main__":
    main()

"""Regions of interest: polygons as JSON, our own and LabelMe's, and mask images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image
from test_golden import ZONES

from fuzz.mutations import as_json, changed_bytes, changed_text, changed_value
from goodparts.preprocessing.roi_file import read_roi

_SIZE = (72, 96)
_LABELME = {
    "version": "5.0.1",
    "shapes": [
        {"label": "rim", "shape_type": "polygon", "points": [[5, 5.5], [40, 6], [30, 60]]},
        {"label": "rim", "shape_type": "rectangle", "points": [[50, 10], [90, 40]]},
        {"label": "hub", "shape_type": "rectangle", "points": [[10, 50], [20, 60]]},
    ],
    "imageWidth": 96,
    "imageHeight": 72,
}
_HOLES = {
    "zones": [
        {"name": "all", "polygons": [[[0, 0], [96, 0], [96, 72]]], "holes": [[[9, 9], [20, 9], [20, 20]]]}
    ]
}


class Zones:
    """See `fuzz.target.Target`."""

    suffix = ".roi"  # what counts is the content

    def write_seeds(self, folder: Path) -> None:
        for name, value in (("own", ZONES), ("labelme", _LABELME), ("holes", _HOLES)):
            (folder / f"{name}.json").write_text(json.dumps(value))
        mask = np.zeros(_SIZE, dtype=np.uint8)
        mask[10:40, 20:60] = 255
        Image.fromarray(mask).save(folder / "mask.png")

    def read_seeds(self, folder: Path) -> list[bytes]:
        return [path.read_bytes() for path in sorted(folder.iterdir())]

    def make(self, seeds: list[bytes], rng: Generator) -> bytes:
        data = seeds[int(rng.integers(len(seeds)))]
        if not data.startswith(b"{") or rng.random() < 0.2:
            return changed_bytes(data, seeds, rng)
        if rng.random() < 0.1:
            texts = [seed.decode() for seed in seeds if seed.startswith(b"{")]
            return changed_text(data.decode(), texts, rng)
        return as_json(changed_value(json.loads(data), rng), rng)

    def readers(self, path: Path) -> Iterator[Callable[[], object]]:
        def read() -> None:
            roi = read_roi(path, _SIZE)
            assert roi.names, "no zone"
            assert len(set(roi.names)) == len(roi.names), roi.names
            for masks in (roi.masks, roi.masks_at(roi.size)):
                assert masks.shape == (len(roi.names), *roi.size), masks.shape
                assert masks.any(axis=(1, 2)).all(), "an empty zone"

        yield read


TARGET = Zones()

"""Greedy coresets of the same patch features for `versus.py`: ours, and anomalib's."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from versus_environment import say

from goodparts import Dataset, Recipe, parallel
from goodparts.backbones.backbone import Backbone
from goodparts.bank import coreset
from goodparts.data.good_images import GoodImages
from goodparts.data.images import read_image
from goodparts.features.extract import Extractor, extract
from goodparts.features.projection import Projection
from goodparts.preprocessing import framing
from goodparts.preprocessing.preprocessor import Preprocessor
from goodparts.preprocessing.roi import EVERYWHERE


def all_features(data: Dataset, backbone: Backbone, recipe: Recipe) -> np.ndarray:
    """Patch features of all good images, (n, d) float32."""
    say("features of all good images")
    extractor = Extractor(backbone, recipe)
    good = GoodImages.of(data.train, read=read_image, workers=parallel.default_workers())
    preprocessor = Preprocessor.learn(good, recipe, extractor.grid, EVERYWHERE)
    with extract(good, extractor, preprocessor) as found:
        return np.concatenate([found.features.image(index) for index in range(len(found))])


def unlikeness(theirs: Callable[..., Any], ours: np.ndarray, path: Path, recipe: Recipe, work: Path) -> float:
    """How far anomalib's patch features of an image lie from ours, relatively, from the same resized pixels."""
    pixels = read_image(path)
    np.save(work / "working.npy", framing.apply(framing.frame_of(pixels.shape[:2], recipe), pixels))
    theirs("embed", working=str(work / "working.npy"), to=str(work / "embedded.npy"))
    return float(np.linalg.norm(np.load(work / "embedded.npy") - ours) / np.linalg.norm(ours))


def time_coresets(
    theirs: Callable[..., Any], features: np.ndarray, count: int, picks: int, rounds: int, work: Path
) -> tuple[float, float]:
    """Seconds to pick `count` entries: ours, and anomalib's, of which all but the first `picks` are extrapolated."""
    np.save(work / "features.npy", features)

    def ours() -> None:
        points = Projection.draw(features.shape[1], Recipe()).of(features)
        points -= points.mean(axis=0, dtype=np.float64).astype(np.float32)
        coreset.greedy(points, count)

    spent, begins, somes = [], [], []
    for index in range(rounds):
        say(f"coreset, round {index + 1} of {rounds}")
        spent.append(seconds(ours))
        begin, some = theirs("coreset", features=str(work / "features.npy"), picks=picks)
        begins.append(begin)
        somes.append(some)
    begin, some = median(begins), median(somes)
    return median(spent), begin + (some - begin) * (count - 1) / (picks - 1)


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began

"""A model with its compiled engines: what measures and inspects images, in as many threads as like."""

from __future__ import annotations

import threading
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from goodparts.bank.search import Piece, search
from goodparts.bank.search_graph import side_by_side
from goodparts.data.good_images import GoodImages
from goodparts.decision.inspection import Inspection
from goodparts.decision.verdict import Measured, judge, score_of
from goodparts.engines.engine import Engine, open_engine
from goodparts.engines.precision import SAMPLE, UNCHECKED, PrecisionCheck, has_bf16, in_use, margin
from goodparts.model.model import Model


class Predictor:
    """Measures and inspects images. Safe for threads: each engine is compiled once, by who needs it first.

    Attributes:
        model: what was learnt.
        precision: what is computed in, "f32" or "bf16".
    """

    def __init__(self, model: Model, precision: str | None = None) -> None:
        self.model = model
        self.precision = precision or in_use(model.recipe, model.precision)
        self._engines: dict[bool, Engine] = {}
        self._lock = threading.Lock()

    def open(self, *, latency: bool = False) -> Engine:
        """The engine for one image after another (`latency`), or for several at a time; compiled at the first call."""
        model = self.model
        throughput = (
            not latency
            and not model.preprocessor.tiling.several
            and side_by_side(model.bank, model.grid, model.recipe)
        )
        with self._lock:
            if throughput not in self._engines:
                self._engines[throughput] = open_engine(
                    model.pipeline(), throughput=throughput, precision=self.precision
                )
            return self._engines[throughput]

    def close(self) -> None:
        """Let go of the engines and their memory; the next image compiles them anew."""
        with self._lock:
            self._engines.clear()

    def measure(self, pixels: NDArray[np.uint8], name: object, *, latency: bool = False) -> Measured:
        """Distances and score of an image (H, W, 3) uint8; `name` is what to call it in an error.

        Raises:
            ImageError: it does not fit the region of interest.
        """
        preprocessor = self.model.preprocessor
        image = preprocessor.prepare(pixels, name)
        pieces = (Piece(crop.tile, crop.pixels, crop.patch_mask, {}) for crop in preprocessor.crops(image))
        return Measured(image, *search(self.open(latency=latency), pieces, image.patch_mask, preprocessor))

    def inspect(
        self, pixels: NDArray[np.uint8], path: Path | None, *, latency: bool = False, recognise: bool = False
    ) -> Inspection:
        """Inspect an image (H, W, 3) uint8 that was read from `path`; errors as `measure` and `judge`."""
        measured = self.measure(pixels, "image" if path is None else path, latency=latency)
        return judge(
            measured,
            self.model.calibration,
            self.model.preprocessor,
            margin=self._margin,
            path=path,
            recognise=recognise,
        )

    def score(self, pixels: NDArray[np.uint8], name: object) -> float:
        """Only the anomaly score of an image; needs no threshold."""
        return score_of(self.measure(pixels, name), self.model.calibration, self.model.preprocessor)[0]

    @cached_property
    def _margin(self) -> float:
        return margin(self.precision, self.model.precision)


def check_precision(model: Model, good: GoodImages) -> PrecisionCheck:
    """How far bf16 moves the scores of some good images; not measured where it would not be used."""
    if model.recipe.precision == "f32" or not has_bf16():
        return UNCHECKED
    predictors = [Predictor(model, precision) for precision in ("f32", "bf16")]
    sample = range(0, len(good), -(-len(good) // SAMPLE))

    def scores(index: int) -> list[float]:
        pixels = good.pixels(index)
        return [predictor.measure(pixels, index).score for predictor in predictors]

    found = []
    for pair in good.map(scores, sample, workers=model.preprocessor.max_parallel_images(good.workers)):
        found.append(pair)
        good.progress("precision", len(found), len(sample))
    return PrecisionCheck.compare(*zip(*found, strict=True))

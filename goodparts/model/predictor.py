"""A model with its compiled engines: what measures and inspects images, in as many threads as like."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from goodparts import parallel
from goodparts.bank.search import Piece, search
from goodparts.bank.search_graph import side_by_side
from goodparts.data.good_images import GoodImages, Read, require_several
from goodparts.data.images import ImageLike, name_of, path_of
from goodparts.data.structure import in_hand
from goodparts.decision.inspection import Inspection
from goodparts.decision.verdict import Measured, judge, score_of
from goodparts.engines.engine import Engine, open_engine, open_known_engine
from goodparts.engines.precision import SAMPLE, UNCHECKED, PrecisionCheck, has_bf16, in_use, margin
from goodparts.engines.runtime import Runtime, current
from goodparts.errors import BackboneError, ImageError
from goodparts.model.model import Model

if TYPE_CHECKING:
    from goodparts.engines.graph import Graph

Images = Iterable[ImageLike]
OnError = Literal["raise", "return"]
Result = TypeVar("Result")
Then = Callable[[int, NDArray[np.uint8], Inspection], Result]
"""Called with (index, pixels (H, W, 3) uint8, inspection)."""


class Predictor:
    """Measures and inspects images. Safe for threads: each engine is compiled once, by who needs it first.

    It pickles and copies without its engines, and a process that was forked opens engines of its own.

    Attributes:
        model: what was learnt.
        precision: what is computed in, "f32" or "bf16".
        runtime: by which engine, on which device.
        keep_compiled: whether what is compiled is kept on this machine, and taken from there (`engines.kept`).
    """

    def __init__(
        self,
        model: Model,
        precision: str | None = None,
        runtime: Runtime | None = None,
        *,
        keep_compiled: bool = False,
    ) -> None:
        self.model = model
        self.keep_compiled = keep_compiled
        self.runtime = runtime if runtime is not None else current()
        with self.runtime.chosen():
            self.precision = precision or in_use(model.recipe, model.precision)
        self._engines: dict[bool, Engine] = {}
        self._lock = parallel.ForkedLock()

    def __reduce__(self) -> tuple[Callable[..., Predictor], tuple[Model, str, Runtime]]:
        found = partial(type(self), keep_compiled=self.keep_compiled)
        return found, (self.model, self.precision, self.runtime)

    @cached_property
    def computed_by(self) -> str:
        """Engine, device and precision."""
        return f"{self.runtime} in {self.precision}"

    def redecided(self, model: Model) -> Predictor:
        """A predictor with the same engines for a model that measures as this one and decides otherwise."""
        other = Predictor(model, self.precision, self.runtime, keep_compiled=self.keep_compiled)
        other._engines, other._lock = self._engines, self._lock
        return other

    def open(self, *, latency: bool = False) -> Engine:
        """The engine for one image after another (`latency`), or for several at a time; compiled at the first call."""
        with self._lock:
            throughput = not latency and (self.runtime.several_at_once or self._side_by_side)
            engine = self._engines.get(throughput)
            if engine is None or not engine.usable:
                engine = self._opened(throughput=throughput)
                self._engines[throughput] = engine
            return engine

    def open_ahead(self) -> None:
        """Open the engine for one image after another in a thread of its own; whoever needs it first waits for it."""

        def open_it() -> None:
            with suppress(Exception):  # which whoever needs it meets again
                self.open(latency=True)

        threading.Thread(target=open_it, name="goodparts-open").start()

    def _opened(self, *, throughput: bool) -> Engine:
        """A compiled engine, by an earlier process if one kept it."""
        how: Any = {"throughput": throughput, "precision": self.precision, "on": self.runtime}
        try:
            if not self.keep_compiled:
                return open_engine(self._pipeline(), **how)
            return open_known_engine(self.model.identity, self._pipeline, **how)
        except BackboneError as error:
            raise self.model.damaged(str(error)) from error

    def _pipeline(self) -> Graph:
        return self.model.pipeline(self.runtime.products(self.precision))

    def close(self) -> None:
        """Let go of the engines and their memory; the next image compiles them anew."""
        with self._lock:
            self._engines.clear()

    def measure(self, pixels: NDArray[np.uint8], name: object, *, latency: bool = False) -> Measured:
        """Distances and score of an image (H, W, 3) uint8; `name` is what to call it in an error.

        Raises:
            ImageError: it does not fit the region of interest, or its distances are no numbers.
        """
        preprocessor = self.model.preprocessor
        image = preprocessor.prepare(pixels, name)
        pieces = (
            Piece(crop.tile, {"image": crop.pixels[None]}, crop.patch_mask)
            for crop in preprocessor.crops(image)
        )
        measured = Measured(
            image, *search(self.open(latency=latency), pieces, image.patch_mask, preprocessor)
        )
        if not measured.finite:
            raise ImageError(
                f"{name}: can't be judged by {self.model.path or 'this model'}: its distances to good parts are not "
                "all finite numbers. The model or its backbone is damaged, or not made for such images; fit it anew"
            )
        return measured

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
            computed_by=self.computed_by,
        )

    def score(self, pixels: NDArray[np.uint8], name: object) -> float:
        """Only the anomaly score of an image; needs no threshold."""
        return score_of(self.measure(pixels, name), self.model.calibration, self.model.preprocessor)[0]

    def inspect_many(
        self,
        images: Images,
        read: Read,
        then: Then[Any] | None = None,
        *,
        on_error: OnError = "raise",
        recognise: bool = False,
        workers: int,
    ) -> Iterator[Any]:
        """Inspect several images at a time; see `Inspector.inspect_many`.

        Raises:
            DatasetError: a folder or one image is given in the place of several.
            ImageError: with `on_error = "raise"`, where that image's result would have come.
            ValueError: `on_error` is something else.
        """
        if on_error not in ("raise", "return"):
            raise ValueError(f"on_error: expected raise or return, found {on_error!r}")
        require_several(images)
        self.open()  # before there are threads

        def inspect_one(item: tuple[int, ImageLike]) -> Any:
            index, image = item
            with in_hand():
                try:
                    pixels = read(image)
                    inspection = self.inspect(pixels, path_of(image), recognise=recognise)
                except ImageError as error:
                    if on_error == "raise":
                        raise
                    return error
                return inspection if then is None else then(index, pixels, inspection)

        workers = self.model.preprocessor.max_parallel_images(workers)
        return parallel.parallel_map(inspect_one, enumerate(images), workers=workers)

    def score_many(self, images: Images, read: Read, *, workers: int) -> Iterator[float]:
        """Only the anomaly scores, in order; needs no threshold. DatasetError as `inspect_many`."""
        require_several(images)
        self.open()
        workers = self.model.preprocessor.max_parallel_images(workers)

        def score_one(image: ImageLike) -> float:
            with in_hand():
                return self.score(read(image), name_of(image))

        return parallel.parallel_map(score_one, images, workers=workers)

    @cached_property
    def _side_by_side(self) -> bool:
        """Whether several images are searched at a time, each on one core."""
        model = self.model
        alone = side_by_side(model.bank, model.grid, model.recipe, model.coarser_banks)
        return model.preprocessor.single_crop and alone

    @cached_property
    def _margin(self) -> float:
        return margin(self.precision, self.model.precision)


def with_precision_check(model: Model, good: GoodImages) -> Model:
    """The model that knows how far bf16 moves scores, of some good images; not measured where it would not be used."""
    if model.recipe.precision == "f32" or not has_bf16():
        return replace(model, precision=UNCHECKED)
    predictors = [Predictor(model, precision) for precision in ("f32", "bf16")]
    sample = range(0, len(good), -(-len(good) // SAMPLE))

    def scores(index: int) -> list[float]:
        pixels = good.pixels(index)
        return [predictor.measure(pixels, name_of(good.images[index])).score for predictor in predictors]

    found = []
    for pair in good.map(scores, sample, workers=model.preprocessor.max_parallel_images(good.workers)):
        found.append(pair)
        good.progress("precision", len(found), len(sample))
    return replace(model, precision=PrecisionCheck.compare(*zip(*found, strict=True)))

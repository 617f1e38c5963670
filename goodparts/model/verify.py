"""Proof that a model gives the same scores by whatever computes it: engines, devices, precisions, exported files.

    rows = verify(model, images, read, exported=Path("part.onnx"))
    all(row.agrees for row in rows)

The first row is what the others are held against: float32, by the first engine there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goodparts.bank.search import Piece, search
from goodparts.data import dataset
from goodparts.data.good_images import Read
from goodparts.data.images import ImageLike, name_of
from goodparts.decision.verdict import score_of
from goodparts.engines.engine import capabilities
from goodparts.engines.precision import LIMIT, in_use
from goodparts.engines.runtime import KINDS, Run, Runtime, installed
from goodparts.errors import BackboneError, EngineError, GoodpartsError, ModelError, shortened
from goodparts.files import JsonRecord
from goodparts.model.model import Model
from goodparts.model.predictor import Predictor

TOLERANCE = 1e-3
"""Scores and distances in float32 may differ by this share of themselves."""

_FARTHER = 10  # times: where entries rank alike in int8, another one may be measured
_SOME = 4  # images on which an export is tried


@dataclass(frozen=True)
class Row:
    """What computed the images, and how far it is from the first.

    Attributes:
        computed_by: engine, device and precision, or a file and what ran it.
        score_difference: the largest of |score / score of the first - 1|; None where it could not run.
        distance_difference: the largest difference of patch distances, as a share of the image's largest.
        changed: images whose verdict is another.
        tolerance: how far scores may be; in float32 distances ten times as far.
        failure: why it could not run; empty where it did.
        used: whether the model is ever computed so: `precision = auto` passes over bfloat16 where it moves scores far.
    """

    computed_by: str
    score_difference: float | None
    distance_difference: float | None
    changed: tuple[str, ...]
    tolerance: float
    failure: str = ""
    used: bool = True

    @property
    def agrees(self) -> bool:
        """Whether it is near enough, if it is used; in lower precision by scores alone: single patches move more."""
        if not self.used:
            return True
        if self.score_difference is None or self.distance_difference is None:
            return False
        near = self.distance_difference <= _FARTHER * self.tolerance or self.tolerance >= LIMIT
        return self.score_difference <= self.tolerance and near

    def to_dict(self) -> JsonRecord:
        """As JSON takes it."""
        return {**asdict(self), "agrees": self.agrees}


@dataclass(frozen=True, eq=False)
class _Found:
    """Score, verdict and patch distances of each image."""

    scores: NDArray[np.float64]
    bad: NDArray[np.bool_]
    grids: list[NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class _Opened:
    """An exported file as an engine."""

    run: Run
    inputs: frozenset[str]
    usable: bool = True

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        return self.run(inputs)


def verify(
    model: Model,
    images: Sequence[ImageLike],
    read: Read,
    *,
    exported: Path | None = None,
    engines: bool = True,
    tolerance: float = TOLERANCE,
) -> list[Row]:
    """The same images through all that there is.

    Args:
        model: what was learnt.
        images: to inspect.
        read: from an image to pixels.
        exported: a file that the model was exported to, .onnx or .xml.
        engines: whether to try all engines, devices and precisions of this machine, or the file alone.
        tolerance: of float32; in bfloat16, and of files in half precision, it is 1 %.

    Raises:
        ModelError: the exported file is none, or of another model.
        ImageError: one of the images can't be read, or does not fit the region of interest.
    """
    pixels = [read(image) for image in images]
    names = [name_of(image) for image in images]
    runtimes = _runtimes()
    first = Predictor(model, "f32", runtimes[0])
    reference = _by_predictor(first, pixels, names)
    rows = [Row(first.computed_by, 0.0, 0.0, (), tolerance)]
    if engines:
        for runtime in runtimes:
            for precision in ("f32", "bf16") if "BF16" in capabilities(runtime) else ("f32",):
                if (runtime, precision) == (runtimes[0], "f32"):
                    continue
                predictor = Predictor(model, precision, runtime)
                allowed = tolerance if precision == "f32" else max(tolerance, LIMIT)
                with runtime.chosen():
                    used = precision in ("f32", in_use(model.recipe, model.precision))
                try:
                    found = _by_predictor(predictor, pixels, names)
                except (EngineError, BackboneError) as error:
                    rows.append(_failed(predictor.computed_by, error, allowed))
                else:
                    row = _row(predictor.computed_by, found, reference, names, allowed)
                    rows.append(replace(row, used=used))
    if exported is not None:
        rows += _by_file(model, exported, pixels, names, reference, tolerance)
    return rows


def own_images(model: Model) -> list[Path]:
    """A few of the good images that a model was learnt from, where they still are; none where they are not."""
    folder = Path(model.fit_record.fitted_on)
    try:
        found = dataset.good_images(folder) if folder.is_dir() else []
    except GoodpartsError:
        return []
    return list(found[:: -(-len(found) // _SOME) or 1])


def _runtimes() -> list[Runtime]:
    """All that can be computed with on this machine, processors first."""
    found = []
    for kind, able in KINDS.items():
        for engine in filter(installed, able):
            try:
                found.append(Runtime.of(engine, kind))
            except EngineError:
                continue
    if not found:
        raise EngineError("no engine is installed: pip install openvino")
    return found


def _by_predictor(predictor: Predictor, pixels: Sequence[NDArray[np.uint8]], names: Sequence[str]) -> _Found:
    model = predictor.model
    measured = [predictor.measure(image, name) for image, name in zip(pixels, names, strict=True)]
    scores = [score_of(each, model.calibration, model.preprocessor)[0] for each in measured]
    return _found(scores, model.calibration.threshold, [each.distance_grid for each in measured])


def _found(scores: Sequence[float], threshold: float, grids: list[NDArray[np.float32]]) -> _Found:
    values = np.array(scores, dtype=np.float64)
    return _Found(values, ~(values <= threshold), grids)


def _by_file(
    model: Model,
    path: Path,
    pixels: Sequence[NDArray[np.uint8]],
    names: Sequence[str],
    reference: _Found,
    tolerance: float,
) -> Iterator[Row]:
    """A file in each engine that opens such files, with nothing of this program but how images are prepared."""
    able = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino",)}.get(path.suffix.lower())
    if able is None or not path.is_file():
        raise ModelError(
            f"{path}: no such exported file; expected an .onnx or .xml that `goodparts export` wrote"
        )
    described: dict[str, str] = {}
    for engine in filter(installed, able):
        by = f"{path.name} in plain {engine} on cpu"
        try:
            run, metadata = import_module(f"goodparts.engines.{engine}").open_file(path)
            described = metadata or described or _metadata(path)
            _require_same(model, path, described)
            found = _run_file(run, model, pixels, names, float(described["threshold"]))
        except GoodpartsError:
            raise
        except Exception as error:  # whatever an engine says of a file that it can't open or run
            yield _failed(by, error, tolerance)
            continue
        half = described.get("precision") == "f16"
        yield _row(
            f"{by}{', stored in f16' if half else ''}",
            found,
            reference,
            names,
            max(tolerance, LIMIT) if half else tolerance,
        )


def _metadata(path: Path) -> dict[str, str]:
    import onnx

    return {item.key: item.value for item in onnx.load(path).metadata_props}


def _require_same(model: Model, path: Path, described: dict[str, str]) -> None:
    if "model" not in described:
        raise ModelError(f"{path}: says nothing of a model; expected a file that `goodparts export` wrote")
    if described["model"] != model.identity:
        raise ModelError(
            f"{path}: was exported from another model ({described['model'][:12]}, this one is {model.identity[:12]}); "
            "export it anew"
        )


def _run_file(
    run: Run,
    model: Model,
    pixels: Sequence[NDArray[np.uint8]],
    names: Sequence[str],
    threshold: float,
) -> _Found:
    """Scores as a program has them that reads docs/export.md: of several zones, and of tiles, made as it says there."""
    preprocessor = model.preprocessor
    engine = _Opened(run, frozenset(model.pipeline().inputs))
    scores, grids = [], []
    for image, name in zip(pixels, names, strict=True):
        prepared = preprocessor.prepare(image, name)
        pieces = [
            Piece(crop.tile, {"image": crop.pixels[None]}, crop.patch_mask)
            for crop in preprocessor.crops(prepared)
        ]
        grid, score = search(engine, pieces, prepared.patch_mask, preprocessor)
        scores.append(score)
        grids.append(grid)
    return _found(scores, threshold, grids)


def _row(computed_by: str, found: _Found, reference: _Found, names: Sequence[str], tolerance: float) -> Row:
    moved = np.abs(found.scores - reference.scores) / np.maximum(np.abs(reference.scores), 1e-30)
    apart = [
        float(np.nanmax(np.abs(grid - same)) / max(float(np.nanmax(np.abs(same))), 1e-30))
        for grid, same in zip(found.grids, reference.grids, strict=True)
    ]
    changed = tuple(names[index] for index in np.flatnonzero(found.bad != reference.bad).tolist())
    return Row(computed_by, float(moved.max()), max(apart), changed, tolerance)


def _failed(computed_by: str, error: Exception, tolerance: float) -> Row:
    return Row(computed_by, None, None, (), tolerance, shortened(error, 200))

"""What a version of a model says of the parts that were reviewed: scores from the history, or measured anew.

A score in the history counts for every version that measures alike: one that only decides otherwise, such as by
another threshold, has the same memory bank.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from goodparts.data.images import read_image
from goodparts.errors import GoodpartsError
from goodparts.model.model import Model
from goodparts.server.faults import Fault
from goodparts.server.history import schema
from goodparts.server.history.blobs import BlobStore
from goodparts.server.history.database import Database
from goodparts.server.history.rows import Row, rows_of
from goodparts.server.inspection.served_models import LoadedModel, ServedModels

MOST = 500
"""Reviewed parts that are looked at: the latest."""
_REMEMBERED = 20_000  # scores


@dataclass(frozen=True)
class ReviewedPart:
    """A part that somebody has reviewed, as a version scores it."""

    inspection: str
    part: str | None
    label: str
    score: float


class ReviewedParts:
    """Scores of reviewed parts; what was measured once is remembered."""

    def __init__(self, models: ServedModels, database: Database, blobs: BlobStore, pixel_limit: int) -> None:
        self._models, self._database, self._blobs = models, database, blobs
        self._pixel_limit = pixel_limit
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, str], str] = {}
        self._scores: OrderedDict[tuple[str, str], float] = OrderedDict()

    def of(self, name: str, version: str) -> tuple[list[ReviewedPart], int]:
        """The latest reviewed parts of a model as a version scores them, and how many can't be scored any more.

        Raises:
            NotFound, Conflict: there is no such version, or its file is not what it was.
        """
        rows = self.rows(name, ("GOOD", "BAD"))
        loaded = self._models.version(name, version)
        with self._lock:
            kind = self._kind_of(name, loaded)
            found = [(row, self._score(row, name, kind, loaded)) for row in rows]
        parts = [
            ReviewedPart(row["id"], row["part"], row["review"], score)
            for row, score in found
            if score is not None
        ]
        return parts, len(rows) - len(parts)

    def rows(self, name: str, labels: Sequence[str]) -> list[Row]:
        """The latest inspections of a model with these reviews, newest first."""
        columns = schema.inspections.c
        with self._database.read() as connection:
            rows: list[Row] = []
            for label in labels:
                found = (
                    select(schema.inspections)
                    .where(columns.model == name, columns.review == label)
                    .order_by(columns.id.desc())
                    .limit(MOST)
                )
                rows += rows_of(connection, found)
        return sorted(rows, key=lambda row: str(row["id"]), reverse=True)[:MOST]

    def _score(self, row: Row, name: str, kind: str, loaded: LoadedModel) -> float | None:
        if self._kind(name, row["model_version"]) == kind:
            return float(row["score"])
        key = kind, row["image_sha256"]
        if key not in self._scores:
            data = self._blobs.read(row["image_sha256"]) if row["kept"] else None
            if data is None:
                return None
            try:
                pixels = read_image(
                    data,
                    pixel_limit=self._pixel_limit,
                    bit_depth=loaded.predictor.model.recipe.bit_depth,
                )
                self._scores[key] = float(loaded.predictor.inspect(pixels, None).score)
            except GoodpartsError:
                return None
            while len(self._scores) > _REMEMBERED:
                self._scores.popitem(last=False)
        return self._scores[key]

    def _kind(self, name: str, version: str) -> str:
        if (name, version) not in self._kinds:
            try:
                self._kind_of(name, self._models.version(name, version))
            except Fault:  # there is no such file any more, or it is damaged
                self._kinds[name, version] = "gone"
        return self._kinds[name, version]

    def _kind_of(self, name: str, loaded: LoadedModel) -> str:
        key = name, loaded.version
        if key not in self._kinds:
            self._kinds[key] = measuring_digest(loaded.predictor.model)
        return self._kinds[key]


def measuring_digest(model: Model) -> str:
    """The same for two models that give every image the same score; of zones, scores are in units of thresholds."""
    found = hashlib.sha256()
    for depth in model.depths:
        found.update(depth.bank.features.tobytes())
        if depth.bank.local_scale is not None:
            found.update(depth.bank.local_scale.tobytes())
    found.update(repr([(zone.name, zone.threshold) for zone in model.calibration.decision.zones]).encode())
    found.update(model.backbone.name.encode())
    return found.hexdigest()


def parts_record(parts: Iterable[ReviewedPart]) -> list[dict[str, Any]]:
    """As JSON takes them."""
    return [
        {"inspection": one.inspection, "part": one.part, "label": one.label, "score": one.score}
        for one in parts
    ]

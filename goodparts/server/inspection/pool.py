"""The queue of images and the threads that inspect them.

So many images are accepted at a time and no more: what comes beyond is refused at once, with the time after which
it is worth another try. Threads are as many as the processor's cores and one, which decodes meanwhile; each runs
one image through the engine at a time. An engine on a processor gains nothing by larger batches: it is busy with
one image a core. A part that comes alone is inspected by all cores together, which is quicker for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goodparts import parallel
from goodparts.data.formats import START, format_of
from goodparts.data.images import read_image
from goodparts.data.structure import in_hand
from goodparts.decision.inspection import Inspection
from goodparts.errors import ImageError, ModelError
from goodparts.server.faults import Busy, DeadlinePassed, Fault, HistoryFullError, Invalid
from goodparts.server.history import findings, schema
from goodparts.server.history.canonical import digest, to_json
from goodparts.server.history.identifiers import new_identifier, time_of
from goodparts.server.inspection.served_models import LoadedModel, ServedModels
from goodparts.server.logs import REQUEST

_LOGGER = logging.getLogger(__name__)
Row = dict[str, Any]
Record = Callable[[Row, bytes, bytes], "Future[Any]"]
"""Has (row, image, findings) recorded."""
Observe = Callable[[LoadedModel, Row, Inspection], object]


@dataclass(frozen=True)
class Part:
    """What came with an image.

    Attributes:
        account: who handed it in.
        details: JSON, whatever else is to be known of the part.
    """

    account: str
    request: str
    part: str | None = None
    line: str | None = None
    camera: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Inspected:
    """An image that was inspected.

    Attributes:
        row: of the history.
        recorded: whether it is in the history, or (where that is answered before) on its way there.
        pictures: what was asked for with it, by name.
    """

    row: Row
    recorded: bool
    pictures: dict[str, bytes]


class Slot:
    """A place in the queue; given back once, by whoever is done last."""

    def __init__(self, pool: InspectionPool) -> None:
        self._pool, self._held = pool, True
        self._lock = threading.Lock()

    def release(self) -> None:
        """Give it back."""
        with self._lock:
            held, self._held = self._held, False
        if held:
            self._pool.released()


class InspectionPool:
    """Inspects images in threads, in the order in which they were accepted."""

    def __init__(
        self,
        models: ServedModels,
        record: Record,
        observe: Observe,
        *,
        workers: int | None,
        queue: int,
        pixel_limit: int,
        buffered: bool,
    ) -> None:
        self._models, self._record, self._observe = models, record, observe
        self.workers = workers or parallel.cores() + 1
        self.limit, self._pixel_limit, self._buffered = queue, pixel_limit, buffered
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="goodparts-inspect")
        self._lock = threading.Lock()
        self.accepted = 0
        self._seconds = 0.05  # that an image takes a worker, lately
        self.unrecorded = 0

    # ---- the queue

    def admit(self, count: int = 1) -> list[Slot]:
        """Places for so many images; Busy where there are not as many."""
        with self._lock:
            if self.accepted + count > self.limit:
                wait = math.ceil(self.accepted * self._seconds / self.workers)
                raise Busy(
                    f"{self.accepted} images are waiting or in work, of {self.limit} that may be; try again later",
                    retry_after=min(max(1, wait), 60),
                )
            self.accepted += count
        return [Slot(self) for _ in range(count)]

    def released(self) -> None:
        """One more place is free."""
        with self._lock:
            self.accepted -= 1

    async def inspect(
        self, slot: Slot, model: str, image: bytes, part: Part, *, until: float, include: frozenset[str]
    ) -> Inspected:
        """Inspect an image and have it recorded.

        Args:
            slot: its place, which is given back when all is done, even if nobody waits for it any more.
            until: when `time.monotonic` says so it is too late to begin.
            include: pictures to make at once: heatmap, mask, map, panel.

        Raises:
            DeadlinePassed, NotFound, HistoryUnavailable.
            Invalid: the image can't be read, or does not go with the model.
        """
        accepted = time.monotonic()
        try:
            work = self._pool.submit(self._work, model, image, part, accepted, until, include)
        except RuntimeError:  # the pool has ended
            slot.release()
            raise Busy("the service is stopping", retry_after=5) from None
        work.add_done_callback(lambda done: _release_when_recorded(done, slot))
        try:
            async with asyncio.timeout(max(0.0, until - accepted) + _GRACE):
                row, pictures, recorded = await asyncio.wrap_future(work)
                if self._buffered:
                    recorded.add_done_callback(self._count_lost)
                    return Inspected(row, True, pictures)
                try:
                    await asyncio.wrap_future(recorded)
                except HistoryFullError:
                    self.unrecorded += 1
                    return Inspected(row, False, pictures)
        except TimeoutError:
            raise DeadlinePassed(
                "it took too long; the inspection may be in the history nevertheless",
                retry_after=self._retry_after(),
            ) from None
        return Inspected(row, True, pictures)

    def _count_lost(self, recorded: Future[Any]) -> None:
        if recorded.exception() is not None:
            self.unrecorded += 1
            _LOGGER.error("an inspection that was answered could not be recorded: %s", recorded.exception())

    def close(self) -> None:
        """Finish what was accepted."""
        self._pool.shutdown(wait=True)

    def _retry_after(self) -> int:
        return min(max(1, math.ceil(self.accepted * self._seconds / self.workers)), 60)

    # ---- a worker

    def _work(
        self, name: str, image: bytes, part: Part, accepted: float, until: float, include: frozenset[str]
    ) -> tuple[Row, dict[str, bytes], Future[Any]]:
        REQUEST.set(part.request)
        began = time.monotonic()
        if began > until:
            raise DeadlinePassed("it waited for too long", retry_after=self._retry_after())
        try:
            model = self._models.get(name)
        except ModelError as error:
            _LOGGER.error("model %s: %s", name, error)
            raise Fault("this model can't be loaded any more; an engineer finds why in the log") from None
        ready = time.monotonic()
        with in_hand(), parallel.small_products():
            try:
                kind, pixels = self._read(image, model)
                decoded = time.monotonic()
                inspection = model.predictor.inspect(pixels, None, latency=self.accepted == 1)
            except ImageError as error:
                raise Invalid(str(error)) from None
            done = time.monotonic()
            packed = findings.pack(inspection)
            row = self._row(model, image, kind, inspection, packed, part)
            row |= {
                "wait_ms": _milliseconds(ready - accepted),
                "decode_ms": _milliseconds(decoded - ready),
                "inference_ms": _milliseconds(done - decoded),
            }
            pictures = _pictures(include, pixels, inspection, row)
        self._observe(model, row, inspection)  # before it is in the history that a watch begins with
        recorded = self._record(row, image, packed)
        with self._lock:
            self._seconds += 0.1 * (time.monotonic() - began - self._seconds)
        return row, pictures, recorded

    def _read(self, image: bytes, model: LoadedModel) -> tuple[str, NDArray[np.uint8]]:
        bits = model.predictor.model.recipe.bit_depth
        pixels = read_image(image, pixel_limit=self._pixel_limit, bit_depth=bits)
        return format_of(image[:START]) or "", pixels

    def _row(
        self, model: LoadedModel, image: bytes, kind: str, inspection: Inspection, packed: bytes, part: Part
    ) -> Row:
        height, width = inspection.mask.shape
        calibration = model.predictor.model.calibration
        typical = calibration.typical_pixel
        identifier = new_identifier()
        return {
            "id": identifier,
            "time": time_of(identifier),  # so that what is asked for by time is found by its identifier
            "model": model.name,
            "model_version": model.version,
            "recipe": model.recipe,
            "part": part.part,
            "line": part.line,
            "camera": part.camera,
            "details": to_json(part.details),
            "account": part.account,
            "request": part.request,
            "image_sha256": hashlib.sha256(image).hexdigest(),
            "image_bytes": len(image),
            "image_type": kind,
            "bit_depth": model.predictor.model.recipe.bit_depth or 0,
            "width": width,
            "height": height,
            "verdict": inspection.verdict,
            "score": float(inspection.score),
            "threshold": float(inspection.threshold),
            "p_value": float(inspection.p_value),
            "borderline": bool(inspection.borderline),
            "pixel_threshold": float(inspection.pixel_threshold),
            "typical_pixel": None if typical is None or not math.isfinite(typical) else float(typical),
            "zones": to_json([{**asdict(zone), "bad": zone.bad} for zone in inspection.zones]),
            "regions": to_json([asdict(region) for region in inspection.regions]),
            "reasons": to_json(list(inspection.reasons)),
            "findings_sha256": digest(packed),
            "findings_bytes": len(packed),
            "kept": False,
            "review": schema.NONE,
        }


_GRACE = 15.0  # seconds that work which has begun may take beyond the deadline


def _release_when_recorded(work: Future[Any], slot: Slot) -> None:
    if work.cancelled() or work.exception() is not None:
        slot.release()
    else:
        work.result()[2].add_done_callback(lambda _: slot.release())


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)


def _pictures(
    include: frozenset[str], pixels: NDArray[np.uint8], inspection: Inspection, row: Row
) -> dict[str, bytes]:
    make: dict[str, Callable[[], bytes]] = {
        "heatmap": lambda: findings.heatmap_png(pixels, inspection, row["typical_pixel"]),
        "mask": lambda: findings.mask_png(inspection.mask),
        "map": lambda: findings.map_tiff(inspection.anomaly_map),
        "panel": lambda: findings.panel_png(
            pixels, inspection, row["typical_pixel"], row["part"] or row["id"]
        ),
    }
    return {name: make[name]() for name in include}

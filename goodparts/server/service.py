"""A service: its history, models, queue and gate, put together; opened, and closed when what was accepted is done."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import select

from goodparts.decision.inspection import Inspection
from goodparts.files import output_error
from goodparts.server.access import accounts, sessions, tokens
from goodparts.server.access.attempts import Attempts
from goodparts.server.access.gate import Gate
from goodparts.server.access.permissions import ADMINISTRATOR
from goodparts.server.faults import Busy, Fault
from goodparts.server.history import audit, records, retention, schema
from goodparts.server.history.blobs import BlobStore
from goodparts.server.history.database import Database, open_database, require_ready
from goodparts.server.history.identifiers import new_identifier
from goodparts.server.history.writer import Change, Transaction, Writer, transaction
from goodparts.server.inspection.drift_watch import RECENT, DriftWatch
from goodparts.server.inspection.feed import Feed
from goodparts.server.inspection.learning import Learning
from goodparts.server.inspection.nearest import NearestGood
from goodparts.server.inspection.pool import InspectionPool
from goodparts.server.inspection.reviewed import ReviewedParts
from goodparts.server.inspection.served_models import LoadedModel, ServedModels
from goodparts.server.metrics import Metrics, Value
from goodparts.server.settings import Settings

_LOGGER = logging.getLogger(__name__)
Result = TypeVar("Result")
_HOUSEKEEPING = 10.0  # seconds between two looks at disk and age
_FIRST_TOKEN_DAYS = 30
_MOST_DRAWINGS = 32


@dataclass(frozen=True)
class FirstStart:
    """What is made once, and shown once.

    Attributes:
        password: of the first administrator.
        token: that may inspect and read, for the first tries.
    """

    password: str
    token: str


@dataclass(eq=False)
class Service:
    """Everything that requests are answered from."""

    settings: Settings
    database: Database
    blobs: BlobStore
    room: records.Room
    writer: Writer
    gate: Gate
    key: bytes
    first: FirstStart | None
    attempts: Attempts = field(default_factory=Attempts)
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Models and queue, which tell this service what happens to them."""
        settings = self.settings
        self.began = time.monotonic()
        self.watches: dict[str, DriftWatch] = {}
        self._watching = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._drawings = 0  # waiting or in work
        self._drawing = ThreadPoolExecutor(1, thread_name_prefix="goodparts-draw")
        self.feed = Feed()
        self.nearest = NearestGood(self.settings.pixel_limit)
        self.metrics = Metrics(self._gauges)
        self.models = ServedModels(
            settings.models,
            settings.folder,
            self.database,
            self.commit,
            most_loaded=settings.loaded_models,
            require_signature=settings.require_signature,
            tell=self._tell_of_model,
        )
        self.reviewed = ReviewedParts(self.models, self.database, self.blobs, settings.pixel_limit)
        self.learning = Learning(
            settings.folder,
            self.models,
            pixel_limit=settings.pixel_limit,
            least_free=settings.least_free,
            tell=self._tell_of_model,
        )
        self.pool = InspectionPool(
            self.models,
            self._record,
            self._observe,
            workers=settings.workers,
            queue=settings.queue,
            pixel_limit=settings.pixel_limit,
            buffered=settings.durability == "buffered",
        )

    def start(self) -> None:
        """Load the models and begin; ModelError where none can serve."""
        self.writer.start()
        self.models.refresh()
        self.models.require_models()
        if self.settings.reload_seconds:
            self._repeat("goodparts-reload", self.settings.reload_seconds, self.models.refresh)
        self._repeat("goodparts-housekeeping", _HOUSEKEEPING, _Housekeeping(self))

    def close(self) -> None:
        """Finish what was accepted, commit it, and let go of everything."""
        self.stopping.set()
        self.feed.close()
        self.learning.close()
        self.pool.close()
        self._drawing.shutdown(wait=True, cancel_futures=True)
        for thread in self._threads:
            thread.join()
        self.writer.stop()
        self.database.close()

    def commit(self, apply: Callable[[Transaction], Result]) -> Result:
        """Have a change made; its result once it is committed. Errors as `Writer.submit`."""
        return self.submit(apply).result()

    def submit(self, apply: Callable[[Transaction], Result]) -> Future[Result]:
        """The same without waiting."""
        return self.writer.submit(Change(apply))

    async def draw(self, make: Callable[[], Result]) -> Result:
        """Make a picture in the one thread for that, so that looking at the past does not slow the present.

        Raises:
            Busy: more are waiting than may.
        """
        if self._drawings >= _MOST_DRAWINGS:
            raise Busy("too many pictures are asked for at a time; try again later", retry_after=1)
        self._drawings += 1
        try:
            return await asyncio.wrap_future(self._drawing.submit(make))
        finally:
            self._drawings -= 1

    def tell(self, kind: str, model: str | None, message: str) -> None:
        """Keep an event; where that can't be, the log alone has it."""
        row = {
            "id": new_identifier(),
            "time": audit.now(),
            "kind": kind,
            "model": model,
            "message": message[:4000],
        }
        try:
            self.submit(lambda transaction: transaction.connection.execute(schema.events.insert(), row))
        except Fault as error:
            _LOGGER.error("an event could not be kept (%s): %s", error, message)

    def watch(self, model: LoadedModel) -> DriftWatch:
        """The watch of a model's version, with what the history has of it."""
        with self._watching:
            found = self.watches.get(model.name)
            if found is not None and found.version == model.version:
                return found
            found = DriftWatch(model.predictor.model, model.version)
            found.fill(self._last_parts(model))
            self.watches[model.name] = found
            return found

    def _last_parts(self, model: LoadedModel) -> list[tuple[float, float, str]]:
        columns = schema.inspections.c
        last = (
            select(columns.score, columns.p_value, columns.verdict)
            .where(columns.model == model.name, columns.model_version == model.version)
            .order_by(columns.id.desc())
            .limit(RECENT)
        )
        with self.database.read() as connection:
            return [tuple(row) for row in reversed(connection.execute(last).all())]

    def _record(self, row: dict[str, Any], image: bytes, findings: bytes) -> Future[Any]:
        recorded = records.record(self.writer, self.blobs, self.room, row, image, findings)
        recorded.add_done_callback(self._tell_watchers)
        return recorded

    def _tell_watchers(self, recorded: Future[Any]) -> None:
        if not recorded.cancelled() and recorded.exception() is None:
            self.feed.tell(recorded.result())

    def _observe(self, model: LoadedModel, row: dict[str, Any], inspection: Inspection) -> None:
        metrics, name = self.metrics, model.name
        metrics.verdicts.labels(name, row["verdict"]).inc()
        metrics.last_inspection.labels(name).set_to_current_time()
        for stage in ("decode", "wait", "inference"):
            metrics.stages.labels(name, stage).observe(row[f"{stage}_ms"] / 1000)
        notices = self.watch(model).add(row["score"], row["p_value"], row["verdict"], inspection.statistics)
        for notice in notices:
            metrics.drift_events.labels(name, notice.quantity).inc()
            _LOGGER.warning("drift of model %s: %s", name, notice.message)
            self.tell("drift", name, notice.message)

    def _tell_of_model(self, kind: str, model: str, message: str) -> None:
        if kind == "model.refused":
            self.metrics.model_files_refused.labels(model).inc()
        self.tell(kind, model, message)

    def _gauges(self) -> Iterator[Value]:
        pool, room = self.pool, self.room
        none: dict[str, str] = {}
        yield "goodparts_queue_depth", "Images accepted, waiting or in work", none, pool.accepted
        yield "goodparts_queue_limit", "Images that may be accepted at a time", none, pool.limit
        yield (
            "goodparts_history_waiting",
            "Changes of the history that wait for a commit",
            none,
            self.writer.waiting,
        )
        yield "goodparts_history_available", "Whether the database answers", none, self.writer.available
        yield "goodparts_storage_bytes", "What kept images and maps take", none, room.stored
        yield "goodparts_storage_free_bytes", "Free on the disk of the history", none, self.blobs.free()
        yield "goodparts_storage_degraded", "1: images can't be kept, the disk is full", none, room.degraded
        yield (
            "goodparts_images_lost",
            "Inspections whose images could not be kept, since the start",
            none,
            room.lost,
        )
        yield (
            "goodparts_unrecorded",
            "Verdicts given without a record, since the start",
            none,
            pool.unrecorded,
        )
        yield "goodparts_models_loaded", "Models in memory", none, self.models.loaded
        for name, watch in list(self.watches.items()):
            figures, model = watch.figures(), {"model": name}
            for quantity, level in figures["levels"].items():
                labels = {"model": name, "quantity": quantity}
                yield (
                    "goodparts_drift_level",
                    "How far a quantity is on the way to being told as drift, 0 to 1",
                    labels,
                    level,
                )
            for share, value in figures.get("score_quantiles", {}).items():
                labels = {"model": name, "quantile": share}
                yield "goodparts_score_quantile", "Of the last parts' scores", labels, value
            if "p_value_distance" in figures:
                about = "Distance of the last parts' p-values from uniform ones, 0 to 1"
                yield "goodparts_p_value_distance", about, model, figures["p_value_distance"]
                yield (
                    "goodparts_recheck_share",
                    "Share of RECHECK among the last parts",
                    model,
                    figures["recheck_share"],
                )
                yield "goodparts_bad_share", "Share of BAD among the last parts", model, figures["bad_share"]

    def _repeat(self, name: str, seconds: float, step: Callable[[], object]) -> None:
        def run() -> None:
            while not self.stopping.wait(seconds):
                try:
                    step()
                except Fault as error:
                    _LOGGER.warning("%s: %s", name, error)
                except Exception:
                    _LOGGER.exception(name)

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)


class _Housekeeping:
    """Retention, a slice of the sweep, and once an hour what keeps the database quick and the chain's head known."""

    def __init__(self, service: Service) -> None:
        self._service, self._slice, self._hourly = service, 0, 0.0

    def __call__(self) -> None:
        service, settings = self._service, self._service.settings
        rules = retention.Rules(
            settings.keep_good_days,
            settings.keep_days,
            settings.keep_rows_days,
            settings.keep_bytes,
            settings.least_free,
        )
        retention.apply_rules(service.writer, service.blobs, service.room, rules)
        retention.sweep(service.writer, service.blobs, self._slice)
        self._slice = (self._slice + 1) % 256
        if time.monotonic() > self._hourly:
            self._hourly = time.monotonic() + 3600
            with service.database.read() as connection:
                _LOGGER.info("audit chain: head %s", audit.head(connection))
            if service.database.path is not None:
                service.commit(_optimise)


def _optimise(transaction: Transaction) -> None:
    transaction.connection.exec_driver_sql("PRAGMA analysis_limit=1000")
    transaction.connection.exec_driver_sql("PRAGMA optimize=0x10002")


def open_service(settings: Settings) -> Service:
    """Open, and where need be make, what a service stands on; nothing serves yet.

    Raises:
        DatabaseError: it can't be used, or has to be migrated first.
        OutputError: the folder of the history can't be written.
    """
    folder = settings.folder
    blobs = BlobStore(folder / "files")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what is in it is nobody else's
        blobs.make_folders()
        key = sessions.load_key(folder)
    except OSError as error:
        raise output_error(folder, error) from error
    database = open_database(settings.database, folder, durable=settings.durability == "answered")
    if done := require_ready(database):
        _LOGGER.info("%s", done)
    with transaction(database) as first:
        started = _first_start(first)
    room = records.Room(settings.least_free, retention.stored_bytes(database))
    gate = Gate(settings, database, key)
    return Service(settings, database, blobs, room, Writer(database), gate, key, started)


def _first_start(first: Transaction) -> FirstStart | None:
    password = accounts.add_first(first)
    if password is None:
        return None
    token, _ = tokens.add(
        first,
        "goodparts",
        accounts.FIRST,
        "first tries",
        ("inspect", "read"),
        _FIRST_TOKEN_DAYS,
        ADMINISTRATOR,
    )
    return FirstStart(password, token)

"""The models that serve: by name, loaded when they are needed, replaced when their files change.

A request holds the `LoadedModel` it began with, so it ends on that one whatever takes its place meanwhile. Every
file that ever served is kept (`models/<sha256>.goodparts` in the service's folder), so a version can be taken up
again.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy import select

from goodparts.errors import GoodpartsError, ModelError
from goodparts.files import replacing
from goodparts.model import file
from goodparts.model.model import Model
from goodparts.model.predictor import Predictor
from goodparts.server.faults import Conflict, Fault, NotFound
from goodparts.server.history import audit, schema
from goodparts.server.history.canonical import digest, to_json
from goodparts.server.history.database import Database
from goodparts.server.history.identifiers import new_identifier
from goodparts.server.history.rows import row_of, rows_of
from goodparts.server.history.writer import Transaction

_LOGGER = logging.getLogger(__name__)
_HERE = ""
"""What `source_sha256` is of a model that was learnt here rather than read from a file."""
_LOOKED_AT = 3  # versions that do not serve, in memory
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
Commit = Callable[[Callable[[Transaction], Any]], Any]
"""Has a change made, and waits until it is committed."""
Stamp = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A version of a model, ready to inspect."""

    name: str
    version: str
    recipe: str
    predictor: Predictor


@dataclass(eq=False)
class Entry:
    """A name under which a model serves.

    Attributes:
        source: the file that is watched; None for a model that was learnt here.
        stamp: of the file when it was last read.
        version: which one serves.
        loaded: it, where it is in memory.
        refused: why the file, as it is now, does not serve; empty where it does.
    """

    name: str
    source: Path | None
    stamp: Stamp | None = None
    version: str = ""
    loaded: LoadedModel | None = None
    refused: str = ""
    used: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class ServedModels:
    """All models of a service. Any thread may ask for one; `refresh` and `activate` change what serves."""

    def __init__(
        self,
        paths: tuple[str, ...],
        folder: Path,
        database: Database,
        commit: Commit,
        *,
        most_loaded: int,
        require_signature: str | None = None,
        tell: Callable[[str, str, str], None] = lambda kind, model, message: None,
    ) -> None:
        """Nothing is read yet. `tell` is called with (kind, model, message) of what happens to a model."""
        self._paths = tuple(map(Path, paths))
        self._kept = folder / "models"
        self._database, self._commit = database, commit
        self._most_loaded, self._signature, self._tell = most_loaded, require_signature, tell
        self._entries: dict[str, Entry] = {}
        self._changing = threading.RLock()
        self._loading = threading.Lock()
        self._unsettled: dict[Path, Stamp] = {}
        self._looking = threading.Lock()
        self._looked_at: OrderedDict[tuple[str, str], LoadedModel] = OrderedDict()

    # ---- asked by requests

    def names(self) -> list[str]:
        """Of the models that serve."""
        return sorted(name for name, entry in list(self._entries.items()) if entry.version)

    def entry(self, name: str) -> Entry:
        """What is known of a model; NotFound."""
        entry = self._entries.get(name)
        if entry is None or not entry.version:
            raise NotFound("there is no model of that name")
        return entry

    def get(self, name: str) -> LoadedModel:
        """The version that serves, loaded if it is not; the one that was longest unused goes instead.

        Raises:
            NotFound: there is no such model.
            ModelError: its file is not what it was.
        """
        entry = self.entry(name)
        entry.used = time.monotonic()
        loaded = entry.loaded
        if loaded is not None:
            return loaded
        with entry.lock:
            if entry.loaded is None:
                entry.loaded = self._load(name, self._path_of(name, entry.version))
                self._make_room(entry)
            return entry.loaded

    @property
    def loaded(self) -> int:
        """How many are in memory."""
        return sum(entry.loaded is not None for entry in list(self._entries.values()))

    def versions(self, name: str) -> list[dict[str, Any]]:
        """The versions of a model that were ever here, the newest first."""
        table = schema.versions
        found = select(table).where(table.c.model == name).order_by(table.c.added.desc())
        with self._database.read() as connection:
            return rows_of(connection, found)

    # ---- changing what serves

    def refresh(self) -> None:
        """Look at all files once: a new or changed one takes its place once it holds still; a bad one does not."""
        with self._changing:
            for name, path in self._files():
                entry = self._entries.setdefault(name, Entry(name, path))
                entry.source = path
                try:
                    stamp = _stamp(path)
                except OSError as error:  # what serves goes on
                    if not entry.version:
                        self._go_on(entry, f"{path}: can't be read ({error.strerror or error})")
                    continue
                if stamp == entry.stamp:
                    continue
                if entry.stamp is not None and self._unsettled.get(path) != stamp:
                    self._unsettled[path] = stamp  # somebody may still write it
                    continue
                self._unsettled.pop(path, None)
                self._take(entry, path, stamp)
            self._restore()

    def activate(self, name: str, version: str, actor: str) -> None:
        """Have another version serve, until its file changes.

        Raises:
            NotFound: there is no such model, or no such version of it.
            Conflict: its file is not what it was.
        """
        with self._changing:
            try:
                loaded = self._load(name, self._path_of(name, version))
            except ModelError:
                raise Conflict("the kept file of that version is damaged or gone") from None

            def apply(transaction: Transaction) -> None:
                _set_active(transaction, name, version)
                transaction.chain.append(actor, "model.activated", name, {"version": version})

            self._commit(apply)
            self._serve(self._entries.setdefault(name, Entry(name, None)), loaded)

    def add(self, name: str, model: Model, actor: str, *, action: str, note: str, activate: bool) -> str:
        """Keep a version that was made here, and have it serve if that is wanted; gives its identity.

        Raises:
            Conflict: it is there already; or only signed models may serve here, and this one is not.
        """
        with self._changing:
            try:
                loaded, sha256 = self._kept_anew(name, model)
            except ModelError:
                raise Conflict(
                    "this service takes signed models only: sign the version elsewhere and hand it in as a file"
                ) from None
            if any(row["version"] == loaded.version for row in self.versions(name)):
                raise Conflict("this very version is there already")

            def apply(transaction: Transaction) -> None:
                self._insert_version(transaction, name, loaded, sha256, actor, note)
                details = {"version": loaded.version, "file": sha256, "note": note, "serves": activate}
                transaction.chain.append(actor, action, name, details)
                if activate:
                    _set_active(transaction, name, loaded.version)

            self._commit(apply)
            if activate:
                self._serve(self._entries.setdefault(name, Entry(name, None)), loaded)
            return loaded.version

    def version(self, name: str, version: str) -> LoadedModel:
        """Any version of a model, to look at or to measure with; the last few asked for stay in memory.

        Raises:
            NotFound: there is none.
            Conflict: its file is not what it was.
        """
        entry = self._entries.get(name)
        with self._looking:
            try:
                if entry is not None and entry.version == version:
                    return self.get(name)
                if (name, version) not in self._looked_at:
                    path = self._path_of(name, version)
                    self._looked_at[name, version] = self._load(name, path, engines=False)
            except ModelError:
                raise Conflict("the kept file of that version is damaged or gone") from None
            self._looked_at.move_to_end((name, version))
            while len(self._looked_at) > _LOOKED_AT:
                self._looked_at.popitem(last=False)
            return self._looked_at[name, version]

    def _kept_anew(self, name: str, model: Model) -> tuple[LoadedModel, str]:
        unfinished = self._kept / f"{new_identifier()}.unfinished{file.SUFFIX}"
        self._kept.mkdir(parents=True, exist_ok=True)
        try:
            file.save(model, unfinished)
            data = unfinished.read_bytes()
        finally:
            unfinished.unlink(missing_ok=True)
        sha256 = digest(data)
        return self._load(name, self._keep(data, sha256)), sha256

    def _restore(self) -> None:
        """Have models that were learnt here serve again after a start."""
        with self._database.read() as connection:
            rows = rows_of(connection, select(schema.models).where(schema.models.c.source_sha256 == _HERE))
        for row in rows:
            self._entries.setdefault(row["name"], Entry(row["name"], None, version=row["active"]))

    def _take(self, entry: Entry, source: Path, stamp: Stamp) -> None:
        """Read a model's file and have it serve, or say why it can't."""
        entry.stamp, sha256 = stamp, ""
        try:
            data = source.read_bytes()
            sha256 = digest(data)
            known = self._known(entry.name)
            if known is not None and known["source_sha256"] == sha256:
                entry.refused = ""
                if (
                    not entry.version
                ):  # the same file as when the service last ran: what was chosen then stays
                    entry.version = known["active"]
                    self.get(entry.name)
                return
            path = self._keep(data, sha256)
            loaded = self._load(entry.name, path)
        except (GoodpartsError, OSError) as error:
            kept = str(self._kept / f"{sha256}{file.SUFFIX}") if sha256 else ""
            self._go_on(entry, str(error).replace(kept, str(entry.source)) if kept else str(error))
            return
        try:
            self._commit(lambda transaction: self._adopt(transaction, entry.name, loaded, sha256))
        except Fault:
            entry.stamp = None  # once more at the next look
            raise
        entry.refused = ""
        self._serve(entry, loaded)
        _LOGGER.info("model %s serves version %s", entry.name, loaded.version[:12])
        self._tell("model.taken", entry.name, f"version {loaded.version} serves")

    def _go_on(self, entry: Entry, why: str) -> None:
        """Let what serves, or served when the service last ran, go on, since its file can't take its place."""
        if entry.refused == why:
            return
        entry.refused = why
        if not entry.version and (known := self._known(entry.name)) is not None:
            entry.version = known["active"]
        _LOGGER.error("model %s: %s", entry.name, why)
        self._tell("model.refused", entry.name, why)

    def _adopt(self, transaction: Transaction, name: str, loaded: LoadedModel, sha256: str) -> None:
        connection, models, versions = transaction.connection, schema.models, schema.versions
        connection.execute(
            versions.delete().where(versions.c.model == name, versions.c.version == loaded.version)
        )
        self._insert_version(transaction, name, loaded, sha256)
        connection.execute(models.delete().where(models.c.name == name))
        connection.execute(models.insert(), {"name": name, "active": loaded.version, "source_sha256": sha256})
        details = {"version": loaded.version, "file": sha256}
        transaction.chain.append("goodparts", "model.taken", name, details)

    def _insert_version(
        self,
        transaction: Transaction,
        name: str,
        loaded: LoadedModel,
        sha256: str,
        author: str | None = None,
        note: str | None = None,
    ) -> None:
        row = {
            "model": name,
            "version": loaded.version,
            "file_sha256": sha256,
            "recipe": loaded.recipe,
            "added": audit.now(),
            "fitted": str(loaded.predictor.model.fit_record.fitted)[:64],
            "author": author,
            "note": note,
        }
        transaction.connection.execute(schema.versions.insert(), row)

    def _serve(self, entry: Entry, loaded: LoadedModel) -> None:
        with entry.lock:
            entry.version, entry.loaded = loaded.version, loaded
        entry.used = time.monotonic()
        self._make_room(entry)

    def _make_room(self, kept: Entry) -> None:
        entries = sorted(
            (one for one in list(self._entries.values()) if one.loaded is not None and one is not kept),
            key=lambda one: one.used,
        )
        for entry in entries[: max(0, len(entries) + 1 - self._most_loaded)]:
            _LOGGER.info("model %s leaves memory", entry.name)
            entry.loaded = None

    def _load(self, name: str, path: Path, *, engines: bool = True) -> LoadedModel:
        with self._loading:
            model = replace(
                file.load(path, self._signature), path=None
            )  # whom it serves need not know where it lies
            model.calibration.threshold  # noqa: B018  (an error now rather than at the first image)
            predictor = Predictor(model)
            if engines:
                predictor.open(latency=True)
                predictor.open()
        recipe = digest(to_json({**model.recipe.product, "backbone": model.backbone.name, "roi": ""}))
        return LoadedModel(name, model.identity, recipe, predictor)

    def _keep(self, data: bytes, sha256: str) -> Path:
        path = self._kept / f"{sha256}{file.SUFFIX}"
        if not path.is_file():
            with replacing(path) as stream:
                stream.write(data)
        return path

    def _path_of(self, name: str, version: str) -> Path:
        table = schema.versions
        found = select(table.c.file_sha256).where(table.c.model == name, table.c.version == version)
        with self._database.read() as connection:
            sha256 = connection.execute(found).scalar()
        if sha256 is None:
            raise NotFound("there is no such version of this model")
        return self._kept / f"{sha256}{file.SUFFIX}"

    def _known(self, name: str) -> dict[str, Any] | None:
        with self._database.read() as connection:
            return row_of(connection, select(schema.models).where(schema.models.c.name == name))

    def _files(self) -> Iterator[tuple[str, Path]]:
        """Names and files; of several files of one name the first."""
        found: dict[str, Path] = {}
        for path in self._paths:
            inside = sorted(path.glob(f"*{file.SUFFIX}")) if path.is_dir() else [path]
            for one in inside:
                found.setdefault(name_of(one), one)
        yield from found.items()

    def require_models(self) -> None:
        """Raise ModelError if nothing serves after the first `refresh`, or a file was given that does not."""
        given = {name_of(path) for path in self._paths if not path.is_dir()}
        for name, entry in self._entries.items():
            if name in given and not entry.version:
                raise ModelError(entry.refused)
        if self._paths and not self.names():
            raise ModelError(
                f"{', '.join(map(str, self._paths)) or 'models'}: no model; expected files ending in {file.SUFFIX}, "
                "or folders of them"
            )


def name_of(path: Path) -> str:
    """The name under which a file serves: its own, with what an address can't have left out."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.name.removesuffix(file.SUFFIX)).lstrip("._-")[:64]
    return (
        name
        if _NAME.fullmatch(name)
        else f"model-{hashlib.sha256(path.name.encode('utf-8', 'replace')).hexdigest()[:8]}"
    )


def _set_active(transaction: Transaction, name: str, version: str) -> None:
    table = schema.models
    changed = transaction.connection.execute(
        table.update().where(table.c.name == name).values(active=version)
    )
    if not changed.rowcount:
        row = {"name": name, "active": version, "source_sha256": _HERE}
        transaction.connection.execute(table.insert(), row)


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino

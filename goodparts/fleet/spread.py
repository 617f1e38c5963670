"""One product's fit spread over workers: its good images are cut into partitions, and features stay with theirs.

    Inspector(recipe).fit(images, make_parts=Spread(executor, folder, files, partitions=4))

Every partition has a folder, with its features and a file for each answer that it has given (`model.parts`). A fit that
was killed so goes on from there: what is known by what it was asked, and of what, is not asked again. Features are read
and written by workers alone; here come answers: entries for the memory bank, and 17 kB an image for the calibration.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goodparts.data.good_images import GoodImages
from goodparts.errors import DatasetError, GoodpartsError, RecipeError
from goodparts.features import part_files
from goodparts.features.extract import Extractor, extract
from goodparts.features.facts import Facts
from goodparts.features.part_files import read_tensors, write_tensors
from goodparts.features.whitening import Whitening
from goodparts.fleet.attempts import Died, in_words, require_version, run_again
from goodparts.fleet.images import ImageFile, OnceRead, is_address
from goodparts.model.parts import COLLECTED, Part, Said, Stage
from goodparts.preprocessing.preprocessor import Preprocessor
from goodparts.progress import Progress, silent
from goodparts.recipe.recipe import Recipe
from goodparts.scale.executor import Executor, Job, WorkerDiedError
from goodparts.version import __version__

LEAST = 2
"""Good images that a partition has at least."""

_PROGRAM = 2**29  # bytes: interpreter, engine and backbone


def memory_of(recipe: Recipe) -> int:
    """Bytes that a worker takes to fit, roughly."""
    return _PROGRAM + int(1.5 * recipe.memory_limit * 2**30)


def require_spreadable(recipe: Recipe, images: int, partitions: int) -> None:
    """Raise an error, in words, where a fit on so many images can't be cut into so many partitions."""
    if recipe.tile_bank == "position":
        raise RecipeError(
            "tile_bank: position chooses for each tile among all images, which partitions don't have together; take "
            "tile_bank = shared, or partitions = 1",
            key="tile_bank",
        )
    if images < LEAST * partitions:
        most = images // LEAST
        raise DatasetError(
            f"partitions: {images} good images can't be cut into {partitions} partitions of at least {LEAST}; take "
            f"{f'partitions = {most} or fewer' if most > 1 else 'partitions = 1'}, or more images"
        )


@dataclass(frozen=True, eq=False)
class Partition:
    """Some of the good images of a product, as a worker is told of them.

    Attributes:
        folder: of what is known of them.
        key: of all that their features come of.
        files: of the images.
        names: of these, as the model has them.
        first_image: index of the first of them among all good images.
        partitions: how many there are.
        preprocessor: how images are prepared.
        whitening: of each depth.
        computed_by: the engine that makes features, and its version.
        offline: never ask the network for a backbone.
        pixel_limit: files of more pixels are refused; None: 100 million.
    """

    folder: str
    key: str
    files: tuple[ImageFile, ...]
    names: tuple[str, ...]
    first_image: int
    partitions: int
    preprocessor: Preprocessor
    whitening: tuple[Whitening | None, ...]
    computed_by: tuple[str, str]
    offline: bool
    pixel_limit: int | None


@dataclass(frozen=True)
class Spread:
    """Makes and keeps the features of good images in partitions (`model.parts.MakesParts`).

    Attributes:
        executor: who works; paths have to mean the same to its workers.
        folder: for what is known of each partition; whoever has the model has no use for it any more.
        files: the good images, in the order in which they are fitted.
        partitions: how many.
        depends_on: what tells all else that features come of, such as the bytes of the backbone.
        offline: never ask the network for a backbone.
        pixel_limit: files of more pixels are refused; None: 100 million.
        died: called with (what it was about, how it ended) for a worker that died.
        progress: called with (stage, done, total), of partitions.
    """

    executor: Executor
    folder: Path
    files: Sequence[ImageFile]
    partitions: int
    depends_on: str = ""
    offline: bool = False
    pixel_limit: int | None = None
    died: Died = lambda what, error: None
    progress: Progress = silent

    @contextmanager
    def __call__(
        self,
        good: GoodImages,
        extractor: Extractor,
        preprocessor: Preprocessor,
        whitening: Sequence[Whitening | None],
    ) -> Iterator[_SpreadParts]:
        """The partitions, once all their features are made; an `extractor` of its own each worker makes itself."""
        del extractor  # with the images that whitening was learnt from
        if len(good) != len(self.files):
            raise ValueError(f"files: expected those of the {len(good)} good images, found {len(self.files)}")
        require_spreadable(preprocessor.recipe, len(self.files), self.partitions)
        partitions = self._cut(good.names, preprocessor, tuple(whitening))
        _forget_others(self.folder, partitions)
        yield _SpreadParts(self, partitions, preprocessor)

    def _cut(
        self, names: Sequence[str], preprocessor: Preprocessor, whitening: tuple[Whitening | None, ...]
    ) -> list[Partition]:
        bounds = [len(self.files) * number // self.partitions for number in range(self.partitions + 1)]
        of_all = digest_of(
            (
                __version__,
                *_computed_by(),
                self.depends_on,
                preprocessor.recipe.product,
                preprocessor.members(),
                whitening,
            )
        )
        found = []
        for number, (first, last) in enumerate(pairwise(bounds)):
            files = tuple(self.files[first:last])
            here = (first, self.partitions, list(names[first:last]), [tuple(image) for image in files])
            key = digest_of((of_all, here))
            folder = self.folder.absolute() / f"partition{number + 1:03d}-{key[:12]}"
            found.append(
                Partition(
                    str(folder),
                    key,
                    files,
                    tuple(names[first:last]),
                    first,
                    self.partitions,
                    preprocessor,
                    whitening,
                    _computed_by(),
                    self.offline,
                    self.pixel_limit,
                )
            )
        return found


class _SpreadParts:
    """`model.parts.Parts` whose partitions are where the workers are."""

    def __init__(self, spread: Spread, partitions: Sequence[Partition], preprocessor: Preprocessor) -> None:
        self._spread, self._partitions = spread, partitions
        missing = [of for of in partitions if not part_files.is_saved(Path(of.folder))]
        self._run("features", [(of, partial(_make, of)) for of in missing])
        self.facts = Facts.of_all(
            [part_files.facts_of(Path(of.folder), preprocessor) for of in self._partitions]
        )

    def __len__(self) -> int:
        return len(self._partitions)

    def ask(
        self, stage: Stage[Said], *arguments: Any, left_out: NDArray[np.bool_], quiet: bool = False
    ) -> list[list[Said]]:
        """What each partition answers, in order; what it has answered before is read."""
        name, asked = stage.name.replace(" ", "_"), digest_of((stage.name, arguments))
        answers, calls = [], []
        for of in self._partitions:
            own = left_out[of.first_image : of.first_image + len(of.files)]
            path = Path(of.folder) / f"{name}-{digest_of((asked, own))[:12]}.safetensors"
            answers.append(path)
            if not path.is_file():
                calls.append((of, partial(_answer, of, stage, arguments, own, str(path))))
        self._run(stage.name, calls, quiet=quiet)
        return [_read_answer(path, stage) for path in answers]

    def whole(self, why: str) -> Part:
        """There is no such thing."""
        raise DatasetError(
            f"a fit in {len(self)} partitions has no place where all features are, which is needed: {why}, or fit with "
            "partitions = 1"
        )

    def _run(
        self, stage: str, calls: Sequence[tuple[Partition, Callable[..., str]]], *, quiet: bool = False
    ) -> None:
        """Have partitions do something; an error of one is an error of all."""
        spread = self._spread
        jobs = [
            Job(
                of.folder,
                partial(call, spread.executor.workers, __version__),
                memory_of(of.preprocessor.recipe),
                of.folder,
            )
            for of, call in calls
        ]

        def died(what: str, error: Exception) -> None:
            spread.died(f"{stage} of {Path(what).name.partition('-')[0]}", error)

        if jobs and not quiet:
            spread.progress(stage, 0, len(jobs))
        with closing(run_again(spread.executor, jobs, died)) as finished:
            for done, (job, found) in enumerate(finished, 1):
                if isinstance(found, WorkerDiedError):
                    raise GoodpartsError(
                        f"{job.name}: {stage}: its worker ended early, three times ({in_words(found)}); if memory "
                        "ran out, take more partitions, fewer workers, or more --memory-per-worker"
                    )
                if isinstance(found, GoodpartsError):
                    raise found
                if isinstance(found, Exception):
                    raise GoodpartsError(f"{job.name}: {stage}: {in_words(found)}") from found
                if not quiet:
                    spread.progress(stage, done, len(jobs))


def forget(folder: Path) -> None:
    """Remove what a fit kept of its partitions."""
    shutil.rmtree(folder, ignore_errors=True)


def _forget_others(folder: Path, partitions: Sequence[Partition]) -> None:
    """Remove what is kept of partitions that were cut otherwise, of other images say."""
    own = {Path(of.folder).name for of in partitions}
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name not in own:
                shutil.rmtree(path, ignore_errors=True)


def _computed_by() -> tuple[str, str]:
    """The engine here, which a worker's has to be, and its version: features of several go into one model."""
    from goodparts.engines.runtime import Runtime, version_of

    engine = Runtime.of().engine
    return engine, version_of(engine)


def _require_computed_by(expected: tuple[str, str]) -> None:
    if _computed_by() != expected:
        raise GoodpartsError(
            f"a worker computes with {' '.join(_computed_by())}, and others with {' '.join(expected)}; a model of "
            "several partitions takes the same on all machines"
        )


def sources(files: Sequence[ImageFile]) -> list[Any]:
    """Images as `fit` takes them: paths, or what reads an address."""
    return [OnceRead(image.where) if is_address(image.where) else Path(image.where) for image in files]


def digest_of(value: object) -> str:
    """sha256 of a value that is made of dataclasses, arrays, sequences, mappings, texts and numbers, in hex."""
    digest = hashlib.sha256()
    for piece in _pieces(value):
        digest.update(len(piece).to_bytes(8, "big"))
        digest.update(piece)
    return digest.hexdigest()


def _pieces(value: object) -> Iterator[bytes]:
    if isinstance(value, np.ndarray):
        yield f"array {value.dtype} {value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif is_dataclass(value) and not isinstance(value, type):
        yield f"{type(value).__name__}".encode()
        for field in fields(value):
            yield from _pieces(getattr(value, field.name))
    elif isinstance(value, dict):
        yield f"mapping {len(value)}".encode()
        for key in sorted(value):
            yield str(key).encode()
            yield from _pieces(value[key])
    elif isinstance(value, list | tuple):
        yield f"sequence {len(value)}".encode()
        for item in value:
            yield from _pieces(item)
    elif isinstance(value, bytes):
        yield value
    else:
        yield json.dumps(value).encode()


def _read_answer(path: Path, stage: Stage[Said]) -> list[Said]:
    tensors = read_tensors(path)
    found: list[Said] = []
    for number in range(int(tensors["answers"])):
        prefix = f"{number}."
        own = {name.removeprefix(prefix): of for name, of in tensors.items() if name.startswith(prefix)}
        found.append(stage.kind.from_tensors(own))
    return found


# ---- in the worker -------------------------------------------------------------------------------------


def _make(partition: Partition, threads: int | None, version: str) -> str:
    """Make the features of a partition, where they are not there already."""
    require_version(version)
    with PARTS.get(partition, threads):
        return partition.folder


def _answer(
    partition: Partition,
    stage: Stage[Any],
    arguments: Sequence[Any],
    left_out: NDArray[np.bool_],
    path: str,
    threads: int | None,
    version: str,
) -> str:
    """Write what a partition says."""
    from goodparts.engines.runtime import Runtime

    require_version(version)
    with PARTS.get(partition, threads) as part, Runtime.of().chosen():
        said = stage.ask(part, part.features.without(left_out), *arguments)
    tensors = {
        f"{number}.{name}": of for number, one in enumerate(said) for name, of in one.tensors().items()
    }
    write_tensors(Path(path), {"answers": np.array(len(said)), **tensors})
    if stage.name == COLLECTED.name:  # the last question
        PARTS.close()
    return path


class _Parts:
    """The partition that this worker had last, with its features in memory as far as the recipe allows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = ExitStack()
        self._key = ""
        self._part: Part | None = None

    @contextmanager
    def get(self, partition: Partition, threads: int | None) -> Iterator[Part]:
        """A partition, from its folder; its features are made where they are not there."""
        from goodparts.inspector import Inspector

        with self._lock:
            folder = Path(partition.folder)
            if self._part is None or self._key != partition.folder or not part_files.is_saved(folder):
                self._close()
                inspector = Inspector(
                    partition.preprocessor.recipe, workers=threads, pixel_limit=partition.pixel_limit
                )
                _require_computed_by(partition.computed_by)
                if not part_files.is_saved(folder):
                    _extract(partition, inspector, folder)
                features = self._open.enter_context(part_files.opened(folder, partition.preprocessor))
                self._key = partition.folder
                self._part = Part(
                    features,
                    partition.names,
                    first_image=partition.first_image,
                    partitions=partition.partitions,
                    workers=inspector.workers,
                )
            yield self._part

    def close(self) -> None:
        """Give memory and files back."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        self._part = None
        self._open.close()


def _extract(partition: Partition, inspector: Any, folder: Path) -> None:
    from goodparts.backbones.backbone import cut_down
    from goodparts.backbones.catalogue import load_backbone

    preprocessor = partition.preprocessor
    recipe = preprocessor.recipe
    good = GoodImages.of(sources(partition.files), read=inspector.read, workers=inspector.workers)
    with inspector.runtime.chosen():
        backbone = cut_down(load_backbone(recipe.backbone, offline=partition.offline), recipe)
        extractor = Extractor(backbone, recipe, partition.whitening)
        with extract(good, extractor, preprocessor) as features:
            part_files.save(folder, features)


PARTS = _Parts()

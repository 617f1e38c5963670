"""Where fitting keeps patch features: in 16 bits a value, in memory up to a limit, beyond it in a temporary file.

What a fit takes of memory is so bounded by the recipe's `memory_limit`, not by the number of images. The file is read
and written piece by piece; memory-mapped, what has been read of it would count as the program's memory.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from goodparts.errors import OutputError
from goodparts.features.projection import Projection
from goodparts.files import output_error, replacing
from goodparts.recipe.recipe import Recipe

_LARGEST = 32767  # of an int16
_SHARE = 0.25  # of the limit for features that have projections: these are read again and again, those twice
_TINY = 1e-30  # of which a step would not be a normal float32
_ROWS = 4096  # rows that are turned into float32 at once
_READ = 1 << 16  # bytes of the file that are read at once where only some of them are wanted


class PatchFeatures:
    """The patch features of n images, (n, patches, d), and their projections, which the greedy choice works on.

    Patches are counted through all images: row r is patch r % patches of image r // patches. An image's patches may
    come from several views of it, such as tiles, which are put and read one at a time.
    """

    def __init__(
        self, features: FeatureStore, projected: FeatureStore | None, projection: Projection, views: int = 1
    ) -> None:
        self.projection = projection
        self.views = views
        self._features = features
        self._projected = projected

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, patches of all views, d)."""
        stored, patches, d = self._features.shape
        return stored // self.views, patches * self.views, d

    def put(self, image: int, features: NDArray[np.float32], view: int = 0) -> None:
        """Keep the features (patches, d) of one view of an image. Several threads may put different ones."""
        at = image * self.views + view
        self._features.put(at, features)
        if self._projected is not None:
            self._projected.put(at, self.projection.of(features))

    def image(self, image: int, view: int = 0) -> NDArray[np.float32]:
        """The features of one view of an image, (patches, d) float32."""
        return self._features.image(image * self.views + view)

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The features of these rows, (r, d) float32."""
        return self._features.rows(rows)

    def projected(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The projected features of these rows, (r, q) float32."""
        if self._projected is not None:
            return self._projected.rows(rows)
        return self.projection.of(self.rows(rows))

    def save(self, path: Path) -> dict[str, NDArray[np.float32]]:
        """Write a file of the features, and one of their projections; what `Saved` needs beside them.

        Raises:
            OutputError: they can't be written.
        """
        steps = {"steps": self._features.save(path)}
        if self._projected is not None:
            steps["projected.steps"] = self._projected.save(_projected_path(path))
        return steps


class Saved(NamedTuple):
    """Patch features in a file.

    Attributes:
        path: of it.
        steps: what `PatchFeatures.save` gave.
    """

    path: Path
    steps: Mapping[str, NDArray[np.float32]]

    @property
    def whole(self) -> tuple[Path, NDArray[np.float32]]:
        """The file of the features, and the step of each image, (n,)."""
        return self.path, self.steps["steps"]

    @property
    def projected(self) -> tuple[Path, NDArray[np.float32]]:
        """The same of their projections."""
        return _projected_path(self.path), self.steps["projected.steps"]


@contextmanager
def patch_features(
    shape: tuple[int, int, int], recipe: Recipe, views: int = 1, saved: Saved | None = None
) -> Iterator[PatchFeatures]:
    """Patch features (n, views x patches, d), for as long as the block lasts: room for them, or those of a file.

    Args:
        shape: (n, patches of a view, d).
        recipe: memory_limit; sampling, projection_dimensions and seed, for the projection.
        views: of each image.
        saved: what `PatchFeatures.save` wrote: in memory, or beyond its limit in the files; None: room to put some.

    Raises:
        OutputError: when features are put: the temporary folder has no room for them. Of saved ones: a file is not
            there, or of another size.
    """
    n, patches, d = views * shape[0], shape[1], shape[2]
    projection = Projection.draw(d, recipe)
    with ExitStack() as stack:
        room = recipe.memory_limit * 2**30
        projected = None
        if projection.matrix is not None:
            reduced = n, patches, projection.matrix.shape[1]
            projected = FeatureStore(reduced, room, None if saved is None else saved.projected)
            stack.enter_context(closing(projected))
            room = min(room - projected.in_memory, room * _SHARE)
        features = stack.enter_context(
            closing(FeatureStore((n, patches, d), room, None if saved is None else saved.whole))
        )
        yield PatchFeatures(features, projected, projection, views)


def _projected_path(path: Path) -> Path:
    return path.with_suffix(".projected")


class FeatureStore:
    """Vectors of n images, (n, patches, d), each image's in steps of 1/32767 of its largest value.

    So a value is off by at most half a step, whatever the scale of a backbone's features: about as much as in float16,
    which ends at 65504 and which NumPy converts several times slower.

    Attributes:
        shape: (n, patches, d).
        in_memory: bytes of memory taken: 0 where they are in a file.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        room: float,
        saved: tuple[Path, NDArray[np.float32]] | None = None,
    ) -> None:
        """`room`: bytes of memory it may take; a file where that is not enough. `saved`: what `save` wrote, and gave.

        Raises:
            OutputError: what was saved is not there, or of another size.
        """
        n, patches, d = self.shape = shape
        size = 2 * n * patches * d
        self.in_memory = size if size <= room else 0
        self._values: NDArray[np.int16] | _ValuesOnDisk
        if saved is not None:
            path, self._steps = saved
            self._values = _saved_values(path, size, d, in_memory=bool(self.in_memory))
            return
        self._steps = np.zeros(n, dtype=np.float32)
        if self.in_memory:
            self._values = np.empty((n * patches, d), dtype=np.int16)
        else:
            self._values = _ValuesOnDisk(d)

    def save(self, path: Path) -> NDArray[np.float32]:
        """Write a file of the vectors, whole or not at all; the step of each image, (n,), which it does not hold.

        Raises:
            OutputError: it can't be written.
        """
        with replacing(path) as stream:
            for image in range(self.shape[0]):
                stream.write(np.ascontiguousarray(self._values[self._part(image)]).data)
        return self._steps

    def put(self, image: int, vectors: NDArray[np.float32]) -> None:
        """Keep the vectors (patches, d) of one image. Several threads may put different images."""
        largest = max(float(vectors.max()), -float(vectors.min()))
        if _TINY < largest < np.inf:
            self._steps[image] = largest / _LARGEST
            scaled = vectors * (1 / self._steps[image])
            np.rint(scaled, out=scaled)
            values = scaled.astype(np.int16)
        else:  # nothing but zeros; or no numbers, and then none comes back
            self._steps[image] = 0 if largest <= _TINY else np.nan
            values = np.zeros(vectors.shape, dtype=np.int16)
        self._values[self._part(image)] = values

    def image(self, image: int) -> NDArray[np.float32]:
        """The vectors of one image, (patches, d) float32."""
        vectors = self._values[self._part(image)].astype(np.float32)
        vectors *= self._steps[image]
        return vectors

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of these rows, counted through all images, (r, d) float32."""
        _, patches, d = self.shape
        vectors = np.empty((len(rows), d), dtype=np.float32)
        for first in range(0, len(rows), _ROWS):
            some = rows[first : first + _ROWS]
            np.multiply(
                self._values[some],
                self._steps[some // patches, None],
                out=vectors[first : first + _ROWS],
            )
        return vectors

    def _part(self, image: int) -> slice:
        return slice(image * self.shape[1], (image + 1) * self.shape[1])

    def close(self) -> None:
        """Give the memory back, or the file."""
        if isinstance(self._values, _ValuesOnDisk):
            self._values.close()
        self._values = np.empty((0, self.shape[2]), dtype=np.int16)


def _saved_values(path: Path, size: int, d: int, *, in_memory: bool) -> NDArray[np.int16] | _ValuesOnDisk:
    """What a file of so many bytes holds, (rows, d)."""
    try:
        found = path.stat().st_size
        if found != size:
            raise OutputError(f"{path}: expected {size:,} bytes of features, found {found:,}; remove it")
        return np.fromfile(path, dtype=np.int16).reshape(-1, d) if in_memory else _ValuesOnDisk(d, path)
    except OSError as error:
        raise OutputError(f"{path}: can't be read ({error.strerror or error}); start it again") from error


class _ValuesOnDisk:
    """As much of an array (rows, d) int16 as is needed here, in a file without a name in the temporary folder.

    With a `path` it is that file, which is read alone.
    """

    def __init__(self, d: int, path: Path | None = None) -> None:
        self._d = d
        self._lock = threading.Lock()  # over a place in the file and what is done there
        if path is not None:
            self._file = path.open("rb", buffering=0)
            return
        # It has no name, or on Windows goes when it is closed: so it is gone, however the process ends.
        self._file = tempfile.TemporaryFile(buffering=0, prefix="goodparts-")  # noqa: SIM115  (closed by close)

    def __setitem__(self, part: slice, values: NDArray[np.int16]) -> None:
        rest = np.ascontiguousarray(values).data.cast("B")
        try:
            with self._lock:
                self._file.seek(2 * self._d * part.start)
                while rest:
                    rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise output_error(Path(tempfile.gettempdir()), error) from error

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.int16]:
        if isinstance(rows, slice):
            return self._read(rows.start, rows.stop)
        values = np.empty((len(rows), self._d), dtype=np.int16)
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        together = np.flatnonzero(np.diff(ordered // max(1, _READ // (2 * self._d)))) + 1
        for places in np.split(order, together):
            if len(places):
                first, last = int(rows[places[0]]), int(rows[places[-1]]) + 1
                values[places] = self._read(first, last)[rows[places] - first]
        return values

    def _read(self, first: int, last: int) -> NDArray[np.int16]:
        values = np.empty((last - first, self._d), dtype=np.int16)
        with self._lock:
            self._file.seek(2 * self._d * first)
            read = self._file.readinto(values.data.cast("B"))
        if read < values.nbytes:
            raise OutputError(
                f"{tempfile.gettempdir()}: the file of features ends too early; has something cut it short?"
            )
        return values

    def close(self) -> None:
        self._file.close()

"""Part files: the features of some good images in a folder, for whoever goes on with them, now or in another process.

    with extract(good, extractor, preprocessor) as features:
        save(folder, features)
    with opened(folder, preprocessor) as features:            # the same, to the last bit
        ...

`part.safetensors` comes last: where it is, the others are whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goodparts.errors import OutputError
from goodparts.features.extract import GoodFeatures
from goodparts.features.facts import Facts
from goodparts.features.store import Saved, patch_features
from goodparts.files import replacing
from goodparts.preprocessing.preprocessor import Preprocessor

_FACTS = "part.safetensors"


def save(folder: Path, good: GoodFeatures) -> None:
    """Write the features of good images into a folder, which is made.

    Raises:
        OutputError: they can't be written.
    """
    tensors = Facts.of(good).tensors()
    for depth, of in enumerate(good.depths):
        own = of.features.save(_features_path(folder, depth))
        own_tensors = {**own, "patch_mask": of.patch_mask, "dimensions": np.array(of.features.shape[2])}
        tensors |= {f"{depth}.{name}": values for name, values in own_tensors.items()}
    write_tensors(folder / _FACTS, tensors)


def is_saved(folder: Path) -> bool:
    """Whether features were written into a folder, and are whole."""
    return (folder / _FACTS).is_file()


def facts_of(folder: Path, preprocessor: Preprocessor) -> Facts:
    """What is known of the images of a folder; OutputError where it can't be read."""
    return _facts(read_tensors(folder / _FACTS), folder, preprocessor)


@contextmanager
def opened(folder: Path, preprocessor: Preprocessor) -> Iterator[GoodFeatures]:
    """The features of a folder, for as long as the block lasts: in memory up to the recipe's limit, else in the files.

    `preprocessor` is the one that the images were prepared with.

    Raises:
        OutputError: something of them can't be read.
    """
    tensors = read_tensors(folder / _FACTS)
    facts = _facts(tensors, folder, preprocessor)
    n, grids, recipe, views = len(facts), facts.grids, preprocessor.recipe, preprocessor.views
    share = recipe.replace({"memory_limit": recipe.memory_limit / len(grids)})
    with ExitStack() as stack:
        depths = []
        for depth, (h, w) in enumerate(grids):
            own = {
                name.removeprefix(f"{depth}."): values
                for name, values in tensors.items()
                if name.startswith(f"{depth}.")
            }
            shape = n, h * w, int(own["dimensions"])
            saved = Saved(_features_path(folder, depth), own)
            features = stack.enter_context(patch_features(shape, share, views, saved))
            depths.append(
                GoodFeatures(
                    features=features,
                    patch_mask=own["patch_mask"],
                    frames=facts.frames,
                    grid=(h, w),
                    digests=facts.digests,
                    statistics=facts.statistics,
                    measured=facts.measured,
                    left_out=np.zeros(n, dtype=bool),
                    failures=facts.failures,
                    preprocessor=preprocessor,
                )
            )
        yield replace(depths[0], coarser=tuple(depths[1:]))


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name, whole or not at all; OutputError if they can't be written."""
    import safetensors.numpy

    with replacing(path) as stream:
        stream.write(
            safetensors.numpy.save({name: np.asarray(of, order="C") for name, of in tensors.items()})
        )


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """What `write_tensors` wrote; OutputError if it can't be read."""
    import safetensors
    import safetensors.numpy

    try:
        return safetensors.numpy.load(path.read_bytes())
    except OSError as error:
        raise OutputError(f"{path}: can't be read ({error.strerror or error}); start it again") from error
    except (safetensors.SafetensorError, ValueError) as error:
        raise OutputError(f"{path}: damaged ({error}); remove it, and start the same command again") from None


def _features_path(folder: Path, depth: int) -> Path:
    return folder / f"depth{depth + 1}.features"


def _facts(tensors: Mapping[str, NDArray[Any]], folder: Path, preprocessor: Preprocessor) -> Facts:
    try:
        return Facts.from_tensors(tensors, preprocessor)
    except (KeyError, TypeError, ValueError) as error:
        raise OutputError(f"{folder / _FACTS}: damaged ({error!r}); remove it, and start again") from None

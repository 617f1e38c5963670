"""Facts: what is known of good images beside their patch features, which are many times as large."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from goodparts.features.extract import GoodFeatures
from goodparts.preprocessing.framing import Frame
from goodparts.preprocessing.preprocessor import Preprocessor
from goodparts.preprocessing.statistics import ImageStatistics

_MEASURED = "measured."


@dataclass(frozen=True, eq=False)
class Facts:
    """Of n good images, whose features have k depths. What has no word here is as in `GoodFeatures`.

    Attributes:
        patches: how many patches of each image count at each depth, (n, k) int64.
        grids: (h, w) of the patches of one view at each depth.
    """

    frames: tuple[Frame, ...]
    digests: tuple[str, ...]
    statistics: tuple[ImageStatistics, ...]
    failures: tuple[str, ...]
    measured: Mapping[str, NDArray[np.float32]]
    patches: NDArray[np.int64]
    grids: tuple[tuple[int, int], ...]
    preprocessor: Preprocessor

    @classmethod
    def of(cls, good: GoodFeatures) -> Self:
        """Of images whose features are here."""
        return cls(
            good.frames,
            good.digests,
            good.statistics,
            good.failures,
            good.measured,
            np.stack([of.patch_mask.sum(axis=1, dtype=np.int64) for of in good.depths], axis=1),
            tuple(of.grid for of in good.depths),
            good.preprocessor,
        )

    @classmethod
    def of_all(cls, several: Sequence[Self]) -> Self:
        """Of the images of several, one behind the other."""
        first = several[0]
        return cls(
            tuple(frame for one in several for frame in one.frames),
            tuple(digest for one in several for digest in one.digests),
            tuple(of_image for one in several for of_image in one.statistics),
            tuple(failure for one in several for failure in one.failures),
            {name: np.concatenate([one.measured[name] for one in several]) for name in first.measured},
            np.concatenate([one.patches for one in several]),
            first.grids,
            first.preprocessor,
        )

    def __len__(self) -> int:
        return len(self.frames)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """As a file keeps them, the preprocessor aside."""
        texts = {
            "frames": [asdict(frame) for frame in self.frames],
            "digests": self.digests,
            "statistics": [asdict(of_image) for of_image in self.statistics],
            "failures": self.failures,
            "grids": self.grids,
        }
        measured = {_MEASURED + name: values for name, values in self.measured.items()}
        text = np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8)
        return {"facts": text, "patches": self.patches, **measured}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]], preprocessor: Preprocessor) -> Self:
        """What `tensors` gave; KeyError or ValueError where something of it is missing."""
        texts = json.loads(tensors["facts"].tobytes())
        measured = {
            name.removeprefix(_MEASURED): values
            for name, values in tensors.items()
            if name.startswith(_MEASURED)
        }
        return cls(
            tuple(_frame(values) for values in texts["frames"]),
            tuple(texts["digests"]),
            tuple(ImageStatistics(**values) for values in texts["statistics"]),
            tuple(texts["failures"]),
            measured,
            tensors["patches"],
            tuple((int(h), int(w)) for h, w in texts["grids"]),
            preprocessor,
        )


def _frame(values: Mapping[str, Any]) -> Frame:
    return Frame(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    )

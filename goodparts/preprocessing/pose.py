"""Pose: how a part lies in the picture against a reference, found, checked, and taken back before anything is learnt.

    working image ─► edges ─► best pose, believed or not (both `pose_matching`) ─► straightened

The reference is the mean of the edges of good images, each in the pose of the one that lies most in the middle. Where a
pose is not believed, the image is taken as it is, and `Pose.failure` says why: nothing is straightened on a guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from goodparts import parallel
from goodparts.data.good_images import GoodImages
from goodparts.errors import RecipeError
from goodparts.preprocessing import framing
from goodparts.preprocessing.framing import Frame, Pose, Warp
from goodparts.preprocessing.pose_matching import (
    SIDE,
    Edges,
    Motion,
    Template,
    agreement,
    edges_of,
    failure_of,
    moved_back,
    small_shape,
    warp_of,
)
from goodparts.preprocessing.step import Prepared, Step
from goodparts.recipe.recipe import Recipe

SAMPLE = 32  # good images that the reference is made of, at the most
FLOOR = 0.35  # agreement below which no two images show the same part

_MARGIN = 0.15  # by which agreement may always lie below the usual
_PILOTS, _JUDGES = 3, 7  # good images that may be the first reference, and by how many others each is judged


@dataclass(frozen=True, eq=False)
class Reference:
    """What images are aligned to; made by `learn`.

    Attributes:
        edges: of the good images, (2, h, w) int8: real and imaginary part in steps of 1/127.
        known: where they are known, (h, w) uint8, 0 or 255.
        picture: the working image of a good part in this pose, (height, width, 3) uint8: shown where nothing is known.
        typical: median agreement of good images with the mean of the others.
        lowest: below this an image is not aligned.
        alike: motions after which the reference looks like itself: a symmetry, or a period.
    """

    edges: NDArray[np.int8]
    known: NDArray[np.uint8]
    picture: NDArray[np.uint8]
    typical: float
    lowest: float
    alike: tuple[Motion, ...] = ()

    def __post_init__(self) -> None:
        if (
            self.edges.ndim != 3
            or self.edges.shape[0] != 2
            or self.edges.dtype != np.int8
            or self.known.shape != self.edges.shape[1:]
            or self.known.dtype != np.uint8
            or self.picture.ndim != 3
            or self.picture.dtype != np.uint8
            or not math.isfinite(self.typical + self.lowest)
        ):
            raise ValueError(
                f"pose: edges of shape {self.edges.shape} and {self.edges.dtype} don't go together"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of the small copy."""
        return self.known.shape[0], self.known.shape[1]

    @cached_property
    def template(self) -> Template:
        """The same, ready for the search."""
        field = (self.edges[0] + 1j * self.edges[1].astype(np.float32)) / np.float32(127)
        return Template(Edges(field.astype(np.complex64), self.known))

    def to_bytes(self) -> bytes:
        """As the model file keeps it: safetensors."""
        import safetensors.numpy

        return safetensors.numpy.save(
            {
                "edges": self.edges,
                "known": self.known,
                "picture": self.picture,
                "limits": np.array([self.typical, self.lowest]),
                "alike": np.array(self.alike, dtype=np.float64).reshape(-1, 3),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` wrote; ValueError or LookupError if it is something else."""
        import safetensors.numpy

        tensors = safetensors.numpy.load(data)
        typical, lowest = tensors["limits"].tolist()
        alike = tuple(Motion(*motion) for motion in tensors["alike"].tolist())
        return cls(tensors["edges"], tensors["known"], tensors["picture"], typical, lowest, alike)


_MEMBER = "pose.safetensors"


@dataclass(frozen=True, eq=False)
class Alignment(Step):
    """Brings parts to where good ones lie.

    Attributes:
        reference: what images are aligned to.
        recipe: pose and pose_angle.
    """

    name: ClassVar[str] = "pose"
    masks: ClassVar[bool] = True
    reference: Reference
    recipe: Recipe

    @classmethod
    def wanted(cls, recipe: Recipe) -> bool:
        """Where `pose` is anything but as_is."""
        return recipe.pose != "as_is"

    @classmethod
    def learn(cls, good: GoodImages, recipe: Recipe) -> Self:
        """With the reference of good images."""
        return cls(learn(good, recipe), recipe)

    def apply(self, image: Prepared) -> Prepared:
        """The image straightened, where its pose is believed."""
        pose, warp = find(self.reference, image.working, image.frame, self.recipe)
        if warp is None:
            return replace(image, pose=pose)
        frame = replace(image.frame, warp=warp)
        working = framing.straighten(frame, image.working, self.reference.picture)
        return replace(image, frame=frame, working=working, pose=pose)

    def members(self) -> dict[str, bytes]:
        """The reference."""
        return {_MEMBER: self.reference.to_bytes()}

    @classmethod
    def from_members(cls, members: Mapping[str, bytes], recipe: Recipe) -> Self:
        """What `members` wrote."""
        return cls(Reference.from_bytes(members[_MEMBER]), recipe)

    def export_refusal(self, recipe: Recipe) -> str:
        """Images are aligned outside the graph."""
        return (
            f"this model aligns images (pose = {recipe.pose}), which is not part of the graph; fit with pose = as_is "
            "on images that are aligned beforehand, or run this model with goodparts"
        )


def find(
    reference: Reference, picture: NDArray[np.uint8], frame: Frame, recipe: Recipe
) -> tuple[Pose, Warp | None]:
    """The pose of a working image (height, width, 3) uint8 as framing made it, and what takes it back.

    Args:
        reference: what it is aligned to.
        picture: the working image.
        frame: how the image lies in it.
        recipe: pose and pose_angle.
    """
    edges = edges_of(picture, frame, reference.shape)
    template = reference.template
    before = template.quality(edges, Motion(0, 0, 0))
    best, second = template.search(edges, recipe)
    motion, quality = best
    per_pixel = [  # pixels of the image to one of the small copy
        frame.working_size[axis] * frame.image_size[axis] / (frame.resized[axis] * reference.shape[axis])
        for axis in (1, 0)
    ]
    failure = failure_of(
        best, second, before=before, lowest=reference.lowest, alike=reference.alike, recipe=recipe
    )
    stays = motion.size(max(reference.shape)) * max(frame.working_size) / SIDE < 0.5
    used = not failure and not stays
    pose = Pose(
        angle=math.degrees(motion.angle),
        shift=(motion.x * per_pixel[0], motion.y * per_pixel[1]),
        quality=quality,
        before=before,
        used=used,
        failure=failure,
    )
    return pose, warp_of(motion, reference.shape, frame.working_size) if used else None


# ---- learning


def learn(good: GoodImages, recipe: Recipe) -> Reference:
    """The reference of good images: up to `SAMPLE` of them, evenly spread.

    Raises:
        ImageError: one of them can't be read.
    """
    sample = np.unique(np.linspace(0, len(good) - 1, SAMPLE).astype(int)).tolist()
    shape: list[tuple[int, int]] = []

    def edges_in(index: int) -> tuple[Edges, NDArray[np.uint8]]:
        pixels = good.pixels(index)
        frame = framing.frame_of((pixels.shape[0], pixels.shape[1]), recipe)
        if not shape:
            shape.append(small_shape(frame))
        picture = framing.apply(frame, pixels)
        return edges_of(picture, frame, shape[0]), picture

    examined = [edges_in(sample[0])]  # its aspect is that of all of them
    for more in good.map(edges_in, sample[1:]):
        examined.append(more)
        good.progress("pose", len(examined), 2 * len(sample))
    edges, pictures = [of_image for of_image, _ in examined], [picture for _, picture in examined]
    pilot = _pilot(edges, recipe, good.workers)
    template = Template(edges[pilot])
    alike = template.alike(recipe)
    motions: list[Motion | None] = []
    for best, second in parallel.parallel_map(
        lambda of_image: template.search(of_image, recipe), edges, workers=good.workers
    ):
        failure = failure_of(best, second, before=-1.0, lowest=FLOOR, alike=alike, recipe=recipe)
        motions.append(None if failure else best.motion)
        good.progress("pose", len(edges) + len(motions), 2 * len(sample))
    found = _mean(edges, motions, pilot, pictures)
    return replace(found, alike=found.template.alike(recipe))


def _pilot(edges: Sequence[Edges], recipe: Recipe, workers: int) -> int:
    """Of a few images that to which the others align best."""
    pilots = np.unique(np.linspace(0, len(edges) - 1, _PILOTS).astype(int))
    judges = np.unique(np.linspace(0, len(edges) - 1, _JUDGES).astype(int))

    def median_quality(pilot: int) -> float:
        template = Template(edges[pilot])
        return float(
            np.median(
                [template.search(edges[judge], recipe)[0].quality for judge in judges if judge != pilot]
            )
        )

    if len(edges) < 3:
        return 0
    return int(pilots[np.argmax(list(parallel.parallel_map(median_quality, pilots, workers=workers)))])


def _mean(
    edges: Sequence[Edges],
    motions: Sequence[Motion | None],
    pilot: int,
    pictures: Sequence[NDArray[np.uint8]],
) -> Reference:
    """The mean of edges that were aligned to a pilot, in the pose of the image that lies most in the middle."""
    aligned = [(index, motion) for index, motion in enumerate(motions) if motion is not None]
    if len(aligned) < 2:
        return _reference(edges[pilot], [], pictures[pilot])
    far = [sum(other.after(motion.inverse).size(SIDE) for _, other in aligned) for _, motion in aligned]
    middle, pose = aligned[int(np.argmin(far))]
    back = pose.inverse
    moved = [moved_back(edges[index], motion.after(back)) for index, motion in aligned]
    seen = np.sum([one.known > 0 for one in moved], axis=0)
    total = np.sum([np.where(one.known > 0, one.field, 0) for one in moved], axis=0)
    known = np.where(2 * seen >= len(moved), np.uint8(255), np.uint8(0))
    qualities = []
    for one in moved:  # each against the mean of the others
        own = one.known > 0
        others = np.where(own, total - one.field, total) / np.maximum(seen - own, 1)
        qualities.append(agreement(Edges(others.astype(np.complex64), known), one))
    mean = np.where(known > 0, total / np.maximum(seen, 1), 0)
    return _reference(Edges(mean.astype(np.complex64), known), qualities, pictures[middle])


def _reference(edges: Edges, qualities: Sequence[float], picture: NDArray[np.uint8]) -> Reference:
    """With a limit as the quality gate's are: from the median twice as far as 95 % of the good images go, and at least
    `_MARGIN`, wider for few images; never below `FLOOR`."""
    typical, lowest = 1.0, FLOOR
    if qualities:
        typical = float(np.median(qualities))
        low = float(np.quantile(qualities, 0.05, method="higher"))
        few = 1 + 5 / len(qualities)
        lowest = max(FLOOR, typical - few * max(_MARGIN, 2 * (typical - low)))
    parts = np.stack([edges.field.real, edges.field.imag])
    stored = np.rint(127 * np.clip(parts, -1, 1)).astype(np.int8)
    return Reference(stored, edges.known, picture, typical, lowest)


def require_use(failures: Sequence[str], recipe: Recipe) -> None:
    """Raise RecipeError where most good images can't be aligned and would be sent back; `failures` has one for each."""
    failed = [failure for failure in failures if failure]
    if recipe.pose_failure == "recheck" and 2 * len(failed) > len(failures):
        raise RecipeError(
            f"pose_failure: recheck would send back most parts, since {len(failed)} of {len(failures)} good images "
            f"are {failed[0]}; take pose = as_is, pose_failure = plain, or a smaller pose_angle"
        )

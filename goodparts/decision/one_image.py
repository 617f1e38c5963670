"""Scores from a single good image: with no other image to judge it by, turned copies of it are judged.

Each is a picture that the bank has not seen, of a part that it has; they stand in for other good images, but show
nothing of how parts differ. So they give a threshold to begin with, and count as one image wherever a statement is
made: `docs/few_images.md` says how false rejects come out on real images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from goodparts.bank.fusion import Fusion, learn_fusion
from goodparts.bank.memory_bank import MemoryBank
from goodparts.bank.search import Piece, at_each_depth, counted_distances, feature_inputs, search
from goodparts.bank.search_graph import fusion_graph, search_graph
from goodparts.decision.leave_one_out import HeldOutScore
from goodparts.engines.engine import open_engine
from goodparts.engines.runtime import current
from goodparts.features.extract import Extractor
from goodparts.preprocessing import augment, framing
from goodparts.preprocessing.framing import Frame
from goodparts.preprocessing.preprocessor import Preprocessor
from goodparts.progress import Progress
from goodparts.recipe.copies import Copy

TURNS = tuple(Copy(degrees=20.0 + 45.0 * step) for step in range(8))
"""All round, between the multiples of 45 degrees by which the bank's copies are usually turned."""

IN_PLACE = (Copy(degrees=5.0), Copy(degrees=355.0), Copy(brightness=0.8), Copy(brightness=1.2))
"""For a region of interest so far from the middle that a turn takes it out of the picture, and for a window within
which a turned part would find nothing."""

_LEFT = 0.5  # of every zone's cells that a turned copy must still show


def score(
    pixels: NDArray[np.uint8],
    extractor: Extractor,
    banks: Sequence[MemoryBank],
    preprocessor: Preprocessor,
    progress: Progress,
) -> tuple[Fusion | None, Iterator[tuple[Copy, HeldOutScore]]]:
    """Copies of the one good image against the banks; distances are carried back to where the part was in the image.

    Args:
        pixels: of the image, (H, W, 3) uint8.
        extractor: of the recipe.
        banks: of each depth, learnt from that image alone.
        preprocessor: of the recipe, without tiles.
        progress: called with (stage, done, total).

    Returns:
        The fusion of depths, which the copies teach; None where there is one depth; and the scores.
    """
    recipe, roi, grid = preprocessor.recipe, preprocessor.roi, preprocessor.grid
    frame = framing.frame_of((pixels.shape[0], pixels.shape[1]), recipe)
    working = framing.apply(frame, pixels)
    zone_masks = (
        framing.patch_mask(frame, grid)[None] if roi.everywhere else roi.zone_patch_masks(recipe, grid)
    )
    patch_mask = np.asarray(zone_masks.any(axis=0))
    picture = Frame(frame.image_size, frame.image_size, (0, 0), frame.image_size)
    everything = np.ones(frame.image_size, dtype=bool)
    coarser = list(zip(banks[1:], extractor.grids[1:], strict=True))
    copies = IN_PLACE if recipe.position_window else judging_copies(zone_masks, frame)

    def piece_of(copy: Copy) -> Piece:
        inputs = feature_inputs(extractor(augment.apply(copy, working, frame)), extractor.grids)
        return Piece(0, inputs, augment.copied_mask(copy, patch_mask, frame))

    pieces: Iterable[Piece] = (piece_of(copy) for copy in copies)
    fusion = None
    if coarser:
        engine = open_engine(
            search_graph(banks[0], grid, recipe, coarser=coarser, masked=True, products=current().products())
        )
        measured = [at_each_depth(engine, piece, extractor.grids) for piece in pieces]
        fusion = learn_fusion(
            extractor.grids, (counted_distances(piece, extractor.grids) for piece in measured)
        )
        pieces = measured
    if fusion is None or recipe.image_score == "reweighted":
        graph = search_graph(
            banks[0],
            grid,
            recipe,
            coarser=coarser,
            fusion=fusion,
            masked=True,
            products=current().products(),
        )
        pieces = (piece_of(copy) for copy in copies)
    else:
        graph = fusion_graph(fusion, recipe, masked=True)
    engine = open_engine(graph)

    def scores() -> Iterator[tuple[Copy, HeldOutScore]]:
        for index, (copy, piece) in enumerate(zip(copies, pieces, strict=True)):
            found, score = search(engine, [piece], np.ones(grid, dtype=bool), preprocessor)
            distances = augment.copied_values(copy.back, found, frame, np.nan)
            distances[~patch_mask] = np.nan
            anomaly_map = preprocessor.to_image(distances, frame)
            anomaly_map[~augment.copied_mask(copy.back, everything, picture)] = np.nan
            yield copy, HeldOutScore(index, score, distances, anomaly_map)
            progress("calibration", index + 1, len(copies))

    return fusion, scores()


def judging_copies(zone_masks: NDArray[np.bool_], frame: Frame) -> tuple[Copy, ...]:
    """The copies by which an image is judged: turns that keep enough of each zone, (zones, h, w) bool, in sight."""
    turned = tuple(
        copy
        for copy in TURNS
        if all(augment.copied_mask(copy, mask, frame).sum() >= _LEFT * mask.sum() for mask in zone_masks)
    )
    return turned if len(turned) > 1 else IN_PLACE


def name(copy: Copy, of: str) -> str:
    """What to call a copy of an image."""
    how = f"turned by {copy.degrees:g} degrees" if copy.degrees else f"{copy.brightness:g} times as bright"
    return f"{of}, {how}"

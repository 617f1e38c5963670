"""Pose: what is found and how exactly, what is never believed, and that maps come back to where the defect is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from goodparts import Inspector, Recipe
from goodparts.cli.printing import inspection_line, inspection_record
from goodparts.data.good_images import GoodImages
from goodparts.decision.inspection import BAD, GOOD, RECHECK
from goodparts.errors import DatasetError, ModelError, OutputError, RecipeError
from goodparts.model import file as model_file
from goodparts.preprocessing import framing, pose
from goodparts.preprocessing.framing import Pose
from goodparts.preprocessing.step import Prepared

Pixels = NDArray[np.uint8]
SHAPE = (96, 96)


def part(
    angle: float = 0.0,
    x: float = 0.0,
    y: float = 0.0,
    *,
    seed: int = 0,
    shape: tuple[int, int] = SHAPE,
    spot: bool = False,
    kind: str = "bracket",
) -> Pixels:
    """A part turned clockwise by `angle` degrees about the picture's middle, then moved by x and y pixels."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    right, down = columns - shape[1] / 2 - x, rows - shape[0] / 2 - y
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    u, v = cos * right + sin * down, cos * down - sin * right  # in the part's own coordinates

    def box(left: float, top: float, width: float, height: float) -> NDArray[np.float64]:
        away = np.maximum(np.abs(u - left - width / 2) - width / 2, np.abs(v - top - height / 2) - height / 2)
        return np.clip(0.5 - away, 0, 1)

    def disc(at: tuple[float, float], radius: float) -> NDArray[np.float64]:
        return np.clip(0.5 + radius - np.hypot(u - at[0], v - at[1]), 0, 1)

    if kind == "bracket":
        body = np.maximum(box(-26, -18, 44, 12), box(-26, -18, 12, 40))
        body = np.maximum(body, disc((14, 12), 9)) - 0.8 * disc((10, -12), 3) - 0.7 * disc((-20, 14), 4)
    elif kind == "washer":
        body = disc((0, 0), 28) - disc((0, 0), 12)
    elif kind == "grating":
        body = 0.5 + 0.5 * np.sin(2 * math.pi * u / 12) * np.sin(2 * math.pi * v / 12)
    else:
        body = np.abs(rng.normal(0, 0.5, shape))
    grey = 30 + 170 * body
    if spot:
        grey = grey + (250 - grey) * disc((-20, -4), 5)
    noisy = grey[..., None] * rng.uniform(0.95, 1.05) + rng.normal(0, 3, (*shape, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def same(pixels: Pixels) -> Pixels:
    return pixels


def learnt(recipe: Recipe, images: Sequence[Pixels]) -> pose.Reference:
    return pose.learn(GoodImages.of(images, read=same, workers=1), recipe)


@pytest.fixture(scope="module")
def rigid() -> Recipe:
    return Recipe(pose="rigid", pose_angle=180, image_size=96)


@pytest.fixture(scope="module")
def reference(rigid: Recipe) -> pose.Reference:
    return learnt(rigid, [part(seed=seed) for seed in range(6)])


def placed_by(pixels: Pixels, recipe: Recipe, reference: pose.Reference) -> Prepared:
    frame = framing.frame_of((pixels.shape[0], pixels.shape[1]), recipe)
    picture = framing.apply(frame, pixels)
    return pose.Alignment(reference, recipe).apply(Prepared(frame, picture, picture))


def found(pixels: Pixels, recipe: Recipe, reference: pose.Reference) -> Pose:
    pose_ = placed_by(pixels, recipe, reference).pose
    assert pose_ is not None
    return pose_


# ---- finding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("spot", [False, True])
@pytest.mark.parametrize(
    ("angle", "x", "y"), [(0, 7, -4), (0, 0.6, 0.8), (12, 3, 5), (-28, -8, 2), (91, 4, 0), (179, -3, -3)]
)
def test_the_pose_is_found_whatever_is_wrong_with_the_part(
    rigid: Recipe, reference: pose.Reference, angle: float, x: float, y: float, spot: bool
) -> None:
    got = found(part(angle, x, y, seed=9, spot=spot), rigid, reference)
    assert got.failure == ""
    assert got.used
    assert abs((got.angle - angle + 180) % 360 - 180) < 0.5
    np.testing.assert_allclose(got.shift, (x, y), atol=0.4)
    assert got.quality > reference.lowest
    assert got.quality > got.before


def test_straightened_it_looks_as_the_others(rigid: Recipe, reference: pose.Reference) -> None:
    upright, moved = part(seed=5), part(20, 5, -3, seed=5)
    placed = placed_by(moved, rigid, reference)
    patch_mask = np.kron(framing.patch_mask(placed.frame, (24, 24)), np.ones((4, 4), bool))
    apart = np.abs(placed.working.astype(float) - upright).mean(axis=2)
    assert apart[patch_mask].mean() < 5
    assert np.abs(moved.astype(float) - upright).mean() > 12
    np.testing.assert_array_equal(placed.picture, moved)


def test_what_lies_as_the_reference_is_left_as_it_is(rigid: Recipe, reference: pose.Reference) -> None:
    pixels = part(seed=8)
    placed = placed_by(pixels, rigid, reference)
    assert placed.pose is not None
    assert not placed.pose.used
    assert placed.pose.failure == ""
    assert placed.frame.warp is None
    np.testing.assert_array_equal(placed.working, pixels)


def test_a_stretched_picture_turns_as_the_part_does() -> None:
    shape = (96, 144)
    recipe = Recipe(pose="rigid", image_size=96)
    reference = learnt(recipe, [part(seed=seed, shape=shape) for seed in range(6)])
    assert reference.shape == (108, 160)
    got = found(part(25, 6, -4, seed=9, shape=shape), recipe, reference)
    assert got.angle == pytest.approx(25, abs=0.5)
    np.testing.assert_allclose(got.shift, (6, -4), atol=0.5)


def test_the_reference_is_the_part_that_lies_in_the_middle(rigid: Recipe) -> None:
    recipe = rigid.replace({"pose_angle": 40})
    angles = (-15, -8, 0, 8, 15)
    reference = learnt(recipe, [part(angle, seed=index) for index, angle in enumerate(angles)])
    assert found(part(0, seed=20), recipe, reference).angle == pytest.approx(0, abs=1)


def test_shift_looks_for_shifts_alone() -> None:
    recipe = Recipe(pose="shift", image_size=96)
    reference = learnt(recipe, [part(seed=seed) for seed in range(6)])
    got = found(part(0, 9, -6, seed=7), recipe, reference)
    assert got.angle == 0
    np.testing.assert_allclose(got.shift, (9, -6), atol=0.3)
    turned = found(part(40, seed=7), recipe, reference)
    assert "not aligned: edges agree to" in turned.failure


# ---- what is not believed ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "how", "why"),
    [
        ("washer", "rigid", "looks alike turned by"),
        ("grating", "shift", "looks alike shifted by"),
        ("grating", "rigid", "looks alike"),
    ],
)
def test_of_a_part_that_looks_alike_in_other_poses_none_is_taken(kind: str, how: str, why: str) -> None:
    recipe = Recipe(pose=how, image_size=96)
    reference = learnt(recipe, [part(seed=seed, kind=kind) for seed in range(6)])
    placed = placed_by(part(10 if how == "rigid" else 0, 4, 3, seed=9, kind=kind), recipe, reference)
    assert placed.pose is not None
    assert why in placed.pose.failure
    assert not placed.pose.used
    np.testing.assert_array_equal(placed.working, placed.picture)


def test_a_washer_can_still_be_shifted() -> None:
    recipe = Recipe(pose="shift", image_size=96)
    reference = learnt(recipe, [part(seed=seed, kind="washer") for seed in range(6)])
    np.testing.assert_allclose(
        found(part(0, 6, 5, seed=9, kind="washer"), recipe, reference).shift, (6, 5), atol=0.3
    )


@pytest.mark.parametrize("kind", ["washer", "grating", "noise"])
def test_another_part_is_not_aligned(rigid: Recipe, reference: pose.Reference, kind: str) -> None:
    got = found(part(seed=3, kind=kind), rigid, reference)
    assert got.failure.startswith("not aligned: ")
    assert not got.used


def test_an_empty_picture_is_not_aligned(rigid: Recipe, reference: pose.Reference) -> None:
    assert "edges agree to" in found(np.full((*SHAPE, 3), 90, np.uint8), rigid, reference).failure


def test_a_turn_beyond_what_is_looked_for_is_not_aligned() -> None:
    recipe = Recipe(pose="rigid", pose_angle=20, image_size=96)
    reference = learnt(recipe, [part(seed=seed) for seed in range(6)])
    assert found(part(15, seed=9), recipe, reference).failure == ""
    assert "turned by 24 degrees (limit 20, pose_angle)" in found(part(24, seed=9), recipe, reference).failure
    assert found(part(60, seed=9), recipe, reference).failure.startswith("not aligned: ")


# ---- from end to end -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aligning_recipe(mini_backbone: Path) -> Recipe:
    return Recipe(
        backbone=str(mini_backbone),
        layers=("layer1", "layer2"),
        image_size=96,
        sampling_ratio=0.3,
        pose="rigid",
        precision="f32",
    )


def some(count: int, first: int, spread: float) -> list[Pixels]:
    """Good parts that lie a little differently each."""
    rng = np.random.default_rng(first)
    return [
        part(*(spread * rng.uniform(-1, 1, 3) * (15, 5, 5)), seed=first + index) for index in range(count)
    ]


@pytest.fixture(scope="module")
def aligned(aligning_recipe: Recipe) -> Inspector:
    """Learnt from parts that lie straight. Read only."""
    return Inspector(aligning_recipe).fit(some(16, 100, 0.1))


def test_moved_good_parts_are_good_and_bad_ones_are_marked_where_the_defect_is(
    aligned: Inspector, aligning_recipe: Recipe
) -> None:
    as_is = Inspector(aligning_recipe.replace({"pose": "as_is"})).fit(some(16, 100, 0.1))
    moved = some(8, 200, 1)
    assert [one.verdict for one in as_is.inspect_many(moved)].count(BAD) >= 6
    assert [one.verdict for one in aligned.inspect_many(moved)].count(GOOD) >= 7
    bad = aligned.inspect(part(14, 6, -4, seed=300, spot=True))
    assert bad.verdict == BAD
    assert bad.pose is not None
    assert bad.pose.used
    turn = math.radians(14)
    x = 48 + 6 + math.cos(turn) * -20 - math.sin(turn) * -4
    y = 48 - 4 + math.sin(turn) * -20 + math.cos(turn) * -4
    assert bad.mask[round(y), round(x)]
    peak = np.unravel_index(np.nanargmax(bad.anomaly_map), SHAPE)
    assert math.hypot(peak[0] - y, peak[1] - x) < 8
    assert np.isnan(bad.anomaly_map).any()
    assert not bad.mask[np.isnan(bad.anomaly_map)].any()


def test_it_is_told_to_people_and_machines(aligned: Inspector) -> None:
    inspection = aligned.inspect(part(14, 6, -4, seed=300))
    assert "turned +1" in inspection_line(inspection, aligned.model.calibration)
    record = inspection_record(inspection)["pose"]
    assert record["used"]
    assert record["angle"] == pytest.approx(14, abs=0.7)
    assert aligned.model.provenance.not_aligned == {}
    assert 0.9 < aligned.model.provenance.seen_share <= 1


@pytest.mark.parametrize(("failure", "verdict"), [("recheck", RECHECK), ("plain", BAD)])
def test_what_is_not_aligned_is_sent_back_or_taken_as_it_is(
    aligned: Inspector, aligning_recipe: Recipe, failure: str, verdict: str
) -> None:
    assert aligned.recipe.pose_failure == "plain"
    inspector = aligned
    if failure == "recheck":
        inspector = Inspector(aligning_recipe.replace({"pose_failure": failure})).fit(some(8, 100, 0.1))
    inspection = inspector.inspect(part(seed=3, kind="washer"))
    assert inspection.verdict == verdict
    assert inspection.pose is not None
    assert inspection.reasons == ((inspection.pose.failure,) if failure == "recheck" else ())
    assert "not aligned" in inspection_line(inspection, inspector.model.calibration)
    if failure == "plain":
        assert not np.isnan(inspection.anomaly_map).any()


def test_recheck_is_refused_where_it_would_send_back_most_parts(aligning_recipe: Recipe) -> None:
    images = [part(seed=seed, kind="washer") for seed in range(6)]
    with pytest.raises(RecipeError, match="pose_failure: recheck would send back most parts"):
        Inspector(aligning_recipe.replace({"pose_failure": "recheck"})).fit(images)


def test_what_would_be_sent_back_has_no_part_in_bank_and_threshold(aligning_recipe: Recipe) -> None:
    lying_well, recheck = some(10, 100, 0.1), aligning_recipe.replace({"pose_failure": "recheck"})
    odd = [part(seed=seed, kind="washer") for seed in (1, 2, 3)]
    inspector = Inspector(recheck).fit([*lying_well, *odd[:2]])
    model = inspector.model
    assert sum(model.provenance.not_aligned.values()) == 2
    assert model.calibration.left_out == ("image 10", "image 11")
    assert len(model.calibration.training_set.scores) == 10
    assert not np.isin(model.bank.image_ids, (10, 11)).any()
    with pytest.raises(DatasetError, match="no new good image is aligned"):
        inspector.update(odd[2:])
    inspector.update([*some(3, 300, 0.1), odd[2]])
    assert sum(inspector.model.provenance.not_aligned.values()) == 3
    assert len(inspector.model.calibration.training_set.scores) == 13
    fresh = some(4, 400, 0.1)
    inspector.calibrate([*fresh, part(seed=9, kind="washer")])
    assert inspector.model.calibration.calibration_set is not None
    assert len(inspector.model.calibration.calibration_set.scores) == 4
    with pytest.raises(DatasetError, match="1 of 2 images are not aligned"):
        inspector.calibrate([fresh[0], part(seed=8, kind="washer")])


def test_where_no_pose_is_believed_nothing_changes(aligning_recipe: Recipe) -> None:
    """As for grids and washers: a key that can't help does no harm."""
    images = [part(seed=seed, kind="washer") for seed in range(6)]
    by_pose = Inspector(aligning_recipe).fit(images)
    as_is = Inspector(aligning_recipe.replace({"pose": "as_is"})).fit(images)
    (failure,) = by_pose.model.provenance.not_aligned
    assert "looks alike turned" in failure
    assert by_pose.model.calibration.threshold == pytest.approx(as_is.model.calibration.threshold, rel=1e-6)
    tests = [part(seed=60, kind="washer"), part(seed=61)]
    np.testing.assert_allclose(list(by_pose.score_many(tests)), list(as_is.score_many(tests)), rtol=1e-5)


@pytest.mark.parametrize("kind", ["letterbox", "crop"])
def test_other_framings_align_as_well(aligning_recipe: Recipe, kind: str) -> None:
    changes = {"framing": kind, "resize_size": 96, "image_size": 88 if kind == "crop" else 96}
    shape = (96, 128) if kind == "letterbox" else SHAPE
    inspector = Inspector(aligning_recipe.replace(changes)).fit(
        [part(seed=seed, shape=shape) for seed in range(8)]
    )
    inspection = inspector.inspect(part(10, 5, -3, seed=30, shape=shape))
    assert inspection.pose is not None
    assert inspection.pose.angle == pytest.approx(10, abs=0.7)
    np.testing.assert_allclose(inspection.pose.shift, (5, -3), atol=0.6)
    assert inspection.anomaly_map.shape == shape


def test_loaded_again_it_is_the_same(aligned: Inspector, tmp_path: Path) -> None:
    loaded = Inspector.load(aligned.save(tmp_path / "part.goodparts"))
    assert loaded.model.identity == aligned.model.identity
    pixels = part(12, 3, 4, seed=40)
    first, second = aligned.inspect(pixels), loaded.inspect(pixels)
    assert first.pose == second.pose
    assert first.score == second.score
    np.testing.assert_array_equal(first.anomaly_map, second.anomaly_map)


def test_a_model_without_its_reference_is_damaged(aligned: Inspector, tmp_path: Path) -> None:
    path = model_file.save(
        replace(aligned.model, preprocessor=replace(aligned.model.preprocessor, steps=())),
        tmp_path / "part.goodparts",
    )
    with pytest.raises(ModelError, match="pose = rigid does not go with the members"):
        model_file.load(path)


def test_what_was_learnt_from_is_known_again_when_it_is_aligned(aligned: Inspector, tmp_path: Path) -> None:
    learnt_from, new = some(16, 100, 0.1), some(4, 500, 1)
    copy = Inspector.load(aligned.save(tmp_path / "part.goodparts"))
    with pytest.raises(DatasetError, match="no good image that this model has not learnt from"):
        copy.update(learnt_from)
    with pytest.raises(DatasetError, match="were learnt from"):
        copy.calibrate(learnt_from)
    copy.update([*learnt_from, *new])
    assert copy.model.provenance.good_images == 20
    (kept,), (before,) = copy.model.preprocessor.steps, aligned.model.preprocessor.steps
    assert kept.members() == before.members()


def test_held_out_scores_are_those_of_aligned_images(aligning_recipe: Recipe) -> None:
    """Good parts that lie anyhow: aligned, they are more alike."""
    images = some(16, 700, 1)
    by_pose = [
        float(
            np.mean(
                Inspector(aligning_recipe.replace({"pose": kind, "banks": "joined"}))
                .fit(images)
                .model.calibration.scores
            )
        )
        for kind in ("as_is", "rigid")
    ]
    assert by_pose[1] < 0.8 * by_pose[0]


def test_it_is_refused_where_it_can_not_be_done(aligned: Inspector, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="roi: zones are drawn on the image and pose = shift moves it"):
        Recipe(pose="shift", roi="zones.json")
    with pytest.raises(OutputError, match="aligns images"):
        aligned.export(tmp_path / "part.onnx")
    assert not (tmp_path / "part.onnx").exists()

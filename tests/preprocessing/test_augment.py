"""Copies of good images: which ones, what they show, and what a bank gains by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from goodparts import Inspector, Recipe
from goodparts.backbones.backbone import cut_down
from goodparts.backbones.catalogue import load_backbone
from goodparts.data.good_images import GoodImages
from goodparts.data.images import read_image
from goodparts.features.extract import Extractor, extract
from goodparts.preprocessing import augment, framing
from goodparts.preprocessing.framing import Frame
from goodparts.preprocessing.preprocessor import Preprocessor
from goodparts.preprocessing.roi import EVERYWHERE
from goodparts.recipe.copies import Copy, copies


def _square(side: int = 64) -> Frame:
    return Frame((side, side), (side, side), (0, 0), (side, side))


def _picture(height: int, width: int) -> NDArray[np.uint8]:
    """A smooth picture of which no mirrored or turned copy is the same, (height, width, 3) uint8."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    return np.stack([250 * x, 250 * y, 120 + 100 * np.sin(5 * x + 2 * y)], axis=2).astype(np.uint8)


def test_quarters_of_a_square_move_whole_pixels() -> None:
    picture = _picture(64, 64)
    for quarters, copy in enumerate(copies(["rotate90"]), 1):
        np.testing.assert_array_equal(augment.apply(copy, picture, _square()), np.rot90(picture, quarters))


def test_any_other_turn_goes_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    picture, cells = _picture(64, 64), np.arange(64).reshape(8, 8) % 3 == 0
    monkeypatch.setattr(augment, "_by_quarters", lambda copy, frame: False)
    turned = augment.apply(Copy(90.0), picture, _square())
    np.testing.assert_allclose(turned.astype(int), np.rot90(picture), atol=1)
    np.testing.assert_array_equal(augment.copied_mask(Copy(90.0), cells, _square()), np.rot90(cells))


def test_mirrored_and_brighter() -> None:
    picture = _picture(32, 48)
    frame = Frame((32, 48), (32, 48), (0, 0), (32, 48))
    np.testing.assert_array_equal(augment.apply(Copy(flip="left_right"), picture, frame), picture[:, ::-1])
    np.testing.assert_array_equal(augment.apply(Copy(flip="upside_down"), picture, frame), picture[::-1])
    brighter = augment.apply(Copy(brightness=1.5), picture, frame)
    assert brighter.max() == 255
    np.testing.assert_allclose(brighter[picture < 160], 1.5 * picture[picture < 160], atol=0.51)


def test_padding_stays_as_it_is() -> None:
    recipe = Recipe(image_size=64, framing="letterbox")
    frame = framing.frame_of((40, 80), recipe)
    working = framing.apply(frame, _picture(40, 80))
    for copy in copies(["brightness:0.5-1.5", "colour:0.3", "noise:9"]):
        copied = augment.apply(copy, working, frame)
        np.testing.assert_array_equal(copied[:16], working[:16])
        np.testing.assert_array_equal(copied[48:], working[48:])
        assert (copied[16:48] != working[16:48]).mean() > 0.5


def test_warmer_and_colder() -> None:
    picture = np.full((4, 4, 3), 200, dtype=np.uint8)
    warm, cold = (augment.apply(copy, picture, _square(4)) for copy in copies(["colour:0.3"]))
    np.testing.assert_array_equal(warm, np.broadcast_to([255, 200, 140], warm.shape))
    np.testing.assert_array_equal(cold, np.broadcast_to([140, 200, 255], cold.shape))


@pytest.mark.parametrize(
    ("image_size", "keys"),
    [
        ((64, 64), {}),  # enlarged
        ((180, 240), {}),
        ((1200, 1500), {}),  # larger than noise is drawn at
        ((160, 240), {"framing": "letterbox"}),
        ((150, 170), {"framing": "crop", "resize_size": 128, "image_size": 96}),
    ],
)
@pytest.mark.parametrize("grey", [True, False])
def test_noise_is_what_a_sensor_adds_before_an_image_is_resized(
    image_size: tuple[int, int], keys: dict[str, Any], grey: bool
) -> None:
    recipe = Recipe(**{"image_size": 120} | keys)
    frame = framing.frame_of(image_size, recipe)
    colour = np.array([128, 128, 128] if grey else [120, 128, 136], dtype=np.uint8)
    plain = np.broadcast_to(colour, (*image_size, 3))
    noise = 12 * np.random.default_rng(1).standard_normal((*image_size, 1 if grey else 3))
    expected = framing.apply(frame, np.clip(np.rint(plain + noise), 0, 255).astype(np.uint8))
    working = framing.apply(frame, np.ascontiguousarray(plain))
    found = augment.apply(Copy(noise=12.0), working, frame)

    padding = (working != colour).any(axis=2)
    np.testing.assert_array_equal(found[padding], working[padding])
    shown = np.flatnonzero(~padding.all(axis=1))
    rows = slice(shown[0], shown[-1] + 1)
    grain_expected, grain_found = (each[rows].astype(float) - colour for each in (expected, found))
    for moved in (0, 1):  # its variance, and how alike neighbours are
        of_expected, of_found = (
            (grain[:, moved:] * grain[:, : grain.shape[1] - moved]).mean()
            for grain in (grain_expected, grain_found)
        )
        assert of_found == pytest.approx(of_expected, rel=0.15, abs=0.02)
    if grey:
        np.testing.assert_array_equal(found[rows, :, 1:], found[rows, :, :1].repeat(2, axis=2))
    else:
        assert abs(np.corrcoef(grain_found.reshape(-1, 3).T) - np.eye(3)).max() < 0.1


def test_noise_is_the_same_again_and_another_for_each_image() -> None:
    one, other = (np.full((64, 64, 3), level, dtype=np.uint8) for level in (100, 101))
    copy = Copy(noise=3.0)
    first = augment.apply(copy, one, _square())
    np.testing.assert_array_equal(augment.apply(copy, one, _square()), first)
    assert (augment.apply(copy, other, _square()) - 1 != first).mean() > 0.5
    stronger = augment.apply(Copy(noise=6.0), one, _square())
    assert abs(np.corrcoef(first[..., 0].ravel(), stronger[..., 0].ravel())[0, 1]) < 0.1


def test_corners_that_nobody_photographed_are_filled_but_left_out() -> None:
    bright = np.full((64, 64, 3), 200, dtype=np.uint8)
    copy = Copy(45.0)
    assert augment.apply(copy, bright, _square()).min() == 200
    cells = augment.copied_mask(copy, np.ones((16, 16), dtype=bool), _square())
    assert not cells[0, 0]
    assert not cells[-1, -1]
    assert cells[4:12, 4:12].all()


def test_a_stretched_picture_is_turned_in_its_own_proportions() -> None:
    wide = np.zeros((60, 120, 3), dtype=np.uint8)
    wide[20:40, 50:70] = 250  # a square part in the middle
    frame = Frame((60, 120), (64, 64), (0, 0), (64, 64))
    working = framing.apply(frame, wide)
    turned = augment.apply(Copy(90.0), working, frame)
    cells = augment.copied_mask(Copy(90.0), np.ones((8, 8), dtype=bool), frame)
    np.testing.assert_array_equal(cells.all(axis=0), [False] * 2 + [True] * 4 + [False] * 2)
    inside = np.abs(turned.astype(int) - working)[:, 16:48]  # a square turned by 90 degrees is itself
    assert inside.mean() < 3
    assert np.abs(np.rot90(working).astype(int) - working)[:, 16:48].mean() > 10


def test_cells_follow_the_part_in_padding() -> None:
    recipe = Recipe(image_size=64, framing="letterbox")
    frame = framing.frame_of((40, 80), recipe)
    cells = framing.patch_mask(frame, (8, 8))
    turned = augment.copied_mask(Copy(90.0), cells, frame)
    np.testing.assert_array_equal(turned, cells.T)
    for copy in (Copy(brightness=0.5), Copy(warmth=0.2), Copy(noise=3.0)):
        np.testing.assert_array_equal(augment.copied_mask(copy, cells, frame), cells)


def test_copies_stand_behind_their_image(mini_backbone: Path, mini_dataset: Path) -> None:
    recipe = Recipe(
        backbone=str(mini_backbone),
        layers=("layer1",),
        image_size=64,
        augment=("rotate90", "brightness:0.5-1"),
    )
    backbone = cut_down(load_backbone(recipe.backbone), recipe)
    extractor = Extractor(backbone, recipe)
    paths = sorted((mini_dataset / "train" / "good").iterdir())[:3]
    images = GoodImages.of(paths, read=read_image, workers=2)
    with extract(images, extractor, Preprocessor.learn(images, recipe, extractor.grid, EVERYWHERE)) as good:
        patches = good.grid[0] * good.grid[1]
        assert good.features.shape[:2] == (3, 5 * patches)
        assert good.of_crops(0).shape == (1, *good.grid)
        frame = framing.frame_of(read_image(paths[1]).shape[:2], recipe)
        working = framing.apply(frame, read_image(paths[1]))
        step = good.features.image(1, 1).max() / 32767
        np.testing.assert_allclose(good.features.image(1), extractor(working)[0], atol=step)
        np.testing.assert_allclose(
            good.features.image(1, 1),
            extractor(np.ascontiguousarray(np.rot90(working)))[0],
            atol=step,
        )


@pytest.mark.parametrize(
    ("kind", "copy", "most"),
    [("colour:0.3", Copy(warmth=0.25), 0.5), ("noise:20", Copy(noise=18.0), 0.95)],  # noise never comes again
)
def test_a_bank_with_copies_knows_other_light(
    kind: str, copy: Copy, most: float, mini_backbone: Path, mini_dataset: Path
) -> None:
    keys = {"image_size": 64, "precision": "f32", "density_neighbours": 0, "sampling_ratio": 1.0}
    plain = Recipe(backbone=str(mini_backbone), layers=("layer1", "layer2"), **keys)
    paths = sorted((mini_dataset / "train" / "good").iterdir())[:4]
    image = read_image(paths[0])
    height, width = image.shape[:2]
    changed = augment.apply(copy, image, Frame((height, width), (height, width), (0, 0), (height, width)))
    without, with_copies = (
        Inspector(recipe).fit(paths[1:]) for recipe in (plain, replace(plain, augment=(kind,)))
    )
    of_copies, of_images = (each.inspect(changed).distance_grid for each in (with_copies, without))
    assert of_copies.mean() < most * of_images.mean()


def test_a_bank_with_copies_knows_the_turned_part(mini_backbone: Path, mini_dataset: Path) -> None:
    plain = Recipe(
        backbone=str(mini_backbone),
        layers=("layer1", "layer2"),
        banks="joined",
        image_size=64,
        sampling_ratio=1.0,
        precision="f32",
    )
    paths = sorted((mini_dataset / "train" / "good").iterdir())[:4]
    turned = np.ascontiguousarray(np.rot90(read_image(paths[0])))
    without = Inspector(plain).fit(paths)
    with_copies = Inspector(replace(plain, augment=("rotate90",))).fit(paths)
    assert len(with_copies.model.bank.features) == min(4000, 4 * len(without.model.bank.features))
    assert set(with_copies.model.bank.image_ids.tolist()) == {0, 1, 2, 3}
    assert with_copies.inspect(turned).score < 0.7 * without.inspect(turned).score
    assert len(with_copies.model.calibration.scores) == 4
    assert with_copies.model.calibration.digests == without.model.calibration.digests

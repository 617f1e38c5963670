import json
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image, ImageFilter

from goodparts.decision import quality_gate
from goodparts.decision.quality_gate import Limits, learn_limits, reasons
from goodparts.preprocessing.statistics import ImageStatistics, measure

SIDE = 160  # pixels
Spoil = Callable[[np.ndarray], np.ndarray]


def part(rng: np.random.Generator) -> np.ndarray:
    """A ribbed disc on a dark ground; place, turn, light and noise vary."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2 + rng.uniform(-4, 4, (2, 1, 1))
    radius, angle = np.hypot(x, y), np.arctan2(y, x) + rng.uniform(0, 2 * np.pi)
    ribs = np.clip(6 * np.sin(18 * angle) * (radius > 20), -1, 1)
    grey = 30 + np.clip(62 - radius, 0, 1) * (100 + 25 * ribs)
    grey = grey * rng.uniform(0.92, 1.08) + rng.normal(0, 1.5, grey.shape)
    return np.clip(grey[..., None] * [1.0, 0.95, 0.9], 0, 255).astype(np.uint8)


def grid(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(8, 12, (20, 20)).astype(np.float32)


def blurred(sigma: float) -> Spoil:
    return lambda pixels: np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)))


def exposed(factor: float) -> Spoil:
    return lambda pixels: np.clip(pixels * factor, 0, 255).astype(np.uint8)


def noisy(pixels: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(5).normal(0, 20, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def glare(pixels: np.ndarray) -> np.ndarray:
    """A quarter of the image washed out."""
    spoilt = pixels.copy()
    spoilt[: SIDE // 2, : SIDE // 2] = 255
    return spoilt


@pytest.fixture(scope="module")
def good() -> list[ImageStatistics]:
    rng = np.random.default_rng(1)
    return [measure(part(rng), grid(rng)) for _ in range(40)]


@pytest.fixture(scope="module")
def limits(good: list[ImageStatistics]) -> Limits:
    return learn_limits(good)


def test_statistics_of_a_grey_frame_are_known() -> None:
    frame = np.full((32, 48, 3), (10, 20, 50), dtype=np.uint8)
    found = measure(frame, np.full((4, 4), 3, np.float32))
    assert found == ImageStatistics(
        brightness=25, contrast=0, black=0, white=0, detail=0, noise=0, distance=3
    )


def test_black_and_white_shares_and_contrast() -> None:
    frame = np.zeros((40, 40, 3), dtype=np.uint8)
    frame[:10] = 255
    found = measure(frame, np.ones((4, 4), np.float32))
    assert (found.black, found.white) == (0.75, 0.25)
    assert found.brightness == pytest.approx(255 / 4)
    assert found.contrast == pytest.approx(255 * np.sqrt(3) / 4)


@pytest.mark.parametrize("sigma", [2.0, 8.0, 20.0])
def test_noise_is_the_standard_deviation_of_grain(sigma: float) -> None:
    grain = np.random.default_rng(0).normal(128, sigma, (320, 320, 1)).repeat(3, axis=2)
    found = measure(np.clip(grain, 0, 255).astype(np.uint8), np.ones((4, 4), np.float32))
    assert found.noise == pytest.approx(sigma, rel=0.1)


def test_detail_falls_with_blur_and_not_with_exposure() -> None:
    rng = np.random.default_rng(2)
    pixels, distances = part(rng), grid(rng)
    details = [measure(blurred(sigma)(pixels), distances).detail for sigma in (0, 0.7, 1.4, 2.8)]
    assert all(more > 1.2 * less for more, less in pairwise(details))
    assert measure(exposed(0.6)(pixels), distances).detail == pytest.approx(details[0], rel=0.1)


def test_distance_looks_past_defects_and_unseen_cells() -> None:
    pixels = part(np.random.default_rng(3))
    distances = np.full((10, 10), 2, np.float32)
    distances[:, :7] = 50  # a defect on seven tenths of the image
    assert measure(pixels, distances).distance == 2
    distances[:, 8:] = np.nan
    assert measure(pixels, distances).distance == 50


@settings(deadline=None, max_examples=50)
@given(
    pixels=npst.arrays(
        np.uint8, st.tuples(st.integers(8, 40), st.integers(8, 40), st.just(3)), elements=st.integers(0, 255)
    )
)
def test_any_image_can_be_measured(pixels: np.ndarray) -> None:
    found = measure(pixels, np.ones((3, 3), np.float32))
    assert all(np.isfinite(value) and value >= 0 for value in asdict(found).values())
    assert found.black + found.white <= 1
    assert learn_limits([found] * 5).typical.brightness == pytest.approx(found.brightness)
    assert reasons(found, learn_limits([found] * 5)) == ()


@pytest.mark.parametrize("count", [5, 10, 40])
def test_other_good_images_pass(good: list[ImageStatistics], count: int) -> None:
    learnt = learn_limits(good[:count])
    rng = np.random.default_rng(4)
    assert [found for _ in range(100) if (found := reasons(measure(part(rng), grid(rng)), learnt))] == []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (blurred(2), "blurred: detail is 0."),
        (exposed(0.4), "under-exposed: brightness is 0."),
        (exposed(2.5), "over-exposed: brightness is 2."),
        (glare, "over-exposed: 25% of the pixels are white (limit "),
        (noisy, "noisy: grain is "),
        (np.zeros_like, "under-exposed: brightness is 0.00 of what good images have (limit 0."),
        (lambda pixels: np.full_like(pixels, 255), "over-exposed: "),
        (lambda pixels: np.full_like(pixels, round(pixels.mean())), "flat: contrast is 0.00 of "),
    ],
)
def test_spoilt_images_are_told_why(limits: Limits, spoil: Spoil, words: str) -> None:
    rng = np.random.default_rng(6)
    for _ in range(10):
        found = reasons(measure(spoil(part(rng)), grid(rng)), limits)
        assert any(reason.startswith(words) for reason in found), found


def test_a_picture_unlike_all_good_ones(limits: Limits) -> None:
    rng = np.random.default_rng(7)
    (reason,) = reasons(measure(part(rng), 2 * grid(rng)), limits)
    assert reason.startswith("unlike all good images, nearly everywhere: distance is 2.0")


def test_a_defect_is_no_bad_picture(limits: Limits) -> None:
    rng = np.random.default_rng(8)
    for _ in range(20):
        pixels, distances = part(rng), grid(rng)
        pixels[60:110, 50:100] = rng.integers(0, 256, 3)  # a patch on a tenth of the picture
        pixels[20:140, 30:33] = 220  # a scratch
        distances[5:15, 4:14] = 60
        assert reasons(measure(pixels, distances), limits) == ()


def test_two_spoilt_images_in_forty_are_not_learnt(good: list[ImageStatistics], limits: Limits) -> None:
    black = replace(good[0], brightness=1.0, contrast=0.5, detail=0.05)
    learnt = learn_limits([*good[2:], black, black])
    assert reasons(black, learnt)
    assert learnt.lowest.brightness == pytest.approx(limits.lowest.brightness, rel=0.25)


def test_limits_survive_json(limits: Limits) -> None:
    assert Limits.from_dict(json.loads(json.dumps(limits.to_dict(), allow_nan=False))) == limits


def test_fewer_images_give_wider_limits(good: list[ImageStatistics]) -> None:
    same = [good[0]]
    few, many = learn_limits(same * 5), learn_limits(same * 500)
    assert few.lowest.detail < many.lowest.detail < many.highest.detail < few.highest.detail
    with pytest.raises(ValueError, match="at least 5 good images, found 4"):
        learn_limits(same * 4)


def test_every_statistic_has_a_margin() -> None:
    assert quality_gate._FACTORS.keys() | quality_gate._SHARES.keys() == {
        one.name for one in fields(ImageStatistics)
    }

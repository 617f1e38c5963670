from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from goodparts.decision.inspection import Inspection, LaterMap
from goodparts.decision.regions import Runs
from goodparts.errors import OutputError
from goodparts.report import pictures
from goodparts.report.panel import _CAPTION, _HEADER, _tile_size, draw_panel, multiple_text
from goodparts.report.pictures import (
    hatch,
    heatmap_overlay,
    heatmap_scale,
    jet,
    mask_picture,
    outline,
    save_map,
    save_mask,
    save_panel,
    segmentation_picture,
)


def grey(height: int, width: int, value: int = 150) -> NDArray[np.uint8]:
    return np.full((height, width, 3), value, dtype=np.uint8)


def square(height: int, width: int, top: int, left: int, side: int) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def inspection(
    mask: NDArray[np.bool_],
    anomaly_map: NDArray[np.float32] | None = None,
    *,
    verdict: str | None = None,
    borderline: bool = False,
) -> Inspection:
    values = np.where(mask, 3, 1).astype(np.float32) if anomaly_map is None else anomaly_map
    bad = verdict == "BAD" if verdict else bool(mask.any())
    return Inspection(
        path=None,
        score=3.0 if bad else 1.0,
        threshold=2.0,
        p_value=0.01,
        verdict="BAD" if bad else "GOOD",
        borderline=borderline,
        distance_grid=np.zeros((2, 2), dtype=np.float32),
        later_map=LaterMap.of(values),
        pixel_threshold=2.0,
        mask=mask,
        regions=Runs.of(mask).describe(values),
    )


def panel(
    mask: NDArray[np.bool_],
    truth: NDArray[np.bool_] | None = None,
    *,
    label: bool | None = None,
    **options: bool,
) -> NDArray[np.int64]:
    drawn = draw_panel(
        grey(*mask.shape),
        inspection(mask, **options),
        truth,
        scale=(1, 3),
        title="class/000.png",
        label=label,
    )
    return np.asarray(drawn).astype(np.int64)


def count(picture: NDArray[np.integer], colour: tuple[int, int, int]) -> int:
    return int(np.count_nonzero((picture == colour).all(axis=-1)))


@pytest.mark.parametrize(
    ("value", "colour"),
    [
        (0.0, (0, 0, 128)),
        (0.125, (0, 2, 255)),
        (0.375, (2, 255, 253)),
        (0.625, (253, 255, 2)),
        (0.875, (255, 2, 0)),
        (1.0, (128, 0, 0)),
        (-7.0, (0, 0, 128)),
        (np.inf, (128, 0, 0)),
        (-np.inf, (0, 0, 128)),
        (np.nan, (128, 128, 128)),
    ],
)
def test_jet(value: float, colour: tuple[int, int, int]) -> None:
    result = jet(np.array([[value]]))
    assert result.shape == (1, 1, 3)
    assert result.dtype == np.uint8
    assert np.abs(result[0, 0].astype(int) - colour).max() <= 2


def test_jet_has_256_colours_and_none_of_them_is_the_grey_of_nan() -> None:
    colours = jet(np.linspace(0, 1, 256))
    assert len(np.unique(colours, axis=0)) == 256
    assert count(colours, (128, 128, 128)) == 0


@pytest.mark.parametrize(
    ("threshold", "typical", "expected"),
    [
        (2.0, 0.5, (0.5, 3.5)),
        (2.0, None, (1.0, 3.0)),
        (2.0, 5.0, (1.0, 3.0)),
        (2.0, float("nan"), (1.0, 3.0)),
        (float("inf"), 1.0, (0.0, 1.0)),
    ],
)
def test_heatmap_scale(threshold: float, typical: float | None, expected: tuple[float, float]) -> None:
    assert heatmap_scale(threshold, typical) == expected


@pytest.mark.parametrize("threshold", [0.0, -3.0, 1e-9, 1e9])
def test_heatmap_scale_is_never_empty(threshold: float) -> None:
    low, high = heatmap_scale(threshold)
    assert low < threshold < high


def test_overlay_shows_good_blue_and_defects_red() -> None:
    values = np.array([[1.0, 2.6]], dtype=np.float32)
    good, defect = heatmap_overlay(grey(1, 2), values, low=1, high=3)[0].astype(int)
    assert good[2] > good[0] + 40
    assert defect[0] > defect[2] + 40


def test_overlay_colours_depend_on_the_value_alone() -> None:
    """The same colour scale for all images: another defect elsewhere changes nothing."""
    values = np.linspace(0, 3, 64, dtype=np.float32).reshape(8, 8)
    other = values.copy()
    other[0, 0] = 100
    a, b = (heatmap_overlay(grey(8, 8), v, low=0.5, high=2.5) for v in (values, other))
    assert np.array_equal(a.reshape(-1, 3)[1:], b.reshape(-1, 3)[1:])


def test_overlay_opacity() -> None:
    values = np.ones((4, 4), dtype=np.float32)
    assert np.array_equal(heatmap_overlay(grey(4, 4), values, low=0, high=1, opacity=0), grey(4, 4))
    assert np.array_equal(heatmap_overlay(grey(4, 4), values, low=0, high=1, opacity=1), jet(values))


def test_what_was_not_looked_at_is_striped_grey() -> None:
    values = np.ones((60, 60), dtype=np.float32)
    values[:, :30] = np.nan
    image = np.dstack([np.full((60, 60), v, dtype=np.uint8) for v in (200, 40, 90)])
    overlay = heatmap_overlay(image, values, low=0, high=1)
    unseen = overlay[:, :30].reshape(-1, 3)
    assert np.ptp(unseen, axis=1).max() == 0, "grey, whatever the image"
    assert len(np.unique(unseen)) == 2, "two kinds of stripe"
    assert np.ptp(overlay[:, 30:].reshape(-1, 3), axis=1).min() > 0


def test_hatch_leaves_the_rest_and_its_argument_alone() -> None:
    image = grey(40, 40)
    striped = hatch(image, square(40, 40, 10, 10, 5))
    assert count(image, (150, 150, 150)) == 1600
    assert np.array_equal((striped != 150).any(axis=2), square(40, 40, 10, 10, 5))


@pytest.mark.parametrize(
    "call",
    [
        lambda: heatmap_overlay(grey(4, 4), np.zeros((4, 5), np.float32), low=0, high=1),
        lambda: segmentation_picture(grey(4, 4), np.zeros((5, 4), bool)),
        lambda: hatch(grey(4, 4), np.zeros(4, bool)),
        lambda: draw_panel(
            grey(4, 4), inspection(np.zeros((5, 4), bool)), None, scale=(0, 1), title="another size"
        ),
        lambda: draw_panel(
            grey(4, 4),
            inspection(np.zeros((4, 4), bool)),
            np.zeros((2, 2), bool),
            scale=(0, 1),
            title="truth",
        ),
    ],
)
def test_sizes_that_differ_are_refused(call) -> None:
    with pytest.raises(ValueError, match="expected the size of the image"):
        call()


def test_an_empty_colour_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="low < high"):
        heatmap_overlay(grey(4, 4), np.zeros((4, 4), np.float32), low=1, high=1)


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_outline_runs_outside_and_has_its_width(width: int) -> None:
    mask = square(40, 40, 15, 15, 8)
    line = outline(mask, width)
    assert not (line & mask).any()
    assert line[20].sum() == 2 * width
    assert line[:, 20].sum() == 2 * width
    assert line[20, 15 - width]
    assert not line[20, 15 - width - 1]


def test_outline_runs_inside_where_the_region_touches_the_edge() -> None:
    line = outline(np.ones((20, 30), dtype=bool), 2)
    assert line[:2].all()
    assert line[-2:].all()
    assert line[:, :2].all()
    assert line[:, -2:].all()
    assert not line[2:-2, 2:-2].any()


def test_segmentation_picture() -> None:
    image, mask = grey(60, 60), square(60, 60, 20, 20, 12)
    picture = segmentation_picture(image, mask)
    assert count(picture, pictures.FOUND) == outline(mask, 2).sum()
    inside = picture[mask].astype(int)
    assert (inside[:, 0] > inside[:, 2]).all(), "tinted yellow"
    assert np.abs(inside - 150).max() < 80, "translucent"
    assert (picture[:10] == 150).all()
    assert (image == 150).all(), "the image given is not touched"
    assert np.array_equal(segmentation_picture(image, np.zeros((60, 60), bool)), image)


# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision deficiency",
# IEEE TVCG 2009, severity 1, for linear RGB.
COLOUR_BLINDNESS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}


def linear(colour: tuple[int, int, int]) -> NDArray[np.float64]:
    value = np.array(colour) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("kind", COLOUR_BLINDNESS)
def test_outlines_are_told_apart_by_the_colour_blind(kind: str) -> None:
    def seen(colour: tuple[int, int, int]) -> NDArray[np.float64]:
        return np.clip(np.array(COLOUR_BLINDNESS[kind]) @ linear(colour), 0, 1) ** (1 / 2.2)

    metal = [seen((v, v, v)) for v in (40, 90, 140, 190)]
    assert np.linalg.norm(seen(pictures.FOUND) - seen(pictures.TRUTH)) > 0.25
    assert min(np.linalg.norm(seen(pictures.FOUND) - m) for m in metal) > 0.25
    assert min(np.linalg.norm(seen(pictures.RIM) - seen(c)) for c in (pictures.FOUND, pictures.TRUTH)) > 0.5


@pytest.mark.parametrize(
    ("fill", "ink"),
    [
        (pictures.GOOD_COLOUR, pictures.PAPER),
        (pictures.BAD_COLOUR, pictures.PAPER),
        (pictures.WRONG_COLOUR, pictures.PAPER),
        (pictures.BORDERLINE_COLOUR, pictures.INK),
        (pictures.PAPER, pictures.QUIET),
    ],
)
def test_words_have_contrast(fill: tuple[int, int, int], ink: tuple[int, int, int]) -> None:
    """WCAG 2.2, success criterion 1.4.3."""
    light, dark = sorted((linear(c) @ [0.2126, 0.7152, 0.0722] for c in (fill, ink)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


@pytest.mark.parametrize(
    ("width", "height", "columns", "size"),
    [
        (700, 700, 4, (360, 360)),
        (96, 96, 4, (360, 360)),
        (800, 600, 4, (360, 270)),
        (600, 1200, 4, (180, 360)),
        (300, 900, 4, (240, 720)),
        (1600, 700, 2, (720, 315)),
        (4000, 400, 1, (1080, 108)),
        (5000, 1, 1, (1080, 1)),
    ],
)
def test_panel_keeps_the_aspect(width: int, height: int, columns: int, size: tuple[int, int]) -> None:
    assert _tile_size(width, height, 360) == (columns, size)
    if width * height > 10**5:
        return
    mask = np.zeros((height, width), dtype=bool)
    drawn = draw_panel(grey(height, width), inspection(mask), mask, scale=(0, 1), title="t")
    assert drawn.width == columns * (max(size[0], 240) + 16) + 16
    assert drawn.height > size[1] * 4 / columns


def test_panel_without_ground_truth_has_three_tiles() -> None:
    mask = np.zeros((90, 90), dtype=bool)
    wide, narrow = panel(mask, mask).shape[1], panel(mask).shape[1]
    assert (wide, narrow) == (4 * 376 + 16, 3 * 376 + 16)
    assert panel(mask, label=False).shape[1] == wide, "that a good part has no defect is known"
    assert panel(mask, label=True).shape[1] == narrow


@pytest.mark.parametrize(
    ("found", "truth", "label", "verdict", "wrong"),
    [
        (False, False, None, "good", False),
        (True, True, None, "bad", False),
        (False, True, None, "good", True),
        (True, False, None, "bad", True),
        (False, None, True, "good", True),
        (True, None, False, "bad", True),
        (True, None, None, "bad", False),
    ],
)
def test_panel_says_verdict_and_contradiction(
    found: bool, truth: bool | None, label: bool | None, verdict: str, wrong: bool
) -> None:
    mask = square(90, 90, 30, 30, 20)
    header = panel(mask & found, None if truth is None else mask & truth, label=label)[:70]
    badges = {"good": pictures.GOOD_COLOUR, "bad": pictures.BAD_COLOUR}
    assert {name for name, colour in badges.items() if count(header, colour) > 500} == {verdict}
    assert (count(header, pictures.WRONG_COLOUR) > 500) == wrong


def test_panel_words_missed_and_false_reject_differ() -> None:
    mask = square(90, 90, 30, 30, 20)
    missed, rejected = panel(~mask & mask, mask)[:70], panel(mask, mask & ~mask)[:70]
    assert count(missed, pictures.WRONG_COLOUR) < count(rejected, pictures.WRONG_COLOUR)


def test_panel_says_borderline() -> None:
    mask = square(90, 90, 30, 30, 20)
    assert count(panel(mask, mask)[:70], pictures.BORDERLINE_COLOUR) == 0
    assert count(panel(mask, mask, borderline=True)[:70], pictures.BORDERLINE_COLOUR) > 500


@pytest.mark.parametrize("side", [96, 3000])
def test_panel_shows_even_a_single_pixel(side: int) -> None:
    mask = square(side, side, side // 2, side // 3, 1)
    found = panel(mask)[:, 2 * 376 :]
    rows, columns = np.nonzero((found == pictures.FOUND).all(axis=-1))
    assert len(rows) > 60
    assert np.ptp(rows) >= 20
    assert np.ptp(columns) >= 20


def test_panel_stripes_what_was_not_looked_at() -> None:
    values = np.ones((90, 90), dtype=np.float32)
    values[:20] = np.nan
    drawn = draw_panel(
        np.dstack([np.full((90, 90), v, dtype=np.uint8) for v in (180, 90, 40)]),
        inspection(np.zeros((90, 90), bool), values),
        None,
        scale=(0.5, 3),
        title="t",
    )
    picture = np.asarray(drawn).astype(int)
    top = _HEADER + _CAPTION
    for tile, grey_share in ((0, 0.0), (1, 20 / 90), (2, 20 / 90)):
        left = 16 + tile * 376
        pixels = picture[top : top + 360, left : left + 360].reshape(-1, 3)
        assert np.mean(np.ptp(pixels, axis=1) == 0) == pytest.approx(grey_share, abs=0.01)


def test_maps_are_resized_without_spreading_nan() -> None:
    values = np.full((100, 100), 2, dtype=np.float32)
    values[:50] = np.nan
    resized = pictures.fit_map(values, (30, 30))
    assert np.isnan(resized[:15]).all()
    assert resized[15:] == pytest.approx(2)


@pytest.mark.parametrize(
    "title", ["", "Prüfling é 日本", "a" * 400, "50 % {x} $y$", "../Teil Nr. 7\n.png"], ids=range(5)
)
def test_panel_takes_any_title(title: str) -> None:
    mask = np.zeros((50, 20), dtype=bool)
    drawn = draw_panel(grey(50, 20), inspection(mask), None, scale=(0, 1), title=title)
    assert drawn.mode == "RGB"


def test_panels_may_be_drawn_side_by_side() -> None:
    masks = [square(80, 120, 10 + i, 20 + i, 12) for i in range(12)]
    alone = [panel(mask, mask) for mask in masks]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda mask: panel(mask, mask), masks))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_multiple_text_of_a_threshold_with_a_name() -> None:
    assert multiple_text(1.0, 2.0, "image threshold") == "0.50 × image threshold"


@pytest.mark.parametrize(
    ("score", "threshold", "text"),
    [
        (2.64, 2.0, "1.32 × threshold"),
        (1.0, 2.0, "0.50 × threshold"),
        (2.001, 2.0, "1.0005 × threshold"),
        (1.0, 0.0, "threshold 0"),
        (1.0, -2.0, "threshold -2"),
        (1.0, float("inf"), "threshold inf"),
    ],
)
def test_multiple_text(score: float, threshold: float, text: str) -> None:
    assert multiple_text(score, threshold) == text


def test_map_and_mask_come_back_as_they_were(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(37, 53)).astype(np.float32)
    values[3, 4] = np.nan
    save_map(tmp_path / "maps" / "bent" / "000.tiff", values)
    with Image.open(tmp_path / "maps" / "bent" / "000.tiff") as image:
        assert (image.mode, image.size) == ("F", (53, 37))
        assert np.array_equal(np.asarray(image), values, equal_nan=True)
    mask = rng.random((37, 53)) > 0.5
    save_mask(tmp_path / "000.png", mask)
    with Image.open(tmp_path / "000.png") as image:
        assert (image.mode, image.size) == ("L", (53, 37))
        assert np.array_equal(np.asarray(image), mask_picture(mask))
    assert set(np.unique(mask_picture(mask))) == {0, 255}


def test_the_same_panel_gives_the_same_file(tmp_path: Path) -> None:
    mask = square(90, 90, 30, 30, 20)
    for name in ("a.png", "b.png"):
        save_panel(
            tmp_path / name,
            draw_panel(grey(90, 90), inspection(mask), mask, scale=(1, 3), title="bent/0.png"),
        )
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    "save",
    [
        lambda path: save_map(path, np.zeros((4, 4), np.float32)),
        lambda path: save_mask(path, np.zeros((4, 4), bool)),
        lambda path: save_panel(path, Image.new("RGB", (4, 4))),
    ],
)
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, save) -> None:
    (tmp_path / "bent").write_text("in the way")
    with pytest.raises(OutputError, match="000"):
        save(tmp_path / "bent" / "000.png")
    assert [path.name for path in tmp_path.iterdir()] == ["bent"]

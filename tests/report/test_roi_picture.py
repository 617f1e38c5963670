"""The picture of a region of interest: what is looked at stays as it is, the rest is striped, zones are outlined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from goodparts import Recipe
from goodparts.errors import ImageError
from goodparts.preprocessing.roi import Roi, Zone
from goodparts.report.roi_picture import COLOURS, draw_roi, zone_facts

SQUARE = ((100.0, 100.0), (300.0, 100.0), (300.0, 300.0), (100.0, 300.0))
HOLE = ((150.0, 150.0), (250.0, 150.0), (250.0, 250.0), (150.0, 250.0))
CORNER = ((400.0, 400.0), (480.0, 400.0), (480.0, 480.0), (400.0, 480.0))
ROI = Roi((500, 500), (Zone("ring", (SQUARE,), (HOLE,)), Zone("mark", (CORNER,))))
RECIPE = Recipe(image_size=200)


def test_facts() -> None:
    ring, mark = zone_facts(ROI, RECIPE, (20, 20))
    assert (ring.name, mark.name) == ("ring", "mark")
    assert ring.share == pytest.approx((200**2 - 100**2) / 500**2)
    assert (ring.patches, mark.patches) == (64 - 16, 9)
    assert mark.box == (400, 400, 480, 480)


def test_inside_as_it_is_outside_striped_and_outlined_in_its_colour() -> None:
    image = np.full((500, 500, 3), (10, 200, 60), dtype=np.uint8)
    drawn = np.asarray(draw_roi(image, ROI, RECIPE, (20, 20)))[16:516, 16:516]
    inside = drawn[105:134, 120:280]
    np.testing.assert_array_equal(inside, np.broadcast_to((10, 200, 60), inside.shape))
    for outside in (drawn[10:60, 10:60], drawn[170:230, 210:240]):  # the corner, and the hole
        assert (np.ptp(outside, axis=2) == 0).all(), "grey"
        assert len(np.unique(outside)) > 1, "stripes"
    line = (drawn == COLOURS[0]).all(axis=2)
    assert line[98, 150:250].all()
    assert (drawn == COLOURS[1]).all(axis=2)[398, 410:470].all()


def test_legend_grows_with_the_zones() -> None:
    image = np.zeros((500, 500, 3), dtype=np.uint8)
    many = Roi((500, 500), tuple(Zone(f"zone number {i}", (CORNER,)) for i in range(9)))
    two, nine = (draw_roi(image, roi, RECIPE, (20, 20)).height for roi in (ROI, many))
    assert nine > two
    with pytest.raises(ImageError, match="image: is 500x400 pixels"):
        draw_roi(image[:400], ROI, RECIPE, (20, 20))


@pytest.mark.parametrize("side", [20, 500, 3000])
def test_any_size_of_image(side: int, tmp_path: Path) -> None:
    picture = draw_roi(np.zeros((side, side, 3), dtype=np.uint8), ROI, RECIPE, (20, 20))
    assert 480 <= picture.width <= 1232

"""One good image, or a few: what is judged in their place, and what is said of how far to trust it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from goodparts import Inspector, Recipe, read_dataset
from goodparts.decision import one_image
from goodparts.decision.good_scores import COPIES, LEAVE_ONE_OUT
from goodparts.errors import DatasetError, RecipeError
from goodparts.preprocessing import framing
from goodparts.preprocessing.framing import Frame
from goodparts.recipe.copies import Copy
from goodparts.report import card
from goodparts.report.results_folder import write_results


@pytest.fixture(scope="module")
def one_image_recipe(mini_backbone: Path) -> Recipe:
    return Recipe(
        backbone=str(mini_backbone),
        layers=("layer1", "layer2"),
        image_size=64,
        precision="f32",
        memory_limit=0.1,
    )


@pytest.fixture(scope="module")
def paths(mini_dataset: Path) -> list[Path]:
    return sorted((mini_dataset / "train" / "good").iterdir())


@pytest.fixture(scope="module")
def alone(one_image_recipe: Recipe, paths: list[Path]) -> Inspector:
    return Inspector(one_image_recipe).fit(paths[:1])


def test_one_image_is_judged_by_turned_copies(alone: Inspector, paths: list[Path]) -> None:
    used = alone.model.calibration.used
    assert used.source == COPIES
    assert used.images == 1
    assert len(used.scores) == len(one_image.TURNS)
    assert used.names[0] == f"{paths[0].name}, turned by 20 degrees"
    assert np.mean(used.scores) > alone.inspect(paths[0]).score
    assert alone.model.calibration.threshold > np.mean(used.scores)


def test_it_inspects_saves_and_loads(alone: Inspector, mini_dataset: Path, tmp_path: Path) -> None:
    loaded = Inspector.load(alone.save(tmp_path / "one.goodparts"))
    bad = sorted((mini_dataset / "test" / "stain").iterdir())[0]
    found, again = alone.inspect(bad), loaded.inspect(bad)
    assert found.score == again.score
    assert loaded.model.identity == alone.model.identity


def test_p_values_claim_no_more_than_one_image_can_show(alone: Inspector) -> None:
    calibration = alone.model.calibration
    scores = sorted(calibration.scores)
    assert calibration.p_value(2 * scores[-1]) == 0.5
    assert calibration.p_value(scores[0]) == 1
    assert calibration.p_value(scores[4]) == 0.5 + 0.5 * 4 / 8
    bound = calibration.false_reject_bound(0.95)
    assert (bound.good, bound.rejected) == (1, 0)
    assert bound.rate == pytest.approx(0.95)


def test_no_more_is_said_than_is_known(alone: Inspector, tmp_path: Path) -> None:
    text = card.card_text(alone.model, "one")
    assert (
        "The threshold rests on 1 good image: it is a guess: bad parts may pass, or good ones be rejected. Up to 95 %"
        in text
    )
    assert "Two more images say more than any number of copies" in text
    assert "the median of the scores of 8 copies of the only good image plus 3 times" in text
    assert "With 1 good image the rarest that can be said is 1 in 2" in text
    assert "above the threshold, which is" not in text
    assert card.LEAST not in text
    record = card.card_record(alone.model, "one")
    assert record["scores_from"] == "copies"
    assert record["false_reject_rate_at_most"] == pytest.approx(0.95)
    assert len(record["warnings"]) == 3


def test_rules_that_promise_something_say_that_one_image_does_not_do(
    one_image_recipe: Recipe, paths: list[Path]
) -> None:
    by_rate = replace(one_image_recipe, threshold_rule="rate", false_reject_rate=0.5)
    rate = Inspector(by_rate).fit(paths[:1]).model
    assert rate.calibration.threshold == max(rate.calibration.scores)
    assert not rate.calibration.decision.kept
    with pytest.raises(RecipeError, match="tail needs at least 25 good images, found 1"):
        Inspector(replace(one_image_recipe, threshold_rule="tail")).fit(paths[:1])


@pytest.mark.parametrize(
    "changes",
    [
        {"robust": True},
        {"augment": ("rotate90",)},
        {"sampling": "random"},
        {"image_score": "reweighted"},
        {"framing": "letterbox"},
        {"light": "colour"},
        {"quality_gate": True},
        {"position_window": 8},
        {"pose": "rigid"},
    ],
)
def test_one_image_goes_with_any_recipe(
    one_image_recipe: Recipe, paths: list[Path], changes: dict[str, object]
) -> None:
    inspector = Inspector(one_image_recipe.replace(changes)).fit(paths[:1])
    assert np.isfinite(inspector.inspect(paths[1]).score)


def test_copies_make_way_for_a_second_image(
    alone: Inspector, one_image_recipe: Recipe, paths: list[Path]
) -> None:
    inspector = Inspector(one_image_recipe)
    inspector._set_model(alone.model)
    after = inspector.update(paths[1:4]).model.calibration
    assert after.training_set.source == LEAVE_ONE_OUT
    assert after.training_set.names == tuple(path.name for path in paths[1:4])
    assert len(after.statistics) == 3
    assert len(after.digests) == 4


def test_one_more_image_is_not_enough_to_replace_them(
    alone: Inspector, one_image_recipe: Recipe, paths: list[Path]
) -> None:
    inspector = Inspector(one_image_recipe)
    inspector._set_model(alone.model)
    with pytest.raises(DatasetError, match=r"1 new good image; .* needs at least 2 more"):
        inspector.update(paths[1:2])
    assert inspector.model is alone.model


def test_within_a_window_copies_that_stay_in_place_are_judged(
    one_image_recipe: Recipe, paths: list[Path]
) -> None:
    model = Inspector(one_image_recipe.replace({"position_window": 8})).fit(paths[:1]).model
    assert len(model.calibration.training_set.names) == len(one_image.IN_PLACE)


@pytest.mark.parametrize(("images", "bound"), [(2, "77.6 %"), (4, "52.7 %"), (8, "31.2 %"), (16, "17.1 %")])
def test_a_few_images_are_warned_of(
    one_image_recipe: Recipe, paths: list[Path], images: int, bound: str
) -> None:
    fixed = replace(one_image_recipe, threshold_sigma=100)  # none is rejected
    model = Inspector(fixed).fit(paths[:images]).model
    first = card.warnings(model)[0]
    assert first.startswith(f"The threshold rests on {images} good images: it is a guess")
    assert f" Up to {bound} of good parts may be rejected" in first
    assert first.endswith(f"59 images, none of them rejected, would put it at 5 %: {59 - images} more.")
    assert card.false_reject_sections(model)[0].title == card.FEW_IMAGES
    assert model.calibration.p_value(np.inf) == 1 / (images + 1)


def test_the_hint_at_turned_copies_ends_where_there_are_some(
    one_image_recipe: Recipe, paths: list[Path]
) -> None:
    def hinted(recipe: Recipe) -> bool:
        return any("rotate45" in line for line in card.warnings(Inspector(recipe).fit(paths[:2]).model))

    assert hinted(replace(one_image_recipe, augment=("flip",)))
    assert not hinted(replace(one_image_recipe, augment=("rotate90",)))
    assert not hinted(replace(one_image_recipe, position_window=8.0))  # which turned copies don't go with


def test_turns_keep_a_zone_in_sight() -> None:
    frame = Frame((64, 64), (64, 64), (0, 0), (64, 64))
    middle, corner = np.zeros((2, 16, 16), dtype=bool)
    middle[6:10, 6:10] = True
    corner[:2, :2] = True
    assert one_image.judging_copies(middle[None], frame) == one_image.TURNS
    assert one_image.judging_copies(np.stack([middle, corner]), frame) == one_image.IN_PLACE
    assert Copy(brightness=0.8) in one_image.IN_PLACE


@pytest.mark.parametrize("zones", [1, 2])
def test_one_image_with_a_region_of_interest(
    one_image_recipe: Recipe, paths: list[Path], tmp_path: Path, zones: int
) -> None:
    squares = [[[20, 20], [70, 20], [70, 70], [20, 70]], [[0, 0], [20, 0], [20, 20], [0, 20]]]
    listed = ", ".join(f'{{"name": "z{i}", "polygons": [{squares[i]}]}}' for i in range(zones))
    roi = tmp_path / "roi.json"
    side = framing.frame_of((96, 96), one_image_recipe).image_size
    roi.write_text(f'{{"size": [{side[1]}, {side[0]}], "zones": [{listed}]}}')
    inspector = Inspector(replace(one_image_recipe, roi=str(roi))).fit(paths[:1])
    scores = inspector.model.calibration.scores
    assert len(scores) == (len(one_image.TURNS) if zones == 1 else len(one_image.IN_PLACE))
    assert np.isfinite(scores).all()
    assert np.isfinite(inspector.inspect(paths[1]).score)


def test_the_report_says_it_first(alone: Inspector, mini_dataset: Path, tmp_path: Path) -> None:
    model_path = alone.save(tmp_path / "one.goodparts")
    evaluation = write_results(alone, read_dataset(mini_dataset), tmp_path, model_path=model_path)
    assert not len(evaluation.good_scores)
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The threshold rests on 1 good image: it is a guess" in report
    assert report.index(card.FEW_IMAGES) < report.index(card.MEANING)

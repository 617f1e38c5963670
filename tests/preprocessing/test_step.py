"""A preprocessing step of one's own: one class, named in one list, works wherever steps do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from goodparts import Inspector, Recipe, read_dataset
from goodparts.data.good_images import GoodImages
from goodparts.data.images import read_image
from goodparts.errors import ModelError, OutputError
from goodparts.preprocessing import preprocessor
from goodparts.preprocessing.step import Prepared, Step


@dataclass(frozen=True)
class GreyWorld(Step):
    """Brings the mean of red, green and blue of an image to that of good images."""

    name: ClassVar[str] = "grey_world"
    usual: tuple[float, ...]

    @classmethod
    def wanted(cls, recipe: Recipe) -> bool:
        """Always."""
        return True

    @classmethod
    def learn(cls, good: GoodImages, recipe: Recipe) -> Self:
        """From all good images."""
        means = [image.mean(axis=(0, 1)) for image in good.map(good.pixels, range(len(good)))]
        return cls(tuple(np.mean(means, axis=0).tolist()))

    def apply(self, image: Prepared) -> Prepared:
        """Each channel times what brings its mean to the usual one."""
        gains = np.array(self.usual) / image.working.mean(axis=(0, 1))
        return replace(image, working=np.clip(np.rint(image.working * gains), 0, 255).astype(np.uint8))

    def members(self) -> dict[str, bytes]:
        """The usual means."""
        return {"grey_world.json": json.dumps(self.usual).encode()}

    @classmethod
    def from_members(cls, members: Mapping[str, bytes], recipe: Recipe) -> Self:
        """What `members` wrote."""
        return cls(tuple(json.loads(members["grey_world.json"])))


@pytest.fixture
def grey_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessor, "STEPS", [*preprocessor.STEPS, GreyWorld])


def in_warm_light(path: Path) -> NDArray[np.uint8]:
    return np.clip(read_image(path) * np.array([1.2, 1.0, 0.75]), 0, 255).astype(np.uint8)


@pytest.mark.usefixtures("grey_world")
def test_it_learns_and_inspects(recipe: Recipe, fitted: Inspector, mini_dataset: Path) -> None:
    inspector = Inspector(recipe).fit(mini_dataset)
    good = [in_warm_light(sample.path) for sample in read_dataset(mini_dataset).test if not sample.label]
    bad = [in_warm_light(sample.path) for sample in read_dataset(mini_dataset).test if sample.label]
    assert [fitted.inspect(image).verdict for image in good].count("BAD") == len(good)
    assert [inspector.inspect(image).verdict for image in good].count("BAD") <= 1
    assert [inspector.inspect(image).verdict for image in bad].count("BAD") == len(bad)
    inspector.update(good[:3]).calibrate(changes={"threshold_sigma": 4.0})
    assert inspector.model.preprocessor.steps == (GreyWorld(inspector.model.preprocessor.steps[0].usual),)  # type: ignore[attr-defined]


def test_a_model_keeps_it_and_is_refused_where_it_is_not_known(
    recipe: Recipe, mini_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = read_dataset(mini_dataset).test[0].path
    with monkeypatch.context() as patch:
        patch.setattr(preprocessor, "STEPS", [*preprocessor.STEPS, GreyWorld])
        inspector = Inspector(recipe).fit(mini_dataset)
        path = inspector.save(tmp_path / "part")
        loaded = Inspector.load(path)
        assert loaded.model.identity == inspector.model.identity
        assert loaded.inspect(image).score == inspector.inspect(image).score
        with pytest.raises(OutputError, match="has the step grey_world, which is not part of the graph"):
            loaded.export(tmp_path / "part.onnx")
    with pytest.raises(ModelError, match=r"grey_world\.json: of a preprocessing step that is not here"):
        Inspector.load(path)


def test_a_step_that_overrides_nothing_changes_nothing(recipe: Recipe, fitted: Inspector) -> None:
    class Idle(Step):
        name = "idle"

    step, image = Idle.learn(GoodImages("none", [], read_image, 1), recipe), Prepared
    assert Idle.from_members({}, recipe).members() == {}
    assert step.apply(image) is image  # type: ignore[arg-type, comparison-overlap]
    assert step.add_nodes(None, "pixels", (8, 8)) == "pixels"  # type: ignore[arg-type]
    assert step.export_refusal(recipe) == ""
    assert (step.copies, step.masks) == (0, False)
    assert fitted.model.preprocessor.steps == ()

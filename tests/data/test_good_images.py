from __future__ import annotations

import gc
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interrupting import threads_at_work
from numpy.typing import NDArray

from goodparts import Inspector, Recipe, parallel
from goodparts.backbones.catalogue import load_backbone
from goodparts.data import good_images
from goodparts.data.demo import write_demo
from goodparts.data.good_images import GoodImages
from goodparts.data.images import ImageLike
from goodparts.errors import ImageError


class Camera:
    """Reads images, which are numbers here, and notes which were read, and by which thread."""

    def __init__(self) -> None:
        self.read: list[tuple[int, bool]] = []
        self.broken: set[int] = set()
        self.waits = threading.Event()
        self.waits.set()

    def __call__(self, image: ImageLike) -> NDArray[np.uint8]:
        assert isinstance(image, str)
        number = int(image)
        self.waits.wait(10)
        self.read.append((number, threading.current_thread().name.startswith("goodparts-worker")))
        if number in self.broken:
            raise ImageError(f"{number}: is broken")
        return np.full((10, 10, 3), number, np.uint8)


@pytest.fixture(autouse=True)
def several_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 4)


def good(camera: Camera, count: int = 8) -> GoodImages:
    return GoodImages("good", [str(number) for number in range(count)], camera, workers=4)


def wait_until(camera: Camera, count: int) -> None:
    for _ in range(1000):
        if len(camera.read) >= count:
            return
        threading.Event().wait(0.01)
    raise AssertionError(camera.read)


def test_what_was_read_ahead_is_given_once() -> None:
    camera = Camera()
    images = good(camera)
    with images.reading_ahead(range(0, 8, 2)):
        wait_until(camera, 4)
        assert [images.pixels(index)[0, 0, 0] for index in range(8)] == list(range(8))
        assert images.pixels(0)[0, 0, 0] == 0
    assert camera.read == [
        *((index, True) for index in range(0, 8, 2)),
        *((index, False) for index in (1, 3, 5, 7, 0)),
    ]


def test_what_was_given_is_not_held() -> None:
    camera = Camera()
    images = good(camera)
    with images.reading_ahead(range(4)):
        wait_until(camera, 4)
        given = weakref.ref(images.pixels(0))
        gc.collect()
        assert given() is None


def test_who_asks_first_reads_for_himself() -> None:
    camera = Camera()
    images = good(camera)
    camera.waits.clear()
    with images.reading_ahead([0, 1]):
        asked = threading.Thread(target=images.pixels, args=(1,))
        asked.start()
        camera.waits.set()
        asked.join()
        assert images.pixels(0)[0, 0, 0] == 0
    assert sorted(camera.read) == [(0, True), (1, False)]


def test_no_more_is_read_ahead_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(good_images, "_AHEAD", 500)
    camera = Camera()
    images = good(camera)
    with images.reading_ahead(range(8)):
        wait_until(camera, 2)
        assert [images.pixels(index)[0, 0, 0] for index in range(8)] == list(range(8))
    assert [number for number, ahead in camera.read if ahead] == [0, 1]
    assert len(camera.read) == 8


def test_an_image_that_cannot_be_read_is_told_when_it_is_asked_for() -> None:
    camera = Camera()
    camera.broken = {1, 2}
    images = good(camera)
    with images.reading_ahead(range(3)):
        wait_until(camera, 3)
        assert images.pixels(0)[0, 0, 0] == 0
        with pytest.raises(ImageError, match="1: is broken"):
            images.pixels(1)


def test_an_error_keeps_nothing_in_memory() -> None:
    camera = Camera()
    camera.broken = {0}
    images = good(camera)
    held = np.zeros(1)
    seen = weakref.ref(held)
    gc.disable()
    try:
        with images.reading_ahead([0]):
            wait_until(camera, 1)
            with pytest.raises(ImageError):
                _ask_holding(images, held)
        del held
        assert seen() is None
    finally:
        gc.enable()


def _ask_holding(images: GoodImages, held: NDArray[np.float64]) -> None:
    images.pixels(0)


def test_nothing_is_read_any_more_when_the_block_ends() -> None:
    camera = Camera()
    images = good(camera, 100)
    camera.waits.clear()
    with images.reading_ahead(range(100)):
        camera.waits.set()
    assert len(camera.read) < 100
    before = len(camera.read)
    assert images.pixels(99)[0, 0, 0] == 99
    assert len(camera.read) == before + 1
    assert threads_at_work() == 0


@pytest.mark.parametrize(("cores", "workers"), [(1, 4), (4, 1)])
def test_one_core_or_one_worker_reads_nothing_ahead(
    cores: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: cores)
    camera = Camera()
    with replace(good(camera), workers=workers).reading_ahead(range(8)):
        pass
    assert camera.read == []


def test_a_fit_reads_each_image_once_and_some_while_it_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_demo(tmp_path / "demo")
    files = sorted((tmp_path / "demo" / "train" / "good").iterdir())
    read: list[str] = []
    before = 0

    class Counting(Inspector):
        def read(self, image: ImageLike) -> NDArray[np.uint8]:
            read.append(str(image))
            return super().read(image)

    def load(*arguments: Any, **options: Any) -> Any:
        nonlocal before
        backbone = load_backbone(*arguments, **options)
        before = len(read)
        return backbone

    monkeypatch.setattr("goodparts.model.fit.load_backbone", load)
    Counting(Recipe(image_size=64, precision="f32")).fit(files)
    assert sorted(read) == list(map(str, files))
    assert before > 0

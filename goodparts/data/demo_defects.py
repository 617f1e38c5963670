"""The demo's defects: what each does to the part, and where a picture then looks different.

Each takes the scene, the pixels n, a generator and a strength from 0 (subtle) to 1 (plain).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter

from goodparts.data.demo_part import (
    BODY_RADIUS,
    LOBE_AT,
    LOBES,
    VIEW,
    Array,
    Flaw,
    Point,
    Scene,
    offsets_from,
    smooth_noise,
    softened,
)

VISIBLE = 10  # grey levels (of 255) by which a pixel differs visibly
SMALLEST = 0.0006  # share of the picture that a defect covers at least


def _on_part(scene: Scene, rng: Generator) -> Point:
    """A point on the metal, away from the bore and the outline."""
    return scene.point(rng.uniform(0.3, 0.68), rng.uniform(0, 2 * math.pi))


def _stroke(middle: Point, length: float, width: float, n: int, rng: Generator) -> Array:
    """A curved stroke of uneven pressure, (n, n), 0 to 1."""
    along = np.linspace(-0.5, 0.5, 40)
    heading = rng.uniform(0, 2 * math.pi) + rng.uniform(-2.5, 2.5) * length * along
    heading += 0.05 * rng.standard_normal(40).cumsum()
    points = length / 40 * np.cumsum([np.cos(heading), np.sin(heading)], axis=1).T
    points = (points - points.mean(0) + np.array(middle) + VIEW) * n / (2 * VIEW)
    pressure = np.interp(along, np.linspace(-0.5, 0.5, 7), rng.uniform(0.45, 1, 7))
    pressure *= np.minimum(1, 6 * np.cos(3 * along))
    image = Image.new("L", (n, n))
    draw = ImageDraw.Draw(image)
    for start, end, press in zip(points, points[1:], pressure, strict=False):
        broad = max(1, round(width * press * n / (2 * VIEW)))
        draw.line([*start, *end], fill=int(255 * press), width=broad)
    return softened(np.asarray(image, dtype=np.float32) / 255, n / 1400)


def _scratch(scene: Scene, n: int, rng: Generator, strength: float) -> Flaw:
    middle = _on_part(scene, rng)
    line = _stroke(middle, 0.2 + 0.5 * strength, 0.009 + 0.005 * strength, n, rng)
    for _ in range(rng.integers(3)):  # fainter ones beside it
        x, y = rng.normal(middle, 0.03)
        line = np.maximum(line, 0.7 * _stroke((x, y), 0.1 + 0.2 * strength, 0.006, n, rng))
    height = (0.006 + 0.004 * strength) * (softened(line, n / 350) - line)  # a groove between burrs
    return Flaw(height=height, coat=(0.6 + 0.3 * strength) * line)


def _dent(scene: Scene, n: int, rng: Generator, strength: float) -> Flaw:
    x, y = offsets_from(_on_part(scene, rng), n)
    size, turn, squash = 0.04 + 0.055 * strength, rng.uniform(0, math.pi), rng.uniform(1, 1.8)
    across = (x * math.cos(turn) + y * math.sin(turn)) * squash
    along = y * math.cos(turn) - x * math.sin(turn)
    away = (across * across + along * along) / (size * size) * np.exp(0.25 * smooth_noise(rng, n, 16, 2))
    bowl, wall = np.exp(-away), np.exp(-((np.sqrt(away) - 1.5) ** 2) / 0.12)
    return Flaw(height=size * (0.38 + 0.17 * strength) * (0.22 * wall - bowl), coat=0.35 * bowl)


def _contamination(scene: Scene, n: int, rng: Generator, strength: float) -> Flaw:
    x, y = offsets_from(_on_part(scene, rng), n)
    away = np.hypot(x, y) / (0.05 + 0.13 * strength)
    blob = 1 - away + 0.55 * smooth_noise(rng, n, 14, 5, 0.65)
    splashes = 0.4 * (smooth_noise(rng, n, 60, 2) - 2) * (away < 2.2)
    blot = np.clip(np.maximum(blob, splashes) * rng.uniform(2.5, 6), 0, 1) * (away < 2.5)
    blot *= blot * (3 - 2 * blot)
    material = ("oil", "rust", "paint", "residue")[rng.integers(4)]
    film = blot * (0.0008 + (0 if material == "oil" else 0.0007) * smooth_noise(rng, n, n // 8, 2))
    opacity = rng.uniform(0.65, 0.95) * (0.6 + 0.4 * strength)
    return Flaw(height=film, coat=opacity * blot, material=material)


def _broken(scene: Scene, n: int, rng: Generator, strength: float) -> Flaw:
    how, lobe = rng.integers(3), int(rng.integers(LOBES))
    if how == 0:
        return Flaw(undrilled=lobe)
    if how == 1:  # a lobe snapped off
        angle, lean = 2 * math.pi * lobe / LOBES, rng.uniform(-0.4, 0.4)
        x, y = offsets_from(scene.point(LOBE_AT, angle), n)
        beyond = x * math.cos(scene.angle + angle + lean) + y * math.sin(scene.angle + angle + lean)
        cut = np.minimum(beyond - 0.15 + 0.17 * strength, 0.3 - np.hypot(x, y))
    else:  # a bite out of the edge
        angle = 2 * math.pi * (lobe + rng.uniform(0.3, 0.7)) / LOBES
        x, y = offsets_from(scene.point(BODY_RADIUS + 0.03, angle), n)
        cut = 0.05 + 0.09 * strength - np.hypot(x, y)
    cut += 0.012 * smooth_noise(rng, n, 20, 3)
    face = np.clip(1 + cut / 0.06, 0, 0.25) * 4
    return Flaw(height=0.005 * face * smooth_noise(rng, n, 80, 3), cut=cut, coat=face, material="fracture")


DEFECTS = {"broken": _broken, "contamination": _contamination, "dent": _dent, "scratch": _scratch}


def visible_mask(difference: Array) -> Array:
    """Mask, (size, size), 0 or 255, of pixels that differ visibly: small gaps closed, then a pixel wider."""
    levels: Array = np.abs(difference).max(-1).clip(0, 255).astype(np.uint8)
    gap = max(1, round(len(levels) / 170))
    for radius, floor in ((1, VISIBLE), (gap, 0), (gap - 1, 254)):  # average, dilate, erode
        average = Image.fromarray(levels).filter(ImageFilter.BoxBlur(radius))
        levels = np.uint8(255) * (np.asarray(average) > floor)
    return levels

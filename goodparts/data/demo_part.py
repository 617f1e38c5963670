"""The demo's machined flange, rendered: where it lies, its surface, the light on it, and the camera.

The part is a height map: a turned profile, drilled lobes, an engraving, cast and tooled texture. Light falls
on it as on real metal: microfacets whose slopes spread widely across the grooves of the tool and narrowly
along them (Ward, "Measuring and modeling anisotropic reflection", SIGGRAPH 1992), cast shadows, ambient
occlusion; then comes a camera. A defect changes the height map or coats it, and its mask is where the picture
then looks different. The distance from the centre to the tip of a lobe is 1; angles are in radians, slopes
are height over length, and all arrays of the renderer are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Array = NDArray[Any]
Point = tuple[float, float]

VIEW = 1.2  # half the width of the picture
THICKNESS, RIM = 0.2, 0.05
LOBES, LOBE_AT, LOBE_RADIUS, BODY_RADIUS, FILLET = 5, 0.80, 0.20, 0.76, 0.16
ENGRAVING, ENGRAVED_AT, LETTER_HEIGHT = "GP60-H7", 0.668, 0.10
MAIN_LIGHT = math.radians(-125)
VARIATION = (math.pi, 0.07, 0.07, math.radians(12), 0.08, 0.04)  # of a scene: the most either way

# Profiles turned about an axis: radius, height.
HUB = (
    (0.000, -0.60), (0.178, -0.60), (0.180, -0.30), (0.198, -0.05), (0.212, -0.03), (0.268, -0.03),
    (0.272, -0.08), (0.279, -0.08), (0.283, 0.040), (0.300, 0.060), (0.440, 0.060), (0.452, 0.020),
    (0.476, 0.020), (0.488, 0.060), (0.538, 0.060), (0.560, 0.040), (0.568, 0.006), (0.578, 0.0), (2.0, 0.0),
)  # fmt: skip
BOLT_HOLE = (
    (0.000, -0.60), (0.055, -0.60), (0.056, -0.26), (0.063, -0.04), (0.088, -0.014), (0.130, -0.014),
    (0.136, 0.0), (2.0, 0.0),
)  # fmt: skip
PIN_HOLE = ((0.000, -0.60), (0.030, -0.60), (0.032, -0.014), (0.044, 0.0), (2.0, 0.0))

# Red, green, blue, diffuse, specular, roughness along and across the tool's grooves, grain, sky, turned.
MATERIALS = {
    "mat": (0.85, 0.95, 1.10, 0.014, 0.009, 0.50, 0.50, 0.05, 0.07, 0.0),
    "hole": (1.00, 1.00, 1.10, 0.001, 0.000, 0.50, 0.50, 0.00, 0.02, 0.0),
    "cast": (0.96, 0.97, 1.00, 0.065, 0.075, 0.30, 0.30, 0.40, 0.60, 0.0),
    "steel": (0.97, 0.97, 0.98, 0.012, 0.620, 0.05, 0.36, 0.004, 0.55, 1.0),
    "brass": (1.05, 0.74, 0.34, 0.020, 0.600, 0.06, 0.36, 0.004, 0.80, 1.0),
    "faced": (0.97, 0.97, 0.98, 0.020, 0.400, 0.12, 0.42, 0.010, 0.80, 0.3),
    "bare": (1.00, 1.00, 1.00, 0.200, 0.420, 0.45, 0.45, 0.20, 1.00, 0.0),
    "fracture": (0.92, 0.93, 0.96, 0.110, 0.100, 0.50, 0.50, 0.60, 0.50, 0.0),
    "oil": (0.62, 0.42, 0.20, 0.020, 0.100, 0.10, 0.10, 0.00, 0.25, 0.0),
    "rust": (0.80, 0.36, 0.14, 0.100, 0.015, 0.60, 0.60, 0.60, 0.30, 0.0),
    "paint": (0.18, 0.38, 1.00, 0.150, 0.040, 0.25, 0.25, 0.05, 0.40, 0.0),
    "residue": (1.00, 0.97, 0.90, 0.260, 0.010, 0.60, 0.60, 0.25, 0.60, 0.0),
}
MAT, HOLE, CAST, STEEL, BRASS, FACED = range(6)
OPTICS = np.array(list(MATERIALS.values()), dtype=np.float32).T.copy()  # (properties, materials)
GRAIN = 7


@dataclass(frozen=True)
class Scene:
    """What differs from one good picture to the next: where the part lies, and the main light."""

    angle: float
    x: float
    y: float
    azimuth: float
    power: float
    warmth: float

    def point(self, radius: float, angle: float) -> Point:
        """Where in the picture a point lies that is given in the part's own polar coordinates."""
        return self.x + radius * math.cos(self.angle + angle), self.y + radius * math.sin(self.angle + angle)


@dataclass(frozen=True)
class Flaw:
    """What a defect does to the part; arrays are (n, n)."""

    height: Array | float = 0.0  # added to the height map
    cut: Array | float = -1.0  # positive where the part is gone, else minus the distance to the fracture
    undrilled: int | None = None  # the lobe that lacks its hole
    coat: Array | None = None  # opacity of a coat, 0 to 1 ...
    material: str = "bare"  # ... and what it is made of


# Texture


def offsets_from(point: Point, n: int) -> tuple[Array, Array]:
    """Offsets of the pixels of an (n, n) picture from a point, x (1, n) and y (n, 1)."""
    axis = (np.arange(n, dtype=np.float32) + 0.5) * (2 * VIEW / n) - VIEW
    return (axis - point[0])[None, :], (axis - point[1])[:, None]


def _resized(field: Array, n: int, how: Image.Resampling = Image.Resampling.BICUBIC) -> Array:
    return field if len(field) == n else np.asarray(Image.fromarray(field).resize((n, n), how))


def _blurred(field: Array, width: float) -> Array:
    """A wide, cheap blur: down to cells of `width` pixels and smoothly up again."""
    cells = max(1, round(len(field) / width))
    return _resized(_resized(field, cells, Image.Resampling.BOX), len(field))


def softened(field: Array, radius: float) -> Array:
    """A narrow Gaussian blur of values from 0 to 1, in steps of 1/255."""
    image = Image.fromarray((255 * field).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 255


def smooth_noise(rng: Generator, n: int, cells: int, octaves: int, falloff: float = 0.6) -> Array:
    """Smooth noise of about unit variance, (n, n): octaves of finer grids, `cells` across at the coarsest."""
    finest = min(n, cells << octaves)
    total = np.zeros((finest, finest), np.float32)
    for octave in range(octaves):
        grid = rng.standard_normal((min(finest, cells << octave),) * 2, dtype=np.float32)
        total += falloff**octave * _resized(grid, finest)
    return _resized(total, n)


@cache
def _profile(points: tuple[Point, ...]) -> Array:
    """A profile tabulated for radii from 0 to 2, its corners slightly rounded."""
    radius, height = zip(*points, strict=True)
    table = np.interp(np.linspace(0, 2, 65536), radius, height)
    return np.convolve(np.pad(table, 64, mode="edge"), np.full(129, 1 / 129), "valid").astype(np.float32)


def _turned(table: Array, radius: Array) -> Array:
    """The surface of revolution of a table that spans radii from 0 to 2."""
    return table.take((radius * (len(table) / 2)).astype(np.int32), mode="clip")


def _grooves(rng: Generator, pixel: float) -> Array:
    """What the tool left at each radius, a table of about unit variance: fine grooves and broader bands."""
    table = np.zeros(8192)
    for width in (3, 19):
        window = np.hanning(2 + round(width * pixel * len(table) / 2))
        table += 0.8 * np.convolve(rng.standard_normal(len(table)), window / np.linalg.norm(window), "same")
    return table.astype(np.float32)


@cache
def _lettering() -> Array:
    """The engraving along a straight line, (96, w), 0 to 1."""
    font = ImageFont.load_default(64)
    image = Image.new("L", (int(font.getlength(ENGRAVING)) + 40, 96))
    ImageDraw.Draw(image).text((20, 6), ENGRAVING, 255, font)
    return softened(np.asarray(image, dtype=np.float32) / 255, 1.5)


# The part


def _around(point: Point, half: float, n: int) -> tuple[tuple[slice, slice], Array, Array, Array]:
    """The square around a point: its index, offsets x (1, w) and y (h, 1), and distances (h, w)."""
    column, row = (int((value + VIEW) * n / (2 * VIEW)) for value in point)
    reach = int(half * n / (2 * VIEW)) + 1
    near = slice(max(0, row - reach), row + reach), slice(max(0, column - reach), column + reach)
    x, y = offsets_from(point, n)
    x, y = x[:, near[1]], y[near[0]]
    return near, x, y, np.sqrt(x * x + y * y)


def _engraved(scene: Scene, n: int) -> Array:
    """The lettering bent around the part's centre, midway between two lobes, (n, n), 0 to 1."""
    middle = scene.point(ENGRAVED_AT, math.pi / LOBES)
    near, x, y, _ = _around(middle, 0.3, n)
    x, y = x + (middle[0] - scene.x), y + (middle[1] - scene.y)
    cos, sin = math.cos(scene.angle + math.pi / LOBES), math.sin(scene.angle + math.pi / LOBES)
    letters = _lettering()
    height, width = letters.shape
    scale = height / LETTER_HEIGHT
    row = (ENGRAVED_AT - np.hypot(x, y)) * scale + height / 2
    column = np.arctan2(y * cos - x * sin, x * cos + y * sin) * ENGRAVED_AT * scale + width / 2
    engraved = np.zeros((n, n), np.float32)
    engraved[near] = letters[row.astype(int).clip(0, height - 1), column.astype(int).clip(0, width - 1)]
    return engraved


def _surface(scene: Scene, flaw: Flaw, engraved: Array, rng: Generator) -> tuple[Array, Array, Array, Array]:
    """Height, x and y from the axis of turning, and material (an index of OPTICS), each (n, n)."""
    n = len(engraved)
    x, y = (np.array(np.broadcast_to(offset, (n, n))) for offset in offsets_from((scene.x, scene.y), n))
    radius = np.sqrt(x * x + y * y)
    height = _turned(_profile(HUB), radius)
    outline = radius - BODY_RADIUS  # signed distance, negative on the part
    material = np.full((n, n), CAST, np.uint8)
    for limit, inner in ((0.566, STEEL), (0.283, HOLE), (0.269, BRASS)):
        material[radius < limit] = inner
    for lobe in range(LOBES):
        near, dx, dy, distance = _around(scene.point(LOBE_AT, 2 * math.pi * lobe / LOBES), 0.42, n)
        # Union with a fillet: the polynomial smooth minimum of two distances (Quilez, "Smooth minimum")
        step = distance - LOBE_RADIUS - outline[near]
        blend = np.clip(0.5 - 0.5 * step / FILLET, 0, 1)
        outline[near] += blend * (step - FILLET * (1 - blend))
        if lobe != flaw.undrilled:
            height[near] += _turned(_profile(BOLT_HOLE), distance)
            spot = distance < 0.133
            material[near][spot] = FACED
            x[near], y[near] = np.where(spot, dx, x[near]), np.where(spot, dy, y[near])
    near, _, _, distance = _around(scene.point(0.67, 5 * math.pi / LOBES), 0.05, n)
    height[near] += _turned(_profile(PIN_HOLE), distance)
    height -= RIM * (1 - np.sqrt(1 - np.minimum(np.clip(1 + outline / RIM, 0, 1) ** 2, 0.98)))  # rounded
    height += flaw.height - 0.006 * engraved - 0.14 * np.clip(1 + flaw.cut / 0.06, 0, 1)
    gone = (outline >= 0) | (flaw.cut >= 0)
    material[height < -0.3] = HOLE
    material[gone] = MAT
    grit = smooth_noise(rng, n, n // 4, 2, 0.9)
    thread_x, thread_y = (np.sin(150 * offset) for offset in offsets_from((rng.uniform(), rng.uniform()), n))
    mat = 0.0005 * grit + 0.0022 * thread_x * thread_y - THICKNESS
    return np.where(gone, mat, height + 0.0026 * OPTICS[GRAIN].take(material) * grit), x, y, material


# Light


def _lit(height: Array, azimuth: float) -> Array:
    """How much of the main light reaches each point, 0 to 1: a march over the height map towards it."""
    n = len(height)
    lit = np.ones_like(height)
    for step in range(1, 22):
        reach = (1.5 * step + 0.05 * step * step) * n / 512
        dx, dy = round(reach * math.cos(azimuth)), round(reach * math.sin(azimuth))
        length = math.hypot(dx, dy) * 2 * VIEW / n
        above = np.roll(height, (-dy, -dx), (0, 1)) - height - 0.9 * length
        np.minimum(lit, 1 - above / (0.25 * length + 0.01), out=lit)
    return lit.clip(0, 1)


def _open_sky(height: Array) -> Array:
    """How much of the sky each point sees, 0 to 1: less the more stands higher around it."""
    sky = np.ones_like(height)
    for width, gain in ((4, 2.0), (15, 2.2), (50, 1.8)):
        sky -= gain * np.clip(_blurred(height, width * len(height) / 512) - height, 0, 0.25)
    return sky.clip(0.12, 1)


def _radiance(scene: Scene, flaw: Flaw, rng: Generator, n: int) -> Array:
    """What reaches the lens, (n / 2, n / 2, 3), linear: three area lights and a sky above the surface."""
    engraved = _engraved(scene, n)
    height, x, y, material = _surface(scene, flaw, engraved, rng)
    grain = rng.random((n, n), dtype=np.float32) - 0.5
    grooves = _grooves(rng, 2 * VIEW / n)
    coarse = _resized(height, n // 2, Image.Resampling.BOX)
    azimuth = MAIN_LIGHT + scene.azimuth
    slow = np.stack([smooth_noise(rng, n // 2, 10, 4), _open_sky(coarse), _lit(coarse, azimuth)])
    climb_y, climb_x = np.gradient(height, 2 * VIEW / n)
    view_x, view_y = offsets_from((0, 0), n)
    lights = (  # direction, slope of a mirror that would show it, size, power, colour
        (azimuth, 0.26, 0.06, 1 + scene.power, (1 + scene.warmth, 0.96, 0.89 - scene.warmth)),
        (azimuth + 2.6, 0.34, 0.14, 0.40, (0.82, 0.92, 1.00)),
        (azimuth - 1.6, 0.55, 0.20, 0.25, (0.95, 0.97, 1.00)),
    )
    image = np.empty((n // 2, n // 2, 3), np.float32)
    for top in range(0, n, 16):  # strips that fit the processor's cache
        rows, half_rows = slice(top, min(top + 16, n)), slice(top // 2, min(top + 16, n) // 2)
        mottle, open_sky, lit = slow[:, half_rows].repeat(2, axis=1).repeat(2, axis=2)
        optics = OPTICS.take(material[rows], axis=1)
        if flaw.coat is not None:
            coat = flaw.coat[rows] * (material[rows] > HOLE)
            over = OPTICS[:, list(MATERIALS).index(flaw.material), None, None]
            optics += coat * (over - optics)
        red, green, blue, diffuse, specular, rough_along, rough_across, rough, sky, turned = optics
        slope_x, slope_y = -climb_x[rows], -climb_y[rows]
        up = 1 / np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
        radius = np.sqrt(x[rows] * x[rows] + y[rows] * y[rows]) + 1e-3
        along_x, along_y = -y[rows] / radius, x[rows] / radius
        groove = turned * _turned(grooves, radius)
        wobble = 0.028 * groove + 0.03 * turned * mottle
        specular *= 3 * (1 + 0.16 * groove + 2 * rough * grain[rows] + 0.05 * mottle)
        diffuse *= 1 + 0.06 * mottle
        facing = 0.25 + up * (slope_x * math.cos(azimuth) + slope_y * math.sin(azimuth))
        glow = sky * open_sky * (0.03 + 0.30 * np.square(facing.clip(0, 1)) + 0.06 * (1 - up))
        total = [glow * tint for tint in (0.92, 0.98, 1.06)]
        for index, (direction, tilt, size, power, hue) in enumerate(lights):
            cos, sin, zenith = math.cos(direction), math.sin(direction), 2 * math.atan(tilt)
            miss_x = tilt * cos - 0.12 * view_x - slope_x  # in slope, from facets that would mirror the light
            miss_y = tilt * sin - 0.12 * view_y[rows] - slope_y
            along = miss_x * along_x + miss_y * along_y + wobble
            across = np.maximum(miss_x * miss_x + miss_y * miss_y - along * along, 0)
            wide_along, wide_across = rough_along**2 + size * size, rough_across**2 + size * size
            facets = np.exp(-(along * along / wide_along + across / wide_across))
            facets *= np.sqrt(0.03 / np.sqrt(wide_along * wide_across))
            cosine = up * (math.cos(zenith) + math.sin(zenith) * (slope_x * cos + slope_y * sin))
            reflected = power * (specular * facets + diffuse * np.maximum(cosine, 0))
            reflected *= open_sky if index else lit
            for channel in range(3):
                total[channel] += hue[channel] * reflected
        for channel, colour in enumerate((red, green, blue)):
            fine = np.minimum(total[channel] * colour * (1 - 0.8 * engraved[rows]), 1.3)  # no fireflies
            halved = fine[0::2] + fine[1::2]
            image[half_rows, :, channel] = (halved[:, 0::2] + halved[:, 1::2]) / 4
    return image


# Camera


def render(seeds: tuple[int, ...], size: int, flawed: Callable[[Scene, int], Flaw] | None = None) -> Array:
    """A picture before the sensor's noise, (size, size, 3), 0 to 255; the same seeds give the same scene."""
    rng = default_rng(seeds)
    scene = Scene(*(limit * rng.uniform(-1, 1) for limit in VARIATION))
    n = 2 * size
    image = _radiance(scene, flawed(scene, n) if flawed else Flaw(), rng, n)
    dot = max(1, size // 256)
    for row, column in rng.integers(0, size, (40, 2)):  # dust
        image[row : row + dot, column : column + dot] *= rng.uniform(0.7, 1.25)
    for side in (0, 1):  # no lens is perfectly sharp
        image = 0.76 * image + 0.12 * (np.roll(image, 1, side) + np.roll(image, -1, side))
    x, y = offsets_from((0, 0), size)
    image *= (1.25 - 0.13 * (x * x + y * y))[..., None]  # vignetting
    image += 0.3 * _blurred(np.clip(image[..., 1] - 0.6, 0, None), size / 64)[..., None]  # glare
    image = image * (2.51 * image + 0.03) / (image * (2.43 * image + 0.59) + 0.14)  # Narkowicz' film curve
    grey: Array = 255 * image.clip(0, 1) ** (1 / 2.2)
    return grey


def photograph(grey: Array, seeds: tuple[int, ...]) -> Array:
    """What the sensor makes of it: read noise and a little shot noise."""
    noise = default_rng(seeds).standard_normal(grey.shape, dtype=np.float32)
    return (grey + (1.2 + 0.006 * grey) * noise + 0.5).clip(0, 255).astype(np.uint8)

"""Reading a region of interest: from a mask image, or from polygons."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from goodparts.data.images import PIXEL_LIMIT, read_mask, require_regular
from goodparts.errors import ImageError, RecipeError, quoted
from goodparts.preprocessing.roi import ONLY, Roi, Zone, from_mask
from goodparts.recipe.toml import text_of
from goodparts.recipe.values import size_text

if TYPE_CHECKING:
    from goodparts.preprocessing.roi import Polygon


_LONGEST_NAME = 40
_LARGEST_FILE = 64 * 2**20  # bytes; LabelMe puts the picture itself into its file
_LARGEST_DRAWING = 32_000_000  # pixels that zones are drawn on, where images are smaller
_MOST_POINTS = 20_000  # of all polygons
_MOST_ZONES = 100
_MOST_PIXELS = 500_000_000  # of the drawing, times zones: each is a mask in memory
_MOST_RUNS = 1_000_000  # of a mask, along its rows
_FAR = 1e9  # pixels

_EXPECTED = "a mask image or polygons as JSON"


def read_roi(path: str | Path, image_size: Callable[[], tuple[int, int]] | tuple[int, int]) -> Roi:
    """A region of interest from a file.

    Args:
        path: a mask image, nonzero where it is looked at; or polygons as JSON: `{"size": [width, height], "zones":
            [{"name": ..., "polygons": [[[x, y], ...], ...], "holes": [...]}, ...]}` or what LabelMe saves.
        image_size: (H, W) of the images, or what finds it: for polygons that don't say on what size they are drawn.

    Raises:
        RecipeError: there is no such file, it is neither, or a zone is empty, outside the image or not unique.
    """
    path = Path(path)
    with _open(path) as stream:
        start = stream.read(64)
        drawn = path.suffix.lower() == ".json" or start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (
            b"{",
            b"[",
        )
        content = (
            start + stream.read(_LARGEST_FILE) if drawn or start[:2] in (b"\xff\xfe", b"\xfe\xff") else b""
        )
    if not content and not drawn:
        return _from_mask(path)
    if len(content) > _LARGEST_FILE:
        raise _error(path, f"is larger than {_LARGEST_FILE // 2**20} MiB; take a mask image instead")
    if content.count(b"[") > _MOST_POINTS + 2 * _MOST_ZONES + 100:  # before it is parsed
        raise _too_many_points(path)
    try:
        values = json.loads(text_of(content, "polygons as JSON"))
    except RecipeError as error:
        raise _error(path, str(error)) from None
    except (ValueError, RecursionError) as error:
        raise _error(path, f"is not JSON ({error}); expected polygons as JSON, or a mask image") from None
    return _from_polygons(path, values, image_size)


def roi_hash(path: str | Path) -> str:
    """sha256 of what a file holds; errors as `read_roi`."""
    with _open(Path(path)) as stream:
        digest = hashlib.sha256()
        while block := stream.read(2**20):
            digest.update(block)
        return digest.hexdigest()


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    try:
        require_regular(path)
        with path.open("rb") as stream:
            yield stream
    except FileNotFoundError:
        raise _error(path, f"no such file; expected {_EXPECTED}") from None
    except ImageError as error:
        what = str(error).removeprefix(f"{path}: ").partition(";")[0]
        raise _error(path, f"{what}; expected {_EXPECTED}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _error(path, f"can't be read ({error}); expected {_EXPECTED}") from None


def _from_mask(path: Path) -> Roi:
    try:
        mask = read_mask(path)
    except ImageError as error:
        raise RecipeError(
            f"roi: {error}. A roi is a mask image, nonzero where it is looked at, or polygons as JSON"
        ) from None
    if not mask.any():
        raise _error(path, "is black all over, so nothing would be looked at; paint what matters white")
    runs = int(np.count_nonzero(mask[:, 1:] & ~mask[:, :-1])) + int(np.count_nonzero(mask[:, 0]))
    if runs > _MOST_RUNS:
        raise _error(
            path,
            f"has {runs:,} separate pieces along its rows, {_MOST_RUNS:,} is the most; expected areas painted white, "
            "not the picture itself or noise",
        )
    return from_mask(mask)


def _from_polygons(
    path: Path, values: Any, image_size: Callable[[], tuple[int, int]] | tuple[int, int]
) -> Roi:
    form = '{"size": [700, 500], "zones": [{"name": "rim", "polygons": [[[10, 10], [90, 10], [90, 60]]]}]}'
    if isinstance(values, dict) and "shapes" in values:
        values = _from_labelme(path, values)
    if not isinstance(values, dict) or not isinstance(values.get("zones"), list) or not values["zones"]:
        raise _error(path, f"expected an object with a list of zones such as {form}, or a file of LabelMe")
    if unknown := set(values) - {"size", "zones"}:
        raise _error(path, f"no key {_names(unknown)} is known; expected {form}")
    if "size" in values:
        size = values["size"]
        if not (
            isinstance(size, list)
            and len(size) == 2
            and all(type(side) is int and 0 < side < 10**12 for side in size)
        ):
            raise _error(path, f"size: expected [width, height] in whole pixels, found {quoted(size)}")
        size = (size[1], size[0])
        if (limit := _largest_drawing(size, image_size)) is not None:
            raise _error(
                path,
                f"size: {size_text(size)} is more than the limit of {limit:,} pixels; leave it out if it is that of "
                "the images, or draw the zones on a smaller picture of the same aspect",
            )
    else:
        size = image_size() if callable(image_size) else image_size
    if len(values["zones"]) > _MOST_ZONES:
        raise _error(path, f"has {len(values['zones']):,} zones; {_MOST_ZONES} is the most")
    if len(values["zones"]) * size[0] * size[1] > _MOST_PIXELS:
        raise _error(
            path,
            f"{len(values['zones'])} zones on {size_text(size)} pixels are more than {_MOST_PIXELS:,} pixels together; "
            "take fewer, or draw them on a smaller picture of the same aspect and say its size",
        )
    if _points_in(values["zones"]) > _MOST_POINTS:
        raise _too_many_points(path)
    zones: list[Zone] = []
    for number, given in enumerate(values["zones"], 1):
        zone = _zone(path, given, number, size, form)
        if zone.name in (other.name for other in zones):
            raise _error(path, f"two zones are called {zone.name!r}; give each a name of its own")
        zones.append(zone)
    return Roi(size, tuple(zones))


def _names(keys: Iterable[object]) -> str:
    """Some of what somebody wrote, and not at length."""
    return ", ".join(sorted(str(key) if len(str(key)) <= _LONGEST_NAME else quoted(key) for key in keys)[:5])


def _largest_drawing(
    size: tuple[int, int], image_size: Callable[[], tuple[int, int]] | tuple[int, int]
) -> int | None:
    """The limit that a drawing of (H, W) exceeds: it has no use for many more pixels than the images have."""
    pixels = size[0] * size[1]
    if pixels > PIXEL_LIMIT:
        return PIXEL_LIMIT
    if pixels <= _LARGEST_DRAWING:
        return None
    height, width = image_size() if callable(image_size) else image_size
    return None if pixels <= height * width else _LARGEST_DRAWING


def _points_in(zones: list[Any]) -> int:
    """How many points the polygons of zones have, whatever else they are."""
    lines = [
        line
        for zone in zones
        if isinstance(zone, dict)
        for key in ("polygons", "holes")
        if isinstance(zone.get(key), list)
        for line in zone[key]
    ]
    return sum(len(line) for line in lines if isinstance(line, list))


def _too_many_points(path: Path) -> RecipeError:
    return _error(
        path,
        f"has more than {_MOST_POINTS:,} points; draw the zones with fewer, or take a mask image, nonzero where it is "
        "looked at",
    )


def _zone(path: Path, given: Any, number: int, size: tuple[int, int], form: str) -> Zone:
    name = given.get("name") if isinstance(given, dict) else None
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise _error(
            path,
            f"zone {number}: expected a name of at most {_LONGEST_NAME} letters, found {quoted(name)}; "
            f"write it as {form}",
        )
    name = name.strip()
    if unknown := set(given) - {"name", "polygons", "holes"}:
        raise _error(path, f"zone {name!r}: no key {_names(unknown)} is known; write it as {form}")
    lines: dict[str, tuple[Polygon, ...]] = {}
    for key in ("polygons", "holes"):
        polygons = given.get(key, [])
        if not isinstance(polygons, list) or (key == "polygons" and not polygons):
            raise _error(path, f"zone {name!r}: expected a list of {key}; write it as {form}")
        lines[key] = tuple(_polygon(path, name, polygon, size) for polygon in polygons)
    zone = Zone(name, lines["polygons"], lines["holes"])
    if not zone.mask(size).any():
        raise _error(path, f"zone {name!r} encloses no pixel of {size_text(size)}; draw it larger")
    return zone


def _polygon(path: Path, name: str, polygon: Any, size: tuple[int, int]) -> Polygon:
    if not isinstance(polygon, list) or len(polygon) < 3:
        raise _error(
            path,
            f"zone {name!r}: expected polygons of at least 3 points [x, y], found {quoted(polygon)}",
        )
    points = []
    for point in polygon:
        if not (
            isinstance(point, list)
            and len(point) == 2
            and all(
                isinstance(c, int | float) and not isinstance(c, bool) and -_FAR < c < _FAR for c in point
            )
        ):
            raise _error(path, f"zone {name!r}: expected points [x, y], found {quoted(point)}")
        x, y = float(point[0]), float(point[1])
        if not (0 <= x <= size[1] and 0 <= y <= size[0]):
            raise _error(
                path,
                f"zone {name!r}: point ({x:g}, {y:g}) lies outside the image of {size_text(size)} pixels; move it "
                'inside, or say in "size" on what size the zones are drawn',
            )
        points.append((x, y))
    return tuple(points)


def _from_labelme(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """What LabelMe saves, in the form of our own: shapes of one label are one zone."""
    zones: dict[str, dict[str, Any]] = {}
    shapes = values["shapes"] if isinstance(values["shapes"], list) else []
    for shape in shapes:
        kind = shape.get("shape_type", "polygon") if isinstance(shape, dict) else "nothing"
        points: Any = shape.get("points") if isinstance(shape, dict) else None
        if kind == "rectangle":
            try:
                (left, top), (right, bottom) = points
            except (TypeError, ValueError):
                raise _error(
                    path, f"expected a rectangle of LabelMe to have two corners, found {quoted(points)}"
                ) from None
            points = [[left, top], [right, top], [right, bottom], [left, bottom]]
        elif kind != "polygon":
            raise _error(path, f"a shape of LabelMe is a {_names([kind])}; expected polygons and rectangles")
        name = str(shape.get("label") or ONLY)
        zones.setdefault(name, {"name": name, "polygons": []})["polygons"].append(points)
    found: dict[str, Any] = {"zones": list(zones.values())}
    if values.get("imageWidth") and values.get("imageHeight"):
        found["size"] = [values["imageWidth"], values["imageHeight"]]
    return found


def _error(path: Path, what: str) -> RecipeError:
    return RecipeError(f"roi: {path}: {what}")

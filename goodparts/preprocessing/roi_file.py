"""Reading a region of interest: from a mask image, or from polygons."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from goodparts.data.images import PIXEL_LIMIT, read_mask, require_regular
from goodparts.errors import ImageError, RecipeError
from goodparts.preprocessing.roi import ONLY, Roi, Zone, from_mask
from goodparts.recipe.values import size_text

if TYPE_CHECKING:
    from goodparts.preprocessing.roi import Polygon


_LONGEST_NAME = 40


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
    start = _content(path)[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
    if path.suffix.lower() != ".json" and start[:1] not in (b"{", b"["):
        return _from_mask(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise _error(path, f"is not JSON ({error}); expected polygons as JSON, or a mask image") from None
    return _from_polygons(path, values, image_size)


def roi_hash(path: str | Path) -> str:
    """sha256 of what a file holds; errors as `read_roi`."""
    return hashlib.sha256(_content(Path(path))).hexdigest()


def _content(path: Path) -> bytes:
    try:
        require_regular(path)
        return path.read_bytes()
    except FileNotFoundError:
        raise _error(path, "no such file; expected a mask image or polygons as JSON") from None
    except ImageError as error:
        what = str(error).removeprefix(f"{path}: ").partition(";")[0]
        raise _error(path, f"{what}; expected a mask image or polygons as JSON") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _error(path, f"can't be read ({error}); expected a mask image or polygons as JSON") from None


def _from_mask(path: Path) -> Roi:
    try:
        mask = read_mask(path)
    except ImageError as error:
        raise RecipeError(
            f"roi: {error}. A roi is a mask image, nonzero where it is looked at, or polygons as JSON"
        ) from None
    if not mask.any():
        raise _error(path, "is black all over, so nothing would be looked at; paint what matters white")
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
        raise _error(path, f"no key {', '.join(sorted(unknown))} is known; expected {form}")
    if "size" in values:
        size = values["size"]
        if not (
            isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
        ):
            raise _error(path, f"size: expected [width, height] in whole pixels, found {json.dumps(size)}")
        size = (size[1], size[0])
        if size[0] * size[1] > PIXEL_LIMIT:
            raise _error(
                path,
                f"size: {size_text(size)} is more than the limit of {PIXEL_LIMIT:,} pixels; leave it out if it is that "
                "of the images, or draw the zones on a smaller picture of the same aspect",
            )
    else:
        size = image_size() if callable(image_size) else image_size
    zones: list[Zone] = []
    for number, given in enumerate(values["zones"], 1):
        zone = _zone(path, given, number, size, form)
        if zone.name in (other.name for other in zones):
            raise _error(path, f"two zones are called {zone.name!r}; give each a name of its own")
        zones.append(zone)
    return Roi(size, tuple(zones))


def _zone(path: Path, given: Any, number: int, size: tuple[int, int], form: str) -> Zone:
    name = given.get("name") if isinstance(given, dict) else None
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise _error(
            path,
            f"zone {number}: expected a name of at most {_LONGEST_NAME} letters, found {json.dumps(name)}; "
            f"write it as {form}",
        )
    name = name.strip()
    if unknown := set(given) - {"name", "polygons", "holes"}:
        raise _error(path, f"zone {name!r}: no key {', '.join(sorted(unknown))} is known; write it as {form}")
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
            f"zone {name!r}: expected polygons of at least 3 points [x, y], found {json.dumps(polygon)[:80]}",
        )
    points = []
    for point in polygon:
        if not (
            isinstance(point, list)
            and len(point) == 2
            and all(
                isinstance(c, int | float) and not isinstance(c, bool) and math.isfinite(c) for c in point
            )
        ):
            raise _error(path, f"zone {name!r}: expected points [x, y], found {json.dumps(point)[:80]}")
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
                corners = json.dumps(points)[:80]
                raise _error(
                    path, f"expected a rectangle of LabelMe to have two corners, found {corners}"
                ) from None
            points = [[left, top], [right, top], [right, bottom], [left, bottom]]
        elif kind != "polygon":
            raise _error(path, f"a shape of LabelMe is a {kind}; expected polygons and rectangles")
        name = str(shape.get("label") or ONLY)
        zones.setdefault(name, {"name": name, "polygons": []})["polygons"].append(points)
    found: dict[str, Any] = {"zones": list(zones.values())}
    if values.get("imageWidth") and values.get("imageHeight"):
        found["size"] = [values["imageWidth"], values["imageHeight"]]
    return found


def _error(path: Path, what: str) -> RecipeError:
    return RecipeError(f"roi: {path}: {what}")

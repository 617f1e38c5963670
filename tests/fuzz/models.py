"""Model files: damaged, or made by somebody who knows how: members changed or swapped, hashes and identity to match."""

from __future__ import annotations

import io
import json
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tomli_w
from numpy.random import Generator
from test_golden import ZONES

from fuzz.backbones import changed_network
from fuzz.mutations import as_json, changed_bytes, changed_safetensors, changed_text, changed_value
from fuzz.networks import LAYERS, PLAIN, SIDE, parts, require_sense, write_network
from goodparts import Inspector, Recipe
from goodparts.errors import GoodpartsError
from goodparts.model.model import hashes, identity_of

_RECIPES: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "default": {"quality_gate": True},
    "zones": {"roi": "zones.json", "light": "colour"},
    "tiles": {"tiling": "48x48+16", "tile_bank": "position"},
    "pose": {"pose": "rigid"},
}
_OF_ITS_OWN = {
    "format",
    "identity",
    "sha256",
    "circumstances",
    "precision",
}  # keys of the manifest that describe nothing


class Models:
    """See `fuzz.target.Target`."""

    suffix = ".goodparts"

    def write_seeds(self, folder: Path) -> None:
        backbone = write_network(folder)
        (folder / "zones.json").write_text(json.dumps(ZONES))
        for name, keys in _RECIPES.items():
            keys = {**keys, "roi": str(folder / keys["roi"])} if "roi" in keys else keys
            recipe = Recipe(backbone=str(backbone), image_size=SIDE, layers=LAYERS, precision="f32", **keys)
            Inspector(recipe, workers=1).fit(parts(4)).save(folder / f"{name}.goodparts")

    def read_seeds(self, folder: Path) -> list[bytes]:
        return [path.read_bytes() for path in sorted(folder.glob("*.goodparts"))]

    def make(self, seeds: list[bytes], rng: Generator) -> bytes:
        data = seeds[int(rng.integers(len(seeds)))]
        if rng.random() < 0.15:
            return changed_bytes(data, seeds, rng)
        members = _members(data)
        manifest = json.loads(members.pop("manifest.json"))
        kind = rng.random()
        if kind < 0.2:
            manifest = changed_value(manifest, rng)
        elif kind < 0.35:
            others = _members(seeds[int(rng.integers(len(seeds)))])
            names = sorted({*members, *others} - {"manifest.json"})
            name = names[int(rng.integers(len(names)))]
            members.pop(name, None)
            if name in others:
                members[name] = others[name]
        else:
            name = sorted(members)[int(rng.integers(len(members)))]
            members[name] = _changed_member(name, members[name], rng)
        if isinstance(manifest, dict) and rng.random() < 0.9:
            manifest["sha256"] = hashes(members)
            manifest["identity"] = _identity(manifest, members)
        return _zip({"manifest.json": as_json(manifest, rng), **members}, rng)

    def readers(self, path: Path) -> Iterator[Callable[[], object]]:
        def inspect() -> None:
            inspector = Inspector.load(path, workers=1)
            for image in parts(2):
                require_sense(inspector.inspect(image))

        yield inspect


def _members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zip(members: dict[str, bytes], rng: Generator) -> bytes:
    kind = zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _changed_member(name: str, data: bytes, rng: Generator) -> bytes:
    if rng.random() < 0.2:
        return changed_bytes(data, (), rng)
    if name.endswith(".json"):
        return as_json(changed_value(json.loads(data), rng), rng)
    if name.endswith(".onnx"):
        return changed_network(data, rng)
    if name.endswith(".toml"):
        text = data.decode()
        try:
            return tomli_w.dumps(changed_value(tomllib.loads(text), rng)).encode()
        except (TypeError, AttributeError, ValueError):
            return changed_text(text, [text], rng)
    return changed_safetensors(data, rng)


def _identity(manifest: dict[str, Any], members: dict[str, bytes]) -> Any:
    """The identity that would be right, so that nothing but the change itself gives the file away."""
    try:
        described = {key: value for key, value in manifest.items() if key not in _OF_ITS_OWN}
        model: Any = SimpleNamespace(
            recipe=Recipe().replace(tomllib.loads(members["recipe.toml"].decode())),
            backbone=SimpleNamespace(name=manifest["backbone"]["name"]),
            described=lambda: described,
        )
        return identity_of(manifest["sha256"], model)
    except (GoodpartsError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return manifest.get("identity")


TARGET = Models()

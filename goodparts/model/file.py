"""The model on disk: one file, `NAME.goodparts`, an uncompressed zip that needs nothing else.

    recipe.toml         the recipe
    backbone.onnx       the backbone, cut down to the layers in use
    bank.safetensors    memory bank, origins, mean and search space; spacing, whitening, cells and tiles, if any
    calibration.json    held-out good scores, thresholds and their rules
    roi.json            the region of interest, if there is one
    tiles.json          how images are tiled, if they are
    light.json          the light of good images, where the recipe brings others to it
    pose.safetensors    the reference that images are aligned to, where the recipe aligns them
    manifest.json       format, sha256 of every member, identity, what it was fitted on, when, with what, and
                        how far bf16 moves scores

Nothing is pickled. Loading checks every hash.
"""

from __future__ import annotations

import json
import tomllib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from goodparts.backbones.backbone import Backbone
from goodparts.bank.memory_bank import MemoryBank
from goodparts.bank.window import window_of
from goodparts.decision.calibration import Calibration
from goodparts.engines.precision import PrecisionCheck
from goodparts.errors import ModelError, RecipeError
from goodparts.features.whitening import Whitening
from goodparts.files import JsonRecord, replacing
from goodparts.model.model import FORMAT, Model, hashes, identity_of, members
from goodparts.model.records import FitRecord, Provenance
from goodparts.preprocessing.preprocessor import Preprocessor
from goodparts.recipe.recipe import Recipe

SUFFIX = ".goodparts"
_MEMBERS = ("recipe.toml", "backbone.onnx", "bank.safetensors", "calibration.json")


def save(model: Model, path: str | Path) -> Path:
    """Write a model; the file is whole or the old one stays. Returns the path, with `.goodparts` if it had no suffix.

    Raises:
        OutputError: it can't be written there.
    """
    path = Path(path)
    if not path.suffix:
        path = path.with_suffix(SUFFIX)
    parts = members(model)
    digests = hashes(parts)
    manifest = {
        "format": FORMAT,
        "identity": identity_of(digests, model),
        "sha256": digests,
        **model.described(),
        "circumstances": model.fit_record.to_dict(),
        "precision": model.precision.to_dict(),
    }
    with replacing(path) as stream:
        _write_zip(stream, {"manifest.json": json.dumps(manifest, indent=1).encode(), **parts})
    return path


def load(path: str | Path) -> Model:
    """Read a model.

    Raises:
        ModelError: there is no such file, it is no model, damaged, truncated, or of a newer version.
    """
    path = Path(path)
    with _told_of(path), zipfile.ZipFile(path) as archive:
        manifest = _manifest(path, archive)
        parts = {name: archive.read(name) for name in {**dict.fromkeys(_MEMBERS), **manifest["sha256"]}}
    for name, digest in hashes(parts).items():
        if manifest["sha256"].get(name) != digest:
            raise _damaged(path, f"{name} does not have the sha256 it was written with")
    try:
        model = _restore(parts, manifest)
        intact = model.identity == manifest["identity"]
    except RecipeError as error:
        raise ModelError(
            f"{path}: this goodparts does not take the recipe it was fitted with ({error}); fit it anew with another"
        ) from error
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if not intact:
        raise _damaged(path, "manifest.json does not belong to the rest")
    return model


def read_manifest(path: str | Path) -> JsonRecord:
    """What a model says of itself; cheap, and not checked against the rest. Errors as `load`."""
    path = Path(path)
    with _told_of(path), zipfile.ZipFile(path) as archive:
        return _manifest(path, archive)


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Errors of reading a zip file as ModelError."""
    try:
        yield
    except FileNotFoundError:
        raise ModelError(
            f"{path}: no such model; make one with `goodparts fit GOOD --model {path}`"
        ) from None
    except IsADirectoryError:
        raise ModelError(
            f"{path}: is a folder; expected a model, a file ending in {SUFFIX}{_models_in(path)}"
        ) from None
    except PermissionError as error:
        if path.is_dir():  # Windows
            raise ModelError(
                f"{path}: is a folder; expected a model, a file ending in {SUFFIX}{_models_in(path)}"
            ) from None
        raise ModelError(f"{path}: can't be read: {error.strerror}") from None
    except zipfile.BadZipFile as error:
        if zipfile.is_zipfile(path) or _starts_like_zip(path):
            raise _damaged(path, str(error)) from None
        raise ModelError(
            f"{path}: is not a goodparts model; expected a file that `goodparts fit` or `run` wrote, ending in {SUFFIX}"
        ) from None
    except KeyError as error:
        raise ModelError(
            f"{path}: is not a goodparts model, or a damaged one: it lacks a part ({error.args[0]})"
        ) from None
    except (ValueError, OSError, EOFError, RuntimeError, zlib.error) as error:
        raise _damaged(path, str(error)) from None


def _manifest(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    manifest = json.loads(archive.read("manifest.json"))
    if not isinstance(manifest, dict):
        raise _damaged(path, "manifest.json is not an object")
    _check_format(path, manifest)
    if not isinstance(manifest.get("sha256"), dict):
        raise _damaged(path, "manifest.json names no sha256")
    return manifest


def _restore(members: dict[str, bytes], manifest: dict[str, Any]) -> Model:
    import onnx
    import safetensors.numpy

    tensors = safetensors.numpy.load(members["bank.safetensors"])
    described = manifest["backbone"]
    network = onnx.load_from_string(members["backbone.onnx"])
    recipe = Recipe().replace(tomllib.loads(members["recipe.toml"].decode()))
    height, width = map(int, manifest["grid"])
    bank = MemoryBank.from_tensors(tensors)
    window_of(recipe, (height, width)).check(bank)
    if (recipe.tile_bank == "shared") != ("tiles" not in tensors):
        raise ValueError(
            f"bank.safetensors does not have the tiles that tile_bank = {recipe.tile_bank} asks for"
        )
    learnt = {name: data for name, data in members.items() if name not in _MEMBERS}
    return Model(
        recipe=recipe,
        backbone=Backbone(
            name=described["name"],
            model=network,
            input_name=described["input"],
            mean=tuple(described["mean"]),
            std=tuple(described["std"]),
            normalisation=described["normalisation"],
            source=described["source"],
            licence=described["licence"],
            sha256=described["sha256"],
        ),
        bank=bank,
        calibration=Calibration.from_json(members["calibration.json"].decode()),
        provenance=Provenance(**manifest["data"]),
        fit_record=FitRecord(**manifest["circumstances"]),
        precision=PrecisionCheck(**manifest["precision"]),
        preprocessor=Preprocessor.from_members(learnt, recipe, (height, width)),
        whitening=Whitening(tensors["whitening.mean"], tensors["whitening.matrix"])
        if "whitening.mean" in tensors
        else None,
    )


def _write_zip(stream: BinaryIO, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), data)


def _check_format(path: Path, manifest: dict[str, Any]) -> None:
    written = manifest.get("format")
    if not isinstance(written, int):
        raise _damaged(path, "manifest.json names no format")
    if written > FORMAT:
        raise ModelError(
            f"{path}: written by a newer goodparts (format {written}, this one reads up to {FORMAT}); "
            "upgrade with `pip install -U goodparts`"
        )


def _damaged(path: Path, why: str) -> ModelError:
    return ModelError(f"{path}: damaged or truncated model ({why}); copy it again, or fit it anew")


def _starts_like_zip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def _models_in(folder: Path) -> str:
    models = sorted(entry.name for entry in folder.glob(f"*{SUFFIX}"))
    return f"; in it there is {', '.join(models[:3])}" if models else ""

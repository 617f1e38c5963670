"""The model on disk: one file, `NAME.goodparts`, an uncompressed zip that needs nothing else.

    recipe.toml         the recipe
    backbone.onnx       the backbone, cut down to the layers in use
    bank.safetensors    memory bank, origins, mean and search space; spacing, whitening, cells and tiles, if any; the
                        same of coarser depths, and how their distances become one
    calibration.json    held-out good scores, thresholds and their rules
    roi.json            the region of interest, if there is one
    tiles.json          how images are tiled, if they are
    light.json          the light of good images, where the recipe brings others to it
    pose.safetensors    the reference that images are aligned to, where the recipe aligns them
    manifest.json       format, sha256 of every member, identity, what it was fitted on, when, with what, and
                        how far bf16 moves scores; what was measured last, if anything was; and a signature over all
                        of it, if it was signed

Nothing is pickled. Loading checks every hash, and by `schema` that each member is what it has to be.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tomllib
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from goodparts.backbones.backbone import Backbone
from goodparts.backbones.onnx_file import trimmed_network
from goodparts.bank.depths import Depth, depth_prefix
from goodparts.bank.fusion import Fusion
from goodparts.bank.window import window_of
from goodparts.decision.calibration import Calibration
from goodparts.engines.precision import PrecisionCheck
from goodparts.errors import BackboneError, ImageError, ModelError, RecipeError, shortened
from goodparts.files import JsonRecord, replacing
from goodparts.model import signature
from goodparts.model.agreement import require_agreement
from goodparts.model.model import FORMAT, Model, hashes, identity_of, members
from goodparts.model.records import EvaluationRecord, FitRecord, Provenance
from goodparts.model.schema import json_member, tensor_member
from goodparts.preprocessing.preprocessor import Preprocessor
from goodparts.recipe.keys import KEYS
from goodparts.recipe.recipe import Recipe

_LOGGER = logging.getLogger(__name__)
SUFFIX = ".goodparts"
_MOST_DOTS = 100  # in a line of a recipe
_MEMBERS = ("recipe.toml", "backbone.onnx", "bank.safetensors", "calibration.json")
_BEFORE = {
    name: item.metadata["before"] for name, item in KEYS.items() if item.metadata["before"] is not None
}


StrPath = str | os.PathLike[str]


def save(model: Model, path: str | Path) -> Path:
    """Write a model; the file is whole or the old one stays. Returns the path, with `.goodparts` if it had no suffix.

    It is unsigned, whatever it was read from.

    Raises:
        OutputError: it can't be written there.
    """
    parts = members(model)
    digests = hashes(parts)
    manifest = {
        "format": FORMAT,
        "identity": identity_of(digests, model),
        "sha256": digests,
        **model.described(),
        "circumstances": model.fit_record.to_dict(),
        "precision": model.precision.to_dict(),
        **({"evaluation": model.evaluation.to_dict()} if model.evaluation is not None else {}),
    }
    return _write(_with_suffix(path), manifest, parts)


def load(path: StrPath, require_signature: StrPath | None = None) -> Model:
    """Read a model.

    Args:
        path: the model file.
        require_signature: a file with a public key: the model has to be signed by the key that goes with it.

    Raises:
        ModelError: there is no such file, it is no model, damaged, truncated, of a newer version, or not signed as it
            has to be.
    """
    model, _, _ = _read(Path(path), require_signature)
    return model


def sign(path: str | Path, key: str | Path, out: str | Path | None = None) -> Path:
    """Sign a model with the private key in a PEM file, in place unless `out` says where; returns the path.

    Raises:
        ModelError: as `load`; there is no such key, or `cryptography` is not installed.
        OutputError: it can't be written there.
    """
    _, manifest, parts = _read(Path(path), None)
    return _write(_with_suffix(out) if out else Path(path), signature.sign(manifest, key), parts)


def _read(path: Path, require_signature: StrPath | None) -> tuple[Model, dict[str, Any], dict[str, bytes]]:
    """A model, its manifest and its other members."""
    with _as_model_errors(path), zipfile.ZipFile(path) as archive:
        manifest = _manifest(path, archive)
        if require_signature is not None:
            signature.require(path, manifest, require_signature)
        parts = _read_members(archive, manifest["sha256"])
        for name, digest in hashes(parts).items():
            if manifest["sha256"].get(name) != digest:
                raise ValueError(f"{name} does not have the sha256 it was written with")
        model = replace(_restore(parts, manifest), path=path)
        require_agreement(model, manifest)
        if model.identity != manifest["identity"]:
            raise ValueError("manifest.json does not belong to the rest")
    _LOGGER.info("read %s, identity %s, fitted %s", path, manifest["identity"], model.fit_record.fitted)
    return model, manifest, parts


def _with_suffix(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix else path.with_suffix(SUFFIX)


def _write(path: Path, manifest: Mapping[str, Any], parts: Mapping[str, bytes]) -> Path:
    with replacing(path) as stream:
        _write_zip(stream, {"manifest.json": json.dumps(manifest, indent=1).encode(), **parts})
    _LOGGER.info("wrote %s, identity %s", path, manifest["identity"])
    return path


def read_manifest(path: str | Path) -> JsonRecord:
    """What a model says of itself; cheap, and not checked against the rest. Errors as `load`."""
    path = Path(path)
    with _as_model_errors(path), zipfile.ZipFile(path) as archive:
        return _manifest(path, archive)


@contextmanager
def _as_model_errors(path: Path) -> Iterator[None]:
    """Whatever is wrong with a file as one ModelError."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ModelError(f"{path}: is no regular file; expected a model, a file ending in {SUFFIX}")
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
            f"{path}: is not a goodparts model, or a damaged one: it lacks a part ({shortened(error.args[0])})"
        ) from None
    except RecipeError as error:
        raise ModelError(
            f"{path}: this goodparts does not take the recipe it was fitted with ({shortened(error, 300)}); fit it "
            "anew with another"
        ) from error
    except (
        *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
        *(OSError, EOFError, RuntimeError, MemoryError, zlib.error),
        *(BackboneError, ImageError),
    ) as error:
        raise _damaged(path, str(error) or type(error).__name__) from error


def _manifest(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    data = _read_members(archive, ["manifest.json"], others=True)["manifest.json"]
    _check_format(path, data)
    manifest: dict[str, Any] = json_member("manifest.json", data)
    return manifest


def _read_members(
    archive: zipfile.ZipFile, names: Iterable[str], *, others: bool = False
) -> dict[str, bytes]:
    """Members of a model file by name, and never more bytes than the file has.

    Raises:
        ValueError: there are further ones (unless `others` may be), or two of a name; or one is compressed.
        KeyError: one is missing.
    """
    found = archive.infolist()
    wanted = {**dict.fromkeys(("manifest.json", *_MEMBERS)), **dict.fromkeys(names)}
    by_name = {member.filename: member for member in found}
    if len(by_name) < len(found):
        raise ValueError("two of its members have the same name")
    if not others and (unknown := by_name.keys() - wanted):
        raise ValueError(f"{shortened(sorted(unknown)[0])} is none of its members")
    if others:
        wanted = dict.fromkeys(names)
    for name in wanted:
        if name not in by_name:
            raise KeyError(name)
        if by_name[name].compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{shortened(name)} is compressed, which no member of a model is")
    assert archive.fp is not None
    if sum(by_name[name].file_size for name in wanted) > archive.fp.seek(0, os.SEEK_END):
        raise ValueError("its members are larger than the file")
    return {name: archive.read(name) for name in wanted if others or name != "manifest.json"}


def _restore(members: dict[str, bytes], manifest: dict[str, Any]) -> Model:
    for name, data in members.items():
        if name.endswith(".json"):
            json_member(name, data)
        elif name == "pose.safetensors":
            tensor_member(name, data)
    tensors = tensor_member("bank.safetensors", members["bank.safetensors"])
    described = manifest["backbone"]
    recipe = Recipe().replace({**_BEFORE, **_toml(members["recipe.toml"])})
    network = trimmed_network(members["backbone.onnx"], described["input"], recipe.layers)
    height, width = map(int, manifest["grid"])
    depths, fusion = _depths(tensors)
    grids = ((height, width),) if fusion is None else fusion.grids
    for depth, grid in zip(depths, grids, strict=True):
        window_of(recipe, grid).check(depth.bank)
        if (recipe.tile_bank == "shared") != (depth.bank.tiles is None):
            raise ValueError(
                f"bank.safetensors does not have the tiles that tile_bank = {recipe.tile_bank} asks for"
            )
    preprocessing = {name: data for name, data in members.items() if name not in _MEMBERS}
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
        whitening=depths[0].whitening,
        bank=depths[0].bank,
        coarser=depths[1:],
        fusion=fusion,
        calibration=Calibration.from_json(members["calibration.json"].decode()),
        provenance=Provenance(**manifest["data"]),
        fit_record=FitRecord(**manifest["circumstances"]),
        precision=PrecisionCheck(**manifest["precision"]),
        evaluation=EvaluationRecord(**manifest["evaluation"]) if "evaluation" in manifest else None,
        preprocessor=Preprocessor.from_members(preprocessing, recipe, (height, width)),
    )


def _depths(tensors: Mapping[str, NDArray[Any]]) -> tuple[tuple[Depth, ...], Fusion | None]:
    """Whitening and bank of each depth, and how their distances become one."""
    fusion = None
    if "fusion.grids" in tensors:
        fusion = Fusion.from_tensors(tensors["fusion.grids"], tensors["fusion.values"])
    count = 1 if fusion is None else len(fusion.grids)
    prefixes = [depth_prefix(depth) for depth in range(count)]
    depths = []
    for prefix in prefixes:
        own = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        depths.append(Depth.from_tensors(own))
    found = {re.match("(?:[2-9][.])?", name)[0] for name in tensors}  # type: ignore[index]
    if found != set(prefixes):
        raise ValueError("bank.safetensors: has banks of other depths than its fusion")
    return tuple(depths), fusion


def _toml(data: bytes) -> dict[str, Any]:
    """A recipe's keys, which hold no tables: of keys of thousands of parts the parser would take minutes."""
    text = data.decode()
    if any(line.count(".") > _MOST_DOTS and not line.startswith("#") for line in text.splitlines()):
        raise ValueError("recipe.toml: has keys of too many parts")
    return tomllib.loads(text)


def _write_zip(stream: BinaryIO, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), data)


def _check_format(path: Path, data: bytes) -> None:
    """Raise ModelError for a format that is still to come: its manifest may be anything else."""
    manifest = json.loads(data)
    written = manifest.get("format") if isinstance(manifest, dict) else None
    if type(written) is not int:
        raise ValueError("manifest.json names no format")
    if written > FORMAT:
        raise ModelError(
            f"{path}: written by a newer goodparts (format {shortened(written)}, this one reads up to {FORMAT}); "
            "upgrade with `pip install -U goodparts`"
        )


def _damaged(path: Path, why: str) -> ModelError:
    return ModelError(
        f"{path}: damaged or truncated model ({shortened(why, 300)}); copy it again, or fit it anew"
    )


def _starts_like_zip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def _models_in(folder: Path) -> str:
    models = sorted(entry.name for entry in folder.glob(f"*{SUFFIX}"))
    return f"; in it there is {', '.join(models[:3])}" if models else ""

"""Backbones by name: load, list, download, add, export, remove.

A name is looked for in the installed packages (efficientnet_lite0), then in the store on this machine, then on
the Hugging Face hub, from which weights are downloaded once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from goodparts.backbones import store as backbone_store
from goodparts.backbones.backbone import SUFFIXES, Backbone, is_path, read_backbone, trim
from goodparts.backbones.packages import BUILT_IN, PACKAGES, Package
from goodparts.backbones.store import PUBLISHED, Entry
from goodparts.errors import BackboneError, OutputError

__all__ = [
    "BackboneInfo",
    "add",
    "export",
    "list_backbones",
    "load_backbone",
    "pull",
    "remove",
    "show",
]


@dataclass(frozen=True)
class BackboneInfo:
    """One line of the list of backbones.

    Attributes:
        name: registered name.
        source: hub repository and revision, package, or file name.
        licence: of the weights, "unknown" where nobody said.
        sha256: of the file; empty where it is not known before the download.
        size: of the file in bytes, None if it is not on this machine.
        path: the file, None if it is not on this machine.
        status: "built in", "installed", "local", "to install", "to download", or "missing" or "damaged", with
            what mends it where that is a package.
    """

    name: str
    source: str
    licence: str
    sha256: str
    size: int | None
    path: Path | None
    status: str


def load_backbone(name: str, *, offline: bool = False) -> Backbone:
    """Load a backbone by name, or from an `.onnx`, `.safetensors` or `.pth` file.

    Whatever has one of these suffixes or a slash is a path, all else is a name.

    Args:
        name: registered name or path.
        offline: never to use the network (HF_HUB_OFFLINE=1 says the same).

    Raises:
        BackboneError: unknown name, nothing there, not to be downloaded, damaged or no usable network.
    """
    if is_path(name):
        return read_backbone(Path(name))
    if name in PACKAGES:
        return _packaged(PACKAGES[name])
    entry = backbone_store.find(name)
    if entry is None and name in PUBLISHED:
        entry = _download(name, offline=offline)
    if entry is None:
        raise _unknown(name)
    backbone = read_backbone(backbone_store.verify(entry))
    return replace(
        backbone,
        name=name,
        source=entry.source,
        licence=entry.licence,
        sha256=entry.sha256,
        normalisation=entry.normalisation or backbone.normalisation,
        short_names=entry.layers or backbone.short_names,
    )


def list_backbones() -> list[BackboneInfo]:
    """All backbones that have a name: those of packages, those in the store, those that can be downloaded."""
    kept = {entry.name: entry for entry in backbone_store.entries()}
    infos = [*map(_packaged_info, PACKAGES.values()), *map(_kept_info, kept.values())]
    for name, published in PUBLISHED.items():
        if name not in kept:
            source = f"Hugging Face {published.repository}"
            sha256 = published.sha256 or ""
            infos.append(BackboneInfo(name, source, published.licence, sha256, None, None, "to download"))
    return infos


def show(name: str) -> dict[str, tuple[int, ...]]:
    """Names of a backbone's layers and the shapes (d, h, w) or (tokens, d) they have at 224 × 224 px.

    Nothing is downloaded.

    Raises:
        BackboneError: as `load_backbone`.
    """
    from goodparts.backbones.onnx_file import shapes_at

    backbone = load_backbone(name, offline=True)
    shapes = shapes_at(backbone.model, backbone.input_name, 224)
    return {layer: shapes.get(layer, ()) for layer in backbone.layers()}


def pull(name: str, *, offline: bool = False, accept_licence: bool = False) -> BackboneInfo:
    """Download a backbone into the store, unless it is there already.

    Args:
        name: registered name.
        offline: never to use the network.
        accept_licence: the licence of the weights is accepted, where they have one of their own.

    Raises:
        BackboneError: unknown name, its package is not installed, its licence not accepted, not reachable, not the
            file that was published, or no room.
    """
    if name in PACKAGES:
        PACKAGES[name].verify()
        return _packaged_info(PACKAGES[name])
    entry = backbone_store.find(name)
    if entry is None:
        if name not in PUBLISHED:
            raise _unknown(name)
        entry = _download(name, offline=offline, accept_licence=accept_licence)
    backbone_store.verify(entry)
    return _kept_info(entry)


def add(name: str, file: Path, layers: Sequence[str] | None = None) -> BackboneInfo:
    """Copy a file into the store under a name, in place of what was kept under it.

    Args:
        name: letters, digits, "_" and "-". Under the name of published weights, a file of parameters must be
            of their architecture.
        file: `.onnx`, `.safetensors` or `.pth`.
        layers: names of tensors to offer first as layers.

    Raises:
        BackboneError: the name or the file is of no use, or a layer is not in it.
    """
    if name in PACKAGES:
        raise BackboneError(f"backbone {name} {_whence(name)} and can't be replaced; choose another name")
    if is_path(name) or not backbone_store.NAME.fullmatch(name):
        raise BackboneError(f"backbone name {name!r}: expected letters, digits, '_' and '-', such as my_vit")
    backbone = read_backbone(file)
    if layers:
        trim(backbone, layers)
    published = PUBLISHED.get(name)
    found, wanted = backbone.architecture, published.architecture or name if published else ""
    if wanted and file.suffix.lower() != ".onnx" and found != wanted:
        raise BackboneError(f"{file}: holds {found}, not {wanted}; add it as {found}")
    known = published is not None and published.sha256 == backbone.sha256
    entry = backbone_store.keep(
        file,
        name,
        source=f"Hugging Face {published.repository}" if published and known else file.name,
        licence=published.licence if published and known else backbone.licence,
        normalisation="published" if known else "",
        layers=layers or (),
    )
    return _kept_info(entry)


def export(name: str, file: Path) -> Path:
    """Write a backbone as an ONNX file that says in its metadata what has to be known to feed it.

    Raises:
        BackboneError: as `load_backbone`.
        OutputError: the file can't be written, or does not end in `.onnx`.
    """
    from onnx import helper

    if file.suffix.lower() != ".onnx":
        raise OutputError(f"{file}: expected a name that ends in .onnx")
    backbone = load_backbone(name)
    model = type(backbone.model)()
    model.CopyFrom(backbone.model)
    helper.set_model_props(
        model,
        {entry.key: entry.value for entry in model.metadata_props}
        | {
            "mean": ",".join(map(repr, backbone.mean)),
            "std": ",".join(map(repr, backbone.std)),
            "color": "RGB",
            "range": "0..1",
            "source": backbone.source,
            "licence": backbone.licence,
        },
    )
    beside = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(model.SerializeToString())
        beside.replace(file)
    except OSError as error:
        raise OutputError(f"{file}: can't be written: {error}") from error
    finally:
        beside.unlink(missing_ok=True)
    return file


def remove(name: str) -> None:
    """Delete a backbone from the store.

    Raises:
        BackboneError: it comes as a package, is not in the store, or can't be deleted.
    """
    if name in PACKAGES:
        raise BackboneError(f"backbone {name} {_whence(name)} and can't be removed here")
    entry = backbone_store.find(name)
    if entry is None:
        kept = ", ".join(entry.name for entry in backbone_store.entries()) or "nothing"
        raise BackboneError(f"backbone {name!r} is not in the store; there is {kept}")
    backbone_store.forget(entry)


def _packaged(package: Package) -> Backbone:
    return replace(
        read_backbone(package.verify()),
        name=package.backbone,
        source=package.source,
        licence=package.licence,
        normalisation="published",
    )


def _packaged_info(package: Package) -> BackboneInfo:
    built_in = package.backbone == BUILT_IN
    path: Path | None = None
    status = "built in" if built_in else "installed"
    try:
        path = package.find()
        package.verify()
    except BackboneError:  # told by the status
        status = f"damaged: {package.install}" if path else "to install"
        if built_in and not path:
            status = f"missing: {package.install}"
    size = path.stat().st_size if path else None
    return BackboneInfo(package.backbone, package.source, package.licence, package.sha256, size, path, status)


def _whence(name: str) -> str:
    return "is built in" if name == BUILT_IN else f"comes as the package {PACKAGES[name].name}"


def _kept_info(entry: Entry) -> BackboneInfo:
    intact = entry.path.is_file() and entry.path.stat().st_size == entry.size
    status = "local" if intact else "damaged"
    return BackboneInfo(entry.name, entry.source, entry.licence, entry.sha256, entry.size, entry.path, status)


def _download(name: str, *, offline: bool, accept_licence: bool = False) -> Entry:
    """Fetch published weights, check that they make the network of that name, and keep them."""
    published = PUBLISHED[name]
    if not accept_licence:
        backbone_store.require_accepted(name)
    with backbone_store.incoming() as folder:
        path, revision = backbone_store.fetch(name, folder, offline=offline)
        architecture = read_backbone(path).architecture
        if architecture != (published.architecture or name):
            raise BackboneError(f"backbone {name}: {published.repository} holds {architecture} instead")
        return backbone_store.keep(
            path,
            name,
            source=f"Hugging Face {published.repository}, revision {revision}",
            licence=published.licence,
            normalisation="published",
        )


def _unknown(name: str) -> BackboneError:
    known = [*PACKAGES, *dict.fromkeys((*PUBLISHED, *(entry.name for entry in backbone_store.entries())))]
    nearest = get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(nearest)}? " if nearest else ""
    return BackboneError(
        f"unknown backbone {name!r}; {hint}Known are {', '.join(known)}, or give a file that ends in "
        f"{', '.join(SUFFIXES)}"
    )

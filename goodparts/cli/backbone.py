"""`backbone`: list, show, pull, add, export, remove."""

from __future__ import annotations

from pathlib import Path

import click

from goodparts.cli.options import Command, json_option
from goodparts.cli.printing import emit, wrapped
from goodparts.errors import BackboneError


@click.group()
def backbone() -> None:
    """Pretrained networks: list, show, pull, add, export, remove.

    \b
    efficientnet_lite0 is built in and needs no network; lite1 and lite2 come with pip.
    Others come from a file or, by name, once from the Hugging Face hub; they are kept
    in a folder that `list` shows (GOODPARTS_HOME moves it). Where weights have a licence
    of their own, `pull` asks that it is accepted.

    Example: goodparts backbone add resnet50 /media/usb/model.safetensors
    """


@backbone.command(name="list", cls=Command, epilog="\nExample: goodparts backbone list")
@json_option
def list_command(as_json: bool) -> None:
    """List the backbones that have a name, and what is on this machine."""
    from goodparts.backbones import catalogue
    from goodparts.backbones import store as backbone_store

    infos = catalogue.list_backbones()
    if as_json:
        for info in infos:
            emit(_record(info))
        return
    click.echo(f"{'name':20} {'status':12} {'size':>9}  {'licence':14} source")
    for info in infos:
        click.echo(f"{info.name:20} {info.status:12} {_size(info.size):>9}  {info.licence:14} {info.source}")
    click.echo(f"\nKept in {backbone_store.store_folder()}")


@backbone.command(cls=Command, epilog="\nExample: goodparts backbone show efficientnet_lite0")
@click.argument("name", metavar="NAME|FILE")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show where a backbone comes from and the layers it has, with their shapes at 224 x 224 pixels."""
    from goodparts.backbones import catalogue

    found = catalogue.load_backbone(name, offline=True)
    layers = catalogue.show(name)
    if as_json:
        emit(
            {
                "name": found.name,
                "architecture": found.architecture,
                "source": found.source,
                "licence": found.licence,
                "sha256": found.sha256,
                "mean": found.mean,
                "std": found.std,
                "normalisation": found.normalisation,
                "layers": layers,
            }
        )
        return
    for label, value in (
        ("name", found.name),
        ("architecture", found.architecture),
        ("source", found.source),
        ("licence", found.licence),
        ("sha256", found.sha256),
        ("mean", _numbers(found.mean)),
        ("std", f"{_numbers(found.std)} ({found.normalisation})"),
    ):
        click.echo(f"{label:13} {value}")
    click.echo("layers")
    width = max(map(len, layers), default=0)
    for layer, shape in layers.items():
        click.echo(f"  {layer:{width}}  {' x '.join(map(str, shape)) or 'shape unknown'}")


@backbone.command(cls=Command, epilog="\nExample: goodparts backbone pull wide_resnet50_2")
@click.argument("name")
@click.option("--offline", is_flag=True, help="Never ask the network: say only whether it is here.")
@click.option(
    "--accept-licence",
    is_flag=True,
    help="You have read the licence of weights that have one of their own, and accept it.",
)
@json_option
def pull(name: str, offline: bool, accept_licence: bool, as_json: bool) -> None:
    """Download a backbone from the Hugging Face hub, unless it is there already."""
    from goodparts.backbones import catalogue

    _print_info(catalogue.pull(name, offline=offline, accept_licence=accept_licence), as_json)


@backbone.command(
    cls=Command, epilog="\nExample: goodparts backbone add my_vit vit.onnx --layers blocks.7,blocks.11"
)
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--layers", help="Names of tensors to offer first as layers, separated by commas.")
@click.option(
    "--timm",
    "timm_model",
    metavar="MODEL",
    help="A network of the library timm, where that and PyTorch are installed; FILE is then its weights, if any.",
)
@json_option
def add(name: str, file: Path | None, layers: str | None, timm_model: str | None, as_json: bool) -> None:
    """Keep a copy of FILE (.onnx, .safetensors or .pth) under NAME."""
    from goodparts.backbones import catalogue

    chosen = [layer.strip() for layer in layers.split(",") if layer.strip()] if layers else None
    if timm_model is not None:
        _print_info(_add_from_timm(name, timm_model, chosen or [], file), as_json)
        return
    if file is None:
        raise click.UsageError("FILE is missing: an .onnx, .safetensors or .pth file, or --timm MODEL")
    _print_info(catalogue.add(name, file, chosen), as_json)


def _add_from_timm(name: str, model: str, layers: list[str], weights: Path | None) -> object:
    """Export a network of timm and keep it."""
    import tempfile

    from goodparts.backbones import catalogue
    from goodparts.backbones.backbone import is_path
    from goodparts.engines.runtime import INSTALL, installed

    if not installed("torch"):
        raise BackboneError(f"--timm: PyTorch is not installed: {INSTALL['torch']}")
    from goodparts.torch import from_timm

    extractor, image_size = from_timm(model, layers, weights=weights)
    made = extractor.to_backbone(image_size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{model if not is_path(model) else 'timm'}.onnx")
        path.write_bytes(made.model.SerializeToString())
        return catalogue.add(name, path, list(extractor.layers))


@backbone.command(cls=Command, epilog="\nExample: goodparts backbone export efficientnet_lite0 lite0.onnx")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
def export(name: str, file: Path) -> None:
    """Write a backbone as an ONNX file that says in its metadata how to feed it."""
    from goodparts.backbones import catalogue

    click.echo(f"{catalogue.export(name, file)} written")


@backbone.command(cls=Command, epilog="\nExample: goodparts backbone remove my_vit")
@click.argument("name")
def remove(name: str) -> None:
    """Delete a backbone from this machine; models that were fitted with it keep their own copy."""
    from goodparts.backbones import catalogue

    catalogue.remove(name)
    click.echo(f"backbone {name} removed")


def _print_info(info: object, as_json: bool) -> None:
    from goodparts.backbones.catalogue import BackboneInfo

    assert isinstance(info, BackboneInfo)
    if as_json:
        emit(_record(info))
        return
    click.echo(f"backbone {info.name} is ready: {info.path} ({_size(info.size)})")
    click.echo(wrapped(f"source {info.source}, licence {info.licence}, sha256 {info.sha256}", indent=2))


def _record(info: object) -> dict[str, object]:
    import dataclasses

    record = dataclasses.asdict(info)  # type: ignore[call-overload]
    return {**record, "path": str(record["path"]) if record["path"] else None}


def _size(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.1f} MB"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)

"""`sign`."""

from __future__ import annotations

from pathlib import Path

import click

from goodparts.cli.options import Command, json_option
from goodparts.cli.printing import emit


@click.command(cls=Command, epilog="\nExample: goodparts sign part.goodparts --key release.pem")
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--key", type=click.Path(path_type=Path), help="The private key, in PEM.")
@click.option(
    "--new-key",
    type=click.Path(path_type=Path),
    help="Write a new private key, and beside it the public one, .pub.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Model to write. [default: MODEL itself]")
@json_option
def sign(model: Path | None, key: Path | None, new_key: Path | None, out: Path | None, as_json: bool) -> None:
    """Sign a model, so that others can tell that it is from you; or make the key for that.

    `--require-signature PUBLICKEY.pub`, of the commands that take a model, then refuses any other model. Keep the
    private key where nobody else can read it.
    """
    from goodparts.model import file as model_file
    from goodparts.model import signature

    if new_key is not None:
        if model is not None or key is not None or out is not None:
            raise click.UsageError("--new-key goes alone: make the key, then sign with --key")
        public = signature.new_key(new_key)
        if as_json:
            emit({"key": str(new_key), "public_key": str(public)})
        else:
            click.echo(
                f"Key      {new_key}, which nobody else should have; public key {public}, for those who check"
            )
        return
    if model is None or key is None:
        raise click.UsageError("expected MODEL and --key KEY.pem, or --new-key KEY.pem to make a key")
    path = model_file.sign(model, key, out)
    signed = model_file.read_manifest(path)
    if as_json:
        emit({"model": str(path), "identity": signed["identity"], "signed_by": signed["signed_by"]})
    else:
        identity, by = str(signed["identity"])[:12], str(signed["signed_by"])[:12]
        click.echo(f"Model    {path}, identity {identity}, signed by {by}")

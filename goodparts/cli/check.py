"""`check`, `doctor`, `recipe`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from goodparts.cli.options import (
    Command,
    json_option,
    pixel_limit_option,
    progress_bars,
    strict_option,
    workers_option,
)
from goodparts.cli.printing import emit, wrapped
from goodparts.cli.serve import config_option, settings_options
from goodparts.recipe.recipe import Recipe


@click.command(cls=Command, epilog="\nExample: goodparts check mvtec_ad/metal_nut")
@click.argument("data", type=click.Path(path_type=Path))
@workers_option
@pixel_limit_option
@strict_option
@json_option
def check(data: Path, workers: int | None, pixel_limit: int | None, strict: bool, as_json: bool) -> int:
    """Say what is wrong with a data set before an hour is lost. Exit code 2 if something must be mended."""
    from goodparts.data.check import check_dataset
    from goodparts.data.findings_by_name import strictly

    with progress_bars(as_json) as progress:
        findings = check_dataset(
            data,
            **({"pixel_limit": pixel_limit} if pixel_limit else {}),
            workers=workers,
            progress=lambda done, total: progress("images", done, total),
        )
    if strict:
        findings = [strictly(finding) for finding in findings]
    for finding in findings:
        if as_json:
            record = dataclasses.asdict(finding)
            emit({**record, "paths": [str(path) for path in finding.paths]})
        else:
            click.echo(wrapped(f"{finding.severity:8} {finding.message}", indent=9))
    errors = sum(finding.severity == "error" for finding in findings)
    if not as_json:
        warnings = sum(finding.severity == "warning" for finding in findings)
        notes = len(findings) - errors - warnings
        verdict = f"{errors} to mend, {warnings} to look at." if errors or warnings else "Ready."
        if notes:
            verdict = f"{verdict[:-1]}, {notes} to know."
        click.echo(f"{data}: {verdict}")
    return 2 if errors else 0


@click.command(cls=Command, epilog="\nExample: goodparts doctor")
@click.option("--no-timing", is_flag=True, help="Do not time the default pipeline on each engine and device.")
@click.option("--server", is_flag=True, help="Look at what a service needs: port, database, disk, clock.")
@config_option
@settings_options("host", "port", "data", "database")
@json_option
def doctor(no_timing: bool, server: bool, config: Path | None, as_json: bool, **changes: Any) -> int:
    """Say what this machine offers, how fast, and what to do about each problem.

    Exit code 2 if something must be mended.
    """
    from goodparts.doctor import examine, examine_server

    rows = examine_server(config, changes) if server else examine(timed=not no_timing)
    for row in rows:
        if as_json:
            emit(dataclasses.asdict(row))
            continue
        mark = {"ok": "  ", "note": "i ", "warning": "! ", "error": "X "}[row.status]
        click.echo(f"{mark}{row.name:22} {row.value}")
        if row.advice:
            click.echo(wrapped(f"{'':25}-> {row.advice}", indent=28))
    return 2 if any(row.status == "error" for row in rows) else 0


@click.command(cls=Command, name="recipe", epilog="\nExample: goodparts recipe patchcore > mine.toml")
@click.argument("name", default="default", metavar="[NAME|FILE]")
def recipe_command(name: str) -> None:
    """Print a preset or a recipe file in full, each key explained, to start one's own from."""
    click.echo(Recipe.load(name).to_toml(), nl=False)

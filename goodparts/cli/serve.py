"""`serve`, and `server` with what is done beside a running service."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from goodparts.cli.options import Command, json_option
from goodparts.cli.printing import emit
from goodparts.cli.streams import complain
from goodparts.errors import GoodpartsError
from goodparts.server.checks import missing_packages
from goodparts.server.settings import KEYS, Settings, SettingsError, default_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from goodparts.server.history.database import Database

ROLES = ("operator", "reviewer", "engineer", "administrator")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def settings_options(*names: str) -> Decorator:
    """A flag for each of these settings."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            command = _option(name)(command)
        return command

    return add


def _option(name: str) -> Decorator:
    about, default, kind = KEYS[name].metadata["about"], default_of(name), str(KEYS[name].type)
    if name == "login":
        about = "Ask nobody who it is; the service then listens to this machine only, and whoever uses that may do all."
        return click.option("--no-login", "login", flag_value=False, default=None, type=bool, help=about)
    if default is not None:
        about = (
            f"{about} [default: {default:g}]"
            if isinstance(default, float)
            else f"{about} [default: {default}]"
        )
    types: dict[str, Any] = {"int": int, "float": float}
    return click.option(
        f"--{name.replace('_', '-')}",
        name,
        type=types.get(kind.split(" ")[0], str),
        metavar="N" if kind.startswith(("int", "float")) else "TEXT",
        help=about,
    )


config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="A TOML file with the same settings."
)
place_options = settings_options("data", "database")


@click.command(cls=Command, epilog="\nExample: goodparts serve part.goodparts --data history")
@click.argument("models", type=str, nargs=-1, metavar="[MODEL|FOLDER]...")
@config_option
@settings_options(*(name for name in KEYS if name != "models"))
@click.option(
    "--example", default="part.png", metavar="IMAGE", help="What the printed line for curl hands in."
)
def serve(models: tuple[str, ...], config: Path | None, example: str, **changes: Any) -> None:
    """Inspect images over HTTP, and keep a history of it: a folder with a database and the images, or PostgreSQL.

    Each model serves under the name of its file, and is taken up anew when the file changes; without one, the first is
    learnt in a page of the service. At the first start an administrator's password and a token are made and shown,
    once.
    """
    settings = Settings.load(config, {**changes, "models": models or None})
    _require_packages()
    from goodparts.server.run import serve as run

    run(settings, complain, example=example)


@click.group()
def server() -> None:
    """Beside a service: its database, accounts, and the proof that its history is whole.

    Example: goodparts server audit verify --data history
    """


@server.command(
    cls=Command, epilog="\nExample: goodparts server migrate --database postgresql://user@host/goodparts"
)
@config_option
@place_options
def migrate(config: Path | None, **place: Any) -> None:
    """Bring the history's database to what this version needs; a copy of an older SQLite file is kept beside it."""
    from goodparts.server.history.database import migrate as run

    with _opened(config, place) as database:
        click.echo(run(database))


@server.group()
def audit() -> None:
    """The audit chain: every change of the history, each entry with the hash of the one before.

    Example: goodparts server audit verify --data history --files
    """


@audit.command(cls=Command, epilog="\nExample: goodparts server audit verify --data history --files")
@config_option
@place_options
@click.option(
    "--head", "heads", multiple=True, metavar="N:HASH", help="A head noted earlier; may be given again."
)
@click.option("--files", is_flag=True, help="Read every kept image, too, and compare it with its hash.")
@json_option
def verify(config: Path | None, heads: tuple[str, ...], files: bool, as_json: bool, **place: Any) -> int:
    """Find any change of the history that was not made by the service. Exit code 2 if there is one."""
    from goodparts.server.history.audit import Head
    from goodparts.server.history.audit import verify as run
    from goodparts.server.history.blobs import BlobStore

    settings = Settings.load(config, place)
    blobs = BlobStore(settings.folder / "files")

    def row_fault(row: Mapping[str, Any]) -> str | None:
        if not row["kept"]:
            return None
        for name in ("image_sha256", "findings_sha256"):
            if (files and blobs.read(row[name]) is None) or not blobs.path(row[name]).is_file():
                return f"its file {row[name]} is gone, or not what it was"
        return None

    try:
        known = [Head.read(text) for text in heads]
    except ValueError as error:
        raise SettingsError(f"--head: {error}") from None
    with _ready(config, place) as database, database.snapshot() as connection:
        found = run(connection, known=known, row_fault=row_fault)
    if as_json:
        emit(
            {
                "head": str(found.head),
                "inspections": found.inspections,
                "removed": found.removed,
                "faults": found.faults,
                "more": found.more,
            }
        )
    else:
        for fault in found.faults:
            click.echo(f"X {fault}")
        if found.more:
            click.echo(f"X and {found.more:,} more")
        click.echo(
            f"{found.head.sequence:,} entries, {found.inspections:,} inspections, {found.removed:,} removed by "
            f"retention: {'NOT WHOLE' if found.faults else 'whole'}\nhead {found.head}"
        )
    return 2 if found.faults else 0


@server.group()
def account() -> None:
    """Accounts, without a running service or beside one.

    Example: goodparts server account add mary --role reviewer
    """


_password_option = click.option(
    "--password-file",
    type=click.Path(path_type=Path),
    help="Read the password from there; else it is asked for.",
)
_role_option = click.option("--role", type=click.Choice(ROLES))


@account.command(
    name="add", cls=Command, epilog="\nExample: goodparts server account add mary --role reviewer"
)
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), default="operator", show_default=True)
@_password_option
@config_option
@place_options
def add_account(name: str, role: str, password_file: Path | None, config: Path | None, **place: Any) -> None:
    """Make an account."""
    from goodparts.server.access import accounts

    password = _password(password_file)
    _change(config, place, lambda found: accounts.add(found, "command line", name, password, role))
    click.echo(f"{name}: made, {role}")


@account.command(name="password", cls=Command, epilog="\nExample: goodparts server account password admin")
@click.argument("name")
@_password_option
@config_option
@place_options
def set_password(name: str, password_file: Path | None, config: Path | None, **place: Any) -> None:
    """Give an account a new password; its sessions end."""
    from goodparts.server.access import accounts

    password = _password(password_file)
    _change(config, place, lambda found: accounts.change(found, "command line", name, password=password))
    click.echo(f"{name}: has a new password")


@account.command(name="change", cls=Command, epilog="\nExample: goodparts server account change mary --close")
@click.argument("name")
@_role_option
@click.option("--close/--open", "closed", default=None, help="Whether nobody can log in with it any more.")
@config_option
@place_options
def change_account(
    name: str, role: str | None, closed: bool | None, config: Path | None, **place: Any
) -> None:
    """Give an account another role, or close it; its sessions end."""
    from goodparts.server.access import accounts

    active = None if closed is None else not closed
    row = _change(
        config, place, lambda found: accounts.change(found, "command line", name, role=role, active=active)
    )
    click.echo(f"{name}: {row['role']}, {'open' if row['active'] else 'closed'}")


@account.command(name="list", cls=Command, epilog="\nExample: goodparts server account list")
@config_option
@place_options
@json_option
def list_accounts(config: Path | None, as_json: bool, **place: Any) -> None:
    """List all accounts."""
    from goodparts.server.access import accounts

    with _ready(config, place) as database, database.read() as connection:
        rows = accounts.every(connection)
    for row in rows:
        if as_json:
            emit({name: row[name] for name in ("name", "role", "active")})
        else:
            click.echo(f"{row['name']:24} {row['role']:14} {'open' if row['active'] else 'closed'}")


@contextmanager
def _opened(config: Path | None, place: Mapping[str, Any]) -> Iterator[Database]:
    _require_packages()
    from goodparts.server.history.database import open_database

    settings = Settings.load(config, place)
    with closing(open_database(settings.database, settings.folder)) as database:
        yield database


@contextmanager
def _ready(config: Path | None, place: Mapping[str, Any]) -> Iterator[Database]:
    """A database that is as this version needs it; nothing is made."""
    from goodparts.server.history.database import LATEST, DatabaseError, revision

    with _opened(config, place) as database:
        if (found := revision(database)) != LATEST:
            state = (
                f"is at step {found}, this version needs {LATEST}" if found else "there is no history here"
            )
            raise DatabaseError(
                f"{database.shown}: {state}; give --data or --database, or run `goodparts server migrate`"
            )
        yield database


def _change(config: Path | None, place: Mapping[str, Any], change: Callable[[Any], Any]) -> Any:
    from goodparts.server.faults import Fault
    from goodparts.server.history.writer import transaction

    with _ready(config, place) as database, transaction(database) as found:
        try:
            return change(found)
        except Fault as fault:
            raise SettingsError(fault.message) from None


def _password(file: Path | None) -> str:
    if file is not None:
        try:
            return file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"{file}: can't be read ({getattr(error, 'strerror', None) or error})"
            ) from None
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Once more: ") != password:
        raise SettingsError("the two are not the same; nothing was changed")
    return password


def _require_packages() -> None:
    if missing := missing_packages():
        raise GoodpartsError(
            f"the service needs packages that are not installed ({', '.join(missing)}): pip install 'goodparts[server]'"
        )

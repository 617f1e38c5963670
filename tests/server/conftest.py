"""Services for the tests: one on SQLite, one on PostgreSQL, shared by the tests of a module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from serving import Postgres, Running, postgres_programs, running, settings_for

from goodparts.server.access import accounts


@pytest.fixture(scope="session", autouse=True)
def quick_passwords() -> Iterator[None]:
    """Passwords are hashed as always, with a thousandth of the memory: the tests log in a hundred times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounts, "_HASHER", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL of the tests' own."""
    programs = postgres_programs()
    if programs is None:
        reason = "PostgreSQL is not installed (Debian: apt install postgresql)"
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(reason)
        pytest.skip(reason)
    found = Postgres(programs)
    yield found
    found.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Where the history's database is: None for SQLite, an empty database of PostgreSQL."""
    if request.param == "sqlite":
        return None
    found: Postgres = request.getfixturevalue("postgres")
    return found.new_database()


@pytest.fixture
def fresh_url(url: str | None, request: pytest.FixtureRequest) -> str | None:
    """The same for one test alone."""
    if url is None:
        return None
    found: Postgres = request.getfixturevalue("postgres")
    return found.new_database()


@pytest.fixture(scope="module")
def live(url: str | None, fitted_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with the model `disc`, once on each database."""
    with running(settings_for(fitted_file, tmp_path_factory.mktemp("history"), url)) as found:
        yield found


@pytest.fixture(scope="module")
def lone(fitted_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with the model `disc`, on SQLite only."""
    with running(settings_for(fitted_file, tmp_path_factory.mktemp("history"))) as found:
        yield found

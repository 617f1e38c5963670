"""The public names of `goodparts`: each is there, each comes from where it is said to, and there are no others."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import goodparts

SOURCE = Path(goodparts.__file__).read_text(encoding="utf-8")
FIXED = {"__version__"}  # made when the package is imported, not when they are first used


def test_names_and_homes_agree() -> None:
    assert len(set(goodparts.__all__)) == len(goodparts.__all__)
    assert set(goodparts.__all__) == set(goodparts._HOMES) | FIXED
    assert dir(goodparts) == sorted(goodparts.__all__)


@pytest.mark.parametrize("name", sorted(goodparts._HOMES))
def test_a_name_comes_from_its_home(name: str) -> None:
    home = import_module(f"goodparts.{goodparts._HOMES[name]}")
    assert getattr(goodparts, name) is getattr(home, name)
    defined = getattr(getattr(home, name), "__module__", home.__name__)
    assert defined == home.__name__, f"{name} is defined in {defined}; let _HOMES say so"


def test_types_are_told_the_same() -> None:
    block = next(
        node
        for node in ast.parse(SOURCE).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    told = {
        alias.asname or alias.name: (node.module or "").removeprefix("goodparts.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == goodparts._HOMES


def test_there_is_no_other_public_name() -> None:
    """What the package holds when it has just been imported: public names, modules, and what it needs itself."""
    code = (
        "import types, goodparts\n"
        "print(*[name for name, value in vars(goodparts).items()"
        " if not name.startswith('_') and not isinstance(value, types.ModuleType)])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse(SOURCE))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(run.stdout.split()) - imported == set()


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Inspectors'"):
        _ = goodparts.Inspectors  # type: ignore[attr-defined]

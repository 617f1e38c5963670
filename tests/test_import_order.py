"""The order of import: no module of a room imports one that lies above it, nor one of a room beside it.

Lazy imports and those for types count as much as others: what a file knows of is what its reader has to know of.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "goodparts"
ORDER = (  # lowest first; those of one line do not import each other
    "errors version",
    "files parallel progress",
    "client",
    "recipe",
    "data engines",
    "backbones",
    "preprocessing torch",
    "features",
    "bank",
    "decision",
    "evaluation model",
    "inspector",
    "report",
    "benchmark server fleet",
    "line",
    "doctor",
    "cli",
)
LEVELS = {room: level for level, rooms in enumerate(ORDER) for room in rooms.split()}
APART = {"scale": {"errors", "files", "parallel", "version"}}  # what these rooms may import
ABOVE_APART = {"scale": {"benchmark", "cli", "fleet"}}  # and who may import them

KNOWN: dict[tuple[str, str], str] = {}
"""(module, what it imports): why that is still so. Only ever shorter."""


def modules(package: Path) -> dict[str, Path]:
    """Every module by its name below `goodparts`; those of the package itself aside, which hand out public names."""
    found = {
        ".".join(path.relative_to(package).with_suffix("").parts): path for path in package.rglob("*.py")
    }
    return {name.removesuffix(".__init__"): path for name, path in found.items() if not name.startswith("__")}


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """What a file imports of this package, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if (
            isinstance(node, ast.ImportFrom)
            and not node.level
            and (node.module or "").split(".")[0] == "goodparts"
        ):
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}".removeprefix("goodparts.")
                yield dotted if dotted in known else (node.module or "").removeprefix("goodparts").lstrip(".")
        elif isinstance(node, ast.Import):
            yield from (
                alias.name.removeprefix("goodparts.")
                for alias in node.names
                if alias.name.startswith("goodparts.")
            )


def allowed(room: str, other: str) -> bool:
    """Whether a module of a room may import one of another room."""
    if room == other:
        return True
    if room in APART:
        return other in APART[room]
    if other in APART:
        return room in ABOVE_APART[other]
    return LEVELS[other] < LEVELS[room]


def violations(package: Path = PACKAGE) -> set[tuple[str, str]]:
    """Every import that goes up or aside: (module, what it imports); "" is the package itself."""
    known = modules(package)
    found = set()
    for name, path in known.items():
        for other in imported(path, known):
            if not other or not allowed(name.split(".")[0], other.split(".")[0]):
                found.add((name, other))
    return found


def test_every_module_has_a_room() -> None:
    rooms = {name.split(".")[0] for name in modules(PACKAGE)}
    assert rooms <= {*LEVELS, *APART}, "say in ORDER where this room lies"


def test_nothing_imports_upwards() -> None:
    found = violations()
    assert found - set(KNOWN) == set(), "imports that go up or aside: move what is needed down, or pass it in"
    assert set(KNOWN) - found == set(), "cured: take it out of KNOWN"


def test_no_modules_import_each_other_in_a_circle() -> None:
    known = modules(PACKAGE)
    graph = {
        name: {other for other in imported(path, known) if other in known and (name, other) not in KNOWN}
        for name, path in known.items()
    }
    order = list(TopologicalSorter(graph).static_order())  # CycleError names the circle
    assert set(order) == set(known)

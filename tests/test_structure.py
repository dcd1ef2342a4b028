"""The house: imports of src/bootdiff run downwards, without circles; files are short; `import bootdiff` is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "bootdiff"
MOST_LINES = 500

FLOORS = [
    ["errors"],
    ["hub", "paths", "processes"],
    ["noise", "settings", "spec"],
    ["views", "nets", "denoise"],
    ["distributions", "guidance", "moments", "pretrained"],
    ["data"],
    ["training"],
    ["schedulers"],
    ["sampling"],
    ["restoration"],
    ["method"],
    ["serialization"],
    ["card", "saved_scheduler", "verification"],
    ["pipeline", "recipe"],
    ["evaluation", "forecast", "tools"],
    ["cli"],
    ["api", "__main__"],
]
"""Modules and packages of bootdiff, from the bottom to the top: each may import what stands on its floor or below."""

FLOOR = {name: k for k, floor in enumerate(FLOORS) for name in floor}


def modules(source: Path) -> dict[str, Path]:
    """Every module below a package's folder by its name in it; a package by its own, the package itself by ""."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: Mapping[str, Path]) -> Iterator[tuple[str, int]]:
    """What a module imports of its own package, as (module, line): statements in functions and TYPE_CHECKING, too.

    `from bootdiff.data import Batches` imports the module `data`, `from bootdiff import data` as well.
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "bootdiff" or alias.name.startswith("bootdiff."):
                    yield alias.name.removeprefix("bootdiff").removeprefix("."), node.lineno
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                parts = package.split(".") if package else []
                base = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
            elif node.module == "bootdiff" or (node.module or "").startswith("bootdiff."):
                base = (node.module or "").removeprefix("bootdiff").removeprefix(".")
            else:
                continue
            for alias in node.names:
                whole = f"{base}.{alias.name}".removeprefix(".")
                # A name that the face of the package hands on is no import of the modules above.
                yield (whole if whole in known else base or f":{alias.name}"), node.lineno


KNOWN = modules(SOURCE)
IMPORTS = [(name, other, line) for name, path in KNOWN.items() for other, line in imports(name, path, KNOWN)]
"""(importer, imported, line) of all of src/bootdiff; names that the face hands on begin with ":"."""


def floor(name: str) -> int:
    """The face of the package hands on everything: it stands above all."""
    return FLOOR[name.split(".")[0]] if name else len(FLOORS)


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Circles of a graph, one for each edge that closes one in a walk from every node.

    >>> circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})
    [['a', 'b', 'c', 'a']]
    """
    found, done = [], set()

    def walk(node: str, path: list[str]) -> None:
        if node in path:
            found.append([*path[path.index(node) :], node])
            return
        if node in done:
            return
        for other in sorted(edges.get(node, ())):
            walk(other, [*path, node])
        done.add(node)

    for node in sorted(edges):
        walk(node, [])
    return found


def test_every_module_has_a_floor():
    there = {name.split(".")[0] for name in KNOWN} - {""}
    assert there == set(FLOOR)


def test_imports_run_only_downwards():
    upwards = {(a, b): line for a, b, line in IMPORTS if not b.startswith(":") and floor(b) > floor(a)}
    assert [f"{KNOWN[a].name}:{line}: {a} imports {b}" for (a, b), line in upwards.items()] == []


def test_nothing_below_the_recipe_imports_it():
    importers = {(a, b) for a, b, _ in IMPORTS if b.split(".")[0] == "recipe" and floor(a) < FLOOR["recipe"]}
    assert importers == set()


def test_the_door_for_python_takes_of_the_command_line_its_reports_alone():
    taken = {b for a, b, _ in IMPORTS if a == "api"}
    assert {b for b in taken if b.split(".")[0] == "cli"} <= {name for name in KNOWN if name.startswith("cli.report.")}
    assert not any(b.split(".")[0] == "recipe" for b in taken)
    assert [a for a, b, _ in IMPORTS if b == "api"] == []


def test_nobody_inside_imports_what_the_face_hands_on():
    """`from bootdiff import sample` inside bootdiff would close a circle through the face; its version is harmless."""
    assert {b for _, b, _ in IMPORTS if b.startswith(":")} <= {":__version__"}
    assert [(a, line) for a, b, line in IMPORTS if b == ""] == []


def test_there_is_no_import_circle():
    edges: dict[str, set[str]] = {}
    for a, b, _ in IMPORTS:
        if b in KNOWN and a != b:
            edges.setdefault(a, set()).add(b)
    assert circles(edges) == []


def test_files_are_short():
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in KNOWN.items()}
    assert {name: n for name, n in lines.items() if n > MOST_LINES} == {}


@pytest.mark.parametrize("statement", ["import bootdiff", "import bootdiff; dir(bootdiff); bootdiff.BootdiffError"])
def test_importing_the_library_loads_nothing_heavy(statement):
    program = f"import sys; {statement}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert "bootdiff" in loaded
    assert {"torch", "numpy", "scipy", "diffusers", "pydantic", "typer", "PIL", "matplotlib"} & set(loaded) == set()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import bootdiff.method.stages", {"method.stages"}),
        ("def f():\n    from bootdiff.recipe import schema", {"recipe.schema"}),
        ("if TYPE_CHECKING:\n    from bootdiff.recipe.schema import Recipe", {"recipe.schema"}),
        ("from bootdiff import data, sample", {"data", ":sample"}),
        ("from . import losses", {"method.losses"}),
        ("from .losses import SampleSet", {"method.losses"}),
        ("from ..recipe.schema import Recipe", {"recipe.schema"}),
        ("import bootdifference, torch", set()),
    ],
)
def test_every_way_to_import_is_seen(tmp_path, source, found):
    path = tmp_path / "made.py"
    path.write_text(source)
    assert {name for name, _ in imports("method.made", path, KNOWN)} == found

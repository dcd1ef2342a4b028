"""`bootdiff theory` and `bootdiff bench` are commands of the checkout, and the library knows of them in one place."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli_calls import call
from experiments.scripts.results import ROOT

SOURCE = ROOT / "src" / "bootdiff"


def test_both_commands_are_in_the_help_of_the_checkout():
    text = call("--help").stdout
    for name, words in (("theory", "Test the theory"), ("bench", "Is it better than everything else")):
        assert any(name in line and words in line for line in text.splitlines()), text


@pytest.mark.parametrize("name", ["theory", "bench"])
def test_each_has_its_own_help(name):
    result = call(name, "--help")
    assert result.exit_code == 0
    assert f"bootdiff {name}" in result.stdout


def test_an_installed_library_has_neither(tmp_path):
    """The same source without a checkout around it."""
    shutil.copytree(SOURCE, tmp_path / "bootdiff", ignore=shutil.ignore_patterns("__pycache__"))
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); from bootdiff.cli.main import main; main(['--help'])"
    help_text = subprocess.run(
        [sys.executable, "-I", "-c", program, str(tmp_path)], check=True, capture_output=True, text=True, cwd=tmp_path
    ).stdout
    assert "restore" in help_text
    assert "theory" not in help_text
    assert "bench " not in help_text


def test_the_help_of_the_checkout_loads_nothing_heavy():
    program = "import sys, bootdiff.cli.main; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert {"bootdiff", "experiments"} <= set(loaded)
    assert {"torch", "numpy", "scipy", "matplotlib", "sklearn", "diffusers"} & set(loaded) == set()


def mentions(path: Path) -> list[str]:
    """Where a file imports `experiments` or names one of its modules: the function around it, "" for none."""
    found = []

    def walk(node: ast.AST, around: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            around = node.name
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
        found.extend([around] * sum(name == "experiments" or name.startswith("experiments.") for name in names))
        for child in ast.iter_child_nodes(node):
            walk(child, around)

    walk(ast.parse(path.read_text(encoding="utf-8")), "")
    return found


def test_the_library_names_experiments_in_one_place_only():
    found = {path.relative_to(SOURCE).as_posix(): mentions(path) for path in SOURCE.rglob("*.py")}
    assert {name: set(where) for name, where in found.items() if where} == {"cli/main.py": {"_add_experiments"}}

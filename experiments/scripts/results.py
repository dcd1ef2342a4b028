"""Where the scripts read and write, and what every result says of how it was made.

All paths are those of the checkout that this file lies in, wherever a script is called.
"""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bootdiff.training.files import atomic_write_json, atomic_write_text
from experiments.benchmark.tables import fill

__all__ = [
    "DATA",
    "RECIPES",
    "RESULTS",
    "ROOT",
    "command",
    "documents",
    "insert",
    "outdated",
    "versions",
    "write_result",
]

ROOT = Path(__file__).parents[2]
DATA, RECIPES, RESULTS = (ROOT / "experiments" / name for name in ("data", "recipes", "results"))
_PACKAGES = ("bootdiff", "torch", "numpy", "diffusers", "accelerate")


def command(script: str, arguments: Sequence[str]) -> str:
    """The call of a script, as a shell takes it.

    >>> command("speed", ["loop", "--out", "my results/loop.json"])
    "python -m experiments.scripts.speed loop --out 'my results/loop.json'"
    """
    return shlex.join(["python", "-m", f"experiments.scripts.{script}", *arguments])


def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}


def write_result(path: Path | None, script: str, arguments: Sequence[str], result: Mapping[str, Any]) -> None:
    """Write a result as JSON, with the name of its script, its call and the versions; nothing without a path."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"command": command(script, arguments), "versions": versions()}
    atomic_write_json(path, {"benchmark": script, **result, **about})


def documents(root: Path = ROOT) -> list[Path]:
    """README.md and the pages of docs/."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def outdated(made: Mapping[str, str], root: Path = ROOT) -> dict[Path, str]:
    """The documents in which a table differs from what was made now: path -> what should stand there.

    Args:
        made: name of the table, as in `<!-- table NAME -->`, -> Markdown.
    """
    before = {path: path.read_text(encoding="utf-8") for path in documents(root)}
    after = {path: fill(text, made) for path, text in before.items()}
    return {path: text for path, text in after.items() if text != before[path]}


def insert(made: Mapping[str, str], root: Path = ROOT) -> list[Path]:
    """Write each table between its markers, in every document that has them; returns the documents that changed."""
    changed = outdated(made, root)
    for path, text in changed.items():
        atomic_write_text(path, text)
    return list(changed)

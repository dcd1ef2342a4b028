"""`bootdiff theory`: the paper's claims, tested."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["theory"]


def theory(
    only: Annotated[
        list[int] | None, typer.Option(min=1, help="Only the experiment of this number; may be given several times.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where to write.")] = Path("runs/theory"),
    fast: Annotated[bool, typer.Option("--fast", help="Fewer draws and settings: seconds instead of minutes.")] = False,
) -> None:
    """Test the theory: the paper's claims on laws whose denoisers are known exactly.

    Writes figures, results.json and index.html, a page with everything. Takes a few minutes; the exit code is 1 when a
    claim does not hold.

    bootdiff theory
    bootdiff theory --only 3 --only 8 --out theory/
    """
    from bootdiff.cli.console import Console
    from experiments.theory.page import run_experiments

    screen = Console()
    holds = run_experiments(only or (), out, screen, fast)
    screen.print(f"Look at {out / 'index.html'}", "bold")
    if not holds:
        raise typer.Exit(1)

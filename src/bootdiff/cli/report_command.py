"""`bootdiff report`: the page of a run, or of several beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bootdiff.errors import BootdiffError

__all__ = ["report"]


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="The page to write. Default: report.html in the run; of several runs, comparison.html here."),
    ] = None,
) -> None:
    """Write a run's report, or compare several runs in one page.

    A page is one file that needs nothing else: open it in a browser, or send it to someone. Training writes report.html
    by itself, again and again; this brings it up to date, also beside a training.

    bootdiff report runs/mine
    bootdiff report runs/mine runs/other --out comparison.html
    """
    from bootdiff.cli.console import Console
    from bootdiff.cli.report import comparison, page
    from bootdiff.cli.report.run_facts import RunFacts
    from bootdiff.training.files import atomic_write_text

    facts = [RunFacts.read(run) for run in runs]  # all of them, before anything is written
    if out is not None and (out.is_dir() or out.suffix.lower() not in (".html", ".htm")):
        raise BootdiffError(f"--out {out}: the report is one page: give the name of a file that ends in .html")
    screen = Console()
    if len(facts) == 1:
        where, text = out or facts[0].path / page.FILE, page.build(facts[0])
    else:
        where, text = out or Path("comparison.html"), comparison.build(facts)
    where.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(where, text)
    for one in facts:
        for note in one.notes:
            screen.print(f"not shown: {one.path.name}: {note}", "yellow")
    screen.print(f"Look at {where}", "bold")

"""`bootdiff verify`: are the files of a run or of a saved model as they were written?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bootdiff.errors import BootdiffError

__all__ = ["verify"]


def verify(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="A run, or a saved model.", show_default=False),
    ],
) -> None:
    """Check every file of a run or of a saved model.

    Compares each file with its checksum, names those that are damaged or lost, and says how to make just these again.
    Reads everything, writes nothing. Ends with exit code 2 where something is damaged. Not while the run is trained.

    bootdiff verify runs/mine
    bootdiff verify runs/mine/bootdiff
    """
    from bootdiff.cli.console import Console
    from bootdiff.verification import verify as look

    screen, found = Console(), look(folder)
    for one in found.findings:
        if one.state == "unverified":
            screen.print(f"{one.file}: {one.text}", "yellow")
    for one in found.damaged:
        screen.print(f"damaged: {one.text}", "red")
    if found.damaged:
        names = ", ".join(dict.fromkeys(one.file for one in found.damaged))
        raise BootdiffError(f"{folder}: {len(found.damaged)} of {found.checked} files are damaged or lost: {names}")
    screen.print(f"{found.checked} files are as they were written", "bold")

"""`bootdiff ui`: a web page on this machine to look at runs, draw, restore and train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bootdiff.cli.options import Device
from bootdiff.errors import BootdiffError

__all__ = ["ui"]


def ui(
    runs: Annotated[Path, typer.Argument(metavar="[RUNS]", help="The folder of the runs, or a run.")] = Path("runs"),
    data: Annotated[
        Path | None,
        typer.Option(help="The folder of data and recipes, the only one that new ones are made of. Default: this one."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to serve at. Any but the default lets others use the page, too.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The port. Default: 7860, or the next one that is free.")
    ] = None,
    device: Device = None,
) -> None:
    """Look at runs, draw, restore and train in a web page.

    Serves a page on this machine until Ctrl-C: every run's report; samples, and how they come out of the noise, with
    who decides at each level; partial pictures completed; recipes made from folders, checked and trained.

    bootdiff ui
    bootdiff ui runs/mine --port 8000
    """
    from bootdiff.cli.console import Console
    from bootdiff.cli.webui import serve

    serve.need_gradio()
    home = data or Path(".")
    if not home.is_dir():
        raise BootdiffError(f"--data {home}: no such folder; give the one that your folders of samples lie in")
    if runs.exists() and not runs.is_dir():
        raise BootdiffError(f"{runs}: not a folder; give the folder of the runs, or a run")
    serve.serve(runs, home, host, port, device, Console())

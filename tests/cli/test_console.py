"""What is on screen while a network trains."""

from __future__ import annotations

import io

from rich.console import Console as RichConsole

from bootdiff.cli.console import Console
from bootdiff.training.state import Progress


def shown(terminal, **options):
    file = io.StringIO()
    screen = Console(RichConsole(file=file, force_terminal=terminal, width=120, color_system=None), **options)
    screen.expect(["full-unet", "full-local"])
    for step in (1, 50, 99, 100, 100):
        screen(Progress("full-local", step, 100, 0.4321, 1234.6, 75.0))
    screen.print("full-local: [done]")
    screen.clear()
    return file.getvalue()


def test_a_terminal_gets_a_bar():
    text = shown(True)
    assert "full-local (2 of 2)" in text
    assert "loss 0.4321  1,235 images/s  1:15 left" in text
    assert "100/100" in text
    # brackets are text, not markup
    assert "full-local: [done]" in text


def test_a_log_gets_a_line_now_and_then():
    lines = shown(False).splitlines()
    assert [line.split()[4] for line in lines[:-1]] == ["1/100", "100/100"]  # where it begins and ends
    assert lines[-2:] == ["full-local (2 of 2): 100/100  loss 0.4321  1,235 images/s  1:15 left", "full-local: [done]"]
    # the last step is told twice
    every = shown(False, every=0.0).splitlines()
    assert [line.split()[4] for line in every[:-1]] == ["1/100", "50/100", "99/100", "100/100"]


def test_other_processes_are_silent():
    assert shown(False, quiet=True) == ""

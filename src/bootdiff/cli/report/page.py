"""report.html: a run in one self-contained page, written from what lies in its folder and from nothing else.

    write(folder)       RUN/report.html
    build(facts)        what the page says, section by section (`html`): of each, what the run has of it

A section whose files are not as bootdiff writes them is left out and said so; the others are shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bootdiff.cli.console import clock
from bootdiff.cli.report import html, sections
from bootdiff.cli.report.html import Block, Section
from bootdiff.cli.report.run_facts import RunFacts
from bootdiff.training.files import atomic_write_text

__all__ = ["FILE", "build", "write"]

FILE = "report.html"

_SECTIONS: dict[str, tuple[str, Callable[[RunFacts], list[Block]]]] = {
    "data": ("The data", sections.data),
    "result": ("The result", sections.result),
    "samples": ("Samples", sections.samples),
    "over-time": ("Samples over time", sections.over_time),
    "who-decides": ("Who decides at which noise", sections.who_decides),
    "views": ("What each view is worth", sections.views),
    "curves": ("Learning curves", sections.curves),
    "stages": ("The networks", sections.stages),
    "cost": ("Cost", sections.cost),
    "use": ("How to use the model", sections.use),
}


def write(folder: str | Path) -> Path:
    """Write a run's report (atomically); returns where.

    Raises:
        BootdiffError: no run there, or no room on the disk.
        OSError: the folder cannot be written.
    """
    facts = RunFacts.read(folder)
    path = facts.path / FILE
    atomic_write_text(path, build(facts))
    return path


def build(facts: RunFacts) -> str:
    """The page of a run, as HTML."""
    standing = {"stages": ("Where it stands", sections.stages)}
    parts = _SECTIONS if facts.finished else {**standing, **_SECTIONS, **standing}  # what is read first, first
    found = [Section(name, title, guarded(facts, title, make)) for name, (title, make) in parts.items()]
    lead = guarded(facts, "The summary", sections.lead)
    figures, end = guarded(facts, "The figures", sections.figures), guarded(facts, "The end", made)
    return html.render(
        title=facts.name, lead=lead, badge=sections.badge(facts), facts=figures, notes=facts.notes,
        sections=[section for section in found if section.blocks], made="".join(end),
    )  # fmt: skip


def guarded(facts: RunFacts, title: str, make: Callable[[RunFacts], list[Any]]) -> list[Any]:
    """What `make` finds; nothing, and a note, where the run's files do not hold what it needs."""
    try:
        return make(facts)
    except Exception as error:  # a damaged file may hold anything; the other sections are worth showing
        facts.note(f"{title}: a file of the run does not hold what bootdiff writes ({type(error).__name__}: {error})")
        return []


def made(facts: RunFacts) -> list[str]:
    """When and by what, in a sentence or two."""
    versions = facts.provenance[-1].get("versions", {}) if facts.provenance else {}
    of = ", ".join(
        f"{name} {version}" for name, version in versions.items() if version and name in ("bootdiff", "torch")
    )
    spent = sum(stage.seconds for stage in facts.stages)
    when = time.strftime("%Y-%m-%d %H:%M %Z")
    after = f"after {clock(spent)} of training{f', by {of}' if of else ''}"
    return [f"Written by bootdiff {when}, {after}. Everything is in this file."]

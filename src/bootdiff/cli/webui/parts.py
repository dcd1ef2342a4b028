"""What the page's parts share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from bootdiff.cli.report import words
from bootdiff.cli.webui import markup
from bootdiff.cli.webui.models import Models, RunInfo
from bootdiff.cli.webui.processes import Commands
from bootdiff.cli.webui.site import Listing, Site
from bootdiff.cli.webui.work import Desk, Told

__all__ = ["EVENT", "Shared", "arm_choices", "class_choices", "halt", "run_choices", "session", "told_html"]

EVENT: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class Shared:
    """The site and what is computed for it, of all browsers together. folder: for files that are handed out."""

    site: Site
    desk: Desk
    models: Models
    commands: Commands
    folder: Path


def session(request: gr.Request | None) -> str:
    """The browser's session."""
    return (request.session_hash if request is not None else None) or "page"


def run_choices(listing: Listing, current: str | None) -> Any:
    """The runs to choose from, with what is chosen, where it is still there."""
    choices = [(f"{run.name}: {run.state}", run.name) for run in listing.good]
    names = [name for _, name in choices]
    value = current if current in names else next(iter(names), None)
    shown = len(listing.runs)
    info = f"{listing.found} found, newest first" if shown == listing.found else (
        f"the newest {shown} of {listing.found}; search for others"
    )  # fmt: skip
    if listing.bad:
        info += f"; {len(listing.bad)} cannot be used, see All runs"
    return gr.update(choices=choices, value=value, info=info)


def arm_choices(info: RunInfo) -> Any:
    """The trained arms; bootdiff first."""
    arms = sorted(info.arms, key=lambda arm: arm != "bootdiff")
    return gr.update(choices=[(words.arm(arm), arm) for arm in arms], value=next(iter(arms), None))


def class_choices(info: RunInfo) -> Any:
    """The classes, where there are any."""
    return gr.update(choices=["any", *info.classes], value="any", visible=bool(info.classes))


def told_html(told: Told, what: str) -> str:
    """How a computation stands."""
    if told.waiting:
        return markup.note("Waiting: the page computes for a different browser.", bad=False)
    said = f"{what}: step {told.step} of {told.of}" if told.of else f"{what}: loading the model"
    return markup.progress(told.step, told.of, said)


def halt(shared: Shared) -> Callable[..., None]:
    """What a button does that stops the session's computation."""

    def stop(request: gr.Request) -> None:
        shared.desk.stop(session(request))

    return stop

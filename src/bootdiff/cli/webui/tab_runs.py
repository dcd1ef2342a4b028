"""The runs, each with how it stands, and the report of the one that is chosen."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr
from markupsafe import Markup

from bootdiff.cli.webui import markup
from bootdiff.cli.webui.parts import EVENT, Shared
from bootdiff.cli.webui.site import Listing, ago
from bootdiff.errors import BootdiffError

__all__ = ["build", "report", "table"]


def build(shared: Shared, run: gr.Dropdown) -> gr.HTML:
    """The part; returns where the list stands."""
    with gr.Accordion("All runs", open=False):
        runs = gr.HTML()
    show = gr.Button("Show the report anew", size="sm", min_width=180)
    page = gr.HTML()
    for event in (run.change, show.click):
        event(lambda name: report(shared, name), [run], [page], **EVENT)
    return runs


def report(shared: Shared, name: str | None) -> str:
    """The report of a run in a frame, or what is wrong."""
    if not name:
        where = shared.site.runs.resolve().name
        return markup.note(f"There is no run in {where}/ to show. Train one: part New, or bootdiff fit.", bad=False)
    try:
        return markup.frame(shared.site.report(name), f"Report of {name}")
    except (BootdiffError, OSError) as error:
        return markup.note(str(error))


def table(listing: Listing) -> str:
    """The runs and how they stand; those that cannot be used in a line each."""
    now = time.time()
    rows: list[Any] = [
        Markup('<tr><th scope="row">{}</th><td>{}</td><td>{}</td></tr>').format(
            run.name, run.state, ago(now - run.changed)
        )
        for run in listing.good
    ]
    parts: list[Markup] = []
    if rows:
        cells = (Markup('<th scope="col">{}</th>').format(name) for name in ("run", "how it stands", "changed"))
        head = Markup("<thead><tr>{}</tr></thead>").format(Markup("").join(cells))
        parts.append(Markup("<table>{}<tbody>{}</tbody></table>").format(head, Markup("").join(rows)))
    elif not listing.bad:
        parts.append(markup.text("No run was found."))
    if listing.found > len(listing.runs):
        parts.append(markup.text(f"The newest {len(listing.runs)} of {listing.found}; search for others.", soft=True))
    if listing.bad:
        parts.append(Markup("<h3>Not usable</h3>"))
        parts.append(markup.bullets(run.line for run in listing.bad))
    return markup.block(*parts)

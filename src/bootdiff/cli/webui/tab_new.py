"""From folders to a run: a recipe, its check and plan, and the training, each a command that is followed here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup
from PIL import Image

from bootdiff.cli.console import clock
from bootdiff.cli.report import page
from bootdiff.cli.webui import markup
from bootdiff.cli.webui.parts import EVENT, Shared
from bootdiff.cli.webui.processes import Command
from bootdiff.errors import BootdiffError

__all__ = ["build", "command_html", "pictures"]

_SELDOM = 20.0  # seconds between reports: who reads one is put back to its top

_ARMS = [("bootdiff", "bootdiff"), ("full only, to compare", "full_only"), ("views only", "views_only")]


def build(shared: Shared) -> tuple[Any, list[Any], list[Any]]:
    """The part; returns what it asks for when the page opens: function, inputs, outputs."""
    where = shared.site.data.resolve().name or "/"
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            gr.HTML(markup.block(Markup("<h3>A recipe for folders</h3>"), markup.text(
                f"Folders and arrays below {where}/. Some files of each are looked at, and what they show of a full "
                "sample is written down.", soft=True,
            )))  # fmt: skip
            name = gr.Textbox(label="Name", placeholder="mine", max_lines=1)
            full = gr.Dropdown(label="Full samples (a few)", choices=[], allow_custom_value=True, value=None)
            partial = gr.Dropdown(
                label="Partial samples (many), a folder of each kind", choices=[], multiselect=True,
                allow_custom_value=True,
            )  # fmt: skip
            kind = gr.Dropdown(
                label="Kind",
                choices=["as the files say", "image", "video", "signal", "vector"],
                value="as the files say",
            )
            write = gr.Button("Look, and write the recipe", variant="primary")
            gr.HTML(markup.block(Markup("<h3>Check, plan, train</h3>")))
            with gr.Row():
                recipe = gr.Dropdown(label="Recipe", choices=[], value=None, scale=3)
                again = gr.Button("Refresh", scale=0, min_width=100, size="sm")
            with gr.Row():
                check = gr.Button("Check", min_width=80)
                plan = gr.Button("Plan", min_width=80)
            with gr.Row():
                arms = gr.CheckboxGroup(_ARMS, value=["bootdiff"], label="Train")
                steps = gr.Number(0, label="Steps", info="0: as the recipe says", precision=0, minimum=0)
            with gr.Row():
                fit = gr.Button("Train", variant="primary", min_width=110)
                stop = gr.Button("Stop", min_width=80)
        with gr.Column(scale=3, min_width=340):
            status = gr.HTML()
            log = gr.HTML()
            shown = gr.HTML()
            text = gr.Code(label="The recipe", language="yaml", interactive=True, lines=6, max_lines=40)
            save = gr.Button("Save the recipe", size="sm")
    with gr.Accordion("Report of the training, as it stands", open=True):
        frame = gr.HTML()
    timer = gr.Timer(1.0, active=False)
    stamp = gr.State(0.0)
    written = gr.State("")  # the recipe and its file's time that `text` was filled from
    seen = [log, shown, text, frame, stamp, written, timer]

    def offered(current: str | None) -> list[Any]:
        folders = shared.site.folders_of_data()
        names = shared.site.recipes()
        value = current if current in names else next(iter(names), None)
        return [gr.update(choices=folders), gr.update(choices=folders), gr.update(choices=names, value=value)]

    def follow(chosen: str | None, last: float, filled: str) -> list[Any]:
        """How the command for a recipe stands; what is being written into the recipe stays."""
        if not chosen:
            return ["", "", "", "", 0.0, "", gr.Timer(active=False)]
        shared.commands.settle(chosen)
        command = shared.commands.of(chosen)
        going = command is not None and command.running
        report, changed = _report(shared, chosen, last, _SELDOM if going else 0.0)
        recipe_text, now = _text(shared, chosen, filled)
        return [
            "" if command is None else command_html(command), pictures(shared, chosen), recipe_text, report, changed,
            now, gr.Timer(active=going),
        ]  # fmt: skip

    def begin(what: str) -> Any:
        def start(chosen: str | None, arms: list[str], steps: float | None) -> list[Any]:
            try:
                if not chosen:
                    raise BootdiffError("choose a recipe first, or write one")
                if what == "fit":
                    changes = [] if not steps else [f"training.steps={int(steps)}"]
                    shared.commands.fit(chosen, arms or ["bootdiff"], changes)
                else:
                    (shared.commands.check if what == "check" else shared.commands.plan)(chosen)
            except (BootdiffError, OSError) as error:
                return [markup.note(str(error)), gr.skip()]
            return ["", gr.Timer(active=True)]

        return start

    def new(name: str, full: str | None, partial: list[str] | None, kind: str) -> list[Any]:
        try:
            command = shared.commands.new(name, full or "", partial or [], "" if kind == "as the files say" else kind)
        except (BootdiffError, OSError) as error:
            return [markup.note(str(error)), gr.skip(), gr.skip()]
        names = list(dict.fromkeys([command.name, *shared.site.recipes()]))
        return ["", gr.update(choices=names, value=command.name), gr.Timer(active=True)]

    def halted(chosen: str | None) -> str:
        command = shared.commands.of(chosen or "")
        if command is None or not command.running:
            return markup.note("Nothing runs that was started here.", bad=False)
        shared.commands.stop(command.name)
        return markup.note("Stopping; a training writes down where it is, and Train goes on from there.", bad=False)

    again.click(offered, [recipe], [full, partial, recipe], **EVENT)
    write.click(new, [name, full, partial, kind], [status, recipe, timer], **EVENT)
    for button, what in ((check, "check"), (plan, "plan"), (fit, "fit")):
        button.click(begin(what), [recipe, arms, steps], [status, timer], **EVENT)
    stop.click(halted, [recipe], [status], **EVENT)
    timer.tick(follow, [recipe, stamp, written], seen, **EVENT)

    def turned(chosen: str | None) -> list[Any]:
        return follow(chosen, 0.0, "")

    def saved(chosen: str | None, now: str) -> list[Any]:
        try:
            if not chosen:
                raise BootdiffError("choose a recipe first, or write one")
            shared.commands.save(chosen, now)
        except (BootdiffError, OSError) as error:
            return [markup.note(str(error)), gr.skip()]
        return [markup.note(f"{chosen}.yaml is saved. Check looks at it anew.", bad=False), _time(shared, chosen)]

    save.click(saved, [recipe, text], [status, written], **EVENT)

    recipe.change(turned, [recipe], seen, **EVENT)
    return offered, [recipe], [full, partial, recipe]


def command_html(command: Command) -> str:
    """A command, what it printed, and how it ended."""
    code = command.code
    if code is None:
        said = f"running for {clock(command.seconds)}"
    else:
        ends = {0: "done", 2: "not possible: see the last lines", 130: "interrupted; the same goes on from there"}
        said = f"{ends.get(code, f'ended with {code}')}, after {clock(command.seconds)}"
    line = Markup('<p role="status"><strong>{}</strong>: {}</p>').format(command.shown, said)
    out = Markup(
        '<div class="log" tabindex="0" role="region" aria-label="What the command printed"><pre>{}</pre></div>'
    ).format(command.text() or "...")
    return markup.block(line, out)


def pictures(shared: Shared, name: str) -> str:
    """The views beside full samples, and the plan, of what `check`, `plan` and `fit` have written."""
    try:
        folder = shared.site.new_run(name)
    except BootdiffError:
        return ""
    views = "Full samples, each view of them, and the view's own files: the last two should look alike"
    found = []
    for paths, alt in (
        ((folder / "check" / "views.png", folder / "views.png"), views),
        ((folder / "plan" / "plan.png",), "What each view is forecast to be worth at each noise level"),
    ):
        path = next((path for path in paths if path.is_file()), None)
        if path is not None:
            try:
                with Image.open(path, formats=["PNG"]) as image:
                    found.append(markup.figure(image.convert("RGB"), alt))
            except (OSError, ValueError):  # being written
                continue
    return markup.block(*found) if found else ""


def _time(shared: Shared, name: str) -> str:
    return f"{name} {shared.site.recipe(name).stat().st_mtime_ns}"


def _text(shared: Shared, name: str, filled: str) -> list[Any]:
    """A recipe and when it was written, where that is not `filled`."""
    try:
        now = _time(shared, name)
        return [gr.skip() if now == filled else shared.site.recipe_text(name), now]
    except (BootdiffError, OSError, ValueError) as error:
        return [f"# {error}", ""]


def _report(shared: Shared, name: str, last: float, seldom: float) -> tuple[Any, float]:
    """The run's own report, where it was written since, by so many seconds."""
    try:
        path: Path = shared.site.new_run(name) / page.FILE
        changed = path.stat().st_mtime
        if changed == last or 0 < changed - last < seldom:
            return gr.skip(), last
        return markup.frame(path.read_text(encoding="utf-8"), f"Report of {name}"), changed
    except (BootdiffError, OSError, ValueError):
        return "", 0.0

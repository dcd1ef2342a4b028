"""Draw samples, and watch how they come out of the noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
from markupsafe import Markup

from bootdiff.cli.report.writers import default_suffix, write_samples
from bootdiff.cli.webui import drawing, markup
from bootdiff.cli.webui.drawing import Drawn, Frame, Voices, Wish
from bootdiff.cli.webui.parts import EVENT, Shared, arm_choices, class_choices, halt, session, told_html
from bootdiff.cli.webui.work import Stopped
from bootdiff.errors import BootdiffError
from bootdiff.sampling import SOLVERS

__all__ = ["build"]


def build(shared: Shared, run: gr.Dropdown) -> None:
    """The part."""
    state = gr.State(None, time_to_live=3600)
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            arm = gr.Dropdown(label="Model", choices=[])
            count = gr.Slider(1, drawing.MOST, 16, step=1, label="Samples")
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, info="sample i depends on seed and i alone")
            steps = gr.Slider(2, 100, 40, step=1, label="Steps")
            label = gr.Dropdown(label="Class", choices=["any"], value="any", visible=False)
            guidance = gr.Slider(0, 8, 1, step=0.1, label="Guidance toward the class", visible=False)
            solver = gr.Dropdown(label="Solver", choices=list(SOLVERS), value="dpm")
            with gr.Row():
                go = gr.Button("Draw", variant="primary", min_width=110)
                stop = gr.Button("Stop", min_width=80)
        with gr.Column(scale=2, min_width=320):
            status = gr.HTML()
            pictures = gr.HTML()
            with gr.Row():
                seen = gr.DownloadButton("Save the picture", visible=False, size="sm", min_width=120)
                array = gr.DownloadButton("Save the array", visible=False, size="sm", min_width=120)
        with gr.Column(scale=2, min_width=320):
            step = gr.Slider(1, 2, 1, step=1, label="Watch the denoising: step", visible=False)
            level = gr.HTML()
    film = gr.HTML()
    voices = gr.HTML()
    outputs = [status, pictures, seen, array, step, level, film, voices, state]

    def chosen(name: str | None) -> list[Any]:
        """What can be asked of a run."""
        try:
            info = shared.models.info(name or "")
        except (BootdiffError, OSError) as error:
            said = markup.note(str(error)) if name else ""
            return [gr.update(choices=[], value=None), gr.skip(), gr.skip(), gr.skip(), gr.skip(), said]
        classed = gr.update(visible=bool(info.classes), value=1)
        return [arm_choices(info), class_choices(info), classed, gr.update(value=min(100, info.sampling.steps)),
                info.sampling.scheduler, ""]  # fmt: skip

    def draw(
        name: str | None, arm: str | None, count: float, seed: float | None, steps: float, label: str | None,
        guidance: float, solver: str, request: gr.Request,
    ) -> Iterator[list[Any]]:  # fmt: skip
        labelled = "" if label in (None, "any") else str(label)
        wish = Wish(int(count), int(seed or 0), int(steps), labelled, float(guidance) if labelled else 1.0, solver)

        def compute(tick: Any) -> tuple[Drawn, Voices]:
            model = shared.models.load(name or "", arm)
            return drawing.draw(model, wish, tick), drawing.speaking(model)

        rest = [gr.skip() for _ in outputs[2:]]
        last: Frame | None = None
        try:
            wish.check()
            if not name:
                raise BootdiffError("choose a run first")
            for told in shared.desk.do(session(request), compute):
                if told.done:
                    yield _shown(shared, told.result[0], told.result[1], session(request))
                    return
                new = told.shown if told.shown is not last else None
                last = told.shown
                live = gr.skip() if new is None else markup.block(markup.figure(
                    drawing.frame_picture(new), f"Denoised estimate at noise {new.sigma:.2g}",
                    f"denoised estimate at noise {new.sigma:.2g}", 320,
                ))  # fmt: skip
                yield [told_html(told, "Drawing"), live, *rest]
        except Stopped:
            yield [markup.note("Stopped.", bad=False), gr.skip(), *rest]
        except BootdiffError as error:
            yield [markup.note(str(error)), gr.skip(), *rest]

    def look(number: float, found: tuple[Drawn, Voices] | None) -> str:
        return "" if found is None else drawing.level(*found, int(number))

    run.change(chosen, [run], [arm, label, guidance, steps, solver, status], **EVENT)
    asked = [run, arm, count, seed, steps, label, guidance, solver]
    go.click(draw, asked, outputs, trigger_mode="once", **EVENT)
    stop.click(halt(shared), None, None, **EVENT)
    step.input(look, [step, state], [level], trigger_mode="always_last", **EVENT)


def _shown(shared: Shared, drawn: Drawn, voices: Voices, who: str) -> list[Any]:
    """All outputs of a finished drawing."""
    many = f"{len(drawn.x)} sample{'' if len(drawn.x) == 1 else 's'}"
    title = f"{many} of {drawn.title}"
    folder = shared.folder / "drawn" / who
    name = f"{drawn.run.path.name}-{drawn.arm}-seed{drawn.wish.seed}"
    files = [
        gr.update(
            value=str(write_samples(drawn.x, folder / f"{name}{suffix}", drawn.title, drawn.run.meaning)), visible=True
        )
        for suffix in (default_suffix(tuple(drawn.x.shape[1:])), ".npy")
    ]
    first = drawing.middle(drawn.frames)
    legend = markup.legend(voices.shares) if voices.shares else Markup("")
    strip = markup.block(
        Markup("<h3>Out of the noise</h3>"),
        markup.text("What the first samples are taken for, level by level; below each, who decides there.", soft=True),
        drawing.film(drawn, voices), legend,
    )  # fmt: skip
    return [
        "", markup.block(markup.figure(drawing.picture(drawn), title, title, 320)), *files,
        gr.update(maximum=max(2, len(drawn.frames)), value=first, visible=len(drawn.frames) > 1),
        drawing.level(drawn, voices, first), strip,
        markup.block(Markup("<h3>Who decides at which noise</h3>"), voices.html()), (drawn, voices),
    ]  # fmt: skip

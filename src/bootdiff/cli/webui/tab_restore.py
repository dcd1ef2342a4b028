"""Complete a partial sample: an example of the run's, or a file, under a view of the run or what is painted over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from bootdiff.cli.webui import markup, restoring
from bootdiff.cli.webui.parts import EVENT, Shared, arm_choices, class_choices, halt, session, told_html
from bootdiff.cli.webui.restoring import HIDE, NAMED, PAINTED, Answers, Given
from bootdiff.cli.webui.work import Stopped
from bootdiff.data import kind_of
from bootdiff.errors import BootdiffError
from bootdiff.recipe.build import build_problem
from bootdiff.recipe.trust import trust_imports
from bootdiff.restoration import METHODS

__all__ = ["build"]

_EXAMPLE, _FILE = "a sample that was not trained on", "a file of mine"


def build(shared: Shared, run: gr.Dropdown) -> None:
    """The part."""
    given_state = gr.State(None, time_to_live=3600)
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            arm = gr.Dropdown(label="Model", choices=[])
            choice = gr.Dropdown(label="What is missing", choices=[PAINTED], value=PAINTED, info="or the view it shows")
            source = gr.Radio([_EXAMPLE, _FILE], value=_EXAMPLE, label="Of")
            number = gr.Number(0, label="Number of the sample", precision=0, minimum=0)
            file = gr.File(label="A file", file_count="single", visible=False)
            fit = gr.Checkbox(True, label="cut and shrink a larger picture to the size of a sample", visible=False)
            placement = gr.Number(0, label="Placement of the view", precision=0, minimum=0, visible=False)
            load = gr.Button("Load", min_width=110)
        with gr.Column(scale=2, min_width=320):
            hide = gr.Radio(list(HIDE), value=HIDE[0], label="Hide", visible=False)
            between = gr.Textbox(label="Hide these numbers", placeholder="20-40, or 1, 3", visible=False, max_lines=1)
            editor = gr.ImageEditor(
                label="Paint over what is to be filled in", type="numpy", image_mode="RGBA", sources=(), transforms=(),
                layers=False, brush=gr.Brush(default_size=32, colors=["#e2438a"], color_mode="fixed"), visible=False,
                canvas_size=(384, 384), buttons=[], height=470,
            )  # fmt: skip
            seen = gr.HTML()
            with gr.Row():
                count = gr.Slider(1, restoring.MOST_ANSWERS, 6, step=1, label="Answers")
                steps = gr.Slider(2, 100, 30, step=1, label="Steps")
            with gr.Accordion("More", open=False):
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                method = gr.Dropdown(label="Method", choices=list(METHODS), value="mmps")
                label = gr.Dropdown(label="Class", choices=["any"], value="any", visible=False)
            with gr.Row():
                go = gr.Button("Restore", variant="primary", min_width=110)
                stop = gr.Button("Stop", min_width=80)
        with gr.Column(scale=2, min_width=320):
            status = gr.HTML(markup.note("Load a sample, hide a part of it, and restore it.", bad=False))
            answers = gr.HTML()
    loaded = [status, hide, between, editor, seen, given_state]

    def chosen(name: str | None) -> list[Any]:
        """What can be asked of a run."""
        empty = [gr.update(visible=False), gr.update(visible=False), gr.update(value=None, visible=False), "", None, ""]
        try:
            info = shared.models.info(name or "")
        except (BootdiffError, OSError):
            return [gr.update(choices=[], value=None), gr.skip(), gr.skip(), "", *empty]
        views = gr.update(choices=restoring.view_choices(info), value=PAINTED)
        return [arm_choices(info), views, class_choices(info), "", *empty]

    def of(what: str) -> list[Any]:
        mine = what == _FILE
        return [gr.update(visible=not mine), gr.update(visible=mine), gr.update(visible=mine)]

    def placed(name: str | None, choice: str) -> Any:
        try:
            count = restoring.placements(shared.models.info(name or ""), choice)
        except (BootdiffError, OSError):
            count = 1
        return gr.update(
            visible=count > 1, value=0, maximum=count - 1, info=f"0 to {count - 1}: where it was taken from"
        )

    def take(
        name: str | None, arm: str | None, choice: str, source: str, number: float | None, file: str | None, fit: bool,
        placement: float | None, request: gr.Request,
    ) -> Iterator[list[Any]]:  # fmt: skip
        def compute(tick: Any) -> tuple[Any, Given]:
            model = shared.models.load(name or "", arm)
            at = int(placement or 0)
            if source == _FILE:
                if not file:
                    raise BootdiffError("choose a file first")
                return model, restoring.of_file(model, choice, Path(file), bool(fit), at)
            if model.run.recipe is None:
                raise BootdiffError(f"{name}: has no recipe that says where its data lie; give a file")
            with trust_imports(shared.site.trusted):
                problem = build_problem(model.run.recipe)
            return model, restoring.example(model, problem, choice, int(number or 0), at)

        rest = [gr.skip() for _ in loaded[1:]]
        try:
            if not name:
                raise BootdiffError("choose a run first")
            for told in shared.desk.do(session(request), compute):
                if told.done:
                    yield _loaded(*told.result)
                    return
                yield [told_html(told, "Loading"), *rest]
        except Stopped:
            yield [markup.note("Stopped.", bad=False), *rest]
        except BootdiffError as error:
            yield [markup.note(str(error)), *rest]

    def restore(
        name: str | None, arm: str | None, given: Given | None, hide: str, between: str, painted: Any, count: float,
        steps: float, seed: float | None, method: str, label: str | None, request: gr.Request,
    ) -> Iterator[list[Any]]:  # fmt: skip
        def compute(tick: Any) -> Answers:
            model = shared.models.load(name or "", arm)
            assert given is not None
            layers = (painted or {}).get("layers") or []
            mask = restoring.hidden_in(model.shape, hide, layers, between) if given.name is None else None
            named = "" if label in (None, "any") else str(label)
            return restoring.answer(
                model, given, mask, tick, count=int(count), steps=int(steps), seed=int(seed or 0), method=method,
                label=named,
            )  # fmt: skip

        try:
            if given is None:
                raise BootdiffError("load a sample first")
            for told in shared.desk.do(session(request), compute):
                yield ["", restoring.show(told.result)] if told.done else [told_html(told, "Restoring"), gr.skip()]
        except Stopped:
            yield [markup.note("Stopped.", bad=False), gr.skip()]
        except BootdiffError as error:
            yield [markup.note(str(error)), gr.skip()]

    run.change(chosen, [run], [arm, choice, label, status, *loaded[1:], answers], **EVENT)
    choice.change(placed, [run, choice], [placement], **EVENT)
    source.change(of, [source], [number, file, fit], **EVENT)
    load.click(take, [run, arm, choice, source, number, file, fit, placement], loaded, trigger_mode="once", **EVENT)
    asked = [run, arm, given_state, hide, between, editor, count, steps, seed, method, label]
    hide.change(
        lambda part, given: gr.update(visible=part == NAMED or _by_numbers(given)), [hide, given_state], [between]
    )
    go.click(restore, asked, [status, answers], trigger_mode="once", **EVENT)
    stop.click(halt(shared), None, None, **EVENT)


def _by_numbers(given: Given | None) -> bool:
    """Whether what is hidden of it is said in numbers: of signals and vectors."""
    return given is not None and given.name is None and given.partial.stored.ndim < 4


def _loaded(model: Any, given: Given) -> list[Any]:
    """All outputs of a sample that was loaded."""
    own = given.name is None
    pictures = own and kind_of(model.shape) in ("image", "video")
    numbers = own and not pictures
    background = restoring.canvas(given) if pictures else None
    value = None if background is None else {"background": background, "layers": [], "composite": None}
    seen = "" if pictures else markup.block(restoring.show_given(given, model))
    count = model.shape[-1] if len(model.shape) > 1 else model.shape[0]
    what = "steps" if len(model.shape) > 1 else "columns"
    asked = f"Hide these {what}, of 0 to {count - 1}"
    if pictures:
        high, wide = model.shape[-2:]
        asked = f"Rows and columns, as rows 0-{high // 4}, columns 0-{wide // 4}; several boxes divided by semicolons"
    return [
        markup.note(f"Loaded: {given.what}.", bad=False), gr.update(visible=pictures, value=HIDE[0]),
        gr.update(visible=numbers, label=asked, value=""),
        gr.update(visible=pictures, value=value), seen, given,
    ]  # fmt: skip

"""Samples of a model, with what it took them for at each noise level, and who was heard there.

    draw(model, wish, tick)   -> Drawn: the samples, and a `Frame` of each noise level
    speaking(model)           -> Voices: the stack's weights and the views' gains of an arm

A frame is the denoised estimate D(x, sigma) of the first samples, as the solver asked for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from bootdiff.cli.report import images, svg, words
from bootdiff.cli.report.run_facts import RunFacts
from bootdiff.cli.sample import check_guidance, class_number
from bootdiff.cli.webui import markup
from bootdiff.cli.webui.models import Model, RunInfo
from bootdiff.data import kind_of
from bootdiff.denoise import Denoiser
from bootdiff.errors import BootdiffError
from bootdiff.sampling import SOLVERS, at_once, guided, sample

__all__ = [
    "MOST", "MOST_STEPS", "Drawn", "Frame", "Voices", "Wish", "draw", "film", "frame_picture", "level", "middle",
    "picture", "speaking",
]  # fmt: skip

MOST, MOST_STEPS = 64, 200
_WATCHED = {"image": 9, "video": 2, "signal": 4, "vector": 200}  # samples that are watched
_VALUES = 2**21  # of samples that are evaluated at once, and that frames hold of each level
_FILM = 9


@dataclass(frozen=True)
class Wish:
    """What is to be drawn. label: "" for any class."""

    count: int = 16
    seed: int = 0
    steps: int = 40
    label: str = ""
    guidance: float = 1.0
    scheduler: str = ""

    def check(self) -> None:
        """Raises BootdiffError: numbers that are not possible here."""
        for what, value, low, high in (
            ("samples", self.count, 1, MOST), ("steps", self.steps, 2, MOST_STEPS), ("seed", self.seed, 0, 2**31),
            ("guidance", self.guidance, 0, 20),
        ):  # fmt: skip
            if not low <= value <= high:
                raise BootdiffError(f"{what}: between {low} and {high:,}, please; got {value:g}")


@dataclass(frozen=True)
class Frame:
    """The denoised estimate of the first samples at a noise level."""

    sigma: float
    x: Tensor


@dataclass
class Drawn:
    """Samples (n, *shape) in stored coordinates, and what they were taken for on the way."""

    run: RunInfo
    arm: str
    wish: Wish
    x: Tensor
    frames: list[Frame]

    @property
    def title(self) -> str:
        """What it shows."""
        said = f"{words.arm(self.arm)} of {self.run.name}, seed {self.wish.seed}"
        return said + (f", {self.wish.label}" if self.wish.label else "")


class Watched(Denoiser):
    """A denoiser whose estimates of the first batch are kept, one for each noise level.

    Args:
        denoiser: D.
        rows: samples that are kept.
        each: called with each new frame.
    """

    def __init__(self, denoiser: Denoiser, rows: int, each: Callable[[Frame], None]) -> None:
        super().__init__()
        self.denoiser, self.shape, self.rows, self.each = denoiser, denoiser.shape, rows, each
        self.noise_shift = denoiser.noise_shift
        self.frames: dict[float, Frame] = {}
        self._last, self._over = float("inf"), False

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """D(x, sigma)."""
        d = self.denoiser(x, sigma, label, context)
        level = float(sigma.flatten()[0])
        self._over = self._over or level > self._last  # the next batch begins
        if not self._over:
            # Heun asks twice at a level, the second time from where it goes on.
            frame = self.frames[level] = Frame(level, d[: self.rows].detach().cpu().clone())
            self._last = level
            self.each(frame)
        return d


def draw(model: Model, wish: Wish, tick: Callable[..., None]) -> Drawn:
    """Draw samples.

    Raises:
        BootdiffError: a class, guidance or numbers that make no sense; a model that gives NaN.
    """
    wish.check()
    number = class_number(wish.label, model.classes or None, len(model.classes)) if wish.label else None
    check_guidance(wish.guidance, None, number)
    scheduler = wish.scheduler or model.run.sampling.scheduler
    if scheduler not in SOLVERS:
        raise BootdiffError(f"solver {scheduler}: known are {', '.join(SOLVERS)}")
    size = max(1, int(torch.Size(model.shape).numel()))
    rows = max(1, min(wish.count, _WATCHED[kind_of(model.shape)], _VALUES // size))
    latest: list[Frame] = []
    denoiser = Watched(guided(model.denoiser, number, wish.guidance, None), rows, latest.append)
    sampling = model.run.sampling

    def progress(done: int, of: int) -> None:
        tick(done, of, latest[-1] if latest else None)
        latest.clear()

    x = sample(
        denoiser, wish.count, seed=wish.seed, scheduler=scheduler, steps=wish.steps, label=number,
        sigma_min=sampling.sigma_min, sigma_max=sampling.sigma_max, noise_shift=sampling.noise_shift, progress=progress,
        batch_size=at_once(model.shape, _VALUES),
    ).cpu()  # fmt: skip
    return Drawn(model.run, model.arm, wish, x, list(denoiser.frames.values()))


# --- who is heard -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Voices:
    """Who decides at which noise level: the shares of an arm's parts, and the views' gains.

    sentences: in words. plots: (SVG, legend, caption).
    """

    levels: list[float] = field(default_factory=list)
    shares: dict[str, list[float]] = field(default_factory=dict)
    gain_levels: list[float] = field(default_factory=list)
    gains: dict[str, list[float]] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)
    plots: list[tuple[Markup, Markup, str]] = field(default_factory=list)

    def at(self, sigma: float) -> dict[str, float]:
        """Each part's share at a noise level, of the nearest one that was weighed."""
        if not self.shares:
            return {}
        i = _nearest(self.levels, sigma)
        return {part: values[i] for part, values in self.shares.items()}

    def gains_at(self, sigma: float) -> dict[str, float]:
        """The views' gains there."""
        if not self.gains:
            return {}
        i = _nearest(self.gain_levels, sigma)
        return {view: values[i] for view, values in self.gains.items()}

    def said_at(self, sigma: float) -> str:
        """Who is heard there, in a sentence; "" where nothing is known."""
        shares = {part: share for part, share in self.at(sigma).items() if share >= 0.005}
        gains = {view: gain for view, gain in self.gains_at(sigma).items() if gain > 0.005}
        said = ", ".join(f"{part} {100 * share:.0f} %" for part, share in shares.items())
        heard = ", ".join(f"{view} {gain:.2f}" for view, gain in gains.items())
        return said + (f"{'; ' if said else ''}gains of the views: {heard}" if heard else "")

    def html(self) -> Markup:
        """The sentences and figures."""
        if not self.plots:
            return markup.text("This arm is made of one network, or its weights were not kept.", soft=True)
        made = [Markup("<figure>{}{}<figcaption>{}</figcaption></figure>").format(*plot) for plot in self.plots]
        return markup.bullets(self.sentences) + Markup('<div class="plots">') + Markup("").join(made) + Markup("</div>")


_STACKS = {"bootdiff": "residual-stack", "full_only": "full-stack", "oracle": "oracle-stack"}
_WITH_VIEWS = ("bootdiff", "views_only", "unregularized")


def speaking(model: Model) -> Voices:
    """Who decides in this arm, from what the run keeps of its weights (as its report shows)."""
    weights = RunFacts.read(model.run.path).weights
    stack = weights.get(_STACKS.get(model.arm, ""))
    gains = weights.get("gains") if model.arm in _WITH_VIEWS else None
    try:
        return _voices(model.arm, stack, gains)
    except (KeyError, TypeError, ValueError, IndexError):  # damaged, or of another version
        return Voices()


def _voices(arm: str, stack: Mapping[str, Any] | None, gains: Mapping[str, Any] | None) -> Voices:
    sentences: list[str] = []
    plots: list[tuple[Markup, Markup, str]] = []
    shares: dict[str, list[float]] = {}
    levels: list[float] = []
    if stack is not None:
        levels = [float(s) for s in stack["levels"]]
        shares = words.shares(stack) if arm == "bootdiff" else _networks(stack)
        sentences += words.deciding(shares, levels, gains)
        plot = svg.columns(shares, levels, "Share of each part at each noise level", "noise level sigma", "share")
        plots.append((plot, svg.legend(list(shares), areas=True), "What the model is made of at each noise level."))
    curves: dict[str, list[float]] = {}
    if gains is not None:
        curves = {name: [float(row[k]) for row in gains["values"]] for k, name in enumerate(gains["names"])}
        sentences += words.gains(gains)
        points = {name: list(zip(map(float, gains["levels"]), values)) for name, values in curves.items()}
        plot = svg.lines(
            points, "Gain of each view per noise level", "noise level sigma", "gain", log=True, at=0.0
        )  # fmt: skip
        caption = "Gains: how much of a view's evidence is taken over. 1: all of it; 0: none; views that overlap share."
        plots.append((plot, svg.legend(list(points)), caption))
    return Voices(
        levels, shares, [float(s) for s in gains["levels"]] if gains else [], curves, sentences, plots
    )  # fmt: skip


def _networks(stack: Mapping[str, Any]) -> dict[str, list[float]]:
    """Shares of the networks of an arm without views, adding up to 1."""
    sums = [sum(max(0.0, w) for w in row) or 1.0 for row in stack["values"]]
    return {
        name: [max(0.0, row[k]) / total for row, total in zip(stack["values"], sums)]
        for k, name in enumerate(stack["names"])
    }


def _nearest(levels: Sequence[float], sigma: float) -> int:
    """In ln sigma."""
    return min(range(len(levels)), key=lambda i: max(levels[i] / sigma, sigma / levels[i]))


# --- what is seen -----------------------------------------------------------------------------------------------------


def picture(drawn: Drawn) -> Image.Image:
    """Samples as one picture."""
    return images.sheet(drawn.x, drawn.run.meaning)


def frame_picture(frame: Frame) -> Image.Image:
    """A frame as one picture, in milliseconds."""
    return images.quick_sheet(frame.x)


def chosen(frames: Sequence[Frame], count: int = _FILM) -> list[int]:
    """Which frames a film shows: the last, and others where something becomes of the noise, evenly in ln sigma."""
    top, low = 12.0, 0.2
    wanted = [top * (low / top) ** (k / (count - 2)) for k in range(count - 1)]
    levels = [frame.sigma for frame in frames]
    return sorted({*(_nearest(levels, sigma) for sigma in wanted), len(frames) - 1}) if frames else []


def middle(frames: Sequence[Frame]) -> int:
    """The number, from 1, of a frame in which something can be seen to become of it: noise of about 1."""
    return 1 + min(range(len(frames)), key=lambda i: max(frames[i].sigma, 1 / frames[i].sigma), default=0)


def film(drawn: Drawn, voices: Voices) -> Markup:
    """The denoised estimates level by level, with who was heard at each."""
    made = []
    for i in chosen(drawn.frames):
        frame = drawn.frames[i]
        said = voices.said_at(frame.sigma)
        alt = f"Denoised estimate at noise level {frame.sigma:.2g}" + (f"; {said}" if said else "")
        bar = markup.bars(voices.at(frame.sigma)) if voices.shares else Markup("")
        made.append(markup.figure(frame_picture(frame), alt, f"noise {frame.sigma:.2g}", below=bar))
    return markup.figures(made, "film", "Denoised estimates from much noise to none")


def level(drawn: Drawn, voices: Voices, number: int) -> str:
    """One level of it, large: the estimate, and who was heard in words. number: from 1, the most noise."""
    if not drawn.frames:
        return ""
    frame = drawn.frames[min(max(number, 1), len(drawn.frames)) - 1]
    said = voices.said_at(frame.sigma)
    alt = f"Denoised estimate of the first samples at noise level {frame.sigma:.3g}"
    shown = markup.figure(
        frame_picture(frame), alt, f"step {number} of {len(drawn.frames)}: noise {frame.sigma:.3g}", 320
    )
    bar = markup.bars(voices.at(frame.sigma)) if voices.shares else Markup("")
    return markup.block(shown, bar, markup.text(said, soft=True) if said else Markup(""))

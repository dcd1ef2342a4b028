"""Samples while training: every now and then a network of the full samples draws a few, always from the same noise.

They lie in RUN/samples/STAGE-STEP.png, are drawn with the averaged weights, and change nothing of what is trained. When
they are drawn depends on the settings alone, not on the clock: a training that is killed and goes on leaves the same
pictures. Their cost is bounded by counting evaluations of the network: a picture of n samples takes n k of them in k
solver steps, a training step of a batch of B about 3 B (forward, and twice that backward). With T training steps there
are at most

    0.03 T 3 B / (n k)        0.03 T B / (n k) on top of views, whose networks a training step evaluates only once

pictures, and at most ten: at steps T (j / m)^2, j = 1 .. m, close together where samples change most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Literal

import torch
from PIL import Image

from bootdiff.cli.report import images
from bootdiff.data import kind_of
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.settings import SamplingSettings
from bootdiff.method.trainer import Task
from bootdiff.sampling import classes_of, sample
from bootdiff.training.run import StageDir

__all__ = ["COUNT", "Previews", "preview_steps"]

COUNT = 16
"""Samples of a picture."""

_SOLVER_STEPS = 10
_SHARE, _MOST = 0.03, 10
_SEED = 1  # of the noise: the same for all networks and steps
_PARTS = ("full", "visible", "residual", "unregularized", "distilled", "oracle")
# A network that is trained at noise below this many standard deviations of the data alone cannot begin a sample.
_BEGINS = 2.5


def preview_steps(steps: int, batch: int, with_views: bool) -> list[int]:
    """After which of a training's `steps` samples are drawn, ascending.

    Args:
        batch: samples of a step.
        with_views: whether a step also evaluates the networks of views.

    >>> preview_steps(2000, 32, False)
    [20, 80, 180, 320, 500, 720, 980, 1280, 1620, 2000]
    >>> preview_steps(150, 32, False), preview_steps(20, 16, False)
    ([38, 150], [])
    """
    evaluations = steps * batch * (1 if with_views else 3)
    count = min(_MOST, int(_SHARE * evaluations / (COUNT * _SOLVER_STEPS)))
    return sorted({-(-steps * j * j // (count * count)) for j in range(1, count + 1)})  # rounded up


class Previews:
    """Draws samples while networks are trained (a `method.trainer.Watch`).

    Args:
        shape: of a full sample; networks of other things are not looked at.
        how: solver and highest noise level.
        every: steps between pictures; "auto": as this file says; 0: none.
        say: told why a picture was not drawn, where that fails: a training is never stopped by it.
        drawn: called after each picture, with its stage, its step and itself.
    """

    def __init__(
        self,
        shape: Sequence[int],
        how: SamplingSettings,
        every: Literal["auto"] | int,
        say: Callable[[str], None],
        drawn: Callable[[StageDir, int, Image.Image], None] = lambda stage, step, picture: None,
    ) -> None:
        self.shape, self.how, self.every, self.say, self.drawn = tuple(shape), how, every, say, drawn
        self._failed: set[str] = set()

    def steps(self, task: Task, steps: int) -> Collection[int]:
        """After which of a training's `steps` to draw."""
        prior = task.composite.prior
        noise = task.loss().noise
        begins = math.exp(noise.mean + 2 * noise.std) >= _BEGINS * float(prior.sigma_data)
        part = task.name.partition("-")[0]
        if part not in _PARTS or tuple(prior.shape) != self.shape or task.data.samples.context is not None:
            return ()
        if not begins or self.every == 0:
            return ()
        if self.every == "auto":
            return preview_steps(steps, task.training.batch_size, bool(task.composite.views))
        return range(self.every, steps + 1, self.every)

    def look(self, task: Task, expert: ResidualExpert, step: int, stage: StageDir) -> None:
        """Draw samples into the run."""
        try:
            self.drawn(stage, step, self._draw(task, expert, stage, step))
        # Whatever it is: hours of training are worth more than a picture of them.
        except Exception as error:
            if task.name not in self._failed:
                self._failed.add(task.name)
                what = str(error).splitlines()[0] if str(error) else type(error).__name__
                self.say(f"{task.name}: no samples drawn at step {step}; the training goes on ({what})")

    def _draw(self, task: Task, expert: ResidualExpert, stage: StageDir, step: int) -> Image.Image:
        noise, classes = task.loss().noise, classes_of(expert)
        # Within the noise levels that it is trained at: beyond three deviations a network has seen nothing.
        highest = min(self.how.sigma_max, math.exp(noise.mean + 3 * noise.std))
        lowest = min(max(self.how.sigma_min, math.exp(noise.mean - 3 * noise.std)), highest / 2)
        count = 4 if kind_of(self.shape) == "video" else COUNT
        x = sample(
            expert, count, seed=_SEED, scheduler=self.how.scheduler, steps=_SOLVER_STEPS, sigma_min=lowest,
            sigma_max=highest, label=[i % classes for i in range(count)] if classes else None,
            batch_size=min(count, task.training.batch_size),  # no more memory than a training step
        )  # fmt: skip
        if not bool(torch.isfinite(x).all()):
            raise ValueError("samples with NaN or infinity")
        picture = images.quick_sheet(x)
        images.save_png(picture, stage.picture(step), optimize=False)
        return picture

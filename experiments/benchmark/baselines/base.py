"""What a method under comparison is, and the one stage that most of them are made of.

A method takes the stages of a run (`Bootstrap`: data, backbones, loop, held-out samples) and a budget of training
FLOPs, and gives a finished denoiser.  Whatever it trains goes through the same expert stage as bootdiff's own networks:
the recipe's backbones trained apart, each stopped per noise level on the held-out full samples, stacked with held-out
weights.  So methods differ in data, loss and initial weights, not in care.

Every method has the same number of settings to choose from, `TRIALS`; the first is the default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bootdiff.denoise import Denoiser
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.losses import ResidualObjective
from bootdiff.method.problem import ViewData
from bootdiff.method.stack import SnapshotsByNoiseLevel, StackedDenoiser
from bootdiff.method.stages import Bootstrap
from bootdiff.method.trainer import Task
from bootdiff.method.training_set import TrainingSet
from bootdiff.training.run import StageDir
from bootdiff.training.settings import TrainingSettings
from experiments.benchmark.budget import steps_within

__all__ = ["TRIALS", "Method", "experts", "one_stage", "training_of", "with_steps"]

TRIALS = 3
"""Settings tried for every method."""


def _always(views: Mapping[str, ViewData]) -> bool:
    return True


@dataclass(frozen=True)
class Method:
    """A method under comparison.

    train: (stages, FLOPs, **settings) -> denoiser.  trials: settings, the first the default.  suits: whether it can use
    any of these views.  views: whether it looks at them at all (else its result is the same for all kinds of views).
    """

    train: Callable[..., Denoiser]
    trials: tuple[Mapping[str, Any], ...]
    suits: Callable[[Mapping[str, ViewData]], bool] = _always
    views: bool = True

    def __post_init__(self) -> None:
        if len(self.trials) != TRIALS:
            raise ValueError(f"every method has {TRIALS} settings to try, not {len(self.trials)}")


def training_of(b: Bootstrap) -> TrainingSettings:
    """How networks on full shapes are trained, but for the number of steps."""
    return b.settings.training["full"]


def with_steps(training: TrainingSettings, steps: int) -> TrainingSettings:
    """The same training with a different length; warmup is at most a tenth of it."""
    return replace(training, steps=steps, warmup=min(training.warmup, max(1, steps // 10)))


def experts(
    b: Bootstrap,
    name: str,
    data: TrainingSet,
    flops: float,
    composite: CompositeDenoiser | None = None,
    objective: ResidualObjective | None = None,
    batches: Callable[[str, TrainingSettings], Any] | None = None,
    start: Mapping[str, StageDir] | None = None,
    parents: Sequence[Any] = (),
    **how: Any,
) -> dict[str, SnapshotsByNoiseLevel]:
    """One expert per backbone, `name`-BACKBONE, all for the same number of steps, which together spend the FLOPs.

    Args:
        composite: what the experts stand on; None: the prior.
        objective: None for the plain denoising loss.
        batches: (stage, training) -> batches; None: those of `data.train`.
        start: complete stage whose last weights each backbone starts at.
        parents: what the result depends on beside data, backbone and training.
        how: further fields of the networks' `Task`.
    """
    composite = b.no_views(data.prior) if composite is None else composite
    tasks = {
        kind: Task(f"{name}-{kind}", data, composite, network, training_of(b), objective=objective, **how)
        for kind, network in b.settings.networks.items()
    }
    made = None if batches is None else batches("count", training_of(b))
    per_step = [b.step_flops(task, made) for task in tasks.values()]
    training = with_steps(training_of(b), steps_within(flops, per_step)[0])
    found = {}
    for kind, task in tasks.items():
        own = None if batches is None else batches(task.name, training)
        begin = [] if start is None else [start[kind] / "final.safetensors"]
        found[task.name] = b.train(replace(task, training=training), parents, batches=own, start=begin)
    return found


def one_stage(b: Bootstrap, name: str, data: TrainingSet, flops: float, **how: Any) -> StackedDenoiser:
    """`experts`, stacked, with the Gaussian of the data among them; of a mixture, that of the full samples."""
    composite = how.get("composite") or b.no_views(data.prior)
    known = b.full_training_set() if data.train.masked else data
    return b.stack(name, data, composite, {**experts(b, name, data, flops, **how), **b.gaussian(name, known)})

"""What a method under comparison is, and the one stage that most of them are made of.

A method takes the stages of a run (`Bootstrap`: data, backbones, loop, held-out samples) and a budget of training
FLOPs, and gives a finished denoiser.  Whatever it trains goes through the same expert stage as bootdiff's own networks:
the recipe's backbones trained apart, each stopped per noise level on the held-out full samples, stacked with held-out
weights.  So methods differ in data, loss and initial weights, not in care.

Every method has the same number of settings to choose from, `TRIALS`; the first is the default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bootdiff.denoise import Denoiser
from bootdiff.method.composite import CompositeDenoiser, SnapshotsByNoiseLevel, StackedDenoiser
from bootdiff.method.losses import ResidualObjective
from bootdiff.method.problem import ViewData
from bootdiff.method.stages import Bootstrap
from bootdiff.method.training_set import TrainingSet
from bootdiff.noise import LogNormal
from bootdiff.recipe.blocks import Training
from bootdiff.training.run import StageDir
from experiments.benchmark.budget import step_flops, steps_within

__all__ = ["TRIALS", "Method", "experts", "noise_of", "one_stage", "training_of", "with_steps"]

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


def training_of(b: Bootstrap) -> Training:
    """How networks on full shapes are trained, but for the number of steps."""
    return b.recipe.training_for("full")


def with_steps(training: Training, steps: int) -> Training:
    """The same training with another length; warmup is at most a tenth of it."""
    return training.model_copy(update={"steps": steps, "warmup": min(training.warmup, max(1, steps // 10))})


def noise_of(training: Training) -> LogNormal:
    return LogNormal(training.noise.mean, training.noise.std)


def experts(
    b: Bootstrap,
    name: str,
    bench: TrainingSet,
    flops: float,
    composite: CompositeDenoiser | None = None,
    on: str = "base",
    objective: ResidualObjective | None = None,
    batches: Callable[[str, Training], Any] | None = None,
    start: Mapping[str, StageDir] | None = None,
    parents: Sequence[Any] = (),
) -> dict[str, SnapshotsByNoiseLevel]:
    """One expert per backbone, `name`-BACKBONE, all for the same number of steps, which together spend the FLOPs.

    Args:
        composite, on: what the experts stand on; None: the white base.
        objective: None for the plain denoising loss.
        batches: (stage, training) -> batches; None: those of `bench.train`.
        start: complete stage whose last weights each backbone starts at.
        parents: what the result depends on beside bench, backbone and training.
    """
    composite = b.no_views(bench.base) if composite is None else composite
    training = training_of(b)
    nets = b.recipe.backbones
    made = None if batches is None else batches("count", training)
    per_step = [step_flops(b, bench, composite, on, net, training, objective, made) for net in nets.values()]
    training = with_steps(training, steps_within(flops, per_step)[0])
    found = {}
    for kind, net in nets.items():
        stage = f"{name}-{kind}"
        begin = [] if start is None else [start[kind] / "final.safetensors"]
        found[stage] = b.expert(
            stage, bench, composite, on, net, training, parents, penalized=False, objective=objective,
            batches=None if batches is None else batches(stage, training), start=begin,
        )  # fmt: skip
    return found


def one_stage(b: Bootstrap, name: str, bench: TrainingSet, flops: float, **how: Any) -> StackedDenoiser:
    """`experts`, stacked."""
    composite = how.get("composite") or b.no_views(bench.base)
    return b.stack(name, bench, composite, experts(b, name, bench, flops, **how))

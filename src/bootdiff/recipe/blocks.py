"""The blocks a recipe is made of: data, one view, training, regularization, sampling, evaluation.

Plain validated data. Every field's description is what `bootdiff recipe` and the error messages print. Noise levels and
deviations are in stored coordinates, pixels in [-1, 1].
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, field_serializer, model_serializer, model_validator

from bootdiff.recipe.backbones import Backbone
from bootdiff.recipe.data import Data, Full, Holdout, held_out
from bootdiff.recipe.messages import Block, fail
from bootdiff.recipe.views import Corruption, Views, whole

__all__ = [
    "Data",
    "Distill",
    "Evaluation",
    "Full",
    "Gains",
    "Noise",
    "Residual",
    "Sampling",
    "Simulate",
    "Training",
    "TrainingBlock",
    "ViewSpec",
]


def _samples(value: Any) -> str | int:
    if value == "auto" or (whole(value) and value >= 0):
        return value
    raise ValueError(f"must be auto or a whole number of at least 0, got {value!r}")


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]


class Noise(Block):
    """Log-normal noise levels in training: ln sigma ~ N(mean, std^2) (Karras et al. 2022, table 1: -1.2, 1.2)."""

    mean: float = Field(-0.6, description="mean of ln sigma")
    std: float = Field(1.4, gt=0, description="standard deviation of ln sigma")


class Training(Block):
    """How one network is trained."""

    steps: int = Field(2000, ge=1, description="optimizer steps")
    batch: int = Field(32, ge=1, description="samples per step, over all processes")
    lr: float = Field(1e-3, gt=0, description="learning rate of AdamW")
    warmup: int = Field(100, ge=0, description="steps over which the learning rate rises; at most steps")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="learning rate after that")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the weights' running average per step")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of AdamW")
    clip: float | None = Field(1.0, gt=0, description="largest norm of the gradient; null: no bound")
    noise: Noise = Field(default_factory=Noise, description="noise levels drawn in training")
    evaluate_every: int = Field(100, ge=1, description="steps between held-out losses (and snapshots)")
    checkpoint_seconds: float = Field(60.0, gt=0, description="seconds between checkpoints")
    workers: int = Field(0, ge=0, description="processes that prepare batches")
    precision: Literal["no", "bf16", "fp16"] = Field("no", description="mixed precision")
    compile: bool = Field(False, description="torch.compile each network: worth its minutes on a GPU only")

    @model_validator(mode="after")
    def _check(self) -> Training:
        if {"warmup", "steps"} <= self.model_fields_set and self.warmup > self.steps:
            fail([(("warmup",), f"must be at most steps ({self.steps}), got {self.warmup}")])
        return self


class TrainingBlock(Training):
    """How the networks are trained; the last four keys override the others for some of them."""

    views: Training = Field(default_factory=Training, description="overrides for the views' denoisers")
    full: Training = Field(default_factory=Training, description="overrides for full-only experts and the oracle")
    residual: Training = Field(default_factory=Training, description="overrides for residual experts")
    oracle: Training = Field(default_factory=Training, description="overrides for the oracle, over those of `full`")

    @field_serializer("views", "full", "residual", "oracle")
    def _only_given(self, block: Training) -> dict[str, Any]:
        return block.model_dump(exclude_unset=True)


class ViewSpec(Block):
    """One kind of partial data."""

    view: Views = Field(
        description="what the files show of a full sample: {kind: ...}, or a list applied from first to last"
    )
    std: float = Field(0.0, ge=0, description="standard deviation of white noise in the stored files, in [-1, 1]")
    data: Data | None = Field(None, description="the files; left out with `simulate`")
    holdout: Holdout = Field(0.1, description="number or share held out for stopping; a share gives at most 256")
    corruption: Corruption | None = Field(None, description="damage done to simulated identity views")
    backbone: Backbone | None = Field(
        None,
        description="its one network: a name in `backbones`, or unet, local, mlp, linear in their default size, or a "
        "block; null: all of `backbones`, stacked",
    )
    training: Training = Field(default_factory=Training, description="overrides of training for this view")
    pretrained: str | None = Field(
        None,
        min_length=1,
        description="a trained model of such files in place of training: a diffusers folder, a run, or one of its arms",
    )
    views: dict[Name, ViewSpec] | None = Field(
        None, min_length=1, description="partial data of this view's own samples, as stills are of short clips"
    )
    same_as: str | None = Field(
        None, min_length=1, description="another view (clips.stills: the one inside clips) whose denoiser serves here"
    )
    start: Literal["best", "scratch"] = Field(
        "best",
        description="best: its networks start at full-only's or at those of the views before it, where they are alike, "
        "whichever wins a short race; scratch: anew",
    )
    offsets: str | None = Field(
        None,
        min_length=1,
        description="where each file lies, for a view that is told: an .npy array or a text file, a row of whole "
        "numbers for each file, in their order",
    )

    @field_serializer("training")
    def _only_given(self, block: Training) -> dict[str, Any]:
        return block.model_dump(exclude_unset=True)

    @model_serializer(mode="wrap")
    def _only_used(self, handler: Any) -> dict[str, Any]:
        # Recipes of earlier runs are written without these keys, and must read the same.
        late = {"pretrained": None, "views": None, "same_as": None, "offsets": None}
        return {key: value for key, value in handler(self).items() if key not in late or value != late[key]}

    def held_out(self, n: int, name: str = "view") -> int:
        """How many of n files are held out, in 1 .. n - 1; BootdiffError if none is left to train on."""
        return held_out(f"views.{name}", self.holdout, n, 256)


class Simulate(Block):
    """Research: cut the views out of a pool of full samples."""

    pool: Data = Field(description="full samples")
    full: int = Field(ge=2, description="how many stay full, the held-out ones included")
    test: int | None = Field(None, ge=1, description="how many are kept for reporting only")
    share: Literal["disjoint", "all"] = Field(
        "disjoint", description="disjoint: each of the rest goes to one view; all: each to every view"
    )
    limit: int | None = Field(None, ge=1, description="at most so many files per view")


class Residual(Block):
    """What is learned on the full samples beyond the views, and how it is regularized."""

    energy: float = Field(0.0, ge=0, description="weight of the residual's energy in the loss (shrinks to the views)")
    subspace: float = Field(0.0, ge=0, description="further weight of its part in the views' row space")
    project: bool = Field(False, description="keep it out of the views' row space altogether")
    sees_views: bool = Field(True, description="its networks see the views' estimates beside x")
    start: Literal["auto", "best", "full", "views"] = Field(
        "auto",
        description="best: its networks start at full-only's or a view's, whichever wins a short race, and learn to "
        "see the views; full: at full-only's last weights; views: at zero, on top of the views; auto: "
        "best, unless energy, subspace, project, sees_views or full_experts say otherwise",
    )
    full_experts: bool = Field(True, description="stack denoisers trained on the full samples alone, too")
    snapshots: int = Field(4, ge=1, description="snapshots per expert offered to the choice per noise level")
    kappa: Literal["stack", "single", "one"] = Field(
        "stack", description="held-out weights per noise level: one per expert, one for all, or fixed at 1"
    )

    prune: float = Field(
        0.0,
        ge=0,
        description="experts that improve a noise level by less than so many standard errors are not asked there: "
        "2 samples faster, at a loss of up to 1 %",
    )

    @property
    def penalized(self) -> bool:
        """Whether training itself is regularized: then the arm `unregularized` needs experts of its own.

        >>> Residual().penalized, Residual(energy=0.1).penalized
        (False, True)
        """
        return bool(self.energy or self.subspace or self.project)

    @property
    def warm_start(self) -> bool:
        """Whether training starts at networks that are there already, for which full-only's are needed.

        >>> Residual().warm_start, Residual(energy=0.1).warm_start, Residual(start="views").warm_start
        (True, False, False)
        """
        return self.start in ("best", "full") or (
            self.start == "auto" and self.sees_views and self.full_experts and not self.penalized
        )

    @property
    def starts_best(self) -> bool:
        """Whether it is asked which of these networks is best."""
        return self.warm_start and self.start != "full"

    @model_validator(mode="after")
    def _check(self) -> Residual:
        if self.start in ("best", "full") and (self.penalized or not self.sees_views):
            said = f"{self.start} goes without energy, subspace and project, and with sees_views; or write views"
            fail([(("start",), said)])
        return self


class Gains(Block):
    """How much each view counts at each noise level."""

    mode: Literal["fit", "unit"] = Field("fit", description="fit: ridge regression on full samples; unit: all 1")
    folds: int = Field(5, ge=2, description="folds of the cross-validation")
    draws: int = Field(4, ge=1, description="noise draws per full sample and level")
    smooth: float = Field(0.35, ge=0, description="width of the smoothing over ln sigma; 0, 1 and 2 of it are tried")
    prune: float = Field(2.0, ge=0, description="gains that improve by less than so many standard errors become 0")
    news: float = Field(
        0.5,
        ge=0,
        description="views that improve full-only training by less than so many standard errors, over all levels "
        "together, are left out",
    )


class Distill(Block):
    """How the arm `distilled` is made: bootdiff's model in as few networks as full-only has."""

    samples: int = Field(1000, ge=1, description="drawn from bootdiff's model, to learn on beside the full samples")
    backbones: dict[Name, Backbone] | None = Field(
        None, min_length=1, description="its networks, by names you choose; null: those of `backbones`"
    )
    training: Training = Field(default_factory=Training, description="overrides of training for these networks")

    @field_serializer("training")
    def _only_given(self, block: Training) -> dict[str, Any]:
        return block.model_dump(exclude_unset=True)


class Sampling(Block):
    """How samples are drawn."""

    scheduler: Literal["dpm", "heun", "euler"] = Field("dpm", description="solver")
    steps: int = Field(40, ge=2, description="noise levels visited")
    sigma_min: float = Field(0.02, gt=0, description="last noise level")
    sigma_max: float = Field(80.0, gt=0, description="first noise level")
    count: int = Field(64, ge=1, description="samples drawn for the report")

    @model_validator(mode="after")
    def _check(self) -> Sampling:
        if self.sigma_min >= self.sigma_max:
            fail([(("sigma_min",), f"must be below sigma_max ({self.sigma_max:g}), got {self.sigma_min:g}")])
        return self


class Evaluation(Block):
    """How the result is measured."""

    draws: int = Field(4, ge=1, description="noise draws per held-out or test sample and level")
    features: str = Field("auto", min_length=1, description="auto, classifier, autoencoder, or the path of a network")
    samples: Annotated[Literal["auto"] | int, PlainValidator(_samples)] = Field(
        "auto", description="samples drawn for the metrics on samples; 0: none; auto: 1000, of videos 128"
    )

    def count(self, kind: str) -> int:
        """How many samples of this kind are drawn for the metrics.

        >>> Evaluation().count("video"), Evaluation(samples=50).count("video")
        (128, 50)
        """
        if isinstance(self.samples, str):
            return 128 if kind == "video" else 1000
        return self.samples

"""The blocks a recipe is made of: data, one view, training, regularization, sampling, evaluation.

Plain validated data. Every field's description is what `bootdiff recipe` and the error messages print. Noise levels and
deviations are in stored coordinates, pixels in [-1, 1].
"""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, PlainValidator, field_serializer, model_serializer, model_validator

from bootdiff.data.dataset import VIEW_HOLDOUT, held_out_count
from bootdiff.method.settings import DistillationSettings, GainSettings, ResidualSettings, SamplingSettings
from bootdiff.recipe.backbones import SPECS, Backbone
from bootdiff.recipe.data import Data, Full, Holdout
from bootdiff.recipe.messages import Block, block_of, fail
from bootdiff.recipe.noise import Noise
from bootdiff.recipe.views import Corruption, Views, whole
from bootdiff.settings import annotations_of, bound_text, doc_of, short_repr
from bootdiff.training.settings import TrainingSettings

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


def _auto_or(least: int, most: int) -> PlainValidator:
    """Reads auto or a whole number from `least` to `most`, with one message for both."""

    def read(value: Any) -> str | int:
        if value == "auto" or (whole(value) and least <= value <= most):
            return value
        many = whole(value) and value > most
        bound = f"of at most {bound_text(most)}" if many else f"of at least {least}"
        raise ValueError(f"must be auto or a whole number {bound}, got {short_repr(value)}")

    return PlainValidator(read, json_schema_input_type=Literal["auto"] | int)


def _auto_or_between(low: float, high: float) -> PlainValidator:
    """Reads auto or a number above `low` and below `high`, with one message for both."""

    def read(value: Any) -> str | float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value == "auto":
            return "auto"
        if number and low < value < high:
            return float(value)  # also of 0 and 1 as YAML has them
        raise ValueError(f"must be auto or a number above {low:g} and below {high:g}, got {short_repr(value)}")

    return PlainValidator(read, json_schema_input_type=Literal["auto"] | float)


MOST_VIEWS = 256
"""Views, and networks, beside each other."""

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]


_BATCH_HINT = annotations_of(TrainingSettings)["batch"]
_BATCH = (Annotated[get_args(_BATCH_HINT)[0], _auto_or(1, 2**20)], Field("auto", description=doc_of(_BATCH_HINT)))
_NOISE = (Noise, Field(default_factory=Noise, description=doc_of(annotations_of(TrainingSettings)["noise"])))


_SHIFT_HINT = annotations_of(SamplingSettings)["noise_shift"]
_SHIFT = (Annotated[get_args(_SHIFT_HINT)[0], _auto_or_between(-1, 1)], Field("auto", description=doc_of(_SHIFT_HINT)))


class Training(block_of(TrainingSettings, "TrainingFields", batch=_BATCH, noise=_NOISE)):  # type: ignore[misc]
    """How one network is trained."""

    @model_validator(mode="after")
    def _check(self) -> Training:
        if {"warmup", "steps"} <= self.model_fields_set and self.warmup > self.steps:
            fail([(("warmup",), f"must be at most steps ({self.steps}), got {self.warmup}")])
        return self

    def settings(self) -> TrainingSettings:
        """As the method takes them."""
        given = {f.name: getattr(self, f.name) for f in fields(TrainingSettings)}
        return TrainingSettings(**{**given, "noise": self.noise.settings()})


class TrainingBlock(Training):
    """How the networks are trained; the last five keys override the others for some of them."""

    views: Training = Field(default_factory=Training, description="overrides for the views' denoisers")
    full: Training = Field(default_factory=Training, description="overrides for full-only experts and the oracle")
    visible: Training = Field(
        default_factory=Training, description="overrides for the networks of all visible pixels, over those of `views`"
    )
    residual: Training = Field(default_factory=Training, description="overrides for residual experts")
    oracle: Training = Field(default_factory=Training, description="overrides for the oracle, over those of `full`")

    @field_serializer("views", "full", "visible", "residual", "oracle")
    def _only_given(self, block: Training) -> dict[str, Any]:
        return block.model_dump(exclude_unset=True)


class ViewSpec(Block):
    """One kind of partial data."""

    view: Views = Field(
        description="what the files show of a full sample: {kind: ...}, or a list applied from first to last"
    )
    std: float = Field(0.0, ge=0, description="standard deviation of white noise in the stored files, in [-1, 1]")
    data: Data | None = Field(None, description="the files; left out with `simulate`")
    holdout: Holdout = Field(0.1, description="number or share held out for stopping; a share gives at most 128")
    corruption: Corruption | None = Field(None, description="damage done to simulated identity views")
    backbone: Backbone | None = Field(
        None,
        description=f"its one network: a name in `backbones`, or {', '.join(SPECS)} in their default size, or a "
        "block; null: all of `backbones`, stacked",
    )
    training: Training = Field(default_factory=Training, description="overrides of training for this view")
    pretrained: str | None = Field(
        None,
        min_length=1,
        description="a trained model of such files in place of training: a diffusers folder, a run, or one of its arms",
    )
    views: dict[Name, ViewSpec] | None = Field(
        None,
        min_length=1,
        max_length=MOST_VIEWS,
        description="partial data of this view's own samples, as stills are of short clips",
    )
    same_as: str | None = Field(
        None, min_length=1, description="another view (clips.stills: the one inside clips) whose denoiser serves here"
    )
    start: Literal["best", "scratch"] = Field(
        "best",
        description="best: its networks start at full-only's or at those of the views before it, where they are alike, "
        "whichever wins a short race; scratch: from scratch",
    )
    pixels: Literal["auto", "no"] = Field(
        "auto",
        description="auto: files of a view that shows pixels as they are (crops, masks, frames, channels, noisy files) "
        "teach the networks of all visible pixels, too; no: they do not, as where they are damaged otherwise",
    )
    offsets: str | None = Field(
        None,
        min_length=1,
        description="where each file lies, for a position_conditioned view: an .npy array or a text file, a row of "
        "whole numbers for each file, in their order",
    )

    @field_serializer("training")
    def _only_given(self, block: Training) -> dict[str, Any]:
        return block.model_dump(exclude_unset=True)

    @model_serializer(mode="wrap")
    def _only_used(self, handler: Any) -> dict[str, Any]:
        # Recipes of earlier runs are written without these keys, and must read the same.
        late = {"pretrained": None, "views": None, "same_as": None, "offsets": None, "pixels": "auto"}
        return {key: value for key, value in handler(self).items() if key not in late or value != late[key]}

    def held_out(self, n: int, name: str = "view") -> int:
        """How many of n files are held out, in 1 .. n - 1; BootdiffError if none is left to train on."""
        return held_out_count(f"views.{name}.holdout", self.holdout, n, VIEW_HOLDOUT)


class Simulate(Block):
    """Research: cut the views out of a pool of full samples."""

    pool: Data = Field(description="full samples")
    full: int = Field(ge=2, description="how many stay full, the held-out ones included")
    test: int | None = Field(None, ge=1, description="how many are kept for reporting only")
    share: Literal["disjoint", "all"] = Field(
        "disjoint", description="disjoint: each of the rest goes to one view; all: each to every view"
    )
    limit: int | None = Field(None, ge=1, description="at most so many files per view")


class Residual(block_of(ResidualSettings, "ResidualFields")):  # type: ignore[misc]
    """What is learned on the full samples beyond the views, and how it is regularized."""

    @model_validator(mode="after")
    def _check(self) -> Residual:
        try:
            self.settings()
        except ValueError as error:
            where, _, said = str(error).removeprefix("ResidualSettings.").partition(": ")
            fail([((where,), said)])
        return self

    def settings(self) -> ResidualSettings:
        """As the method takes them."""
        return ResidualSettings(**self.model_dump())


class Gains(block_of(GainSettings, "GainFields")):  # type: ignore[misc]
    """How much each view counts at each noise level."""

    def settings(self) -> GainSettings:
        """As the method takes them."""
        return GainSettings(**self.model_dump())


class Distill(block_of(DistillationSettings, "DistillFields", leave_out=["networks"])):  # type: ignore[misc]
    """How the arm `distilled` is made: bootdiff's model in as few networks as full-only has."""

    backbones: dict[Name, Backbone] | None = Field(
        None,
        min_length=1,
        max_length=MOST_VIEWS,
        description="its networks, by names you choose; null: those of `backbones`",
    )
    training: Training = Field(default_factory=Training, description="overrides of training for these networks")

    @field_serializer("training")
    def _only_given(self, block: Training) -> dict[str, Any]:
        return block.model_dump(exclude_unset=True)


class Sampling(block_of(SamplingSettings, "SamplingFields", noise_shift=_SHIFT)):  # type: ignore[misc]
    """How samples are drawn."""

    count: int = Field(64, ge=1, le=10**6, description="samples drawn for the report")
    preview_every: Annotated[Literal["auto"] | int, _auto_or(0, 10**9)] = Field(
        "auto",
        description="steps between the samples that networks draw while they are trained; auto: about ten pictures of "
        "each training, fewer where they would cost more than about 3 % of it; 0: none",
    )

    @model_validator(mode="after")
    def _check(self) -> Sampling:
        if self.sigma_min >= self.sigma_max:
            fail([(("sigma_min",), f"must be below sigma_max ({self.sigma_max:g}), got {self.sigma_min:g}")])
        return self

    def settings(self) -> SamplingSettings:
        """As the method takes them."""
        return SamplingSettings(**self.model_dump(exclude={"count", "preview_every"}))


class Evaluation(Block):
    """How the result is measured."""

    draws: int = Field(4, ge=1, le=1000, description="noise draws per held-out or test sample and level")
    features: str = Field("auto", min_length=1, description="auto, classifier, autoencoder, or the path of a network")
    samples: Annotated[Literal["auto"] | int, _auto_or(0, 10**7)] = Field(
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

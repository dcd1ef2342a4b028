"""How one network is trained: the settings that Python users write and the recipe's blocks are read from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from bootdiff.noise import LogNormal
from bootdiff.settings import Doc, Ge, Gt, Lt, check

__all__ = ["PLENTY", "TrainingSettings"]

PLENTY = 250
"""Samples from which on Muon is the better optimizer (docs/experts.md)."""


@dataclass(frozen=True)
class TrainingSettings:
    """How one network is trained.

    Raises:
        ValueError: a value out of bounds; it names the field.
    """

    steps: Annotated[int, Ge(1), Doc("optimizer steps")] = 2000
    batch: Annotated[int, Ge(1), Doc("samples per step, over all processes")] = 32
    optimizer: Annotated[
        Literal["auto", "muon", "adamw"],
        Doc(
            "muon: Muon for hidden matrices and convolutions, AdamW for the rest; auto: muon where there are at least "
            f"{PLENTY} samples to train on, adamw where fewer are memorized all the sooner"
        ),
    ] = "auto"
    lr: Annotated[float, Gt(0), Doc("learning rate of AdamW")] = 1e-3
    muon_lr: Annotated[float, Gt(0), Doc("learning rate of Muon")] = 0.02
    momentum: Annotated[float, Ge(0), Lt(1), Doc("momentum of Muon")] = 0.95
    warmup: Annotated[int, Ge(0), Doc("steps over which the learning rates rise; at most steps")] = 100
    schedule: Annotated[Literal["constant", "linear", "cosine"], Doc("learning rates after that")] = "linear"
    ema: Annotated[float, Ge(0), Lt(1), Doc("decay of the weights' running average per step")] = 0.999
    weight_decay: Annotated[float, Ge(0), Doc("weight decay, per learning rate")] = 0.0
    clip: Annotated[float | None, Gt(0), Doc("largest norm of the gradient; null: no bound")] = 1.0
    noise: Annotated[LogNormal, Doc("noise levels drawn in training")] = field(default_factory=LogNormal)
    evaluate_every: Annotated[int, Ge(1), Doc("steps between held-out losses (and snapshots)")] = 100
    checkpoint_seconds: Annotated[float, Gt(0), Doc("seconds between checkpoints")] = 60.0
    workers: Annotated[int, Ge(0), Doc("processes that prepare batches")] = 0
    precision: Annotated[Literal["no", "bf16", "fp16"], Doc("mixed precision")] = "no"
    compile: Annotated[bool, Doc("torch.compile each network: worth its minutes on a GPU only")] = False

    def __post_init__(self) -> None:
        check(self)

    def for_samples(self, count: int) -> TrainingSettings:
        """The same for so many samples to train on, with `optimizer: auto` decided.

        >>> TrainingSettings().for_samples(60).optimizer, TrainingSettings().for_samples(5000).optimizer
        ('adamw', 'muon')
        """
        if self.optimizer != "auto":
            return self
        return replace(self, optimizer="muon" if count >= PLENTY else "adamw")

    def recorded(self) -> dict[str, Any]:
        """What the result depends on, as JSON: with AdamW alone, nothing of Muon's, so that older runs go on."""
        without = {"checkpoint_seconds", "workers"}
        if self.optimizer == "adamw":
            without |= {"optimizer", "muon_lr", "momentum"}
        return {name: value for name, value in asdict(self).items() if name not in without}

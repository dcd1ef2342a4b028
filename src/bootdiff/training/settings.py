"""How one network is trained: the settings that Python users write and the recipe's blocks are read from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from bootdiff.errors import BootdiffError
from bootdiff.noise import LogNormal
from bootdiff.settings import Doc, Ge, Gt, Le, Lt, check

__all__ = ["PLENTY", "TrainingSettings", "batch_for"]

PLENTY = 250
"""Samples from which on Muon is the better optimizer (docs/experts.md)."""


def batch_for(shape: Sequence[int]) -> int:
    """Samples per step where that is left open: 32 up to 8192 places (pixels, values, pixels of frames), and half as
    many for each factor of four beyond; at least 4. So a step's memory grows more slowly than the samples do.

    The device does not count: the same recipe is the same training everywhere.

    >>> [batch_for((3, side, side)) for side in (8, 64, 128, 256, 512)]
    [32, 32, 16, 8, 4]
    >>> batch_for((1, 12, 32, 32)), batch_for((1, 160_000)), batch_for((30,))
    (16, 4, 32)
    """
    places = math.prod(shape[1:])
    return 32 if places <= 8192 else max(4, 32 >> math.ceil(math.log(places / 4096, 4)))


@dataclass(frozen=True)
class TrainingSettings:
    """How one network is trained.

    Raises:
        ValueError: a value out of bounds; it names the field.
    """

    steps: Annotated[int, Ge(1), Le(10**9), Doc("optimizer steps")] = 2000
    batch: Annotated[
        Literal["auto"] | int,
        Ge(1),
        Le(2**20),
        Doc("samples per step, over all processes; auto: 32, fewer for samples of more than 8192 pixels or values"),
    ] = "auto"
    accumulate: Annotated[
        int,
        Ge(1),
        Le(2**20),
        Doc(
            "equal parts that a batch is computed in, one after the other: less memory, the same result up to rounding"
        ),
    ] = 1
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
    warmup: Annotated[int, Ge(0), Le(10**9), Doc("steps over which the learning rates rise; at most steps")] = 100
    schedule: Annotated[Literal["constant", "linear", "cosine"], Doc("learning rates after that")] = "linear"
    ema: Annotated[float, Ge(0), Lt(1), Doc("decay of the weights' running average per step")] = 0.999
    weight_decay: Annotated[float, Ge(0), Doc("weight decay, per learning rate")] = 0.0
    clip: Annotated[float | None, Gt(0), Doc("largest norm of the gradient; null: no bound")] = 1.0
    noise: Annotated[LogNormal, Doc("noise levels drawn in training")] = field(default_factory=LogNormal)
    evaluate_every: Annotated[int, Ge(1), Le(10**9), Doc("steps between held-out losses (and snapshots)")] = 100
    checkpoint_seconds: Annotated[float, Gt(0), Doc("seconds between checkpoints")] = 60.0
    workers: Annotated[int, Ge(0), Le(256), Doc("processes that prepare batches")] = 0
    precision: Annotated[
        Literal["no", "bf16", "fp16", "auto"],
        Doc("mixed precision; auto: bf16 where the device has units for it, else no"),
    ] = "no"
    gradient_checkpointing: Annotated[
        bool,
        Doc(
            "compute each block of a network again for its gradient: less memory, up to a third more time, same result"
        ),
    ] = False
    compile: Annotated[bool, Doc("torch.compile each network: worth its minutes on a GPU only")] = False

    def __post_init__(self) -> None:
        check(self)

    def for_samples(self, count: int, shape: Sequence[int]) -> TrainingSettings:
        """The same for so many samples of this shape (C, *space), with `optimizer` and `batch` decided.

        >>> found = [TrainingSettings().for_samples(*of) for of in ((60, (3, 8, 8)), (5000, (3, 256, 256)))]
        >>> [(settings.optimizer, settings.batch) for settings in found]
        [('adamw', 32), ('muon', 8)]

        Raises:
            BootdiffError: `accumulate` does not divide the batch.
        """
        optimizer, batch = self.optimizer, self.batch
        if optimizer == "auto":
            optimizer = "muon" if count >= PLENTY else "adamw"
        batch = batch_for(shape) if isinstance(batch, str) else batch
        if batch % self.accumulate:
            raise BootdiffError(
                f"training.accumulate: a batch of {batch} cannot be computed in {self.accumulate} equal parts; give a "
                f"number that divides {batch}"
            )
        return replace(self, optimizer=optimizer, batch=batch)

    @property
    def batch_size(self) -> int:
        """The batch as a number.

        Raises:
            ValueError: it is not decided yet (`for_samples`).
        """
        if isinstance(self.batch, str):
            raise ValueError("the batch depends on the samples: ask `for_samples` first")
        return self.batch

    def recorded(self) -> dict[str, Any]:
        """What the result depends on, as JSON: with AdamW alone, nothing of Muon's, so that older runs go on."""
        without = {"checkpoint_seconds", "workers", "accumulate", "gradient_checkpointing"}
        if self.optimizer == "adamw":
            without |= {"optimizer", "muon_lr", "momentum"}
        return {name: value for name, value in asdict(self).items() if name not in without}

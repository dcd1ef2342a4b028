"""The forms of what a run holds as JSON. A checksum says that a file is as it was written, a form that what was written
is what is expected: files come from other versions, and from other people."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NotRequired

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from bootdiff.errors import BootdiffError

__all__ = [
    "CheckpointMeta",
    "Cost",
    "FileHashes",
    "Form",
    "RunNote",
    "StageKey",
    "Training",
    "TrainingCost",
    "checked",
]

Form = Any
"""A type that pydantic can check."""

_STRICT = ConfigDict(strict=True, extra="forbid")


@with_config(_STRICT)
class RunNote(TypedDict):
    """run.json. recipe: digest; None: a run from Python."""

    format: int
    fingerprint: str
    recipe: str | None


@with_config(_STRICT)
class StageKey(TypedDict):
    """key.json (`stages`)."""

    depends_on: Any
    parents: Any
    start: Any
    steps: int | None
    went_on: list[int]


@with_config(ConfigDict(strict=True))
class Cost(TypedDict):
    """An entry of ledger.json: what a stage cost. Methods under comparison may add to it."""

    parameters: NotRequired[int]
    steps: NotRequired[int]
    images: NotRequired[int]
    flops_per_step: NotRequired[int]
    flops: NotRequired[int | float]
    seconds: NotRequired[float]
    evaluation_seconds: NotRequired[float]
    peak_memory: NotRequired[int]
    forward_flops: NotRequired[int]
    device: NotRequired[str]
    processes: NotRequired[int]
    sessions: NotRequired[int]


@with_config(_STRICT)
class TrainingCost(TypedDict):
    """The ledger of a training (`TrainingState.ledger`)."""

    parameters: int
    steps: int
    images: int
    flops_per_step: int
    flops: int
    seconds: float
    evaluation_seconds: float
    peak_memory: int
    device: str
    processes: int
    sessions: int


@with_config(_STRICT)
class Training(TypedDict):
    """done.json of a training. snapshots: held-out key -> step of its best one."""

    snapshots: dict[str, int]
    ledger: TrainingCost
    settings: dict[str, Any]


@with_config(_STRICT)
class CheckpointMeta(TypedDict):
    """What belongs to a checkpoint's tensors; counts are checked by themselves. Earlier versions do not say whose it
    is. made_with: digest of what the stage depends on (`StageStore`); "" without a store."""

    stage: NotRequired[str]
    made_with: NotRequired[str]
    counts: dict[str, Any]
    settings: dict[str, Any]
    scaler: dict[str, Any] | None


FileHashes = dict[str, str]
"""File name -> SHA-256."""


@cache
def _adapter(form: Any) -> TypeAdapter[Any]:
    return TypeAdapter(form)


def checked(form: Form, value: Any, path: str | Path, remedy: str) -> Any:
    """``value``, which is of this form. BootdiffError: it is not; names the file and the place in it."""
    try:
        return _adapter(form).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BootdiffError(
            f"{path}: not what bootdiff wrote ({f'{where}: ' if where else ''}{first['msg']}); {remedy}"
        ) from None

"""Which averaged weights of a trained expert are used: for each noise level those that held-out samples are for.

Noise levels overfit at very different times, so the snapshots that were best for some level are tried at all of them
again, and at most a few are kept.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import ConfigDict, with_config
from torch import Tensor
from typing_extensions import TypedDict

from bootdiff.errors import BootdiffError
from bootdiff.method.losses import LossModule
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.stack import SnapshotsByNoiseLevel
from bootdiff.method.validation import Validator
from bootdiff.training.checkpoint import load_weights
from bootdiff.training.run import StageDir
from bootdiff.training.state import snapshot_path

__all__ = ["Choice", "choose", "chosen", "fewest", "last"]


@with_config(ConfigDict(strict=True, extra="forbid"))
class Choice(TypedDict):
    """What `fewest` returns."""

    steps: list[int]
    choice: list[int]
    loss: float | None
    per_level: list[float | None]


def choose(
    stage: StageDir, expert: ResidualExpert, held_out: Validator, best: Mapping[str, int], most: int
) -> dict[str, Any]:
    """`fewest` of the snapshots that were best for some level, `best`."""
    steps = sorted(set(best.values()))
    trial = _copy(expert)
    table = []
    for step in steps:
        load_weights(LossModule(trial), snapshot_path(stage, step))
        loss = held_out.expert(trial).mean(1)
        table.append(torch.where(loss.isnan(), 0.0, loss))
    return fewest(torch.stack(table), steps, most)


def fewest(losses: Tensor, steps: Sequence[int], most: int) -> dict[str, Any]:
    """At most this many snapshots of an expert, and which of them each noise level uses.

    Args:
        losses: held-out loss of each snapshot at each level, (snapshots, levels).
        steps: after which each was taken.
        most: how many may stay.

    Returns:
        {"steps": those that stay, "choice": an index into them for each level, "loss": mean of the least losses,
        "per_level": these}.
    """
    kept = list(range(len(steps)))
    while len(kept) > most:
        # Give up the snapshot that is missed least.
        costs = [losses[[k for k in kept if k != gone]].amin(0).sum() for gone in kept]
        kept.remove(kept[int(torch.stack(costs).argmin())])
    least, choice = losses[kept].min(0)
    used = sorted(set(choice.tolist()))
    return {
        "steps": [steps[kept[k]] for k in used],
        "choice": [used.index(k) for k in choice.tolist()],
        "loss": float(least.mean()),
        "per_level": least.tolist(),
    }


def chosen(
    stage: StageDir, expert: ResidualExpert, levels: Sequence[float], choice: Mapping[str, Any]
) -> SnapshotsByNoiseLevel:
    """The snapshots that `choose` kept, frozen."""
    steps, used = choice["steps"], choice["choice"]
    if len(used) != len(levels) or not all(0 <= k < len(steps) for k in used):
        raise BootdiffError(f"{stage / 'choice.json'}: a choice for other noise levels; {stage.remedy}")
    members = []
    for step in choice["steps"]:
        member = _copy(expert)
        load_weights(LossModule(member), snapshot_path(stage, step))
        members.append(member)
    return SnapshotsByNoiseLevel(members, levels, choice["choice"]).eval().requires_grad_(False)


def last(stage: StageDir, expert: SnapshotsByNoiseLevel) -> ResidualExpert:
    """An expert as training left it."""
    member = _copy(expert.members[0])  # type: ignore[arg-type]
    load_weights(LossModule(member), stage / "final.safetensors")
    return member


def _copy(expert: ResidualExpert) -> ResidualExpert:
    """The expert with a network of its own to load weights into; the composite is shared."""
    return expert.with_net(copy.deepcopy(expert.net))

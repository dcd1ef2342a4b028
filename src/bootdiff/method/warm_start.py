"""Where the training of an expert starts: at the weights of another one, which may have seen less.

A residual expert F(c_in x, m, seen, c_noise) that starts at the full-only network F0(c_in x, c_noise) is given the
weights of F0, and zeros where its first layer reads the mask m and the views' estimates:

    W = [W0 | 0 | 0],    so that F(x, m, seen) = F0(x) for whatever the views say, until training says otherwise.

Its parametrization is F0's, on the white base, D = b + c_out F.  So what full-only training has learned is not learned
again: of the residual's steps none are spent on noise levels at which the views have nothing to say.

It may as well start at a view's network F_i(c_in y, m, c_noise), W = [W_i | 0]: one trained on ten thousand pictures
under a caption knows more of pictures than one trained on a hundred whole ones, once it is told by m = 1 that nothing
is hidden.  Convolutions fit samples of every size.  Which start is best is asked, not assumed, and not of the networks
as they stand (what was never shown the bottom of a picture does badly there, and learns it in a few steps): in a *race*
each candidate is trained for a short while, all of them together for an eighth of the steps, and the one with the least
held-out loss, mean over the noise levels, is trained on for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bootdiff.errors import BootdiffError
from bootdiff.method.composite import ResidualExpert
from bootdiff.method.losses import LossModule
from bootdiff.method.training_set import TrainingSet
from bootdiff.nets import build_net
from bootdiff.training.checkpoint import load_weights, read_weights

__all__ = ["alike", "masks_of", "race", "start_at"]


def alike(net: Any, shape: Sequence[int], other: Any, there: Sequence[int], full: Sequence[int]) -> bool:
    """Whether two backbones have the same weights, but for what they see beside x.

    Args:
        net: block of the recipe, for samples of `shape`.
        other: the block for samples of `there`, or None.
        full: shape of the full samples that both are views of.
    """
    if other is None or len(shape) != len(there):
        return False
    with torch.device("meta"):  # shapes, no values
        mine, its = (
            build_net(own.kind, at[0], at, None, **own.resolve(at, full).options())
            for own, at in ((net, shape), (other, there))
        )
    return type(mine) is type(its) and bool(mine.config == its.config)


def masks_of(bench: TrainingSet) -> int | None:
    """How many mask channels a bench's networks see; None where they are told a place, too."""
    if bench.samples.position_channels is not None:
        return None
    return 0 if bench.samples.mask is None else int(bench.samples.mask.shape[1])


def race(candidates: int, steps: int) -> tuple[int, int]:
    """Steps of each of several candidates in the race, and steps that are left for the one that wins.

    >>> race(2, 1000), race(1, 1000), race(3, 20)
    ((62, 876), (0, 1000), (0, 20))
    """
    short = steps // (8 * candidates) if candidates > 1 else 0
    return short, steps - candidates * short


def start_at(expert: ResidualExpert, path: Path) -> None:
    """Give an expert the weights of another one, whose network may have fewer input channels: the first ones.

    Raises:
        BootdiffError: a network of another kind or size.
    """
    trainee = LossModule(expert)
    own = trainee.state_dict()
    there = read_weights(trainee, path)
    wider = [k for k in own if k in there and own[k].shape != there[k].shape]
    if not wider:
        load_weights(trainee, path)
        return
    for key in wider:
        new, old = own[key], there[key].to(own[key])
        fits = new.ndim == old.ndim and new.ndim > 1 and new.shape[1] > old.shape[1]
        if len(wider) > 1 or not fits or (*new.shape[:1], *new.shape[2:]) != (*old.shape[:1], *old.shape[2:]):
            raise BootdiffError(
                f"{path}: its {key} is {tuple(old.shape)}, the network to be started there has {tuple(new.shape)}; "
                f"only the first layer may be wider: write `residual: {{start: views}}` for this backbone"
            )
        # Inputs are folded and flattened channel by channel, so those that both see come first.
        widened = new.new_zeros(new.shape)
        widened[:, : old.shape[1]] = old
        there[key] = widened
    trainee.load_state_dict(there)

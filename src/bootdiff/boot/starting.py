"""Where the training of an expert starts: at the last weights of another one, which may have seen less.

A residual expert F(c_in x, seen, c_noise) that starts at the full-only network F0(c_in x, c_noise) is given the weights
of F0, and zeros where its first layer reads the views' estimates:

    W = [W0 | 0],    so that F(x, seen) = F0(x) for whatever the views say, until training says otherwise.

Its parametrization is F0's, on the white base, D = b + c_out F.  So what full-only training has learned is not learned
again: of the residual's steps none are spent on noise levels at which the views have nothing to say.

A view's network starts likewise, where it is told (`start: full`): convolutions fit samples of every size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bootdiff.boot.composite import Expert
from bootdiff.boot.objective import Trainee
from bootdiff.errors import BootdiffError
from bootdiff.files import load_tensors
from bootdiff.runs import StageDir
from bootdiff.train import load_weights

__all__ = ["alike", "start_at"]


def alike(net: Any, shape: Sequence[int], other: Any, full: Sequence[int]) -> bool:
    """Whether two backbones have the same weights, but for what they see beside x.

    Args:
        net: block of the recipe, for samples of `shape`, views of samples of `full`.
        other: the block for samples of `full`, or None.
    """
    if other is None or len(shape) != len(full) or shape[0] != full[0]:
        return False
    if net.kind not in ("unet", "local") and tuple(shape) != tuple(full):
        return False
    return bool(net.sized(shape, full) == other.sized(full, full))


def start_at(expert: Expert, stage: StageDir) -> None:
    """Give an expert the last weights of a complete stage, whose network may have fewer input channels: the first ones.

    Raises:
        BootdiffError: a network of another kind or size.
    """
    path = stage / "final.safetensors"
    trainee = Trainee(expert)
    own = trainee.state_dict()
    there, _ = load_tensors(path)
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

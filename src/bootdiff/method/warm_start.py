"""Where the training of an expert starts: at the weights of another one, which may have seen less.

A residual expert F(c_in x, m, v, c_noise) that starts at the full-only network F0(c_in x, c_noise) is given the weights
of F0, and zeros where its first layer reads the mask m and the views' estimates v:

    W = [W0 | 0 | 0],    so that F(x, m, v) = F0(x) for any estimates, until training changes it.

Its parametrization is F0's, on the prior, D = b + c_out F.  So what full-only training has learned is not learned
again: none of the residual's steps are spent on noise levels at which the views carry no information.

It may as well start at a view's network F_i(c_in y, m, c_noise), W = [W_i | 0]: one trained on ten thousand images
under a caption knows more of images than one trained on a hundred whole ones, given m = 1: nothing is hidden.
Convolutions fit samples of every size.  Which start is best is measured, not assumed, and not of the networks as they
stand (one that was never trained on the bottom of an image does badly there, and learns it in a few steps): in a *race*
each candidate is trained for a short while, all of them together for an eighth of the steps, and the one with the least
held-out loss, mean over the noise levels, is trained on for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, with_config
from torch import Tensor, nn
from typing_extensions import TypedDict

from bootdiff.errors import BootdiffError
from bootdiff.method.losses import LossModule
from bootdiff.method.residual import ResidualExpert
from bootdiff.nets.network import BuiltIn, Network
from bootdiff.pretrained import DiffusersDenoiser
from bootdiff.training.checkpoint import load_weights, read_weights
from bootdiff.training.forms import TrainingCost

__all__ = ["Start", "alike", "race", "start_at", "weights_like"]


@with_config(ConfigDict(strict=True, extra="forbid"))
class Start(TypedDict):
    """What a race came to. start: the weights of the winner, below the folder of all stages; None: no race."""

    start: Annotated[str, Field(pattern=r"^\w[\w.-]*\.start-\d+/final\.safetensors$")] | None
    losses: dict[str, float | None]
    ledgers: list[TrainingCost]


def alike(
    network: Network, shape: Sequence[int], other: Network | None, there: Sequence[int], full: Sequence[int]
) -> bool:
    """Whether two networks have the same weights, but for what they take as input beside x.

    Args:
        network: for samples of `shape`.
        other: the one for samples of `there`, or None.
        full: shape of the full samples that both are views of.
    """
    if other is None or len(shape) != len(there):
        return False
    mine, its = (_form(n.resolve(at, full), tuple(at)) for n, at in ((network, shape), (other, there)))
    return mine == its


_FORMS: dict[str, Any] = {}


def _form(network: Network, shape: tuple[int, ...]) -> Any:
    """What a network's weights depend on, but for their values; of built-in networks found once for each size."""
    key = f"{network.describe()} {shape}"
    if key in _FORMS:
        return _FORMS[key]
    with torch.device("meta"), torch.random.fork_rng(devices=[]):  # shapes, no values
        net = network.build(shape[0], shape)
    form = type(net), getattr(net, "config", None), {k: tuple(v.shape) for k, v in net.state_dict().items()}
    if isinstance(network, BuiltIn):
        _FORMS[key] = form
    return form


def weights_like(net: nn.Module, model: nn.Module) -> dict[str, Tensor] | None:
    """Weights for a network, by its own names, from the network inside a model that has its form.

    Its form: the same names and shapes, but for fewer input channels of one layer (`start_at`), around it or not (a
    diffusers model inside a network here).  Of several the last; None where there is none.
    """
    found = [m.net if isinstance(m, ResidualExpert) else m.unet for m in model.modules() if isinstance(m, _HOLDERS)]
    own = net.state_dict()
    inside = [("", net), *((f"{name}.", child) for name, child in net.named_children())]
    for other in reversed(found):
        there = other.state_dict()
        for prefix, part in inside:
            mine = part.state_dict()
            unlike = [k for k in mine if k in there and mine[k].shape != there[k].shape]
            if mine.keys() == there.keys() and (not unlike or (len(unlike) == 1 and _wider(mine, there, unlike[0]))):
                return own | {prefix + name: value for name, value in there.items()}
    return None


_HOLDERS = (ResidualExpert, DiffusersDenoiser)


def _wider(mine: dict[str, Tensor], there: dict[str, Tensor], key: str) -> bool:
    new, old = tuple(mine[key].shape), tuple(there[key].shape)
    return len(new) == len(old) > 1 and new[1] > old[1] and (new[0], *new[2:]) == (old[0], *old[2:])


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
        if len(wider) > 1 or not _wider(own, there, key):
            raise BootdiffError(
                f"{path}: its {key} is {tuple(old.shape)}, the network to be started there has {tuple(new.shape)}; "
                f"only the first layer may be wider: write `residual: {{start: views}}` for this backbone"
            )
        # Inputs are folded and flattened channel by channel, so those that both see come first.
        widened = new.new_zeros(new.shape)
        widened[:, : old.shape[1]] = old
        there[key] = widened
    trainee.load_state_dict(there)

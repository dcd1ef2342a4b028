"""Networks as they are given, and what is built of them.

as_network("unet")                                  one of bootdiff's, in the sizes of its kind   BuiltIn
as_network(BuiltIn("unet", {"channels": [16, 32]})) one of them with options
as_network(MyNet), as_network(lambda i, o: ...)     a class or function that makes one            OwnNetwork
as_network(MyNet(3, 3))                             copies of a module with its weights           TemplateNetwork
DiffusersNetwork("DiTTransformer2DModel", {...})    a model class of diffusers
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from bootdiff.nets.build import BACKBONES
from bootdiff.nets.builtin import BuiltIn
from bootdiff.nets.contract import Network, NetworkError, check_network
from bootdiff.nets.diffusers_net import DiffusersNetwork
from bootdiff.nets.own import AdaptedInput, OwnNetwork, TemplateNetwork
from bootdiff.noise import LogNormal

__all__ = [
    "NOISE",
    "AdaptedInput",
    "BuiltIn",
    "DiffusersNetwork",
    "Network",
    "NetworkError",
    "OwnNetwork",
    "TemplateNetwork",
    "as_network",
    "check_network",
    "default_networks",
    "divided",
]


def as_network(value: Any) -> Network:
    """A network from what a user gives: a `Network`, a name, a module, or a class or function that makes one.

    Raises:
        ValueError: an unknown name, or something else altogether.
    """
    if isinstance(value, Network):
        return value
    if isinstance(value, str):
        return BuiltIn(value)
    if isinstance(value, nn.Module):
        return TemplateNetwork(value)
    if callable(value):
        return OwnNetwork(value)
    raise ValueError(
        f"a network is a name ({', '.join(BACKBONES)}), a torch module, or a class or function f(c_in, c_out) that "
        f"makes one; got {value!r}"
    )


NOISE = {"unet": LogNormal(-0.2, 1.1), "local": LogNormal(-1.9, 1.0)}
"""Noise levels of networks that are stacked: what is fine is decided by neighbours, at low noise; what is where, above.

Chosen on held-out images (docs/experts.md)."""


def divided(networks: Mapping[str, Network]) -> dict[str, Network]:
    """The same networks, stacked: where a UNet and a local net are among them, they divide the noise levels, unless it
    is said at which they are trained (`Network.noise_in`). A network of one kind alone is trained at all.
    """
    kinds = {network.kind for network in networks.values() if isinstance(network, BuiltIn)}
    if not kinds.issuperset(NOISE):
        return dict(networks)
    return {
        name: replace(n, divided=NOISE[n.kind]) if isinstance(n, BuiltIn) and n.kind in NOISE else n
        for name, n in networks.items()
    }


def default_networks(axes: int) -> dict[str, Network]:
    """The networks by name for samples with that many axes after the first, where none are given.

    >>> list(default_networks(0)), list(default_networks(3))
    (['mlp', 'linear'], ['unet', 'local'])
    """
    return {name: BuiltIn(name) for name in (("mlp", "linear") if axes == 0 else ("unet", "local"))}

"""What is asked of networks: of a `Network`, a backbone still to be built, and of the module that it builds."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bootdiff.errors import BootdiffError
from bootdiff.noise import LogNormal

__all__ = ["Network", "NetworkError", "check_network"]


class NetworkError(BootdiffError, ValueError):
    """A network that cannot be built or does not keep the contract: a wrong argument in Python, a mistake in a recipe.

    The message says what, where and what to do.
    """


@dataclass(frozen=True)
class Network(ABC):
    """A backbone to be built for samples of any shape: what `networks=` and a recipe's `backbones` hold.

    noise: levels that it is trained at, in every part; None: those of the training settings.
    divided: levels that it is trained at where neither it nor the training settings say any: its part of what a stack
    of networks divides among them; None: all.
    """

    noise: LogNormal | None = field(default=None, kw_only=True)
    divided: LogNormal | None = field(default=None, kw_only=True)

    def noise_in(self, given: LogNormal) -> LogNormal:
        """The noise levels that it is trained at, where the training settings have `given`."""
        if self.noise is not None:
            return self.noise
        return self.divided if self.divided is not None and given == LogNormal() else given

    def resolve(self, shape: Sequence[int], full: Sequence[int]) -> Network:
        """The same with the sizes of its kind, for samples of `shape` (C, *space), views of samples of `full`.

        Raises:
            BootdiffError: samples that it is not for.
        """
        return self

    @abstractmethod
    def build(self, in_channels: int, shape: Sequence[int], classes: int | None = None) -> nn.Module:
        """A new module net(x, c_noise, label): x (B, in_channels, *space), c_noise and label (B,) -> (B, *shape).

        Its weights are drawn from torch's global generator.

        Args:
            in_channels: those of the sample, then masks and whatever else is to be seen.
            shape: of a sample, (C, *space).
            classes: number of classes, or None.

        Raises:
            ValueError: it cannot be built so, or does not keep the contract.
        """

    @abstractmethod
    def describe(self) -> Any:
        """JSON-able: all that the built network depends on; equal exactly for networks that build alike."""


def check_network(
    net: nn.Module, in_channels: int, shape: Sequence[int], classes: int | None = None, name: str | None = None
) -> None:
    """Try a network on a batch of 2: net(x, c_noise, label), with labels 0 and -1 (none) where there are classes.

    It is left as it was: its mode, its weights, and torch's generators.  Messages call it `name`, by default its class.

    Raises:
        ValueError: no parameters, no argument for the label, another output shape, not finite; it says what to do.
    """
    name = name or type(net).__name__
    said = f"the network {name}, for samples of shape {tuple(shape)} and {in_channels} input channels,"
    first = next(net.parameters(), None)
    if first is None:
        raise NetworkError(
            f"{said} has no parameters to train; assign its layers to self in __init__ (several: in a ModuleList)"
        )
    x = torch.randn(2, in_channels, *shape[1:], generator=torch.Generator().manual_seed(0)).to(first)
    c_noise = torch.tensor([-0.5, 0.2]).to(first)
    label = None if classes is None else torch.tensor([0, -1], device=first.device)
    try:
        inspect.signature(net.forward).bind(x, c_noise, label)
    except TypeError:
        raise NetworkError(
            f"{said} takes no label: it is called as net(x, c_noise, label), so give its forward a third argument "
            "`label=None`; class numbers (B,), -1 where no class is given"
        ) from None
    if first.is_meta:
        return
    modes = {module: module.training for module in net.modules()}
    devices = [first.device] if first.is_cuda else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            y = net.eval()(x, c_noise, label)
    except Exception as error:  # the user's code
        raise NetworkError(
            f"{said} fails when called as net(x, c_noise, label), x {tuple(x.shape)}, c_noise (2,) = ln(sigma) / 4, "
            f"label {'None' if label is None else '[0, -1] (-1: no class)'}: {type(error).__name__}: {error}"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not isinstance(y, Tensor):
        raise NetworkError(f"{said} answers with a {type(y).__name__}, not a tensor; return the tensor itself")
    if tuple(y.shape) != (2, *shape):
        raise NetworkError(
            f"{said} answers with the shape {tuple(y.shape)} where {(2, *shape)} is needed; it must have {shape[0]} "
            "output channels and keep the space"
        )
    if not y.isfinite().all():
        raise NetworkError(
            f"{said} answers with numbers that are not finite for ordinary noise; look for a division by 0 or weights "
            "that were never set"
        )

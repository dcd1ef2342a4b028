"""Gradient checkpointing: what a block computes on the way is forgotten, and computed again for the gradient.

Of a network with blocks b_1 ... b_n (`blocks_of`), a step then keeps

    the inputs of all blocks + what is kept outside of them + what one block keeps, the largest

in place of what all of them keep, and computes each block's values twice, but for its last layer's: up to a third more
FLOPs for the same loss and the same gradient, bit by bit (T. Chen et al. 2016, arXiv 1604.06174;
torch.utils.checkpoint). A local net, whose blocks have one convolution each, asks for hardly more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["blocks_of", "recomputed", "wrapped"]


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The blocks of a network that have parameters to train, in the order of its modules.

    They are the entries of its `nn.ModuleList`s; where most of an entry's parameters lie in lists of its own, as in
    diffusers' blocks of residual blocks, these entries are.
    """
    if not isinstance(module, nn.ModuleList):
        return [block for child in module.children() for block in blocks_of(child)]
    found: list[nn.Module] = []
    for entry in module:
        within = blocks_of(entry)
        if 2 * sum(map(_trained, within)) > _trained(entry):
            found += within
        elif _trained(entry):
            found.append(entry)
    return found


def _trained(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@contextmanager
def wrapped(module: nn.Module, around: Callable[[Callable[..., Any], Any, Any], Any]) -> Iterator[list[nn.Module]]:
    """Every block's forward(*args, **kwargs) is `around(forward, args, kwargs)`, until the block ends."""
    blocks = blocks_of(module)
    for block in blocks:
        forward = block.forward
        block.forward = lambda *args, _forward=forward, **kwargs: around(_forward, args, kwargs)
    try:
        yield blocks
    finally:
        for block in blocks:
            del block.forward  # the class's is there again


@contextmanager
def recomputed(module: nn.Module, on: bool = True) -> Iterator[None]:
    """Inside, gradients of a module's blocks are computed by computing the blocks again; not `on`: as always."""
    if not on:
        yield
        return

    def again(forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    with wrapped(module, again):
        yield

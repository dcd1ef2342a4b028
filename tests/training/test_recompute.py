"""Gradient checkpointing: the same bits for less memory and more FLOPs, for every network."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bootdiff.nets import BACKBONES
from bootdiff.training.recompute import blocks_of, recomputed, wrapped
from bootdiff.training.run import Run, load_tensors
from net_calls import C_NOISE, awake, build, noise
from training_toy import Batches, train

SHAPES = {0: (6,), 1: (2, 16), 2: (2, 16, 16), 3: (2, 3, 16, 16)}
PAIRS = [(kind, SHAPES[axes]) for kind, nets in BACKBONES.items() for axes in nets]
every_net = pytest.mark.parametrize(("kind", "shape"), PAIRS, ids=[f"{k}-{len(s) - 1}d" for k, s in PAIRS])


def small(kind, shape, **more):
    more |= {"depth": 6} if kind == "local" else {}
    return awake(build(kind, shape, **more)).train()


def gradient(net, x, on):
    net.zero_grad()
    torch.manual_seed(0)  # dropout
    with recomputed(net, on), FlopCounterMode(display=False) as counter:
        net(x, C_NOISE).square().sum().backward()
    return [p.grad.clone() for p in net.parameters()], counter.get_total_flops()


@every_net
def test_gradients_are_the_same_bits_for_more_flops(kind, shape):
    dropout = {} if kind == "linear" else {"dropout": 0.2}
    net, x = small(kind, shape, **dropout), noise(2, shape[0] + 1, *shape[1:])
    plain, flops = gradient(net, x, False)
    again, more = gradient(net, x, True)
    assert all(map(torch.equal, again, plain))
    # A block's last layer is not computed again, and those of local nets and MLPs have no other that counts.
    assert 1.1 * flops < more < 1.4 * flops if kind == "unet" else flops <= more < 1.1 * flops
    assert blocks_of(net) or kind == "linear"
    assert not any("forward" in vars(module) for module in net.modules())


def saved(net, x, on):
    """Bytes of what is kept for the gradient, by torch's own hooks."""
    kept = {}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), recomputed(net, on):
        net(x, C_NOISE)
    return sum(kept.values())


@pytest.mark.parametrize(("kind", "shape"), [(k, s) for k, s in PAIRS if k in ("unet", "local") and len(s) > 1])
def test_less_is_kept(kind, shape):
    net, x = small(kind, shape), noise(2, shape[0] + 1, *shape[1:])
    assert saved(net, x, True) < 0.6 * saved(net, x, False)


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        layer = lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.SiLU(), nn.Linear(4, 4))  # noqa: E731
        self.net, self.known = nn.ModuleList(layer() for _ in range(3)), nn.ModuleList([nn.Linear(4, 4)])
        self.known.requires_grad_(False)

    def forward(self, x):
        for block in (*self.known, *self.net):
            x = x + block(x)
        return x


def test_blocks_are_those_to_train_and_their_forwards_come_back():
    net = Blocks()
    assert blocks_of(net) == list(net.net)
    assert blocks_of(nn.ModuleList([net])) == list(net.net)  # in which all of its parameters lie
    mixed = nn.ModuleDict({"blocks": nn.ModuleList([net, nn.Linear(4, 4)]), "last": nn.Linear(4, 4)})
    assert blocks_of(mixed) == [*net.net, mixed["blocks"][1]]
    small = nn.ModuleList([nn.ModuleDict({"a": nn.Linear(9, 9), "b": nn.ModuleList([nn.Linear(4, 4)])})])
    assert blocks_of(small) == [small[0]]  # most of it lies beside its own list
    asked = []
    with pytest.raises(ZeroDivisionError), wrapped(net, lambda forward, args, kwargs: asked.append(args) or 1 / 0):
        net(torch.zeros(1, 4))
    assert len(asked) == 1
    assert not any("forward" in vars(block) for block in net.net)


def test_a_training_ends_with_the_same_bits_and_may_change_its_mind(tmp_path):
    def trained(name, **how):
        with Run.open(tmp_path / name, "seed: 3") as run:
            model = copy.deepcopy(first)
            result = train(run.stage("toy"), model=model, **how)
            final, _ = load_tensors(run.stage("toy") / "final.safetensors")
            return SimpleNamespace(result=result, final=final)

    class Stop(Exception):
        pass

    def stop(step):
        if step == 20:
            raise Stop

    torch.manual_seed(0)
    first = Blocks()
    plain = trained("plain")
    with pytest.raises(Stop):
        trained("mixed", gradient_checkpointing=True, batches=Batches(on_step=stop))
    for other in (trained("on", gradient_checkpointing=True), trained("mixed")):
        assert other.final.keys() == plain.final.keys()
        assert all(torch.equal(other.final[name], value) for name, value in plain.final.items())
    assert trained("on", gradient_checkpointing=True).result.ledger["flops"] > plain.result.ledger["flops"]

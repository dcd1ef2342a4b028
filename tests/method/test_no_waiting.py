"""What is evaluated is decided on the CPU: a batch whose noise levels are noted never waits for the device.

The device is torch's "meta", whose tensors have no values: whoever looks at one fails.
"""

from __future__ import annotations

import pytest
import torch

from bootdiff.denoise import IsotropicGaussian
from bootdiff.evaluation.swap import SwappedDenoiser
from bootdiff.guidance import GuidedDenoiser
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.gaussian import GaussianDenoiser
from bootdiff.method.losses import LossModule, ResidualObjective
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.stack import SnapshotsByNoiseLevel, StackedDenoiser
from bootdiff.nets import LocalNet
from bootdiff.noise import LogNormal, noted, on_host, some_rows
from bootdiff.views import Crop, Downsample, Mask, Observed

LEVELS = [0.1, 1.0, 10.0]
SHAPE = (1, 8, 8)


def white(shape=SHAPE):
    return IsotropicGaussian(shape, [0.1], 0.5)


def expert(composite, extra=0, classes=None, shape=SHAPE):
    return ResidualExpert(LocalNet(shape[0] + extra, shape[0], 8, 3, classes), composite, uses_views=bool(extra))


def alone(shape=SHAPE, extra=0):
    return expert(CompositeDenoiser({}, white(shape), LEVELS), shape=shape) if not extra else masked(shape)


def masked(shape=SHAPE):
    none = CompositeDenoiser({}, white(shape), LEVELS)
    return ResidualExpert(LocalNet(2, 1, 8, 3), none, mask_channels=1)


def stack(classes=None):
    views = {
        "small": (Downsample(2), alone((1, 4, 4))),
        "crops": (Crop(4), alone((1, 4, 4))),
        "caption": (Mask(band=("bottom", 2)), masked()),
        "noisy": (Observed(Downsample(2), 0.3), alone((1, 4, 4))),
    }
    gains = [[1.0, 0.0, 0.5, 1.0], [0.5, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]]
    composite = CompositeDenoiser(views, white(), LEVELS, gains)
    none = CompositeDenoiser({}, white(), LEVELS)
    snapshots = SnapshotsByNoiseLevel([expert(none, 0, classes) for _ in range(2)], LEVELS, [0, 1, 1])
    experts = [expert(composite, 4), snapshots, GaussianDenoiser(SHAPE, 3)]
    weights = [[0.3, 0.7, 0.0], [0.0, 1.0, 0.2], [0.4, 0.0, 0.6]]
    return StackedDenoiser(composite, experts, LEVELS, weights).eval()


DENOISERS = {
    "stack": stack,
    "guided": lambda: GuidedDenoiser(stack(classes=3), 2.0, (0.5, 50.0)),
    "swapped": lambda: SwappedDenoiser(stack(), white(), 0.5, 5.0),
}
SIGMAS = [torch.full((6,), 0.15), torch.full((6,), 3.0), torch.tensor([0.05, 0.1, 0.4, 1.0, 7.0, 30.0])]


@pytest.mark.parametrize("sigma", SIGMAS, ids=["low", "high", "all"])
@pytest.mark.parametrize("name", DENOISERS)
@torch.no_grad()
def test_a_batch_with_noted_levels_never_waits(name, sigma):
    torch.manual_seed(0)
    denoiser = DENOISERS[name]()
    label = torch.tensor([0, 1, 2, -1, 0, 1]) if name == "guided" else None
    here = denoiser(torch.randn(6, *SHAPE), sigma, label)
    assert here.isfinite().all()
    there = denoiser.to("meta")
    x = torch.empty(6, *SHAPE, device="meta")
    known = None if label is None else noted(label.to("meta"), label)
    assert there(x, noted(sigma.to("meta"), sigma), known).shape == here.shape
    with pytest.raises((RuntimeError, NotImplementedError)):
        there(x, sigma.to("meta"), known)  # whose levels are not known


def test_a_training_step_never_waits():
    """Its noise levels are drawn on the CPU."""
    trainee = LossModule(expert(stack().composite, 4)).to("meta")
    composite = trainee.expert.to("meta").composite
    objective = ResidualObjective(composite, LogNormal())
    x0 = torch.empty(6, *SHAPE, device="meta")
    losses = objective(trainee, {"x": x0}, torch.Generator().manual_seed(0))
    losses.mean().backward()
    assert losses.shape == (6,)


def test_what_is_noted_goes_with_the_rows():
    host = torch.tensor([1.0, 2.0, 3.0])
    v = noted(host.to("meta"), host)
    part = some_rows(v, torch.tensor([2, 0]))
    assert part.device.type == "meta"
    assert on_host(part).tolist() == [3.0, 1.0]
    assert on_host(host) is host
    assert some_rows(None, torch.tensor([0])) is None
    assert some_rows(host, torch.tensor([1])).tolist() == [2.0]

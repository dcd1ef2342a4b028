"""Small denoisers with a little of everything: what the tests of sampling and of the pipeline share."""

from __future__ import annotations

import torch

from bootdiff.denoise import Denoiser, IsotropicGaussian, expand
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.stack import StackedDenoiser
from bootdiff.nets import LocalNet
from bootdiff.noise import LEVELS
from bootdiff.views import ChannelMix, Downsample


def scrambled(module):
    """Weights away from the start, where the last layers are 0 and nothing would depend on them."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=g) / max(1, p[0].numel()) ** 0.5)
    return module


def prior(shape):
    return IsotropicGaussian(shape, [0.1] * shape[0], 0.5)


def stacked(composite, classes=None, dropout=0.0):
    """A small denoiser: a composite and one local net."""
    shape, views = composite.shape, len(composite.views)
    net = LocalNet(shape[0] * (1 + views), shape[0], width=8, depth=3, classes=classes, dropout=dropout)
    expert = ResidualExpert(net, composite, LEVELS, [0.5] * len(LEVELS))
    return scrambled(StackedDenoiser(composite, [expert], LEVELS))


def denoiser(shape, **options):
    return stacked(CompositeDenoiser({}, prior(shape), LEVELS), **options)


def two_views(channels=3):
    """A stack over a thumbnail view and a gray one."""
    full = (channels, 8, 8)
    views = {"small": Downsample(2), "gray": ChannelMix.gray()}
    parts = {name: (view, denoiser(view.shape(full))) for name, view in views.items()}
    gains = [[0.9, 0.5 * (level < 1)] for level in LEVELS]
    return stacked(CompositeDenoiser(parts, prior(full), LEVELS, gains))


class ByClass(Denoiser):
    """All of class k is the constant k."""

    shape = (1, 2, 2)

    def forward(self, x, sigma, label=None, context=None):
        return torch.zeros_like(x) if label is None else expand(label, x).expand_as(x)

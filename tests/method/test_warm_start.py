"""Experts that start where others ended: the same answers, whatever the views say, for every kind of network."""

from __future__ import annotations

import pytest
import torch

from bootdiff.denoise import IsotropicGaussian
from bootdiff.errors import BootdiffError
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.losses import LossModule
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.warm_start import start_at
from bootdiff.nets import build_net
from bootdiff.training.files import save_tensors

LEVELS = [0.1, 1.0]
NETS = [
    ("unet", (2, 8, 8), {"channels": [8, 16], "attention": [], "patch": 2}),
    ("unet", (2, 16), {"channels": [8, 16], "attention": []}),
    ("unet", (1, 4, 8, 8), {"channels": [8, 16], "attention": [], "patch": 2}),
    ("local", (2, 8, 8), {"width": 8, "depth": 3}),
    ("local", (2, 16), {"width": 8, "depth": 3}),
    ("local", (1, 4, 8, 8), {"width": 8, "depth": 3}),
    ("mlp", (2, 3, 3), {"width": 8}),
    ("linear", (4,), {}),
]


def expert(kind, shape, more, options, seed, anchor="prior"):
    torch.manual_seed(seed)
    net = build_net(kind, shape[0] + more, shape, None, **options)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    composite = CompositeDenoiser({}, IsotropicGaussian(shape, [0.1] * shape[0], 0.5), LEVELS)
    expert = ResidualExpert(net, composite, anchor=anchor)
    expert.uses_views = bool(more)  # of views whose estimates the tests make up
    return expert


@pytest.fixture
def kept(tmp_path):
    """Where a stage of a run keeps its last weights."""
    path = tmp_path / "stages" / "one" / "final.safetensors"
    path.parent.mkdir(parents=True)
    return path


def estimates(expert, x, sigma, views=None):
    """What the composite says of x, were its views' estimates these."""
    return expert.composite.estimate(x, sigma)._replace(views=views)


@pytest.mark.parametrize(("kind", "shape", "options"), NETS)
def test_an_expert_starts_with_the_answers_of_one_that_saw_less(kept, kind, shape, options):
    plain, wide = expert(kind, shape, 0, options, 0), expert(kind, shape, shape[0], options, 1)
    save_tensors(kept, LossModule(plain).state_dict(), {})
    start_at(wide, kept)
    x, sigma, seen = torch.randn(3, *shape), torch.tensor([0.1, 0.5, 2.0]), torch.randn(3, *shape)
    got = wide(x, sigma, at=estimates(wide, x, sigma, seen))
    torch.testing.assert_close(got, plain(x, sigma), atol=1e-5, rtol=1e-5)
    more = wide(x, sigma, at=estimates(wide, x, sigma, 5 * seen))
    torch.testing.assert_close(more, got, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "shape", "options"), [net for net in NETS if net[0] in ("unet", "local")])
def test_a_masked_views_network_answers_as_if_it_were_told_that_nothing_is_hidden(kept, kind, shape, options):
    view = expert(kind, shape, 1, options, 0)
    view.uses_views = False  # it sees a mask, not views
    residual = expert(kind, shape, 1 + shape[0], options, 1)
    residual.mask_channels = 1
    save_tensors(kept, LossModule(view).state_dict(), {})
    start_at(residual, kept)
    x, sigma, seen = torch.randn(3, *shape), torch.tensor([0.1, 0.5, 2.0]), torch.randn(3, *shape)
    mask_channels, hidden = torch.ones(3, 1, *shape[1:]), torch.zeros(3, 1, *shape[1:])
    got = residual(x, sigma, at=estimates(residual, x, sigma, seen))
    torch.testing.assert_close(got, view(x, sigma, context=mask_channels), atol=1e-5, rtol=1e-5)
    assert (got - view(x, sigma, context=hidden)).abs().max() > 1e-2


def test_the_same_width_is_copied_and_another_network_is_refused(kept):
    kind, shape, options = NETS[3]
    plain, twin = expert(kind, shape, 0, options, 0), expert(kind, shape, 0, options, 1)
    save_tensors(kept, LossModule(plain).state_dict(), {})
    start_at(twin, kept)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), twin.parameters(), strict=True))
    with pytest.raises(BootdiffError, match="start: views"):
        start_at(expert(kind, shape, 2, {**options, "width": 16}, 1), kept)

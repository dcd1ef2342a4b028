"""Experts that start where others ended: the same answers, whatever the views say, for every kind of network."""

from __future__ import annotations

import pytest
import torch

from bootdiff.denoise import IsotropicGaussian
from bootdiff.errors import BootdiffError
from bootdiff.method.composite import ResidualExpert
from bootdiff.method.losses import LossModule
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


def expert(kind, shape, more, options, seed, on="base"):
    torch.manual_seed(seed)
    net = build_net(kind, shape[0] + more, shape, None, **options)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return ResidualExpert(
        net, IsotropicGaussian(shape, [0.1] * shape[0], 0.5), LEVELS, [1.0] * len(LEVELS), bool(more), on
    )


@pytest.mark.parametrize(("kind", "shape", "options"), NETS)
def test_an_expert_starts_with_the_answers_of_one_that_saw_less(tmp_path, kind, shape, options):
    plain, wide = expert(kind, shape, 0, options, 0), expert(kind, shape, shape[0], options, 1)
    save_tensors(tmp_path / "final.safetensors", LossModule(plain).state_dict(), {})
    start_at(wide, tmp_path / "final.safetensors")
    x, sigma, seen = torch.randn(3, *shape), torch.tensor([0.1, 0.5, 2.0]), torch.randn(3, *shape)
    torch.testing.assert_close(wide(x, sigma, seen), plain(x, sigma, None), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(wide(x, sigma, 5 * seen), wide(x, sigma, seen), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "shape", "options"), [net for net in NETS if net[0] in ("unet", "local")])
def test_a_masked_views_network_answers_as_if_it_were_told_that_nothing_is_hidden(tmp_path, kind, shape, options):
    view = expert(kind, shape, 1, options, 0)
    view.uses_views = False  # it sees a mask, not views
    residual = expert(kind, shape, 1 + shape[0], options, 1)
    residual.mask_channels = 1
    save_tensors(tmp_path / "final.safetensors", LossModule(view).state_dict(), {})
    start_at(residual, tmp_path / "final.safetensors")
    x, sigma, seen = torch.randn(3, *shape), torch.tensor([0.1, 0.5, 2.0]), torch.randn(3, *shape)
    mask_channels, hidden = torch.ones(3, 1, *shape[1:]), torch.zeros(3, 1, *shape[1:])
    got = residual(x, sigma, seen)
    torch.testing.assert_close(got, view(x, sigma, None, None, mask_channels), atol=1e-5, rtol=1e-5)
    assert (got - view(x, sigma, None, None, hidden)).abs().max() > 1e-2


def test_the_same_width_is_copied_and_another_network_is_refused(tmp_path):
    kind, shape, options = NETS[3]
    plain, twin = expert(kind, shape, 0, options, 0), expert(kind, shape, 0, options, 1)
    save_tensors(tmp_path / "final.safetensors", LossModule(plain).state_dict(), {})
    start_at(twin, tmp_path / "final.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), twin.parameters(), strict=True))
    with pytest.raises(BootdiffError, match="start: views"):
        start_at(expert(kind, shape, 2, {**options, "width": 16}, 1), tmp_path / "final.safetensors")

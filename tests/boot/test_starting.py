"""Experts that start where others ended: the same answers, whatever the views say, for every kind of network."""

from __future__ import annotations

import pytest
import torch

from bootdiff.boot.composite import Composite, Expert
from bootdiff.boot.objective import HeldOut, Samples, Trainee
from bootdiff.boot.starting import best_start, start_at
from bootdiff.denoise import White
from bootdiff.errors import BootdiffError
from bootdiff.files import save_tensors
from bootdiff.nets import build_net
from bootdiff.noise import precondition
from bootdiff.theory.exact import Gaussian

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
    return Expert(net, White(shape, [0.1] * shape[0], 0.5), LEVELS, [1.0] * len(LEVELS), bool(more), on)


@pytest.mark.parametrize(("kind", "shape", "options"), NETS)
def test_an_expert_starts_with_the_answers_of_one_that_saw_less(tmp_path, kind, shape, options):
    plain, wide = expert(kind, shape, 0, options, 0), expert(kind, shape, shape[0], options, 1)
    save_tensors(tmp_path / "final.safetensors", Trainee(plain).state_dict(), {})
    start_at(wide, tmp_path / "final.safetensors")
    x, sigma, seen = torch.randn(3, *shape), torch.tensor([0.1, 0.5, 2.0]), torch.randn(3, *shape)
    torch.testing.assert_close(wide(x, sigma, seen), plain(x, sigma, None), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(wide(x, sigma, 5 * seen), wide(x, sigma, seen), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "shape", "options"), [net for net in NETS if net[0] in ("unet", "local")])
def test_a_masked_views_network_answers_as_if_it_were_told_that_nothing_is_hidden(tmp_path, kind, shape, options):
    view = expert(kind, shape, 1, options, 0)
    view.sees = False  # it sees a mask, not views
    residual = expert(kind, shape, 1 + shape[0], options, 1)
    residual.shown = 1
    save_tensors(tmp_path / "final.safetensors", Trainee(view).state_dict(), {})
    start_at(residual, tmp_path / "final.safetensors")
    x, sigma, seen = torch.randn(3, *shape), torch.tensor([0.1, 0.5, 2.0]), torch.randn(3, *shape)
    shown, hidden = torch.ones(3, 1, *shape[1:]), torch.zeros(3, 1, *shape[1:])
    got = residual(x, sigma, seen)
    torch.testing.assert_close(got, view(x, sigma, None, None, shown), atol=1e-5, rtol=1e-5)
    assert (got - view(x, sigma, None, None, hidden)).abs().max() > 1e-2


def test_the_start_is_the_one_that_is_best_on_held_out_samples(tmp_path):
    """Three candidates: the exact denoiser of the law, one a little off, one of nonsense."""
    shape, law = (4,), Gaussian(torch.tensor([0.2, -0.1, 0.0, 0.3]), torch.diag(torch.tensor([0.1, 0.2, 0.3, 0.4])))
    base = White(shape, [0.1, 0.1, 0.1, 0.1], 0.5)

    class Denoises(torch.nn.Module):
        """(D_law - b) / c_out + offset, of what an expert hands to its network."""

        def __init__(self, offset):
            super().__init__()
            self.offset = torch.nn.Parameter(torch.tensor(offset))

        def forward(self, inputs, c_noise, label):
            sigma = (4 * c_noise).exp()
            c = precondition(sigma, base.sigma_data)
            x = inputs / c.c_in[:, None] + base.mean
            return (law(x, sigma) - base(x, sigma)) / c.c_out[:, None] + self.offset

    expert = Expert(Denoises(9.0), base, LEVELS, [1.0] * len(LEVELS), False, "base")
    paths = []
    for name, offset in (("off", 0.1), ("exact", 0.0), ("nonsense", 2.0)):
        (tmp_path / name).mkdir()
        paths.append(tmp_path / name / "final.safetensors")
        other = Expert(Denoises(offset), base, LEVELS, [1.0] * len(LEVELS), False, "base")
        save_tensors(paths[-1], Trainee(other).state_dict(), {})
    samples = Samples(law.sample(500, torch.Generator().manual_seed(0)).float())
    found = best_start(expert, paths, HeldOut(samples, Composite(base, {}, {}, LEVELS), LEVELS))
    assert found["start"] == "exact/final.safetensors"
    want = found["losses"]["exact/final.safetensors"] + torch.tensor([0.1**2, 2.0**2])
    assert [found["losses"][f"{n}/final.safetensors"] for n in ("off", "nonsense")] == pytest.approx(
        want.tolist(), rel=0.05
    )


def test_the_same_width_is_copied_and_another_network_is_refused(tmp_path):
    kind, shape, options = NETS[3]
    plain, twin = expert(kind, shape, 0, options, 0), expert(kind, shape, 0, options, 1)
    save_tensors(tmp_path / "final.safetensors", Trainee(plain).state_dict(), {})
    start_at(twin, tmp_path / "final.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), twin.parameters(), strict=True))
    with pytest.raises(BootdiffError, match="start: views"):
        start_at(expert(kind, shape, 2, {**options, "width": 16}, 1), tmp_path / "final.safetensors")

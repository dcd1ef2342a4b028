"""Restoration, with Gaussians as the ruler: mean, spread and intervals of their posterior are known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from bootdiff.denoise import Denoiser, IsotropicGaussian
from bootdiff.distributions.exact import Gaussian
from bootdiff.errors import BootdiffError
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.stack import StackedDenoiser
from bootdiff.nets import LocalNet
from bootdiff.noise import LEVELS
from bootdiff.restoration import DDNM, METHODS, MMPS, PiGDM, observe, restore
from bootdiff.views import (
    ChannelMix,
    Crop,
    Downsample,
    FrameStride,
    FrameWindow,
    Identity,
    Mask,
    Observed,
    Pick,
    RandomMask,
    Stills,
    View,
    Window,
    compose,
)

PICTURE, VIDEO, SIGNAL, VECTOR = (2, 4, 4), (1, 4, 2, 3), (2, 12), (12,)


@dataclass
class Case:
    """A view of samples of one shape; hidden: the share that masks drawn per file hide of the view, or None."""

    full: tuple[int, ...]
    view: View
    hidden: float | None = None


CASES = [
    Case(PICTURE, Downsample(2)),
    Case(PICTURE, Crop((4, 2), offset=(0, 0))),
    Case(PICTURE, Mask(box=(1, 1, 2, 3))),
    Case(PICTURE, RandomMask(), 0.3),
    Case(PICTURE, ChannelMix(weights=(0.7, 0.3))),
    Case(PICTURE, ChannelMix(rows=((1.0, 0.0),))),
    Case(PICTURE, compose(Downsample(2), RandomMask()), 0.3),
    Case(PICTURE, compose(Mask(box=(0, 0, 2, 2)), Downsample(2))),
    Case(VIDEO, FrameWindow(2, offset=1)),
    Case(VIDEO, FrameStride(2, offset=0)),
    Case(VIDEO, Stills(frame=1)),
    Case(SIGNAL, Window(6, offset=3)),
    Case(SIGNAL, Identity(), 0.3),
    Case(VECTOR, Pick((0, 3, 7))),
    Case(PICTURE, Observed(Downsample(2), 0.15)),
    Case(PICTURE, Observed(Mask(box=(1, 1, 2, 3)), 0.3)),
    Case(PICTURE, Observed(Identity(), 0.3)),
    Case(VIDEO, Observed(FrameWindow(2, offset=1), 0.1)),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.view}")


def law_of(full):
    """A smooth Gaussian of standard deviation 0.6 about 0.1."""
    axes = [torch.arange(float(n)) for n in full]
    at = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(full)).double()
    cov = 0.35 * torch.exp(-(torch.cdist(at, at) ** 2) / (2 * 1.3**2)) + 0.01 * torch.eye(len(at))
    return Gaussian(torch.full(full, 0.1, dtype=torch.float64), cov)


def files(case, n=3, seed=0):
    """The law, n files as stored, their masks, and A (n, rows, coordinates)."""
    g = torch.Generator().manual_seed(seed)
    law = law_of(case.full)
    mask = None
    if case.hidden is not None:
        shape = observe_view(case).shape(case.full)
        mask = (torch.rand(n, 1, *shape[1:], generator=g) > case.hidden).float()
        mask.flatten(1)[:, 0] = 1
    given = observe(torch.zeros(n, *observe_view(case).shape(case.full)), case.view, case.full, mask)
    y = given.apply(law.sample(n, g))
    shown = given.apply(given.lift(torch.ones_like(given.y))).abs() > 1e-6
    y = y + given.tau * torch.randn(y.shape, generator=g) * shown
    eye = torch.eye(law.dim, dtype=torch.float64).reshape(law.dim, *case.full)
    rows = []
    for i in range(n):
        one = given.rows(torch.full((law.dim,), i))
        rows.append(one.apply(eye).flatten(1).T)
    return law, (y / given.view.scale).float(), mask, torch.stack(rows), given


def observe_view(case):
    """The case's view without masks drawn per file."""
    if isinstance(case.view, RandomMask):
        return Identity()
    return case.view.inner if hasattr(case.view, "outer") and isinstance(case.view.outer, RandomMask) else case.view


def posterior(law, A, y, tau):
    """Mean and covariance of x0 | y."""
    S, m = law.cov, law.mean.flatten()
    gain = S @ A.T @ torch.linalg.pinv(A @ S @ A.T + tau**2 * torch.eye(len(A)).double(), rtol=1e-9, hermitian=True)
    return m + gain @ (y.flatten().double() - A @ m), S - gain @ A @ S


def against_posterior(case, answers=120, **options):
    """(mean square error of the mean in units of its Monte Carlo error, mean log ratio of the deviations, how much of
    the true posterior the samples' 90 % interval holds, largest |A x - y| in stored coordinates)."""
    law, stored, mask, A, given = files(case)
    x = restore(law, stored, case.view, mask=mask, samples=answers, batch_size=400, **options).double()
    assert x.shape == (len(stored), answers, *case.full)
    bias, spread, held, gap = [], [], [], 0.0
    for i in range(len(stored)):
        mean, cov = posterior(law, A[i], stored[i] * given.view.scale, given.tau)
        deviation = cov.diagonal().clamp_min(0).sqrt()
        open_ = deviation > 1e-3
        mean, deviation, a = mean[open_], deviation[open_], x[i].flatten(1)[:, open_]
        bias.append((a.mean(0) - mean).square().div(deviation**2 / answers).mean())
        spread.append((a.std(0) / deviation).log().mean())
        exact = torch.distributions.Normal(mean, deviation)
        held.append((exact.cdf(a.quantile(0.95, 0)) - exact.cdf(a.quantile(0.05, 0))).mean())
        seen = (A[i] @ x[i].flatten(1).T).T - stored[i].flatten() * given.view.scale * (A[i].abs().sum(1) > 0)
        gap = max(gap, float(seen.abs().max() / given.view.scale))
    return *(float(torch.stack(v).mean()) for v in (bias, spread, held)), gap


@every_case
def test_moment_matching_is_exact_for_gaussians(case):
    bias, spread, held, gap = against_posterior(case, method="mmps", iterations=10)
    # 1 for unbiased draws; the solver's own error and the steps of conjugate gradients add to it
    assert bias < 2.5
    assert abs(spread) < 0.06
    assert 0.86 < held < 0.93
    if case.view.tau == 0:
        assert gap < 1e-5


@every_case
def test_the_other_methods_agree_with_what_is_given(case):
    for options in ({"method": "pigdm"}, {"method": "ddnm"}, {"method": "ddnm", "travel": (2, 3)}, {"iterations": 1}):
        _, _, _, gap = against_posterior(case, answers=6, steps=12, **options)
        if case.view.tau == 0:
            assert gap < 1e-5, options
        else:
            assert gap < 6 * case.view.tau / case.view.scale, options


@pytest.mark.parametrize("view", [Downsample(2), Mask(box=(1, 1, 2, 3))], ids=str)
def test_time_travel_teaches_the_null_space(view):
    """The replaced range space reaches the null space through x alone: going back and forth lets it."""
    once = against_posterior(Case(PICTURE, view), method="ddnm")[0]
    often = against_posterior(Case(PICTURE, view), method="ddnm", travel=(1, 6))[0]
    assert often < 0.5 * once


def test_noise_enters_the_spread():
    """Where all is observed with noise tau, the posterior's variance is lam tau^2 / (lam + tau^2) in each direction."""
    spreads = []
    for std in (0.05, 0.2, 0.8):
        law, stored, _, _, _ = files(Case(PICTURE, Observed(Identity(), std)))
        x = restore(law, stored, Observed(Identity(), std), samples=40, iterations=6, batch_size=200)
        spreads.append(float(x.std(1).mean()))
    assert spreads == sorted(spreads)
    assert spreads[0] < 0.06
    assert 0.2 < spreads[2] < 0.6


@pytest.mark.parametrize("method", METHODS)
def test_answers_depend_on_seed_file_and_number_alone(method):
    case = Case(PICTURE, RandomMask(), 0.3)
    law, stored, mask, _, _ = files(case, n=4)
    options = {"method": method, "steps": 8}

    def some(rows, samples, batch_size, seed=3):
        return restore(
            law,
            stored[:rows],
            case.view,
            mask=mask[:rows],
            samples=samples,
            seed=seed,
            batch_size=batch_size,
            **options,
        )

    all_ = some(4, 3, 64)
    for rows, samples, batch_size in ((4, 3, 1), (4, 2, 5), (2, 3, 4)):
        torch.testing.assert_close(some(rows, samples, batch_size), all_[:rows, :samples], atol=1e-4, rtol=0)
    assert not torch.allclose(all_[:, 0], all_[:, 1], atol=0.01)
    assert not torch.allclose(some(4, 3, 64, seed=4), all_, atol=0.01)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scheduler", ["heun", "euler"])
def test_any_solver_will_do(method, scheduler):
    law, stored, _, _, _ = files(CASES[0])
    x = restore(law, stored, CASES[0].view, method=method, scheduler=scheduler, steps=12)
    assert bool(x.isfinite().all())


@pytest.mark.parametrize("method", METHODS)
def test_a_view_that_says_everything_is_given_back(method):
    law, stored, _, _, _ = files(Case(PICTURE, Identity()))
    ones = torch.ones(3, 1, 4, 4)
    for view, mask in ((Identity(), None), (RandomMask(), ones), (ChannelMix(rows=((0.0, 1.0), (1.0, 0.0))), None)):
        x = restore(law, stored, view, mask=mask, samples=2, method=method)
        torch.testing.assert_close(view(x[:, 1]) if view.is_fixed else x[:, 1], stored)


def network(classes=None, size=0.5):
    """An untrained network on top of the white base: its Jacobian is neither symmetric nor positive."""
    base = IsotropicGaussian((1, 8, 8), [0.1], 0.5)
    net = LocalNet(1, 1, width=8, depth=3, classes=classes)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * size / max(1, p[0].numel()) ** 0.5)
    none = CompositeDenoiser({}, base, LEVELS)
    return StackedDenoiser(none, [ResidualExpert(net, none, LEVELS, [0.9] * 8)], LEVELS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("view", [Downsample(2), Mask(box=(2, 2, 4, 4)), Observed(Downsample(4), 0.1)], ids=str)
def test_networks_give_finite_answers(method, view):
    stored = torch.rand(2, *view.shape((1, 8, 8)), generator=torch.Generator().manual_seed(1)) * 2 - 1
    x = restore(network(), stored, view, samples=2, method=method, steps=10, iterations=8)
    assert bool(x.isfinite().all())
    if view.tau == 0:
        seen = view(x.flatten(0, 1)) / view.scale
        mask = view.mask((1, 8, 8))
        target = stored if mask is None else stored * mask
        assert float((seen - target.repeat_interleave(2, 0)).abs().max()) < 1e-5


def test_labels_are_those_of_the_files():
    stored = torch.zeros(2, 1, 4, 4)
    view = Downsample(2)

    def answers(label):
        return restore(network(classes=3, size=1), stored, view, label=label, steps=6, samples=2)

    both = answers([0, 2])
    torch.testing.assert_close(both[0], answers(0)[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(both[1], answers(2)[1], atol=1e-4, rtol=0)
    assert not torch.allclose(both[1], answers(0)[1], atol=1e-2)
    with pytest.raises(ValueError, match="label has 3 entries for 2 samples"):
        answers([0, 1, 2])


@pytest.mark.parametrize("view", [Downsample(2), Mask(box=(2, 2, 4, 4)), Observed(Downsample(4), 0.1)], ids=str)
def test_bounds_are_kept_along_with_what_is_given(view):
    """Even where a block's mean is at the bound, so that all of it must be."""
    stored = torch.rand(2, *view.shape((1, 8, 8)), generator=torch.Generator().manual_seed(1)) * 2 - 1
    stored[:, :, 0] = -1
    x = restore(network(size=1), stored, view, samples=2, steps=6, bounds=(-1, 1), batch_size=3).flatten(0, 1)
    assert float(x.abs().max()) <= 1
    if view.tau == 0:
        hidden = view.mask((1, 8, 8))
        target = (stored if hidden is None else stored * hidden).repeat_interleave(2, 0)
        assert float((view(x) / view.scale - target).abs().max()) < 1e-4


def test_gradients_are_off_again_and_modes_as_before():
    net = network()
    net.train()
    x = restore(net, torch.zeros(1, 1, 4, 4), Downsample(2), steps=4)
    assert not x.requires_grad
    assert net.experts.training
    assert all(p.grad is None for p in net.parameters())


class Broken(Denoiser):
    shape = (1, 8, 8)

    def forward(self, x, sigma, label=None, context=None):
        return x * math.nan


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (MMPS(2), {"method": "mmps", "iterations": 2}),
        (PiGDM(0.7), {"method": "pigdm", "sigma_data": 0.7}),
        (DDNM(0.5, (2, 2)), {"method": "ddnm", "eta": 0.5, "travel": (2, 2)}),
    ],
)
def test_a_method_with_its_own_settings(method, options):
    stored = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4)
    named = restore(network(), stored, Downsample(2), steps=4, **options)
    assert torch.equal(restore(network(), stored, Downsample(2), steps=4, method=method), named)


@pytest.mark.parametrize("method", METHODS)
def test_a_broken_denoiser_is_reported(method):
    with pytest.raises(BootdiffError, match="NaN or an infinity at sigma = 80"):
        restore(Broken(), torch.zeros(1, 1, 4, 4), Downsample(2), method=method)


@pytest.mark.parametrize(
    ("stored", "view", "options", "says"),
    [
        ((1, 1, 3, 4), Downsample(2), {}, r"has shape \(1, 4, 4\), the partial samples \(1, 3, 4\)"),
        ((1, 4, 4), Downsample(2), {}, "has shape"),
        ((1, 1, 4, 4), Crop((4, 4)), {}, "has 9 placements"),
        ((1, 1, 8, 8), RandomMask(), {}, "pass the masks"),
        ((1, 1, 8, 8), RandomMask(), {"mask": torch.zeros(1, 1, 8, 8)}, "mask of partial sample 0 hides everything"),
        ((1, 1, 8, 8), RandomMask(), {"mask": torch.ones(1, 1, 8, 4)}, "masks must be"),
        ((1, 1, 8, 8), RandomMask(), {"mask": torch.full((1, 1, 8, 8), 0.5)}, "0 .hidden. and 1 .observed. only"),
        ((1, 1, 4, 4), Downsample(2), {"method": "magic"}, "known: mmps, pigdm, ddnm"),
        ((1, 1, 4, 4), Downsample(2), {"samples": 0}, "samples=0"),
        ((1, 1, 4, 4), Downsample(2), {"steps": 1}, "steps=1"),
        ((1, 1, 4, 4), Downsample(2), {"eta": 1.5, "method": "ddnm"}, "eta"),
        ((1, 1, 4, 4), Downsample(2), {"travel": (0, 1)}, "travel"),
        ((1, 1, 4, 4), Downsample(2), {"bounds": (1, -1)}, "bounds must be"),
        ((1, 1, 4, 4), Downsample(2), {"label": 0}, "trained without classes"),
    ],
)
def test_wrong_arguments(stored, view, options, says):
    with pytest.raises(ValueError, match=says):
        restore(network(), torch.zeros(stored), view, **options)


def test_values_that_are_none_must_be_masked():
    stored = torch.zeros(2, 1, 8, 8)
    stored[1, 0, 3, 3] = math.nan
    with pytest.raises(ValueError, match="partial sample 1 holds NaN"):
        restore(network(), stored, Identity())
    x = restore(network(), stored, Identity(), mask=stored.isfinite().float(), steps=4)
    assert bool(x.isfinite().all())
    x = restore(network(), stored, Mask(box=(3, 3, 1, 1)), steps=4)
    assert bool(x.isfinite().all())

"""Composites of views of signals and videos, with exact denoisers; what their denoisers are told; mirrors."""

from __future__ import annotations

import math

import pytest
import torch

from bootdiff.denoise import Denoiser, IsotropicGaussian, expand
from bootdiff.distributions.exact import Gaussian
from bootdiff.method import composite as module
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.losses import LossModule, ResidualObjective
from bootdiff.method.problem import mirrors
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.validation import SampleSet, Validator
from bootdiff.noise import LogNormal
from bootdiff.views import (
    ChannelMix,
    Crop,
    Downsample,
    FrameStride,
    FrameWindow,
    Identity,
    Mask,
    Pick,
    RandomMask,
    Stills,
    Window,
    compose,
)

LEVELS = [0.1, 1.0, 10.0]


def repeated(block, times):
    """Covariance of independent, equal parts: block-diagonal."""
    return torch.block_diag(*[block] * times)


def spd(n, seed=0):
    a = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a @ a.T / n + 0.1 * torch.eye(n, dtype=torch.float64)


def ordered(cov, shape, axes):
    """Covariance over (axes[0], axes[1], ...) blocks, rewritten for samples of `shape` in their own order."""
    index = torch.arange(math.prod(shape)).reshape(shape).permute(axes).flatten()
    out = torch.empty_like(cov)
    out[index[:, None], index[None, :]] = cov
    return out


def composite(law, views, gains=None):
    base = IsotropicGaussian(law.shape, [0.0] * law.shape[0], 1.0).double()
    laws = {n: law.marginal(v.placements(law.shape)[0]) for n, v in views.items()}
    return CompositeDenoiser({n: (v, laws[n]) for n, v in views.items()}, base, LEVELS, gains)


VIDEO, SIGNAL = (1, 6, 2, 2), (2, 8)
# Laws whose independent parts are alike, and views that show whole parts: their product is the law itself.
TOGETHER = {
    "clips, end to end": (Gaussian(torch.zeros(VIDEO).double(), repeated(spd(12), 2)), FrameWindow(3, stride=3)),
    "stills": (Gaussian(torch.zeros(VIDEO).double(), repeated(spd(4), 6)), Stills()),
    "every second frame": (
        Gaussian(torch.zeros(VIDEO).double(), ordered(repeated(spd(12), 2), (3, 2, 4), (1, 0, 2))),
        FrameStride(2),
    ),
    "boxes of videos": (
        Gaussian(torch.zeros(VIDEO).double(), ordered(repeated(spd(6), 4), (2, 3, 2, 2), (0, 2, 1, 3))),
        Crop((3, 1, 2), stride=(3, 1, 2)),
    ),
    "pieces of signals": (
        Gaussian(torch.zeros(SIGNAL).double(), ordered(repeated(spd(8), 2), (2, 2, 4), (1, 0, 2))),
        Window(4, stride=4),
    ),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_placements_that_are_independent_make_the_exact_denoiser(name):
    law, view = TOGETHER[name]
    x = 2 * torch.randn(5, *law.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sigma = torch.tensor([0.1, 0.3, 1.0, 3.0, 10.0], dtype=torch.float64)
    torch.testing.assert_close(composite(law, {"view": view})(x, sigma), law(x, sigma))


def test_channels_of_a_vector_and_columns_together():
    cov = torch.block_diag(spd(3, 1), spd(2, 2))
    law = Gaussian(torch.zeros(5).double(), cov)
    both = composite(law, {"first": Pick((0, 1, 2)), "last": Pick((3, 4))})
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sigma = torch.full((4,), 0.7, dtype=torch.float64)
    torch.testing.assert_close(both(x, sigma), law(x, sigma))


EVERY = [
    (FrameWindow(3), VIDEO),
    (FrameWindow(3, offset=2), VIDEO),
    (Stills(), VIDEO),
    (Stills(every=2), VIDEO),
    (FrameStride(3), VIDEO),
    (Crop((2, 1, 2)), VIDEO),
    (Downsample(2, axes=(-3,)), VIDEO),
    (compose(FrameWindow(4), Downsample(2)), VIDEO),
    (Mask(band=("bottom", 1)), VIDEO),
    (Mask(box=(1, 0, 0, 2, 1, 2)), VIDEO),
    (Window(3), SIGNAL),
    (Mask(start=2, stop=5), SIGNAL),
    (Pick((1,)), SIGNAL),
    (ChannelMix(weights=(0.5, 0.5)), SIGNAL),
]


@pytest.mark.parametrize(("view", "full"), EVERY, ids=str)
def test_the_composite_is_its_formula(view, full):
    """V = b + lambda C^-1 sum_p A_p^T (d - b)(A_p x), as matrices; the law is the same at every placement."""
    n = math.prod(full)
    flat = Gaussian(torch.zeros(full).double(), 0.5 * torch.eye(n).double() + 0.5)
    V = composite(flat, {"view": view}, [[0.6]] * 3)
    s = 0.8
    c_skip, eye = 1 / (1 + s**2), torch.eye(n).double()
    total = torch.zeros(n, n).double()
    for p in view.placements(full):
        A = p(eye.reshape(n, *full)).flatten(1).T
        S = A @ flat.cov @ A.T
        d = S @ torch.linalg.inv(S + s**2 * torch.eye(len(S)))
        total += A.T @ (d - c_skip * torch.eye(len(S))) @ A
    wanted = c_skip * eye + 0.6 * total / view.coverage(full).double().flatten()[:, None]
    found = V(eye.reshape(n, *full), torch.full((n,), s).double()).flatten(1).T
    torch.testing.assert_close(found, wanted)


class Asked(Denoiser):
    """Keeps what it is asked, and answers with the last channel of its context, or else with zeros."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.calls = shape, []

    def forward(self, x, sigma, label=None, context=None):
        self.calls.append((x, sigma, label, context))
        return torch.zeros_like(x) if context is None else context[:, -1:].expand_as(x)


def asked(view, full, batch=2):
    denoiser = Asked(view.shape(full))
    V = CompositeDenoiser({"view": (view, denoiser)}, IsotropicGaussian(full, [0.0] * full[0], 1.0), LEVELS)
    x = torch.randn(batch, *full, generator=torch.Generator().manual_seed(0))
    label = torch.arange(batch)
    return denoiser, V.estimate(x, torch.linspace(0.5, 1, batch), label), x


def test_all_placements_are_asked_at_once(monkeypatch):
    full = (1, 12, 4, 4)
    denoiser, estimates, x = asked(Stills(), full)
    ((y, sigma, label, context),) = denoiser.calls
    assert y.shape == (24, 1, 4, 4)
    assert torch.equal(y, x[:, :, :, :, :].permute(2, 0, 1, 3, 4).reshape(24, 1, 4, 4))
    assert (sigma.tolist(), label.tolist(), context) == ([0.5, 1] * 12, [0, 1] * 12, None)
    # or in parts, where memory is short
    monkeypatch.setattr(module, "_AT_ONCE", 16 * 5)
    parts, again, _ = asked(Stills(), full)
    assert [len(call[0]) for call in parts.calls] == [5, 5, 5, 5, 4]
    assert torch.equal(torch.cat([call[1] for call in parts.calls]), sigma)
    torch.testing.assert_close(again.mean, estimates.mean)


def test_denoisers_are_told_masks_and_places():
    full = (1, 6, 4, 4)
    view = compose(Mask(box=(0, 0, 2, 2)), Stills(position_conditioned=True))
    denoiser, estimates, _ = asked(view, full)
    ((_, _, _, context),) = denoiser.calls
    assert context.shape == (12, 2, 4, 4)
    for k, p in enumerate(view.placements(full)):
        assert torch.equal(context[2 * k], p.context(full))
        assert torch.equal(context[2 * k + 1], p.context(full))
    # answered with the place, the lifted estimates are each frame's own place, and 0 under the mask
    frames = (torch.arange(6) + 0.5) / 3 - 1
    seen = frames[:, None, None].expand(2, 1, 6, 4, 4).clone()
    seen[..., :2, :2] = 0
    torch.testing.assert_close(estimates.views, seen)


def test_what_training_and_held_out_losses_tell():
    """The place stands beside x as a further channel, after the mask, in training, held-out losses and stacking."""
    seen = []

    class Net(torch.nn.Module):
        def forward(self, x, c_noise, label=None):
            seen.append(x[:, 1:])
            return torch.zeros_like(x[:, :1])

    base = IsotropicGaussian((1, 2, 2), [0.0], 1.0)
    none = CompositeDenoiser({}, base, LEVELS)
    expert = ResidualExpert(Net(), none)
    x, mask = torch.ones(3, 1, 2, 2), torch.ones(3, 1, 2, 2)
    position_channels = torch.tensor([-0.5, 0.0, 0.5]).reshape(3, 1, 1, 1).expand(3, 1, 2, 2)
    samples = SampleSet(x, None, mask, position_channels).to("cpu")
    held_out = Validator(samples, none, LEVELS)
    held_out.expert(expert)
    held_out.residual_moments([expert])
    objective = ResidualObjective(none, LogNormal())
    objective(LossModule(expert), {"x": x, "mask": mask, "position_channels": position_channels}, torch.Generator())
    assert len(seen) == 7
    assert all(torch.equal(s, torch.cat([mask, position_channels], 1)) for s in seen)
    objective(LossModule(expert), {"x": x}, torch.Generator())
    assert seen[-1].shape[1] == 0


class ByPlace(Denoiser):
    """The posterior mean of stills whose mean depends on the frame: m(place) = 3 place, variance 1."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def forward(self, x, sigma, label=None, context=None):
        mean = 3 * context
        return mean + expand(1 / (1 + sigma**2), x) * (x - mean)


def test_told_its_place_one_denoiser_is_exact_for_laws_that_differ():
    full = (1, 4, 2, 2)
    mean = (3 * ((torch.arange(4) + 0.5) / 2 - 1))[None, :, None, None].expand(full).double()
    law = Gaussian(mean, torch.eye(16).double())
    view = Stills(position_conditioned=True)
    V = CompositeDenoiser({"view": (view, ByPlace((1, 2, 2)))}, IsotropicGaussian(full, [0.0], 1.0).double(), LEVELS)
    x = torch.randn(3, *full, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(V(x, sigma), law(x, sigma))


def test_what_is_kept_from_inference_can_be_differentiated_through():
    full = (1, 4, 2, 2)
    views = {"view": (Stills(position_conditioned=True), ByPlace((1, 2, 2)))}
    V = CompositeDenoiser(views, IsotropicGaussian(full, [0.0], 1.0), LEVELS)
    x = torch.ones(1, *full)
    with torch.inference_mode():
        V(x, torch.ones(1))
    x.requires_grad_()
    V(x, torch.ones(1)).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 0.5))


PICTURE = (3, 4, 8)
BIG = (3, 6, 4, 8)


@pytest.mark.parametrize(
    ("view", "full", "wanted"),
    [
        (Downsample(2), PICTURE, True),
        (Crop(2), PICTURE, True),
        (Crop(2, position_conditioned=True), PICTURE, False),
        (Crop((4, 4), offset=(0, 0)), PICTURE, False),
        (Crop((2, 8), offset=(0, 0)), PICTURE, True),
        (RandomMask(), PICTURE, True),
        (compose(Mask(box=(0, 0, 2, 2)), Crop((4, 4))), PICTURE, False),
        (compose(Crop((4, 4)), Mask(box=(0, 0, 2, 2))), PICTURE, False),
        (compose(Crop((4, 4)), ChannelMix.gray()), PICTURE, True),
        (Stills(), BIG, True),
        (Stills(position_conditioned=True), BIG, True),
        (FrameWindow(2, offset=0), BIG, True),
        (FrameStride(2), BIG, True),
        (compose(Mask(box=(0, 0, 2, 2)), Stills()), BIG, False),
        (compose(Mask(band=("top", 1)), Stills()), BIG, True),
        (Identity(), (3, 8), False),
        (Window(4), (3, 8), False),
        (Pick((0,)), (8,), False),
    ],
    ids=str,
)
def test_only_pictures_and_videos_are_mirrored_and_never_in_time(view, full, wanted):
    assert mirrors(view, full) == wanted

"""The residual loss and the held-out ruler: minimizers in closed form, regularizers by their stated effect."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bootdiff.denoise import IsotropicGaussian, denoising_error, expand
from bootdiff.distributions.exact import Gaussian
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.losses import LossModule, ResidualObjective
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.stack import StackedDenoiser
from bootdiff.method.validation import SampleSet, Validator, noisy_batches, residual_energy
from bootdiff.noise import LogNormal, precondition
from bootdiff.views import Crop, Downsample, Mask

SHAPE = (1, 2, 2)
LEVELS = [0.2, 0.7, 2.0]
BASE = IsotropicGaussian(SHAPE, [0.0], 0.6)
COV = 0.36 * torch.tensor(
    [[1, 0.8, 0.5, 0.1], [0.8, 1.5, 0.3, 0.2], [0.5, 0.3, 0.7, 0.4], [0.1, 0.2, 0.4, 1]], dtype=torch.float64
)
LAW = Gaussian(torch.zeros(SHAPE, dtype=torch.float64), COV)
VIEW = Downsample(2)
EYE = torch.eye(4)


class Linear(nn.Module):
    """F(c_in x) = M c_in x: an expert whose best M is known."""

    def __init__(self, shape=SHAPE):
        super().__init__()
        size = math.prod(shape)
        self.matrix = nn.Parameter(torch.zeros(size, size))

    def forward(self, x, c_noise, label=None):
        x = x[:, :1]
        return (x.flatten(1) @ self.matrix.T).reshape(x.shape)


class Fixed(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, x, c_noise, label=None):
        return self.value.expand(len(x), *self.value.shape)


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def nothing(base=BASE):
    return CompositeDenoiser({}, base, LEVELS)


def with_view(view=VIEW, law=LAW, base=BASE, gain=1.0):
    return CompositeDenoiser({"a": (view, law.marginal(view))}, base, LEVELS, [[gain]] * 3)


def an_expert(net, anchor="prior", composite=None):
    composite = nothing() if composite is None else composite
    return ResidualExpert(net, composite, LEVELS, [0.9, 1.0, 0.8], uses_views=False, anchor=anchor)


def gradients(objective, expert, draw, batches=60, size=2000, wanted=None):
    """Mean gradient of the loss, and its standard error, over independent batches."""
    trainee, found = LossModule(expert), []
    for i in range(batches):
        g = torch.Generator().manual_seed(1000 + i)
        batch = draw(size, g)
        loss = objective(trainee, batch, g).mean()
        found.append(torch.autograd.grad(loss, wanted)[0])
    found = torch.stack(found).double()
    return found.mean(0), found.std(0) / math.sqrt(batches)


def best(expert, sigma, posterior, at_mean):
    """M with c_r M c_in = posterior - at_mean: matrices acting on x."""
    s = torch.tensor([sigma])
    c = precondition(s, 0.6)
    return ((posterior - at_mean) / (expert.c_r(s) * c.c_in).double()).float()


def shrink(cov, sigma):
    """E[x0 | x] = S (S + sigma^2)^-1 x."""
    return cov @ torch.linalg.inv(cov + sigma**2 * torch.eye(4, dtype=torch.float64))


def set_matrix(net, value):
    with torch.no_grad():
        net.matrix.copy_(value)


# The loss and its minimizer


@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_the_minimizer_is_the_posterior_mean_of_the_clean_sample(tau):
    """At one noise level, the loss is quadratic in M: its gradient is 0 at E[x0|x] = S (S + sigma^2)^-1 x, and not at
    E[y|x], what predicting the stored noisy y naively would give."""
    sigma = 0.7
    added = math.sqrt(sigma**2 - tau**2)
    net = Linear()
    expert = an_expert(net)
    objective = ResidualObjective(nothing(), LogNormal(math.log(added), 0.0), tau=tau)

    def stored(n, g):
        return {"x": (LAW.sample(n, g) + tau * torch.randn(n, *SHAPE, generator=g, dtype=torch.float64)).float()}

    skip = 0.36 / (0.36 + sigma**2) * torch.eye(4, dtype=torch.float64)
    clean = best(expert, sigma, shrink(COV, sigma), skip)
    set_matrix(net, clean)
    mean, error = gradients(objective, expert, stored, wanted=net.matrix)
    assert (mean.abs() < 4.5 * error).all()
    assert error.max() < 0.01
    if tau:
        y_given_x = (COV + tau**2 * EYE.double()) @ torch.linalg.inv(COV + sigma**2 * EYE.double())
        set_matrix(net, best(expert, sigma, y_given_x, skip))
        mean, error = gradients(objective, expert, stored, batches=10, wanted=net.matrix)
        assert (mean.abs() > 20 * error).any()


def test_on_views_the_minimizer_makes_the_whole_the_posterior_mean():
    sigma, net = 0.7, Linear()
    composite = with_view()
    expert = an_expert(net, "views", composite)
    objective = ResidualObjective(composite, LogNormal(math.log(sigma), 0.0))
    with torch.no_grad():
        basis = composite(EYE.reshape(4, *SHAPE), torch.full((4,), sigma)).reshape(4, 4).T.double()
    set_matrix(net, best(expert, sigma, shrink(COV, sigma), basis))
    mean, error = gradients(objective, expert, lambda n, g: {"x": LAW.sample(n, g).float()}, wanted=net.matrix)
    assert (mean.abs() < 4.5 * error).all()
    assert error.max() < 0.01


def test_energy_shrinks_the_minimizer():
    """|F - t|^2 + mu |F|^2 is least at E[t|x] / (1 + mu)."""
    sigma, mu, net = 0.7, 0.5, Linear()
    expert = an_expert(net)
    objective = ResidualObjective(nothing(), LogNormal(math.log(sigma), 0.0), {"energy": mu})
    skip = 0.36 / (0.36 + sigma**2) * torch.eye(4, dtype=torch.float64)
    set_matrix(net, best(expert, sigma, shrink(COV, sigma), skip) / (1 + mu))
    mean, error = gradients(objective, expert, lambda n, g: {"x": LAW.sample(n, g).float()}, wanted=net.matrix)
    assert (mean.abs() < 4.5 * error).all()
    assert error.max() < 0.01


def loss_of(net, batch=None, anchor="views", **options):
    composite = with_view(Crop((2, 1), offset=(0, 0)))
    batch = batch or {"x": noise(5, *SHAPE)}
    objective = ResidualObjective(composite, LogNormal(), **options)
    return objective(LossModule(an_expert(net, anchor, composite)), batch, torch.Generator().manual_seed(3)).detach()


def test_energy_costs_what_it_should():
    """Of F = (1 2; 3 4): a mean over the four coordinates."""
    value = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    plain = loss_of(Fixed(value))
    torch.testing.assert_close(loss_of(Fixed(value), penalties={"energy": 0.5}) - plain, torch.full((5,), 0.5 * 30 / 4))


def test_at_zero_the_loss_is_the_composites_own_over_c_r():
    """F = 0: |x0 - V|^2 / c_r^2; so with c_r measured by `residual_energy` the loss starts at 1."""
    composite, x = with_view(), LAW.sample(600, torch.Generator().manual_seed(5)).float()
    held_out = Validator(SampleSet(x), composite, LEVELS, draws=2, seed=8)
    scale = residual_energy(held_out, "views")
    expert = ResidualExpert(Linear(), composite, LEVELS, scale.tolist(), uses_views=False)
    for s in LEVELS:
        objective = ResidualObjective(composite, LogNormal(math.log(s), 0.0))
        loss = objective(LossModule(expert), {"x": x}, torch.Generator().manual_seed(4)).detach()
        assert float(loss.mean()) == pytest.approx(1, abs=5 * float(loss.std()) / len(x) ** 0.5)
    assert (scale < residual_energy(held_out, "prior")).all()


def test_only_observed_coordinates_count():
    """What a mask hides changes neither the loss nor the gradient, and is given no noise."""
    mask = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]]).expand(6, -1, -1, -1)
    x = noise(6, *SHAPE) * mask
    heard = []

    class Ear(Fixed):
        def forward(self, x, c_noise, label=None):
            heard.append(x.clone())
            return super().forward(x, c_noise, label)

    def loss(value, energy=0.3):
        net = Ear(value)
        return loss_of(net, {"x": x, "mask": mask}, anchor="prior", penalties={"energy": energy}), net

    value = noise(*SHAPE, seed=1)
    other = torch.where(mask[0] > 0, value, 9.0)
    torch.testing.assert_close(loss(value)[0], loss(other)[0])
    assert (heard[0][:, 0] * (1 - mask[:, 0]) == 0).all()  # x, hidden: nothing
    torch.testing.assert_close(heard[0][:, 1:], mask)  # and the mask is told
    mask_channels = value.flatten()[[0, 2, 3]].square().mean()  # the mean is over the three that are shown
    torch.testing.assert_close(loss(value)[0] - loss(value, energy=0.0)[0], (0.3 * mask_channels).expand(6))


# The ruler


def labelled(n=10):
    return SampleSet(LAW.sample(n, torch.Generator().manual_seed(1)).float(), torch.arange(n) % 3)


def some_expert(composite, anchor="views", seed=2):
    net = Linear()
    set_matrix(net, 0.3 * noise(4, 4, seed=seed))
    return an_expert(net, anchor, composite)


def directly(samples, denoiser, draws, seed, tau=0.0):
    """The definition: every level, every draw, every sample."""
    rows = []
    for level, s in enumerate(LEVELS):
        row = torch.zeros(len(samples))
        for draw in range(draws):
            g = torch.Generator().manual_seed((seed * 1009 + level) * 1009 + draw)
            x = samples.x + math.sqrt(max(s**2 - tau**2, 0)) * torch.randn(samples.x.shape, generator=g)
            sigma = torch.full((len(x),), s)
            a = 1 - (tau / s) ** 2
            estimate = a * denoiser(x, sigma, samples.label) + (1 - a) * x
            row += denoising_error(estimate, samples.x, sigma, 0.6) / draws
        rows.append(row if s > tau else row * math.nan)
    return torch.stack(rows).double().detach()


@pytest.mark.parametrize("tau", [0.0, 0.3])
@pytest.mark.parametrize("anchor", ["views", "prior"])
def test_held_out_losses_are_what_they_say(anchor, tau):
    """The expert's loss is that of the denoiser V + r (or b + r); levels below the stored noise have none."""
    composite, samples = with_view(), labelled()
    expert = some_expert(composite, anchor)
    held_out = Validator(samples, composite, LEVELS, draws=3, seed=6, tau=tau)
    expected = directly(samples, expert, 3, 6, tau)
    assert expected[0].isnan().all() == (tau > 0)
    for _ in range(2):  # from the cache the second time
        torch.testing.assert_close(held_out.expert(expert), expected, equal_nan=True, rtol=1e-5, atol=1e-6)
    plain = Validator(samples, composite, LEVELS, draws=3, seed=6, tau=tau, cache=0)
    assert plain.store is None
    torch.testing.assert_close(plain.expert(expert), expected, equal_nan=True, rtol=1e-5, atol=1e-6)
    finished = StackedDenoiser(composite, [expert], LEVELS)
    torch.testing.assert_close(held_out.denoiser(finished), expected, equal_nan=True, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tau", [0.0, 0.3])
def test_the_moments_of_the_stack_give_its_held_out_loss(tau):
    """power - 2 w.h + w.G w of `residual_moments` is the loss of the stack with weights w, sample by sample."""
    composite, samples, draws = with_view(gain=0.8), labelled(), 2
    experts = [some_expert(composite, "views", 2), some_expert(composite, "prior", 3)]
    held_out = Validator(samples, composite, LEVELS, draws, seed=6, tau=tau)
    w = torch.tensor([[0.3, 0.5], [0.1, 0.9], [0.7, 0.0]])
    got = held_out.residual_moments(experts).loss(w) / draws
    stacked = held_out.denoiser(StackedDenoiser(composite, experts, LEVELS, w.tolist()))
    said = ~stacked.isnan()
    torch.testing.assert_close(got[said], stacked[said], rtol=1e-4, atol=1e-5)
    assert (got[~said] == 0).all()


def test_the_moments_of_the_evidence_give_the_composites_held_out_loss():
    samples, w = labelled(), torch.tensor([[0.3], [0.9], [0.6]])
    held_out = Validator(samples, with_view(), LEVELS, 2, seed=6)
    got = held_out.evidence_moments().loss(w) / 2
    torch.testing.assert_close(got, held_out.denoiser(with_view().with_gains(w)), rtol=1e-4, atol=1e-5)


def test_the_energy_left_over_is_the_root_of_the_loss_at_zero():
    composite, samples = with_view(), labelled(50)
    held_out = Validator(samples, composite, LEVELS, 2, seed=6, tau=0.3)
    scale = residual_energy(held_out, "views")
    assert scale[0] == 1  # below the stored noise nothing is known
    torch.testing.assert_close(scale[1:], held_out.denoiser(composite)[1:].mean(1).sqrt(), rtol=1e-5, atol=0)


def test_a_nan_of_one_draw_is_not_forgotten():
    class Once(IsotropicGaussian):
        count = 0

        def forward(self, x, sigma, label=None, context=None):
            self.count += 1
            return super().forward(x, sigma) * (math.nan if self.count == 1 else 1)

    loss = Validator(labelled(), nothing(), LEVELS, draws=3).denoiser(Once(SHAPE, [0.0], 0.6))
    assert loss[0].isnan().all()
    assert loss[1:].isfinite().all()


def test_probes_depend_on_seed_level_draw_and_sample_alone():
    """Not on the batch size; and labels and masks stay with their samples."""
    x, mask = noise(70, *SHAPE), (noise(70, 1, 2, 2, seed=1) > 0).float()
    samples = SampleSet(x * mask, torch.arange(70), mask)

    def gathered(batch, seed=3):
        out = torch.zeros(3, 2, 70, *SHAPE)
        for p in noisy_batches(samples, LEVELS, 2, seed, batch=batch):
            assert torch.equal(p.label, p.index)
            assert torch.equal(p.mask, mask[p.index])
            assert (p.sigma == LEVELS[p.level]).all()
            out[p.level, p.draw, p.index] = (p.x - p.x0) / LEVELS[p.level]
        return out

    whole = gathered(70)
    torch.testing.assert_close(gathered(64), whole)
    torch.testing.assert_close(gathered(7), whole)
    assert (whole * (1 - mask) == 0).all()
    assert float(whole[:, :, mask.bool()].std()) == pytest.approx(1, rel=0.1)
    for other in (gathered(70, seed=4), whole.roll(1, 0), whole.roll(1, 1), whole.roll(1, 2)):
        assert not torch.isclose(other, whole).flatten(2)[mask.bool().expand(3, 2, -1, -1, -1, -1).flatten(2)].any()


# Several processes


def test_two_processes_draw_what_one_draws(monkeypatch):
    """Each takes its rows of the global batch, its noise and its noise levels."""
    x, label = LAW.sample(8, torch.Generator().manual_seed(1)).float(), torch.arange(8) % 3
    composite = with_view()
    expert = some_expert(composite)
    heard = []

    class Hearing(LossModule):
        def forward(self, objective, x0, x, sigma, *rest, **how):
            heard.append((x.clone(), sigma.clone()))
            return super().forward(objective, x0, x, sigma, *rest, **how)

    def losses(rows):
        objective = ResidualObjective(composite, LogNormal(), {"energy": 0.1})
        g = torch.Generator().manual_seed(9)
        return objective(Hearing(expert), {"x": x[rows], "label": label[rows]}, g).detach(), g.get_state()

    one, state = losses(slice(None))
    distributed = torch.distributed
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        part, state_of_part = losses(slice(4 * rank, 4 * rank + 4))
        parts.append(part)
        assert torch.equal(state_of_part, state)
    torch.testing.assert_close(torch.cat(parts), one)
    for k in range(2):
        torch.testing.assert_close(torch.cat([heard[1][k], heard[2][k]]), heard[0][k])


def test_no_view_speaks_below_its_stored_noise():
    """Composite and evidence: a view of data stored with noise 0.5 counts at 0.7 and 2, not at 0.2."""
    from bootdiff.views import Observed

    view = Observed(VIEW, std=0.25)
    assert view.tau == 0.5
    composite = CompositeDenoiser({"a": (view, LAW.marginal(view))}, BASE, LEVELS)
    m = Validator(labelled(), composite, LEVELS).evidence_moments()
    assert (m.gram[0] == 0).all()
    assert (m.gram[1:] > 0).all()
    x = noise(3, *SHAPE)
    at = composite.estimate(x, torch.tensor(LEVELS))
    assert torch.equal(at.mean[0], at.prior[0])
    assert (at.views[0] == 0).all()
    assert (at.mean[1:] != at.prior[1:]).any()


def test_expand_is_used_on_masks_of_views():
    """A masked view: what it hides stays with the base."""
    view = Mask(box=(0, 0, 1, 2))
    composite = with_view(view)
    x = noise(3, *SHAPE)
    at = composite.estimate(x, torch.full((3,), 0.7))
    torch.testing.assert_close(at.mean[:, :, 0], at.prior[:, :, 0])
    assert (at.mean[:, :, 1] - at.prior[:, :, 1]).abs().min() > 1e-4
    torch.testing.assert_close(expand(torch.ones(3), x) * x, x)


def test_arms_on_the_same_views_ask_them_once():
    own, calls = LAW.marginal(VIEW), []
    own.register_forward_hook(lambda *_: calls.append(1))
    composite = CompositeDenoiser({"small": (VIEW, own)}, BASE, LEVELS)
    other = CompositeDenoiser({"small": (VIEW, LAW.marginal(VIEW))}, BASE, LEVELS, [[0.5]] * 3)
    samples = SampleSet(LAW.sample(5, torch.Generator().manual_seed(0)).float())
    held_out = Validator(samples, nothing(), LEVELS, draws=2, seed=1)
    arms = {"views": composite, "stack": StackedDenoiser(composite, [], LEVELS), "exact": LAW, "half": other}
    together = held_out.denoisers(arms)
    assert len(calls) == len(LEVELS) * 2  # not twice as often
    for name, arm in arms.items():
        assert torch.equal(together[name], held_out.denoiser(arm)), name
    assert not torch.equal(together["views"], together["half"])
    before = len(calls)
    x, sigma = noise(2, *SHAPE), torch.ones(2)
    composite(x, sigma)
    composite(x, sigma)
    assert len(calls) == before + 2  # nothing is kept afterwards

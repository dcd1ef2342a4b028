"""diffusers' schedulers as solvers: the exact flow and the moments of a Gaussian are the ruler; what is refused."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch

from bootdiff.denoise import IsotropicGaussian
from bootdiff.distributions.exact import Gaussian
from bootdiff.sampling import SOLVERS, Churn, sample
from bootdiff.schedulers import FAMILIES, convert, diffusers_scheduler, range_of

DIM = 6


def gaussian():
    """A correlated Gaussian in 6 dimensions, with its covariance's eigenvalues and eigenvectors."""
    a = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / math.sqrt(DIM) / 2
    return Gaussian(torch.full((DIM,), 0.2, dtype=torch.float64), a @ a.T), *torch.linalg.eigh(a @ a.T)


LAW, LAM, U = gaussian()
MEAN = torch.full((DIM,), 0.2, dtype=torch.float64)
SPREAD = float(LAM.mean().sqrt())


def made(name, **config):
    if name in ("DDIMScheduler", "DDPMScheduler"):
        config["clip_sample"] = False
    return getattr(diffusers, name)(**config)


def drawn(scheduler, steps, n=64, seed=1):
    """(samples, the noise that they started from, the noise levels at which D was evaluated)."""
    asked = []

    class Spy(Gaussian):
        def forward(self, x, sigma, label=None, context=None):
            asked.append(float(sigma[0]))
            return super().forward(x, sigma, label, context)

    law = Spy(LAW.mu, U @ LAM.diag() @ U.T)
    g = torch.Generator().manual_seed(seed)
    x = sample(law, n, generator=g, scheduler=scheduler, steps=steps, batch_size=n)
    noise = torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed))
    return x.double(), noise.double(), asked


def flow_error(scheduler, steps):
    """Root mean square distance from the exact end of the flow, in standard deviations of the data.

    In each eigendirection the flow from x at sigma scales x - m by sqrt(lam / (lam + sigma^2)) (DESIGN of the test of
    `sample`); from pure noise, sigma = infinity, it ends at m + sqrt(lam) n.
    """
    x, noise, asked = drawn(scheduler, steps)
    kept = (LAM / (LAM + asked[0] ** 2)).sqrt()
    end = MEAN + ((asked[0] * noise - MEAN) @ U * kept) @ U.T
    return float((x - end).square().mean().sqrt()) / SPREAD


DETERMINISTIC = [
    ("EulerDiscreteScheduler", {}, 0.08),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, 0.08),
    ("EulerDiscreteScheduler", {"rescale_betas_zero_snr": True}, 0.08),
    ("HeunDiscreteScheduler", {}, 0.015),
    ("LMSDiscreteScheduler", {}, 0.02),
    ("KDPM2DiscreteScheduler", {}, 0.02),
    ("DPMSolverMultistepScheduler", {}, 0.03),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, 0.012),
    ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}, 0.01),
    ("DPMSolverSinglestepScheduler", {}, 0.05),
    ("UniPCMultistepScheduler", {}, 0.03),
    ("DEISMultistepScheduler", {}, 0.02),
    ("DDIMScheduler", {}, 0.08),
    ("DDIMScheduler", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, 0.08),
    ("DDIMScheduler", {"timestep_spacing": "trailing", "beta_schedule": "squaredcos_cap_v2"}, 0.08),
    ("PNDMScheduler", {}, 0.015),
    ("FlowMatchEulerDiscreteScheduler", {}, 0.05),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, 0.08),
    ("FlowMatchHeunDiscreteScheduler", {}, 0.015),
]


@pytest.mark.parametrize(("name", "config", "bound"), DETERMINISTIC)
def test_deterministic_schedulers_end_at_the_exact_flow(name, config, bound):
    coarse, fine = (flow_error(made(name, **config), steps) for steps in (40, 80))
    assert coarse < bound
    assert fine < 0.65 * coarse or fine < 0.003  # of order 1 at least


STOCHASTIC = [
    # The two of first order need 160 steps: 5 s each; the next two take 2 s each.
    pytest.param("EulerAncestralDiscreteScheduler", {}, 160, 0.12, marks=pytest.mark.slow),
    pytest.param("DDPMScheduler", {}, 160, 0.12, marks=pytest.mark.slow),
    pytest.param("KDPM2AncestralDiscreteScheduler", {"use_karras_sigmas": True}, 60, 0.05, marks=pytest.mark.slow),
    pytest.param(
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
        60,
        0.05,
        marks=pytest.mark.slow,
    ),
    ("EDMDPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, 60, 0.05),
    ("SASolverScheduler", {}, 60, 0.05),
]


@pytest.mark.parametrize(("name", "config", "steps", "bias"), STOCHASTIC)
def test_stochastic_schedulers_draw_the_gaussian(name, config, steps, bias):
    """Mean and covariance to within the solver's own bias and four standard errors of 4,000 samples."""
    n = 4000
    x, noise, asked = drawn(made(name, **config), steps, n)
    assert float((x.mean(0) - MEAN).abs().max()) < 4 * float(LAM.max().sqrt()) / math.sqrt(n)
    covariance = torch.cov(x.T)
    assert abs(float(covariance.trace() / LAM.sum()) - 1) < bias + 4 * math.sqrt(2 / n)
    error = float((U.T @ covariance @ U - LAM.diag()).norm() / LAM.norm())
    assert error < bias + 4 * math.sqrt(DIM / n)
    # and its noise is fresh: it does not follow the flow
    kept = (LAM / (LAM + asked[0] ** 2)).sqrt()
    assert float((x - MEAN - ((asked[0] * noise - MEAN) @ U * kept) @ U.T).square().mean().sqrt()) > 0.3 * SPREAD


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name, (_, kinds) in FAMILIES.items() for kind in kinds[1:] if kind[:4] != "flow"],
)
def test_what_a_scheduler_expects_changes_nothing(name, kind):
    first = FAMILIES[name][1][0]
    want, _, _ = drawn(made(name, prediction_type=first), 12, 4)
    got, _, _ = drawn(made(name, prediction_type=kind), 12, 4)
    torch.testing.assert_close(got, want, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_range_is_where_d_is_evaluated(name):
    _, _, asked = drawn(made(name), 12, 2)
    assert range_of(made(name), 12) == pytest.approx((min(asked), max(asked)), rel=1e-5)
    assert min(asked) > 0
    assert max(asked) <= 200


@pytest.mark.parametrize("name", FAMILIES)
def test_batches_change_nothing(name):
    """What a scheduler keeps of a batch does not reach the next; one from the pipeline's config does as well."""
    config = diffusers_scheduler("dpm").config
    scheduler = getattr(diffusers, name).from_config(config, **({"clip_sample": False} if name[:2] == "DD" else {}))
    whole = sample(LAW, 5, scheduler=scheduler, steps=12)
    torch.testing.assert_close(sample(LAW, 5, scheduler=scheduler, steps=12, batch_size=2), whole, atol=1e-4, rtol=1e-4)
    assert 0.2 < float(whole.std()) < 1.2


def test_infinite_noise_is_evaluated_at_eighty():
    trailing = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    for scheduler in (made("FlowMatchEulerDiscreteScheduler"), made("DDIMScheduler", **trailing)):
        _, _, asked = drawn(scheduler, 8, 2)
        assert asked[0] == 80
        assert asked[1] < 80


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_data_of_a_large_scale_begin_above(name):
    """The largest noise level that a user gives is evaluated as it is."""
    law = Gaussian(100 * LAW.mu, 1e4 * U @ LAM.diag() @ U.T)
    scheduler = made(name, sigma_min=2.0, sigma_max=8000.0, sigma_data=50.0)
    want = 100 * sample(LAW, 4, scheduler=made(name, sigma_min=0.02, sigma_max=80.0), steps=12)
    torch.testing.assert_close(sample(law, 4, scheduler=scheduler, steps=12), want, rtol=1e-3, atol=0.02)
    levels = [8000.0, 900.0, 40.0]
    given = sample(law, 4, scheduler=made("EulerDiscreteScheduler"), sigmas=levels)
    torch.testing.assert_close(given, sample(law, 4, scheduler="euler", sigmas=levels), rtol=1e-3, atol=0.02)


def test_pictures_depend_on_their_own_generator_alone():
    for scheduler in ("dpm", made("EulerAncestralDiscreteScheduler"), made("DDPMScheduler")):

        def own(*seeds, scheduler=scheduler):
            return sample(
                LAW, len(seeds), generator=[torch.Generator().manual_seed(s) for s in seeds], scheduler=scheduler,
                steps=8, batch_size=2,
            )  # fmt: skip

        together = own(5, 6, 7)
        torch.testing.assert_close(torch.cat([own(7), own(5)]), together[[2, 0]], atol=1e-5, rtol=1e-4)
    g = torch.Generator().manual_seed(5)
    noise = torch.randn(3, DIM, generator=torch.Generator().manual_seed(5))
    exact = sample(LAW, 3, generator=g, batch_size=2)
    torch.testing.assert_close(sample(LAW, 3, generator=torch.Generator().manual_seed(5)), exact)
    assert not torch.allclose(sample(LAW, 3, generator=g), exact, atol=0.1)  # it went on
    kept = (LAM / (LAM + 80**2)).sqrt()
    end = MEAN + ((80 * noise.double() - MEAN) @ U * kept) @ U.T
    torch.testing.assert_close(exact.double(), end, atol=0.05, rtol=0)


def test_wrong_generators_are_refused():
    g = torch.Generator()
    with pytest.raises(ValueError, match="2 generators for 3 samples"):
        sample(LAW, 3, generator=[g, g])
    with pytest.raises(ValueError, match=r"must be a torch\.Generator"):
        sample(LAW, 1, generator=[0])


# --- noise levels of one's own, and churn -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scheduler", [*SOLVERS, diffusers_scheduler("dpm"), diffusers_scheduler("euler"), made("EulerDiscreteScheduler")]
)
def test_own_noise_levels(scheduler):
    levels, asked = [40.0, 7.5, 1.25, 0.3, 0.05], []

    class Spy(IsotropicGaussian):
        def forward(self, x, sigma, label=None, context=None):
            asked.append(float(sigma[0]))
            return super().forward(x, sigma, label, context)

    told = []
    x = sample(Spy((2,), [0, 0], 0.5), 3, scheduler=scheduler, sigmas=levels, progress=lambda *at: told.append(at))
    assert x.shape == (3, 2)
    assert sorted(set(asked), reverse=True) == pytest.approx(levels)
    assert told == [(k, 5) for k in range(1, 6)]
    # the default levels given as numbers are the default
    if isinstance(scheduler, str):
        from bootdiff.noise import karras_levels

        given = sample(LAW, 3, scheduler=scheduler, sigmas=karras_levels(9, 0.02, 80).tolist())
        torch.testing.assert_close(given, sample(LAW, 3, scheduler=scheduler, steps=9), atol=1e-4, rtol=1e-4)


def test_wrong_noise_levels_are_refused():
    for sigmas in ([1.0, 2.0], [1.0, 0.0], [2.0, 2.0], [math.inf, 1.0], [math.nan, 1.0]):
        with pytest.raises(ValueError, match="descending"):
            sample(LAW, 1, sigmas=sigmas)
    with pytest.raises(ValueError, match="steps=1"):
        sample(LAW, 1, sigmas=[1.0])
    with pytest.raises(ValueError, match="HeunDiscreteScheduler takes no sigmas"):
        sample(LAW, 1, scheduler=made("HeunDiscreteScheduler"), sigmas=[2.0, 1.0])


def test_churn_draws_the_gaussian_with_fresh_noise():
    n = 4000
    options = {"scheduler": "heun", "steps": 40, "batch_size": n}
    x = sample(LAW, n, churn=Churn(20, low=0.05, high=50), **options).double()
    assert float((x.mean(0) - MEAN).abs().max()) < 4 * float(LAM.max().sqrt()) / math.sqrt(n)
    assert float((U.T @ torch.cov(x.T) @ U - LAM.diag()).norm() / LAM.norm()) < 0.02 + 4 * math.sqrt(DIM / n)
    few = sample(LAW, 5, churn=Churn(20, low=0.05, high=50), scheduler="heun", steps=40, batch_size=2).double()
    torch.testing.assert_close(few, x[:5], atol=1e-4, rtol=1e-4)
    plain = sample(LAW, 5, scheduler="heun").double()
    assert float((few - plain).square().mean().sqrt()) > 0.3 * SPREAD
    # outside its interval there is none
    torch.testing.assert_close(sample(LAW, 5, scheduler="heun", churn=Churn(20, low=100)).double(), plain)
    assert Churn(1000).gamma(1.0, 10) == pytest.approx(math.sqrt(2) - 1)  # algorithm 2's bound


def test_wrong_churn_is_refused():
    for arguments in ((-1.0,), (1.0, 3.0, 2.0), (1.0, 0.0, 1.0, 0.0), (math.nan,)):
        with pytest.raises(ValueError, match="churn needs"):
            Churn(*arguments)
    with pytest.raises(ValueError, match="'heun'"):
        sample(LAW, 1, churn=5.0)


def test_a_solver_of_ones_own_without_callbacks(monkeypatch):
    """What docs/extend.md registers: four arguments."""

    def jump(steps, sigma_min, sigma_max):
        return lambda evaluate, noise, generators, tick: evaluate(sigma_max * noise, torch.tensor(sigma_max))

    monkeypatch.setitem(SOLVERS, "jump", jump)
    assert sample(LAW, 3, generator=torch.Generator(), scheduler="jump").shape == (3, DIM)
    with pytest.raises(ValueError, match="'jump' calls nothing"):
        sample(LAW, 3, scheduler="jump", on_step=lambda i, t, x: x)
    with pytest.raises(ValueError, match="'jump' takes no sigmas"):
        sample(LAW, 3, scheduler="jump", sigmas=[2.0, 1.0])


# --- what cannot be converted -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "config", "says"),
    [
        ("LCMScheduler", {}, "LCMScheduler cannot be used: it jumps to x0"),
        ("DDIMInverseScheduler", {}, "from samples to noise"),
        ("IPNDMScheduler", {}, "IPNDMScheduler cannot be used: the noise levels"),
        ("RePaintScheduler", {}, r"bootdiff\.restore"),
        ("PNDMScheduler", {"prediction_type": "v_prediction"}, "prediction_type 'v_prediction'.*epsilon"),
        ("HeunDiscreteScheduler", {"prediction_type": "sample"}, "prediction_type 'sample'"),
        ("DDPMScheduler", {"variance_type": "learned_range"}, "variance_type='learned_range'.*predicts no variance"),
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, "use_dynamic_shifting=True"),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, "stochastic_sampling=True.*jumps to x0"),
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, "samples to noise"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(name, config, says):
    with pytest.raises(ValueError, match=says):
        sample(LAW, 1, scheduler=made(name, **config), steps=4)


def test_clipping_is_for_pictures():
    for name, key in (("DDIMScheduler", "clip_sample"), ("DPMSolverMultistepScheduler", "thresholding")):
        scheduler = getattr(diffusers, name)(**{key: True})
        with pytest.raises(ValueError, match=rf"shape \(6,\).*from_config\(config, {key}=False\)"):
            sample(LAW, 1, scheduler=scheduler, steps=4)
        x = sample(IsotropicGaussian((1, 4, 4), [0.0], 3.0), 8, scheduler=scheduler, steps=10)
        assert float(x.abs().max()) <= 1.0001


def test_too_few_steps_are_refused():
    with pytest.raises(ValueError, match="at least 4 steps, got 3"):
        sample(LAW, 1, scheduler=made("PNDMScheduler"), steps=3)
    assert sample(LAW, 1, scheduler=made("PNDMScheduler", skip_prk_steps=True), steps=3).shape == (1, DIM)


def test_the_given_scheduler_is_not_touched():
    scheduler = made("UniPCMultistepScheduler")
    sample(LAW, 2, scheduler=scheduler, steps=4)
    assert scheduler.num_inference_steps is None
    assert convert(scheduler, 4) is not None

"""Information between views: closed form, quadrature of the residual's energy, samples, and the limits."""

from __future__ import annotations

import math

import pytest
import torch

from bootdiff.denoise import IsotropicGaussian
from bootdiff.distributions.exact import Gaussian, Mixture
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.views import Crop, Downsample, Identity, Mask
from experiments.theory.information import (
    Information,
    affine,
    gaussian_energy,
    integrated_energy,
    log_ratio,
    monte_carlo_energy,
    total_correlation,
)

F64 = torch.float64
HALVES = (Crop(size=(4, 2), offset=(0, 0)), Crop(size=(4, 2), offset=(0, 2)))


def cov_of(d, seed=0):
    factor = torch.randn(d, 2 * d, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return factor @ factor.T / d


def composite(law, views):
    named = {str(i): view for i, view in enumerate(views)}
    base = IsotropicGaussian(law.shape, [0.0] * law.shape[0], 1.0)
    return CompositeDenoiser({n: (v, law.marginal(v)) for n, v in named.items()}, base, [1.0])


def test_two_gaussian_numbers():
    law = Gaussian(torch.zeros(1, 1, 2, dtype=F64), torch.tensor([[2.0, 0.9], [0.9, 1.0]], dtype=F64))
    views = (Crop((1, 1), offset=(0, 0)), Crop((1, 1), offset=(0, 1)))
    found = total_correlation(law, views)
    assert found.nats == pytest.approx(-0.5 * math.log(1 - 0.81 / 2))
    assert found.bits == pytest.approx(found.nats / math.log(2))
    assert found.bits_per_dim == pytest.approx(found.bits / 2)


def test_integrated_energy_of_the_composites_residual_is_the_mutual_information():
    law = Gaussian(torch.randn(1, 4, 4, dtype=F64), cov_of(16))
    law = Gaussian(torch.zeros(1, 4, 4, dtype=F64), law.cov)
    V = composite(law, HALVES)
    lam = torch.linalg.eigvalsh(law.cov)
    found = integrated_energy(
        lambda s: gaussian_energy(law, V, s), 16, (float(lam[0]) ** 0.5, float(lam[-1]) ** 0.5), decades=(4, 8)
    )
    # exact denoisers answer in float64, the composite in the precision of its gains
    assert found.nats == pytest.approx(total_correlation(law, HALVES).nats, rel=1e-6)


def test_integrated_energy_is_the_kl_of_any_two_gaussians():
    p = Gaussian(torch.tensor([0.3, -1.0, 0.5], dtype=F64), cov_of(3, 1))
    q = Gaussian(torch.tensor([0.0, 0.2, 0.1], dtype=F64), cov_of(3, 2))
    found = integrated_energy(lambda s: gaussian_energy(p, q, s), 3, (0.3, 3.0), decades=(14, 14))
    assert found.nats == pytest.approx(p.kl(q), rel=1e-7)


def test_mixture_by_samples_agrees_with_the_log_ratio():
    g = torch.Generator().manual_seed(0)
    means = torch.tensor([[-1.5, -1.5], [1.5, 1.5]], dtype=F64).reshape(2, 1, 1, 2)
    law = Mixture([0.5, 0.5], means, [0.3, 0.5])
    views = (Crop((1, 1), offset=(0, 0)), Crop((1, 1), offset=(0, 1)))
    V = composite(law, views)
    direct = log_ratio(law, views, 100_000, g)
    found = integrated_energy(
        lambda s: monte_carlo_energy(law, V, s, 4000, g), 2, (0.5, 2.0), step=0.5, decades=(2.5, 2.5)
    )
    assert 0 < found.stderr < 0.02 * found.nats
    assert abs(found.nats - direct.nats) < 4 * math.hypot(found.stderr, direct.stderr) + 0.005 * direct.nats
    assert 0.3 < direct.nats < math.log(2)


def test_monte_carlo_energy_is_unbiased():
    p, q = Gaussian(torch.zeros(4, dtype=F64), cov_of(4)), Gaussian(torch.ones(4, dtype=F64), cov_of(4, 3))
    mean, error = monte_carlo_energy(p, q, 0.7, 20_000, torch.Generator().manual_seed(0))
    assert abs(mean - gaussian_energy(p, q, 0.7)) < 4 * error


def test_limits():
    law = Gaussian(torch.zeros(1, 4, 4, dtype=F64), cov_of(16))
    assert total_correlation(law, [Identity()]).nats == 0
    assert total_correlation(law, []).nats == 0
    assert total_correlation(law, [Identity(), Downsample(2)]).nats == math.inf  # nested
    assert total_correlation(law, [HALVES[0], Mask(band=("top", 2))]).nats == math.inf  # overlapping
    independent = Gaussian(torch.zeros(1, 4, 4, dtype=F64), torch.eye(16, dtype=F64))
    assert total_correlation(independent, HALVES).nats == pytest.approx(0, abs=1e-12)
    constant = Gaussian(torch.zeros(1, 4, 4, dtype=F64), torch.zeros(16, 16, dtype=F64))
    assert total_correlation(constant, HALVES).nats == 0
    # both halves are the same: they determine each other
    twin = torch.kron(torch.ones(2, 2, dtype=F64), cov_of(2))
    law = Gaussian(torch.zeros(1, 2, 2, dtype=F64), twin)
    rows = (Crop((1, 2), offset=(0, 0)), Crop((1, 2), offset=(1, 0)))
    assert total_correlation(law, rows).nats == math.inf
    V = composite(law, rows)
    assert integrated_energy(lambda s: gaussian_energy(law, V, s), 4, (1.0, 1.0)).nats == math.inf


@pytest.mark.parametrize("sign", [-1, 0, 1])
def test_rounding_does_not_decide_whether_information_is_infinite(sign):
    """Processors round tr(B S B^T) to a small number of either sign where it is 0."""
    rounding = sign * 1e-15
    for seed in range(4):
        twin = Gaussian(torch.zeros(1, 2, 2, dtype=F64), torch.kron(torch.ones(2, 2, dtype=F64), cov_of(2, seed)))
        rows = (Crop((1, 2), offset=(0, 0)), Crop((1, 2), offset=(1, 0)))
        V, scale = composite(twin, rows), float(twin.lam.min()) ** 0.5
        assert gaussian_energy(twin, V, 1e-9 * scale) > 0
        found = integrated_energy(lambda s: gaussian_energy(twin, V, s) + rounding, 4, (scale, scale))  # noqa: B023
        assert found.nats == math.inf, seed
    for law in (
        Gaussian(torch.zeros(1, 4, 4, dtype=F64), cov_of(16)),
        Gaussian(torch.zeros(1, 4, 4, dtype=F64), torch.eye(16, dtype=F64)),  # halves that know nothing of each other
    ):
        V, scale = composite(law, HALVES), (float(law.lam.min()) ** 0.5, float(law.lam.max()) ** 0.5)
        found = integrated_energy(lambda s: gaussian_energy(law, V, s) + rounding, 16, scale)  # noqa: B023
        assert found.nats == pytest.approx(total_correlation(law, HALVES).nats, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_information_of_laws_of_either_precision(dtype):
    rows = (Crop((1, 2), offset=(0, 0)), Crop((1, 2), offset=(1, 0)))
    for seed in range(4):
        law = Gaussian(torch.zeros(1, 4, 4, dtype=dtype), cov_of(16, seed))
        assert total_correlation(law, [Identity(), Downsample(2)]).nats == math.inf  # nested
        exact = Gaussian(torch.zeros(1, 4, 4, dtype=F64), cov_of(16, seed))
        assert total_correlation(law, HALVES).nats == pytest.approx(total_correlation(exact, HALVES).nats, rel=1e-4)
        twin = torch.kron(torch.ones(2, 2, dtype=F64), cov_of(2, seed))
        law = Gaussian(torch.zeros(1, 2, 2, dtype=dtype), twin)
        assert total_correlation(law, rows).nats == math.inf
        V, scale = composite(law, rows), float(law.lam.min()) ** 0.5
        assert integrated_energy(lambda s: gaussian_energy(law, V, s), 4, (scale, 2 * scale)).nats == math.inf  # noqa: B023
    law = Gaussian(torch.zeros(1, 4, 4, dtype=dtype), cov_of(16))
    V, scale = composite(law, HALVES), (float(law.lam.min()) ** 0.5, float(law.lam.max()) ** 0.5)
    found, rel = (
        integrated_energy(lambda s: gaussian_energy(law, V, s), 16, scale),
        1e-5 if law.mu.dtype != F64 else 1e-9,
    )
    assert found.nats == pytest.approx(total_correlation(law, HALVES).nats, rel=rel)


def test_singular_law_with_finite_information():
    # x2 = 0 for sure: as if it were not there
    S = torch.tensor([[1.0, 0.6, 0], [0.6, 1, 0], [0, 0, 0]], dtype=F64)
    law = Gaussian(torch.zeros(1, 1, 3, dtype=F64), S)
    found = total_correlation(law, (Crop((1, 1), offset=(0, 0)), Crop((1, 2), offset=(0, 1))))
    assert found.nats == pytest.approx(-0.5 * math.log(1 - 0.36))


def test_wrong_arguments():
    p, q = Gaussian(torch.zeros(2), torch.eye(2)), Gaussian(torch.zeros(3), torch.eye(3))
    with pytest.raises(ValueError, match="must agree"):
        gaussian_energy(p, q, 1.0)
    with pytest.raises(ValueError, match="finite"):
        gaussian_energy(p, p, math.inf)
    with pytest.raises(ValueError, match="not affine"):
        affine(Mixture([1, 1], torch.tensor([[-1.0], [1.0]]), [0.1, 0.1]), 0.5)
    with pytest.raises(ValueError, match="at least 2"):
        monte_carlo_energy(p, p, 1.0, 1)
    with pytest.raises(ValueError, match="scale"):
        integrated_energy(lambda s: 0.0, 2, (0.0, 1.0))
    with pytest.raises(ValueError, match="nan"):
        integrated_energy(lambda s: math.nan, 2, (1.0, 1.0))
    with pytest.raises(ValueError, match="add up"):
        log_ratio(Gaussian(torch.zeros(1, 4, 4), torch.eye(16)), [Downsample(2)], 10)
    assert Information(math.inf, 4).bits_per_dim == math.inf

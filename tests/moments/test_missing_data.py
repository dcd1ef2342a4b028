"""The law of files with holes, where the law is known."""

from __future__ import annotations

import pytest
import torch

from bootdiff.moments import missing_data
from bootdiff.moments.missing_data import available, completed

LEVELS = (0.05, 0.2, 0.8)


def excess(found, truth):
    """Risk of the linear denoiser of a found covariance over the exact one's, per noise level."""
    lam, V = torch.linalg.eigh(found)
    power, exact, out = ((V.T @ truth) * V.T).sum(1), torch.linalg.eigvalsh(truth), []
    for s in LEVELS:
        g = lam.clamp_min(0) / (lam.clamp_min(0) + s**2)
        risk = (power * (1 - g) ** 2 + s**2 * g**2).sum()
        out.append(float(risk / (exact * s**2 / (exact + s**2)).sum()) - 1)
    return out


def smooth(k):
    """Covariance of signals whose neighbours are nearly equal."""
    t = torch.arange(k, dtype=torch.float64)
    return torch.exp(-((t[:, None] - t).abs() ** 1.5) / 60) + 1e-4 * torch.eye(k, dtype=torch.float64)


def signals(cov, n, gaps=True, mean=0.3):
    """n signals of this law, and masks with a gap each."""
    rng = torch.Generator().manual_seed(0)
    k = len(cov)
    x = torch.randn(n, k, generator=rng, dtype=torch.float64) @ torch.linalg.cholesky(cov).T + mean
    masks = torch.ones(n, k)
    for i in range(n if gaps else 0):
        start, length = (int(torch.randint(0, m, (), generator=rng)) for m in (k, k // 2))
        masks[i, start : start + length] = 0
    return x.float() * masks, masks


@pytest.mark.parametrize("n", [150, 600])
def test_holes_cost_little(n):
    k = 32
    truth = smooth(k)
    eye, zero = torch.eye(k, dtype=torch.float64), torch.zeros(k, dtype=torch.float64)
    files, masks = signals(truth, n)
    mean, cov, count = completed(files, masks, zero, eye)
    whole = torch.cov(signals(truth, n, gaps=False)[0].double().T)
    for with_holes, without in zip(excess(cov, truth), excess(whole, truth)):
        assert with_holes < 3 * without + 0.01
    assert float((mean - 0.3).abs().max()) < 0.3
    assert n / 2 < count < n
    assert excess(available(files, masks, zero, eye)[1], truth)[0] > 0.5  # entries that do not agree


def test_without_holes_it_is_the_covariance():
    files, masks = signals(smooth(16), 200, gaps=False)
    eye, zero = torch.eye(16, dtype=torch.float64), torch.zeros(16, dtype=torch.float64)
    mean, cov, count = completed(files, masks, zero, eye)
    torch.testing.assert_close(mean, files.double().mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cov, torch.cov(files.double().T, correction=0), rtol=2e-3, atol=2e-3)
    assert count == 200


@pytest.mark.parametrize("value", [0.0, 0.3, -0.7])
def test_files_that_are_all_the_same_have_no_covariance(value):
    masks = torch.rand(40, 1, 6, generator=torch.Generator().manual_seed(0)).gt(0.3).float()
    for rounding in (0.0, 1e-12):
        files = (value + rounding * torch.randn(40, 1, 6, dtype=torch.float64)) * masks
        at, P = torch.zeros(6, dtype=torch.float64), torch.eye(6, dtype=torch.float64)
        mean, cov, _ = completed(files if value else torch.zeros_like(files), masks, at, P)
        torch.testing.assert_close(mean, torch.full((6,), value, dtype=torch.float64))
        assert not cov.any()


def test_directions_that_are_left_out_are_white_noise():
    """Signals of four waves and noise: the waves' covariance comes out, the noise does not get into it."""
    k, n = 40, 500
    rng = torch.Generator().manual_seed(1)
    P = torch.linalg.qr(torch.randn(k, 4, generator=rng, dtype=torch.float64))[0]
    scale = torch.tensor([4.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    files, masks = signals(1e-9 * torch.eye(k, dtype=torch.float64), n, mean=0)
    x = torch.randn(n, 4, generator=rng, dtype=torch.float64) * scale @ P.T
    x += 0.3 * torch.randn(n, k, generator=rng, dtype=torch.float64)
    files = x.float() * masks
    _, cov, _ = completed(files, masks, torch.zeros(k, dtype=torch.float64), P)
    torch.testing.assert_close(cov.diagonal() / (scale**2 + 0.09), torch.ones(4).double(), rtol=0.3, atol=0)


def test_where_it_would_take_too_long_it_is_the_plain_estimate(monkeypatch):
    files, masks = signals(smooth(16), 60)
    eye, zero = torch.eye(16, dtype=torch.float64), torch.zeros(16, dtype=torch.float64)
    monkeypatch.setattr(missing_data, "_WORK", 10)
    mean, _, count = completed(files, masks, zero, eye)
    plain = available(files, masks, zero, eye)
    torch.testing.assert_close(mean, plain[0])
    assert count == plain[3]

"""Detail of samples: exact where the power is known."""

from __future__ import annotations

import math

import pytest
import torch

from bootdiff.moments.spectrum import OCTAVES, detail, has_detail

SHAPES = [(1, 16), (2, 16, 16), (1, 8, 16, 16), (3, 4, 16), (1, 5, 12, 20)]


def white(shape, n, seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_white_noise_has_its_variance_in_every_octave(shape):
    found = detail(0.5 * white(shape, 400), white(shape, 400, 1))
    assert len(found.octaves) == OCTAVES
    for ratio in found.octaves:
        assert ratio == pytest.approx(0.25, rel=0.25)
    assert abs(found.log - math.log(0.25)) < 4 * found.stderr
    record = found.record()
    assert record["ratio"] == pytest.approx(0.25, rel=0.1)
    assert record["stderr"] == pytest.approx(record["ratio"] * found.stderr)


@pytest.mark.parametrize("shape", [s for s in SHAPES if min(s[1:]) >= 8], ids=str)
def test_an_octave_is_where_its_wavelengths_are(shape):
    # A cosine of period 3 (6, 12) along the last axis lies in the first (second, third) octave.
    x = torch.arange(shape[-1]) + 0.5
    for k, period in enumerate((3.0, 6.0, 12.0)):
        wave = torch.cos(2 * math.pi * x / period).expand(1, *shape)
        found = detail(wave + 1e-3 * white(shape, 1), 1e-3 * white(shape, 50, 1)).octaves
        assert max(range(OCTAVES), key=lambda j: found[j]) == k


def test_what_is_constant_is_no_detail():
    x = white((1, 16, 16), 8)
    assert detail(x + 5, x).octaves == pytest.approx([1.0] * OCTAVES, rel=1e-4)


def test_the_error_is_the_spread_over_sets_of_samples():
    # Samples that differ in their strength, as pictures do.
    def drawn(seed):
        x = white((1, 16, 16), 40, seed)
        return x * torch.exp(0.5 * torch.randn(40, 1, 1, 1, generator=torch.Generator().manual_seed(1000 + seed)))

    found = [detail(drawn(2 * k), drawn(2 * k + 1)) for k in range(60)]
    spread = torch.tensor([f.log for f in found]).std()
    assert float(spread) == pytest.approx(sum(f.stderr for f in found) / len(found), rel=0.35)


def test_what_lies_below_the_floor_does_not_count():
    real, smooth = white((1, 16, 16), 50) * 0.001, torch.zeros(50, 1, 16, 16)
    assert detail(smooth, real).log < -5
    assert detail(smooth, real, floor=0.02).log == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)),
        (torch.zeros(2, 7), torch.zeros(2, 7)),
        (torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 16, 16)),
        (torch.zeros(0, 1, 8, 8), torch.zeros(2, 1, 8, 8)),
    ],
)
def test_what_has_none_is_refused(a, b):
    with pytest.raises(ValueError, match="no detail to compare"):
        detail(a, b)


def test_which_shapes_have_detail():
    assert has_detail((1, 8))
    assert not has_detail((3,))
    assert not has_detail((3, 7, 7))

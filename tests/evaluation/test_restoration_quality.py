"""Figures of restorations, on cases whose answers are known by hand."""

from __future__ import annotations

import math

import pytest
import torch

from bootdiff.distributions.exact import Gaussian
from bootdiff.evaluation.restoration import baselines, coverage, open_coordinates, psnr, score, table
from bootdiff.restoration import observe
from bootdiff.views import ChannelMix, Crop, Downsample, FrameWindow, Identity, Mask, Observed, Window

SIGNAL = (1, 8)


def given(view, stored, full, mask=None):
    return observe(torch.as_tensor(stored, dtype=torch.float32), view, full, mask)


def test_open_coordinates():
    zeros = torch.zeros
    some = open_coordinates(given(Mask(box=(0, 0, 1, 2)), zeros(1, 2, 2, 3), (2, 2, 3)))
    assert some[0, 1].tolist() == [[True, True, False], [False, False, False]]
    assert bool(open_coordinates(given(Downsample(2), zeros(1, 1, 2, 2), (1, 4, 4))).all())
    assert not open_coordinates(given(Identity(), zeros(1, 1, 2, 2), (1, 2, 2))).any()
    assert bool(open_coordinates(given(Observed(Identity(), 0.1), zeros(1, 1, 2, 2), (1, 2, 2))).all())
    picked = open_coordinates(given(ChannelMix(rows=((0.0, 1.0),)), zeros(1, 1, 2, 2), (2, 2, 2)))
    assert picked[0].flatten(1).all(1).tolist() == [True, False]
    masks = torch.tensor([[[1.0, 1, 0, 1]], [[0, 1, 1, 1]]])
    each = open_coordinates(given(Identity(), zeros(2, 1, 4), (1, 4), masks))
    assert each[:, 0].tolist() == [[False, False, True, False], [True, False, False, False]]


def test_psnr():
    x0 = torch.zeros(2, 1, 2)
    x = torch.tensor([[[0.2, 5.0]], [[0.02, 5.0]]])
    where = torch.tensor([[[True, False]]]).expand(2, 1, 2)
    assert psnr(x, x0, where).tolist() == pytest.approx([20, 40], abs=1e-4)
    assert psnr(x, x0, where, peak=20.0).tolist() == pytest.approx([40, 60], abs=1e-4)
    assert psnr(x0, x0, where).tolist() == [math.inf, math.inf]


@pytest.mark.parametrize(("answers", "nominal"), [(19, 0.9), (99, 0.9), (8, 7 / 9), (4, 0.6), (2, 1 / 3)])
@pytest.mark.parametrize("sample", ["randn", "rand"])
def test_draws_of_the_same_law_are_covered_as_the_nominal_says(answers, nominal, sample):
    g = torch.Generator().manual_seed(0)
    x = getattr(torch, sample)(40, answers + 1, 300, generator=g)
    x = x - x.mean()
    found = coverage(x[:, 1:], x[:, 0], torch.ones(40, 300, dtype=torch.bool))
    assert found["nominal"] == pytest.approx(nominal)
    assert found["share"] == pytest.approx(nominal, abs=0.02)
    if answers == 19:  # too narrow, and too wide
        assert coverage(x[:, 1:] / 2, x[:, 0], torch.ones(40, 300, dtype=torch.bool))["share"] < 0.88
        assert coverage(x[:, 1:] * 2, x[:, 0], torch.ones(40, 300, dtype=torch.bool))["share"] > 0.92


def test_equal_values_are_covered_as_any():
    """A truth that all answers hit is inside as often as one that is a draw of the same law."""
    x = torch.zeros(1, 19, 5)
    some = torch.ones(1, 5, dtype=torch.bool)
    assert coverage(x, x[:, 0], some)["share"] == pytest.approx(0.9)
    assert coverage(x, x[:, 0] + 1, some)["share"] == 0
    x[:, 10:] = 1
    assert coverage(x, torch.full((1, 5), 0.5), some)["share"] == 1
    assert coverage(x, torch.ones(1, 5), some)["share"] == pytest.approx(0.9)


def test_coverage_refuses():
    x = torch.zeros(1, 1, 3)
    with pytest.raises(ValueError, match="2 answers at least"):
        coverage(x, x[:, 0], torch.ones(1, 3, dtype=torch.bool))


def test_interpolation_of_a_gap_in_a_signal_is_linear():
    x = torch.tensor([[[0.0, 0.3, 9, 9, 9, 0.7, 9, 9]]])
    mask = (x < 9).float()
    found = baselines(given(Identity(), x, SIGNAL, mask), Identity(), torch.zeros(3, *SIGNAL))
    expected = torch.tensor([0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.7, 0.7])
    torch.testing.assert_close(found["harmonic"][0, 0], expected)
    assert set(found) == {"harmonic", "mean_fill", "copy_paste"}


def test_interpolation_keeps_planes():
    """A plane solves Laplace's equation, but for the outer rim, where its slope must vanish."""
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    x = (rows + 2 * columns)[None, None] / 20
    view = Mask(box=(2, 1, 3, 4))
    found = baselines(given(view, x, (1, 6, 6)), view, x * 0)
    torch.testing.assert_close(found["harmonic"], x)


def test_biharmonic_inpainting_keeps_curved_surfaces():
    """A cubic solves the biharmonic equation, a paraboloid not Laplace's."""
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    x = ((rows - 6) ** 2 + (columns - 5) ** 2 + 0.1 * (rows - 6) ** 3)[None, None] / 80
    view = Mask(box=(4, 4, 3, 4))
    found = baselines(given(view, x, (1, 12, 12)), view, x * 0)
    torch.testing.assert_close(found["biharmonic"], x, atol=1e-5, rtol=0)
    assert float((found["harmonic"] - x).abs().max()) > 0.02
    signal = torch.linspace(0, 1, 8).reshape(1, 1, 8)
    assert "biharmonic" not in baselines(
        given(Window(4, offset=0), signal[..., :4], SIGNAL), Window(4, offset=0), signal
    )


def test_hidden_frames_are_held_from_the_nearest_one():
    full = (1, 5, 2, 2)
    x = torch.arange(5.0).reshape(1, 1, 5, 1, 1).expand(1, *full).clone()
    clip = FrameWindow(2, offset=1)
    found = baselines(given(clip, x[:, :, 1:3], full), clip, x)
    assert found["hold"][0, 0, :, 0, 0].tolist() == [1, 1, 2, 2, 2]
    mask = torch.ones(1, *full)
    mask[0, 0, 1:4, 0, 0] = 0  # between frames 0 and 4: the middle one is as near to both
    mask[0, 0, :, 1, 1] = 0  # never seen: as its neighbours are
    held = baselines(given(Identity(), x, full, mask), Identity(), x)["hold"]
    assert held[0, 0, :, 0, 0].tolist() == [0, 0, 0, 4, 4]
    assert held[0, 0, :, 0, 1].tolist() == [0, 1, 2, 3, 4]
    assert 0.5 < float(held[0, 0, 2, 1, 1]) < 3.5


def test_enlarging_keeps_ramps_inside():
    x = torch.linspace(-1, 1, 16).expand(1, 1, 16, 16)
    m = Downsample(2)(x) / 2
    found = baselines(given(Downsample(2), m, (1, 16, 16)), Downsample(2), x)
    torch.testing.assert_close(found["bicubic"][..., 4:-4], x[..., 4:-4], atol=2e-3, rtol=0)
    torch.testing.assert_close(found["lanczos"][..., 6:-6], x[..., 6:-6], atol=6e-3, rtol=0)
    assert float((found["lanczos"] - found["bicubic"]).abs().max()) > 1e-3
    assert "harmonic" not in found
    time = Downsample(2, axes=(-1,))
    signal = torch.linspace(-1, 1, 8).reshape(1, 1, 8)
    found = baselines(given(time, time(signal) / time.scale, SIGNAL), time, signal)
    torch.testing.assert_close(found["linear"][..., 1:-1], signal[..., 1:-1], atol=1e-5, rtol=0)


def test_copy_paste_takes_the_nearest_and_keeps_what_is_given():
    training = torch.tensor([[[0.0, 0, 0, 0, 1, 1, 1, 1]], [[0.5, 0.5, 0.5, 0.5, 2, 2, 2, 2]]])
    view = Window(4, offset=0)
    found = baselines(given(view, [[[0.4, 0.4, 0.4, 0.4]]], SIGNAL), view, training)
    torch.testing.assert_close(found["copy_paste"][0, 0], torch.tensor([0.4] * 4 + [2.0] * 4))
    torch.testing.assert_close(found["mean_fill"][0, 0], torch.tensor([0.4] * 4 + [1.5] * 4))


def test_scores_of_a_gaussian_posterior():
    """The mean of exact posterior draws is better than one of them and than any baseline, and calibrated."""
    full, n, K = (1, 12), 300, 19
    g = torch.Generator().manual_seed(0)
    at = torch.arange(12.0).double()
    cov = 0.09 * torch.exp(-((at[:, None] - at) ** 2) / 8) + 0.002 * torch.eye(12)
    law = Gaussian(torch.zeros(full, dtype=torch.float64), cov)
    x0, view = law.sample(n, g), Mask(start=3, stop=9)
    shown = (at < 3) | (at >= 9)
    gain = cov[~shown][:, shown] @ torch.linalg.inv(cov[shown][:, shown])
    left = torch.linalg.cholesky(cov[~shown][:, ~shown] - gain @ cov[shown][:, ~shown])
    answers = x0[:, None].expand(n, K, 1, 12).clone()
    rest = torch.randn(n, K, 1, 6, generator=g, dtype=torch.float64) @ left.T
    answers[..., ~shown] = (x0[..., shown] @ gain.T)[:, None] + rest
    seen = given(view, view(x0), full)
    found = score(answers, x0, seen, baselines(seen, view, law.sample(50, g).float()))
    assert found["open"] == 0.5
    assert found["coverage"]["share"] == pytest.approx(0.9, abs=0.04)
    assert found["psnr"]["mean"] - found["psnr"]["one"] == pytest.approx(2.5, abs=1.5)
    assert found["gain"]["mean"] > 2 * found["gain"]["stderr"] > 0
    assert found["psnr"]["mean"] > max(found["psnr"][k] for k in ("mean_fill", "copy_paste", "harmonic"))
    text = table(found)
    assert text.count("\n") == 6  # of a signal: no other baselines
    assert "mean of the answers" in text


def test_no_interpolation_across_channels_or_for_whole_crops_of_channels():
    mix = ChannelMix(rows=((1.0, 0.0),))
    assert "harmonic" not in baselines(given(mix, torch.zeros(1, 1, 4, 4), (2, 4, 4)), mix, torch.zeros(2, 2, 4, 4))
    crop = Crop((2, 4), offset=(0, 0))
    assert "harmonic" in baselines(given(crop, torch.zeros(1, 2, 2, 4), (2, 4, 4)), crop, torch.zeros(2, 2, 4, 4))

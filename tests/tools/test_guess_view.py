"""What partial files are, guessed from files whose view is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from bootdiff.errors import BootdiffError
from bootdiff.tools.guess_view import guess_view, noise_std, roughness


def smooth(n, channels, *space, seed=0, reach=5):
    """Periodic Gaussian fields that are correlated over some pixels, of deviation 1/2, in [-1, 1]."""
    noise = torch.randn(n, channels, *space, generator=torch.Generator().manual_seed(seed))
    axes = tuple(range(2, noise.ndim))
    grids = torch.meshgrid(*(torch.fft.fftfreq(size) for size in space), indexing="ij")
    gain = torch.exp(-0.5 * (2 * torch.pi * reach) ** 2 * sum(g.square() for g in grids) / 2)
    x = torch.fft.ifftn(torch.fft.fftn(noise, dim=axes) * gain, dim=axes).real
    return (0.5 * x / x.std()).clamp(-1, 1)


FULL = smooth(40, 3, 48, 48)
OTHER = smooth(80, 3, 48, 48, seed=1)
VIDEO, CLIPS = smooth(12, 1, 16, 32, 32), smooth(20, 1, 16, 32, 32, seed=1)
SIGNAL, PIECES = smooth(30, 2, 200), smooth(50, 2, 200, seed=1)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_thumbnails_and_crops_of_one_size_are_told_apart(factor):
    side = 48 // factor
    small = functional.avg_pool2d(OTHER, factor)
    cut = OTHER[..., 5 : 5 + side, 2 : 2 + side]
    assert guess_view(FULL, small).view == ({"kind": "downsample", "factor": factor},)
    assert guess_view(FULL, cut).view == ({"kind": "crop", "size": [side, side]},)


def test_pieces_of_no_whole_fraction_are_crops():
    assert guess_view(FULL, OTHER[..., :20, :48]).view == ({"kind": "crop", "size": [20, 48]},)


def test_gray_thumbnails_are_both():
    gray = torch.einsum("c,nchw->nhw", torch.tensor([0.299, 0.587, 0.114]), OTHER)[:, None]
    assert guess_view(FULL, gray).view == ("gray",)
    assert guess_view(FULL, functional.avg_pool2d(gray, 2)).view == ("gray", {"kind": "downsample", "factor": 2})


@pytest.mark.parametrize("std", [0.05, 0.2, 0.5])
def test_the_noise_of_noisy_copies_and_thumbnails_is_measured(std):
    noise = std * torch.randn(OTHER.shape, generator=torch.Generator().manual_seed(2))
    found = guess_view(FULL, OTHER + noise)
    assert found.view == ()
    assert found.std == pytest.approx(std, rel=0.05)
    small = functional.avg_pool2d(OTHER, 2)
    found = guess_view(FULL, small + noise[..., :24, :24])
    assert found.view == ({"kind": "downsample", "factor": 2},)
    assert found.std == pytest.approx(std, rel=0.1)


def test_what_lies_on_all_files_is_masked():
    files = OTHER.clone()
    files[:, :, 30:44, 4:40] = 0.9
    found = guess_view(FULL, files)
    assert found.view == ({"kind": "mask"},)
    hidden = ~torch.from_numpy(found.mask)
    true = torch.zeros(48, 48, dtype=torch.bool)
    true[30:44, 4:40] = True
    assert (hidden & true).sum() / (hidden | true).sum() > 0.9


def test_what_lies_on_full_samples_too_is_no_overlay():
    both = [x.clone() for x in (FULL, OTHER)]
    for x in both:
        x[:, :, :10] = -1
    with pytest.raises(BootdiffError, match="look like full samples"):
        guess_view(*both)


def test_files_with_masks_of_their_own_are_masked_by_them():
    assert guess_view(FULL, OTHER, hidden=True).view == ({"kind": "random_mask"},)
    small = functional.avg_pool2d(OTHER, 2)
    assert guess_view(FULL, small, hidden=True).view == ({"kind": "downsample", "factor": 2}, {"kind": "random_mask"})


def test_clips_stills_and_small_videos():
    assert guess_view(VIDEO, CLIPS[:, :, :5]).view == ({"kind": "frame_window", "length": 5},)
    assert guess_view(VIDEO, CLIPS[:, :, 3]).view == ("stills",)
    small = functional.avg_pool3d(CLIPS, (1, 2, 2))
    assert guess_view(VIDEO, small).view == ({"kind": "downsample", "factor": 2},)
    assert guess_view(VIDEO, small[:, :, 0]).view == ("stills", {"kind": "downsample", "factor": 2})
    assert guess_view(VIDEO, small[:, :, :4]).view == (
        {"kind": "frame_window", "length": 4},
        {"kind": "downsample", "factor": 2},
    )


def test_pieces_of_signals_and_gaps_in_them():
    assert guess_view(SIGNAL, PIECES[..., :60]).view == ({"kind": "window", "length": 60},)
    assert guess_view(SIGNAL, PIECES, hidden=True).view == ({"kind": "random_mask"},)


@pytest.mark.parametrize(
    ("full", "files", "message"),
    [
        (FULL, OTHER, "look like full samples"),
        (SIGNAL, PIECES, "look like full samples"),
        (FULL[..., :24, :24], OTHER, "more pixels than the full samples.*48 x 48 and 24 x 24.*the full ones"),
        (VIDEO[:, :, :8], CLIPS, "more frames"),
        (SIGNAL[..., :50], PIECES, "more values"),
        (FULL, PIECES, "1 axes beside channels, and full samples 2"),
        (FULL, OTHER[:, :2], "2 channel.* full samples 3.*pick"),
    ],
)
def test_what_cannot_be_told_is_not_guessed(full, files, message):
    with pytest.raises(BootdiffError, match=message):
        guess_view(full, files)


def test_roughness_of_noise_is_one_and_of_a_ramp_known():
    assert roughness(torch.randn(20, 1, 64, 64, generator=torch.Generator().manual_seed(0))) == pytest.approx(
        1, rel=0.02
    )
    ramp = torch.arange(100.0).expand(2, 1, 100, 100)
    # Steps of 1 across, 0 down; the variance of 0 .. 99.
    assert roughness(ramp) == pytest.approx(0.5 / (2 * float(ramp.var())), rel=1e-4)


def test_noise_is_measured_whatever_lies_under_it():
    noise = 0.3 * torch.randn(20, 1, 65, 64, generator=torch.Generator().manual_seed(0))
    assert noise_std(noise) == pytest.approx(0.3, rel=0.02)
    assert noise_std(noise + torch.linspace(-1, 1, 64)) == pytest.approx(0.3, rel=0.02)
    assert math.isclose(noise_std(torch.ones(2, 3, 8, 8)), 0)

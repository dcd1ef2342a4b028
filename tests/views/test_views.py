"""What each view means for real files, and what views say where they do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bootdiff.views import (
    ChannelMix,
    Compose,
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
    Window,
    compose,
    from_config,
)
from view_cases import GRID, PICTURE


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Stored files


def stored_uint8(x):
    """A sample in [-1, 1] (3, H, W) as the uint8 picture (H, W, 3) it is stored as."""
    return ((x + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()


def loaded(picture):
    """A uint8 picture as stored coordinates (C, H, W) in [-1, 1]."""
    a = torch.from_numpy(np.array(picture)).double() / 127.5 - 1
    return a[None] if a.ndim == 2 else a.permute(2, 0, 1)


@pytest.mark.parametrize("k", [2, 4])
def test_stored_thumbnails_are_scaled_to_view_coordinates(k):
    picture = stored_uint8(noise(3, 16, 24).clamp(-1, 1))
    view, x0 = Downsample(k), loaded(picture)
    assert view.scale == k
    # reduce rounds to whole levels once, resize after rows and after columns; then view coordinates scale that by k
    for thumbnail, levels in (
        (Image.fromarray(picture).reduce(k), 0.51),
        (Image.fromarray(picture).resize((24 // k, 16 // k), Image.Resampling.BOX), 1.01),
    ):
        error = view.scale * loaded(thumbnail) - view(x0[None])[0]
        assert error.abs().max() <= k * levels / 127.5


def test_stored_gray_is_scaled_to_view_coordinates():
    picture = stored_uint8(noise(3, 16, 24).clamp(-1, 1))
    view, x0 = ChannelMix.gray(), loaded(picture)
    error = view.scale * loaded(Image.fromarray(picture).convert("L")) - view(x0[None])[0]
    assert error.abs().max() <= view.scale * 0.52 / 127.5


def test_stored_slow_motion_is_scaled_to_view_coordinates():
    """A camera that exposes each frame three times as long stores means of three frames."""
    video = ((noise(3, 6, 4, 5).clamp(-1, 1) + 1) * 127.5).round()
    stored = video.reshape(3, 2, 3, 4, 5).mean(2).round()
    view = Downsample(3, axes=(-3,))
    error = view.scale * (stored / 127.5 - 1) - view((video / 127.5 - 1)[None])[0]
    assert view.scale == pytest.approx(3**0.5)
    assert error.abs().max() <= view.scale * 0.51 / 127.5


def test_scale_and_tau_of_views_of_views():
    """Noise of 0.1 in the thumbnails' pixels, of 0.2 in the pixels of the gray thumbnails made of them."""
    k, gray = 4, ChannelMix.gray()
    view = Observed(compose(Observed(Downsample(k), std=0.1), gray), std=0.2)
    assert view.scale == pytest.approx(k * gray.scale)
    assert view.tau == pytest.approx(np.hypot(k * 0.1, k * gray.scale * 0.2))
    # the same noise, stated with the outer view
    assert compose(Observed(Downsample(k), std=0.1), Observed(gray, std=0.2)).tau == pytest.approx(view.tau)
    # and measured: w . (thumbnail + noise) + noise, times the scale
    w, n = torch.tensor(gray.weights).double(), noise(200_000, 4)
    files = 0.1 * (n[:, :3] * w).sum(1) + 0.2 * n[:, 3]
    assert (view.scale * files).std().item() == pytest.approx(view.tau, rel=0.01)


# Errors say what, with which sizes, and what to do


@pytest.mark.parametrize(
    ("view", "full", "said"),
    [
        (Downsample(3), (3, 16, 12), ["Downsample(factor=3", "(3, 16, 12)", "axis -2 has length 16", "multiple of 3"]),
        (Downsample(2), (8,), ["axis -2 has length 0"]),
        (Crop((4, 9)), (3, 8, 8), ["Crop", "(3, 8, 8)", "row 4, column 9", "smaller"]),
        (Crop(4, offset=(5, 0)), (3, 8, 8), ["row 9", "move"]),
        (Crop(4), (8, 8), ["2 or more axes after the channels", "(8, 8)"]),
        (Crop((4, 4, 4)), (3, 3, 8, 8), ["frame 4, row 4, column 4", "smaller"]),
        (FrameWindow(4), (3, 3, 8, 8), ["FrameWindow(length=4", "frame 4", "(3, 3, 8, 8)"]),
        (FrameWindow(4), (3, 8, 8), ["3 or more axes"]),
        (Window(9), (3, 8), ["sample 9", "smaller"]),
        (Window(2), (8,), ["1 or more axes", "(8,)"]),
        (Stills(frame=3), (3, 3, 8, 8), ["frame 3 of 3", "earlier"]),
        (Stills(), (3, 8, 8), ["only videos"]),
        (FrameStride(2), (3, 5, 8, 8), ["5 frames", "multiple of 2"]),
        (Pick((0, 3)), (3, 8, 8), ["3 channels"]),
        (Downsample(2), (4, 8), ["axis -2 has length 0"]),
        (Mask(box=(6, 0, 3, 2)), (3, 8, 8), ["hides 3x2 pixels at row 6", "(3, 8, 8)"]),
        (Mask(band=("bottom", 9)), (3, 8, 8), ["hides 9x8 pixels"]),
        (Mask(band=("top", 8)), (3, 8, 8), ["hide less"]),
        (Mask(image=GRID), (3, 12, 8), ["(8, 12)", "(12, 8)"]),
        (RandomMask(), (8, 8), ["(8, 8)", "(C, H, W)"]),
        (ChannelMix.gray(), (1, 8, 8), ["mixes 3 channels", "(1, 8, 8)"]),
        (compose(Downsample(4), Crop(3)), (3, 8, 8), ["Crop", "(3, 2, 2)"]),
        (compose(Mask(box=(1, 0, 2, 2)), Downsample(2)), (3, 8, 8), ["seen and hidden", "align"]),
        (Observed(compose(Mask(image=GRID), Downsample(2)), std=0.1), PICTURE, ["seen and hidden"]),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit(view, full, said):
    with pytest.raises(ValueError) as error:
        view.shape(full)
    assert all(words in str(error.value) for words in said), error.value
    with pytest.raises(ValueError):
        view.placements(full)
    with pytest.raises(ValueError):
        view.draw(full, torch.Generator())
    if view.is_fixed:
        with pytest.raises(ValueError):
            view(torch.zeros(1, *full))


def test_masks_and_mixes_of_placements_are_checked_too():
    with pytest.raises(ValueError, match="seen and hidden"):
        compose(RandomMask(hide="pixels"), Downsample(2)).placements(PICTURE)


def test_lift_names_both_shapes():
    with pytest.raises(ValueError, match=r"\(3, 4, 6\).*\(3, 4, 4\)"):
        Downsample(2).lift(torch.zeros(1, 3, 4, 4), PICTURE)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Downsample(0), "at least 1"),
        (lambda: Downsample(2, axes=(0, 1)), r"axes\[0\] must be at most -1, got 0"),
        (lambda: Crop(0), "at least 1"),
        (lambda: Crop(4, offset=(-1, 0)), "at least 0"),
        (lambda: Crop(4, offset=(0, 0), stride=2), "not both"),
        (lambda: Crop(()), "size must have at least 1 item"),
        (lambda: Crop((4, 4), offset=(1, 1, 1)), r"offset: must have as many numbers as size \(2\), got \[1, 1, 1\]"),
        (lambda: FrameWindow(0), "at least 1"),
        (lambda: Window(4, offset=1, stride=2), "not both"),
        (lambda: Stills(frame=1, every=2), "not both"),
        (lambda: Stills(every=0), "at least 1"),
        (lambda: FrameStride(2, offset=2), r"offset: must be below every \(2\), got 2"),
        (lambda: Pick((1, 1)), "different"),
        (lambda: Pick(()), "indices must have at least 1 item"),
        (lambda: Mask(), "give exactly one of box, band, image, start and stop; got none"),
        (lambda: Mask(box=(0, 0, 1, 1), band=("top", 1)), "got box and band"),
        (lambda: Mask(box=(0, 0, 0, 1)), "height, width"),
        (lambda: Mask(band=("left", 1)), r"\[bottom, rows\] or \[top, rows\]"),
        (lambda: Mask(image=[[0, 2]]), "0 and 1"),
        (lambda: Mask(image=[[0, 0]]), "not all 0"),
        (lambda: RandomMask(fraction=25), "fraction must be less than 1, got 25"),
        (lambda: RandomMask(hide="circle"), "pixels"),
        (lambda: ChannelMix(), "give exactly one of rows, weights"),
        (lambda: ChannelMix(weights=(1, 1, 1)), "sum to 3"),
        (lambda: ChannelMix(rows=((1, 1, 0),)), "orthonormal"),
        (lambda: Observed(Identity(), std=-1), "std must be >= 0"),
    ],
)
def test_wrong_arguments(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"kind": "downsize", "factor": 2}, "downsample.*downsize"),
        ({"factor": 2}, "kind"),
        ("downsample", "kind"),
        ({"kind": "downsample", "factr": 2}, "unknown factr; known: factor, axes"),
        ({"kind": "downsample"}, "factor"),
        ({"kind": "downsample", "factor": "two"}, "downsample.*integer"),
        ({"kind": "observed", "std": 0.1, "view": {"kind": "crop"}}, "crop.*size"),
    ],
)
def test_wrong_configs(config, said):
    with pytest.raises(ValueError, match=said):
        from_config(config)


def test_a_list_in_a_config_is_composed_from_first_to_last():
    configs = [{"kind": "channel_mix", "weights": [0.299, 0.587, 0.114]}, {"kind": "downsample", "factor": 2}]
    view = from_config({"kind": "observed", "std": 0.1, "view": configs})
    assert view == Observed(Compose(Downsample(2), ChannelMix.gray()), std=0.1)
    assert compose() == Identity()
    assert compose(Downsample(2)) == Downsample(2)

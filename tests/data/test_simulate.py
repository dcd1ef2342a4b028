"""Simulated partial data are what the files of the view would be, fixed by (seed, index)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bootdiff.data import CORRUPTIONS, Arrays, Batches, Dataset, Sample, Simulated, Subset
from bootdiff.errors import BootdiffError
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

VIEWS: list[View] = [
    Identity(),
    Downsample(2),
    Crop(size=(4, 4)),
    Crop(size=(4, 6), offset=(1, 2)),
    Mask(band=("bottom", 3)),
    RandomMask(),
    RandomMask(hide="pixels"),
    ChannelMix.gray(),
    compose(ChannelMix.gray(), Downsample(2)),
    Observed(Downsample(2), 0.1),
    Observed(RandomMask(), 0.1),
]
CLEAN = [view for view in VIEWS if view.tau == 0]


def pool(n: int = 12) -> Arrays:
    pixels = np.random.default_rng(1).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    return Arrays(pixels, labels=np.arange(n) % 3)


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_fixed_by_seed_and_index(view):
    first, again = Simulated(pool(), view, seed=4), Simulated(pool(), view, seed=4, memory=0)
    assert first.shape == view.shape((3, 8, 8))
    assert first.masked == view.masked
    for i in (5, 0, 11):
        a, b, c = first[i], first[i], again[i]
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.x, c.x)
        assert a.label == i % 3
        assert tuple(a.x.shape) == first.shape
        assert (a.mask is None) == (not view.masked)
        if a.mask is not None:
            assert torch.equal(a.mask, c.mask)
            assert (a.x * (1 - a.mask)).abs().max() == 0
    assert first.fingerprint() == again.fingerprint()


@pytest.mark.parametrize("view", CLEAN, ids=str)
def test_view_coordinates_are_one_of_the_placements(view):
    """Times scale, the stored file is A_p x0 for some drawn A_p, whose mask it carries."""
    source, full = Simulated(pool(), view, seed=4), pool()
    for i in range(12):
        y, x0 = view.scale * source[i].x, full[i].x[None]
        if isinstance(view, RandomMask):
            assert torch.equal(y, x0[0] * source[i].mask)
        else:
            found = [torch.allclose(y, p(x0)[0], atol=1e-6) for p in view.placements((3, 8, 8))]
            assert any(found)


def test_what_is_random_differs_between_files_and_seeds():
    black = Arrays(np.repeat(np.arange(64, dtype=np.uint8), 30).reshape(64, 30).T.reshape(30, 8, 8), range=(0, 63))
    crops = {Simulated(black, Crop(size=(4, 4), stride=(1, 1)), seed=0)[i].x.numpy().tobytes() for i in range(30)}
    assert len(crops) > 10
    one, two = (Simulated(pool(), RandomMask(), seed=s) for s in (0, 1))
    assert any(not torch.equal(one[i].mask, two[i].mask) for i in range(12))
    assert one.fingerprint() != two.fingerprint()
    assert one.fingerprint() != Simulated(pool(), Downsample(2), seed=0).fingerprint()


def test_observation_noise_has_the_stated_deviation():
    """In stored coordinates std, in view coordinates tau = scale * std."""
    pixels = np.full((200, 8, 8), 128, np.uint8)
    view = Observed(Downsample(2), 0.3)
    source = Simulated(Arrays(pixels), view, seed=0)
    x, _, _ = source.batch(range(200))
    centred = x - (128 / 127.5 - 1)
    assert centred.std().item() == pytest.approx(0.3, rel=0.05)
    assert abs(centred.mean().item()) < 0.03
    batch = Batches(source, view.scale, batch_size=200).at(0)["x"]
    assert batch.std().item() == pytest.approx(view.tau, rel=0.05)


def test_memory_is_bounded():
    some = Simulated(pool(), Downsample(2), memory=4 * 48 * 5)
    for i in range(12):
        some[i]
    assert len(some._kept) == 5
    crop = Simulated(pool(), Crop(size=(2, 2)))[0].x
    assert crop.untyped_storage().nbytes() == 4 * crop.numel()


def test_blur_keeps_constants_and_spreads_a_point():
    impulse = torch.zeros(1, 15, 15)
    impulse[0, 7, 7] = 1
    blurred = CORRUPTIONS["blur"](impulse, torch.Generator(), sigma=1.5)
    offsets = torch.arange(15) - 7.0
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5)
    assert (blurred.sum(1)[0] * offsets.square()).sum().item() == pytest.approx(1.5**2, rel=0.05)
    flat = torch.full((3, 4, 5), 0.25)
    torch.testing.assert_close(CORRUPTIONS["blur"](flat, torch.Generator(), sigma=3.0), flat)


def test_quantize_and_jpeg_and_noise():
    x = pool()[0].x
    levels = CORRUPTIONS["quantize"](x, torch.Generator(), levels=3)
    assert set(levels.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert (levels - x).abs().max() <= 0.5 + 1e-6
    smooth = torch.linspace(-1, 1, 16).expand(3, 16, 16)
    errors = [(CORRUPTIONS["jpeg"](smooth, torch.Generator(), quality=q) - smooth).abs().mean() for q in (95, 5)]
    assert errors[0] < 0.02 < errors[1]
    assert CORRUPTIONS["jpeg"](smooth[:1], torch.Generator()).shape == (1, 16, 16)
    noisy = CORRUPTIONS["noise"](torch.zeros(1, 99, 99), torch.Generator().manual_seed(0), std=0.2)
    assert noisy.std().item() == pytest.approx(0.2, rel=0.05)


OTHER = [
    (FrameWindow(2), (2, 6, 4, 4)),
    (Stills(), (2, 6, 4, 4)),
    (FrameStride(2), (2, 6, 4, 4)),
    (compose(FrameWindow(4), Downsample(2)), (2, 6, 4, 4)),
    (RandomMask(hide="moving"), (2, 6, 4, 4)),
    (Window(5), (2, 12)),
    (RandomMask(hide="gap"), (2, 12)),
    (RandomMask(hide="channels"), (4, 12)),
    (Pick((1,)), (3,)),
    (RandomMask(hide="channels"), (4,)),
]


class Noise(Dataset):
    """Eight samples of white noise of any shape."""

    problems = ()

    def __init__(self, shape):
        self.shape = shape

    def __len__(self):
        return 8

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return Sample(torch.randn(self.shape, generator=generator))

    def name(self, index):
        return str(index)

    def fingerprint(self):
        return "noise"


@pytest.mark.parametrize(("view", "full"), OTHER, ids=str)
def test_views_of_signals_videos_and_vectors_are_cut_out(view, full):
    source = Simulated(Noise(full), view, seed=1)
    batch = Batches(source, view.scale, batch_size=8, shape=view.shape(full)).at(0)
    for y, i in zip(batch["x"], batch["index"].tolist(), strict=True):
        x0, mask = Noise(full)[i].x[None], source[i].mask
        if isinstance(view, RandomMask):
            assert 0 < mask.mean() < 1
            assert torch.equal(y, x0[0] * mask)
        else:
            assert mask is None
            assert any(torch.allclose(y, p(x0)[0], atol=1e-6) for p in view.placements(full))


@pytest.mark.parametrize("kind", ["blur", "jpeg"])
def test_videos_are_corrupted_frame_by_frame(kind):
    video = torch.stack([pool()[i].x for i in range(3)], 1)
    damaged = CORRUPTIONS[kind](video, torch.Generator())
    for t in range(3):
        torch.testing.assert_close(damaged[:, t], CORRUPTIONS[kind](video[:, t], torch.Generator()))
    with pytest.raises(BootdiffError, match="pictures or videos"):
        Simulated(Noise((3, 12)), Identity(), corruption={"kind": kind})


def test_corruptions_are_fixed_and_fingerprinted():
    prints = set()
    for kind in CORRUPTIONS:
        one, two = (Simulated(pool(), Identity(), 3, {"kind": kind}, memory=m) for m in (0, 1 << 20))
        assert torch.equal(one[2].x, two[2].x)
        assert not torch.equal(one[2].x, pool()[2].x)
        prints.add(one.fingerprint())
    assert len(prints) == len(CORRUPTIONS)


@pytest.mark.parametrize(
    ("corruption", "said"),
    [
        ({"kind": "blurr"}, "known kinds: blur, jpeg, quantize, noise"),
        ({}, "unknown kind None"),
        ({"kind": "blur", "radius": 2}, "unknown setting 'radius'; known settings: sigma"),
        ({"kind": "blur", "sigma": -1}, "sigma must be"),
        ({"kind": "jpeg", "quality": 200}, "quality must be a whole number"),
        ({"kind": "quantize", "levels": 2.5}, "levels must be a whole number"),
        ({"kind": "noise", "std": "loud"}, "std must be a number"),
    ],
)
def test_wrong_corruptions(corruption, said):
    with pytest.raises(ValueError, match=said):
        Simulated(pool(), Identity(), corruption=corruption)


def test_wrong_use():
    with pytest.raises(ValueError, match="needs the identity view"):
        Simulated(pool(), Downsample(2), corruption={"kind": "blur"})
    with pytest.raises(BootdiffError, match="multiple of 3"):
        Simulated(pool(), Downsample(3))
    masked = Arrays(np.zeros((2, 4, 4), np.uint8), masks=np.ones((2, 4, 4), np.uint8))
    with pytest.raises(BootdiffError, match="full samples only"):
        Simulated(masked, Identity())


def test_parts_of_a_pool_draw_alike_however_they_are_loaded():
    part = Subset(pool(), [3, 7, 8])
    source = Simulated(part, RandomMask(), seed=2)
    batches = [Batches(Simulated(part, RandomMask(), seed=2), batch_size=5, workers=w) for w in (0, 2)]
    for a, b, _ in zip(batches[0].stream(), batches[1].stream(), range(3), strict=False):
        assert torch.equal(a["mask"], b["mask"])
        for mask, i in zip(a["mask"], a["index"].tolist(), strict=True):
            assert torch.equal(mask, source[i].mask)

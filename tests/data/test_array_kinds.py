"""Arrays of every kind: what shape means, what is refused as ambiguous, units, missing values, labels for some."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from bootdiff.data import (
    Arrays,
    Batches,
    Reclassed,
    Units,
    Windowed,
    kind_of,
    measure,
    open_dataset,
    split,
    split_by_recording,
)
from bootdiff.errors import BootdiffError
from bootdiff.views import ChannelMix, Crop, Downsample, Mask, compose

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("stored", "kind", "shape"),
    [
        ((7, 5), "vector", (5,)),
        ((7, 50), "signal", (1, 50)),
        ((7, 50, 3), "signal", (3, 50)),
        ((7, 8, 9), "image", (1, 8, 9)),
        ((7, 8, 9), None, (1, 8, 9)),
        ((7, 8, 9, 3), None, (3, 8, 9)),
        ((7, 8, 9, 6), "image", (6, 8, 9)),
        ((7, 6, 8, 9), "video", (1, 6, 8, 9)),
        ((7, 6, 8, 9, 3), "video", (3, 6, 8, 9)),
        ((7, 6, 8, 9, 3), None, (3, 6, 8, 9)),
    ],
)
def test_shapes_and_kinds(stored, kind, shape):
    array = RNG.random(stored).astype(np.float32)
    source = Arrays(array, kind=kind)
    assert source.shape == shape
    assert source.kind == kind_of(shape)
    assert kind in (None, source.kind)
    # Channels come first inside; values are where they were.
    want = np.moveaxis(array[3].reshape(*shape[1:], shape[0]), -1, 0) * 2 - 1
    torch.testing.assert_close(source[3].x, torch.from_numpy(want), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        source.restore(source[3].x), torch.from_numpy((want + 1) / 2).double(), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(
    ("stored", "kind", "said"),
    [
        ((7, 512), None, "say kind: signal (N x L: each row one signal) or kind: vector"),
        ((7, 512, 12), None, "say kind: image (N x H x W: gray pictures) or kind: signal"),
        ((7, 12, 32, 32), None, "say kind: image (N x H x W x C) or kind: video (N x T x H x W)"),
        ((7,), None, "has shape (7,)"),
        ((7, 5, 5), "vector", "an array of kind vector is N x C"),
        ((7, 5), "image", "an array of kind image is N x H x W or N x H x W x C"),
        ((7, 3, 500), "signal", "looks like channels first"),
        ((7, 3, 4, 8, 9), "video", "looks like channels first"),
    ],
)
def test_what_could_be_two_things_is_refused(stored, kind, said):
    with pytest.raises(BootdiffError, match=re.escape(said)):
        Arrays(np.zeros(stored, np.float32), kind=kind)


def test_standardized_values_come_back_in_their_units():
    table = np.stack([RNG.normal(1e6, 2, 200), RNG.normal(-3, 1e-4, 200), RNG.normal(0, 50, 200)], 1)
    source = Arrays(table, kind="vector", standardize=True)
    x = source.batch(range(200))[0]
    torch.testing.assert_close(x.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std(0, unbiased=False), torch.ones(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(source.restore(x), torch.from_numpy(table), rtol=1e-6, atol=1e-6)
    other = Arrays(table[:20], kind="vector", units=source.units)
    assert torch.equal(other.batch(range(20))[0], x[:20])
    assert Units.from_config(source.units.config()) == source.units
    assert source.fingerprint() != Arrays(table, kind="vector", range=(-1e7, 1e7)).fingerprint()
    with pytest.raises(BootdiffError, match="column 'b' holds one and the same value"):
        Arrays(np.array([[0.1, 5], [0.2, 5]]), kind="vector", standardize=True, columns=["a", "b"])
    with pytest.raises(BootdiffError, match="only signals and vectors are standardized, not a image"):
        Arrays(RNG.random((3, 8, 8)), standardize=True)
    with pytest.raises(BootdiffError, match="or say standardize: true"):
        Arrays(table, kind="vector")


@pytest.mark.parametrize("view", [Crop(size=(5,), offset=(2,)), Downsample(4, axes=(-1,)), Mask(start=2, stop=9)])
def test_units_of_a_view_make_its_files_match(view):
    """Files of a view, read in the units of the full samples seen through it, are the view of the full samples."""
    full = Arrays(RNG.normal([3, -50], [1, 20], (40, 16, 2)), kind="signal", standardize=True)
    units = full.units.through(view, full.shape)
    x = full.batch(range(40))[0]
    raw = view(full.restore(x).float()) / view.scale
    seen = view(x) / view.scale
    mask = view.mask(full.shape)
    kept = torch.ones_like(seen) if mask is None else mask.expand_as(seen)
    torch.testing.assert_close(units.store(raw, 1).float() * kept, seen * kept, atol=1e-4, rtol=1e-4)


def test_a_view_that_mixes_units_has_none():
    mix = ChannelMix(weights=(0.5, 0.5))
    even, odd = Units((1.0, 2.0), (3.0, 3.0), True), Units((1.0, 2.0), (3.0, 4.0), True)
    assert even.through(mix, (2, 16)).offset == pytest.approx((1.5,))
    with pytest.raises(BootdiffError, match=r"views.x: this view mixes channels"):
        odd.through(compose(mix, Crop(size=(4,), offset=(0,))), (2, 16), "views.x")


def gaps() -> np.ndarray:
    array = RNG.normal(0, 1, (6, 20, 2))
    array[0, 3:9] = np.nan
    array[2, :, 1] = np.nan
    return array


def test_missing_values_are_masked_in_partial_data():
    array = gaps()
    with pytest.raises(BootdiffError, match=r"sample 0 holds NaN .*say missing: mask"):
        Arrays(array, kind="signal", range=(-9, 9))
    source = Arrays(array, kind="signal", standardize=True, missing="mask")
    x, _, masks = source.batch(range(6))
    assert source.masked
    assert masks.shape == (6, 2, 20)
    assert torch.equal(masks, torch.from_numpy(~np.isnan(np.moveaxis(array, -1, 1))).float())
    assert x.isfinite().all()
    assert (x[masks == 0] == 0).all()
    found = measure(source)
    assert found["mean"] == pytest.approx([0, 0], abs=1e-6)
    assert found["sigma_data"] == pytest.approx(1, abs=1e-6)
    # Missing in all channels at once: one mask for all.
    array[2, :, 0] = np.nan
    shared = Arrays(np.delete(array, 2, 0), kind="signal", range=(-9, 9), missing="mask")
    assert shared.batch([0])[2].shape == (1, 1, 20)
    with pytest.raises(BootdiffError, match="sample 2 holds no observed value at all"):
        Arrays(array, kind="signal", range=(-9, 9), missing="mask")
    array[1, 0, 0] = np.inf
    with pytest.raises(BootdiffError, match="sample 1 holds infinite values"):
        Arrays(np.delete(array, 2, 0), kind="signal", range=(-9, 9), missing="mask")
    vector = Arrays(np.array([[1.0, np.nan], [0.5, 0.2]]), kind="vector", range=(0, 1), missing="mask")
    assert vector[0].mask.tolist() == [1, 0]


def test_masks_of_arrays(tmp_path):
    video = RNG.integers(0, 256, (4, 6, 8, 9, 3), dtype=np.uint8)
    moving = RNG.integers(0, 2, (4, 6, 8, 9), dtype=np.uint8)
    still = moving[:, 0]
    np.savez(tmp_path / "v.npz", clips=video, clips_mask=moving, logo=still)
    for masks, want in ((True, moving), ("logo", np.broadcast_to(still[:, None], moving.shape))):
        source = open_dataset(tmp_path / "v.npz", key="clips", masks=masks)
        assert torch.equal(source.batch(range(4))[2][:, 0], torch.from_numpy(want.copy()).float())
    assert Arrays(video, masks=moving[..., None].repeat(3, -1))[0].mask.shape == (3, 6, 8, 9)
    for wrong in (moving[:, :5], still[:, :5]):
        with pytest.raises(BootdiffError, match=r"masks have shape .* need \(4, 6, 8, 9\)"):
            Arrays(video, masks=wrong)
    moving[2] = 0
    with pytest.raises(BootdiffError, match="the mask of sample 2 hides everything"):
        Arrays(video, masks=moving)
    signal = Arrays(np.zeros((3, 10)), kind="signal", masks=np.eye(3, 10))
    assert signal[1].mask.tolist() == [np.eye(3, 10)[1].tolist()]


def test_labels_for_some():
    array = RNG.random((6, 8, 8))
    for labels in (np.array([0, -1, 1, 2, -1, 0]), np.array([0, np.nan, 1, 2, np.nan, 0]), np.array(list("a bc a"))):
        text = labels.dtype.kind == "U"
        labels = np.char.strip(labels) if text else labels
        with pytest.raises(
            BootdiffError, match=r"2 of 6 samples have no valid label, first sample 1.*unlabelled: keep"
        ):
            Arrays(array, labels=labels)
        source = Arrays(array, labels=labels, unlabelled="keep")
        assert source.batch(range(6))[1].tolist() == [0, -1, 1, 2, -1, 0]
        assert source[1].label is None
        assert Batches(source, batch_size=6).at(0)["label"].min() == -1
        again = Reclassed(source, ["x", *source.classes])
        assert again.batch(range(6))[1].tolist() == [1, -1, 2, 3, -1, 1]
        assert again.unlabelled
    with pytest.raises(BootdiffError, match="no sample has a label"):
        Arrays(array, labels=np.full(6, -1), unlabelled="keep")


def test_windows_of_arrays(tmp_path):
    video = RNG.integers(0, 256, (5, 11, 4, 6, 1), dtype=np.uint8)
    np.save(tmp_path / "v.npy", video)
    source = open_dataset(tmp_path / "v.npy", frames=4, stride=3)
    assert isinstance(source, Windowed)
    assert (len(source), source.shape) == (15, (1, 4, 4, 6))
    whole = Arrays(video)
    assert torch.equal(source[4].x, whole[1].x[:, 3:7])
    assert source.name(4) == "sample 1[3:7]"
    assert tuple(source.span(4)) == (1, 3, 7)
    with pytest.raises(BootdiffError, match="samples have 11 frames, fewer than the 12 asked for"):
        open_dataset(tmp_path / "v.npy", frames=12)
    with pytest.raises(BootdiffError, match="kind video, to which length means nothing"):
        open_dataset(tmp_path / "v.npy", length=4)


@pytest.mark.parametrize("stride", [2, 4])
def test_divisions_keep_recordings_together(stride):
    source = Windowed(Arrays(RNG.random((9, 20, 4, 4, 1))), 4, stride)
    parts = split_by_recording(source, [7, 0.3, None], seed=3)
    assert sum(map(len, parts)) <= len(source)
    frames = [
        {(s.recording, t) for i in part for s in [source.span(i)] for t in range(s.start, s.stop)} for part in parts
    ]
    for a in range(3):
        for b in range(a):
            assert not frames[a] & frames[b]
    # At most one recording is cut per boundary.
    owners = [{source.span(i).recording for i in part} for part in parts]
    assert len(owners[0] & owners[1]) + len(owners[1] & owners[2]) + len(owners[0] & owners[2]) <= 2
    assert parts == split_by_recording(source, [7, 0.3, None], seed=3)
    plain = Arrays(RNG.random((9, 8, 8)))
    assert split_by_recording(plain, [3, None], 1) == split(9, [3, None], 1)


def test_only_pictures_and_videos_are_mirrored():
    for shape, kind in (((5, 8), "vector"), ((5, 8, 2), "signal")):
        with pytest.raises(ValueError, match=f"not a {kind}"):
            Batches(Arrays(RNG.random(shape), kind=kind), flip="horizontal")
    video = Arrays(RNG.random((5, 3, 4, 6, 1)))
    flipped = Batches(video, batch_size=5, flip="horizontal").at(0)
    plain = Batches(video, batch_size=5).at(0)
    for a, b in zip(flipped["x"], plain["x"], strict=True):
        assert torch.equal(a, b) or torch.equal(a, b.flip(-1))

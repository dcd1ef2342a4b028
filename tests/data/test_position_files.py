"""Places: what is told of simulated files and of files with offsets beside them, from the source to the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bootdiff.data import Arrays, Batches, Reclassed, Simulated, Subset, WithPositions, read_offsets
from bootdiff.errors import BootdiffError
from bootdiff.views import Crop, Downsample, FrameWindow, RandomMask, Stills, compose

FULL = (1, 6, 4, 4)


def videos(n=5):
    pixels = np.random.default_rng(0).integers(0, 256, (n, 6, 4, 4, 1), dtype=np.uint8)
    return Arrays(pixels, labels=np.arange(n) % 2)


@pytest.mark.parametrize(
    "view",
    [
        Stills(position_conditioned=True),
        FrameWindow(2, position_conditioned=True),
        compose(FrameWindow(4, position_conditioned=True), Downsample(2), Stills()),
        compose(RandomMask(), Crop((2, 2), position_conditioned=True)),
    ],
    ids=str,
)
def test_simulated_files_know_where_they_lie(view):
    """The place is that of the placement which the file is."""
    source, full = Simulated(videos(), view, seed=3), videos()
    positions = source.positions(range(5))
    assert source.position_conditioned
    for i in range(5):
        y = source[i].x * view.scale
        there = [
            p.position_channels(FULL)
            for p in view.placements(FULL)
            if torch.allclose(p(full[i].x[None])[0], y, atol=1e-6)
        ]
        if not view.masked:  # masks are drawn anew
            assert any(torch.equal(positions[i], t) for t in there)
    assert len(positions.flatten(1).unique(dim=0)) > 1
    again = Reclassed(Subset(source, [4, 0]), ["0", "1", "2"])
    assert again.position_conditioned
    assert torch.equal(again.positions([1, 0]), positions[[0, 4]])
    batch = Batches(again, view.scale, batch_size=2, seed=1).at(0)
    assert torch.equal(batch["position_channels"], again.positions(batch["index"].tolist()))


def test_nothing_is_told_unless_asked_for():
    source = Simulated(videos(), Stills())
    assert not source.position_conditioned
    assert source.positions([0]) is None
    assert "position_channels" not in Batches(source, batch_size=2).at(0)


def test_files_with_offsets():
    frames = Simulated(videos(), Stills(), seed=1)
    source = WithPositions(frames, Stills(position_conditioned=True), FULL, torch.tensor([[5], [0], [0], [2], [1]]))
    assert torch.equal(source.positions([0])[0], Stills(frame=5, position_conditioned=True).position_channels(FULL))
    assert torch.equal(source.positions([3, 1])[1], Stills(frame=0, position_conditioned=True).position_channels(FULL))
    assert torch.equal(source[2].x, frames[2].x)
    assert (
        source.fingerprint()
        != WithPositions(frames, Stills(position_conditioned=True), FULL, torch.ones(5, 1).long()).fingerprint()
    )
    crops = Simulated(videos(), compose(FrameWindow(2), Crop(2)), seed=1)
    both = compose(FrameWindow(2, position_conditioned=True), Crop(2, position_conditioned=True))
    placed = WithPositions(crops, both, FULL, torch.tensor([[4, 1, 2]] * 5))
    wanted = compose(
        FrameWindow(2, offset=4, position_conditioned=True), Crop(2, offset=(1, 2), position_conditioned=True)
    ).position_channels(FULL)
    assert torch.equal(placed.positions([2])[0], wanted)
    fixed = Stills(frame=3, position_conditioned=True)
    assert torch.equal(WithPositions(frames, fixed, FULL).positions([0])[0], fixed.position_channels(FULL))


@pytest.mark.parametrize(
    ("offsets", "said"),
    [
        (None, ["5 x 1 offsets", "there are none", "leave `position_conditioned` out"]),
        (torch.zeros(4, 1).long(), ["5 x 1", "4 x 1"]),
        (torch.zeros(5, 2).long(), ["5 x 2"]),
        (torch.tensor([[0], [6], [0], [0], [0]]), ["offset [6]", "frame 6 of 6", "sample 1"]),
    ],
)
def test_offsets_that_do_not_fit(offsets, said):
    with pytest.raises(BootdiffError) as error:
        WithPositions(Simulated(videos(), Stills(), seed=1), Stills(position_conditioned=True), FULL, offsets)
    assert all(words in str(error.value) for words in said), error.value


def test_offsets_are_read_from_arrays_and_text(tmp_path):
    np.save(tmp_path / "o.npy", np.array([3, 0, 1]))
    assert read_offsets(tmp_path / "o.npy").tolist() == [[3], [0], [1]]
    (tmp_path / "o.csv").write_text("3,1\n0,2\n")
    assert read_offsets(tmp_path / "o.csv").tolist() == [[3, 1], [0, 2]]
    for text in ("3,1\n0\n", "1.5\n", "-1\n", "a\n"):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(BootdiffError, match=r"offsets|cannot be read"):
            read_offsets(tmp_path / "bad.csv")
    with pytest.raises(BootdiffError, match="cannot be read"):
        read_offsets(tmp_path / "none.npy")

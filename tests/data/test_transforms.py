"""Data sets made of another one hand on all that they do not change, one by one and in batches alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bootdiff.data import (
    Arrays,
    Mapped,
    Reclassed,
    Simulated,
    Subset,
    Units,
    UnusableFile,
    Windowed,
    WithMasks,
    WithPositions,
)
from bootdiff.views import Identity, Stills

RNG = np.random.default_rng(0)
FULL = (2, 6, 4, 5)


def videos() -> Arrays:
    """Five videos with labels, for some, and masks."""
    pixels = RNG.integers(0, 256, (5, 6, 4, 5, 2), dtype=np.uint8)
    dataset = Arrays(
        pixels,
        labels=np.array([0, 1, -1, 1, 0]),
        unlabelled="keep",
        masks=RNG.random((5, 6, 4, 5)) < 0.8,
        where="films",
    )
    dataset.rate, dataset.columns, dataset.units = 12.5, ["a", "b"], Units((1.0,), (2.0,))
    dataset.problems = [UnusableFile("x", "is cut short")]
    return dataset


def frames() -> Arrays:
    return Arrays(RNG.integers(0, 256, (5, 4, 5, 2), dtype=np.uint8))


class Plain(Mapped):
    def fingerprint(self) -> str:
        return "plain"


class Negative(Plain):
    def change(self, x, labels, masks):
        return -x, labels, masks


MADE = {
    "plain": Plain,
    "subset": lambda d: Subset(d, [3, 0, 2, 2]),
    "classes": lambda d: Reclassed(d, ["x", "1", "0"]),
    "masks": lambda d: WithMasks(d, fixed=torch.eye(4, 5)[None, None].expand(1, 6, 4, 5)),
    "one mask": lambda d: WithMasks(d, channels=False),
    "windows": lambda d: Windowed(d, 3, 2),
    "changed": Negative,
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_samples_and_batches_agree(make):
    dataset = make(videos())
    x, labels, masks = dataset.batch(range(len(dataset)))
    for i in range(len(dataset)):
        sample = dataset[i]
        assert torch.equal(sample.x, x[i])
        assert (-1 if sample.label is None else sample.label) == labels[i]
        assert torch.equal(sample.mask, masks[i])
        assert torch.equal(dataset[i - len(dataset)].x, x[i])
    assert x.shape[1:] == dataset.shape
    for index in (len(dataset), -len(dataset) - 1):
        with pytest.raises(IndexError, match="in films"):
            dataset[index]
        with pytest.raises(IndexError):
            dataset.name(index)


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_attributes_are_handed_on(make):
    of, dataset = videos(), make(videos())
    for name in ("masked", "unlabelled", "position_conditioned", "rate", "columns", "units", "where", "problems"):
        assert getattr(dataset, name) == getattr(of, name)
    assert dataset.fingerprint() != of.fingerprint()


def test_what_changes():
    of = videos()
    x, _, masks = of.batch(range(5))
    assert torch.equal(Negative(of).batch([1])[0], -x[[1]])
    assert torch.equal(Subset(of, [3, 0]).batch([1, 0])[0], x[[0, 3]])
    assert Subset(of, [3, 0]).name(0) == "sample 3"
    again = Reclassed(of, ["x", "1", "0"])
    assert (again.classes, again.batch(range(5))[1].tolist()) == (["x", "1", "0"], [2, 1, -1, 1, 2])
    fixed = torch.eye(4, 5)[None, None].expand(1, 6, 4, 5)
    assert torch.equal(WithMasks(of, fixed=fixed).batch([2])[2], (masks[[2]] * fixed).expand(1, *FULL))
    assert torch.equal(WithMasks(of, channels=False, fixed=fixed).batch([2])[2], masks[[2]] * fixed)
    cut = Windowed(of, 3, 2)
    assert (len(cut), cut.shape) == (10, (2, 3, 4, 5))
    assert torch.equal(cut[3].x, x[1][:, 2:5])
    assert torch.equal(cut[3].mask, masks[1][:, 2:5])
    assert (cut.name(3), tuple(cut.span(3)), cut[3].label) == ("sample 1[2:5]", (1, 2, 5), 1)


def test_positions_are_handed_on_and_so_are_spans():
    view = Stills(position_conditioned=True)
    placed = WithPositions(frames(), view, FULL, torch.tensor([[5], [0], [0], [2], [1]]))
    some = Subset(placed, [3, 0])
    assert some.position_conditioned
    assert torch.equal(some.positions([1, 0]), placed.positions([0, 3]))
    assert torch.equal(placed[2].x, placed.dataset[2].x)
    windows = Subset(Windowed(videos(), 3, 2), [3, 0])
    assert [tuple(windows.span(i)) for i in range(2)] == [(1, 2, 5), (0, 0, 3)]
    whole = Arrays(RNG.integers(0, 256, (5, 6, 4, 5, 2), dtype=np.uint8))
    assert Simulated(Windowed(whole, 3, 2), Identity()).span(3) == (1, 2, 5)


def test_a_window_does_not_keep_its_recording():
    dataset = Windowed(videos(), 3, 2)
    assert dataset[1].x.untyped_storage().nbytes() == 4 * dataset[1].x.numel()

"""Batches are a function of (seed, step): of nothing else, for every kind of source."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bootdiff.data import (
    Arrays,
    Batches,
    Dataset,
    Simulated,
    Subset,
    measure,
    rank_slice,
    report_problems,
    spaced_indices,
    split,
)
from bootdiff.data.dataset import Sample, UnusableFile
from bootdiff.errors import BootdiffError
from bootdiff.views import Downsample, Identity, Mask, Observed, RandomMask


def arrays(n: int = 23, size: int = 6, channels: int = 3, **options) -> Arrays:
    pixels = np.random.default_rng(0).integers(0, 256, (n, size, size, channels), dtype=np.uint8)
    return Arrays(pixels, **options)


SOURCES = {
    "arrays": arrays,
    "labels": lambda: arrays(labels=np.arange(23) % 4),
    "one sample": lambda: arrays(1),
    "subset": lambda: Subset(arrays(), [3, 8, 9, 20, 1]),
    "noisy thumbnails": lambda: Simulated(arrays(), Observed(Downsample(2), 0.1), seed=5),
    "random masks": lambda: Simulated(arrays(), RandomMask(), seed=5),
}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_stream_from_any_step_equals_at(make, workers):
    options = {"scale": 2.0, "batch_size": 4, "seed": 3, "flip": "horizontal"}
    reference = Batches(make(), **options)
    for start in (0, 7):
        stream = Batches(make(), workers=workers, **options).stream(start)
        for step, batch in zip(range(start, start + 5), stream, strict=False):
            assert same(batch, reference.at(step))


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_hold_the_global_batch(make, world):
    options = {"batch_size": 8, "seed": 1, "flip": "horizontal"}
    whole = Batches(make(), **options)
    parts = [Batches(make(), rank=rank, world=world, **options) for rank in range(world)]
    for step in (0, 5):
        batches = [part.at(step) for part in parts]
        assert same(whole.at(step), {key: torch.cat([b[key] for b in batches]) for key in batches[0]})
    assert parts[1].at(0)["x"].equal(whole.at(0)["x"][parts[1].local])


@given(n=st.integers(1, 40), size=st.integers(1, 50))
def test_every_epoch_shows_every_sample_once(n, size):
    batches = Batches(arrays(n, size=1), batch_size=size, seed=2)
    steps = math.ceil(3 * n / size)
    order = list(itertools.chain.from_iterable(batches.indices(step) for step in range(steps)))
    for epoch in range(3):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n))
    assert batches.epoch(steps) >= 3


def test_epochs_and_seeds_differ():
    source = arrays(100, size=1)
    first, second = (Batches(source, batch_size=100, seed=0).indices(step) for step in (0, 1))
    assert first != second
    assert first != Batches(source, batch_size=100, seed=1).indices(0)


def test_values_are_scaled_stored_pixels():
    source = arrays()
    batch = Batches(source, scale=4.0, batch_size=5).at(2)
    for x, i in zip(batch["x"], batch["index"].tolist(), strict=True):
        assert torch.equal(x, 4.0 * source[i].x)


def test_flip_mirrors_picture_and_mask_together():
    source = Simulated(arrays(40), RandomMask(), seed=0)
    plain = Batches(source, batch_size=40, seed=9).at(0)
    flipped = Batches(source, batch_size=40, seed=9, flip="horizontal").at(0)
    assert torch.equal(plain["index"], flipped["index"])
    turned = 0
    for i in range(40):
        kept = torch.equal(plain["x"][i], flipped["x"][i]) and torch.equal(plain["mask"][i], flipped["mask"][i])
        mirrored = torch.equal(plain["x"][i].flip(-1), flipped["x"][i])
        mirrored &= torch.equal(plain["mask"][i].flip(-1), flipped["mask"][i])
        assert kept != mirrored
        turned += mirrored
    assert 8 < turned < 32
    # The sources' own tensors stay as they were.
    again = Batches(source, batch_size=40, seed=9).at(0)
    assert same(plain, again)


def test_what_a_mask_hides_never_reaches_a_batch():
    masks = np.ones((4, 6, 6), np.uint8)
    masks[:, 2:4] = 0
    own = Batches(arrays(4, masks=masks), batch_size=4).at(0)
    fixed = Batches(arrays(4), batch_size=4, mask=Mask(box=(2, 0, 2, 6)).mask((3, 6, 6))).at(0)
    assert same(own, fixed)
    assert own["x"][:, :, 2:4].abs().max() == 0
    assert own["x"][:, :, :2].abs().min() > 0


def test_all_goes_through_the_source_in_order_once():
    source = arrays(labels=np.arange(23) % 4)
    batches = Batches(source, scale=2.0, batch_size=8, rank=1, world=2, flip="horizontal")
    found = list(batches.all(10))
    assert [len(b["x"]) for b in found] == [10, 10, 3]
    assert torch.cat([b["index"] for b in found]).tolist() == list(range(23))
    assert torch.cat([b["label"] for b in found]).tolist() == [i % 4 for i in range(23)]
    assert torch.equal(found[2]["x"][-1], 2.0 * source[22].x)


def test_loaders_leave_the_global_random_state_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(Batches(arrays(), batch_size=4, workers=1, flip="horizontal").stream())
    assert torch.equal(before, torch.get_rng_state())


class Failing(Dataset):
    """A source whose third sample cannot be read, or lacks its label."""

    shape, where, classes = (1, 2, 2), "some/folder", ["a", "b"]

    def __init__(self, label: int | None = 0, broken: bool = True) -> None:
        self.problems, self.label, self.broken = [], label, broken

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        if index == 2 and self.broken:
            raise BootdiffError("some/folder/c.png: is cut short")
        return Sample(torch.zeros(1, 2, 2), self.label if index == 2 else 0)

    def name(self, index: int) -> str:
        return "abc"[index] + ".png"

    def fingerprint(self) -> str:
        return ""


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_file_stops_with_its_own_message(workers):
    with pytest.raises(BootdiffError, match=r"^some/folder/c.png: is cut short$"):
        list(itertools.islice(Batches(Failing(), batch_size=3, workers=workers).stream(), 1))


def test_a_missing_label_names_the_file():
    with pytest.raises(BootdiffError, match=r"some/folder: c.png has no label"):
        Batches(Failing(label=None, broken=False), batch_size=3).at(0)


def test_wrong_arguments():
    source = arrays()
    wrong: list[dict] = [
        {"scale": 0.0},
        {"scale": math.nan},
        {"batch_size": 0},
        {"seed": -1},
        {"workers": -1},
        {"rank": 2, "world": 2},
        {"batch_size": 2, "world": 3},
        {"flip": "vertical"},
        {"mask": torch.ones(1, 5, 6)},
    ]
    for options in wrong:
        with pytest.raises(ValueError, match="Batches"):
            Batches(source, **options)
    with pytest.raises(ValueError, match="step"):
        Batches(source).at(-1)


def test_wrong_data():
    with pytest.raises(BootdiffError, match=r"3 x 6 x 6 .*needs 3 x 3 x 3"):
        Batches(arrays(), shape=(3, 3, 3))
    with pytest.raises(BootdiffError, match="no samples are left"):
        Batches(Subset(arrays(), []))


@given(batch=st.integers(1, 64), world=st.integers(1, 9))
def test_rank_slices_tile_the_batch(batch, world):
    tiles = [list(range(batch))[rank_slice(batch, rank, world)] for rank in range(world)]
    assert list(itertools.chain.from_iterable(tiles)) == list(range(batch))
    assert max(map(len, tiles)) - min(map(len, tiles)) <= 1


@given(n=st.integers(2, 60), seed=st.integers(0, 5))
def test_split_is_disjoint_and_fixed(n, seed):
    parts = split(n, [1, 0.3, None], seed) if 1 + max(1, round(0.3 * n)) <= n else split(n, [1, None], seed)
    assert sorted(itertools.chain.from_iterable(parts)) == list(range(n))
    assert parts == split(n, [len(part) for part in parts], seed)
    assert all(part == sorted(part) for part in parts)


def test_split_sizes():
    assert [len(part) for part in split(3, [0.01, 0.0, None])] == [1, 0, 2]
    assert split(50, [10], 0) != split(50, [10], 1)
    for sizes in ([4, 4], [1.5], [-1], [None, None]):
        with pytest.raises(ValueError, match="split"):
            split(7, sizes)


def test_evenly():
    assert spaced_indices(10, None) == spaced_indices(10, 99) == list(range(10))
    assert spaced_indices(10, 4) == [0, 2, 5, 7]
    with pytest.raises(ValueError, match="limit"):
        spaced_indices(10, 0)


def test_subset_and_indices_outside():
    source = arrays(5)
    part = Subset(source, [4, 0])
    assert torch.equal(part[0].x, source[4].x)
    assert torch.equal(part[-1].x, source[0].x)
    assert part.name(0) == source.name(4)
    assert part.fingerprint() != Subset(source, [0, 4]).fingerprint()
    with pytest.raises(IndexError):
        part[2]
    with pytest.raises(ValueError, match="5 samples"):
        Subset(source, [5])


def test_measure_agrees_with_torch_and_ignores_hidden_pixels():
    source = arrays(50)
    x = 3.0 * torch.stack([source[i].x for i in range(50)]).double()
    found = measure(source, scale=3.0, batch_size=7)
    mean = x.mean((0, 2, 3))
    assert found["mean"] == pytest.approx(mean.tolist())
    assert found["sigma_data"] == pytest.approx((x - mean.view(3, 1, 1)).square().mean().sqrt().item())
    assert found["rms"] == pytest.approx(x.square().mean().sqrt().item())
    assert (found["min"], found["max"], found["count"]) == (x.min(), x.max(), 50)
    assert measure(source, limit=10)["count"] == 10

    masks = np.zeros((50, 6, 6), np.uint8)
    masks[:, :, :3] = 255
    left = x[..., :3]
    mean = left.mean((0, 2, 3))
    for seen in (
        measure(arrays(50, masks=masks), scale=3.0),
        measure(source, scale=3.0, mask=torch.from_numpy(masks[0] / 255)[None]),
    ):
        assert seen["mean"] == pytest.approx(mean.tolist())
        assert seen["sigma_data"] == pytest.approx((left - mean.view(3, 1, 1)).square().mean().sqrt().item())


def test_measure_refuses_constant_data():
    with pytest.raises(BootdiffError, match="one and the same value"):
        measure(Arrays(np.full((5, 4, 4), 7, np.uint8)))


def test_view_coordinates_of_thumbnails():
    """A stored thumbnail times scale is A x0: the noise level asked of the view is then the sample's own."""
    full = arrays(6, size=8)
    view = Downsample(4)
    batch = Batches(Simulated(full, view), view.scale, batch_size=6, shape=view.shape(full.shape)).at(0)
    x0 = torch.stack([full[i].x for i in batch["index"].tolist()])
    torch.testing.assert_close(batch["x"], view(x0))
    torch.testing.assert_close(batch["x"], 4.0 * torch.nn.functional.avg_pool2d(x0, 4))


def test_problems_are_reported_once():
    source = arrays(5)
    source.problems = [UnusableFile("x.png", "is cut short")]
    rows = report_problems(
        {"train": Subset(source, [0]), "holdout": Subset(source, [1]), "view": Simulated(source, Identity())}
    )
    assert rows == [{"data": "train", "file": "x.png", "reason": "is cut short"}]

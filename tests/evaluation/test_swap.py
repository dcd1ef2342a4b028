"""Swapped denoisers against exact ones, bit by bit; and what their samples' figures are said to mean."""

from __future__ import annotations

import math

import pytest
import torch

from bootdiff.denoise import Denoiser
from bootdiff.distributions.exact import Gaussian, Mixture
from bootdiff.evaluation.swap import SwappedDenoiser, closed, markdown, ranges, rows_of, sentence, summary
from bootdiff.sampling import SOLVERS, sample

SHAPE = (1, 2, 2)
GAUSSIAN = Gaussian(torch.full(SHAPE, 0.3), 0.2 * torch.eye(4))
MIXTURE = Mixture(
    torch.tensor([0.4, 0.6]),
    torch.stack([torch.full(SHAPE, -0.7), torch.full(SHAPE, 0.5)]),
    0.05 * torch.eye(4).expand(2, 4, 4),
)


class Asked(Denoiser):
    """Gives a constant, and keeps what it was asked."""

    def __init__(self, value):
        super().__init__()
        self.shape, self.value, self.sigmas, self.labels, self.contexts = SHAPE, value, [], [], []

    def forward(self, x, sigma, label=None, context=None):
        self.sigmas += sigma.tolist()
        self.labels += [] if label is None else label.tolist()
        self.contexts += [] if context is None else context.flatten().tolist()
        return torch.full_like(x, self.value)

    def valid_at(self, sigma, label=None):
        return torch.full_like(sigma, self.value > 0, dtype=torch.bool)


@pytest.mark.parametrize("scheduler", SOLVERS)
def test_swapping_everything_gives_the_others_samples_and_nothing_the_own(scheduler):
    def drawn(denoiser):
        return sample(denoiser, 6, seed=3, scheduler=scheduler, steps=9, sigma_max=20.0)

    own, other = drawn(GAUSSIAN), drawn(MIXTURE)
    assert not torch.equal(own, other)
    assert torch.equal(drawn(SwappedDenoiser(GAUSSIAN, MIXTURE, 0, math.inf)), other)
    assert torch.equal(drawn(SwappedDenoiser(GAUSSIAN, MIXTURE, 1, 1)), own)
    assert torch.equal(drawn(SwappedDenoiser(GAUSSIAN, MIXTURE, 30, math.inf)), own)  # above the sampler's levels
    part = drawn(SwappedDenoiser(GAUSSIAN, MIXTURE, 0.1, 1))
    assert not torch.equal(part, own)
    assert not torch.equal(part, other)


def test_all_samples_start_from_the_same_noise():
    """Where only the last step is the other's, all before it is the own path: the other denoises the same x."""
    seen = []

    class Last(Denoiser):
        shape = SHAPE

        def forward(self, x, sigma, label=None, context=None):
            seen.append((x, sigma))
            return MIXTURE(x, sigma)

    sample(SwappedDenoiser(GAUSSIAN, Last(), 0, 0.03), 5, seed=1, scheduler="euler", steps=6, sigma_max=20.0)
    ((x, sigma),) = seen
    assert sigma.tolist() == pytest.approx([0.02] * 5)
    own = sample(GAUSSIAN, 5, seed=1, scheduler="euler", steps=6, sigma_max=20.0)
    torch.testing.assert_close(GAUSSIAN(x, sigma), own)  # the last step is D


def test_each_is_asked_for_its_own_rows_only():
    one, other = Asked(-1.0), Asked(2.0)
    swapped = SwappedDenoiser(one, other, 0.4, 1.0)
    sigma = torch.tensor([0.1, 0.4, 0.9, 1.0, 0.5])
    context = torch.arange(5.0).reshape(5, 1, 1, 1)
    x = torch.zeros(5, *SHAPE)
    d = swapped(x, sigma, torch.arange(5), context)
    assert d.flatten(1)[:, 0].tolist() == [-1, 2, 2, -1, 2]
    assert (one.sigmas, other.sigmas) == ([*sigma[[0, 3]].tolist()], [*sigma[[1, 2, 4]].tolist()])
    assert (one.labels, other.labels) == ([0, 3], [1, 2, 4])
    assert (one.contexts, other.contexts) == ([0, 3], [1, 2, 4])
    assert swapped.valid_at(sigma).tolist() == [False, True, True, False, True]
    # all rows at one level, as a sampler asks: one of them is not asked at all
    before = len(one.sigmas)
    swapped(x, torch.full((5,), 0.5))
    assert (len(one.sigmas), len(other.sigmas)) == (before, 8)
    swapped(x, torch.full((5,), 5.0))
    assert (len(one.sigmas), len(other.sigmas)) == (before + 5, 8)


def test_mixed_rows_are_exact():
    x, sigma = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.logspace(-2, 1, 8)
    got = SwappedDenoiser(GAUSSIAN, MIXTURE, 0.1, 2)(x, sigma)
    inside = ((sigma >= 0.1) & (sigma < 2)).reshape(-1, 1, 1, 1)
    assert 0 < int(inside.sum()) < 8
    torch.testing.assert_close(got, torch.where(inside, MIXTURE(x, sigma), GAUSSIAN(x, sigma)))


def test_the_ranges_ask_the_other_at_every_level_once():
    asked = []
    for low, high in ranges([0.1, 0.4, 1, 3]):
        other = Asked(0.5)
        sample(SwappedDenoiser(GAUSSIAN, other, low, high), 2, scheduler="euler", steps=40)
        assert all(low <= s < high for s in other.sigmas)
        asked += other.sigmas
    everything = Asked(0.5)
    sample(everything, 2, scheduler="euler", steps=40)
    assert sorted(asked) == sorted(everything.sigmas)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"differ in shape: \(1, 2, 2\) and \(3,\)"):
        SwappedDenoiser(GAUSSIAN, Gaussian(torch.zeros(3), torch.eye(3)), 0, 1)
    for low, high in ((-1, 1), (2, 1), (math.nan, 1)):
        with pytest.raises(ValueError, match="0 <= low <= high"):
            SwappedDenoiser(GAUSSIAN, MIXTURE, low, high)
    for boundaries in ([], [0.0, 1], [-1.0], [1, 0.4], [1, 1], [math.nan], [1, math.inf]):
        with pytest.raises(ValueError, match="positive and ascending"):
            ranges(boundaries)


def figures(fid):
    shared = {"count": 400, "reference_count": 300, "features": "made-up", "precision": 0.9}
    return {"fid": fid, "kid": {"mean": fid / 100, "stderr": 0.001}, **shared}


def found(own, swapped, other):
    at = dict(zip(ranges([0.1, 0.4, 1, 3]), map(figures, swapped), strict=True))
    return summary(figures(own), figures(other), at, "oracle", [0.02, 0.1, 0.2, 2, 3, 80])


def test_shares_and_the_sentence_of_the_figures_that_the_weights_were_taken_from():
    told = found(4.49, [4.42, 4.13, 3.53, 3.01, 4.08], 2.52)
    assert [round(100 * row["fid_share"]) for row in told["ranges"]] == [4, 18, 49, 75, 21]
    assert [round(100 * row["kid_share"]) for row in told["ranges"]] == [4, 18, 49, 75, 21]
    assert [row["steps"] for row in told["ranges"]] == [1, 2, 0, 1, 2]
    assert (told["ranges"][-1]["low"], told["ranges"][-1]["high"]) == (3, None)
    assert (told["own"]["fid"], told["swapped_everywhere"]["fid"], told["count"]) == (4.49, 2.52, 400)
    assert sentence("bootdiff", told) == (
        "bootdiff's samples lose most at noise levels 1 to 3: oracle's denoiser there alone closes 75 % of the "
        "difference in FID (4.49 to 2.52); next comes 0.4 to 1 with 49 %."
    )
    rows = rows_of(told)
    assert [row[0] for row in rows] == [
        "nowhere",
        "below 0.1",
        "0.1 to 0.4",
        "0.4 to 1",
        "1 to 3",
        "above 3",
        "everywhere",
    ]
    assert rows[4] == ("1 to 3", "1", "3.01", "30.10 ± 1.00", "75 %", "75 %")
    lines = markdown({"bootdiff": told}).splitlines()
    assert {line.count("|") for line in lines if line.startswith("|")} == {7}
    assert lines[-1] == sentence("bootdiff", told)


def test_where_there_is_nothing_to_close_no_share_is_told():
    worse = found(2.5, [3.0] * 5, 4.0)
    assert {row["fid_share"] for row in worse["ranges"]} == {None}
    assert "not better than bootdiff's (FID 4 and 2.5)" in sentence("bootdiff", worse)
    assert {row[4] for row in rows_of(worse)} == {"-"}
    assert math.isnan(closed(1.0, 1.0, 1.0))
    assert "No range alone" in sentence("bootdiff", found(4.0, [4.5] * 5, 2.0))

"""Ceilings where the truth is known: what an exact law of a view saves is a KL divergence of Gaussians."""

from __future__ import annotations

import pytest
import torch
from test_forecast import HALVES, made, rough

from bootdiff.distributions.exact import Gaussian
from bootdiff.forecast.ceiling import Ceilings, known_exactly
from bootdiff.forecast.cross_validation import Curve, expected
from bootdiff.forecast.explained_variance import nats
from bootdiff.moments.moment_matching import impose
from bootdiff.moments.shrinkage import Coordinates, Estimate, Sampled, shrunk
from bootdiff.moments.view_moments import ViewMoments
from bootdiff.views import Crop, Downsample, Identity, Observed

LEVELS = torch.logspace(-3.5, 2.5, 121, dtype=torch.float64).tolist()
VIEWS = {
    "left": Crop((4, 2), (0, 0)),
    "small": Downsample(2),
    "all": Identity(),
    "noisy": Observed(Identity(), std=0.5),
}


def world(count=25, view=None, files=300):
    """An estimate from `count` samples of a law, and the law, as estimates in the same coordinates."""
    law, rng = rough(), torch.Generator().manual_seed(0)
    full = law.sample(count, rng)
    C = Coordinates.of(full)
    U = C.basis().flatten(1)
    mean = U @ (law.mean - C.means()).flatten()
    truth = Estimate(mean, U @ law.cov @ U.T, law.mean.new_zeros(0), 10**6)
    start = shrunk(C, Sampled.of(C, C.analyze(full)), [0.5])[0]
    x = (view or Identity())(law.sample(files, rng))
    return C, truth, start, ViewMoments.of(C, view or Identity(), x)


@pytest.mark.parametrize("name", VIEWS)
def test_what_an_exact_view_law_saves_is_the_divergence_of_the_laws_of_the_view(name):
    C, truth, start, view = world(view=VIEWS[name])
    imposed = impose(start, [known_exactly(truth, view)])
    saved = nats(expected(start, truth, C, LEVELS) - expected(imposed, truth, C, LEVELS), C, LEVELS)
    R = view.rows[0]
    p, q = (Gaussian(R @ e.mean, R @ e.cov @ R.T) for e in (truth, start))
    assert saved == pytest.approx(p.kl(q), rel=0.01)


def test_ceilings_grow_with_what_is_seen_and_end_at_everything():
    C, truth, _, left = world(view=VIEWS["left"])
    everything = world(view=Identity())[3]
    right = world(view=HALVES["right"])[3]
    ceilings = Ceilings(truth, C, [0.1, 0.4, 1.6], Curve(truth, C, [0.1, 0.4, 1.6], 25, lambda done: None))
    one, both, all_ = (ceilings.of(views, [True] * 3) for views in ([left], [left, right], [everything]))
    assert 0 < one.nats < both.nats < all_.nats
    assert 0 < one.samples < both.samples < all_.samples
    assert not one.beyond
    assert all_.beyond  # no number of samples teaches all
    assert all_.share == pytest.approx(1, abs=1e-3)
    assert 0 < one.share < both.share < 1
    nothing = ceilings.of([], [False] * 3)
    assert (nothing.nats, nothing.samples, nothing.beyond, nothing.share) == (0, 0, False, 0)


def test_few_files_bring_less_than_the_ceiling_and_many_bring_it():
    few, many = (made(rough(decay=2.0), {"left": HALVES["left"]}, 40, N).views["left"] for N in (40, 20_000))
    assert sum(few.alone.gain) < 0.9 * sum(few.ceiling.gain)
    assert sum(many.alone.raw) == pytest.approx(sum(many.ceiling.gain), rel=0.3)

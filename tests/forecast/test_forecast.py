"""The forecast where the truth is known: Gaussian laws, views of them, and views of something else."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest
import torch

from bootdiff.distributions.exact import Gaussian
from bootdiff.forecast.cross_validation import Curve, Trials
from bootdiff.forecast.explained_variance import _observed_directions, between
from bootdiff.forecast.forecast import forecast
from bootdiff.moments.moment_matching import impose
from bootdiff.moments.shrinkage import Coordinates, Estimate, Sampled, shrunk
from bootdiff.moments.view_moments import ViewMoments
from bootdiff.views import Crop, Downsample, Identity, Mask, Observed, RandomMask, View
from experiments.theory.information import total_correlation
from experiments.theory.linear import composite, evidence, excess, optimal_gains, view_moment, wiener

SHAPE, LEVELS = (1, 4, 4), (0.1, 0.4, 1.6, 6.4)
HALVES = {"left": Crop((4, 2), (0, 0)), "right": Crop((4, 2), (0, 2))}
DTYPE = torch.float64


def smooth(length=2.0, scale=1.0):
    pixels = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).double()
    return Gaussian(torch.zeros(SHAPE, dtype=DTYPE), scale * torch.exp(-torch.cdist(pixels, pixels) / length))


def rough(seed=0, decay=1.5):
    """A law that is not stationary: what is diagonal in no basis that one could guess."""
    Q = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(seed), dtype=DTYPE))[0]
    lam = torch.arange(1.0, 17.0, dtype=DTYPE) ** -decay
    return Gaussian(torch.zeros(SHAPE, dtype=DTYPE), 16 / lam.sum() * (Q * lam) @ Q.T)


def made(law, views, n, N, seed=0, others=None, levels=LEVELS, **options):
    """The forecast of `n` full samples and N files of each view, of the law or of another."""
    rng = torch.Generator().manual_seed(seed)
    full = law.sample(n, rng)
    others = others or {}

    def measure(coordinates):
        out = {}
        for name, view in views.items():
            x = others.get(name, law).sample(N, rng)
            drawn = view.draw(SHAPE, rng)
            mask = drawn.mask(SHAPE)
            files = drawn(x) + view.tau * torch.randn(drawn(x).shape, generator=rng, dtype=DTYPE)
            out[name] = ViewMoments.of(coordinates, view, files, None if mask is None else mask.expand(N, *mask.shape))
        return out

    return forecast(full, measure, levels, **options)


def exact_shares(law, views, levels):
    """Closed form, by the denoisers' matrices: what can be known, each view's share, and the share of all together."""
    S, d = law.cov, law.dim
    sd2 = float(S.diagonal().mean())
    out = []
    for s in levels:
        b = sd2 / (sd2 + s**2)
        white = float(excess(b * torch.eye(d, dtype=DTYPE), S, s))
        J = evidence([view_moment(S, v, SHAPE) for v in views.values()], list(views.values()), SHAPE, s, b)
        left = [float(excess(composite(j, optimal_gains(j, S, s, b), b), S, s)) for j in (*J[:, None], J)]
        unit = d * s**2 * sd2 / (s**2 + sd2)
        out.append((white / unit, *(1 - e / white for e in left)))
    return torch.tensor(out, dtype=DTYPE).T


def numbers(found):
    """Every number of a forecast."""
    return [v for v in flatten(asdict(found)) if isinstance(v, float)]


def flatten(x):
    if isinstance(x, dict):
        x = list(x.values())
    return [v for y in x for v in flatten(y)] if isinstance(x, list | tuple) else [x]


def test_shares_and_information_approach_the_closed_form():
    law = rough()
    truth = exact_shares(law, HALVES, LEVELS)
    noisy = Gaussian(law.mean, law.cov + LEVELS[0] ** 2 * torch.eye(16, dtype=DTYPE))
    mutual = total_correlation(noisy, list(HALVES.values())).nats
    errors = []
    for n in (30, 300, 3000):
        found = made(law, HALVES, n, 10 * n)
        got = torch.tensor([found.known, *(v.share for v in found.views.values()), found.share], dtype=DTYPE)
        nats = found.views["left"].shared
        got = got if found.kept == list(HALVES) else got[:3]
        errors.append((float((got - truth[: len(got)]).abs().max()), abs(nats / mutual - 1)))
    assert errors[2][0] < 0.03
    assert errors[2][1] < 0.05
    assert errors[2][0] < errors[1][0] < errors[0][0]
    assert errors[0][0] < 0.3


def test_what_disjoint_views_leave_over_is_their_mutual_information():
    """Guo, Shamai, Verdu 2005: on a range of noise levels that has nearly all of it."""
    law = rough()
    levels, nats = [0.02 * 2**k for k in range(12)], total_correlation(law, list(HALVES.values())).nats
    found = made(law, HALVES, 400, 40_000, levels=levels)
    assert found.kept == ["left", "right"]
    # less what 400 full samples are short of the law
    assert 0.7 * nats < found.left_over < 1.02 * nats
    assert found.total_correlation == pytest.approx(nats, rel=0.1)
    assert found.left_over < found.views["left"].left_over < found.everything


def test_a_view_of_other_data_is_left_out():
    law, other = rough(decay=2.5), Gaussian(torch.full(SHAPE, 3.0, dtype=DTYPE), 0.5 * torch.eye(16, dtype=DTYPE))
    views = {**HALVES, "other": Downsample(2)}
    found = made(law, views, 20, 2000, others={"other": other})
    assert found.kept == ["left", "right"]
    assert found.views["other"].verdict == "dissimilar"
    assert found.views["other"].fit[0] > 1.5
    assert max(found.views["other"].alone.raw) < 0
    assert found.views["other"].alone.mean_samples == 0
    for name in HALVES:
        assert found.views[name].fit[0] == pytest.approx(1, abs=0.2)


def test_of_two_views_that_say_the_same_one_is_kept():
    found = made(
        rough(decay=2.5), {"left": HALVES["left"], "again": HALVES["left"], "right": HALVES["right"]}, 20, 4000
    )
    assert len(found.kept) == 2
    assert "right" in found.kept
    dropped = ({"left", "again"} - set(found.kept)).pop()
    assert found.views[dropped].verdict == "redundant"
    assert any(found.views[dropped].alone.helps)


def test_nothing_is_new_where_full_samples_abound():
    found = made(smooth(), {"left": HALVES["left"]}, 3000, 100)
    assert found.kept == []
    assert found.views["left"].verdict == "nothing"
    assert found.together.mean_samples == 0
    assert found.together.loss == found.full_only


@pytest.mark.parametrize("seed", range(3))
def test_full_samples_in_disguise_are_worth_their_number(seed):
    """Files that show everything are full samples: at most their number, and not much less."""
    found = made(rough(decay=2.0), {"all": Identity()}, 40, 200, seed=seed)
    assert found.kept == ["all"]
    low, high = found.views["all"].alone.interval
    assert low <= 200
    assert high >= 100
    assert found.views["all"].alone.mean_samples <= 200
    assert found.views["all"].shared == pytest.approx(0, abs=1e-6)


def test_the_interval_covers_what_views_really_improve():
    """The expected improvement lies in the interval for at least eight of ten data sets (nominal: nine)."""
    law, n, draws, levels = rough(decay=2.5), 20, 20, [0.3, 1.2]
    intervals, true = [], []
    for seed in range(draws):
        rng = torch.Generator().manual_seed(seed)
        full, fresh = law.sample(n, rng), law.sample(2000, rng)
        C = Coordinates.of(full)
        views = {name: ViewMoments.of(C, v, v(law.sample(500, rng))) for name, v in HALVES.items()}
        trials = Trials(C, C.analyze(full), views, levels, 5, seed, lambda done: None)
        gain = trials.gain(list(views))
        intervals.append((gain.raw[0] - 1.645 * gain.stderr[0], gain.raw[0] + 1.645 * gain.stderr[0]))
        # the same estimates, judged on fresh samples
        c = C.analyze(fresh)
        true.append(float((trials.expected((), c) - trials.expected(list(views), c))[0]))
    middle = sum(true) / draws
    covered = sum(low <= middle <= high for low, high in intervals)
    assert covered >= 0.8 * draws
    assert sum(low > 0 for low, _ in intervals) >= 0.8 * draws


def test_the_curve_inverts():
    """n samples more are worth n: a gain read off the curve gives back its number."""
    law = smooth()
    C = Coordinates.of(law.sample(100, torch.Generator().manual_seed(0)))
    c = C.analyze(law.sample(20_000, torch.Generator().manual_seed(1)))
    estimate = Estimate(c.mean(0), c.T @ c / len(c), torch.zeros(0, dtype=DTYPE), 20)
    curve = Curve(estimate, C, LEVELS, 20, lambda done: None)
    assert bool((curve.loss[0] > curve.loss[-1]).all())
    for k in (1, 3, 5):
        gained = float(curve.loss[0, 1] - curve.loss[k, 1])
        assert curve._samples(curve.loss[:, 1], gained, math.inf) == pytest.approx(20 * 2**k - 20)
    assert curve._samples(curve.loss[:, 1], 0.0, math.inf) == 0
    assert curve._samples(curve.loss[:, 1], 1e9, 500.0) == 500


class Blind(View):
    """Sees nothing: rank 0."""

    def shape(self, full):
        return (1, 2)

    def forward(self, x):
        return torch.zeros(len(x), 1, 2, dtype=x.dtype)

    def adjoint(self, y, full):
        return torch.zeros(len(y), *full, dtype=y.dtype)


@pytest.mark.parametrize(
    ("views", "n", "N"),
    [
        ({"blind": Blind()}, 20, 50),
        ({"all": Identity()}, 20, 50),
        ({"all": Identity()}, 2, 50),
        (HALVES, 2, 2),
        ({"left": HALVES["left"]}, 20, 1),
        ({"left": HALVES["left"]}, 2, 1),
        ({"noisy": Observed(Identity(), std=100.0)}, 20, 50),
        ({"windows": Crop((2, 2)), "holes": RandomMask(), "band": Mask(band=("top", 1))}, 20, 200),
        ({"twice": Identity(), "again": Identity()}, 5, 300),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, dict) else str(v),
)
@pytest.mark.parametrize("length", [2.0, 1e6, 1e-3])
def test_limits_are_numbers(views, n, N, length):
    """Rank 0 and full rank, one file, two full samples, laws of one dimension and white ones: all is finite."""
    found = made(smooth(length), views, n, N)
    assert all(math.isfinite(x) for x in numbers(found))
    for v in found.views.values():
        assert all(0 <= s <= 1 + 1e-9 for s in v.share)
        assert v.left_over >= 0
        assert v.alone.interval[0] <= v.alone.mean_samples <= v.alone.interval[1] <= v.count
    json.dumps(asdict(found), allow_nan=False)


def test_views_that_overlap_in_one_pixel_overlap_in_any_basis():
    """The singular vectors of orthonormal rows are any rotation of them, as rounding has it."""
    full = torch.randn(40, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    C = Coordinates.of(full)
    law = shrunk(C, Sampled.of(C, C.analyze(full)), [0.5])[0]
    for side in (10, 11):
        pair = [ViewMoments.of(C, v, v(full)) for v in (Crop((side, side), (0, 0)), Crop((10, 10), (10, 10)))]
        for seed in range(3):
            g = torch.Generator().manual_seed(seed)
            turned = []
            for s in pair:
                turn = torch.linalg.qr(torch.randn(s.size, s.size, generator=g, dtype=DTYPE))[0]
                turned.append(replace(s, rows=turn @ s.rows))
            assert (between(law, turned, 1.0) is None) == (side == 11)


def test_a_direction_seen_by_half_is_not_seen():
    seen = ViewMoments(
        Identity(), torch.eye(4, dtype=DTYPE)[None, :2] * 0.5**0.5, *(torch.zeros(1, 2, dtype=DTYPE),) * 2,
        torch.eye(2, dtype=DTYPE), 10.0, 0.0, (Identity(),), torch.ones(1), None,
    )  # fmt: skip
    for rounding in (-1e-15, 0.0, 1e-15):
        assert len(_observed_directions(replace(seen, rows=seen.rows * (1 + rounding)))) == 0
    assert len(_observed_directions(replace(seen, rows=seen.rows * 1.001))) == 2


def test_files_with_holes_that_are_all_the_same_have_no_law():
    def measure(coordinates):
        masks = torch.rand(60, *SHAPE, generator=torch.Generator().manual_seed(1)).gt(0.3).double()
        constant = 0.3 * masks
        return {"holes": ViewMoments.of(coordinates, RandomMask(), constant, masks)}

    found = forecast(smooth().sample(30, torch.Generator().manual_seed(0)), measure, LEVELS)
    assert found.views["holes"].fit is None
    assert all(math.isfinite(v) for v in numbers(found))


def test_a_blind_view_knows_nothing():
    found = made(smooth(), {"blind": Blind()}, 30, 50)
    assert found.views["blind"].share == [0.0] * len(LEVELS)
    assert found.views["blind"].verdict == "nothing"
    assert found.views["blind"].fit is None
    assert found.left_over == pytest.approx(found.everything)


@pytest.mark.parametrize("levels", [[], [0.0, 1.0], [1.0, math.inf], [1.0, 0.5], [math.nan]])
def test_levels_must_be_levels(levels):
    with pytest.raises(ValueError, match="noise levels"):
        made(smooth(), HALVES, 10, 10, levels=levels)


def test_bad_data_are_refused():
    with pytest.raises(ValueError, match="at least 2 full samples"):
        made(smooth(), HALVES, 1, 10)
    with pytest.raises(ValueError, match="no view"):
        made(smooth(), {}, 10, 10)


def test_the_risk_is_the_one_of_the_linear_class():
    """`cross_validation.risks`, averaged over the law, is the risk of the Wiener filter of the estimate."""
    from bootdiff.forecast.cross_validation import risks
    from experiments.theory.linear import risk

    law = smooth()
    C = Coordinates.of(law.sample(50, torch.Generator().manual_seed(0)))
    x = law.sample(100_000, torch.Generator().manual_seed(1))
    c = C.analyze(x)
    wrong = Estimate(
        torch.zeros(16, dtype=DTYPE), torch.diag(torch.linspace(0.1, 3, 16, dtype=DTYPE)), c.new_zeros(0), 9
    )
    S = c.T @ c / len(c)
    for got, s in zip(risks(wrong, C, c, LEVELS).mean(1), LEVELS, strict=True):
        assert float(got) * C.unit(s) * 16 == pytest.approx(float(risk(wiener(wrong.cov, s), S, s)), rel=1e-6)


def test_a_dense_part_of_few_coordinates_changes_little():
    law = smooth(8.0)
    views = {"small": Downsample(2)}
    a, b = (made(law, views, 60, 1000, size=size) for size in (16, 10))
    assert (a.dense, b.dense) == (16, 10)
    assert b.kept == a.kept
    torch.testing.assert_close(torch.tensor(b.full_only), torch.tensor(a.full_only), atol=0, rtol=0.1)
    torch.testing.assert_close(torch.tensor(b.share[1:]), torch.tensor(a.share[1:]), atol=0.05, rtol=0)


def test_imposing_files_of_the_law_brings_the_estimate_nearer_to_it():
    law = smooth()
    rng = torch.Generator().manual_seed(0)
    full = law.sample(20, rng)
    C = Coordinates.of(full)
    from bootdiff.moments.shrinkage import Sampled, shrunk

    start = shrunk(C, Sampled.of(C, C.analyze(full)), [0.4])[0]
    U = C.basis().flatten(1)
    views = [ViewMoments.of(C, v, v(law.sample(3000, rng))) for v in HALVES.values()]
    before, after = ((e.cov - U @ law.cov @ U.T).norm() for e in (start, impose(start, views)))
    assert after < 0.7 * before

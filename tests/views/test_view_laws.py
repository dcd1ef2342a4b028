"""The laws of views, over a list of all of them on vectors, signals, pictures and videos."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch

from bootdiff.views import VIEWS, Crop, Downsample, Mask, compose, from_config, to_config
from view_cases import CASES, VIDEO

every_case = pytest.mark.parametrize(("view", "full"), CASES, ids=[f"{len(f)}-{v}" for v, f in CASES])


def matrix(view, full):
    """A, (rows, coordinates), one column per basis sample."""
    n = math.prod(full)
    return view(torch.eye(n, dtype=torch.float64).reshape(n, *full)).flatten(1).T


def observed(view, full):
    """The mask over all view coordinates, flat."""
    m = view.mask(full)
    return (torch.ones(view.shape(full)) if m is None else m.expand(view.shape(full))).flatten().double()


def noise(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def traits(view, full):
    return view.shape(full), view.scale, view.tau, view.masked, view.position_conditioned


@pytest.mark.parametrize("kind", VIEWS)
def test_every_kind_is_in_the_list(kind):
    assert any(type(view) is VIEWS[kind] for view, _ in CASES)


@every_case
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_lift_is_the_adjoint(view, full, dtype):
    for p in view.placements(full):
        x, y = noise(4, *full, dtype=dtype), noise(4, *p.shape(full), dtype=dtype, seed=1)
        Ax, ATy = p(x), p.lift(y, full)
        assert (Ax.shape, ATy.shape) == (y.shape, x.shape)
        assert Ax.dtype == ATy.dtype == dtype
        left, right = (Ax.double() * y.double()).sum(), (x.double() * ATy.double()).sum()
        assert abs(left - right) < 20 * torch.finfo(dtype).eps * x.double().norm() * y.double().norm()


@every_case
def test_lifting_onto_a_total_adds_the_lift(view, full):
    for p in view.placements(full):
        total, y = noise(2, *full), noise(2, *p.shape(full), seed=1)
        wanted = total + p.lift(y, full)
        p.lift_onto(total, y)
        torch.testing.assert_close(total, wanted)


@every_case
def test_noise_stays_white_where_observed(view, full):
    """A A^T, the covariance of A n, is the identity where observed and 0 where hidden; so A A^T A = A."""
    for p in view.placements(full):
        A = matrix(p, full)
        torch.testing.assert_close(A @ A.T, torch.diag(observed(p, full)))
        torch.testing.assert_close(A @ A.T @ A, A)


@every_case
def test_rank_is_the_dimension_of_the_row_space(view, full):
    A = torch.cat([matrix(p, full) for p in view.placements(full)])
    assert view.rank(full) == torch.linalg.matrix_rank(A)


@every_case
def test_coverage_weighted_lifts_are_a_projection(view, full):
    """C^-1 sum_p A_p^T A_p is the projection onto the row space of all placements together."""
    A = torch.cat([matrix(p, full) for p in view.placements(full)])
    C = view.coverage(full).expand(full).flatten().double()
    P = A.T @ A / C[:, None]
    # symmetric, so its range lies in the row space, which it leaves alone
    torch.testing.assert_close(P, P.T)
    torch.testing.assert_close(A @ P, A)
    torch.testing.assert_close(P @ P, P)


def test_coverage_counts_the_placements():
    torch.testing.assert_close(Crop((2, 2), stride=2).coverage((1, 3, 2)), torch.tensor([[[1.0, 1], [2, 2], [1, 1]]]))
    # 1 where nothing is seen, as it divides
    assert Crop((1, 1), stride=2).coverage((1, 4, 4)).eq(1).all()
    x = torch.ones(1, 1, 4, 4)
    lifted = sum(p.lift(p(x), (1, 4, 4)) for p in Crop((1, 1), stride=2).placements((1, 4, 4)))
    assert lifted[0, 0].tolist() == [[1, 0, 1, 1], [0, 0, 0, 0], [1, 0, 1, 1], [1, 0, 1, 1]]


@every_case
def test_gradients_are_the_adjoint(view, full):
    for p in view.placements(full):
        x, y = noise(2, *full).requires_grad_(), noise(2, *p.shape(full), seed=1).requires_grad_()
        (p(x) * y.detach()).sum().backward()
        torch.testing.assert_close(x.grad, p.lift(y.detach(), full))
        (p.lift(y, full) * x.detach()).sum().backward()
        torch.testing.assert_close(y.grad, p(x.detach()))


@every_case
def test_config_round_trip(view, full):
    again = from_config(json.loads(json.dumps(to_config(view))))
    assert again == view
    assert hash(again) == hash(view)
    assert traits(again, full) == traits(view, full)
    assert again.is_fixed == view.is_fixed
    assert copy.deepcopy(view) == view


@every_case
def test_placements_are_single_alike_and_repeatable(view, full):
    placements = view.placements(full)
    assert placements == view.placements(full)
    assert (placements == (view,)) == view.is_fixed
    for p in placements:
        assert p.is_fixed
        assert traits(p, full) == traits(view, full)


@every_case
def test_draw_gives_a_placement_of_the_same_kind(view, full):
    drawn = [view.draw(full, torch.Generator().manual_seed(i)) for i in range(8)]
    assert drawn[0] == view.draw(full, torch.Generator().manual_seed(0))
    assert (len(set(drawn)) > 1) == (not view.is_fixed and len(view.placements(full)) > 1)
    for p in drawn:
        assert p.is_fixed
        assert traits(p, full) == traits(view, full)
        A = matrix(p, full)
        torch.testing.assert_close(A @ A.T, torch.diag(observed(p, full)))


@every_case
def test_a_view_of_many_placements_is_not_applied_itself(view, full):
    if view.is_fixed:
        return
    y = torch.zeros(1, *view.shape(full))
    for wrong in (lambda: view(torch.zeros(1, *full)), lambda: view.lift(y, full)):
        with pytest.raises(ValueError, match="several placements"):
            wrong()
    if view.masked:
        with pytest.raises(ValueError, match="several placements"):
            view.mask(full)


@every_case
def test_masks_are_like_samples_or_alike_for_all_channels(view, full):
    for p in view.placements(full):
        m, shape = p.mask(full), p.shape(full)
        assert (m is None) == (not view.masked)
        if m is not None:
            assert m.dtype == torch.float32
            assert tuple(m.shape) in (shape, (1, *shape[1:]))
            assert ((m == 0) | (m == 1)).all()
            assert torch.equal(p(torch.full((1, *full), 0.5))[0] != 0, (m > 0).expand(shape))


@every_case
def test_places_told_lie_in_the_full_sample_and_tell_placements_apart(view, full):
    places = [p.position_channels(full) for p in view.placements(full)]
    if not view.position_conditioned:
        assert places == [None] * len(places)
        return
    for p, position_channels in zip(view.placements(full), places, strict=True):
        assert (position_channels.dtype, position_channels.shape[1:]) == (torch.float32, p.shape(full)[1:])
        assert position_channels.abs().max() < 1
    assert len({tuple(position_channels.flatten().tolist()) for position_channels in places}) == len(places)
    context = view.placements(full)[0].context(full)
    assert len(context) == len(places[0]) + (1 if view.masked else 0)


@every_case
def test_views_are_exact_under_autocast(view, full):
    x = noise(2, *full, dtype=torch.float32)
    for p in view.placements(full):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = p(x)
        assert torch.equal(y, p(x))


def test_what_is_hidden_cannot_leak():
    for view, full in CASES:
        if view.masked:
            for p in view.placements(full):
                y = p(torch.full((1, *full), torch.nan))
                assert (y[0][p.mask(full).expand(p.shape(full)) == 0] == 0).all()


def test_views_of_views_of_videos():
    view = compose(Downsample(2, axes=(-3,)), Downsample(4), Mask(band=("bottom", 1)))
    video = (3, 4, 8, 8)
    assert view.shape(video) == (3, 2, 2, 2)
    assert view.scale == pytest.approx(4 * 2**0.5)
    assert view.mask(video).shape == (1, 2, 2, 2)
    still = compose(Mask(band=("bottom", 2)), Downsample(2, axes=(-3, -2, -1)))
    assert still.scale == pytest.approx(8**0.5)
    assert still.rank(VIDEO) == 2 * 3 * 1 * 2

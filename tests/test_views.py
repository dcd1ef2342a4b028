"""The laws of views, over a list of all of them; then what each one means for real files."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image

from bootdiff.views import (
    VIEWS,
    ChannelMix,
    Compose,
    Crop,
    Downsample,
    Identity,
    Mask,
    Observed,
    RandomMask,
    compose,
    from_config,
    to_config,
)

FULL = (3, 8, 12)
GRID = [[(i + j) % 3 > 0 for j in range(12)] for i in range(8)]
ALL = [
    Identity(),
    Downsample(1),
    Downsample(4),
    Downsample(2, axes=(-1,)),
    Crop((4, 5), offset=(1, 7)),
    Crop(4),
    Crop((3, 4), stride=(4, 5)),
    Crop((8, 12)),
    Mask(box=(2, 3, 4, 5)),
    Mask(band=("bottom", 3)),
    Mask(band=("top", 1)),
    Mask(image=GRID),
    RandomMask(),
    RandomMask(hide="pixels", fraction=0.6, count=2, seed=3),
    ChannelMix.gray(),
    ChannelMix(weights=(1.5, -1.0, 0.5)),
    ChannelMix(rows=((0, 0, 1), (1, 0, 0))),
    ChannelMix(rows=((0.5**0.5, -(0.5**0.5), 0),)),
    Observed(Downsample(2), std=0.25),
    Observed(RandomMask(count=3), std=0.1),
    compose(Downsample(2), Crop(2, offset=(1, 1))),
    compose(Downsample(2), Crop((2, 4), stride=1)),
    compose(Downsample(2), Mask(band=("bottom", 1))),
    compose(Downsample(2), RandomMask(hide="pixels")),
    compose(Mask(box=(2, 4, 4, 2)), Downsample(2)),
    compose(Mask(image=GRID), Crop((4, 6), offset=(1, 2))),
    compose(Crop(4, stride=4), Downsample(2)),
    compose(ChannelMix.gray(), Mask(box=(0, 0, 2, 2))),
    compose(Mask(box=(0, 0, 2, 2)), ChannelMix.gray()),
    compose(Observed(Downsample(2), std=0.1), Crop(3), ChannelMix.gray()),
    Observed(compose(ChannelMix.gray(), Downsample(4), Crop(1)), std=0.5),
]
PLACED = [(view, p) for view in ALL for p in view.placements(FULL)]
every_view = pytest.mark.parametrize("view", ALL, ids=str)


def matrix(view, full=FULL):
    """A, (rows, coordinates), one column per basis sample."""
    n = int(np.prod(full))
    return view(torch.eye(n, dtype=torch.float64).reshape(n, *full)).flatten(1).T


def observed(view, full=FULL):
    """The mask over all view coordinates, flat."""
    m = view.mask(full)
    return (torch.ones(view.shape(full)) if m is None else m.expand(view.shape(full))).flatten().double()


def noise(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("kind", VIEWS)
def test_every_kind_is_in_the_list(kind):
    assert any(type(view) is VIEWS[kind] for view in ALL)


@every_view
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_lift_is_the_adjoint(view, dtype):
    for p in view.placements(FULL):
        x, y = noise(4, *FULL, dtype=dtype), noise(4, *p.shape(FULL), dtype=dtype, seed=1)
        Ax, ATy = p(x), p.lift(y, FULL)
        assert (Ax.shape, ATy.shape) == (y.shape, x.shape)
        assert Ax.dtype == ATy.dtype == dtype
        left, right = (Ax.double() * y.double()).sum(), (x.double() * ATy.double()).sum()
        assert abs(left - right) < 20 * torch.finfo(dtype).eps * x.double().norm() * y.double().norm()


@every_view
def test_noise_stays_white_where_observed(view):
    """A A^T, the covariance of A n, is the identity where observed and 0 where hidden; so A A^T A = A."""
    for p in view.placements(FULL):
        A = matrix(p)
        torch.testing.assert_close(A @ A.T, torch.diag(observed(p)))
        torch.testing.assert_close(A @ A.T @ A, A)


@every_view
def test_rank_is_the_dimension_of_the_row_space(view):
    A = torch.cat([matrix(p) for p in view.placements(FULL)])
    assert view.rank(FULL) == torch.linalg.matrix_rank(A)


@every_view
def test_coverage_weighted_lifts_are_a_projection(view):
    """C^-1 sum_p A_p^T A_p is the projection onto the row space of all placements together."""
    A = torch.cat([matrix(p) for p in view.placements(FULL)])
    C = view.coverage(FULL).expand(FULL).flatten().double()
    projection = A.T @ A / C[:, None]
    torch.testing.assert_close(projection, torch.linalg.pinv(A) @ A)


def test_coverage_counts_the_placements():
    torch.testing.assert_close(Crop((2, 2), stride=2).coverage((1, 3, 2)), torch.tensor([[[1.0, 1], [2, 2], [1, 1]]]))
    # 1 where nothing is seen, as it divides
    assert Crop((1, 1), stride=2).coverage((1, 4, 4)).eq(1).all()
    x = torch.ones(1, 1, 4, 4)
    lifted = sum(p.lift(p(x), (1, 4, 4)) for p in Crop((1, 1), stride=2).placements((1, 4, 4)))
    assert lifted[0, 0].tolist() == [[1, 0, 1, 1], [0, 0, 0, 0], [1, 0, 1, 1], [1, 0, 1, 1]]


@every_view
def test_gradients_are_the_adjoint(view):
    for p in view.placements(FULL):
        x, y = noise(2, *FULL).requires_grad_(), noise(2, *p.shape(FULL), seed=1).requires_grad_()
        (p(x) * y.detach()).sum().backward()
        torch.testing.assert_close(x.grad, p.lift(y.detach(), FULL))
        (p.lift(y, FULL) * x.detach()).sum().backward()
        torch.testing.assert_close(y.grad, p(x.detach()))


@every_view
def test_config_round_trip(view):
    again = from_config(json.loads(json.dumps(to_config(view))))
    assert again == view
    assert hash(again) == hash(view)
    assert (again.scale, again.tau, again.masked, again.single) == (view.scale, view.tau, view.masked, view.single)
    assert copy.deepcopy(view) == view


@every_view
def test_placements_are_single_alike_and_repeatable(view):
    placements = view.placements(FULL)
    assert placements == view.placements(FULL)
    assert (placements == (view,)) == view.single
    for p in placements:
        assert p.single
        assert (p.shape(FULL), p.scale, p.tau, p.masked) == (view.shape(FULL), view.scale, view.tau, view.masked)


@every_view
def test_draw_gives_a_placement_of_the_same_kind(view):
    drawn = [view.draw(FULL, torch.Generator().manual_seed(i)) for i in range(8)]
    assert drawn[0] == view.draw(FULL, torch.Generator().manual_seed(0))
    assert (len(set(drawn)) > 1) == (not view.single and view != Crop((8, 12)))
    for p in drawn:
        assert p.single
        assert (p.shape(FULL), p.scale, p.tau, p.masked) == (view.shape(FULL), view.scale, view.tau, view.masked)
        A = matrix(p)
        torch.testing.assert_close(A @ A.T, torch.diag(observed(p)))


@every_view
def test_a_view_of_many_placements_is_not_applied_itself(view):
    if view.single:
        return
    y = torch.zeros(1, *view.shape(FULL))
    for wrong in (lambda: view(torch.zeros(1, *FULL)), lambda: view.lift(y, FULL)):
        with pytest.raises(ValueError, match="several placements"):
            wrong()
    if view.masked:
        with pytest.raises(ValueError, match="several placements"):
            view.mask(FULL)


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


# Masks


def test_masks():
    full = (3, 4, 4)
    assert Identity().mask(full) is None
    assert Downsample(2).mask(full) is None
    assert Mask(box=(0, 1, 2, 1)).mask(full).tolist() == [[[1, 0, 1, 1], [1, 0, 1, 1], [1] * 4, [1] * 4]]
    assert Mask(band=("bottom", 1)).mask(full)[0, :, 0].tolist() == [1, 1, 1, 0]
    assert Mask(band=("top", 1)).mask(full)[0, :, 0].tolist() == [0, 1, 1, 1]
    image = torch.eye(4)
    assert torch.equal(Mask(image=image).mask(full)[0], image)
    assert Mask(image=image) == Mask(image=image.bool()) == Mask(image=image.int().tolist())
    # of views of views
    assert compose(Downsample(2), Mask(box=(0, 0, 1, 1))).mask(full).tolist() == [[[0, 1], [1, 1]]]
    assert compose(Mask(box=(0, 0, 2, 2)), Downsample(2)).mask(full).tolist() == [[[0, 1], [1, 1]]]
    assert compose(Mask(image=image), Crop(2, offset=(0, 1))).mask(full).tolist() == [[[0, 0], [1, 0]]]
    assert torch.equal(compose(ChannelMix.gray(), Mask(image=image)).mask(full)[0], image)
    assert torch.equal(compose(Mask(image=image), ChannelMix.gray()).mask(full)[0], image)
    assert torch.equal(Observed(Mask(image=image), std=1.0).mask(full)[0], image)


def test_what_is_hidden_cannot_leak():
    x = torch.full((1, *FULL), torch.nan)
    for view in (Mask(band=("top", 7)), Mask(image=GRID)):
        assert (view(x)[..., observed(view).reshape(FULL)[0] == 0] == 0).all()


@pytest.mark.parametrize("hide", ["box", "pixels"])
@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_random_masks_hide_the_fraction(hide, fraction):
    views = RandomMask(hide=hide, fraction=fraction, count=200).placements((1, 20, 20))
    hidden = 1 - torch.stack([v.mask((1, 20, 20)) for v in views])
    assert hidden.mean().item() == pytest.approx(fraction, rel=0.1)
    assert len(set(views)) > 40
    if hide == "pixels":  # every pixel alike
        assert hidden.mean(0).std() < 2 * (fraction * (1 - fraction) / 200) ** 0.5


def test_a_mask_first_used_in_inference_mode_can_be_trained_through():
    view, x = Mask(image=GRID), noise(1, *FULL)
    with torch.inference_mode():
        view(x)
    x.requires_grad_()
    view(x).sum().backward()
    assert torch.equal(x.grad[0, 0].bool(), torch.tensor(GRID))


def test_views_are_exact_under_autocast():
    x = noise(2, *FULL, dtype=torch.float32)
    for _, p in PLACED:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = p(x)
        assert torch.equal(y, p(x))


def test_videos_and_vectors():
    video = (3, 4, 8, 8)
    view = compose(Downsample(2, axes=(-3,)), Downsample(4), Mask(band=("bottom", 1)))
    assert view.shape(video) == (3, 2, 2, 2)
    assert view.scale == pytest.approx(4 * 2**0.5)
    A = matrix(view, video)
    torch.testing.assert_close(A @ A.T, torch.diag(observed(view, video)))
    assert view.mask(video).shape == (1, 2, 2, 2)
    still = compose(Mask(band=("bottom", 4)), Downsample(2, axes=(-3, -2, -1)))
    assert (still.scale, still.rank(video)) == (pytest.approx(8**0.5), 3 * 2 * 2 * 4)

    vector = Downsample(4, axes=(-1,))
    assert (vector.shape((16,)), vector.scale, vector.rank((16,))) == ((4,), 2, 4)
    assert Crop(4).placements((8, 8))[0].shape((8, 8)) == (4, 4)
    assert ChannelMix(rows=((0.6, 0.8),))(torch.tensor([[3.0, 4.0]])).item() == pytest.approx(5)


# Errors say what, with which sizes, and what to do


@pytest.mark.parametrize(
    ("view", "full", "said"),
    [
        (Downsample(3), (3, 16, 12), ["Downsample(factor=3", "(3, 16, 12)", "axis -2 has length 16", "multiple of 3"]),
        (Downsample(2), (8,), ["axis -2 has length 0"]),
        (Crop((4, 9)), (3, 8, 8), ["Crop", "(3, 8, 8)", "row 4, column 9", "smaller"]),
        (Crop(4, offset=(5, 0)), (3, 8, 8), ["row 9", "move"]),
        (Mask(box=(6, 0, 3, 2)), (3, 8, 8), ["hides 3x2 pixels at row 6", "(3, 8, 8)"]),
        (Mask(band=("bottom", 9)), (3, 8, 8), ["hides 9x8 pixels"]),
        (Mask(band=("top", 8)), (3, 8, 8), ["hide less"]),
        (Mask(image=GRID), (3, 12, 8), ["(8, 12)", "(12, 8)"]),
        (RandomMask(), (8, 8), ["(8, 8)", "(C, H, W)"]),
        (ChannelMix.gray(), (1, 8, 8), ["mixes 3 channels", "(1, 8, 8)"]),
        (compose(Downsample(4), Crop(3)), (3, 8, 8), ["Crop", "(3, 2, 2)"]),
        (compose(Mask(box=(1, 0, 2, 2)), Downsample(2)), (3, 8, 8), ["seen and hidden", "align"]),
        (Observed(compose(Mask(image=GRID), Downsample(2)), std=0.1), FULL, ["seen and hidden"]),
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
    if view.single:
        with pytest.raises(ValueError):
            view(torch.zeros(1, *full))


def test_masks_and_mixes_of_placements_are_checked_too():
    with pytest.raises(ValueError, match="seen and hidden"):
        compose(RandomMask(hide="pixels"), Downsample(2)).placements(FULL)


def test_lift_names_both_shapes():
    with pytest.raises(ValueError, match=r"\(3, 4, 6\).*\(3, 4, 4\)"):
        Downsample(2).lift(torch.zeros(1, 3, 4, 4), FULL)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Downsample(0), "at least 1"),
        (lambda: Downsample(2, axes=(0, 1)), "negative"),
        (lambda: Crop(0), "at least 1"),
        (lambda: Crop(4, offset=(-1, 0)), "at least 0"),
        (lambda: Crop(4, offset=(0, 0), stride=2), "not both"),
        (lambda: Mask(), "give one of"),
        (lambda: Mask(box=(0, 0, 1, 1), band=("top", 1)), "give one of"),
        (lambda: Mask(box=(0, 0, 0, 1)), "height, width"),
        (lambda: Mask(band=("left", 1)), '"bottom" or "top"'),
        (lambda: Mask(image=[[0, 2]]), "0 and 1"),
        (lambda: Mask(image=[[0, 0]]), "not all 0"),
        (lambda: RandomMask(fraction=25), "between 0 and 1"),
        (lambda: RandomMask(hide="circle"), "pixels"),
        (lambda: ChannelMix(), "give one of"),
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

"""Networks of all visible pixels: which views show any, what of their files is set where, the loss, its minimizer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bootdiff.data import Mixture, Simulated, as_dataset
from bootdiff.denoise import IsotropicGaussian
from bootdiff.distributions.exact import Gaussian
from bootdiff.errors import BootdiffError
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.losses import LossModule
from bootdiff.method.plan import plan
from bootdiff.method.problem import Problem, ViewData, in_memory
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.settings import MethodSettings, ResidualSettings, ViewSettings
from bootdiff.method.training_set import TrainingSet, view_training_set
from bootdiff.method.visible import (
    OnFullShape,
    VisibleObjective,
    shows_pixels,
    visible_training_set,
    visible_views,
)
from bootdiff.nets.network import BuiltIn
from bootdiff.noise import LogNormal, precondition
from bootdiff.training.settings import TrainingSettings
from bootdiff.views import (
    ChannelMix,
    Crop,
    Downsample,
    FrameWindow,
    Identity,
    Mask,
    Observed,
    Pick,
    RandomMask,
    compose,
)
from tests.view_cases import PICTURE, PICTURES, SIGNAL, SIGNALS, VIDEO, VIDEOS

CASES = [(v, full) for full, views in ((PICTURE, PICTURES), (VIDEO, VIDEOS), (SIGNAL, SIGNALS)) for v in views]


def samples(full, n=5, seed=0):
    return torch.randn(n, *full, generator=torch.Generator().manual_seed(seed)).clamp(-2, 2) / 2


def mixes(view):
    """Whether a view's numbers are sums of several pixels."""
    parts = [getattr(view, name) for name in ("inner", "outer") if hasattr(view, name)]
    if parts:
        return any(map(mixes, parts))
    if isinstance(view, Downsample):
        return view.factor > 1
    if isinstance(view, ChannelMix):
        rows = view.rows if view.weights is None else (view.weights,)
        return any(sum(w != 0 for w in row) > 1 for row in rows)
    return False


@pytest.mark.parametrize(("view", "full"), CASES, ids=str)
def test_which_views_show_pixels_and_that_their_files_are_set_where_they_belong(view, full):
    x0 = samples(full)
    whole = not view.masked and not view.tau and math.prod(view.shape(full)) == math.prod(full)
    assert shows_pixels(view, full) == (not mixes(view) and not whole)
    if not shows_pixels(view, full):
        return
    clean = view.view if isinstance(view, Observed) else view
    files = Simulated(as_dataset(x0), clean, seed=3)
    lifted = OnFullShape(files, view, full, view.scale, number=2, mask_channels=full[0])
    x, labels, masks = lifted.batch(range(5))
    assert labels.tolist() == [2] * 5
    assert set(masks.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(x * (1 - masks), torch.zeros_like(x))
    again = lifted.batch([3, 1])
    assert torch.equal(again[0], x[[3, 1]])
    assert torch.equal(again[2], masks[[3, 1]])
    m, _, own = files.batch(range(5))
    shown = torch.ones_like(m) if own is None else own.expand_as(m)
    if lifted.view.is_fixed:
        torch.testing.assert_close(x, x0 * masks)
        assert torch.equal(masks.flatten(1).sum(1), shown.flatten(1).sum(1))
    elif "image" in str(view):  # another frame of a mask that differs between frames: what both show
        assert (masks.flatten(1).sum(1) <= shown.flatten(1).sum(1)).all()
    else:
        there = [(m[k] * view.scale)[shown[k] > 0].sort().values for k in range(5)]
        for k in range(5):
            torch.testing.assert_close(x[k][masks[k] > 0].sort().values, there[k])


def test_crops_that_lie_anywhere_are_set_at_several_places_each_always_at_its_own():
    files = as_dataset(torch.ones(40, 1, 2, 2))
    masks = OnFullShape(files, Crop(2), (1, 4, 4)).batch(range(40))[2]
    assert len({tuple(m.flatten().tolist()) for m in masks}) > 4
    assert masks.sum((1, 2, 3)).eq(4).all()


def full_set(x0, **more):
    prior = IsotropicGaussian(tuple(x0.shape[1:]), [0.0] * x0.shape[1], 0.6)
    return TrainingSet(as_dataset(x0), in_memory(as_dataset(x0[:2])), 1.0, prior, **more)


def material(view, files, full):
    v = ViewData(view, view, files, files)
    return v, view_training_set(v, full, "none", torch.device("cpu"))


def test_a_share_of_what_is_drawn_are_full_samples():
    full = (1, 4, 4)
    few, many = samples(full, 7), as_dataset(samples(full, 300))
    view = Mask(band=("bottom", 1))
    found = visible_training_set(full_set(few), {"caption": material(view, many, full)}, 0.25)
    labels = found.train.batch(range(len(found.train)))[1]
    assert 0.25 <= (labels == 0).float().mean() < 0.27
    assert (labels == 1).sum() == 300
    assert found.mask is None
    assert found.scale == 1.0


def test_masks_are_one_channel_unless_views_show_different_channels():
    full = (3, 4, 4)
    few, many = samples(full, 4), as_dataset(samples((1, 4, 4), 9))
    view = Pick((1,))
    found = visible_training_set(full_set(few), {"green": material(view, many, full)}, 0.5)
    assert found.train.mask_channels == 3
    x, _, masks = found.train.batch([len(found.train) - 1])
    assert masks[0].mean((1, 2)).tolist() == [0, 1, 0]
    assert torch.equal(x[0, 1], many[8].x[0])
    caption = material(Mask(band=("bottom", 1)), as_dataset(samples(full, 9)), full)
    assert visible_training_set(full_set(few), {"caption": caption}, 0.5).train.mask_channels == 1


def test_samples_with_one_mask_for_all_channels_refuse_views_of_single_channels():
    full = (3, 4, 4)
    inner = full_set(samples(full, 4))
    inner.samples.mask = torch.ones(2, 1, 4, 4)
    green = material(Pick((1,)), as_dataset(samples((1, 4, 4), 9)), full)
    with pytest.raises(BootdiffError, match="pixels: no"):
        visible_training_set(inner, {"green": green}, 0.5)


# The loss and its minimizer: a law of four pixels, of which a view shows the first two

SHAPE = (1, 4)
COV = 0.36 * torch.tensor(
    [[1, 0.8, 0.5, 0.1], [0.8, 1.5, 0.3, 0.2], [0.5, 0.3, 0.7, 0.4], [0.1, 0.2, 0.4, 1]], dtype=torch.float64
)
LAW = Gaussian(torch.zeros(SHAPE, dtype=torch.float64), COV)
PRIOR = IsotropicGaussian(SHAPE, [0.0], 0.6)


class LinearPerMask(nn.Module):
    """F(c_in x, mask): one matrix where everything is seen, another one where something is hidden."""

    def __init__(self):
        super().__init__()
        self.matrices = nn.Parameter(torch.zeros(2, 4, 4))

    def forward(self, x, c_noise, label=None):
        hidden = (x[:, 1] == 0).any(1).long()
        return torch.einsum("bij,bj->bi", self.matrices[hidden], x[:, 0])[:, None]


@pytest.mark.parametrize("tau", [0.0, 0.4])
def test_the_minimizer_is_the_posterior_mean_of_what_is_seen_given_what_is_seen(tau):
    """Full samples without noise, and the first half of others stored with noise tau, at one noise level."""
    sigma, n = 0.7, 4000
    net, none = LinearPerMask(), CompositeDenoiser({}, PRIOR, [0.5, 1.0])
    expert = ResidualExpert(net, none, mask_channels=1)
    skip, c = 0.36 / (0.36 + sigma**2), precondition(torch.tensor([sigma]), 0.6)
    eye = torch.eye(4, dtype=torch.float64)
    posteriors = []
    for seen in (4, 2):
        part = torch.zeros(4, 4, dtype=torch.float64)
        own = COV[:seen, :seen]
        part[:seen, :seen] = own @ torch.linalg.inv(own + sigma**2 * eye[:seen, :seen])
        posteriors.append(((part - skip * eye) / float(c.c_out * c.c_in)).float())
    # What is hidden does not count, so neither do the rows that answer there.
    counted = torch.ones(2, 4, 4)
    counted[1, 2:] = counted[1, :, 2:] = 0
    with torch.no_grad():
        net.matrices.copy_(torch.stack(posteriors) * counted + (1 - counted) * 7)
    found = []
    for k in range(60):
        g = torch.Generator().manual_seed(1000 + k)
        y = LAW.sample(n, g).float()
        kind = torch.arange(n) % 2
        mask = torch.ones(n, 1, 4)
        mask[kind == 1, :, 2:] = 0
        y = (y + tau * kind[:, None, None] * torch.randn(y.shape, generator=g)) * mask
        total = torch.zeros(2, 4, 4)
        for number, noise in enumerate((0.0, tau)):
            # One level for both kinds: the noise that is added differs.
            objective = VisibleObjective(none, LogNormal(math.log(math.sqrt(sigma**2 - noise**2)), 0.0), taus=(0, tau))
            rows = kind == number
            batch = {"x": y[rows], "mask": mask[rows], "label": kind[rows]}
            loss = objective(LossModule(expert), batch, g)
            total += torch.autograd.grad(loss.mean(), net.matrices)[0]
        found.append(total)
    grads = torch.stack(found)
    mean, error = grads.mean(0), grads.std(0) / math.sqrt(len(grads))
    assert (mean.abs() <= 4.5 * error).all()
    assert error[counted > 0].max() < 0.02
    assert error[1, 2:].max() == 0  # answers for what is hidden
    with torch.no_grad():
        net.matrices += 0.3
    assert torch.autograd.grad(objective(LossModule(expert), batch, g).mean(), net.matrices)[0].abs().max() > 0.02


def test_a_batch_of_two_kinds_has_the_losses_of_each_and_classes_are_told_apart():
    full = (1, 4, 4)
    none = CompositeDenoiser({}, IsotropicGaussian(full, [0.1], 0.6), [0.5, 1.0])
    seen = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor(0.3))

        def forward(self, x, c_noise, label=None):
            seen.append((c_noise, label))
            return self.w * x[:, :1]

    objective = VisibleObjective(none, LogNormal(0.0, 0.0), taus=(0.0, 0.5), classes=3)
    x, mask = samples(full, 6), torch.ones(6, 1, 4, 4)
    mask[3:, :, 2:] = 0
    labels = torch.tensor([1, 3, 0, 4, 5, 7])  # classes 0, 2, none; of the second kind none, 0, 2
    expert = LossModule(ResidualExpert(Net(), none, mask_channels=1))
    batch = {"x": x * mask, "mask": mask, "label": labels}
    losses = objective(expert, batch, torch.Generator().manual_seed(1))
    c_noise, label = seen[-1]
    torch.testing.assert_close((4 * c_noise).exp(), torch.tensor([1.0] * 3 + [1.25**0.5] * 3))
    kept = label >= 0
    assert torch.equal(label[kept], torch.tensor([0, 2, -1, -1, 0, 2])[kept])
    drops = [0] * 6
    for k in range(50):
        objective(expert, batch, torch.Generator().manual_seed(k))
        drops = [d + int(v < 0) for d, v in zip(drops, seen[-1][1].tolist(), strict=True)]
    assert drops[2] == drops[3] == 50
    assert all(0 < drops[k] < 20 for k in (0, 1, 4, 5))
    assert losses.shape == (6,)
    assert losses.isfinite().all()


# In a run


def problem(views, full=(1, 8, 8), n=6):
    data = as_dataset(samples(full, n))
    return Problem(data, as_dataset(samples(full, 3, seed=1)), views)


def settings(names, **residual):
    nets = {"local": BuiltIn("local", {"width": 8, "depth": 3})}
    how = TrainingSettings(steps=2, batch=4, warmup=1)
    parts = dict.fromkeys(("full", "visible", "residual", "distilled", "oracle"), how)
    return MethodSettings(
        nets, {n: ViewSettings(nets, how) for n in names}, parts, residual=ResidualSettings(**residual)
    )


def some(view, full=(1, 8, 8)):
    return ViewData(view, view, *(2 * [Simulated(as_dataset(samples(full, 9)), view)]))


def test_which_views_take_part_and_what_is_planned():
    views = {"boxes": some(RandomMask()), "small": some(Downsample(2)), "blurred": some(Identity())}
    assert visible_views(settings(views), problem(views)) == ["boxes"]
    stages = plan(settings(views), problem(views), ["bootdiff"]).names("bootdiff")
    order = ["full-local", "visible-local", "view-boxes-local", "view-small-local", "view-blurred-local"]
    assert stages == [*order, "residual-local"]
    off = settings(views, visible_experts=False)
    assert visible_views(off, problem(views)) == []
    assert "visible-local" not in plan(off, problem(views), ["bootdiff"]).names("bootdiff")
    only = {"small": some(Downsample(2))}
    assert "visible-local" not in plan(settings(only), problem(only), ["bootdiff"]).names("bootdiff")
    chosen = settings(views)
    chosen.views["boxes"].__dict__["pixels"] = "no"
    assert visible_views(chosen, problem(views)) == []


def test_whole_noisy_files_and_windows_of_videos_take_part():
    noisy = {"noisy": some(Observed(Identity(), std=0.2))}
    assert visible_views(settings(noisy), problem(noisy)) == ["noisy"]
    video = (1, 4, 4, 4)
    clips = {"clips": some(compose(FrameWindow(2), Crop(2)), video)}
    assert visible_views(settings(clips), problem(clips, video)) == ["clips"]


def test_a_mixture_keeps_its_parts_labels_or_gives_its_own():
    one, two = as_dataset(torch.zeros(3, 1, 2, 2)), as_dataset(torch.ones(2, 1, 2, 2))
    mixed = Mixture([one, two], [-1, 4], repeats=[2, 1])
    x, labels, masks = mixed.batch(range(8))
    assert x[:, 0, 0, 0].tolist() == [0] * 6 + [1] * 2
    assert labels.tolist() == [-1] * 6 + [4] * 2
    assert mixed.classes == ["4"]
    assert masks.eq(1).all()
    assert Mixture([one, two]).batch([0, 4])[1].tolist() == [-1, -1]
    assert mixed.fingerprint() != Mixture([one, two], [-1, 4]).fingerprint()

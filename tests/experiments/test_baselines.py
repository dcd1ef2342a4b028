"""Every method of the benchmark: trains, resumes, keeps to the budget; and what it must be in the limits."""

from __future__ import annotations

import json

import pytest
import torch

from bootdiff.cli.console import Console
from bootdiff.cli.session import accelerate, open_session
from bootdiff.denoise import IsotropicGaussian
from bootdiff.errors import BootdiffError
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.stages import Bootstrap
from bootdiff.method.trainer import Task
from bootdiff.noise import LogNormal
from bootdiff.recipe.build import build_problem
from experiments.benchmark.baselines import METHODS, TRIALS
from experiments.benchmark.baselines.ambient_omni import mixture_above, threshold
from experiments.benchmark.baselines.full_only import full_only
from experiments.benchmark.baselines.further_masking import FurtherMasking
from experiments.benchmark.baselines.label_mix import label_mix
from experiments.benchmark.baselines.mixing import MixedObjective, mixture
from experiments.benchmark.baselines.naive_mix import naive_mix
from experiments.benchmark.baselines.patch_diffusion import PatchObjective
from experiments.benchmark.baselines.pretrain_finetune import pretrain_finetune
from experiments.benchmark.budget import parts, steps_within
from experiments.benchmark.command import planned_runs, run_all
from experiments.benchmark.runs import ARMS, OWN, bootdiff_steps
from tiny_benchmark import tiny

VIEWS = {"patch_diffusion": "halves", "further_masking": "boxes", "cascade": "thumbnails2"}
SHAPE, BASE = (1, 8, 8), IsotropicGaussian((1, 8, 8), [-0.4], 0.7)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


OFTEN = ("bootdiff", "label_mix")  # the others, 17 s, in `make test-all`


@pytest.mark.parametrize("arm", [a if a in OFTEN else pytest.param(a, marks=pytest.mark.slow) for a in ARMS])
def test_every_arm_trains_within_the_budget_and_resumes(folder, arm):
    which = tiny(folder)
    (planned,) = planned_runs(which, [arm], [VIEWS.get(arm, "three")], [20], [0])
    screen = Console()
    screen.quiet = True
    assert run_all([planned], folder / "out", folder / "runs", screen) == 1
    path = planned.path(folder / "out")
    first = json.loads(path.read_text())
    losses = first["holdout_loss"]
    assert 0.2 < losses["mean"] < 1.0  # the white base has 1
    assert losses["stderr"] > 0
    assert len(losses["per_image"]) == first["count"] == 40
    assert losses["mean"] == pytest.approx(sum(losses["per_image"]) / 40, abs=1e-5)
    assert set(losses["per_level"]) == {"0.2", "0.8", "3.2"}
    spent = first["ledger"]["flops"]
    assert (0.4 if arm in OWN else 0.75) * which.flops < spent <= which.flops
    assert first["parameters"] <= first["stored_parameters"]
    assert first["evaluations"]["networks"] > 0

    path.unlink()
    assert run_all([planned], folder / "out", folder / "runs", screen) == 1
    again = json.loads(path.read_text())
    assert again["holdout_loss"] == losses
    assert again["ledger"]["seconds"] == first["ledger"]["seconds"]  # nothing was trained again


def test_every_method_says_whose_it_is_and_tries_as_much():
    import sys

    for name, method in METHODS.items():
        assert len(method.trials) == TRIALS
        text = sys.modules[method.train.__module__].__doc__
        assert "ifferent from" in text, name
        assert "arXiv" in text or name == "pretrain_finetune", name


# --- limits


@pytest.fixture
def stages(folder, tmp_path, monkeypatch):
    """Opens the stages of a run; all stages draw the same weights and noise, and stacks have no Gaussian, which after
    so few steps would be all that counts."""
    monkeypatch.setattr(Bootstrap, "seed", lambda self, name: 0)
    monkeypatch.setattr(Bootstrap, "gaussian", lambda self, name, data, views=None: {})
    opened = []

    def open_stages(views):
        screen = Console()
        screen.quiet = True
        which = tiny(folder)
        context = open_session(which.recipe(views, 20, 0), tmp_path / f"run-{len(opened)}", screen)
        opened.append(context)
        return context.__enter__().bootstrap

    yield open_stages
    for context in opened:
        context.__exit__(None, None, None)


def same(one, other):
    x, sigma = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.7, 3.0])
    return torch.equal(one(x, sigma), other(x, sigma))


FLOPS = 2.5e7


def test_pretraining_of_no_steps_is_full_only(stages):
    b = stages("thumbnails2")
    full = full_only(b, FLOPS)
    assert same(pretrain_finetune(b, FLOPS, first=0.0), full)
    b = stages("thumbnails2")
    assert not same(pretrain_finetune(b, FLOPS, first=0.5), full)


def test_ambient_omni_lies_between_full_only_and_the_naive_mix(stages):
    b = stages("thumbnails2")
    assert same(mixture_above(b, FLOPS, {"thumbnails2": float("inf")}), full_only(b, FLOPS))
    b = stages("thumbnails2")
    assert same(mixture_above(b, FLOPS, {"thumbnails2": 0.0}, share=0.5), naive_mix(b, FLOPS, share=0.5))
    b = stages("thumbnails2")
    assert not same(mixture_above(b, FLOPS, {"thumbnails2": 0.8}, share=0.5), naive_mix(b, FLOPS, share=0.5))


def test_threshold_is_the_level_above_which_nothing_can_be_told():
    levels = [0.1, 0.2, 0.4, 0.8]
    assert threshold([0.9, 0.8, 0.7, 0.6], levels, 0.05) == float("inf")
    assert threshold([0.5, 0.5, 0.5, 0.5], levels, 0.05) == 0.1
    assert threshold([0.5, 0.9, 0.54, 0.5], levels, 0.05) == 0.4


class Recorder(torch.nn.Module):
    """What an objective hands to the model."""

    def forward(self, objective, x0, x, sigma, label=None, mask=None, **how):
        self.said = {"x0": x0, "x": x, "sigma": sigma, "label": label, "mask": mask, **how}
        return torch.zeros(len(x0))


def handed(objective, batch):
    recorder = Recorder()
    objective(recorder, batch, torch.Generator().manual_seed(0))
    return recorder.said


def batch_of(n=64, hidden=False):
    x = torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(n, 1, 8, 8)
    if hidden:
        mask[: n // 2, :, :, 4:] = 0
    return {"x": x * mask, "mask": mask, "label": torch.arange(n) % 3 - 1}


def composite():
    return CompositeDenoiser({}, BASE, [0.2, 0.8])


def test_further_masking_of_nothing_is_the_naive_mix():
    noise = LogNormal()
    masked, naive = (handed(o, batch_of()) for o in (
        FurtherMasking(composite(), noise, hide=0.0), MixedObjective(composite(), noise),
    ))  # fmt: skip
    for key in ("x0", "x", "sigma"):
        assert torch.allclose(masked[key], naive[key], atol=1e-5), key
    assert bool((masked["mask"] == 1).all())
    assert bool((masked["counts"] == 1).all())


def test_further_masking_shows_less_than_it_counts():
    said = handed(FurtherMasking(composite(), LogNormal(), hide=0.5), batch_of(hidden=True))
    shown, counts = said["mask"], said["counts"]
    assert bool((shown <= counts).all())
    hidden = counts[:, 0].flatten(1).sum(1) - shown[:, 0].flatten(1).sum(1)
    assert float(hidden[32:].min()) == 16  # 4 x 4 pixels of each whole picture
    assert bool((said["x"][shown.expand_as(said["x"]) == 0] == BASE.mean).all())


def test_label_mix_tells_the_kind_and_full_is_no_label(stages):
    said = handed(MixedObjective(composite(), LogNormal(), told=True), batch := batch_of())
    assert torch.equal(said["label"], batch["label"])
    b = stages("thumbnails2")
    denoiser = label_mix(b, FLOPS)
    x, sigma = torch.randn(3, *SHAPE), torch.tensor([0.2, 0.8, 3.0])
    clean = denoiser(x, sigma)
    assert torch.equal(denoiser(x, sigma, torch.full((3,), -1)), clean)
    assert not torch.equal(denoiser(x, sigma, torch.zeros(3, dtype=torch.long)), clean)


def test_noise_levels_of_a_kind_begin_at_its_threshold_and_are_those_above_it():
    objective = MixedObjective(composite(), LogNormal(-0.6, 1.4), least=(0.0, 0.5, 2.0))
    batch = batch_of(6000)
    sigma, plain = handed(objective, batch)["sigma"], handed(MixedObjective(composite(), LogNormal(-0.6, 1.4)), batch)
    kind = batch["label"] + 1
    assert torch.equal(sigma[kind == 0], plain["sigma"][kind == 0])
    for k, least in ((1, 0.5), (2, 2.0)):
        own = sigma[kind == k]
        assert float(own.min()) >= least
        above = plain["sigma"][plain["sigma"] > least].log()
        assert float(own.log().mean()) == pytest.approx(float(above.mean()), abs=0.06)


def test_a_mixture_has_the_share_asked_for_and_the_files_at_full_shape(folder):
    m = build_problem(tiny(folder).recipe("three", 20, 0))
    mixed = mixture(m, 0.5, [-0.4])
    x, labels, masks = mixed.batch(range(len(mixed)))
    assert 0.5 <= float((labels < 0).float().mean()) < 0.65
    assert set(labels.tolist()) == {-1, 0, 1, 2}
    boxes = list(m.views).index("boxes")
    assert float(masks[labels == boxes].mean()) == pytest.approx(0.75)
    assert bool((masks[labels != boxes] == 1).all())
    assert bool((x[labels == boxes][masks[labels == boxes] == 0] == -0.4).all())
    thumbnails = list(m.views).index("thumbnails2")
    original, _, _ = m.views["thumbnails2"].train.batch(range(5))
    shown = torch.nn.functional.avg_pool2d(x[labels == thumbnails][:5], 2)
    assert float((shown - original).abs().mean()) < 0.1


def test_patches_know_where_they_are():
    objective = PatchObjective(composite(), LogNormal(), size=(8, 4), offsets=((0, 0), (0, 4)))
    column = torch.arange(8.0).expand(1, 8, 8)
    x = column.expand(30, 1, 8, 8)
    patches, where = objective.cut(x, torch.arange(30) % 3 - 1, torch.Generator().manual_seed(0))
    assert patches.shape == (30, 1, 8, 4)
    # the picture shows each pixel's column, which the coordinates must name
    assert torch.allclose((where[:, 1:] + 1) / 2 * 7, patches, atol=1e-5)
    assert bool((patches[1::3, 0, :, 0] == 0).all())
    assert bool((patches[2::3, 0, :, 0] == 4).all())
    assert len(set(patches[::3, 0, 0, 0].tolist())) > 2


# --- the budget


def test_steps_spend_the_budget():
    assert steps_within(100.0, [3, 7]) == [10, 10]
    assert steps_within(100.0, [10, 10], [3, 1]) == [7, 2]
    with pytest.raises(BootdiffError, match="less than one step"):
        steps_within(5.0, [3, 7])


def test_flops_are_counted_as_the_loop_counts_them(stages):
    b = stages("thumbnails2")
    full_only(b, FLOPS)
    data, network = b.full_training_set(), b.settings.networks["local"]
    counted = b.step_flops(Task("count", data, b.no_views(data.prior), network, b.settings.training["full"]))
    entry = b.ledger["full_only-local"]
    assert entry["flops_per_step"] == counted
    assert entry["steps"] == int(FLOPS / counted)


def test_bootdiff_divides_the_budget_among_its_parts(stages):
    b = stages("three")
    found, steps = parts(b), bootdiff_steps(b, 1e10, {"split": [4, 2, 8, 1]})
    assert {part: len(of) for part, of in found.items()} == {"views": 3, "full": 1, "visible": 1, "residual": 1}
    assert steps["visible"] / steps["views"] == pytest.approx(2, rel=0.05)
    assert steps["visible"] / steps["residual"] == pytest.approx(8, rel=0.05)
    assert steps["visible"] / steps["full"] == pytest.approx(4, rel=0.05)
    assert 0.9e10 < sum(steps[part] * sum(of) for part, of in found.items()) <= 1e10
    assert bootdiff_steps(b, 1e10, {"split": [8, 2, 8, 1]})["views"] > 1.2 * steps["views"]
    hidden = stages("thumbnails2")  # no view shows pixels: their share is full-only's
    alone = bootdiff_steps(hidden, 1e10, {"split": [4, 2, 8, 1]})
    assert set(alone) == {"views", "full", "residual"}
    assert alone["full"] / alone["views"] == pytest.approx(2, rel=0.05)


def test_views_may_have_the_first_backbone_alone_and_only_the_others_be_wide(folder):
    unet = {"kind": "unet", "channels": [8, 16], "attention": False}
    narrow = {"unet": unet, "local": {"kind": "local", "width": 8, "depth": 3}}
    wide = {"unet": {**unet, "channels": [16, 32]}, "local": {"kind": "local", "width": 24, "depth": 3}}
    which = tiny(folder, narrow=narrow, wide=wide)
    mixed = which.recipe("three", 20, 0, nets="mixed", view_nets="first")
    assert (mixed.backbones["unet"].channels, mixed.backbones["local"].width) == ([8, 16], 24)
    for view in mixed.views:
        (net,) = mixed.backbones_for(view).values()
        assert (net.kind, net.channels) == ("unet", [8, 16])
    assert list(which.recipe("three", 20, 0).backbones_for("noise")) == ["unet", "local"]


def test_no_accelerator_is_left_behind(folder):
    assert accelerate(tiny(folder).recipe("noise", 20, 0)).device.type == "cpu"

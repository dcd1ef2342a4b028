"""Runs with a view whose denoiser is there already: a diffusers folder, another run, one of its arms."""

from __future__ import annotations

import json

import pytest
import torch

from bootdiff.cli.session import load_arm
from bootdiff.denoise import ScaledDenoiser
from bootdiff.errors import BootdiffError
from bootdiff.evaluation.costs import totals
from bootdiff.pretrained import DiffusersDenoiser
from bootdiff.recipe.build import build_problem
from bootdiff.recipe.open_model import open_pretrained
from bootdiff.recipe.schema import load_recipe_text
from bootdiff.serialization import load
from bootdiff.training.run import Run
from method_calls import bootstrap, save_arm

RECIPE = """\
simulate: {pool: {path: digits, labels: LABELS}, full: 24, test: 10, limit: 40}
views: {small: {view: {kind: downsample, factor: 2}, pretrained: model}}
backbones: {local: {kind: local, width: 8, depth: 3}}
training: {steps: 6, batch: 8, lr: 0.01, evaluate_every: 3}
levels: [0.05, 0.3, 1.5]
gains: {draws: 1, mode: unit}
device: cpu
"""


@pytest.fixture(scope="module")
def accelerator():
    from accelerate import Accelerator

    return Accelerator(cpu=True)


def network(folder, channels=1, size=4, **options):
    """A tiny network in a folder as diffusers writes it, 10 steps, sigma from 0.14 to 8."""
    from diffusers import DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    UNet2DModel(
        sample_size=size, in_channels=channels, out_channels=channels, block_out_channels=(4, 4), norm_num_groups=2,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, layers_per_block=1,
        add_attention=False, **options,
    ).save_pretrained(folder)  # fmt: skip
    DDPMScheduler(num_train_timesteps=10, beta_start=0.02, beta_end=0.8).save_pretrained(folder)


def recipe(folder, labels="false", change=("", "")):
    return load_recipe_text(RECIPE.replace("LABELS", labels).replace(*change), folder)


def opened(folder, recipe, accelerator):
    materials = build_problem(recipe)
    run = Run.open(folder, recipe.dump(place=False), materials.fingerprint())
    return bootstrap(recipe, materials, run, accelerator)


def test_a_run_with_a_pretrained_view(tmp_path, accelerator):
    network(tmp_path / "model")
    boot = opened(tmp_path / "run", recipe(tmp_path), accelerator)
    with boot.run:
        mine = boot.denoiser("bootdiff")
        views_only = boot.denoiser("views_only")
        folder = save_arm(boot, "bootdiff")
    # Its network in the view's scale: twice the stored thumbnail, at twice the noise.
    frozen = DiffusersDenoiser.from_folder(tmp_path / "model")
    x, sigma = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 1.5, 4.0])
    small = views_only.views["small"](x)
    evidence_of = views_only.views["small"].lift(2 * frozen(small / 2, sigma / 2), (1, 8, 8))
    base = views_only.prior(x, sigma)
    seen = views_only.views["small"].lift(views_only.views["small"](base), (1, 8, 8))
    got = views_only(x, sigma)
    torch.testing.assert_close(got[1:], (base + evidence_of - seen)[1:])
    # sigma = 0.3 is half of it in the stored thumbnail, which its first step is above; sigma = 0.05 is not.
    assert views_only.active("small", torch.tensor([0.05, 0.3])).tolist() == [False, True]
    # Saved with its weights: no other folder is needed.
    (tmp_path / "model").rename(tmp_path / "gone")
    assert torch.equal(load(folder)(x, sigma), mine(x, sigma))
    # It costs no training, but is asked in that of the residual.
    names = [stage.name for stage in boot.plan(["bootdiff"]).trainings]
    assert names == ["full-local", "residual-local"]
    assert set(boot.ledger) == {*names, "view-small-pretrained"}
    cost = boot.ledger["view-small-pretrained"]
    assert cost["flops"] == cost["steps"] == 0
    assert cost["forward_flops"] > 0
    beyond = boot.ledger["residual-local"]["flops_per_step"] - boot.ledger["full-local"]["flops_per_step"]
    assert beyond >= 8 * cost["forward_flops"]
    views = totals(boot.ledger, [name for name in boot.plan(["views_only"]).names("views_only") if "view" in name])
    assert views["flops"] == 0
    assert views["parameters"] == sum(p.numel() for p in frozen.parameters())


def test_another_model_is_another_run(tmp_path, accelerator):
    network(tmp_path / "model")
    before = build_problem(recipe(tmp_path)).fingerprint()
    assert build_problem(recipe(tmp_path)).fingerprint() == before
    network(tmp_path / "model", num_class_embeds=None, act_fn="gelu")
    assert build_problem(recipe(tmp_path)).fingerprint() != before


def test_runs_arms_and_pipelines_are_models_too(tmp_path, accelerator):
    """A run on thumbnails, as the view of a run on full samples."""
    from bootdiff.pipeline import BootdiffPipeline

    text = RECIPE.replace("LABELS", "false").replace("pretrained: model", "").replace("factor: 2}, ", "factor: 2}")
    first = opened(tmp_path / "first", load_recipe_text(text), accelerator)
    with first.run:
        for arm in ("full_only", "bootdiff"):
            first.denoiser(arm)
            save_arm(first, arm)
    BootdiffPipeline(first.denoiser("full_only")).save_pretrained(tmp_path / "pipeline")
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.3, 1.5])
    for folder, arm in (("first", "bootdiff"), ("first/full_only", "full_only"), ("pipeline", "full_only")):
        assert torch.equal(open_pretrained(tmp_path / folder)(x, sigma), first.denoiser(arm)(x, sigma))
    (tmp_path / "first" / "bootdiff" / "model.json").rename(tmp_path / "first" / "bootdiff" / "kept")
    assert torch.equal(open_pretrained(tmp_path / "first")(x, sigma), first.denoiser("full_only")(x, sigma))
    # Gray pictures of colour ones: the view's scale is not that of its files.
    gray = load_recipe_text(
        "full: {path: colour.npy}\nviews: {gray: {view: gray, pretrained: first/full_only}}\ngains: {mode: unit}",
        tmp_path,
    )
    import numpy as np

    np.save(tmp_path / "colour.npy", np.random.default_rng(0).uniform(-1, 1, (12, 8, 8, 3)).astype(np.float32))
    material = build_problem(gray).views["gray"]
    scale = material.through.scale
    assert isinstance(material.pretrained, ScaledDenoiser)
    torch.testing.assert_close(
        material.pretrained(scale * x, scale * sigma), scale * first.denoiser("full_only")(x, sigma)
    )


def test_classes_pass_through(tmp_path, accelerator):
    network(tmp_path / "model", num_class_embeds=11)
    boot = opened(tmp_path / "run", recipe(tmp_path, "true"), accelerator)
    with boot.run:
        mine = boot.denoiser("views_only")
        boot.denoiser("bootdiff")  # trains with and without labels
        save_arm(boot, "bootdiff")
    x, sigma = torch.randn(1, 1, 8, 8).expand(2, -1, -1, -1), torch.ones(2)
    assert not torch.allclose(*mine(x, sigma, torch.tensor([1, 2])))
    _, again = load_arm(tmp_path / "run", "bootdiff", "cpu")
    label = torch.tensor([4, -1])
    assert torch.equal(again(x, sigma, label), boot.denoiser("bootdiff")(x, sigma, label))


# --- what is refused


def refused(tmp_path, *match, **options):
    with pytest.raises(BootdiffError) as caught:
        build_problem(recipe(tmp_path, **options))
    for part in ("views.small.pretrained", *match):
        assert part in str(caught.value), caught.value


def test_models_that_do_not_fit(tmp_path):
    refused(tmp_path, "model: no such folder")
    network(tmp_path / "model", channels=3)
    refused(tmp_path, "is of samples of 3 x 4 x 4", "this view's are 1 x 4 x 4")
    network(tmp_path / "model", size=8)
    refused(tmp_path, "is of samples of 1 x 8 x 8", "this view's are 1 x 4 x 4")
    network(tmp_path / "model", num_class_embeds=3)
    refused(tmp_path, "knows 3 class numbers", "have no classes")
    refused(tmp_path, "knows 3 class numbers", "have 10 classes", labels="true")
    network(tmp_path / "model")
    masked = ("{kind: downsample, factor: 2}", "[{kind: downsample, factor: 2}, {kind: mask, box: [0, 0, 1, 1]}]")
    refused(tmp_path, "not told what is hidden", change=masked)
    for path in (tmp_path / "model").iterdir():
        path.unlink()
    refused(tmp_path, "no trained model in it")


def test_a_run_without_an_arm_or_with_several(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "run.json").write_text("{}")
    refused(tmp_path, "this run has no arm yet")
    for arm in ("full_only", "oracle"):
        (tmp_path / "model" / arm).mkdir()
        (tmp_path / "model" / arm / "model.json").write_text(json.dumps({}))
    refused(tmp_path, "this run has the arms full_only, oracle; give one of them")


@pytest.mark.parametrize(
    "more", ["std: 0.1", "training: {steps: 3}", "backbone: local", "corruption: {kind: blur, sigma: 1}"]
)
def test_a_pretrained_view_has_no_training(tmp_path, more):
    with pytest.raises(BootdiffError, match=rf"line 2: views.small.{more.split(':')[0]}: .*not trained"):
        recipe(tmp_path, change=("pretrained: model", f"pretrained: model, {more}"))

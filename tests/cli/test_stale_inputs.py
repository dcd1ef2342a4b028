"""What a run was made with has changed: it is refused, or what depends on it is made again; it is never taken."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import bootdiff as bd
from bootdiff.cli.session import load_arm
from bootdiff.denoise import IsotropicGaussian
from bootdiff.errors import BootdiffError
from bootdiff.method.gaussian import GaussianDenoiser
from bootdiff.method.settings import GainSettings
from bootdiff.nets import LocalNet
from bootdiff.training.settings import TrainingSettings
from bootdiff.training.state import TrainingState
from cli_calls import call, refused

RECIPE = """\
full: {path: full.npy, range: [-1, 1], holdout: 4}
views:
  caption: {view: {kind: mask, image: m.png}, data: {path: hidden.npy, range: [-1, 1]}}
backbones: {local: {kind: local, width: 4, depth: 3}}
training: {steps: 6, batch: 4, warmup: 0, evaluate_every: 3}
levels: [0.2, 1]
gains: {draws: 1, folds: 2, screen: 0, prune: 0}
evaluate: {samples: 0}
device: cpu
threads: 1
"""


def mask(folder, rows):
    cells = np.full((8, 8), 255, np.uint8)
    cells[:rows] = 0
    Image.fromarray(cells).save(folder / "m.png")


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("full", 12), ("hidden", 16)):
        np.save(tmp_path / f"{name}.npy", rng.uniform(-1, 1, (count, 8, 8)).astype(np.float32))
    (tmp_path / "r.yaml").write_text(RECIPE)
    mask(tmp_path, 2)
    return tmp_path


def test_a_corrected_mask_is_not_ignored(folder):
    command = ("fit", folder / "r.yaml", "--out", folder / "run")
    assert call(*command).exit_code == 0
    mask(folder, 5)
    said = refused(*command)
    assert "visible-local was made with something else" in said
    assert "mask" in said
    mask(folder, 2)  # as it was: nothing is trained again
    weights = {path: path.stat().st_mtime_ns for path in (folder / "run/stages").glob("*/*.safetensors")}
    assert call(*command).exit_code == 0
    assert weights == {path: path.stat().st_mtime_ns for path in (folder / "run/stages").glob("*/*.safetensors")}


def test_a_mask_corrected_in_the_middle_of_a_training_is_not_ignored(folder, monkeypatch):
    class Stop(Exception):
        pass

    monkeypatch.setattr(TrainingState, "checkpoint_due", lambda job: True)
    before = TrainingState.validate

    def stop(job, evaluate):
        if job.stage.name == "visible-local" and job.step == 6:
            raise Stop("stopped")
        before(job, evaluate)

    monkeypatch.setattr(TrainingState, "validate", stop)
    command = ("fit", folder / "r.yaml", "--out", folder / "run")
    with pytest.raises(AssertionError, match="stopped"):
        call(*command)
    monkeypatch.undo()
    stage = folder / "run/stages/visible-local"
    assert (stage / "checkpoint.safetensors").is_file()
    key = (stage / "key.json").read_bytes()
    mask(folder, 5)
    assert "visible-local was made with something else" in refused(*command)
    assert (stage / "key.json").read_bytes() == key
    shutil.rmtree(stage)  # as the message says
    assert call(*command).exit_code == 0
    assert call("fit", folder / "r.yaml", "--out", folder / "fresh").exit_code == 0
    for name in ("bootdiff/model.json", "stages/visible-local/final.safetensors"):
        assert (folder / "run" / name).read_bytes() == (folder / "fresh" / name).read_bytes()


def test_other_offsets_are_refused(folder):
    rng = np.random.default_rng(0)
    np.save(folder / "crops.npy", rng.uniform(-1, 1, (16, 4, 4)).astype(np.float32))
    np.save(folder / "offsets.npy", rng.integers(0, 5, (16, 2)))
    crop = "{kind: crop, size: [4, 4], position_conditioned: true}"
    view = f"crops: {{view: {crop}, data: {{path: crops.npy, range: [-1, 1]}}, offsets: offsets.npy}}"
    old = "caption: {view: {kind: mask, image: m.png}, data: {path: hidden.npy, range: [-1, 1]}}"
    (folder / "r.yaml").write_text(RECIPE.replace(old, view))
    command = ("fit", folder / "r.yaml", "--out", folder / "run")
    assert call(*command).exit_code == 0
    np.save(folder / "offsets.npy", rng.integers(0, 5, (16, 2)))
    assert "the data is not what this run was started on" in refused(*command)


def test_another_recipe_does_not_replace_one_that_is_lost(folder):
    command = ("fit", folder / "r.yaml", "--out", folder / "run")
    assert call(*command).exit_code == 0
    (folder / "run/recipe.yaml").unlink()
    (folder / "other.yaml").write_text(RECIPE.replace("batch: 4", "batch: 3"))
    assert "its recipe.yaml is lost" in refused("fit", folder / "other.yaml", "--out", folder / "run")
    assert not (folder / "run/recipe.yaml").exists()
    assert call(*command).exit_code == 0


# --- the weights of views, which depend on more than the views' networks


def fit(folder, full, view, model, said, steps=4, **how):
    training = TrainingSettings(steps=steps, batch=4, lr=1e-2, warmup=0, evaluate_every=max(2, steps // 4))
    net = {"local": lambda c_in, c_out: LocalNet(c_in, c_out, width=4, depth=3)}
    gains = GainSettings(draws=1, folds=2, screen=0.0, prune=0.0)
    return bd.fit(
        full, {"v": (view, model)}, networks=net, training=training, run=folder, arm="views_only", held_out=6,
        levels=(0.3, 1.5), device="cpu", gains=gains, log=said.append, **how,
    )  # fmt: skip


def test_gains_of_other_full_samples_are_not_taken_from_another_run(tmp_path):
    """The keys of a pretrained view say nothing of the samples that it is weighed on."""
    torch.manual_seed(0)
    # Flat pictures, of which thumbnails tell all.
    first, second = (torch.rand(24, 1, 1, 1).expand(24, 1, 8, 8).clone() * 2 - 1 for _ in range(2))
    flat = GaussianDenoiser((1, 4, 4), 1)
    flat.basis.fill_(0.25)
    flat.lam.fill_(16 / 3)
    flat.floor.fill_(1e-4)
    view, said = bd.Downsample(2), []
    fit(tmp_path / "a", first, view, flat, [])
    assert (tmp_path / "a/stages/gains/done.json").is_file()
    made = fit(tmp_path / "b", second, view, flat, said, reuse=[tmp_path / "a"])
    assert not any("taken from" in line for line in said if line.startswith(("gains", "screening")))
    fresh = fit(tmp_path / "c", second, view, flat, [])
    assert torch.equal(made.gains, fresh.gains)


def test_gains_of_a_pretrained_view_follow_the_view(tmp_path):
    torch.manual_seed(0)
    full = torch.rand(24, 1, 8, 8) * 2 - 1
    law = IsotropicGaussian((1, 8, 8), [0.2], 0.4)
    cells = torch.ones(8, 8)
    cells[:2] = 0
    other = torch.ones(8, 8)
    other[:5] = 0
    views = [bd.Mask(image=c.tolist()) for c in (cells, other)]
    said = []
    fit(tmp_path / "a", full, views[0], law, [])
    made = fit(tmp_path / "a", full, views[1], law, said)
    assert any(line.startswith("screening: made again") for line in said)
    fresh = fit(tmp_path / "b", full, views[1], law, [])
    assert torch.equal(made.gains, fresh.gains)


# --- which arm


@pytest.fixture
def several(trained, tmp_path):
    """A run whose arm bootdiff is gone, and others are there."""
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    shutil.rmtree(run / "bootdiff")
    return run


@pytest.mark.parametrize(
    "verb",
    [
        ("sample", "RUN", "-n", 1, "--steps", 2, "--out", "OUT.npy"),
        ("restore", "RUN", "--view", "thumbnails", "--held-out", 1, "--samples", 1, "--steps", 2, "OUT"),
    ],
)
def test_no_other_arm_stands_in_for_bootdiff(several, tmp_path, verb):
    arguments = [str(a).replace("RUN", str(several)).replace("OUT", str(tmp_path / "out")) for a in verb]
    said = refused(*arguments)
    assert "no arm bootdiff, but full_only, oracle" in said
    assert "--arm full_only" in said
    assert not list(tmp_path.glob("out*"))
    assert call(*arguments, "--arm", "oracle").exit_code == 0


def test_an_arm_without_its_model_is_lost_not_absent(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    for arm in ("full_only", "views_only", "unregularized"):
        shutil.rmtree(run / arm)
    (run / "bootdiff" / "model.json").unlink()
    with pytest.raises(BootdiffError, match=r"bootdiff: its model.json is lost, or not written yet; .*there: oracle"):
        load_arm(run, None, "cpu")
    assert load_arm(run, "oracle", "cpu")[0] == "oracle"
    shutil.rmtree(run / "bootdiff")
    assert load_arm(run, None, "cpu")[0] == "oracle"  # the only one

"""Distillation: its loss, the samples it learns on, the arm made of it."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch

from bootdiff.cli.session import arms_of
from bootdiff.data import Arrays, Batches, load_digits
from bootdiff.denoise import IsotropicGaussian
from bootdiff.errors import BootdiffError
from bootdiff.evaluation.costs import totals
from bootdiff.method import distillation
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.distillation import Distillation, Pool, draw_pool
from bootdiff.method.losses import LossModule, ResidualObjective
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.settings import SamplingSettings
from bootdiff.method.stack import StackedDenoiser
from bootdiff.method.stages import Bootstrap
from bootdiff.nets import build_net
from bootdiff.noise import LogNormal
from bootdiff.recipe.build import build_problem
from bootdiff.recipe.schema import load_recipe_text
from bootdiff.serialization import load
from bootdiff.training.files import read_record
from bootdiff.training.loop import fit
from bootdiff.training.run import Run, load_tensors
from bootdiff.training.settings import TrainingSettings
from method_calls import bootstrap, save_arm

SHAPE, LEVELS = (1, 8, 8), [0.1, 0.5, 2.0]
HOW = SamplingSettings(steps=2)


def student(seed, classes=None):
    torch.manual_seed(seed)
    net = build_net("local", 1, SHAPE, classes, width=8, depth=3)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)  # the last layer begins at zero
    base = IsotropicGaussian(SHAPE, [0.1], 0.6)
    none = CompositeDenoiser({}, base, LEVELS)
    return ResidualExpert(net, none, LEVELS, [0.7, 0.8, 0.9]), none


def teacher(seed=1):
    expert, none = student(seed)
    return StackedDenoiser(none, [expert], LEVELS).eval()


class Exact(IsotropicGaussian):
    """A teacher that is known in closed form: the posterior mean of N(0.3, 0.2^2 I)."""

    def __init__(self):
        super().__init__(SHAPE, [0.3], 0.2)


# --- the loss


def test_a_student_that_answers_as_the_teacher_has_no_loss_and_another_has():
    own, none = student(1)
    other, _ = student(2)
    objective = Distillation(none, LogNormal(), teacher=teacher(1))
    batch = {"x": torch.rand(64, *SHAPE) * 2 - 1}
    rng = torch.Generator()
    assert objective(LossModule(own), batch, rng.manual_seed(0)).max() < 1e-10
    loss = objective(LossModule(other), batch, rng.manual_seed(0))
    assert loss.min() > 1e-4
    loss.mean().backward()
    assert all(p.grad is None for p in objective.teacher.parameters())


def test_the_loss_is_that_of_an_expert_whose_samples_are_the_answers():
    expert, none = student(2)
    plain, taught = ResidualObjective(none, LogNormal()), Distillation(none, LogNormal(), teacher=Exact())
    x, sigma = torch.randn(5, *SHAPE), torch.tensor([0.05, 0.2, 0.7, 2.0, 9.0])
    want = plain.loss(expert, Exact()(x, sigma), x, sigma, None, None)
    got = taught.loss(expert, torch.full_like(x, torch.nan), x, sigma, None, None)  # the clean sample is not looked at
    assert torch.equal(got, want)


def test_a_trained_student_answers_as_an_exact_teacher_far_from_the_samples_it_saw(tmp_path):
    """Eight pictures of another law say where, not what: the student learns the teacher's law, not theirs."""
    expert, none = student(3)
    objective = Distillation(none, LogNormal(0.0, 1.0), teacher=Exact())
    source = Arrays(torch.rand(8, 8, 8, 1, generator=torch.Generator().manual_seed(0)).numpy() * 2 - 1, range=[-1, 1])
    x, sigma = 0.3 + 2.0 * torch.randn(200, *SHAPE), torch.full((200,), 2.0)
    before = (StackedDenoiser(none, [expert], LEVELS)(x, sigma) - Exact()(x, sigma)).square().mean()
    with Run.open(tmp_path / "run", "x: 1") as run:
        how = TrainingSettings(steps=150, lr=5e-3, ema=0.9, warmup=0, schedule="constant")
        fit(LossModule(expert), objective, Batches(source, 1.0, 16), run.stage("student"), how)
    after = (StackedDenoiser(none, [expert], LEVELS)(x, sigma) - Exact()(x, sigma)).square().mean()
    assert after < 0.01
    assert after < before / 20


# --- the samples


def pool_of(tmp_path, name, count, key="key", rank=0, world=1, classes=None, meet=lambda: None, main=True, asked=None):
    accelerator = SimpleNamespace(
        is_main_process=main, num_processes=world, process_index=rank, wait_for_everyone=meet, device="cpu"
    )
    with Run.open(tmp_path / name, "x: 1", main=main) as run:
        stage = run.stage("distilled-samples")
        meet()  # as `StageStore.stage` does: the first process sweeps the folder before others write there
        return draw_pool(asked or teacher(), stage, key, count, HOW, 3, classes, accelerator)


def test_samples_are_drawn_once_and_again_only_where_they_are_of_another_teacher(tmp_path, monkeypatch):
    monkeypatch.setattr(distillation, "_CHUNK", 4)
    x, labels, cost = pool_of(tmp_path, "run", 10)
    assert x.shape == (10, *SHAPE)
    assert labels is None
    assert cost["images"] == 10
    assert cost["flops"] > 0
    stage = tmp_path / "run" / "stages" / "distilled-samples"
    (stage / "samples-1.safetensors").unlink()  # a kill
    (stage / "done.json").unlink()
    times = {path.name: path.stat().st_mtime_ns for path in stage.glob("samples-*")}
    again, _, _ = pool_of(tmp_path, "run", 10)
    assert torch.equal(again, x)
    assert {path.name: path.stat().st_mtime_ns for path in stage.glob("samples-*")}.items() >= times.items()
    (stage / "done.json").unlink()
    pool_of(tmp_path, "run", 10, key="another")
    assert all(load_tensors(path)[1]["key"] == "another" for path in stage.glob("samples-*"))


def test_processes_draw_the_samples_that_one_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(distillation, "_CHUNK", 4)
    want, _, _ = pool_of(tmp_path, "one", 18)
    barrier, found, failures = threading.Barrier(2, timeout=120), {}, []
    asked = [teacher(), teacher()]  # here: threads share the generator that networks are made with

    def process(rank):
        how = {"rank": rank, "world": 2, "meet": barrier.wait, "main": rank == 0, "asked": asked[rank]}
        try:
            found[rank] = pool_of(tmp_path, "two", 18, **how)[0]
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert torch.equal(found[0], want)
    assert torch.equal(found[1], want)


@pytest.mark.parametrize("labelled", [True, False])
def test_half_of_the_pool_are_full_samples(labelled):
    full = load_digits(labels=labelled)
    drawn, labels = torch.rand(4000, *SHAPE), torch.arange(4000) % 10
    pool = Pool(full, drawn, labels if labelled else None)
    n = len(full)
    assert (len(pool), pool.repeated) == (4000 + 2 * n, 2 * n)
    x, got, mask = pool.batch([0, n + 1, 2 * n, 2 * n + 7])
    assert torch.equal(x, torch.stack([full[0].x, full[1].x, drawn[0], drawn[7]]))
    assert mask is None
    assert got is None if not labelled else got.tolist() == [full[0].label, full[1].label, 0, 7]
    assert torch.equal(pool[2 * n + 7].x, drawn[7])
    assert pool.name(n + 1) == full.name(1)
    assert pool.fingerprint() != Pool(full, drawn + 1, labels).fingerprint()


# --- the arm

RECIPE = """\
simulate: {pool: {path: digits, labels: true}, full: 20, test: 10, limit: 40}
views: {small: {view: {kind: downsample, factor: 2}}}
backbones: {local: {kind: local, width: 8, depth: 3}}
training: {steps: 6, batch: 8, lr: 0.01, evaluate_every: 3}
levels: [0.3, 1.5]
gains: {draws: 1, mode: unit}
sampling: {steps: 2}
"""


@pytest.fixture(scope="module")
def accelerator():
    from accelerate import Accelerator

    return Accelerator(cpu=True)


def flops(boot, arm):
    return totals(boot.ledger, boot.plan([arm]).names(arm))["flops"]


def run(folder, text, accelerator, **more):
    recipe = load_recipe_text(text)
    materials = build_problem(recipe)
    opened = Run.open(folder, recipe.dump(place=False), materials.fingerprint())
    return bootstrap(recipe, materials, opened, accelerator, **more)


def test_the_arm_asks_no_view_and_is_made_again_of_what_is_there(tmp_path, accelerator):
    text = f"{RECIPE}distill: {{samples: 12, training: {{steps: 9}}}}\n"
    boot = run(tmp_path / "run", text, accelerator)
    with boot.run:
        made = boot.denoiser("distilled")
        save_arm(boot, "distilled")
    assert isinstance(made, StackedDenoiser)
    assert not made.composite.views
    assert [expert.members[0].uses_views for expert in made.experts] == [False]  # classes: there is no Gaussian
    assert set(boot.ledger) == {*[s.name for s in boot.plan(["distilled"]).trainings], "distilled-samples"}
    assert boot.ledger["distilled-local"]["steps"] == 9
    # The teacher is asked in every step.
    assert boot.ledger["distilled-local"]["flops_per_step"] > 1.2 * boot.ledger["full-local"]["flops_per_step"]
    assert flops(boot, "distilled") == sum(entry["flops"] for entry in boot.ledger.values())
    assert flops(boot, "bootdiff") < flops(boot, "distilled")
    x, sigma, label = torch.randn(3, *SHAPE), torch.tensor([0.2, 1.0, 4.0]), torch.tensor([0, 5, -1])
    assert torch.equal(load(tmp_path / "run" / "distilled")(x, sigma, label), made(x, sigma, label))
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("*/*.safetensors")}
    with Run.open(tmp_path / "run", boot.run.recipe_text, boot.problem.fingerprint()) as again:
        boot = Bootstrap(boot.settings, boot.problem, again, accelerator, log=lambda text: None)
        assert torch.equal(boot.denoiser("distilled")(x, sigma, label), made(x, sigma, label))
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.parametrize("shift", [0, 0.03])
def test_samples_drawn_before_models_had_a_noise_shift_are_those_of_a_model_without(tmp_path, accelerator, shift):
    text = f"{RECIPE}distill: {{samples: 4, training: {{steps: 1}}}}\n"
    assert text.count("sampling: {") == 1
    boot = run(tmp_path / "run", text.replace("sampling: {", f"sampling: {{noise_shift: {shift}, "), accelerator)
    with boot.run:
        boot.denoiser("distilled")
    key = read_record(tmp_path / "run" / "stages" / "distilled-samples" / "key.json", stage="distilled-samples")
    assert set(key["depends_on"]["sampling"]) == {"scheduler", "steps", "sigma_min", "sigma_max"}
    assert set(key["parents"]) == ({"bootdiff", "noise_shift"} if shift else {"bootdiff"})


def test_students_start_at_the_full_only_networks_unless_they_are_others(tmp_path, accelerator):
    nets = "{local: {kind: local, width: 8, depth: 3}, wide: {kind: local, width: 12, depth: 3}}"
    still = "{steps: 1, warmup: 1, lr: 1.0e-12, evaluate_every: 1}"
    boot = run(
        tmp_path / "run", f"{RECIPE}distill: {{samples: 4, backbones: {nets}, training: {still}}}\n", accelerator
    )
    with boot.run:
        made = boot.denoiser("distilled")
    assert len(made.experts) == 2
    final = {
        name: load_tensors(tmp_path / "run" / "stages" / name / "final.safetensors")[0]
        for name in ("full-local", "distilled-local", "distilled-wide")
    }
    start = final["full-local"]
    assert all((final["distilled-local"][key] - start[key]).abs().max() < 1e-6 for key in start)
    assert any(final["distilled-wide"][key].shape != start[key].shape for key in start)


@pytest.mark.parametrize("best", ["full-local", "visible-local"])
def test_students_race_from_the_full_samples_networks_and_those_of_all_visible_pixels(tmp_path, accelerator, best):
    """The one that was trained well wins; both take a mask of ones, as networks of visible pixels do."""
    still, well = "{steps: 1, lr: 1.0e-12}", "{steps: 60, warmup: 0, lr: 0.01, evaluate_every: 60}"
    parts = {"full-local": still, "visible-local": still} | {best: well}
    masked = RECIPE.replace("{kind: downsample, factor: 2}", "{kind: crop, size: [8, 6], offset: [0, 0]}")
    masked = masked.replace(
        "training: {", f"training: {{full: {parts['full-local']}, visible: {parts['visible-local']}, ", 1
    )
    assert masked.count("crop") == 1
    boot = run(tmp_path / "run", f"{masked}distill: {{samples: 4, training: {{steps: 16, warmup: 0}}}}\n", accelerator)
    with boot.run:
        made = boot.denoiser("distilled")
    found = read_record(tmp_path / "run" / "stages" / "distilled-local" / "start.json")["result"]
    assert list(found["losses"]) == ["full-local", "visible-local"]
    assert min(found["losses"], key=lambda name: found["losses"][name]) == best
    assert made.experts[0].members[0].mask_channels == 1


def test_without_a_view_that_knows_something_it_is_full_only_training(tmp_path, accelerator, monkeypatch):
    boot = run(tmp_path / "run", RECIPE.replace(", mode: unit", ""), accelerator)
    monkeypatch.setattr(Bootstrap, "_screening", lambda self, composite: SimpleNamespace(record=_nothing))
    with boot.run:
        made, full = boot.denoiser("distilled"), boot.denoiser("full_only")
    x, sigma = torch.randn(3, *SHAPE), torch.tensor([0.2, 1.0, 4.0])
    assert torch.allclose(made(x, sigma), full(x, sigma), atol=1e-6)
    assert not any(name.startswith("distilled") for name in boot.ledger)
    assert flops(boot, "distilled") == flops(boot, "bootdiff")


def _nothing(levels, names):
    none = [[0.0] * len(names) for _ in levels]
    table = {"levels": list(levels), "names": list(names), "values": none, "significance": none}
    return table | {"explained": [0.0] * len(levels), "ridge": 0.0, "smooth": 0.0}


# --- recipe and arms


def test_it_is_trained_only_where_it_is_asked_for():
    materials = SimpleNamespace(oracle=None)
    assert "distilled" not in arms_of(materials)
    assert arms_of(materials, ["distilled", "bootdiff"]) == ["bootdiff", "distilled"]


def test_recipes_that_do_not_speak_of_it_are_written_as_before():
    assert "distill" not in load_recipe_text(RECIPE).dump()
    text = RECIPE + "distill: {samples: 12, training: {steps: 9, workers: 2}}\n"
    recipe = load_recipe_text(text)
    assert load_recipe_text(recipe.dump()).distill == recipe.distill
    assert recipe.fingerprint() == load_recipe_text(text.replace("workers: 2", "workers: 0")).fingerprint()
    assert recipe.fingerprint() != load_recipe_text(text.replace("steps: 9", "steps: 8")).fingerprint()
    assert recipe.training_for("distilled").steps == 9
    assert recipe.training_for("distilled").lr == 0.01
    with pytest.raises(BootdiffError, match=r"line 8.*distill\.samples"):
        load_recipe_text(RECIPE + "distill: {samples: 0}\n")

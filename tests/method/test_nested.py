"""Views of views: the exact case, a run from end to end, shared denoisers, kills, and what cannot be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bootdiff.cli.console import Console
from bootdiff.cli.costs import describe, estimate
from bootdiff.denoise import IsotropicGaussian
from bootdiff.distributions.exact import Gaussian
from bootdiff.errors import BootdiffError
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.stack import StackedDenoiser
from bootdiff.recipe.build import build_problem, owners
from bootdiff.recipe.schema import load_recipe_text
from bootdiff.serialization import load
from bootdiff.training.run import Run
from bootdiff.views import Crop, compose
from experiments.theory.information import gaussian_energy, integrated_energy, total_correlation
from method_calls import bootstrap, save_arm, trainings

SHAPE = (1, 4, 4)
HALVES = {"left": Crop((4, 2), (0, 0)), "right": Crop((4, 2), (0, 2))}
QUARTERS = {"upper": Crop((2, 2), (0, 0)), "lower": Crop((2, 2), (2, 0))}


# --- exact


def law(length=1.5):
    pixels = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).double()
    distance = torch.cdist(pixels, pixels, compute_mode="donot_use_mm_for_euclid_dist")
    return Gaussian(torch.zeros(SHAPE, dtype=torch.float64), torch.exp(-distance / length))


def nested(of):
    """Halves, each of which is the composite of its quarters, which are exact."""
    halves = {}
    for name, half in HALVES.items():
        part = of.marginal(half)
        quarters = {q: (view, part.marginal(view)) for q, view in QUARTERS.items()}
        halves[name] = half, CompositeDenoiser(quarters, IsotropicGaussian(part.shape, [0.0], 1.0), [1.0])
    return CompositeDenoiser(halves, IsotropicGaussian(SHAPE, [0.0], 1.0), [1.0])


def test_quarters_of_halves_leave_over_what_quarters_leave_over():
    """The energy of the residual beyond a nested composite is the total correlation of the innermost views, and the
    chain rule holds: that of the halves, and that of the quarters within each."""
    whole = law()
    quarters = [compose(half, quarter) for half in HALVES.values() for quarter in QUARTERS.values()]
    known = total_correlation(whole, quarters).nats
    both = nested(whole)
    spread = torch.linalg.eigvalsh(whole.cov).sqrt()
    scale = (float(spread[0]), float(spread[-1]))
    measured = integrated_energy(lambda sigma: gaussian_energy(whole, both, sigma), whole.dim, scale).nats
    assert measured == pytest.approx(known, rel=1e-5)
    within = sum(total_correlation(whole.marginal(half), list(QUARTERS.values())).nats for half in HALVES.values())
    assert measured == pytest.approx(total_correlation(whole, list(HALVES.values())).nats + within, rel=1e-5)


def test_independent_quarters_are_exact():
    pixels = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).double()
    quarter = (pixels // 2 @ torch.tensor([2.0, 1.0]).double())[:, None]
    independent = Gaussian(torch.zeros(SHAPE), torch.exp(-torch.cdist(pixels, pixels)) * (quarter == quarter.T))
    x, sigma = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.4, 1, 3, 9])
    torch.testing.assert_close(nested(independent)(x, sigma), independent(x, sigma).float(), atol=1e-5, rtol=1e-4)


# --- a run


RECIPE = """\
simulate: {pool: {path: digits, limit: 260}, full: 24, test: 10}
full: {holdout: 8}
views:
  half:
    view: {kind: downsample, factor: 2}
    views:
      quarter: {view: {kind: downsample, factor: 2}, backbone: {kind: local, width: 4, depth: 3}}
backbones: {local: {kind: local, width: 8, depth: 3}}
training: {steps: 6, batch: 8, lr: 0.01, ema: 0.9, evaluate_every: 3}
levels: [0.3, 1.5]
gains: {draws: 1, mode: unit}
device: cpu
"""


@pytest.fixture(scope="module")
def accelerator():
    from accelerate import Accelerator

    return Accelerator(cpu=True)


def opened(folder, recipe, accelerator, reuse=()):
    materials = build_problem(recipe)
    run = Run.open(folder, recipe.dump(place=False), materials.fingerprint())
    return bootstrap(recipe, materials, run, accelerator, reuse=reuse)


NAMES = [
    "view-half.full-local", "view-half.view-quarter-local", "view-half.residual-local", "full-local", "residual-local",
]  # fmt: skip


def test_two_by_two_to_four_by_four_to_eight_by_eight(tmp_path, accelerator):
    recipe = load_recipe_text(RECIPE)
    boot = opened(tmp_path / "run", recipe, accelerator)
    with boot.run:
        mine = boot.denoiser("bootdiff")
        folder = save_arm(boot, "bootdiff")
    assert trainings(recipe, ["bootdiff"]) == NAMES
    assert set(boot.ledger) == set(NAMES)
    half = mine.composite.denoisers["half"]
    assert isinstance(half, StackedDenoiser)
    assert half.shape == (1, 4, 4)
    assert half.composite.denoisers["quarter"].shape == (1, 2, 2)
    x, sigma = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.2, 1.0, 4.0])
    assert torch.equal(load(folder)(x, sigma), mine(x, sigma))
    # Another run takes over all of it, and trains nothing.
    again = opened(tmp_path / "again", recipe, accelerator, [tmp_path / "run"])
    with again.run:
        assert torch.equal(again.denoiser("bootdiff")(x, sigma), mine(x, sigma))
    assert again.ledger == boot.ledger
    # Its plan knows the same trainings, and counts the same steps.
    planned = estimate(boot.settings, boot.problem, accelerator, ["bootdiff"], Console(quiet=True))
    assert [row.name for row in planned] == NAMES
    for row in planned:
        spent = boot.ledger[row.name]
        assert row.parameters == spent["parameters"]
        # What has weight 0 in a view's stack is not asked.
        assert 0.7 * row.flops < spent["flops"] <= row.flops, row.name
    assert set(describe(boot.problem)) >= {"view half", "view half.quarter", "view half.quarter (held out)"}


def test_gains_and_news_of_inner_views_are_stages_too(tmp_path, accelerator):
    recipe = load_recipe_text(RECIPE.replace("draws: 1, mode: unit", "draws: 1, prune: 0"))
    boot = opened(tmp_path / "run", recipe, accelerator)
    with boot.run:
        boot.denoiser("views_only")
    stages = {path.name for path in (tmp_path / "run" / "stages").iterdir() if path.is_dir()}
    wanted = {"view-half.screening", "view-half.full-stack", "view-half.residual-stack", "screening", "full-stack"}
    assert wanted <= stages
    assert set(boot.ledger) <= set(trainings(recipe, ["views_only"]))


def test_training_of_a_nested_view(tmp_path):
    """Its own overrides count for its full-only experts and its residual, not for the views inside."""
    recipe = load_recipe_text(
        RECIPE.replace("factor: 2}\n    views:", "factor: 2}\n    training: {batch: 4}\n    views:").replace(
            "evaluate_every: 3}", "evaluate_every: 3, views: {lr: 0.02}, residual: {lr: 0.03}}"
        )
    )
    inner = recipe.inner("half")
    assert (inner.training_for("full").lr, inner.training_for("full").batch) == (0.02, 4)
    assert (inner.training_for("residual").lr, inner.training_for("residual").batch) == (0.03, 4)
    assert (inner.training_for("views", "quarter").lr, inner.training_for("views", "quarter").batch) == (0.02, 8)
    again = load_recipe_text(recipe.dump())
    assert again.inner("half").training_for("residual") == inner.training_for("residual")
    assert again.fingerprint() == recipe.fingerprint()


@pytest.mark.parametrize(
    "after",
    ["view-half.view-quarter-local", "view-half.residual-local", "residual-local"],
)
@pytest.mark.slow  # 3 s each; stages that are not nested are killed in tests/cli/test_kill_run.py
def test_killed_in_a_nested_stage_the_same_command_ends_with_the_same_bits(tmp_path, accelerator, monkeypatch, after):
    """Killed between a row of metrics and the next: nothing is tidied up, no checkpoint is written."""

    class Killed(BaseException):
        pass

    append = Run.append

    def killing(run, row):
        append(run, row)
        if row["stage"] == after and row["step"] == 3:
            raise Killed

    recipe = load_recipe_text(RECIPE.replace("evaluate_every: 3", "evaluate_every: 3, checkpoint_seconds: 1.0e-6"))
    straight = opened(tmp_path / "straight", recipe, accelerator)
    with straight.run:
        straight.denoiser("bootdiff")
        save_arm(straight, "bootdiff")
    monkeypatch.setattr(Run, "append", killing)
    killed = opened(tmp_path / "killed", recipe, accelerator)
    with killed.run, pytest.raises(Killed):
        killed.denoiser("bootdiff")
    monkeypatch.setattr(Run, "append", append)
    killed = opened(tmp_path / "killed", recipe, accelerator)
    with killed.run:
        killed.denoiser("bootdiff")
        save_arm(killed, "bootdiff")
    files = [p.relative_to(tmp_path / "straight") for p in (tmp_path / "straight").rglob("*.safetensors")]
    assert len(files) >= len(NAMES) * 2
    for file in files:
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "straight" / file).read_bytes(), file


# --- files of views of views


def arrays(folder):
    """Colour pictures, gray copies of half the size, and half the size of these, with a little noise."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.9, 0.9, (40, 3, 8, 8))

    def means(a, k):
        return a.reshape(
            len(a), -1, 8 // k if a.shape[-1] == 8 else 4 // k, k, 8 // k if a.shape[-1] == 8 else 4 // k, k
        ).mean((3, 5))

    gray = means(np.einsum("c,nchw->nhw", [0.299, 0.587, 0.114], x)[:, None], 2)
    small = means(gray, 2) + 0.05 * rng.normal(size=(40, 1, 2, 2))
    for name, values in (("full", x), ("gray", gray), ("small", small)):
        np.save(folder / f"{name}.npy", np.moveaxis(values, 1, -1).astype(np.float32))
    return torch.from_numpy(x).float()


FILES = """\
full: {path: full.npy, range: [-1, 1], holdout: 10}
views:
  gray:
    view: [gray, {kind: downsample, factor: 2}]
    data: {path: gray.npy, range: [-1, 1]}
    views:
      small:
        view: {kind: downsample, factor: 2}
        std: 0.05
        data: {path: small.npy, range: [-1, 1]}
"""


def test_files_of_an_inner_view_are_scaled_by_both(tmp_path):
    x = arrays(tmp_path)
    materials = build_problem(load_recipe_text(FILES, tmp_path))
    every = materials.every_view()
    assert list(every) == ["gray", "gray.small"]
    gray, small = every.values()
    assert small.through.scale == pytest.approx(gray.through.scale * 2)
    # Of the outer view's samples, in their coordinates, it is a view with the noise that its files have there.
    assert small.view.tau == pytest.approx(0.05 * small.through.scale)
    assert small.through.tau == pytest.approx(small.view.tau)
    seen, _, _ = gray.train.batch(range(len(gray.train)))
    ids = gray.train.indices
    torch.testing.assert_close(gray.through(x[ids]), gray.through.scale * seen, atol=1e-5, rtol=1e-5)
    assert torch.equal(small.view(gray.through(x)), small.through(x))
    own, _, _ = small.train.batch(range(len(small.train)))
    off = small.through.scale * own - small.through(x[small.train.indices])
    assert float(off.std()) == pytest.approx(small.through.tau, rel=0.3)
    assert {"view gray", "view gray.small"} <= set(materials.datasets())


def test_an_inner_view_whose_files_do_not_fit(tmp_path):
    arrays(tmp_path)
    text = FILES.replace("path: small.npy", "path: gray.npy")
    with pytest.raises(
        BootdiffError, match=r"views.gray.views.small: its files are 1 x 4 x 4 .* samples of views.gray, 1 x 4 x 4"
    ):
        build_problem(load_recipe_text(text, tmp_path))
    with pytest.raises(BootdiffError, match=r"views.gray.views.small: .*no multiple of 3"):
        build_problem(load_recipe_text(FILES.replace("factor: 2}\n        std", "factor: 3}\n        std"), tmp_path))


@pytest.mark.parametrize("noisy", ["outer", "inner"])
def test_noise_in_the_files_of_a_nested_view(tmp_path, accelerator, noisy):
    """A view that is stored with noise can have views, too; below its noise nothing is fitted."""
    text = (
        RECIPE.replace("factor: 2}\n    views", "factor: 2}\n    std: 0.2\n    views")
        if noisy == "outer"
        else RECIPE.replace("factor: 2}, backbone", "factor: 2}, std: 0.1, backbone")
    )
    boot = opened(tmp_path / "run", load_recipe_text(text.replace("mode: unit", "prune: 0")), accelerator)
    with boot.run:
        mine = boot.denoiser("bootdiff")
    tau = {path: v.through.tau for path, v in boot.problem.every_view().items()}
    assert tau == pytest.approx(
        {"half": 0.4, "half.quarter": 0.0} if noisy == "outer" else {"half": 0.0, "half.quarter": 0.4}
    )
    x, sigma = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.2, 1.0, 4.0])
    assert bool(mine(x, sigma).isfinite().all())


# --- shared denoisers


SHARED = (
    FILES
    + """\
  small:
    view: [gray, {kind: downsample, factor: 4}]
    std: 0.05
    data: {path: small.npy, range: [-1, 1]}
backbones: {local: {kind: local, width: 8, depth: 3}}
training: {steps: 4, batch: 8, lr: 0.01, evaluate_every: 2}
levels: [0.6, 1.5]
gains: {draws: 1, mode: unit}
device: cpu
"""
)
SAME_AS = SHARED.replace(
    "        std: 0.05\n        data: {path: small.npy, range: [-1, 1]}\n", "        same_as: small\n"
)


@pytest.mark.parametrize("text", [SHARED, SAME_AS], ids=["equal", "same_as"])
def test_a_denoiser_that_serves_twice_is_trained_once(tmp_path, accelerator, text):
    arrays(tmp_path)
    recipe = load_recipe_text(text, tmp_path)
    assert owners(recipe) == {"gray.small": "small"}
    names = trainings(recipe, ["bootdiff"])
    own = ["full-local", "view-small-local", "view-gray.full-local", "view-gray.residual-local", "residual-local"]
    assert sorted(names) == sorted(own)
    boot = opened(tmp_path / "run", recipe, accelerator)
    with boot.run:
        composite = boot.denoiser("views_only")
        save_arm(boot, "views_only")
    assert set(boot.ledger) <= set(names)
    assert not (tmp_path / "run" / "stages" / "view-gray.view-small-local").exists()
    y, sigma = torch.randn(2, 1, 2, 2), torch.tensor([0.7, 2.0])
    inner = composite.denoisers["gray"].composite.denoisers["small"]
    assert torch.equal(inner(y, sigma), composite.denoisers["small"](y, sigma))
    assert composite.denoisers["gray"].composite.views["small"].tau == pytest.approx(composite.views["small"].tau)
    again = load(tmp_path / "run" / "views_only")
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(again(x, sigma), composite(x, sigma))
    planned = estimate(boot.settings, boot.problem, accelerator, ["bootdiff"], Console(quiet=True))
    assert [row.name for row in planned] == names


@pytest.mark.parametrize(
    "change",
    [
        ("std: 0.05\n    data", "std: 0.06\n    data"),
        ("std: 0.05\n    data", "std: 0.05\n    holdout: 5\n    data"),
        ("std: 0.05\n    data", "std: 0.05\n    training: {lr: 0.1}\n    data"),
        ("std: 0.05\n    data", "std: 0.05\n    backbone: {kind: local, width: 10}\n    data"),
    ],
)
def test_other_settings_are_another_denoiser(tmp_path, change):
    arrays(tmp_path)
    assert owners(load_recipe_text(SHARED.replace(*change), tmp_path)) == {}


def test_the_same_as_a_view_of_other_samples(tmp_path):
    arrays(tmp_path)
    other = SAME_AS.replace("same_as: small", "same_as: gray").replace(
        "small:\n        view: {kind: downsample, factor: 2}", "small:\n        view: identity"
    )
    with pytest.raises(BootdiffError, match="refers to itself"):
        load_recipe_text(other, tmp_path)
    scaled = SAME_AS.replace(
        "small:\n        view: {kind: downsample, factor: 2}",
        "small:\n        view: {kind: crop, size: [2, 2], offset: [0, 0]}",
    )
    with pytest.raises(
        BootdiffError, match=r"views.gray.views.small.same_as: of one full sample it shows .* their noise would not be"
    ):
        build_problem(load_recipe_text(scaled, tmp_path))
    shaped = SAME_AS.replace("small:\n        view: {kind: downsample, factor: 2}", "small:\n        view: identity")
    with pytest.raises(BootdiffError, match=r"its samples are 1 x 4 x 4, those of small 1 x 2 x 2"):
        build_problem(load_recipe_text(shaped, tmp_path))


# --- what cannot be


BLOCK = """\
full: {path: full}
views:
  clips:
    view: {kind: downsample, factor: 2}
    data: {path: clips}
    views:
      stills: {view: {kind: downsample, factor: 2}, INNER}
  stills: {view: {kind: downsample, factor: 4}, OUTER}
"""


@pytest.mark.parametrize(
    ("inner", "outer", "message"),
    [
        ("same_as: stills", "same_as: clips.stills", "line 7: views.clips.views.stills.same_as: refers to itself: "
         "clips.stills -> stills -> clips.stills"),
        ("same_as: clips", "data: {path: s}", "line 7: views.clips.views.stills.same_as: refers to itself: "
         "clips.stills -> clips -> clips.stills"),
        ("same_as: stills", "same_as: clips", "line 8: views.stills.same_as: refers to itself: stills -> clips -> "
         "clips.stills -> stills"),
        ("data: {path: t}", "same_as: stills", "line 8: views.stills.same_as: refers to itself: stills -> stills"),
        ("data: {path: t}", "same_as: clip", "line 8: views.stills.same_as: there is no view 'clip'; known: clips, "
         "clips.stills"),
        ("same_as: stills, std: 0.1", "data: {path: s}", "line 7: views.clips.views.stills.std: with same_as, that of "
         "view 'stills' counts"),
        ("holdout: 3", "data: {path: s}", "line 7: views.clips.views.stills.data: missing, but required"),
        ("data: {path: t}, corruption: {kind: blur, sigma: 1}", "data: {path: s}", "line 7: "
         "views.clips.views.stills.corruption: only for"),
        ("data: {path: t}, view: gray", "data: {path: s}", "line 7: the key 'view' is already given"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_line(inner, outer, message):
    with pytest.raises(BootdiffError) as caught:
        load_recipe_text(BLOCK.replace("INNER", inner).replace("OUTER", outer))
    assert message in str(caught.value)


def test_a_view_that_hides_a_part_has_no_views():
    text = BLOCK.replace("INNER", "data: {path: t}").replace("OUTER", "data: {path: s}")
    masked = text.replace("    view: {kind: downsample, factor: 2}\n", "    view: {kind: mask, box: [0, 0, 1, 1]}\n")
    with pytest.raises(BootdiffError, match=r"line 6: views.clips.views: a view that hides a part cannot have views"):
        load_recipe_text(masked)

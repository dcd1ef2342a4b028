"""The expert that needs no training: exact for Gaussian data, whatever its views hide."""

from __future__ import annotations

import pytest
import torch

from bootdiff.data import Dataset, Sample
from bootdiff.denoise import IsotropicGaussian
from bootdiff.distributions.exact import Gaussian
from bootdiff.method.gaussian import GaussianDenoiser, gaussian_of
from bootdiff.method.problem import ViewData, in_memory
from bootdiff.method.training_set import TrainingSet, view_training_set
from bootdiff.recipe.build import build_problem
from bootdiff.recipe.schema import load_recipe_text
from bootdiff.serialization import load, save
from bootdiff.training.run import Run
from bootdiff.views import Downsample, Identity, Mask, Observed, RandomMask
from method_calls import bootstrap

SHAPE = (1, 4, 4)


class Plain(Dataset):
    """Samples as they are, whatever their range, with or without masks."""

    def __init__(self, x, mask=None):
        self.x, self.mask, self.masked = x, mask, mask is not None
        self.shape, self.where, self.problems = tuple(x.shape[1:]), "plain", []

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return Sample(self.x[index], None, None if self.mask is None else self.mask[index])

    def batch(self, indices):
        at = list(indices)
        return self.x[at], None, None if self.mask is None else self.mask[at]

    def name(self, index):
        return str(index)

    def fingerprint(self):
        return f"{float(self.x.sum())}"


def law(seed=0):
    g = torch.Generator().manual_seed(seed)
    factor = torch.randn(16, 16, generator=g, dtype=torch.float64) * torch.linspace(1, 0.05, 16) / 3
    return Gaussian(0.2 * torch.randn(SHAPE, generator=g, dtype=torch.float64), factor @ factor.T)


LAW = law()


def drawn(n, seed):
    return LAW.sample(n, torch.Generator().manual_seed(seed)).float()


def training_set(x, tau=0.0):
    prior = IsotropicGaussian(SHAPE, [float(x.mean())], float(x.std()))
    return TrainingSet(Plain(x), in_memory(Plain(x[:2])), 1.0, prior, tau=tau)


def error(denoiser, sigma, seed=9):
    """Root mean square distance from the exact denoiser, relative to that of the noisy sample from the clean one."""
    x0 = drawn(500, seed)
    x = x0 + sigma * torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed + 1))
    s = torch.full((len(x),), sigma)
    return float((denoiser(x, s) - LAW(x, s)).square().mean().sqrt() / sigma)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("tau", [0.0, 0.3])
def test_with_many_samples_it_is_the_exact_denoiser(sigma, tau):
    n = 20_000
    stored = drawn(n, 1) + tau * torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(2))
    found = gaussian_of(training_set(stored, tau))
    assert error(found, sigma) < (0.03 if not tau else 0.1)
    if tau and sigma < 1:
        assert error(gaussian_of(training_set(stored)), sigma) > 2 * error(found, sigma)  # were the noise not told


VIEWS = {
    "thumbnails": Downsample(2),
    "caption": Mask(band=("bottom", 1)),
    "boxes": RandomMask(hide="pixels", fraction=0.4),
    "noise": Observed(Identity(), std=0.3),
}


def files(view, n, seed=5):
    x, g = drawn(n, seed), torch.Generator().manual_seed(seed)
    if isinstance(view, RandomMask):
        mask = (torch.rand(n, 1, 4, 4, generator=g) > 0.4).float()
        return x * mask, mask
    return view(x) / view.scale + view.tau / view.scale * torch.randn(view(x).shape, generator=g), None


@pytest.mark.parametrize("name", VIEWS)
def test_the_moments_of_a_views_many_files_are_those_of_the_result(name):
    view, few = VIEWS[name], training_set(drawn(24, 3))
    x, mask = files(view, 20_000)
    dataset = Plain(x, mask)
    v = ViewData(view, view, dataset, dataset)
    its = view_training_set(v, SHAPE, "none", torch.device("cpu"))
    alone, both = gaussian_of(few), gaussian_of(few, {name: (v, its)})
    for sigma in (0.5, 2.0):
        assert error(both, sigma) < error(alone, sigma) * {"thumbnails": 0.97, "caption": 0.8}.get(name, 0.35)
    clean = view.view if isinstance(view, Observed) else view
    if clean.is_fixed:
        rows = torch.stack([clean(e[None])[0].flatten() for e in torch.eye(16).reshape(16, *SHAPE)], 1)
        factor = both.basis * both.lam.sqrt()
        cov = factor @ factor.T
        exact = ((LAW.basis * LAW.lam) @ LAW.basis.T).float()
        seen, wanted = rows @ cov @ rows.T, rows @ exact @ rows.T
        assert (seen - wanted).norm() < 0.06 * wanted.norm()


def test_it_has_no_say_where_it_cannot_know():
    constant = training_set(drawn(8, 0))
    constant.train = Plain(torch.full((8, *SHAPE), 0.5))
    assert gaussian_of(constant) is None
    masked = training_set(drawn(8, 0))
    masked.samples.mask = torch.ones(2, 1, 4, 4)
    assert gaussian_of(masked) is None
    classed = training_set(drawn(8, 0))
    classed.classes = 3
    assert gaussian_of(classed) is None
    one = training_set(drawn(8, 0))
    one.train = Plain(drawn(1, 0))
    assert gaussian_of(one) is None


def test_of_large_samples_only_the_leading_directions_are_kept():
    x = torch.randn(40, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    x[:, :, :20] += 3 * torch.randn(40, 1, 1, 1, generator=torch.Generator().manual_seed(1))
    data = TrainingSet(
        Plain(x.clamp(-9, 9)), in_memory(Plain(x[:2])), 1.0, IsotropicGaussian((3, 40, 40), [0.0] * 3, 1.0)
    )
    found = gaussian_of(data)
    assert found.basis.shape == (4800, 256)
    assert float(found.floor) > 0
    assert float(found.lam[0]) > 1000
    y = found(x[:4], torch.full((4,), 1e-3))
    torch.testing.assert_close(y, x[:4], atol=1e-2, rtol=0)  # at no noise, nothing is lost


def test_it_is_saved_and_loaded(tmp_path):
    found = gaussian_of(training_set(drawn(50, 0)))
    save(found, tmp_path / "model")
    again = load(tmp_path / "model")
    assert isinstance(again, GaussianDenoiser)
    x, s = drawn(3, 1), torch.tensor([0.1, 1.0, 5.0])
    assert torch.equal(again(x, s), found(x, s))


RECIPE = """\
simulate: {pool: {path: digits, limit: 120}, full: 30}
views: {small: {view: {kind: downsample, factor: 2}}, boxes: {view: {kind: random_mask}}}
backbones: {local: {kind: local, width: 8, depth: 3}}
training: {steps: 2, batch: 4, warmup: 1}
levels: [0.3, 1.5, 6.0]
gains: {screen: 0}
"""


@pytest.fixture
def accelerator():
    from accelerate import Accelerator

    return Accelerator(cpu=True)


def test_in_a_run_every_stack_has_one_made_once(tmp_path, accelerator):
    recipe = load_recipe_text(RECIPE)
    problem = build_problem(recipe)

    def stacks():
        with Run.open(tmp_path / "run", recipe.dump(place=False), problem.fingerprint()) as run:
            boot = bootstrap(recipe, problem, run, accelerator)
            return [boot.denoiser(arm) for arm in ("full_only", "bootdiff", "oracle")], boot.view("small")

    (full_only, bootdiff, oracle), small = stacks()
    count = {
        id(s): sum(isinstance(e, GaussianDenoiser) for e in s.experts) for s in (full_only, bootdiff, oracle, small)
    }
    assert list(count.values()) == [1, 2, 1, 1]  # bootdiff's: of the full samples, and with the views' moments
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*-gaussian/*")}
    assert {path.parent.name for path in made} == {
        "full-gaussian", "residual-gaussian", "oracle-gaussian", "view-small-gaussian", "view-boxes-gaussian",
    }  # fmt: skip
    again, _ = stacks()
    assert {path: path.stat().st_mtime_ns for path in made} == made
    x, s = torch.zeros(2, 1, 8, 8), torch.tensor([1.0, 6.0])
    for one, other in zip((full_only, bootdiff, oracle), again, strict=True):
        assert torch.equal(one(x, s), other(x, s))
    assert full_only.weights[-1, -1] > 0.3  # networks that know nothing: at high noise it is the one that is asked


def test_moments_that_are_no_gaussians_leave_it_out_and_say_so(tmp_path, accelerator, monkeypatch):
    def fails(*args):
        raise torch.linalg.LinAlgError("linalg.cholesky: the input is not positive-definite\nmore")

    monkeypatch.setattr("bootdiff.method.trainer.gaussian_of", fails)
    recipe, said = load_recipe_text(RECIPE), []
    problem = build_problem(recipe)
    with Run.open(tmp_path / "run", recipe.dump(place=False), problem.fingerprint()) as run:
        boot = bootstrap(recipe, problem, run, accelerator, log=said.append)
        assert len(boot.denoiser("full_only").experts) == 1
    assert any(line.startswith("full-gaussian: left out") and "positive-definite)" in line for line in said)

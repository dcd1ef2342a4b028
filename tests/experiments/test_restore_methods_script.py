"""experiments.scripts.restore_methods: the exact posterior that methods are judged by, and both kinds of tables."""

from __future__ import annotations

import re

import pytest
import torch

from bootdiff.views import Mask
from experiments.scripts import restore_methods as script
from experiments.scripts.results import ROOT


def matrix(view):
    return view(torch.eye(48, dtype=torch.float64).reshape(48, *script.FULL)).flatten(1).T


def test_posterior_of_coordinates_is_the_textbook_one():
    p = script.law()
    hidden = ~(matrix(Mask(box=(1, 2, 2, 3))).abs().sum(1) > 0)
    A = torch.diag((~hidden).double())
    gain, deviation = script.posterior(p, A, 0.0)
    S = p.cov.double()
    inverse = torch.linalg.inv(S[~hidden][:, ~hidden])
    torch.testing.assert_close(gain[hidden][:, ~hidden], S[hidden][:, ~hidden] @ inverse, atol=1e-6, rtol=1e-6)
    exact = S[hidden][:, hidden] - S[hidden][:, ~hidden] @ inverse @ S[~hidden][:, hidden]
    torch.testing.assert_close(deviation[hidden], exact.diagonal().sqrt(), atol=1e-6, rtol=1e-6)
    assert float(deviation[~hidden].max()) < 1e-4


@pytest.mark.parametrize("name", script.VIEWS)
def test_posterior_is_the_regression_of_many_samples(name):
    p, view = script.law(), script.VIEWS[name]
    A, g = matrix(view), torch.Generator().manual_seed(0)
    x = p.sample(40_000, g).flatten(1)
    seen = (A.abs().sum(1) > 0).double()
    y = x @ A.T + view.tau * seen * torch.randn(len(x), len(A), generator=g, dtype=torch.float64)
    gain, deviation = script.posterior(p, A, view.tau)
    m = p.mean.flatten()
    rest = x - m - (y - A @ m) @ gain.T
    torch.testing.assert_close(rest.square().mean(0).sqrt(), deviation, atol=2e-3, rtol=0.02)
    assert float(rest.mean(0).abs().max()) < 0.02


def test_the_default_method_is_near_the_exact_posterior():
    off, width, covers = script.against_gaussian(script.VIEWS["2x thumbnails"], {"iterations": 3}, 2, 60).tolist()
    assert off < 0.25  # 1 / sqrt(60) is chance
    assert width == pytest.approx(1, abs=0.1)
    assert covers == pytest.approx(0.88, abs=0.04)


def test_the_gaussian_table_has_all_methods_and_views(capsys, monkeypatch):
    monkeypatch.setattr(script, "STEPS", 4)
    monkeypatch.setattr(script, "gaussian_table", lambda make=script.gaussian_table: make(files=1, answers=8))
    script.main([])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| method | calls | " + " | ".join(script.VIEWS) + " |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {name}" for name in script.METHODS]
    assert all(line.count("/") == 2 * len(script.VIEWS) for line in lines[2:])


def test_the_tables_of_a_run_have_methods_and_baselines(tiny_run, capsys, monkeypatch):
    monkeypatch.setattr(script, "STEPS", 4)
    script.main([str(tiny_run.run), "-n", "2"])
    first, second = capsys.readouterr().out.strip().split("\n\nhalves: 2 samples\n\n")
    assert first.startswith("thumbnails: 2 samples\n\n")
    for text, bases in ((first.split("\n\n")[1], ["bicubic", "lanczos"]), (second, ["harmonic", "biharmonic"])):
        names = [line.split(" | ")[0][2:] for line in text.splitlines()[2:]]
        methods = [name for name in script.METHODS if "10" not in name]
        assert names == [*methods, "mean_fill", "copy_paste", *bases]
        assert all(line.count("|") == 6 for line in text.splitlines())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_gaussian_table_of_the_documents_is_as_it_says(capsys):
    """To one unit of the last digit: sampling may round otherwise on a different processor."""
    script.main([])
    printed = capsys.readouterr().out.strip()
    page = (ROOT / "docs" / "restore.md").read_text().replace("**", "")
    start = page.index("| method | calls |")
    there = page[start : page.index("\n\n", start)]
    numbers = re.compile(r"\d+(?:\.\d+)?")
    assert numbers.sub("#", printed) == numbers.sub("#", there)
    for ours, theirs in zip(numbers.findall(printed), numbers.findall(there), strict=True):
        assert float(ours) == pytest.approx(float(theirs), abs=1.01 if "." not in ours else 0.0101)

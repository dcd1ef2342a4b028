"""The restoration methods beside each other: against a Gaussian's exact posterior, and on a run's samples.

    python -m experiments.scripts.restore_methods                     # Gaussian, about a minute
    python -m experiments.scripts.restore_methods runs/digits -n 24     # test samples of a run, each view of its recipe

Columns for the Gaussian, means over files and open coordinates: `off` is the distance of the answers' mean from the
exact one in units of the exact deviation (0.07 is chance for 200 answers); `width` their deviation over the exact
one; `covers` how much of the exact posterior the answers' 90 % interval holds; `calls` evaluations of D and
vector-Jacobian products per answer.  For a run: PSNR where nothing is given, of the mean of 19 answers and of one; the
share of true values between the lowest and the highest answer, which would be 90 %.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bootdiff.cli.report.restorations import cut_out
from bootdiff.cli.session import load_arm, read_run
from bootdiff.denoise import Denoiser
from bootdiff.distributions.exact import Gaussian
from bootdiff.evaluation.restoration import baselines, score
from bootdiff.recipe.build import build_problem
from bootdiff.restoration import observe, restore, unmasked
from bootdiff.views import ChannelMix, Crop, Downsample, Mask, Observed, View

__all__ = ["METHODS", "VIEWS", "against_gaussian", "law", "main", "posterior"]

FULL, STEPS = (2, 4, 6), 40
METHODS: dict[str, tuple[dict[str, Any], int]] = {
    "mmps, 1 iteration": ({"iterations": 1}, 3 * STEPS),
    "mmps, 3 iterations": ({"iterations": 3}, 5 * STEPS),
    "mmps, 10 iterations": ({"iterations": 10}, 12 * STEPS),
    "pigdm": ({"method": "pigdm"}, 2 * STEPS),
    "ddnm": ({"method": "ddnm"}, STEPS),
    "ddnm, travel 1 4": ({"method": "ddnm", "travel": (1, 4)}, 4 * STEPS),
}
"""Options of `restore`, and evaluations per answer, by the name in the table."""

VIEWS: dict[str, View] = {
    "2x thumbnails": Downsample(2),
    "a hidden box": Mask(box=(1, 2, 2, 3)),
    "the left half": Crop((4, 3), offset=(0, 0)),
    "one of two channels": ChannelMix(rows=((1, 0),)),
    "noisy 2x thumbnails": Observed(Downsample(2), 0.15),
    "noisy, a hidden box": Observed(Mask(box=(1, 2, 2, 3)), 0.3),
}


def law() -> Gaussian:
    """A smooth field of 48 numbers, of deviation 0.6 about 0.1."""
    axes = (torch.arange(2.0) * 1.5, torch.arange(4.0), torch.arange(6.0))
    at = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).double()
    cov = 0.35 * torch.exp(-(torch.cdist(at, at) ** 2) / 4.5) + 0.01 * torch.eye(48)
    return Gaussian(torch.full(FULL, 0.1, dtype=torch.float64), cov)


def posterior(p: Gaussian, A: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """The exact answer: given y = A x + tau n, x is Gaussian of mean m + K (y - A m) and covariance S - K A S.

    Args:
        p: the law of x, of mean m and covariance S.
        A: (d, D), the view as a matrix.
        tau: deviation of the noise in y.

    Returns:
        K, (D, d), and the deviation of each coordinate of x, (D,).
    """
    S = p.cov
    gain = S @ A.T @ torch.linalg.pinv(A @ S @ A.T + tau**2 * torch.eye(len(A)), rtol=1e-9, hermitian=True)
    return gain, (S - gain @ A @ S).diagonal().clamp_min(0).sqrt()


def against_gaussian(view: View, options: dict[str, Any], files: int = 6, answers: int = 200) -> Tensor:
    """(off, width, covers) of one method, (3,) float64: see the head of this file."""
    p, g = law(), torch.Generator().manual_seed(1)
    m = p.mean.flatten()
    A = view(torch.eye(48, dtype=torch.float64).reshape(48, *FULL)).flatten(1).T
    noise = view.tau * torch.randn(files, len(A), generator=g, dtype=torch.float64) * (A.abs().sum(1) > 0)
    y = p.sample(files, g).flatten(1) @ A.T + noise
    gain, deviation = posterior(p, A, view.tau)
    open_ = deviation > 1e-3
    stored = (y / view.scale).float().reshape(files, *view.shape(FULL))
    x = restore(p, stored, view, samples=answers, steps=STEPS, batch_size=600, **options)
    rows = []
    for i in range(files):
        mean, a = (m + gain @ (y[i] - A @ m))[open_], x[i].flatten(1)[:, open_].double()
        exact = torch.distributions.Normal(mean, deviation[open_])
        off = ((a.mean(0) - mean) / deviation[open_]).square().mean()
        width = (a.std(0) / deviation[open_]).log().mean()
        rows.append(torch.stack([off, width, (exact.cdf(a.quantile(0.95, 0)) - exact.cdf(a.quantile(0.05, 0))).mean()]))
    off, width, covers = torch.stack(rows).mean(0)
    return torch.stack([off.sqrt(), width.exp(), covers])


def gaussian_table(files: int = 6, answers: int = 200) -> None:
    """Print one row a method, three figures a view."""
    print("| method | calls | " + " | ".join(VIEWS) + " |\n|---|---|" + "---|" * len(VIEWS))
    for name, (options, calls) in METHODS.items():
        cells = []
        for view in VIEWS.values():
            off, width, covers = against_gaussian(view, options, files, answers).tolist()
            cells.append(f"{off:.2f} / {width:.2f} / {100 * covers:.0f} %")
        print(f"| {name} | {calls} | " + " | ".join(cells) + " |", flush=True)


def run_table(path: Path, count: int, denoiser: Denoiser) -> None:
    """Print one table a view of the run's recipe, from `count` of its test samples."""
    problem = build_problem(read_run(path)[1])
    training = problem.full.batch(range(len(problem.full)))[0]
    for name, material in problem.views.items():
        view = material.through
        if not unmasked(view).is_fixed:
            continue
        files, _ = cut_out(problem, view, count, seed=0)
        assert files.truth is not None
        given = observe(files.stored, view, denoiser.shape, files.mask)
        others = baselines(given, view, training)
        print(f"\n{name}: {count} samples\n\n| method | mean, dB | one, dB | covers | seconds |\n|---|---|---|---|---|")
        for method, (options, _) in METHODS.items():
            if "10" in method:
                continue
            begin = time.monotonic()
            x = restore(
                denoiser, files.stored, view, mask=files.mask, samples=19, steps=STEPS, bounds=(-1, 1), **options
            )
            seconds = (time.monotonic() - begin) / (19 * count)
            s = score(x, files.truth, given, others)
            covers = f"{100 * s['coverage']['share']:.0f} %"
            print(
                f"| {method} | {s['psnr']['mean']:.2f} | {s['psnr']['one']:.2f} | {covers} | {seconds:.2f} |",
                flush=True,
            )
        for other in others:
            print(f"| {other} | {s['psnr'][other]:.2f} | | | |")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the Gaussian's table, or the tables of a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="the directory of a run")
    parser.add_argument("-n", type=int, default=24, help="samples of it")
    given = parser.parse_args(arguments)
    if given.run is None:
        gaussian_table()
    else:
        run_table(given.run, given.n, load_arm(given.run, None, "cpu")[1])


if __name__ == "__main__":
    main()

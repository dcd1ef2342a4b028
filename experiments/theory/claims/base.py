"""What an experiment gives back, and the problems that several of them share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from bootdiff.views import View
from experiments.theory.linear import composite, evidence, optimal_gains, view_moment

__all__ = [
    "Curve",
    "Done",
    "Panel",
    "Result",
    "line_fit",
    "picture_cov",
    "seeded",
    "silent",
    "slope",
    "uniform",
    "views_matrix",
]

Done = Callable[[int, int], None]


def silent(n: int, of: int) -> None:
    """No progress."""


@dataclass(frozen=True)
class Curve:
    """Points to draw: "line", "dots" or "dashes" (a prediction or a bound)."""

    label: str
    x: list[float]
    y: list[float]
    style: str = "line"


@dataclass(frozen=True)
class Panel:
    """One set of axes. `log`: "", "x", "y" or "xy"."""

    x: str
    y: str
    curves: list[Curve]
    log: str = ""
    title: str = ""


@dataclass(frozen=True)
class Result:
    """An experiment's outcome.

    claim: what was tested, in words. passed: whether it held. figures: the numbers that decided, by name. columns and
    rows: the table. panels: the figure. notes: what to know when reading it, results against the paper's claims too.
    """

    name: str
    claim: str
    passed: bool
    figures: dict[str, float]
    columns: list[str]
    rows: list[list[str | float]]
    panels: list[Panel]
    notes: list[str] = field(default_factory=list)


def picture_cov(shape: Sequence[int], length: float = 2.0, channels: float = 0.8, floor: float = 1e-3) -> Tensor:
    """Second moment of stationary "pictures" (C, H, W), unit variance: correlation exp(-distance / length) in space,
    `channels` between channels; `floor` of it is white."""
    C, H, W = shape
    y, x = torch.meshgrid(torch.arange(H).double(), torch.arange(W).double(), indexing="ij")
    y, x = y.flatten(), x.flatten()
    space = torch.exp(-torch.hypot(y[:, None] - y, x[:, None] - x) / length)
    mix = (1 - channels) * torch.eye(C, dtype=torch.float64) + channels
    cov = torch.kron(mix, space)
    return (1 - floor) * cov + floor * torch.eye(len(cov), dtype=torch.float64)


def views_matrix(
    S: Tensor, views: Sequence[View], shape: Sequence[int], sigma: float, sigma_data: float = 1.0
) -> tuple[Tensor, Tensor]:
    """V (d, d) of exact views with the population's best gains over the white base, and the gains (K,)."""
    b = sigma_data**2 / (sigma_data**2 + sigma**2)
    J = evidence([view_moment(S, v, shape) for v in views], views, shape, sigma, b)
    gains = optimal_gains(J, S, sigma, b)
    return composite(J, gains, b), gains


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the least-squares line through (ln x, ln y)."""
    lx, ly = ([math.log(v) for v in values] for values in (x, y))
    mx, my = sum(lx) / len(lx), sum(ly) / len(ly)
    return sum((a - mx) * (b - my) for a, b in zip(lx, ly)) / sum((a - mx) ** 2 for a in lx)


def line_fit(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Slope of the best line through the origin and its R^2 = 1 - residual / variance about the mean."""
    k = sum(a * b for a, b in zip(x, y)) / sum(a * a for a in x)
    mean = sum(y) / len(y)
    return k, 1 - sum((b - k * a) ** 2 for a, b in zip(x, y)) / sum((b - mean) ** 2 for b in y)


def seeded(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


def uniform(low: float, high: float, g: Generator, log: bool = False) -> float:
    """One number between low and high, or uniform in its logarithm."""
    t = float(torch.rand((), generator=g, dtype=torch.float64))
    return math.exp(math.log(low) + t * math.log(high / low)) if log else low + t * (high - low)

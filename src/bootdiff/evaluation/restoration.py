"""The quality of restorations: their error, the calibration of their spread, and simple baselines.

(How restorations are drawn: `bootdiff.restoration`.)

With K answers x_1 .. x_K per partial sample, draws from one posterior, and the truth x0:

    psnr        10 log10(peak^2 / mean (x - x0)^2), in dB, over the coordinates that y leaves open, of the mean of the
                answers (the best there is, in mean square) and of one answer (3 dB below where the posterior is right);
    coverage    share of open coordinates whose truth lies between the a-th smallest and the a-th largest answer.  Where
                the posterior is right, the truth is one more draw of the same distribution, so this has probability

                    (K + 1 - 2 a) / (K + 1),

                whatever the distribution; a is chosen nearest to the requested level, and 0.9 is exact for K = 19,
                a = 1.

Baselines agree with y exactly where it has no noise, by x + A^T (y - A x), but for interpolated thumbnails:

    mean        the mean of the full training samples, at each coordinate
    copy_paste  the training sample whose view is nearest to y
    harmonic    hidden coordinates solve Laplace's equation over the axes of space, the given ones fixed: in one
                dimension this is linear interpolation (and constant beyond the ends)
    biharmonic  of pictures and videos, the squared Laplacian is least: inpainting that goes on with slopes, too
    hold        of videos, each hidden pixel is as in the nearest frame that shows it, of two the earlier one
    bicubic     block averages of height and width, enlarged; lanczos: by Pillow's filter; linear: of one axis
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from bootdiff.restoration import Observation
from bootdiff.views import Downsample, Observed, View

__all__ = ["NAMES", "baselines", "coverage", "open_coordinates", "psnr", "score", "table"]


NAMES = {
    "mean": "mean of the answers", "one": "one answer", "mean_fill": "mean of the training samples",
    "copy_paste": "copy-paste of the nearest", "harmonic": "interpolation", "biharmonic": "biharmonic inpainting",
    "hold": "nearest frame held",
}  # fmt: skip
"""What tables call estimates, where it is not their name."""


def open_coordinates(given: Observation) -> Tensor:
    """(n, *full) bool: which coordinates of x0 a partial sample does not determine.

    Coordinate j is determined where A^T A e_j = e_j, that is, where (1 - A^T A) z has a zero there for random z.
    """
    if given.tau > 0:
        return torch.ones(len(given), *given.full, dtype=torch.bool)
    z = torch.randn(1, *given.full, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = z.expand(len(given), *given.full)
    return (z - given.lift(given.apply(z))).abs() > 1e-6


def psnr(estimate: Tensor, truth: Tensor, where: Tensor, peak: float = 2.0) -> Tensor:
    """Peak signal-to-noise ratio of each sample, (n,), in dB; inf for no error, NaN where nothing is open.

    Args:
        estimate, truth: (n, *full).
        where: (n, *full) bool, the coordinates that count.
        peak: the range of the values, 2 for images in [-1, 1].
    """
    square = ((estimate.double() - truth.double()) ** 2 * where).flatten(1).sum(1) / where.flatten(1).sum(1)
    return 10 * torch.log10(peak**2 / square)


def coverage(answers: Tensor, truth: Tensor, where: Tensor, level: float = 0.9) -> dict[str, float]:
    """How often the interval of the answers holds the truth.

    Args:
        answers: (n, K, *full), K >= 2.
        truth: (n, *full).
        where: (n, *full) bool, the coordinates that count.
        level: what the interval should hold.

    Returns:
        {"share", "nominal"}: measured, and what it would be for the true posterior: the nearest to `level` that K
        answers allow. Among answers equal to it (common at black and white) the truth has each rank equally often.

    Raises:
        ValueError: fewer than 2 answers, a level outside (0, 1).
    """
    count = answers.shape[1]
    if count < 2 or not 0 < level < 1:
        raise ValueError(f"coverage needs 2 answers at least and a level in (0, 1), got {count} and {level}")
    a = min(max(1, round((1 - level) / 2 * (count + 1))), count // 2)
    below, equal = (answers < truth[:, None]).sum(1), (answers == truth[:, None]).sum(1)
    ranks = ((below + equal).clamp_max(count - a) - below.clamp_min(a) + 1).clamp_min(0)
    held = ranks.double() / (equal + 1)
    return {"share": float(held[where].mean()), "nominal": (count + 1 - 2 * a) / (count + 1)}


def score(
    answers: Tensor, truth: Tensor, given: Observation, others: Mapping[str, Tensor], peak: float = 2.0
) -> dict[str, Any]:
    """All figures of a restoration.

    Args:
        answers: (n, K, *full) in stored coordinates, not clamped.
        truth: (n, *full).
        given: the partial samples.
        others: baselines by name, (n, *full).
        peak: range of the values; where it is 2, all values are clamped to [-1, 1] first, as in files.

    Returns:
        {"psnr": {"mean", "one", baseline: ...}, "psnr_stderr": the same of their means over samples, "gain": the mean
        of the answers against the best baseline, in dB, paired: {"over", "mean", "stderr"}, "coverage" (None for one
        answer), "open" (share of coordinates that are open), "spread" (root mean square deviation of the answers
        there), "count", "answers"}.
    """
    where = open_coordinates(given)
    clean = answers.clamp(-1, 1) if peak == 2.0 else answers
    rows = {"mean": clean.mean(1), "one": clean[:, 0]} | dict(others)
    each = {name: psnr(x.clamp(-1, 1) if peak == 2.0 else x, truth, where, peak) for name, x in rows.items()}
    gain = None
    if others:
        best = max(others, key=lambda name: float(each[name].mean()))
        gain = {"over": best} | _mean(each["mean"] - each[best])
    spread = clean.double().var(1)[where].mean().sqrt() if answers.shape[1] > 1 else None
    return {
        "psnr": {name: float(v.mean()) for name, v in each.items()},
        "psnr_stderr": {name: _mean(v)["stderr"] for name, v in each.items()},
        "gain": gain,
        "coverage": coverage(clean, truth, where) if answers.shape[1] > 1 else None,
        "open": float(where.double().mean()),
        "spread": None if spread is None else float(spread),
        "count": len(truth),
        "answers": answers.shape[1],
    }


def _mean(values: Tensor) -> dict[str, float]:
    n = len(values)
    return {"mean": float(values.mean()), "stderr": float(values.std() / math.sqrt(n)) if n > 1 else math.nan}


def table(scores: Mapping[str, Any]) -> str:
    """The figures as Markdown, restorations first, then the baselines."""
    lines = ["| estimate | PSNR where open, dB | s.e. |", "|---|---|---|"]
    for name, value in scores["psnr"].items():
        lines.append(f"| {NAMES.get(name, name)} | {value:.2f} | {scores['psnr_stderr'][name]:.2f} |")
    return "\n".join(lines)


# --- baselines --------------------------------------------------------------------------------------------------------


def baselines(given: Observation, view: View, training: Tensor) -> dict[str, Tensor]:
    """Simple restorations of the partial samples, {name: (n, *full)} in stored coordinates; those that apply.

    Args:
        given: the partial samples, on the CPU.
        view: their view.
        training: full samples, (m, *full), m >= 1.
    """
    n, full = len(given), given.full
    found = {"mean_fill": given.consistent(training.mean(0, keepdim=True).expand(n, *full).contiguous())}
    found["copy_paste"] = given.consistent(_nearest(given, training))
    is_fixed = view.view if isinstance(view, Observed) else view
    if isinstance(is_fixed, Downsample) and given.mask is None:
        enlarged = _enlarged(given.y / given.view.scale, is_fixed, full)
        if enlarged is not None:
            found["bicubic" if is_fixed.axes == (-2, -1) else "linear"] = enlarged
        if is_fixed.axes == (-2, -1):
            found["lanczos"] = _lanczos(given.y / given.view.scale, full)
    else:
        found |= _interpolated(given)
    return found


def _nearest(given: Observation, training: Tensor) -> Tensor:
    """Of the training samples the one whose view is nearest to each partial one."""
    chosen = []
    for i in range(len(given)):
        one = given.rows(torch.full((len(training),), i))
        chosen.append(training[int((one.apply(training) - one.y).flatten(1).square().sum(1).argmin())])
    return torch.stack(chosen)


def _enlarged(m: Tensor, view: Downsample, full: tuple[int, ...]) -> Tensor | None:
    """Block averages m interpolated: bicubic over height and width, linear over one axis."""
    if view.axes == (-2, -1):
        flat = m.reshape(-1, 1, *m.shape[-2:])
        return F.interpolate(flat, size=full[-2:], mode="bicubic", antialias=True).reshape(len(m), *full)
    if len(view.axes) > 1:
        return None
    (axis,) = view.axes
    last = m.movedim(axis, -1)
    flat = last.reshape(-1, 1, last.shape[-1])
    out = F.interpolate(flat, size=full[axis], mode="linear", align_corners=False)
    return out.reshape(*last.shape[:-1], full[axis]).movedim(-1, axis)


def _lanczos(m: Tensor, full: tuple[int, ...]) -> Tensor:
    size = (full[-1], full[-2])
    flat = m.reshape(-1, *m.shape[-2:]).float().numpy()
    large = [np.asarray(Image.fromarray(one).resize(size, Image.Resampling.LANCZOS)) for one in flat]
    return torch.from_numpy(np.stack(large)).reshape(len(m), *full)


def _interpolated(given: Observation) -> dict[str, Tensor]:
    """Hidden coordinates from those given in the same channel; {} where A does not pick coordinates of space."""
    full = given.full
    space = full[1:]
    if not space:
        return {}
    z = torch.randn(len(given), *full, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = given.lift(given.apply(z))
    fixed = (kept - z).abs() < 1e-6
    picks = bool((fixed | (kept.abs() < 1e-6)).all())
    if not picks or not bool(fixed.flatten(2).any(2).all()):
        return {}
    x = given.lift(given.y).double().numpy().reshape(len(given), full[0], -1)
    known = fixed.numpy().reshape(x.shape)
    flat, seen = x.reshape(-1, x.shape[2]), known.reshape(-1, x.shape[2])
    laplace = _laplacian(space)
    operators = {"harmonic": laplace} | ({"biharmonic": laplace @ laplace} if len(space) > 1 else {})
    found = {}
    for name, operator in operators.items():
        solvers: dict[bytes, Any] = {}
        found[name] = np.stack([_filled(*row, operator, solvers) for row in zip(flat, seen)])
    if len(space) == 3:
        found["hold"] = _held(found["harmonic"].reshape(-1, space[0], space[1] * space[2]), known)
    return {name: torch.from_numpy(filled.reshape(len(given), *full)).float() for name, filled in found.items()}


def _held(x: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(rows, T, pixels): hidden values as in the nearest frame where they are known; where in none, as in x."""
    known = known.reshape(x.shape)
    t = np.arange(x.shape[1])[:, None]
    never = 4 * x.shape[1]
    before = np.maximum.accumulate(np.where(known, t, -never), 1)
    after = np.minimum.accumulate(np.where(known, t, never)[:, ::-1], 1)[:, ::-1]
    nearest = np.where(t - before <= after - t, before, after)
    held = np.take_along_axis(x, nearest.clip(0, x.shape[1] - 1), 1)
    return np.where(known.any(1, keepdims=True), held, x)


def _laplacian(space: tuple[int, ...]) -> Any:
    """The graph Laplacian of a grid, sparse."""
    from scipy import sparse

    total = sparse.csr_matrix((math.prod(space),) * 2)
    for axis, n in enumerate(space):
        ones = np.ones(n)
        degree = 2 * ones
        degree[0] -= 1
        degree[-1] -= 1
        line = sparse.diags([degree, -ones[1:], -ones[1:]], [0, 1, -1])
        before, after = math.prod(space[:axis]), math.prod(space[axis + 1 :])
        total = total + sparse.kron(sparse.kron(sparse.eye(before), line), sparse.eye(after))
    return total.tocsr()


def _filled(x: np.ndarray, known: np.ndarray, laplace: Any, solvers: dict[bytes, Any]) -> np.ndarray:
    """(d,) with the hidden coordinates solved for; equal masks share one factorization."""
    from scipy.sparse.linalg import factorized

    hidden = ~known
    if not hidden.any():
        return x
    key = known.tobytes()
    if key not in solvers:
        solvers[key] = factorized(laplace[hidden][:, hidden].tocsc())
    out = x.copy()
    out[hidden] = solvers[key](-laplace[hidden][:, known] @ x[known])
    return out

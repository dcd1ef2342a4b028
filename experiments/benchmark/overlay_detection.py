"""Whether generated videos show the overlay that the partial files had: matched filters, calibrated on clean files.

A feature vector f of a clean video has mean m and covariance C, and under the overlay it has s more in the mean.  The
linear filter with the least variance among those that give 1 for s (for Gaussian f the best test there is: Kay 1998,
"Fundamentals of statistical signal processing: detection theory", section 4.4) is

    w = C^-1 s / (s^T C^-1 s),      strength a = w^T (f - m),      E a = 0 for clean videos, 1 under the overlay,

so that a is also the opacity of what is left of a logo, as a share of the files'.  C is shrunk toward a multiple of 1
(Ledoit and Wolf 2004).  An overlay counts as found where a lies above the quantile 1 - alpha of clean videos that
neither m, C nor s were taken from: alpha is the rate of false alarms.

    logo       f = luma around it, mean over the frames
    caption    f(t, r) = mean luma of a row, and mean |second difference| along it (strokes), of the rows r - 2 to
               r + h + 1, mean of 4 frames from t on; a is the largest over all t and r, and finds other text as well
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Trace", "caption_trace", "logo_trace", "table"]

_AROUND, _RUN = 2, 4


@dataclass(frozen=True)
class Trace:
    """A detector of one overlay.

    features: videos (n, C, T, H, W) in [-1, 1] -> (n, places, d). weights, mean: (d,). threshold: on the strength.
    """

    features: Callable[[Tensor], Tensor]
    weights: Tensor
    mean: Tensor
    threshold: float = math.inf

    def strength(self, x: Tensor) -> Tensor:
        """The largest strength over all places of each video, (n,) float64."""
        parts = [((self.features(p).double() - self.mean) @ self.weights).amax(1) for p in x.split(64)]
        return torch.cat(parts)

    def calibrated(self, clean: Tensor, alpha: float) -> Trace:
        """The same with the threshold that a share `alpha` of these clean videos exceeds."""
        threshold = float(self.strength(clean).quantile(1 - alpha))
        return Trace(self.features, self.weights, self.mean, threshold)

    def found(self, x: Tensor) -> dict[str, Any]:
        """{"share" of videos in which the overlay is found, "stderr", "strength" (mean), "strength_stderr", "count"}.

        The share's error is binomial, at the share (k + 1) / (n + 2), so that it is not 0 where nothing is found.
        """
        a = self.strength(x)
        n, hits = len(a), int((a > self.threshold).sum())
        near = (hits + 1) / (n + 2)
        return {
            "share": hits / n,
            "stderr": math.sqrt(near * (1 - near) / n),
            "strength": float(a.mean()),
            "strength_stderr": float(a.std() / math.sqrt(n)) if n > 1 else math.nan,
            "count": n,
        }


def logo_trace(clean: Tensor, marked: Tensor, where: Tensor) -> Trace:
    """The filter for a logo that stays put; without a threshold yet.

    Args:
        clean, marked: the same videos without and with the overlay, (n, C, T, H, W) in [-1, 1].
        where: (H, W) bool, True where the logo lies.

    Raises:
        ValueError: shapes that do not fit, or no logo.
    """
    if clean.shape != marked.shape or clean.ndim != 5 or tuple(where.shape) != tuple(clean.shape[-2:]):
        raise ValueError(
            f"clean and marked must be (n, C, T, H, W) alike, where (H, W); got {tuple(clean.shape)}, "
            f"{tuple(marked.shape)}, {tuple(where.shape)}"
        )
    if not bool(where.any()):
        raise ValueError("where marks no pixel: there is no logo to look for")
    rows, columns = ((int(a.nonzero().min()), int(a.nonzero().max())) for a in (where.any(1), where.any(0)))
    box = [slice(max(0, low - _AROUND), high + 1 + _AROUND) for low, high in (rows, columns)]

    def features(x: Tensor) -> Tensor:
        return _luma(x).mean(1)[:, box[0], box[1]].flatten(1)[:, None]

    f = features(clean)[:, 0]
    return _trace(features, f, (features(marked)[:, 0] - f).mean(0))


def caption_trace(
    clean: Tensor, marked: Tensor, top: Tensor, rows: int, columns: tuple[int, int] | None = None
) -> Trace:
    """The filter for a band of text somewhere in some of the frames; without a threshold yet.

    Args:
        clean, marked: the same videos without and with the overlay, (n, C, T, H, W) in [-1, 1].
        top: (n, T) first row of the band in each frame, -1 where there is none.
        rows: height of the band.
        columns: look at these only, from the first to before the last: beside a logo, say, which has strokes, too.

    Raises:
        ValueError: shapes that do not fit, or nowhere a band for 4 frames.
    """
    if clean.shape != marked.shape or clean.ndim != 5 or tuple(top.shape) != (len(clean), clean.shape[2]):
        raise ValueError(
            f"clean and marked must be (n, C, T, H, W) alike, top (n, T); got {tuple(clean.shape)}, "
            f"{tuple(marked.shape)}, {tuple(top.shape)}"
        )
    frames, height = clean.shape[2], clean.shape[3]
    there = top.unfold(1, _RUN, 1).amin(2) >= 0
    if frames < _RUN or not bool(there.any()):
        raise ValueError(f"in no video there is a band for {_RUN} frames: there is nothing to learn from")

    def at(x: Tensor) -> Tensor:
        """(n, T - 3, H - rows + 1, d)."""
        y = _luma(x)[..., slice(*columns or (None,))]
        strokes = (y[..., 2:] - 2 * y[..., 1:-1] + y[..., :-2]).abs().mean(3)
        f = torch.stack([y.mean(3), strokes], 1).unfold(2, _RUN, 1).mean(4)  # (n, 2, T - 3, H)
        f = F.pad(f.flatten(1, 2), (_AROUND, _AROUND), mode="replicate").unflatten(1, (2, -1))
        return f.unfold(3, rows + 2 * _AROUND, 1).movedim(1, 3).flatten(3)

    def features(x: Tensor) -> Tensor:
        return at(x).flatten(1, 2)

    i, t = there.nonzero(as_tuple=True)
    r = top[i, t].clamp(max=height - rows)
    f = at(clean)
    shift = (at(marked)[i, t, r] - f[i, t, r]).mean(0)
    # Neighbouring places say nearly the same.
    return _trace(features, f[:, ::_RUN, ::2].flatten(0, 2), shift)


def _trace(features: Callable[[Tensor], Tensor], f: Tensor, shift: Tensor) -> Trace:
    from sklearn.covariance import LedoitWolf

    covariance = torch.from_numpy(LedoitWolf().fit(f.double().numpy()).covariance_)
    s = shift.double()
    w = torch.linalg.solve(covariance, s)
    return Trace(features, w / (s @ w), f.double().mean(0))


def _luma(x: Tensor) -> Tensor:
    """(n, C, T, H, W) -> (n, T, H, W), in the weights of ITU-R BT.601."""
    if x.shape[1] == 1:
        return x[:, 0]
    return torch.einsum("ncthw,c->nthw", x, torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype))


_NAMES = {
    "test": "real: clean, not trained on",
    "full": "real: the clean ones trained on",
    "broadcast": "real: under the overlay",
    "test-broadcast": "real: under the overlay, not trained on",
    "bootdiff": "**bootdiff**",
}


def table(result: Mapping[str, Any]) -> str:
    """What was found, as Markdown.

    Args:
        result: {"found": {name of the videos: {"logo", "caption": as `Trace.found` says it}}, "false_alarms", "seed",
            "command"}.
    """
    head = ["videos", "logo found in", "its strength", "captions found in", "their strength"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, found in result["found"].items():
        cells = [_NAMES.get(name, name.replace("_", "-"))]
        for f in (found["logo"], found["caption"]):
            cells.append(f"{100 * f['share']:.1f} ± {100 * f['stderr']:.1f} % of {f['count']}")
            cells.append(f"{f['strength']:.3f} ± {f['strength_stderr']:.3f}")
        lines.append("| " + " | ".join(cells) + " |")
    note = f"Seed {result['seed']}, {100 * result['false_alarms']:.0f} % false alarms; `{result['command']}`."
    return "\n".join(lines) + f"\n\n{note}"

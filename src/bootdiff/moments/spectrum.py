"""How much of the fine detail of real samples others have: their power by octaves of frequency.

With c the coefficients of a sample's orthonormal cosine transform along all axes of its space that have at least 8
pixels (the even extension makes no edges), and f the largest of a coefficient's frequencies over these axes, in cycles
per pixel, octave k holds

    P_k = mean |c|^2  over  2^-(k+2) < f <= 2^-(k+1),      k = 0, 1, 2: wavelengths of 2 to 4, 4 to 8, 8 to 16 pixels;

and samples a have, of the detail of samples b,

    detail = exp mean_k ln (P_k(a) + s^2) / (P_k(b) + s^2),      1: as much as b; s: what lies below it does not count.

It needs no network, and sees what features learned on few pictures do not: that samples are soft, or grainy.  Its
standard error is that of means over independent samples, to first order (the delta method).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from torch import Tensor

__all__ = ["LEAST", "OCTAVES", "Detail", "detail", "has_detail"]

OCTAVES = 3
LEAST = 8
"""Pixels that an axis must have, to have all octaves; shorter ones are left as they are."""


class Detail(NamedTuple):
    """`log`, `stderr`: ln of the detail and its standard error.  `octaves`: P_k(a) / P_k(b), finest first."""

    log: float
    stderr: float
    octaves: list[float]

    def record(self) -> dict[str, object]:
        """As plain values: {"ratio", "stderr", "octaves"}, the error that of the ratio."""
        ratio = math.exp(self.log)
        return {"ratio": ratio, "stderr": ratio * self.stderr, "octaves": self.octaves}


def has_detail(shape: Sequence[int]) -> bool:
    """Whether samples (C, *space) have octaves: images, videos and signals with an axis of `LEAST` pixels.

    >>> has_detail((3, 32, 32)), has_detail((1, 5, 32, 32)), has_detail((3, 4, 4)), has_detail((7,))
    (True, True, False, False)
    """
    return max(shape[1:], default=0) >= LEAST


def detail(a: Tensor, b: Tensor, floor: float = 0.0) -> Detail:
    """Detail of samples against that of others.

    Args:
        a: samples, (n, C, *space).
        b: others, say real ones, (m, C, *space).
        floor: s, in the units of the samples: the lowest noise level of the sampler, which draws nothing below it.

    Raises:
        ValueError: shapes that differ or have no octaves (`has_detail`), or no samples.
    """
    if a.shape[1:] != b.shape[1:] or not has_detail(a.shape[1:]):
        raise ValueError(f"no detail to compare in samples of {tuple(a.shape[1:])} and {tuple(b.shape[1:])}")
    if not (len(a) and len(b)):
        raise ValueError(f"no detail to compare in {len(a)} and {len(b)} samples")
    p, q = (_power(x) for x in (a, b))
    least = max(floor**2, np.finfo(np.float64).tiny)
    top, bottom = p.mean(0) + least, q.mean(0) + least
    # Each sample's pull on the mean of the logarithms.
    errors = [(x / mean).mean(1).std(ddof=1) / math.sqrt(len(x)) if len(x) > 1 else math.inf
              for x, mean in ((p, top), (q, bottom))]  # fmt: skip
    return Detail(float(np.log(top / bottom).mean()), math.hypot(*errors), (top / bottom).tolist())


def _power(x: Tensor) -> NDArray[np.float64]:
    """P_k of each sample, (n, OCTAVES)."""
    axes = [axis for axis, size in enumerate(x.shape[1:]) if axis and size >= LEAST]
    lines = [np.arange(x.shape[axis + 1]) / (2 * x.shape[axis + 1]) for axis in axes]
    frequency = np.maximum.reduce(np.meshgrid(*lines, indexing="ij"))
    masks = [(frequency > 2.0 ** -(k + 2)) & (frequency <= 2.0 ** -(k + 1)) for k in range(OCTAVES)]
    out = np.empty((len(x), OCTAVES))
    for i, one in enumerate(x):  # one by one: the transform of a video is as large as the video
        c = fft.dctn(one.detach().double().cpu().numpy(), axes=axes, norm="ortho")
        c = np.moveaxis(c, axes, range(-len(axes), 0))
        out[i] = [np.square(c[..., mask]).mean() for mask in masks]
    return out

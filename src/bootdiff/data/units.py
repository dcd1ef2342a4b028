"""Stored coordinates and the units that people measure in.

Per channel c an affine map with two numbers,

    v = offset_c + scale_c x,        x = (v - offset_c) / scale_c,

v in original units (pixel levels, millivolts, the columns of a table), x in stored coordinates. A declared range
[lo, hi] has offset (lo + hi) / 2 and scale (hi - lo) / 2 in all channels, so x lies in [-1, 1]; *standardizing* takes
each channel's mean and standard deviation.

A view A of standardized samples has its own units. Its stored files are m = A v / a (a the view's scale), so

    m = A (offset + scale o x) / a = offset' + scale' o (A x / a)

holds with offset' = A offset / a wherever A mixes no channels of different scales: picks, windows, masks and block
averages do not. For other views there are no such units, and that is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bootdiff.errors import BootdiffError
from bootdiff.views import View

__all__ = ["Units"]


@dataclass(frozen=True)
class Units:
    """offset, scale: one number for all channels or one per channel. standardized: measured, not declared. values: type
    of the stored values that have this range: "float" of any precision, "pixels" of picture and video files, or an
    integer type by its name; None where that is not known."""

    offset: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
    standardized: bool = False
    values: str | None = field(default=None, compare=False)

    @classmethod
    def of_range(cls, low: float, high: float, values: str | None = None) -> Units:
        """[low, high] becomes [-1, 1]."""
        return cls(((low + high) / 2,), ((high - low) / 2,), values=values)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Units:
        """From what `config` gave."""
        return cls(tuple(config["offset"]), tuple(config["scale"]), bool(config["standardized"]))

    def config(self) -> dict[str, Any]:
        """The map as JSON can say it."""
        return {"offset": list(self.offset), "scale": list(self.scale), "standardized": self.standardized}

    @property
    def bounds(self) -> tuple[float, float]:
        """What becomes [-1, 1], of the first channel."""
        return self.offset[0] - self.scale[0], self.offset[0] + self.scale[0]

    def store(self, v: Tensor, space: int) -> Tensor:
        """Original units -> stored coordinates. v: (..., C, *space axes), `space` of them behind the channels."""
        offset, scale = self._along(v, space)
        return (v - offset) / scale

    def restore(self, x: Tensor, space: int) -> Tensor:
        """Stored coordinates -> original units, float64. x: (..., C, *space axes)."""
        offset, scale = self._along(x, space)
        return x.double() * scale + offset

    def _along(self, x: Tensor, space: int) -> tuple[Tensor, Tensor]:
        shape = (-1, *(1,) * space)
        return tuple(  # type: ignore[return-value]
            torch.tensor(values, dtype=torch.float64, device=x.device).view(shape)
            for values in (self.offset, self.scale)
        )

    def through(self, view: View, full: Sequence[int], where: str = "view") -> Units:
        """The units of the view's stored files, by applying the view to the offset and to noise (module docstring).

        full: shape of the full samples. Raises BootdiffError where the view mixes channels of different scales.
        """
        full = tuple(full)
        rng = torch.Generator().manual_seed(0)
        one = view.draw(full, rng)
        shape, mask = tuple(one.shape(full)), one.mask(full)
        offset, scale = (v.float().expand(full[0], *v.shape[1:]) for v in self._along(torch.zeros(full), len(full) - 1))
        x = torch.randn(1, *full, generator=rng)
        field = one((offset + torch.zeros(full))[None])[0] / one.scale
        a, b = (one(v)[0] / one.scale for v in (scale * x, x))
        weight = torch.ones(shape) if mask is None else mask.expand(shape)
        offsets, scales = [], []
        for c, (o, p, q, w) in enumerate(zip(field, a, b, weight, strict=True)):
            o, p, q = (t[w > 0] for t in (o, p, q))
            if not o.numel():
                # Hidden everywhere: any numbers serve; those of the same channel read best.
                same = shape[0] == full[0]
                offsets.append(float(offset[c].flatten()[0]) if same else 0.0)
                scales.append(float(scale[c].flatten()[0]) if same else 1.0)
                continue
            s = float((p * q).sum() / q.square().sum())
            size = float(p.abs().max())
            if float((p - s * q).abs().max()) > 1e-3 * size or float(o.max() - o.min()) > 1e-3 * (size + abs(s)):
                raise BootdiffError(
                    f"{where}: this view mixes channels that were standardized by different deviations, so its files "
                    "have no units. Give all channels one range instead of standardize."
                )
            offsets.append(float(o.mean()))
            scales.append(s)
        return Units(tuple(offsets), tuple(scales), self.standardized)

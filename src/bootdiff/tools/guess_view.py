"""Which view partial files are, judged by their shape and by how they look beside full samples.

Shapes leave four questions open, and each is answered by a statistic of the files and of full samples seen through the
view in question:

    thumbnails or crops?   roughness, E (x_p - x_q)^2 / (2 Var x) over neighbouring pixels p, q: averages over blocks of
                           k x k are rougher than windows of the same size; the nearer one in logarithm is taken
    noisy?                 standard deviation of white noise from the median of |d| / 0.6745, d the 2 x 2 diagonal
                           differences (Donoho, Johnstone 1994, section 3); that of full samples is subtracted in
                           quadrature
    an overlay?            `find_masks.find_overlay`, less what it finds in the full samples
    gray?                  one channel where full samples have three

What cannot be told from that is not guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bootdiff.errors import BootdiffError
from bootdiff.tools.find_masks import LEAST_FILES, find_overlay

__all__ = ["Guess", "guess_view", "noise_std", "roughness"]

_LUMA = {"kind": "channel_mix", "weights": [0.299, 0.587, 0.114]}
_NOISY, _NOISIER = 0.02, 1.3
"""Noise below this, or below so many times that of the full samples, is not taken for a view's."""


@dataclass(frozen=True)
class Guess:
    """view: blocks as a recipe has them, from first to last, none for what is seen whole; std: of the noise on top;
    mask: (H, W) bool, True where observed, where an overlay was found; why: one phrase for each finding."""

    view: tuple[Any, ...]
    std: float
    mask: np.ndarray | None
    why: tuple[str, ...]


def guess_view(full: Tensor, files: Tensor, hidden: bool = False) -> Guess:
    """The view that turns full samples into such files.

    Args:
        full: (n, C, *space) in [-1, 1], a few full samples: vectors, signals, images or videos.
        files: (m, C', *space'), a few of the files.
        hidden: whether the files come with masks of their own.

    Raises:
        BootdiffError: larger than the full samples; another kind of data; nothing tells them from full samples.
    """
    view: list[Any] = []
    why: list[str] = []
    x = full
    if files.ndim == 4 and x.ndim == 5:
        view.append("stills")
        why.append("pictures, where the full samples are videos")
        x = x.transpose(1, 2).flatten(0, 1)
    if files.ndim != x.ndim:
        raise BootdiffError(
            f"have {files.ndim - 2} axes beside channels, and full samples {full.ndim - 2}; give files of the same kind"
        )
    if x.shape[1] == 3 and files.shape[1] == 1:
        view.append("gray")
        why.append("one channel of three")
        x = torch.einsum("c,nc...->n...", torch.tensor(_LUMA["weights"]), x)[:, None]
    if files.shape[1] != x.shape[1]:
        raise BootdiffError(
            f"have {files.shape[1]} channel(s), and full samples {full.shape[1]}; which ones cannot be seen: say it by "
            "`view: {kind: pick, indices: [...]}`"
        )
    if x.ndim == 5 and files.shape[2] != x.shape[2]:
        _smaller(files.shape[2:3], x.shape[2:3], "frames")
        view.append({"kind": "frame_window", "length": int(files.shape[2])})
        why.append(f"{files.shape[2]} of {x.shape[2]} frames")
    elif x.ndim == 3 and files.shape[2] != x.shape[2]:
        _smaller(files.shape[2:], x.shape[2:], "values")
        view.append({"kind": "window", "length": int(files.shape[2])})
        why.append(f"{files.shape[2]} of {x.shape[2]} values")
    if x.ndim >= 4:
        frames, seen = (_frames(x), _frames(files)) if x.ndim == 5 else (x, files)
        block, reason, frames = _of_size(frames, seen)
        if block is not None:
            view.append(block)
            why.append(reason)
        if hidden:
            view.append({"kind": "random_mask"})
            why.append("each file comes with its mask")
            return Guess(tuple(view), 0.0, None, tuple(why))
        mask = None if view else _overlay(frames, seen)
        if mask is not None:
            why.append(f"{float((~mask).mean()):.0%} of the pixels lie under the same overlay in all files")
            return Guess(({"kind": "mask"},), 0.0, mask, tuple(why))
        own, usual = noise_std(seen), noise_std(frames)
        if own > _NOISIER * usual and (added := float(np.sqrt(own**2 - usual**2))) > _NOISY:
            why.append(f"noise of standard deviation {added:.2g}, in [-1, 1] units")
            return Guess(tuple(view), float(f"{added:.2g}"), None, tuple(why))
    elif hidden:
        view.append({"kind": "random_mask"})
        why.append("gaps")
    if not view:
        raise BootdiffError(
            "look like full samples: as large, as many channels, no overlay and no more noise were found. Put them "
            "with the full ones, or say what is missing in them (captions that change: bootdiff masks --moving)"
        )
    return Guess(tuple(view), 0.0, None, tuple(why))


def roughness(x: Tensor) -> float:
    """E (x_p - x_q)^2 / (2 Var x) over neighbouring pixels of images (n, C, h, w): 1 for white noise, 0 if flat."""
    steps = torch.cat([(x[..., 1:, :] - x[..., :-1, :]).flatten(), (x[..., :, 1:] - x[..., :, :-1]).flatten()])
    return float(steps.square().mean() / (2 * x.var()).clamp(min=1e-12))


def noise_std(x: Tensor) -> float:
    """Deviation of the white noise in images (n, C, h, w): median |d| / 0.6745 of 2 x 2 diagonal differences."""
    h, w = x.shape[-2] // 2 * 2, x.shape[-1] // 2 * 2
    a, b, c, d = (x[..., i:h:2, j:w:2] for i in (0, 1) for j in (0, 1))
    return float(((a - b - c + d) / 2).abs().median() / 0.6745)


def _frames(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(0, 1)


def _smaller(size: Sequence[int], whole: Sequence[int], what: str) -> None:
    if any(a > b for a, b in zip(size, whole, strict=True)):
        sizes = " and ".join(" x ".join(map(str, s)) for s in (size, whole))
        raise BootdiffError(f"have more {what} than the full samples ({sizes}): are they the full ones?")


def _of_size(full: Tensor, files: Tensor) -> tuple[Any, str, Tensor]:
    """The block for files of another height and width, the reason for it, and the full samples seen through it."""
    whole, size = tuple(full.shape[2:]), tuple(files.shape[2:])
    if size == whole:
        return None, "", full
    _smaller(size, whole, "pixels")
    crop = full[..., (whole[0] - size[0]) // 2 :, (whole[1] - size[1]) // 2 :][..., : size[0], : size[1]]
    window = {"kind": "crop", "size": list(size)}
    factors = {a // b if a % b == 0 else 0 for a, b in zip(whole, size, strict=True)}
    if len(factors) > 1 or 0 in factors:
        return window, f"{size[0]} x {size[1]} of {whole[0]} x {whole[1]} pixels, no whole fraction: cut out", crop
    factor = factors.pop()
    shrunk = functional.avg_pool2d(full, factor)
    found, small, cut = roughness(files), roughness(shrunk), roughness(crop)
    off = {"small": abs(np.log(found / small)), "cut": abs(np.log(found / cut))}
    said = f"roughness {found:.2g}; of full samples made smaller {small:.2g}, of windows of them {cut:.2g}"
    if off["cut"] < off["small"]:
        return window, f"windows of {whole[0]} x {whole[1]} pixels, cut anywhere ({said})", crop
    return {"kind": "downsample", "factor": factor}, f"1/{factor} of the size ({said})", shrunk


def _overlay(full: Tensor, files: Tensor) -> np.ndarray | None:
    """(H, W) bool, True where no overlay hides the files; None where none does."""
    if min(len(full), len(files)) < LEAST_FILES:
        return None
    found = find_overlay(files.numpy()).hidden
    # Aligned samples, of one background, look as if something lay on them: full ones, too.
    usual = find_overlay(full.numpy()).hidden
    hidden = found & ~usual
    return ~found if hidden.sum() > max(4, 0.5 * usual.sum()) else None

"""The kinds of data, told apart by their axes, and how arrays of each kind are laid out.

    kind      stored array (N samples)                          sample inside (channels first)
    vector    N x C                                             (C,)
    signal    N x L  or  N x L x C                              (C, L)
    image     N x H x W  or  N x H x W x C                      (C, H, W)
    video     N x T x H x W  or  N x T x H x W x C              (C, T, H, W)

Undeclared, five axes are a video, four are images, and three are gray images unless one side is more than eight times
the other; everything else could be two things and is refused with the choices named.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bootdiff.errors import BootdiffError

__all__ = ["KINDS", "axes_of", "format_shape", "kind_of", "layout"]

KINDS = ("vector", "signal", "image", "video")

_SPACES = {"vector": (), "signal": ("length",), "image": ("height", "width"), "video": ("frames", "height", "width")}
_ARRAYS = {
    "vector": "N x C",
    "signal": "N x L or N x L x C",
    "image": "N x H x W or N x H x W x C",
    "video": "N x T x H x W or N x T x H x W x C",
}
_CHOICES = {
    2: "signal (N x L: each row one signal) or kind: vector (N x C: each row one vector)",
    3: "image (N x H x W: gray pictures) or kind: signal (N x L x C: signals of several channels)",
}


def kind_of(shape: Sequence[int]) -> str:
    """The kind of samples of this shape, channels first."""
    if not 1 <= len(shape) <= 4:
        raise ValueError(f"samples have 1 to 4 axes, got the shape {tuple(shape)}")
    return KINDS[len(shape) - 1]


def axes_of(shape: Sequence[int]) -> str:
    """Names of a sample's axes, as "channels x height x width"."""
    return " x ".join(("channels", *_SPACES[kind_of(shape)]))


def format_shape(shape: Sequence[int]) -> str:
    """A shape for people, as "3 x 32 x 32"."""
    return " x ".join(map(str, shape))


def layout(
    array: np.ndarray, kind: str | None, where: str, *, channels_first: bool = False, channels: int | None = None
) -> tuple[np.ndarray, str]:
    """A stored array as (N, *space, C) without copying, and its kind.

    channels_first: the second axis, not the last, holds the channels. channels: how many channels are known to be
    there, which settles doubts about a long last axis.

    Raises BootdiffError where the array does not fit its kind, is empty, or could be of two kinds and none is named.
    """
    if array.dtype.kind not in "biuf":
        raise BootdiffError(f"{where}: holds values of type {array.dtype}, need integers or floats. Save one array.")
    if kind is None:
        shape = np.moveaxis(array, 1, -1).shape if channels_first and array.ndim in (4, 5) else array.shape
        kind = _infer_kind(shape, where, channels)
    axes = len(_SPACES[kind])
    if array.ndim == axes + 1 and kind != "vector":
        array = array[..., None]
    elif array.ndim == axes + 2 and channels_first:
        array = np.moveaxis(array, 1, -1)
    if array.ndim != axes + 2:
        raise BootdiffError(
            f"{where}: has shape {array.shape}; an array of kind {kind} is {_ARRAYS[kind]}: reshape it, or name "
            "another kind"
        )
    if 0 in array.shape:
        raise BootdiffError(f"{where}: is empty (shape {array.shape}). Check the file.")
    found = array.shape[-1]
    if kind != "vector" and found > 4 and found != channels and min(array.shape[1:-1]) <= 4:
        raise BootdiffError(
            f"{where}: shape {array.shape} means {found} channels (the last axis); it looks like channels first. "
            f"Channels come last in arrays of kind {kind}: numpy.moveaxis(array, 1, -1)."
        )
    return array, kind


def _infer_kind(shape: tuple[int, ...], where: str, channels: int | None) -> str:
    """The kind of an array that is not declared; BootdiffError where that would be a guess."""
    axes = len(shape)
    if axes == 5:
        return "video"
    if axes == 4:
        if shape[-1] > 4 and shape[-1] != channels:
            raise BootdiffError(
                f"{where}: shape {shape} could be pictures of {shape[-1]} channels or gray videos; "
                f"{'it also looks like channels first; ' if shape[1] <= 4 else ''}say kind: image (N x H x W x C) or "
                "kind: video (N x T x H x W); a video in colour has a fifth axis for channels"
            )
        return "image"
    if axes == 3 and max(shape[1:]) <= 8 * min(shape[1:]):
        return "image"
    if axes in _CHOICES:
        raise BootdiffError(f"{where}: shape {shape} could be two things; say kind: {_CHOICES[axes]}")
    known = "; ".join(f"{kind}: {what}" for kind, what in _ARRAYS.items())
    raise BootdiffError(f"{where}: has shape {shape}; need N x H x W or another of {known}. Reshape it.")

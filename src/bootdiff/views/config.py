"""Views as plain data: their kind and their constructor arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from bootdiff.views.base import View
from bootdiff.views.chain import Compose, Observed, compose
from bootdiff.views.maps import ChannelMix, Downsample, Identity, Pick
from bootdiff.views.masks import Mask, RandomMask
from bootdiff.views.windows import Crop, FrameStride, FrameWindow, Stills, Window

__all__ = ["VIEWS", "from_config", "to_config"]


def to_config(view: View) -> dict[str, Any]:
    """The view as a JSON-able dict: its kind (a key of VIEWS) and its arguments; what is None or false is left out.

    >>> to_config(Observed(Downsample(4), std=0.1))
    {'kind': 'observed', 'view': {'kind': 'downsample', 'factor': 4, 'axes': [-2, -1]}, 'std': 0.1}
    """
    kind = next(k for k, cls in VIEWS.items() if cls is type(view))
    arguments = {f.name: getattr(view, f.name) for f in fields(view)}  # type: ignore[arg-type]
    return {"kind": kind} | {k: _plain(v) for k, v in arguments.items() if v is not None and v is not False}


def from_config(config: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> View:
    """The view that `to_config` wrote; a list of such dicts is composed, applied from first to last.

    Raises ValueError for an unknown kind or argument, naming the known ones, and for a missing or unfit argument.
    """
    if isinstance(config, list | tuple):
        return compose(*map(from_config, config))
    if not isinstance(config, Mapping) or config.get("kind") not in VIEWS:
        raise ValueError(f"a view needs a `kind`, one of {', '.join(VIEWS)}; got {config!r}")
    cls = VIEWS[config["kind"]]
    arguments = {k: from_config(v) if k in ("view", "outer", "inner") else v for k, v in config.items() if k != "kind"}
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    if unknown := sorted(arguments.keys() - set(known)):
        raise ValueError(f"view {config['kind']}: unknown {', '.join(unknown)}; known: {', '.join(known) or 'none'}")
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ValueError(f"view {config['kind']}: {error}; its arguments: {', '.join(known)}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, View):
        return to_config(value)
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


VIEWS: dict[str, type[View]] = {
    "identity": Identity,
    "downsample": Downsample,
    "crop": Crop,
    "frame_window": FrameWindow,
    "window": Window,
    "stills": Stills,
    "frame_stride": FrameStride,
    "mask": Mask,
    "random_mask": RandomMask,
    "channel_mix": ChannelMix,
    "pick": Pick,
    "observed": Observed,
    "compose": Compose,
}

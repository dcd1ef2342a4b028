"""Views as plain data: their kind and their constructor arguments.

kind    a key of `VIEWS`, or, for a class of your own, its qualified name; then `from_config` is given the class
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bootdiff.spec import arguments_of, constructor_arguments
from bootdiff.views.base import View
from bootdiff.views.chain import Compose, Observed, compose
from bootdiff.views.maps import ChannelMix, Downsample, Identity, Pick
from bootdiff.views.masks import Mask, RandomMask
from bootdiff.views.windows import Crop, FrameStride, FrameWindow, Stills, Window

__all__ = ["VIEWS", "from_config", "to_config"]


def to_config(view: View) -> dict[str, Any]:
    """The view as a JSON-able dict: its kind and its arguments; what is None or false is left out.

    An own view's arguments are its dataclass fields, or the attributes that have the names of its constructor's
    arguments.

    >>> to_config(Observed(Downsample(4), std=0.1))
    {'kind': 'observed', 'view': {'kind': 'downsample', 'factor': 4, 'axes': [-2, -1]}, 'std': 0.1}

    Raises:
        ValueError: an own view with an argument that is not kept, or is neither plain nor a view.
    """
    cls = type(view)
    own = cls not in VIEWS.values()
    kind = cls.__qualname__ if own else next(k for k, known in VIEWS.items() if known is cls)
    # False may not be the default of an own argument; None is written too, for the same reason.
    given = {k: v for k, v in arguments_of(view).items() if own or (v is not None and v is not False)}
    return {"kind": kind} | {k: _plain(v, f"{kind}: its argument `{k}`") for k, v in given.items()}


def from_config(
    config: Mapping[str, Any] | Sequence[Mapping[str, Any]] | View, classes: Iterable[type[View]] = ()
) -> View:
    """The view that `to_config` wrote; a list of such dicts is composed, applied from first to last.

    Args:
        config: `kind` may also be a class itself; a view stands for itself.
        classes: views of your own that may be named.

    Raises ValueError for an unknown kind or argument, naming the known ones, and for a missing or unfit argument.
    """
    if isinstance(config, View):
        return config
    own = {cls.__qualname__: cls for cls in classes}
    if isinstance(config, list | tuple):
        return compose(*(from_config(c, own.values()) for c in config))
    kind = config.get("kind") if isinstance(config, Mapping) else None
    cls = kind if isinstance(kind, type) and issubclass(kind, View) else (VIEWS | own).get(str(kind))
    if cls is None:
        hint = f"; is {kind} a class of your own, pass classes=[{kind}]" if isinstance(kind, str) else ""
        raise ValueError(f"a view needs a `kind`, one of {', '.join(VIEWS | own)}; got {config!r}{hint}")
    said = cls.__qualname__ if isinstance(kind, type) else kind
    known = constructor_arguments(cls)
    arguments = {k: v for k, v in config.items() if k != "kind"}  # type: ignore[union-attr]
    if unknown := sorted(arguments.keys() - set(known)):
        raise ValueError(f"view {said}: unknown {', '.join(unknown)}; known: {', '.join(known) or 'none'}")
    inner = ("view", "outer", "inner") if cls in VIEWS.values() else ()
    arguments = {
        k: from_config(v, own.values()) if k in inner or (isinstance(v, Mapping) and "kind" in v) else v
        for k, v in arguments.items()
    }
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ValueError(f"view {said}: {error}; its arguments: {', '.join(known)}") from error


def _plain(value: Any, what: str) -> Any:
    if isinstance(value, View):
        return to_config(value)
    if isinstance(value, list | tuple):
        return [_plain(v, what) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v, what) for k, v in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(
        f"{what} is a {type(value).__name__}, which cannot be written down; let it take numbers, text or lists of them"
    )


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

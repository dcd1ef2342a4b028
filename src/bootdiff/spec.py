"""Anything that is built from plain values, as JSON and back: constructor arguments are the config.

An object takes part by having a `config` attribute (or method) that holds its constructor's keyword arguments, whose
values may be plain, other such objects, or lists and dicts of them.  Weights travel apart, as safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["decode", "encode"]


def encode(value: Any) -> Any:
    """A JSON-able description of `value`.

    Raises:
        TypeError: a value that is neither plain nor has a `config`.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [encode(v) for v in value]
    config = getattr(value, "config", None)
    if config is None:
        raise TypeError(f"{type(value).__name__} cannot be saved: it has no `config` with its constructor's arguments")
    return {"class": type(value).__name__, "args": encode(config() if callable(config) else config)}


def decode(spec: Any, classes: Mapping[str, Any]) -> Any:
    """The object that `encode` described; `classes` maps the names that may be built to what builds them.

    Raises:
        ValueError: a class that is not in `classes`.
    """
    if isinstance(spec, list):
        return [decode(v, classes) for v in spec]
    if not isinstance(spec, dict):
        return spec
    if set(spec) == {"class", "args"}:
        if spec["class"] not in classes:
            raise ValueError(f"cannot build {spec['class']!r}; known: {', '.join(sorted(classes))}")
        return classes[spec["class"]](**decode(spec["args"], classes))
    return {k: decode(v, classes) for k, v in spec.items()}

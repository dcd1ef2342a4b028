"""Anything that is built from plain values, as JSON and back: constructor arguments are the config.

An object takes part by having a `config` attribute (or method) that holds its constructor's keyword arguments, whose
values may be plain, other such objects, or lists and dicts of them.  Weights travel apart, as safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["decode", "encode"]


def encode(value: Any) -> Any:
    """A JSON-able description of `value`; an object that occurs again is written once: {"ref": its number}.

    Raises:
        TypeError: a value that is neither plain nor has a `config`.
    """
    return _encode(value, {})


def _encode(value: Any, numbers: dict[int, tuple[int, Any]]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): _encode(v, numbers) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(v, numbers) for v in value]
    config = getattr(value, "config", None)
    if config is None:
        raise TypeError(f"{type(value).__name__} cannot be saved: it has no `config` with its constructor's arguments")
    if id(value) in numbers:
        return {"ref": numbers[id(value)][0]}
    numbers[id(value)] = len(numbers), value  # kept, so that no other object gets its id
    return {"class": type(value).__name__, "args": _encode(config() if callable(config) else config, numbers)}


def decode(spec: Any, classes: Mapping[str, Any]) -> Any:
    """The object that `encode` described; `classes` maps the names that may be built to what builds them.

    Raises:
        ValueError: a class that is not in `classes`.
    """
    return _decode(spec, classes, [])


def _decode(spec: Any, classes: Mapping[str, Any], built: list[Any]) -> Any:
    if isinstance(spec, list):
        return [_decode(v, classes, built) for v in spec]
    if not isinstance(spec, dict):
        return spec
    if set(spec) == {"ref"}:
        return built[spec["ref"]]
    if set(spec) == {"class", "args"}:
        if spec["class"] not in classes:
            raise ValueError(f"cannot build {spec['class']!r}; known: {', '.join(sorted(classes))}")
        number = len(built)
        built.append(None)
        built[number] = classes[spec["class"]](**_decode(spec["args"], classes, built))
        return built[number]
    return {k: _decode(v, classes, built) for k, v in spec.items()}

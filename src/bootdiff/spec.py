"""Anything that is built from plain values, as JSON and back: constructor arguments are the config.

An object takes part by having a `config` attribute (or method) that holds its constructor's keyword arguments, whose
values may be plain, other such objects, or lists and dicts of them.  Weights travel apart, as safetensors.

    class MyNet(nn.Module):    ->    {"class": "MyNet", "args": {"in_channels": 2, ...}}
    class MyView(View):        ->    {"kind": "MyView", "offset": 3, ...}     inside others' args (`views.to_config`)

Own classes are built again by these names, where `decode` is told of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

__all__ = ["arguments_of", "constructor_arguments", "decode", "encode"]


def constructor_arguments(cls: type) -> list[str]:
    """Names of a class's constructor arguments; none where it has no constructor but `object`'s."""
    if is_dataclass(cls):
        return [f.name for f in fields(cls) if f.init]
    make: Any = cls.__init__  # type: ignore[misc]
    if make is object.__init__:
        return []
    named = list(inspect.signature(make).parameters.values())[1:]
    return [p.name for p in named if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def arguments_of(value: Any, missing_ok: bool = False) -> dict[str, Any]:
    """An object's constructor arguments by name, as the attributes of these names have them.

    Raises:
        ValueError: an argument that was not kept, unless `missing_ok`.
    """
    names = constructor_arguments(type(value))
    if lost := [name for name in names if not hasattr(value, name)]:
        if not missing_ok:
            kind, first = type(value).__name__, lost[0]
            raise ValueError(
                f"{kind} cannot be saved: its constructor's argument `{first}` is not kept as an attribute; make "
                f"{kind} a dataclass, or set self.{first} = {first}"
            )
        names = [name for name in names if name not in lost]
    return {name: getattr(value, name) for name in names}


def encode(value: Any) -> Any:
    """A JSON-able description of `value`.

    Raises:
        TypeError: a value that is neither plain nor has a `config`; it names the argument.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [encode(v) for v in value]
    name, config = type(value).__name__, getattr(value, "config", None)
    if config is None:
        raise TypeError(
            f"{name} cannot be saved: it has no `config` with its constructor's arguments; set self.config there, or "
            "give the class in place of an object that is there already"
        )
    args = {}
    for key, given in (config() if callable(config) else config).items():
        try:
            args[str(key)] = encode(given)
        except TypeError as error:
            # Of bootdiff's own objects the part that is given is at fault, and says so itself.
            ours = type(value).__module__.startswith("bootdiff.")
            if ours or hasattr(given, "config") or isinstance(given, Mapping | list | tuple):
                raise
            raise TypeError(
                f"{name} cannot be saved: its argument `{key}` is a {type(given).__name__}, and only numbers, text, "
                f"lists, dicts and objects with a `config` can be written down; let {name} take a name or numbers "
                "in its place"
            ) from error
    return {"class": name, "args": args}


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
            raise ValueError(
                f"cannot build {spec['class']!r}; known: {', '.join(sorted(classes))}. Is it a class of your own, pass "
                f"classes=[{spec['class']}]"
            )
        args = decode(spec["args"], classes)
        made = classes[spec["class"]](**args)
        if getattr(made, "config", None) is None:
            made.config = args  # so that it can be saved again
        return made
    parts = {k: decode(v, classes) for k, v in spec.items()}
    named = {getattr(c, "__qualname__", name): c for name, c in classes.items()}
    if parts.get("kind") in named:
        return named[parts.pop("kind")](**parts)
    return parts

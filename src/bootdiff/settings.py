"""Settings as plain dataclasses: their annotations carry bounds and meaning, so that each is written once.

    @dataclass(frozen=True)
    class GainSettings:
        folds: Annotated[int, Ge(2), Doc("folds of the cross-validation")] = 5

        def __post_init__(self) -> None:
            check(self)

Python users make them directly; the recipe builds its blocks, their validation and their documentation from the same
annotations (`recipe.messages.block_of`).
"""

from __future__ import annotations

import builtins
import math
import sys
import typing
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from typing_extensions import Doc

__all__ = ["Doc", "Ge", "Gt", "Le", "Lt", "MinLen", "annotations_of", "check", "doc_of"]

_BOUNDS: tuple[tuple[type, str, Any], ...] = (
    (Ge, "at least", lambda v, b: v >= b.ge),
    (Gt, "greater than", lambda v, b: v > b.gt),
    (Le, "at most", lambda v, b: v <= b.le),
    (Lt, "less than", lambda v, b: v < b.lt),
)


@cache
def annotations_of(cls: type) -> dict[str, Any]:
    """The annotations of a dataclass's fields by name, with bounds and meaning."""
    hints = typing.get_type_hints(cls, localns=_Names(cls), include_extras=True)
    return {f.name: hints[f.name] for f in fields(cls)}


class _Names(dict[str, Any]):
    """The names that annotations use: what a module imports for type checkers alone, torch say, counts as anything."""

    def __init__(self, cls: type) -> None:
        super().__init__()
        self.there = {**vars(builtins), **vars(sys.modules[cls.__module__])}

    def __missing__(self, name: str) -> Any:
        return self.there.get(name, Any)


def doc_of(annotation: Any) -> str:
    """What a field's annotation says of its meaning; "" where it says nothing.

    >>> doc_of(Annotated[int, Doc("optimizer steps")])
    'optimizer steps'
    """
    return next((m.documentation for m in _metadata(annotation) if isinstance(m, Doc)), "")


def check(settings: Any) -> None:
    """Hold a dataclass's values against the bounds, kinds and choices of its annotations.

    Raises:
        ValueError: a value out of bounds, not finite, or of another kind; it names the field.
    """
    for name, annotation in annotations_of(type(settings)).items():  # type: ignore[arg-type]
        value = getattr(settings, name)
        kinds = _kinds(annotation)
        if value is None and type(None) in kinds:
            continue
        where = f"{type(settings).__name__}.{name}"
        choices = [c for k in kinds if get_origin(k) is typing.Literal for c in get_args(k)]
        if choices and value not in choices and not (set(kinds) & {int, float, str, bool}):
            raise ValueError(f"{where} must be one of {', '.join(map(str, choices))}; got {value!r}")
        if set(kinds) <= {int, float, type(None)} and not choices:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or (float not in kinds and int(value) != value):
                raise ValueError(f"{where} must be a {'finite' if float in kinds else 'whole'} number, got {value!r}")
        if set(kinds) == {bool} and not isinstance(value, bool):
            raise ValueError(f"{where} must be True or False, got {value!r}")
        if isinstance(value, int | float):
            for bound in _metadata(annotation):
                for kind, words, holds in _BOUNDS:
                    if isinstance(bound, kind) and not holds(value, bound):
                        raise ValueError(f"{where} must be {words} {_limit(bound)}, got {value!r}")


def _limit(bound: Any) -> Any:
    return next(getattr(bound, name) for name in ("ge", "gt", "le", "lt") if hasattr(bound, name))


def _metadata(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation itself, without what annotates it."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    origin = get_origin(annotation)
    if origin is typing.Union or type(annotation).__name__ == "UnionType":
        return get_args(annotation)
    return (annotation,)

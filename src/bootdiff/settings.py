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

import math
import reprlib
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache, partial
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from typing_extensions import Doc

__all__ = [
    "Doc", "Ge", "Gt", "Le", "Lt", "MinLen", "annotations_of", "bound_text", "check", "check_value", "doc_of",
    "short_repr",
]  # fmt: skip

_BOUNDS: tuple[tuple[type, str, Any], ...] = (
    (Ge, "at least", lambda v, b: v >= b.ge),
    (Gt, "greater than", lambda v, b: v > b.gt),
    (Le, "at most", lambda v, b: v <= b.le),
    (Lt, "less than", lambda v, b: v < b.lt),
)


@cache
def annotations_of(cls: type) -> dict[str, Any]:
    """The annotations of a dataclass's fields by name, with bounds and meaning."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in fields(cls)}


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
    for name, rule in _rules(type(settings)):  # type: ignore[arg-type]
        _check_value(f"{type(settings).__name__}.{name}", rule, getattr(settings, name))


class _Rule(NamedTuple):
    """What an annotation asks of a value, taken apart once: dataclasses are made by the thousand."""

    kinds: frozenset[Any]
    choices: tuple[Any, ...]
    bounds: tuple[tuple[str, Any, Callable[[Any], bool]], ...]
    at_least: int  # items
    item: _Rule | None

    @classmethod
    def of(cls, annotation: Any) -> _Rule:
        kinds, found = _kinds(annotation), _metadata(annotation)
        return cls(
            frozenset(kinds),
            tuple(c for k in kinds if get_origin(k) is typing.Literal for c in get_args(k)),
            tuple((words, b, partial(holds, b=b)) for b in found for kind, words, holds in _BOUNDS if type(b) is kind),
            max((b.min_length for b in found if isinstance(b, MinLen)), default=0),
            next((cls.of(get_args(k)[0]) for k in kinds if _is_list(k)), None),
        )


def _is_list(kind: Any) -> bool:
    return get_origin(kind) in (list, Sequence) or (get_origin(kind) is tuple and get_args(kind)[-1] is ...)


@cache
def _rules(cls: type) -> tuple[tuple[str, _Rule], ...]:
    return tuple((name, _Rule.of(annotation)) for name, annotation in annotations_of(cls).items())


def check_value(where: str, annotation: Any, value: Any) -> None:
    """Hold one value against an annotation; messages call it `where`. Raises ValueError as `check` does."""
    _check_value(where, _Rule.of(annotation), value)


def _check_value(where: str, rule: _Rule, value: Any) -> None:
    if value is None and type(None) in rule.kinds:
        return
    if value in rule.choices if isinstance(value, str | int) else False:
        return
    kinds = {k for k in rule.kinds if k is not type(None) and get_origin(k) is not typing.Literal}
    said = [str(c) for c in rule.choices]
    if rule.choices and not kinds:
        raise ValueError(f"{where} must be one of {', '.join(said)}; got {short_repr(value)}")
    if kinds and kinds <= {int, float}:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not _is_finite(value) or (float not in kinds and int(value) != value):
            said.append(f"a {'finite' if float in kinds else 'whole'} number")
            raise ValueError(f"{where} must be {' or '.join(said)}, got {short_repr(value)}")
    if (
        bool in kinds
        and str not in kinds
        and not isinstance(value, bool)
        and not (rule.item and isinstance(value, list | tuple))
    ):
        raise ValueError(f"{where} must be True or False{' or a list' if rule.item else ''}, got {short_repr(value)}")
    if (
        rule.item
        and bool not in kinds
        and kinds == set(filter(_is_list, kinds))
        and not isinstance(value, list | tuple)
    ):
        raise ValueError(f"{where} must be {' or '.join([*said, 'a list'])}, got {short_repr(value)}")
    if isinstance(value, int | float):
        for words, bound, holds in rule.bounds:
            if not holds(value):
                raise ValueError(f"{where} must be {words} {bound_text(_limit(bound))}, got {short_repr(value)}")
    elif isinstance(value, list | tuple):
        if len(value) < rule.at_least:
            raise ValueError(f"{where} must have at least {rule.at_least} item(s), got {len(value)}")
        for i, part in enumerate(value if rule.item else ()):
            _check_value(f"{where}[{i}]", rule.item, part)  # type: ignore[arg-type]


def _is_finite(value: float) -> bool:
    """Of whole numbers those of 64 bits: what computes with them has no more."""
    return abs(value) <= sys.maxsize if isinstance(value, int) else math.isfinite(value)


def short_repr(value: Any) -> str:
    """A value as Python writes it, in at most 60 characters, and in bounded time however large it is.

    >>> short_repr("a" * 100)
    "'aaaaaaaaaaaaaaaaaaaaaaaaaa...aaaaaaaaaaaaaaaaaaaaaaaaaaa'"
    """
    # Python itself refuses to write integers of thousands of digits.
    text = "a huge number" if isinstance(value, int) and abs(value) > 10**400 else _SHORT.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 3, 58, 40, 60
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = 20


def bound_text(bound: Any) -> str:
    """A bound as people read it.

    >>> bound_text(1_000_000), bound_text(0.0001)
    ('1,000,000', '0.0001')
    """
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


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

"""What the recipe's schema is made of and says about itself: the base of its blocks, the reference of all keys, and
mistakes explained.

Works on any tree of blocks whose fields carry a description: a mistake is reported at its line in the YAML text,
with the known keys or values and the nearest one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, Tag, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from bootdiff.recipe.yaml import Document
from bootdiff.settings import annotations_of, bound_text, doc_of, short_repr

__all__ = ["Block", "Entry", "block_of", "explain", "fail", "in_yaml", "reference"]


class Block(BaseModel):
    """A block of keys: unknown ones are errors, text is not read as numbers, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


def block_of(
    cls: type,
    name: str | None = None,
    leave_out: Iterable[str] = (),
    base: type[BaseModel] | None = None,
    read: Mapping[str, Any] | None = None,
    optional: Iterable[str] = (),
    **more: Any,
) -> type[Any]:
    """A block of the recipe whose keys, bounds, defaults and meaning are those of a dataclass's fields.

    YAML has lists, so that tuples and other sequences are read as such.

    Args:
        cls: a dataclass whose annotations carry `Doc`.
        name: of the block; None: that of the dataclass.
        leave_out: fields that a recipe does not set.
        base: what the block inherits from; None: `Block`.
        read: what keys are read with beside their annotations: validators, further bounds.
        optional: keys that may be null, and are by default, for the dataclass's own default.
        more: further fields, or other ones in the place of those of the dataclass, as `create_model` takes them.
    """
    given: dict[str, Any] = {}
    hints = annotations_of(cls)
    for field in fields(cls):
        if field.name in leave_out:
            continue
        if field.name in more:
            given[field.name] = more[field.name]
            continue
        how: dict[str, Any] = {"description": doc_of(hints[field.name])}
        hint = in_yaml(hints[field.name])
        if field.name in optional:
            hint, how["default"] = Annotated[(get_args(hint)[0] | None, *get_args(hint)[1:])], None
        elif field.default is not MISSING:
            how["default"] = field.default
        elif field.default_factory is not MISSING:
            how["default_factory"] = field.default_factory
        if read and field.name in read:
            hint = Annotated[hint, read[field.name]]
        given[field.name] = (hint, Field(**how))
    made = create_model(name or cls.__name__, __base__=base or Block, __doc__=cls.__doc__, **(given | more))
    return made


def in_yaml(annotation: Any) -> Any:
    """An annotation with lists in place of tuples and other sequences.

    >>> in_yaml(tuple[int, ...] | None), in_yaml(tuple[str, int])
    (list[int] | None, list[str | int])
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return Annotated[(in_yaml(args[0]), *args[1:])]
    if origin in (tuple, Sequence):
        items = [in_yaml(a) for a in args if a is not ...]
        return list[reduce(or_, items)]  # type: ignore[misc]
    if origin is Union or type(annotation).__name__ == "UnionType":
        return reduce(or_, map(in_yaml, args))
    return annotation


class Entry(NamedTuple):
    """One key of the schema: dotted `key` (`<name>` for names the user chooses), `type`, `default`, `description`."""

    key: str
    type: str
    default: str
    description: str


def fail(problems: Iterable[tuple[tuple[str | int, ...], str]]) -> None:
    """Raise one ValidationError for cross-field `problems`, pairs (location, text); nothing if there are none."""
    errors = [
        InitErrorDetails(type=PydanticCustomError("cross_field", "{text}", {"text": text}), loc=loc, input=None)
        for loc, text in problems
    ]
    if errors:
        raise ValidationError.from_exception_data("recipe", errors)


def explain(error: ValidationError, model: type[BaseModel], document: Document) -> list[str]:
    """One line per mistake in `error`, in the order of the text: source, line, key, what is wrong, what to do."""
    lines: list[tuple[int, str]] = []
    for mistake in error.errors(include_url=False):
        keys = _follow(model, mistake["loc"])[1]
        shown, line = document.locate(keys)
        where = document.origin(keys) or (f"{document.source}, line {line}" if line else document.source)
        text = _what(mistake, model)
        entry = f"{where}: {shown}: {text}" if shown else f"{where}: {text}"
        if (line or 0, entry) not in lines:
            lines.append((line or 0, entry))
    return [entry for _, entry in sorted(lines, key=lambda pair: pair[0])]


_TYPES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list",
    "finite_number": "must be a finite number",
    "dict_type": "must be a block of names",
}

# Keys that recipes of 0.1 had, and what became of them.
_GONE = {
    "told": " (it is now called 'position_conditioned')",
    "news": " (it is now called 'screen')",
    "sees_views": " (it is now called 'uses_views')",
    "subspace": " (it was removed: it gained nothing; energy is what regularizes the residual)",
    "project": " (it was removed: it gained nothing; energy is what regularizes the residual)",
    "kappa": " (it was removed: the stack's weights are always fitted, one per expert and noise level)",
}

_LIMITS = {
    "greater_than": ("gt", "must be greater than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"),
    "less_than_equal": ("le", "must be at most"),
}


def _what(mistake: Any, model: type[BaseModel]) -> str:
    kind, got, context = mistake["type"], _shown(mistake["input"]), mistake.get("ctx", {})
    loc = mistake["loc"]
    if kind == "extra_forbidden":
        block = _walk(model, loc[:-1])
        known = list(block.model_fields) if block is not None else []
        hint = _GONE.get(str(loc[-1])) or _elsewhere(loc[-1], model) or _nearest(loc[-1], known)
        return f"unknown key; known keys: {', '.join(known)}{hint}"
    if kind == "missing":
        field = _field(model, loc)
        about = f": {field.description}" if field is not None and field.description else ""
        return f"missing, but required{about}"
    if kind in ("union_tag_invalid", "literal_error"):
        expected = context["expected_tags"] if kind == "union_tag_invalid" else context["expected"]
        given = context.get("tag", mistake["input"])
        known = re.findall(r"'([^']*)'", expected) or [expected]
        what = "unknown kind" if kind == "union_tag_invalid" else "must be one of the known values"
        return f"{what}, got {_shown(given)}; known: {', '.join(known)}{_nearest(given, known)}"
    if kind in ("union_tag_not_found", "model_type", "model_attributes_type"):
        block = _walk(model, loc)
        known = _kinds(_follow(model, loc)[0]) if block is None else list(block.model_fields)
        what = "has no 'kind'" if isinstance(mistake["input"], dict) else f"must be a block of keys, got {got}"
        return f"{what}; known {'kinds' if block is None else 'keys'}: {', '.join(known)}"
    if kind in _LIMITS:
        name, text = _LIMITS[kind]
        return f"{text} {bound_text(context[name])}, got {got}"
    if kind == "too_short":
        return f"must have at least {context['min_length']} item(s), got {context['actual_length']}"
    if kind == "too_long":
        return f"must have at most {context['max_length']} item(s), got {context['actual_length']}"
    if kind == "string_too_short":
        return "must not be empty"
    if kind == "string_pattern_mismatch":
        return f"must be lower-case letters, digits, '-' and '_', starting with a letter; got {got}"
    if kind in _TYPES:
        return f"{_TYPES[kind]}, got {got}"
    if kind == "value_error":
        return str(context["error"])
    return str(mistake["msg"])


def _shown(value: Any) -> str:
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a block of keys"
    return short_repr(value)


def _nearest(given: Any, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(given).lower(), known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _elsewhere(given: Any, model: type[BaseModel]) -> str:
    places = [f"{home}.{given}" for block, home in _homes(model).items() if home and given in block.model_fields]
    return f" (did you mean {' or '.join(map(repr, places[:3]))}?)" if places else ""


def _strip(annotation: Any) -> Any:
    """The annotation without Annotated and without `| None`."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
            continue
        members = _members(annotation)
        if len(members) == 1 and members[0] is not annotation:
            annotation = members[0]
            continue
        return annotation


def _members(annotation: Any) -> list[Any]:
    """The members of a union, None left out; [annotation] if it is none."""
    if get_origin(annotation) is Union or type(annotation).__name__ == "UnionType":
        return [member for member in get_args(annotation) if member is not type(None)]
    return [annotation]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _tag(member: Any) -> str | None:
    if get_origin(member) is Annotated and (tags := [m.tag for m in get_args(member)[1:] if isinstance(m, Tag)]):
        return str(tags[0])
    member = _strip(member)
    if not _is_model(member) or "kind" not in member.model_fields:
        return None
    return get_args(member.model_fields["kind"].annotation)[0]


def _kinds(annotation: Any) -> list[str]:
    return [tag for member in _members(_strip(annotation)) if (tag := _tag(member)) is not None]


def _follow(model: type[BaseModel], loc: Sequence[str | int]) -> tuple[Any, list[str | int]]:
    """The annotation at `loc`, a location as pydantic gives it, and `loc` without the kinds of unions in it."""
    here: Any = model
    keys: list[str | int] = []
    for part in loc:
        here = _strip(here)
        tagged = [member for member in _members(here) if _tag(member) == part] if len(_members(here)) > 1 else []
        if tagged:
            here = tagged[0]
            continue
        keys.append(part)
        if _is_model(here) and part in here.model_fields:
            here = here.model_fields[part].annotation
        elif get_origin(here) in (dict, list):
            here = get_args(here)[-1]
    return _strip(here), keys


def _walk(model: type[BaseModel], loc: Sequence[str | int]) -> type[BaseModel] | None:
    found, _ = _follow(model, loc)
    return found if _is_model(found) else None


def _field(model: type[BaseModel], loc: Sequence[str | int]) -> FieldInfo | None:
    block = _walk(model, loc[:-1])
    return block.model_fields.get(str(loc[-1])) if block is not None else None


def reference(model: type[BaseModel]) -> list[Entry]:
    """Every key of `model` and of the blocks inside it, in the order of the schema; each kind of block once."""
    return list(_entries(model, "", _homes(model)))


def _entries(model: type[BaseModel], prefix: str, homes: dict[type[BaseModel], str]) -> Iterator[Entry]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        inner = list(_blocks(field.annotation, key))
        kind = _type_name(field.annotation)
        home = _home(inner[0][1], homes) if inner else key
        if inner and home != inner[0][0]:
            kind += f", as {home.partition('[')[0]}"
        yield Entry(key, kind, _default(field), field.description or "")
        for place, block in inner:
            if homes.get(block) != place:
                continue
            tagged = place.endswith("]")  # its kind is said in its name
            if tagged:
                yield Entry(place, "block", "", (block.__doc__ or "").split("\n")[0])
            kind_key = f"{place}.kind" if tagged else None
            yield from (entry for entry in _entries(block, f"{place}.", homes) if entry.key != kind_key)


def _homes(model: type[BaseModel]) -> dict[type[BaseModel], str]:
    """Every block's model and the shortest dotted name under which it stands."""
    homes: dict[type[BaseModel], str] = {}
    queue: list[tuple[str, type[BaseModel]]] = [("", model)]
    for key, block in queue:  # grows: breadth first
        if _home(block, homes) is None:
            homes[block] = key
            for name, field in block.model_fields.items():
                queue += _blocks(field.annotation, f"{key}.{name}" if key else name)
    return homes


def _home(block: type[BaseModel], homes: dict[type[BaseModel], str]) -> Any:
    """Where `block` is described, by itself or as the base of a block that has all its fields unchanged."""
    for known, key in homes.items():
        if issubclass(known, block) and all(
            repr(known.model_fields[name]) == repr(field) for name, field in block.model_fields.items()
        ):
            return key
    return None


def _blocks(annotation: Any, key: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """The models directly inside a field at `key`, each with its dotted name: `key`, `key.<name>`, `key[kind]`."""
    annotation = _strip(annotation)
    if _is_model(annotation):
        yield key, annotation
    elif get_origin(annotation) is dict:
        yield from _blocks(get_args(annotation)[1], f"{key}.<name>")
    elif get_origin(annotation) is list:
        yield from _blocks(get_args(annotation)[0], key)
    else:
        for member in _members(annotation):
            if (tag := _tag(member)) is not None:
                yield f"{key}[{tag}]", _strip(member)


def _type_name(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    if annotation is Any:
        return "value"
    if get_origin(annotation) is Annotated:
        return _type_name(get_args(annotation)[0])
    if _is_model(annotation):
        return "block"
    if get_origin(annotation) is Literal:
        return " | ".join(str(value) for value in get_args(annotation))
    if get_origin(annotation) is dict:
        return f"names of {_type_name(get_args(annotation)[1])}s"
    if get_origin(annotation) is list:
        item = _type_name(get_args(annotation)[0])
        return f"list of {item.replace('list', 'lists', 1) if item.startswith('list') else item + 's'}"
    members = get_args(annotation)
    if members:
        return " | ".join(dict.fromkeys(_type_name(member) for member in members))
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true | false"}.get(
        annotation.__name__, annotation.__name__
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, dict):
        return ", ".join(value)
    return str(value)

"""What the recipe's schema says about itself: the reference of all keys, and mistakes explained.

Works on any tree of pydantic models whose fields carry a description: a mistake is reported at its line in the YAML
text, with the known keys or values and the nearest one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from .yaml_lines import Document

__all__ = ["Entry", "explain", "fail", "reference"]


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
        shown, line = document.locate(mistake["loc"])
        where = f"{document.source}, line {line}" if line else document.source
        text = _what(mistake, model)
        if isinstance(mistake["loc"][-1] if mistake["loc"] else None, int) and mistake["type"] == "missing":
            shown = shown.rpartition("[")[0]
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
        return f"unknown key; known keys: {', '.join(known)}{_nearest(loc[-1], known)}"
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
    if kind == "union_tag_not_found":
        known = _kinds(_annotation(model, loc))
        return f"must be a block with a 'kind', got {got}; known kinds: {', '.join(known)}"
    if kind in ("model_type", "model_attributes_type"):
        block = _walk(model, loc)
        known = list(block.model_fields) if block is not None else []
        return f"must be a block of keys, got {got}; known keys: {', '.join(known)}"
    if kind in _LIMITS:
        name, text = _LIMITS[kind]
        return f"{text} {context[name]:g}, got {got}"
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
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _nearest(given: Any, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(given).lower(), known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


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
    member = _strip(member)
    if not _is_model(member) or "kind" not in member.model_fields:
        return None
    return get_args(member.model_fields["kind"].annotation)[0]


def _kinds(annotation: Any) -> list[str]:
    return [tag for member in _members(_strip(annotation)) if (tag := _tag(member)) is not None]


def _annotation(model: type[BaseModel], loc: Sequence[str | int]) -> Any:
    """The annotation at `loc`, a location as pydantic gives it (with the kinds of unions among the parts)."""
    here: Any = model
    for part in loc:
        here = _strip(here)
        tagged = [member for member in _members(here) if _tag(member) == part]
        if _is_model(here) and part in here.model_fields:
            here = here.model_fields[part].annotation
        elif len(_members(here)) > 1 and tagged:
            here = tagged[0]
        elif get_origin(here) in (dict, list):
            here = get_args(here)[-1]
    return _strip(here)


def _walk(model: type[BaseModel], loc: Sequence[str | int]) -> type[BaseModel] | None:
    found = _annotation(model, loc)
    return found if _is_model(found) else None


def _field(model: type[BaseModel], loc: Sequence[str | int]) -> FieldInfo | None:
    block = _walk(model, loc[:-1])
    return block.model_fields.get(str(loc[-1])) if block is not None else None


def reference(model: type[BaseModel], prefix: str = "") -> Iterator[Entry]:
    """Every key of `model` and of the blocks inside it, in the order of the schema."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        yield Entry(key, _type_name(field.annotation), _default(field), field.description or "")
        yield from _inside(field.annotation, key)


def _inside(annotation: Any, key: str) -> Iterator[Entry]:
    annotation = _strip(annotation)
    if _is_model(annotation):
        if annotation.__name__ != key.rpartition(".")[2]:
            yield from reference(annotation, f"{key}.")
    elif get_origin(annotation) is dict:
        yield from _inside(get_args(annotation)[1], f"{key}.<name>")
    elif get_origin(annotation) is list:
        yield from _inside(get_args(annotation)[0], key)
    else:
        for member in _members(annotation):
            tag = _tag(member)
            if tag is not None:
                fields = _strip(member)
                yield Entry(f"{key}[{tag}]", "block", "", (fields.__doc__ or "").split("\n")[0])
                for entry in reference(fields, f"{key}[{tag}]."):
                    if not entry.key.endswith(".kind"):
                        yield entry


def _type_name(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    if get_origin(annotation) is Annotated:
        return _type_name(get_args(annotation)[0])
    if _is_model(annotation):
        return "block"
    if get_origin(annotation) is Literal:
        return " | ".join(str(value) for value in get_args(annotation))
    if get_origin(annotation) is dict:
        return f"names of {_type_name(get_args(annotation)[1])}s"
    if get_origin(annotation) is list:
        return f"list of {_type_name(get_args(annotation)[0])}"
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

"""YAML text to plain data, with the line of every key kept.

The scalars follow YAML 1.2's core schema: ``1e-3`` is a number, ``no`` and ``12:30`` are text, ``010`` is ten; only
``true`` and ``false`` are booleans. Duplicate keys, tags and self-containing anchors are refused. Anchors, aliases and
merge keys (``<<: *base``) work; a key written out wins over a merged one. A text that is too long, too deep, or unfolds
to too much through its anchors is refused before anything is built of it, in bounded time and memory.
Source: YAML 1.2.2, chapter 10.3 (core schema); the stock PyYAML loader follows YAML 1.1.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from bootdiff.errors import BootdiffError

__all__ = ["MOST_CHARACTERS", "Document", "parse_yaml"]

_TAG = "tag:yaml.org,2002:"

MOST_CHARACTERS = 1 << 20
"""Of a recipe's text."""

# People write some hundred keys; PyYAML reads twenty thousand keys and values in a second.
_MOST_NODES, _MOST_DEEP, _MOST_UNFOLDED = 20_000, 50, 200_000


class _TooMuchError(yaml.MarkedYAMLError):
    """A text beyond what is read."""


class _Loader(yaml.SafeLoader):
    """Composes nodes, not too many; its implicit resolvers are those of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own protocol)
    _nodes = _depth = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        self._nodes += 1
        self._depth += 1
        reason = None
        if self._depth > _MOST_DEEP:
            reason = f"blocks lie in each other more than {_MOST_DEEP} deep; a recipe needs fewer"
        elif self._nodes > _MOST_NODES:
            reason = f"more than {_MOST_NODES:,} keys and values; is this a recipe? Data belong into their own files"
        if reason is not None:
            raise _TooMuchError(problem=reason, problem_mark=self.peek_event().start_mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(f"(?:{_pattern})$"), _first)


def _number(text: str) -> int:
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-")
    # No more than 64 bits: what computes with it has no more either.
    found = int(digits, {"0x": 16, "0o": 8}.get(digits[:2], 10)) if len(digits) < 30 else sys.maxsize + 1
    if found > sys.maxsize:
        raise ValueError(f"is a number of {len(digits)} digits; no key takes more than {sys.maxsize:,}")
    return sign * found


_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": _number,
    "float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    "str": str,
    "merge": str,
}


@dataclass(frozen=True)
class Document:
    """A parsed YAML text.

    Attributes:
        data: dictionaries, lists, numbers, text, booleans and None.
        source: the file's name, for messages.
        changes: what was put into the data afterwards: path of keys -> what messages call it.
    """

    data: Any
    source: str
    _children: dict[int, dict[str | int, tuple[int, yaml.Node]]]
    _root: yaml.Node
    changes: Mapping[tuple[str, ...], str] = field(default_factory=dict)

    def origin(self, loc: Sequence[str | int]) -> str | None:
        """What messages call the change that `loc`, a path of keys and indices, is part of; None: it is in the text."""
        path, node, written = tuple(map(str, loc)), self._root, True
        for part in loc:
            child = self._children.get(id(node), {}).get(part)
            written = written and child is not None
            node = node if child is None else child[1]
        found = [
            text
            for keys, text in self.changes.items()
            if path[: len(keys)] == keys or (not written and keys[: len(path)] == path)
        ]
        return found[-1] if found else None

    def locate(self, loc: Sequence[str | int]) -> tuple[str, int | None]:
        """Where `loc`, a path of keys and indices, stands: its dotted name and its line (from 1).

        What is not in the text is named all the same, at the line of the block it is missing from; indices and
        "[key]" (pydantic's word for a key itself) are left out then. The line is None for the whole text.

        >>> parse_yaml("a:\\n  b: [1, 2]", "x.yaml").locate(["a", "b", 1])
        ('a.b[1]', 2)
        >>> parse_yaml("a:\\n  b: [1, 2]", "x.yaml").locate(["a", "c"])
        ('a.c', 1)
        """
        node: yaml.Node | None = self._root
        line, shown = None, ""
        for part in loc:
            child = self._children.get(id(node), {}).get(part)
            if child is not None:
                line, node = child
            elif isinstance(part, int) or part == "[key]":
                continue
            else:
                node = None
            shown += f"[{part}]" if isinstance(part, int) else f".{part}" if shown else part
        return shown, line


class _Reader:
    """Turns composed nodes into plain data; collects what is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[tuple[int, str]] = []
        self.children: dict[int, dict[str | int, tuple[int, yaml.Node]]] = {}
        self._made: dict[int, Any] = {}
        self._unfolded: dict[int, int] = {}  # values in a node, those of its anchors as often as they are named
        self._open: set[int] = set()

    def read(self, node: yaml.Node) -> Any:
        if id(node) in self._made:
            return self._made[id(node)]
        if id(node) in self._open:
            self._complain(node, "this anchor contains itself; write the block out")
            return None
        self._open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            value: Any = self._mapping(node)
        elif isinstance(node, yaml.SequenceNode):
            self._check_tag(node)
            self.children[id(node)] = {i: (_line(item), item) for i, item in enumerate(node.value)}
            value = [self.read(item) for item in node.value]
            self._count(node, node.value)
        else:
            value = self._scalar(node)
        self._open.discard(id(node))
        self._made[id(node)] = value
        return value

    def _count(self, node: yaml.Node, parts: Sequence[yaml.Node]) -> None:
        count = 1 + sum(self._unfolded.get(id(part), 1) for part in parts)
        if count > _MOST_UNFOLDED:
            self._complain(node, f"its anchors unfold to more than {_MOST_UNFOLDED:,} values; name fewer of them")
            count = 1  # said once
        self._unfolded[id(node)] = count

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        self._check_tag(node)
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        parts: list[yaml.Node] = []
        lines: dict[str | int, tuple[int, yaml.Node]] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._complain(key_node, "a key must be plain text")
                continue
            key = key_node.value
            if key_node.tag == _TAG + "merge":
                blocks = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                parts += blocks
                for block in blocks:
                    part = self.read(block)
                    if not isinstance(part, dict):
                        self._complain(block, "'<<' must name a block of keys")
                        continue
                    merged = {**part, **merged}
                    lines = {**self.children.get(id(block), {}), **lines}
                continue
            if key in own:
                self._complain(
                    key_node, f"the key {_short(key)} is already given on line {lines[key][0]}; keep one of them"
                )
                continue
            own[key] = self.read(value_node)
            parts.append(value_node)
            lines[key] = (_line(key_node), value_node)
        self.children[id(node)] = lines
        self._count(node, parts)
        return {**merged, **own}

    def _check_tag(self, node: yaml.Node) -> None:
        if node.tag not in (_TAG + "map", _TAG + "seq"):
            self._complain(node, f"the tag {node.tag} is not understood; leave it out")

    def _scalar(self, node: yaml.Node) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if node.tag == kind or kind not in _SCALARS:
            self._complain(node, f"the tag {node.tag} is not understood; leave it out")
            return None
        try:
            node.value.encode()
            if "\0" in node.value:
                raise ValueError
            return _SCALARS[kind](node.value)
        except ValueError as error:
            # Python's own reasons begin otherwise.
            reason = str(error) if str(error).startswith("is ") else f"cannot be read as {kind}"
            self._complain(node, f"{_short(node.value)} {reason}")
            return None

    def _complain(self, node: yaml.Node, text: str) -> None:
        self.problems.append((_line(node), text))


def _short(text: str) -> str:
    shown = repr(text[:61])
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def parse_yaml(text: str, source: str) -> Document:
    """Parse one YAML document.

    Args:
        text: the YAML text.
        source: the file's name, for messages.

    Raises:
        BootdiffError: not YAML, too much of it, more than one document, a duplicate key, a tag; with the lines.
    """
    if len(text) > MOST_CHARACTERS:
        raise BootdiffError(
            f"{source}: longer than {MOST_CHARACTERS:,} characters; is this a recipe? Data belong into their own files"
        )
    try:
        root = yaml.compose(text, Loader=_Loader)
    except _TooMuchError as error:
        raise BootdiffError(f"{source}, line {error.problem_mark.line + 1}: {error.problem}") from None  # type: ignore[union-attr]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = " ".join(part for part in (error.context, error.problem) if part)
        hint = "indent with spaces, not tabs" if "\\t" in what else "check the indentation, colons and quotes there"
        raise BootdiffError(f"{source}{where}: not valid YAML: {what}; {hint}") from None
    except yaml.YAMLError as error:
        first = str(error).splitlines()[0]
        raise BootdiffError(f"{source}: not valid YAML: {first}; save the file as plain UTF-8 text") from None
    if root is None:
        return Document(None, source, {}, yaml.ScalarNode(_TAG + "null", ""))
    reader = _Reader()
    data = reader.read(root)
    if reader.problems:
        raise BootdiffError("\n".join(f"{source}, line {line}: {text}" for line, text in sorted(reader.problems)))
    return Document(data, source, reader.children, root)

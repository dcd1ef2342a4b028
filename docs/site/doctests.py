"""Examples in docstrings (`>>> ...` and what it gives) as code."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^(?:[ \t]*>>>.*\n?(?:[ \t]*\S.*\n?)*)+", re.MULTILINE)


def fenced(text: str) -> str:
    """Every run of example lines, up to an empty one, as a fenced block of its own."""

    def block(found: re.Match[str]) -> str:
        lines = found[0].rstrip("\n").split("\n")
        pad = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
        return "\n".join([f"{pad}```python", *lines, f"{pad}```", ""])

    return _EXAMPLE.sub(block, text)


class Doctests(griffe.Extension):
    """Told of every object that is read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None and ">>>" in obj.docstring.value:
            obj.docstring.value = fenced(obj.docstring.value)

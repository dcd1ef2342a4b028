"""Changes to a recipe from outside its file, one key at a time: `--set training.steps=10`.

A change is KEY=VALUE: KEY is dotted, an index where the recipe has a list (`levels.0`), VALUE is YAML. It is made to
the recipe's data before they are validated, so that a changed recipe is held to what a written one is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bootdiff.errors import BootdiffError
from bootdiff.recipe.yaml import Document, parse_yaml

__all__ = ["change"]


def change(document: Document, changes: Sequence[str]) -> Document:
    """The document with the `changes`, the last one of a key being the one that counts.

    Raises:
        BootdiffError: no KEY=VALUE, a VALUE that is not YAML, a KEY inside of what is no block.
    """
    for text in changes:
        key, equals, value = text.partition("=")
        keys = key.strip().split(".")
        if not equals or not all(keys):
            raise BootdiffError(f"--set {text}: must be KEY=VALUE, such as training.steps=10")
        data = _with(document.data, keys, parse_yaml(value, f"--set {text}").data, text)
        document = replace(document, data=data, changes={**document.changes, tuple(keys): f"--set {text}"})
    return document


def _with(block: Any, keys: Sequence[str], value: Any, text: str, path: str = "") -> Any:
    """`block` with `value` at `keys`; what is not on the way is shared with it, and the block itself is left alone:
    an anchor's block stands at several places."""
    if not keys:
        return value
    key, *rest = keys
    inner = f"{path}.{key}" if path else key
    if block is None or isinstance(block, dict):
        block = block or {}
        return {**block, key: _with(block.get(key), rest, value, text, inner)}
    if isinstance(block, list):
        if not key.isdecimal() or int(key) >= len(block):
            raise BootdiffError(f"--set {text}: {path} is a list of {len(block)}: give an index below that, from 0")
        at = int(key)
        return [*block[:at], _with(block[at], rest, value, text, inner), *block[at + 1 :]]
    raise BootdiffError(
        f"--set {text}: {path} is {block!r} in the recipe and has no keys inside; set it as a whole: "
        f"--set '{path}={{{'.'.join(keys)}: ...}}'"
    )

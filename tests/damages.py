"""What can happen to a file at rest, by what it holds: name -> what becomes of its bytes, None where it is lost."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[bytes], bytes] | None


def _flip(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def _digit(data: bytes, found: list[re.Match[bytes]]) -> bytes:
    """Another digit in the middle one of these places."""
    at = found[len(found) // 2].start(1)
    return data[:at] + str((int(data[at : at + 1]) + 3) % 10).encode() + data[at + 1 :]


def _header(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def _value(data: bytes) -> int:
    """Where a float32 in the middle of a safetensors file begins."""
    return _header(data) + (len(data) - _header(data)) // 2 // 4 * 4


def _line(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def of(data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        k = len(lines) // 2
        return b"".join([*lines[:k], change(lines[k]), *lines[k + 1 :]])

    return of


_ANY: dict[str, Damage] = {"cut in half": lambda data: data[: len(data) // 2], "empty": lambda data: b"", "lost": None}
_DIGIT = re.compile(rb"[\s\[\"-](\d)")
JSON: dict[str, Damage] = {
    "bit": lambda data: _flip(data, len(data) // 2, 1),
    "bad utf-8": lambda data: _flip(data, len(data) // 2, 7),
    "digit": lambda data: _digit(data, list(_DIGIT.finditer(data))),
    "object": lambda data: b"{}",
    "null": lambda data: b"null",
    "list": lambda data: b"[]",
    "number": lambda data: b"5",
    "deep": lambda data: b"[" * 100_000 + b"]" * 100_000,
    **_ANY,
}
TENSORS: dict[str, Damage] = {
    "bit of the length": lambda data: _flip(data, 1, 3),
    "bit of the header": lambda data: _flip(data, 8 + (_header(data) - 8) // 3, 0),
    "our key": lambda data: data.replace(b"bootdiff", b"bootdigf", 1),
    "low bit of a value": lambda data: _flip(data, _value(data), 1),
    "high bit of a value": lambda data: _flip(data, _value(data) + 3, 6),
    "a byte less": lambda data: data[:-1],
    "a byte more": lambda data: data + b"x",
    **_ANY,
}
ROWS: dict[str, Damage] = {
    "quote": _line(lambda line: _flip(line, 1, 1)),
    "digit": _line(lambda line: _digit(line, list(_DIGIT.finditer(line)))),
    "bad utf-8": _line(lambda line: _flip(line, 4, 7)),
    "number": _line(lambda line: b"5\n"),
    "no step": _line(lambda line: b'{"stage": "full-local"}\n'),
    "text": _line(lambda line: b'{"stage": "full-local", "step": "x"}\n'),
    "list": _line(lambda line: b'{"stage": "full-local", "step": 3, "heldout": [1]}\n'),
    "half a line": _line(lambda line: line[:9] + b"\n"),
    **_ANY,
}


def of(name: str) -> dict[str, Damage]:
    """The damages of a file of this name."""
    suffix = Path(name).suffix
    return {".safetensors": TENSORS, ".jsonl": ROWS}.get(suffix, JSON)


def copy(run: Path, to: Path) -> Path:
    """A copy of a run that shares its files: one that is to be damaged is replaced, not written."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(run, to, copy_function=os.link)
    (to / "lock").unlink(missing_ok=True)
    for name in ("metrics.jsonl", "lock"):  # written in place
        if (run / name).is_file():
            (to / name).unlink(missing_ok=True)
            shutil.copy(run / name, to / name)
    return to


def do(path: Path, damage: str) -> None:
    """Damage a file of a `copy`."""
    change, data = of(path.name)[damage], path.read_bytes()
    path.unlink()
    if change is not None:
        damaged = change(data)
        assert damaged != data
        path.write_bytes(damaged)

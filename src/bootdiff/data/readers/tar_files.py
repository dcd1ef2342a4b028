"""What lies where in a tar file: names, places and lengths of its regular files. Nothing is ever unpacked to a disk.

A tar file is a row of members, each a header of 512 bytes and its content, filled up to whole blocks of 512; a block of
zeros ends it. Long names come in a member of their own before the one they belong to (GNU's type L, POSIX's type x).
Everything is held against the length of the file before memory is taken for it. `tarfile` is not used: it reads such
members of any size, takes seconds for what is read here in one, and says of a file that is cut off at a member's end
that it is whole.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from bootdiff.data.readers.decode import Undecodable, check_regular

__all__ = ["Table", "packed_as", "read_at", "read_table"]

_BLOCK = 512
_MOST = 1 << 16  # bytes of a long name and other remarks on one member
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_NO_FILES = {
    b"1": "link(s)", b"2": "link(s)", b"3": "device(s)", b"4": "device(s)", b"6": "pipe(s)",
    b"S": "sparse file(s)",
}  # fmt: skip


class _Damaged(ValueError):
    """Where reading a tar file ends before its end; the message is the reason alone."""


@dataclass
class Table:
    """The regular files in a tar file: their names, where their content begins, and its length in bytes.

    passed: counts of members that are none, or whose names lead out of it. damage: (member, reason) where reading ended
    before the end; the member is "" where it is not one of them.
    """

    names: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    passed: dict[str, int] = field(default_factory=dict)
    damage: tuple[str, str] | None = None

    def plain(self) -> list[Any]:
        """As an index keeps it."""
        return [self.names, self.offsets, self.sizes, self.passed, self.damage]

    @staticmethod
    def is_plain(value: Any) -> bool:
        """Whether a value is one of `plain`, of a table without damage."""
        return (
            isinstance(value, list)
            and len(value) == 5
            and all(isinstance(part, list) for part in value[:3])
            and len(value[0]) == len(value[1]) == len(value[2])
            and all(type(name) is str for name in value[0])
            and all(type(n) is int and n >= 0 for n in (*value[1], *value[2]))
            and isinstance(value[3], dict)
            and all(type(n) is int for n in value[3].values())
            and value[4] is None
        )


def packed_as(start: bytes) -> str | None:
    """The packing of a file that begins with these bytes; None for none that is known."""
    return next((name for magic, name in _PACKED.items() if start.startswith(magic)), None)


def read_table(path: Path) -> Table:
    """What lies where in a tar file.

    Raises Undecodable for what is no tar file, or cannot be read.
    """
    table, passed = Table(), Counter[str]()
    try:
        check_regular(path)
        with path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            start = file.read(8)
            if packing := packed_as(start):
                raise Undecodable(
                    f"is packed as a whole ({packing}), so that nothing can be read from the middle of it; unpack it "
                    "once, and give the .tar"
                )
            if length == 0:
                raise Undecodable("is empty")
            try:
                for name, offset, size, kind in _members(file, length):
                    if kind is not None:
                        passed[kind] += 1
                        continue
                    table.names.append(name)
                    table.offsets.append(offset)
                    table.sizes.append(size)
            except _Damaged as error:
                member, reason = error.args
                if not table.names and not passed and not member:
                    raise Undecodable(f"{reason}; it is no tar file") from None
                table.damage = member, reason
    except OSError as error:
        raise Undecodable(f"cannot be read ({error.strerror})") from None
    table.passed = dict(passed)
    return table


def _members(file: BinaryIO, length: int) -> Iterator[tuple[str, int, int, str | None]]:
    """Name, place and size of each member, and what it is where it is no file to be read. Raises _Damaged."""
    at, last = 0, ""
    long: dict[str, Any] = {}  # what was remarked on the member that comes next
    while True:
        file.seek(at)
        header = file.read(_BLOCK)
        if len(header) < _BLOCK:
            after = f"after {last}" if last else "at its beginning"
            raise _Damaged("", f"is cut off {after}: the mark of its end is missing (or its writer was not closed)")
        if not any(header):
            return
        if not _sum_is_right(header):
            raise _Damaged("", f"is damaged at byte {at:,}" + (f", after {last}" if last else ""))
        kind = header[156:157]
        name, size = _name(header), _number(header[124:136], at)
        is_remark = kind in (b"L", b"K", b"x", b"g")
        if not is_remark:
            name, size = long.get("path", name), long.get("size", size)
        offset = at + _BLOCK
        if offset + size > length:
            raise _Damaged(
                "" if is_remark else name, f"is cut off: {size:,} bytes are announced, {length - offset:,} are there"
            )
        at = offset + -(-size // _BLOCK) * _BLOCK
        if is_remark:
            if size > _MOST:
                raise _Damaged("", f"has remarks of {size:,} bytes on a member, after {last or 'its beginning'}")
            content = file.read(size)
            if kind == b"L":
                long["path"] = _text(content.split(b"\0")[0])
            elif kind in (b"x", b"g"):
                found = _remarks(content, last)
                if kind == b"g" and found:
                    raise _Damaged("", f"gives all its members one name or size, after {last or 'its beginning'}")
                long |= found
            continue
        passed = "sparse file(s)" if long.get("sparse") else _NO_FILES.get(kind)
        long = {}
        last = name
        if kind == b"5" or name.endswith("/"):
            continue
        name = name.removeprefix("./")
        if passed is None and not _stays_inside(name):
            passed = "name(s) that lead out of their shard, or cannot be shown"
        if passed is None and kind not in (b"0", b"\0", b"7"):
            passed = "member(s) of unknown types"
        if passed is None and any(part.startswith(".") for part in name.split("/")):
            continue  # hidden files, as in folders
        yield name, offset, size, passed


def _stays_inside(name: str) -> bool:
    is_plain = bool(name) and not any(ord(c) < 32 or ord(c) == 127 for c in name)
    return is_plain and not name.startswith("/") and ".." not in name.split("/")


def _sum_is_right(header: bytes) -> bool:
    try:
        said = int(header[148:156].strip(b"\0 ") or b"-", 8)
    except ValueError:
        return False
    return said == sum(header[:148]) + 8 * ord(" ") + sum(header[156:])


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _number(text: bytes, at: int) -> int:
    """A size: digits of base 8, or a number of base 256 with the first bit set."""
    try:
        if text[0] == 0x80:
            return int.from_bytes(text[1:], "big")
        digits = text.strip(b"\0 ")
        if digits and not digits.isdigit():
            raise ValueError
        return int(digits or b"0", 8)
    except ValueError:
        raise _Damaged("", f"is damaged at byte {at:,}: a size is no number") from None


def _remarks(content: bytes, last: str) -> dict[str, Any]:
    """What POSIX's records "LENGTH KEY=VALUE" say of the name and the size of a member. Raises _Damaged."""
    found: dict[str, Any] = {}
    try:
        while content.strip(b"\0"):
            digits, _, _ = content[:20].partition(b" ")
            length = int(digits)
            if not len(digits) + 3 <= length <= len(content):
                raise ValueError
            key, _, value = content[len(digits) + 1 : length - 1].partition(b"=")
            content = content[length:]
            if key == b"path":
                found["path"] = _text(value)
            elif key == b"size":
                found["size"] = int(value)
                if found["size"] < 0:
                    raise ValueError
            elif key.startswith(b"GNU.sparse."):
                found["sparse"] = True
    except ValueError:
        raise _Damaged("", f"is damaged in the remarks on a member, after {last or 'its beginning'}") from None
    return found


def read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """`size` bytes from a place in an open file. Raises Undecodable where they are not there."""
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise Undecodable(f"is cut off: {len(data):,} of {size:,} bytes are there")
    return data

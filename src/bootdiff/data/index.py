"""What was learned of files when they were last opened, kept in the user's cache folder.

An entry is believed while its file has the size and the time of change (in ns) that it had before it was read. Clocks
of file systems are coarse: a file may be written twice within one tick of them. So a file that was changed less than
two seconds before it was read is not noted, and read again next time. What is not found out is a change that keeps both
size and time.

An index is never needed: without a cache folder, with one that cannot be written, or with a file in it that is damaged,
foreign or of another version, files are read as if there were none. Two processes may write one at once: files
appear whole or not at all (`os.replace`), and the last one counts. Nothing is ever written beside the data.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from bootdiff import __version__

__all__ = ["RECENT", "VARIABLE", "Index", "Stamp", "cache_folder", "stamp_of"]

VARIABLE = "BOOTDIFF_CACHE"
"""The environment's variable that names the cache folder; empty: none."""

Stamp = tuple[int, int]
"""Size of a file in bytes, and the time of its last change in ns."""

RECENT = 2_000_000_000
"""ns, longer than the ticks of file systems: what was changed so shortly before it was read may have changed since."""

_FORM = 1  # of the files; others are made again
_LONGEST = 1 << 30  # bytes


def cache_folder() -> Path | None:
    """Where this user's caches lie: $BOOTDIFF_CACHE, else $XDG_CACHE_HOME/bootdiff, else ~/.cache/bootdiff; None for
    nowhere."""
    said = os.environ.get(VARIABLE)
    if said == "":
        return None
    base = os.environ.get("XDG_CACHE_HOME", "")
    # A relative $XDG_CACHE_HOME is invalid by its specification, and ignored.
    path = Path(said) if said else Path(base if os.path.isabs(base) else "~/.cache") / "bootdiff"
    try:
        return path.expanduser()
    except RuntimeError:  # nobody's home is known
        return None


def stamp_of(path: str | Path) -> Stamp | None:
    """The stamp of a regular file; None for all else."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


class Index:
    """Values, plain as JSON has them, by the name of a file and its stamp.

    Args:
        root: the folder or file that the names belong to.
        settings: what else the values depend on, by its `repr`.
        valid: whether a value that was read has the form that is needed; any other is not used.
        kept: False: nothing is read or written.
    """

    def __init__(self, root: str | Path, settings: object, valid: Callable[[Any], bool], *, kept: bool = True) -> None:
        folder = cache_folder() if kept else None
        self._about = [_FORM, __version__, os.path.realpath(root), repr(settings)]
        name = hashlib.sha256(json.dumps(self._about).encode()).hexdigest()[:32]
        self._path = None if folder is None else folder / "index" / f"{name}.json"
        self._valid, self._changed = valid, False
        self._before = time.time_ns() - RECENT
        self._entries: dict[str, list[Any]] = self._read()

    def _read(self) -> dict[str, list[Any]]:
        if self._path is None:
            return {}
        try:
            stamp = stamp_of(self._path)
            if stamp is None or stamp[0] > _LONGEST:
                return {}
            sum_, _, text = self._path.read_bytes().partition(b"\n")
            if hashlib.sha256(text).hexdigest().encode() != sum_:
                return {}
            about, entries = json.loads(text)
        except (OSError, ValueError, TypeError, RecursionError, MemoryError):
            return {}
        return entries if about == self._about and isinstance(entries, dict) else {}

    def get(self, name: str, stamp: Stamp | None) -> Any:
        """What is known of a file as it is now; None for nothing."""
        entry = self._entries.get(name)
        if stamp is None or not isinstance(entry, list) or len(entry) != 3 or tuple(entry[:2]) != stamp:
            return None
        return entry[2] if self._valid(entry[2]) else None

    def put(self, name: str, stamp: Stamp | None, value: Any) -> None:
        """Note what was learned of a file. stamp: from before it was read."""
        if stamp is None or stamp[1] >= self._before:
            return
        entry = [*stamp, value]
        if self._entries.get(name) != entry:
            self._entries[name], self._changed = entry, True

    def save(self, names: Collection[str]) -> None:
        """Write down what is known of these files, unless that is written already. Where it cannot be, nothing is."""
        gone = self._entries.keys() - set(names)
        if self._path is None or not (gone or self._changed):
            return
        for name in gone:
            del self._entries[name]
        text = json.dumps([self._about, self._entries], separators=(",", ":")).encode()
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, made = tempfile.mkstemp(".tmp", "index-", self._path.parent)
            try:
                with open(handle, "wb") as file:
                    file.write(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
                os.replace(made, self._path)
            except OSError:
                os.unlink(made)
        self._changed = False

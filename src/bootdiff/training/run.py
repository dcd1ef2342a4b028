"""The run directory: everything that a training leaves on disk, and the rules that make it survive being killed.

Every file but one is replaced atomically (files.py), so it is the old one or the new one, never a part. The one that
grows in place is ``metrics.jsonl``; a line torn by a kill is cut off when the run is opened again. A training that
resumes at step s first drops its rows after s, so the rows are those of a run that was never interrupted.

    run/
      lock                  held (flock) by the process that writes; the kernel frees it however that process ends
      recipe.yaml           the recipe the run was started with: another recipe does not go on in this directory
      run.json              fingerprint of the data
      provenance.json       one entry per session: versions, command, platform, threads, seed
      metrics.jsonl         one JSON object per line, each with "stage" and "step"
      <stage>/              checkpoint, snapshots and final weights of one stage; done.json marks it complete
"""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import platform
import re
import shlex
import socket
import sys
import time
import weakref
from pathlib import Path
from typing import IO, Any

import torch

from bootdiff.errors import BootdiffError
from bootdiff.training.files import (
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    is_full,
    load_tensors,
    no_room,
    read_json,
    read_metrics,
    rows_and_lines,
    save_tensors,
    strict_json,
)

__all__ = [
    "Run",
    "StageDir",
    "atomic_write_bytes",
    "atomic_write_json",
    "atomic_write_text",
    "command_line",
    "load_tensors",
    "read_json",
    "read_metrics",
    "save_tensors",
]

_PACKAGES = ("bootdiff", "torch", "numpy", "diffusers", "accelerate", "safetensors")


# --- the lock ---------------------------------------------------------------------------------------------------------

_HELD: weakref.WeakSet[IO[str]] = weakref.WeakSet()


def _drop_in_child() -> None:
    # flock belongs to the open file, which a forked data worker shares: without this the run would stay locked for as
    # long as an orphaned worker lives. Closing the child's copy leaves the parent's lock alone.
    for file in list(_HELD):
        file.close()


os.register_at_fork(after_in_child=_drop_in_child)


def _lock(directory: Path) -> IO[str]:
    import fcntl

    path = directory / "lock"
    file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="utf-8")  # noqa: SIM115 (held)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = file.read()
        file.close()
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise BootdiffError(f"{path}: cannot be locked ({error}); put the run on another file system") from None
        try:
            about = json.loads(owner)
            who = f"process {about['pid']} on {about['host']} (started {about['started']}: {about['command']})"
        except (ValueError, KeyError):
            who = "another process"  # it has the lock but has not yet written who it is
        raise BootdiffError(
            f"{directory}: this run is in use by {who}. Wait for it to end, stop it, or choose another directory."
        ) from None
    owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": _now(), "command": command_line()})
    file.truncate(0)
    file.write(owner)
    file.flush()
    _HELD.add(file)
    return file


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def command_line() -> str:
    """The command of this process as a shell takes it, its program without the folder: it is read on other machines."""
    program = Path(sys.argv[0]).name
    return shlex.join(["bootdiff" if program == "__main__.py" else program, *sys.argv[1:]])


# --- the run ----------------------------------------------------------------------------------------------------------


class Run:
    """One run directory. ``Run.open`` to write (holds the lock until ``close``), ``Run.read`` to read beside a writer.

    A context manager; ``path`` is the directory, ``writer`` says whether this process may write.
    """

    def __init__(self, path: Path, lock: IO[str] | None) -> None:
        self.path = path
        self._lock = lock
        self._metrics: Any = None  # unbuffered binary file, opened by the first row

    @classmethod
    def open(
        cls, path: str | Path, recipe_text: str, fingerprint: str = "", *, seed: int | None = None, main: bool = True
    ) -> Run:
        """Open or create the run in ``path`` for this recipe (YAML text) and this data (``fingerprint``).

        With several processes all but one pass ``main=False``: they neither lock nor write.
        Raises BootdiffError when another process has it open (names the pid), when it was started with another recipe
        (names the keys that differ; comments and spacing do not count) or on other data.
        """
        path = Path(path).expanduser().absolute()
        if not main:
            return cls(path, None)
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = _lock(path)
        except (FileExistsError, NotADirectoryError):
            raise BootdiffError(f"{path}: a file is in the way; choose another directory for the run") from None
        except (PermissionError, IsADirectoryError) as error:
            raise BootdiffError(f"{path}: cannot write there ({error.strerror}); choose another directory") from None
        run = cls(path, lock)
        try:
            for folder in (path, *path.iterdir()):
                if folder == path or not (folder / "lock").exists():  # a run of its own, as seed-1 beside others is
                    _sweep(folder)
            run._claim(recipe_text, fingerprint)
            run._add_provenance(seed)
            run._cut_torn_line()
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def read(cls, path: str | Path) -> Run:
        """Open an existing run without the lock, to read it. Raises BootdiffError where there is no run."""
        path = Path(path).expanduser().absolute()
        if not (path / "recipe.yaml").is_file():
            raise BootdiffError(f"{path}: not a run directory (no recipe.yaml in it); check the path, or train first")
        return cls(path, None)

    def close(self) -> None:
        """Give the lock back. Doing it twice does no harm."""
        if self._metrics is not None:
            self._metrics.close()
        if self._lock is not None:
            self._lock.close()
        self._metrics = self._lock = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def writer(self) -> bool:
        return self._lock is not None

    @property
    def recipe_text(self) -> str:
        return (self.path / "recipe.yaml").read_text(encoding="utf-8")

    @property
    def fingerprint(self) -> str:
        return read_json(self.path / "run.json")["fingerprint"]

    @property
    def provenance(self) -> list[dict[str, Any]]:
        return read_json(self.path / "provenance.json")

    def stage(self, name: str) -> StageDir:
        """The directory of one stage, created when writing. ``name``: letters, digits, ``_ . -``, else ValueError."""
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(f"stage name {name!r}: use letters, digits, '_', '.' and '-', a letter or digit first")
        return StageDir(self, name)

    # metrics

    def append(self, row: dict[str, Any]) -> None:
        """Add one row (needs "stage" and "step") to ``metrics.jsonl`` (NaN becomes null). BootdiffError: no room."""
        self._must_write()
        if "stage" not in row or "step" not in row:
            raise ValueError(f"a metrics row needs 'stage' and 'step', got {sorted(row)}")
        path = self.path / "metrics.jsonl"
        line = (json.dumps(strict_json(row), allow_nan=False) + "\n").encode()
        if self._metrics is None:
            self._metrics = path.open("ab", buffering=0)
        size = os.fstat(self._metrics.fileno()).st_size
        try:
            if self._metrics.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._metrics.truncate(size)  # no half row
            if is_full(error):
                raise no_room(path, len(line)) from error
            raise

    def metrics(self, stage: str | None = None) -> list[dict[str, Any]]:
        """All rows so far (of one stage), in order."""
        return read_metrics(self.path / "metrics.jsonl", stage)

    def sync_metrics(self) -> None:
        """Flush the rows to the disk, so that no checkpoint outlives the rows before it (power cut)."""
        if self._metrics is not None:
            os.fsync(self._metrics.fileno())

    def truncate_metrics(self, stage: str, step: int) -> None:
        """Drop the rows of ``stage`` after ``step``: they will be written again by the resumed training."""
        self._must_write()
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        path = self.path / "metrics.jsonl"
        rows = list(rows_and_lines(path))
        kept = [line for row, line in rows if row.get("stage") != stage or row["step"] <= step]
        if len(kept) < len(rows):
            atomic_write_bytes(path, b"".join(kept))

    # inside

    def _must_write(self) -> None:
        if self._lock is None:
            raise RuntimeError(f"{self.path}: opened for reading; open it with Run.open to write")

    def _claim(self, recipe_text: str, fingerprint: str) -> None:
        recipe, data = self.path / "recipe.yaml", self.path / "run.json"
        if recipe.exists():
            keys = _differences(self.recipe_text, recipe_text)
            if keys:
                raise BootdiffError(
                    f"{self.path}: this run was started with another recipe; differing in {', '.join(keys)} "
                    f"(there -> now). Choose another directory for the new recipe, or use the one in {recipe}."
                )
        if data.exists() and self.fingerprint != fingerprint:
            raise BootdiffError(
                f"{self.path}: the data is not what this run was started on (files added, removed or changed; "
                f"fingerprint {self.fingerprint!r} then, {fingerprint!r} now). Restore it, or choose another directory."
            )
        if not data.exists():
            atomic_write_json(data, {"fingerprint": fingerprint})
        if not recipe.exists():
            atomic_write_text(recipe, recipe_text)

    def _add_provenance(self, seed: int | None) -> None:
        path = self.path / "provenance.json"
        session = {
            "started": _now(),
            "command": command_line(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processors": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "seed": seed,
            "versions": {name: _version(name) for name in _PACKAGES},
        }
        atomic_write_json(path, [*(read_json(path) if path.exists() else []), session])

    def _cut_torn_line(self) -> None:
        path = self.path / "metrics.jsonl"
        if path.exists():
            data = path.read_bytes()
            if data and not data.endswith(b"\n"):
                os.truncate(path, data.rfind(b"\n") + 1)


class StageDir:
    """The directory of one stage of a run: ``path / "anything"`` by ``stage / "anything"``."""

    def __init__(self, run: Run, name: str) -> None:
        self.run = run
        self.name = name
        self.path = run.path / name
        if run.writer:
            self.path.mkdir(exist_ok=True)
            _sweep(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def done(self) -> bool:
        """Whether the stage is complete."""
        return (self.path / "done.json").is_file()

    @property
    def info(self) -> dict[str, Any]:
        """What ``finish`` was given. BootdiffError where the stage is not complete."""
        return read_json(self.path / "done.json")

    def finish(self, info: dict[str, Any]) -> None:
        """Mark the stage complete. The caller's files must be on the disk before."""
        self.run._must_write()
        atomic_write_json(self.path / "done.json", info)

    def append(self, row: dict[str, Any]) -> None:
        """``Run.append`` with this stage's name filled in."""
        self.run.append({"stage": self.name, **row})

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of this stage."""
        return self.run.metrics(self.name)


# --- details ----------------------------------------------------------------------------------------------------------


def _sweep(folder: Path) -> None:
    """Delete what a killed process left half written (we hold the lock): our .name.tmp, safetensors' .tmpXXXXXX."""
    for pattern in (".?*.tmp", ".tmp??????"):
        for litter in folder.glob(pattern):
            litter.unlink(missing_ok=True)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as {"a.b.0": leaf}."""
    if isinstance(value, dict) and value:
        items: Any = value.items()
    elif isinstance(value, list) and value:
        items = enumerate(value)
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat.update(_flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _differences(old_text: str, new_text: str) -> list[str]:
    """The keys in which two YAML texts differ, each as "key (old -> new)"; empty where they mean the same."""
    import yaml

    old, new = _flatten(yaml.safe_load(old_text)), _flatten(yaml.safe_load(new_text))
    absent = "absent"
    return [
        f"{key or 'everything'} ({old.get(key, absent)} -> {new.get(key, absent)})"
        for key in dict.fromkeys([*old, *new])
        if old.get(key, absent) != new.get(key, absent)
    ]

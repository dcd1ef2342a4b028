"""The run directory: everything that a training leaves on disk, and the rules that make it survive being killed.

Every file but one is replaced atomically (files.py), so it is the old one or the new one, never a part. The one that
grows in place is ``metrics.jsonl``; a line torn by a kill is cut off when the run is opened again. A training that
resumes at step s first drops its rows after s, so the rows are those of a run that was never interrupted.

    run/
      recipe.yaml           the recipe; another one does not go on in this directory, but for more `steps`. Runs from
                            Python have none: what their stages were made with, each says by itself
      metrics.jsonl         one JSON object per line, each with "stage" and "step"
      <arm>/                a finished model, complete by itself (serialization.py); beside it what the caller writes
      provenance.json       one entry per session: versions, command, platform, threads, seed
      run.json              what makes this folder a run: fingerprint of the data, digest of the recipe
      lock                  held (flock) by the process that writes; the kernel frees it however that process ends
      stages/<stage>/       what one stage has made so far; done.json marks it complete (stages.py)
      samples/<stage>-<step>.png   samples of a stage's network while it was trained, where it was watched
      stages/weights/       every network's weights once (pool.py)
"""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import platform
import re
import shutil
from pathlib import Path
from typing import IO, Any

import torch

from bootdiff.errors import BootdiffError
from bootdiff.paths import expanded
from bootdiff.training.files import (
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    differences,
    digest,
    is_full,
    is_temporary,
    load_tensors,
    no_room,
    placed,
    read_json,
    read_metrics,
    read_record,
    rows_and_lines,
    save_tensors,
    strict_json,
    write_record,
)
from bootdiff.training.lock import check_held, command_line, lock, now
from bootdiff.training.pool import WeightPool, network_bytes

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
_STAGES = "stages"
_PICTURES = "samples"
# What a run that was killed while it began may consist of, and the folders that `check` and `plan` write before it.
_BEGUN = {"lock", "run.json", "check", "plan"}
# Training may go on for more steps than a recipe said at first.
_MAY_GROW = re.compile(r"(.*\.)?training\.(.*\.)?steps")


# --- the run ----------------------------------------------------------------------------------------------------------


class Run:
    """One run directory. ``Run.open`` to write (holds the lock until ``close``), ``Run.read`` to read beside a writer.

    A context manager; ``path`` is the directory, ``writer`` says whether this process may write, ``remarks`` is what a
    person should be told about going on here.
    """

    def __init__(self, path: Path, lock: IO[str] | None) -> None:
        self.path = path
        self.stages = path / _STAGES
        self.pool = WeightPool(self.stages / "weights")
        self.remarks: list[str] = []
        self._lock = lock
        self._metrics: Any = None  # unbuffered binary file, opened by the first row

    @classmethod
    def open(
        cls,
        path: str | Path,
        recipe_text: str | None,
        fingerprint: str = "",
        *,
        seed: int | None = None,
        main: bool = True,
    ) -> Run:
        """Open or create the run in ``path`` for this recipe (YAML text; None: a run without one, whose stages know
        what they were made with) and this data (``fingerprint``).

        With several processes all but one pass ``main=False``: they neither lock nor write.
        Raises BootdiffError when the folder holds something else than a run (nothing in it is touched), when another
        process has it open (names the pid), when it was started with another recipe (names the keys that differ;
        comments and spacing do not count, and the steps of a training may grow) or on other data.
        """
        if not str(path).strip():
            raise BootdiffError("the run's directory is an empty name (an empty variable?); give a folder")
        path = expanded(path).absolute()
        if not main:
            return cls(path, None)
        try:
            if path.is_dir():
                _check_is_run(path)
            path.mkdir(parents=True, exist_ok=True)
            held = lock(path)
        except (FileExistsError, NotADirectoryError):
            raise BootdiffError(f"{path}: a file is in the way; choose another directory for the run") from None
        except (PermissionError, IsADirectoryError) as error:
            raise BootdiffError(f"{path}: cannot write there ({error.strerror}); choose another directory") from None
        run = cls(path, held)
        try:
            run._claim(recipe_text, fingerprint)
            run._sweep()
            run._add_provenance(seed)
            run._cut_torn_line()
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def read(cls, path: str | Path) -> Run:
        """Open an existing run without the lock, to read it. Raises BootdiffError where there is no run."""
        path = expanded(path).absolute()
        if not (path / "run.json").is_file() and not (path / "recipe.yaml").is_file():
            raise BootdiffError(f"{path}: not a run directory (no run.json in it); check the path, or train first")
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
        """BootdiffError where the run has none, or it is damaged."""
        path = self.path / "recipe.yaml"
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise BootdiffError(
                f"{self.path}: there is no recipe.yaml in it (a run that was made from Python has none): give the "
                f"folder of its model, {self.path / 'bootdiff'}, or open it from Python with bootdiff.load"
            ) from None
        except ValueError as error:
            raise BootdiffError(f"{path}: not a text ({error}); restore it from a copy") from None

    @property
    def fingerprint(self) -> str:
        return self._about()["fingerprint"]

    @property
    def provenance(self) -> list[dict[str, Any]]:
        path = self.path / "provenance.json"
        sessions = read_json(path)
        if not isinstance(sessions, list) or not all(isinstance(session, dict) for session in sessions):
            raise BootdiffError(f"{path}: not what bootdiff wrote; restore it from a copy, or delete it")
        return sessions

    def stage(self, name: str) -> StageDir:
        """The directory of one stage, created when writing. ``name``: letters, digits, ``_ . -``, else ValueError."""
        if not re.fullmatch(r"\w[\w.-]*", name) or name == self.pool.path.name:
            raise ValueError(
                f"stage name {name!r}: use letters, digits, '_', '.' and '-', a letter or digit first; not 'weights'"
            )
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
            raise placed(error, path) from None

    def check_lock(self) -> None:
        """BootdiffError where the lock is no longer the file that is held: another process may write here."""
        if self._lock is not None:
            check_held(self.path, self._lock)

    def metrics(self, stage: str | None = None) -> list[dict[str, Any]]:
        """All rows so far (of one stage), in order."""
        return read_metrics(self.path / "metrics.jsonl", stage)

    def sync_metrics(self) -> None:
        """Flush the rows to the disk, so that no checkpoint outlives the rows before it (power cut)."""
        self.check_lock()
        if self._metrics is not None:
            path = self.path / "metrics.jsonl"
            try:
                os.fsync(self._metrics.fileno())
            except OSError as error:
                if is_full(error):
                    raise no_room(path, 0) from error
                raise placed(error, path) from None

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
        self.check_lock()

    def _about(self) -> dict[str, Any]:
        """What run.json says."""
        path = self.path / "run.json"
        said = read_json(path)
        if isinstance(said, dict) and set(said) == {"fingerprint"}:
            raise BootdiffError(
                f"{self.path}: a run of bootdiff 0.1, which this version does not go on with. Choose another "
                "directory, or go on with the version that began it"
            )
        about = read_record(path)
        if not isinstance(about, dict) or set(about) != {"fingerprint", "recipe"}:
            raise BootdiffError(f"{path}: not what bootdiff wrote; restore it from a copy")
        return about

    def _claim(self, recipe_text: str | None, fingerprint: str) -> None:
        recipe, data = self.path / "recipe.yaml", self.path / "run.json"
        new = None if recipe_text is None else _parsed(recipe_text, "the recipe")
        asked = {"fingerprint": fingerprint, "recipe": None if recipe_text is None else digest(new)}
        about = self._about() if data.exists() else asked
        found: list[tuple[str, Any, Any]] = []
        if (about["recipe"] is None) != (recipe_text is None):
            whence = ("from Python", "from a recipe")
            then, now = whence if about["recipe"] is None else reversed(whence)
            raise BootdiffError(
                f"{self.path}: this run was started {then}, and is now opened {now}. Choose another directory (its "
                f"stages can be reused), or go on as it began."
            )
        if recipe_text is not None and recipe.exists():
            found = differences(_parsed(self.recipe_text, recipe), new)
        elif about["recipe"] != asked["recipe"]:
            raise BootdiffError(
                f"{self.path}: its recipe.yaml is lost, and the run was started with another recipe than this one. "
                f"Restore the file from a copy, or choose another directory."
            )
        refused = [key for key in found if not _grows(*key)]
        if refused:
            raise BootdiffError(
                f"{self.path}: this run was started with another recipe; differing in "
                f"{', '.join(f'{key} ({old} -> {new})' for key, old, new in refused)} "
                f"(there -> now). Choose another directory for the new recipe, or use the one in {recipe}."
            )
        if about["fingerprint"] != fingerprint:
            raise BootdiffError(
                f"{self.path}: the data is not what this run was started on (files added, removed or changed; "
                f"fingerprint {about['fingerprint']!r} then, {fingerprint!r} now). Restore it, or choose another "
                f"directory."
            )
        if found or not data.exists():
            write_record(data, asked)
        if recipe_text is not None and (found or not recipe.exists()):
            atomic_write_text(recipe, recipe_text)

    def _sweep(self) -> None:
        """Delete what a killed process of ours left half written; we hold the lock, and this is a run."""
        for folder, folders, files in os.walk(self.path):
            # A run inside it may be in use.
            folders[:] = [name for name in folders if not (Path(folder) / name / "lock").exists()]
            for name in filter(is_temporary, files):
                (Path(folder) / name).unlink(missing_ok=True)
        self.pool.sweep()

    def _add_provenance(self, seed: int | None) -> None:
        path = self.path / "provenance.json"
        session: dict[str, Any] = {
            "started": now(),
            "command": command_line(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processors": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "seed": seed,
            "versions": {name: _version(name) for name in _PACKAGES},
        }
        earlier = self.provenance if path.exists() else []
        if earlier:
            was, versions = earlier[-1], earlier[-1].get("versions")
            torches = versions.get("torch") if isinstance(versions, dict) else None
            before = (f"torch {torches}", f"{was.get('threads')} thread(s)")
            after = (f"torch {session['versions']['torch']}", f"{session['threads']} thread(s)")
            if before != after:
                self.remarks.append(
                    f"{self.path}: went on with {' and '.join(before)} before, now with {' and '.join(after)}: what is "
                    f"trained from here on differs by rounding from an uninterrupted run"
                )
        atomic_write_json(path, [*earlier, session])

    def _cut_torn_line(self) -> None:
        path = self.path / "metrics.jsonl"
        if path.exists():
            data = path.read_bytes()
            if data and not data.endswith(b"\n"):
                os.truncate(path, data.rfind(b"\n") + 1)


class StageDir:
    """The directory of one stage of a run: ``path / "anything"`` by ``stage / "anything"``.

    ``key`` is the digest of all that its result depends on, where a StageStore opened it.
    """

    def __init__(self, run: Run, name: str) -> None:
        self.run = run
        self.name = name
        self.path = run.stages / name
        self.key = ""
        if run.writer:
            self.path.mkdir(parents=True, exist_ok=True)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def picture(self, step: int) -> Path:
        """Where samples that its network drew after so many steps are kept."""
        return self.run.path / _PICTURES / f"{self.name}-{step:06d}.png"

    def pictures(self) -> dict[int, Path]:
        """Those that are there, by step, ascending."""
        known = re.compile(rf"{re.escape(self.name)}-(\d{{6,}})\.png")
        found = {path: known.fullmatch(path.name) for path in (self.run.path / _PICTURES).glob("*.png")}
        return dict(sorted((int(match[1]), path) for path, match in found.items() if match))

    @property
    def remedy(self) -> str:
        """What to do when a file of the stage is lost or damaged."""
        return f"restore it from a copy, or delete the folder {self.path}: the same command makes this stage again"

    @property
    def done(self) -> bool:
        """Whether the stage is complete."""
        return (self.path / "done.json").is_file()

    @property
    def begun(self) -> bool:
        """Whether there is training in it that a later call goes on with."""
        return self.done or (self.path / "checkpoint.safetensors").is_file()

    @property
    def info(self) -> dict[str, Any]:
        """What ``finish`` was given. BootdiffError where the stage is not complete, or its done.json damaged."""
        return read_record(self.path / "done.json", self.remedy)

    def finish(self, info: dict[str, Any]) -> None:
        """Mark the stage complete, with JSON-able ``info`` about it."""
        self.run.check_lock()
        write_record(self.path / "done.json", info)

    def save_weights(self, name: str, state: dict[str, torch.Tensor]) -> None:
        """Write a state dict to the file ``name``, shared with all that are the same. Raises as `WeightPool.store`."""
        self.run.check_lock()
        self.run.pool.store(network_bytes(state), self.path / name)

    def clear(self) -> None:
        """Delete all that is in it. Killed in between, what is left is not taken for a result."""
        for name in ("done.json", "checkpoint.safetensors"):
            (self.path / name).unlink(missing_ok=True)
        for path in self.path.iterdir():
            if path.name != "key.json":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in self.pictures().values():
            path.unlink(missing_ok=True)
        (self.path / "key.json").unlink(missing_ok=True)
        self.run.pool.sweep()

    def append(self, row: dict[str, Any]) -> None:
        """``Run.append`` with this stage's name filled in."""
        self.run.append({"stage": self.name, **row})

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of this stage."""
        return self.run.metrics(self.name)


# --- details ----------------------------------------------------------------------------------------------------------


def _check_is_run(path: Path) -> None:
    """Refuse a folder with anything in it that is no run, or no longer one."""
    names = {name for name in os.listdir(path) if not is_temporary(name)}
    if names <= _BEGUN:
        return
    if "run.json" not in names:
        there = f"no run, but not empty ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})"
        raise BootdiffError(f"{path}: {there}. Choose another directory for the run; nothing was touched.")


def _parsed(text: str, where: Any) -> Any:
    """The value of a YAML text."""
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BootdiffError(f"{where}: not YAML ({' '.join(str(error).split())}); restore it from a copy") from None


def _grows(key: str, old: Any, new: Any) -> bool:
    """Whether a difference only asks for more training."""
    return bool(_MAY_GROW.fullmatch(key)) and type(old) is type(new) is int and new > old


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

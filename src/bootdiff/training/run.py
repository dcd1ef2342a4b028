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
      run.json              what makes this folder a run: format, fingerprint of the data, digest of the recipe
      lock                  held (flock) by the process that writes; the kernel frees it however that process ends
      stages/<stage>/       what one stage has made so far; done.json marks it complete (stages.py)
      samples/<stage>-<step>.png   samples of a stage's network while it was trained, where it was watched
      stages/weights/       every network's weights once (pool.py)
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from bootdiff.errors import BootdiffError
from bootdiff.paths import expanded
from bootdiff.training.claim import check_is_run, claim, parsed, read_note, recipe_of
from bootdiff.training.files import (
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    digest,
    is_full,
    is_temporary,
    load_tensors,
    no_room,
    placed,
    read_about,
    read_json,
    read_metrics,
    read_record,
    row_line,
    rows_and_lines,
    save_tensors,
    sha256_of,
    stamped,
    unstamped,
    write_record,
)
from bootdiff.training.forms import FileHashes, Form, RunNote, checked
from bootdiff.training.lock import check_held, command_line, lock
from bootdiff.training.pool import WeightPool, network_bytes
from bootdiff.training.provenance import changes, session_of

__all__ = [
    "Run",
    "StageDir",
    "atomic_write_bytes",
    "atomic_write_json",
    "atomic_write_text",
    "command_line",
    "jobs_of",
    "load_tensors",
    "read_json",
    "read_metrics",
    "rows_are_lost",
    "save_tensors",
]

_STAGES = "stages"
_PICTURES = "samples"


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
        processes: int = 1,
        device: str = "cpu",
        precision: str = "no",
        complete: Callable[[str], str] | None = None,
    ) -> Run:
        """Open or create the run in ``path`` for this recipe (YAML text; None: a run without one, whose stages know
        what they were made with) and this data (``fingerprint``). ``seed``, ``processes``, ``device`` and ``precision``
        are written down (`provenance`). ``complete`` gives an earlier version's recipe today's keys (`claim`).

        With several processes all but one pass ``main=False``: they neither lock nor write.
        Raises BootdiffError for the home folder, when the folder holds something else than a run (nothing in it is
        touched), when another
        process has it open (names the pid), when it was started with another recipe (names the keys that differ;
        comments and spacing do not count, and the steps of a training may grow) or on other data.
        """
        if not str(path).strip():
            raise BootdiffError("the run's directory is an empty name (an empty variable?); give a folder")
        path = expanded(path).absolute()
        if not main:
            return cls(path, None)
        if path.resolve() in (Path.home().resolve(), Path(path.anchor)):
            raise BootdiffError(f"{path}: not a folder for a run; name one of its own in it. Nothing was touched.")
        try:
            if path.is_dir():
                check_is_run(path)
            path.mkdir(parents=True, exist_ok=True)
            held = lock(path)
        except (FileExistsError, NotADirectoryError):
            raise BootdiffError(f"{path}: a file is in the way; choose another directory for the run") from None
        except (PermissionError, IsADirectoryError) as error:
            raise BootdiffError(f"{path}: cannot write there ({error.strerror}); choose another directory") from None
        run = cls(path, held)
        try:
            run._claim(recipe_text, fingerprint, complete)
            run._sweep()
            run._add_provenance(session_of(seed, processes, device, precision))
            run._cut_torn_line()
            run._note_lost_rows()
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
        """BootdiffError where the run has none, or it is damaged, or not the one that the run was started with."""
        path = self.path / "recipe.yaml"
        text, known = recipe_of(self.path), self._about()["recipe"]
        if known is None or digest(parsed(text, path)) != known:
            raise BootdiffError(
                f"{path}: damaged, or changed since the run was started (run.json says another one); restore it from a "
                f"copy, or delete it and run the command that began the run: where the recipe is the same, it writes "
                f"it again"
            )
        return text

    @property
    def fingerprint(self) -> str:
        return self._about()["fingerprint"]

    @property
    def has_recipe(self) -> bool:
        """Whether it was made from a recipe, not from Python."""
        return self._about()["recipe"] is not None

    @property
    def stamps(self) -> bool:
        """Whether every file of this run must have a checksum: those of earlier versions do not."""
        return self._about()["format"] >= 2

    @property
    def provenance(self) -> list[dict[str, Any]]:
        path, remedy = self.path / "provenance.json", "restore it from a copy, or delete it"
        sessions = read_json(path, remedy)
        if not isinstance(sessions, list) or not sessions or not all(isinstance(one, dict) for one in sessions):
            raise BootdiffError(f"{path}: not what bootdiff wrote; {remedy}")
        # Sessions of an earlier version have no checksum.
        return [unstamped(session, path, remedy, stamp=self.stamps) for session in sessions]

    def read_json(self, name: str, form: Any, remedy: str) -> Any:
        """What `write_stamped` wrote into the file ``name``, of this form.

        Raises BootdiffError, which ends with ``remedy``: missing, damaged, or of another form.
        """
        path = self.path / name
        return checked(form, read_json(path, remedy, stamp=self.stamps), path, remedy)

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
        line = row_line(row)
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
        return read_metrics(self.path / "metrics.jsonl", stage, crc=self.stamps)

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

    def _about(self) -> RunNote:
        """What run.json says."""
        return read_note(self.path)

    def _claim(self, recipe_text: str | None, fingerprint: str, complete: Callable[[str], str] | None) -> None:
        note, text = claim(self.path, recipe_text, fingerprint, complete)
        if note is not None:
            write_record(self.path / "run.json", note)
        if text is not None:
            atomic_write_text(self.path / "recipe.yaml", text)

    def _sweep(self) -> None:
        """Delete what a killed process of ours left half written; we hold the lock, and this is a run."""
        for folder, folders, files in os.walk(self.path):
            # A run inside it may be in use.
            folders[:] = [name for name in folders if not (Path(folder) / name / "lock").exists()]
            for name in filter(is_temporary, files):
                (Path(folder) / name).unlink(missing_ok=True)
        self.pool.sweep()

    def _add_provenance(self, session: dict[str, Any]) -> None:
        path = self.path / "provenance.json"
        earlier = self.provenance if path.exists() else []
        changed = changes(earlier[-1], session) if earlier else []
        if changed:
            self.remarks.append(
                f"{self.path}: goes on otherwise than before: {'; '.join(changed)}. What is trained from here on "
                f"differs by rounding from an uninterrupted run; for the same weights, go on as before"
            )
        atomic_write_json(path, [stamped(one) for one in (*earlier, session)])

    def lost_rows(self) -> dict[str, tuple[int, int]]:
        """Of complete stages that have not all their rows any more, or too many: how many are there, how many were."""
        there = Counter(row["stage"] for row in read_metrics(self.path / "metrics.jsonl"))
        written = {path.parent.name: _rows_of(path) for path in sorted(self.stages.glob("*/done.json"))}
        return {name: (there[name], n) for name, n in written.items() if n is not None and n != there[name]}

    def _note_lost_rows(self) -> None:
        with contextlib.suppress(BootdiffError):  # a damaged line is named where rows are asked for
            self.remarks += [rows_are_lost(self.path, *at) for at in self.lost_rows().items()]

    def _cut_torn_line(self) -> None:
        path = self.path / "metrics.jsonl"
        if path.exists():
            data = path.read_bytes()
            if data and not data.endswith(b"\n"):
                os.truncate(path, data.rfind(b"\n") + 1)


def jobs_of(run: Path) -> tuple[Path, list[Path]]:
    """The folder of a run's jobs, and those that are there."""
    folder = run.with_name(f"{run.name}.jobs")
    there = sorted(path for path in folder.glob("*") if (path / "run.json").is_file()) if folder.is_dir() else []
    return folder, there


def _rows_of(path: Path) -> int | None:
    """How many rows a done.json says that its stage has; None: it does not, or is damaged, which others name."""
    try:
        rows = read_about(path, "").get("rows")
    except BootdiffError:
        return None
    return rows if isinstance(rows, int) else None


def rows_are_lost(run: Path, stage: str, rows: tuple[int, int]) -> str:
    """What to say of a stage of `Run.lost_rows`."""
    return (
        f"{run / 'metrics.jsonl'}: has {rows[0]} of the {rows[1]} rows of the stage {stage}: loss curves lack them, no "
        f"weight depends on them. Restore it from a copy, or delete the stage's folder to make it again"
    )


class StageDir:
    """The directory of one stage of a run: ``path / "anything"`` by ``stage / "anything"``.

    ``key`` is the digest of all that its result depends on, where a StageStore opened it; ``made_with`` that of what
    stays the same where it is trained on.
    """

    def __init__(self, run: Run, name: str) -> None:
        self.run = run
        self.name = name
        self.path = run.stages / name
        self.key = self.made_with = ""
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
        info = self.read("done.json")
        if not isinstance(info, dict):
            raise BootdiffError(f"{self.path / 'done.json'}: not what bootdiff wrote; {self.remedy}")
        return info

    def finish(self, info: dict[str, Any]) -> None:
        """Mark the stage complete, with JSON-able ``info`` about it, the SHA-256 of each of its weight files and the
        number of its rows."""
        self.run.check_lock()
        files = {}
        for path in sorted(self.path.glob("*.safetensors")):
            if path.name != "checkpoint.safetensors":
                load_tensors(path, remedy=self.remedy)  # what was damaged meanwhile is not vouched for
                files[path.name] = sha256_of(path)
        self.write("done.json", info, files=files, made_with=self.made_with, rows=len(self.metrics()))

    @property
    def files(self) -> dict[str, str] | None:
        """SHA-256 of each weight file that it was completed with; None: it is not complete, or does not say."""
        if not self.done:
            return None
        files = read_about(self.path / "done.json", self.remedy).get("files")
        return None if files is None else checked(FileHashes, files, self.path / "done.json", self.remedy)

    def check_made_with(self, digest: str) -> None:
        """It is made with what ``digest`` stands for. BootdiffError: it is complete, and says that it is not."""
        self.made_with = digest
        if self.done and read_about(self.path / "done.json", self.remedy).get("made_with") not in (None, "", digest):
            raise BootdiffError(f"{self.path / 'done.json'}: of a stage made with something else; {self.remedy}")

    def write(self, name: str, value: Any, **about: Any) -> None:
        """``write_record``, about this stage."""
        write_record(self.path / name, value, stage=self.name, **about)

    def read(self, name: str, form: Form | None = None) -> Any:
        """What ``write`` wrote, of this form. BootdiffError: lost, damaged, or another stage's."""
        value = read_record(self.path / name, self.remedy, stage=self.name)
        return value if form is None else checked(form, value, self.path / name, self.remedy)

    def tensors(self, name: str, device: str | torch.device = "cpu") -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """``load_tensors`` of a file of this stage: once complete, by the SHA-256 that done.json says."""
        path, files = self.path / name, self.files
        if files is not None and name not in files:
            raise BootdiffError(f"{path}: not a file that this stage was completed with; {self.remedy}")
        return load_tensors(path, device, self.remedy, None if files is None else files[name])

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

"""Where the stages of a run lie: found when complete, taken from another run that made the same, written once.

A stage is known by its key, a digest of all that its result depends on. What makes a kill harmless is the order: the
file that says "complete" is written last, and what lies there without it is made again. What makes several processes
agree is that all have looked before the first goes on, and that all read what the first has written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bootdiff.training.files import copy_file
from bootdiff.training.run import Run, StageDir, atomic_write_json, read_json

__all__ = ["StageStore", "digest"]


def digest(value: Any) -> str:
    """24 hexadecimal digits of anything that JSON can say."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:24]


@dataclass
class StageStore:
    """The stages of ``run``.

    Args:
        run: the run directory, open for writing in the first process.
        accelerator: accelerate's: which process this is, and how to wait for the others.
        reuse: other run directories, whose stages of the same key are copied.
        log: told one line for each stage that was taken from another run.
    """

    run: Run
    accelerator: Any
    reuse: Sequence[str | Path]
    log: Callable[[str], None]

    def stage(self, name: str, key: str) -> StageDir:
        """A stage's folder; filled from a run of ``reuse`` that holds the same stage."""
        stage = self.run.stage(name)
        if self.accelerator.is_main_process and not stage.done:
            other = next((path for path in self.reuse if _holds(Path(path) / name, key)), None)
            if other is not None:
                self._take(Path(other), stage)
                self.log(f"{name}: taken from {other}")
            else:
                # A complete one keeps the key that it was made with.
                atomic_write_json(stage / "key.json", key)
        self.accelerator.wait_for_everyone()
        return stage

    def exists(self, stage: StageDir, name: str) -> bool:
        """Whether a stage has a file: every process has looked before the first goes on and may write it."""
        found = (stage / name).is_file()
        self.accelerator.wait_for_everyone()
        return found

    def get_or_compute(self, stage: StageDir, name: str, make: Callable[[], Any]) -> Any:
        """A small result of a stage, as JSON, made once: that of the first process, for all of them."""
        if not self.exists(stage, name):
            value = make()
            if self.accelerator.is_main_process:
                atomic_write_json(stage / name, value)
            self.accelerator.wait_for_everyone()
        return read_json(stage / name)

    def _take(self, other: Path, stage: StageDir) -> None:
        """Copy a complete stage of another run. done.json comes last: killed before, it is copied again."""
        there = other / stage.name
        rows = Run.read(other).metrics(stage.name)
        for path in there.iterdir():
            if path.name != "done.json" and not path.name.startswith("."):
                copy_file(path, stage / path.name)
        self.run.truncate_metrics(stage.name, -1)
        for row in rows:
            self.run.append(row)
        self.run.sync_metrics()
        copy_file(there / "done.json", stage / "done.json")


def _holds(folder: Path, key: str) -> bool:
    note = folder / "key.json"
    return (folder / "done.json").is_file() and note.is_file() and read_json(note) == key

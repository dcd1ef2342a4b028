"""Where the stages of a run lie: found when complete, taken from another run that made the same, written once.

A stage is known by its key, the digest of its name and all that its result depends on, as a whole:

    depends_on    its own settings and data
    parents       what it was made of: keys of other stages and values computed from them, best by name
    start         what its training began at: keys of other stages
    steps         optimizer steps, where it is a training
    went_on       steps at which it was complete, or stopped, before more were asked for

All of it stands in key.json, so that a refusal can name what differs. What lies in the folder under another key:

    only `steps` grew (and `start`)     it is trained on: `went_on` notes it, so that what is made of it has another key
    only `parents` or `start` differ    it follows them: made again (whoever changed the parent was asked there)
    anything else                       never taken and never overwritten: refused, if there is training in it

What makes a kill harmless is the order: the file that says "complete" is written last, and what lies there without it
is made again. What makes several processes agree is that all have looked before the first goes on, and that all read
what the first has written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from bootdiff.errors import BootdiffError
from bootdiff.training.checkpoint import trained_steps
from bootdiff.training.files import copy_file, differences, digest, read_metrics, strict_json
from bootdiff.training.forms import Form, StageKey, checked
from bootdiff.training.run import Run, StageDir

__all__ = ["StageStore", "digest"]

_NOTE = "key.json"
_PARTS = ("depends_on", "parents", "start", "steps", "went_on")
_WEIGHTS = re.compile(r"(final|snapshot-\d+)\.safetensors")


@dataclass
class StageStore:
    """The stages of ``run``.

    Args:
        run: the run directory, open for writing in the first process.
        accelerator: accelerate's: which process this is, and how to wait for the others.
        reuse: other run directories, whose stages of the same key are copied.
        log: told one line for each stage that was taken from another run, goes on, or is made again.
    """

    run: Run
    accelerator: Any
    reuse: Sequence[str | Path]
    log: Callable[[str], None]

    def stage(
        self,
        name: str,
        depends_on: Any,
        *,
        parents: Any = None,
        start: Any = None,
        steps: int | None = None,
    ) -> StageDir:
        """A stage's folder, known by the key of these parts (JSON-able, see this file), which it has as ``key``; filled
        from a run of ``reuse`` that holds the same stage.

        Raises:
            BootdiffError: another stage lies there complete or half trained (names what differs), or a damaged key.
        """
        asked: StageKey = strict_json(
            {"depends_on": depends_on, "parents": parents, "start": start, "steps": steps, "went_on": []}
        )
        stage = self.run.stage(name)
        there = _note(stage)
        fate = _fate(stage, there, asked)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            if fate == "go on":
                assert there is not None
                at = trained_steps(stage)
                stage.write(_NOTE, asked | {"went_on": [*there["went_on"], at]})
                rest = "the learning rate's schedule is recomputed for the rest"
                self.log(f"{name}: goes on from step {at} to {steps}; {rest}")
            elif fate == "new":
                # Also without a key: what lies there was made for nobody knows what.
                self._make_again(stage, there, asked)
                stage.write(_NOTE, asked)
            if not stage.begun:
                self._fill(stage, asked)
        self.accelerator.wait_for_everyone()
        note = _note(stage)
        assert note is not None
        stage.key = digest([name, note])
        stage.check_made_with(digest([name, note["depends_on"], note["parents"]]))
        return stage

    def exists(self, stage: StageDir, name: str) -> bool:
        """Whether a stage has a file: every process has looked before the first goes on and may write it."""
        found = (stage / name).is_file()
        self.accelerator.wait_for_everyone()
        return found

    def get_or_compute(
        self, stage: StageDir, name: str, make: Callable[[], Any], of: Any = None, form: Form | None = None
    ) -> Any:
        """A small result of a stage, as JSON, made once: that of the first process, for all of them.

        ``of``: what it was made of (JSON-able): one that was made of something else is made again. ``form``: of the
        result, as pydantic can check it. Raises BootdiffError: damaged, or of another form.
        """
        of = strict_json(of)
        found = stage.read(name, _Result) if (stage / name).is_file() else None
        self.accelerator.wait_for_everyone()
        if found is None or found["of"] != of:
            value = make()
            if self.accelerator.is_main_process:
                stage.write(name, {"of": of, "result": value})
            self.accelerator.wait_for_everyone()
            found = stage.read(name, _Result)
        return found["result"] if form is None else checked(form, found["result"], stage / name, stage.remedy)

    def prune(self, stage: StageDir, keep: Collection[int]) -> None:
        """Remove what only an unfinished stage needs: snapshots of steps that are not among ``keep``, and the trainings
        NAME.start-K that it was chosen from. To be called once the choice is on the disk; twice does no harm.

        Raises ValueError: the stage is not complete.
        """
        if not self.accelerator.is_main_process:
            return
        if not stage.done:
            raise ValueError(f"stage {stage.name} is not complete: its snapshots are still needed")
        kept = {f"snapshot-{step}.safetensors" for step in keep}
        for path in stage.path.glob("snapshot-*.safetensors"):
            if path.name not in kept:
                path.unlink()
        tried = re.compile(rf"{re.escape(stage.name)}\.start-\d+")
        for folder in [path for path in self.run.stages.iterdir() if tried.fullmatch(path.name)]:
            self.run.stage(folder.name).clear()
            folder.rmdir()
        self.run.pool.sweep()

    def _make_again(self, stage: StageDir, there: StageKey | None, asked: StageKey) -> None:
        if stage.begun and there is not None:
            changed = [part for part, _, _ in _differences(there, asked) if part.split(".")[0] in ("parents", "start")]
            names = dict.fromkeys(part.split(".", 1)[-1] for part in changed)
            named = ", ".join(name for name in names if not name[0].isdigit())  # not places in a list
            what = f" ({named})" if named else ""
            self.log(f"{stage.name}: made again, since what it is made of has changed{what}")
        stage.clear()

    def _fill(self, stage: StageDir, asked: StageKey) -> None:
        """Copy a complete stage of the same key from another run. done.json comes last: killed before, it is copied
        again."""
        unlike: list[str] = []
        for other in self.reuse:
            there = Run.read(other).stage(stage.name)
            if not there.done or not (there / _NOTE).is_file():
                continue
            note = _note(there)
            assert note is not None
            if (found := _differences(note, asked)) or note["went_on"]:
                # Where only what it was made of differs, that was said of its parents.
                said = _own_differences(found)
                unlike += [f"{stage.name}: not taken from {other}, made with something else: {said}"] if said else []
                continue
            for path in there.path.iterdir():
                if path.suffix == ".safetensors":
                    there.tensors(path.name)  # damaged ones are not spread
                    if _WEIGHTS.fullmatch(path.name):
                        self.run.pool.store(path.read_bytes(), stage / path.name)
                    else:
                        copy_file(path, stage / path.name)
                elif path.name not in ("done.json", _NOTE) and path.is_file() and not path.name.startswith("."):
                    there.read(path.name)
                    copy_file(path, stage / path.name)
            for step, path in there.pictures().items():
                stage.picture(step).parent.mkdir(exist_ok=True)
                copy_file(path, stage.picture(step))
            self.run.truncate_metrics(stage.name, -1)
            for row in read_metrics(there.run.path / "metrics.jsonl", stage.name):
                self.run.append(row)
            self.run.sync_metrics()
            stage.write(_NOTE, note)  # that of the files, which may differ from what was asked for by rounding
            copy_file(there / "done.json", stage / "done.json")
            self.log(f"{stage.name}: taken from {other}")
            return
        for line in unlike:
            self.log(line)


# --- details ----------------------------------------------------------------------------------------------------------


@with_config(ConfigDict(strict=True, extra="forbid"))
class _Result(TypedDict):
    """A file of `get_or_compute`."""

    of: Any
    result: Any


def _note(stage: StageDir) -> StageKey | None:
    """What key.json says; None where there is none. BootdiffError where it is damaged."""
    note: StageKey | None = stage.read(_NOTE, StageKey) if (stage / _NOTE).is_file() else None
    return note


def _differences(there: StageKey, asked: StageKey) -> list[tuple[str, Any, Any]]:
    """What two notes differ in, the history apart: it is not asked for.

    Nor do numbers count that differ by rounding: another number of threads, or another processor, adds up the moments
    of the same data in a different order.
    """
    found = differences(there | {"went_on": []}, asked)
    return [(part, old, new) for part, old, new in found if not _differs_by_rounding(old, new)]


def _differs_by_rounding(old: Any, new: Any) -> bool:
    """Whether two values are numbers that hardly differ.

    >>> _differs_by_rounding(0.3269157976982997, 0.3269157976983), _differs_by_rounding(0.01, 0.0100001)
    (True, False)
    >>> _differs_by_rounding(3, 3.0000000001), _differs_by_rounding("a", "b")
    (False, False)
    """
    return type(old) is type(new) is float and math.isclose(old, new, rel_tol=1e-9, abs_tol=1e-15)


def _fate(stage: StageDir, there: StageKey | None, asked: StageKey) -> str:
    """What is to become of what lies in a stage's folder: "take", "go on", "new"; BootdiffError: refused."""
    if there is None:
        if stage.begun:
            raise BootdiffError(
                f"{stage.path}: its key.json, which says what this stage was made with, is lost; {stage.remedy}"
            )
        return "new"
    found = _differences(there, asked)
    if not found:
        return "take"
    if not stage.begun:
        return "new"
    parts = {path.split(".")[0] for path, _, _ in found}
    fewer = "steps" in parts and not (
        isinstance(there["steps"], int) and isinstance(asked["steps"], int) and asked["steps"] > there["steps"]
    )
    if "depends_on" in parts or fewer:
        raise BootdiffError(
            f"{stage.path}: the stage {stage.name} was made with something else: {_own_differences(found)}. Choose "
            f"another directory for the run, go back to what it was made with, or delete exactly this folder: the "
            f"stage is then made again, and what depends on it follows."
        )
    return "new" if "parents" in parts or "steps" not in parts else "go on"


def _own_differences(found: list[tuple[str, Any, Any]]) -> str:
    """What of a stage's own settings, data and steps differs, in words; "" where nothing does."""
    said = [
        f"{path.removeprefix('depends_on.')} ({_short(old)} -> {_short(new)})"
        for path, old, new in found
        if path.split(".")[0] in ("depends_on", "steps")
    ]
    return f"{', '.join(said)} (there -> now)" if said else ""


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

"""What a run's folder tells of itself, read for people: nothing is executed, and what is missing or damaged is noted
and left out. Everything lies in files that `training.run`, the command line and `evaluation` wrote.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from bootdiff.errors import BootdiffError
from bootdiff.method import left_out
from bootdiff.method.plan import ARMS
from bootdiff.method.weights import WeightsRecord
from bootdiff.training.files import read_json
from bootdiff.training.forms import checked
from bootdiff.training.run import Run, StageDir, jobs_of

__all__ = ["TRAININGS", "VIEWS", "RunFacts", "StageFacts", "TrainingNote"]

TRAININGS, VIEWS = "trainings.json", "views.png"


@with_config(ConfigDict(strict=True, extra="forbid"))
class TrainingNote(TypedDict):
    """An entry of trainings.json: a network to be trained."""

    network: str
    steps: int


@dataclass
class StageFacts:
    """One training. state: "done", "running" (begun) or "to come"; seconds: spent; heldout: (step, mean loss);
    best_at: the least held-out loss so far at each noise level."""

    name: str
    state: str
    step: int
    steps: int | None
    seconds: float
    heldout: list[tuple[int, float]]
    pictures: dict[int, Path]
    network: str
    best_at: dict[float, float]

    @property
    def part(self) -> str:
        """What it is trained as: "view", "full", "visible", ..."""
        return self.name.partition("-")[0]

    @property
    def best(self) -> float | None:
        """The least mean held-out loss so far."""
        return min((loss for _, loss in self.heldout), default=None)


@dataclass
class RunFacts:
    """Everything the report shows. `notes`: what could not be read, in sentences; absent parts are empty or None.
    has_recipe: a run from Python has none, and the commands that need one are not for it."""

    path: Path
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    ledger: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    provenance: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    stages: list[StageFacts] = field(default_factory=list)
    arms: list[str] = field(default_factory=list)
    weights: dict[str, dict[str, Any]] = field(default_factory=dict)
    stamps: bool = False
    has_recipe: bool = True

    @classmethod
    def read(cls, folder: str | Path) -> RunFacts:
        """Of an existing run.

        Raises:
            BootdiffError: no run there.
        """
        run = Run.read(folder)
        if not (run.path / "run.json").is_file():
            raise BootdiffError(f"{run.path}: not a run (no run.json in it); give a folder that a training wrote")
        facts = cls(run.path)
        facts.stamps = facts._try(lambda: run.stamps, False)
        facts.has_recipe = facts._try(lambda: run.has_recipe, True)
        facts.data = facts._mapping("data.json")
        facts.metrics = facts._mapping("metrics.json")
        facts.ledger = facts._mapping("ledger.json")
        facts.plan = facts._mapping("plan/plan.json")
        facts.provenance = facts._try(lambda: run.provenance if (run.path / "provenance.json").is_file() else [], [])
        facts.left_out = facts._try(lambda: left_out.recorded(run), {})
        facts.arms = [arm for arm in ARMS if (run.path / arm / "model.json").is_file()]
        rows = facts._try(run.metrics, [])
        expected = facts._mapping(TRAININGS)
        jobs = {path.name: Run.read(path) for path in jobs_of(run.path)[1]}  # what they have trained is not here yet
        names = dict.fromkeys([*expected, *_trained(run), *(str(row["stage"]) for row in rows)])
        by_stage: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            by_stage.setdefault(str(row["stage"]), []).append(row)
        for name in names:
            if ".start-" in name:
                continue  # a race between starts
            stage = facts._try(lambda name=name: run.stage(name), None)  # type: ignore[misc]
            if stage is not None:
                own = by_stage.get(name, [])
                if not stage.begun and name in jobs:
                    stage, own = jobs[name].stage(name), facts._try(partial(jobs[name].metrics, name), [])
                told = expected.get(name)
                about = told if isinstance(told, dict) else {}
                made = facts._try(partial(facts._stage, stage, own, about), None)
                facts.stages += [] if made is None else [made]
        for name in ("gains", "full-stack", "residual-stack", "oracle-stack"):
            if (run.stages / name / "done.json").is_file():
                read = partial(run.stage(name).read, "done.json", WeightsRecord)
                found = facts._try(read, None)
                if found is not None and found["names"]:
                    facts.weights[name] = found
        return facts

    # -- what is computed of it ----------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name of the run: its recipe's, or its folder's."""
        recipe = self.metrics.get("recipe")
        named = recipe.get("name") if isinstance(recipe, dict) else None
        return str(named or self.path.name)

    @property
    def finished(self) -> bool:
        """Whether all that was to be trained is."""
        return bool(self.stages) and all(stage.state == "done" for stage in self.stages)

    @property
    def seconds_left(self) -> float | None:
        """Seconds of training to come, from steps that were timed: of the same network, or of any; None: unknown."""
        rates: dict[str, list[float]] = {}
        for stage in self.stages:
            if stage.step and stage.seconds > 0:
                rates.setdefault(stage.network, []).append(stage.seconds / stage.step)
        every = [rate for found in rates.values() for rate in found]
        total = 0.0
        for stage in self.stages:
            missing = 0 if stage.state == "done" else (stage.steps or 0) - stage.step
            timed = stage.step and stage.seconds > 0
            own = [stage.seconds / stage.step] if timed else rates.get(stage.network, every)
            if missing > 0 and not own:
                return None
            total += missing * sum(own) / max(len(own), 1)
        return total

    # -- reading -------------------------------------------------------------------------------------------------------

    def _try(self, read: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return read()
        except Exception as error:  # a damaged file may hold anything; the others are worth reading
            self.note(error)
            return otherwise

    def note(self, error: object) -> None:
        """Note what cannot be shown, once, without the folder's place on this machine."""
        text = str(error).replace(f"{self.path}/", "").replace(str(self.path), "the run")
        if text not in self.notes:
            self.notes.append(text)

    def _mapping(self, name: str) -> dict[str, Any]:
        """A JSON object; empty where the file is not there."""
        path = self.path / name
        if not path.is_file():
            return {}
        remedy = "restore it from a copy, or delete it: it is not shown"
        read = partial(read_json, path, remedy, stamp=self.stamps and name != "plan/plan.json")
        found: dict[str, Any] = self._try(lambda: checked(dict[str, Any], read(), path, remedy), {})
        return found

    def _stage(self, stage: StageDir, rows: Sequence[Mapping[str, Any]], told: Mapping[str, Any]) -> StageFacts:
        ledger = self._ledger(stage)
        heldout: list[tuple[int, float]] = []
        best_at: dict[float, float] = {}
        for row in rows:
            losses = row.get("heldout")
            found = (
                {float(s): v for s, v in losses.items() if isinstance(v, int | float)}
                if isinstance(losses, dict)
                else {}
            )
            if found:
                heldout.append((int(row["step"]), sum(found.values()) / len(found)))
                best_at = {s: min(v, best_at.get(s, v)) for s, v in found.items()}
        pictures: dict[int, Path] = self._try(stage.pictures, {})
        last = max([0, *(int(row["step"]) for row in rows), *pictures])
        seconds = [float(row["seconds"]) for row in rows if isinstance(row.get("seconds"), int | float)]
        steps = told.get("steps")
        state = "done" if ledger is not None else "running" if last or stage.begun else "to come"
        if ledger is not None and isinstance(ledger.get("steps"), int):
            last = ledger["steps"]
            seconds.append(float(ledger.get("seconds") or 0))
        network = told.get("network")
        return StageFacts(
            stage.name, state, last, steps if isinstance(steps, int) else None, max(seconds, default=0.0), heldout,
            pictures, str(network or stage.name.rpartition("-")[2]), best_at,
        )  # fmt: skip

    def _ledger(self, stage: StageDir) -> dict[str, Any] | None:
        """What a finished training cost; None where it is not finished."""
        if not stage.done:
            return None
        found = self.ledger.get(stage.name)
        if isinstance(found, dict):
            return found  # with the races before it
        info = self._try(lambda: stage.info, {})
        found = info.get("ledger") if isinstance(info, dict) else None
        return found if isinstance(found, dict) else {}


def _trained(run: Run) -> list[str]:
    """The stages with a training of a network in them, in the order of their beginning."""
    if not run.stages.is_dir():
        return []
    folders = [path for path in run.stages.iterdir() if path.is_dir() and re.fullmatch(r"\w[\w.-]*", path.name)]
    begun = [path for path in folders if (path / "scale.json").is_file()]
    return [path.name for path in sorted(begun, key=lambda path: ((path / "scale.json").stat().st_mtime, path.name))]

"""What a run's folder tells people, written while it is trained, by the command line and by `bootdiff.fit` alike.

Beside what `training.run` and `method.stages` write, a run gets

    report.html       how it stands and what came of it (`page`), anew while it is trained
    views.png         each view beside a full sample
    trainings.json    the networks to be trained for the arms that were asked for
    samples/          samples that networks drew while they were trained (`previews`)
    problems.json     files that could not be used: data, file, reason
    data.json         shape, classes, counts and units of the data
    ledger.json       cost of each stage
    losses.png        losses against steps
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from bootdiff.cli.report import curves, images
from bootdiff.cli.report.live import LiveReport
from bootdiff.cli.report.metadata import DATA, DataInfo
from bootdiff.cli.report.page import FILE
from bootdiff.cli.report.previews import Previews
from bootdiff.cli.report.run_facts import TRAININGS, VIEWS, TrainingNote
from bootdiff.data import report_notes as notes_of
from bootdiff.method.plan import Stage
from bootdiff.method.problem import Problem
from bootdiff.method.settings import SamplingSettings
from bootdiff.method.stages import Bootstrap
from bootdiff.paths import shown
from bootdiff.training.files import atomic_write_json, write_stamped
from bootdiff.training.forms import Cost
from bootdiff.training.run import Run, StageDir
from bootdiff.training.state import Progress

__all__ = ["LOSSES", "RunRecord", "read_ledger", "report_notes", "report_unusable"]

LOSSES = "losses.png"

Say = Callable[[str], None]


class RunRecord:
    """The writer of these files, of a run that is open.

    Args:
        run, problem: what is trained, on which data.
        say, warn: told what a person should know.
        main: whether this process is the one that writes.
    """

    def __init__(self, run: Run, problem: Problem, say: Say, warn: Say | None = None, *, main: bool = True) -> None:
        self.run, self.problem, self.say, self.warn, self.main = run, problem, say, warn or say, main
        self.report = LiveReport(run.path, say, main=main)
        self._expected: dict[str, int] = {}

    def describe(self) -> None:
        """The data: data.json, views.png, problems.json."""
        if not self.main:
            return
        run, problem = self.run, self.problem
        report_unusable(run.path, problem, self.warn)
        report_notes(problem, self.warn)
        counts = {name: len(source) for name, source in problem.datasets().items()}
        write_stamped(
            run.path / DATA,
            {
                "shape": list(problem.shape),
                "classes": problem.classes,
                "counts": counts,
                "meaning": DataInfo.of(problem.full).record(),
            },
        )
        parts = [
            f"{name} {n:,}"
            + (f" + {counts[f'{name} (held out)']:,} held out" if f"{name} (held out)" in counts else "")
            for name, n in counts.items()
            if not name.endswith(" (held out)")
        ]
        self.say("samples: " + ", ".join(parts))
        if not (run.path / VIEWS).is_file():
            try:
                images.save_png(images.view_rows(problem), run.path / VIEWS)
            except Exception as error:  # a picture for people: whatever it is, the training is worth more
                self.warn(f"{run.path / VIEWS}: not drawn; the training goes on ({error})")

    def previews(
        self,
        how: SamplingSettings,
        every: Literal["auto"] | int = "auto",
        drawn: Callable[[StageDir, int, Image.Image], None] = lambda stage, step, picture: None,
    ) -> Previews:
        """What draws samples meanwhile (`Trainer.watch`); `drawn` is told of each picture."""

        def look(stage: StageDir, step: int, picture: Image.Image) -> None:
            drawn(stage, step, picture)
            self.report.due()

        return Previews(self.problem.shape, how, every, self.say, look)

    def progress(self, tell: Callable[[Progress], None] | None) -> Callable[[Progress], None]:
        """`tell`, after which the report is written where that is due."""

        def told(standing: Progress) -> None:
            if tell is not None:
                tell(standing)
            self.report.tick()

        return told

    def log(self, say: Say) -> Say:
        """`say`, of what the report should tell, too."""

        def said(line: str) -> None:
            say(line)
            self.report.due()

        return said

    @contextmanager
    def written(self, bootstrap: Bootstrap, arms: Sequence[str]) -> Iterator[None]:
        """What is known before these arms are trained, what they cost, and the report in the end, however it ends."""
        self.expect(bootstrap, bootstrap.plan(arms).trainings)
        try:
            yield
            self.settle()
            self.write_ledger(bootstrap.ledger)
            self.draw_losses()
        finally:
            self.report.write()

    def expect(self, bootstrap: Bootstrap, trainings: Sequence[Stage]) -> None:
        """Note the networks to be trained, in order."""
        if not self.main:
            return
        new: dict[str, TrainingNote] = {
            stage.name: {"network": stage.network, "steps": _steps(bootstrap, stage)} for stage in trainings
        }
        self._expected |= {name: note["steps"] for name, note in new.items()}
        # What an earlier command asked for keeps its place.
        write_stamped(self.run.path / TRAININGS, self._trainings() | new)
        self.say(f"how it stands, meanwhile and in the end: {shown(self.run.path / FILE)}")
        self.report.due()

    def steps_of(self, name: str) -> int:
        """The steps of a network that is expected."""
        return self._expected[name]

    def draw_losses(self) -> None:
        """The losses of all networks so far, in losses.png."""
        if self.main:
            curves.loss_curves(self.run.metrics(), self.run.path / LOSSES)

    def settle(self) -> None:
        """Everything that was expected is there: what was not trained was not needed (all views were left out)."""
        if self.main and self._expected:
            needless = {name for name in self._expected if not self.run.stage(name).done}
            kept = {name: note for name, note in self._trainings().items() if name not in needless}
            write_stamped(self.run.path / TRAININGS, kept)

    def _trainings(self) -> dict[str, Any]:
        remedy = "delete it: the same command writes it anew"
        there = (self.run.path / TRAININGS).is_file()
        found: dict[str, Any] = self.run.read_json(TRAININGS, dict[str, TrainingNote], remedy) if there else {}
        return found

    def write_ledger(self, costs: dict[str, Any]) -> dict[str, Any]:
        """The cost of every stage so far, also of those an earlier command trained, into ledger.json."""
        path = self.run.path / "ledger.json"
        ledger = (read_ledger(self.run) if path.is_file() else {}) | costs
        if self.main:
            write_stamped(path, ledger)
        return ledger


def read_ledger(run: Run) -> dict[str, Any]:
    """What each stage of a run cost. BootdiffError: lost or damaged."""
    remedy = "restore it from a copy, or delete it and run the commands that trained the run again, which write it anew"
    found: dict[str, Any] = run.read_json("ledger.json", dict[str, Cost], remedy)
    return found


def _steps(bootstrap: Bootstrap, stage: Stage) -> int:
    settings = bootstrap.within(stage.around).settings
    part = settings.training[stage.part] if stage.view is None else settings.views[stage.view].training
    return part.steps


def report_unusable(folder: Path, problem: Problem, say: Say) -> None:
    """Say how many files were left out, and list them in folder/problems.json."""
    problems = problem.unusable()
    if problems:
        path = folder / "problems.json"
        atomic_write_json(path, problems)
        count = len({(row["data"], row["file"]) for row in problems})
        say(f"{count} file(s) cannot be used and are left out; {path} lists them")


def report_notes(problem: Problem, say: Say) -> list[str]:
    """Say what was done to the files and what was passed over: the lines."""
    lines = notes_of(problem.datasets())
    for line in lines:
        say(line)
    return lines

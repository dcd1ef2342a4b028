"""Networks that need not wait for one another, trained at once on one machine: each as a job, in a process of its own.

A job is `bootdiff fit --stage NAME`, with a run of its own, OUT.jobs/NAME, beside the run OUT. The command that starts
jobs takes what they have trained into OUT, as `--reuse` does, and removes their folders; what they are made of they
take from OUT in turn. Parents come before children (`plan.parents_of`); what all views are needed for, gains and
residual, that command does itself. Ended or killed, it ends its jobs, and the same command goes on where they were.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bootdiff.data.index import Stamp, stamp_of
from bootdiff.errors import BootdiffError
from bootdiff.processes import own_command, own_environment
from bootdiff.training.run import jobs_of, read_metrics

if TYPE_CHECKING:
    from bootdiff.cli.session import Session
    from bootdiff.method.plan import Stage

__all__ = ["check_jobs", "train_at_once", "two_if_free"]

_PARTS = ("full", "visible", "view", "oracle")  # whose networks are made of other networks alone
_POLL, _LOOK = 0.1, 1.0  # seconds between looks at processes, and at what they have written
_PATIENCE = 300.0  # for a checkpoint
_SAID = 6  # last lines of a job that failed


def two_if_free() -> int:
    """How many networks a demonstration trains at once: two, but one of one core, and under a launcher."""
    free = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if int(os.environ.get("WORLD_SIZE", "1")) > 1 else min(2, free)


def check_jobs(most: int, track: Sequence[str]) -> None:
    """Refuse what jobs cannot do, before anything is opened. BootdiffError: trackers follow one process."""
    if most > 1 and track:
        raise BootdiffError(f"--track {track[0]} follows the trainings of one process: leave out --jobs, or --track")


def train_at_once(session: Session, arms: Sequence[str], most: int, reuse: Sequence[Path] = ()) -> None:
    """Train networks of these arms, up to `most` at once; the session trains what is left.

    Args:
        reuse: other runs, which jobs look into, too.

    Raises:
        BootdiffError: a launcher has started several processes already; a job failed.
        Interrupted: a job was stopped.
    """
    if most < 2:
        return
    if session.accelerator.num_processes > 1:
        raise BootdiffError(
            "--jobs starts processes by itself: call it without torchrun or accelerate, or leave it out"
        )
    graph, stages = _waiting(session, arms)
    if len(graph) < 2:
        return
    folder = jobs_of(session.run.path)[0]
    folder.mkdir(exist_ok=True)
    recipe = folder / "recipe.yaml"
    recipe.write_text(session.recipe.dump(), encoding="utf-8")
    order, running = TopologicalSorter(graph), list[_Job]()
    order.prepare()
    ready: list[str] = []
    session.screen.at_once = True
    try:
        while order.is_active():
            ready += order.get_ready()
            while ready and len(running) < most:
                slot = min(set(range(most)) - {job.slot for job in running})
                running.append(_Job(ready.pop(0), slot, recipe, session, most, reuse))
            time.sleep(_POLL)
            for job in list(running):
                if job.ended():
                    running.remove(job)
                    _take(session, job.folder, stages[job.name])
                    order.done(job.name)
                    job.remove()
    finally:
        for job in running:
            job.stop()
        for job in running:
            job.wait()
        session.screen.at_once = False
    recipe.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _take(session: Session, folder: Path, stage: Stage) -> None:
    """What a job has trained, into the run; without a word, for the job's own were passed on."""
    there, quiet = session.bootstrap.reuse, session.screen.quiet
    there[:] = [*(path for path in there if Path(path) != folder), folder]
    session.screen.quiet = True
    try:
        session.bootstrap.make(stage)
    finally:
        session.screen.quiet = quiet
        there.remove(folder)
    made, taken = (run / "stages" / stage.name / "done.json" for run in (folder, session.run.path))
    if made.read_bytes() != taken.read_bytes():
        session.screen.warn(f"{stage.name}: trained again, for its job made it with something else; please report this")


def _waiting(session: Session, arms: Sequence[str]) -> tuple[dict[str, list[str]], dict[str, Stage]]:
    """Networks that jobs may train, each with those of them that it waits for; and the stages by their names."""
    from bootdiff.method.plan import parents_of

    boot = session.bootstrap
    settings, problem = boot.settings, boot.problem
    open_stages = [s for s in boot.plan(arms).trainings if not session.run.stage(s.name).done]
    graph: dict[str, list[str]] = {}
    for stage in (s for s in open_stages if s.part in _PARTS):  # in the order in which they are trained
        parents = [p.name for p in parents_of(settings, problem, stage) if not session.run.stage(p.name).done]
        if all(name in graph for name in parents):
            graph[stage.name] = parents
    return graph, {stage.name: stage for stage in open_stages}


class _Job:
    """A process that trains one network. slot: which of the processes that run at once it is, from 0."""

    def __init__(self, name: str, slot: int, recipe: Path, session: Session, most: int, reuse: Sequence[Path]) -> None:
        from bootdiff.recipe.trust import trusted

        self.name, self.slot, self.session = name, slot, session
        self.folder = recipe.parent / name
        self._log, self._shown, self._looked, self._step = recipe.parent / f"{name}.log", 0, 0.0, -1
        self._rows: Stamp | None = None  # of its metrics, when they were last read
        _wait_for(self.folder)
        others = [word for path in reuse for word in ("--reuse", str(path))]
        arguments = ["fit", str(recipe), "--out", str(session.run.path), "--stage", name, *others]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                own_command(arguments, trusted=trusted()), env=own_environment(job=True) | self._share(most),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is passed on once, by `stop`
            )  # fmt: skip

    def _share(self, most: int) -> dict[str, str]:
        """Its share of the machine: of the cores, and one GPU of those there are, in turn."""
        import torch

        if self.session.accelerator.device.type != "cuda":
            return {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // most))}
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = visible.split(",") if visible else [str(k) for k in range(torch.cuda.device_count())]
        return {"CUDA_VISIBLE_DEVICES": devices[self.slot % len(devices)]}

    def ended(self) -> bool:
        """Whether it has trained its network; says meanwhile how it stands.

        Raises:
            BootdiffError: it ended otherwise.
        """
        code = self._process.poll()
        now = time.monotonic()
        if code is None and now - self._looked < _LOOK:
            return False
        self._looked = now
        self._say()
        if code is None:
            return False
        self.session.screen.finish(self.name)
        if code == 0:
            return True
        from bootdiff.cli.failures import INTERRUPTED
        from bootdiff.training.state import Interrupted

        if code == INTERRUPTED:
            raise Interrupted(f"{self.name}: its process was stopped. Run the same command again to continue.")
        lines = "\n".join(self._text().splitlines()[-_SAID:])
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise BootdiffError(
            f"{self.name}: its process {how}. What it said last (all of it in {self._log}):\n{lines}\n"
            f"The same command goes on; without --jobs it trains one network at a time."
        )

    def _text(self) -> str:
        return self._log.read_bytes().decode("utf-8", errors="replace")

    def _say(self) -> None:
        """What it has printed of its network since, and where it stands."""
        from bootdiff.training.state import Progress

        text = self._text()
        whole = text[self._shown : text.rfind("\n") + 1]
        self._shown += len(whole)
        for line in whole.splitlines():
            if line.startswith(f"{self.name}: "):
                self.session.screen.print(line)
        metrics = self.folder / "metrics.jsonl"
        stamp = stamp_of(metrics)
        if stamp == self._rows and self._step >= 0:
            return  # of a long training there are many
        self._rows, rows = stamp, read_metrics(metrics, self.name)
        row: dict[str, Any] = next((row for row in reversed(rows) if "seconds" in row), {"step": 0})
        step, steps = row["step"], self.session.record.steps_of(self.name)
        if step != self._step:
            self._step = step
            left = (steps - step) * row.get("seconds", 0.0) / max(step, 1)
            standing = Progress(self.name, step, steps, row.get("loss"), row.get("images_per_second", 0.0), left)
            self.session.screen(standing)
            self.session.record.report.due()

    def stop(self) -> None:
        """Ask it to write a checkpoint and end."""
        if self._process.poll() is None:
            self._process.terminate()

    def wait(self) -> None:
        """Until it has ended."""
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def remove(self) -> None:
        """What it wrote, which the run has now."""
        shutil.rmtree(self.folder)
        self._log.unlink()


def _wait_for(folder: Path) -> None:
    """A job of a command that was killed ends by itself, soon."""
    from bootdiff.training.lock import in_use

    until = time.monotonic() + _PATIENCE
    while folder.is_dir() and in_use(folder) and time.monotonic() < until:
        time.sleep(_POLL)

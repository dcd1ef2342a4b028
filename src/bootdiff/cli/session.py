"""Everything a command works with, opened from a recipe: threads, device, data, run directory, screen.

    with open_session(load_recipe("recipe.yaml"), "runs/mine", Screen()) as session:
        session.bootstrap.denoiser("bootdiff")

`report.record` says what a run's folder gets beside the training's own files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from bootdiff.cli.console import Console
from bootdiff.cli.report.metadata import data_note
from bootdiff.cli.report.record import RunRecord
from bootdiff.denoise import Denoiser
from bootdiff.errors import BootdiffError
from bootdiff.method.plan import ARMS, Stage
from bootdiff.method.problem import Problem
from bootdiff.method.stages import Bootstrap
from bootdiff.recipe.build import build_problem, method_settings
from bootdiff.recipe.schema import Recipe, load_recipe_text
from bootdiff.recipe.trust import imported_classes
from bootdiff.serialization import arm_folder, load, save
from bootdiff.training import trackers
from bootdiff.training.device import chosen_device, device_name, make_accelerator
from bootdiff.training.run import Run, StageDir
from bootdiff.training.state import Interrupted

__all__ = [
    "Session",
    "accelerate",
    "arms_of",
    "classes_of",
    "device_of",
    "load_arm",
    "open_session",
    "read_run",
    "saved_arms",
]


@dataclass
class Session:
    """What `open_session` opened."""

    recipe: Recipe
    problem: Problem
    run: Run
    accelerator: Any
    screen: Console
    bootstrap: Bootstrap
    record: RunRecord

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes."""
        return bool(self.accelerator.is_main_process)

    def expect(self, arms: Sequence[str]) -> None:
        """Check that the networks of these arms can be built, and note those to be trained, in order.

        Raises:
            BootdiffError, ValueError: a network that cannot be built (`Bootstrap.check_networks`).
        """
        self.bootstrap.check_networks(arms)
        self.expect_stages(self.bootstrap.plan(arms).trainings)

    def expect_stages(self, trainings: Sequence[Stage]) -> None:
        """Note the networks to be trained, in order."""
        self.screen.expect([stage.name for stage in trainings])
        self.record.expect(self.bootstrap, trainings)

    def train(self, arm: str) -> Denoiser:
        """An arm's finished denoiser; trains what is missing, saves the arm and the ledger."""
        denoiser = self.bootstrap.denoiser(arm)
        self.save(arm, denoiser)
        self.write_ledger()
        return denoiser

    def save(self, arm: str, denoiser: Denoiser) -> None:
        """Write an arm's finished denoiser into the run."""
        if self.main:
            save(denoiser, self.run.path / arm)

    def write_ledger(self) -> dict[str, Any]:
        """The cost of every stage so far, also of those an earlier command trained, into ledger.json."""
        return self.record.write_ledger(self.bootstrap.ledger)


def arms_of(problem: Problem, arms: Sequence[str] = ()) -> list[str]:
    """The arms that were asked for, in the order of `ARMS`; none: all that the data allow, but `distilled`.

    Raises:
        BootdiffError: an unknown arm, or the oracle without its data.
    """
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown:
        raise BootdiffError(f"--arm {unknown[0]}: no such arm; known: {', '.join(ARMS)}")
    if "oracle" in arms and problem.oracle is None:
        raise BootdiffError(
            "--arm oracle: the oracle is trained on all of the data in full, and the recipe has none: give the block "
            "`oracle` (or cut the views out of a pool by `simulate`), or leave this arm out"
        )
    every = [arm for arm in ARMS if arm != "distilled" and (arm != "oracle" or problem.oracle is not None)]
    return [arm for arm in ARMS if arm in (arms or every)]


def device_of(recipe: Recipe) -> torch.device:
    """The recipe's device, for what is not trained; sets the number of threads.

    Raises:
        BootdiffError: a device that is not there.
    """
    _set_threads(recipe)
    return chosen_device(recipe.device)


def accelerate(recipe: Recipe, track: Sequence[str] = (), folder: Path = Path()) -> Any:
    """accelerate's Accelerator for the recipe's device and precision; sets the number of threads.

    Args:
        track: names of trackers; those that write files do so in `folder`.

    Raises:
        BootdiffError: a device or tracker that is not there.
    """
    _set_threads(recipe)
    options = trackers.tracker_options(track, folder)
    return make_accelerator(recipe.device, recipe.training.precision, **options)


def _set_threads(recipe: Recipe) -> None:
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)


def _completed(text: str, out: Path, shape: Sequence[int]) -> str:
    """The recipe of a run as today's version would have written it; as it is, where it cannot be read any more."""
    try:
        return load_recipe_text(text, out, name=out.name).with_defaults_for(shape).dump(place=False)
    except BootdiffError:
        return text


@contextmanager
def open_session(
    recipe: Recipe,
    out: str | Path,
    screen: Console,
    *,
    reuse: Sequence[str | Path] = (),
    track: Sequence[str] = (),
    only: Sequence[str] | None = None,
) -> Iterator[Session]:
    """Open a run for this recipe, to train in it; `only`: nothing but the stages of these names.

    Raises:
        BootdiffError: data that are missing or do not fit; the run is in use, or of another recipe or other data.
    """
    for other in reuse:
        if not Path(other).is_dir():
            raise BootdiffError(f"--reuse {other}: no such folder; give the directory of an earlier run")
    out = Path(out)
    accelerator = accelerate(recipe, track, out)
    screen.quiet = screen.quiet or not accelerator.is_main_process
    problem = build_problem(recipe)
    recipe = recipe.with_defaults_for(problem.shape)
    settings = method_settings(recipe, problem.shape)  # before the run is there: what is refused must leave no trace
    run = Run.open(
        out, recipe.dump(place=False), problem.fingerprint(), seed=recipe.seed, main=accelerator.is_main_process,
        processes=accelerator.num_processes, device=device_name(accelerator.device),
        precision=accelerator.mixed_precision,
        complete=lambda text: _completed(text, out, problem.shape),
    )  # fmt: skip
    with run:
        record = RunRecord(run, problem, screen.print, screen.warn, main=accelerator.is_main_process)
        record.describe()
        if accelerator.is_main_process:
            for remark in run.remarks:
                screen.warn(remark)
        accelerator.wait_for_everyone()  # the others find the run as the first has left it
        about = {
            "recipe": recipe.name,
            "seed": recipe.seed,
            "full": len(problem.full),
            "views": len(problem.views),
        }
        trackers.start(accelerator, track, run.path, about)
        others: list[str | Path] = [Path(other) for other in reuse if Path(other).resolve() != run.path.resolve()]

        def drawn(stage: StageDir, step: int, picture: Image.Image) -> None:
            trackers.log_picture(accelerator, stage.name, picture, step)

        watch = record.previews(recipe.sampling.settings(), recipe.sampling.preview_every, drawn)
        allowed = None if only is None else frozenset(only)
        bootstrap = Bootstrap(
            settings, problem, run, accelerator, record.progress(screen), record.log(screen.print), others,
            watch=watch, only=allowed,
        )  # fmt: skip
        try:
            yield Session(recipe, problem, run, accelerator, screen, bootstrap, record)
            record.settle()
        except Interrupted:
            accelerator.wait_for_everyone()  # for the first process to write the checkpoint
            raise
        finally:
            screen.clear()
            record.report.write()
            if track:
                accelerator.end_training()


def read_run(path: str | Path, device: str | None = None) -> tuple[Run, Recipe]:
    """An existing run, to read, and its recipe, with this device (`--device`) in place of its own.

    Raises:
        BootdiffError: no run there, no such device.
    """
    run = Run.read(path)
    source, changes = str(run.path / "recipe.yaml"), [] if device is None else [f"device={device}"]
    return run, load_recipe_text(run.recipe_text, run.path, source=source, name=run.path.name, changes=changes)


def saved_arms(path: str | Path) -> list[str]:
    """The arms whose denoisers lie in a run."""
    return [arm for arm in ARMS if (Path(path) / arm / "model.json").is_file()]


def load_arm(path: str | Path, arm: str | None, device: Any) -> tuple[str, Denoiser]:
    """A trained denoiser of a run, by default bootdiff's or the only one; or of a folder of `save`.

    Raises:
        BootdiffError: nothing there, or not this arm.
    """
    path = Path(path)
    if arm is None and (path / "model.json").is_file():
        return path.name, load(path, device, imported_classes())
    Run.read(path)
    there = saved_arms(path)
    if arm is not None and arm not in there:
        raise BootdiffError(f"{path}: has no trained arm {arm!r}; there are: {', '.join(there) or 'none'}")
    folder = path / arm if arm is not None else arm_folder(path)
    return folder.name, load(folder, device, imported_classes())


def classes_of(path: str | Path) -> list[str] | None:
    """The names of the classes a run was trained with."""
    note = data_note(path)
    return None if note is None else note["classes"]

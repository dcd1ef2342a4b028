"""Commands that the page starts, each in a process of its own: `new`, `check`, `plan` and `fit`, as in a terminal.

They write to a file, not to a pipe: where the page is killed, a training goes on. Where it ends properly, it interrupts
what it started, which then goes on from there by the same command.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

from bootdiff.cli.webui.site import Site
from bootdiff.errors import BootdiffError
from bootdiff.processes import own_command, own_environment

__all__ = ["Command", "Commands"]

_SHOWN = 24_000  # characters of what a command printed, its end
_SET = re.compile(r"(training\.steps|training\.batch|full\.holdout|seed)=[\w.]{1,20}")


class Command:
    """A command that was started. name: of its recipe."""

    def __init__(self, verb: str, name: str, arguments: Sequence[str], folder: Path, trusted: bool) -> None:
        self.verb, self.name = verb, name
        command = own_command([verb, *arguments], trusted=trusted)
        self.shown = shlex.join(["bootdiff", *command[3:]])
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (held as long as the command is known)
        weakref.finalize(self, self._file.close)
        self._process = subprocess.Popen(
            command, cwd=folder, env=own_environment() | {"COLUMNS": "110"},
            stdin=subprocess.DEVNULL, stdout=self._file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self._began, self._ended = time.monotonic(), 0.0
        self.settled = False

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        code = self._process.poll()
        if code is not None and not self._ended:
            self._ended = time.monotonic()
        return code

    @property
    def running(self) -> bool:
        return self.code is None

    @property
    def seconds(self) -> float:
        """For how long it has run."""
        return (time.monotonic() if self.running else self._ended) - self._began

    def text(self) -> str:
        """What it printed, the end of it."""
        size = os.fstat(self._file.fileno()).st_size
        raw = os.pread(self._file.fileno(), _SHOWN, max(0, size - _SHOWN))
        said = raw.decode("utf-8", errors="replace")
        return said if size <= _SHOWN else "...\n" + said.partition("\n")[2]

    def interrupt(self) -> None:
        """As by Ctrl-C: a training writes a checkpoint."""
        if self.running:
            self._process.send_signal(signal.SIGINT)

    def end(self, patience: float = 20.0) -> None:
        """Interrupt it, and wait until it has ended."""
        self.interrupt()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Commands:
    """What was started by this page: one command for each recipe at a time, two at once in all."""

    most = 2

    def __init__(self, site: Site) -> None:
        self.site = site
        self._known: dict[str, Command] = {}
        self._lock = threading.Lock()

    def of(self, name: str) -> Command | None:
        """The last command for a recipe."""
        return self._known.get(name)

    @property
    def running(self) -> list[Command]:
        return [command for command in self._known.values() if command.running]

    def new(self, name: str, full: str, partial: Sequence[str], kind: str = "") -> Command:
        """`bootdiff new`. Raises BootdiffError: a folder that is not there or not allowed, a recipe that is."""
        recipe = self.site.recipe(name)
        if recipe.exists():
            raise BootdiffError(f"{recipe.name}: is there already; give a different name, or choose it below")
        if not full or not partial:
            raise BootdiffError("choose the folder of full samples, and at least one of partial ones")
        home = self.site.data.resolve()
        folders = [f"./{self.site.folder_of_data(folder).relative_to(home)}" for folder in (full, *partial)]
        if kind and kind not in ("vector", "signal", "image", "video"):
            raise BootdiffError(f"kind {kind!r}: vector, signal, image or video")
        return self._start("new", recipe, [recipe.name, *folders, *(["--kind", kind] if kind else [])])

    def check(self, name: str) -> Command:
        """`bootdiff check`, into the run's folder."""
        recipe, out = self._there(name)
        return self._start("check", recipe, [recipe.name, "--out", self._written(out / "check"), *self._device()])

    def plan(self, name: str) -> Command:
        """`bootdiff plan`, into the run's folder."""
        recipe, out = self._there(name)
        return self._start("plan", recipe, [recipe.name, "--out", self._written(out / "plan"), *self._device()])

    def fit(self, name: str, arms: Sequence[str] = (), changes: Sequence[str] = ()) -> Command:
        """`bootdiff fit`. changes: as of `--set`, of a few keys that name no files.

        Raises:
            BootdiffError: other keys.
        """
        from bootdiff.method.plan import ARMS

        recipe, out = self._there(name)
        options: list[str] = []
        for arm in arms:
            if arm not in ARMS:
                raise BootdiffError(f"arm {arm!r}: known are {', '.join(ARMS)}")
            options += ["--arm", arm]
        for change in changes:
            if not _SET.fullmatch(change):
                raise BootdiffError(f"{change[:60]!r}: change that in the recipe's file")
            options += ["--set", change]
        return self._start("fit", recipe, [recipe.name, "--out", self._written(out), *options, *self._device()])

    def save(self, name: str, text: str) -> None:
        """Write a recipe anew (`Site.write_recipe`). Raises BootdiffError: a command for it runs; as that."""
        command = self.of(name)
        if command is not None and command.running:
            raise BootdiffError(f"{name}.yaml: `{command.verb}` runs still; wait for it, or stop it, then save")
        self.site.write_recipe(name, text)

    def settle(self, name: str) -> None:
        """A recipe that was just written is checked, so that its views can be looked at."""
        with self._lock:
            command = self.of(name)
            due = command is not None and command.verb == "new" and command.code == 0 and not command.settled
            if command is not None and due:
                command.settled = True
        if due and len(self.running) < self.most:
            self.check(name)

    def stop(self, name: str) -> None:
        """Interrupt the command for a recipe."""
        command = self.of(name)
        if command is not None:
            command.interrupt()

    def end(self) -> list[str]:
        """Interrupt everything and wait for it; the commands that go on from there."""
        left = self.running
        for command in left:
            command.interrupt()
        for command in left:
            command.end()
        return [command.shown for command in left]

    def _there(self, name: str) -> tuple[Path, Path]:
        recipe = self.site.recipe(name)
        if not recipe.is_file():
            raise BootdiffError(f"{recipe.name}: there is no such recipe in {self.site.data.resolve().name}/")
        return recipe, self.site.new_run(recipe.stem)

    def _written(self, path: Path) -> str:
        """A path as the command has it, which is shown: from the folder of data, where it lies below it."""
        home = self.site.data.resolve()
        return str(path.relative_to(home) if path.is_relative_to(home) else path)

    def _device(self) -> list[str]:
        return [] if self.site.device is None else ["--device", self.site.device]

    def _start(self, verb: str, recipe: Path, arguments: Sequence[str]) -> Command:
        with self._lock:
            before = self.of(recipe.stem)
            if before is not None and before.running and verb == "fit" and before.verb in ("check", "plan"):
                before.end(5)  # they only estimate
            if before is not None and before.running:
                raise BootdiffError(f"{recipe.name}: `{before.verb}` runs still; wait for it, or stop it")
            running = self.running
            if len(running) >= self.most:
                busy = ", ".join(f"{command.verb} {command.name}" for command in running)
                raise BootdiffError(f"{len(running)} commands run already ({busy}); wait for one, or stop it")
            command = Command(verb, recipe.stem, arguments, self.site.data.resolve(), self.site.trusted)
            self._known[recipe.stem] = command
            return command

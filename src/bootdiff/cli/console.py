"""Progress on screen: one bar per training in a terminal, a plain line every 20 s elsewhere (a log file).

Both show the loss since the last metrics row, images per second and the time left of this training.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from bootdiff.training.state import Progress

__all__ = ["Console", "clock", "number"]


def clock(seconds: float) -> str:
    """A duration for people.

    >>> clock(4.2), clock(75), clock(3700)
    ('4 s', '1:15', '1:01:40')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def number(value: float) -> str:
    """A large number for people, three digits and an SI prefix.

    >>> number(17), number(41_234), number(2.5e12)
    ('17', '41.2k', '2.5T')
    """
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{prefix}"
    return f"{value:.3g}"


class Console:
    """Where a command prints. Called with a `Progress` a few times a second; `print` writes a line above the bar.

    Args:
        console: where to print; anything but a terminal gets plain lines.
        quiet: print nothing (all processes but the first).
        every: seconds between plain lines.
    """

    def __init__(self, console: RichConsole | None = None, *, quiet: bool = False, every: float = 20.0) -> None:
        self.console = console or RichConsole(highlight=False)
        if not self.console.is_terminal:
            self.console.width = max(self.console.width, 160)
        self.quiet, self.every = quiet, every
        self.order: list[str] = []
        self.at_once = False
        """Whether several trainings go on at the same time, a bar each."""
        self._bar: Bar | None = None
        self._tasks: dict[str, Any] = {}
        self._printed: dict[str, tuple[float, int]] = {}  # when, and at which step

    def expect(self, stages: Sequence[str]) -> None:
        """The trainings to come, in order, to number them on screen."""
        self.order = list(stages)

    def print(self, text: str = "", style: str | None = None) -> None:
        """Print a line (no markup) above the bar."""
        if not self.quiet:
            with self._terminal():
                self.console.print(escape(text), style=style, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a line that should not be missed."""
        self.print(text, "yellow")

    def show(self, *what: Any) -> None:
        """Print rich's renderables, such as tables."""
        if not self.quiet:
            with self._terminal():
                self.console.print(*what)

    @contextmanager
    def _terminal(self) -> Iterator[None]:
        """A terminal that is closed is no reason to end: the work goes on, until SIGHUP says otherwise, unseen."""
        try:
            yield
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self.quiet = True

    def __call__(self, p: Progress) -> None:
        """Show the progress of a training."""
        if self.quiet:
            return
        loss = "" if p.loss is None else f"loss {p.loss:.4f}  "
        # The rate of the first steps is not representative.
        rest = f"{p.images_per_second:,.0f} images/s  {clock(p.seconds_left)} left" if p.images_per_second else ""
        with self._terminal():
            self._step(p.stage, p.step, p.steps, f"{loss}{rest}")

    @contextmanager
    def work(self, what: str, total: int = 0) -> Iterator[Any]:
        """A bar for other work; yields a function to call with the amount done (and, optionally, the total)."""
        begin = time.monotonic()

        def done(n: int, of: int = total) -> None:
            if not self.quiet:
                left = (time.monotonic() - begin) / max(n, 1) * (of - n)
                with self._terminal():
                    self._step(what, n, of, f"{clock(left)} left" if n else "")

        try:
            yield done
        finally:
            self.clear()

    def _step(self, what: str, step: int, steps: int, text: str) -> None:
        nth = f" ({self.order.index(what) + 1} of {len(self.order)})" if what in self.order else ""
        if not self.console.is_terminal:
            now = time.monotonic()
            if not self.at_once and what not in self._printed:
                self._printed.clear()
            at, last = self._printed.get(what, (-self.every, -1))
            if what not in self._printed or (step != last and (step == steps or now - at > self.every)):
                self._printed[what] = now, step
                self.console.print(f"{what}{nth}: {step}/{steps}  {text}", markup=False, soft_wrap=True)
            return
        if what not in self._tasks:
            if not self.at_once:
                self.clear()
            if self._bar is None:
                self._bar = Bar(
                    TextColumn("{task.description}"),
                    BarColumn(24),
                    MofNCompleteColumn(),
                    TextColumn("{task.fields[text]}"),
                    console=self.console,
                    transient=True,
                )
            self._tasks[what] = self._bar.add_task(f"{escape(what)}{nth}", total=steps, text=text)
            self._bar.start()
        assert self._bar is not None
        self._bar.update(self._tasks[what], completed=step, text=text)
        if step == steps:
            self.finish(what)

    def finish(self, what: str) -> None:
        """Remove the bar of one training, if there is one."""
        task = self._tasks.pop(what, None)
        if not self._tasks:
            self.clear()
        elif task is not None and self._bar is not None:
            with self._terminal():
                self._bar.remove_task(task)

    def clear(self) -> None:
        """Remove the bar."""
        bar, self._bar = self._bar, None
        self._tasks.clear()
        if bar is not None:
            with self._terminal():
                bar.stop()

"""report.html, written anew while a run is trained: when something has happened, and no more often than it may cost.

Whatever goes wrong with it is said once and stops nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from bootdiff.cli.report import page

__all__ = ["LiveReport"]

_SHARE = 0.02  # of the time that writing may take
_AT_LEAST = 60.0  # seconds after which it is written although nothing has happened but steps


class LiveReport:
    """The report of a run that is being trained.

    Args:
        folder: of the run.
        say: told what went wrong.
        main: whether this process is the one that writes.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], *, main: bool = True) -> None:
        self.folder, self.say, self.main = folder, say, main
        self._due, self._again, self._last, self._failed = False, 0.0, 0.0, False

    def due(self) -> None:
        """Something has happened that the report should tell."""
        self._due = True
        self.tick()

    def tick(self) -> None:
        """Write it, where it is due and the last time is long enough ago; called a few times a second."""
        now = time.monotonic()
        if now >= self._again and (self._due or now - self._last > _AT_LEAST):
            self.write()

    def write(self) -> None:
        """Write it now."""
        if not self.main:
            return
        start = time.monotonic()
        try:
            page.write(self.folder)
        # A page for people: whatever it is, the training is worth more.
        except Exception as error:
            if not self._failed:
                self.say(f"{self.folder / page.FILE}: not written ({error}); nothing else depends on it")
            self._failed = True
        self._due, self._last = False, time.monotonic()
        self._again = self._last + (self._last - start) / _SHARE

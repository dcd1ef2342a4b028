"""One computation at a time, for as long as a browser waits for it.

Every computation runs in its own thread and calls `tick` after each step. It is stopped there when its browser says so,
or has not asked for it for a while: a page that was closed, or whose connection broke, keeps nothing running.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bootdiff.errors import BootdiffError

__all__ = ["Desk", "Stopped", "Told"]

_AWAY = 15.0  # seconds after which a browser that asks for nothing is gone
_POLL = 0.25


class Stopped(Exception):
    """The computation is not wanted any more."""


@dataclass
class Told:
    """How a computation stands. waiting: for others'. shown: the last thing it showed. result: once it is done."""

    step: int = 0
    of: int = 0
    waiting: bool = False
    shown: Any = None
    result: Any = None
    done: bool = False


@dataclass
class _Job:
    told: Told = field(default_factory=Told)
    error: BaseException | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    changed: threading.Event = field(default_factory=threading.Event)
    asked: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        if self.stop.is_set() or time.monotonic() - self.asked > _AWAY:
            raise Stopped


class Desk:
    """Computations of all browsers of a page. Those of one session replace each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, _Job] = {}

    @property
    def busy(self) -> bool:
        """Whether something is computed now."""
        return self._lock.locked()

    def stop(self, session: str) -> None:
        """Stop what a session's browser waits for."""
        job = self._jobs.get(session)
        if job is not None:
            job.stop.set()

    def do(self, session: str, compute: Callable[[Callable[..., None]], Any]) -> Iterator[Told]:
        """Compute, and tell how it stands a few times a second, the last time with the result.

        Args:
            session: of the browser.
            compute: called with tick(step, of, shown=None), to be called after each step.

        Raises:
            Stopped: by the browser, or by its next computation.
            BootdiffError: what was wrong; ValueErrors are told the same way.
        """
        self.stop(session)
        job = self._jobs[session] = _Job()
        thread = threading.Thread(target=self._run, args=(job, compute), name="bootdiff-ui", daemon=True)
        thread.start()
        try:
            yield job.told
            while thread.is_alive():
                job.asked = time.monotonic()
                if job.changed.wait(_POLL) or job.told.waiting:
                    job.changed.clear()
                    if not job.told.done:
                        yield job.told
                thread.join(0 if job.told.waiting else 0.05)
        finally:
            job.stop.set()  # also where the one who asks is gone
            if self._jobs.get(session) is job:
                del self._jobs[session]
        if job.error is not None:
            raise job.error
        yield job.told

    def _run(self, job: _Job, compute: Callable[[Callable[..., None]], Any]) -> None:
        def tick(step: int, of: int, shown: Any = None) -> None:
            job.check()
            job.told.step, job.told.of = step, of
            if shown is not None:
                job.told.shown = shown
            job.changed.set()

        try:
            while not self._lock.acquire(timeout=_POLL):
                job.told.waiting = True
                job.check()
            try:
                job.told.waiting = False
                job.check()
                job.told.result = compute(tick)
                job.told.done = True
            finally:
                self._lock.release()
        except (BootdiffError, Stopped) as error:
            job.error = error
        except ValueError as error:  # of an argument out of its range
            job.error = BootdiffError(str(error))
        except Exception as error:
            job.error = BootdiffError(_unexpected(error))
        finally:
            job.changed.set()


def _unexpected(error: Exception) -> str:
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return "out of memory; ask for fewer at once, or start the page with --device cpu"
    return f"that went wrong ({type(error).__name__}: {error}); the page itself goes on"

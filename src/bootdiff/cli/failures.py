"""What becomes of errors that a command ends with: what is wrong, where, and what to do, in place of a traceback.

Beside our own errors these are what the machine is to blame for: files, memory, processes that have died. Anything else
is a mistake in bootdiff, and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer

from bootdiff.errors import BootdiffError

__all__ = ["INTERRUPTED", "Stopped", "complain", "explain", "stop_on_signals"]

REFUSED, INTERRUPTED = 2, 130
"""Exit codes."""


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP arrived; Ctrl-C is KeyboardInterrupt itself."""


# While a message is printed: a launcher ends a process as soon as another one has failed.
_saying = threading.Event()


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """SIGTERM, and SIGHUP where nobody ignores it (nohup does), end a command as Ctrl-C does, with a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        if not _saying.is_set():
            raise Stopped(signal.Signals(number).name)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    ours = [number for number in numbers if before[number] == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


def explain(error: BaseException, verb: str | None = None) -> str | None:
    """What to say of an error; None of those that keep their traceback. verb: of the command that ended."""
    if isinstance(error, BootdiffError):
        return str(error)
    if isinstance(error, OSError):
        # The reader of our output is gone: no message would arrive.
        return None if error.errno in (None, errno.EPIPE) else _explain_os(error)
    if isinstance(error, MemoryError):
        return _out_of_memory(error, verb)
    if isinstance(error, RuntimeError):
        return _explain_runtime(error, verb)
    return None


# --- files ---

_SPACE = "free some space, or choose a different place"
_RIGHTS = "correct its permissions, or choose a different place"
_DISK = "the disk, or the connection to it, fails: check it, save what is there, then run the same command again"
_NETWORK = "the network file system has lost it: mount it again, then run the same command again"
_REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: _SPACE,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "choose a place that can be written",
    errno.ENOENT: "check the path; if it was there, it was moved or deleted while this command ran: put it back",
    errno.ENAMETOOLONG: "shorten the path",
    errno.ELOOP: "its links lead in a circle: remove one of them",
    errno.EIO: _DISK,
    errno.ENXIO: _DISK,
    errno.ENODEV: _DISK,
    errno.ESTALE: _NETWORK,
    errno.ETIMEDOUT: _NETWORK,
    errno.ENOTCONN: _NETWORK,
    errno.EMFILE: "raise the number of open files (ulimit -n), or lower training.workers",
    errno.ENFILE: "too many files are open on this machine: end other programs",
    errno.EAGAIN: "too many processes are running (ulimit -u): end others, or lower training.workers",
}


def _explain_os(error: OSError) -> str:
    if error.errno == errno.ENOMEM:
        return _out_of_memory(error, None)
    remedy = _REMEDIES.get(error.errno or 0, "fix that, or choose a different place")
    place = error.filename2 if error.filename is None else error.filename
    if isinstance(place, bytes):
        place = os.fsdecode(place)
    if place is None or isinstance(place, int):
        try:
            place = f"a file (in {os.getcwd()})"
        except OSError:
            place, remedy = "the current folder", "it was deleted: change to another one (cd)"
    place = str(place)
    place = place if len(place) <= 300 else f"{place[:200]} ... ({len(place)} characters)"
    return f"{place}: {error.strerror}; {remedy}"


# --- memory, processes ---

_MEMORY = re.compile(
    r"DefaultCPUAllocator|can't allocate memory|not enough memory|out of memory|Cannot allocate memory|"
    r"Storage size calculation overflowed|numel: integer multiplication overflow|ALLOC_FAILED"
)
_SHARED = re.compile(r"unable to (write to|mmap|open shared memory)|/torch_\w+|bus error", re.IGNORECASE)


def _explain_runtime(error: RuntimeError, verb: str | None) -> str | None:
    torch = sys.modules.get("torch")
    text = str(error)
    if torch is None:
        return None
    from bootdiff.processes import dead_worker, lost_process

    if (said := dead_worker(error)) is not None:
        return (
            f"a process that prepares batches (training.workers) has died: {said}. If memory ran out, lower "
            "training.workers or training.batch; then run the same command again"
        )
    if isinstance(error, torch.OutOfMemoryError) or _MEMORY.search(text):
        return _out_of_memory(error, verb)
    if _SHARED.search(text):
        return (
            f"no room to share memory between processes ({_first(text)}); enlarge /dev/shm, or lower training.workers"
        )
    lost = lost_process(error)
    if lost is not None:
        return (
            f"the connection to another process of this training broke ({lost}). That process has ended: its own "
            "message, or the launcher's report of it, says why. The last checkpoint is intact: run the command again"
        )
    return None


_TO_LOWER = {
    "sample": "draw fewer samples (--count), or in several calls with different seeds",
    "restore": "lower --samples, or give fewer files at a time",
    "evaluate": "lower --samples",
}


def _out_of_memory(error: BaseException, verb: str | None) -> str:
    training = (
        "raise training.accumulate (4, say: the same result in parts), lower training.batch, `patch` the networks or "
        "make them narrower; of data that do not fit, use fewer (limit)"
    )
    said = _first(str(error)) or "the operating system gives none"
    return f"out of memory ({said}); {_TO_LOWER.get(verb or '', training)}"


def _first(text: str) -> str:
    """The first line of a message, without the place in torch's source that it begins with."""
    line = next(iter(text.splitlines()), "")
    return re.sub(r"^\[enforce fail at [^\]]*\]\s*(err == 0\.\s*)?", "", line)[:200]


# --- on screen ---


def complain(text: str, *, everywhere: bool = True) -> None:
    """Print a message. Of several processes the first one does; another one where the first does not fail of the same.

    everywhere: False: never another one.
    """
    rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if os.environ.get("LOCAL_RANK", "0") != "0" or rank != "0":
        if not everywhere:
            return
        # A launcher ends all as soon as one fails: the first one, of the same error, has said it by then.
        with suppress(KeyboardInterrupt):
            time.sleep(_WAIT)
            _write(f"process {rank} of 0 .. {int(world) - 1}: {text}")
        return
    _write(text if world == "1" else f"process 0 of 0 .. {int(world) - 1}: {text}")


_WAIT = 3.0


def _write(text: str) -> None:
    # After a hang-up there is no terminal any more.
    _saying.set()
    with suppress(OSError):
        typer.secho("bootdiff: ", fg="red", bold=True, err=True, nl=False)
        typer.echo(text, err=True)
    _saying.clear()

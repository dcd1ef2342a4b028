"""Processes that belong together: none trains on where the one that began it has ended.

A launcher (torchrun, accelerate) and a training with data workers end their children when they end themselves, but not
when they are killed: the children would go on, holding the run's lock and the devices. So each child watches for its
parent, and is asked to end, as by SIGTERM, once it has another one. Commands of ours that a command starts
(`own_command`, with `own_environment(job=True)`) do the same.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

__all__ = [
    "dead_worker",
    "end_with_launcher",
    "end_with_parent",
    "lost_process",
    "own_command",
    "own_environment",
]

_EVERY = 1.0
_PATIENCE = 300.0  # seconds for a checkpoint, before a process is killed that waits for another one that is gone
_JOB = "BOOTDIFF_JOB"
_LAUNCHED = ("LOCAL_RANK", "ACCELERATE_DYNAMO_BACKEND", _JOB)  # what launchers set

_watching: set[int] = set()


def end_with_launcher() -> None:
    """Ask this process to end when the launcher that started it is gone; nothing where no launcher did."""
    if any(name in os.environ for name in _LAUNCHED) and os.getpid() not in _watching:
        _watching.add(os.getpid())
        threading.Thread(target=_watch, args=(os.getppid(), (signal.SIGTERM, signal.SIGKILL)), daemon=True).start()


def end_with_parent(parent: int, worker: int = 0) -> None:
    """In a data worker: end when the process `parent`, which started it, is gone. It has nothing to lose."""
    threading.Thread(target=_watch, args=(parent, (signal.SIGKILL,)), daemon=True).start()


def _watch(parent: int, signals: tuple[signal.Signals, ...]) -> None:
    while os.getppid() == parent:
        time.sleep(_EVERY)
    for number in signals:
        os.kill(os.getpid(), number)
        time.sleep(_PATIENCE)


def own_command(arguments: Sequence[str], *, trusted: bool = False) -> list[str]:
    """A command of ours for a process of its own. trusted: whether its recipe may name code (`recipe.trust`)."""
    return [sys.executable, "-m", "bootdiff", *(["--trust-imports"] if trusted else []), *arguments]


def own_environment(*, job: bool = False) -> dict[str, str]:
    """What such a process needs: this very source, from whatever folder; what it prints arrives at once.

    job: it ends when this process does.
    """
    source = str(Path(__file__).resolve().parents[1])
    paths = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    own = {"PYTHONUNBUFFERED": "1", "PYTHONPATH": paths, "NO_COLOR": "1"}
    return {**os.environ, **own, **({_JOB: "1"} if job else {})}


def dead_worker(error: BaseException) -> str | None:
    """What torch says where a data worker has died; None of other errors."""
    text = str(error)
    if isinstance(error, RuntimeError) and _WORKER.match(text):
        return text.splitlines()[0].rstrip(". ")
    # It died while its batch was handed over, before torch looked at it.
    if isinstance(error, ConnectionError) and error.filename is None and _passes(error, "multiprocessing"):
        return f"DataLoader worker: {error.strerror or type(error).__name__}"
    return None


def _passes(error: BaseException, package: str) -> bool:
    """Whether an error was raised in the files of a package, or came through them."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(f"{os.sep}{package}{os.sep}" in frame.filename for frame in frames)


_WORKER = re.compile(r"DataLoader worker \(pid")


def lost_process(error: BaseException) -> str | None:
    """What gloo or NCCL says where the connection to another process broke; None of other errors."""
    import torch

    text = str(error)
    known = isinstance(error, torch.distributed.DistError) if torch.distributed.is_available() else False
    if known or (isinstance(error, RuntimeError) and _CONNECTION.search(text)):
        return " ".join(text.split())[:200]
    return None


_CONNECTION = re.compile(r"gloo/|\bgloo\b|NCCL error|ncclRemoteError|Connection (closed|reset) by peer", re.IGNORECASE)

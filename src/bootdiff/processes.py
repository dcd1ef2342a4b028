"""Processes that belong together: none trains on where the one that began it has ended.

A launcher (torchrun, accelerate) and a training with data workers end their children when they end themselves, but not
when they are killed: the children would go on, holding the run's lock and the devices. So each child watches for its
parent, and is asked to end, as by SIGTERM, once it has another one.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time

__all__ = ["dead_worker", "end_with_launcher", "end_with_parent", "lost_process"]

_EVERY = 1.0
_PATIENCE = 300.0  # seconds for a checkpoint, before a process is killed that waits for another one that is gone
_LAUNCHED = ("LOCAL_RANK", "ACCELERATE_DYNAMO_BACKEND")  # what launchers set

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


def dead_worker(error: BaseException) -> str | None:
    """What torch says where a data worker has died; None of other errors."""
    text = str(error)
    return text.splitlines()[0].rstrip(". ") if isinstance(error, RuntimeError) and _WORKER.match(text) else None


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

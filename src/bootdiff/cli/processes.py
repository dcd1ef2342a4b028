"""Several processes of one command on this machine: one per GPU, say.

Each is this command again, told its number by the environment that torch.distributed reads. They get sessions of their
own, so that Ctrl-C in a terminal reaches the process that began them alone, which hands it on: all stop after the same
step, write a checkpoint and end. When one fails, the others, which would wait for it for ever, are ended.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

__all__ = ["spread"]

# Seconds that the others have to end by themselves after one has failed, and after they were told to.
GRACE = 20.0


def spread(arguments: Sequence[str], processes: int) -> int:
    """Run `python -m bootdiff ARGUMENTS` in so many processes; returns the exit code of one that failed, or 0."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    shared["LOCAL_WORLD_SIZE"] = str(processes)
    started: list[subprocess.Popen] = []

    def hand_on(number: int, frame: Any) -> None:
        for child in started:
            if child.poll() is None:
                child.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for rank in range(processes):
            own = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [sys.executable, "-m", "bootdiff", *arguments]
            started.append(subprocess.Popen(command, env=own, start_new_session=True))
        return _wait(started)
    finally:
        _end(started)
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(started: Sequence[subprocess.Popen]) -> int:
    """Until all have ended, or some time after one has failed."""
    failed = 0
    deadline = float("inf")
    while None in [child.poll() for child in started] and time.monotonic() < deadline:
        codes = [child.returncode for child in started if child.returncode]
        if codes and not failed:
            failed, deadline = codes[0], time.monotonic() + GRACE
        time.sleep(0.05)
    failed = failed or next((child.returncode for child in started if child.returncode), 0)
    return 128 - failed if failed < 0 else failed  # killed by a signal: as a shell says it


def _end(started: Sequence[subprocess.Popen]) -> None:
    for child in started:
        if child.poll() is None:
            child.terminate()
    deadline = time.monotonic() + GRACE
    for child in started:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

"""A training that is killed (SIGKILL) again and again ends with the same bits as one that is left alone.

A warmed-up process forks one child per attempt, so an attempt costs no imports. Each child runs the same call; it is
killed a random moment after a random number of steps, so also while it writes a row, a snapshot or a checkpoint.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time

KILLS = 40


def attempt(path):
    """The command: open the run, train, exit. One byte on stdout per step, to time the kill by."""
    import training_toy
    from bootdiff.runs import Run

    with Run.open(path, "seed: 3") as run:
        batches = training_toy.Batches(on_step=lambda t: os.write(1, b"."))
        training_toy.train(run.stage("toy"), batches=batches, log_every=3, evaluate_every=4, checkpoint_every=5)


def forked(path):
    """A child that runs ``attempt`` with its stdout in a pipe: (pid, read end)."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 1)
        code = 1
        try:
            attempt(path)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    return pid, reader


def main(path):
    """Attempts until one is not killed; prints how many were killed, and after how many steps each."""
    import torch
    from accelerate import Accelerator

    import training_toy  # noqa: F401
    from bootdiff.train import fit  # noqa: F401

    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # what the first optimizer imports
    Accelerator(cpu=True)
    draw, killed = random.Random(int(sys.argv[2])), []
    while len(killed) < KILLS:
        pid, reader = forked(path)
        # Fewer steps than lie between two checkpoints often enough that the training lasts for all the kills.
        aim, seen = draw.choice([0, 1, 2, 3, 4, 4, 5, 5, 6]), 0
        while seen < aim and os.read(reader, 1):
            seen += 1
        time.sleep(draw.choice([0.0, 0.001, 0.005, 0.02]) * draw.random())
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        while select.select([reader], [], [], 0)[0] and os.read(reader, 1):
            seen += 1
        os.close(reader)
        if not os.WIFSIGNALED(status):
            break
        killed.append(seen)
    pid, reader = forked(path)
    while os.read(reader, 4096):
        pass
    assert os.waitpid(pid, 0)[1] == 0
    print(json.dumps(killed))


def test_forty_kills_leave_no_trace(tmp_path):
    from bootdiff.runs import Run
    from test_train import outcome
    from training_toy import train

    seed = random.randrange(10**6)
    command = [sys.executable, __file__, str(tmp_path / "killed"), str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=100)
    killed = json.loads(done.stdout)
    assert len(killed) >= 20, f"the training ended after {len(killed)} kills, seed {seed}"
    with Run.open(tmp_path / "straight", "seed: 3") as run:
        train(run.stage("toy"), log_every=3, evaluate_every=4, checkpoint_every=5)
        straight = outcome(run.stage("toy"))
    run = Run.read(tmp_path / "killed")
    assert outcome(run.stage("toy")) == straight, f"seed {seed}, killed after {killed} steps"
    assert not list(run.path.rglob("*tmp*"))
    print(f"{len(killed)} kills, after {killed} steps")


if __name__ == "__main__":
    main(sys.argv[1])

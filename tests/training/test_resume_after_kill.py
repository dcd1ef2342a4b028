"""A training that is killed (SIGKILL) again and again ends with the same bits as one that is left alone.

It is trained for 60 steps, and then, complete, for 90: going on is killed just as often.

A warmed-up process forks one child per attempt, so an attempt costs no imports. Each child runs the same call; it is
killed a random moment after a random number of steps, so also while it writes a row, a snapshot or a checkpoint. A step
begins only when it is told to: however busy the machine is, no attempt comes further than one checkpoint.  With Muon
there is the state of two optimizers to keep.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

KILLS = {60: 40, 90: 15}
"""At most, for each number of steps in turn."""
EVERY = 3
"""Steps from checkpoint to checkpoint: 60 steps take 20 attempts or more, 30 more another 10."""
HOW = {"optimizer": "muon", "log_every": 2, "evaluate_every": 4, "checkpoint_every": EVERY}


def attempt(path, steps):
    """The command: open the run, train, exit. Before each step a byte on stdout, and it waits for one on stdin."""
    import training_toy
    from bootdiff.training.run import Run

    def told(step):
        os.write(1, b".")
        os.read(0, 1)  # nothing where nobody writes any more

    with Run.open(path, "seed: 3") as run:
        batches = training_toy.Batches(on_step=told)
        training_toy.train(run.stage("toy"), batches=batches, steps=steps, **HOW)


def forked(path, steps):
    """A child that runs ``attempt`` with pipes for stdin and stdout: (pid, what to write to, what to read)."""
    there, writer = os.pipe()
    reader, here = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(there, 0)
        os.dup2(here, 1)
        os.close(writer)  # else stdin would never end
        code = 1
        try:
            attempt(path, steps)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(there)
    os.close(here)
    return pid, writer, reader


def main(path):
    """Attempts until one is not killed, for each number of steps; prints after how many steps each was killed."""
    import torch
    from accelerate import Accelerator

    import training_toy  # noqa: F401
    from bootdiff.training.loop import fit  # noqa: F401

    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # what the first optimizer imports
    Accelerator(cpu=True)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    draw = random.Random(int(sys.argv[2]))
    print(json.dumps([killed(path, steps, draw) for steps in KILLS]))


def killed(path, steps, draw):
    killed = []
    while len(killed) < KILLS[steps]:
        pid, writer, reader = forked(path, steps)
        aim, done = draw.choice([0, 1, 2, 2, 3, 3]), 0
        while done <= aim and os.read(reader, 1):
            done += 1
            os.write(writer, b".")
        time.sleep(draw.choice([0.0, 0.001, 0.005, 0.02]) * draw.random())
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(writer)
        os.close(reader)
        if not os.WIFSIGNALED(status):
            break
        killed.append(done)
    pid, writer, reader = forked(path, steps)
    os.close(writer)
    while os.read(reader, 4096):
        pass
    assert os.waitpid(pid, 0)[1] == 0
    return killed


@pytest.mark.slow  # 15 s; crashes at every step: test_train.py, kills in every stage: tests/cli/test_kill_run.py
def test_many_kills_leave_no_trace(tmp_path):
    from test_train import outcome

    from bootdiff.training.run import Run
    from training_toy import train

    seed = random.randrange(10**6)
    command = [sys.executable, __file__, str(tmp_path / "killed"), str(seed)]
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]  # training_toy
    shared = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=100, env=shared)
    killed = json.loads(done.stdout)
    for kills, steps in zip(killed, (60, 30), strict=True):
        assert len(kills) >= steps // EVERY - 1, f"the training ended after {len(kills)} kills, seed {seed}"
    with Run.open(tmp_path / "straight", "seed: 3") as run:
        for steps in KILLS:
            train(run.stage("toy"), steps=steps, **HOW)
        straight, pool = outcome(run.stage("toy")), sorted(os.listdir(run.pool.path))
    run = Run.read(tmp_path / "killed")
    assert outcome(run.stage("toy")) == straight, f"seed {seed}, killed after {killed} steps"
    assert sorted(os.listdir(run.pool.path)) == pool, f"seed {seed}, killed after {killed} steps"
    assert not list(run.path.rglob("*tmp*"))
    print(f"{len(killed[0])} and {len(killed[1])} kills, after {killed} steps")


if __name__ == "__main__":
    main(sys.argv[1])

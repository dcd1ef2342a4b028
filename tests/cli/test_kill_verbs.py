"""Commands killed (SIGKILL) at any moment, by themselves or as two processes: called again, they end as if left alone.

A warmed-up process forks one child per attempt, or two that find each other as torchrun's do. Where each attempt is
killed is drawn: a moment after the n-th time that it touches a file of its results. Of two processes one or both are
killed; the other one ends by itself, or is ended by its launcher (played by this process) after a while.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import socket
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
from test_kill_run import outcome

RECIPE = """\
simulate: {pool: {path: digits, limit: 120}, full: 24, test: 16}
full: {holdout: 8}
views:
  thumbnails: {view: {kind: downsample, factor: 2}, backbone: {kind: local, width: 4, depth: 3}}
backbones:
  local: {kind: local, width: 4, depth: 3}
training: {steps: 6, batch: 8, lr: 0.01, ema: 0.9, warmup: 0, evaluate_every: 3, checkpoint_seconds: 1.0e-6}
levels: [0.3, 1.5]
gains: {draws: 1, folds: 2}
evaluate: {draws: 1, samples: 8}
sampling: {count: 2, steps: 2, preview_every: 0}
device: cpu
"""
KILLS = {
    "fit, one process": 20, "fit, two processes": 40, "arms, one process": 20, "arms, two processes": 40,
    "bench, one process": 20, "bench, two processes": 20, "restore": 20, "evaluate": 20,
}  # fmt: skip
"""200, in half of them two processes; an attempt goes on where the one before it was killed."""
PLACE = ("lock", "provenance.json")
_GONE = 60.0
"""Seconds that a process has to notice that the other one is gone."""


# --- in the process that forks


def command(verb, folder):
    """What is called, where it writes."""
    recipe, run = folder / "r.yaml", folder / "run"
    calls = {
        "fit": ("fit", recipe, "--out", run),
        "arms": ("arms", recipe, "--out", run, "--arm", "full_only", "--arm", "bootdiff"),
        "restore": ("restore", folder / "trained", folder / "out", "--view", "thumbnails", "--held-out", 2,
                    "--samples", 2, "--steps", 3),
        "evaluate": ("evaluate", folder / "trained", "--samples", 8),
        "bench": ("bench", "tiny", "--out", folder / "results", "--runs", run, "--data", folder.parent, "--n-full", 20,
                  "--arms", "full_only naive_mix", "--views", "noise"),
    }  # fmt: skip
    return [str(part) for part in calls[verb]]


def prepare(verb, folder):
    folder.mkdir(parents=True)
    (folder / "r.yaml").write_text(RECIPE)
    if verb in ("restore", "evaluate"):
        run(["fit", str(folder / "r.yaml"), "--out", str(folder / "trained")])


def run(arguments):
    """`bootdiff ARGUMENTS` in a child, to its end."""
    pid = os.fork()
    if pid == 0:
        inside(arguments, {})
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, arguments


def inside(arguments, variables, told=None, folder=None):
    """In a child: the command, and the end of this process. `told` is called for each touch of a file in `folder`."""
    code = 1
    try:
        os.environ.update(variables)
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        import bootdiff.cli.report.curves as curves
        from bootdiff.cli.main import main
        from bootdiff.cli.report import live
        from experiments.benchmark import benchmarks
        from tiny_benchmark import tiny

        # Curves take the most time; the page is written by the clock, and made of the other files alone.
        curves.loss_curves = curves.level_curves = lambda *_: None
        live.LiveReport.write = lambda _: None
        if arguments[0] == "bench":
            benchmarks.BENCHMARKS["tiny"] = tiny(Path(arguments[arguments.index("--data") + 1]), flops=1e8)
        os.fsync = lambda fd: None  # for power cuts
        if told is not None:

            def hook(event, values):
                touched = event in ("open", "os.rename", "os.remove", "os.mkdir") and str(values[0])
                if touched and touched.startswith(f"{folder}{os.sep}"):
                    told()

            sys.addaudithook(hook)
        sys.argv = ["bootdiff", *arguments]
        try:
            main(arguments)
            code = 0
        except SystemExit as end:
            code = end.code or 0
    finally:
        os._exit(code)


class Touches:
    """A count that forked children share with their parent."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 8)

    @property
    def count(self) -> int:
        return int.from_bytes(self._shared[:8], "little")

    def one(self) -> int:
        self._shared[:8] = (self.count + 1).to_bytes(8, "little")
        return self.count


def attempt(arguments, folder, processes, draw, touches=None):
    """A call that is killed some moment after its n-th touch of a file in `folder`; by default it is left alone.

    Returns the exit codes, where a negative one is a signal, and how often files were touched.
    """
    shared = {}
    if processes > 1:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    reader, writer = os.pipe()
    counter, children = Touches(), []

    def told():
        if counter.one() == touches:
            os.write(writer, b".")

    for rank in range(processes):
        pid = os.fork()
        if pid == 0:
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
            inside(arguments, shared | own, told if rank == 0 else lambda: None, folder)
        children.append(pid)
    os.close(writer)
    if touches is not None and os.read(reader, 1):  # empty: it ended before
        time.sleep(draw.random() * 0.03)
        for pid in [draw.choice(children)] if draw.random() < 0.7 else children:
            os.kill(pid, signal.SIGKILL)
    os.close(reader)
    return ended(children), counter.count


def ended(children):
    """The exit codes; what does not end within a while of another's failure is killed, as by a launcher."""
    codes, since = {}, None
    while len(codes) < len(children):
        for pid in set(children) - set(codes):
            if (found := os.waitpid(pid, os.WNOHANG))[0]:
                codes[pid] = os.waitstatus_to_exitcode(found[1])
        if since is None and any(codes.values()):
            since = time.monotonic()
        if since is not None and time.monotonic() > since + _GONE:
            for pid in set(children) - set(codes):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return [codes[pid] for pid in children]


def main(folder, case, kills, seed):
    for module in ("bootdiff.method.stages", "bootdiff.pipeline", "experiments.benchmark.command"):
        import_module(module)  # once for all children
    import torch

    torch.set_num_threads(1)
    verb, _, how = case.partition(", ")
    processes, draw = 1 + (how == "two processes"), random.Random(seed)
    for name in ("straight", "killed-0"):
        prepare(verb, folder / name)
    codes, touches = attempt(command(verb, folder / "straight"), folder / "straight", processes, draw)
    assert not any(codes), codes
    # What goes on where it was comes to its end; what begins again each time needs no further run.
    runs, landed, alone, goes_on = 0, 0, 0, verb in ("fit", "arms", "bench")
    while landed < kills:
        this = folder / f"killed-{runs}"
        at = draw.randint(1, touches // 2 if goes_on else touches)
        codes, _ = attempt(command(verb, this), this, processes, draw, at)
        if -signal.SIGKILL in codes:
            landed += 1
            alone += processes == 2 and codes.count(-signal.SIGKILL) == 1
            continue
        assert not any(codes), (codes, landed)
        if goes_on and landed < kills:
            runs += 1
            prepare(verb, folder / f"killed-{runs}")
    codes, _ = attempt(command(verb, folder / f"killed-{runs}"), folder / f"killed-{runs}", processes, draw)
    assert not any(codes), codes
    print(json.dumps({"kills": landed, "of them of one of two": alone, "runs": runs + 1}))


# --- the test


def results(folder):
    """Everything that a command left, by path; JSON without timing."""
    found = {}
    for name in ("run", "results", "out", "trained"):
        if (folder / name).is_dir():
            inner = outcome(folder / name)
            found |= {f"{name}/{path}": content for path, content in inner.items() if not path.endswith(PLACE)}
    return found


@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("case", "kills"),
    [
        *(pytest.param(case, kills, marks=pytest.mark.drill) for case, kills in KILLS.items()),
        *(pytest.param(case, 3, marks=pytest.mark.slow) for case in ("arms, two processes", "restore", "evaluate")),
    ],
)
def test_killed_commands_end_as_those_left_alone(tmp_path, case, kills):
    seed = random.randrange(10**6)
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path), case, str(kills), str(seed)],
        stdout=subprocess.PIPE, text=True, check=False, timeout=2900,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])},
    )  # fmt: skip
    assert done.returncode == 0, f"seed {seed}"
    said = json.loads(done.stdout.splitlines()[-1])
    print(f"{case}, seed {seed}: {said}")
    assert said["kills"] == kills
    expected = results(tmp_path / "straight")
    assert len(expected) > 5
    for folder in tmp_path.glob("killed-*"):
        again = results(folder)
        assert set(again) == set(expected), f"seed {seed}, {folder.name}"
        different = [path for path in expected if again[path] != expected[path]]
        assert not different, f"seed {seed}, {folder.name}: {different}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

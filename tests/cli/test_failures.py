"""What a machine does to a command: files that fail, memory and processes that are gone. Each ends with what, where and
what to do, never with a traceback; what is a mistake of ours keeps it."""

from __future__ import annotations

import errno
import io
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import torch
from rich.console import Console as RichConsole
from typer.testing import CliRunner

from bootdiff.cli import failures
from bootdiff.cli.console import Console
from bootdiff.cli.failures import complain, explain
from bootdiff.cli.main import app
from bootdiff.errors import BootdiffError
from bootdiff.training import files
from bootdiff.training.files import load_tensors, read_metrics
from cli_calls import TINY, call, refused

KNOWN = ["ENOENT", "EIO", "ENAMETOOLONG", "ELOOP", "ESTALE", "EDQUOT", "ENOSPC", "EROFS", "EACCES", "EMFILE", "ENOTDIR"]


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("place", ["runs/x/lock", b"runs/x/lock", None, 3], ids=["text", "bytes", "none", "number"])
def test_every_error_of_a_file_has_a_place_and_a_remedy(name, place):
    number = getattr(errno, name)
    said = explain(OSError(number, os.strerror(number), place))
    where = "runs/x/lock: " if place not in (None, 3) else f"a file (in {os.getcwd()}): "
    assert said.startswith(f"{where}{os.strerror(number)}; ")
    assert len(said.partition("; ")[2]) > 15


def test_an_error_that_nobody_has_heard_of_is_one_of_a_file_too():
    assert explain(OSError(9999, "Unheard of", "x.png")) == "x.png: Unheard of; fix that, or choose a different place"


def test_a_path_that_is_too_long_is_cut():
    said = explain(OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "x" * 5000))
    assert said == f"{'x' * 200} ... (5000 characters): File name too long; shorten the path"


def test_a_current_folder_that_is_gone(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    said = refused("check", "r.yaml")
    assert "r.yaml: no such file" in said or "the current folder: " in said


@pytest.mark.parametrize(
    ("error", "verb", "remedy"),
    [
        (MemoryError(), "fit", "raise training.accumulate"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
                      "tried to allocate 41 bytes."), "check", "DefaultCPUAllocator: can't allocate memory: you tried"),
        (RuntimeError("Storage size calculation overflowed with sizes=[9, 9]"), "sample", "draw fewer samples"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"), "arms", "(CUDA out of memory."),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x"), "evaluate", "lower --samples"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), None, "lower training.batch"),
        (RuntimeError("unable to write to file </torch_1_2>: No space left on device (28)"), "fit", "enlarge /dev/shm"),
    ],
)  # fmt: skip
def test_memory_that_runs_out_says_what_to_lower(error, verb, remedy):
    said = explain(error, verb)
    assert remedy in said
    assert "\n" not in said
    assert "enforce fail" not in said


def test_arrays_beyond_all_memory_are_refused_by_the_command(tmp_path, trained):
    said = refused("sample", trained.run, "--count", 10**12, "--out", tmp_path / "x.npy")
    assert "out of memory" in said
    assert "draw fewer samples (--count)" in said


def test_a_process_that_is_gone_is_named():
    worker = RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")
    assert "training.workers) has died: DataLoader worker (pid 12)" in explain(worker)
    peer = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:3")
    assert "connection to another process of this training broke" in explain(peer)


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("x"), KeyError(1)]
)
def test_mistakes_of_ours_keep_their_traceback(error):
    assert explain(error) is None


def test_a_disk_that_fails_under_a_training(tmp_path, monkeypatch):
    (tmp_path / "tiny.yaml").write_text(TINY)
    calls = 0

    def fail(fd):
        nonlocal calls
        calls += 1
        if calls > 12:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files.os, "fsync", fail)
    said = refused("fit", tmp_path / "tiny.yaml", "--out", tmp_path / "run", "--arm", "full_only")
    assert str(tmp_path / "run") in said
    assert "Input/output error; the disk, or the connection to it, fails" in said
    assert not list(tmp_path.rglob("*.tmp"))


def test_only_one_of_several_processes_says_the_same(monkeypatch, capsys):
    monkeypatch.setattr(failures, "_WAIT", 0.0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, everywhere, said in (("0", False, "process 0 of 0 .. 1: x"), ("1", False, ""), ("1", True, "process 1")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        complain("x", everywhere=everywhere)
        assert said in capsys.readouterr().err

    def ended(seconds):
        raise failures.Stopped("SIGTERM")

    monkeypatch.setattr(failures.time, "sleep", ended)
    complain("x")
    assert capsys.readouterr().err == ""


def test_a_terminal_that_is_gone_does_not_end_the_work():
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    screen = Console(RichConsole(file=Gone(), force_terminal=True))
    screen.print("x")
    assert screen.quiet
    with screen.work("y", 2) as done:
        done(1)
    screen.clear()


# --- signals ---


@pytest.fixture(autouse=True)
def _hears_hang_ups():
    """Under nohup, tests and what they start would not."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_outside_training_leaves_a_word(tmp_path, monkeypatch, name):
    from bootdiff.recipe import schema

    before = signal.getsignal(getattr(signal, name))
    monkeypatch.setattr(schema, "load_recipe", lambda *_: signal.raise_signal(getattr(signal, name)))
    result = call("check", tmp_path / "r.yaml")
    assert result.exit_code == 130
    assert f"interrupted ({name}). Run the same command again" in result.stderr
    assert signal.getsignal(getattr(signal, name)) == before


def test_a_signal_does_not_cut_a_message_short(tmp_path, monkeypatch):
    """A launcher sends one to all processes as soon as the first has failed."""
    echo = failures.typer.echo

    def late(text, **options):
        signal.raise_signal(signal.SIGTERM)
        echo(text, **options)

    monkeypatch.setattr(failures.typer, "echo", late)
    assert "none.yaml: no such file" in refused("check", tmp_path / "none.yaml")


def test_what_nohup_ignores_stays_ignored(tmp_path, monkeypatch):
    from bootdiff.recipe import schema

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(schema, "load_recipe", lambda *_: signal.raise_signal(signal.SIGHUP) or 1 / 0)
        result = CliRunner().invoke(app, ["check", str(tmp_path / "r.yaml")])
        assert isinstance(result.exception, ZeroDivisionError)
    finally:
        signal.signal(signal.SIGHUP, before)


@contextmanager
def begun(command, run, rows=1):
    """A process of `command` that has written so many rows; it and its children are gone afterwards."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        children = []
        try:
            while len(read_metrics(run / "metrics.jsonl")) < rows:
                assert process.poll() is None, process.communicate()
                time.sleep(0.05)
            children = psutil.Process(process.pid).children(recursive=True)
            yield process
        finally:
            for left in (process, *children):
                with suppress(psutil.NoSuchProcess):
                    left.kill()


def gone(processes, seconds=20.0):
    """Whether all have ended in time."""
    return not psutil.wait_procs(processes, seconds)[1]


@pytest.fixture
def long(tmp_path):
    """A recipe that trains for hours, and the command that trains it into `run`."""
    (tmp_path / "long.yaml").write_text(TINY.replace("steps: 20", "steps: 1000000"))
    arguments = ["fit", str(tmp_path / "long.yaml"), "--out", str(tmp_path / "run"), "--arm", "full_only"]
    return tmp_path / "run", [sys.executable, "-m", "bootdiff", *arguments], arguments


@pytest.mark.slow  # a training starts; Ctrl-C, which ends one the same way, is in tests/cli/test_bad_input.py
@pytest.mark.timeout(300)
def test_a_hang_up_leaves_a_checkpoint_and_a_word(long):
    run, command, _ = long
    with begun(command, run) as process:
        process.send_signal(signal.SIGHUP)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "stopped as asked, checkpoint written. Run the same command again" in said
        assert load_tensors(run / "stages" / "full-local" / "checkpoint.safetensors")[1]["counts"]["step"] > 0


def with_workers(command):
    recipe = Path(command[4])
    recipe.write_text(recipe.read_text().replace("batch: 16", "batch: 16, workers: 2"))


@pytest.mark.slow  # a training with workers starts
@pytest.mark.timeout(300)
def test_data_workers_end_with_the_training(long):
    run, command, _ = long
    with_workers(command)
    with begun(command, run) as process:
        workers = psutil.Process(process.pid).children()
        assert len(workers) == 2
        process.kill()
        process.communicate()
        assert gone(workers, 4)  # torch looks every five seconds only


@pytest.mark.slow  # a training starts; what torch says of dead workers is known by tests/training, too
@pytest.mark.timeout(300)
def test_a_dead_data_worker_is_named(long):
    run, command, _ = long
    with_workers(command)
    with begun(command, run) as process:
        psutil.Process(process.pid).children()[0].kill()
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 2, said
        # torch raises it wherever the training is just then, in a step or beside it.
        said = " ".join(said.split()).replace(", now 2)", ")")
        assert "a process that prepares batches (training.workers) has died: DataLoader worker" in said
        assert "Traceback" not in said


@pytest.mark.parametrize("verb", ["sample", "restore", "evaluate", "check", "plan"])
def test_what_several_processes_cannot_divide_is_refused_under_a_launcher(monkeypatch, verb):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["bootdiff", verb, "mine"])
    said = " ".join(refused(verb, "mine").split())
    assert f"{verb}: this command works in one process, and a launcher (torchrun, accelerate) started 2" in said
    assert f"call it without: bootdiff {verb} mine" in said


def torchrun(arguments):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return [*launch, "-m", "bootdiff", *arguments]


@pytest.mark.slow  # two processes start twice
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_all_processes_end_with_their_launcher(long, number):
    run, _, arguments = long
    with begun(torchrun(arguments), run) as process:
        ranks = [p for p in psutil.Process(process.pid).children() if "bootdiff" in " ".join(p.cmdline())]
        assert len(ranks) == 2
        process.send_signal(number)
        assert gone([psutil.Process(process.pid), *ranks], 60)
        process.communicate()
        assert load_tensors(run / "stages" / "full-local" / "checkpoint.safetensors")[1]["counts"]["step"] > 0


@pytest.mark.slow  # two processes start
@pytest.mark.timeout(600)
def test_the_process_that_is_killed_is_named(long):
    run, _, arguments = long
    with begun(torchrun(arguments), run) as process:
        ranks = [p for p in psutil.Process(process.pid).children() if "bootdiff" in " ".join(p.cmdline())]
        second = next(p for p in ranks if p.environ()["RANK"] == "1")
        second.kill()
        said, _ = process.communicate(timeout=120)
        assert process.returncode != 0
        assert gone(ranks)
        assert "rank      : 1 (local_rank: 1)" in said
        assert f"exitcode  : -9 (pid: {second.pid})" in said
        assert "gloo" not in said or "the connection to another process of this training broke" in said


def node(number, port, arguments):
    """What one machine of two starts."""
    where = ["--nnodes", "2", "--node_rank", str(number), "--nproc_per_node", "1", "--master_addr", "127.0.0.1"]
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *where,
        "--master_port",
        str(port),
        "-m",
        "bootdiff",
        *arguments,
    ]


@pytest.mark.slow  # two launchers start, twice
@pytest.mark.timeout(600)
def test_two_machines_train_what_one_trains_and_end_with_one_another(tmp_path, long):
    def port():
        with socket.create_server(("127.0.0.1", 0)) as free:
            return free.getsockname()[1]

    recipe = tmp_path / "r.yaml"
    recipe.write_text(TINY)
    fit = ["fit", str(recipe), "--arm", "full_only", "--out"]
    at = port()
    two = [subprocess.Popen(node(n, at, [*fit, str(tmp_path / "two")]), stdout=subprocess.DEVNULL) for n in (0, 1)]
    assert [process.wait(timeout=200) for process in two] == [0, 0]
    assert call(*fit, tmp_path / "one").exit_code == 0
    final = "stages/full-local/final.safetensors"
    ours, theirs = (load_tensors(tmp_path / name / final)[0] for name in ("two", "one"))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4)

    run, _, arguments = long
    at = port()
    other = subprocess.Popen(node(1, at, arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with begun(node(0, at, arguments), run) as process:
        (lost,) = psutil.Process(other.pid).children()
        lost.kill()
        said, _ = process.communicate(timeout=120)
        assert process.returncode != 0
        assert "the connection to another process of this training broke" in " ".join(said.split())
        assert other.wait(timeout=60) != 0


def test_a_lock_that_is_deleted_stops_the_training(tmp_path):
    from bootdiff.training.run import Run

    folder = tmp_path / "run"
    with Run.open(folder, None) as run:
        run.append({"stage": "a", "step": 1})
        (folder / "lock").unlink()
        with Run.open(folder, None) as other:
            with pytest.raises(BootdiffError, match="lock: was replaced while this command ran"):
                run.append({"stage": "a", "step": 2})
            with pytest.raises(BootdiffError, match="this one stops"):
                run.stage("a").finish({})
            with pytest.raises(BootdiffError, match="run the same command again"):
                run.stage("a").save_weights("final.safetensors", {"x": torch.zeros(1)})
            assert not (run.stages / "a" / "final.safetensors").exists()
            other.append({"stage": "a", "step": 2})
            os.rename(folder, tmp_path / "moved")
            with pytest.raises(BootdiffError, match="moved or deleted with its folder"):
                other.sync_metrics()
    assert [row["step"] for row in read_metrics(tmp_path / "moved" / "metrics.jsonl")] == [1, 2]

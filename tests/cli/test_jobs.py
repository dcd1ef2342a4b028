"""`--jobs N`: networks that need not wait for one another are trained at once, to the same run."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console as RichConsole

from bootdiff.cli.console import Console
from bootdiff.cli.jobs import two_if_free
from bootdiff.cli.report.run_facts import RunFacts
from bootdiff.cli.session import open_session
from bootdiff.processes import own_command, own_environment
from bootdiff.recipe.schema import load_recipe
from bootdiff.training.files import read_metrics
from bootdiff.training.state import Progress
from cli_calls import TINY, call, refused

HALVES = "  halves: {view: {kind: crop, size: [8, 4], offset: [0, 0]}}\n"
SMALL = TINY.replace(HALVES, "").replace("factor: 2}}", "factor: 2}, start: scratch}")
SMALL = SMALL.replace("steps: 20", "steps: 2").replace("evaluate_every: 10", "evaluate_every: 1") + "threads: 1\n"
NAMES = ("full-local", "view-thumbnails-local")


def made(run):
    """Everything of a run that is made of its trainings: weights, models, curves without their times."""
    files = [*run.glob("stages/*/final.safetensors"), *(p for p in run.glob("bootdiff/**/*") if p.is_file())]
    clock = ("seconds", "images_per_second", "crc")
    rows = [{k: v for k, v in row.items() if k not in clock} for row in read_metrics(run / "metrics.jsonl")]
    return {str(p.relative_to(run)): p.read_bytes() for p in files}, sorted(rows, key=lambda row: str(row["stage"]))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "r.yaml").write_text(SMALL)
    assert call("fit", folder / "r.yaml", "--out", folder / "run").exit_code == 0
    return made(folder / "run")


@pytest.mark.timeout(120)
def test_the_run_is_that_of_one_process_and_nothing_is_left_beside_it(tmp_path, alone, monkeypatch):
    (tmp_path / "r.yaml").write_text(SMALL)
    said = call("fit", tmp_path / "r.yaml", "--out", tmp_path / "run", "--jobs", "2")
    assert said.exit_code == 0, said.output
    lines = said.output.splitlines()
    for name in NAMES:
        assert any(line.startswith(f"{name}: held-out loss") for line in lines)
    assert not any("taken from" in line or "trained again" in line for line in lines)
    assert made(tmp_path / "run") == alone
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.yaml", "run"]
    # Nothing is left to train: no process is started.
    monkeypatch.setattr(subprocess, "Popen", None)
    assert call("fit", tmp_path / "r.yaml", "--out", tmp_path / "run", "--jobs", "2").exit_code == 0


@pytest.mark.timeout(120)
def test_a_job_that_fails_is_named_and_what_it_left_does_no_harm(tmp_path, alone, monkeypatch):
    (tmp_path / "r.yaml").write_text(SMALL)
    broken = {**own_environment(job=True), "PYTHONPATH": str(tmp_path)}  # where nothing of ours is
    (tmp_path / "bootdiff").mkdir()
    (tmp_path / "bootdiff" / "__main__.py").write_text("raise SystemExit('no room for this')")
    (tmp_path / "bootdiff" / "__init__.py").touch()
    with monkeypatch.context() as here:
        here.setattr("bootdiff.cli.jobs.own_environment", lambda job: broken)
        said = refused("fit", tmp_path / "r.yaml", "--out", tmp_path / "run", "-j", "2")
    assert "its process ended with exit code 1. What it said last (all of it in " in said
    assert "no room for this" in said
    assert "-local.log" in said
    said = call("fit", tmp_path / "r.yaml", "--out", tmp_path / "run")
    assert said.exit_code == 0, said.output
    assert made(tmp_path / "run") == alone


@pytest.mark.slow  # seven processes that import torch: 40 s
@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_jobs_end_with_the_command_that_began_them_and_it_goes_on(number, tmp_path):
    """Ended or killed in the middle: no process stays, and the same command leads to the same run."""
    steps = "steps: 600, checkpoint_seconds: 0.2"
    (tmp_path / "r.yaml").write_text(
        SMALL.replace("steps: 2,", f"{steps},", 1).replace("evaluate_every: 1", "evaluate_every: 300")
    )
    assert call("fit", tmp_path / "r.yaml", "--out", tmp_path / "alone").exit_code == 0
    command = own_command(["fit", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run"), "--jobs", "2"])
    how = {"env": own_environment(), "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, **how)
    jobs = tmp_path / "run.jobs"
    while not all((jobs / name / "stages" / name / "checkpoint.safetensors").is_file() for name in NAMES):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    pids = [int(p) for p in subprocess.check_output(["pgrep", "-f", str(jobs / "recipe.yaml")], text=True).split()]
    assert len(pids) == 2
    process.send_signal(number)
    said = process.communicate()[0]
    if number == signal.SIGTERM:
        assert process.returncode == 130
        assert "interrupted (SIGTERM). Run the same command again to continue" in said
        assert all(map(_dead, pids))
    assert subprocess.run(command, **how).returncode == 0  # waits for those that are about to end
    assert all(map(_dead, pids))
    assert made(tmp_path / "run") == made(tmp_path / "alone")
    assert not jobs.exists()


def _dead(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_the_report_shows_what_jobs_have_trained_so_far(tmp_path):
    (tmp_path / "r.yaml").write_text(SMALL)
    assert call("fit", tmp_path / "r.yaml", "--out", tmp_path / "run", "--stage", "full-local").exit_code == 0
    with open_session(load_recipe(tmp_path / "r.yaml"), tmp_path / "run", Console(quiet=True)) as session:
        session.expect(["bootdiff"])
        shown = {
            stage.name: (stage.state, stage.step, bool(stage.heldout))
            for stage in RunFacts.read(session.run.path).stages
        }
    assert shown["full-local"] == ("done", 2, True)
    assert shown["view-thumbnails-local"] == ("to come", 0, False)


def test_what_excludes_one_another_is_refused(tmp_path, monkeypatch):
    (tmp_path / "r.yaml").write_text(SMALL)
    out = ["--out", tmp_path / "run"]
    assert "give one of the two" in refused("fit", tmp_path / "r.yaml", *out, "--stage", "full-local", "--jobs", "2")
    assert call("fit", tmp_path / "r.yaml", *out, "--jobs", "0").exit_code == 2
    for verb in ("fit", "arms"):
        said = refused(verb, tmp_path / "r.yaml", *out, "--jobs", "2", "--track", "tensorboard")
        assert "--track tensorboard follows the trainings of one process: leave out --jobs" in said
    assert not (tmp_path / "run").exists()
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for free, wanted in (({0}, 1), ({0, 3}, 2), ({0, 1, 2, 3}, 2)):
        monkeypatch.setattr("os.sched_getaffinity", lambda process, free=free: free)
        assert two_if_free() == wanted
    monkeypatch.setenv("WORLD_SIZE", "2")  # a launcher's processes train together already
    assert two_if_free() == 1
    assert own_command(["fit"], trusted=True) == [sys.executable, "-m", "bootdiff", "--trust-imports", "fit"]


def test_several_trainings_have_a_line_or_a_bar_each():
    plain = io.StringIO()
    screen = Console(RichConsole(file=plain, width=160), every=1000)
    screen.expect(["a", "b"])
    screen.at_once = True
    for step in (1, 2, 10):
        for name in "ab":
            screen(Progress(name, step, 10, 0.5, 100.0, 3.0))
    assert [line.split("  ")[0] for line in plain.getvalue().splitlines()] == [
        "a (1 of 2): 1/10", "b (2 of 2): 1/10", "a (1 of 2): 10/10", "b (2 of 2): 10/10",
    ]  # fmt: skip
    drawn = io.StringIO()
    screen = Console(RichConsole(file=drawn, width=100, force_terminal=True))
    screen.at_once = True
    screen(Progress("a", 1, 10, 0.5, 100.0, 3.0))
    screen(Progress("b", 4, 10, 0.5, 100.0, 3.0))
    assert set(screen._tasks) == {"a", "b"}
    screen._bar.refresh()
    assert "4/10" in drawn.getvalue()
    screen.finish("a")
    screen(Progress("b", 10, 10, 0.5, 100.0, 3.0))
    assert screen._bar is None
    screen.finish("nothing that is shown")

"""Runs in bf16 are drawn from, restored with, measured and looked at like any other."""

from __future__ import annotations

import subprocess
import sys

from bootdiff.training.device import make_accelerator
from cli_calls import TINY, call

SHORT = TINY.replace("steps: 20", "steps: 2").replace("evaluate_every: 10", "evaluate_every: 1")


def test_every_verb_on_a_run_in_bf16(tmp_path):
    (tmp_path / "r.yaml").write_text(SHORT)
    run = tmp_path / "run"
    trained = call("fit", tmp_path / "r.yaml", "--out", run, "--arm", "full_only", "--set", "training.precision=bf16")
    assert trained.exit_code == 0, trained.output
    for command in (
        ["sample", run, "-n", "2"],
        ["restore", run, tmp_path / "out", "--view", "thumbnails", "--held-out", "2", "--steps", "2", "--samples", "1"],
        ["evaluate", run, "--samples", "0"],
        ["gallery", run, "-n", "2", "--each", "1"],
        ["report", run],
    ):
        make_accelerator("cpu", "no")  # what this process did before
        result = call(*command)
        assert result.exit_code == 0, (command[0], result.output)
    # and in a process of its own, where it is the first one to ask
    draw = ["sample", str(run), "-n", "1", "--steps", "2", "--out", str(tmp_path / "x.png")]
    alone = subprocess.run([sys.executable, "-m", "bootdiff", *draw], capture_output=True, text=True, check=False)
    assert alone.returncode == 0, alone.stderr

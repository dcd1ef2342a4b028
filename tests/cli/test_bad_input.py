"""What users get wrong: exit code 2 (or 130), a message that says what, where and what to do, and no traceback."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from bootdiff.training.files import load_tensors, read_metrics
from cli_calls import TINY, call, refused

NET = "backbones: {local: {kind: local, width: 8, depth: 3}}\ntraining: {steps: 4, batch: 4, warmup: 0}\n"


def pictures(folder, n, side, mode="RGB", suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(side)
    channels = {"RGB": (3,), "RGBA": (4,), "L": ()}[mode]
    for i in range(n):
        pixels = rng.integers(0, 256, (side, side, *channels), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.{suffix}")
    return folder


@pytest.fixture
def photos(tmp_path):
    """A recipe of 64 x 64 photographs with 16 x 16 thumbnails, and its folders full/ and small/."""
    pictures(tmp_path / "full", 6, 64)
    pictures(tmp_path / "small", 8, 16)
    (tmp_path / "r.yaml").write_text(
        "full: {path: full}\n"
        "views:\n"
        "  thumbnails:\n"
        "    view: {kind: downsample, factor: 4}\n"
        "    data: {path: small}\n" + NET
    )
    return tmp_path


def edit(recipe, old, new):
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new))


def says(message, *parts):
    """Every part is in the message, wherever the lines break."""
    flat = " ".join(message.split())
    for part in parts:
        assert str(part) in flat, flat


# --- recipe ---


def test_a_typo_names_the_line_and_the_known_key(photos):
    edit(photos / "r.yaml", "factor: 4", "factr: 4")
    for verb in ("check", "fit", "arms"):
        says(refused(verb, photos / "r.yaml"), "r.yaml, line 4", "factr", "unknown key", "did you mean 'factor'?")


def test_no_recipe(tmp_path):
    says(refused("check", tmp_path / "none.yaml"), "none.yaml: no such file", "give the path of a recipe")


def test_holdout_larger_than_the_data(photos):
    edit(photos / "r.yaml", "path: full}", "path: full, holdout: 6}")
    says(refused("check", photos / "r.yaml"), "full.holdout: 6 sample(s) with 6 held out", "lower full.holdout")


def test_the_oracle_needs_data(photos):
    says(refused("fit", photos / "r.yaml", "--out", photos / "run", "--arm", "oracle"), "give the block `oracle`")
    says(refused("fit", photos / "r.yaml", "--out", photos / "run", "--arm", "best"), "no such arm", "known: full_only")


def test_a_device_that_is_not_there(photos):
    import torch

    if torch.backends.mps.is_available():
        pytest.skip("has mps")
    (photos / "r.yaml").write_text((photos / "r.yaml").read_text() + "device: mps\n")
    says(refused("check", photos / "r.yaml"), "device: mps", "write `device: auto`")


# --- data ---


def test_a_missing_folder(photos):
    edit(photos / "r.yaml", "path: small", "path: smal")
    says(refused("check", photos / "r.yaml"), photos / "smal", "no such file or folder", "a recipe's paths start at")


def test_an_empty_folder(photos):
    (photos / "empty").mkdir()
    edit(photos / "r.yaml", "path: small", "path: empty")
    says(refused("check", photos / "r.yaml"), photos / "empty", "no pictures")


def test_thumbnails_of_the_wrong_size(photos):
    pictures(photos / "odd", 4, 15)
    edit(photos / "r.yaml", "path: small", "path: odd")
    says(
        refused("check", photos / "r.yaml"),
        "views.thumbnails: its files are 3 x 15 x 15",
        "full samples of 3 x 64 x 64 seen through this view are 3 x 16 x 16",
        "correct the view's settings or the files",
    )


def test_a_view_folder_with_one_picture(photos):
    pictures(photos / "one", 1, 16)
    edit(photos / "r.yaml", "path: small", "path: one")
    says(refused("check", photos / "r.yaml"), "views.thumbnails.holdout: 1 sample(s)", "bring more samples")


def test_transparency_is_refused_until_told_what_to_do(photos):
    pictures(photos / "clear", 8, 16, "RGBA")
    edit(photos / "r.yaml", "path: small", "path: clear")
    says(refused("check", photos / "r.yaml"), photos / "clear", "00.png: has transparent pixels", "alpha: white")
    edit(photos / "r.yaml", "path: clear", "path: clear, alpha: white")
    assert call("check", photos / "r.yaml", "--out", photos / "check").exit_code == 0


def test_sixteen_bits_are_read_in_full(tmp_path):
    rng = np.random.default_rng(0)
    for name, side in (("full", 16), ("small", 8)):
        (tmp_path / name).mkdir()
        for i in range(8):
            pixels = rng.integers(0, 65536, (side, side), dtype=np.uint16)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    (tmp_path / "r.yaml").write_text(
        "full: {path: full}\nviews: {small: {view: {kind: downsample, factor: 2}, data: {path: small}}}\n" + NET
    )
    assert call("check", tmp_path / "r.yaml", "--out", tmp_path).exit_code == 0
    span = json.loads((tmp_path / "check.json").read_text())["data"]["full"]
    assert span["min"] < -0.99
    assert span["max"] > 0.99


def test_a_truncated_jpeg_is_refused_or_left_out_and_listed(photos):
    pictures(photos / "jpeg", 8, 16, suffix="jpg")
    torn = photos / "jpeg" / "03.jpg"
    torn.write_bytes(torn.read_bytes()[:300])
    edit(photos / "r.yaml", "path: small", "path: jpeg")
    says(refused("check", photos / "r.yaml"), photos / "jpeg", "03.jpg: cannot be decoded", "on_error: skip")
    edit(photos / "r.yaml", "path: jpeg", "path: jpeg, on_error: skip")
    run = photos / "run"
    result = call("fit", photos / "r.yaml", "--out", run, "--arm", "full_only")
    assert result.exit_code == 0, result.output
    assert f"1 file(s) cannot be used and are left out; {run / 'problems.json'} lists them" in result.stdout
    (problem,) = json.loads((run / "problems.json").read_text())
    assert problem["file"].endswith("03.jpg")
    assert problem["data"] == "view thumbnails"


def test_nan_in_an_array(tmp_path):
    x = np.random.default_rng(0).uniform(0, 1, (10, 8, 8, 1)).astype(np.float32)
    x[7, 2, 4, 0] = np.nan
    np.savez(tmp_path / "x.npz", full=x[:6], small=x[:, ::2, ::2])
    (tmp_path / "r.yaml").write_text(
        "full: {path: x.npz, key: full}\n"
        "views: {small: {view: {kind: downsample, factor: 2}, data: {path: x.npz, key: small}}}\n" + NET
    )
    says(refused("check", tmp_path / "r.yaml"), tmp_path / "x.npz", "NaN", "7")


# --- runs ---


def test_a_run_of_another_recipe(tmp_path, trained):
    other = tmp_path / "other.yaml"
    other.write_text(TINY.replace("lr: 0.01", "lr: 0.02"))
    message = refused("fit", other, "--out", trained.run)
    says(message, trained.run, "another recipe", "training.lr (0.01 -> 0.02)", "Choose another directory")


def test_a_run_whose_data_changed(photos):
    run = photos / "run"
    assert call("fit", photos / "r.yaml", "--out", run, "--arm", "full_only").exit_code == 0
    pictures(photos / "full", 7, 64)
    says(refused("fit", photos / "r.yaml", "--out", run), "the data is not what this run was started on")
    says(refused("evaluate", run), "the data are not what this run was trained on", "restore them")


def test_a_file_in_the_way(tmp_path, trained):
    (tmp_path / "run").write_text("")
    says(refused("fit", trained.recipe, "--out", tmp_path / "run"), "a file is in the way", "choose another directory")
    says(refused("check", trained.recipe, "--out", tmp_path / "run"), tmp_path / "run", "choose a different place")
    says(refused("fit", trained.recipe, "--out", tmp_path / "b", "--reuse", tmp_path / "c"), "no such folder")


def test_training_that_diverges(tmp_path):
    recipe = tmp_path / "wild.yaml"
    recipe.write_text(TINY.replace("lr: 0.01", "lr: 1e6"))
    message = refused("fit", recipe, "--out", tmp_path / "run", "--arm", "full_only")
    says(message, "stage full-local, step", "NaN or infinite", "Try a lower learning rate (now 1e+06)")


def test_a_tracker_that_is_not_installed(tmp_path, trained, monkeypatch):
    monkeypatch.setattr("accelerate.tracking.filter_trackers", lambda *_: [])
    message = refused("fit", trained.recipe, "--out", tmp_path / "run", "--track", "wandb")
    says(message, "--track wandb: the package wandb is not installed", "pip install wandb")


def test_ctrl_c_outside_training(monkeypatch, photos):
    from bootdiff.recipe import schema

    def stop(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(schema, "load_recipe", stop)
    result = call("check", photos / "r.yaml")
    assert result.exit_code == 130
    says(result.stderr, "interrupted", "Run the same command again")


@contextmanager
def trains(command, run, until=0):
    """A process of `command` that has trained more than `until` steps.

    Afterwards it is gone and its pipes are closed, whatever failed: a later test would be blamed for what is left. How
    long it takes to come so far says how busy the machine is: only pytest's own limit ends the waiting.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            while not any(row["step"] > until for row in read_metrics(run / "metrics.jsonl")):
                assert process.poll() is None, process.communicate()
                time.sleep(0.05)
            yield process
        finally:
            process.terminate()  # a launcher ends its processes then; killed, it would leave them behind
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.mark.timeout(600)
def test_ctrl_c_and_a_second_process(tmp_path):
    recipe, run = tmp_path / "long.yaml", tmp_path / "run"
    recipe.write_text(TINY.replace("steps: 20", "steps: 1000000"))
    command = [sys.executable, "-m", "bootdiff", "fit", str(recipe), "--out", str(run), "--arm", "full_only"]
    with trains(command, run) as first:
        says(refused("fit", recipe, "--out", run), f"in use by process {first.pid}", "choose another directory")
        first.send_signal(signal.SIGINT)
        _, message = first.communicate()
    assert first.returncode == 130
    says(
        message,
        "stopped as asked, checkpoint written",
        "Run the same command again to continue",
        f"bootdiff fit {recipe}",
    )
    assert "Traceback" not in message
    assert (run / "stages" / "full-local" / "checkpoint.safetensors").is_file()


def in_two_processes(*arguments):
    """`bootdiff ARGUMENTS` as two processes on the CPU."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return [*torchrun, "-m", "bootdiff", *map(str, arguments)]


def stopped(command, run, until):
    """The step of the checkpoint that two processes wrote when their launcher was interrupted, and what they printed.

    torchrun hands the signal on, and then ends by an exception of its own.
    """
    with trains(command, run, until) as launcher:
        launcher.send_signal(signal.SIGINT)
        _, message = launcher.communicate()
    assert launcher.returncode != 0, message
    _, meta = load_tensors(run / "stages" / "full-local" / "checkpoint.safetensors")
    return meta["state"]["step"], message


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_reaches_all_processes_and_the_same_command_goes_on(tmp_path):
    recipe, run = tmp_path / "long.yaml", tmp_path / "run"
    recipe.write_text(TINY.replace("steps: 20", "steps: 1000000"))
    command = in_two_processes("fit", recipe, "--out", run, "--arm", "full_only")
    step, message = stopped(command, run, 0)
    assert message.count("stopped as asked, checkpoint written") == 1
    assert f"bootdiff fit {recipe}" in message
    assert "through the same launcher" in message
    assert max(row["step"] for row in read_metrics(run / "metrics.jsonl")) == step
    again, _ = stopped(command, run, step)
    assert again > step
    rows = [row["step"] for row in read_metrics(run / "metrics.jsonl") if "loss" in row]
    assert rows == list(range(50, again + 1, 50))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_when_one_process_fails_the_others_end(tmp_path):
    recipe, run, script = tmp_path / "long.yaml", tmp_path / "run", tmp_path / "script.py"
    recipe.write_text(TINY.replace("steps: 20", "steps: 1000000"))
    script.write_text(
        f"""
import os, threading, time
from pathlib import Path
from bootdiff.cli.main import main

def fail():
    rows = Path({str(run / "metrics.jsonl")!r})
    while not rows.is_file() or not rows.stat().st_size:
        time.sleep(0.05)
    os._exit(7)

if os.environ["RANK"] == "1":
    threading.Thread(target=fail, daemon=True).start()
main(["fit", {str(recipe)!r}, "--out", {str(run)!r}, "--arm", "full_only"])
"""
    )
    torchrun = in_two_processes()[:-2]
    done = subprocess.run([*torchrun, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "exitcode  : 7" in done.stderr
    assert len(read_metrics(run / "metrics.jsonl")) > 0

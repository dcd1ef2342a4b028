"""A run under random faults ends with the bits of one that was left alone, or is refused; it never ends otherwise.

Faults: the process stops in the middle of writing a file, with the half of it left behind (as SIGKILL leaves it; real
kills: `test_kill_run`); no room; an error of the disk; an input that changed; another number of threads, which is said.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random

import numpy as np
import pytest
import torch

import bootdiff.training.files as files
from bootdiff.verification import verify
from cli_calls import call

RECIPE = """\
full: {path: full.npy, range: [-1, 1], holdout: 6}
views:
  thumbs: {view: {kind: downsample, factor: 2}, data: {path: thumbs.npy, range: [-1, 1]}}
backbones: {local: {kind: local, width: 4, depth: 3}}
training: {steps: 8, batch: 4, lr: 0.01, ema: 0.9, warmup: 0, evaluate_every: 3, checkpoint_seconds: 1.0e-6}
levels: [0.2, 1]
gains: {draws: 1, folds: 2, screen: 0, prune: 0}
evaluate: {samples: 0}
sampling: {count: 2, steps: 2, preview_every: 0}
device: cpu
"""


class Killed(BaseException):
    """Stands for SIGKILL: nobody catches it."""


def weights(run):
    found = [*run.glob("*/model.json"), *run.glob("*/weights/*"), *run.glob("stages/*/*.safetensors")]
    return {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
        if path.parent != run / "stages" / "weights"
    }


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """(folder of the inputs, what an uninterrupted run holds, writes that it takes)"""
    folder = tmp_path_factory.mktemp("faults")
    rng = np.random.default_rng(0)
    full = np.repeat(np.repeat(rng.uniform(-1, 1, (40, 4, 4)), 2, 1), 2, 2).astype(np.float32)
    np.save(folder / "full.npy", full[:20])
    np.save(folder / "thumbs.npy", full[20:, ::2, ::2])
    (folder / "r.yaml").write_text(RECIPE)
    writes, before = [], files._fsync
    files._fsync = lambda path: writes.append(path) or before(path)
    try:
        assert call("fit", folder / "r.yaml", "--out", folder / "straight").exit_code == 0
    finally:
        files._fsync = before
    return folder, weights(folder / "straight"), len(writes)


def strike(monkeypatch, fault, at):
    """The `at`-th write meets the fault."""
    count, plain = 0, files._atomic

    def atomic(path, write, needed):
        nonlocal count
        count += 1
        if count != at:
            return plain(path, write, needed)
        if fault == "kill":
            write(path.with_name(f".{path.name}{files._TEMPORARY}"))
            left = path.with_name(f".{path.name}{files._TEMPORARY}")
            os.truncate(left, left.stat().st_size // 2)
            raise Killed

        def fail(tmp):
            write(tmp)
            code = getattr(errno, fault)
            raise OSError(code, os.strerror(code), str(path))

        return plain(path, fail, needed)

    monkeypatch.setattr(files, "_atomic", atomic)


def attempt(run, folder, monkeypatch, fault, at):
    """The command with a fault: "done", "stopped" or "refused"."""
    command = ("fit", folder / "r.yaml", "--out", run)
    with monkeypatch.context() as patch:
        if fault == "threads":
            torch.set_num_threads(2)
        elif fault == "input":
            data = np.load(folder / "full.npy")
            data[0, 0, 0] += 0.01
            np.save(folder / "full.npy", data)
        elif fault != "none":
            strike(patch, fault, at)
        try:
            result = call(*command)
        except Killed:
            return "stopped", ""
        except AssertionError:
            assert fault == "EIO"  # an error of the disk may end as the system's own
            return "stopped", ""
        finally:
            torch.set_num_threads(1)
            if fault == "input":
                data[0, 0, 0] -= np.float32(0.01)
                np.save(folder / "full.npy", data)
    return ("done" if result.exit_code == 0 else "refused"), result.output


def _end(straight, tmp_path, monkeypatch, seed, faults=8):
    folder, want, writes = straight
    original = (folder / "full.npy").read_bytes()
    rng, run = random.Random(seed), tmp_path / "run"
    for _ in range(faults):
        begun = (run / "run.json").is_file()  # before that there is nothing that the data are compared with
        fault = rng.choice(["kill", "kill", "ENOSPC", "EIO", *(["input"] if begun else [])])
        how, said = attempt(run, folder, monkeypatch, fault, rng.randint(1, writes // 3))
        (folder / "full.npy").write_bytes(original)
        if fault == "input":
            assert how == "refused"
            assert "the data is not what this run was started on" in said
        if fault == "ENOSPC" and how == "refused":
            assert "no room to write it" in said
    assert attempt(run, folder, monkeypatch, "none", 0)[0] == "done"
    assert weights(run) == want
    assert verify(run).damaged == []
    assert not [path for path in run.rglob("*") if files.is_temporary(path.name)]


@pytest.mark.slow  # 4 s; each kind of fault by itself in tests/cli/test_failures.py
def test_a_run_under_random_faults_ends_the_same(straight, tmp_path, monkeypatch):
    _end(straight, tmp_path, monkeypatch, 0, faults=5)


@pytest.mark.drill  # the same, many times
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(1, 13))
def test_many_runs_under_random_faults_end_the_same(straight, tmp_path, monkeypatch, seed):
    _end(straight, tmp_path, monkeypatch, seed)


def test_another_number_of_threads_is_said_before_anything_is_trained(straight, tmp_path, monkeypatch):
    """Rounding differs, and so do the weights from there on; nobody is left to believe otherwise."""
    folder, _, writes = straight
    run = tmp_path / "run"
    assert attempt(run, folder, monkeypatch, "kill", writes // 4)[0] == "stopped"
    how, said = attempt(run, folder, monkeypatch, "threads", 0)
    assert how == "done"
    text = " ".join(said.split())
    assert "1 thread(s) before, 2 thread(s) now. What is trained from here on differs by rounding" in text
    assert text.index("thread(s) before") < text.index("held-out loss")
    assert verify(run).damaged == []

"""experiments.scripts.gpu_short: arms one after the other by themselves, cut off in time, nothing but JSON left."""

from __future__ import annotations

import ast
import sys
import zipfile

import numpy as np
import pytest

from experiments.benchmark.benchmarks import BENCHMARKS
from experiments.benchmark.runs import ARMS
from experiments.scripts import gpu_short

WHICH = BENCHMARKS["gpu-short"]


@pytest.fixture
def prepared(tmp_path):
    """A wheel of one module, and 16 pictures in the place of the data."""
    folder = tmp_path / "prepared"
    folder.mkdir()
    with zipfile.ZipFile(folder / "carried-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried.py", "here = True")
    np.savez(folder / "cats64.npz", train=np.zeros((16, 64, 64, 3), np.uint8))
    return folder


@pytest.fixture
def calls(monkeypatch):
    """What would have been called: (command, environment); the first call writes a result."""
    found = []

    def run(command, env, timeout, **how):
        found.append((command[1:], env, timeout))
        packages = env["PYTHONPATH"].split(":")[2]
        sys.path.insert(0, packages)
        try:
            assert __import__("carried").here
        finally:
            sys.path.remove(packages)
            sys.modules.pop("carried", None)
        if "--out" in command and "bench" in command:
            out = gpu_short.Path(command[command.index("--out") + 1]) / "gpu-short"
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{command[command.index('--arms') + 1]}.json").write_text("{}")
            (out / "features.safetensors").write_bytes(b"0")

    monkeypatch.setattr(gpu_short.subprocess, "run", run)
    return found


def test_the_script_needs_nothing_but_the_standard_library():
    tree = ast.parse(gpu_short.Path(gpu_short.__file__).read_text())
    names = {a.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    names |= {node.module.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= set(sys.stdlib_module_names)


def test_its_arms_are_arms_and_its_recipe_is_one(prepared):
    assert set(gpu_short.ARMS) <= set(ARMS)
    recipe = gpu_short_recipe(prepared)
    assert (recipe.training.precision, recipe.training.batch) == ("bf16", 64)
    assert list(recipe.views) == ["thumbnails2", "boxes", "noise"]


def gpu_short_recipe(folder):
    from dataclasses import replace

    return replace(WHICH, folder=folder).recipe("three", 2, 0)


def test_every_arm_is_called_in_order_and_leaves_json_only(prepared, calls, tmp_path):
    out = tmp_path / "out"
    command = ["run", "--out", str(out), "--prepared", str(prepared), "--scale", "0.001", "--minutes", "9"]
    gpu_short.main(command)
    data, *benches, speed = calls
    assert data[0][-2:] == ["--only", "cats64"]
    assert [c[c.index("--arms") + 1] for c, _, _ in benches] == list(gpu_short.ARMS)
    assert all(c[c.index("--scale") + 1] == "0.001" for c, _, _ in benches)
    assert speed[0][:3] == ["-m", "experiments.scripts.speed", "loop"]
    assert all(0 < timeout <= 9 * 60 for _, _, timeout in calls)
    left = sorted(path.name for path in out.rglob("*") if path.is_file())
    assert left == sorted(f"{arm}.json" for arm in gpu_short.ARMS)


def test_what_comes_after_the_end_is_not_begun(prepared, calls, tmp_path, capsys):
    assert gpu_short.run(tmp_path / "out", prepared, 0.1, 1.0, 10, True) == 0
    assert calls == []
    assert "no time left" in capsys.readouterr().out


def test_a_share_of_the_flops_is_spent(tmp_path, prepared, monkeypatch):
    from cli_calls import call

    seen = []
    monkeypatch.setattr("experiments.benchmark.command.run_all", lambda todo, *_: seen.extend(todo))
    result = call(
        "bench", "gpu-short", "--scale", "0.001", "--data", prepared, "--arms", "full_only", "--views", "three"
    )
    assert result.exit_code == 0, result.output
    (found,) = (planned.benchmark for planned in seen)
    assert found.flops == pytest.approx(1e-3 * WHICH.flops)
    assert (found.pool, found.test, WHICH.scaled(1)) == (240, 16, WHICH)

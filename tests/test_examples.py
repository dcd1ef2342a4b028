"""The examples run, say what they promise, and stay short."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path

import pytest

import bootdiff as bd

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# your_data.py makes the files of docs/your-data.md, and is tested with that page.
PROGRAMS = sorted(path for path in EXAMPLES.glob("*.py") if path.stem != "your_data")


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.stem)
def test_examples_are_short(path):
    assert len(path.read_text().splitlines()) <= 40


def test_exact_views(capsys):
    load("exact_views").main()
    out = capsys.readouterr().out
    losses = {line[:15].strip(): [float(v) for v in line.split(": ")[1].split()] for line in out.splitlines()[:3]}
    # The composite lies between knowing nothing and knowing all, at every noise level.
    for white, halves, law in zip(*losses.values()):
        assert law <= halves + 0.002 < white + 0.01
    within, across = (float(part.split()[-1]) for part in out.splitlines()[3].split(","))
    assert within == pytest.approx(0.607, abs=0.05)  # exp(-1/2)
    assert across == pytest.approx(0.0, abs=0.05)


def test_gains(capsys):
    load("gains").main()
    rows = {line.split()[0]: [float(v) for v in line.split()[1:]] for line in capsys.readouterr().out.splitlines()}
    assert rows["left"][0] == pytest.approx(1, abs=0.1)
    assert rows["unrelated"][0] == rows["unrelated"][3] == 0


@pytest.mark.slow  # 8 s; the same few lines, on smaller networks, are run from docs/python.md
def test_train(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bd, "fit", partial(bd.fit, levels=(0.3, 1.5)))  # of eight noise levels
    load("train").main(str(tmp_path / "run"), steps=4)
    assert "4 images of (1, 8, 8)" in capsys.readouterr().out

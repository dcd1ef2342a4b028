"""experiments.scripts.training_keys: what each key of `training` saves or costs."""

from __future__ import annotations

import json

import pytest

from experiments.scripts import training_keys


@pytest.mark.slow  # steps of several networks: 3 s
def test_ratios_are_those_to_no_key(tmp_path, capsys, monkeypatch):
    def here(kind, shape, changes, steps):
        """In this process, whose peak is that of all tests so far: it says nothing."""
        found = training_keys.measure(kind, shape, changes, steps)
        assert found["memory"] >= 0
        return found | {"memory": 1e6 if changes else 2e6}

    monkeypatch.setattr(training_keys, "apart", here)
    out = tmp_path / "keys.json"
    training_keys.main(["--side", "16", "--steps", "1", "--only", "gradient_checkpointing", "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["command"].startswith("python -m experiments.scripts.training_keys --side 16")
    assert found["shape"] == [3, 16, 16]
    for kind in ("unet", "local"):
        plain, again = found["rows"][kind][""], found["rows"][kind]["gradient_checkpointing"]
        assert plain["seconds_ratio"] == plain["memory_ratio"] == 1
        assert again["memory_ratio"] == 0.5
        assert again["seconds_ratio"] == again["seconds"] / plain["seconds"] > 0
    assert "local gradient_checkpointing: " in capsys.readouterr().out
    lines = training_keys.table(found).splitlines()
    assert lines[0] == "| key | unet: s a step | unet: MiB | local: s a step | local: MiB |"
    assert lines[2].startswith("| none | ")
    assert f"{again['seconds']:.2f} ({again['seconds_ratio']:.2f})" in lines[3]

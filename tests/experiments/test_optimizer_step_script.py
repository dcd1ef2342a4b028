"""experiments.scripts.optimizer_step: what Muon costs per step."""

from __future__ import annotations

import json

from experiments.scripts import optimizer_step


def test_a_call_prints_the_ratios_and_writes_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(optimizer_step, "CASES", {"tiny": ("local", {"width": 8, "depth": 3}, 2)})
    out = tmp_path / "optimizer-step.json"
    optimizer_step.main(["--steps", "2", "--out", str(out)])
    result = json.loads(out.read_text())
    assert result["command"] == f"python -m experiments.scripts.optimizer_step --steps 2 --out {out}"
    row = result["rows"]["tiny"]
    assert 0 < row["adamw_alone"] < row["adamw"]
    assert 0 < row["muon_alone"] < row["muon"]
    assert capsys.readouterr().out.startswith(f"tiny: ratio {row['ratio']:.3f}, ")


def test_the_optimizers_move_different_weights(monkeypatch):
    """Else the two columns would time the same."""
    made, original = [], optimizer_step.Optimizer

    def noting(*args, **how):
        made.append(original(*args, **how))
        return made[-1]

    monkeypatch.setattr(optimizer_step, "Optimizer", noting)
    assert optimizer_step.price("local", {"width": 8, "depth": 3}, 2, 1)["ratio"] > 0
    names = [{key.split(".")[1] for key in optimizer.state()} for optimizer in made]
    assert names == [{"step", "exp_avg", "exp_avg_sq"}, {"step", "exp_avg", "exp_avg_sq", "momentum"}]

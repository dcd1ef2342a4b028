"""experiments.scripts.detail: samples' detail before and after the noise is understated."""

from __future__ import annotations

import json
import shutil

from bootdiff.serialization import load, save
from experiments.scripts import detail


def test_both_ways_are_measured_from_the_same_noise(tiny_run, tmp_path, capsys):
    run, out = tmp_path / "tiny", tmp_path / "detail.json"
    shutil.copytree(tiny_run.run, run)
    for arm, shift in (("full_only", 0.0), ("bootdiff", 0.05)):
        model = load(run / arm)
        model.noise_shift = shift
        save(model, run / arm)
    detail.main([str(run), "--count", "6", "--out", str(out)])
    found = json.loads(out.read_text())
    rows = {row["arm"]: row for row in found["rows"]}
    assert (found["count"], set(rows)) == (6, {"full_only", "bootdiff"})
    assert rows["full_only"]["before"] == rows["full_only"]["after"]
    assert rows["bootdiff"]["noise_shift"] == 0.05
    assert rows["bootdiff"]["before"]["octaves"] != rows["bootdiff"]["after"]["octaves"]
    printed = capsys.readouterr().out
    ratio = 100 * rows["bootdiff"]["after"]["ratio"]
    assert f"| {ratio:.0f} ± " in printed
    assert "bootdiff | " in printed
    assert "| 5.0 % |" in printed

"""What is printed of a comparison, where the figures alone do not tell."""

from __future__ import annotations

import io

import torch
from rich.console import Console

from bootdiff.cli.report.tables import information, losses, over_seeds, quality, quality_over_seeds
from bootdiff.denoise import IsotropicGaussian
from bootdiff.evaluation import evaluate


def test_information_is_printed_with_its_interval_and_its_range():
    losses = {"views_only": 0.5 + 0.1 * torch.rand(3, 20).double(), "bootdiff": 0.4 + 0.1 * torch.rand(3, 20).double()}
    found = evaluate.information(losses, [0.1, 0.4, 1.6], IsotropicGaussian((1, 2, 3), [0.2], 0.5))
    text = "\n".join(information(found))
    low, high = found["interval"]["bits"]
    assert f"{found['bits']:.2f} [{low:.2f}, {high:.2f}] bits\n" in text
    assert "from 0.1 to 1.6" in text
    assert "95 % interval" in text
    assert max(map(len, text.splitlines())) <= 160
    assert information(None) == []


def made_up(seed):
    g = torch.Generator().manual_seed(seed)
    levels = [0.1, 0.4, 1.6]
    found = {arm: at + 0.1 * torch.rand(3, 20, generator=g).double() for arm, at in AT.items()}
    table = evaluate.tabulate(found, levels)
    shared = {"precision": 0.9, "memorization": {"share": 0.1 * seed}}
    samples = {arm: {"fid": at + seed, "kid": {"mean": at / 100, "stderr": 0.1}, **shared} for arm, at in AT.items()}
    return {"holdout_loss": table, "gap_closed": evaluate.gap_closed(table), "samples": samples}


AT = {"full_only": 4.0, "bootdiff": 3.0, "oracle": 2.0}


def shown(lines):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(*lines)
    return console.export_text()


def test_both_rulers_are_printed_of_several_seeds():
    both = over_seeds([made_up(0), made_up(1)])
    text = shown(losses(both["holdout_loss"], "20 samples", both["gap_closed"]))
    row = next(line.split() for line in text.splitlines() if line.split()[:1] == ["bootdiff"])
    entry = both["holdout_loss"]["bootdiff"]
    assert row[1] == f"{entry['mean']:.4f}"
    assert row[-3] == f"{entry['sample_weighted']['mean']:.4f}"
    assert abs(entry["sample_weighted"]["mean"] - entry["mean"]) > 1e-4
    weighted = 100 * both["gap_closed"]["sample_weighted"]["mean"]
    assert f"in the sample-weighted loss {weighted:.0f} ±" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    row = next(line for line in shown(quality_over_seeds(both["samples"])).splitlines() if "bootdiff" in line)
    assert row.split() == ["bootdiff", "3.50", "±", "0.50", "30.00", "±", "0.00", "5.0", "%"]
    assert quality_over_seeds(over_seeds([made_up(0) | {"samples": None}, made_up(1)])["samples"]) == []


def test_detail_is_printed_where_it_was_measured():
    def with_detail(seed):
        made = made_up(seed)
        for q in made["samples"].values():
            q |= {"recall": 0.8, "coverage": 0.7, "count": 9, "reference_count": 8, "features": "f"}
            q["detail"] = {"ratio": 0.7 + 0.1 * seed, "stderr": 0.05, "octaves": [0.7, 0.7, 0.7]}
        return made

    one = next(line for line in shown(quality(with_detail(0)["samples"])).splitlines() if "bootdiff" in line)
    assert one.split()[-4:] == ["70", "±", "5", "%"]
    both = over_seeds([with_detail(0), with_detail(1)])["samples"]
    row = next(line for line in shown(quality_over_seeds(both)).splitlines() if "bootdiff" in line)
    assert row.split()[-4:] == ["75", "±", "5", "%"]
    # A run of an earlier version has none: neither has the table.
    assert "detail" not in over_seeds([with_detail(0), made_up(1)])["samples"]["bootdiff"]

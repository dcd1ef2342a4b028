"""Tables from results that are made up: means, paired errors, verdicts, equivalent full samples."""

from __future__ import annotations

import json
import math
import zlib

import pytest
import torch

from bootdiff.errors import BootdiffError
from experiments.benchmark import tables

IMAGES = torch.rand(200, generator=torch.Generator().manual_seed(0)).tolist()  # how hard each image is


def result(arm, views, n, seed, shift, spread=0.0):
    own = torch.Generator().manual_seed(zlib.crc32(f"{arm} {n} {seed}".encode()))
    rows = [x + shift + spread * float(torch.randn((), generator=own)) for x in IMAGES]
    mean = sum(rows) / 200
    per_level = {"0.05": {"mean": mean}, "1.6": {"mean": mean}}
    return {
        "benchmark": "made-up", "arm": arm, "views": views, "n_full": n, "count_full": int(10 * n), "seed": seed,
        "trials": 3, "count": 200, "budget_flops": 2e12,
        "parameters": 1e6, "evaluations": {"networks": 2.0, "flops": 3e6},
        "ledger": {"flops": 1e12}, "seconds": {"training": 5.0},
        "holdout_loss": {"mean": mean, "stderr": 0.02, "per_level": per_level, "per_image": rows},
    }  # fmt: skip


def made(ours):
    rows = []
    for n, full in ((2, 0.5), (20, 0.3)):
        for seed in (0, 1, 2):
            drift = 0.01 * seed  # of the seed, alike in all arms
            rows.append(result("full_only", "none", n, seed, full + drift))
            rows.append(result("oracle", "none", n, seed, 0.1 + drift))
            rows.append(result("naive_mix", "noise", n, seed, full - 0.02 + drift, 0.01))
            rows.append(result("cascade", "noise", n, seed, full + 0.1 + drift, 0.01))
            rows.append(result("bootdiff", "noise", n, seed, ours + drift, 0.01))
    return rows


def test_differences_are_paired_over_images_and_seeds():
    first = tables.columns(made(0.4))[0]
    d = first.difference("bootdiff", "full_only")
    assert d.mean == pytest.approx(-0.1, abs=0.002)
    # the images' and the seeds' own spread (0.3 and 0.01) drops out; what is left is 0.01 / sqrt(3 * 200)
    assert d.stderr == pytest.approx(0.01 / math.sqrt(600), rel=0.3)
    assert d.deviation < 0.003
    assert d.seeds == 3


@pytest.mark.parametrize(("ours", "verdict"), [(0.4, "won"), (0.48, "tie"), (0.6, "lost")])
def test_verdict_against_the_best_other_arm(ours, verdict):
    first = tables.columns(made(ours))[0]
    assert first.best_other == "naive_mix"
    rows = made(ours)
    if verdict == "tie":
        rows = [r for r in rows if r["arm"] != "bootdiff"]
        rows += [result("bootdiff", "noise", 2, s, 0.48 + 0.01 * s + (s - 1) * 0.004, 0.01) for s in (0, 1, 2)]
        first = tables.columns(rows)[0]
    assert first.difference("bootdiff", "naive_mix").verdict == verdict
    assert verdict in tables.verdict_table(rows, tables.columns(rows))


def test_share_of_the_gap_and_equivalent_samples():
    rows = made(0.4)
    first = tables.columns(rows)[0]
    assert first.gap_closed == pytest.approx(0.25, abs=0.01)
    # full-only: 0.51 at 20, 0.31 at 200 samples (mean of the seeds); 0.41 is half way in ln n
    assert tables.equivalent(rows, first)[0] == pytest.approx(math.sqrt(20 * 200), rel=0.05)
    for ours, bound in ((0.2, (200, ">")), (0.7, (20, "<"))):
        rows = made(ours)
        assert tables.equivalent(rows, tables.columns(rows)[0]) == bound
    assert math.isnan(tables.columns([r for r in rows if r["arm"] != "oracle"])[0].gap_closed)


def test_the_table_of_losses_names_every_arm_and_marks_the_best():
    text = tables.loss_table(tables.columns(made(0.4)))
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()}
    assert set(lines) >= {"arm", "full-only", "naive-mix", "cascade", "bootdiff", "oracle"}
    assert lines["bootdiff"].count("**") == 2  # best at 2 %, not at 20 %
    assert lines["naive-mix"].count("**") == 2
    assert "**" not in lines["oracle"]
    assert "1.00 T | 50 %" in tables.cost_table(tables.columns(made(0.4))[0])


def test_an_arm_of_fewer_seeds_says_so_and_is_no_rival():
    rows = [r for r in made(0.4) if r["arm"] != "naive_mix" or r["seed"] == 0]
    first = tables.columns(rows)[0]
    (line,) = (line for line in tables.loss_table([first]).splitlines() if line.startswith("| naive-mix"))
    assert "(1 of 3 seeds)" in line
    assert tables.loss_table([first]).count("seeds)") == 1
    assert first.best_other == "full_only"


def test_figures_of_samples_are_given_once_for_arms_that_see_no_views():
    figures = {"count": 9, "fid": 2.5, "kid": {"mean": 0.01}, "precision": 0.8, "recall": 0.9}
    figures["memorization"] = {"share": 0.0}
    rows = made(0.4) + [r | {"views": "blur"} for r in made(0.4) if r["views"] == "noise"]
    for r in rows:
        drawn = r["arm"] == "full_only" or (r["arm"], r["views"]) == ("bootdiff", "noise")
        r["samples"] = figures if drawn and r["n_full"] == 2 else None
    lines = tables.quality_table(tables.columns(rows)).splitlines()[2:]
    assert [line.split(" | ")[:3] for line in lines] == [["| noise", "2 %", arm] for arm in ("full-only", "bootdiff")]
    assert "2.5 | 10.00 | 0.80 | 0.90 | 0.0 %" in lines[0]


def both_rulers(drawn=True):
    """bootdiff closes a quarter of the gap in the plain loss, and more at the levels that samples need."""
    rows = made(0.4)
    for r in rows:
        mean, hard = r["holdout_loss"]["mean"], -0.1 if r["arm"] == "bootdiff" else 0.0
        r["holdout_loss"]["per_level"] = {"0.05": {"mean": mean - hard / 2}, "1.6": {"mean": mean + hard / 2}}
        fid = {"full_only": 5.0, "bootdiff": 4.0, "oracle": 1.0}.get(r["arm"])
        if drawn and r["seed"] == 0 and r["n_full"] == 2 and fid:
            r["samples"] = {"count": 9, "fid": fid, "kid": {"mean": fid / 100}, "precision": 0.8, "recall": 0.9}
            r["samples"]["memorization"] = {"share": 0.125}
    return rows


def test_both_rulers_stand_side_by_side():
    found = tables.columns(both_rulers())
    first = found[0]
    full, ours, oracle = (sum(first.losses(arm, weighted=True)) for arm in ("full_only", "bootdiff", "oracle"))
    # the weights of 0.05 and 1.6 are as 4 and 75
    expected = sum(first.losses("bootdiff")) / 3 - 0.05 * (75 - 4) / 79
    assert ours / 3 == pytest.approx(expected)
    assert first.weighted_gap_closed == pytest.approx((full - ours) / (full - oracle))
    assert first.weighted_gap_closed > first.gap_closed + 0.1
    assert first.fid_gap_closed == pytest.approx(0.25)
    assert math.isnan(found[1].fid_gap_closed)
    lines = tables.ruler_table(found).splitlines()
    assert lines[2].startswith(f"| noise | 2 % | 25 % | {100 * first.weighted_gap_closed:.0f} % | 25 % |")
    assert lines[2].endswith("| 4, 5, 1 | 40.00 | 12.5 % |")
    assert lines[3].endswith("| - | - | - | - |")
    assert {line.count("|") for line in lines} == {9}
    text = tables.weighted_table(found)
    (line,) = (line for line in text.splitlines() if line.startswith("| bootdiff"))
    assert f"**{expected:.4f} ± " in line


def test_without_a_gap_no_share_is_told():
    rows = both_rulers()
    for r in rows:
        if r["arm"] == "oracle":
            r["holdout_loss"]["per_level"] = {"0.05": {"mean": 2.0}, "1.6": {"mean": 2.0}}
            r["samples"] = None
    first = tables.columns(rows)[0]
    assert math.isnan(first.weighted_gap_closed)
    assert math.isnan(first.fid_gap_closed)
    assert tables.ruler_table([first]).splitlines()[2].endswith("| 25 % | - | - | 4, 5, - | 40.00 | 12.5 % |")
    rows = [r for r in both_rulers() if r["arm"] != "bootdiff"]
    assert len(tables.ruler_table(tables.columns(rows)).splitlines()) == 2
    assert tables.ruler_table(tables.columns(both_rulers(drawn=False))).count("| - | - | - | - |") == 2


def test_results_are_read_and_damaged_ones_named(tmp_path):
    with pytest.raises(BootdiffError, match="no results"):
        tables.read(tmp_path, "made-up")
    folder = tmp_path / "made-up" / "noise"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text(json.dumps(result("bootdiff", "noise", 2, 0, 0.1)))
    assert tables.read(tmp_path, "made-up")[0]["file"] == "noise/a.json"
    (folder / "b.json").write_text('{"arm": "bootdiff"}')
    with pytest.raises(BootdiffError, match=r"b\.json.*run the same command again"):
        tables.read(tmp_path, "made-up")


def test_only_what_stands_between_the_markers_is_written_again():
    page = "a\n<!-- table x -->\nold\n<!-- end -->\nb\n<!-- table y -->\nkept\n<!-- end -->\n"
    assert tables.fill(page, {"x": "new\\1"}) == page.replace("old", "\nnew\\1\n")


def test_the_settings_that_tuning_chose_stand_out():
    found = {"trial": 1, "settings": [{}, {"nets": "narrow"}], "losses": [0.4, 0.31234], "seeds": [100, 101]}
    text = tables.tuning_table({"full_only": {"none": {"10": found, "2": {**found, "trial": 0}}}})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]
    assert rows == [
        ["full-only", "none", "2 %", "**default 0.4000**; nets narrow 0.3123", "100, 101"],
        ["full-only", "none", "10 %", "default 0.4000; **nets narrow 0.3123**", "100, 101"],
    ]
    assert tables.tuning_table({}) == ""

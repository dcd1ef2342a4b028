"""`bootdiff evaluate RUN --swap ARM` on a tiny run: what it writes, what it leaves alone, what it refuses."""

from __future__ import annotations

import shutil

import pytest

from bootdiff.denoise import IsotropicGaussian
from bootdiff.evaluation.swap import sentence
from bootdiff.serialization import save
from bootdiff.training.files import read_json
from cli_calls import TINY, call, refused


def read(path):
    return read_json(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory, trained):
    """A copy of the run, in which the feature network is trained once."""
    folder = tmp_path_factory.mktemp("swap") / "run"
    shutil.copytree(trained.run, folder)
    return folder


def test_evaluate_tells_where_samples_are_lost(run):
    call("evaluate", run, "--samples", 0)  # for its table
    before = read(run / "metrics.json")
    result = call("evaluate", run, "--swap", "oracle", "--swap-at", "0.5,4", "--samples", 12)
    assert result.exit_code == 0, result.output
    after = read(run / "metrics.json")
    assert {key: after[key] for key in before} == before  # nothing else is changed
    found = after["swap"]["bootdiff"]
    assert (found["other"], found["count"], list(after["swap"])) == ("oracle", 12, ["bootdiff"])
    assert [(row["low"], row["high"]) for row in found["ranges"]] == [(0, 0.5), (0.5, 4), (4, None)]
    assert sum(row["steps"] for row in found["ranges"]) == 4
    # the ends are what the arms' own samples have
    call("evaluate", run, "--arm", "bootdiff", "--arm", "oracle", "--samples", 12)
    quality = read(run / "metrics.json")["samples"]
    for arm, end in (("bootdiff", "own"), ("oracle", "swapped_everywhere")):
        assert found[end] == {"fid": quality[arm]["fid"], "kid": quality[arm]["kid"]}
    assert "0.5 to 4" in result.stdout
    assert sentence("bootdiff", found) in " ".join(result.stdout.split())


def test_swapping_twice_writes_one_table_and_draws_nothing_again(run):
    loss_table = (run / "table.md").read_text().partition("## ")[0]
    arguments = ("evaluate", run, "--swap", run / "full_only", "--arm", "views_only", "--samples", 12, "--swap-at", "1")
    assert call(*arguments).exit_code == 0
    text = (run / "table.md").read_text()
    kept = (run / "samples" / "swap").glob("*full_only*")
    drawn = {path: path.stat().st_mtime_ns for path in kept}
    assert {path.name for path in drawn} == {
        "run-full_only.safetensors",
        "views_only-run-full_only-0-1.safetensors",
        "views_only-run-full_only-1-inf.safetensors",
    }
    assert call(*arguments).exit_code == 0
    assert (run / "table.md").read_text() == text
    assert text.startswith(loss_table.strip())
    assert text.count("| everywhere | 4 |") == 1
    assert {path: path.stat().st_mtime_ns for path in drawn} == drawn


def test_a_swap_that_cannot_be_made_says_why(tmp_path, trained):
    run = trained.run
    assert "train the arm into the run by `bootdiff fit RECIPE --arm distilled" in refused(
        "evaluate", run, "--swap", "distilled", "--samples", 12
    )
    assert "nor the folder of a saved model" in refused("evaluate", run, "--swap", tmp_path, "--samples", 12)
    assert "a different, better arm" in refused("evaluate", run, "--swap", "bootdiff")
    assert "give --samples" in refused("evaluate", run, "--swap", "oracle")  # the recipe draws none
    for levels in ("1,0.4", "0,1", "a,b", ","):
        assert "ascending noise levels separated by commas" in refused(
            "evaluate", run, "--swap", "oracle", "--swap-at", levels
        )
    assert "as --swap oracle" in refused("evaluate", run, "--swap-at", "1")
    assert "no trained arm 'best'" in refused("evaluate", run, "--swap", "oracle", "--arm", "best")
    assert "not a run directory" in refused("evaluate", tmp_path, "--swap", "oracle")


@pytest.mark.parametrize(("shape", "why"), [((1, 4, 8), "of the same shape"), ((1, 8, 8), "it knows 0 classes")])
def test_models_of_other_samples_are_not_swapped(tmp_path, trained, shape, why):
    save(IsotropicGaussian(shape, [0.0], 0.5), tmp_path / "other")
    assert why in refused("evaluate", trained.run, "--swap", tmp_path / "other", "--samples", 12)


def test_without_test_samples_there_is_nothing_to_measure_against(tmp_path, trained):
    recipe = tmp_path / "no-test.yaml"
    recipe.write_text(TINY.replace(", test: 24", ""))
    run = tmp_path / "run"
    for arm in ("full_only", "oracle"):
        assert call("fit", recipe, "--out", run, "--arm", arm).exit_code == 0
    assert "has no test samples" in refused("evaluate", run, "--arm", "full_only", "--swap", "oracle", "--samples", 12)

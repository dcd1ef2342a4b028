"""Samples that networks draw while they are trained: which, when, what they cost, and that they change nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from bootdiff.cli.report import previews
from bootdiff.cli.report.images import quick_sheet
from bootdiff.cli.report.previews import Previews, preview_steps
from bootdiff.method.settings import SamplingSettings
from bootdiff.recipe.schema import load_recipe_text
from cli_calls import TINY, call

WATCHED = TINY.replace("sampling: {count: 4", "sampling: {preview_every: 8, count: 4")


@pytest.fixture(scope="module")
def watched(tmp_path_factory, trained):
    """A run as `trained`, whose networks drew samples while they were trained."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "watched.yaml").write_text(WATCHED)
    result = call("fit", folder / "watched.yaml", "--arm", "full_only", "--arm", "bootdiff", "--out", folder / "run")
    assert result.exit_code == 0, result.output
    return folder / "run"


def test_networks_of_the_full_samples_draw_and_others_do_not(watched):
    drawn = sorted(path.name for path in (watched / "samples").glob("*.png"))
    stages = {name.rpartition("-")[0] for name in drawn}
    assert {"full-local", "visible-local"} <= stages <= {"full-local", "visible-local", "residual-local"}
    assert [name for name in drawn if name.startswith("full-local")] == [
        "full-local-000008.png",
        "full-local-000016.png",
    ]
    with Image.open(watched / "samples" / drawn[0]) as picture:
        assert picture.size == (4 * 64 + 3 * 3, 4 * 64 + 3 * 3)


def test_they_change_no_weight(watched, trained):
    stages = [path.name for path in (watched / "stages").iterdir() if (path / "final.safetensors").is_file()]
    assert "full-local" in stages
    for stage in stages:
        ours, theirs = watched / "stages" / stage, trained.run / "stages" / stage
        names = sorted(path.name for path in ours.glob("*.safetensors"))
        assert names == sorted(path.name for path in theirs.glob("*.safetensors"))
        for name in names:
            assert (ours / name).read_bytes() == (theirs / name).read_bytes(), (stage, name)


def test_a_stage_that_is_taken_over_brings_its_pictures(watched, tmp_path):
    (tmp_path / "watched.yaml").write_text(WATCHED)
    run = tmp_path / "run"
    result = call("fit", tmp_path / "watched.yaml", "--arm", "full_only", "--out", run, "--reuse", watched)
    assert result.exit_code == 0, result.output
    assert "full-local: taken from" in result.stdout
    for step in (8, 16):
        name = f"full-local-{step:06d}.png"
        assert (run / "samples" / name).read_bytes() == (watched / "samples" / name).read_bytes()


@pytest.mark.parametrize(
    ("steps", "batch", "with_views"), [(2000, 32, False), (400, 64, True), (90, 8, False), (7, 4, True)]
)
def test_they_cost_at_most_three_percent_of_the_evaluations(steps, batch, with_views):
    at = preview_steps(steps, batch, with_views)
    training = steps * batch * (1 if with_views else 3)
    assert len(at) * previews.COUNT * previews._SOLVER_STEPS <= 0.03 * training
    assert at == sorted(set(at))
    assert not at or (at[0] >= 1 and at[-1] == steps)
    assert len(at) <= 10


def task(**changes):
    prior = SimpleNamespace(shape=(1, 8, 8), sigma_data=0.5)
    given = {
        "name": "full-unet", "composite": SimpleNamespace(prior=prior, views={}),
        "noise": SimpleNamespace(mean=-0.2, std=1.1),
        "data": SimpleNamespace(samples=SimpleNamespace(context=None)), "training": SimpleNamespace(batch_size=32),
    } | changes  # fmt: skip
    return SimpleNamespace(**given, loss=lambda: SimpleNamespace(noise=given["noise"]))


@pytest.mark.parametrize(
    ("every", "changes", "found"),
    [
        (700, {}, [700, 1400]),
        (0, {}, []),
        (700, {"name": "view-left-unet"}, []),
        (700, {"name": "ceiling-left-unet"}, []),
        (700, {"noise": SimpleNamespace(mean=-1.9, std=1.0)}, []),  # of low noise alone: it cannot begin a sample
        ("auto", {"noise": SimpleNamespace(mean=-1.9, std=1.0)}, []),
    ],
)
def test_who_draws_when(every, changes, found):
    watch = Previews((1, 8, 8), SamplingSettings(), every, print)
    assert list(watch.steps(task(**changes), 2000)) == found


def test_a_failure_is_said_once_and_stops_nothing(tmp_path):
    said, drawn = [], []
    watch = Previews((1, 8, 8), SamplingSettings(), "auto", said.append, lambda *_: drawn.append(1))

    class Broken(torch.nn.Module):
        shape = (1, 8, 8)

        def forward(self, x, sigma, label=None, context=None):
            raise RuntimeError("out of everything\nmore")

    stage = SimpleNamespace(picture=lambda step: tmp_path / f"{step}.png")
    for step in (1, 2):
        watch.look(task(), Broken(), step, stage)
    assert said == ["full-unet: no samples drawn at step 1; the training goes on (out of everything)"]
    assert not drawn
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 8, 8), (2, 40), (5,), (1,)])
def test_every_kind_has_a_quick_sheet(shape):
    picture = quick_sheet(torch.randn(4, *shape))
    assert min(picture.size) > 20
    assert len(picture.getcolors(100_000)) > 1


def test_how_often_is_no_part_of_the_result():
    plain, often = load_recipe_text(TINY), load_recipe_text(WATCHED)
    assert plain.dump(place=False) == often.dump(place=False)
    assert plain.fingerprint() == often.fingerprint()
    assert "preview_every: 8" in often.dump()

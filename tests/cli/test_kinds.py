"""Vectors, signals and videos from arrays to trained arms, samples and files, by the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from bootdiff import BootdiffPipeline
from bootdiff.cli.report import curves
from bootdiff.sampling import sample
from bootdiff.serialization import load
from cli_calls import call, refused

RECIPE = """\
simulate: {{pool: {{path: data.npy, {data}}}, full: 16, test: 12}}
full: {{holdout: 6}}
views: {views}
{nets}training: {{steps: 4, batch: 8, lr: 0.01, ema: 0.9, warmup: 0, evaluate_every: 2}}
levels: [0.2, 1.0]
evaluate: {{draws: 1, samples: {samples}}}
sampling: {{count: 3, steps: 3}}
gains: {{mode: unit}}
device: cpu
threads: 1
"""

TINY = "backbones: {{unet: {{kind: unet, channels: {channels}}}, local: {{kind: local, width: 8, depth: 3}}}}\n"


def films(n=60):
    """A bright bar that moves by one pixel a frame, as 8-bit videos (n, 4, 8, 8, 1)."""
    rng = np.random.default_rng(0)
    start = rng.integers(0, 8, n)
    x = rng.integers(20, 60, (n, 4, 8, 8, 1))
    for t in range(4):
        x[np.arange(n), t, :, (start + t) % 8] += 150
    return x.astype(np.uint8)


def waves(n=60):
    """Two channels of one phase each, in units of their own: (n, 32, 2)."""
    rng = np.random.default_rng(1)
    angle = rng.uniform(0, 6.3, (n, 1)) + np.arange(32) * 0.4
    return (np.stack([np.sin(angle), 40 + 10 * np.cos(angle)], 2) + rng.normal(0, 0.05, (n, 32, 2))).astype(np.float32)


def rows(n=60):
    """Four columns that hang together: (n, 4)."""
    rng = np.random.default_rng(2)
    z = rng.normal(size=(n, 2))
    return (np.concatenate([z, z @ [[1, 0.5], [0.2, 1]]], 1) * [1, 2, 30, 4] + [0, 5, 100, 0]).astype(np.float32)


KINDS = {
    "video": (
        films(),
        {
            "data": "kind: video",
            "views": "{clips: {view: {kind: frame_window, length: 2}}, stills: {view: stills}}",
            "nets": TINY.format(channels="[8, 8]"),
            "samples": 0,
        },
    ),
    "signal": (
        waves(),
        {
            "data": "kind: signal, standardize: true",
            "views": "{windows: {view: {kind: window, length: 8, stride: 8}}}",
            "nets": TINY.format(channels="[8, 8]"),
            "samples": 0,
        },
    ),
    "vector": (
        rows(),
        {
            "data": "kind: vector, standardize: true",
            "views": "{first: {view: {kind: pick, indices: [0, 1]}}}",
            "nets": "",
            "samples": 8,
        },
    ),
}


# Signals are trained like videos of one pixel a frame: with what needs no training in test_restore_kinds.py, else 10 s.
@pytest.fixture(scope="module", params=[k if k != "signal" else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
def trained(request, tmp_path_factory) -> SimpleNamespace:
    """Two arms of a tiny run of one kind."""
    array, blocks = KINDS[request.param]
    folder: Path = tmp_path_factory.mktemp(request.param)
    np.save(folder / "data.npy", array)
    (folder / "tiny.yaml").write_text(RECIPE.format(**blocks))
    with pytest.MonkeyPatch.context() as patch:
        # Loss curves take the most time, and are the same for all kinds.
        patch.setattr(curves, "loss_curves", lambda *_: None)
        patch.setattr(curves, "level_curves", lambda *_: None)
        result = call("arms", folder / "tiny.yaml", "--out", folder / "run", "--arm", "full_only", "--arm", "bootdiff")
    assert result.exit_code == 0, result.output
    return SimpleNamespace(
        kind=request.param, array=array, recipe=folder / "tiny.yaml", run=folder / "run", out=result.stdout
    )


def opened(path):
    with Image.open(path) as picture:
        picture.load()
        return picture


def test_arms_are_trained_measured_and_drawn(trained):
    said = json.loads((trained.run / "metrics.json").read_text())
    assert set(said["holdout_loss"]) == {"full_only", "bootdiff"}
    assert all(np.isfinite(entry["mean"]) for entry in said["holdout_loss"].values())
    assert trained.kind != "vector" or np.isfinite(said["samples"]["bootdiff"]["fid"])
    for name in ("samples.png", "samples/real.png", "samples/bootdiff.png"):
        assert min(opened(trained.run / name).size) > 50
    nets = {path.name for path in trained.run.glob("stages/full-*")}
    assert (
        nets == {"full-mlp", "full-linear", "full-gaussian", "full-stack"}
        if trained.kind == "vector"
        else "full-unet" in nets
    )


def test_the_report_tells_what_the_samples_are(trained):
    text = (trained.run / "report.html").read_text()
    what = {
        "video": "videos of 4 frames of 8 x 8, 1 channel",
        "signal": "signals of 32 values, 2 channels",
        "vector": "vectors of 4 values",
    }
    assert what[trained.kind] in text
    assert "Not shown" not in text


def test_what_is_far_apart_is_measured_along_time(trained):
    far = json.loads((trained.run / "metrics.json").read_text())["long_range"]
    if trained.kind == "vector":
        assert far is None
        return
    assert far["bootdiff"]["lag"] == {"video": 3, "signal": 16}[trained.kind]
    assert f"Correlation over {far['bootdiff']['lag']} step(s)" in trained.out
    assert 0 < far["bootdiff"]["difference"]["stderr"] < 1


def test_sample_writes_original_units(trained, tmp_path):
    assert call("sample", trained.run, "-n", 5, "--out", tmp_path / "x.npy").exit_code == 0
    x = np.load(tmp_path / "x.npy")
    assert x.shape == (5, *trained.array.shape[1:])
    assert x.dtype == trained.array.dtype
    drawn = sample(load(trained.run / "bootdiff"), 5, steps=3)
    assert drawn.shape[0] == 5
    if trained.kind != "video":
        # Standardized columns come back by their own means and deviations.
        whole = trained.array.reshape(-1, trained.array.shape[-1])
        expected = drawn.movedim(1, -1).numpy() * whole.std(0) + whole.mean(0)
        np.testing.assert_allclose(x, expected, rtol=2e-3, atol=2e-3 * whole.std(0).max())
    assert call("sample", trained.run, "-n", 2, "--out", tmp_path / "x.npz").exit_code == 0
    np.testing.assert_allclose(np.load(tmp_path / "x.npz")["samples"], x[:2], rtol=1e-4, atol=1)


def test_sample_draws_what_can_be_looked_at(trained, tmp_path):
    assert call("sample", trained.run, "-n", 3).exit_code == 0
    default = trained.run / "samples" / ("bootdiff-seed0" + (".gif" if trained.kind == "video" else ".png"))
    assert min(opened(default).size) > 50
    if trained.kind == "video":
        with Image.open(default) as film:
            assert (film.format, film.n_frames) == ("GIF", 4)
        assert call("sample", trained.run, "-n", 2, "--out", tmp_path / "sheet.png").exit_code == 0
        width, height = opened(tmp_path / "sheet.png").size
        assert width > 1.5 * height  # two videos below each other, four frames wide
        assert call("sample", trained.run, "-n", 2, "--out", tmp_path / "films").exit_code == 0
        assert [opened(path).size for path in sorted((tmp_path / "films").iterdir())] == [(8, 8), (8, 8)]
    else:
        assert call("sample", trained.run, "-n", 3, "--out", tmp_path / "plot.svg").exit_code == 0
        assert "<svg" in (tmp_path / "plot.svg").read_text()
    if trained.kind == "signal":
        assert call("sample", trained.run, "-n", 2, "--out", tmp_path / "tables").exit_code == 0
        tables = [np.loadtxt(path, delimiter=",", skiprows=1) for path in sorted((tmp_path / "tables").iterdir())]
        assert call("sample", trained.run, "-n", 2, "--out", tmp_path / "x.npy").exit_code == 0
        np.testing.assert_allclose(tables, np.load(tmp_path / "x.npy"), rtol=1e-6, atol=1e-6)
    if trained.kind == "vector":
        assert call("sample", trained.run, "-n", 4, "--out", tmp_path / "x.csv").exit_code == 0
        table = list(csv.reader((tmp_path / "x.csv").read_text().splitlines()))
        assert table[0] == ["column 1", "column 2", "column 3", "column 4"]
        assert np.array(table[1:], float).shape == (4, 4)


def test_other_endings_are_refused_with_those_that_are_known(trained, tmp_path):
    said = refused("sample", trained.run, "-n", 1, "--out", tmp_path / "x.mp3")
    assert "sampling" not in said
    assert f"{trained.kind}s are written as .{ {'video': 'gif'}.get(trained.kind, 'png') }" in said


# Each network's step is counted and timed: 8 s for the video's eleven.
@pytest.mark.parametrize(
    "trained", ["vector", *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS if k != "vector")], indirect=True
)
def test_check_draws_views_of_every_kind(trained, tmp_path):
    result = call("check", trained.recipe, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert min(opened(tmp_path / "views.png").size) > 100


def test_the_pipeline_draws_every_kind(trained, tmp_path):
    pipe = BootdiffPipeline.from_pretrained(trained.run / "bootdiff")
    pipe.save_pretrained(tmp_path / "pipe")
    again = BootdiffPipeline.from_pretrained(tmp_path / "pipe")
    for p in (pipe, again):
        p.set_progress_bar_config(disable=True)
    shape = tuple(pipe.denoiser.shape)
    x = pipe(2, num_inference_steps=3, output_type="pt").images
    assert x.shape == (2, *shape)
    torch.testing.assert_close(again(2, num_inference_steps=3, output_type="pt").images, x)
    images = pipe(2, num_inference_steps=3).images
    if trained.kind == "video":
        assert [len(frames) for frames in images] == [4, 4]
        assert images[0][0].size == (8, 8)
    else:
        np.testing.assert_allclose(images, x.movedim(1, -1).numpy(), rtol=1e-5, atol=1e-5)


def test_a_unet_is_not_for_vectors(tmp_path):
    array, blocks = KINDS["vector"]
    np.save(tmp_path / "data.npy", array)
    (tmp_path / "bad.yaml").write_text(RECIPE.format(**blocks | {"nets": "backbones: {unet: auto}\n"}))
    for verb in ("check", "fit"):
        said = refused(verb, tmp_path / "bad.yaml", "--out", tmp_path / verb)
        assert "these samples are vectors of" in said
        assert "use mlp or linear" in said

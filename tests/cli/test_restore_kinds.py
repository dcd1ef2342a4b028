"""`bootdiff restore` of videos, signals and vectors, with the white base as the model: runs written by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from bootdiff.cli.report.metadata import DataInfo
from bootdiff.data.units import Units
from bootdiff.denoise import IsotropicGaussian
from bootdiff.recipe.schema import load_recipe_text
from bootdiff.serialization import save
from bootdiff.training.files import write_stamped
from bootdiff.training.run import Run
from cli_calls import call, refused

FAST = ("--steps", 4, "--samples", 3)


def run_of(folder, recipe, shape, meaning):
    """A run that ended with the white base of these samples."""
    folder.mkdir(exist_ok=True)
    (folder / "r.yaml").write_text(recipe)
    loaded = load_recipe_text(recipe, folder, source="r.yaml", name="r")
    with Run.open(folder / "run", loaded.dump(place=False), "data", seed=0):
        pass
    save(IsotropicGaussian(shape, [0.0] * shape[0], 0.5), folder / "run" / "bootdiff")
    said = {"shape": list(shape), "classes": None, "counts": {}, "meaning": meaning.record()}
    write_stamped(folder / "run" / "data.json", said)
    return folder / "run"


def restored(run, *arguments):
    result = call("restore", run, *arguments)
    assert result.exit_code == 0, result.output
    out = arguments[1]
    return np.load(out / "answers.npy"), json.loads((out / "report.json").read_text())


@pytest.fixture
def films(tmp_path):
    recipe = """\
full: {path: films.npy, kind: video}
views:
  clips: {view: {kind: frame_window, length: 2}, data: {path: clips.npy, kind: video}}
"""
    return run_of(tmp_path, recipe, (1, 4, 6, 6), DataInfo(Units.of_range(0, 255), 5.0))


def clips(n=2, frames=2, side=6):
    return np.random.default_rng(0).integers(0, 256, (n, frames, side, side), dtype=np.uint8)


def test_a_clip_becomes_a_longer_video(films, tmp_path):
    np.save(tmp_path / "in.npy", clips())
    message = refused("restore", films, tmp_path / "in.npy", tmp_path / "out", "--view", "clips")
    assert "has 3 placements" in " ".join(message.split())
    answers, report = restored(films, tmp_path / "in.npy", tmp_path / "out", "--view", "clips", "--placement", 1, *FAST)
    assert answers.shape == (2, 3, 4, 6, 6, 1)
    np.testing.assert_array_equal(answers[:, 2, 1:3, ..., 0], clips())
    assert report["agreement"]["written"] < 1e-5
    with Image.open(tmp_path / "out" / "answers" / f"{report['files'][1]}-3.gif") as moving:
        assert (moving.n_frames, moving.size) == (4, (6, 6))
    assert (tmp_path / "out" / "spread" / f"{report['files'][0]}.gif").is_file()


def test_a_clip_of_another_length_is_refused(films, tmp_path):
    np.save(tmp_path / "in.npy", clips(frames=3))
    message = refused("restore", films, tmp_path / "in.npy", tmp_path / "out", "--view", "clips", "--placement", 0)
    assert "its files are 1 x 3 x 6 x 6" in " ".join(message.split())


def test_a_logo_is_taken_out_of_a_video(films, tmp_path):
    seen = np.full((6, 6), 255, np.uint8)
    seen[:2, :3] = 0
    Image.fromarray(seen).save(tmp_path / "logo.png")
    np.save(tmp_path / "in.npy", clips(frames=4))
    answers, _ = restored(films, tmp_path / "in.npy", tmp_path / "out", "--mask", tmp_path / "logo.png", *FAST)
    kept = seen > 0
    np.testing.assert_array_equal(
        answers[:, 0, :, kept, 0], np.moveaxis(clips(frames=4), 1, -1)[:, kept].swapaxes(0, 1)
    )
    assert (answers[:, 0, :, ~kept] != answers[:, 1, :, ~kept]).mean() > 0.8


def test_gaps_of_signals_are_filled_in_their_own_units(tmp_path):
    recipe = """\
full: {path: full.npy, kind: signal, range: [-5, 5]}
views: {half: {view: {kind: window, length: 8}, data: {path: half.npy}}}
"""
    run = run_of(tmp_path, recipe, (2, 16), DataInfo(Units.of_range(-5, 5)))
    x = np.random.default_rng(0).uniform(-4, 4, (3, 16, 2)).astype(np.float32)
    hole = x.copy()
    hole[0, 3:7] = hole[1, 10:, 1] = np.nan
    np.save(tmp_path / "in.npy", hole)
    arguments = (tmp_path / "in.npy", tmp_path / "out", "--view-config", "{kind: identity}")
    answers, report = restored(run, *arguments, *FAST)
    seen = np.isfinite(hole)
    assert answers.shape == (3, 3, 16, 2)
    for k in range(3):
        np.testing.assert_allclose(answers[:, k][seen], hole[seen], atol=1e-4)
    assert np.isfinite(answers).all()
    assert answers[0, :, 3:7].std(0).min() > 0.1
    assert report["agreement"]["max"] < 1e-5
    with np.load(tmp_path / "out" / "spread.npz") as kept:
        np.testing.assert_allclose(kept["mean"], answers.mean(1), atol=1e-4)
        np.testing.assert_allclose(kept["spread"], answers.std(1, ddof=1), atol=1e-3)


def test_empty_cells_of_a_table_are_filled_in(tmp_path):
    recipe = """\
full: {path: full.csv, kind: vector, standardize: true}
views:
  two: {view: {kind: pick, indices: [0, 2]}, data: {path: two.csv, kind: vector}}
"""
    units = Units((10.0, 0.0, -5.0), (2.0, 1.0, 0.1), True)
    run = run_of(tmp_path, recipe, (3,), DataInfo(units, None, ["a", "b", "c"]))
    (tmp_path / "in.csv").write_text("a,b,c\n11,,-5.1\n,0.5,-4.9\n")
    answers, _ = restored(run, tmp_path / "in.csv", tmp_path / "out", "--view-config", "{kind: identity}", *FAST)
    assert answers.shape == (2, 3, 3)
    np.testing.assert_allclose(answers[0][:, [0, 2]], [[11, -5.1]] * 3, atol=1e-4)
    np.testing.assert_allclose(answers[1][:, [1, 2]], [[0.5, -4.9]] * 3, atol=1e-4)
    (tmp_path / "two.csv").write_text("a,c\n11,-5.1\n9,-4.9\n")
    answers, _ = restored(run, tmp_path / "two.csv", tmp_path / "out2", "--view", "two", *FAST)
    np.testing.assert_allclose(answers[:, 1][:, [0, 2]], [[11, -5.1], [9, -4.9]], atol=1e-4)
    head, first, _ = (tmp_path / "out2" / "answers" / "1.csv").read_text().splitlines()
    assert head == "a,b,c"
    assert first.startswith("11,")


def test_recordings_in_tables_come_back_as_tables(tmp_path):
    recipe = """\
full: {path: full, kind: signal, length: 16, standardize: true}
views: {gaps: {view: {kind: random_mask, hide: gap, apart: true},
               data: {path: in, kind: signal, length: 16, missing: mask}}}
"""
    run = run_of(tmp_path, recipe, (2, 16), DataInfo(Units((400.0, 0.0), (50.0, 1.0), True), None, ["height", "wind"]))
    (tmp_path / "in").mkdir()
    rows = [[f"{483 + t}", f"{t / 10:.1f}"] for t in range(32)]
    rows[3][0] = rows[20][1] = rows[21][1] = ""
    (tmp_path / "in" / "north.csv").write_text("height,wind\n" + "\n".join(map(",".join, rows)) + "\n")
    restored(run, tmp_path / "in" / "north.csv", tmp_path / "out", "--view", "gaps", *FAST)
    written = sorted(path.name for path in (tmp_path / "out" / "answers").iterdir())
    assert written == [f"north-{at}-{k}.csv" for at in ("0-16", "16-32") for k in (1, 2, 3)]
    for at, name in ((0, "north-0-16-2.csv"), (16, "north-16-32-1.csv")):
        head, *lines = (tmp_path / "out" / "answers" / name).read_text().splitlines()
        assert head == "height,wind"
        for row, line in zip(rows[at : at + 16], lines, strict=True):
            for given, value in zip(row, line.split(","), strict=True):
                assert float(value) == pytest.approx(float(given), abs=1e-4) if given else np.isfinite(float(value))


def test_floats_are_read_in_the_range_of_the_run(tmp_path):
    recipe = """\
full: {path: full.npy}
views:
  noisy: {view: identity, std: 0.1, data: {path: noisy.npy}}
"""
    units = Units.of_range(-1, 1, "float")
    run = run_of(tmp_path, recipe, (1, 6, 6), DataInfo(units))
    assert DataInfo.of_run(run).units.values == "float"
    bright = np.random.default_rng(0).uniform(0.2, 0.9, (2, 6, 6)).astype(np.float32)
    np.save(tmp_path / "in.npy", bright)
    answers, _ = restored(run, tmp_path / "in.npy", tmp_path / "out", "--view-config", "{kind: identity}", *FAST)
    np.testing.assert_allclose(answers[:, 0, ..., 0], bright, atol=1e-4)
    np.save(tmp_path / "noisy.npy", bright + 0.3)
    restored(run, tmp_path / "noisy.npy", tmp_path / "out", "--view", "noisy", *FAST)
    message = refused("restore", run, tmp_path / "noisy.npy", tmp_path / "no", "--view-config", "{kind: identity}")
    assert "outside the range [-1, 1]" in " ".join(message.split())
    pixels = run_of(tmp_path / "p", recipe, (1, 6, 6), DataInfo(Units.of_range(0, 255, "pixels")))
    arguments = (tmp_path / "in.npy", tmp_path / "out", "--view-config", "{kind: identity}")
    message = refused("restore", pixels, *arguments)
    assert "--range: " in message
    answers, _ = restored(pixels, *arguments, "--range", 0, 1, *FAST)
    np.testing.assert_allclose(answers[:, 0, ..., 0] / 255, bright, atol=0.003)


def test_what_is_transparent_is_not_observed(tmp_path):
    recipe = "full: {path: full}\nviews: {holes: {view: {kind: random_mask}, data: {path: holes, masks: alpha}}}\n"
    run = run_of(tmp_path, recipe, (3, 6, 6), DataInfo(Units.of_range(0, 255, "pixels")))
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 4), dtype=np.uint8)
    seen = np.ones((6, 6), bool)
    seen[3:] = False
    pixels[..., 3] = np.where(seen, 255, 0)
    Image.fromarray(pixels).save(tmp_path / "hole.png")
    np.save(tmp_path / "hole.npy", pixels[None])
    for k, (name, *how) in enumerate(
        (("hole.png", "--view", "holes"), ("hole.png", "--mask", "alpha"), ("hole.npy", "--mask", "alpha"))
    ):
        answers, _ = restored(run, tmp_path / name, tmp_path / f"out{k}", *how, *FAST)
        assert np.array_equal(answers[0, 0][seen], pixels[..., :3][seen])
        assert (answers[0, 0][~seen] != answers[0, 1][~seen]).mean() > 0.8
    message = " ".join(refused("restore", run, tmp_path / "hole.png", "--view-config", "{kind: random_mask}").split())
    assert "masks: alpha" in message or "--mask alpha" in message
    Image.fromarray(pixels[..., :3]).save(tmp_path / "whole.png")
    assert "no alpha channel" in refused("restore", run, tmp_path / "whole.png", "--mask", "alpha")
    message = " ".join(refused("restore", run, tmp_path / "hole.png", "--view-config", "{kind: identity}").split())
    assert "alpha: white, black or drop in the recipe; or --mask alpha" in message
    # A mask for all files, erased to transparency over white.
    mask = np.full((6, 6, 4), 255, np.uint8)
    mask[3:, :, 3] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    answers, _ = restored(run, tmp_path / "whole.png", tmp_path / "out", "--mask", tmp_path / "mask.png", *FAST)
    assert np.array_equal(answers[0, 0][seen], pixels[..., :3][seen])
    assert (answers[0, 0][~seen] != pixels[..., :3][~seen]).mean() > 0.8


def test_samples_of_two_or_four_channels_are_drawn_side_by_side():
    import torch

    from bootdiff.cli.report.images import to_pil

    x = torch.linspace(-1, 1, 4)[:, None, None].expand(4, 2, 3)
    drawn = np.asarray(to_pil(x))
    assert drawn.shape == (2, 12, 3)
    assert drawn[0, ::3, 0].tolist() == [0, 85, 170, 255]
    hidden = torch.ones(1, 2, 3)
    hidden[0, 0, 0] = 0
    assert [tuple(v) for v in np.asarray(to_pil(x, hidden))[0, ::3]] == [(226, 138, 160)] * 4

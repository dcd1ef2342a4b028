"""Data of every kind in a recipe: one quantity has one unit, masks fit the view, recordings stay whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bootdiff.data import Units, WithMasks
from bootdiff.errors import BootdiffError
from bootdiff.method.problem import in_memory
from bootdiff.recipe.build import build_problem
from bootdiff.recipe.schema import load_recipe_text

RNG = np.random.default_rng(0)
RAW = RNG.normal([5.0, -40.0], [2.0, 0.5], (30, 16, 2))


def recipe(folder, full: str, view: str, data: str, more: str = ""):
    text = f"full: {{path: full.npy, {full}}}\nviews:\n  v:\n    view: {view}\n    data: {{{data}}}\n{more}"
    return load_recipe_text(text, folder)


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "full.npy", RAW[:10])
    np.save(tmp_path / "windows.npy", RAW[10:, 4:12])
    np.save(tmp_path / "first.npy", RAW[10:, :, :1])
    holes = RAW[10:].copy()
    holes[::2, 3:6] = np.nan
    np.save(tmp_path / "gaps.npy", holes)
    holes[1, 9, 1] = np.nan
    np.save(tmp_path / "uneven.npy", holes)
    return tmp_path


@pytest.mark.parametrize("full", ["kind: signal, standardize: true", "kind: signal, range: [-60, 60]"])
@pytest.mark.parametrize(
    ("view", "path"),
    [("{kind: window, length: 8, offset: 4}", "windows.npy"), ("{kind: pick, indices: [0]}", "first.npy")],
)
def test_views_are_read_in_the_units_of_the_full_samples(folder, full, view, path):
    found = build_problem(recipe(folder, full, view, f"path: {path}, kind: signal"))
    units = found.full.units
    assert units.standardized == ("standardize" in full)
    everything = units.store(torch.from_numpy(np.moveaxis(RAW[10:], -1, 1)), 1).float()
    v = found.views["v"]
    seen = v.view(everything)
    for source in (v.train, v.held_out):
        for i in range(len(source)):
            row = int(source.name(i).split()[1])
            torch.testing.assert_close(source[i].x * v.view.scale, seen[row], atol=1e-5, rtol=0)
    assert torch.allclose(v.train.restore(v.train[0].x).float(), v.train.units.restore(v.train[0].x, 1).float())


def test_units_that_do_not_agree_are_refused(folder):
    window = "{kind: window, length: 8, offset: 4}"
    for full, data, said in (
        ("standardize: true", "range: [0, 1]", r"views\.v\.data\.range: the full samples are standardized"),
        (
            "range: [-60, 60]",
            "standardize: true",
            r"views\.v\.data\.standardize: the full samples are not standardized",
        ),
    ):
        with pytest.raises(BootdiffError, match=said):
            build_problem(recipe(folder, f"kind: signal, {full}", window, f"path: windows.npy, kind: signal, {data}"))
    mix = "{kind: channel_mix, weights: [0.5, 0.5]}"
    with pytest.raises(BootdiffError, match=r"views\.v\.data: this view mixes channels"):
        build_problem(recipe(folder, "kind: signal, standardize: true", mix, "path: first.npy, kind: signal"))


def test_simulated_views_have_the_units_of_what_they_show(folder):
    text = (
        "simulate: {full: 4, pool: {path: full.npy, kind: signal, standardize: true}}\n"
        "views:\n  v: {view: {kind: pick, indices: [1]}}\n"
    )
    found = build_problem(load_recipe_text(text, folder))
    units = found.views["v"].train.units
    assert units.offset == pytest.approx((found.full.units.offset[1],), rel=1e-5)
    assert units.scale == pytest.approx((found.full.units.scale[1],), rel=1e-5)
    assert found.full.units != Units()


def test_missing_values_need_a_view_that_hides(folder):
    full = "kind: signal, standardize: true"
    gaps = "path: gaps.npy, kind: signal, missing: mask"
    found = build_problem(recipe(folder, full, "{kind: random_mask, hide: gap}", gaps)).views["v"]
    samples = in_memory(found.train, found.view.scale, found.view, (2, 16))
    assert samples.mask.shape == (len(found.train), 1, 16)
    assert samples.x.isfinite().all()
    with pytest.raises(BootdiffError, match=r"views\.v: its files have masks, but this view hides nothing"):
        build_problem(recipe(folder, full, "identity", gaps))
    uneven = "path: uneven.npy, kind: signal, missing: mask"
    with pytest.raises(BootdiffError, match=r"views\.v: .*other values are missing in each channel.*hide: channels"):
        build_problem(recipe(folder, full, "{kind: random_mask, hide: gap}", uneven))
    each = build_problem(recipe(folder, full, "{kind: random_mask, hide: channels}", uneven)).views["v"].train
    assert each.batch([0, 1])[2].shape == (2, 2, 16)
    wide = build_problem(recipe(folder, full, "{kind: random_mask, hide: channels}", gaps)).views["v"].train
    assert isinstance(wide.dataset, WithMasks)
    assert wide[0].mask.shape == (2, 16)
    with pytest.raises(BootdiffError, match=r"NaN means not observed, set views\.v\.data\.missing to mask"):
        build_problem(recipe(folder, full, "{kind: random_mask, hide: gap}", "path: full.npy, kind: signal"))


def test_a_video_of_three_frames_in_a_view_of_four(tmp_path):
    video = RNG.integers(0, 256, (8, 12, 4, 4, 1), dtype=np.uint8)
    np.save(tmp_path / "full.npy", video)
    np.save(tmp_path / "short.npy", video[:, :3])
    view = "{kind: frame_window, length: 4}"
    with pytest.raises(
        BootdiffError,
        match=r"views\.v: its files are 1 x 3 x 4 x 4 \(channels x frames x height x width\).*view are 1 x 4 x 4 x 4",
    ):
        build_problem(recipe(tmp_path, "kind: video", view, "path: short.npy"))
    with pytest.raises(BootdiffError, match=r"short\.npy: samples have 3 frames, fewer than the 4 asked for"):
        build_problem(recipe(tmp_path, "kind: video", view, "path: short.npy, frames: 4"))


def test_recordings_are_held_out_whole(tmp_path):
    video = RNG.integers(0, 256, (6, 12, 4, 4, 1), dtype=np.uint8)
    np.save(tmp_path / "full.npy", video)
    found = build_problem(recipe(tmp_path, "frames: 6, stride: 2, holdout: 4", "identity", "path: full.npy, frames: 6"))
    spans = [[source.span(i) for i in range(len(source))] for source in (found.full, found.held_out)]
    train, held = ({(s.recording, t) for s in part for t in range(s.start, s.stop)} for part in spans)
    assert held
    assert not train & held
    np.save(tmp_path / "full.npy", video[:1])
    with pytest.raises(BootdiffError, match=r"full: .*all others overlap with them; bring more recordings"):
        build_problem(recipe(tmp_path, "frames: 6, stride: 1, holdout: 6", "identity", "path: full.npy, frames: 6"))


def test_time_is_never_mirrored(folder):
    text = recipe(folder, "kind: signal, range: [-60, 60]", "identity", "path: gaps.npy", "flip: horizontal\n")
    with pytest.raises(
        BootdiffError, match="flip: only pictures and videos are mirrored, the full samples are signals"
    ):
        build_problem(text)


@pytest.mark.parametrize("more", ["", ", {kind: random_mask, hide: moving}"])
def test_what_a_view_hides_in_every_file_is_hidden_beside_what_the_files_hide(tmp_path, more):
    np.save(tmp_path / "full.npy", RNG.integers(0, 256, (8, 2, 4, 4, 1), dtype=np.uint8))
    own = RNG.integers(0, 2, (8, 2, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "part.npz", x=RNG.integers(1, 256, (8, 2, 4, 4, 1), dtype=np.uint8), x_mask=own)
    view = f"[{{kind: mask, box: [0, 2, 2, 2]}}{more}]"
    v = build_problem(recipe(tmp_path, "kind: video", view, "path: part.npz, kind: video, key: x, masks: true")).views[
        "v"
    ]
    box = np.ones((4, 4))
    box[:2, 2:] = 0
    for source in (v.train, v.held_out):
        rows = [int(source.name(i).split()[1]) for i in range(len(source))]
        found = in_memory(source, v.view.scale, v.view, (1, 2, 4, 4))
        np.testing.assert_array_equal(found.mask[:, 0].numpy(), own[rows] * box)
        assert not found.x[found.mask == 0].any()
    placed = v.view.placements((1, 2, 4, 4))
    assert all(not p.mask((1, 2, 4, 4))[..., :2, 2:].any() for p in placed)
    if not more:
        (only,) = placed
        np.testing.assert_array_equal(only.mask((1, 2, 4, 4))[0, 0].numpy(), box)

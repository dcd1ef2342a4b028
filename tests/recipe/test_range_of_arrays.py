"""The range of float values is that of the full samples wherever a block says none: nothing is guessed per array."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bootdiff
from bootdiff.errors import BootdiffError
from bootdiff.recipe.build import build_problem
from bootdiff.recipe.schema import load_recipe_text
from bootdiff.views import Identity
from cli_calls import refused

RNG = np.random.default_rng(0)
SIGNED = RNG.uniform(-1, 1, (40, 8, 8)).astype(np.float32)
BRIGHT = np.maximum(SIGNED, 0.1)
"""Of the same scenes, parts that are never dark."""
VIDEO = RNG.uniform(-1, 1, (12, 4, 4, 4)).astype(np.float32)


def means(x):
    return x.reshape(-1, 4, 2, 4, 2).mean((2, 4))


def problem(folder, text, **arrays):
    np.savez(folder / "x.npz", **arrays)
    return build_problem(load_recipe_text(text, folder))


HALF = "views: {v: {view: {kind: downsample, factor: 2}, data: {path: x.npz, key: v%s}}}\n"


def values(source):
    """Stored coordinates of all samples in the order of the file."""
    x = source.batch(range(len(source)))[0]
    return x[torch.argsort(torch.tensor([int(source.name(i).split()[1]) for i in range(len(source))]))]


def test_views_test_and_oracle_without_negative_values_share_the_range_of_the_full_samples(tmp_path):
    text = "full: {path: x.npz, key: full}\ntest: {path: x.npz, key: test}\noracle: {path: x.npz, key: test}\n"
    small = means(BRIGHT)
    found = problem(tmp_path, text + HALF % ", limit: 20", full=SIGNED[:10], test=BRIGHT, v=small)
    for source in (found.test, found.oracle):
        np.testing.assert_allclose(values(source)[:, 0], BRIGHT, atol=1e-6)
    rows = [int(found.views["v"].train.name(i).split()[1]) for i in range(len(found.views["v"].train))]
    np.testing.assert_allclose(values(found.views["v"].train)[:, 0], small[sorted(rows)], atol=1e-6)


def test_masked_videos_and_declared_ranges_share_it_too(tmp_path):
    text = (
        "full: {path: x.npz, key: full, kind: video}\n"
        "views: {v: {view: {kind: random_mask}, data: {path: x.npz, key: v, kind: video, masks: m}}}\n"
    )
    masks = np.ones((12, 4, 4, 4), np.uint8)
    masks[:, :, 2:] = 0
    hidden = np.where(masks, np.abs(VIDEO), 0)  # zeros where nothing is observed
    found = problem(tmp_path, text, full=VIDEO, v=hidden, m=masks)
    x = values(found.views["v"].train)[:, 0]
    rows = sorted(int(found.views["v"].train.name(i).split()[1]) for i in range(len(x)))
    np.testing.assert_allclose(x[:, :, :2], np.abs(VIDEO)[rows][:, :, :2], atol=1e-6)
    # A declared range of the full samples holds for views of the same type: here 12 bits in 16, and floats up to 255.
    deep = RNG.integers(0, 4096, (40, 8, 8)).astype(np.uint16)
    for array, bounds in ((deep, [0, 4095]), (SIGNED * 100 + 120, [0, 255])):
        text = f"full: {{path: x.npz, key: full, range: {bounds}}}\n"
        text += "views: {v: {view: identity, data: {path: x.npz, key: v}}}\n"
        found = problem(tmp_path, text, full=array[:10], v=array[10:]).views["v"].train
        assert found.units.bounds == tuple(bounds)
        assert float(values(found).max()) > 0.7


@pytest.mark.parametrize("on_error", ["", ", on_error: skip"])
def test_values_beyond_the_range_of_the_full_samples_are_named(tmp_path, on_error):
    small = means((SIGNED + 1) / 2)
    small[3, 2, 2] = -0.003  # interpolation overshoots
    text = "full: {path: x.npz, key: full}\n" + HALF % on_error
    if on_error:
        found = problem(tmp_path, text, full=(SIGNED[:10] + 1) / 2, v=small)
        assert [p.file for p in found.views["v"].train.problems] == ["sample 3"]
        assert found.views["v"].train.units.bounds == (0, 1)
        return
    with pytest.raises(BootdiffError, match=r"sample 3 holds -0.003, outside the range \[0, 1\].*of the full samples"):
        problem(tmp_path, text, full=(SIGNED[:10] + 1) / 2, v=small)


def test_noise_may_leave_the_range_but_another_scale_may_not(tmp_path):
    clean = (SIGNED + 1) / 2
    noisy = (clean + 0.1 * RNG.normal(size=clean.shape)).astype(np.float32)
    assert noisy.min() < -0.1
    text = "full: {path: x.npz, key: full%s}\nviews: {v: {view: identity, std: %s, data: {path: x.npz, key: v%s}}}\n"
    for own, its in (("", ""), (", range: [0, 1]", ", range: [0, 1]")):
        found = problem(tmp_path, text % (own, 0.2, its), full=clean[:10], v=noisy).views["v"].train
        rows = sorted(int(found.name(i).split()[1]) for i in range(len(found)))
        np.testing.assert_allclose(values(found)[:, 0], 2 * noisy[rows] - 1, atol=1e-5)
    with pytest.raises(BootdiffError, match=r"holds .*, outside the range \[0, 1\] by more than noise of std 0.2"):
        problem(tmp_path, text % ("", 0.2, ""), full=clean[:10], v=255 * noisy)
    with pytest.raises(BootdiffError, match="outside the range"):
        problem(tmp_path, text % ("", 0.0, ""), full=clean[:10], v=noisy)
    # Recordings in files with a range of their own.
    (tmp_path / "s").mkdir()
    for i in range(4):
        np.save(tmp_path / "s" / f"{i}.npy", noisy[i].ravel())
    text = (
        "full: {path: x.npz, key: full, kind: signal, range: [0, 1]}\n"
        "views: {v: {view: identity, std: %s, data: {path: s, kind: signal, range: [0, 1]}}}\n"
    )
    flat = clean.reshape(40, 64)
    assert len(problem(tmp_path, text % 0.2, full=flat).views["v"].train.problems) == 0
    with pytest.raises(BootdiffError, match=r"outside the range \[0, 1\]"):
        problem(tmp_path, text % 0.0, full=flat)


def test_what_could_be_two_ranges_is_refused_with_both_named(tmp_path):
    pixels = RNG.integers(0, 256, (10, 8, 8), dtype=np.uint8)
    text = "full: {path: x.npz, key: full}\n" + HALF
    two = (
        r"views\.v\.data: .*none is negative: in \[0, 1\], or bright ones in \[-1, 1\]\?.*uint8.*say range: \[0, 1\] or"
    )
    with pytest.raises(BootdiffError, match=two):
        problem(tmp_path, text % "", full=pixels, v=means(BRIGHT))
    found = problem(tmp_path, text % ", range: [-1, 1]", full=pixels, v=means(BRIGHT)).views["v"].train
    assert float(values(found).min()) > 0
    found = problem(tmp_path, text % "", full=pixels, v=means(SIGNED)).views["v"].train
    assert found.units.bounds == (-1, 1)
    over = (SIGNED + 1) / 2
    over[2, 3, 3] = -0.003
    with pytest.raises(BootdiffError, match=r"from -0.003 to .*: in \[0, 1\] with a little beyond, or bright ones"):
        problem(tmp_path, text % "", full=over, v=means(over))


def test_opened_one_by_one_in_python(tmp_path):
    np.save(tmp_path / "full.npy", SIGNED)
    np.save(tmp_path / "bright.npy", BRIGHT)
    full, bright = (bootdiff.open(tmp_path / f"{name}.npy") for name in ("full", "bright"))
    view = {"v": (Identity(), bright)}
    with pytest.raises(BootdiffError, match=r"views\['v'\]\.data: .*\[0, 1\], those of the full samples in \[-1, 1\]"):
        bootdiff.fit(full=full, views=view)
    with pytest.raises(BootdiffError, match=r"test: its float values were taken to lie in \[0, 1\]"):
        bootdiff.fit(full=full, views={"v": (Identity(), full)}, test=bright)


def test_every_command_says_it(tmp_path):
    np.savez(tmp_path / "x.npz", full=(SIGNED[:10] + 1) / 2, v=means(SIGNED))
    (tmp_path / "r.yaml").write_text("full: {path: x.npz, key: full}\n" + HALF % "")
    for command in ("check", "fit", "arms", "plan"):
        said = " ".join(refused(command, tmp_path / "r.yaml", "--out", tmp_path / "out").split())
        assert "outside the range [0, 1]" in said
        assert "that of the full samples" in said

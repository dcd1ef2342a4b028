"""Pictures of many sizes: exact area averages, nothing enlarged, nothing silent, masks where something is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bootdiff.data import Images, measure, open_dataset
from bootdiff.data.options import ImageOptions
from bootdiff.data.readers.fitting import Fitting, size_through
from bootdiff.errors import BootdiffError
from bootdiff.views import ChannelMix, Crop, Downsample, Mask, Observed, RandomMask, compose

RNG = np.random.default_rng(0)


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def mixed(tmp_path) -> Path:
    """Pictures of 8 x 10, 16 x 12 and 9 x 30."""
    for i, size in enumerate([(8, 10), (8, 10), (16, 12), (9, 30)]):
        save(tmp_path / f"{i}.png", RNG.integers(0, 256, (*size, 3), dtype=np.uint8))
    return tmp_path


def by_definition(pixels: np.ndarray, how: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Fitted pixels (h, w, C) float64 and what is observed, by sums over all pairs of pixels."""
    steps = [n / m for n, m in zip(pixels.shape, size)]
    if how != "resize":
        steps = [min(steps) if how == "crop" else max(steps)] * 2
    starts = [(n - m * s) / 2 for n, m, s in zip(pixels.shape, size, steps)]
    out = np.zeros((*size, pixels.shape[2]))
    area = np.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            for r in range(pixels.shape[0]):
                high = min(starts[0] + (i + 1) * steps[0], r + 1) - max(starts[0] + i * steps[0], r)
                for c in range(pixels.shape[1]):
                    wide = min(starts[1] + (j + 1) * steps[1], c + 1) - max(starts[1] + j * steps[1], c)
                    if high > 0 and wide > 0:
                        out[i, j] += high * wide * pixels[r, c]
                        area[i, j] += high * wide
    return out / np.maximum(area, 1e-12)[..., None], area > steps[0] * steps[1] * (1 - 1e-6)


@pytest.mark.parametrize("how", ["resize", "crop", "pad"])
@pytest.mark.parametrize("found", [(10, 14), (9, 13), (12, 6), (5, 20)])
def test_pixels_are_averages_over_areas(how, found):
    fitting = Fitting(how, (5, 4))
    pixels = RNG.normal(size=(*found, 2))
    if fitting.problem(found):
        pytest.skip("too small")
    expected, observed = by_definition(pixels, how, (5, 4))
    assert np.allclose(fitting.pixels(pixels), expected, atol=1e-9)
    assert (fitting.mask(found) == observed).all()
    assert observed.all() == (how != "pad" or found == (10, 8))
    for dtype in (np.uint8, np.uint16):
        stored = (pixels * 20 + 100).clip(0, 255).astype(dtype) * (1 if dtype == np.uint8 else 200)
        done, exact = fitting.pixels(stored), by_definition(stored, how, (5, 4))[0]
        assert done.dtype == dtype
        assert np.abs(done - exact).max() <= 0.51


def test_where_nothing_is_averaged_pixels_stay_as_they_are():
    pixels = RNG.integers(0, 256, (8, 11, 3), dtype=np.uint8)
    assert (Fitting("crop", (8, 8)).pixels(pixels) == pixels[:, 1:9]).all()
    padded = Fitting("pad", (11, 11))
    assert (padded.pixels(pixels)[2:10] == pixels).all()
    assert padded.mask((8, 11))[:, 0].tolist() == [False, False, *[True] * 8, False]
    assert Fitting("resize", (8, 11)).pixels(pixels) is pixels


def test_a_thumbnail_of_the_file_is_the_view_of_the_fitted_picture():
    view = Downsample(4)
    file = RNG.normal(size=(64, 112, 3))
    for how in ("resize", "crop"):
        full = torch.from_numpy(Fitting(how, (32, 24)).pixels(file)).movedim(-1, 0)[None]
        small = Fitting(how, size_through(view, (3, 32, 24), how, "v")).pixels(file)
        assert np.allclose((view(full)[0] / view.scale).movedim(0, -1), small, atol=1e-9)
    # The same for thumbnails made beforehand, where no cut goes through their pixels.
    stored = Fitting("resize", (16, 28)).pixels(file)
    assert np.allclose(Fitting("crop", (8, 6)).pixels(stored), small, atol=1e-9)


def test_masks_observe_what_is_observed_altogether():
    mask = np.ones((8, 8), bool)
    mask[3, 3] = False
    fitted = Fitting("resize", (4, 4)).mask((8, 8), mask)
    assert not fitted[1, 1]
    assert fitted.sum() == 15
    assert not Fitting("resize", (3, 3)).mask((8, 8), mask)[1, 1]


def test_refused_by_default_with_the_sizes_and_the_key(mixed):
    with pytest.raises(BootdiffError) as error:
        open_dataset(mixed)
    said = str(error.value)
    assert "2.png: is 16 x 12 pixels (height x width), not 8 x 10 as most are" in said
    assert "The sizes are 8 x 10 (2 files), 16 x 12 (1), 9 x 30 (1)." in said
    assert "size: [height, width] with fit: resize, crop or pad" in said
    with pytest.raises(BootdiffError, match=r"fit: crop does not say to which size; add size: \[height, width\]"):
        open_dataset(mixed, fit="crop")
    with pytest.raises(ValueError, match=r"size: must be .* two numbers from 1 to 65,536"):
        open_dataset(mixed, fit="crop", size=[0, 4])


@pytest.mark.parametrize("memory", [0, 512 << 20])
def test_files_come_out_fitted_and_counted(mixed, memory):
    for how, said in (
        ("resize", "2 as they were, 2 resized"),
        ("crop", "2 as they were, 2 resized and cropped"),
        ("pad", "2 as they were, 2 resized and padded"),
    ):
        source = Images(mixed, ImageOptions(size=(8, 10), fit=how), memory=memory)
        assert source.shape == (3, 8, 10)
        assert source.masked == (how == "pad")
        assert said in source.notes[0]
        assert f"fit: {how} to 8 x 10; 8 x 10 (2 files), 16 x 12 (1), 9 x 30 (1)" in source.notes[0]
        for i in range(4):
            pixels = np.asarray(Image.open(mixed / f"{i}.png"))
            expected, observed = by_definition(pixels, how, (8, 10))
            x = np.moveaxis(source[i].x.numpy(), 0, -1)
            assert np.abs((x + 1) * 127.5 - expected).max() <= 0.51
            if how == "pad":
                assert (source[i].mask[0].bool().numpy() == observed).all()


def test_fingerprints_differ_by_what_is_done(mixed):
    options = [{"fit": "crop", "size": (8, 8)}, {"fit": "resize", "size": (8, 8)}, {"fit": "pad", "size": (8, 8)}]
    assert len({open_dataset(mixed, **o).fingerprint() for o in options}) == 3


def test_files_are_never_enlarged(mixed):
    with pytest.raises(BootdiffError, match=r"0.png: is 8 x 10 pixels .*too small for 9 x 12 with fit: crop; pictures"):
        open_dataset(mixed, fit="crop", size=[9, 12])
    source = open_dataset(mixed, fit="crop", size=[9, 12], on_error="skip")
    assert [source.name(i) for i in range(len(source))] == ["2.png", "3.png"]
    assert len(source.problems) == 2
    # Padded, one side that is long enough will do.
    assert len(open_dataset(mixed, fit="pad", size=[8, 12], on_error="skip")) == 4
    with pytest.raises(BootdiffError, match="too small"):
        open_dataset(mixed, fit="pad", size=[40, 40])


def test_masks_beside_files_are_of_the_files_own_size(mixed):
    for i, size in enumerate([(8, 10), (8, 10), (16, 12), (9, 30)]):
        mask = np.full(size, 255, np.uint8)
        mask[:4] = 0
        save(mixed / f"{i}.mask.png", mask)
    for memory in (0, 512 << 20):
        source = Images(mixed, ImageOptions(size=(8, 6), fit="resize", masks=True), memory=memory)
        assert source[2].mask[0, :, 0].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
        assert source[0].mask[0, :, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
        assert measure(source)["count"] == 4
    # A mask of the size of the fitted picture is not the file's.
    save(mixed / "2.mask.png", np.full((8, 6), 255, np.uint8))
    with pytest.raises(BootdiffError, match=r"2.png: its mask 2.mask.png is 8 x 6 pixels .*the pictures are 16 x 12"):
        open_dataset(mixed, size=[8, 6], fit="resize", masks=True)
    hidden = np.zeros((16, 12), np.uint8)
    hidden[3, 3] = 255
    save(mixed / "2.mask.png", hidden)
    with pytest.raises(BootdiffError, match=r"2.png: has no pixel that is observed once it is fitted to 4 x 5"):
        open_dataset(mixed, size=[4, 5], fit="resize", masks=True)


def test_transparency_is_fitted_with_the_picture(tmp_path):
    pixels = RNG.integers(0, 256, (8, 8, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    pixels[:2, :, 3] = 0
    save(tmp_path / "a.png", pixels)
    save(tmp_path / "b.png", pixels[:4, :, :3])
    for memory in (0, 512 << 20):
        source = Images(tmp_path, ImageOptions(masks="alpha", size=(4, 4), fit="resize"), memory=memory)
        assert source[0].mask[0, :, 0].tolist() == [0, 1, 1, 1]
        assert source[1].mask.all()
        padded = Images(tmp_path, ImageOptions(masks="alpha", size=(4, 4), fit="pad"), memory=memory)
        assert padded[0].mask[0, :, 0].tolist() == [0, 1, 1, 1]
        assert padded[1].mask[0, :, 0].tolist() == [0, 1, 1, 0]


def test_sizes_of_views():
    full = (3, 32, 24)
    assert size_through(None, full, "crop", "test.fit") == (32, 24)
    assert size_through(compose(ChannelMix.gray(), Downsample(4), RandomMask()), full, "pad", "v.fit") == (8, 6)
    assert size_through(Mask(box=(0, 0, 8, 8)), full, "resize", "v.fit") == (32, 24)
    for view, how, said in (
        (Crop((8, 8)), "crop", r"v.fit: the view Crop.* does not show whole pictures"),
        (compose(Downsample(2), Crop((8, 8))), "resize", "does not show whole pictures"),
        (Observed(Downsample(2), 0.1), "resize", "averages the files' noise away"),
        (Mask(box=(0, 0, 8, 8)), "crop", "does not lie at the same place"),
    ):
        with pytest.raises(BootdiffError, match=said):
            size_through(view, full, how, "v.fit")


def test_16_bits_and_gray_beside_colour(tmp_path):
    deep = RNG.integers(0, 65536, (6, 6), dtype=np.uint16)
    save(tmp_path / "a.png", deep)
    x = open_dataset(tmp_path, size=[3, 3], fit="resize")[0].x
    mean = deep.reshape(3, 2, 3, 2).mean((1, 3))
    assert np.abs((x[0].numpy() + 1) / 2 * 65535 - mean).max() <= 0.6


def test_other_suffixes_are_counted(mixed):
    for name in ("a.psd", "b.psd", "c.mts", "labels.csv", "Thumbs.db", "note.txt", ".DS_Store", "._0.png"):
        (mixed / name).write_bytes(b"?")
    source = open_dataset(mixed, size=[8, 8], fit="crop")
    assert len(source) == 4
    assert source.notes[-1] == "3 file(s) of other suffixes are not read: 2 .psd, 1 .mts"

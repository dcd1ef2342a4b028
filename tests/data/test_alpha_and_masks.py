"""Transparency means something: in masks hidden, in pictures what the recipe says, in arrays the same as in folders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bootdiff.data import Images, open_dataset
from bootdiff.data.options import ImageOptions
from bootdiff.errors import BootdiffError
from bootdiff.recipe.mask_pictures import read_mask

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)
SEEN = np.ones((8, 10), bool)
SEEN[5:] = False


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    for i, pixels in enumerate(PIXELS):
        save(tmp_path / f"{i}.png", pixels)
    return tmp_path


def erased(seen, below=255, channels=4, soft=0):
    """A mask whose hidden part is transparent, of the colour `below` under it."""
    mask = np.full((*seen.shape, channels), 255, np.uint8)
    mask[~seen] = below
    mask[..., -1] = np.where(seen, 255, soft)
    return mask


ERASED = {
    "white below": erased(SEEN),
    "black below": erased(SEEN, 0),
    "gray": erased(SEEN, channels=2),
    "soft edge": erased(SEEN, soft=100),
}


@pytest.mark.parametrize("kind", [*ERASED, "palette"])
@pytest.mark.parametrize("memory", [512 << 20, 0])
def test_masks_erased_to_transparency_hide(folder, kind, memory):
    for i in range(6):
        if kind == "palette":
            picture = Image.fromarray(np.where(SEEN, 1, 0).astype(np.uint8), "P")
            picture.putpalette([255, 255, 255] * 2)
            picture.save(folder / f"{i}.mask.png", transparency=0)
        else:
            save(folder / f"{i}.mask.png", ERASED[kind])
    source = Images(folder, ImageOptions(masks=True), memory=memory)
    assert torch.equal(source[3].mask[0].bool(), torch.from_numpy(SEEN))
    assert np.array_equal(read_mask(folder / "0.mask.png", "--mask"), SEEN)


def test_a_mask_for_all_files_of_zeros_and_ones(tmp_path):
    save(tmp_path / "m.png", SEEN.astype(np.uint8))
    assert np.array_equal(read_mask(tmp_path / "m.png", "--mask"), SEEN)
    save(tmp_path / "none.png", erased(np.zeros((8, 10), bool)))
    with pytest.raises(BootdiffError, match="hides everything"):
        read_mask(tmp_path / "none.png", "--mask")


def test_masks_of_videos_erased_to_transparency(tmp_path):
    for t in range(3):
        save(tmp_path / "clips" / "a" / f"{t}.png", PIXELS[t])
        save(tmp_path / "clips" / "b" / f"{t}.png", PIXELS[t])
    save(tmp_path / "clips" / "a-masklabel.png", erased(SEEN))
    save(tmp_path / "clips" / "b.mask.png", erased(SEEN))
    source = open_dataset(tmp_path / "clips", kind="video", masks=True)
    assert source.names == ["a", "b"]
    for i in range(2):
        assert torch.equal(source[i].mask[0, 1].bool(), torch.from_numpy(SEEN))


@pytest.mark.parametrize("named", ["{}-masklabel.png", "{}.mask.jpg", "{}.MASK.JPEG", "{}.mask.webp"])
def test_other_names_of_masks(folder, named):
    for i in range(6):
        mask = np.where(SEEN, 255, 0).astype(np.uint8)
        save(folder / named.format(i), mask, **({"lossless": True} if "webp" in named else {"quality": 95}))
    assert open_dataset(folder).names == [f"{i}.png" for i in range(6)]  # never pictures
    source = open_dataset(folder, masks=True)
    share = float((source[2].mask[0].bool() == torch.from_numpy(SEEN)).float().mean())
    assert share == 1
    save(folder / "2.mask.png", mask)
    with pytest.raises(BootdiffError, match=r"2\.png: has 2 masks, .*; remove the wrong one"):
        open_dataset(folder, masks=True)
    # Without the file that it would belong to, it is a picture like others.
    save(folder / "old-masklabel.png", PIXELS[0])
    assert "old-masklabel.png" in open_dataset(folder).names


@pytest.mark.parametrize("memory", [512 << 20, 0])
def test_a_pictures_own_alpha_is_its_mask(folder, memory):
    for i in range(1, 6):
        save(folder / f"{i}.png", np.dstack([PIXELS[i], np.where(SEEN, 255, 0).astype(np.uint8)]))
    with pytest.raises(BootdiffError, match=r"1\.png: has transparent pixels; .*white, black or drop; .*masks: alpha"):
        open_dataset(folder)
    source = Images(folder, ImageOptions(masks="alpha"), memory=memory)
    assert source.masked
    assert source.shape == (3, 8, 10)
    assert bool(source[0].mask.all())  # it has no alpha channel
    assert torch.equal(source[4].mask[0].bool(), torch.from_numpy(SEEN))
    torch.testing.assert_close(source[4].x, torch.from_numpy(PIXELS[4]).movedim(-1, 0) / 127.5 - 1)
    x, _, masks = source.batch(range(6))
    assert x.shape == (6, 3, 8, 10)
    assert masks.shape == (6, 1, 8, 10)
    save(folder / "2.png", np.dstack([PIXELS[2], np.zeros((8, 10), np.uint8)]))
    with pytest.raises(BootdiffError, match=r"2\.png: is transparent everywhere"):
        Images(folder, ImageOptions(masks="alpha"), memory=memory)
    with pytest.raises(ValueError, match="alpha: what is transparent is not observed"):
        open_dataset(folder, masks="alpha", alpha="white")
    with pytest.raises(BootdiffError, match="they lie beside the files; write masks: true"):
        open_dataset(folder, kind="video", masks="alpha")


def rgba(kind="uint8"):
    alpha = np.broadcast_to(np.where(SEEN, 255, 0).astype(np.uint8)[None, ..., None], (6, 8, 10, 1))
    array = np.concatenate([PIXELS, alpha], -1)
    if kind == "uint16":
        return array.astype(np.uint16) * 257
    return array if kind == "uint8" else array[..., [0, 3]] if kind == "gray" else (array / 255).astype(np.float32)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float", "gray"])
def test_arrays_with_alpha_are_treated_as_folders_are(tmp_path, kind):
    array, count = rgba(kind), 2 if kind == "gray" else 4
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(BootdiffError, match=rf"last of its {count} channels looks like alpha.*channels: {count}"):
        open_dataset(tmp_path / "x.npy")
    for i in range(6):
        pixels = rgba("gray" if kind == "gray" else "uint8")[i]
        Image.fromarray(pixels, "LA" if kind == "gray" else "RGBA").save(tmp_path / f"{i}.png")
    for options in ({"alpha": "white"}, {"alpha": "black"}, {"alpha": "drop"}, {"masks": "alpha"}):
        held, read = open_dataset(tmp_path / "x.npy", **options), open_dataset(tmp_path, **options)
        assert held.shape == read.shape == (count - 1, 8, 10)
        for (x, _, mask), (y, _, other) in [(held.batch(range(6)), read.batch(range(6)))]:
            torch.testing.assert_close(x, y, atol=1e-5, rtol=0)
            assert (mask is None) == (other is None)
            assert mask is None or torch.equal(mask, other)
        assert held.fingerprint() == open_dataset(tmp_path / "x.npy", **options).fingerprint()
    assert open_dataset(tmp_path / "x.npy", channels=count).shape == (count, 8, 10)
    array[..., -1] = array[..., -1].max()
    np.save(tmp_path / "x.npy", array)
    assert open_dataset(tmp_path / "x.npy").shape == (count - 1, 8, 10)  # opaque alpha says nothing


def test_measurements_of_two_and_four_channels_are_no_pictures_with_alpha(tmp_path):
    for array in (RNG.uniform(-1, 1, (6, 8, 10, 2)), RNG.integers(0, 60000, (6, 8, 10, 4)).astype(np.uint16)):
        np.save(tmp_path / "x.npy", array)
        assert open_dataset(tmp_path / "x.npy").shape == (array.shape[-1], 8, 10)
        with pytest.raises(BootdiffError, match="hold no alpha, which masks: alpha asks for"):
            open_dataset(tmp_path / "x.npy", masks="alpha")


def test_arrays_that_are_transparent_everywhere(tmp_path):
    array = rgba()
    array[2, ..., 3] = 0
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(BootdiffError, match="sample 2 is transparent everywhere"):
        open_dataset(tmp_path / "x.npy", masks="alpha")
    source = open_dataset(tmp_path / "x.npy", masks="alpha", on_error="skip")
    assert [source.name(i) for i in range(5)] == [f"sample {i}" for i in (0, 1, 3, 4, 5)]
    assert source.problems[0].file == "sample 2"

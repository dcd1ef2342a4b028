"""experiments.scripts.prepare: averages, mosaics, and every array that the recipes and benchmarks read."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from experiments.scripts import prepare


def pixels(*shape):
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def as_mosaic(x, columns):
    """N x [T x] H x W x C as the data sets store it: the tiles row by row in one picture, black after the last one."""
    tiles = x.reshape(-1, *x.shape[-3:])
    rows = -(-len(tiles) // columns)
    sheet = np.zeros((rows * columns, *tiles.shape[1:]), np.uint8)
    sheet[: len(tiles)] = tiles
    h, w, c = tiles.shape[1:]
    sheet = sheet.reshape(rows, columns, h, w, c).swapaxes(1, 2).reshape(rows * h, columns * w, c)
    file = io.BytesIO()
    Image.fromarray(sheet[..., 0] if c == 1 else sheet).save(file, "PNG")
    return np.frombuffer(file.getvalue(), np.uint8)


def test_halving_averages_two_by_two_pixels():
    x = np.array([[0, 2, 255, 255], [4, 6, 255, 254]], np.uint8)[None, :, :, None]
    assert prepare.halve(x)[0, :, :, 0].tolist() == [[3, 255]]
    x = pixels(3, 8, 6, 2)
    assert prepare.halve(x).shape == (3, 4, 3, 2)
    assert prepare.halve(x)[1, 2, 1, 1] == round(float(x[1, 4:6, 2:4, 1].mean()))


@pytest.mark.parametrize("shape", [(7, 4, 6, 1), (7, 4, 6, 3), (3, 2, 4, 4, 3)])
def test_a_mosaic_is_cut_into_its_tiles(tmp_path, shape):
    x = pixels(*shape)
    np.savez(tmp_path / "x.npz", train_jpeg=as_mosaic(x, 4), train_shape=np.array(shape), test=x[:2])
    np.testing.assert_array_equal(prepare.load(tmp_path / "x.npz", "train"), x)
    np.testing.assert_array_equal(prepare.load(tmp_path / "x.npz", "test"), x[:2])
    with pytest.raises(KeyError):
        prepare.load(tmp_path / "x.npz", "more")


def test_every_array_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(prepare, "MOVING", (5, 3))
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    shapes = {
        "mnist28": (28, 28, 1), "cats64": (64, 64, 3), "radar_video32": (2, 32, 32, 1),
        "traffic_video32": (2, 32, 32, 3), "ecg": (16,), "medical64": (64, 64, 1),
    }  # fmt: skip
    for name, shape in shapes.items():
        np.savez(source / f"{name}.npz", train=pixels(3, *shape), test=pixels(2, *shape))
    prepare.main(["--data", str(source), "--out", str(out)])
    found = {path.stem: dict(np.load(path)) for path in out.glob("*.npz")}
    assert {name: x["train"].shape[1:] for name, x in found.items()} == {
        "mnist28": (28, 28, 1), "mnist16": (16, 16, 1), "mnist-tiny": (16, 16, 3), "cats64": (64, 64, 3),
        "cats32": (32, 32, 3), "cats16": (16, 16, 3), "radar32": (2, 32, 32, 1), "traffic32": (2, 32, 32, 3),
        "ecg": (16,), "medical64": (64, 64, 1), "moving24": (16, 24, 24, 1), "moving32": (16, 32, 32, 1),
    }  # fmt: skip
    assert capsys.readouterr().out.count(".npz") == 12
    digits, cats = np.load(source / "mnist28.npz"), np.load(source / "cats64.npz")
    np.testing.assert_array_equal(found["mnist28"]["test"], digits["test"])
    np.testing.assert_array_equal(found["cats32"]["train"], prepare.halve(cats["train"]))
    np.testing.assert_array_equal(found["cats16"]["test"], prepare.halve(prepare.halve(cats["test"])))
    small = found["mnist16"]["train"]
    assert not small[:, 0].any()  # two rows of padding at each side
    np.testing.assert_array_equal(small[:, 1:15, 1:15], prepare.halve(digits["train"]))
    np.testing.assert_array_equal(found["mnist-tiny"]["train"], np.repeat(small, 3, axis=3))

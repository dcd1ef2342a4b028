"""Arrays: values land in [-1, 1] as documented, and every kind of bad array is named."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from bootdiff.data import Arrays, load_digits, open_dataset
from bootdiff.errors import BootdiffError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (7, 4, 5, 3), dtype=np.uint8)


def expected(pixels: np.ndarray, low: float, high: float) -> torch.Tensor:
    x = 2 * (pixels.astype(np.float64) - low) / (high - low) - 1
    return torch.from_numpy(np.moveaxis(x, -1, 1)).float()


@pytest.mark.parametrize(
    ("array", "options", "low", "high"),
    [
        (PIXELS, {}, 0, 255),
        (PIXELS.astype(np.uint16) * 257, {}, 0, 65535),
        (PIXELS.astype(">u2") * 16, {"range": (0, 4095)}, 0, 4095),
        (PIXELS > 99, {}, 0, 1),
        (PIXELS.astype(np.float32) / 255, {}, 0, 1),
        (PIXELS.astype(np.float64) / 127.5 - 1, {}, -1, 1),
        (PIXELS.astype(np.float16), {"range": (0, 255)}, 0, 255),
        (PIXELS.astype(np.int16) - 100, {"range": (-100, 155)}, -100, 155),
    ],
    ids=["uint8", "uint16", "big-endian 12 bit", "bool", "float [0, 1]", "float [-1, 1]", "float16 declared", "int16"],
)
def test_values(array, options, low, high, tmp_path):
    np.save(tmp_path / "a.npy", array)
    for source in (Arrays(array, **options), open_dataset(tmp_path / "a.npy", **options)):
        assert len(source) == 7
        assert source.shape == (3, 4, 5)
        x = source.batch(range(7))[0]
        torch.testing.assert_close(x, expected(array, low, high), atol=2e-6, rtol=0)
        assert torch.equal(source[3].x, x[3])
        assert x.dtype == torch.float32
        assert x.is_contiguous()


def test_layouts():
    gray = PIXELS[..., 0]
    assert Arrays(gray).shape == (1, 4, 5)
    first = Arrays(np.moveaxis(PIXELS, -1, 1), channels_first=True)
    assert torch.equal(first[2].x, Arrays(PIXELS)[2].x)
    repeated = Arrays(gray, channels=3)
    assert repeated.shape == (3, 4, 5)
    assert torch.equal(repeated[1].x, Arrays(gray)[1].x.expand(3, 4, 5))
    assert Arrays(np.zeros((2, 6, 4, 5, 3), np.uint8)).shape == (3, 6, 4, 5)


@pytest.mark.parametrize(
    ("array", "options", "said"),
    [
        (np.zeros((7, 3, 8, 9), np.uint8), {}, "channels first"),
        (np.zeros((7, 12, 8, 9), np.uint8), {}, "a video in colour has a fifth axis"),
        (np.zeros((7, 8), np.uint8), {}, "say kind: signal"),
        (np.zeros((0, 8, 8), np.uint8), {}, "is empty"),
        (np.array([["a"]]), {}, "type <U1"),
        (PIXELS.astype(np.complex64), {}, "complex64"),
        (PIXELS.astype(np.int32), {}, "range: [low, high]"),
        (PIXELS.astype(np.float32), {}, "outside [-1, 1]"),
        (PIXELS, {"range": (0, 100)}, "outside the range [0, 100]"),
        (PIXELS, {"channels": 1}, "3 channels, 1 were asked for"),
    ],
)
def test_wrong_arrays_are_refused(array, options, said):
    with pytest.raises(BootdiffError, match=re.escape(said)):
        Arrays(array, **options)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_a_number_is_named_by_its_index_or_skipped(bad):
    array = RNG.random((6, 4, 4)).astype(np.float32)
    array[4, 1, 2] = bad
    with pytest.raises(BootdiffError, match=r"sample 4 holds NaN or infinite values \(1 of 6"):
        Arrays(array)
    source = Arrays(array, on_error="skip", labels=np.arange(6))
    assert [(p.file, p.reason) for p in source.problems] == [("sample 4", "holds NaN or infinite values")]
    assert [source.name(i) for i in range(5)] == [f"sample {i}" for i in (0, 1, 2, 3, 5)]
    assert source[4].label == 5
    assert torch.equal(source[4].x, Arrays(array[5:])[0].x)
    with pytest.raises(BootdiffError, match="none of the 6 samples"):
        Arrays(np.full_like(array, bad), on_error="skip", range=(0, 1))
    with pytest.raises(BootdiffError, match="every sample"):
        Arrays(np.full_like(array, bad))


def test_values_out_of_the_declared_range_are_named():
    array = np.full((5, 2, 2), 0.5)
    array[3, 0, 1] = 1.5
    with pytest.raises(BootdiffError, match=r"sample 3 holds 1.5, outside the range \[0, 1\]"):
        Arrays(array, range=(0, 1))
    assert len(Arrays(array, range=(0, 1), on_error="skip")) == 4


def test_wrong_arguments():
    for options in ({"on_error": "ignore"}, {"range": (1, 0)}, {"missing": "x"}):
        with pytest.raises(ValueError, match="Arrays"):
            Arrays(PIXELS, **options)


def test_keys(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, train=PIXELS, test=PIXELS[:2], train_label=np.arange(7) % 3, names=np.array(list("abcabca")))
    source = open_dataset(path, key="train", labels=True)
    assert source.classes == ["0", "1", "2"]
    assert [source[i].label for i in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    named = open_dataset(path, key="train", labels="names", classes=["c", "b", "a"])
    assert [named[i].label for i in range(3)] == [2, 1, 0]
    with pytest.raises(BootdiffError, match=r"4 arrays; say which with key: one of train, test, train_label, names"):
        open_dataset(path)
    with pytest.raises(BootdiffError, match=r"no key 'trian'; known keys: train, test"):
        open_dataset(path, key="trian")
    with pytest.raises(BootdiffError, match=r"no labels under 'lable'; known keys"):
        open_dataset(path, key="train", labels="lable")
    with pytest.raises(BootdiffError, match=r"labels have shape \(7,\), need one for each of 2"):
        open_dataset(path, key="test", labels="train_label")
    np.save(tmp_path / "a.npy", PIXELS)
    with pytest.raises(BootdiffError, match="without keys"):
        open_dataset(tmp_path / "a.npy", key="train")
    with pytest.raises(BootdiffError, match="holds no labels"):
        open_dataset(tmp_path / "a.npy", labels=True)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.array([0, 1, -1, 0, 1, 0, 1]), r"1 of 7 samples have no valid label, first sample 2"),
        (np.array([0, 1, 0, np.nan, 1, 0, 1]), r"1 of 7 samples have no valid label, first sample 3"),
        (np.array([0, 1, 10**9, 0, 1, 0, 1]), "number the classes 0, 1, 2"),
        (np.array([0, 1, 0.5, 0, 1, 0, 1]), "not whole numbers"),
        (np.array(["a", "", "b", "a", "a", "a", "a"]), r"first sample 1"),
        (np.zeros((7, 2)), "need one for each"),
        (np.array([None] * 7), "type object"),
    ],
)
def test_missing_or_wrong_labels(labels, said):
    with pytest.raises(BootdiffError, match=said):
        Arrays(PIXELS, labels=labels)


def test_masks():
    masks = np.ones((7, 4, 5), np.uint8)
    masks[:, 0] = 0
    source = Arrays(PIXELS, masks=masks)
    assert source.masked
    assert torch.equal(source[2].mask, torch.from_numpy(masks[2]).float()[None])
    assert torch.equal(Arrays(PIXELS, masks=masks * 255)[2].mask, source[2].mask)
    for wrong, said in ((masks[:3], "masks have shape"), (masks * 7, "0 .hidden. and 1"), (masks * 0, "0 .hidden")):
        with pytest.raises(BootdiffError, match=said):
            Arrays(PIXELS, masks=wrong)
    masks[5] = 0
    with pytest.raises(BootdiffError, match="mask of sample 5 hides everything"):
        Arrays(PIXELS, masks=masks)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_pickles_are_refused(tmp_path, suffix):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / f"a{suffix}"
    bombs = np.array([Bomb(), Bomb()], dtype=object)
    if suffix == ".npy":
        np.save(path, bombs, allow_pickle=True)
    else:
        np.savez(path, bombs=bombs)
    with pytest.raises(BootdiffError, match="never unpickles"):
        open_dataset(path)
    assert not (tmp_path / "ran").exists()


def test_damaged_files(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", a=PIXELS)
    np.save(tmp_path / "a.npy", PIXELS)
    for name in ("a.npz", "a.npy"):
        path = tmp_path / name
        whole = path.read_bytes()
        for cut in (len(whole) - 20, 10, 0):
            path.write_bytes(whole[:cut])
            with pytest.raises(BootdiffError, match=re.escape(str(path))):
                open_dataset(path)
    path = tmp_path / "flipped.npz"
    np.savez(path, a=PIXELS)
    data = bytearray(path.read_bytes())
    data[300] ^= 255
    path.write_bytes(data)
    with pytest.raises(BootdiffError, match="cannot be read"):
        open_dataset(path)
    with pytest.raises(BootdiffError, match="no such file"):
        open_dataset(tmp_path / "none.npy")


def test_npy_files_are_mapped_and_read_in_pieces(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", PIXELS)
    source = open_dataset(tmp_path / "a.npy")
    assert isinstance(source._array.base, np.memmap) or isinstance(source._array, np.memmap)
    monkeypatch.setattr("bootdiff.data.readers.arrays._CHUNK", 100)  # less than two samples at a time
    pieces = open_dataset(tmp_path / "a.npy")
    assert pieces.fingerprint() == source.fingerprint()


def test_fingerprint_follows_the_contents():
    same = Arrays(PIXELS.copy()).fingerprint()
    assert Arrays(PIXELS).fingerprint() == same
    changed = PIXELS.copy()
    changed[6, 3, 4, 2] ^= 1
    others = [
        Arrays(changed),
        Arrays(PIXELS[:6]),
        Arrays(PIXELS, range=(0, 256)),
        Arrays(PIXELS, labels=np.arange(7)),
        Arrays(PIXELS.astype(np.uint16), range=(0, 255)),
    ]
    assert len({same, *(other.fingerprint() for other in others)}) == 6


def test_digits():
    everything, train, test = load_digits(), load_digits("train", labels=True), load_digits("test", labels=True)
    assert (len(everything), len(train), len(test)) == (1797, 1497, 300)
    assert everything.shape == (1, 8, 8)
    x = everything.batch(range(1797))[0]
    assert (x.min(), x.max()) == (-1, 1)
    rows = {everything[i].x.numpy().tobytes() for i in range(1797)}
    parts = [{s[i].x.numpy().tobytes() for i in range(len(s))} for s in (train, test)]
    assert parts[0] | parts[1] == rows
    assert train.classes == [str(i) for i in range(10)]
    assert open_dataset("digits", key="test", labels=True, limit=50)[0].label == test[0].label
    gray = open_dataset("digits")
    assert isinstance(gray, Arrays)
    assert gray.fingerprint() == everything.fingerprint()
    # The fixed division of earlier versions: rows that recipes were trained on.
    assert everything.fingerprint().startswith("607d91d74abc")
    assert train.fingerprint().startswith("9a95ee2a79f9")
    with pytest.raises(BootdiffError, match="known parts: all, train, test"):
        load_digits("valid")

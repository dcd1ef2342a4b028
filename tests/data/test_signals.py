"""Signals in WAV, .npy and table files, and vectors in tables: values, windows, gaps, and every bad file named."""

from __future__ import annotations

import re
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from bootdiff.data import Arrays, Signals, Subset, open_dataset
from bootdiff.data.options import SignalOptions
from bootdiff.errors import BootdiffError

RNG = np.random.default_rng(0)


def signals(path, **options) -> Signals:
    return Signals(path, SignalOptions(**options))


def save_wav(path: Path, amplitude: np.ndarray, bits: int = 16, rate: int = 8000) -> np.ndarray:
    """Write (L, C) amplitudes by the definition of the format, with the standard library; returns what was stored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    full = 1 << (bits - 1)
    whole = np.clip(np.round(amplitude * full), -full, full - 1).astype(np.int64)
    coded = (whole + 128 if bits == 8 else whole).astype("<i8")
    data = coded.reshape(-1, 1).view(np.uint8)[:, : bits // 8].tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(amplitude.shape[1])
        file.setsampwidth(bits // 8)
        file.setframerate(rate)
        file.writeframes(data)
    return whole / full


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_amplitudes(tmp_path, bits, channels):
    stored = save_wav(tmp_path / "a.wav", RNG.uniform(-1, 1, (50, channels)), bits)
    source = open_dataset(tmp_path)
    assert isinstance(source, Signals)
    assert (source.shape, source.rate, source.kind) == ((channels, 50), 8000, "signal")
    torch.testing.assert_close(source[0].x, torch.from_numpy(stored.T).float(), atol=1e-7, rtol=0)
    assert torch.equal(open_dataset(tmp_path / "a.wav")[0].x, source[0].x)


def test_windows_labels_and_bad_files(tmp_path):
    long = save_wav(tmp_path / "one" / "long.wav", RNG.uniform(-1, 1, (25, 1)))
    save_wav(tmp_path / "two" / "ten.wav", RNG.uniform(-1, 1, (10, 1)))
    source = signals(tmp_path, labels=True, length=10, stride=5)
    assert [source.name(i) for i in range(5)] == [
        *(f"one/long.wav[{k}:{k + 10}]" for k in (0, 5, 10, 15)),
        "two/ten.wav",
    ]
    assert [source[i].label for i in range(5)] == [0, 0, 0, 0, 1]
    torch.testing.assert_close(source[3].x, torch.from_numpy(long[15:].T).float(), atol=1e-7, rtol=0)
    good = source.fingerprint()

    save_wav(tmp_path / "one" / "fast.wav", RNG.uniform(-1, 1, (30, 1)), rate=44100)
    save_wav(tmp_path / "one" / "short.wav", RNG.uniform(-1, 1, (9, 1)))
    save_wav(tmp_path / "one" / "stereo.wav", RNG.uniform(-1, 1, (30, 2)))
    save_wav(tmp_path / "one" / "cut.wav", RNG.uniform(-1, 1, (3000, 1)))
    data = (tmp_path / "one" / "cut.wav").read_bytes()
    (tmp_path / "one" / "cut.wav").write_bytes(data[: len(data) // 2])
    (tmp_path / "one" / "text.wav").write_text("no sound")
    (tmp_path / "one" / "empty.wav").write_bytes(b"")
    with pytest.raises(BootdiffError) as caught:
        signals(tmp_path, labels=True, length=10, stride=5)
    for said in (
        "one/fast.wav: has 44100 Hz, most have 8000; resample it to 8000 Hz",
        "one/short.wav: has 9 values, length asks for 10: too short",
        "one/stereo.wav: has 2 channel(s), most have 1",
        "one/cut.wav: ",
        "one/text.wav: cannot be decoded",
        "one/empty.wav: cannot be decoded",
    ):
        assert said in str(caught.value)
    skipped = signals(tmp_path, labels=True, length=10, stride=5, on_error="skip")
    assert [skipped[i].label for i in range(5)] == [0, 0, 0, 0, 1]
    assert len(skipped.problems) == 6
    assert skipped.fingerprint() != good


def test_folders_of_arrays(tmp_path):
    values = {name: RNG.normal([5, -2], [3, 0.1], (30, 2)) for name in "ab"}
    for name, v in values.items():
        np.save(tmp_path / f"{name}.npy", v)
    with pytest.raises(BootdiffError, match=r"values run from .* outside \[-1, 1\].*standardize: true"):
        signals(tmp_path)
    source = open_dataset(tmp_path, kind="signal", standardize=True)
    everything = np.concatenate(list(values.values()))
    assert source.units.offset == pytest.approx(everything.mean(0).tolist())
    assert source.units.scale == pytest.approx(everything.std(0).tolist())
    torch.testing.assert_close(source.restore(source[1].x), torch.from_numpy(values["b"].T), atol=1e-5, rtol=0)
    ranged = signals(tmp_path, range=(-20, 20), length=15)
    torch.testing.assert_close(ranged[3].x, torch.from_numpy(values["b"][15:].T).float() / 20, atol=1e-6, rtol=0)
    with pytest.raises(BootdiffError, match=r"a.npy: holds .*, outside the range \[0, 1\]"):
        signals(tmp_path, range=(0, 1))
    with pytest.raises(BootdiffError, match="Give the array's own path"):
        open_dataset(tmp_path)


def test_gaps_are_masks_in_partial_data(tmp_path):
    v = RNG.normal(0, 0.2, (40, 2)).clip(-1, 1)
    v[4:9] = np.nan
    v[20:30] = np.nan
    np.save(tmp_path / "a.npy", v)
    with pytest.raises(BootdiffError, match=r"a.npy: holds NaN or infinite values, first at 4; .*missing: mask"):
        signals(tmp_path, length=10)
    with pytest.raises(BootdiffError, match=r"a.npy\[20:30\]: holds no observed value at all"):
        signals(tmp_path, length=10, missing="mask")
    source = signals(tmp_path, length=10, missing="mask", on_error="skip")
    assert [source.name(i) for i in range(3)] == ["a.npy[0:10]", "a.npy[10:20]", "a.npy[30:40]"]
    x, _, masks = source.batch(range(3))
    assert masks.shape == (3, 1, 10)
    assert masks[0, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0, 1]
    assert (x[0, :, 4:9] == 0).all()
    v[0, 1] = np.nan
    np.save(tmp_path / "a.npy", v)
    assert signals(tmp_path, length=10, missing="mask", on_error="skip")[0].mask.shape == (2, 10)


pandas = pytest.importorskip("pandas")


@pytest.fixture
def table(tmp_path) -> Path:
    (tmp_path / "t.csv").write_text(
        "age,pressure,name,class\n30,120.5,Ann,healthy\n40,,Bob,ill\n50,133,Cid,\n35,128,Dan,healthy\n"
    )
    return tmp_path / "t.csv"


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_tables_of_vectors(table, suffix):
    path = table.with_suffix(suffix)
    frame = pandas.read_csv(table)
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="\t" if suffix == ".tsv" else ",", index=False)
    options = {"columns": ["pressure", "age"], "standardize": True, "missing": "mask"}
    source = open_dataset(path, labels="class", unlabelled="keep", **options)
    assert isinstance(source, Arrays)
    assert (source.shape, source.columns, source.classes) == ((2,), ["pressure", "age"], ["healthy", "ill"])
    x, labels, masks = source.batch(range(4))
    assert labels.tolist() == [0, 1, -1, 0]
    assert masks.tolist() == [[1, 1], [0, 1], [1, 1], [1, 1]]
    back = source.restore(x)
    torch.testing.assert_close(back[0], torch.tensor([120.5, 30.0]).double(), atol=1e-4, rtol=0)
    assert source.units.offset == pytest.approx((127.16666667, 38.75))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "column 'name' holds 'Ann' in row 0, which is no number; say which columns to use with columns: [...]"),
        ({"columns": ["age", "hight"]}, "has no column 'hight'; columns: age, pressure, name, class"),
        ({"columns": ["pressure"], "standardize": True}, "row 1 holds NaN or infinite values"),
        ({"columns": ["age"]}, "float values run from 30 to 50, outside [-1, 1]. Declare what they mean"),
        ({"columns": ["age"], "range": (0, 100), "labels": "class"}, "1 of 4 samples have no valid label, first row 2"),
        ({"columns": ["age"], "frames": 3}, "is a table of vectors, to which frames means nothing"),
        ({"kind": "image"}, "which has no samples of kind image"),
    ],
)
def test_wrong_tables_are_refused(table, options, said):
    with pytest.raises(BootdiffError, match=re.escape(said)):
        open_dataset(table, **options)


def test_tables_of_signals(tmp_path):
    for name in ("north", "south"):
        v = pandas.DataFrame({"temperature": RNG.normal(10, 5, 24), "wind": RNG.gamma(2, 3, 24)})
        v.loc[3:5, "wind"] = None
        v.to_csv(tmp_path / f"{name}.csv", index=False)
    source = open_dataset(tmp_path, kind="signal", length=12, standardize=True, missing="mask")
    assert (len(source), source.shape, source.columns) == (4, (2, 12), ["temperature", "wind"])
    assert source[0].mask[1].tolist() == [1, 1, 1, 0, 0, 0, *[1] * 6]
    assert open_dataset(tmp_path / "north.csv", kind="signal", length=12, limit=1, standardize=True, missing="mask")
    other = pandas.DataFrame({"wind": [1.0] * 24, "temperature": [1.0] * 24})
    other.to_csv(tmp_path / "west.csv", index=False)
    with pytest.raises(
        BootdiffError, match=r"west.csv: has the columns wind, temperature, others have temperature, wind"
    ):
        open_dataset(tmp_path, kind="signal", length=12, standardize=True, missing="mask")
    chosen = open_dataset(tmp_path, kind="signal", columns=["temperature"], length=12, range=(-50, 50))
    assert (len(chosen), chosen.shape) == (6, (1, 12))
    assert isinstance(open_dataset(tmp_path, kind="signal", columns=["temperature"], range=(-50, 50), limit=2), Subset)


def test_damaged_tables_and_missing_pandas(tmp_path, monkeypatch):
    import sys

    (tmp_path / "a.parquet").write_text("no table")
    (tmp_path / "b.csv").write_text("")
    (tmp_path / "c.csv").write_text("a,b\n")
    for name, said in (("a.parquet", "cannot be read as a table"), ("b.csv", "cannot be read"), ("c.csv", "no rows")):
        with pytest.raises(BootdiffError, match=said):
            open_dataset(tmp_path / name)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(BootdiffError, match=r"tables need pandas: pip install 'bootdiff\[data\]'"):
        open_dataset(tmp_path / "c.csv")

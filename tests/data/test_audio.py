"""FLAC, Ogg and MP3 through soundfile: exact where lossless, beside WAV, bad files named."""

from __future__ import annotations

import numpy as np
import pytest

from bootdiff.data import open_dataset
from bootdiff.errors import BootdiffError

RNG = np.random.default_rng(0)
soundfile = pytest.importorskip("soundfile")


def test_lossless_files_are_exact_beside_wav(tmp_path):
    values = RNG.integers(-30000, 30000, (2, 500, 2)).astype(np.int16)
    soundfile.write(tmp_path / "a.flac", values[0], 8000)
    soundfile.write(tmp_path / "b.wav", values[1], 8000)
    (tmp_path / "c.m4a").write_bytes(b"?")
    source = open_dataset(tmp_path, length=100, stride=50)
    assert source.shape == (2, 100)
    assert source.rate == 8000
    assert len(source) == 18
    assert np.allclose(source[3].x.numpy().T * 32768, values[0, 150:250], atol=1e-2)
    assert np.allclose(source[9].x.numpy().T * 32768, values[1, :100], atol=1e-2)
    assert source.notes == ["1 file(s) of other suffixes are not read: 1 .m4a"]
    assert len(open_dataset(tmp_path / "a.flac")) == 1


def test_lossy_files(tmp_path):
    t = np.arange(8000) / 8000
    tone = 0.5 * np.sin(2 * np.pi * 440 * t)
    for name in ("a.ogg", "b.mp3"):
        soundfile.write(tmp_path / name, tone, 8000)
        x = open_dataset(tmp_path / name, length=4000)[0].x[0].numpy()
        assert abs(np.abs(np.fft.rfft(x)).argmax() - 220) <= 1
        assert 0.4 < np.abs(x).max() < 0.6


def test_bad_files_are_named(tmp_path):
    values = RNG.integers(-30000, 30000, (20000, 1)).astype(np.int16)
    soundfile.write(tmp_path / "a.flac", values, 8000)
    whole = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "short.flac").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.flac").write_bytes(b"no sound")
    soundfile.write(tmp_path / "fast.flac", values, 16000)
    with pytest.raises(BootdiffError) as error:
        open_dataset(tmp_path)
    said = str(error.value)
    for name, reason in (("short", ""), ("text", "no audio file"), ("fast", "has 16000 Hz, most have 8000")):
        assert f"{name}.flac: " in said
        assert reason in said
    assert len(open_dataset(tmp_path, on_error="skip")) == 1


def test_without_the_library(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.flac", np.zeros(10), 8000)

    def missing(name: str):
        raise ImportError(name)

    monkeypatch.setattr("bootdiff.data.readers.stacks.import_module", missing)
    with pytest.raises(BootdiffError, match=r"a.flac: is read by soundfile, .*pip install 'bootdiff\[audio\]'"):
        open_dataset(tmp_path)

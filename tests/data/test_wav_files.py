"""WAV files as pipes leave them: sizes that nobody could write mean "to the end"; what is cut short still is."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from bootdiff.data import open_dataset
from bootdiff.errors import BootdiffError

X = (0.5 * np.sin(np.arange(64) / 5)).reshape(32, 2)
GUID = b"\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x008\x9bq"


def wav(path, raw, bits, tag=1, channels=2, data=None, whole=None, before=b"", after=b"", extensible=False):
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", 0xFFFE if extensible else tag, channels, 8000, 8000 * block, block, bits)
    if extensible:
        form += struct.pack("<HHIH", 22, bits, 0, tag) + GUID
    size = len(raw) if data is None else data
    body = (
        b"WAVE"
        + b"fmt "
        + struct.pack("<I", len(form))
        + form
        + before
        + b"data"
        + struct.pack("<I", size)
        + raw
        + after
    )
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body) if whole is None else whole) + body)


def encoded(x, bits, tag):
    if tag == 3:
        return x.astype(f"<f{bits // 8}").tobytes()
    if bits == 8:
        return ((x * 128).round() + 128).astype(np.uint8).tobytes()
    if bits == 24:
        return b"".join(struct.pack("<i", round(v * (1 << 23)))[:3] for v in x.ravel())
    return (x * 2 ** (bits - 1)).round().astype(f"<i{bits // 8}").tobytes()


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x7FFFFFFF, 0x7FFFFFFF),
        (0, 0),
        (0x7FFFF000, 0x7FFFF024),
        (0xFFFFFFFF, None),
        (None, 0),
        (None, 0xFFFFFFFF),
        (0x80000000, 0xFFFFFFFF),
    ],
)
@pytest.mark.parametrize(("bits", "tag"), [(8, 1), (16, 1), (24, 1), (32, 1), (32, 3), (64, 3)])
def test_streamed_sizes(tmp_path, data, whole, bits, tag):
    listed = b"LIST" + struct.pack("<I", 4) + b"INFO"
    wav(tmp_path / "s" / "a.wav", encoded(X, bits, tag), bits, tag, data=data, whole=whole)
    wav(
        tmp_path / "s" / "b.wav",
        encoded(X, bits, tag),
        bits,
        tag,
        data=data,
        whole=whole,
        before=listed,
        extensible=True,
    )
    source = open_dataset(tmp_path / "s")
    assert source.shape == (2, 32)
    assert source.rate == 8000
    for i in range(2):
        np.testing.assert_allclose(source[i].x.numpy(), X.T, atol=2.0 ** (1 - bits) if tag == 1 else 1e-7)


def test_files_that_are_cut_short_or_empty_still_are(tmp_path):
    raw = encoded(X, 16, 1)
    wav(tmp_path / "cut" / "a.wav", raw[:60], 16, data=len(raw), whole=36 + len(raw))
    wav(tmp_path / "empty" / "a.wav", b"", 16)
    wav(tmp_path / "none" / "a.wav", b"", 16, data=0xFFFFFFFF, whole=0xFFFFFFFF)
    wav(tmp_path / "behind" / "a.wav", b"", 16, after=b"LIST" + struct.pack("<I", 4) + b"INFO")
    wav(tmp_path / "coded" / "a.wav", bytes(64), 8, tag=7, data=0, whole=0)
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / "a.wav").write_bytes(b"RIFF\0\0\0\0WAVE")
    for name, said in (
        ("cut", "is cut short"),
        ("empty", "holds no samples"),
        ("none", "holds no samples"),
        ("behind", "holds no samples"),
        ("coded", "coding 7 of 8 bits"),
        ("head", "damaged, cut short or no WAV file"),
    ):
        with pytest.raises(BootdiffError, match=said) as error:
            open_dataset(tmp_path / name)
        assert "local variable" not in str(error.value)


def test_many_recordings_of_another_rate_are_noted_once_each(tmp_path):
    for i in range(12):
        wav(tmp_path / f"{i:02d}.wav", encoded(X, 16, 1), 16)
    path = tmp_path / "00.wav"
    path.write_bytes(path.read_bytes()[:24] + struct.pack("<I", 4000) + path.read_bytes()[28:])
    source = open_dataset(tmp_path, on_error="skip")
    assert [p.file for p in source.problems] == ["00.wav"]

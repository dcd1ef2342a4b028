"""WAV files, mapped where their samples can be: 8, 16, 24 and 32 bits and floats.

A program that writes into a pipe cannot go back to write how long the file has become: it leaves a size of 0xFFFFFFFF
(ffmpeg), one just below 2^31 (SoX, arecord), or 0 (a recorder that was switched off). Such a size means "not known",
and the samples run to the end of the file.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bootdiff.data.readers.decode import Undecodable

__all__ = ["amplitude", "read_wav"]

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE


def read_wav(path: Path) -> tuple[np.ndarray, float]:
    """Samples as stored, (L,) or (L, C), and values per second; 24 bits lie in the upper ones of 32.

    Raises Undecodable for files that are damaged, cut short, empty or of another coding.
    """
    streamed = _read_streamed(path)
    if streamed is not None:
        return streamed
    from scipy.io import wavfile

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            try:
                rate, data = wavfile.read(path, mmap=True)
            except ValueError:
                # 24-bit samples cannot be mapped.
                rate, data = wavfile.read(path)
        except Exception as error:
            # scipy returns what it never read where parts are missing.
            reason = "parts are missing" if isinstance(error, UnboundLocalError) else error
            raise Undecodable(f"cannot be decoded ({reason}); it is damaged, cut short or no WAV file") from None
    for warning in caught:
        if "EOF" in str(warning.message):
            raise Undecodable(f"is cut short ({warning.message})")
    if not len(data):
        raise Undecodable("holds no samples")
    return data, float(rate)


def _unknown(size: int) -> bool:
    return size in (0, 0xFFFFFFFF) or 0x7FFFF000 <= size <= 0x80000000


def _read_streamed(path: Path) -> tuple[np.ndarray, float] | None:
    """`read_wav` of a file whose header does not say how long it is; None for other files."""
    end = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return None
        whole = struct.unpack("<I", head[4:8])[0]
        found = _chunks(file, end)
    if found is None:
        return None
    form, start, size = found
    if not _unknown(whole) and (not _unknown(size) or size == 0):
        return None  # where the whole has a size, a part of size 0 is empty
    length = size if size and start + size <= end else end - start
    tag, channels, rate, _, block, bits = struct.unpack("<HHIIHH", form[:16])
    if tag == _EXTENSIBLE and len(form) >= 26:
        tag = struct.unpack("<H", form[24:26])[0]
    wide = block // channels if channels else 0
    kinds = {(_PCM, 1): "u1", (_PCM, 2): "<i2", (_PCM, 4): "<i4", (_FLOAT, 4): "<f4", (_FLOAT, 8): "<f8"}
    count = length // block if block else 0
    if not count:
        raise Undecodable("holds no samples")
    if (tag, wide) == (_PCM, 3):
        raw = np.memmap(path, np.uint8, "r", start, (count, channels, 3))
        data = np.zeros((count, channels, 4), np.uint8)
        data[..., 1:] = raw
        return data.view("<i4")[..., 0], float(rate)
    if (tag, wide) not in kinds:
        raise Undecodable(f"cannot be decoded (coding {tag} of {bits} bits); save it as PCM or floats")
    return np.memmap(path, kinds[tag, wide], "r", start, (count, channels)), float(rate)


def _chunks(file: BinaryIO, end: int) -> tuple[bytes, int, int] | None:
    """The format, and where the samples start and how many bytes they say to have; None where one is missing."""
    form = b""
    while len(head := file.read(8)) == 8:
        name, size = head[:4], struct.unpack("<I", head[4:])[0]
        if name == b"data":
            return (form, file.tell(), size) if len(form) >= 16 else None
        if name == b"fmt " and file.tell() + size <= end:
            form = file.read(size)
            file.seek(size % 2, 1)
        elif file.tell() + size > end:
            return None
        else:
            file.seek(size + size % 2, 1)
    return None


def amplitude(stored: np.ndarray) -> np.ndarray:
    """Stored samples -> float64 amplitudes, full scale = 1."""
    v = np.asarray(stored).astype(np.float64)
    if stored.dtype.kind == "f":
        return v
    if stored.dtype == np.uint8:
        return (v - 128) / 128
    return v / -float(np.iinfo(stored.dtype).min)

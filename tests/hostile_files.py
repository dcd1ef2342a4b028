"""What tests of hostile files share: how a file's reading ends, little of memory, and some small files."""

from __future__ import annotations

import resource
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from bootdiff.data import open_dataset
from bootdiff.errors import BootdiffError

RNG = np.random.default_rng(0)
MOST = 256 << 20  # bytes that one of these files may cost


@contextmanager
def bounded() -> Iterator[None]:
    """No file here takes much memory: an allocation beyond raises MemoryError, which is no clean message."""
    if not Path("/proc/self/statm").exists():  # other systems than Linux do not say what is in use
        yield
        return
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MOST, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def outcome(path, **options):
    """ "read", every sample of it; or what is said, of which the first line and the reason matter."""
    try:
        source = open_dataset(path, **options)
        for i in range(len(source)):
            assert np.isfinite(source[i].x).all()
    except BootdiffError as error:
        said = str(error)
        assert str(path) in said
        assert len(said) < 4000
        return " ".join(said.split())
    return "read"


def png(w, h, depth=8, color=2, raw=b"", idat=None, extra=b""):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, depth, color, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(raw) if idat is None else idat)
    return b"\x89PNG\r\n\x1a\n" + head + extra + body + chunk(b"IEND", b"")


RED = [Image.new("RGB", (4, 4), (i, 0, 0)) for i in range(3)]
PLAIN = (b"\0" + b"\x07" * 12) * 4
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n(x) print\n%%EOF\n"


def wav(path):
    from scipy.io import wavfile

    wavfile.write(path, 8000, RNG.integers(-99, 99, 64, dtype=np.int16))

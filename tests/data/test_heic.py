"""HEIC through pillow-heif: told by what a file holds, in full or named; without the library, what installs it."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from bootdiff.data import Images, open_dataset
from bootdiff.data.options import ImageOptions
from bootdiff.data.readers import heif
from bootdiff.errors import BootdiffError
from hostile_files import bounded, outcome

RNG = np.random.default_rng(0)
START = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf"


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


def test_the_library_is_named_where_it_is_missing(tmp_path, monkeypatch):
    def missing(name):
        assert name == "pillow_heif.as_plugin"
        raise ImportError(name)

    monkeypatch.setattr(heif, "import_module", missing)
    (tmp_path / "a.heic").write_bytes(START + box(b"meta", bytes(40)))
    assert "a.heic: is HEIC, which is read by pillow-heif: pip install 'bootdiff[heic]'" in outcome(tmp_path)
    Image.new("RGB", (4, 4), "red").save(tmp_path / "b.png")
    Image.new("RGB", (4, 4), "red").save(tmp_path / "c.heif", "PNG")  # told by what it holds
    assert open_dataset(tmp_path, on_error="skip").names == ["b.png", "c.heif"]


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (START, True),
        (START + box(b"meta", bytes(9)), True),
        (START + box(b"meta", bytes(9))[:-1], False),
        (START + b"\0\0\0\0mdat" + bytes(50), True),
        (START + struct.pack(">I4sQ", 1, b"mdat", 66) + bytes(50), True),
        (START + struct.pack(">I4sQ", 1, b"mdat", 99) + bytes(50), False),
        (START + b"\0\0\0\3mdat", False),
        (START + b"abc", False),
    ],
)
def test_where_boxes_end(data, whole):
    assert heif.is_whole(data) is whole


def test_avif_stays_pillows(tmp_path):
    file = io.BytesIO()
    try:
        Image.new("RGB", (16, 16), "red").save(file, "AVIF")
    except (KeyError, OSError):
        pytest.skip("this Pillow writes no AVIF")
    assert not heif.is_heif(file.getvalue())
    (tmp_path / "a.avif").write_bytes(file.getvalue())
    assert open_dataset(tmp_path).shape == (3, 16, 16)


@pytest.fixture
def library():
    return pytest.importorskip("pillow_heif")


def heic(library, pixels, **options):
    file = io.BytesIO()
    library.from_pillow(Image.fromarray(pixels)).save(file, quality=-1, chroma=444, **options)
    return file.getvalue()


SMOOTH = np.ascontiguousarray(np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[:, None, None], (64, 48, 3)))


def test_pictures_are_read(library, tmp_path):
    (tmp_path / "a.heic").write_bytes(heic(library, SMOOTH))
    (tmp_path / "b.HEIF").write_bytes(heic(library, SMOOTH[::-1].copy()))
    for memory in (0, 1 << 20):
        source = Images(tmp_path, memory=memory)
        assert source.shape == (3, 64, 48)
        assert source.notes == []
        for i, want in enumerate((SMOOTH, SMOOTH[::-1])):
            assert np.abs((source[i].x.numpy() + 1) * 127.5 - np.moveaxis(want, -1, 0)).max() < 4


def test_ten_bits_become_eight_and_that_is_counted(library, tmp_path):
    deep = library.from_bytes(mode="RGB;16", size=(48, 64), data=(SMOOTH.astype(np.uint16) * 257).tobytes())
    file = io.BytesIO()
    deep.save(file, quality=-1)
    (tmp_path / "a.heic").write_bytes(file.getvalue())
    for memory in (0, 1 << 20):
        assert dict(Images(tmp_path, memory=memory).converted) == {"10 bits to 8": 1}


def test_damaged_and_large_files_are_named(library, tmp_path):
    good = heic(library, RNG.integers(0, 256, (64, 48, 3), dtype=np.uint8))
    path = tmp_path / "a.heic"
    for data in (good[:-200], good[: len(good) // 2], good[:60], START + bytes(50)):
        path.write_bytes(data)
        for memory in (0, 1 << 20):
            with bounded(), pytest.raises(BootdiffError, match=r"a\.heic: .*(cut short|damaged)"):
                Images(tmp_path, memory=memory)
    path.write_bytes(good)
    with pytest.raises(BootdiffError, match="more than max_pixels"):
        Images(tmp_path, ImageOptions(max_pixels=100))


def test_several_pictures_in_one_file_are_refused(library, tmp_path):
    several = library.from_pillow(Image.fromarray(SMOOTH))
    several.add_from_pillow(Image.fromarray(SMOOTH[::-1].copy()))
    file = io.BytesIO()
    several.save(file, quality=-1, save_all=True)
    (tmp_path / "a.heic").write_bytes(file.getvalue())
    assert "is animated (2 frames)" in outcome(tmp_path)

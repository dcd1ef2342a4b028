"""Sounds, videos and saved data sets that are damaged, absurd or made to harm, as in `test_hostile_files`."""

from __future__ import annotations

import os
import struct
import sys
import types
from fractions import Fraction

import numpy as np
import pytest

from bootdiff.data import open_dataset
from hostile_files import EPS, PLAIN, RNG, bounded, outcome, png, wav


@pytest.fixture(autouse=True)
def _bounded():
    with bounded():
        yield


# --- sounds and films ---


def sound(size, riff=None, form=(1, 1, 8000, 16000, 2, 16), payload=b"\0\1" * 64, chunk=16):
    head = b"WAVEfmt " + struct.pack("<I", chunk) + struct.pack("<HHIIHH", *form)
    whole = 36 + len(payload) if riff is None else riff
    return b"RIFF" + struct.pack("<I", whole) + head + b"data" + struct.pack("<I", size) + payload


@pytest.mark.parametrize(
    "data",
    [
        sound(2**30), sound(0), sound(128, 0xFFFFFFFF), sound(0xFFFFFFFF), sound(128, form=(1, 0, 8000, 16000, 2, 16)),
        sound(128, form=(1, 65535, 8000, 16000, 2, 16)), sound(128, form=(1, 1, 8000, 16000, 2, 0)),
        sound(128, form=(1, 1, 8000, 16000, 0, 16)), sound(128, form=(1, 1, 0, 0, 2, 16)),
        sound(128, form=(85, 1, 8000, 16000, 2, 16)), sound(128, chunk=0xFFFFFFFF), sound(128)[:36], sound(128)[:100],
        sound(128, form=(3, 1, 8000, 16000, 2, 16)), b"junk", b"",
    ],
    ids=range(16),
)  # fmt: skip
def test_sounds(tmp_path, data):
    (tmp_path / "x.wav").write_bytes(data)
    said = outcome(tmp_path, range=[-9, 9])
    assert said == "read" or "x.wav: " in said
    wav(tmp_path / "good.wav")
    (tmp_path / "x.wav").write_bytes(b"junk")
    assert outcome(tmp_path, on_error="skip") == "read"


def frames_of_one_pixel(count):
    one = b"\x2c" + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0" + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HH", 1, 1) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff" + one * count + b";"


def test_films_of_too_many_or_too_large_frames(tmp_path):
    path = tmp_path / "x.gif"
    path.write_bytes(frames_of_one_pixel(1_000_000))
    assert "x.gif: has more than max_frames (300) frames: raise that" in outcome(tmp_path, kind="video", max_frames=300)
    path.write_bytes(frames_of_one_pixel(300))
    assert outcome(tmp_path, kind="video", max_frames=300) == "read"
    path.write_bytes(frames_of_one_pixel(1).replace(struct.pack("<HH", 1, 1), struct.pack("<HH", 65535, 65535)))
    assert "65535 x 65535 = 4,294,836,225 pixels, more than max_pixels" in outcome(tmp_path, kind="video")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    av = pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("films")
    with av.open(str(folder / "0.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(12))
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for _ in range(8):
            pixels = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return folder


HLS = b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    "data",
    [b"", b"ffconcat version 1.0\nfile 0.mp4\n", b"ffconcat version 1.0\nfile /etc/passwd\n", HLS,
     b"v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n", frames_of_one_pixel(9)],
    ids=["empty", "list", "list elsewhere", "playlist", "stream", "gif"],
)  # fmt: skip
def test_films_that_name_other_files(films, data):
    (films / "x.mp4").write_bytes(data)
    assert "x.mp4: cannot be decoded" in outcome(films)
    (films / "x.mp4").unlink()
    assert outcome(films) == "read"
    assert "16 x 16 = 256 pixels, more than max_pixels (100)" in outcome(films, max_pixels=100)
    assert "0.mp4: has more than max_frames (7) frames" in outcome(films, max_frames=7)


def test_films_that_are_cut(films):
    data = (films / "0.mp4").read_bytes()
    for part in (data[: len(data) // 2], data[:8], data.replace(b"stsz", b"stsz\xff\xff\xff\xff", 1)):
        (films / "x.mp4").write_bytes(part)
        assert "x.mp4: " in outcome(films)
    (films / "x.mp4").unlink()


# --- Hugging Face ---


def test_a_saved_data_set_is_asked_for_bytes_and_never_opens_an_address(tmp_path, monkeypatch):
    """`datasets` is stood in for: what counts is what it is asked, and what is done with the answer."""

    class Feature:
        def __init__(self, decode=True):
            self.decode = decode

    Feature.__name__ = "Image"

    class Saved:
        column_names = ("image",)
        features = {"image": Feature()}  # noqa: RUF012

        def with_format(self, kind):
            assert kind is None
            return self

        def cast_column(self, column, feature):
            assert (column, feature.decode) == ("image", False)
            return Rows()

    class Rows:
        def __len__(self):
            return len(values)

        def __getitem__(self, row):
            return {"image": values[row]}

    Saved.__len__ = Rows.__len__  # type: ignore[attr-defined]
    module = types.ModuleType("datasets")
    module.load_from_disk, module.Image = lambda folder: Saved(), Feature  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setattr("subprocess.Popen", None)
    (tmp_path / "state.json").write_text("{}")
    good = {"bytes": png(4, 4, raw=PLAIN), "path": None}
    os.mkfifo(tmp_path / "pipe.png")
    for bad, said in (
        ({"bytes": EPS, "path": None}, "row 1 cannot be decoded (no known format)"),
        ({"bytes": None, "path": "http://127.0.0.1:9/x.png"}, "row 1 lies elsewhere (http://127.0.0.1:9/x.png)"),
        ({"bytes": None, "path": str(tmp_path / "pipe.png")}, "row 1 is no regular file"),
        ({"bytes": None, "path": None}, "row 1 is neither a picture nor"),
        ({"bytes": png(60_000, 60_000, raw=b"\0"), "path": None}, "more than max_pixels"),
    ):
        values = [good, bad, good]
        assert said in outcome(tmp_path)
        assert len(open_dataset(tmp_path, on_error="skip")) == 2

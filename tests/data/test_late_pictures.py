"""Pictures are usable or not whatever memory is left: headers tell what decoding would, `skip` decodes everything."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from bootdiff.data import Images, open_dataset
from bootdiff.data.dataset import UnusableFile
from bootdiff.data.folders import Problems
from bootdiff.data.options import ImageOptions
from bootdiff.data.readers.decode import Undecodable, decode, glance
from bootdiff.errors import BootdiffError
from cli_calls import refused

RNG = np.random.default_rng(0)
SMOOTH = np.ascontiguousarray(np.broadcast_to(np.arange(0, 240, 24, dtype=np.uint8)[None, :, None], (8, 10, 3)))
HOLE = np.dstack([SMOOTH, np.full((8, 10), 255, np.uint8)])
HOLE[:3, :, 3] = 0


def deep_png(pixels, transparent=None):
    """A 16-bit PNG, gray or RGB, with one value declared transparent."""
    h, w, c = pixels.shape

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, {1: 0, 3: 2}[c], 0, 0, 0))
    trns = b"" if transparent is None else chunk(b"tRNS", struct.pack(f">{c}H", *[transparent] * c))
    return b"\x89PNG\r\n\x1a\n" + head + trns + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def picture(path, kind):
    """A file of some kind, whatever its name says."""
    still = Image.fromarray(SMOOTH)
    other = Image.fromarray(SMOOTH[:, ::-1].copy())
    gray = RNG.integers(0, 60000, (8, 10, 1)).astype(np.uint16)
    if kind == "mpo":
        still.save(path, "MPO", save_all=True, append_images=[other.resize((5, 4))], quality=95)
    elif kind.startswith("animated"):
        options = {"lossless": True} if "WEBP" in kind else {}
        still.save(path, kind.split()[1], save_all=True, append_images=[other], **options)
    elif kind in ("rgba", "opaque"):
        Image.fromarray(HOLE if kind == "rgba" else np.dstack([SMOOTH, np.full((8, 10), 255, np.uint8)])).save(
            path, "PNG"
        )
    elif kind == "webp alpha":
        Image.fromarray(HOLE).save(path, "WEBP", lossless=True)
    elif kind == "gray alpha":
        Image.fromarray(HOLE[..., [0, 3]], "LA").save(path, "PNG")
    elif kind == "palette":
        p = still.convert("P")
        p.save(path, "PNG", transparency=int(np.asarray(p)[0, 0]))
    elif kind == "deep gray":
        path.write_bytes(deep_png(gray, int(gray[0, 0, 0])))
    elif kind == "deep colour":
        path.write_bytes(deep_png(np.repeat(gray, 3, 2), int(gray[0, 0, 0])))
    elif kind == "float":
        Image.fromarray(SMOOTH[..., 0].astype(np.float32)).save(path, "TIFF")
    elif kind == "beyond 16 bits":
        Image.fromarray(SMOOTH[..., 0].astype(np.int32) * 1000).save(path, "TIFF")
    elif kind == "cmyk":
        still.convert("CMYK").save(path, "JPEG")
    elif kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        other.save(path, "JPEG", exif=exif)


REFUSED = {
    "animated WEBP": "is animated (2 frames)",
    "animated PNG": "is animated (2 frames)",
    "animated GIF": "is animated (2 frames)",
    "rgba": "has transparent pixels",
    "webp alpha": "has transparent pixels",
    "gray alpha": "has transparent pixels",
    "palette": "has transparent pixels",
    "deep gray": "one colour declared transparent",
    "deep colour": "one colour declared transparent",
    "float": "has the pixel format F",
    "beyond 16 bits": "beyond 16 bits",
}


@pytest.mark.parametrize("alpha", ["refuse", "white", "drop"])
@pytest.mark.parametrize("kind", [*REFUSED, "mpo", "opaque", "cmyk", "turned"])
def test_the_header_tells_what_decoding_would(tmp_path, kind, alpha):
    path = tmp_path / "a.png"
    picture(path, kind)
    found = []
    for ask in (lambda data: decode(data, alpha), lambda data: glance(data, alpha)):
        try:
            answer = ask(path.read_bytes())
            found.append((*answer[0].shape, answer[1]) if len(answer) == 2 else answer)
        except Undecodable as error:
            found.append(str(error))
    assert found[0] == found[1]
    if alpha == "refuse":
        assert isinstance(found[0], str) == (kind in REFUSED)
        assert REFUSED.get(kind, "") in str(found[0])


@pytest.mark.parametrize("memory", [512 << 20, 0])
def test_both_ways_name_the_same_files(tmp_path, memory):
    for i in range(3):
        Image.fromarray(SMOOTH).save(tmp_path / f"{i}.png")
    for kind in REFUSED:
        picture(tmp_path / f"{kind}.png", kind)
    picture(tmp_path / "mpo.jpg", "mpo")
    with pytest.raises(BootdiffError) as error:
        Images(tmp_path, memory=memory)
    assert f"{len(REFUSED)} of {len(REFUSED) + 4} files" in str(error.value)
    source = Images(tmp_path, ImageOptions(on_error="skip"), memory=memory)
    assert {p.file for p in source.problems} == {f"{kind}.png" for kind in REFUSED}
    with Image.open(tmp_path / "mpo.jpg") as shown:
        first = np.asarray(shown)  # the first picture of a camera's file is the picture
    torch.testing.assert_close(source[3].x, torch.from_numpy(first.copy()).movedim(-1, 0) / 127.5 - 1)


def test_frames_in_folders_alike(tmp_path):
    from bootdiff.data import Videos
    from bootdiff.data.options import VideoOptions

    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        for t in range(3):
            Image.fromarray(SMOOTH).save(tmp_path / name / f"{t}.png")
    picture(tmp_path / "b" / "1.png", "rgba")
    damaged = bytearray((tmp_path / "c" / "2.png").read_bytes())
    at = damaged.index(b"IDAT") + 8
    damaged[at : at + 20] = bytes(20)
    (tmp_path / "c" / "2.png").write_bytes(damaged)
    with pytest.raises(BootdiffError, match=r"b: its frame 1\.png has transparent pixels"):
        Videos(tmp_path, memory=0)
    source = Videos(tmp_path, VideoOptions(on_error="skip"), memory=0)
    assert source.names == ["a"]
    assert [p.file for p in source.problems] == ["b", "c"]


def test_too_many_pixels_are_said_as_such(tmp_path, monkeypatch):
    """And Pillow's own limit, which only its globals could raise, does not count."""
    for i in range(2):
        Image.fromarray(SMOOTH).save(tmp_path / f"{i}.png")
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    for memory in (512 << 20, 0):
        said = r"huge\.png: has 40 x 30 = 1,200 pixels, more than max_pixels \(1,000\): raise that"
        with pytest.raises(BootdiffError, match=said):
            Images(tmp_path, ImageOptions(max_pixels=1000), memory=memory)
    assert len(Images(tmp_path, ImageOptions(max_pixels=1000, on_error="skip"))) == 2
    (tmp_path / "huge.png").rename(tmp_path / "0.png")
    (tmp_path / "1.png").unlink()
    assert Images(tmp_path, ImageOptions(max_pixels=1200)).shape == (1, 30, 40)
    assert Image.MAX_IMAGE_PIXELS == 500


def test_advice_names_keys_that_recipes_have(tmp_path):
    for i in range(6):
        Image.fromarray(SMOOTH).save(tmp_path / f"{i}.png")
    damaged = bytearray((tmp_path / "3.png").read_bytes())
    at = damaged.index(b"IDAT") + 8
    damaged[at : at + 20] = bytes(20)
    source = Images(tmp_path, memory=0)
    (tmp_path / "3.png").write_bytes(damaged)
    with pytest.raises(BootdiffError, match=r"3\.png: .*on_error: skip decodes every file on opening") as error:
        source[3]
    assert "verify" not in str(error.value)
    views = "views: {v: {view: {kind: downsample, factor: 2}, data: {path: .}}}\n"
    (tmp_path / "r.yaml").write_text("full: {path: ., verify: true}\n" + views)
    assert "unknown key" in refused("check", tmp_path / "r.yaml")


def test_the_time_to_note_problems_does_not_grow_with_their_number(tmp_path, monkeypatch):
    class Noted(UnusableFile):
        read = 0

        def __getattribute__(self, name):
            if name == "file":
                Noted.read += 1
            return super().__getattribute__(name)

    monkeypatch.setattr("bootdiff.data.folders.UnusableFile", Noted)
    found = Problems()
    for i in range(300):
        found.add(f"{i % 200}.png", f"reason {i}")
    assert [p.reason for p in found] == [f"reason {i}" for i in range(200)]
    Image.fromarray(SMOOTH).save(tmp_path / "a.png")
    Image.fromarray(SMOOTH[:4].copy()).save(tmp_path / "b.png")
    for i in range(40):
        (tmp_path / f"good{i:02d}.png").write_bytes((tmp_path / "a.png").read_bytes())
        (tmp_path / f"small{i:02d}.png").write_bytes((tmp_path / "b.png").read_bytes())
    (tmp_path / "b.png").unlink()
    Noted.read = 0
    source = open_dataset(tmp_path, on_error="skip")
    assert (len(source), len(source.problems)) == (41, 40)
    assert Noted.read <= 40

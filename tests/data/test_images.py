"""Folders of pictures: full depth, nothing silent, every bad file named; memory bounded."""

from __future__ import annotations

import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bootdiff.data import Batches, Images, measure, open_dataset
from bootdiff.data.options import ImageOptions
from bootdiff.errors import BootdiffError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)


def images(path, memory: int = 512 << 20, **options) -> Images:
    return Images(path, ImageOptions(**options), memory=memory)


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    for i, pixels in enumerate(PIXELS):
        save(tmp_path / f"{i}.png", pixels)
    return tmp_path


def png16(pixels: np.ndarray, filters: list[int], *, interlaced: bool = False) -> bytes:
    """A 16-bit PNG with the given row filters, written from the definition (one byte after the other)."""
    h, w, c = pixels.shape
    step = 2 * c

    def paeth(a: int, b: int, c: int) -> int:
        return min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]

    raw = bytearray()
    # Adam7: first row, first column and steps of the seven passes.
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    for top, left, down, right in passes if interlaced else ((0, 0, 1, 1),):
        part = pixels[top::down, left::right]
        wide = part.shape[1] * step
        if not part.size:
            continue
        rows = part.astype(">u2", order="C").view(np.uint8).reshape(part.shape[0], wide).astype(int)
        for r in range(part.shape[0]):
            chosen = filters[r % len(filters)]
            raw.append(chosen)
            for i in range(wide):
                a = rows[r, i - step] if i >= step else 0
                b = rows[r - 1, i] if r else 0
                d = rows[r - 1, i - step] if r and i >= step else 0
                raw.append((rows[r, i] - [0, a, b, (a + b) // 2, paeth(a, b, d)][chosen]) % 256)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packed = zlib.compress(bytes(raw))
    head = struct.pack(">IIBBBBB", w, h, 16, {1: 0, 2: 4, 3: 2, 4: 6}[c], 0, 0, int(interlaced))
    middle = chunk(b"IDAT", packed[:20]) + chunk(b"IDAT", packed[20:])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + middle + chunk(b"IEND", b"")


def test_pixels_in_sorted_order(folder):
    source = images(folder)
    assert source.shape == (3, 8, 10)
    assert [source.name(i) for i in range(6)] == [f"{i}.png" for i in range(6)]
    for i, pixels in enumerate(PIXELS):
        want = torch.from_numpy(pixels).movedim(-1, 0) / 127.5 - 1
        torch.testing.assert_close(source[i].x, want, atol=1e-6, rtol=0)
        assert source[i].label is None
        assert source[i].mask is None


@pytest.mark.parametrize(
    ("name", "options"), [("a.jpg", {"quality": 95}), ("a.JPEG", {}), ("a.webp", {"lossless": True})]
)
def test_formats(tmp_path, name, options):
    smooth = np.broadcast_to(np.linspace(0, 255, 16).astype(np.uint8)[:, None, None], (16, 16, 3))
    save(tmp_path / name, np.ascontiguousarray(smooth), **options)
    found = (images(tmp_path)[0].x + 1) * 127.5
    torch.testing.assert_close(found, torch.tensor(smooth).movedim(-1, 0).float(), atol=6, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("filters", [[0], [1], [2], [3], [4], [4, 3, 2, 1, 0]])
def test_16_bit_keeps_its_full_depth(tmp_path, channels, filters):
    deep = RNG.integers(0, 65536, (7, 6, channels), dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png16(deep, filters))
    x = images(tmp_path)[0].x
    assert x.shape == (channels, 7, 6)
    back = ((x.double() + 1) * 32767.5).round().numpy().astype(np.uint16)
    assert np.array_equal(back, np.moveaxis(deep, -1, 0))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_interlaced_and_with_alpha(tmp_path, channels):
    deep = RNG.integers(0, 65536, (11, 9, channels), dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png16(deep, [4, 1], interlaced=True))
    colour = deep[..., :1] if channels < 3 else deep[..., :3]
    x = images(tmp_path, alpha="drop")[0].x
    back = ((x.double() + 1) * 32767.5).round().numpy().astype(np.uint16)
    assert np.array_equal(back, np.moveaxis(colour, -1, 0))


def test_16_bit_filters_agree_with_pillow(tmp_path):
    """Pillow decodes the same file to its upper bytes."""
    deep = RNG.integers(0, 65536, (33, 17, 3), dtype=np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(png16(deep, [4, 3, 1]))
    upper = ((images(tmp_path)[0].x.double() + 1) * 32767.5).round().numpy().astype(np.uint16) >> 8
    assert np.array_equal(np.moveaxis(upper, 0, -1), np.asarray(Image.open(path)))


def test_16_bit_damage_is_named(tmp_path):
    deep = RNG.integers(0, 65536, (7, 6, 3), dtype=np.uint16)
    whole = png16(deep, [1])
    broken = bytearray(whole)
    broken[80] ^= 1
    for data, said in ((whole[:150], "cut short"), (bytes(broken), "damaged")):
        (tmp_path / "a.png").write_bytes(data)
        with pytest.raises(BootdiffError, match=rf"a\.png: .*{said}"):
            images(tmp_path)


@pytest.mark.parametrize("deep", [False, True])
def test_transparency(tmp_path, deep):
    top = 65535 if deep else 255
    pixels = np.full((4, 4, 4), top, np.uint16 if deep else np.uint8)
    pixels[..., 1] = 0

    def write() -> None:
        if deep:
            (tmp_path / "a.png").write_bytes(png16(pixels, [0]))
        else:
            save(tmp_path / "a.png", pixels)

    write()
    assert images(tmp_path)[0].x[:, 0, 0].tolist() == [1, -1, 1]  # opaque: nothing is lost
    pixels[0, 0, 3] = 0
    write()
    with pytest.raises(BootdiffError, match=r"a\.png: has transparent pixels; .*alpha: white, black or drop"):
        images(tmp_path)
    for alpha, want in (("white", [1, 1, 1]), ("black", [-1, -1, -1]), ("drop", [1, -1, 1])):
        assert images(tmp_path, alpha=alpha)[0].x[:, 0, 0].tolist() == want
    save(tmp_path / "b.png", PIXELS[0, :4, :4])
    source = images(tmp_path, on_error="skip")
    assert source.names == ["b.png"]
    assert source.problems[0].file == "a.png"


def test_palette_with_transparency_is_no_opaque_picture(tmp_path):
    picture = Image.fromarray(PIXELS[0]).convert("P")
    picture.save(tmp_path / "a.png")
    assert images(tmp_path).shape == (3, 8, 10)
    picture.save(tmp_path / "a.png", transparency=int(np.asarray(picture)[0, 0]))
    with pytest.raises(BootdiffError, match="transparent"):
        images(tmp_path)


def test_gray_and_colour(folder):
    save(folder / "9.png", PIXELS[0, ..., 0])
    source = images(folder)
    assert source.shape == (3, 8, 10)
    assert source[6].x.unique(dim=0).shape[0] == 1
    assert not source.converted

    gray = images(folder, channels=1)
    assert gray.shape == (1, 8, 10)
    assert dict(gray.converted) == {"colour to gray": 6}
    want = torch.from_numpy(np.asarray(Image.fromarray(PIXELS[0]).convert("L")).copy()) / 127.5 - 1
    torch.testing.assert_close(gray[0].x[0], want, atol=1e-6, rtol=0)
    lazy = images(folder, channels=1, memory=0)
    assert torch.equal(lazy[0].x, gray[0].x)

    for i in range(4):
        save(folder / "more" / f"{i}.png", PIXELS[i, ..., 0])
    assert images(folder, limit=None).shape[0] == 3  # six in colour, five gray


@pytest.mark.parametrize("deep", [False, True])
def test_a_batch_is_its_samples(folder, deep):
    if deep:  # files of 8 and of 16 bits
        (folder / "3.png").write_bytes(png16(RNG.integers(0, 65536, (8, 10, 3), dtype=np.uint16), [1]))
    for source in (images(folder), images(folder, memory=0)):
        x, labels, masks = source.batch([4, 3, 3, 0])
        assert (labels, masks) == (None, None)
        assert torch.equal(x, torch.stack([source[i].x for i in (4, 3, 3, 0)]))
        x.zero_()  # nobody else's
        assert source[4].x.abs().max() > 0


def test_cmyk_is_counted_and_exif_is_obeyed(tmp_path):
    Image.fromarray(PIXELS[0]).convert("CMYK").save(tmp_path / "a.jpg")
    assert dict(images(tmp_path).converted) == {"CMYK to RGB": 1}
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    save(tmp_path / "a.jpg", PIXELS[0], exif=exif)
    assert images(tmp_path).shape == images(tmp_path, memory=0).shape == (3, 10, 8)


def test_missing_empty_and_foreign_folders(tmp_path):
    with pytest.raises(BootdiffError, match="no such folder"):
        images(tmp_path / "none")
    with pytest.raises(BootdiffError, match="it is empty"):
        images(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.npz").write_text("x")
    with pytest.raises(
        BootdiffError, match=r"none of its 2 files is a picture \(found 1 \.\w+, 1 \.\w+\)\. Give the array"
    ):
        images(tmp_path)
    with pytest.raises(BootdiffError, match="is a file"):
        images(tmp_path / "notes.txt")


def test_one_picture_is_enough_to_train_on(tmp_path):
    save(tmp_path / "only.png", PIXELS[0])
    batch = Batches(images(tmp_path), batch_size=4).at(3)
    assert batch["index"].tolist() == [0] * 4
    assert measure(images(tmp_path))["count"] == 1


@pytest.mark.parametrize("memory", [512 << 20, 0])
def test_bad_files_among_good_ones(folder, memory):
    good = images(folder).fingerprint()
    smooth = np.ascontiguousarray(np.broadcast_to(np.arange(0, 250, 25, dtype=np.uint8)[None, :, None], (8, 10, 3)))
    whole = save(folder / "cut.jpg", smooth).read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    png = (folder / "0.png").read_bytes()
    (folder / "cut.png").write_bytes(png[: len(png) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no picture")
    save(folder / "small.png", PIXELS[0, :4])
    with pytest.raises(BootdiffError) as caught:
        images(folder, memory=memory)
    message = str(caught.value)
    assert "5 of 11 files cannot be used" in message
    assert "on_error: skip" in message
    assert "small.png: is 4 x 10 pixels (height x width), not 8 x 10 as most are" in message
    for name in ("cut.jpg", "cut.png", "empty.png", "text.png"):
        assert f"{name}: " in message
    source = images(folder, on_error="skip", memory=memory)
    assert len(source) == 6
    assert {p.file for p in source.problems} == {"cut.jpg", "cut.png", "empty.png", "text.png", "small.png"}
    assert source.fingerprint() != good
    with pytest.raises(BootdiffError, match="not 16 x 16 as asked for"):
        images(folder, on_error="skip", size=(16, 16), memory=memory)


def test_a_flipped_byte_found_late_names_the_file(folder):
    """Beyond the memory budget only headers and ends are checked: the rest shows on access, with what to do."""
    path = folder / "2.png"
    data = bytearray(path.read_bytes())
    middle = data.index(b"IDAT") + 30
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    source = images(folder, memory=0)
    with pytest.raises(BootdiffError, match=r"2\.png: .*on_error: skip"):
        source[2]
    (folder / "3.png").write_bytes(data)
    source = images(folder, memory=0, on_error="skip")
    assert [p.file for p in source.problems] == ["2.png", "3.png"]
    assert source.names == [f"{i}.png" for i in (0, 1, 4, 5)]


def test_long_lists_of_problems_are_cut(folder):
    for i in range(30):
        (folder / f"bad{i}.png").write_text("")
    with pytest.raises(BootdiffError, match="and 20 more") as caught:
        images(folder)
    assert len(str(caught.value).splitlines()) == 13


def test_hidden_files_and_circles_are_passed_over(folder):
    (folder / "._0.png").write_text("resource fork")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "a.png").write_text("")
    (folder / "loop").symlink_to(folder)
    assert len(images(folder)) == 6


def test_a_folder_that_cannot_be_read_is_a_problem(folder, monkeypatch):
    """Running as root, permissions do not hold: the system's answer is stood in for."""
    save(folder / "locked" / "7.png", PIXELS[0])
    scandir = os.scandir

    def locked(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    said = r"locked: is a folder that cannot be read \(Permission denied\)"
    with pytest.raises(BootdiffError, match=said):
        images(folder)
    with pytest.raises(BootdiffError, match=said):
        open_dataset(folder)
    source = images(folder, on_error="skip")
    assert len(source) == 6
    assert [problem.file for problem in source.problems] == ["locked"]
    for kind in ("video", "signal"):
        with pytest.raises(BootdiffError, match=said):
            open_dataset(folder, kind=kind)
    inside = folder / "locked"
    with pytest.raises(BootdiffError, match=r"locked: cannot be read \(Permission denied\); correct its permissions"):
        images(inside)


def test_pipes_and_foreign_programs_are_not_opened(folder, monkeypatch):
    os.mkfifo(folder / "pipe.png")
    (folder / "script.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    monkeypatch.setattr("subprocess.Popen", None)  # what Pillow would start an interpreter with
    for memory in (0, 512 << 20):
        problems = {p.file: p.reason for p in images(folder, on_error="skip", memory=memory).problems}
        assert problems.keys() == {"pipe.png", "script.png"}
        assert problems["pipe.png"] == "is no regular file"
        assert problems["script.png"].startswith("cannot be decoded (no known format)")


def test_labels_from_folders(tmp_path):
    for i, name in enumerate(["dog", "cat", "cat/deep"]):
        save(tmp_path / name / f"{i}.png", PIXELS[i])
    source = images(tmp_path, labels=True)
    assert source.classes == ["cat", "dog"]
    assert [(source.name(i), source[i].label) for i in range(3)] == [
        ("cat/1.png", 0),
        ("cat/deep/2.png", 0),
        ("dog/0.png", 1),
    ]
    assert images(tmp_path, labels=True, classes=["bird", "dog", "cat"])[2].label == 1
    with pytest.raises(BootdiffError, match="lies in 'dog', which is none of the classes cat"):
        images(tmp_path, labels=True, classes=["cat"])
    save(tmp_path / "x.png", PIXELS[3])
    with pytest.raises(BootdiffError, match=r"x\.png: has no label"):
        images(tmp_path, labels=True)
    assert len(images(tmp_path, labels=True, on_error="skip")) == 3
    assert len(images(tmp_path)) == 4


@pytest.mark.parametrize("memory", [512 << 20, 0])
@pytest.mark.parametrize("high", [1, 255])
def test_masks_beside_the_pictures(folder, memory, high):
    masks = (RNG.random((6, 8, 10)) < 0.7).astype(np.uint8)
    for i, mask in enumerate(masks):
        save(folder / f"{i}.mask.png", mask * high)
    assert len(images(folder)) == 6  # masks are no pictures
    source = images(folder, masks=True, memory=memory)
    for i in range(6):
        assert torch.equal(source[i].mask, torch.from_numpy(masks[i]).float()[None])
    batch = Batches(source, batch_size=6).at(0)
    assert (batch["x"] * (1 - batch["mask"])).abs().max() == 0

    save(folder / "1.mask.png", masks[1, :4] * high)
    save(folder / "2.mask.png", masks[2] * 0)
    (folder / "3.mask.png").unlink()
    with pytest.raises(BootdiffError) as caught:
        images(folder, masks=True, memory=memory)
    for said in (
        "1.png: its mask 1.mask.png is 4 x 10 pixels (height x width), the pictures are 8 x 10",
        "2.png: its mask 2.mask.png hides every pixel",
        "3.png: has no mask 3.mask.png",
    ):
        assert said in str(caught.value)
    assert len(images(folder, masks=True, on_error="skip", memory=memory)) == 3


def test_memory_is_bounded_and_changes_nothing(folder):
    full, some, none = images(folder), images(folder, memory=3 * PIXELS[0].nbytes), images(folder, memory=0)
    assert [len(s._pixels) for s in (full, some, none)] == [6, 2, 0]
    assert len({s.fingerprint() for s in (full, some, none)}) == 1
    for i in range(6):
        assert torch.equal(full[i].x, some[i].x)
        assert torch.equal(full[i].x, none[i].x)


def test_fingerprint_follows_names_and_contents(folder):
    first = images(folder).fingerprint()
    (folder / "0.png").touch()
    assert images(folder).fingerprint() == first
    save(folder / "0.png", PIXELS[1])
    second = images(folder).fingerprint()
    (folder / "0.png").rename(folder / "7.png")
    assert len({first, second, images(folder).fingerprint()}) == 3


def test_limit_is_evenly_spaced_and_reads_no_more(folder):
    (folder / "1.png").write_text("never looked at")
    assert images(folder, limit=3).names == ["0.png", "2.png", "4.png"]


def test_a_file_that_vanishes(folder):
    source = images(folder, memory=0)
    (folder / "4.png").unlink()
    with pytest.raises(BootdiffError, match=r"4\.png: cannot be read \(No such file"):
        source[4]


def test_workers_read_the_same(folder):
    batches = [Batches(images(folder, memory=0), batch_size=4, workers=w, flip="horizontal") for w in (0, 2)]
    for a, b, _ in zip(batches[0].stream(2), batches[1].stream(2), range(4), strict=False):
        assert torch.equal(a["x"], b["x"])


def test_wrong_arguments(folder):
    for options in ({"on_error": "x"}, {"alpha": "x"}, {"channels": 5}):
        with pytest.raises(ValueError, match=re.escape(next(iter(options)))):
            images(folder, **options)
    with pytest.raises(BootdiffError, match="a folder of pictures, whose channels can be 1 or 3"):
        open_dataset(folder, channels=2)

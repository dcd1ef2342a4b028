"""Tar files of pictures: read at any place as a folder is, nothing unpacked, hostile ones named by shard and member."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import time

import numpy as np
import pytest
import torch
from PIL import Image

from bootdiff.data import Batches, Images, open_dataset
from bootdiff.data.readers import shards as reader
from bootdiff.data.readers.shards import expand
from bootdiff.data.readers.tar_files import read_table
from bootdiff.errors import BootdiffError
from bootdiff.recipe.schema import load_recipe_text
from hostile_files import bounded, outcome

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (7, 8, 10, 3), dtype=np.uint8)


def png(pixels, form="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tar(path, members, form=tarfile.USTAR_FORMAT, **about):
    """members: (name, bytes or a `TarInfo` without content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form, **about) as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                file.addfile(info)
    os.utime(path, (time.time() - 3600,) * 2)
    return path


@pytest.fixture
def pattern(tmp_path):
    """Seven pictures in three shards, with classes and tables."""
    parts = ((0, 3), (3, 5), (5, 7))
    for k, (start, stop) in enumerate(parts):
        members = []
        for i in range(start, stop):
            members += [
                (f"d/{i:03d}.png", png(PIXELS[i])),
                (f"d/{i:03d}.cls", b"%d\n" % (i % 3)),
                (f"d/{i:03d}.json", json.dumps({"kind": "cat" if i % 2 else "dog", "n": i % 2}).encode()),
            ]
        tar(tmp_path / "s" / f"{k:02d}.tar", members)
    return tmp_path / "s" / "{00..02}.tar"


def levels(source, i):
    return ((source[i].x + 1) * 127.5).round().byte().movedim(0, -1).numpy()


def test_samples_are_those_of_the_members(pattern):
    source = open_dataset(pattern)
    assert source.shape == (3, 8, 10)
    shards = ["00.tar"] * 3 + ["01.tar"] * 2 + ["02.tar"] * 2
    assert [source.name(i) for i in range(7)] == [f"{shard}/d/{i:03d}.png" for i, shard in enumerate(shards)]
    for i, pixels in enumerate(PIXELS):
        assert np.array_equal(levels(source, i), pixels)
    assert source.notes == []
    assert len(open_dataset(pattern, limit=3)) == 3


def test_batches_are_those_of_a_folder(pattern, tmp_path):
    for i, pixels in enumerate(PIXELS):
        path = tmp_path / "folder" / f"{i:03d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(pixels))
    for memory in (0, 1 << 20):
        shards = reader.Shards(pattern, memory=memory)
        one, other = (Batches(data, batch_size=4, seed=1) for data in (Images(tmp_path / "folder"), shards))
        for step in (0, 5, 2):
            assert torch.equal(one.at(step)["x"], other.at(step)["x"])
        workers = Batches(shards, batch_size=4, seed=1, workers=1).stream(2)
        assert torch.equal(next(workers)["x"], one.at(2)["x"])


@pytest.mark.parametrize(
    ("labels", "classes", "want"),
    [
        (True, ["0", "1", "2"], [0, 1, 2, 0, 1, 2, 0]),
        ("n", ["0", "1"], [0, 1, 0, 1, 0, 1, 0]),
        ("kind", ["cat", "dog"], [1, 0, 1, 0, 1, 0, 1]),
    ],
)
def test_labels(pattern, labels, classes, want):
    source = open_dataset(pattern, labels=labels)
    assert source.classes == classes
    assert [source[i].label for i in range(7)] == want
    assert source.fingerprint() != open_dataset(pattern).fingerprint()


@pytest.mark.parametrize(
    ("name", "content", "labels", "said"),
    [
        ("a.cls", b"cat", True, "its a.cls holds no class number"),
        ("a.cls", b"1.5", True, "its a.cls holds no class number"),
        ("a.json", b"{", "n", "its a.json is no JSON"),
        ("a.json", b"[" * 100_000, "n", "its a.json is no JSON"),
        ("a.json", b"[1]", "n", "its a.json is no table of fields"),
        ("a.json", b'{"n": [1]}', "n", "neither a whole number nor a word"),
        ("a.json", b'{"n": 1e9}', "n", "neither a whole number nor a word"),
        ("a.json", b'{"n": 99999999999}', "n", "number the classes 0, 1, 2"),
        ("a.json", b"{}", "n", "1 of 2 samples have no valid label, first 0.tar/a.png"),
        ("b.cls", b"1", True, "1 of 2 samples have no valid label, first 0.tar/a.png"),
        ("a.json", b'{"n": "x"}', "n", "some labels are words, that of 0.tar/b.png is 1"),
    ],
)
def test_bad_labels_are_named(tmp_path, name, content, labels, said):
    rest = [("b.cls", b"1"), ("b.json", b'{"n": 1}'), ("b.png", png(PIXELS[1]))]
    members = [("a.png", png(PIXELS[0])), *[m for m in rest if m[0] != name], (name, content)]
    path = tar(tmp_path / "0.tar", members)
    with pytest.raises(BootdiffError) as raised:
        open_dataset(path, labels=labels)
    assert said in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_samples_without_a_class_may_be_kept(tmp_path):
    path = tar(tmp_path / "0.tar", [("a.png", png(PIXELS[0])), ("b.png", png(PIXELS[1])), ("b.cls", b"1")])
    source = open_dataset(path, labels=True, unlabelled="keep")
    assert [source[i].label for i in range(2)] == [None, 1]


def test_masks_arrays_and_sizes(tmp_path):
    mask = np.tile(np.arange(10, dtype=np.uint8) % 2 * 255, (8, 1))
    path = tar(tmp_path / "0.tar", [("a.png", png(PIXELS[0])), ("a.mask.png", png(mask))])
    source = open_dataset(path, masks=True)
    assert torch.equal(source[0].mask[0] > 0, torch.from_numpy(mask > 0))
    members = [("a.npy", npy(PIXELS[0])), ("b.npy", npy(PIXELS[1, ..., 0])), ("c.jpg", png(PIXELS[2], "JPEG"))]
    path = tar(tmp_path / "1.tar", members)
    for memory in (0, 1 << 20):
        source = reader.Shards(path, memory=memory)
        assert np.array_equal(levels(source, 0), PIXELS[0])
        assert np.array_equal(levels(source, 1)[..., 2], PIXELS[1, ..., 0])
    assert open_dataset(path, size=[4, 5], fit="crop").shape == (3, 4, 5)
    deep = RNG.integers(0, 65536, (8, 10), dtype=np.uint16)
    x = open_dataset(tar(tmp_path / "2.tar", [("a.npy", npy(deep.astype(">u2")))]))[0].x
    assert np.array_equal(((x[0].double() + 1) * 32767.5).round().numpy().astype(np.uint16), deep)


LONG = "/".join(["folder" * 6] * 8) + "/a.png"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["a.png", "./d/a.png", "häuser/a.png", LONG[-180:], LONG])
def test_names_are_those_that_tarfile_reads(tmp_path, form, name):
    if form == tarfile.USTAR_FORMAT and len(name) > 250:
        pytest.skip("longer than this form's names")
    path = tar(tmp_path / "0.tar", [(name.lstrip("/"), png(PIXELS[0])), ("z/", (tarfile.DIRTYPE, ""))], form)
    table = read_table(path)
    with tarfile.open(path) as file:
        assert table.names == [m.name.removeprefix("./") for m in file if m.isfile()]
        assert table.offsets == [m.offset_data for m in file if m.isfile()]
    assert np.array_equal(levels(open_dataset(path), 0), PIXELS[0])


def test_remarks_on_all_members_are_read_past(tmp_path):
    """As `git archive` writes them."""
    path = tar(tmp_path / "0.tar", [("a.png", png(PIXELS[0]))], tarfile.PAX_FORMAT, pax_headers={"comment": "abc"})
    assert len(open_dataset(path)) == 1
    path = tar(tmp_path / "0.tar", [("a.png", png(PIXELS[0]))], tarfile.PAX_FORMAT, pax_headers={"path": "b.png"})
    assert "gives all its members one name or size" in outcome(path)


@pytest.fixture
def good(tmp_path):
    return tar(tmp_path / "good.tar", [(f"{i}.png", png(PIXELS[i])) for i in range(3)]).read_bytes()


def header(name=b"a.png", size=b"00000000000", kind=b"0", total=None):
    block = bytearray(512)
    block[: len(name)] = name
    block[124 : 124 + len(size)] = size
    block[156:157] = kind
    block[257:265] = b"ustar\00000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % (sum(block) if total is None else total)
    return bytes(block)


END = bytes(1024)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda good: b"", "x.tar: is empty"),
        (lambda good: b"no tar file at all, but some words" * 40, "is damaged at byte 0; it is no tar file"),
        (lambda good: good[:300], "it is no tar file"),
        (lambda good: gzip.compress(good), "is packed as a whole (gzip)"),
        (lambda good: b"\x28\xb5\x2f\xfd" + good, "is packed as a whole (zstd)"),
        (lambda good: good[:-10240], "x.tar"),
        (lambda good: good[: 512 + 100], "x.tar/0.png: is cut off: "),
        (lambda good: good[: 2048 - 412], "x.tar/1.png: is cut off: "),
        (lambda good: good[: 1024 + 100], "x.tar: is cut off after 0.png"),
        (lambda good: good[: 1024], "x.tar: is cut off after 0.png: the mark of its end is missing"),
        (lambda good: good[: 1024] + b"x" * 512 + good[1536:], "is damaged at byte 1,024, after 0.png"),
        (lambda good: header(size=b"77777777777") + END, "x.tar/a.png: is cut off: 8,589,934,591 bytes are announced"),
        (lambda good: header(size=b"\x80" + b"\xff" * 11) + END, "x.tar/a.png: is cut off"),
        (lambda good: header(size=b"\xff" * 12) + END, "a size is no number"),
        (lambda good: header(size=b"-0000000001") + END, "a size is no number"),
        (lambda good: header(total=1) + END, "is damaged at byte 0"),
        (lambda good: header(b"x", b"00000200001", b"x") + bytes(1 << 17) + END, "has remarks of 65,537 bytes"),
        (lambda good: header(b"x", b"00000000010", b"x") + b"99999 path=a".ljust(512, b"\0") + END, "in the remarks"),
        (lambda good: header(b"x", b"00000000014", b"x") + b"12 size=-12\n".ljust(512, b"\0") + END, "in the remarks"),
        (lambda good: header(b"x", b"00000000010", b"x") + b"1 path=a".ljust(512, b"\0") + END, "in the remarks"),
        (lambda good: header(b"a.png", b"00000000004") + b"oops".ljust(512, b"\0") + END, "x.tar/a.png: cannot be"),
        (lambda good: header(b"a.txt", b"00000000004") + b"oops".ljust(512, b"\0") + END, "none of its 1 files is"),
        (lambda good: END, "holds no pictures, it is empty"),
    ],
)  # fmt: skip
def test_hostile_and_cut_off_shards_are_named(tmp_path, good, made, said):
    assert len(good) == 10240 and good[1024 - 1] == 0  # the header and the picture take a block each  # noqa: PT018
    path = tmp_path / "x.tar"
    path.write_bytes(made(good))
    with bounded():
        assert said in outcome(path)


def test_what_is_whole_of_a_cut_shard_may_be_used(tmp_path, good):
    path = tmp_path / "x.tar"
    path.write_bytes(good[: 2 * 1024 + 600])
    source = open_dataset(path, on_error="skip")
    assert source.names == ["x.tar/0.png", "x.tar/1.png"]
    assert [problem.file for problem in source.problems] == ["x.tar/2.png"]


def test_what_is_no_file_or_leads_out_is_passed_over_and_counted(tmp_path):
    path = tar(
        tmp_path / "0.tar",
        [
            ("a.png", png(PIXELS[0])),
            ("l.png", (tarfile.SYMTYPE, "/etc/passwd")),
            ("h.png", (tarfile.LNKTYPE, "a.png")),
            ("c.png", (tarfile.CHRTYPE, "")),
            ("p.png", (tarfile.FIFOTYPE, "")),
            ("../b.png", png(PIXELS[1])),
            ("/b.png", png(PIXELS[1])),
            ("d/../../b.png", png(PIXELS[1])),
            ("e\x1b[2J.png", png(PIXELS[1])),
            ("._a.png", b"no picture"),
            ("b.psd", b""),
            ("a.cls", b"0"),
        ],
        tarfile.GNU_FORMAT,
    )
    source = open_dataset(path)
    assert source.names == ["0.tar/a.png"]
    assert sorted(source.notes) == [
        "1 device(s) in tar files are not read",
        "1 file(s) of other suffixes are not read: 1 .psd",
        "1 pipe(s) in tar files are not read",
        "2 link(s) in tar files are not read",
        "4 name(s) that lead out of their shard, or cannot be shown in tar files are not read",
    ]
    assert sorted(tmp_path.iterdir()) == [path]


def test_sparse_members_are_passed_over(tmp_path):
    remark = b"22 GNU.sparse.major=1\n"
    path = tmp_path / "0.tar"
    body = header(b"x", b"%011o" % len(remark), b"x") + remark.ljust(512, b"\0") + header(b"s.png")
    path.write_bytes(body + tar(tmp_path / "1.tar", [("a.png", png(PIXELS[0]))]).read_bytes())
    assert open_dataset(path).notes == ["1 sparse file(s) in tar files are not read"]


def test_keys_that_are_there_twice(tmp_path):
    path = tar(tmp_path / "0.tar", [("a.png", png(PIXELS[0])), ("a.png", png(PIXELS[1]))])
    assert "0.tar/a.png: is there twice in its shard" in outcome(path)
    path = tar(tmp_path / "0.tar", [("a.png", png(PIXELS[0])), ("a.left.jpg", png(PIXELS[1], "JPEG"))])
    assert "0.tar/a.png: has the key of a.left.jpg" in outcome(path)
    one = [("a.png", png(PIXELS[0]))]
    tar(tmp_path / "0.tar", one)
    tar(tmp_path / "1.tar", one)
    assert len(open_dataset(tmp_path / "{0..1}.tar")) == 2  # shards may number alike


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (PIXELS[0].astype(np.float32), "holds float32 values"),
        (PIXELS[0].astype(np.int64), "holds int64 values"),
        (PIXELS[0][..., :2], "has shape (8, 10, 2)"),
        (np.zeros((3, 0), np.uint8), "has shape (3, 0, 1)"),
        (np.array([{}]), "cannot be read"),
    ],
)
def test_arrays_that_are_no_pictures(tmp_path, array, said):
    assert said in outcome(tar(tmp_path / "0.tar", [("a.npy", npy(array))]))


def test_an_array_that_claims_more_than_there_is(tmp_path):
    data = bytearray(npy(PIXELS[0]))
    at = data.index(b"(8, 10, 3)")
    data[at : at + 10] = b"(80000,9 )"
    with bounded():
        assert "its header claims" in outcome(tar(tmp_path / "0.tar", [("a.npy", bytes(data))]))


def test_long_members_are_asked_for(tmp_path):
    path = tar(tmp_path / "0.tar", [("a.png", png(PIXELS[0]) + bytes(5000))])
    with pytest.raises(BootdiffError, match=r"a\.png: has 5,\d+ bytes, more than max_bytes \(1,000\)"):
        open_dataset(path, max_bytes=1000)
    assert len(open_dataset(path)) == 1


def test_missing_shards_and_packed_ones(pattern, tmp_path):
    said = outcome(pattern.parent / "{00..03}.tar")
    assert "1 of 7 files cannot be used: 03.tar: cannot be read (No such file or directory)" in said
    assert len(open_dataset(pattern.parent / "{00..03}.tar", on_error="skip")) == 7
    assert "2 of 2 shards cannot be used" in outcome(tmp_path / "none-{0..1}.tar")
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(bytes(1024)))
    for path in (tmp_path / "x.tar.gz", tmp_path / "{0..3}.tar.gz"):
        assert "gunzip NAME.tar.gz leaves NAME.tar" in outcome(path)
    os.mkfifo(tmp_path / "pipe-0.tar")
    assert "pipe-0.tar: is no regular file" in outcome(tmp_path / "pipe-{0..0}.tar")
    assert "are named one by one, or by braces" in outcome(pattern.parent)
    with pytest.raises(BootdiffError, match=r"range means nothing"):
        open_dataset(pattern, range=[0, 1])


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("a{8..10}", ["a8", "a9", "a10"]),
        ("a{08..10}", ["a08", "a09", "a10"]),
        ("{x,y}{0..1}", ["x0", "x1", "y0", "y1"]),
        ("{x,x}", ["x"]),
        ("{3..3}", ["3"]),
    ],
)
def test_braces(pattern, paths):
    assert expand(pattern) == paths


@pytest.mark.parametrize("pattern", ["{3..1}", "{}", "{x}", "{0..999999999}", "{0..999}{0..999}", "{a..c}"])
def test_braces_that_stand_for_nothing_or_too_much(pattern):
    with pytest.raises(BootdiffError, match=r"write \{00..19\} for numbers"):
        expand(pattern)


def test_a_shard_that_changes_while_it_is_in_use_is_named(pattern):
    source = reader.Shards(pattern, memory=0)
    path = pattern.parent / "00.tar"
    os.utime(path)
    with pytest.raises(BootdiffError, match=r"00\.tar/d/000\.png: lies in a shard that has changed"):
        source[0]
    assert np.array_equal(levels(source, 5), PIXELS[5])


def test_the_second_time_no_table_and_no_picture_is_read(pattern, tmp_path, monkeypatch):
    monkeypatch.setenv("BOOTDIFF_CACHE", str(tmp_path / "cache"))
    first = open_dataset(pattern, labels=True)
    monkeypatch.setattr(reader, "read_table", lambda path: pytest.fail(f"{path} is read"))
    monkeypatch.setattr(reader.Shards, "_decode", lambda self, data: pytest.fail("a picture is read"))
    second = open_dataset(pattern, labels=True)
    monkeypatch.undo()
    assert second.fingerprint() == first.fingerprint()
    for i in range(7):
        assert torch.equal(first[i].x, second[i].x)
        assert first[i].label == second[i].label


def test_a_rewritten_shard_is_read_again(pattern, tmp_path, monkeypatch):
    monkeypatch.setenv("BOOTDIFF_CACHE", str(tmp_path / "cache"))
    before = open_dataset(pattern)
    tar(pattern.parent / "01.tar", [("new.png", png(PIXELS[0, :, ::-1].copy()))])
    source = open_dataset(pattern)
    assert source.names[3:5] == ["01.tar/new.png", "02.tar/d/005.png"]
    assert np.array_equal(levels(source, 3), PIXELS[0, :, ::-1])
    assert source.fingerprint() != before.fingerprint()


def test_recipes_name_shards():
    recipe = load_recipe_text(
        "full: {path: 'shards/{00..19}.tar', labels: kind}\nviews: {v: {view: {kind: gray}, data: {path: gray.tar}}}\n"
    )
    assert recipe.full.path == "shards/{00..19}.tar"

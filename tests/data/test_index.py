"""What is known of files from the last time: believed of unchanged files, never needed, never beside the data."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import time

import numpy as np
import pytest
import torch
from PIL import Image

from bootdiff.data import Batches, Images, Mixture, Subset, open_dataset
from bootdiff.data import index as module
from bootdiff.data.index import Index, cache_folder, stamp_of
from bootdiff.data.options import ImageOptions
from bootdiff.data.readers import images as reader
from bootdiff.errors import BootdiffError

RNG = np.random.default_rng(0)
LONG_AGO = time.time() - 3600


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOTDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def read(monkeypatch):
    """The names of files that were read, since the list was cleared."""
    names = []

    def noting(path):
        names.append(path.name)
        return path.read_bytes()

    monkeypatch.setattr(reader, "read_file", noting)
    return names


def save(path, pixels=None, age=LONG_AGO):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (8, 10, 3), dtype=np.uint8) if pixels is None else pixels).save(path)
    os.utime(path, (age, age))
    return path


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        save(tmp_path / "data" / f"{i}.png")
    return tmp_path / "data"


def content(source):
    """Everything that a data set says, and its samples."""
    samples = [(source.name(i), source[i].x, source[i].mask, source[i].label) for i in range(len(source))]
    return source.fingerprint(), source.shape, source.notes, source.problems, samples


def same(a, b):
    assert content(a)[:4] == content(b)[:4]
    for one, other in zip(content(a)[4], content(b)[4], strict=True):
        assert one[0] == other[0]
        assert one[3] == other[3]
        torch.testing.assert_close(one[1], other[1], rtol=0, atol=0)
        assert (one[2] is None) == (other[2] is None)
        assert one[2] is None or torch.equal(one[2], other[2])


OPTIONS = {
    "plain": {},
    "skip": {"on_error": "skip"},
    "gray": {"channels": 1},
    "fitted": {"size": (4, 5), "fit": "crop"},
    "padded": {"size": (8, 8), "fit": "pad"},
    "own masks": {"masks": "alpha"},
    "masks": {"masks": True},
}


@pytest.mark.parametrize("memory", [512 << 20, 300, 0])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_second_time_no_file_is_read_and_everything_is_the_same(tmp_path, read, options, memory):
    folder = tmp_path / "data"
    for i in range(6):
        pixels = RNG.integers(0, 256, (8, 10, 3), dtype=np.uint8)
        if options.get("channels"):
            pixels[..., 1:] = pixels[..., :1] if i % 2 else pixels[..., 1:]  # every second one is gray
        if options.get("masks") == "alpha":
            pixels = np.dstack([pixels, np.where(np.arange(10) < 5, 255, 0)[None].repeat(8, 0).astype(np.uint8)])
        save(folder / f"{i}.png", pixels)
        if options.get("masks") is True:
            save(folder / f"{i}.mask.png", np.tile(np.arange(10, dtype=np.uint8) % 2 * 255, (8, 1)))

    def opened():
        return Images(folder, ImageOptions(**options), memory=memory)

    first = opened()
    assert read
    read.clear()
    second = opened()
    assert read == []
    same(first, second)
    # What finds room in memory is the same, too, and is decoded once.
    counts = []
    for source in (first, second):
        read.clear()
        content(source)
        counts.append(len(read))
    assert counts[0] == counts[1]
    assert (counts[0] == 0) == (memory > 300)


def test_a_worker_keeps_nothing_of_its_own(folder, read):
    open_dataset(folder)
    source = open_dataset(folder)
    elsewhere = copy.deepcopy(source)
    elsewhere._process = -1
    for one, count in ((source, 1), (elsewhere, 3)):
        read.clear()
        for _ in range(3):
            assert one[0].x.shape == (3, 8, 10)
        assert len(read) == count


def test_workers_share_what_is_in_memory(folder, read):
    open_dataset(folder)
    source = Subset(open_dataset(folder), range(4))
    mixed = Mixture([source, open_dataset(folder)])
    stream = Batches(mixed, batch_size=4, workers=1).stream()
    read.clear()
    next(stream)
    assert sorted(read) == sorted([f"{i}.png" for i in range(6)] * 2)  # here, not in the worker
    read.clear()
    assert source[0].x.shape == (3, 8, 10)
    assert read == []


def test_a_changed_file_is_seen(folder, read):
    before = open_dataset(folder)
    pixels = RNG.integers(0, 256, (8, 10, 3), dtype=np.uint8)
    save(folder / "3.png", pixels, age=LONG_AGO + 1)
    read.clear()
    source = open_dataset(folder)
    assert read == ["3.png"]
    assert source.fingerprint() != before.fingerprint()
    torch.testing.assert_close(source[3].x, torch.from_numpy(pixels).movedim(-1, 0) / 127.5 - 1)


def test_one_that_was_cut_short_is_named(folder):
    open_dataset(folder)
    path = folder / "3.png"
    path.write_bytes(path.read_bytes()[:100])
    os.utime(path, (LONG_AGO, LONG_AGO))  # another size at the same time
    with pytest.raises(BootdiffError, match=r"3\.png: .*(cut short|decoded)"):
        open_dataset(folder)
    assert len(open_dataset(folder, on_error="skip")) == 5


def test_a_file_of_the_same_size_and_time_is_the_limit_and_named_when_read(folder):
    open_dataset(folder)
    path = folder / "3.png"
    path.write_bytes(b"\0" * path.stat().st_size)
    os.utime(path, (LONG_AGO, LONG_AGO))
    source = open_dataset(folder)
    with pytest.raises(BootdiffError, match=r"3\.png: .*decoded"):
        source[3]


def test_added_and_deleted_files_are_seen(folder, read, cache):
    before = open_dataset(folder).fingerprint()
    added = save(folder / "more" / "7.png")
    read.clear()
    assert len(open_dataset(folder)) == 7
    assert read == ["7.png"]
    added.unlink()
    read.clear()
    assert open_dataset(folder).fingerprint() == before
    assert read == []
    (file,) = cache.rglob("*.json")
    assert b"7.png" not in file.read_bytes()


def test_a_part_of_the_files_does_not_drop_the_others(folder, read):
    open_dataset(folder)
    open_dataset(folder, limit=2)
    read.clear()
    open_dataset(folder)
    assert read == []


def test_a_file_that_was_just_written_is_read_again(folder, read):
    """Written twice within one tick of the clock, it would have the same time."""
    save(folder / "3.png", age=time.time() - 0.5)
    for _ in range(2):
        open_dataset(folder)
    assert read.count("3.png") == 2
    assert read.count("2.png") == 1


def test_what_is_written_while_it_is_read_is_read_again(folder, monkeypatch):
    path = folder / "3.png"

    def while_writing(it):
        data = it.read_bytes()
        if it == path:
            save(path, age=LONG_AGO + 1)
        return data

    monkeypatch.setattr(reader, "read_file", while_writing)
    before = open_dataset(folder).fingerprint()
    monkeypatch.undo()
    assert open_dataset(folder).fingerprint() != before


def test_other_settings_and_other_folders_do_not_mix(folder, tmp_path, read):
    other = tmp_path / "other"
    for i in range(6):
        save(other / f"{i}.png", np.zeros((8, 10), np.uint8) if i else np.full((8, 10), 9, np.uint8))
    for path in (folder, other):
        same(open_dataset(path), open_dataset(path))
    assert open_dataset(other).shape == (1, 8, 10)
    hole = np.dstack([np.zeros((8, 10, 3), np.uint8), np.full((8, 10), 100, np.uint8)])
    save(folder / "6.png", hole)
    assert open_dataset(folder, alpha="white")[6].x.max() > 0
    with pytest.raises(BootdiffError, match=r"6\.png: has transparent pixels"):
        open_dataset(folder)


def flip(text):
    return text.replace(b"0.png", b"9.png", 1)


def restated(change):
    """A file with the right checksum, whose content was changed."""

    def made(text):
        about, entries = json.loads(text.partition(b"\n")[2])
        body = json.dumps(change(about, entries)).encode()
        return hashlib.sha256(body).hexdigest().encode() + b"\n" + body

    return made


DAMAGES = {
    "empty": lambda text: b"",
    "cut": lambda text: text[:-40],
    "flipped": flip,
    "no text": lambda text: b"\0\xff" * 100,
    "another version": restated(lambda about, entries: [[about[0] + 1, *about[1:]], entries]),
    "another folder": restated(lambda about, entries: [[*about[:2], "/elsewhere", about[3]], entries]),
    "no table": restated(lambda about, entries: [about, [1, 2]]),
    "no pair": restated(lambda about, entries: 7),
    "odd entries": restated(lambda about, entries: [about, {n: [*e[:2], ["x", "y", {}]] for n, e in entries.items()}]),
    "short entries": restated(lambda about, entries: [about, dict.fromkeys(entries, 3)]),
    "deep": restated(lambda about, entries: [about, {n: [*e[:2], [[[]]]] for n, e in entries.items()}]),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_made_again(folder, read, cache, damage):
    before = open_dataset(folder)
    (file,) = cache.rglob("*.json")
    good = file.read_bytes()
    file.write_bytes(damage(good))
    read.clear()
    same(open_dataset(folder), before)
    assert len(read) == 6
    assert file.read_bytes() == good


def test_a_cache_that_says_something_else_is_found_out_when_read(folder, cache):
    open_dataset(folder)
    (file,) = cache.rglob("*.json")
    larger = restated(
        lambda about, entries: [about, {n: [*e[:2], [e[2][0], 9, *e[2][2:]]] for n, e in entries.items()}]
    )
    file.write_bytes(larger(file.read_bytes()))
    with pytest.raises(BootdiffError, match="has changed its size"):
        open_dataset(folder)[0]


@pytest.mark.parametrize("what", ["a file in its place", "not writable", "a pipe"])
def test_a_cache_that_cannot_be_written_changes_nothing(folder, cache, what, monkeypatch):
    if what == "a file in its place":
        cache.write_text("mine")
    elif what == "not writable":
        monkeypatch.setattr(module.os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "denied")))
    else:
        (cache / "index").mkdir(parents=True)
        os.mkfifo(Index(folder, (), bool)._path)
    for _ in range(2):
        assert len(open_dataset(folder)) == 6
    assert [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".json"] == []
    assert what != "a file in its place" or cache.read_text() == "mine"


def test_no_cache_where_none_is_wanted(folder, cache, read, monkeypatch, tmp_path):
    monkeypatch.setenv("BOOTDIFF_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    for _ in range(2):
        open_dataset(folder)
    assert len(read) == 12
    assert not cache.exists()
    assert not (tmp_path / "xdg").exists()


def test_nothing_is_written_beside_the_data(folder):
    before = sorted(folder.rglob("*"))
    open_dataset(folder)
    assert sorted(folder.rglob("*")) == before


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BOOTDIFF_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("BOOTDIFF_CACHE")
    for said in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", said)
        assert cache_folder() == tmp_path / ".cache" / "bootdiff"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "bootdiff"


def test_two_writers_leave_a_whole_file(folder, cache):
    one, other = (Index(folder, (), lambda value: isinstance(value, int)) for _ in range(2))
    stamp = stamp_of(folder / "0.png")
    one.put("0.png", stamp, 1)
    other.put("1.png", stamp_of(folder / "1.png"), 2)
    one.save(["0.png"])
    other.save(["1.png"])
    third = Index(folder, (), lambda value: isinstance(value, int))
    assert third.get("1.png", stamp_of(folder / "1.png")) == 2
    assert third.get("0.png", stamp) is None
    assert len(list(cache.rglob("*"))) == 2  # the folder and one file: nothing half-written

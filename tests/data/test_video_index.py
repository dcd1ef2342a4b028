"""Videos that are opened again: nothing is decoded that is known, and everything is the same."""

from __future__ import annotations

import os
import pickle
import time

import numpy as np
import pytest
import torch
from PIL import Image

from bootdiff.data.options import VideoOptions
from bootdiff.data.readers import videos as module
from bootdiff.data.readers.video_files import FrameFolder, Video
from bootdiff.data.readers.videos import Videos
from bootdiff.errors import BootdiffError

LONG_AGO = time.time() - 3600


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOTDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def age(folder):
    for path in folder.rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))


def film(seed, count=6, size=(8, 10)):
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def write_gif(path, frames):
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)


def write_frames(path, frames):
    path.mkdir()
    for k, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{k}.png")


def write_mp4(path, frames):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


WRITERS = {"gif": (write_gif, ".gif"), "frames": (write_frames, ""), "mp4": (write_mp4, ".mp4")}


@pytest.fixture(params=WRITERS)
def folder(request, tmp_path):
    made = tmp_path / "data"
    made.mkdir()
    write, ending = WRITERS[request.param]
    for k in range(3):
        write(made / f"film{k}{ending}", film(k, size=(16, 32)))
    age(made)
    return made


def content(source):
    samples = [(source.name(i), source[i].label, source[i].x) for i in range(len(source))]
    return source.fingerprint(), source.shape, source.rate, source.notes, source.problems.files, samples


def same(a, b):
    *one, samples = content(a)
    *other, again = content(b)
    assert one == other
    for (name, label, x), (its_name, its_label, its_x) in zip(samples, again, strict=True):
        assert (name, label) == (its_name, its_label)
        assert torch.equal(x, its_x)


def no_scan(*_):
    raise AssertionError("decoded")


@pytest.mark.parametrize("memory", [512 << 20, 16 * 32 * 3 * 6, 0])
@pytest.mark.parametrize(
    "options", [{}, {"frames": 2, "channels": 1}, {"on_error": "skip"}, {"size": (8, 8), "fit": "crop"}]
)
def test_the_second_time_nothing_is_decoded_to_open_them_and_all_is_the_same(folder, options, memory, monkeypatch):
    first = Videos(folder, VideoOptions(**options), memory=memory)
    with monkeypatch.context() as here:
        for kind in (Video, FrameFolder):
            here.setattr(kind, "scan", no_scan)
        again = Videos(folder, VideoOptions(**options), memory=memory)
    kept = {name for name in first.names if name in first._frames}
    assert again._to_keep == kept
    assert again._frames == {}
    pickle.dumps(again)
    same(first, again)
    assert set(again._frames) == kept  # decoded once, when they were first read


def test_a_changed_video_is_seen_and_others_are_not_decoded(folder, monkeypatch):
    first, seen = Videos(folder), []
    changed = sorted(folder.iterdir())[1]
    at = changed / "3.png" if changed.is_dir() else changed
    at.write_bytes(at.read_bytes() + b"\0")
    os.utime(at, (LONG_AGO + 60, LONG_AGO + 60))
    scanned = Videos._scanned
    monkeypatch.setattr(Videos, "_scanned", lambda self, name, *rest: seen.append(name) or scanned(self, name, *rest))
    assert Videos(folder).fingerprint() != first.fingerprint()
    assert seen == [changed.name]


def test_one_that_is_changed_after_it_was_opened_is_named(tmp_path):
    for k in range(2):
        write_gif(tmp_path / f"{k}.gif", film(k))
    age(tmp_path)
    Videos(tmp_path)
    again = Videos(tmp_path)  # knows them, and has decoded none
    write_gif(tmp_path / "1.gif", film(1, count=4))
    again[0]
    with pytest.raises(BootdiffError, match=r"1\.gif: has 4 frames and had 6 when it was opened"):
        again[1]


def test_a_damaged_video_is_decoded_and_named_each_time(folder):
    whole = sorted(folder.iterdir())[2]
    at = whole / "3.png" if whole.is_dir() else whole
    at.write_bytes(at.read_bytes()[: at.stat().st_size // 2])
    age(folder)
    for _ in range(2):
        with pytest.raises(BootdiffError, match=whole.name):
            Videos(folder)
        found = Videos(folder, VideoOptions(on_error="skip"))
        assert list(found.problems.files) == [whole.name]
        assert len(found) == 2


@pytest.mark.parametrize(
    "value",
    [
        None, [], ["d", 0, [8, 8, 3], None, None, None, [1, 1], []], ["d", 6, [8, 8], None, None, None, [1, 1], []],
        ["d", 6, [8, 8, 3], 25, None, None, [1, 1], []], ["d", 6, [8, 8, 3], 25.0, [0.0], None, [1, 1], []],
        ["d", 6, [8, 8, 3], 25.0, None, None, [1, 0], []], ["d", 6, [8, 8, 3], 25.0, None, None, [1, 1], [1, 2]],
        [b"d", 6, [8, 8, 3], 25.0, None, None, [1, 1], []], ["d", 6, [8, 8, 3], None, None, 3, [1, 1], []],
    ],
)  # fmt: skip
def test_what_is_no_note_of_a_video_is_not_used(value):
    assert not module._is_noted(value)
    assert module._is_noted(["d", 2, [8, 8, 3], 25.0, [0.0, 0.1], None, [1, 1], [0, 512]])

"""Videos on disk: frames, GIF and files through PyAV, each exactly; every bad file named, with its frame."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bootdiff.data import Videos, open_dataset
from bootdiff.data.options import VideoOptions
from bootdiff.errors import BootdiffError

av = pytest.importorskip("av")
RNG = np.random.default_rng(0)


def videos(path, memory: int = 512 << 20, **options) -> Videos:
    return Videos(path, VideoOptions(**options), memory=memory)


def clip(frames: int = 8, size: tuple[int, int] = (16, 24), seed: int = 0) -> np.ndarray:
    """A smooth gray ramp that brightens, so that a codec changes it little: (T, H, W, 3) uint8."""
    h, w = size
    ramp = np.linspace(0, 100, h)[:, None] + np.linspace(0, 50, w) + seed
    return np.stack([np.repeat((ramp + 6 * t)[..., None], 3, -1) for t in range(frames)]).astype(np.uint8)


def folder_of_frames(path: Path, frames: np.ndarray, start: int = 0) -> None:
    path.mkdir(parents=True)
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"frame{t + start}.png")


def encode(path: Path, frames: np.ndarray, fps: float = 25, codec: str = "libx264", aspect=(1, 1)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.thread_count = "yuv420p", 1
        stream.options = {"crf": "5", "g": "12"}
        stream.codec_context.sample_aspect_ratio = Fraction(*aspect)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def gif(path: Path, frames: np.ndarray, ms: int | list[int] = 40) -> None:
    pictures = [Image.fromarray(f) for f in frames]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=ms, loop=0)


def pixels(x: torch.Tensor) -> np.ndarray:
    return ((x + 1) * 127.5).round().numpy().astype(int)


def test_folders_of_frames_in_counting_order(tmp_path):
    for name in ("a", "b"):
        folder_of_frames(tmp_path / name, clip(11, seed=ord(name) % 7))
    source = open_dataset(tmp_path, kind="video")
    assert isinstance(source, Videos)
    assert source.shape == (3, 11, 16, 24)
    assert [source.name(i) for i in range(2)] == ["a", "b"]
    # frame2 comes before frame10.
    assert np.array_equal(pixels(source[1].x), np.moveaxis(clip(11, seed=ord("b") % 7), -1, 0))
    lazy = videos(tmp_path, memory=0)
    assert torch.equal(lazy[1].x, source[1].x)
    assert lazy.fingerprint() == source.fingerprint()
    assert videos(tmp_path, channels=1).shape == (1, 11, 16, 24)
    one = videos(tmp_path / "a")
    assert (len(one), one.name(0), one.shape) == (1, "a", source.shape)


def test_longer_videos_give_windows_and_shorter_ones_are_problems(tmp_path):
    for name, n in (("long", 11), ("four", 4), ("short", 3)):
        folder_of_frames(tmp_path / name, clip(n))
    with pytest.raises(
        BootdiffError, match=r"1 of 3 recordings .*\n  short: has 3 frames, frames asks for 4: too short"
    ):
        videos(tmp_path, frames=4)
    source = videos(tmp_path, frames=4, stride=3, on_error="skip")
    assert [source.name(i) for i in range(len(source))] == ["four", "long[0:4]", "long[3:7]", "long[6:10]"]
    assert np.array_equal(pixels(source[2].x), np.moveaxis(clip(11)[3:7], -1, 0))
    assert tuple(source.span(2)) == (1, 3, 7)
    assert [p.file for p in source.problems] == ["short"]
    assert len(videos(tmp_path, frames=4, on_error="skip")) == 3
    folder_of_frames(tmp_path / "other", clip(4))
    with pytest.raises(BootdiffError, match=r"long: has 11 frames, most have 4; say frames: 4 to cut windows"):
        videos(tmp_path)


@pytest.mark.parametrize("memory", [512 << 20, 0])
@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".webm", "libvpx-vp9"), (".mkv", "libx264")])
def test_video_files_are_read_exactly_again(tmp_path, memory, suffix, codec):
    encode(tmp_path / f"a{suffix}", clip(40), codec=codec)
    source = videos(tmp_path, frames=7, memory=memory)
    assert len(source) == 5
    assert source.rate == pytest.approx(25, rel=0.01)
    with av.open(str(tmp_path / f"a{suffix}")) as container:
        truth = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    # In any order, by seeking where frames are not kept.
    for i in (3, 0, 4):
        assert np.array_equal(pixels(source[i].x), np.moveaxis(truth[7 * i : 7 * i + 7], -1, 0))
    assert np.abs(truth.astype(int) - clip(40)).mean() < 4


def test_gif_and_single_files(tmp_path):
    gif(tmp_path / "a.gif", clip(6))
    source = open_dataset(tmp_path / "a.gif")
    assert (source.shape, source.rate) == ((3, 6, 16, 24), 25)
    assert np.array_equal(pixels(source[0].x), np.moveaxis(clip(6), -1, 0))
    assert torch.equal(videos(tmp_path, memory=0)[0].x, source[0].x)
    cut = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(cut[: len(cut) // 2])
    with pytest.raises(BootdiffError, match=r"a\.gif: (is cut short after frame \d|its stream is damaged at frame \d)"):
        videos(tmp_path)


def test_mixed_frame_rates_are_named_or_resampled(tmp_path):
    for k in range(2):
        encode(tmp_path / f"{k}.mp4", clip(10), fps=10)
    encode(tmp_path / "fast.mp4", clip(20), fps=20)
    with pytest.raises(
        BootdiffError, match=r"fast\.mp4: has 20 frames per second, most have 10; say fps: 10 to resample"
    ):
        videos(tmp_path, frames=5)
    source = videos(tmp_path, frames=5, fps=10)
    assert source.rate == 10
    assert len(source) == 6
    fast = next(i for i in range(6) if source.name(i).startswith("fast"))
    whole = videos(tmp_path / "fast.mp4")
    assert torch.equal(source[fast].x, whole[0].x[:, 0:10:2])
    assert torch.equal(videos(tmp_path, frames=5, fps=10, memory=0)[fast].x, source[fast].x)
    # Each frame of a slow film twice.
    double = videos(tmp_path / "0.mp4", fps=20)
    assert torch.equal(double[0].x[:, ::2], videos(tmp_path / "0.mp4")[0].x)
    assert torch.equal(double[0].x[:, 1], double[0].x[:, 0])


def test_uneven_times_need_a_rate(tmp_path):
    gif(tmp_path / "a.gif", clip(4), [40, 200, 40, 40])
    with pytest.raises(BootdiffError, match=r"a\.gif: shows frame 1 for 200 ms and most others for 40.*say fps"):
        videos(tmp_path)
    assert videos(tmp_path, fps=25).shape[1] == 8  # the second frame is shown five times as long


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_stream_damaged_in_the_middle_is_named_with_its_frame(tmp_path, suffix):
    codec = "libx264" if suffix == ".mp4" else "libvpx-vp9"
    noise = RNG.integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
    encode(tmp_path / f"good{suffix}", noise, codec=codec)
    data = bytearray((tmp_path / f"good{suffix}").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes((37 * i + 11) % 256 for i in range(2000))
    (tmp_path / f"bad{suffix}").write_bytes(data)
    # The readers of WebM and Matroska pass over what they cannot read: frames are missing there.
    said = "its stream is damaged at frame [1-9]" if suffix == ".mp4" else "shows frame [1-9]+ for .* lacks frames"
    with pytest.raises(BootdiffError, match=rf"bad\{suffix}: {said}"):
        videos(tmp_path)
    skipped = videos(tmp_path, on_error="skip")
    assert skipped.names == [f"good{suffix}"]
    assert skipped.problems[0].file == f"bad{suffix}"


def test_cut_and_foreign_files(tmp_path):
    encode(tmp_path / "a.webm", clip(40), codec="libvpx-vp9")
    data = (tmp_path / "a.webm").read_bytes()
    (tmp_path / "a.webm").write_bytes(data[: len(data) * 2 // 3])
    (tmp_path / "b.mp4").write_text("no video")
    folder_of_frames(tmp_path / "c", clip(3))
    (tmp_path / "c" / "frame1.png").write_text("no picture")
    folder_of_frames(tmp_path / "d", clip(3))
    Image.fromarray(clip(1, (8, 8))[0]).save(tmp_path / "d" / "frame2.png")
    with pytest.raises(BootdiffError) as caught:
        videos(tmp_path)
    for said in (
        r"a.webm: ends after frame",
        "b.mp4: cannot be decoded",
        "c: its frame frame1.png cannot be decoded",
        "d: changes its size at frame 2: 8 x 8 after 16 x 24",
    ):
        assert said in str(caught.value)
    with pytest.raises(BootdiffError, match=r"c: its frame frame1\.png cannot be decoded"):
        videos(tmp_path, memory=0)


def test_sizes_and_loose_pictures(tmp_path):
    folder_of_frames(tmp_path / "a", clip(3))
    folder_of_frames(tmp_path / "b", clip(3))
    folder_of_frames(tmp_path / "c", clip(3, (8, 8)))
    Image.fromarray(clip(1)[0]).save(tmp_path / "cover.png")
    with pytest.raises(BootdiffError) as caught:
        videos(tmp_path)
    assert "c: its frames are 8 x 8 pixels (height x width), not 16 x 24 as most are" in str(caught.value)
    assert "cover.png: is one of 1 loose picture(s) beside videos" in str(caught.value)
    (tmp_path / "none").mkdir()
    with pytest.raises(BootdiffError, match="it is empty"):
        videos(tmp_path / "none")
    encode(tmp_path / "x.mp4", clip(3))
    with pytest.raises(BootdiffError, match=r"several kinds .*say which kind is meant"):
        open_dataset(tmp_path)


def test_labels_from_folders_and_for_some(tmp_path):
    folder_of_frames(tmp_path / "cat" / "1", clip(3))
    folder_of_frames(tmp_path / "dog" / "2", clip(3))
    source = videos(tmp_path, labels=True)
    assert (source.classes, [source[i].label for i in range(2)]) == (["cat", "dog"], [0, 1])
    folder_of_frames(tmp_path / "3", clip(3))
    with pytest.raises(BootdiffError, match=r"\n  3: has no label.*unlabelled: keep"):
        videos(tmp_path, labels=True)
    some = videos(tmp_path, labels=True, unlabelled="keep")
    assert some.batch(range(3))[1].tolist() == [-1, 0, 1]


def save_mask(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray((mask * 255).astype(np.uint8)).save(path)


@pytest.mark.parametrize("memory", [512 << 20, 0])
def test_masks_one_for_all_frames_or_one_each(tmp_path, memory):
    folder_of_frames(tmp_path / "a", clip(8))
    encode(tmp_path / "b.mp4", clip(8))
    still, moving = np.ones((16, 24)), np.ones((8, 16, 24))
    still[:4] = 0
    for t in range(8):
        moving[t, t : t + 4] = 0
        save_mask(tmp_path / "b.mask" / f"{t}.png", moving[t])
    save_mask(tmp_path / "a.mask.png", still)
    source = videos(tmp_path, masks=True, frames=4, memory=memory)
    masks = source.batch(range(4))[2]
    assert masks.shape == (4, 1, 4, 16, 24)
    assert np.array_equal(masks[1, 0].numpy(), np.broadcast_to(still, (4, 16, 24)))
    assert np.array_equal(masks[3, 0].numpy(), moving[4:])
    assert torch.equal(videos(tmp_path, masks=True, frames=4)[3].mask, masks[3])


def test_bad_masks_are_named(tmp_path):
    for name in "abcde":
        folder_of_frames(tmp_path / name, clip(3))
    save_mask(tmp_path / "a.mask.png", np.ones((8, 8)))
    save_mask(tmp_path / "b.mask.png", np.zeros((16, 24)))
    save_mask(tmp_path / "c.mask" / "0.png", np.ones((16, 24)))
    for t in range(3):
        save_mask(tmp_path / "e.mask" / f"{t}.png", np.zeros((16, 24)))
    with pytest.raises(BootdiffError) as caught:
        videos(tmp_path, masks=True)
    for said in (
        "a: its mask a.mask.png is 8 x 8 pixels (height x width), the frames are 16 x 24",
        "b: its mask b.mask.png hides every pixel; white means observed",
        "c: has 1 masks in c.mask for 3 frames; one each is needed",
        "d: has no mask: need d.mask.png beside it, or a folder d.mask with one per frame",
        "e[0:3]: its masks hide all of this window",
    ):
        assert said in str(caught.value)


def test_without_pyav_the_message_says_what_to_install(tmp_path, monkeypatch):
    import sys

    (tmp_path / "a.mp4").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(BootdiffError, match=r"needs PyAV: pip install 'bootdiff\[video\]'"):
        videos(tmp_path)


def test_frames_and_files_survive_pickling_for_workers(tmp_path):
    import pickle

    encode(tmp_path / "a.mp4", clip(8))
    folder_of_frames(tmp_path / "b", clip(8))
    source = videos(tmp_path, memory=0)
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 (what a loader's worker gets)
    assert torch.equal(copy[0].x, source[0].x)
    assert torch.equal(copy[1].x, source[1].x)


def write(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(clip(1)[0]).save(path)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["frame_0000.png", "frame_0001.png", "frame_0007.png", "frame_0008.png"], "from frame_0001.png to frame_0007"),
        (["1.png", "3.png", "4.png", "5.png"], r"from 1\.png to 3\.png, most others follow by 1: frames are missing"),
        (["s01_f00.png", "s01_f05.png", "s01_f15.png", "s01_f20.png"], "most others follow by 5: frames are missing"),
        (["a0.png", "a1.png", "a1.jpg", "a2.png"], r"one frame twice, as a1\.jpg and as a1\.png"),
        (["a0.png", "a1.png", "a01.png", "a2.png"], "one frame twice, as a0?1.png and as a0?1.png"),
        (["A0.png", "A1.PNG", "a1.jpeg", "A2.png"], "one frame twice, as A1.PNG and as a1.jpeg"),
    ],
)
def test_missing_frames_and_frames_twice_are_problems_of_that_folder(tmp_path, names, said):
    for name in names:
        write(tmp_path / "a" / name)
    for name in ("0.png", "5.png", "10.png", "15.png"):
        write(tmp_path / "b" / name)
    with pytest.raises(BootdiffError, match=said):
        videos(tmp_path)
    source = videos(tmp_path, on_error="skip")
    assert source.names == ["b"]
    assert [p.file for p in source.problems] == ["a"]


@pytest.mark.parametrize(
    "names",
    [
        ["17.png", "18.png", "19.png"],
        ["1699.120.png", "1699.161.png", "1700.004.png"],
        ["120.png", "161.png", "200.png", "241.png"],
        ["first.png", "last.png", "middle.png"],
        ["10h.png", "11h.png", "13m.png"],
        ["0.png", "1.png", "5.png", "12.png"],
    ],
)
def test_frames_may_be_numbered_in_many_ways(tmp_path, names):
    for name in names:
        write(tmp_path / "a" / name)
    assert videos(tmp_path).shape[1] == len(names)


@pytest.mark.parametrize(("suffix", "aspect"), [(".mp4", (32, 27)), (".mkv", (16, 15)), (".mov", (1, 2))])
def test_pixels_that_are_not_square_are_named(tmp_path, suffix, aspect):
    encode(tmp_path / f"a{suffix}", clip(), aspect=aspect)
    encode(tmp_path / f"b{suffix}", clip(), aspect=(1279, 1280))  # as good as square
    with pytest.raises(
        BootdiffError, match=rf"a{suffix}: its pixels are not square \({aspect[0]}:{aspect[1]}\).*ignore"
    ):
        videos(tmp_path)
    assert videos(tmp_path, on_error="skip").names == [f"b{suffix}"]
    source = open_dataset(tmp_path, pixel_aspect="ignore")
    assert source.names == [f"a{suffix}", f"b{suffix}"]
    assert source.shape == (3, 8, 16, 24)
    with pytest.raises(BootdiffError, match="not square"):
        open_dataset(tmp_path / f"a{suffix}")


# --- frames of many sizes


def of_many_sizes(folder):
    """Videos of 16 x 24 and of twice that size, whose blocks of 2 x 2 are the small one's pixels."""
    small = clip(6)
    folder_of_frames(folder / "large", small.repeat(2, 1).repeat(2, 2))
    folder_of_frames(folder / "small", small)
    folder_of_frames(folder / "tall", small.repeat(2, 1).repeat(2, 2)[:, :, :24])
    return small


def test_frames_of_many_sizes_are_fitted_when_asked(tmp_path):
    small = of_many_sizes(tmp_path)
    with pytest.raises(BootdiffError, match=r"fit: resize, crop or pad") as refused:
        videos(tmp_path)
    assert "tall: its frames are 32 x 24 pixels (height x width), not " in str(refused.value)
    source = videos(tmp_path, size=[16, 24], fit="crop", on_error="skip", frames=3)
    assert source.shape == (3, 3, 16, 24)
    assert [source.name(i) for i in (0, 2)] == ["large[0:3]", "small[0:3]"]
    want = torch.from_numpy(np.moveaxis(small[:3], -1, 0).astype(np.int64))
    for i in (0, 2):
        assert np.array_equal(pixels(source[i].x), want.numpy())
    tall = source[4].x  # the middle 16 x 24 of 32 x 24
    assert np.array_equal(pixels(tall), np.moveaxis(small.repeat(2, 1).repeat(2, 2)[:3, 8:24, :24], -1, 0))
    assert source.notes[0] == (
        "1 resized, 1 as they were, 1 cropped (fit: crop to 16 x 24; 32 x 48 (1 file), 16 x 24 (1), 32 x 24 (1))"
    )
    lazy = videos(tmp_path, size=[16, 24], fit="crop", frames=3, memory=0)
    assert all(torch.equal(lazy[i].x, source[i].x) for i in range(len(source)))
    assert not source.masked
    with pytest.raises(BootdiffError, match=r"small: is 16 x 24 pixels .* too small for 20 x 24 .* never enlarged"):
        videos(tmp_path, size=[20, 24], fit="resize")
    with pytest.raises(BootdiffError, match="fit: pad does not say to which size"):
        videos(tmp_path, fit="pad")


def test_what_is_padded_is_not_observed_in_any_frame_and_masks_are_fitted(tmp_path):
    small = of_many_sizes(tmp_path)
    source = videos(tmp_path, size=[16, 24], fit="pad")
    assert source.masked
    large, _, tall = (source[i] for i in range(3))
    assert large.mask.shape == (1, 6, 16, 24)
    assert large.mask.all()
    assert torch.equal(tall.mask[0, 3], torch.tensor([0.0] * 6 + [1.0] * 12 + [0.0] * 6).expand(16, 24))
    assert np.array_equal(pixels(tall.x)[:, :, :, 6:18], np.moveaxis(small[:, :, :12], -1, 0))
    hidden = np.full((32, 48), 255, np.uint8)
    hidden[:5] = 0  # half of the third row of blocks
    Image.fromarray(hidden).save(tmp_path / "large.mask.png")
    for name, size in (("small", (16, 24)), ("tall", (32, 24))):
        Image.fromarray(np.full(size, 255, np.uint8)).save(tmp_path / f"{name}.mask.png")
    masked = videos(tmp_path, size=[16, 24], fit="pad", masks=True)
    seen = masked[0].mask
    assert not seen[:, :, :3].any()
    assert seen[:, :, 3:].all()
    assert torch.equal(masked[2].mask, tall.mask)
    assert torch.equal(videos(tmp_path, size=[16, 24], fit="pad", masks=True, memory=0)[0].mask, seen)


@pytest.mark.parametrize("fit", ["resize", "crop"])
def test_views_of_films_are_fitted_as_the_full_films_are(tmp_path, fit):
    """A still or a clip of a film, made from the file and fitted to its own size, is the fitted film's."""
    from bootdiff.data.readers.fitting import Fitting, size_through
    from bootdiff.views import Compose, Downsample, FrameWindow, Stills

    full = (3, 6, 16, 24)
    for view in (FrameWindow(2), Stills(), Compose(Downsample(2), Stills())):
        shown = size_through(view, full, fit, "here")
        assert shown == tuple(view.shape(full)[-2:])
        film = RNG.integers(0, 255, (32, 56, 3)).astype(np.float64)  # one frame
        fitted = Fitting(fit, (16, 24)).pixels(film)
        straight = Fitting(fit, shown).pixels(film)
        k = 16 // shown[0]
        blocks = fitted.reshape(shown[0], k, shown[1], k, 3).mean((1, 3))
        np.testing.assert_allclose(straight, blocks, atol=1e-9)

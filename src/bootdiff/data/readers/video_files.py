"""One video: all of its frames in order, or some of them again.

Folders of frames and animated GIF and WebP files go through Pillow, everything else through PyAV (extra ``video``).
A video is scanned once, from end to end and one frame at a time; what is kept are its times, and its frames where
there is memory for them. Frames are found again exactly: a seek lands on the key frame before, and decoding goes on to
the frame of the same time stamp.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bootdiff.data.options import MAX_FRAMES, MAX_PIXELS
from bootdiff.data.readers.decode import (
    Undecodable,
    check_pixels,
    check_regular,
    decode,
    from_pillow,
    glance,
    own_limit,
    read_file,
)
from bootdiff.errors import BootdiffError

__all__ = [
    "PYAV_SUFFIXES", "FrameFolder", "PillowVideo", "PyAVVideo", "Video", "VideoInfo", "nearest_frames", "open_video",
    "uneven_spacing",
]  # fmt: skip

_PILLOW = {".gif": "GIF", ".webp": "WEBP"}
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,mpegtsraw"  # FFmpeg's names
PYAV_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg")


@dataclass
class VideoInfo:
    """What a video is: count of frames, (height, width, channels), frames per second (None: not known), times in
    seconds (None: not known), frames in memory (None: too many), and what was converted at a loss."""

    count: int
    size: tuple[int, int, int]
    rate: float | None
    times: np.ndarray | None
    kept: list[np.ndarray] | None
    lost: str | None


class Video(ABC):
    """Frames are (H, W, 1 or 3), uint8 or uint16. Anything wrong with the file raises Undecodable, naming the frame.

    Attribute ``pixel_aspect``: width of a pixel as it is to be shown, over its height; known after `scan`.
    """

    pixel_aspect: Fraction = Fraction(1)

    def learned(self) -> list[int]:
        """What `read` needs beside the file, known after `scan`: nothing by default."""
        return []

    def recall(self, learned: list[int]) -> None:
        """In place of `scan`: what was learned by an earlier one."""
        assert not learned

    @abstractmethod
    def frames(self) -> Iterator[tuple[float | None, np.ndarray, str | None]]:
        """Time, frame and lossy conversion of all frames in order."""

    @abstractmethod
    def read(self, indices: Sequence[int]) -> list[np.ndarray]:
        """The frames of these numbers, which rise and may repeat. Only after `scan`."""

    def scan(self, budget: int, most: int = MAX_FRAMES) -> VideoInfo:
        """Every frame once; they are kept while they fit into `budget` bytes. Not more than `most` frames."""
        kept: list[np.ndarray] | None = []
        stamps: list[float | None] = []
        size: tuple[int, ...] | None = None
        lost = None
        used = 0
        for k, (time, frame, loss) in enumerate(self.frames()):
            if k == most:
                raise Undecodable(_too_many(most))
            if size is None or frame.shape[-1] > size[-1]:
                size = frame.shape if size is None else (*size[:2], frame.shape[-1])
            if frame.shape[:2] != size[:2]:
                raise Undecodable(f"changes its size at frame {k}: {_by(frame.shape)} after {_by(size)} pixels")
            stamps.append(time)
            lost = lost or loss
            used += frame.nbytes
            if used > budget:
                kept = None
            if kept is not None:
                kept.append(frame)
        if size is None:
            raise Undecodable("holds no frame")
        times = None if any(t is None for t in stamps) else np.asarray(stamps, dtype=np.float64)
        return VideoInfo(len(stamps), size, _rate(times), times, kept, lost)  # type: ignore[arg-type]


class FrameFolder(Video):
    """The pictures `names` in `folder`; their rate is not known. verify: decode all of them when scanning."""

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        alpha: str,
        note: Callable[[str, bytes], None],
        *,
        verify: bool = False,
        most: int = MAX_PIXELS,
    ) -> None:
        self.folder, self.names, self.alpha, self._verify = folder, list(names), alpha, verify
        self._most = most
        self._note: Callable[[str, bytes], None] | None = note

    def recall(self, learned: list[int]) -> None:
        """In place of `scan`: frames are not noted any more."""
        self._note = None

    def _bytes(self, name: str) -> bytes:
        try:
            return read_file(self.folder / name)
        except Undecodable as error:
            raise Undecodable(f"its frame {name} {error}") from None

    def _decode(self, name: str, data: bytes) -> tuple[np.ndarray, str | None]:
        try:
            return decode(data, self.alpha, self._most)
        except Undecodable as error:
            raise Undecodable(f"its frame {name} {error}") from None

    def frames(self) -> Iterator[tuple[float | None, np.ndarray, str | None]]:
        for name in self.names:
            data = self._bytes(name)
            if self._note is not None:
                self._note(name, data)
            pixels, lost = self._decode(name, data)
            yield None, pixels, lost
        self._note = None

    def scan(self, budget: int, most: int = MAX_FRAMES) -> VideoInfo:
        # Of frames in files of their own there are as many as there are files.
        if budget > 0 or self._verify:
            return super().scan(budget, len(self.names))
        # Too many to decode them all twice: headers and ends tell of most damage.
        size: tuple[int, int, int] | None = None
        lost = None
        for k, name in enumerate(self.names):
            data = self._bytes(name)
            if self._note is not None:
                self._note(name, data)
            try:
                height, width, channels, loss = glance(data, self.alpha, self._most)
            except Undecodable as error:
                raise Undecodable(f"its frame {name} {error}") from None
            lost = lost or loss
            size = (height, width, channels) if size is None else (*size[:2], max(size[2], channels))
            if (height, width) != size[:2]:
                raise Undecodable(
                    f"changes its size at frame {k} ({name}): {height} x {width} after {_by(size)} pixels"
                )
        self._note = None
        assert size is not None
        return VideoInfo(len(self.names), size, None, None, None, lost)

    def read(self, indices: Sequence[int]) -> list[np.ndarray]:
        return _each(indices, lambda i: self._decode(self.names[i], self._bytes(self.names[i]))[0])


class PillowVideo(Video):
    """An animated GIF or WebP file, its frames of at most `most` pixels."""

    def __init__(self, path: Path, alpha: str, most: int = MAX_PIXELS) -> None:
        self.path, self.alpha, self._most = path, alpha, most

    @contextmanager
    def _opened(self) -> Iterator[Image.Image]:
        check_regular(self.path)
        with own_limit():
            opened = Image.open(self.path, formats=[_PILLOW[self.path.suffix.lower()]])
        with opened as picture:
            check_pixels(*picture.size, self._most)
            yield picture

    def frames(self) -> Iterator[tuple[float | None, np.ndarray, str | None]]:
        time: float | None = 0.0
        count = 0
        try:
            with self._opened() as picture:
                for k in itertools.count():
                    try:
                        picture.seek(k)
                    except EOFError:
                        break
                    pixels, lost = self._frame(picture, k)
                    yield time, pixels, lost
                    count += 1
                    duration = picture.info.get("duration", 0)
                    time = time + duration / 1000 if duration and time is not None else None
        except Undecodable:
            raise
        except Exception as error:
            raise Undecodable(f"its stream is damaged at frame {count} ({error})") from None
        self._whole(count)

    def scan(self, budget: int, most: int = MAX_FRAMES) -> VideoInfo:
        # Counting goes from block to block and decodes nothing; what is damaged is said when it is decoded.
        many = False
        with suppress(Exception), self._opened() as picture:
            many = getattr(picture, "n_frames", 1) > most
        if many:
            raise Undecodable(_too_many(most))
        return super().scan(budget, most)

    def _frame(self, picture: Image.Image, k: int) -> tuple[np.ndarray, str | None]:
        try:
            picture.load()
            return from_pillow(picture.copy(), self.alpha)
        except Undecodable as error:
            raise Undecodable(f"its frame {k} {error}") from None
        except Exception as error:
            raise Undecodable(f"its stream is damaged at frame {k} ({error})") from None

    def _whole(self, count: int) -> None:
        """Pillow takes a file that is cut between two frames for a shorter one."""
        data = self.path.read_bytes()
        whole = data.rstrip(b"\0").endswith(b";")
        if self.path.suffix.lower() == ".webp":
            whole = len(data) >= int.from_bytes(data[4:8], "little") + 8
        if not whole:
            raise Undecodable(f"is cut short after frame {count - 1} (its end is missing)")

    def read(self, indices: Sequence[int]) -> list[np.ndarray]:
        with self._opened() as picture:

            def at(i: int) -> np.ndarray:
                picture.seek(i)
                return self._frame(picture, i)[0]

            return _each(indices, at)


class PyAVVideo(Video):
    """A file that PyAV reads: MP4, WebM and others, its frames of at most `most` pixels. Its sound and further streams
    are not looked at, and no other file is: lists of files and streams from a network are no videos.

    Raises BootdiffError where PyAV is not installed.
    """

    def __init__(self, path: Path, most: int = MAX_PIXELS) -> None:
        try:
            import av
        except ImportError:
            raise BootdiffError(
                f"{path}: this kind of video needs PyAV: pip install 'bootdiff[video]', or save frames as pictures"
            ) from None
        self.path, self._most, self._stamps = path, most, np.zeros(0, np.int64)
        del av

    def learned(self) -> list[int]:
        """The time stamps of all frames."""
        return [int(stamp) for stamp in self._stamps]

    def recall(self, learned: list[int]) -> None:
        """In place of `scan`: the time stamps of all frames."""
        self._stamps = np.asarray(learned, dtype=np.int64)

    def _decoded(self, start: int | None = None) -> Iterator[Any]:
        """PyAV's frames, all of them or those from the key frame before time stamp `start`."""
        import av

        count = 0
        end: float | None = None
        try:
            # Without these options damage is painted over.
            check_regular(self.path)
            options = {"err_detect": "explode", "format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
            # FFmpeg takes what stands before a colon for a protocol.
            with av.open(str(self.path.absolute()), options=options) as container:
                if not container.streams.video:
                    raise Undecodable("holds no video")
                stream = container.streams.video[0]
                check_pixels(stream.codec_context.width, stream.codec_context.height, self._most)
                self.pixel_aspect = stream.sample_aspect_ratio or Fraction(1)  # 0 and None: not known
                stream.codec_context.options = {"err_detect": "explode"}
                if start is not None:
                    container.seek(start, stream=stream, backward=True)
                for packet in container.demux(stream):
                    if packet.is_corrupt:
                        raise Undecodable(f"its stream is damaged at frame {count} (a packet is cut short)")
                    for frame in packet.decode():
                        if frame.is_corrupt:
                            raise Undecodable(f"its stream is damaged at frame {count}")
                        if frame.time is not None:
                            end = frame.time + (frame.duration or 0) * float(frame.time_base or 0)
                        yield frame
                        count += 1
                only = len(container.streams) == 1 and container.duration is not None
                tick = float(stream.time_base or 0)
                promised = stream.duration * tick if stream.duration is not None else None
                if promised is None and only:
                    promised = (container.duration or 0) / av.time_base
                rate = float(stream.average_rate or 25)
                first = (stream.start_time or 0) * tick
                if start is None and promised and end is not None and end - first < promised - 2.5 / rate:
                    raise Undecodable(
                        f"ends after frame {count - 1}, at {end - first:.2f} s of the {promised:.2f} s that its header "
                        "promises: it is cut short"
                    )
        except Undecodable:
            raise
        except (av.FFmpegError, OSError, ValueError, EOFError) as error:
            reason = getattr(error, "strerror", None) or error
            if count == 0:
                raise Undecodable(f"cannot be decoded ({reason}); it is damaged, cut short or no video") from None
            raise Undecodable(f"its stream is damaged at frame {count} ({reason})") from None

    def frames(self) -> Iterator[tuple[float | None, np.ndarray, str | None]]:
        stamps = []
        for frame in self._decoded():
            stamps.append(-1 if frame.pts is None else frame.pts)
            deep = max(part.bits for part in frame.format.components) > 8
            yield frame.time, _pixels(frame), f"{frame.format.name} to 8 bits" if deep else None
        self._stamps = np.asarray(stamps, dtype=np.int64)

    def read(self, indices: Sequence[int]) -> list[np.ndarray]:
        stamps = self._stamps
        # Without time stamps a frame can only be counted off.
        seekable = len(np.unique(stamps)) == len(stamps)
        try:
            found = self._find(indices, seek=seekable)
        except Undecodable:
            # Frames just behind a key frame may need those before it.
            found = None
        if found is None:
            found = self._find(indices, seek=False)
        if found is None:
            raise Undecodable("has changed since it was opened: frames are missing")
        return _each(indices, found.__getitem__)

    def _find(self, indices: Sequence[int], *, seek: bool) -> dict[int, np.ndarray] | None:
        wanted = set(indices)
        by_stamp = {int(self._stamps[i]): i for i in wanted}
        found: dict[int, np.ndarray] = {}
        for k, frame in enumerate(self._decoded(int(self._stamps[min(wanted)]) if seek else None)):
            i = by_stamp.get(frame.pts) if seek else (k if k in wanted else None)
            if i is not None:
                found[i] = _pixels(frame)
            if len(found) == len(wanted):
                return found
        return None


def open_video(path: Path, alpha: str, most: int = MAX_PIXELS) -> Video:
    """The reader of a video file, whose frames have at most `most` pixels."""
    return PillowVideo(path, alpha, most) if path.suffix.lower() in _PILLOW else PyAVVideo(path, most)


def _too_many(most: int) -> str:
    return f"has more than max_frames ({most:,}) frames: raise that if it is meant, or cut it into parts"


def nearest_frames(info: VideoInfo, fps: float) -> list[int]:
    """Frame numbers of a video at `fps` frames per second: each the nearest in time, ties to the earlier one.

    Raises Undecodable where the video's times are not known.
    """
    if info.times is None:
        raise Undecodable("does not say when its frames are shown, so fps cannot be met; leave fps out")
    t = info.times - info.times[0]
    wanted = np.arange(int(t[-1] * fps + 1e-6) + 1) / fps
    right = np.clip(np.searchsorted(t, wanted), 0, len(t) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(wanted - t[left] <= t[right] - wanted + 1e-9, left, right).tolist()


def _pixels(frame: Any) -> np.ndarray:
    """(H, W, 1 or 3) uint8, upright."""
    gray = frame.format.name.startswith("gray")
    pixels = frame.to_ndarray(format="gray" if gray else "rgb24")
    pixels = pixels[..., None] if gray else pixels
    turns = round((frame.rotation or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _each(indices: Sequence[int], at: Callable[[int], np.ndarray]) -> list[np.ndarray]:
    """`at(i)` for each index, the same one decoded once."""
    out: list[np.ndarray] = []
    for k, i in enumerate(indices):
        out.append(out[-1] if k and indices[k - 1] == i else at(i))
    return out


def _rate(times: np.ndarray | None) -> float | None:
    """Frames per second of evenly shown frames; None where unknown. Undecodable where they are not evenly shown."""
    if times is None or len(times) < 2:
        return None
    gaps = np.diff(times)
    if gaps.min() <= 0:
        raise Undecodable(f"its time stamps go back at frame {int(np.argmin(gaps)) + 1}")
    return (len(times) - 1) / float(times[-1] - times[0])


def uneven_spacing(info: VideoInfo) -> str | None:
    """What is wrong where frames are shown for times so different that they cannot count as evenly spaced."""
    if info.times is None or len(info.times) < 3:
        return None
    gaps = np.diff(info.times)
    usual = float(np.median(gaps))
    # Time stamps in whole milliseconds jitter by one.
    if gaps.max() - gaps.min() <= 0.5 * usual + 2e-3:
        return None
    k = int(np.argmax(np.abs(gaps - usual)))
    return (
        f"shows frame {k} for {1000 * gaps[k]:.0f} ms and most others for {1000 * usual:.0f}: its stream is damaged "
        "there and lacks frames, or it has no even rate; if so, say fps to resample it (nearest frame)"
    )


def _by(shape: Sequence[int]) -> str:
    return f"{shape[0]} x {shape[1]}"

"""Folders of videos: sub-folders of frames, GIF, WebP, and through PyAV MP4, WebM and others.

Pixels v of b bits come out as x = 2 v / (2^b - 1) - 1, samples as (C, T, H, W). Frames in a folder are sorted as people
count (frame2 before frame10). Nothing is resized, cropped or resampled unless asked for (`fit`, `fps`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from bootdiff.data.dataset import Dataset, Sample, Span
from bootdiff.data.folders import frame_problem, list_files, natural_order, nothing_found, passed_over
from bootdiff.data.index import Index, stamp_of
from bootdiff.data.options import VideoOptions
from bootdiff.data.readers.decode import IMAGE_SUFFIXES, Undecodable, read_file, to_channels
from bootdiff.data.readers.fitting import Fitting, fit_hint
from bootdiff.data.readers.images import file_digest, to_tensor
from bootdiff.data.readers.mask_files import MASK_SUFFIX, decode_mask, masks_beside, without_masks
from bootdiff.data.readers.pictures import STACK_SUFFIXES
from bootdiff.data.readers.reader import Reader
from bootdiff.data.readers.recordings import Recordings, long_file_digest
from bootdiff.data.readers.video_files import (
    PYAV_SUFFIXES,
    FrameFolder,
    Video,
    VideoInfo,
    nearest_frames,
    open_video,
    uneven_spacing,
)
from bootdiff.data.readers.volumes import Volumes
from bootdiff.data.transforms import windows
from bootdiff.data.units import Units
from bootdiff.errors import BootdiffError

__all__ = ["VIDEO_SUFFIXES", "VideoReader", "Videos"]

VIDEO_SUFFIXES = (*PYAV_SUFFIXES, ".gif")
_MASKS = ".mask"
_NEEDED = (*VIDEO_SUFFIXES, "sub-folders of frames")


class Videos(Recordings):
    """Videos in a folder, or one file, as windows of `frames` frames.

    A video is a file or a folder that holds frames; a folder that holds nothing but frames is one video.

    Args:
        path: the folder or file.
        options: frames: length of the windows (by default the length that most videos have); stride: frames between
            their starts (by default `frames`). fps: resample files to this many frames per second, each the nearest in
            time; folders of frames do not say their rate and are taken to be at the common one. pixel_aspect:
            "refuse" takes files whose pixels are not square for unusable, "ignore" as they are stored. labels: a
            video's class is the first sub-folder on its path. masks: beside ``name.mp4`` or the folder ``name`` lies
            ``name.mask.png``, one mask for all frames, or a folder ``name.mask`` with one per frame; white = observed.
            on_error, size, fit, channels, alpha, classes, unlabelled: as for Images.
        memory: bytes of decoded frames and masks that are kept.

    Raises BootdiffError for anything wrong with the files.
    """

    noun, key = "frames", "frames"

    def __init__(self, path: str | Path, options: VideoOptions | None = None, *, memory: int = 512 << 20) -> None:
        o = options or VideoOptions()
        super().__init__(path, o)
        self.options: VideoOptions = o
        self._square, self._most = o.pixel_aspect == "refuse", o.max_pixels
        self._alpha, self._budget, self._fps = o.alpha, memory, o.fps
        self.units = Units.of_range(0, 255, "pixels")
        size = None if o.size is None else (int(o.size[0]), int(o.size[1]))
        self._fitting = Fitting.of(o.fit, size, self.where)
        self.masked = bool(o.masks) or (self._fitting is not None and self._fitting.masks)
        fitted = [] if self._fitting is None else [o.fit]
        settings = (bool(o.labels), bool(o.masks), o.frames, o.stride, o.fps, size, o.channels, o.alpha, *fitted)
        self._hash.update(repr(settings).encode())
        made_with = (PIL.__version__, _pyav_version(), o.alpha, o.max_pixels, o.max_frames, o.on_error)
        self._index = Index(self.folder, ("videos", *made_with), _is_noted)
        self._to_keep: set[str] = set()  # videos that memory is reserved for: kept when they are first read
        self._videos: dict[str, Video] = {}
        self._frames: dict[str, list[np.ndarray]] = {}
        self._frame_numbers: dict[str, list[int]] = {}
        self._kept_masks: dict[str, np.ndarray] = {}
        self._counts: dict[str, int] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        listed = self._list()
        infos = {name: info for name in listed if (info := self._scan(name, listed[name])) is not None}
        self._index.save([n for name, frames in listed.items() for n in ([f"{name}/{f}" for f in frames] or [name])])
        del self._index  # not for data workers
        self._check_sizes(infos, size, o.channels)
        self._check_rates(
            {name: None if o.fps else info.rate for name, info in infos.items()},
            "frames per second",
            "say fps: {:.4g} to resample (nearest frame)",
        )
        self.rate = o.fps or self.rate
        self._check_lengths(o.frames)
        self._number_classes()
        dropped = self._check_masks() if o.masks else set()
        number = {name: k for k, name in enumerate(self._usable())}
        spans = {Span(number[n], start, start + self.steps) for n, start in dropped if n in number}
        hint = "" if self._fitting is not None else fit_hint(Counter(self._sizes.values()))
        self._finish(len(listed), spans, hint)
        self.shape = (self._channels, self.steps, *self._size)
        self._convert(infos)

    # -- opening ------------------------------------------------------------------------------------------------

    def _list(self) -> dict[str, list[str]]:
        """Videos by name, each with its frames' names, which a file has none of."""
        names = self._only or list_files(self.folder, "videos", self.problems.add)
        usable = [n for n in without_masks(names) if f"{_MASKS}/" not in n.lower()]
        videos: dict[str, list[str]] = {}
        for name in usable:
            parent, _, own = name.rpartition("/")
            if self._only is not None or name.lower().endswith(VIDEO_SUFFIXES) or self._animated(name):
                videos[name] = []
            elif name.lower().endswith(IMAGE_SUFFIXES):
                videos.setdefault(parent, []).append(own)
        if not videos:
            raise nothing_found(self.folder, usable, "videos", "a video", _NEEDED, self.problems)
        self.notes = passed_over(n for n in usable if not n.lower().endswith((*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)))
        loose = videos.pop("", [])
        if loose and not videos:
            return {self.folder.name: sorted(loose, key=natural_order)}
        if loose:
            self.problems.add(
                loose[0], f"is one of {len(loose)} loose picture(s) beside videos; a video's frames lie in a folder"
            )
        return {name: sorted(videos[name], key=natural_order) for name in sorted(videos)}

    def _animated(self, name: str) -> bool:
        if not name.lower().endswith(".webp"):
            return False
        try:
            data = read_file(self.folder / name)[:21]
        except Undecodable:
            return False  # reported as the frame that it is taken for
        # WebP container specification: flags of the VP8X chunk, bit 1 = animation.
        return len(data) == 21 and data[12:16] == b"VP8X" and bool(data[20] & 2)

    def _path(self, name: str) -> Path:
        return self.folder if name == self.folder.name and not (self.folder / name).exists() else self.folder / name

    def _scan(self, name: str, frames: list[str]) -> VideoInfo | None:
        path, digests = self._path(name), list[bytes]()
        try:
            if frames:
                reason = frame_problem(frames)
                if reason is not None:
                    raise Undecodable(reason)
                video: Video = FrameFolder(
                    path, frames, self._alpha, lambda n, data: digests.append(file_digest(f"{name}/{n}", data)),
                    verify=self.options.on_error == "skip", most=self._most,
                )  # fmt: skip
            else:
                video = open_video(path, self._alpha, self._most)
            info = self._known(name, path, frames, video, digests)
            if info is None:
                info = self._scanned(name, path, frames, video, digests)
            shown = video.pixel_aspect
            # Encoders round: 1279:1280 is square.
            if self._square and abs(shown - 1) > 0.02:
                raise Undecodable(
                    f"its pixels are not square ({shown.numerator}:{shown.denominator}), so that it is not shown as it "
                    "is stored; encode it with square pixels, or, if all files are alike, say pixel_aspect: ignore"
                )
            reason = uneven_spacing(info) if self._fps is None else None
            if reason:
                raise Undecodable(reason)
            if self._fps is not None and not frames:
                self._frame_numbers[name] = nearest_frames(info, self._fps)
        except Undecodable as error:
            self.problems.add(name, str(error))
            return None
        except OSError as error:
            self.problems.add(name, f"cannot be read ({error.strerror})")
            return None
        finally:
            for digest in digests:
                self._hash.update(digest)
        self._videos[name], self._counts[name] = video, info.count
        self._steps[name] = len(self._frame_numbers[name]) if name in self._frame_numbers else info.count
        if info.kept is not None:
            self._frames[name] = info.kept
            self._budget -= sum(frame.nbytes for frame in info.kept)
            info.kept = None
        return info

    def _known(self, name: str, path: Path, frames: list[str], video: Video, digests: list[bytes]) -> VideoInfo | None:
        """What was learned of a video when it was last opened, with its `digests`; None where it has changed."""
        names = [f"{name}/{f}" for f in frames] or [name]
        paths = [path / f for f in frames] or [path]
        noted = [self._index.get(n, stamp_of(p)) for n, p in zip(names, paths, strict=True)]
        if any(note is None for note in noted):
            return None
        _, count, size, rate, times, lost, aspect, learned = noted[0]
        video.recall(learned)
        video.pixel_aspect = Fraction(*aspect)
        times = None if times is None else np.asarray(times, dtype=np.float64)
        if (kept := count * math.prod(size)) <= self._budget:
            self._budget -= kept
            self._to_keep.add(name)
        digests += [note[0].encode() for note in noted]
        return VideoInfo(count, tuple(size), rate, times, None, lost)

    def _scanned(self, name: str, path: Path, frames: list[str], video: Video, digests: list[bytes]) -> VideoInfo:
        """What a video is, from all of its frames; noted for the next time."""
        names = [f"{name}/{f}" for f in frames] or [name]
        stamps = [stamp_of(p) for p in ([path / f for f in frames] or [path])]
        if not frames:
            digests.append(long_file_digest(name, path))
        info = video.scan(self._budget, self.options.max_frames)
        times = None if info.times is None else info.times.tolist()
        about = [info.count, list(info.size), info.rate, times, info.lost, list(video.pixel_aspect.as_integer_ratio())]
        for n, stamp, digest in zip(names, stamps, digests, strict=True):
            self._index.put(n, stamp, [digest.decode(), *about, video.learned()])
        return info

    def _check_sizes(self, infos: dict[str, VideoInfo], size: tuple[int, int] | None, channels: int | None) -> None:
        self._sizes = {name: info.size[:2] for name, info in infos.items()}
        frequent = Counter(self._sizes.values()).most_common(1)
        self._size = size if size is not None else (frequent[0][0] if frequent else (0, 0))
        alike = [info.size[2] for info in infos.values() if self._fitting or info.size[:2] == self._size]
        self._channels = channels or (Counter(alike).most_common(1)[0][0] if alike else 3)
        wanted = "as asked for" if size is not None else "as most are"
        for name, info in infos.items():
            if self._fitting is not None:
                if reason := self._fitting.problem(info.size):
                    self.problems.add(name, reason)
            elif info.size[:2] != self._size:
                want, found = (f"{s[0]} x {s[1]}" for s in (self._size, info.size))
                self.problems.add(name, f"its frames are {found} pixels (height x width), not {want} {wanted}")

    def _convert(self, infos: dict[str, VideoInfo]) -> None:
        self.converted: Counter[str] = Counter()
        for name in self.names:
            lost = infos[name].lost
            if name in self._frames:
                done = [to_channels(frame, self._channels) for frame in self._frames[name]]
                self._frames[name] = [frame for frame, _ in done]
                lost = lost or next((gray for _, gray in done if gray), None)
            elif infos[name].size[2] > self._channels:
                lost = lost or "colour to gray"
            if lost:
                self.converted[lost] += 1
            if self._fitting is not None:
                self._fitting.count(self._sizes[name])
        fitted = [] if self._fitting is None else self._fitting.said()
        self.notes = [*fitted, *(f"{n} video(s) converted: {what}" for what, n in self.converted.items()), *self.notes]
        for kept in (self._frames, self._videos, self._kept_masks, self._frame_numbers):
            for name in kept.keys() - set(self.names):
                del kept[name]

    # -- masks --------------------------------------------------------------------------------------------------

    def _mask_files(self, name: str) -> tuple[list[Path], bool]:
        """A video's masks, and whether it is one for all frames."""
        path = self._path(name)
        stem = path if isinstance(self._videos[name], FrameFolder) else path.with_suffix("")
        one, below = masks_beside(stem), stem.with_name(stem.name + _MASKS)
        if len(one) > 1:
            raise Undecodable(f"has {len(one)} masks, {one[0].name} and {one[1].name}; remove the wrong one")
        if one:
            return one, True
        if not below.is_dir():
            raise Undecodable(
                f"has no mask: need {stem.name}{MASK_SUFFIX} beside it, or a folder {below.name} with one per frame"
            )
        own = [p for p in below.iterdir() if p.name.lower().endswith(IMAGE_SUFFIXES) and not p.name.startswith(".")]
        if len(own) != self._counts[name]:
            raise Undecodable(
                f"has {len(own)} masks in {below.name} for {self._counts[name]} frames; one each is needed"
            )
        return sorted(own, key=lambda p: natural_order(p.name)), False

    def _check_masks(self) -> set[tuple[str, int]]:
        """Reads every mask; returns the windows (name, start) in which nothing is observed."""
        dropped = set()
        for name in self._usable():
            try:
                files, shared = self._mask_files(name)
                masks = []
                for file in files:
                    self._hash.update(file_digest(file.name, read_file(file)))
                    masks.append(self._mask(name, file, shared=shared))
            except (Undecodable, OSError) as error:
                reason = f"its masks cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
                self.problems.add(name, reason)
                continue
            if not shared:
                numbers = self._frame_numbers.get(name) or range(len(masks))
                observed = [bool(masks[i].any()) for i in numbers]
                for start in windows(self._steps[name], self.steps, self.options.stride):
                    stop = start + self.steps
                    if not any(observed[start:stop]):
                        dropped.add((name, start))
                        self.problems.add(f"{name}[{start}:{stop}]", "its masks hide all of this window")
            size = sum(mask.nbytes for mask in masks)
            if size <= self._budget:
                self._budget -= size
                self._kept_masks[name] = np.stack(masks)
        return dropped

    def _mask(self, name: str, file: Path, *, shared: bool) -> np.ndarray:
        """(H, W) bool, fitted. The mask of one frame may hide everything: a lost frame."""
        try:
            mask = decode_mask(read_file(file), self._sizes[name], "frames", all_hidden=not shared, most=self._most)
            if self._fitting is not None:
                mask = self._fitting.mask(self._sizes[name], mask)
                if shared and not mask.any():
                    raise Undecodable(f"leaves nothing once it is fitted to {self._size[0]} x {self._size[1]}")
            return mask
        except Undecodable as error:
            raise Undecodable(f"its mask {file.name} {error}") from None

    # -- reading ------------------------------------------------------------------------------------------------

    def _window(self, name: str, start: int, stop: int) -> Sample:
        numbers = self._frame_numbers.get(name)
        wanted = list(range(start, stop)) if numbers is None else numbers[start:stop]
        try:
            if name in self._to_keep:
                read = (to_channels(frame, self._channels)[0] for _, frame, _ in self._videos[name].frames())
                whole = list(read)
                if len(whole) != self._counts[name]:
                    raise Undecodable(f"has {len(whole)} frames and had {self._counts[name]} when it was opened")
                self._frames[name] = whole
                self._to_keep.discard(name)
            kept = self._frames.get(name)
            if kept is not None:
                frames = [kept[i] for i in wanted]
            else:
                frames = [to_channels(frame, self._channels)[0] for frame in self._videos[name].read(wanted)]
            if any(frame.shape[:2] != self._sizes[name] for frame in frames):
                raise Undecodable("has changed its size since it was opened")
            if self._fitting is not None:
                frames = [self._fitting.pixels(frame) for frame in frames]
            mask = self._window_mask(name, wanted) if self.masked else None
        except (Undecodable, OSError) as error:
            raise BootdiffError(f"{self._path(name)}: {error}. Mend or remove it and start again.") from None
        x = torch.stack([to_tensor(frame) for frame in frames], 1)
        return Sample(x, self._labels.get(name), mask)

    def _window_mask(self, name: str, wanted: Sequence[int]) -> torch.Tensor:
        """(1, T, H, W) float32."""
        kept = self._kept_masks.get(name)
        if not self.options.masks:
            assert self._fitting is not None
            kept = self._fitting.mask(self._sizes[name])[None]
        elif kept is None:
            files, shared = self._mask_files(name)
            files = [files[0]] if shared else [files[i] for i in wanted]
            kept = np.stack([self._mask(name, file, shared=shared) for file in files])
        elif len(kept) > 1:
            kept = kept[list(wanted)]
        mask = np.broadcast_to(kept, (len(wanted), *self._size))
        return torch.from_numpy(mask.astype(np.float32))[None]


def _pyav_version() -> str:
    try:
        return version("av")
    except PackageNotFoundError:
        return ""


def _is_noted(value: Any) -> bool:
    """Whether a value has the form of `Videos._scanned`."""
    if not isinstance(value, list) or len(value) != 8:
        return False
    digest, count, size, rate, times, lost, aspect, learned = value
    return (
        isinstance(digest, str)
        and type(count) is int
        and count > 0
        and isinstance(size, list)
        and len(size) == 3
        and all(type(n) is int and n > 0 for n in size)
        and (rate is None or type(rate) is float)
        and (
            times is None or (isinstance(times, list) and len(times) == count and all(type(t) is float for t in times))
        )
        and (lost is None or isinstance(lost, str))
        and isinstance(aspect, list)
        and len(aspect) == 2
        and all(type(n) is int and n > 0 for n in aspect)
        and isinstance(learned, list)
        and len(learned) in (0, count)
        and all(type(n) is int for n in learned)
    )


class VideoReader(Reader):
    """Folders of videos, and single files."""

    what, kinds, options = "a folder of videos", ("video",), VideoOptions
    suffixes, folder_suffixes = (*VIDEO_SUFFIXES, ".webp"), VIDEO_SUFFIXES

    def open(self, path: Path, options: VideoOptions) -> Dataset:
        self.refuse_names(path, options)
        names = [path.name] if path.is_file() else list_files(path, "videos", lambda name, reason: None)
        defaults = VideoOptions()
        if any(name.lower().endswith(STACK_SUFFIXES) for name in names):
            if options.fps is not None:
                raise BootdiffError(
                    f"{path}: holds files whose pictures have no times, so fps means nothing; remove it"
                )
            if options.fit != defaults.fit:
                raise BootdiffError(f"{path}: volumes are not fitted to a size; remove fit, and bring them to one size")
            return Volumes(path, options)
        for name in ("range", "missing", "slices"):
            if getattr(options, name) != getattr(defaults, name):
                raise BootdiffError(f"{path}: holds ordinary videos, to which {name} means nothing; remove it")
        return Videos(path, options)

"""Folders of videos: sub-folders of frames, GIF, WebP, and through PyAV MP4, WebM and others.

Pixels v of b bits come out as x = 2 v / (2^b - 1) - 1, samples as (C, T, H, W). Frames in a folder are sorted as people
count (frame2 before frame10). Nothing is resized, cropped or resampled unless asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bootdiff.data.dataset import Sample, Span, UnusableFile
from bootdiff.data.folders import natural, nothing_found, walk
from bootdiff.data.readers.decode import Undecodable, decode_mask, to_channels
from bootdiff.data.readers.images import SIDECAR, SUFFIXES, hashed, to_tensor
from bootdiff.data.readers.recordings import Recordings, file_hash, relative, windows
from bootdiff.data.readers.video_files import PYAV, Film, FrameFolder, Look, film_at, nearest, uneven
from bootdiff.data.units import Units
from bootdiff.errors import BootdiffError

__all__ = ["FILMS", "Videos"]

FILMS = (*PYAV, ".gif")
_MASKS = ".mask"
_SHOWN = (*FILMS, "sub-folders of frames")


class Videos(Recordings):
    """Videos in ``folder`` (or one video file) as a source of windows of `frames` frames.

    A video is a file or a folder that holds frames; a folder that holds nothing but frames is one video. frames: length
    of the windows (by default the length that most videos have); stride: frames between their starts (by default
    `frames`). fps: resample files to so many frames per second, each the nearest in time; folders of frames have no
    rate of their own and are taken to be at the common one. labels: a video's class is the first sub-folder on its
    path. masks: beside ``name.mp4`` or the folder ``name`` lies ``name.mask.png``, one mask for all frames, or a folder
    ``name.mask`` with one per frame; white = observed. on_error, size, channels, alpha, classes, memory, unlabelled: as
    for Images; memory also bounds what is kept of masks.

    Raises BootdiffError for anything wrong with the files, ValueError for wrong arguments.
    """

    noun, key = "frames", "frames"

    def __init__(
        self,
        folder: str | Path,
        labels: bool = False,
        masks: bool = False,
        *,
        frames: int | None = None,
        stride: int | None = None,
        fps: float | None = None,
        on_error: str = "refuse",
        size: Sequence[int] | None = None,
        channels: int | None = None,
        alpha: str = "refuse",
        classes: Sequence[str] | None = None,
        memory: int = 512 << 20,
        unlabelled: str = "refuse",
    ) -> None:
        super().__init__(str(folder), on_error, unlabelled)
        for name, value in (("frames", frames), ("stride", stride)):
            if value is not None and value < 1:
                raise ValueError(f"Videos: {name} must be 1 or more, got {value}")
        if fps is not None and not fps > 0:
            raise ValueError(f"Videos: fps must be above 0, got {fps}")
        self.folder, only = relative(Path(folder))
        self._alpha, self._budget, self._fps, self.masked = alpha, memory, fps, masks
        self.units = Units.of_range(0, 255)
        self._noted.update(repr((labels, masks, frames, stride, fps, size, channels, alpha)).encode())
        self._films: dict[str, Film] = {}
        self._frames: dict[str, list[np.ndarray]] = {}
        self._picks: dict[str, list[int]] = {}
        self._kept_masks: dict[str, np.ndarray] = {}
        self._counts: dict[str, int] = {}
        listed = self._listed(only)
        looks = {name: look for name in listed if (look := self._look(name, listed[name])) is not None}
        self._agree_on_size(looks, size, channels)
        self._agree_on_rate(
            {name: None if fps else look.rate for name, look in looks.items()},
            "frames per second",
            "say fps: {:.4g} to resample (nearest frame)",
        )
        self.rate = fps or self.rate
        self._agree_on_length(frames)
        self._label(labels, classes)
        dropped: set[tuple[str, int]] = set()
        if masks:
            dropped = self._check_masks(stride)
        number = {name: k for k, name in enumerate(self._usable())}
        spans = {Span(number[n], start, start + self.steps) for n, start in dropped if n in number}
        self._close(len(listed), stride, spans)
        self.shape = (self._channels, self.steps, *self._size)
        self._finish(looks)

    # -- opening ------------------------------------------------------------------------------------------------

    def _listed(self, only: list[str] | None) -> dict[str, list[str]]:
        """Videos by name, each with its frames' names, which a file has none of."""
        names = walk(self.folder, "videos") if only is None else only
        usable = [n for n in names if not n.lower().endswith(SIDECAR) and f"{_MASKS}/" not in n.lower()]
        videos: dict[str, list[str]] = {}
        for name in usable:
            parent, _, own = name.rpartition("/")
            if only is not None or name.lower().endswith(FILMS) or self._animated(name):
                videos[name] = []
            elif name.lower().endswith(SUFFIXES):
                videos.setdefault(parent, []).append(own)
        if not videos:
            raise nothing_found(self.folder, usable, "videos", "a video", _SHOWN)
        loose = videos.pop("", [])
        if loose and not videos:
            return {self.folder.name: sorted(loose, key=natural)}
        if loose:
            self._object(
                loose[0], f"is one of {len(loose)} loose picture(s) beside videos; a video's frames lie in a folder"
            )
        return {name: sorted(videos[name], key=natural) for name in sorted(videos)}

    def _animated(self, name: str) -> bool:
        if not name.lower().endswith(".webp"):
            return False
        head = (self.folder / name).open("rb")
        with head:
            # WebP container specification: flags of the VP8X chunk, bit 1 = animation.
            data = head.read(21)
        return data[12:16] == b"VP8X" and bool(data[20] & 2)

    def _path(self, name: str) -> Path:
        return self.folder if name == self.folder.name and not (self.folder / name).exists() else self.folder / name

    def _look(self, name: str, frames: list[str]) -> Look | None:
        path = self._path(name)
        try:
            if frames:
                film: Film = FrameFolder(
                    path, frames, self._alpha, lambda n, data: self._noted.update(hashed(f"{name}/{n}", data))
                )
            else:
                film = film_at(path, self._alpha)
                self._noted.update(file_hash(name, path))
            look = film.look(self._budget)
            reason = uneven(look) if self._fps is None else None
            if reason:
                raise Undecodable(reason)
            if self._fps is not None and not frames:
                self._picks[name] = nearest(look, self._fps)
        except Undecodable as error:
            self._object(name, str(error))
            return None
        except OSError as error:
            self._object(name, f"cannot be read ({error.strerror})")
            return None
        self._films[name], self._counts[name] = film, look.count
        self._steps[name] = len(self._picks[name]) if name in self._picks else look.count
        if look.kept is not None:
            self._frames[name] = look.kept
            self._budget -= sum(frame.nbytes for frame in look.kept)
            look.kept = None
        return look

    def _agree_on_size(self, looks: dict[str, Look], size: Sequence[int] | None, channels: int | None) -> None:
        frequent = Counter(look.size[:2] for look in looks.values()).most_common(1)
        self._size = (int(size[0]), int(size[1])) if size is not None else (frequent[0][0] if frequent else (0, 0))
        fitting = [look.size[2] for look in looks.values() if look.size[:2] == self._size]
        self._channels = channels or (Counter(fitting).most_common(1)[0][0] if fitting else 3)
        said = "as asked for" if size is not None else "as most are"
        for name, look in looks.items():
            if look.size[:2] != self._size:
                want, found = (f"{s[0]} x {s[1]}" for s in (self._size, look.size))
                self._object(name, f"its frames are {found} pixels (height x width), not {want} {said}")

    def _finish(self, looks: dict[str, Look]) -> None:
        self.converted: Counter[str] = Counter()
        for name in self.names:
            lost = looks[name].lost
            if name in self._frames:
                done = [to_channels(frame, self._channels) for frame in self._frames[name]]
                self._frames[name] = [frame for frame, _ in done]
                lost = lost or next((gray for _, gray in done if gray), None)
            elif looks[name].size[2] > self._channels:
                lost = lost or "colour to gray"
            if lost:
                self.converted[lost] += 1
        for kept in (self._frames, self._films, self._kept_masks, self._picks):
            for name in kept.keys() - set(self.names):
                del kept[name]

    # -- masks --------------------------------------------------------------------------------------------------

    def _mask_files(self, name: str) -> tuple[list[Path], bool]:
        """A video's masks, and whether it is one for all frames."""
        path = self._path(name)
        stem = path if isinstance(self._films[name], FrameFolder) else path.with_suffix("")
        one, below = stem.with_name(stem.name + SIDECAR), stem.with_name(stem.name + _MASKS)
        if one.exists():
            return [one], True
        if not below.is_dir():
            raise Undecodable(f"has no mask: need {one.name} beside it, or a folder {below.name} with one per frame")
        own = [p for p in below.iterdir() if p.name.lower().endswith(SUFFIXES) and not p.name.startswith(".")]
        if len(own) != self._counts[name]:
            raise Undecodable(
                f"has {len(own)} masks in {below.name} for {self._counts[name]} frames; one each is needed"
            )
        return sorted(own, key=lambda p: natural(p.name)), False

    def _check_masks(self, stride: int | None) -> set[tuple[str, int]]:
        """Looks at every mask; returns the windows (name, start) in which nothing is observed."""
        dropped = set()
        for name in self._usable():
            try:
                files, still = self._mask_files(name)
                seen = []
                for file in files:
                    self._noted.update(hashed(file.name, file.read_bytes()))
                    seen.append(self._mask(file, still))
            except Undecodable as error:
                self._object(name, str(error))
                continue
            if not still:
                picks = self._picks.get(name) or range(len(seen))
                observed = [bool(seen[i].any()) for i in picks]
                for start in windows(self._steps[name], self.steps, stride):
                    stop = start + self.steps
                    if not any(observed[start:stop]):
                        dropped.add((name, start))
                        self.problems.append(
                            UnusableFile(f"{name}[{start}:{stop}]", "its masks hide all of this window")
                        )
            size = sum(mask.nbytes for mask in seen)
            if size <= self._budget:
                self._budget -= size
                self._kept_masks[name] = np.stack(seen)
        return dropped

    def _mask(self, file: Path, still: bool) -> np.ndarray:
        """(H, W) bool. The mask of one frame may hide everything: a lost frame."""
        try:
            return decode_mask(file.read_bytes(), self._size, "frames", all_hidden=not still)
        except Undecodable as error:
            raise Undecodable(f"its mask {file.name} {error}") from None

    # -- reading ------------------------------------------------------------------------------------------------

    def _window(self, name: str, start: int, stop: int) -> Sample:
        picks = self._picks.get(name)
        wanted = list(range(start, stop)) if picks is None else picks[start:stop]
        try:
            kept = self._frames.get(name)
            if kept is not None:
                frames = [kept[i] for i in wanted]
            else:
                frames = [to_channels(frame, self._channels)[0] for frame in self._films[name].read(wanted)]
            if any(frame.shape[:2] != self._size for frame in frames):
                raise Undecodable("has changed its size since it was opened")
            mask = self._seen(name, wanted) if self.masked else None
        except (Undecodable, OSError) as error:
            raise BootdiffError(f"{self._path(name)}: {error}. Mend or remove it and start again.") from None
        x = torch.stack([to_tensor(frame) for frame in frames], 1)
        return Sample(x, self._labels.get(name), mask)

    def _seen(self, name: str, wanted: Sequence[int]) -> torch.Tensor:
        """(1, T, H, W) float32."""
        kept = self._kept_masks.get(name)
        if kept is None:
            files, still = self._mask_files(name)
            kept = np.stack([self._mask(file, still) for file in ([files[0]] if still else [files[i] for i in wanted])])
        elif len(kept) > 1:
            kept = kept[list(wanted)]
        seen = np.broadcast_to(kept, (len(wanted), *self._size))
        return torch.from_numpy(seen.astype(np.float32))[None]

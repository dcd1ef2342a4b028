"""Files of several pictures as videos: the slices of a volume, the frames of a DICOM file, the pages of a TIFF.

Each such file is a recording, its pictures in their order the frames, (C, T, H, W). Files of one picture each are the
frames of their folder: by the numbers that DICOM gives them, else sorted as people count. Values, gaps and slices are
those of `pictures`. A recording of which one picture cannot be used is not used at all: frames follow each other.
"""

from __future__ import annotations

from pathlib import Path

import torch

from bootdiff.data.dataset import Sample
from bootdiff.data.folders import natural_order
from bootdiff.data.options import ImageOptions, VideoOptions
from bootdiff.data.readers.pictures import SciencePictures
from bootdiff.data.readers.recordings import Recordings

__all__ = ["Volumes"]


class Volumes(Recordings):
    """The files in a folder, or one, as windows of `frames` pictures.

    Args:
        path: the folder or file.
        options: frames, stride, labels as for `Videos`, all others as for `SciencePictures`.
        memory: bytes of decoded pictures that are kept.

    Raises BootdiffError for anything wrong with the files, or where a library is not installed.
    """

    noun, key = "frames", "frames"

    def __init__(self, path: str | Path, options: VideoOptions | None = None, *, memory: int = 512 << 20) -> None:
        o = options or VideoOptions()
        super().__init__(path, o)
        alike = (
            "channels",
            "alpha",
            "masks",
            "size",
            "range",
            "missing",
            "slices",
            "on_error",
            "units",
            "std",
            "max_pixels",
            "max_bytes",
        )
        pictures = ImageOptions(kind="image", **{name: getattr(o, name) for name in alike})
        self.pictures = SciencePictures(path, pictures, memory=memory)
        self.units, self.notes, self.masked = self.pictures.units, self.pictures.notes, self.pictures.masked
        if uneven := [pair for pair in self.pictures.apart() if not 0.99 < pair[0] / pair[1] < 1.01]:
            said = ", ".join(f"{apart:.3g} and {pixel:.3g} mm" for apart, pixel in sorted(uneven)[:3])
            self.notes = [*self.notes, f"voxels are not cubes: slices and rows are {said} apart; nothing is resampled"]
        for problem in self.pictures.problems:
            self.problems.add(problem.file, problem.reason)
        self._at: dict[str, list[int]] = {}
        usable = {name: i for i, name in enumerate(self.pictures.names)}
        for name, parts in self._recordings().items():
            self._at[name] = [usable[part] for part in parts if part in usable]
            self._steps[name] = len(parts)
            if len(self._at[name]) < len(parts):
                lost = len(parts) - len(self._at[name])
                self.problems.add(name, f"{lost} of its {len(parts)} pictures cannot be used")
        self._check_lengths(o.frames)
        self._number_classes()
        self._hash.update(repr((self.pictures.fingerprint(), o.frames, o.stride, bool(o.labels))).encode())
        self._finish(len(self._steps))
        channels, height, width = self.pictures.shape
        self.shape = (channels, self.steps, height, width)

    def _recordings(self) -> dict[str, list[str]]:
        """The pictures of each recording, in order."""
        found: dict[str, list[tuple[float | None, str]]] = {}
        for picture, file, count, number in self.pictures.listed():
            parent = file.rpartition("/")[0] or self.pictures.folder.name
            found.setdefault(file if count > 1 else parent, []).append((number, picture))
        recordings = {}
        for name, parts in found.items():
            numbers = [number for number, _ in parts]
            if None in numbers or len(set(numbers)) < len(numbers):
                recordings[name] = sorted((picture for _, picture in parts), key=natural_order)
            else:
                recordings[name] = [picture for _, picture in sorted(parts)]
        return recordings

    def _window(self, name: str, start: int, stop: int) -> Sample:
        frames = [self.pictures[i] for i in self._at[name][start:stop]]
        masks = [frame.mask for frame in frames if frame.mask is not None]
        mask = torch.stack(masks, 1) if masks else None
        return Sample(torch.stack([frame.x for frame in frames], 1), self._labels.get(name), mask)

"""A folder of pictures: PNG, JPEG, WebP, BMP and AVIF, at any depth of sub-folders, in sorted order.

Pixels v of b bits come out as x = 2 v / (2^b - 1) - 1; 16-bit files keep their depth. Nothing is resized or cropped
unless asked for (`fit`, see `fitting`), and nothing is converted silently: gray in a colour folder is repeated (exact),
any other conversion is counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bootdiff.data.dataset import Dataset, Sample, UnusableFile, spaced_indices
from bootdiff.data.folders import classes_by_folder, list_files, nothing_found, passed_over, unusable_files
from bootdiff.data.options import ImageOptions
from bootdiff.data.readers.decode import Undecodable, decode, decode_mask, read_file, read_header, to_channels
from bootdiff.data.readers.fitting import Fitting, fit_hint
from bootdiff.data.units import Units
from bootdiff.errors import BootdiffError

__all__ = ["IMAGE_SUFFIXES", "MASK_SUFFIX", "Images", "file_digest", "mask_name", "to_tensor"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".avif")
MASK_SUFFIX = ".mask.png"
_HASHED = 1 << 20  # files up to this many bytes are hashed whole, longer ones by their ends and length


class Images(Dataset):
    """The pictures in ``folder``.

    Args:
        folder: where they lie, at any depth.
        options: labels: a sample's class is the first sub-folder on its path; unlabelled: "keep" allows pictures beside
            the classes' folders; classes fixes the class numbers. masks: beside ``name.png`` (or .jpg ...) lies the
            mask ``name.mask.png``, white = observed. on_error: "refuse" raises one error that lists what is wrong,
            "skip" leaves such files out and lists them in ``problems``. size, channels: as asked for, else what most
            have. fit: what becomes of files larger than ``size``; "pad" gives every sample a mask. alpha: for
            transparent pixels. limit: at most this many files, evenly spaced.
        memory: bytes of decoded pictures that are kept; while they fit, every file is decoded on opening, beyond them
            only its header and end are read.
        verify: decode every file on opening all the same.

    Attribute ``converted``: counts of inexact conversions, which ``notes`` say, too. Raises BootdiffError for anything
    wrong with the files.
    """

    _has_gaps = False  # whether the files themselves say what of them is not observed

    def __init__(
        self,
        folder: str | Path,
        options: ImageOptions | None = None,
        *,
        memory: int = 512 << 20,
        verify: bool = False,
    ) -> None:
        o = options or ImageOptions()
        self.folder, self.where, self._alpha = Path(folder), str(folder), o.alpha
        self.problems = []
        found = self._list()
        files = [found[i] for i in spaced_indices(len(found), o.limit)]
        self.units = Units.of_range(0, 255, "pixels")
        size = None if o.size is None else (int(o.size[0]), int(o.size[1]))
        self._fitting = Fitting.of(o.fit, size, self.where)
        self._masks_beside = bool(o.masks)
        self.masked = self._masks_beside or self._has_gaps or (self._fitting is not None and self._fitting.masks)
        settings = (o.labels, o.masks, size, o.channels, o.alpha, *([] if self._fitting is None else [o.fit]))
        self._hash = hashlib.sha256(repr(settings).encode())
        self._budget, self._verify = memory, verify
        self._pixels: dict[str, np.ndarray] = {}
        self._kept_masks: dict[str, np.ndarray] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        headers = {name: header for name in files if (header := self._read_header(name)) is not None}
        if headers:
            frequent = Counter(header[:2] for header in headers.values()).most_common(1)[0][0]
            self._size = frequent if size is None else size
            alike = [header[2] for header in headers.values() if self._fitting or header[:2] == self._size]
            self._channels = o.channels or (Counter(alike).most_common(1)[0][0] if alike else 3)
            self.shape = (self._channels, *self._size)
        wanted = "as asked for" if size is not None else "as most are"
        for name in headers:
            height, width = self._sizes[name]
            if self._fitting is not None:
                if reason := self._fitting.problem((height, width)):
                    self._add_problem(name, reason)
            elif (height, width) != self._size:
                want = f"{self._size[0]} x {self._size[1]}"
                self._add_problem(name, f"is {height} x {width} pixels (height x width), not {want} {wanted}")
        for name, (_, _, channels, _) in headers.items():
            if channels != self._channels and (channels, self._channels) not in ((1, 3), (3, 1)):
                self._add_problem(name, f"has {channels} channels, not {self._channels}, as most have")
        self._labels: dict[str, int] = {}
        if o.labels:
            self._labels, self.classes = classes_by_folder(headers, o.classes, o.unlabelled, self._add_problem)
            self.unlabelled = o.unlabelled == "keep"
        if o.masks:
            self._check_masks(list(headers))
        self._finish(files, headers, o.on_error)

    # -- opening ------------------------------------------------------------------------------------------------

    def _add_problem(self, name: str, reason: str) -> None:
        if all(problem.file != name for problem in self.problems):
            self.problems.append(UnusableFile(name, reason))

    def _list(self) -> list[str]:
        """Sorted paths, with forward slashes, of the pictures below the folder; masks are left out."""
        names = list_files(self.folder, "pictures", self._add_problem)
        pictures = [n for n in names if n.lower().endswith(IMAGE_SUFFIXES) and not n.lower().endswith(MASK_SUFFIX)]
        if not pictures:
            rest = [n for n in names if not n.lower().endswith(MASK_SUFFIX)]
            raise nothing_found(self.folder, rest, "pictures", "a picture", IMAGE_SUFFIXES, self.problems)
        self._passed_over = passed_over(n for n in names if not n.lower().endswith((*IMAGE_SUFFIXES, MASK_SUFFIX)))
        return pictures

    def _read_header(self, name: str) -> tuple[int, int, int, str | None] | None:
        """Height, width, channels and lossy conversion of a file; None and a problem where it cannot be used."""
        try:
            data = read_file(self.folder / name)
            self._hash.update(file_digest(name, data))
            if self._budget <= 0 and not self._verify:
                height, width, channels = read_header(data)
                self._sizes[name] = height, width
                return height, width, channels, None
            pixels, lost = decode(data, self._alpha)
        except Undecodable as error:
            self._add_problem(name, str(error))
            return None
        return (*self._keep(name, pixels), lost)

    def _keep(self, name: str, pixels: np.ndarray) -> tuple[int, int, int]:
        """Keeps decoded pixels, fitted, where there is memory for them; (H, W, C) as they were."""
        height, width, channels = pixels.shape
        self._sizes[name] = height, width
        pixels = self._fitted(pixels)
        self._budget -= pixels.nbytes
        if self._budget > 0:
            self._pixels[name] = pixels
        return height, width, channels

    def _load(self, name: str) -> np.ndarray:
        """(H, W, C) of a file, decoded again. Raises Undecodable."""
        return decode(read_file(self.folder / name), self._alpha)[0]

    def _fitted(self, pixels: np.ndarray) -> np.ndarray:
        if self._fitting is None or self._fitting.problem(pixels.shape):
            return pixels
        return self._fitting.pixels(pixels)

    def _mask(self, name: str) -> np.ndarray | None:
        """(h, w) bool, what is observed of a picture; None where all is. Raises Undecodable."""
        found = self._sizes[name]
        beside = None
        if self._masks_beside:
            beside = decode_mask(read_file(self.folder / mask_name(name)), found)
        if self._fitting is None or (beside is None and not self._fitting.masks):
            return beside
        mask = self._fitting.mask(found, beside)
        if not mask.any():
            raise Undecodable(f"leaves no pixel observed once it is fitted to {self._size[0]} x {self._size[1]}")
        return mask

    def _check_masks(self, names: list[str]) -> None:
        for name in names:
            try:
                data = read_file(self.folder / mask_name(name))
                self._hash.update(hashlib.sha256(data).digest())
                if self._fitting is None and self._sizes[name] != self._size:
                    continue  # a problem already
                mask = self._mask(name)
            except Undecodable as error:
                here = (self.folder / mask_name(name)).exists()
                self._add_problem(
                    name, f"its mask {mask_name(name)} {error}" if here else f"has no mask {mask_name(name)}"
                )
                continue
            assert mask is not None
            self._budget -= mask.nbytes
            if self._budget > 0:
                self._kept_masks[name] = mask

    def _finish(self, files: list[str], headers: dict, on_error: str) -> None:
        """Settles which files are used, and raises where none is or one is not that should be."""
        wrong = {problem.file for problem in self.problems}
        self.names = [name for name in files if name not in wrong]
        if self.problems and (on_error == "refuse" or not self.names):
            more = "" if self._fitting is not None else fit_hint(Counter(self._sizes.values()))
            raise unusable_files(self.where, self.problems, len(files), len(self.names), more=more)
        self.converted: Counter[str] = Counter()
        for name in self.names:
            lost = headers[name][3]
            if name in self._pixels:
                self._pixels[name], grayed = to_channels(self._pixels[name], self._channels)
                lost = lost or grayed
            elif headers[name][2] > self._channels:
                lost = lost or "colour to gray"
            if lost:
                self.converted[lost] += 1
            if self._fitting is not None:
                self._fitting.count(self._sizes[name])
        for name in self._pixels.keys() - set(self.names):
            del self._pixels[name]
        self.notes = [
            *([] if self._fitting is None else self._fitting.said()),
            *(f"{n} file(s) converted: {what}" for what, n in self.converted.items()),
            *self._passed_over,
        ]
        self._digest = self._hash.hexdigest()
        del self._hash  # hash objects cannot be sent to workers

    # -- reading ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[self._check_index(index)]

    def fingerprint(self) -> str:
        return hashlib.sha256((self._digest + repr((self.names, self.classes, self.shape))).encode()).hexdigest()

    def __getitem__(self, index: int) -> Sample:
        name = self.name(index)
        try:
            pixels = self._pixels.get(name)
            if pixels is None:
                pixels = self._fitted(self._load(name))
                pixels, _ = to_channels(pixels, self._channels)
                if pixels.shape[:2] != self._size:
                    raise Undecodable("has changed its size since the folder was opened")
            mask = None
            if self.masked:
                kept = self._kept_masks.get(name)
                observed = self._mask(name) if kept is None else kept
                assert observed is not None
                mask = torch.from_numpy(observed.astype(np.float32))[None]
        except Undecodable as error:
            raise BootdiffError(
                f"{self.folder / name}: {error}. Mend or remove the file and start again; "
                "verify=True finds all such files on opening."
            ) from None
        return Sample(to_tensor(pixels), self._labels.get(name), mask)


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(H, W, C) uint8 or uint16 -> (C, H, W) float32 in [-1, 1]; floats are in stored coordinates already."""
    x = torch.from_numpy(np.moveaxis(pixels, -1, 0).astype(np.float32))
    if pixels.dtype.kind == "f":
        return x.contiguous()
    return x.mul_(2 / np.iinfo(pixels.dtype).max).sub_(1).contiguous()


def file_digest(name: str, data: bytes) -> bytes:
    """What stands for a file in a fingerprint: its name, length, and the hash of all of it, or of its ends if long."""
    part = data if len(data) <= _HASHED else data[: _HASHED // 2] + data[-_HASHED // 2 :]
    return repr((name, len(data), hashlib.sha256(part).hexdigest())).encode()


def mask_name(name: str) -> str:
    """The mask beside a picture."""
    return name[: name.rindex(".")] + MASK_SUFFIX

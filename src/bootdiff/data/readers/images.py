"""A folder of pictures: PNG, JPEG and WebP, at any depth of sub-folders, in sorted order.

Pixels v of b bits come out as x = 2 v / (2^b - 1) - 1; 16-bit files keep their depth. Nothing is resized or cropped,
and nothing is converted silently: gray in a colour folder is repeated (exact), any other conversion is counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bootdiff.data.dataset import Dataset, Sample, spaced_indices
from bootdiff.data.folders import Problems, classes_by_folder, list_files, nothing_found, unusable_files
from bootdiff.data.options import ImageOptions
from bootdiff.data.readers.decode import (
    IMAGE_SUFFIXES,
    Transparent,
    Undecodable,
    decode,
    glance,
    read_file,
    split_alpha,
    to_channels,
)
from bootdiff.data.readers.mask_files import MASK_SUFFIX, decode_mask, is_opaque, masks_by_stem, without_masks
from bootdiff.data.readers.reader import Reader
from bootdiff.data.units import Units
from bootdiff.errors import BootdiffError

__all__ = ["ImageReader", "Images", "file_digest", "to_tensor"]

_HASHED = 1 << 20  # files up to this many bytes are hashed whole, longer ones by their ends and length


class Images(Dataset):
    """The pictures in ``folder``.

    Args:
        folder: where they lie, at any depth.
        options: labels: a sample's class is the first sub-folder on its path; unlabelled: "keep" allows pictures beside
            the classes' folders; classes fixes the class numbers. masks: beside ``name.png`` (or .jpg ...) lies its
            mask, ``name.mask.png`` (`mask_files`), white = observed; "alpha": what is transparent in the picture itself
            is not observed. on_error: "refuse" raises one error that lists what is wrong, "skip" decodes every file on
            opening, leaves out those that cannot be used and lists them in ``problems``. size, channels: as asked for,
            else what most have. alpha: for transparent pixels. limit: at most this many files, evenly spaced.
        memory: bytes of decoded pictures that are kept; while they fit, every file is decoded on opening, beyond them
            only its header and end are read (but see on_error).

    Attribute ``converted``: counts of inexact conversions. Raises BootdiffError for anything wrong with the files.
    """

    problems: Problems

    def __init__(self, folder: str | Path, options: ImageOptions | None = None, *, memory: int = 512 << 20) -> None:
        o = options or ImageOptions()
        self.folder, self.where, self.masked = Path(folder), str(folder), bool(o.masks)
        self._own_masks = o.masks == "alpha"
        self._alpha = "keep" if self._own_masks else o.alpha
        self.problems = Problems()
        found = self._list()
        files = [found[i] for i in spaced_indices(len(found), o.limit)]
        self.units = Units.of_range(0, 255, "pixels")
        size = None if o.size is None else (int(o.size[0]), int(o.size[1]))
        self._hash = hashlib.sha256(repr((o.labels, o.masks, size, o.channels, o.alpha)).encode())
        self._budget, self._verify = memory, o.on_error == "skip"
        self._pixels: dict[str, np.ndarray] = {}
        self._kept_masks: dict[str, np.ndarray] = {}
        headers = {name: header for name in files if (header := self._read_header(name)) is not None}
        if headers:
            frequent = Counter(header[:2] for header in headers.values()).most_common(1)[0][0]
            self._size = frequent if size is None else size
            fitting = [header[2] for header in headers.values() if header[:2] == self._size]
            self._channels = o.channels or (Counter(fitting).most_common(1)[0][0] if fitting else 3)
            self.shape = (self._channels, *self._size)
        wanted = "as asked for" if size is not None else "as most are"
        for name, (height, width, _, _) in headers.items():
            if (height, width) != self._size:
                want = f"{self._size[0]} x {self._size[1]}"
                self.problems.add(name, f"is {height} x {width} pixels (height x width), not {want} {wanted}")
        self._labels: dict[str, int] = {}
        if o.labels:
            self._labels, self.classes = classes_by_folder(headers, o.classes, o.unlabelled, self.problems.add)
            self.unlabelled = o.unlabelled == "keep"
        if self.masked and not self._own_masks:
            self._check_masks(list(headers))
        self._finish(files, headers, o.on_error)

    # -- opening ------------------------------------------------------------------------------------------------

    def _list(self) -> list[str]:
        """Sorted paths, with forward slashes, of the pictures below the folder; masks are left out."""
        names = list_files(self.folder, "pictures", self.problems.add)
        rest = without_masks(names)
        self._masks = masks_by_stem(names) if self.masked and not self._own_masks else {}
        pictures = [n for n in rest if n.lower().endswith(IMAGE_SUFFIXES)]
        if not pictures:
            raise nothing_found(self.folder, rest, "pictures", "a picture", IMAGE_SUFFIXES, self.problems)
        return pictures

    def _decode(self, data: bytes) -> tuple[np.ndarray, np.ndarray | None, str | None]:
        """A picture (H, W, 1 or 3), its own mask (H, W) bool where it has one, and what it was converted from."""
        pixels, lost = decode(data, self._alpha)
        pixels, opacity = split_alpha(pixels)
        if opacity is None:
            return pixels, None, lost
        mask = is_opaque(opacity, np.iinfo(opacity.dtype).max)
        if not mask.any():
            raise Undecodable("is transparent everywhere, so that nothing of it is observed")
        return pixels, mask, lost

    def _read_header(self, name: str) -> tuple[int, int, int, str | None] | None:
        """Height, width, channels and lossy conversion of a file; None and a problem where it cannot be used."""
        try:
            data = read_file(self.folder / name)
            self._hash.update(file_digest(name, data))
            if self._budget <= 0 and not (self._verify or self._own_masks):
                return glance(data, self._alpha)
            pixels, mask, lost = self._decode(data)
        except Transparent as error:
            self.problems.add(name, f"{error}; or, where they are not observed (partial data), masks: alpha")
            return None
        except Undecodable as error:
            self.problems.add(name, str(error))
            return None
        self._budget -= pixels.nbytes + (0 if mask is None else mask.nbytes)
        if self._budget > 0:
            self._pixels[name] = pixels
            if mask is not None:
                self._kept_masks[name] = mask
        return (*pixels.shape, lost)

    def _mask_name(self, name: str) -> str:
        """The mask beside a picture. Raises Undecodable where there is none, or several."""
        stem = name.rpartition(".")[0]
        found = self._masks.get(stem, [])
        if len(found) == 1:
            return found[0]
        if found:
            raise Undecodable(f"has {len(found)} masks, {found[0]} and {found[1]}; remove the wrong one")
        raise Undecodable(f"has no mask {stem}{MASK_SUFFIX}")

    def _read_mask(self, name: str) -> tuple[np.ndarray, bytes]:
        """The mask beside a picture, (H, W) bool, and its bytes. Raises Undecodable."""
        beside = self._mask_name(name)
        try:
            data = read_file(self.folder / beside)
            return decode_mask(data, self._size), data
        except Undecodable as error:
            raise Undecodable(f"its mask {beside} {error}") from None

    def _check_masks(self, names: list[str]) -> None:
        for name in names:
            try:
                mask, data = self._read_mask(name)
            except Undecodable as error:
                self.problems.add(name, str(error))
                continue
            self._hash.update(hashlib.sha256(data).digest())
            self._budget -= mask.nbytes
            if self._budget > 0:
                self._kept_masks[name] = mask

    def _finish(self, files: list[str], headers: dict, on_error: str) -> None:
        """Settles which files are used, and raises where none is or one is not that should be."""
        self.names = [name for name in files if name not in self.problems.files]
        if self.problems and (on_error == "refuse" or not self.names):
            raise unusable_files(self.where, self.problems, len(files), len(self.names))
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
        for name in self._pixels.keys() - set(self.names):
            del self._pixels[name]
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
            pixels, mask = self._pixels.get(name), self._kept_masks.get(name)
            if pixels is None:
                decoded, own, _ = self._decode(read_file(self.folder / name))
                pixels, mask = to_channels(decoded, self._channels)[0], own if self._own_masks else mask
                if pixels.shape[:2] != self._size:
                    raise Undecodable("has changed its size since the folder was opened")
            if self._own_masks and mask is None:
                mask = np.ones(self._size, bool)  # a picture without an alpha channel
            if self.masked and mask is None:
                mask = self._read_mask(name)[0]
        except Undecodable as error:
            raise BootdiffError(
                f"{self.folder / name}: {error}. Mend or remove the file and start again; on_error: skip decodes every "
                "file on opening and leaves such ones out."
            ) from None
        observed = None if mask is None else torch.from_numpy(mask.astype(np.float32))[None]
        return Sample(to_tensor(pixels), self._labels.get(name), observed)


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(H, W, C) uint8 or uint16 -> (C, H, W) float32 in [-1, 1]."""
    x = torch.from_numpy(np.moveaxis(pixels, -1, 0).astype(np.float32))
    return x.mul_(2 / np.iinfo(pixels.dtype).max).sub_(1).contiguous()


def file_digest(name: str, data: bytes) -> bytes:
    """What stands for a file in a fingerprint: its name, length, and the hash of all of it, or of its ends if long."""
    part = data if len(data) <= _HASHED else data[: _HASHED // 2] + data[-_HASHED // 2 :]
    return repr((name, len(data), hashlib.sha256(part).hexdigest())).encode()


class ImageReader(Reader):
    """Folders of pictures."""

    what, kinds, options = "a folder of pictures", ("image",), ImageOptions
    suffixes = folder_suffixes = IMAGE_SUFFIXES

    def open(self, path: Path, options: ImageOptions) -> Dataset:
        self.refuse_names(path, options)
        return Images(path, options)

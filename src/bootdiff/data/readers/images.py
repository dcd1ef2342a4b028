"""A folder of pictures: PNG, JPEG, WebP, BMP, AVIF and HEIC, at any depth of sub-folders, in sorted order.

Pixels v of b bits come out as x = 2 v / (2^b - 1) - 1; 16-bit files keep their depth. Nothing is resized or cropped
unless asked for (`fit`, see `fitting`), and nothing is converted silently: gray in a colour folder is repeated (exact),
any other conversion is counted.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
import torch
from torch import Tensor

from bootdiff.data.dataset import Dataset, Sample, spaced_indices
from bootdiff.data.folders import Problems, classes_by_folder, list_files, nothing_found, passed_over, unusable_files
from bootdiff.data.index import Index, Stamp, stamp_of
from bootdiff.data.options import ImageOptions, ShardOptions
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
from bootdiff.data.readers.fitting import Fitting, fit_hint
from bootdiff.data.readers.mask_files import MASK_SUFFIX, decode_mask, is_opaque, masks_by_stem, without_masks
from bootdiff.data.units import Units
from bootdiff.errors import BootdiffError

__all__ = ["Images", "file_digest", "to_tensor"]

_EMPTY = torch.empty(0)
_FULL = {1: 255, 2: 65535}  # by the bytes of a value
_HASHED = 1 << 20  # files up to this many bytes are hashed whole, longer ones by their ends and length


class _Noted(NamedTuple):
    """What an index knows of a picture: its `file_digest`, size, channels and lossy conversion; the bytes that it
    takes in memory, None where only its header was looked at; and whether its colours are gray, None for not known."""

    digest: str
    height: int
    width: int
    channels: int
    lost: str | None
    memory: int | None
    gray: bool | None

    @property
    def header(self) -> tuple[int, int, int, str | None]:
        return self.height, self.width, self.channels, self.lost


def _is_noted(value: Any) -> bool:
    """Whether an index's value has the form of a `_Noted`, or of what is known of a mask: its digest and memory."""
    if not isinstance(value, list):
        return False
    if len(value) == 2:
        return type(value[0]) is str and type(value[1]) is int
    kinds = [(str,), (int,), (int,), (int,), (str, type(None)), (int, type(None)), (bool, type(None))]
    return len(value) == len(kinds) and all(type(v) in kind for v, kind in zip(value, kinds))


class Images(Dataset):
    """The pictures in ``folder``.

    Args:
        folder: where they lie, at any depth.
        options: labels: a sample's class is the first sub-folder on its path; unlabelled: "keep" allows pictures beside
            the classes' folders; classes fixes the class numbers. masks: beside ``name.png`` (or .jpg ...) lies its
            mask, ``name.mask.png`` (`mask_files`), white = observed; "alpha": what is transparent in the picture itself
            is not observed. on_error: "refuse" raises one error that lists what is wrong, "skip" decodes every file on
            opening, leaves out those that cannot be used and lists them in ``problems``. size, channels: as asked for,
            else what most have. fit: what becomes of files larger than ``size``; "pad" gives every sample a mask.
            alpha: for transparent pixels. limit: at most this many files, evenly spaced.
        memory: bytes of decoded pictures that are kept; while they fit, every file is decoded on opening, beyond them
            only its header and end are read (but see on_error). What is known of a file from the last time
            (`data.index`) is believed, and then it is decoded when it is first asked for.
        where: what messages call the data; None: the folder.

    Attribute ``converted``: counts of inexact conversions, which ``notes`` say, too. Raises BootdiffError for anything
    wrong with the files.
    """

    problems: Problems
    _has_gaps = False  # whether files of this kind say themselves what of them is not observed
    _is_indexed = True  # whether what is known of a file may stand for opening it

    def __init__(
        self,
        folder: str | Path,
        options: ShardOptions | None = None,
        *,
        memory: int = 512 << 20,
        where: str | None = None,
    ) -> None:
        o = options or ImageOptions()
        self.folder = Path(folder)
        self.where = where or str(folder)
        self._own_masks = o.masks == "alpha"
        self._beside = bool(o.masks) and not self._own_masks
        self._alpha = "keep" if self._own_masks else o.alpha
        self._most, self._asked = o.max_pixels, o.channels
        self.problems = Problems()
        size = None if o.size is None else (int(o.size[0]), int(o.size[1]))
        self._fitting = Fitting.of(o.fit, size, self.where)
        self.masked = bool(o.masks) or self._has_gaps or (self._fitting is not None and self._fitting.masks)
        found = self._listed = self._list()
        files = [found[i] for i in spaced_indices(len(found), o.limit)]
        self.units = Units.of_range(0, 255, "pixels")
        settings = (o.labels, o.masks, size, o.channels, o.alpha, *([] if self._fitting is None else [o.fit]))
        self._hash = hashlib.sha256(repr(settings).encode())
        self._budget, self._verify = memory, o.on_error == "skip"
        self._pixels: dict[str, np.ndarray] = {}
        self._kept_masks: dict[str, np.ndarray] = {}
        # Pictures and masks that have their place in memory, decoded when they are asked for by this process: each
        # worker would fill its own.
        self._awaited: set[str] = set()
        self._process = os.getpid()
        self._noted: dict[str, _Noted] = {}
        self._index = Index(self._root(), (PIL.__version__, *settings, o.max_pixels), _is_noted, kept=self._is_indexed)
        self._sizes: dict[str, tuple[int, int]] = {}
        headers = {name: header for name in files if (header := self._read_header(name)) is not None}
        self._sizes = {name: header[:2] for name, header in headers.items()}
        if headers:
            frequent = Counter(self._sizes.values()).most_common(1)[0][0]
            self._size = frequent if size is None else size
            alike = [header[2] for header in headers.values() if self._fitting or header[:2] == self._size]
            self._channels = o.channels or (Counter(alike).most_common(1)[0][0] if alike else 3)
            self.shape = (self._channels, *self._size)
        self._check_shapes(headers, "as most are" if size is None else "as asked for")
        self._labels: dict[str, int] = {}
        if o.labels:
            self._labels, self.classes = self._number_classes(list(headers), o)
            self.unlabelled = o.unlabelled == "keep"
        if self._beside:
            self._check_masks(list(headers))
        self._finish(files, headers, o.on_error)

    # -- opening ------------------------------------------------------------------------------------------------

    def _root(self) -> Path:
        """What the index of these files is kept by."""
        return self.folder

    def _full_name(self, name: str) -> str:
        """A file as messages call it."""
        return str(self.folder / name)

    def _stamp(self, name: str) -> Stamp | None:
        return stamp_of(f"{self.folder}/{name}")

    def _bytes(self, name: str) -> bytes:
        """A file as it is. Raises Undecodable."""
        return read_file(self.folder / name)

    def _list(self) -> list[str]:
        """Sorted paths, with forward slashes, of the pictures below the folder; masks are left out."""
        names = list_files(self.folder, "pictures", self.problems.add)
        rest = without_masks(names)
        self._masks = masks_by_stem(names) if self._beside else {}
        pictures = [n for n in rest if n.lower().endswith(IMAGE_SUFFIXES)]
        if not pictures:
            raise nothing_found(self.folder, rest, "pictures", "a picture", IMAGE_SUFFIXES, self.problems)
        self._passed_over = passed_over(n for n in rest if not n.lower().endswith(IMAGE_SUFFIXES))
        return pictures

    def _number_classes(self, names: list[str], o: ShardOptions) -> tuple[dict[str, int], list[str]]:
        """The class number of each that has one, and the classes; problems of those that should have one."""
        return classes_by_folder(names, o.classes, o.unlabelled, self.problems.add)

    def _check_shapes(self, headers: Mapping[str, tuple[int, int, int, str | None]], wanted: str) -> None:
        """Problems of pictures whose size or channels are not those of the samples."""
        for name, (height, width, channels, _) in headers.items():
            if self._fitting is not None:
                if reason := self._fitting.problem((height, width)):
                    self.problems.add(name, reason)
            elif (height, width) != self._size:
                want = f"{self._size[0]} x {self._size[1]}"
                self.problems.add(name, f"is {height} x {width} pixels (height x width), not {want} {wanted}")
            if channels != self._channels and (channels, self._channels) not in ((1, 3), (3, 1)):
                self.problems.add(name, f"has {channels} channels, not {self._channels}, as most have")

    def _glance(self, data: bytes) -> tuple[int, int, int, str | None]:
        """Height, width, channels and lossy conversion, from the header. Raises Undecodable."""
        return glance(data, self._alpha, self._most)

    def _decode(self, data: bytes) -> tuple[np.ndarray, np.ndarray | None, str | None]:
        """A picture (H, W, 1 or 3), its own mask (H, W) bool where it has one, and what it was converted from."""
        pixels, lost = decode(data, self._alpha, self._most)
        pixels, opacity = split_alpha(pixels)
        if opacity is None:
            return pixels, None, lost
        mask = is_opaque(opacity, np.iinfo(opacity.dtype).max)
        if not mask.any():
            raise Undecodable("is transparent everywhere, so that nothing of it is observed")
        return pixels, mask, lost

    def _read_header(self, name: str) -> tuple[int, int, int, str | None] | None:
        """Height, width, channels and lossy conversion of a file; None and a problem where it cannot be used."""
        stamp = self._stamp(name)
        header_is_enough = self._budget <= 0 and not (self._verify or self._own_masks)
        known = self._index.get(name, stamp)
        if known is not None and len(known) > 2 and (known[5] is not None or header_is_enough):
            noted = self._noted[name] = _Noted(*known)
            self._hash.update(noted.digest.encode())
            if noted.memory is not None and self._take(noted.memory):
                self._awaited.add(name)
            return noted.header
        try:
            data = self._bytes(name)
            digest = file_digest(name, data)
            self._hash.update(digest)
            if header_is_enough:
                header, memory = self._glance(data), None
            else:
                pixels, own, lost = self._decode(data)
                left = self._budget
                header = (*self._keep(name, pixels, own), lost)
                memory = left - self._budget
            kept = self._pixels.get(name) if self._asked == 1 and header[2] == 3 else None
            gray = None if kept is None else bool((kept == kept[..., :1]).all())
            self._index.put(name, stamp, [digest.decode(), *header, memory, gray])
            return header
        except Transparent as error:
            self.problems.add(name, f"{error}; or, where they are not observed (partial data), masks: alpha")
            return None
        except Undecodable as error:
            self.problems.add(name, str(error))
            return None

    def _keep(self, name: str, pixels: np.ndarray, own: np.ndarray | None) -> tuple[int, int, int]:
        """Keeps decoded pixels, fitted, and their own mask where there is memory for them; (H, W, C) as they were."""
        height, width, channels = pixels.shape
        self._sizes[name] = height, width
        if self._fitting is not None and self._fitting.problem(pixels.shape):
            return height, width, channels
        pixels = self._fitted(pixels)
        mask = None
        if (self._own_masks or self._has_gaps) and not self._beside:
            mask = self._observed(name, own)
        if self._take(pixels.nbytes + (0 if mask is None else mask.nbytes)):
            self._pixels[name] = pixels
            if mask is not None:
                self._kept_masks[name] = mask
        return height, width, channels

    def _take(self, memory: int) -> bool:
        """Whether so many bytes are left to be kept; they are taken."""
        self._budget -= memory
        return self._budget > 0

    def _load(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """(H, W, C) of a picture, decoded again, and its own mask (H, W), None for all. Raises Undecodable."""
        return self._decode(self._bytes(name))[:2]

    def _fitted(self, pixels: np.ndarray) -> np.ndarray:
        return pixels if self._fitting is None else self._fitting.pixels(pixels)

    def _observed(self, name: str, own: np.ndarray | None) -> np.ndarray:
        """What is observed of a picture, its own mask (H, W) and that beside it taken together, fitted: (h, w) bool.

        Raises Undecodable, where nothing is left as well.
        """
        mask = own
        if self._beside:
            beside = self._read_mask(name)[0]
            mask = beside if own is None else own & beside
        if self._fitting is not None:
            mask = self._fitting.mask(self._sizes[name], mask)
        elif mask is None:
            mask = np.ones(self._sizes[name], bool)
        if not mask.any():
            fitted = "" if self._fitting is None else f" once it is fitted to {mask.shape[0]} x {mask.shape[1]}"
            raise Undecodable(f"has no pixel that is observed{fitted}")
        return mask

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
            data = self._bytes(beside)
            return decode_mask(data, self._sizes[name], most=self._most), data
        except Undecodable as error:
            raise Undecodable(f"its mask {beside} {error}") from None

    def _check_masks(self, names: list[str]) -> None:
        for name in names:
            if name in self.problems.files:
                continue
            try:
                beside = self._mask_name(name)
                stamp = self._stamp(beside)
                known = self._index.get(beside, stamp)
                # Whether a mask fits depends on its picture.
                if known is not None and len(known) == 2 and name in self._noted:
                    self._hash.update(bytes.fromhex(known[0]))  # of the index's own making: it has a checksum
                    if self._take(known[1]):
                        self._awaited.add(beside)
                    continue
                digest = hashlib.sha256(self._read_mask(name)[1])
                self._hash.update(digest.digest())
                mask = self._observed(name, self._load(name)[1] if self._has_gaps else None)
            except Undecodable as error:
                self.problems.add(name, str(error))
                continue
            self._index.put(beside, stamp, [digest.hexdigest(), mask.nbytes])
            if self._take(mask.nbytes):
                self._kept_masks[name] = mask

    def _finish(self, files: list[str], headers: dict, on_error: str) -> None:
        """Settles which files are used, and raises where none is or one is not that should be."""
        self.names = [name for name in files if name not in self.problems.files]
        self._index.save({*self._listed, *(mask for masks in self._masks.values() for mask in masks)})
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
                lost = lost or self._grayed(name)
            if lost:
                self.converted[lost] += 1
            if self._fitting is not None:
                self._fitting.count(self._sizes[name])
        for name in self._pixels.keys() - set(self.names):
            del self._pixels[name]
        self._awaited -= self.problems.files
        self.notes = [
            *([] if self._fitting is None else self._fitting.said()),
            *(f"{n} file(s) converted: {what}" for what, n in self.converted.items()),
            *self._passed_over,
        ]
        self._digest = self._hash.hexdigest()
        del self._hash  # hash objects cannot be sent to workers
        del self._index, self._noted, self._listed

    def _grayed(self, name: str) -> str | None:
        """What a colour picture that is not in memory loses where gray ones are asked for; as far as headers tell, its
        colours."""
        if name not in self._awaited or self._noted[name].gray is False:
            return "colour to gray"
        if self._noted[name].gray is None:
            try:
                return to_channels(self._fitted(self._load(name)[0]), self._channels)[1]
            except Undecodable:  # changed just now, which is said when it is read
                return "colour to gray"
        return None

    # -- reading ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[self._check_index(index)]

    def fingerprint(self) -> str:
        return hashlib.sha256((self._digest + repr((self.names, self.classes, self.shape))).encode()).hexdigest()

    def __getitem__(self, index: int) -> Sample:
        pixels, sample = self._read(index)
        return replace(sample, x=to_tensor(pixels))

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        read = [self._read(i) for i in indices]
        pixels, samples = [p for p, _ in read], [sample for _, sample in read]
        # In one piece where all have as many bits.
        alike = len({p.dtype for p in pixels}) == 1
        x = to_tensor(np.stack(pixels)) if alike else torch.stack([to_tensor(p) for p in pixels])
        return self._batch_of(x, samples, indices)

    def _read(self, index: int) -> tuple[np.ndarray, Sample]:
        """The pixels of a sample, (H, W, C), and all else of it: its x is empty."""
        name = self.name(index)
        try:
            pixels, mask, own = self._pixels.get(name), self._kept_masks.get(name), None
            if pixels is None or (mask is None and (self._own_masks or self._has_gaps)):
                decoded, own = self._load(name)
                if decoded.shape[:2] != self._sizes[name]:
                    raise Undecodable("has changed its size since the folder was opened")
                pixels = to_channels(self._fitted(decoded), self._channels)[0]
            if self.masked and mask is None:
                mask = self._observed(name, own)
            if self._awaited and os.getpid() == self._process:
                self._keep_awaited(name, pixels, mask)
        except Undecodable as error:
            raise BootdiffError(
                f"{self._full_name(name)}: {error}. Mend or remove the file and start again; on_error: skip decodes "
                "every file on opening and leaves such ones out."
            ) from None
        observed = None if mask is None else torch.from_numpy(mask.astype(np.float32))[None]
        return pixels, Sample(_EMPTY, self._labels.get(name), observed)

    def fill_memory(self) -> None:
        for i, name in enumerate(self.names):
            if name in self._awaited or (self._beside and self._mask_name(name) in self._awaited):
                self[i]

    def _keep_awaited(self, name: str, pixels: np.ndarray, mask: np.ndarray | None) -> None:
        if name in self._awaited:
            self._awaited.remove(name)
            self._pixels[name] = pixels
            if mask is not None and not self._beside:
                self._kept_masks[name] = mask
        beside = self._mask_name(name) if self._beside else name
        if beside in self._awaited and mask is not None:
            self._awaited.remove(beside)
            self._kept_masks[name] = mask


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(..., H, W, C) uint8 or uint16 -> (..., C, H, W) float32 in [-1, 1]; floats are in stored coordinates already."""
    # Put in order while they are small: four times the bytes are moved as floats.
    x = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, -3)).astype(np.float32))
    return x if pixels.dtype.kind == "f" else x.mul_(2 / _FULL[pixels.dtype.itemsize]).sub_(1)


def file_digest(name: str, data: bytes) -> bytes:
    """What stands for a file in a fingerprint: its name, length, and the hash of all of it, or of its ends if long."""
    part = data if len(data) <= _HASHED else data[: _HASHED // 2] + data[-_HASHED // 2 :]
    return repr((name, len(data), hashlib.sha256(part).hexdigest())).encode()

"""A folder of pictures: PNG, JPEG and WebP, at any depth of sub-folders, in sorted order.

Pixels v of b bits come out as x = 2 v / (2^b - 1) - 1; 16-bit files keep their depth. Nothing is resized or cropped,
and nothing is converted silently: gray in a colour folder is repeated (exact), any other conversion is counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bootdiff.data.dataset import Dataset, Sample, UnusableFile, spaced_indices
from bootdiff.data.folders import classes_by_folder, nothing_found, refuse, walk
from bootdiff.data.readers.decode import Undecodable, decode, decode_mask, glance, to_channels
from bootdiff.data.units import Units
from bootdiff.errors import BootdiffError

__all__ = ["SIDECAR", "SUFFIXES", "Images", "hashed", "to_tensor"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SIDECAR = ".mask.png"
_HASHED = 1 << 20  # files up to this many bytes are hashed whole, longer ones by their ends and length


class Images(Dataset):
    """The pictures in ``folder`` as a source.

    labels: a sample's class is the first sub-folder on its path. masks: beside ``name.png`` (or .jpg ...) lies the mask
    ``name.mask.png``, white = observed. on_error: "refuse" raises one error that lists what is wrong, "skip" leaves
    such files out and lists them in ``problems``. size: the (height, width) that every file must have, else what most
    have. channels: 1 or 3, else what most have. alpha: for transparent pixels, "refuse", "white", "black" or "drop".
    limit: use at most so many files, evenly spaced. classes: fixes the class numbers across several folders. memory:
    bytes of decoded pictures that are kept; while they fit, every file is decoded on opening, beyond them only its
    header and end are looked at (verify=True decodes all the same). unlabelled: "keep" allows pictures in no sub-folder
    beside the classes' own. Attribute ``converted``: counts of inexact
    conversions.

    Raises BootdiffError for anything wrong with the files, ValueError for wrong arguments.
    """

    def __init__(
        self,
        folder: str | Path,
        labels: bool = False,
        masks: bool = False,
        *,
        on_error: str = "refuse",
        size: Sequence[int] | None = None,
        channels: int | None = None,
        alpha: str = "refuse",
        limit: int | None = None,
        classes: Sequence[str] | None = None,
        memory: int = 512 << 20,
        verify: bool = False,
        unlabelled: str = "refuse",
    ) -> None:
        if on_error not in ("refuse", "skip"):
            raise ValueError(f'Images: on_error must be "refuse" or "skip", got {on_error!r}')
        if alpha not in ("refuse", "white", "black", "drop"):
            raise ValueError(f'Images: alpha must be "refuse", "white", "black" or "drop", got {alpha!r}')
        if unlabelled not in ("refuse", "keep"):
            raise ValueError(f'Images: unlabelled must be "refuse" or "keep", got {unlabelled!r}')
        if channels not in (None, 1, 3):
            raise ValueError(f"Images: channels must be 1 or 3, got {channels}")
        self.folder, self.where, self.masked, self._alpha = Path(folder), str(folder), masks, alpha
        found = _listed(self.folder)
        files = [found[i] for i in spaced_indices(len(found), limit)]
        self.problems = []
        self.units = Units.of_range(0, 255)
        self._hash = hashlib.sha256(repr((labels, masks, size, channels, alpha)).encode())
        self._budget, self._verify = memory, verify
        self._pixels: dict[str, np.ndarray] = {}
        self._kept_masks: dict[str, np.ndarray] = {}
        looks = {name: look for name in files if (look := self._look(name)) is not None}
        if looks:
            frequent = Counter(look[:2] for look in looks.values()).most_common(1)[0][0]
            self._size = frequent if size is None else (int(size[0]), int(size[1]))
            fitting = [look[2] for look in looks.values() if look[:2] == self._size]
            self._channels = channels or (Counter(fitting).most_common(1)[0][0] if fitting else 3)
            self.shape = (self._channels, *self._size)
        said = "as asked for" if size is not None else "as most are"
        for name, (height, width, _, _) in looks.items():
            if (height, width) != self._size:
                want = f"{self._size[0]} x {self._size[1]}"
                self._object(name, f"is {height} x {width} pixels (height x width), not {want} {said}")
        self._labels: dict[str, int] = {}
        if labels:
            self._labels, self.classes = classes_by_folder(looks, classes, unlabelled, self._object)
            self.unlabelled = unlabelled == "keep"
        if masks:
            self._check_masks(list(looks))
        self._close(files, looks, on_error)

    # -- opening ------------------------------------------------------------------------------------------------

    def _object(self, name: str, reason: str) -> None:
        if all(problem.file != name for problem in self.problems):
            self.problems.append(UnusableFile(name, reason))

    def _bytes(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise Undecodable(f"cannot be read ({error.strerror})") from None

    def _look(self, name: str) -> tuple[int, int, int, str | None] | None:
        """Height, width, channels and lossy conversion of a file; None and a problem where it cannot be used."""
        try:
            data = self._bytes(name)
            self._hash.update(hashed(name, data))
            if self._budget <= 0 and not self._verify:
                return (*glance(data), None)
            pixels, lost = decode(data, self._alpha)
        except Undecodable as error:
            self._object(name, str(error))
            return None
        self._budget -= pixels.nbytes
        if self._budget > 0:
            self._pixels[name] = pixels
        return (*pixels.shape, lost)

    def _check_masks(self, names: list[str]) -> None:
        for name in names:
            try:
                data = self._bytes(_sidecar(name))
                self._hash.update(hashlib.sha256(data).digest())
                mask = decode_mask(data, self._size)
            except Undecodable as error:
                here = (self.folder / _sidecar(name)).exists()
                self._object(name, f"its mask {_sidecar(name)} {error}" if here else f"has no mask {_sidecar(name)}")
                continue
            self._budget -= mask.nbytes
            if self._budget > 0:
                self._kept_masks[name] = mask

    def _close(self, files: list[str], looks: dict, on_error: str) -> None:
        """Settles which files are used, and raises where none is or one is not that should be."""
        wrong = {problem.file for problem in self.problems}
        self.names = [name for name in files if name not in wrong]
        if self.problems and (on_error == "refuse" or not self.names):
            raise refuse(self.where, self.problems, len(files), len(self.names))
        self.converted: Counter[str] = Counter()
        for name in self.names:
            lost = looks[name][3]
            if name in self._pixels:
                self._pixels[name], grayed = to_channels(self._pixels[name], self._channels)
                lost = lost or grayed
            elif looks[name][2] > self._channels:
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
            pixels = self._pixels.get(name)
            if pixels is None:
                pixels, _ = to_channels(decode(self._bytes(name), self._alpha)[0], self._channels)
                if pixels.shape[:2] != self._size:
                    raise Undecodable("has changed its size since the folder was opened")
            mask = None
            if self.masked:
                kept = self._kept_masks.get(name)
                seen = decode_mask(self._bytes(_sidecar(name)), self._size) if kept is None else kept
                mask = torch.from_numpy(seen.astype(np.float32))[None]
        except Undecodable as error:
            raise BootdiffError(
                f"{self.folder / name}: {error}. Mend or remove the file and start again; "
                "verify=True finds all such files on opening."
            ) from None
        return Sample(to_tensor(pixels), self._labels.get(name), mask)


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(H, W, C) uint8 or uint16 -> (C, H, W) float32 in [-1, 1]."""
    x = torch.from_numpy(np.moveaxis(pixels, -1, 0).astype(np.float32))
    return x.mul_(2 / np.iinfo(pixels.dtype).max).sub_(1).contiguous()


def hashed(name: str, data: bytes) -> bytes:
    """What stands for a file in a fingerprint: its name, length, and the hash of all of it, or of its ends if long."""
    part = data if len(data) <= _HASHED else data[: _HASHED // 2] + data[-_HASHED // 2 :]
    return repr((name, len(data), hashlib.sha256(part).hexdigest())).encode()


def _sidecar(name: str) -> str:
    return name[: name.rindex(".")] + SIDECAR


def _listed(folder: Path) -> list[str]:
    """Sorted paths, with forward slashes, of the pictures below a folder; masks are left out."""
    names = walk(folder, "pictures")
    found = [n for n in names if n.lower().endswith(SUFFIXES) and not n.lower().endswith(SIDECAR)]
    if not found:
        rest = [n for n in names if not n.lower().endswith(SIDECAR)]
        raise nothing_found(folder, rest, "pictures", "a picture", SUFFIXES)
    return found

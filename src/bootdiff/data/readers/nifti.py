"""NIfTI volumes through nibabel, as slices in the orientation of the body.

Volumes are stored in any order of axes; the affine says which way is right, anterior and superior. Slices of all files
lie alike, each axis taken for the nearest of the body's:

    slices     numbered from           rows, from the top          columns, from the left
    axial      inferior to superior    anterior to posterior       left to right
    coronal    posterior to anterior   superior to inferior        left to right
    sagittal   left to right           superior to inferior        posterior to anterior

Nothing is resampled: voxels that are longer along one axis stay so. Values are v = slope * stored + intercept.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from bootdiff.data.readers.decode import Undecodable
from bootdiff.data.readers.stacks import Stack, check_count, library, quiet, unsigned_bits

__all__ = ["NIFTI_SUFFIXES", "Nifti"]

NIFTI_SUFFIXES = (".nii", ".nii.gz")
# slices -> axes of the body (0 right, 1 anterior, 2 superior) across slices, down their rows, along their columns
_AXES = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}


class Nifti(Stack):
    """The slices of a volume, or of each volume in time. Raises Undecodable; BootdiffError without nibabel.

    slices: axial, coronal or sagittal.
    """

    def __init__(self, path: Path, slices: str) -> None:
        self.path = path
        image = self._open()
        if getattr(image, "affine", None) is None:
            raise Undecodable(f"holds no volume (it is a {type(image).__name__})")
        shape, dtype = tuple(image.shape), np.dtype(image.get_data_dtype())
        self._colour = dtype.names is not None
        if self._colour and dtype.names != ("R", "G", "B"):
            raise Undecodable(f"holds values of type {dtype}; save gray or RGB ones")
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        shape = (*shape, *(1,) * (3 - len(shape)))
        if len(shape) > 4:
            raise Undecodable(f"has the shape {shape}; a volume has three axes, a series of them four")
        order = self._library.io_orientation(image.affine)
        if np.isnan(order).any():
            raise Undecodable("its affine does not say how its axes lie in the body")
        # Of the body's axes: which of the file's it is, and whether it runs the other way.
        self._axis = [int(np.flatnonzero(order[:, 0] == a)[0]) for a in range(3)]
        self._reversed = [order[i, 1] < 0 for i in self._axis]
        across, down, along = self._at = _AXES[slices]
        size = [shape[self._axis[a]] for a in range(3)]
        self._times = shape[3] if len(shape) == 4 else 1
        self._slices, self._shape = size[across], shape
        if path.name.lower().endswith(".gz"):
            self.unpacked = math.prod(shape) * dtype.itemsize
        elif (needed := math.prod(shape) * dtype.itemsize) > (there := path.stat().st_size):
            raise Undecodable(f"is cut short: its header says {needed:,} bytes of values, the file has {there:,}")
        self.shape = (size[down], size[along], 3 if self._colour else 1)
        self.count = self._slices * self._times
        check_count(self.count)
        self.labels = [
            f"{t},{k}" if self._times > 1 else str(k) for t in range(self._times) for k in range(size[across])
        ]
        zooms = image.header.get_zooms()[:3]
        zooms = (*zooms, *(1.0,) * (3 - len(zooms)))
        self.spacing = (float(zooms[self._axis[down]]), float(zooms[self._axis[along]]))
        self.apart = float(zooms[self._axis[across]])
        scaled = (image.dataobj.slope, image.dataobj.inter) != (1, 0)
        self.values = (
            "float" if scaled or dtype.kind == "f" else "uint8" if self._colour else str(dtype.newbyteorder("="))
        )
        self.bits = 8 if self._colour else None if scaled else unsigned_bits(dtype)

    @property
    def _library(self) -> Any:
        return library("nibabel", self.path, "medical")

    def _open(self) -> Any:
        nibabel = self._library
        try:
            with quiet("nibabel.global"):
                return nibabel.load(self.path)
        except Exception as error:
            raise Undecodable(f"cannot be read ({error}); it is damaged, cut short or no NIfTI file") from None

    def read(self, k: int) -> tuple[np.ndarray, np.ndarray | None]:
        t, k = divmod(k, self._slices)
        across, down, along = self._at
        axes = self._axis
        at: list[Any] = [slice(None)] * 3
        at[axes[across]] = self._slices - 1 - k if self._reversed[across] else k
        try:
            source: Any = self._held
            if source is None:
                source = self._open().dataobj
                # A packed file is unpacked from its beginning for each slice, so once is better.
                if self.path.name.lower().endswith(".gz"):
                    source = self._held = np.asanyarray(source)
            tail = (t,) if self._times > 1 else (0,) * (len(source.shape) - 3)
            index = (*at, *tail)[: len(source.shape)]
            part = np.asanyarray(source[index])
        except Undecodable:
            raise
        except Exception as error:
            raise Undecodable(f"cannot be decoded ({error}); it is damaged or cut short") from None
        part = part.reshape([n for i, n in enumerate(self._shape[:3]) if i != axes[across]])
        part = part.T if axes[down] > axes[along] else part
        part = part if self._reversed[down] else part[::-1]
        part = part[:, ::-1] if self._reversed[along] else part
        if self._colour:
            return np.stack([part[name] for name in ("R", "G", "B")], -1), None
        return part[..., None], None

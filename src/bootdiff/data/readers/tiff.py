"""TIFF through tifffile: any number of bits, floats, many bands, several pages; GeoTIFF's "no data" as not observed.

A page is a picture. Overviews (pages of reduced resolution) are copies and passed over; pages that are masks belong to
the page before them, 1 = observed. Bands come out as channels, chunky or planar. Palettes are looked up; the lowest
value of "white is zero" is white.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bootdiff.data.readers.decode import Undecodable
from bootdiff.data.readers.stacks import Stack, library, quiet, unsigned_bits

__all__ = ["TIFF_SUFFIXES", "Tiff"]

TIFF_SUFFIXES = (".tif", ".tiff")
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_NODATA, _EXTRA = 42113, 338  # tags: GDAL's text; ExtraSamples, 1 and 2 being alpha
_PHOTOMETRIC = {0: "white is zero", 1: "black is zero", 2: "RGB", 3: "palette", 6: "YCbCr"}


class Tiff(Stack):
    """The pages of a TIFF file. Raises Undecodable; BootdiffError without tifffile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with quiet("tifffile"), self._open() as file:
            self._survey(file)

    @property
    def _library(self) -> Any:
        return library("tifffile", self.path, "tiff")

    def _open(self) -> Any:
        tifffile = self._library
        try:
            # Of these formats the metadata name other files, which would be opened.
            return tifffile.TiffFile(self.path, is_ome=False, is_mmstack=False, is_ndtiff=False)
        except Exception as error:
            raise Undecodable(f"cannot be read ({error}); it is damaged, cut short or no TIFF file") from None

    def _survey(self, file: Any) -> None:
        try:
            pages = list(file.pages)
            kinds = [int(page.subfiletype) for page in pages]
            self._offsets = [int(page.offset) for page in pages]
        except Exception as error:
            raise Undecodable(f"its pages cannot be listed ({error}); it is damaged or cut short") from None
        self._pages = [i for i, kind in enumerate(kinds) if not kind & (_REDUCED | _MASK)]
        if not self._pages:
            raise Undecodable("holds no picture")
        self._masks = {
            max(p for p in self._pages if p < i): i
            for i, kind in enumerate(kinds)
            if kind & _MASK and not kind & _REDUCED and i > self._pages[0]
        }
        first = pages[self._pages[0]]
        for i in self._pages:
            if (pages[i].shape, pages[i].dtype, pages[i].photometric) != (first.shape, first.dtype, first.photometric):
                raise Undecodable(
                    f"its pages differ: page {self._pages[0]} is {_said(first)}, page {i} {_said(pages[i])}; save them "
                    "as files of their own"
                )
        photometric = int(first.photometric)
        if photometric not in _PHOTOMETRIC or first.axes not in ("YX", "YXS", "SYX") or first.dtype is None:
            raise Undecodable(
                f"holds {getattr(first.photometric, 'name', photometric)} values with the axes {first.axes}; convert "
                "it to gray, RGB or bands (Y x X, or Y x X x bands)"
            )
        self._palette = first.colormap if photometric == 3 else None
        self._planar = first.axes == "SYX"
        dtype = np.dtype(first.dtype)
        # ImageJ writes long stacks as one page and the rest behind it.
        self._more = 1
        if len(self._pages) == 1 and file.series and file.series[0].size > first.size:
            self._more = file.series[0].size // first.size
        self.count = len(self._pages) * self._more
        self.labels = self.numbered()
        shape = first.shape if len(first.shape) == 3 else (*first.shape, 1)
        shape = (*shape[1:], shape[0]) if self._planar else shape
        self.shape = (*shape[:2], 3) if self._palette is not None else shape
        bits = first.bitspersample if isinstance(first.bitspersample, int) else max(first.bitspersample)
        self.values = "float" if dtype.kind == "f" else "uint16" if self._palette is not None else str(dtype)
        self.bits = 16 if self._palette is not None else 1 if dtype.kind == "b" else unsigned_bits(dtype) and int(bits)
        self.inverted = photometric == 0
        extra = first.tags.get(_EXTRA)
        self.alpha = extra is not None and any(int(v) in (1, 2) for v in np.atleast_1d(extra.value))
        self._nodata = self._missing_value(first)

    def _missing_value(self, page: Any) -> float | None:
        tag = page.tags.get(_NODATA)
        if tag is None:
            return None
        try:
            return float(str(tag.value).strip(" \0"))
        except ValueError:
            raise Undecodable(f"says nodata = {tag.value!r}, which is no number") from None

    def read(self, k: int) -> tuple[np.ndarray, np.ndarray | None]:
        with quiet("tifffile"), self._open() as file:
            if self._more > 1:
                pixels = self._decode(lambda: file.series[0].asarray()).reshape(self._more, *self._raw(file))[k]
                mask = None
            else:
                at = self._pages[k]
                pixels = self._decode(lambda: self._page(file, at).asarray())
                mask = self._decode(lambda: self._page(file, self._masks[at]).asarray()) if at in self._masks else None
        if self._palette is not None:
            pixels = np.moveaxis(np.asarray(self._palette)[:, pixels], 0, -1)
        pixels = np.moveaxis(pixels, 0, -1) if self._planar else pixels
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if pixels.shape != self.shape:
            raise Undecodable("has changed since the folder was opened")
        observed = None if mask is None else mask > 0
        if self._nodata is not None and not np.isnan(self._nodata):
            # In GDAL's metadata the value of float32 pixels is written with all digits of a double.
            there = (pixels != np.asarray(self._nodata).astype(pixels.dtype)).all(-1)
            observed = there if observed is None else observed & there
        return pixels, observed

    def _page(self, file: Any, k: int) -> Any:
        """Page k, without following the chain of all pages before it."""
        file.filehandle.seek(self._offsets[k])
        return self._library.TiffPage(file, index=k)

    def _raw(self, file: Any) -> tuple[int, ...]:
        return tuple(file.pages[self._pages[0]].shape)

    def _decode(self, read: Any) -> np.ndarray:
        try:
            return np.asarray(read())
        except Exception as error:
            said = str(error)
            if "imagecodecs" in said:
                said += ": pip install 'bootdiff[tiff]'"
                raise Undecodable(f"is compressed in a way that needs another library ({said})") from None
            raise Undecodable(f"cannot be decoded ({said}); it is damaged or cut short") from None


def _said(page: Any) -> str:
    return f"{' x '.join(map(str, page.shape))} {page.dtype}"

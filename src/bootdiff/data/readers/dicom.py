"""DICOM through pydicom: values by the file's own rescale slope and intercept, frames one by one.

    v = slope * stored + intercept

Where a file says nothing of that, unsigned values of b stored bits have the range [0, 2^b - 1]; rescaled or signed
ones, as Hounsfield units, need a declared range. MONOCHROME1 is inverted: its lowest value is white. Padding
(PixelPaddingValue) is not observed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bootdiff.data.readers.decode import Undecodable, check_regular
from bootdiff.data.readers.stacks import Stack, library, quiet

__all__ = ["DICOM_SUFFIXES", "Dicom", "is_dicom"]

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")


def is_dicom(path: Path) -> bool:
    """Whether a file has DICOM's letters behind its preamble; such files often have no suffix."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except (Undecodable, OSError):
        return False


class Dicom(Stack):
    """The frames of a DICOM file. Raises Undecodable; BootdiffError without pydicom."""

    def __init__(self, path: Path) -> None:
        self.path = path
        header = self._read(stop_before_pixels=True)
        with quiet("pydicom"):
            self._survey(header)

    def _survey(self, header: Any) -> None:
        if "Rows" not in header or "Columns" not in header:
            raise Undecodable(f"holds no picture (it is a {header.get('Modality', 'DICOM')} object)")
        try:
            self.count = int(header.get("NumberOfFrames") or 1)
            photometric = str(header.PhotometricInterpretation)
            channels, stored = int(header.SamplesPerPixel), int(header.BitsStored)
            signed = int(header.PixelRepresentation) == 1
            self.shape = (int(header.Rows), int(header.Columns), 3 if photometric in _COLOUR else channels)
            self.labels = self.numbered()
            scaled = "ModalityLUTSequence" in header or any(
                self._rescale(header, k) != (1, 0) for k in range(self.count)
            )
            number = header.get("InstanceNumber")
            self.number = None if number is None else float(number)
            apart = header.get("SpacingBetweenSlices")
            self.apart = None if apart is None else float(apart)
            spacing = header.get("PixelSpacing") or header.get("ImagerPixelSpacing")
            self.spacing = None if not spacing else (float(spacing[0]), float(spacing[1]))
        except Undecodable:
            raise
        except (AttributeError, ValueError, TypeError) as error:
            raise Undecodable(f"its header is not whole ({error})") from None
        if photometric not in ("MONOCHROME1", "MONOCHROME2", *_COLOUR):
            raise Undecodable(f"holds {photometric} values; convert it to MONOCHROME2 or RGB")
        self._palette = photometric == "PALETTE COLOR"
        self.inverted = photometric == "MONOCHROME1"
        self.values = "float" if scaled else f"{'int' if signed else 'uint'}{8 if stored <= 8 else 16}"
        self.bits = None if scaled or signed else stored
        if self._palette:
            self.bits, self.values = int(header.RedPaletteColorLookupTableDescriptor[2]), "uint16"

    @property
    def _library(self) -> Any:
        return library("pydicom", self.path, "medical")

    def _read(self, **options: Any) -> Any:
        pydicom = self._library
        try:
            with quiet("pydicom"):
                return pydicom.dcmread(self.path, **options)
        except Exception as error:
            raise Undecodable(f"cannot be read ({error}); it is damaged, cut short or no DICOM file") from None

    def _rescale(self, header: Any, k: int) -> tuple[float, float]:
        """Slope and intercept of frame k: of the file, of all its frames, or of this one."""
        holders = [header]
        for groups, at in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", k)):
            if groups in header and len(header[groups].value) > at:
                holders += header[groups].value[at].get("PixelValueTransformationSequence") or []
        slope, intercept = 1.0, 0.0
        for holder in holders:
            slope = float(holder.get("RescaleSlope", slope))
            intercept = float(holder.get("RescaleIntercept", intercept))
        return slope, intercept

    def read(self, k: int) -> tuple[np.ndarray, np.ndarray | None]:
        data = self._held = self._read() if self._held is None else self._held
        try:
            with quiet("pydicom"):
                pixels = self._library.pixels.pixel_array(data, index=k)
            padding = data.get("PixelPaddingValue")
            observed = None
            if padding is not None and pixels.ndim == 2:
                limit = data.get("PixelPaddingRangeLimit", padding)
                low, high = sorted((int(padding), int(limit)))
                observed = ~((pixels >= low) & (pixels <= high))
            if self._palette:
                pixels = self._library.pixels.apply_color_lut(pixels, data)
            elif "ModalityLUTSequence" in data:
                pixels = self._library.pixels.apply_modality_lut(pixels, data)
            elif (rescale := self._rescale(data, k)) != (1, 0):
                pixels = pixels * rescale[0] + rescale[1]
        except Exception as error:
            said = " ".join(str(error).split())
            more = "; install the decoder that it names, or save the file uncompressed" if "plugin" in said else ""
            raise Undecodable(f"its pixels cannot be decoded ({said[:300]}){more}") from None
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if pixels.shape != self.shape:
            raise Undecodable(f"its frame {k} is {pixels.shape}, its header says {self.shape}")
        return pixels, observed

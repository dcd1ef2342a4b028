"""Hugging Face data sets saved with ``save_to_disk``, read row by row (extra ``data``: the package ``datasets``)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from bootdiff.data.dataset import Dataset, Sample, UnusableFile, spaced_indices
from bootdiff.data.options import HFOptions
from bootdiff.data.readers.decode import Undecodable, decode, from_pillow, read_file, to_channels
from bootdiff.data.readers.images import to_tensor
from bootdiff.data.readers.reader import Reader
from bootdiff.data.units import Units
from bootdiff.errors import BootdiffError

__all__ = ["MARKERS", "HFDataset", "HFReader"]

MARKERS = ("dataset_info.json", "dataset_dict.json", "state.json")
"""Files that `save_to_disk` writes into its folder."""


class HFDataset(Dataset):
    """The pictures in one column of a data set that ``datasets.load_from_disk`` opens.

    Args:
        folder: the data set's.
        options: column: needed if there are several columns of pictures. key: which part, needed if the folder holds
            several. labels: column of class numbers, or True for "label". channels, alpha, on_error, limit: as for
            Images. Every row is decoded once on opening, and again on access.

    Raises BootdiffError where ``datasets`` is missing or the data are wrong.
    """

    def __init__(self, folder: str | Path, options: HFOptions | None = None) -> None:
        o = options or HFOptions()
        part = o.key
        self.where = str(folder)
        try:
            import datasets
        except ImportError:
            raise BootdiffError(
                f"{folder}: is a Hugging Face data set, which needs the package datasets: pip install 'bootdiff[data]'"
            ) from None
        try:
            data: Any = datasets.load_from_disk(str(folder))
        except Exception as error:
            raise BootdiffError(
                f"{folder}: datasets cannot open it ({error}); was it written by save_to_disk?"
            ) from None
        if isinstance(data, dict):
            if part is None and len(data) == 1:
                part = next(iter(data))
            if part not in data:
                what = "holds several parts" if part is None else f"has no part {part!r}"
                raise BootdiffError(f"{folder}: {what}; say key: one of {', '.join(data)}")
            data = data[part]
        elif part is not None:
            raise BootdiffError(f"{folder}: has no parts, so no key {part!r}; remove the key")
        known = list(data.column_names)
        self._data, self._alpha = data, o.alpha
        self._column = self._pick(o.column, known)
        self._most = o.max_pixels
        if isinstance(data.features.get(self._column), getattr(datasets, "Image", ())):
            # The bytes as they are: `datasets` would open any format, and any address, and cannot be told a limit.
            self._data = data.with_format(None).cast_column(self._column, datasets.Image(decode=False))
        label = "label" if o.labels is True else o.labels
        if label and label not in known:
            raise BootdiffError(f"{folder}: has no column {label!r} for labels; columns: {', '.join(known)}")
        self._label = label or None
        self._open(spaced_indices(len(data), o.limit), o.channels, o.on_error)

    def _pick(self, column: str | None, known: list[str]) -> str:
        if column is None:
            pictures = [name for name, kind in self._data.features.items() if type(kind).__name__ == "Image"]
            if len(pictures) != 1:
                raise BootdiffError(
                    f"{self.where}: say which column holds the pictures, column: one of {', '.join(known)}"
                )
            return pictures[0]
        if column not in known:
            raise BootdiffError(f"{self.where}: has no column {column!r}; columns: {', '.join(known)}")
        return column

    def _open(self, rows: list[int], channels: int | None, on_error: str) -> None:
        self.problems, self._rows = [], []
        labels: list[Any] = []
        shape: tuple[int, ...] | None = None
        digest = hashlib.sha256(repr((self._column, self._label, channels, self._alpha)).encode())
        for row in rows:
            try:
                values = self._row(row)
                pixels = self._decode(values[self._column])
                if channels is not None:
                    pixels, _ = to_channels(pixels, channels)
                shape = shape or pixels.shape
                if pixels.shape[:2] != shape[:2]:
                    raise Undecodable(f"is {pixels.shape[0]} x {pixels.shape[1]} pixels, not {shape[0]} x {shape[1]}")
                label = values[self._label] if self._label else None
                if self._label and (not isinstance(label, int) or label < 0):
                    raise Undecodable(f"has no valid label ({label!r})")
            except Undecodable as error:
                self.problems.append(UnusableFile(f"row {row}", str(error)))
                continue
            digest.update(repr((row, label, pixels.shape, pixels.dtype.str)).encode() + pixels.tobytes())
            self._rows.append(row)
            labels.append(label)
        if (self.problems and on_error == "refuse") or shape is None:
            first = f"{self.problems[0].file} {self.problems[0].reason}" if self.problems else "it is empty"
            raise BootdiffError(
                f"{self.where}: {len(self.problems)} of {len(rows)} rows cannot be used: {first}. "
                "Mend the data, or leave such rows out with on_error: skip. Pictures of many sizes are read from "
                "Parquet (to_parquet, or the Hub's own files), with size: [height, width] and fit: resize, crop or pad."
            )
        self._channels = channels or shape[2]
        self.shape = (self._channels, *shape[:2])
        self.units = Units.of_range(0, 255, "pixels")
        self._labels = labels
        if self._label:
            names = getattr(self._data.features[self._label], "names", None)
            self.classes = list(names) if names else [str(i) for i in range(max(labels) + 1)]
        self._digest = digest.hexdigest()

    def _row(self, row: int) -> dict[str, Any]:
        """The columns of a row, which `datasets` decodes."""
        try:
            return self._data[row]
        # datasets and Pillow raise many kinds of errors for damaged pictures.
        except Exception as error:
            raise Undecodable(f"cannot be decoded ({' '.join(str(error).split())[:200]})") from None

    def _decode(self, value: Any) -> np.ndarray:
        if isinstance(value, dict) and value.get("bytes"):
            return decode(value["bytes"], self._alpha, self._most)[0]
        if isinstance(value, dict) and isinstance(value.get("path"), str):
            if "://" in value["path"]:
                raise Undecodable(f"lies elsewhere ({value['path'][:80]}); download it, and save the data set again")
            return decode(read_file(Path(value["path"])), self._alpha, self._most)[0]
        if hasattr(value, "convert"):
            try:
                return from_pillow(value, self._alpha)[0]
            except OSError as error:
                raise Undecodable(f"cannot be decoded ({error})") from None
        pixels = np.asarray(value)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or pixels.min() < 0 or pixels.max() > 255:
            raise Undecodable(f"is neither a picture nor H x W [x 1 or 3] values in 0..255 (shape {pixels.shape})")
        if pixels.dtype.kind == "b" or (pixels.dtype.kind == "f" and (0 < pixels.max() <= 1 or (pixels % 1).any())):
            raise Undecodable("holds numbers that are no levels of 0..255; store pictures, or uint8 values")
        return pixels.astype(np.uint8)

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        return f"row {self._rows[self._check_index(index)]}"

    def fingerprint(self) -> str:
        return self._digest

    def __getitem__(self, index: int) -> Sample:
        index = self._check_index(index)
        try:
            pixels, _ = to_channels(self._decode(self._row(self._rows[index])[self._column]), self._channels)
        except Undecodable as error:
            raise BootdiffError(f"{self.where}: {self.name(index)} {error}. Mend the data and start again.") from None
        return Sample(to_tensor(pixels), self._labels[index])


class HFReader(Reader):
    """Folders that ``save_to_disk`` wrote."""

    what, kinds, options = "a Hugging Face data set", ("image",), HFOptions

    def open(self, path: Path, options: HFOptions) -> Dataset:
        return HFDataset(path, options)

"""The two doors: to all files, picking the reader by what lies at the path and by the kind that is asked for; and to
data that Python already holds."""

from __future__ import annotations

import difflib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bootdiff.data.dataset import Dataset, spaced_indices
from bootdiff.data.folders import list_files
from bootdiff.data.kinds import KINDS
from bootdiff.data.options import HUB, DataOptions, defaults_of, is_path
from bootdiff.data.readers.digits import DigitsReader
from bootdiff.data.readers.hf import MARKERS, HFReader
from bootdiff.data.readers.letters import LettersReader
from bootdiff.data.readers.mask_files import without_masks
from bootdiff.data.readers.numpy_files import ArrayReader
from bootdiff.data.readers.parquet import ParquetReader, holds_pictures
from bootdiff.data.readers.pictures import STACK_SUFFIXES, ImageReader
from bootdiff.data.readers.reader import Reader
from bootdiff.data.readers.shards import SHARD_SUFFIXES, ShardReader, is_shards
from bootdiff.data.readers.signals import SignalReader
from bootdiff.data.readers.tables import TableReader
from bootdiff.data.readers.tensors import tensor_dataset
from bootdiff.data.readers.torch_dataset import TorchDataset, unusable
from bootdiff.data.readers.videos import VideoReader
from bootdiff.data.transforms import Subset
from bootdiff.errors import BootdiffError

__all__ = ["as_dataset", "open_dataset"]

# Readers of folders and of the files in them, one for each kind; and of files that hold many samples.
_FOLDERS: tuple[Reader, ...] = (ImageReader(), VideoReader(), SignalReader())
_FILES: tuple[Reader, ...] = (ArrayReader(), TableReader())

_NO_READER = {
    (".pt", ".pth", ".pkl", ".pickle", ".ckpt"): "may run foreign code when opened and is never read; save an .npz",
    (".zip", ".gz", ".7z", ".rar"): "is packed; unpack it and give the folder",
    ImageReader.suffixes: "is one picture; give the folder that holds the pictures",
}


def open_dataset(path: str | Path, **options: Any) -> Dataset:
    """The data at a path.

    Args:
        path: a folder of pictures, videos or signals, a file of several pictures (TIFF, DICOM, NIfTI), a video or
            signal file, tar files of pictures (one, or several by braces: shards/{00..19}.tar), a .npy or .npz file, a
            table (CSV, TSV, Parquet; of pictures, too), a Hugging Face data set that was saved, or by its name on the
            Hub, hf://owner/name, "digits" (scikit-learn's) or "letters" (of matplotlib's fonts).
        options: those of `DataOptions`: kind (needed where the files leave it open), labels, on_error, limit for all
            data, and others for some. None, or the default, is the same as leaving one out.

    Raises:
        BootdiffError: what is wrong at which path; an option that means nothing there.
        TypeError: an option that no reader has.
        ValueError: an option that is out of bounds, or contradicts another.
    """
    defaults = defaults_of(DataOptions)
    for name in options:
        if name not in defaults:
            close = difflib.get_close_matches(name, defaults, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise TypeError(f"open_dataset: unknown option {name!r}; known options: {', '.join(defaults)}{hint}")
    given = {name: value for name, value in options.items() if value is not None and value != defaults[name]}
    kind = given.pop("kind", None)
    if kind not in (None, *KINDS):
        raise ValueError(f"open_dataset: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    path = Path(path) if is_path(str(path)) else str(path)
    reader = _reader(path, kind)
    if kind is not None and kind not in reader.kinds:
        raise BootdiffError(
            f"{path}: is {reader.what}, which has no samples of kind {kind}; give other data or a different kind"
        )
    known = defaults_of(reader.options)
    if unused := sorted(given.keys() - known):
        names = ", ".join(sorted(known.keys() - {"kind", "units", "size", "std"}))
        raise BootdiffError(
            f"{path}: is {reader.what}, to which {', '.join(unused)} means nothing; remove it (known: {names})"
        )
    checked = reader.options(kind=kind, **given)
    if getattr(checked, "channels", None) not in (None, *reader.channels):
        raise BootdiffError(f"{path}: is {reader.what}, whose channels can be {' or '.join(map(str, reader.channels))}")
    dataset = reader.open(path, checked)
    if checked.limit is None or checked.limit >= len(dataset):
        return dataset
    return Subset(dataset, spaced_indices(len(dataset), checked.limit))


def as_dataset(value: Any, **options: Any) -> Dataset:
    """The data set that a value from Python stands for.

    Args:
        value: a `Dataset`, returned as it is; or

            * a tensor or NumPy array (n, C, *space), channels first: floats of any precision in [-1, 1], taken as they
              are, or uint8 (uint16, bool), whose range becomes [-1, 1]; `readers.tensors`;
            * anything with `__len__` and `__getitem__`, as a `torch.utils.data.Dataset` or a list, whose samples are
              tensors, arrays, PIL pictures, dicts or tuples, or `Sample`; `readers.torch_dataset`.
        options: keyword arguments of `tensor_dataset` or `TorchDataset` there: labels, classes, unlabelled, masks,
            where, and others.

    Raises:
        BootdiffError: a value, or one of its samples, that cannot be used; it says which, why, and what to do.
        TypeError: an option that this kind of value does not know.
    """
    where = str(options.get("where", "data"))
    if isinstance(value, Dataset):
        if options:
            raise TypeError(f"{where}: is a Dataset already, which takes no options; got {', '.join(options)}")
        return value
    if isinstance(value, Tensor | np.ndarray):
        return tensor_dataset(value, **options)
    reason = unusable(value)
    if reason is not None:
        raise BootdiffError(f"{where}: {reason}")
    if isinstance(value, torch.utils.data.TensorDataset) and len(value.tensors) <= 2 and "labels" not in options:
        # All in memory already: checked as a whole, and its classes are known.
        x, *labels = value.tensors
        return tensor_dataset(x, labels=labels[0] if labels else None, **options)
    return TorchDataset(value, **options)


def _reader(path: str | Path, kind: str | None) -> Reader:
    """Who reads what lies at a path."""
    if path == "digits":
        return DigitsReader()
    if path == "letters":
        return LettersReader()
    if str(path).startswith(HUB):
        return ParquetReader()
    path = Path(path)
    if is_shards(path):
        return ShardReader()
    if not _exists(path):
        parent = next((p for p in path.parents if _exists(p)), Path())
        raise BootdiffError(
            f"{path}: no such file or folder ({parent.resolve()} exists). Check the path; a recipe's paths start "
            "at its folder."
        )
    if path.is_dir():
        if any((path / name).is_file() for name in MARKERS):
            return HFReader()
        if kind in (None, "image") and _is_only_parquet(path) and (kind or holds_pictures(path)):
            return ParquetReader()
        kind = _kind_of_folder(path) if kind is None else kind
        # There are no folders of vectors: one of pictures will say so.
        return next((reader for reader in _FOLDERS if kind in reader.kinds), _FOLDERS[0])
    if not path.is_file():
        raise BootdiffError(f"{path}: is no regular file (a pipe or a device); save the data in a file, and give that")
    suffix = path.suffix.lower()
    if path.name.lower().endswith(STACK_SUFFIXES) and kind in (None, "image"):
        return _FOLDERS[0]
    if path.name.lower().endswith(STACK_SUFFIXES) and kind == "video":
        return _FOLDERS[1]
    if suffix == ".parquet" and (kind == "image" or (kind is None and holds_pictures(path))):
        return ParquetReader()
    # A table is one of vectors, or one signal where that is asked for.
    for reader in _FILES if kind != "signal" or suffix not in TableReader.suffixes else ():
        if suffix in reader.suffixes:
            return reader
    return _reader_of_recording(path, suffix, kind)


def _exists(path: Path) -> bool:
    """Whether there is something at a path; BootdiffError where the system does not even look."""
    try:
        return path.exists()
    except OSError as error:
        raise BootdiffError(f"{str(path)[:300]}: cannot be looked up ({error.strerror}); check the path") from None


def _reader_of_recording(path: Path, suffix: str, kind: str | None) -> Reader:
    """Who reads one video or signal; BootdiffError where no reader takes the file."""
    for reader in _FOLDERS[1:]:
        # An animated WebP is a video only where that is said.
        if suffix in (reader.suffixes if kind in reader.kinds else reader.folder_suffixes):
            if kind not in (None, *reader.kinds):
                raise BootdiffError(
                    f"{path}: is a {reader.kinds[0]}, not of kind {kind}; give other data or a different kind"
                )
            return reader
    reason = next((why for suffixes, why in _NO_READER.items() if suffix in suffixes), None)
    if reason is None:
        reason = f"has the unknown suffix {suffix!r}" if suffix else "is a file without a suffix"
        reason += f"; data are read from folders of pictures ({', '.join(ImageReader.suffixes)}), videos or signals, "
        single = [s for reader in (*_FOLDERS[1:], *_FILES) for s in (*reader.folder_suffixes, *reader.suffixes)]
        single += SHARD_SUFFIXES
        reason += f"from {', '.join(s for s in dict.fromkeys(single) if s != '.webp')} files"
    raise BootdiffError(f"{path}: {reason}.")


def _is_only_parquet(path: Path) -> bool:
    """Whether the samples in a folder can be in Parquet files alone; notes and such may lie beside them."""
    names = list_files(path, "samples", lambda name, reason: None)
    tables = [name for name in names if name.lower().endswith(".parquet")]
    others = {s for reader in (*_FOLDERS, *_FILES) for s in reader.suffixes} - {".parquet", ".csv", ".tsv"}
    return bool(tables) and not any(name.lower().endswith(tuple(others)) for name in names)


def _kind_of_folder(path: Path) -> str:
    """The kind of the files in a folder; BootdiffError where there are several."""
    found: Counter[str] = Counter()
    # What cannot be read is reported by the reader, which lists the folder again.
    for name in without_masks(list_files(path, "samples", lambda name, reason: None)):
        low = name.lower()
        for reader in _FOLDERS:
            if low.endswith(reader.folder_suffixes):
                found[reader.kinds[0]] += 1
    if len(found) > 1:
        counts = ", ".join(f"{n} files for kind: {kind}" for kind, n in found.most_common())
        raise BootdiffError(f"{path}: holds files of several kinds ({counts}); say which kind is meant")
    return next(iter(found), "image")

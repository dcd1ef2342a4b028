"""One door to all data: picks the reader by what lies at the path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bootdiff.data.arrays import Arrays, Digits
from bootdiff.data.base import Source, Subset, evenly
from bootdiff.data.hf import HFDataset
from bootdiff.data.images import SUFFIXES, Images
from bootdiff.errors import BootdiffError

__all__ = ["open_source"]

_NO_READER = {
    (".pt", ".pth", ".pkl", ".pickle", ".ckpt"): "may run foreign code when opened and is never read; save an .npz",
    (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"): "is packed; unpack it and give the folder",
    (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif"): "is a video; save frames as pictures, or clips as an .npz array",
    SUFFIXES: "is one picture; give the folder that holds the pictures",
}


def open_source(
    path: str | Path,
    *,
    key: str | None = None,
    labels: bool | str = False,
    on_error: str = "refuse",
    channels: int | None = None,
    alpha: str = "refuse",
    masks: bool = False,
    column: str | None = None,
    limit: int | None = None,
    range: Sequence[float] | None = None,
    size: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
) -> Source:
    """The data at ``path``: a folder of pictures, a .npy or .npz file, a saved Hugging Face data set, or "digits".

    The options are those of Images, Arrays, HFDataset and Digits (key: the array in an .npz, the part of a Hugging Face
    data set, or "train" or "test" of the digits); one that the kind of data does not know is an error. limit: at most
    so many samples, evenly spaced.

    Raises BootdiffError, saying what is wrong at which path, and ValueError for wrong arguments.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"open_source: limit must be 1 or more, got {limit}")
    given: dict[str, Any] = {"key": key, "column": column, "range": range, "size": size, "classes": classes}
    given |= {"alpha": None if alpha == "refuse" else alpha, "masks": masks or None}
    if str(path) == "digits":
        _only(path, given, "scikit-learn's digits", {"key"})
        return _limited(Digits(key, labels=bool(labels), channels=channels), limit)
    path = Path(path)
    if not path.exists():
        parent = next((p for p in path.parents if p.exists()), Path())
        raise BootdiffError(
            f"{path}: no such file or folder ({parent.resolve()} exists). Check the path; a recipe's paths start "
            "at its folder."
        )
    if path.is_dir():
        if any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json", "state.json")):
            _only(path, given, "a Hugging Face data set", {"key", "column", "alpha"})
            return HFDataset(path, column, key, labels, on_error=on_error, channels=channels, alpha=alpha, limit=limit)
        _only(path, given, "a folder of pictures", {"size", "classes", "alpha", "masks"})
        if isinstance(labels, str):
            raise BootdiffError(f"{path}: is a folder of pictures, its sub-folders are the classes; write labels: true")
        return Images(
            path,
            labels,
            masks,
            on_error=on_error,
            size=size,
            channels=channels,
            alpha=alpha,
            limit=limit,
            classes=classes,
        )
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        _only(path, given, "an array", {"key", "range", "classes", "masks"})
        source = Arrays(path, key, labels, masks, range=range, channels=channels, on_error=on_error, classes=classes)
        return _limited(source, limit)
    reason = next((why for kinds, why in _NO_READER.items() if suffix in kinds), None)
    if reason is None:
        reason = f"has the unknown suffix {suffix!r}" if suffix else "is a file without a suffix"
        reason += "; data are read from folders of pictures (" + ", ".join(SUFFIXES) + "), .npy and .npz files"
    raise BootdiffError(f"{path}: {reason}.")


def _only(path: str | Path, given: dict[str, Any], kind: str, known: set[str]) -> None:
    unused = sorted(name for name, value in given.items() if value is not None and name not in known)
    if unused:
        raise BootdiffError(
            f"{path}: is {kind}, to which {', '.join(unused)} means nothing; remove it "
            f"(known here: {', '.join(sorted(known | {'labels', 'on_error', 'channels', 'limit'}))})"
        )


def _limited(source: Source, limit: int | None) -> Source:
    return source if limit is None or limit >= len(source) else Subset(source, evenly(len(source), limit))

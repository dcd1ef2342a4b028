"""One door to all data: picks the reader by what lies at the path and by the kind that is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bootdiff.data.dataset import Dataset, Subset, spaced_indices
from bootdiff.data.folders import walk
from bootdiff.data.kinds import KINDS
from bootdiff.data.readers.arrays import Arrays, Digits
from bootdiff.data.readers.decode import Undecodable
from bootdiff.data.readers.hf import HFDataset
from bootdiff.data.readers.images import SIDECAR, SUFFIXES, Images
from bootdiff.data.readers.recordings import Windowed
from bootdiff.data.readers.signals import Signals
from bootdiff.data.readers.tables import TABLES, read_table
from bootdiff.data.readers.videos import FILMS, Videos
from bootdiff.data.units import Units
from bootdiff.errors import BootdiffError

__all__ = ["open_dataset"]

_NO_READER = {
    (".pt", ".pth", ".pkl", ".pickle", ".ckpt"): "may run foreign code when opened and is never read; save an .npz",
    (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"): "is packed; unpack it and give the folder",
    SUFFIXES: "is one picture; give the folder that holds the pictures",
}

# What each reader understands beside kind, labels, on_error and limit.
_KNOWN = {
    "scikit-learn's digits": {"key", "channels"},
    "a Hugging Face data set": {"key", "column", "alpha", "channels"},
    "a folder of pictures": {"size", "classes", "alpha", "masks", "channels", "unlabelled"},
    "a folder of videos": {
        *("size", "classes", "alpha", "masks", "channels", "unlabelled"),
        *("frames", "stride", "fps"),
    },
    "a folder of signals": {
        *("range", "standardize", "units", "missing", "columns", "classes", "unlabelled"),
        *("length", "stride"),
    },
    "an array": {
        *("key", "range", "standardize", "units", "missing", "classes", "masks", "channels", "unlabelled"),
        *("frames", "length", "stride"),
    },
    "a table of vectors": {"range", "standardize", "units", "missing", "columns", "classes", "unlabelled"},
}


def open_dataset(
    path: str | Path,
    *,
    kind: str | None = None,
    key: str | None = None,
    labels: bool | str = False,
    unlabelled: str = "refuse",
    on_error: str = "refuse",
    channels: int | None = None,
    alpha: str = "refuse",
    masks: bool | str = False,
    missing: str = "refuse",
    column: str | None = None,
    columns: Sequence[str] | None = None,
    limit: int | None = None,
    frames: int | None = None,
    length: int | None = None,
    stride: int | None = None,
    fps: float | None = None,
    range: Sequence[float] | None = None,
    standardize: bool = False,
    units: Units | None = None,
    size: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
) -> Dataset:
    """The data at ``path``, of a ``kind`` that the files leave no doubt about or that is named: a folder of pictures,
    videos or signals, a video or signal file, a .npy or .npz file, a table (CSV, TSV, Parquet), a saved Hugging Face
    data set, or "digits".

    The options are those of Images, Videos, Signals, Arrays, HFDataset and Digits (key: the array in an .npz, the part
    of a Hugging Face data set, or "train" or "test" of the digits); one that the kind of data does not know is an
    error. frames, length, stride: windows of videos and signals, in arrays, too (`Windowed`). limit: at most so many
    samples, evenly spaced.

    Raises BootdiffError, saying what is wrong at which path, and ValueError for wrong arguments.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"open_source: limit must be 1 or more, got {limit}")
    if kind not in (None, *KINDS):
        raise ValueError(f"open_source: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    given: dict[str, Any] = {
        "key": key,
        "column": column,
        "columns": columns,
        "range": range,
        "size": size,
        "classes": classes,
        "frames": frames,
        "length": length,
        "stride": stride,
        "fps": fps,
        "units": units,
        "channels": channels,
        "alpha": None if alpha == "refuse" else alpha,
        "masks": masks or None,
        "missing": None if missing == "refuse" else missing,
        "unlabelled": None if unlabelled == "refuse" else unlabelled,
        "standardize": standardize or None,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    if str(path) == "digits":
        _only(path, chosen, "scikit-learn's digits", kind, ("image",))
        return _limited(Digits(key, labels=bool(labels), channels=channels), limit)
    path = Path(path)
    if not path.exists():
        parent = next((p for p in path.parents if p.exists()), Path())
        raise BootdiffError(
            f"{path}: no such file or folder ({parent.resolve()} exists). Check the path; a recipe's paths start "
            "at its folder."
        )
    if path.is_dir() and any((path / n).is_file() for n in ("dataset_info.json", "dataset_dict.json", "state.json")):
        _only(path, chosen, "a Hugging Face data set", kind, ("image",))
        return HFDataset(path, column, key, labels, on_error=on_error, channels=channels, alpha=alpha, limit=limit)
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return _limited(_array(path, chosen, kind, labels, on_error), limit)
    if suffix in TABLES and kind != "signal":
        return _limited(_table(path, chosen, kind, labels, on_error), limit)
    if not path.is_dir():
        kind = _kind_of_file(path, kind)
    elif kind is None:
        kind = _kind_of_folder(path)
    if isinstance(labels, str):
        raise BootdiffError(f"{path}: has no array of labels, sub-folders are the classes; write labels: true")
    if isinstance(masks, str):
        raise BootdiffError(f"{path}: has no array of masks, they lie beside the files; write masks: true")
    if kind == "video":
        _only(path, chosen, "a folder of videos", kind, ("video",))
        return _limited(Videos(path, labels, on_error=on_error, **chosen), limit)
    if kind == "signal":
        _only(path, chosen, "a folder of signals", kind, ("signal",))
        return _limited(Signals(path, labels, on_error=on_error, **chosen), limit)
    _only(path, chosen, "a folder of pictures", kind, ("image",))
    return Images(path, labels, on_error=on_error, limit=limit, **chosen)


def _array(path: Path, chosen: dict[str, Any], kind: str | None, labels: bool | str, on_error: str) -> Dataset:
    _only(path, chosen, "an array", kind, KINDS)
    options = {k: v for k, v in chosen.items() if k not in ("key", "masks", "frames", "length", "stride")}
    source = Arrays(
        path, chosen.get("key"), labels, chosen.get("masks"), kind=kind, on_error=on_error, **_measured(options)
    )
    for name, needed in (("frames", "video"), ("length", "signal")):
        if name in chosen:
            if source.kind != needed:
                raise BootdiffError(
                    f"{path}: holds samples of kind {source.kind}, to which {name} means nothing; remove it"
                )
            return Windowed(source, chosen[name], chosen.get("stride"))
    return source


def _table(path: Path, chosen: dict[str, Any], kind: str | None, labels: bool | str, on_error: str) -> Dataset:
    _only(path, chosen, "a table of vectors", kind, ("vector",))
    options = _measured({k: v for k, v in chosen.items() if k != "columns"})
    try:
        table = read_table(path, chosen.get("columns"), "label" if labels is True else labels or None)
    except Undecodable as error:
        raise BootdiffError(f"{path}: {error}.") from None
    return Arrays(
        table.values, kind="vector", labels=table.labels, columns=table.columns, where=str(path), row="row {0}",
        on_error=on_error, **options,
    )  # fmt: skip


def _measured(options: dict[str, Any]) -> dict[str, Any]:
    """Without `standardize` where units measured elsewhere are given."""
    return {k: v for k, v in options.items() if k != "standardize" or "units" not in options}


def _kind_of_file(path: Path, kind: str | None) -> str:
    """The kind of one file; BootdiffError where no reader takes it."""
    suffix = path.suffix.lower()
    found = None
    if suffix in FILMS or (suffix == ".webp" and kind == "video"):
        found = "video"
    elif suffix == ".wav" or suffix in TABLES:
        found = "signal"
    if found is not None:
        if kind not in (None, found):
            raise BootdiffError(f"{path}: is a {found}, not of kind {kind}; give other data or another kind")
        return found
    reason = next((why for kinds, why in _NO_READER.items() if suffix in kinds), None)
    if reason is None:
        reason = f"has the unknown suffix {suffix!r}" if suffix else "is a file without a suffix"
        reason += "; data are read from folders of pictures (" + ", ".join(SUFFIXES) + "), videos or signals, from "
        reason += ", ".join((*FILMS, ".wav", ".npy", ".npz", *TABLES)) + " files"
    raise BootdiffError(f"{path}: {reason}.")


def _kind_of_folder(path: Path) -> str:
    """The kind of the files in a folder; BootdiffError where there are several."""
    found: Counter[str] = Counter()
    for name in walk(path, "samples"):
        low = name.lower()
        if low.endswith(SUFFIXES) and not low.endswith(SIDECAR):
            found["image"] += 1
        elif low.endswith(FILMS):
            found["video"] += 1
        elif low.endswith(".wav"):
            found["signal"] += 1
    if len(found) > 1:
        said = ", ".join(f"{n} files for kind: {kind}" for kind, n in found.most_common())
        raise BootdiffError(f"{path}: holds files of several kinds ({said}); say which kind is meant")
    return next(iter(found), "image")


def _only(path: str | Path, chosen: dict[str, Any], what: str, kind: str | None, kinds: Sequence[str]) -> None:
    if kind is not None and kind not in kinds:
        raise BootdiffError(f"{path}: is {what}, which has no samples of kind {kind}; give other data or another kind")
    unused = sorted(chosen.keys() - _KNOWN[what])
    if unused:
        known = ", ".join(sorted((_KNOWN[what] - {"units", "size"}) | {"labels", "on_error", "limit"}))
        raise BootdiffError(
            f"{path}: is {what}, to which {', '.join(unused)} means nothing; remove it (known: {known})"
        )


def _limited(source: Dataset, limit: int | None) -> Dataset:
    return source if limit is None or limit >= len(source) else Subset(source, spaced_indices(len(source), limit))

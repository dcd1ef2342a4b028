"""Arrays in .npy and .npz files, and JPEG mosaics inside .npz. Nothing is ever unpickled.

A mosaic ``<key>_jpeg`` is one JPEG of all tiles in reading order, ``<key>_shape`` says N x ... x H x W x C: pictures,
or the frames of videos.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bootdiff.errors import BootdiffError

__all__ = ["read_arrays", "some", "unreadable"]

_LABELS = ("{key}_label", "{key}_labels", "labels", "label", "y")
_MASKS = ("{key}_mask", "{key}_masks", "masks", "mask")


def read_arrays(
    path: Path, key: str | None, labels_key: Any, masks_key: Any, labels: Any = None, masks: Any = None
) -> tuple[np.ndarray, Any, Any]:
    """The array (mapped, if the file is a .npy), labels and masks in a .npy or .npz file.

    key, labels_key, masks_key: as for `Arrays`. Raises BootdiffError for anything wrong with the file or the keys.
    """
    if path.suffix not in (".npy", ".npz"):
        raise BootdiffError(f"{path}: unknown suffix {path.suffix!r}; arrays are read from .npy and .npz files")
    if path.suffix == ".npy":
        if key or isinstance(labels_key, str) or isinstance(masks_key, str):
            raise BootdiffError(f"{path}: a .npy file holds one array without keys; remove the key or use a .npz file")
        if labels_key or masks_key:
            raise BootdiffError(f"{path}: a .npy file holds no labels or masks; save them all in one .npz file")
    try:
        # Opened here: NumPy leaves the file open where it finds it damaged.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if path.suffix == ".npy":
                return np.load(path, mmap_mode="r", allow_pickle=False), labels, masks
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise BootdiffError(f"{path}: is a .npy file by its contents; rename it")
            return _members(path, key, labels_key, masks_key, labels, masks, archive)
    except FileNotFoundError:
        raise BootdiffError(f"{path}: no such file; check the path (a recipe's paths start at its folder)") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise unreadable(path, error) from None


def _members(
    path: Path, key: str | None, labels_key: Any, masks_key: Any, labels: Any, masks: Any, archive: Any
) -> tuple[np.ndarray, Any, Any]:
    names = list(archive.files)
    mosaics = [n[: -len("_jpeg")] for n in names if n.endswith("_jpeg") and n[: -len("_jpeg")] + "_shape" in names]
    hidden = {m + tail for m in mosaics for tail in ("_jpeg", "_shape")}
    known = [n for n in names if n not in hidden] + mosaics
    if key is None:
        if len(known) != 1:
            raise BootdiffError(f"{path}: holds {len(known)} arrays; say which with key: one of {some(known)}")
        key = known[0]
    if key not in known:
        raise BootdiffError(f"{path}: has no key {key!r}; known keys: {some(known)}")
    array = _mosaic(path, key, archive) if key in mosaics else _member(path, key, archive)
    if labels_key:
        labels = _member(path, _pick(path, labels_key, _LABELS, key, known, "labels"), archive)
    if masks_key:
        masks = _member(path, _pick(path, masks_key, _MASKS, key, known, "masks"), archive)
    return array, labels, masks


def _pick(path: Path, asked: str | bool, usual: Sequence[str], key: str, known: list[str], what: str) -> str:
    names = [asked] if isinstance(asked, str) else [pattern.format(key=key) for pattern in usual]
    found = next((name for name in names if name in known), None)
    if found is None:
        raise BootdiffError(f"{path}: no {what} under {' or '.join(map(repr, names))}; known keys: {some(known)}")
    return found


def _member(path: Path, key: str, archive: Any) -> np.ndarray:
    try:
        return archive[key]
    # zlib.error and lzma.LZMAError of damaged members derive from Exception alone.
    except Exception as error:
        raise unreadable(f"{path}[{key}]", error) from None


def unreadable(where: Any, error: Exception) -> BootdiffError:
    if "allow_pickle" in str(error) or "pickle" in str(error).lower() or "Python objects" in str(error):
        return BootdiffError(
            f"{where}: holds Python objects or is no NumPy file; bootdiff never unpickles (it could run foreign code). "
            "Save one regular array of numbers with numpy.save or numpy.savez."
        )
    return BootdiffError(f"{where}: cannot be read ({error}). The file may be cut short; copy or save it again.")


def _mosaic(path: Path, key: str, archive: Any) -> np.ndarray:
    """N x ... x H x W x C cut from one JPEG of tiles in reading order."""
    shape = tuple(int(v) for v in _member(path, key + "_shape", archive).ravel())
    if len(shape) < 4 or min(shape) < 1:
        raise BootdiffError(f"{path}[{key}_shape]: must be N x ... x H x W x C with positive sizes, got {shape}")
    *lead, h, w, c = shape
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures; this one's size is declared and checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = np.asarray(Image.open(io.BytesIO(_member(path, key + "_jpeg", archive).tobytes())))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise unreadable(f"{path}[{key}_jpeg]", error) from None
    if picture.ndim == 2:
        picture = picture[..., None]
    rows, cols = picture.shape[0] // h, picture.shape[1] // w
    need = int(np.prod(lead))
    if picture.shape != (rows * h, cols * w, c) or rows * cols < need:
        raise BootdiffError(
            f"{path}[{key}_jpeg]: a {picture.shape} mosaic does not hold {need} tiles of {h} x {w} x {c}"
        )
    tiles = picture.reshape(rows, h, cols, w, c).swapaxes(1, 2).reshape(-1, h, w, c)
    return tiles[:need].reshape(shape)


def some(names: Sequence[str], most: int = 12) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more

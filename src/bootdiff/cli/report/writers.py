"""Samples as files, of the type of the name's ending, in the units of the data where these are known.

    kind      images                                 numbers, channels last
    image     .png (a grid), a folder of .png        .npy .npz
    video     .gif (all, moving), .png (frames in    .npy .npz
              rows), a folder of .gif
    signal    .png .svg (plots)                      .npy .npz, a folder of .csv
    vector    .png .svg (pair plot)                  .npy .npz .csv

Images and videos are clamped to their range, and are of 8 bits where their files are.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
from torch import Tensor

from bootdiff.cli.report import figures, images
from bootdiff.cli.report.metadata import DataInfo
from bootdiff.data import kind_of
from bootdiff.errors import BootdiffError
from bootdiff.training.files import atomic_write_bytes

__all__ = ["as_stored", "check_out", "default_suffix", "write_samples", "write_table"]

_SUFFIXES = {
    "image": (".png", ".npy", ".npz"),
    "video": (".gif", ".png", ".npy", ".npz"),
    "signal": (".png", ".svg", ".npy", ".npz"),
    "vector": (".png", ".svg", ".csv", ".npy", ".npz"),
}
_FOLDERS = {"image": "PNG images", "video": "GIF animations", "signal": "CSV tables"}


def default_suffix(shape: tuple[int, ...]) -> str:
    """The default ending for samples of this shape, channels first: something to look at."""
    return _SUFFIXES[kind_of(shape)][0]


def as_stored(x: Tensor, info: DataInfo | None = None) -> np.ndarray:
    """Samples (n, C, *space) as an array (n, *space, C) in original units: uint8 for images of 8 bits, else float32.

    Without info, images are taken to be of 8 bits, and other samples stay in stored coordinates.
    """
    info = info or DataInfo()
    x = x.detach().cpu().float()
    if kind_of(x.shape[1:]) in ("image", "video"):
        x = x.clamp(-1, 1)
        if info.bytes:
            return ((x + 1) * 127.5).round().byte().movedim(1, -1).numpy()
    return info.restore(x).movedim(1, -1).contiguous().numpy()


def check_out(out: Path, shape: tuple[int, ...]) -> None:
    """Raises BootdiffError where samples of this shape, channels first, cannot be written as such a file."""
    kind, suffix = kind_of(shape), out.suffix.lower()
    if (suffix or kind not in _FOLDERS) and suffix not in _SUFFIXES[kind] and not (out.is_dir() and kind in _FOLDERS):
        folder = f" or into a folder of {_FOLDERS[kind]} (no ending)" if kind in _FOLDERS else ""
        raise BootdiffError(f"--out {out}: {kind}s are written as {', '.join(_SUFFIXES[kind])}{folder}")


def write_samples(x: Tensor, out: Path, title: str = "", info: DataInfo | None = None) -> Path:
    """Samples (n, C, *space) in stored coordinates to `out`; the module's table lists the endings.

    Raises:
        BootdiffError: a file type that this kind of samples does not have, or a path that cannot be written.
    """
    check_out(out, x.shape[1:])
    kind, suffix = kind_of(x.shape[1:]), out.suffix.lower()
    info = info or DataInfo()
    try:
        if suffix not in _SUFFIXES[kind]:
            return _write_each(x, out, kind, info)
        if suffix == ".gif":
            return images.save_gif(x, out, info.rate)
        if suffix in (".npy", ".npz", ".csv"):
            return _write_numbers(as_stored(x, info), out, info)
        if kind == "signal":
            return figures.write_figure(figures.signals(x[:32], info), out)
        if kind == "vector":
            return figures.write_figure(figures.vectors({title: x}, info), out)
        return images.save_png(images.panels({title: images.sheet(x, info)}), out)
    except OSError as error:
        raise BootdiffError(f"--out {out}: cannot be written ({error.strerror}); choose a different place") from None


def _write_each(x: Tensor, out: Path, kind: str, info: DataInfo) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    digits = max(5, len(str(len(x) - 1)))
    for i, sample in enumerate(x):
        if kind == "image":
            images.save_png(images.to_pil(sample), out / f"{i:0{digits}d}.png")
        elif kind == "signal":
            write_table(as_stored(sample[None], info)[0], out / f"{i:0{digits}d}.csv", info)
        else:
            images.save_gif(sample[None], out / f"{i:0{digits}d}.gif", info.rate, side=max(sample.shape[-2:]))
    return out


def _write_numbers(values: np.ndarray, out: Path, info: DataInfo) -> Path:
    if out.suffix.lower() == ".csv":
        return write_table(values, out, info)
    out.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    if out.suffix.lower() == ".npy":
        np.save(file, values)
    else:
        np.savez_compressed(file, samples=values)
    atomic_write_bytes(out, file.getvalue())
    return out


def write_table(values: np.ndarray, out: Path, info: DataInfo) -> Path:
    """Rows of C values (rows, C), float32, as CSV under the names of the columns; creates the folder."""
    out.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([info.name(c) for c in range(values.shape[1])])
    rows.writerows([f"{v:.7g}" for v in row] for row in values.tolist())  # the precision of float32
    atomic_write_bytes(out, text.getvalue().encode())
    return out

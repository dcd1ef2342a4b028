"""Make the arrays that the recipes in experiments/recipes read, from the npz files of the benchmark data.

    python -m experiments.scripts.prepare --data DIR [--out experiments/data] [--only NAME ...]

mnist28.npz      28 x 28 x 1: `train` (20000) and `test` (5000)
mnist16.npz      mnist28 padded to 32 x 32, averaged to 16 x 16 x 1: `train` and `test`
cats64.npz       64 x 64 x 3: `train` (5600) and `test` (850)
cats32.npz       cats64 averaged to 32 x 32 x 3: `train` (5600) and `test` (850)
cats16.npz       cats32 averaged to 16 x 16 x 3: `train` (5600) and `test` (850)
radar32.npz      12 frames of 32 x 32 x 1: `train` (1800) and `test` (250)
traffic32.npz    16 frames of 32 x 32 x 3: `train` (640) and `test` (88)
ecg.npz          512 values: `train` (5760) and `test` (792)
medical64.npz    64 x 64 x 1: `train` (8645) and `test` (1500)
moving24.npz     16 frames of 24 x 24 x 1: a digit of mnist28, halved, that bounces; `train` (4000) and `test` (400)
moving32.npz     16 frames of 32 x 32 x 1: two such digits
mnist-tiny.npz   mnist16 on three channels: `train`, useless thumbnails
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from experiments.benchmark.moving_digits import simulate
from experiments.scripts.results import DATA

__all__ = ["halve", "load", "main"]

MOVING = (4000, 400)
"""Videos of moving24.npz and moving32.npz, to train and to test with."""

Arrays = Mapping[str, np.ndarray]


def load(path: Path, key: str) -> np.ndarray:
    """An array of an npz file.

    `KEY_jpeg` (the bytes of a picture file) and `KEY_shape` stand for a mosaic, row by row, of N x [T x] H x W x C
    tiles.

    Raises:
        KeyError: the file has neither.
    """
    with np.load(path) as z:
        if key in z:
            return np.asarray(z[key])
        *lead, h, w, c = z[key + "_shape"]
        mosaic = np.asarray(Image.open(io.BytesIO(z[key + "_jpeg"].tobytes())))
    rows, columns = mosaic.shape[0] // h, mosaic.shape[1] // w
    tiles = mosaic.reshape(rows, h, columns, w, c).swapaxes(1, 2).reshape(-1, h, w, c)
    return tiles[: np.prod(lead)].reshape(*lead, h, w, c)


def halve(x: np.ndarray) -> np.ndarray:
    """Averages over 2 x 2 pixels, rounded to uint8: N x H x W x C -> N x H/2 x W/2 x C."""
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4)).round().astype(np.uint8)


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """A compressed npz file, and a line about what is in it."""
    np.savez_compressed(path, **cast(Any, arrays))  # numpy types the names of arrays as its own option's
    print(path, {key: x.shape for key, x in arrays.items()})


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the data sets in --data and write the arrays into --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets' npz files")
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--only", nargs="*", help="names of the files to make, cats64 say; all of them by default")
    args = parser.parse_args(arguments)

    @cache
    def both(name: str) -> Arrays:
        return {key: load(args.data / f"{name}.npz", key) for key in ("train", "test")}

    @cache
    def small_digits() -> Arrays:
        return {key: halve(np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))) for key, x in both("mnist28").items()}

    @cache
    def cats(side: int) -> Arrays:
        return both("cats64") if side == 64 else {key: halve(x) for key, x in cats(2 * side).items()}

    def moving(size: int, each: int) -> Arrays:
        return {
            key: simulate(halve(both("mnist28")[key])[..., 0], count, frames=16, size=size, seed=seed, each=each)
            for key, count, seed in (("train", MOVING[0], 0), ("test", MOVING[1], 1))
        }

    made: dict[str, Callable[[], Arrays]] = {
        "mnist28": lambda: both("mnist28"),
        "mnist16": small_digits,
        "mnist-tiny": lambda: {"train": np.repeat(small_digits()["train"], 3, axis=3)},
        "cats64": lambda: cats(64),
        "cats32": lambda: cats(32),
        "cats16": lambda: cats(16),
        "radar32": lambda: both("radar_video32"),
        "traffic32": lambda: both("traffic_video32"),
        "ecg": lambda: both("ecg"),
        "medical64": lambda: both("medical64"),
        "moving24": lambda: moving(size=24, each=1),
        "moving32": lambda: moving(size=32, each=2),
    }
    wanted = made if args.only is None else args.only
    unknown = [name for name in wanted if name not in made]
    if unknown:
        parser.error(f"--only {unknown[0]}: no such file; known: {', '.join(made)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        write(args.out / f"{name}.npz", made[name]())


if __name__ == "__main__":
    main()

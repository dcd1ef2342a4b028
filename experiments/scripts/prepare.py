"""Make the arrays that the recipes in experiments/recipes read, from the npz files of the benchmark data.

    python experiments/scripts/prepare.py --data DIR [--out experiments/data]

mnist28.npz      28 x 28 x 1: `train` (20000) and `test` (5000)
mnist16.npz      mnist28 padded to 32 x 32, averaged to 16 x 16 x 1: `train` and `test`
cats64.npz       64 x 64 x 3: `train` (5600) and `test` (850)
cats32.npz       cats64 averaged to 32 x 32 x 3: `train` (5600) and `test` (850)
cats16.npz       cats32 averaged to 16 x 16 x 3: `train` (5600) and `test` (850)
radar32.npz      12 frames of 32 x 32 x 1: `train` (1800) and `test` (250)
traffic32.npz    16 frames of 32 x 32 x 3: `train` (640) and `test` (88)
ecg.npz          512 values: `train` (5760) and `test` (792)
mnist-tiny.npz   mnist16 on three channels: `train`, useless thumbnails
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image


def load(path: Path, key: str) -> np.ndarray:
    """An array of an npz file; `key`_jpeg and `key`_shape stand for a mosaic of N x [T x] H x W x C tiles."""
    z = np.load(path)
    if key in z:
        return z[key]
    *lead, h, w, c = z[key + "_shape"]
    mosaic = np.asarray(Image.open(io.BytesIO(z[key + "_jpeg"].tobytes())))
    rows, columns = mosaic.shape[0] // h, mosaic.shape[1] // w
    tiles = mosaic.reshape(rows, h, columns, w, c).swapaxes(1, 2).reshape(-1, h, w, c)
    return tiles[: np.prod(lead)].reshape(*lead, h, w, c)


def halve(x: np.ndarray) -> np.ndarray:
    """Averages over 2 x 2 pixels, rounded to uint8: N x H x W x C -> N x H/2 x W/2 x C."""
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4)).round().astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets' npz files")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    splits = ("train", "test")
    digits = {key: load(args.data / "mnist28.npz", key) for key in splits}
    np.savez_compressed(args.out / "mnist28.npz", **digits)
    small = {key: halve(np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))) for key, x in digits.items()}
    np.savez_compressed(args.out / "mnist16.npz", **small)
    np.savez_compressed(args.out / "mnist-tiny.npz", train=np.repeat(small["train"], 3, axis=3))
    cats = {key: load(args.data / "cats64.npz", key) for key in splits}
    np.savez_compressed(args.out / "cats64.npz", **cats)
    cats = {key: halve(x) for key, x in cats.items()}
    np.savez_compressed(args.out / "cats32.npz", **cats)
    np.savez_compressed(args.out / "cats16.npz", **{key: halve(x) for key, x in cats.items()})
    for name, source in (("radar32", "radar_video32"), ("traffic32", "traffic_video32"), ("ecg", "ecg")):
        np.savez_compressed(args.out / f"{name}.npz", **{k: load(args.data / f"{source}.npz", k) for k in splits})
    for path in sorted(args.out.glob("*.npz")):
        with np.load(path) as z:
            print(path, {key: z[key].shape for key in z})


if __name__ == "__main__":
    main()

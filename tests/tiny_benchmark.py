"""A benchmark on scikit-learn's digits that takes seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.benchmark.benchmarks import Benchmark, square_views

NETS = {"local": {"kind": "local", "width": 8, "depth": 3}}


def tiny(folder: Path, **changes) -> Benchmark:
    """240 digits of 8 x 8 pixels, 40 of them for the test; the data are written into `folder`."""
    from sklearn.datasets import load_digits

    x = np.round(load_digits().images[:240, :, :, None] * (255 / 16)).astype(np.uint8)
    path = folder / "digits.npz"
    if not path.is_file():
        np.savez(path, train=x[:200], test=x[200:])
    training = {"batch": 16, "lr": 1e-2, "ema": 0.9, "warmup": 2, "evaluate_every": 8}
    views = square_views(8)
    how = {
        "name": "tiny", "data": "digits.npz", "size": (1, 8, 8), "pool": 200, "test": 40, "flops": 4e8,
        "narrow": NETS, "wide": NETS, "training": training, "views": views, "folder": folder, "view_holdout": 8,
        "levels": (0.2, 0.8, 3.2), "device": "cpu",
    }  # fmt: skip
    return Benchmark(**{**how, **changes})

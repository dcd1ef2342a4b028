"""Train in Python, then sample: digits of which 80 are full, the rest thumbnails or half images.

python examples/train.py [--quick]
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import avg_pool2d

import bootdiff as bd
from bootdiff.nets import BuiltIn


def main(run: str = "runs/example", steps: int = 400) -> None:
    digits = torch.tensor(load_digits().images).float()[:, None] / 8 - 1  # (1797, 1, 8, 8) in [-1, 1]
    full, small, left, right = digits.split([80, 600, 600, 517])
    model = bd.fit(
        full=full,
        views={
            "thumbnails": (bd.Downsample(2), avg_pool2d(small, 2)),
            "left": (bd.Crop((8, 4), offset=(0, 0)), left[..., :4]),
            "right": (bd.Crop((8, 4), offset=(0, 4)), right[..., 4:]),
        },
        networks={"unet": BuiltIn("unet", {"channels": [16, 32]}), "local": BuiltIn("local", {"width": 32})},
        training=bd.TrainingSettings(steps=steps, lr=2e-3, ema=0.99),
        run=run,
    )
    images = bd.sample(model, 4, seed=0)
    print(f"{len(images)} images of {tuple(images.shape[1:])}, values {images.min():.2f} to {images.max():.2f}")


if __name__ == "__main__":
    main(steps=20 if "--quick" in sys.argv else 400)

"""Train from a recipe in Python, then sample: digits of which 80 are full, the rest thumbnails or half images.

python examples/train.py [--quick]
"""

import sys

from bootdiff import load_recipe_text, sample
from bootdiff.cli.console import Console
from bootdiff.cli.session import open_session

RECIPE = """
simulate: {pool: {path: digits}, full: 80}
views:
  thumbnails: {view: {kind: downsample, factor: 2}}
  left: {view: {kind: crop, size: [8, 4], offset: [0, 0]}}
  right: {view: {kind: crop, size: [8, 4], offset: [0, 4]}}
backbones: {unet: {kind: unet, channels: [16, 32], attention: false}, local: {kind: local, width: 32}}
training: {steps: STEPS, lr: 2e-3, ema: 0.99}
"""


def main(run: str = "runs/example", steps: int = 400) -> None:
    recipe = load_recipe_text(RECIPE.replace("STEPS", str(steps)))
    with open_session(recipe, run, Console()) as session:
        denoiser = session.train("bootdiff")
        images = sample(denoiser, 4, seed=0)
    print(f"{len(images)} images of {tuple(images.shape[1:])}, values {images.min():.2f} to {images.max():.2f}")


if __name__ == "__main__":
    main(steps=20 if "--quick" in sys.argv else 400)

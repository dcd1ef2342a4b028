"""Two views of a Gaussian, each with its exact denoiser, composed, measured and sampled: no network anywhere.

python examples/exact_views.py
"""

import torch

from bootdiff.distributions.exact import Gaussian
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.validation import SampleSet, Validator
from bootdiff.sampling import sample
from bootdiff.views import Crop

SHAPE, LEVELS = (1, 4, 4), (0.1, 0.4, 1.6)


def main() -> None:
    pixels = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))
    covariance = torch.exp(-torch.cdist(pixels, pixels) / 2)  # neighbours are alike
    law = Gaussian(torch.zeros(SHAPE), covariance)
    views = {"left": Crop((4, 2), (0, 0)), "right": Crop((4, 2), (0, 2))}
    composite = CompositeDenoiser(
        {name: (view, law.marginal(view)) for name, view in views.items()}, law.isotropic(), LEVELS
    )

    test = Validator(SampleSet(law.sample(2000, torch.Generator().manual_seed(0)).float()), composite, LEVELS)
    for name, denoiser in {"isotropic prior": composite.prior, "both halves": composite, "exact": law}.items():
        losses = " ".join(f"{v:.3f}" for v in test.denoiser(denoiser).mean(1))
        print(f"{name:15s} loss at sigma {LEVELS}: {losses}")

    x = sample(composite, 2000, seed=0, batch_size=500).flatten(2).squeeze(1)
    print(f"correlation within a half {x.T.corrcoef()[0, 1]:.2f}, across the middle {x.T.corrcoef()[1, 2]:.2f}")


if __name__ == "__main__":
    main()

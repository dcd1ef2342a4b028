"""How much does each view add?  Gains of exact denoisers: a half, a half that overlaps it, an unrelated view.

python examples/gains.py
"""

import torch

from bootdiff.distributions.exact import Gaussian
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.validation import SampleSet, Validator
from bootdiff.method.weights import fit_weights
from bootdiff.views import Crop, Downsample

SHAPE, LEVELS = (1, 4, 4), (0.1, 0.4, 1.6, 6.4)


def main() -> None:
    pixels = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))
    law = Gaussian(torch.zeros(SHAPE), torch.exp(-torch.cdist(pixels, pixels) / 2))
    other = Gaussian(torch.zeros(1, 2, 2), torch.diag(torch.tensor([4.0, 0.01, 4.0, 0.01])))
    views = {"left": Crop((4, 2), (0, 0)), "middle": Crop((4, 2), (0, 1)), "unrelated": Downsample(2)}
    denoisers = {"left": law.marginal(views["left"]), "middle": law.marginal(views["middle"]), "unrelated": other}
    composite = CompositeDenoiser({name: (views[name], denoisers[name]) for name in views}, law.isotropic(), LEVELS)
    full = SampleSet(law.sample(200, torch.Generator().manual_seed(0)).float())
    found = fit_weights(Validator(full, composite, LEVELS, draws=4).evidence_moments(), LEVELS)
    print("sigma     " + "".join(f"{s:8g}" for s in LEVELS))
    for k, name in enumerate(views):
        print(f"{name:10s}" + "".join(f"{v:8.3f}" for v in found.values[:, k]))


if __name__ == "__main__":
    main()

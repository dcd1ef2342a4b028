"""Where views alone know classes, their row spaces are theirs for a class, whatever the experts weigh."""

from __future__ import annotations

import torch

from bootdiff.denoise import Denoiser, IsotropicGaussian
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.stack import StackedDenoiser
from bootdiff.nets import LocalNet
from bootdiff.noise import LEVELS
from bootdiff.views import Crop, Downsample

FULL = (1, 4, 4)


class Classes(Denoiser):
    """Class c is N(mean_c, 0.25) in view coordinates, no class N(0, 0.25)."""

    def __init__(self, shape, means):
        super().__init__()
        self.shape, self.means, self.config = shape, torch.tensor(means), {"classes": len(means)}

    def forward(self, x, sigma, label=None, context=None):
        none = torch.full_like(sigma, -1).long() if label is None else label
        mean = torch.where(none < 0, 0.0, self.means[none.clamp_min(0)])[:, None, None, None]
        return mean + (0.25 / (0.25 + sigma**2))[:, None, None, None] * (x - mean)


def stack(views, weight, classes=None):
    base = IsotropicGaussian(FULL, [0.0], 0.5)
    parts = {n: (v, Classes(v.shape(FULL), [0.5 * v.scale, -0.5 * v.scale])) for n, v in views.items()}
    composite = CompositeDenoiser(parts, base, LEVELS)
    net = LocalNet(1, 1, width=4, depth=3, classes=classes)
    expert = ResidualExpert(net, composite, LEVELS, [0.5] * len(LEVELS), uses_views=False, anchor="prior")
    return StackedDenoiser(composite, [expert], LEVELS, [[weight]] * len(LEVELS))


def asked(n=5):
    x = torch.randn(n, *FULL, generator=torch.Generator().manual_seed(0))
    return x, torch.linspace(0.1, 4, n), torch.arange(n) % 2


def test_weights_of_experts_do_not_silence_the_class():
    """Halves that show all of the sample together decide all of the estimate, whatever the experts weigh."""
    x, sigma, label = asked()
    halves = {"left": Crop((4, 2), offset=(0, 0)), "right": Crop((4, 2), offset=(0, 2))}
    want = Classes(FULL, [0.5, -0.5])(x, sigma, label)
    for weight in (0.0, 0.9, 1.0):
        torch.testing.assert_close(stack(halves, weight)(x, sigma, label), want)


def test_the_null_space_is_left_to_the_experts():
    x, sigma, label = asked()
    view = Downsample(2)
    d = stack({"small": view}, 0.9)
    free, of_class = d(x, sigma), d(x, sigma, label)
    torch.testing.assert_close(view(of_class), Classes(view.shape(FULL), [1.0, -1.0])(view(x), sigma, label))
    torch.testing.assert_close(of_class - view.lift(view(of_class), FULL), free - view.lift(view(free), FULL))


def test_rows_of_no_class_are_as_without_labels():
    x, sigma, label = asked()
    d = stack({"small": Downsample(2)}, 0.9)
    label[1::2] = -1
    torch.testing.assert_close(d(x, sigma, label)[1::2], d(x, sigma)[1::2])
    assert not torch.allclose(d(x, sigma, label)[::2], d(x, sigma)[::2], atol=1e-2)


def test_experts_that_know_classes_are_asked_themselves():
    x, sigma, label = asked()
    d = stack({"small": Downsample(2)}, 1.0, classes=2)
    # with all weight on an expert that was not trained yet, nothing depends on the class
    torch.testing.assert_close(d(x, sigma, label), d(x, sigma))

"""bootdiff: train diffusion models from a few full samples and plenty of partial ones.

The public names below are handed on from the modules that define them, each on first use, so that ``import bootdiff``
costs milliseconds and does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

# public name -> module that defines it (and its name there, where that is different)
_HOME: dict[str, str] = {
    # train, draw, complete, keep
    "fit": "bootdiff.api",
    "sample": "bootdiff.sampling",
    "restore": "bootdiff.restoration",
    "save": "bootdiff.serialization",
    "load": "bootdiff.serialization",
    # data and settings
    "open": "bootdiff.data.open:open_dataset",
    "as_dataset": "bootdiff.data.open",
    "TrainingSettings": "bootdiff.training.settings",
    # denoisers
    "Denoiser": "bootdiff.denoise",
    "IsotropicGaussian": "bootdiff.denoise",
    "DiffusersDenoiser": "bootdiff.pretrained",
    "CompositeDenoiser": "bootdiff.method.composite",
    "ResidualExpert": "bootdiff.method.residual",
    "StackedDenoiser": "bootdiff.method.stack",
    "Gaussian": "bootdiff.distributions.exact",
    "Mixture": "bootdiff.distributions.exact",
    "Discrete": "bootdiff.distributions.exact",
    # views
    **dict.fromkeys(
        (
            "View", "Identity", "Downsample", "Crop", "Mask", "RandomMask", "ChannelMix", "Pick", "Window",
            "FrameWindow", "FrameStride", "Stills", "Observed", "compose",
        ),
        "bootdiff.views",
    ),
    # recipes, diffusers, errors
    "Recipe": "bootdiff.recipe.schema",
    "load_recipe": "bootdiff.recipe.schema",
    "BootdiffPipeline": "bootdiff.pipeline",
    "BootdiffError": "bootdiff.errors",
}  # fmt: skip

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'bootdiff' has no attribute {name!r}; it hands on {', '.join(sorted(_HOME))}")
    module, _, there = home.partition(":")
    value = getattr(import_module(module), there or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

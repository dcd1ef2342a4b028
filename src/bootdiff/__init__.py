"""bootdiff: train diffusion models from a few full samples and plenty of partial ones.

The public names below are handed on from the modules that define them, each on first use, so that ``import bootdiff``
costs milliseconds and does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Type checkers would otherwise take this name for the module of the same name.
    from bootdiff.sampling import sample as sample

__version__ = "0.1.0"

# public name -> module that defines it
_HOME: dict[str, str] = {
    "BootdiffError": "bootdiff.errors",
    "BootdiffPipeline": "bootdiff.pipeline",
    "Recipe": "bootdiff.recipe.schema",
    "load": "bootdiff.serialization",
    "load_recipe": "bootdiff.recipe.schema",
    "load_recipe_text": "bootdiff.recipe.schema",
    "sample": "bootdiff.sampling",
    "save": "bootdiff.serialization",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'bootdiff' has no attribute {name!r}; it hands on {', '.join(sorted(_HOME))}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

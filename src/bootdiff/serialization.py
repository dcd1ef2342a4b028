"""A denoiser in a folder: `model.json` says how it is built, `model.safetensors` holds its weights.  No pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from bootdiff import __version__
from bootdiff.denoise import Denoiser, IsotropicGaussian, ScaledDenoiser
from bootdiff.errors import BootdiffError
from bootdiff.guidance import GuidedDenoiser
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.stack import SnapshotsByNoiseLevel, StackedDenoiser
from bootdiff.nets import NETS
from bootdiff.pretrained import DiffusersDenoiser
from bootdiff.spec import decode, encode
from bootdiff.training.run import atomic_write_json, load_tensors, save_tensors

__all__ = ["CLASSES", "load", "save"]

_PARTS = (
    IsotropicGaussian,
    ScaledDenoiser,
    GuidedDenoiser,
    DiffusersDenoiser,
    CompositeDenoiser,
    ResidualExpert,
    SnapshotsByNoiseLevel,
    StackedDenoiser,
)

CLASSES: dict[str, Any] = {c.__name__: c for c in (*_PARTS, *NETS.values())}  # type: ignore[attr-defined]
"""What a `model.json` may ask for."""


def save(denoiser: Denoiser, folder: str | Path) -> None:
    """Write `model.json` and `model.safetensors` into `folder` (made if missing), each atomically.

    Raises:
        TypeError: the denoiser holds a part without a config.
        BootdiffError: no room on the disk.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    spec = encode(denoiser)
    save_tensors(folder / "model.safetensors", {k: v.contiguous() for k, v in denoiser.state_dict().items()}, {})
    atomic_write_json(folder / "model.json", {"format": 1, "denoiser": spec})


def load(folder: str | Path, device: str | torch.device = "cpu") -> Denoiser:
    """The denoiser that `save` wrote, in evaluation mode.

    Raises:
        BootdiffError: no such folder, or files that do not go together.
    """
    folder = Path(folder)
    try:
        said = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise BootdiffError(
            f"{folder}: no model.json in it; give a folder that a finished run or save_pretrained wrote"
        ) from None
    except ValueError as error:
        raise BootdiffError(f"{folder}/model.json: not valid JSON ({error}); copy the folder again") from None
    try:
        denoiser = decode(said["denoiser"], CLASSES)
        if not isinstance(denoiser, Denoiser):
            raise ValueError(f"a {type(denoiser).__name__} is no denoiser")
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise BootdiffError(
            f"{folder}/model.json: cannot be built by bootdiff {__version__} ({error}); use the version that wrote it"
        ) from None
    weights, _ = load_tensors(folder / "model.safetensors")
    own = denoiser.state_dict()
    missing, unexpected = len(own.keys() - weights.keys()), len(weights.keys() - own.keys())
    misshapen = sum(own[k].shape != weights[k].shape for k in own.keys() & weights.keys())
    if missing or unexpected or misshapen:
        raise BootdiffError(
            f"{folder}: model.json and model.safetensors do not go together: {missing} weight(s) missing, "
            f"{unexpected} unknown, {misshapen} of another shape; copy both files from one run"
        )
    denoiser.load_state_dict(weights)
    return denoiser.to(device).eval()

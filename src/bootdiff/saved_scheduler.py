"""The scheduler of a saved pipeline: its class by name among those that can be used, its config checked.

diffusers takes its defaults where a key of a config is missing or misspelt, so a damaged config would draw other
samples without a word.  Pipelines therefore have the SHA-256 of their JSON files in the denoiser's model.json.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import diffusers
from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from bootdiff.errors import BootdiffError
from bootdiff.schedulers import FAMILIES, check_scheduler
from bootdiff.serialization import read_note
from bootdiff.training.files import read_json, sha256_of
from bootdiff.training.forms import checked

__all__ = ["BESIDE", "check_beside", "scheduler_of"]

INDEX, CONFIG = "model_index.json", "scheduler/scheduler_config.json"
BESIDE = (INDEX, CONFIG)
"""Files of a pipeline whose SHA-256 its denoiser's model.json has."""

_Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@with_config(ConfigDict(strict=True))
class _Config(TypedDict):
    """What numbers of a scheduler's config may be; the rest is for diffusers to judge."""

    num_train_timesteps: NotRequired[Annotated[int, Field(ge=1, le=1_000_000)]]
    sigma_min: NotRequired[_Above0 | None]
    sigma_max: NotRequired[_Above0 | None]
    sigma_data: NotRequired[_Above0]
    rho: NotRequired[_Above0]
    solver_order: NotRequired[Annotated[int, Field(ge=1, le=9)]]
    final_sigmas_type: NotRequired[Literal["zero", "sigma_min"] | None]


def scheduler_of(folder: Path, name: str) -> Any:
    """The scheduler that the pipeline of class `name` in a folder was saved with.

    Raises:
        BootdiffError: another pipeline, a scheduler that cannot be used, or files that are damaged.
    """
    index, config = folder / INDEX, folder / CONFIG
    remedy = "copy the folder again, or pass a scheduler: from_pretrained(..., scheduler=...)"
    check_beside(folder, remedy)
    parts = checked(dict[str, Any], read_json(index, remedy), index, remedy)
    found = parts.get("_class_name")
    if found != name:
        raise BootdiffError(f"{index}: the pipeline in it is a {found}, not a {name}; give a different folder")
    pair = parts.get("scheduler")
    kind = pair[1] if isinstance(pair, list) and len(pair) == 2 else pair
    if not isinstance(kind, str) or kind not in FAMILIES or not hasattr(diffusers, kind):
        raise BootdiffError(
            f"{index}: its scheduler {kind!r} is none of diffusers {diffusers.__version__} that can be used; install "
            f"the version that wrote it, or pass scheduler=EDMDPMSolverMultistepScheduler(...)"
        )
    values = checked(dict[str, Any], read_json(config, remedy), config, remedy)
    checked(_Config, values, config, remedy)
    low, high = values.get("sigma_min"), values.get("sigma_max")
    if low is not None and high is not None and not low < high < math.inf:
        raise BootdiffError(f"{config}: sigma_min {low:g} is not below sigma_max {high:g}; {remedy}")
    try:
        made = getattr(diffusers, kind).from_config(values)
        check_scheduler(made)
        return made
    except Exception as error:  # diffusers raises anything for values that it does not know
        raise BootdiffError(f"{config}: no config of a {kind} ({error}); {remedy}") from None


def check_beside(folder: Path, remedy: str) -> None:
    """Raises BootdiffError where a file around a pipeline's model is not the one it was saved with; of pipelines of
    earlier versions nothing is known."""
    for name, sha256 in read_note(folder / "denoiser").get("beside", {}).items():
        if name not in BESIDE:
            continue
        if not (folder / name).is_file():
            raise BootdiffError(f"{folder / name}: no such file; {remedy}")
        if sha256_of(folder / name) != sha256:
            raise BootdiffError(f"{folder / name}: damaged, or changed since it was saved; {remedy}")

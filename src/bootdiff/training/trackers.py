"""A training's numbers and pictures for trackers, through accelerate: what metrics.jsonl holds, and samples.

Each network counts its own steps from 0.  TensorBoard and its like keep a step beside every value; W&B and trackio have
one counter for a whole run that never goes back: there a network's step is a value of its own, STAGE/step, against
which its curves are drawn.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bootdiff.errors import BootdiffError

__all__ = ["TRACKERS", "log_picture", "log_values", "start", "tracker_options"]

TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab")
"""Those that accelerate knows."""

_ONE_COUNTER = ("wandb", "trackio")
_PROJECT = "bootdiff"


def tracker_options(names: Sequence[str], folder: Path) -> dict[str, Any]:
    """Arguments of Accelerator for these trackers; files of TensorBoard's lie in folder/tensorboard.

    Raises:
        BootdiffError: one that nobody knows, or that is not installed.
    """
    if not names:
        return {}
    from accelerate.tracking import filter_trackers
    from accelerate.utils import ProjectConfiguration

    for name in names:
        if name not in TRACKERS:
            raise BootdiffError(f"--track {name}: no such tracker is known; known: {', '.join(TRACKERS)}")
        if not filter_trackers([name], str(folder)):
            raise BootdiffError(
                f"--track {name}: the package {name} is not installed; run pip install {name}, or leave the option out "
                "(metrics.jsonl in the run holds the same numbers)"
            )
    project = ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "tensorboard"))
    return {"log_with": list(names), "project_config": project}


def start(accelerator: Any, names: Sequence[str], run: Path, about: Mapping[str, Any]) -> None:
    """Begin to track a run, or go on; `about`: what its tracker is told of it, name -> number or text."""
    if not names:
        return
    # The same run continues as the same one: known by its place.
    place = hashlib.sha256(f"{socket.gethostname()} {run.resolve()}".encode()).hexdigest()[:16]
    own = {
        "wandb": {"name": run.name, "dir": str(run), "id": place, "resume": "allow"},
        "trackio": {"name": f"{run.name}-{place[:6]}", "resume": "allow"},
    }
    accelerator.init_trackers(_PROJECT, dict(about), {name: own[name] for name in names if name in own})


def log_values(accelerator: Any, stage: str, values: Mapping[str, float], step: int) -> None:
    """Numbers of a stage after so many of its steps."""
    named = {f"{stage}/{key}": value for key, value in values.items()}
    for tracker in accelerator.trackers:
        if tracker.name not in _ONE_COUNTER:
            tracker.log(named, step=step)
            continue
        if tracker.name == "wandb" and tracker.tracker is not None:
            tracker.tracker.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        tracker.log({**named, f"{stage}/step": step})


def log_picture(accelerator: Any, stage: str, picture: Any, step: int) -> None:
    """Samples that a stage drew after so many of its steps, as one picture (Pillow's)."""
    import numpy as np

    for tracker in accelerator.trackers:
        if not hasattr(tracker, "log_images"):
            continue
        pixels = np.asarray(picture.convert("RGB"))[None]
        if tracker.name == "tensorboard":
            tracker.log_images({f"{stage}/samples": pixels}, step=step, dataformats="NHWC")
        elif tracker.name in _ONE_COUNTER:
            tracker.log_images({f"{stage}/samples": list(pixels)})
        else:
            tracker.log_images({f"{stage}/samples": list(pixels)}, step=step)

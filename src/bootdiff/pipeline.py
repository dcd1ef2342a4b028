"""A diffusers pipeline around any denoiser: samples in three lines.

    from bootdiff import BootdiffPipeline
    pipe = BootdiffPipeline.from_pretrained("runs/x/bootdiff")
    images = pipe(num_images=16, seed=0).images

A folder that it reads is either what `save_pretrained` wrote,

    model_index.json                    names of the parts, as in every diffusers pipeline
    denoiser/model.json                 how the denoiser is built
    denoiser/weights/                   the weights of its networks
    scheduler/scheduler_config.json     solver and noise levels

or what `save` wrote, as for every arm of a run: model.json and weights/ alone.  JSON and safetensors,
no pickle.  Images and videos are x in [-1, 1] mapped to [0, 1] and clamped; signals and vectors are unchanged, in
the stored coordinates of the data (`bootdiff sample` writes them in original units).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from torch import Tensor

from bootdiff.denoise import Denoiser
from bootdiff.errors import BootdiffError
from bootdiff.sampling import sample
from bootdiff.schedulers import diffusers_scheduler
from bootdiff.serialization import load, save
from bootdiff.training.files import read_json

__all__ = ["BootdiffPipeline", "DenoiserModel"]

OUTPUTS = ("pil", "np", "pt")


class DenoiserModel(ModelMixin, Denoiser):
    """A denoiser as a part of a diffusers pipeline: the same D, with diffusers' `device`, `dtype` and saving.

    Args:
        wrapped: the denoiser.
    """

    def __init__(self, wrapped: Denoiser) -> None:
        super().__init__()
        self.wrapped, self.shape = wrapped, tuple(wrapped.shape)

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """D(x, sigma), (B, *shape)."""
        return self.wrapped(x, sigma, label, context)

    def save_pretrained(self, save_directory: str | Path) -> None:  # type: ignore[override]
        """Write `model.json` and `weights/`. Raises as `save`."""
        save(self.wrapped, save_directory)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> DenoiserModel:  # type: ignore[override]
        """Read what `save_pretrained` or `save` wrote. Raises as `load`."""
        return cls(load(folder))


class BootdiffPipeline(DiffusionPipeline):
    """Draws samples with a denoiser.

    Args:
        denoiser: any `Denoiser`; only those that `spec.encode` can describe can be saved.
        scheduler: one of diffusers' EDM schedulers; it sets sigma_min and sigma_max. Default: DPM-Solver++(2M),
            sigma from 80 to 0.02.
    """

    denoiser: DenoiserModel
    scheduler: Any

    _optional_components = ["scheduler"]  # noqa: RUF012 (diffusers: an argument with a default is not saved otherwise)

    def __init__(self, denoiser: Denoiser, scheduler: Any | None = None) -> None:
        super().__init__()
        model = denoiser if isinstance(denoiser, DenoiserModel) else DenoiserModel(denoiser)
        self.register_modules(denoiser=model, scheduler=scheduler or diffusers_scheduler("dpm"))

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, scheduler: Any | None = None
    ) -> BootdiffPipeline:
        """The pipeline in a folder that `save_pretrained`, `save` or a run wrote.

        Args:
            pretrained_model_name_or_path: a folder on this machine.
            scheduler: used in place of the saved one.

        Raises:
            BootdiffError: no such folder, or files that do not go together.
        """
        folder = Path(pretrained_model_name_or_path)
        index = folder / "model_index.json"
        if not index.exists():
            # Without a model.json, the message of `load` is the right one.
            return cls(load(folder), scheduler)
        parts = read_json(index)
        name = parts.get("_class_name") if isinstance(parts, dict) else None
        if name != cls.__name__:
            raise BootdiffError(
                f"{index}: the pipeline in it is a {name}, not a {cls.__name__}; give a different folder"
            )
        if scheduler is None:
            kind = (parts.get("scheduler") or [None, None])[1]
            if not (isinstance(kind, str) and kind.startswith("EDM") and hasattr(diffusers, kind)):
                raise BootdiffError(
                    f"{index}: its scheduler {kind!r} is not an EDM scheduler of diffusers {diffusers.__version__}; "
                    f"install the version that wrote it, or pass scheduler=EDMDPMSolverMultistepScheduler(...)"
                )
            try:
                scheduler = getattr(diffusers, kind).from_pretrained(folder / "scheduler", local_files_only=True)
            except OSError as error:
                raise BootdiffError(f"{folder}/scheduler: cannot be read ({error}); copy the folder again") from None
        return cls(DenoiserModel.from_pretrained(folder / "denoiser"), scheduler)

    @torch.no_grad()
    def __call__(
        self,
        num_images: int | None = None,
        *,
        class_labels: int | Sequence[int] | Tensor | None = None,
        guidance: float = 1.0,
        guidance_interval: Sequence[float] | None = None,
        seed: int = 0,
        num_inference_steps: int = 40,
        scheduler: str | Any | None = None,
        batch_size: int = 64,
        output_type: str | None = None,
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw samples.

        Args:
            num_images: how many; default: one for each class label, or one.
            class_labels: the class of all samples, or of each, for a denoiser trained with classes.
            guidance: weight of classifier-free guidance toward the class, 1 for none.
            guidance_interval: [lowest, highest] noise level with guidance; None: all.
            seed: sample i is the same for every num_images and batch_size.
            num_inference_steps: noise levels, at least 2; `heun` takes two evaluations for each, the others one.
            scheduler: for this call in place of the pipeline's own: a name in `bootdiff.sampling.SOLVERS` (on the noise
                levels of the pipeline's own) or one of diffusers' EDM schedulers.
            batch_size: samples per evaluation: bounds the memory.
            output_type: "pil", a list of PIL images, mode L (one channel) or RGB (three), of videos a list of their
                frames each; "np", (n, *space, C) float32; "pt", (n, C, *space) float32, on the denoiser's device. None:
                "pil" where samples are images or videos of these channels, else "np".
            return_dict: give `.images`; otherwise a tuple that holds them.

        Raises:
            ValueError: as `sample`, an unknown output_type, or samples that cannot be PIL images.
            BootdiffError: the denoiser returned NaN or an infinity.
        """
        shape = self.denoiser.shape
        drawable = len(shape) in (3, 4) and shape[0] in (1, 3)
        output_type = output_type or ("pil" if drawable else "np")
        if output_type not in OUTPUTS:
            raise ValueError(f"unknown output_type {output_type!r}; give one of {', '.join(OUTPUTS)}")
        if output_type == "pil" and not drawable:
            raise ValueError(f"samples of shape {shape} cannot be PIL images; use output_type 'np' or 'pt'")
        if num_images is None:
            num_images = 1 if class_labels is None else torch.as_tensor(class_labels).numel()
        config = self.scheduler.config
        total = num_inference_steps * -(-max(num_images, 0) // max(batch_size, 1))
        with self.progress_bar(total=total) as bar:
            x = sample(
                self.denoiser,
                num_images,
                seed=seed,
                scheduler=self.scheduler if scheduler is None else scheduler,
                steps=num_inference_steps,
                sigma_min=config.sigma_min,
                sigma_max=config.sigma_max,
                label=class_labels,
                guidance=guidance,
                guidance_interval=guidance_interval,
                batch_size=batch_size,
                progress=lambda done, total: bar.update(1),
            )
        unit = (x / 2 + 0.5).clamp(0, 1) if len(shape) > 2 else x
        images: Any = unit if output_type == "pt" else unit.movedim(1, -1).cpu().numpy()
        if output_type == "pil":
            images = _pil_images(images) if len(shape) == 3 else [_pil_images(frames) for frames in images]
        return ImagePipelineOutput(images=images) if return_dict else (images,)


def _pil_images(unit: np.ndarray) -> list[Any]:
    """(n, H, W, 1 or 3) in [0, 1] -> PIL images, mode L or RGB."""
    from PIL import Image

    values = (unit * 255).round().astype(np.uint8)
    return [Image.fromarray(v[:, :, 0] if v.shape[2] == 1 else v) for v in values]

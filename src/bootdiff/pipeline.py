"""A diffusers pipeline around any denoiser: samples in three lines.

    from bootdiff import BootdiffPipeline
    pipe = BootdiffPipeline.from_pretrained("runs/x/bootdiff")
    images = pipe(batch_size=16, generator=torch.Generator().manual_seed(0)).images

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

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from torch import Generator, Tensor

from bootdiff.denoise import Denoiser
from bootdiff.errors import BootdiffError
from bootdiff.sampling import Churn, sample
from bootdiff.schedulers import FAMILIES, After, check_scheduler, diffusers_scheduler, range_of
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
        scheduler: one of diffusers' schedulers that sigmas or alphas define (`bootdiff.schedulers.FAMILIES`); its
            config sets the noise levels. Default: DPM-Solver++(2M), sigma from 80 to 0.02.

    Raises:
        ValueError: a scheduler that the denoiser cannot be converted to.
    """

    denoiser: DenoiserModel
    scheduler: Any

    _callback_tensor_inputs = ["latents"]  # noqa: RUF012 (diffusers' name)
    _optional_components = ["scheduler"]  # noqa: RUF012 (diffusers: an argument with a default is not saved otherwise)

    def __init__(self, denoiser: Denoiser, scheduler: Any | None = None) -> None:
        super().__init__()
        if scheduler is not None:
            check_scheduler(scheduler)
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
            if kind not in FAMILIES or not hasattr(diffusers, kind):
                raise BootdiffError(
                    f"{index}: its scheduler {kind!r} is none of diffusers {diffusers.__version__} that can be used; "
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
        batch_size: int | None = None,
        *,
        num_images: int | None = None,
        class_labels: int | Sequence[int] | Tensor | None = None,
        guidance_scale: float | None = None,
        guidance: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        generator: Generator | Sequence[Generator] | None = None,
        seed: int | None = None,
        num_inference_steps: int = 40,
        sigmas: Sequence[float] | None = None,
        churn: float | Churn = 0.0,
        scheduler: str | Any | None = None,
        max_batch_size: int = 64,
        output_type: str | None = None,
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw samples.

        Args:
            batch_size: how many; default: one for each class label or generator, or one.
            num_images: the same.
            class_labels: the class of all samples, or of each, for a denoiser trained with classes.
            guidance_scale: weight of classifier-free guidance toward the class, 1 (the default) for none.
            guidance: the same.
            guidance_interval: [lowest, highest] noise level with guidance; None: all.
            generator: random numbers, advanced: one for each sample, which then depends on it alone; or one for all.
            seed: in place of a generator; sample i is the same for every batch_size and max_batch_size. Default: 0.
            num_inference_steps: noise levels, at least 2; schedulers of two evaluations a step take twice as many.
            sigmas: the noise levels above 0 themselves, descending (as in `sample`).
            churn: fresh noise in the steps of scheduler "heun" (as in `sample`).
            scheduler: for this call in place of the pipeline's own: a name in `bootdiff.sampling.SOLVERS` (between the
                noise levels of the pipeline's own) or one of diffusers' schedulers (`bootdiff.schedulers.FAMILIES`).
            max_batch_size: samples per evaluation: bounds the memory. More samples run in several batches.
            output_type: "pil", a list of PIL images, mode L (one channel) or RGB (three), of videos a list of their
                frames each; "np", (n, *space, C) float32; "pt", (n, C, *space) float32, on the denoiser's device. None:
                "pil" where samples are images or videos of these channels, else "np".
            return_dict: give `.images`; otherwise a tuple that holds them.
            callback_on_step_end: called as f(pipe, i, t, kwargs) after evaluation i of every batch, at the scheduler's
                time t; returns kwargs, where changed "latents" are gone on with. Or diffusers' `PipelineCallback`.
            callback_on_step_end_tensor_inputs: what kwargs holds: "latents", the batch (B, *shape) as the scheduler
                holds it.

        Raises:
            ValueError: as `sample`, two names of one thing, an unknown output_type, or samples that cannot be PIL
                images.
            BootdiffError: the denoiser returned NaN or an infinity.
        """
        shape = self.denoiser.shape
        drawable = len(shape) in (3, 4) and shape[0] in (1, 3)
        output_type = output_type or ("pil" if drawable else "np")
        if output_type not in OUTPUTS:
            raise ValueError(f"unknown output_type {output_type!r}; give one of {', '.join(OUTPUTS)}")
        if output_type == "pil" and not drawable:
            raise ValueError(f"samples of shape {shape} cannot be PIL images; use output_type 'np' or 'pt'")
        if generator is not None and seed is not None:
            raise ValueError("generator and seed both say which random numbers to take; give one of them")
        if guidance is not None and guidance_scale is not None:
            raise ValueError("guidance and guidance_scale are two names of one weight; give one of them")
        n = _count(batch_size, num_images, class_labels, generator)
        weight = guidance_scale if guidance is None else guidance
        steps = num_inference_steps if sigmas is None else len(sigmas)
        low, high = range_of(self.scheduler, steps) if isinstance(scheduler, str) and sigmas is None else (0.02, 80.0)
        with self.progress_bar(total=steps * -(-max(n, 0) // max(max_batch_size, 1))) as bar:
            x = sample(
                self.denoiser,
                n,
                seed=seed or 0,
                generator=generator,
                scheduler=self.scheduler if scheduler is None else scheduler,
                steps=num_inference_steps,
                sigma_min=low,
                sigma_max=high,
                sigmas=sigmas,
                churn=churn,
                label=class_labels,
                guidance=1.0 if weight is None else weight,
                guidance_interval=guidance_interval,
                batch_size=max_batch_size,
                progress=lambda done, total: bar.update(done - bar.n),
                on_step=self._after(callback_on_step_end, callback_on_step_end_tensor_inputs),
            )
        unit = (x / 2 + 0.5).clamp(0, 1) if len(shape) > 2 else x
        images: Any = unit if output_type == "pt" else unit.movedim(1, -1).cpu().numpy()
        if output_type == "pil":
            images = _pil_images(images) if len(shape) == 3 else [_pil_images(frames) for frames in images]
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _after(self, callback: Any, names: Sequence[str]) -> After | None:
        """diffusers' callback at the end of a step, as `sample` takes one."""
        if callback is None:
            return None
        names = getattr(callback, "tensor_inputs", names)  # of a PipelineCallback
        unknown = sorted(set(names) - set(self._callback_tensor_inputs))
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs: no {', '.join(unknown)} here; known: "
                f"{', '.join(self._callback_tensor_inputs)}"
            )

        def after(i: int, t: Any, y: Tensor) -> Tensor:
            said = callback(self, i, t, dict.fromkeys(names, y))
            if not isinstance(said, dict):
                raise ValueError(
                    f"callback_on_step_end returned a {type(said).__name__}; it must return its callback_kwargs"
                )
            changed: Tensor = said.get("latents", y)
            return changed

        return after


def _count(
    batch_size: int | None, num_images: int | None, labels: Any, generator: Generator | Sequence[Generator] | None
) -> int:
    """The number of samples that a call asks for."""
    now = (
        "batch_size is the number of samples, as in diffusers; the samples per evaluation, which it was until "
        "bootdiff 0.2, are max_batch_size"
    )
    if batch_size is not None and num_images is not None:
        raise ValueError(f"batch_size={batch_size} and num_images={num_images} both give a number: {now}")
    n = num_images if batch_size is None else batch_size
    each = None if labels is None else torch.as_tensor(labels)
    if n is not None:
        if batch_size is not None and each is not None and each.ndim and len(each) != n:
            raise ValueError(f"{len(each)} class labels for batch_size={batch_size}: {now}")
        return n
    if each is not None and (each.ndim or generator is None or isinstance(generator, Generator)):
        return each.numel()
    return 1 if generator is None or isinstance(generator, Generator) else len(generator)


def _pil_images(unit: np.ndarray) -> list[Any]:
    """(n, H, W, 1 or 3) in [0, 1] -> PIL images, mode L or RGB."""
    from PIL import Image

    values = (unit * 255).round().astype(np.uint8)
    return [Image.fromarray(v[:, :, 0] if v.shape[2] == 1 else v) for v in values]

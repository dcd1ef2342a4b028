"""A diffusers pipeline around any denoiser: samples in three lines.

    from bootdiff import BootdiffPipeline
    pipe = BootdiffPipeline.from_pretrained("runs/x/bootdiff")
    images = pipe(batch_size=16, generator=torch.Generator().manual_seed(0)).images

A folder that it reads is either what `save_pretrained` wrote,

    model_index.json                    names of the parts, as in every diffusers pipeline
    denoiser/model.json                 how the denoiser is built
    denoiser/weights/                   the weights of its networks
    scheduler/scheduler_config.json     solver and noise levels
    README.md                           the model card (`card`)

or what `save` wrote, as for every arm of a run: model.json and weights/ alone.  JSON and safetensors, no pickle; the
model.json of a pipeline has the SHA-256 of the JSON files around it.  The
former can be pushed to the Hugging Face Hub, and is then read by its name there (`hub`).

Images and videos are x in [-1, 1] mapped to [0, 1] and clamped; signals and vectors are unchanged, in the stored
coordinates of the data (`bootdiff sample` writes them in original units).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from torch import Generator, Tensor

from bootdiff.card import model_card
from bootdiff.denoise import Denoiser
from bootdiff.errors import BootdiffError
from bootdiff.hub import is_hub_id, pull, push
from bootdiff.sampling import Churn, at_once, sample
from bootdiff.saved_scheduler import BESIDE, scheduler_of
from bootdiff.schedulers import After, check_scheduler, diffusers_scheduler, range_of
from bootdiff.serialization import arm_folder, load, note_beside, read_note, save
from bootdiff.training.files import atomic_write_text, sha256_of

__all__ = ["BootdiffPipeline", "DenoiserModel"]

OUTPUTS = ("pil", "np", "pt")


class DenoiserModel(ModelMixin, Denoiser):
    """A denoiser as a part of a diffusers pipeline: the same D, with diffusers' `device`, `dtype` and saving.

    Args:
        wrapped: the denoiser.
    """

    def __init__(self, wrapped: Denoiser) -> None:
        super().__init__()
        self.wrapped, self.shape, self.noise_shift = wrapped, tuple(wrapped.shape), wrapped.noise_shift

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """D(x, sigma), (B, *shape)."""
        return self.wrapped(x, sigma, label, context)

    def valid_at(self, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        return self.wrapped.valid_at(sigma, label)

    def save_pretrained(self, save_directory: str | Path) -> None:  # type: ignore[override]
        """Write `model.json` and `weights/`. Raises as `save`."""
        save(self.wrapped, save_directory)

    def push_to_hub(self, *args: Any, **options: Any) -> str:
        """Refused: a model alone says neither how to draw with it nor what it is."""
        raise BootdiffError("a denoiser is pushed with its pipeline: BootdiffPipeline(denoiser).push_to_hub(...)")

    @classmethod
    def from_pretrained(cls, folder: str | Path, **loading: Any) -> DenoiserModel:  # type: ignore[override]
        """Read what `save_pretrained` or `save` wrote.

        Args:
            folder: where.
            loading: what `DiffusionPipeline.from_pretrained` hands to every part. Raises ValueError for what would
                change the weights or where they are.
        """
        for key in ("device_map", "variant", "quantization_config"):
            if loading.get(key) is not None:
                raise ValueError(f"{key} is not for a bootdiff model: load it, then move it by pipe.to(device)")
        check_dtype(loading.get("torch_dtype"))
        return cls(load(folder))


def check_dtype(dtype: torch.dtype | None) -> None:
    """Raises ValueError for weights of half precision, which noise levels and samples do not go together with."""
    if dtype in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"{dtype}: bootdiff's models draw with float32 weights; leave them so (pipe.to(torch.float32)), and for "
            f"speed draw under torch.autocast"
        )


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
        self._source: Path | None = None
        # By ModelMixin: diffusers' custom_pipeline runs a copy of this file, with a DenoiserModel of its own.
        model = denoiser if isinstance(denoiser, ModelMixin) else DenoiserModel(denoiser)
        self.register_modules(denoiser=model, scheduler=scheduler or diffusers_scheduler("dpm"))

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        scheduler: Any | None = None,
        *,
        classes: Iterable[type] = (),
        torch_dtype: torch.dtype | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> BootdiffPipeline:
        """The pipeline that `save_pretrained`, `save`, `push_to_hub` or a run wrote.

        Args:
            pretrained_model_name_or_path: a folder on this machine, or a repository on the Hub, "owner/name".
            scheduler: used in place of the saved one.
            classes: classes of your own that the denoiser is made of (as in `load`).
            torch_dtype: float32 or None: weights are not converted.
            revision, token, cache_dir, local_files_only: of a repository (as in `hub.pull`).

        Raises:
            BootdiffError: no such folder or repository, no connection, or files that do not go together.
            ValueError: half precision.
        """
        check_dtype(torch_dtype)
        name = pretrained_model_name_or_path
        folder = Path(name)
        if is_hub_id(name):
            folder = pull(
                str(name), revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
            )
            if not any((folder / file).is_file() for file in ("model_index.json", "model.json")):
                raise BootdiffError(f"{name}: a repository, but not of a bootdiff model; give a different name")
        index = folder / "model_index.json"
        if not index.exists():
            # Without a model.json, the message of `load` is the right one.
            made = cls(load(folder, classes=classes), scheduler)
        else:
            scheduler = scheduler_of(folder, cls.__name__) if scheduler is None else scheduler
            made = cls(load(folder / "denoiser", classes=classes), scheduler)
        made._source = folder
        return made

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        *,
        license: str | None = None,
        safe_serialization: bool = True,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **hub: Any,
    ) -> None:
        """Write the pipeline, with a model card.

        A README.md that is there already, or in the folder that the pipeline was read from, is kept as it is.

        Args:
            save_directory: made if missing.
            license: an identifier of the Hub for the card, such as "apache-2.0"; None: left to be filled in.
            safe_serialization: weights are safetensors whatever it says.
            push_to_hub: also upload it, to `repo_id` (default: the folder's name).
            hub: then private, token, commit_message and create_pr, as in `hub.push`.

        Raises:
            TypeError: the denoiser holds a part without a config; an unknown argument.
            BootdiffError: no room on the disk, a card of a run that cannot be made; as `hub.push`.
        """
        unknown = sorted(set(hub) - {"private", "token", "commit_message", "create_pr"})
        if unknown or (hub and not push_to_hub):
            raise TypeError(f"save_pretrained takes no {', '.join(unknown or sorted(hub))} here")
        folder = Path(save_directory)
        kept = self._kept_card(folder, license)
        self._write(folder)
        name = repo_id or folder.absolute().name
        self._write_card(folder, kept, license, name if push_to_hub else ".")
        if push_to_hub:
            push(folder, name, **hub)

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        license: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload the pipeline, so that `from_pretrained(repo_id)` reads it. Arguments, result and errors: `hub.push`.

        Args:
            license: as in `save_pretrained`.
        """
        with tempfile.TemporaryDirectory(prefix="bootdiff-") as folder:
            kept = self._kept_card(Path(folder), license)
            self._write(Path(folder))
            self._write_card(Path(folder), kept, license, repo_id)
            return push(
                folder, repo_id, private=private, token=token, commit_message=commit_message, create_pr=create_pr
            )

    def _write(self, folder: Path) -> None:
        super().save_pretrained(folder)
        note_beside(folder / "denoiser", {name: sha256_of(folder / name) for name in BESIDE})

    def _kept_card(self, folder: Path, license: str | None) -> Path | None:
        """A README.md that is there already. Raises ValueError for a licence that would not get into it."""
        places = [folder] if self._source is None else [folder, self._source]
        kept = next((place / "README.md" for place in places if (place / "README.md").is_file()), None)
        if kept is not None and license is not None:
            raise ValueError(f"license: {kept} is kept as it is; write the licence into it, or delete it")
        return kept

    def _write_card(self, folder: Path, kept: Path | None, license: str | None, place: str) -> None:
        if kept is not None:
            atomic_write_text(folder / "README.md", kept.read_text(encoding="utf-8"))
            return
        source = None if self._source is None else self._source.absolute()
        if source is not None and (source / "run.json").is_file():
            source = arm_folder(source)
        run = source.parent if source is not None and (source.parent / "run.json").is_file() else None
        spec = read_note(folder / "denoiser")["denoiser"]
        arm = source.name if source is not None else None
        text = model_card(self.denoiser.wrapped, spec, run=run, arm=arm, license=license, place=place)
        atomic_write_text(folder / "README.md", text)

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
        noise_shift: Literal["auto"] | float = "auto",
        scheduler: str | Any | None = None,
        max_batch_size: int | None = None,
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
            seed: in place of a generator; sample i is the same, up to rounding, for every batch_size and
                max_batch_size. Default: 0.
            num_inference_steps: noise levels, at least 2; schedulers of two evaluations a step take twice as many.
            sigmas: the noise levels above 0 themselves, descending (as in `sample`).
            churn: fresh noise in the steps of scheduler "heun" (as in `sample`).
            noise_shift: share by which the noise is understated to the denoiser; "auto": the model's own (as in
                `sample`).
            scheduler: for this call in place of the pipeline's own: a name in `bootdiff.sampling.SOLVERS` (between the
                noise levels of the pipeline's own) or one of diffusers' schedulers (`bootdiff.schedulers.FAMILIES`).
            max_batch_size: samples per evaluation: bounds the memory (None: `sampling.at_once`). More samples run in
                several batches.
            output_type: "pil", a list of PIL images, mode L (one channel) or RGB (three), of videos a list of their
                frames each; "np", (n, *space, C) float32; "pt", (n, C, *space) float32, on the denoiser's device. None:
                "pil" where samples are images or videos of these channels, else "np".
            return_dict: give `.images`; otherwise a tuple that holds them.
            callback_on_step_end: called as f(pipe, i, t, kwargs) after evaluation i of every batch, at the scheduler's
                time t; returns kwargs, where changed "latents" are gone on with. Or diffusers' `PipelineCallback`.
            callback_on_step_end_tensor_inputs: what kwargs holds: "latents", the batch (B, *shape) as the scheduler
                holds it.

        Raises:
            ValueError: as `sample`, two names of one thing, an unknown output_type, samples that cannot be PIL
                images, or weights of half precision.
            BootdiffError: the denoiser returned NaN or an infinity.
        """
        for weight in self.denoiser.parameters():
            check_dtype(weight.dtype)
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
        max_batch_size = at_once(shape) if max_batch_size is None else max_batch_size
        n = _count(batch_size, num_images, class_labels, generator)
        strength = guidance_scale if guidance is None else guidance
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
                noise_shift=noise_shift,
                label=class_labels,
                guidance=1.0 if strength is None else strength,
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
        "batch_size is the number of samples, as in diffusers; the samples per evaluation, which it was before, are "
        "max_batch_size"
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

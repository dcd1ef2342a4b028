"""A diffusers network with its scheduler as a denoiser D(x, sigma) of x = x0 + sigma n: frozen, converted exactly.

*Variance preserving*, discrete steps t = 0 .. T - 1 (Ho et al. 2020, arXiv 2006.11239, equation 4):

    x_t = sqrt(a_t) x0 + sqrt(1 - a_t) n = sqrt(a_t) (x0 + sigma_t n),      sigma_t = sqrt((1 - a_t) / a_t),

a_t the product of 1 - beta up to t.  So the network is evaluated as f = F(x / sqrt(1 + sigma^2), t(sigma)), and

    epsilon         D = x - sigma f
    v_prediction    D = x / (1 + sigma^2) - sigma / sqrt(1 + sigma^2) f     (Salimans, Ho 2022, arXiv 2202.00512)
    sample          D = f

with t(sigma) linear in ln sigma between the steps and exact at them: networks embed t smoothly.

*EDM* (Karras et al. 2022, arXiv 2206.00364, table 1; `noise.precondition` with the scheduler's sigma_data):

    D = c_skip x + c_out F(c_in x, ln(sigma) / 4)                           (v_prediction: - c_out)

A scheduler's clipping of x0 belongs to its sampling and is not applied.  Beyond the scheduler's range of noise levels
the nearest step is evaluated, and a composite ignores the view there (`Denoiser.valid_at`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bootdiff.denoise import Denoiser, expand
from bootdiff.errors import BootdiffError
from bootdiff.noise import interpolate, precondition

__all__ = ["EDM", "VARIANCE_PRESERVING", "DiffusersDenoiser", "is_diffusers"]

# Names of a pipeline's part that turns pictures into codes and back.
_AUTOENCODERS = {"vae", "vqvae", "movq"}

VARIANCE_PRESERVING = (
    "DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler", "PNDMScheduler",
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler",
    "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler",
    "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler",
)  # fmt: skip
EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
_PREDICTIONS = {"vp": ("epsilon", "v_prediction", "sample"), "edm": ("epsilon", "v_prediction")}
_BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
_WEIGHTS = "diffusion_pytorch_model"


class DiffusersDenoiser(Denoiser):
    """A diffusers `UNet2DModel` as the posterior mean in its own pixels, [-1, 1] as diffusers trains.

    Args:
        unet: the network's config: keyword arguments of UNet2DModel, with `sample_size`.
        scheduler: the scheduler's config, with its class under `_class_name`.
        classes: number of the network's class numbers that are classes: all (None), or all but the last, which then
            means "no class".

    Raises:
        ValueError: a network or a scheduler that cannot be converted.
    """

    levels: Tensor

    def __init__(self, unet: dict[str, Any], scheduler: dict[str, Any], classes: int | None = None) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.config: dict[str, Any] = {
            "unet": _without_notes(unet), "scheduler": _without_notes(scheduler, "_class_name"), "classes": classes,
        }  # fmt: skip
        self.family, self.prediction, levels, self.sigma_data = _noise_levels(scheduler)
        self.shape = _shape(unet)
        doubled = str(scheduler.get("variance_type", "")).startswith("learned")
        outputs = unet.get("out_channels", 3)
        if outputs != self.shape[0] * (2 if doubled else 1):
            raise ValueError(f"the network has {self.shape[0]} input and {outputs} output channels; they must be equal")
        if unet.get("time_embedding_type", "positional") != "positional":
            raise ValueError(
                f"the network embeds its time as {unet['time_embedding_type']!r}; only 'positional' is "
                f"defined between whole steps"
            )
        if unet.get("class_embed_type") is not None:
            raise ValueError(f"class_embed_type {unet['class_embed_type']!r} is not supported; class numbers are")
        self.labels: int | None = unet.get("num_class_embeds")
        """Number of class numbers of the network; None where it has none."""
        self.classes = self.labels
        self.register_buffer("levels", levels, persistent=False)
        self._range = float(levels[0]), float(levels[-1])
        self.unet = UNet2DModel.from_config(self.config["unet"])
        if classes is not None:
            self.with_classes(classes)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def from_folder(cls, folder: str | Path) -> DiffusersDenoiser:
        """Read a folder that diffusers wrote: a pipeline's (`unet/` and `scheduler/`), or both parts in one.

        Raises:
            BootdiffError: no such parts, weights that are not safetensors, parts that cannot be converted; a latent
                model, whose network works on codes.
        """
        folder = Path(folder)
        home = folder / "unet" if (folder / "unet").is_dir() else folder
        _refuse_latent(folder, home)
        near = (folder / "scheduler", home, home.parent / "scheduler")
        found = [path for path in near if _has(path, "scheduler_config.json")]
        if not found:
            raise BootdiffError(
                f"{folder}: no scheduler_config.json in it, which defines what the network predicts; save "
                f"the pipeline's scheduler beside the network: scheduler.save_pretrained('{folder}/scheduler')"
            )
        unet, scheduler = _read(home / "config.json"), _read(found[0] / "scheduler_config.json")
        kind = unet.get("_class_name")
        if kind != "UNet2DModel":
            raise BootdiffError(
                f"{home}/config.json: the network is a {kind}; a view's denoiser can only be a UNet2DModel"
            )
        _check_weights(home)
        try:
            denoiser = cls(unet, scheduler)
        except (TypeError, ValueError) as error:
            raise BootdiffError(
                f"{folder}: cannot be used as a pretrained view ({error}); choose a different model"
            ) from None
        denoiser.unet = _load(home)
        return denoiser.requires_grad_(False).eval()

    def with_classes(self, count: int) -> DiffusersDenoiser:
        """The same, with the number of the network's class numbers that are classes.

        Raises:
            ValueError: a different count.
        """
        if self.labels is None or count not in (self.labels, self.labels - 1):
            raise ValueError(f"the network has {self.labels or 'no'} class numbers, not {count} classes")
        self.classes = self.config["classes"] = count
        return self

    def train(self, mode: bool = True) -> DiffusersDenoiser:
        """It is frozen: it stays in evaluation mode."""
        return super().train(False)

    def valid_at(self, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """Within the scheduler's noise levels and, for a network that needs a class, where there is one."""
        # A step's sigma, rounded to float32, counts as within.
        low, high = self._range
        valid = (sigma >= low * (1 - 1e-4)) & (sigma <= high * (1 + 1e-4))
        if self.labels is None or self.classes != self.labels:
            return valid
        return valid & (label >= 0) if label is not None else torch.zeros_like(valid)

    def step(self, sigma: Tensor) -> Tensor:
        """t(sigma), (B,) -> (B,) float32: the step of a variance-preserving scheduler with this noise, interpolated."""
        steps = torch.arange(len(self.levels), dtype=torch.float64, device=sigma.device)
        t = interpolate(sigma, self.levels, steps)
        # A step's sigma, rounded to float32, gives almost its number.
        whole = t.round()
        return torch.where((t - whole).abs() < 1e-3, whole, t).float()

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """D(x, sigma), (B, C, H, W). Raises ValueError where the network needs a class and gets none."""
        if self.family == "edm":
            c = precondition(sigma, self.sigma_data)
            f = self._predict(expand(c.c_in, x) * x, c.c_noise, label)
            sign = -1 if self.prediction == "v_prediction" else 1
            return expand(c.c_skip, x) * x + sign * expand(c.c_out, x) * f
        total = (1 + sigma**2).sqrt()
        f = self._predict(x / expand(total, x), self.step(sigma), label)
        if self.prediction == "epsilon":
            return x - expand(sigma, x) * f
        if self.prediction == "v_prediction":
            return x / expand(total**2, x) - expand(sigma / total, x) * f
        return f

    def _predict(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """The network's output, without the channels of a learned variance."""
        if self.labels is None:
            label = None
        elif self.classes != self.labels:
            none = torch.full_like(t, self.labels - 1, dtype=torch.long)
            label = none if label is None else torch.where(label < 0, none, label)
        elif label is None or bool((label < 0).any()):
            raise ValueError(f"this network needs a class, 0 to {self.labels - 1}, for every sample")
        return self.unet(x, t, class_labels=label).sample[:, : self.shape[0]].to(x.dtype)


def is_diffusers(folder: str | Path) -> bool:
    """Whether a folder holds a network or a pipeline as diffusers saves them."""
    folder = Path(folder)
    return _has(folder, "config.json") or _has(folder / "unet", "config.json")


def _refuse_latent(folder: Path, home: Path) -> None:
    """BootdiffError where a pipeline has an autoencoder, between pixels and what its network works on."""
    for pipeline in dict.fromkeys((folder, home.parent) if home.name == "unet" else (folder,)):
        index = _read(pipeline / "model_index.json") if _has(pipeline, "model_index.json") else {}
        parts = {name: str(part[1]) for name, part in index.items() if isinstance(part, list) and part[-1] is not None}
        # Folders that were copied without their index tell by their names.
        parts |= {name: "autoencoder" for name in _AUTOENCODERS - index.keys() if _has(pipeline / name, "config.json")}
        for name, kind in parts.items():
            if name in _AUTOENCODERS or kind.startswith(("Autoencoder", "AsymmetricAutoencoder", "VQModel")):
                raise BootdiffError(
                    f"{pipeline}: is a latent model: its network works on what its {name} ({kind}) makes of pictures, "
                    "not on their pixels; give a model of pixels, or leave `pretrained` out"
                )


def _has(folder: Path, name: str) -> bool:
    return (folder / name).is_file()


def _without_notes(config: dict[str, Any], *also: str) -> dict[str, Any]:
    """A config without diffusers' notes, such as the path that it was read from."""
    return {k: v for k, v in config.items() if not k.startswith("_") or k in also}


def _shape(unet: dict[str, Any]) -> tuple[int, ...]:
    size = unet.get("sample_size")
    if size is None:
        raise ValueError("its config has no sample_size, so the size of its images is not known: write it there")
    height, width = (size, size) if isinstance(size, int) else size
    return int(unet.get("in_channels", 3)), int(height), int(width)


def _noise_levels(config: dict[str, Any]) -> tuple[str, str, Tensor, float]:
    """Family, prediction, noise levels (ascending, float64) and sigma_data of a scheduler."""
    import diffusers

    name = config.get("_class_name")
    family = "vp" if name in VARIANCE_PRESERVING else "edm" if name in EDM else None
    if family is None:
        known = ", ".join((*VARIANCE_PRESERVING, *EDM))
        raise ValueError(f"its scheduler {name!r} is not supported; supported: {known}")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS[family] or config.get("use_flow_sigmas"):
        raise ValueError(
            f"its scheduler predicts {prediction!r}; supported for {name}: {', '.join(_PREDICTIONS[family])}"
        )
    if family == "edm":
        c: Any = getattr(diffusers, str(name)).from_config(_without_notes(config)).config
        return family, prediction, torch.tensor([c.sigma_min, c.sigma_max], dtype=torch.float64), float(c.sigma_data)
    # The others differ in sampling only; their training noise is one formula of the same keys.
    betas = {k: v for k, v in config.items() if k in _BETAS}
    try:
        a = diffusers.DDPMScheduler.from_config(betas).alphas_cumprod.double()
    except NotImplementedError:
        raise ValueError(f"its scheduler's beta_schedule {betas.get('beta_schedule')!r} is not known") from None
    # Rescaled to end in pure noise, the last step has no sigma.
    levels = ((1 - a) / a).sqrt()[a > 1e-9]
    if not bool((levels.diff() > 0).all()):
        raise ValueError("its noise does not rise from step to step")
    return family, prediction, levels, 0.0


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BootdiffError(f"{path}: no such file; give a folder that diffusers' save_pretrained wrote") from None
    except (ValueError, RecursionError) as error:
        raise BootdiffError(f"{path}: not valid JSON ({error}); copy the folder again") from None
    if not isinstance(config, dict):
        raise BootdiffError(f"{path}: not a config; give a folder that diffusers' save_pretrained wrote")
    return config


def _check_weights(home: Path) -> None:
    if any(home.glob(f"{_WEIGHTS}*.safetensors")):
        return
    if any(home.glob(f"{_WEIGHTS}*.bin")):
        raise BootdiffError(
            f"{home}: its weights are a pickled .bin file, which can run any code when opened; if you trust it, "
            f"save it again as safetensors: UNet2DModel.from_pretrained('{home}', use_safetensors=False)"
            f".save_pretrained('{home}')"
        )
    raise BootdiffError(f"{home}: no {_WEIGHTS}.safetensors in it; copy the folder again")


def _load(home: Path) -> Any:
    from diffusers import UNet2DModel

    plain = _has(home, f"{_WEIGHTS}.safetensors") or any(home.glob(f"{_WEIGHTS}.safetensors.index.json"))
    variant = None if plain else next(home.glob(f"{_WEIGHTS}*.safetensors")).name.split(".")[1].split("-")[0]
    try:
        unet, info = UNet2DModel.from_pretrained(
            home, use_safetensors=True, local_files_only=True, variant=variant, torch_dtype=torch.float32,
            output_loading_info=True, low_cpu_mem_usage=False,
        )  # fmt: skip
    except Exception as error:  # diffusers and safetensors raise anything for damaged files
        raise BootdiffError(f"{home}: its weights cannot be read ({error}); copy the folder again") from None
    wrong = [*info["missing_keys"], *info["mismatched_keys"]]
    if wrong:
        raise BootdiffError(
            f"{home}: {len(wrong)} weight(s) of the network are missing or of a different shape ({wrong[0]}); "
            f"config.json and the weights must come from one model"
        )
    return unet

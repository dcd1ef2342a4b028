"""Feature networks: they turn samples into the rows that `metrics` compares.

phi: samples (B, C, *space), images and videos in [-1, 1], to features (B, d). A figure holds for one phi only, so every
`Features` has a name, and the name is reported with the figure. Kinds, also for data unlike the photographs that
Inception was trained on:

    classifier    the layer before the logits of a small convolutional classifier trained on the labelled data
    autoencoder   the code of a small convolutional autoencoder trained on the data, where there are no labels
    columns       of vectors: the columns themselves
    a path        the user's own network for images, such as Inception or DINOv2: a TorchScript file, a folder
                  with a diffusers autoencoder, or a file written by `Features.save`

Trained features are divided by their standard deviation over the training data, so that distances are in units of the
data's own spread and networks of different seeds can be compared roughly. The choice of data-specific features follows
Borji 2022, "Pros and cons of GAN evaluation measures: new developments", arXiv 2103.09396, section 2.

No Python pickle is ever opened (`torch.load`, `.bin`, `.ckpt`; nor `.pt2`, whose loader unpickles some of its tensors).
A TorchScript file holds none either, and cannot run Python; but it is a program whose operations may read and write
files, so load one only from where you would install software from.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import ConfigDict, with_config
from torch import Generator, Tensor, nn
from typing_extensions import TypedDict

from bootdiff.data.dataset import Dataset
from bootdiff.errors import BootdiffError
from bootdiff.evaluation.encoders import Decoder, Encoder
from bootdiff.training.files import load_tensors, read_json, save_tensors
from bootdiff.training.forms import checked

__all__ = ["Features", "Preparation", "is_program", "load_features"]

_SCRIPT = (".pt", ".pth", ".ts", ".jit", ".torchscript")
_FORMAT = "bootdiff features 1"


def is_program(spec: str | Path) -> bool:
    """Whether loading these features runs a program: TorchScript."""
    return Path(spec).suffix in _SCRIPT


@with_config(ConfigDict(strict=True, extra="forbid"))
class _Saved(TypedDict):
    """What belongs to the tensors of `Features.save`."""

    format: str
    name: str
    shape: list[int]
    width: int
    dim: int


@dataclass(frozen=True)
class Preparation:
    """The input format of the user's own network; the defaults leave images unchanged.

    Args:
        range: "signed" [-1, 1], "unit" [0, 1] or "byte" uint8 0..255 (rounded).
        size: side in pixels to resize to (bicubic, antialiased), or None.
        channels: 3 repeats gray images, or None.
        mean, std: one value per channel, subtracted and divided by last, or None. Not with "byte".
    """

    range: str = "signed"
    size: int | None = None
    channels: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.range not in ("signed", "unit", "byte"):
            raise ValueError(f'range must be "signed", "unit" or "byte", got {self.range!r}')
        if self.range == "byte" and (self.mean is not None or self.std is not None):
            raise ValueError(
                'range "byte" gives uint8, which mean and std cannot be applied to; use "unit" or drop them'
            )
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be at least 1 pixel, got {self.size}")

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] to the network's input format."""
        if self.channels is not None and x.shape[1] != self.channels:
            if x.shape[1] != 1:
                raise ValueError(
                    f"images have {x.shape[1]} channels, the network takes {self.channels}; give gray ones or that many"
                )
            x = x.expand(-1, self.channels, -1, -1)
        if self.size is not None and tuple(x.shape[-2:]) != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bicubic", antialias=True).clamp(-1, 1)
        if self.range == "byte":
            return ((x + 1) * 127.5).round().to(torch.uint8)
        x = (x + 1) / 2 if self.range == "unit" else x
        if self.mean is not None:
            x = x - torch.tensor(self.mean).to(x).reshape(-1, 1, 1)
        return x if self.std is None else x / torch.tensor(self.std).to(x).reshape(-1, 1, 1)


class Features:
    """A feature network with the name to report beside every figure made with it.

    Attributes:
        name: kind, size, how good it is on held-out data, and a hash of the weights.
        fn: images in [-1, 1], (B, C, H, W), on `device`, to features (B, d).
        device: where fn computes.
    """

    def __init__(
        self,
        name: str,
        fn: Callable[[Tensor], Tensor],
        device: str | torch.device = "cpu",
        config: dict[str, Any] | None = None,
    ) -> None:
        self.name, self.fn, self.device, self._config = name, fn, torch.device(device), config

    def __repr__(self) -> str:
        return f"Features({self.name!r})"

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, *space) to (B, d) float32 on `device`, without gradients. Images and videos are clipped to [-1, 1].

        Raises:
            ValueError: images of the wrong shape, values that are not finite, a network that gives no row per image.
        """
        if not 2 <= images.ndim <= 5:
            raise ValueError(f"{self.name}: samples must be a batch (B, C, ...), got {tuple(images.shape)}")
        if not bool(torch.isfinite(images).all()):
            raise ValueError(f"{self.name}: samples hold values that are not finite; check the sampler")
        with torch.inference_mode():
            out = self.fn(_clipped(images.to(self.device, torch.float32)))
            if out.ndim > 2:
                out = out.flatten(2).mean(2)
        if out.ndim != 2 or len(out) != len(images):
            raise ValueError(
                f"{self.name}: the network gave {tuple(out.shape)} for images {tuple(images.shape)}; "
                "it must give (B, d), or (B, d, ...) to be averaged over space: export its pooled output"
            )
        return out.float()

    def extract(self, images: Tensor | Dataset | Iterable[Tensor], batch_size: int = 256) -> np.ndarray:
        """Features of many images, (n, d) float64: a tensor (n, C, H, W), a source, or batches of images."""
        batches: Iterable[Tensor]
        if isinstance(images, Tensor):
            batches = images.split(batch_size)
        elif isinstance(images, Dataset):
            source, n = images, len(images)
            batches = (source.batch(range(i, min(i + batch_size, n)))[0] for i in range(0, n, batch_size))
        else:
            batches = images
        rows = [self(batch).double().cpu().numpy() for batch in batches]
        if not rows:
            raise ValueError(f"{self.name}: there are no images to take features of")
        return np.concatenate(rows)

    def save(self, path: str | Path) -> None:
        """Write a trained network to one safetensors file, for `load_features(path)`.

        Raises:
            ValueError: the user's own network, which has a file already.
        """
        if self._config is None or not isinstance(self.fn, nn.Module):
            raise ValueError(f"{self.name} was loaded from a file of yours; keep that file, there is nothing to save")
        save_tensors(path, self.fn.state_dict(), {"format": _FORMAT, "name": self.name, **self._config})


def load_features(
    spec: str | Path,
    source: Dataset | None = None,
    *,
    preparation: Preparation | Mapping[str, Any] | None = None,
    seed: int = 0,
    steps: int = 300,
    dim: int = 64,
    width: int = 32,
    limit: int = 10_000,
    device: str | torch.device = "cpu",
) -> Features:
    """A feature network by name or by path.

    Args:
        spec: "classifier", "autoencoder", "auto" (the first where the source has labels, else the second), or a path:
            TorchScript (.pt, .pth, .ts, .jit, .torchscript), a folder with a diffusers autoencoder (config.json and
            safetensors; its latents, averaged to at most 4 x 4), or a .safetensors file by `Features.save`.
        source: what to train on; for a path only used to try the network on one image. Not the test set: use the pool
            of full training samples, or data that are not part of the comparison.
        preparation: the input format of the user's own network; a `Preparation` or its arguments.
        seed: of initialization and batches; the same seed on the same device and thread count gives the same network.
        steps: of training, batches of 64.
        dim: number of features.
        width: channels of the first convolution.
        limit: train on at most this many samples, drawn by the seed.
        device: where to train and compute.

    Raises:
        BootdiffError: labels, file or format that are missing or cannot be used, data that the network cannot take.
        ValueError: arguments out of range.
    """
    trained = str(spec) in ("classifier", "autoencoder", "auto")
    if trained:
        if preparation is not None:
            raise ValueError(
                f"{spec}: preparation is for networks given by a path; a trained one takes images unchanged"
            )
        if source is None:
            raise ValueError(f"{spec}: pass the source to train on")
        kind = str(spec) if spec != "auto" else "classifier" if source.labelled else "autoencoder"
        return _train(kind, source, seed, steps, dim, width, limit, torch.device(device))
    features = _load(Path(spec), preparation, device)
    if source is not None:
        try:
            features(source[0].x[None])
        except (RuntimeError, ValueError) as error:
            raise BootdiffError(
                f"{spec}: cannot be applied to images of shape {source.shape}: {str(error).strip().splitlines()[-1]}. "
                "Describe its input by `preparation` (range, size, channels)"
            ) from error
    return features


def _clipped(x: Tensor) -> Tensor:
    """Images and videos have a range, signals and vectors have none."""
    return x.clamp(-1, 1) if x.ndim > 3 else x


# --- networks trained on the data ---


def _train(
    kind: str, source: Dataset, seed: int, steps: int, dim: int, width: int, limit: int, device: torch.device
) -> Features:
    if steps < 1 or dim < 1 or width < 8 or width % 8 or limit < 20:
        raise ValueError(f"steps, dim >= 1, width a multiple of 8, limit >= 20; got {steps}, {dim}, {width}, {limit}")
    if kind == "classifier" and not source.labelled:
        raise BootdiffError(f'{source.where} has no labels to train a classifier on; use "autoencoder" features')
    if len(source) < 20:
        raise BootdiffError(f"{source.where} has {len(source)} samples; training a feature network needs at least 20")

    order = Generator().manual_seed(seed)
    chosen = torch.randperm(len(source), generator=order)[:limit].tolist()
    x, labels, _ = source.batch(chosen)
    if kind == "classifier" and labels is not None:
        x, labels = x[labels >= 0], labels[labels >= 0]  # -1: unknown
    x = _clipped(x).to(device)
    if x.ndim == 2:
        columns = Encoder(source.shape, width, x.shape[1]).to(device)
        columns.center.copy_(x.mean(0))
        columns.scale.copy_(x.std(0).clamp_min(1e-12))
        return Features(
            f"the {x.shape[1]} columns over their deviations, #{_hash(columns.state_dict())}", columns.eval(), device,
            {"shape": list(source.shape), "width": width, "dim": x.shape[1]},
        )  # fmt: skip
    held = max(len(x) // 10, 2)  # what the name's figure is measured on
    target, outputs = x, 0
    if kind == "classifier":
        known, target = torch.unique(labels, return_inverse=True)
        target, outputs = target.to(device), len(known)
        if outputs < 2:
            raise BootdiffError(f'{source.where} has only one class among its labels; use "autoencoder" features')

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(source.shape, width, dim)
        head = nn.Sequential(nn.SiLU(), nn.Linear(dim, outputs)) if outputs else Decoder(encoder, width, dim)
    encoder, head = encoder.to(device), head.to(device)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-2)
    for step in range(steps):
        rows = held + torch.randint(len(x) - held, (64,), generator=order)
        out = head(encoder(x[rows]))
        loss = F.cross_entropy(out, target[rows]) if outputs else F.mse_loss(out, target[rows])
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 20) * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if not math.isfinite(loss.item()):
        raise BootdiffError(
            f"training {kind} features on {source.where} diverged; check the data for values out of range"
        )

    encoder.eval().requires_grad_(False)
    with torch.inference_mode():
        z = torch.cat([encoder(part) for part in x.split(256)])
        out = torch.cat([head(part) for part in z[:held].split(256)])
        if outputs:
            score = f"accuracy {(out.argmax(1) == target[:held]).float().mean().item():.3f}"
        else:
            spread = (x[:held] - x[held:].mean(0)).square().mean().clamp_min(1e-12)
            score = f"R2 {1 - (F.mse_loss(out, x[:held]) / spread).item():.3f}"
        std = z[held:].std(0)
        encoder.center.copy_(z[held:].mean(0))
        # a dead feature is left unscaled
        encoder.scale.copy_(torch.where(std > 1e-6 * std.max(), std, std.max().clamp_min(1e-12)))
    name = f"{kind} of the data, {dim} features, held-out {score}, #{_hash(encoder.state_dict())}"
    config = {"shape": list(source.shape), "width": width, "dim": dim}
    return Features(name, encoder, device, config)


def _hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode() + tensors[key].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]


# --- networks from files ---


def _load(path: Path, preparation: Preparation | Mapping[str, Any] | None, device: str | torch.device) -> Features:
    if not path.exists():
        raise BootdiffError(
            f'{path}: no such file; features are "classifier", "autoencoder", "auto" or the path of a network'
        )
    if path.suffix == ".safetensors":
        if preparation is not None:
            raise ValueError(f"{path}: preparation is for your own networks; a trained one takes images unchanged")
        return _saved(path, device)
    prepare = preparation if isinstance(preparation, Preparation) else Preparation(**(preparation or {}))
    if path.is_dir():
        net, digest = _diffusers(path, device)
    elif path.suffix in _SCRIPT:
        net, digest = _script(path, device), _file_hash([path])
    else:
        raise BootdiffError(
            f"{path}: no network is loaded from {path.suffix or 'such'} files: they may hold Python pickles, or no "
            f"architecture. Give TorchScript ({', '.join(_SCRIPT)}, by torch.jit.trace(net, example).save(path)), "
            "a folder with a diffusers autoencoder, or a .safetensors file that bootdiff wrote"
        )
    settings = ", ".join(f"{k} {v}" for k, v in vars(prepare).items() if v is not None)
    return Features(f"{path.name}, {settings}, #{digest}", lambda x: net(prepare(x)), device)


def _saved(path: Path, device: str | torch.device) -> Features:
    foreign = (
        "weights without an architecture (not written by Features.save) are no network: give it as TorchScript, or the "
        "folder of a diffusers autoencoder with its config.json"
    )
    tensors, meta = load_tensors(path, device, foreign)
    if meta.get("format") != _FORMAT:
        raise BootdiffError(f"{path}: {foreign}")
    checked(_Saved, meta, path, foreign)
    config = {key: meta[key] for key in ("shape", "width", "dim")}
    try:
        encoder = Encoder(tuple(config["shape"]), config["width"], config["dim"])
        encoder.load_state_dict(tensors)
    except (RuntimeError, ValueError) as error:
        raise BootdiffError(f"{path}: its weights are not of the network that it describes ({error})") from None
    return Features(meta["name"], encoder.to(device).eval().requires_grad_(False), device, config)


def _script(path: Path, device: str | torch.device) -> Callable[[Tensor], Tensor]:
    try:
        with warnings.catch_warnings():
            # TorchScript is deprecated for writing new programs; as a file format it has no successor free of pickles
            warnings.simplefilter("ignore", DeprecationWarning)
            net = torch.jit.load(str(path), map_location=device).eval()
    except RuntimeError as error:
        raise BootdiffError(
            f"{path}: not TorchScript ({str(error).strip().splitlines()[0]}). Files by torch.save are Python "
            "pickles and are not opened; write the network itself by torch.jit.trace(net.eval(), example).save(path)"
        ) from error
    return lambda x: _first(net(x))


def _diffusers(path: Path, device: str | torch.device) -> tuple[Callable[[Tensor], Tensor], str]:
    files = sorted(path.glob("*.safetensors"))
    if not (path / "config.json").exists() or not files:
        raise BootdiffError(
            f"{path}: a network's folder holds config.json and .safetensors; of a whole pipeline give the subfolder, "
            f"such as {path.name}/vae"
        )
    import diffusers

    config = checked(dict[str, Any], read_json(path / "config.json"), path / "config.json", "copy the folder again")
    kind = str(config.get("_class_name", ""))
    known = (
        getattr(diffusers, kind, None) if kind.startswith(("Autoencoder", "VQModel", "AsymmetricAutoencoder")) else None
    )
    if known is None:
        raise BootdiffError(
            f"{path}: {kind or 'no _class_name'} in config.json; only diffusers' image autoencoders are known"
        )
    try:
        net = known.from_pretrained(str(path), use_safetensors=True, local_files_only=True, torch_dtype=torch.float32)
    except Exception as error:  # diffusers and safetensors raise anything for damaged files
        raise BootdiffError(f"{path}: cannot be read ({error}); copy the folder again") from None
    net = net.to(device).eval().requires_grad_(False)

    def encode(x: Tensor) -> Tensor:
        coded = net.encode(x)
        latent = getattr(coded, "latent_dist", None)
        z = latent.mode() if latent is not None else _first(coded.to_tuple())
        return F.adaptive_avg_pool2d(z, (min(4, z.shape[-2]), min(4, z.shape[-1]))).flatten(1)

    return encode, _file_hash([path / "config.json", *files])


def _first(out: Any) -> Tensor:
    while not isinstance(out, Tensor):
        out = next(iter(out.values())) if isinstance(out, Mapping) else out[0]
    return out


def _file_hash(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()[:8]

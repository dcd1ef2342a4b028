"""Distillation: the full-only networks, taught what all of bootdiff's together answer.

With the finished stack T as the teacher and the white base b, the students are denoisers D_k = b + c_r F_k without
views, trained on

    | F_k(x, sigma) - (T(x, sigma) - b(x, sigma)) / c_r(sigma) |^2,    x = x0 + sigma n,    x0 from the pool,

whose minimizer is T whatever the pool is: a clean sample only says *where* the student is asked, not what it should
answer.  So there is no target noise and nothing to memorize, and as many steps pay as there is capacity to fill.  The
pool is the full samples and as many drawn from T itself, which lie where sampling goes.  The students start at the
full-only networks or at those of all visible pixels, whichever wins a short race, are chosen per noise level and
stacked on held-out full samples as all experts are, and cost what full-only's networks cost when they are sampled.

Sources: distillation: Hinton, Vinyals, Dean 2015, arXiv 1503.02531; a diffusion model's answers as the target of
another: Salimans, Ho 2022, arXiv 2202.00512 (of two steps in one; here of many networks in few).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, with_config
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import TypedDict

from bootdiff.data import Dataset, Sample
from bootdiff.denoise import Denoiser
from bootdiff.method.losses import ResidualObjective
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.settings import SamplingSettings
from bootdiff.sampling import sample
from bootdiff.training.files import load_tensors, save_tensors
from bootdiff.training.forms import Cost
from bootdiff.training.loop import Progress
from bootdiff.training.run import StageDir

__all__ = ["Distillation", "Pool", "draw_pool", "forward_cost"]

_CHUNK = 128
"""Samples drawn at once: what a kill can cost."""


class Pool(Dataset):
    """Full samples, repeated until they are half of it, and drawn ones.

    Args:
        full: the full samples.
        drawn: (n, *shape), in stored coordinates.
        labels: their classes, (n,) int64, or None.
    """

    def __init__(self, full: Dataset, drawn: Tensor, labels: Tensor | None) -> None:
        self.describe_as(full)
        self.shape, self.full, self.drawn = tuple(full.shape), full, drawn
        self.drawn_labels = torch.full((len(drawn),), -1) if labels is None else labels
        self.unlabelled = True
        self.repeated = max(1, len(drawn) // len(full)) * len(full)

    def __len__(self) -> int:
        return self.repeated + len(self.drawn)

    def __getitem__(self, index: int) -> Sample:
        x, labels, _ = self.batch([self._check_index(index)])
        return Sample(x[0], None if labels is None or labels[0] < 0 else int(labels[0]))

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        at = torch.as_tensor(indices)
        own, drawn = (at < self.repeated).nonzero()[:, 0], (at >= self.repeated).nonzero()[:, 0]
        x, labels = torch.empty(len(at), *self.shape), torch.full((len(at),), -1)
        if len(own):
            x[own], known, _ = self.full.batch((at[own] % len(self.full)).tolist())
            labels[own] = labels[own] if known is None else known
        x[drawn], labels[drawn] = self.drawn[at[drawn] - self.repeated], self.drawn_labels[at[drawn] - self.repeated]
        return x, labels if self.labelled else None, None

    def name(self, index: int) -> str:
        if index < self.repeated:
            return self.full.name(index % len(self.full))
        return f"drawn sample {index - self.repeated}"

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.full.fingerprint().encode())
        digest.update(self.drawn.contiguous().numpy().tobytes())
        return digest.hexdigest()


def draw_pool(
    teacher: Denoiser,
    stage: StageDir,
    key: str,
    count: int,
    how: SamplingSettings,
    seed: int,
    classes: int | None,
    accelerator: Any,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[Tensor, Tensor | None, dict[str, Any]]:
    """`count` samples of the teacher, kept in a stage: drawn once, in parts, shared among the processes.

    Args:
        key: of the stage; parts of another one that was not finished are drawn again.
        how: solver and noise levels.
        classes: as many of each are drawn; None or 0: none is asked for.
        progress: told by the first process how many are drawn.

    Returns:
        samples (count, *shape) and labels (count,), or None, on the CPU; the ledger: networks are asked, none trained.

    Raises:
        BootdiffError: the teacher answered with NaN or an infinity; no room on the disk.
    """
    starts = range(0, count, _CHUNK)
    labels = torch.arange(count) % classes if classes else None
    settings, began, drawn = asdict(how), time.monotonic(), 0
    for k, start in enumerate(starts):
        path = stage / f"samples-{k}.safetensors"
        if k % accelerator.num_processes != accelerator.process_index or _is_there(stage, path, key):
            continue
        n = min(_CHUNK, count - start)
        own = None if labels is None else labels[start : start + n]
        x = sample(teacher, n, seed=seed + k, label=own, batch_size=_CHUNK, **settings)
        save_tensors(path, {"x": x.cpu().contiguous()}, {"key": key})
        drawn += n
        if progress is not None and accelerator.is_main_process:
            rate = drawn / max(time.monotonic() - began, 1e-9)
            progress(Progress(stage.name, start + n, count, None, rate, (count - start - n) / rate))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and not stage.done:
        asked = 2 * settings["steps"] - 1 if settings["scheduler"] == "heun" else settings["steps"]
        cost = dict.fromkeys(("parameters", "steps", "flops_per_step", "evaluation_seconds", "peak_memory"), 0)
        flops = count * asked * forward_cost(teacher)["forward_flops"]
        stage.finish({"ledger": cost | {"images": count, "flops": flops, "seconds": time.monotonic() - began}})
    accelerator.wait_for_everyone()
    parts = [stage.tensors(f"samples-{k}.safetensors")[0]["x"] for k in range(len(starts))]
    return torch.cat(parts), labels, stage.read("done.json", _Drawn)["ledger"]


def forward_cost(denoiser: Denoiser) -> dict[str, Any]:
    """The ledger of a denoiser that is not trained: nothing but its size and the FLOPs of one answer for one sample."""
    at = next((t.device for group in (denoiser.parameters(), denoiser.buffers()) for t in group), torch.device("cpu"))
    sigma, label = torch.ones(1, device=at), torch.zeros(1, dtype=torch.long, device=at)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        denoiser(torch.zeros(1, *denoiser.shape, device=at), sigma, label)
    none = dict.fromkeys(("steps", "images", "flops_per_step", "flops", "seconds", "evaluation_seconds"), 0)
    size = sum(p.numel() for p in denoiser.parameters())
    return {"parameters": size, **none, "peak_memory": 0, "forward_flops": counter.get_total_flops()}


def _is_there(stage: StageDir, path: Path, key: str) -> bool:
    return path.is_file() and load_tensors(path, remedy=stage.remedy)[1].get("key") == key


@with_config(ConfigDict(strict=True, extra="forbid"))
class _Drawn(TypedDict):
    """The done.json of its stage."""

    ledger: Cost


@dataclass
class Distillation(ResidualObjective):
    """The loss of this file.

    Args:
        teacher: T, frozen.
    """

    teacher: Denoiser | None = None

    def loss(
        self,
        expert: ResidualExpert,
        x0: Tensor,
        x: Tensor,
        sigma: Tensor,
        label: Tensor | None = None,
        context: Tensor | None = None,
        **how: Any,
    ) -> Tensor:
        """Losses (b,) of a student at noisy samples: those of an expert, were x0 what the teacher answers."""
        assert self.teacher is not None
        with torch.no_grad():
            answer = self.teacher(x, sigma, label)
        return super().loss(expert, answer.float(), x, sigma, label, context, **how)

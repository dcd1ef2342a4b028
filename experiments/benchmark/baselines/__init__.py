"""Everything a practitioner would pick instead, each in a file of its own; `METHODS` by name."""

from __future__ import annotations

from experiments.benchmark.baselines.ambient_omni import AMBIENT_OMNI
from experiments.benchmark.baselines.base import TRIALS, Method
from experiments.benchmark.baselines.cascade import CASCADE
from experiments.benchmark.baselines.full_only import FULL_ONLY, ORACLE
from experiments.benchmark.baselines.further_masking import FURTHER_MASKING
from experiments.benchmark.baselines.label_mix import LABEL_MIX
from experiments.benchmark.baselines.msm import MSM
from experiments.benchmark.baselines.naive_mix import NAIVE_MIX
from experiments.benchmark.baselines.patch_diffusion import PATCH_DIFFUSION
from experiments.benchmark.baselines.pretrain_finetune import PRETRAIN_FINETUNE

__all__ = ["METHODS", "TRIALS", "Method"]

METHODS: dict[str, Method] = {
    "full_only": FULL_ONLY,
    "naive_mix": NAIVE_MIX,
    "label_mix": LABEL_MIX,
    "pretrain_finetune": PRETRAIN_FINETUNE,
    "ambient_omni": AMBIENT_OMNI,
    "further_masking": FURTHER_MASKING,
    "cascade": CASCADE,
    "patch_diffusion": PATCH_DIFFUSION,
    "msm": MSM,
    "oracle": ORACLE,
}
"""By the name of the arm; bootdiff's own arms are those of `boot.stages`."""

"""Everything a practitioner would pick instead, each in a file of its own; `METHODS` by name."""

from __future__ import annotations

from bootdiff.bench.baselines.ambient_omni import AMBIENT_OMNI
from bootdiff.bench.baselines.base import TRIALS, Method
from bootdiff.bench.baselines.cascade import CASCADE
from bootdiff.bench.baselines.full_only import FULL_ONLY, ORACLE
from bootdiff.bench.baselines.further_masking import FURTHER_MASKING
from bootdiff.bench.baselines.label_mix import LABEL_MIX
from bootdiff.bench.baselines.msm import MSM
from bootdiff.bench.baselines.naive_mix import NAIVE_MIX
from bootdiff.bench.baselines.patch_diffusion import PATCH_DIFFUSION
from bootdiff.bench.baselines.pretrain_finetune import PRETRAIN_FINETUNE

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

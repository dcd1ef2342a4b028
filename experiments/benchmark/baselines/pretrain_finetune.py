"""Pretrain on the partial data brought to full shape, then fine-tune on the full samples: what people really do.

Transfer of diffusion models (for instance Moon et al. 2022, "Fine-tuning diffusion models with limited data", NeurIPS
workshop).  Different from plain practice, in its favour: pretraining counts only what the files show, the full samples
take part in it, and fine-tuning is stopped per noise level.
"""

from __future__ import annotations

from bootdiff.denoise import Denoiser
from bootdiff.method.stages import Bootstrap
from experiments.benchmark.baselines.base import Method, experts, one_stage, training_of
from experiments.benchmark.baselines.mixing import MixedObjective, mixture_bench, placed

__all__ = ["PRETRAIN_FINETUNE", "pretrain_finetune"]


def pretrain_finetune(b: Bootstrap, flops: float, first: float = 0.5, share: float = 0.1) -> Denoiser:
    """`first` of the FLOPs go into pretraining, where `share` of the samples drawn are full ones; 0: full-only."""
    full, start, parents = b.full_training_set(), None, []
    if first > 0:
        bench = mixture_bench(b, share)
        objective = MixedObjective(b.no_views(bench.prior), training_of(b).noise, observed=True)
        parents = ["pretrain", first, share]
        experts(b, "pretrain", bench, flops * first, objective=objective, parents=parents)
        start = {kind: b.run.stage(f"pretrain-{kind}") for kind in b.settings.networks}
        parents = [bench.train.fingerprint(), *parents]
    return one_stage(b, "finetune", full, flops * (1 - first), start=start, parents=parents)


PRETRAIN_FINETUNE = Method(pretrain_finetune, ({}, {"nets": "narrow"}, {"first": 0.25}), placed)

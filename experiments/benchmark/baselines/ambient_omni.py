"""Ambient-o: partial data are used at the noise levels where they cannot be told from full samples.

Ambient diffusion omni (Daras, Rodriguez-Munoz, Klivans, Torralba, Daskalakis 2025, arXiv 2506.10038, section 4): noise
contracts distances between laws, so above some noise level sigma_k a kind of bad data is as good as clean ones.  A
classifier of noisy samples (full, or of kind k, at noise sigma) is trained, and

    sigma_k = the lowest level from which on its held-out balanced accuracy stays below 1/2 + slack,

one threshold per kind; the kind is trained on at sigma >= sigma_k alone, beside full samples at all levels.  Files with
white noise of known size tau are used at all sigma > tau by the exact loss (ambient laws: Daras, Dimakis, Daskalakis
2024, "Consistent diffusion meets Tweedie", arXiv 2404.10177), for which no threshold is needed. Different from the
paper: one threshold per kind instead of one per file; masked pictures and windows count only where they show something,
at all noise levels above their threshold; no use of crops of bad data at low noise (its section 4.2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from bootdiff.data import Batches
from bootdiff.denoise import Denoiser, expand
from bootdiff.method.stages import Bootstrap
from bootdiff.noise import precondition
from bootdiff.training.loop import fit, global_draw, global_randn, load_weights
from bootdiff.views import Identity
from experiments.benchmark.baselines.base import Method, one_stage, training_of, with_steps
from experiments.benchmark.baselines.mixing import Lifted, MixedObjective, bare, mixture, placed

__all__ = ["AMBIENT_OMNI", "Teller", "ambient_omni", "mixture_above", "threshold", "thresholds"]


class Teller(nn.Module):
    """Log-odds that a noisy sample is a full one: a backbone whose one output channel is averaged.

    Args:
        net: backbone with one output channel.
        mean, sigma_data: of the full samples.
    """

    mean: Tensor

    def __init__(self, net: nn.Module, mean: Tensor, sigma_data: float) -> None:
        super().__init__()
        self.net, self.sigma_data = net, sigma_data
        self.register_buffer("mean", mean, persistent=False)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """(B, *shape), (B,) -> (B,)."""
        c = precondition(sigma, self.sigma_data)
        return self.net(expand(c.c_in, x) * (x - self.mean), c.c_noise, None).float().flatten(1).mean(1)


def threshold(accuracy: Sequence[float], levels: Sequence[float], slack: float) -> float:
    """The lowest level from which on accuracy stays below 1/2 + slack; infinity where it never does.

    >>> threshold([0.9, 0.52, 0.6, 0.51], [0.1, 0.2, 0.4, 0.8], 0.05)
    0.8
    """
    found = math.inf
    for level, value in zip(reversed(levels), reversed(accuracy), strict=True):
        if value >= 0.5 + slack:
            break
        found = float(level)
    return found


def thresholds(b: Bootstrap, names: Sequence[str], flops: float, slack: float) -> dict[str, float]:
    """sigma_k of each kind; the classifiers' FLOPs come out of the budget."""
    return {name: threshold(_accuracy(b, name, flops / len(names)), b.levels, slack) for name in names}


def _accuracy(b: Bootstrap, name: str, flops: float) -> list[float]:
    """Held-out balanced accuracy per level of a classifier of full samples against a view's, trained once."""
    full, view, training = b.full_training_set(), b.problem.views[name], training_of(b)
    assert view.held_out is not None
    fill = full.prior.config["mean"]
    kind, net = next(iter(b.settings.networks.items()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(b.seed(f"tell-{name}"))
        own = net.resolve(full.prior.shape, full.prior.shape)
        built = own.build(full.prior.shape[0], (1, *full.prior.shape[1:]))
    teller = Teller(built, full.prior.mean, full.prior.sigma_data).to(b.device)
    bench = replace(full, train=mixture(b.problem, 0.5, fill, [name]))
    noise = training.noise

    def objective(model: nn.Module, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        x0, seen = batch["x"], batch["mask"]
        x0 = x0 + (1 - seen) * full.prior.mean.to(x0)
        sigma = global_draw(lambda n: noise.sample(n, generator), len(x0)).to(x0)
        x = x0 + expand(sigma, x0) * global_randn(x0.shape, generator).to(x0)
        real = (batch["label"] < 0).float()
        return nn.functional.binary_cross_entropy_with_logits(model(x, sigma), real, reduction="none")

    batches = b.batches(f"tell-{name}", bench, training)
    steps = max(1, int(flops / _flops(teller, batches, objective, b)))
    training = with_steps(training, steps)
    made_with = {
        "data": bench.describe(), "network": [kind, own.describe()], "view": view.held_out.fingerprint(),
        "training": {k: v for k, v in asdict(training).items() if k != "steps"}, "levels": b.levels,
        "seed": b.settings.seed,
    }  # fmt: skip
    stage = b._stage(f"tell-{name}", made_with, steps=steps)
    result = fit(
        teller, objective, batches, stage, training, seed=b.seed(f"tell-{name}"), accelerator=b.accelerator,
        progress=b.progress,
    )  # fmt: skip
    b.ledger[f"tell-{name}"] = result.ledger
    load_weights(teller, stage / "final.safetensors")
    lifted = Lifted(view.held_out, view.view, full.prior.shape, fill)
    sides = [full.samples.x, lifted.batch(range(len(lifted)))[0].to(b.device)]
    return b._store.get_or_compute(stage, "accuracy.json", lambda: _balanced(teller.eval(), sides, b), of=steps)


def _flops(teller: Teller, batches: Batches, objective: Any, b: Bootstrap) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    batch = {k: v.to(b.device) for k, v in batches.at(0).items()}
    with FlopCounterMode(display=False) as counter:
        objective(teller, batch, torch.Generator(b.device).manual_seed(0)).mean().backward()
    teller.zero_grad()
    return int(counter.get_total_flops()) * b.accelerator.num_processes


@torch.no_grad()
def _balanced(teller: Teller, sides: Sequence[Tensor], b: Bootstrap, least: int = 512) -> list[float]:
    rows = []
    for k, level in enumerate(b.levels):
        right = []
        for full, x0 in zip((True, False), sides, strict=True):
            rng = torch.Generator().manual_seed(b.seed("accuracy") + 2 * k + full)
            x0 = x0.repeat(math.ceil(least / len(x0)), *(1,) * (x0.ndim - 1))
            hits = []
            for part in x0.split(128):
                x = part + level * torch.randn(part.shape, generator=rng).to(part)
                hits.append((teller(x, torch.full((len(x),), level, device=x.device)) > 0) == full)
            right.append(float(torch.cat(hits).float().mean()))
        rows.append(sum(right) / 2)
    return rows


def exact(b: Bootstrap) -> list[str]:
    """The kinds whose files are whole pictures with white noise of known size."""
    return [n for n, v in b.problem.views.items() if v.view.tau and isinstance(bare(v.view), Identity)]


def mixture_above(b: Bootstrap, flops: float, found: Mapping[str, float], share: float = 0.5) -> Denoiser:
    """Full samples at all levels, each kind from its threshold on; a kind with an infinite one is left out."""
    full, kinds = b.full_training_set(), list(b.problem.views)
    used = [n for n in kinds if n in exact(b) or found.get(n, math.inf) < math.inf]
    parents = ["ambient omni", dict(found), share]
    if not used:
        return one_stage(b, "ambient_omni", full, flops)
    source = mixture(b.problem, share, full.prior.config["mean"], used)
    least = (0.0, *(0.0 if n in exact(b) else min(found.get(n, 0.0), 1e3) for n in kinds))
    taus = (0.0, *(b.problem.views[n].view.tau if n in exact(b) else 0.0 for n in kinds))
    objective = MixedObjective(b.no_views(full.prior), training_of(b).noise, least=least, taus=taus, observed=True)
    bench = replace(full, train=source, classes=None)
    return one_stage(b, "ambient_omni", bench, flops, objective=objective, parents=parents)


def ambient_omni(b: Bootstrap, flops: float, slack: float = 0.05, telling: float = 0.1, share: float = 0.5) -> Denoiser:
    """`telling` of the FLOPs go into the classifiers."""
    names = [n for n in b.problem.views if n not in exact(b)]
    found = thresholds(b, names, flops * telling, slack) if names else {}
    if found:
        b.log("thresholds: " + ", ".join(f"{n} {sigma:g}" for n, sigma in found.items()))
    spent = sum(b.ledger[f"tell-{name}"]["flops"] for name in names)
    return mixture_above(b, flops - spent, found, share)


AMBIENT_OMNI = Method(ambient_omni, ({}, {"nets": "narrow"}, {"slack": 0.02}), placed)

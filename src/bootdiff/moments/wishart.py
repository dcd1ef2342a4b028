"""Second moments of n samples of a Gaussian, drawn without the samples: the Wishart distribution (Bartlett 1933)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

__all__ = ["wishart"]


def wishart(S: Tensor, n: int, count: int, generator: Generator | None = None) -> Tensor:
    """`count` independent second moments of n samples of N(0, S), (count, d, d); S may be singular.

    From n > d on by Bartlett's decomposition (1933), so that the cost does not grow with n.

    Raises:
        ValueError: n < 1, or S not finite.
    """
    if not bool(torch.isfinite(S).all()):
        raise ValueError("a second moment is not finite: it holds NaN or infinity")
    if n < 1:
        raise ValueError(f"a second moment needs at least one sample, got n={n}")
    lam, U = torch.linalg.eigh((S + S.mT) / 2)
    root = U * lam.clamp_min(0).sqrt()
    d = S.shape[-1]
    if n > d:
        # sums of squares of normals for chi-squared: torch's gamma sampler takes no generator
        factor = torch.randn(count, d, d, generator=generator, dtype=torch.float64).tril(-1)
        freedom = n - torch.arange(d, dtype=torch.float64)
        factor = factor + torch.diag_embed(_chi(freedom, count, generator))
        Z = root.double() @ factor
        return (Z @ Z.mT / n).to(S)
    Z = torch.randn(count, n, d, generator=generator, dtype=torch.float64) @ root.double().T
    return (Z.mT @ Z / n).to(S)


def _chi(freedom: Tensor, count: int, generator: Generator | None) -> Tensor:
    """Chi variables, (count, len(freedom)), by numpy's sampler seeded from ours."""
    import numpy as np

    seed = int(torch.randint(2**62, (), generator=generator))
    draws = np.random.default_rng(seed).chisquare(freedom.numpy(), (count, len(freedom)))
    return torch.from_numpy(draws).sqrt()

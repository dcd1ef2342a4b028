"""Muon: steps of hidden matrices in which all singular values are about 1 (Jordan et al. 2024, kellerjordan.github.io).

For the gradient g of a matrix W (out, in), with momentum m,
    m <- momentum m + g,    u = g + momentum m                                       (Nesterov),
    W <- (1 - lr weight_decay) W - lr sqrt(max(1, out / in)) O(u),
where O(u) is about the nearest orthogonal matrix, U V^T of u = U S V^T: singular values above |u|_F / 500 (Frobenius)
become 0.68 to 1.21, smaller ones less.  It is taken in five Newton-Schulz steps from X = u / |u|_F,
    X <- p(X X^T) X,    p(A) = a + b A + c A^2,    (a, b, c) = (3.4445, -4.7750, 2.0315).
So O(u) is a polynomial in A_0 = X X^T, times X, and its factors commute.  The steps are taken among matrices of the
smaller side r only,
    A <- p(A) A p(A),    P <- p(A) P,    and at the end  O = P X    (O = X P with A_0 = X^T X where out > in),
for all matrices of equal r at once: two products of r x r x (the larger side) in place of ten.

A convolution's weight is the matrix (out, in * kernel) that acts on a patch.  O does not change where columns trade
places, so they stand in the order of memory.  torch.optim.Muon, which newer versions of torch have, takes matrices of
two axes only, one by one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Matrix", "Muon", "hidden_matrices", "orthogonalizer"]

_A, _B, _C = 3.4445, -4.7750, 2.0315
_STEPS = 5
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Since torch 2.9 precisions are set by backend, and the older call fails where somebody has done so.
_BY_BACKEND: list[Any] = [
    backend.matmul
    for backend in (torch.backends.cuda, torch.backends.mkldnn)
    if hasattr(torch.backends.mkldnn, "matmul")
]


# --- which weights ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Matrix:
    """A weight that acts as a matrix: of nn.Linear (out, in), of a convolution (out, in, *kernel), or, where it is
    ``transposed``, (in, out, *kernel)."""

    weight: Tensor
    transposed: bool = False

    @property
    def out(self) -> int:
        return self.weight.shape[int(self.transposed)]

    @property
    def columns(self) -> int:
        return self.weight.numel() // self.out


def hidden_matrices(model: nn.Module) -> list[Matrix]:
    """The weights that Muon moves: those of dense layers and convolutions, without the two that touch the sample.

    Where the sample enters and leaves cannot be read off a module, and is guessed from its structure: it enters by the
    first convolution, or, where there is none, by the first of the dense layers that are nested least; it leaves by the
    last of all layers that are nested least (by the very last, where that is the one it enters by).  Of bootdiff's nets
    that errs for `Linear`: its `gain` is left out in place of its `first`, which serves it better (same digits: 0.54
    and 0.53; the other way round 0.65 and 0.65; AdamW alone 0.67 and 0.67).

    Layers of the noise level are among them: digits of 16 x 16, held-out loss after 300 steps of 16, two seeds,

                   AdamW alone     Muon            Muon, without the layers of the noise level
        unet       0.469 0.503     0.374 0.414     0.383 0.416
        local      0.320 0.321     0.276 0.272     0.279 0.281

    Left to AdamW are embeddings, norms, biases and all other vectors, convolutions in groups (several small maps, not
    one), and weights that are reparametrized, shared with an embedding, or frozen.
    """
    layers: list[tuple[int, nn.Module, Matrix]] = []
    seen = {id(m._parameters.get("weight")) for m in model.modules() if isinstance(m, nn.Embedding)}
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if not isinstance(module, (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED)) or weight is None or id(weight) in seen:
            continue
        seen.add(id(weight))
        layers.append((name.count("."), module, Matrix(weight, isinstance(module, _TRANSPOSED))))
    if not layers:
        return []
    least = min(depth for depth, _, _ in layers)
    outer = [matrix for depth, _, matrix in layers if depth == least]
    first = next((matrix for _, module, matrix in layers if not isinstance(module, nn.Linear)), outer[0])
    last = outer[-1] if outer[-1] is not first else layers[-1][2]
    return [
        matrix
        for _, module, matrix in layers
        if matrix not in (first, last)
        and matrix.weight.requires_grad
        and matrix.weight.is_floating_point()
        and getattr(module, "groups", 1) == 1
    ]


# --- the step ---------------------------------------------------------------------------------------------------------


def orthogonalizer(gram: Tensor) -> Tensor:
    """P of this file for A_0 = ``gram`` (k, r, r) of trace 1 or 0, float32; A_0 is overwritten."""
    # In few places of memory: stacks of small matrices are read and written from the cache.
    product, p, spare = gram.new_empty(3, *gram.shape)
    for i in range(_STEPS):
        step = p if i else product
        torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C, out=step)
        step.diagonal(dim1=1, dim2=2).add_(_A)
        if i:
            torch.bmm(step, product, out=spare)
            product, spare = spare, product
        if i < _STEPS - 1:
            torch.bmm(step, gram, out=spare)
            torch.bmm(spare, step, out=gram)
    return product


class Muon:
    """Muon on some weights, which may have any shape, type and order in memory; it computes in float32.

    Args:
        matrices: the weights.
        momentum: of the gradients, in [0, 1).
        weight_decay: per step and learning rate.

    A weight without a gradient is left as it is, momentum and all; one whose gradients were all 0 does not move.
    """

    def __init__(self, matrices: Sequence[Matrix], momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        def sides(matrix: Matrix) -> tuple[int, int, int]:
            return min(matrix.out, matrix.columns), matrix.out, matrix.columns

        ordered = sorted(matrices, key=sides)
        self.momentum, self.weight_decay = momentum, weight_decay
        self.weights = [matrix.weight for matrix in ordered]
        # Momentum and step of all weights, one after the other, so that they are moved at once.
        device = self.weights[0].device if self.weights else None
        self._momentum = torch.zeros(sum(w.numel() for w in self.weights), device=device)
        self._update = torch.zeros_like(self._momentum)
        self.momenta, self._updates = [_views(flat, ordered) for flat in (self._momentum, self._update)]
        # By the smaller side: the factors sqrt(max(1, out / in)), and the stacks (k, out, in) of each shape.
        self._blocks: list[tuple[Tensor, list[Tensor]]] = []
        start = 0
        for _, block in groupby(ordered, lambda matrix: sides(matrix)[0]):
            factors, stacks = [], []
            for (_, rows, columns), same in groupby(block, sides):
                count = len(list(same))
                end = start + count * rows * columns
                stacks.append(self._update[start:end].view(count, rows, columns))
                factors += count * [max(1.0, rows / columns) ** 0.5]
                start = end
            self._blocks.append((torch.tensor(factors, device=device)[:, None, None], stacks))

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move the weights by their gradients."""
        moved = [i for i, weight in enumerate(self.weights) if weight.grad is not None]
        resting = {i: self.momenta[i].clone() for i in set(range(len(self.weights))) - set(moved)}
        weights, updates = [self.weights[i] for i in moved], [self._updates[i] for i in moved]
        if not weights:
            return
        torch._foreach_copy_(updates, [weight.grad for weight in weights if weight.grad is not None])
        torch.add(self._update, self._momentum, alpha=self.momentum, out=self._momentum)
        self._update.add_(self._momentum, alpha=self.momentum)
        for i, kept in resting.items():
            self.momenta[i].copy_(kept)
        with _float32(self._momentum.device):
            for factors, stacks in self._blocks:
                _orthogonalize(stacks, factors)
        if self.weight_decay:
            torch._foreach_mul_(weights, 1 - lr * self.weight_decay)
        torch._foreach_add_(weights, updates, alpha=-lr)


def _orthogonalize(stacks: Sequence[Tensor], factors: Tensor) -> None:
    """Each matrix X of ``stacks`` (k, out, in), all of one smaller side r, becomes its factor times O(X)."""
    wide = [x.shape[1] <= x.shape[2] for x in stacks]
    gram = torch.cat([torch.bmm(x, x.mT) if w else torch.bmm(x.mT, x) for x, w in zip(stacks, wide, strict=True)])
    # The trace is |X|_F^2: X need not be divided by |X|_F, only what is made of it.  Where it is 0, O is 0.
    square = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    inverse = square.rsqrt().masked_fill_(square == 0, 0.0)
    products = orthogonalizer(gram.mul_(inverse).mul_(inverse)).mul_(inverse * factors)
    for x, w, p in zip(stacks, wide, products.split([len(x) for x in stacks]), strict=True):
        x.copy_(torch.bmm(p, x) if w else torch.bmm(x, p))


def _views(flat: Tensor, matrices: Sequence[Matrix]) -> list[Tensor]:
    """The parts of ``flat`` (n,) for each weight, in its shape, rows of the matrix one after the other."""
    views = []
    for matrix, part in zip(matrices, flat.split([m.weight.numel() for m in matrices]), strict=True):
        weight = matrix.weight
        strides = torch.empty_like(weight).stride()  # the weight's own order, without gaps
        if matrix.transposed:
            views.append(part.view(matrix.out, weight.shape[0], *weight.shape[2:]).transpose(0, 1))
        elif strides[0] == matrix.columns:
            views.append(part.as_strided(weight.shape, strides))
        else:
            views.append(part.view(weight.shape))
    return views


@contextlib.contextmanager
def _float32(device: torch.device) -> Iterator[None]:
    """Products of matrices in full float32, whatever is set: errors of A grow in each step, 12-fold where it is small.

    Autocast would take them in bf16, a lower precision of float32's products in tf32 or bf16.
    """
    before = _precisions()
    try:
        _set_precisions(["ieee", "ieee"] if _BY_BACKEND else ["highest"])
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        _set_precisions(before)


def _precisions() -> list[str]:
    """Of float32's products: of each of `_BY_BACKEND`, or, before torch 2.9, the one there is."""
    return [backend.fp32_precision for backend in _BY_BACKEND] or [torch.get_float32_matmul_precision()]


def _set_precisions(precisions: Sequence[str]) -> None:
    for backend, precision in zip(_BY_BACKEND, precisions, strict=False):
        backend.fp32_precision = precision
    if not _BY_BACKEND:
        torch.set_float32_matmul_precision(precisions[0])

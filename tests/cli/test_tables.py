"""What is printed of a comparison, where the figures alone do not tell."""

from __future__ import annotations

import torch

from bootdiff.cli.report.tables import information
from bootdiff.denoise import IsotropicGaussian
from bootdiff.evaluation import evaluate


def test_information_is_printed_with_its_interval_and_its_range():
    losses = {"views_only": 0.5 + 0.1 * torch.rand(3, 20).double(), "bootdiff": 0.4 + 0.1 * torch.rand(3, 20).double()}
    found = evaluate.information(losses, [0.1, 0.4, 1.6], IsotropicGaussian((1, 2, 3), [0.2], 0.5))
    text = "\n".join(information(found))
    low, high = found["interval"]["bits"]
    assert f"{found['bits']:.2f} [{low:.2f}, {high:.2f}] bits\n" in text
    assert "from 0.1 to 1.6" in text
    assert "95 % interval" in text
    assert max(map(len, text.splitlines())) <= 160
    assert information(None) == []

"""The block of the noise levels that a network is trained at."""

from __future__ import annotations

from pydantic import Field

from bootdiff.noise import LogNormal
from bootdiff.recipe.messages import block_of
from bootdiff.settings import annotations_of, doc_of

__all__ = ["Noise"]


class Noise(block_of(LogNormal, "NoiseFields")):  # type: ignore[misc]
    """Log-normal noise levels in training: ln sigma ~ N(mean, std^2) (Karras et al. 2022, table 1: -1.2, 1.2)."""

    std: float = Field(1.4, gt=0, description=doc_of(annotations_of(LogNormal)["std"]))

    def settings(self) -> LogNormal:
        """As the method takes them."""
        return LogNormal(self.mean, self.std)

"""Views: what a partial sample shows of a full one.

A view is a linear map A from full samples x0 (C, *space) to its own space, with

    A A^T = I        co-isometry: averages (Downsample), windows, frames, channels (Crop, Stills, Pick, ...), or
    A A^T A = A      partial isometry, A A^T = diag(m): what is hidden stays, as 0 (Mask, RandomMask),

so x = x0 + sigma n, n ~ N(0, I), gives A x = A x0 + sigma A n with A n white wherever something is observed: the view's
denoiser d is asked at exactly the noise level sigma, and the lift A^T d(A x, sigma) is exact.

    scale   A x0 = scale * stored file. The k-by-k block mean of a picture is A x0 / k, as A = k * mean has unit rows;
            gray w . rgb is |w| A x0, as A = w^T / |w|. So stored files are multiplied by `scale` on loading.
    tau     files with noise, A x0 / scale + std * n, have noise of deviation tau = scale * std in view coordinates.
    p       placements A_p (windows on a grid, all frames, random masks) share one denoiser. With C = diag(coverage)
            they lift as C^-1 sum_p A_p^T y_p, and C^-1 sum_p A_p^T A_p projects onto what they see together.

Samples are channels-first; the number of axes tells the kind: vector (C,), signal (C, L), picture (C, H, W), video
(C, T, H, W). Tensors have the batch in front and any floating dtype. A mask is (1, *space), or (C, *space) where it
differs between channels, and (C,) for vectors.
"""

from __future__ import annotations

from bootdiff.views.base import ArgumentError, View
from bootdiff.views.chain import Compose, Observed, compose, unmasked
from bootdiff.views.config import VIEWS, from_config, to_config
from bootdiff.views.laws import check_view
from bootdiff.views.maps import ChannelMix, Downsample, Identity, Pick
from bootdiff.views.masks import Mask, RandomMask
from bootdiff.views.windows import Crop, FrameStride, FrameWindow, Stills, Window

__all__ = [
    "VIEWS",
    "ArgumentError",
    "ChannelMix",
    "Compose",
    "Crop",
    "Downsample",
    "FrameStride",
    "FrameWindow",
    "Identity",
    "Mask",
    "Observed",
    "Pick",
    "RandomMask",
    "Stills",
    "View",
    "Window",
    "check_view",
    "compose",
    "from_config",
    "to_config",
    "unmasked",
]

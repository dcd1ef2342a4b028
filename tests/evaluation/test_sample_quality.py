"""Figures of samples: what the real thing, copies and samples out of range give; correlation along time."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from bootdiff.data import Arrays
from bootdiff.evaluation.features import Features
from bootdiff.evaluation.sample_quality import long_range, sample_quality


def pictures(n, seed):
    x = np.random.default_rng(seed).uniform(-1, 1, (n, 2, 3, 1)).astype(np.float32)
    return Arrays(x, range=(-1, 1))


@pytest.fixture
def means():
    return Features("rows and columns", lambda x: torch.cat([x.mean(2).flatten(1), x.mean(3).flatten(1)], 1))


def test_quality_of_the_real_thing(means):
    """The reference itself has distance 0 and full coverage; copies of the training set are found as such."""
    reference, train, held_out = pictures(60, 0), pictures(40, 1), pictures(30, 2)
    same = sample_quality(reference.batch(range(60))[0], reference, train, held_out, means)
    assert same["fid"] == pytest.approx(0, abs=1e-12)
    assert same["precision"] == same["recall"] == same["coverage"] == 1
    assert same["kid"]["mean"] <= 0 <= same["kid"]["stderr"]
    assert (same["count"], same["reference_count"], same["train_count"]) == (60, 60, 40)
    assert same["features"] == "rows and columns"
    copies = sample_quality(train.batch(range(40))[0], reference, train, held_out, means)
    assert copies["memorization"]["share"] == 1
    assert copies["memorization"]["holdout_share"] < 0.2
    assert copies["memorization"]["holdout_share"] == same["memorization"]["holdout_share"]
    assert json.loads(json.dumps(copies)) == copies


def test_mirrored_copies_are_copies_where_training_mirrored(means):
    train = pictures(40, 1)
    flipped = train.batch(range(40))[0].flip(-1)
    plain, mirrored = (sample_quality(flipped, pictures(60, 0), train, None, means, mirrored=m) for m in (False, True))
    assert plain["memorization"]["share"] < 0.2
    assert mirrored["memorization"]["share"] == 1
    assert mirrored["memorization"]["holdout_share"] is None


def test_the_kernel_distances_error_is_of_the_right_size(means):
    """Against the spread of the distance over samples and references drawn anew."""
    train, count = pictures(20, 1), range(200)
    drawn = [(pictures(200, 10 + i).batch(count)[0] * 0.5, pictures(200, 100 + i)) for i in range(20)]
    got = [sample_quality(x, reference, train, None, means)["kid"] for x, reference in drawn]
    spread = np.std([kid["mean"] for kid in got], ddof=1)
    assert 0.7 * spread < np.mean([kid["stderr"] for kid in got]) < 1.6 * spread
    assert np.mean([kid["mean"] for kid in got]) > 2 * spread


def test_samples_are_clipped_and_checked(means):
    with pytest.raises(ValueError, match="at least 3"):
        sample_quality(torch.zeros(2, 1, 2, 3), pictures(9, 0), pictures(9, 1), None, means)
    with pytest.raises(ValueError, match="not finite"):
        sample_quality(torch.full((9, 1, 2, 3), math.nan), pictures(9, 0), pictures(9, 1), None, means)
    x = torch.randn(9, 1, 2, 3, generator=torch.Generator().manual_seed(0)) * 2
    a, b = (sample_quality(v, pictures(9, 0), pictures(9, 1), None, means) for v in (x, x.clamp(-1, 1)))
    assert a == b


# Along time


def walks(n, seed, keep=0.9, steps=6):
    """Videos of independent pixels that keep a share of what they were: the correlation at lag k is keep^k."""
    rng = np.random.default_rng(seed)
    x = [rng.normal(0, 0.2, (n, 2, 2, 1))]
    for _ in range(steps - 1):
        x.append(keep * x[-1] + math.sqrt(1 - keep**2) * rng.normal(0, 0.2, x[0].shape))
    return Arrays(np.stack(x, 1).clip(-1, 1).astype(np.float32), kind="video", range=(-1, 1))


def test_long_range_of_the_same_law_differs_by_its_error():
    real, same = walks(300, 0), walks(200, 1)
    said = long_range(same.batch(range(200))[0], real)
    assert said["lag"] == 5
    assert said["real"]["mean"] == pytest.approx(0.9**5, abs=4 * said["real"]["stderr"])
    assert abs(said["difference"]["mean"]) < 4 * said["difference"]["stderr"] < 0.25
    assert said["curve"]["lags"] == [1, 2, 3, 4, 5]
    assert (said["count"], said["reference_count"]) == (200, 300)


def test_long_range_finds_frames_that_forget_each_other():
    real = walks(300, 0)
    x = real.batch(range(200))[0]
    # Joined from halves of different videos: neighbours agree, first and last do not.
    joined = torch.cat([x[:, :, :3], x.roll(1, 0)[:, :, 3:]], 2)
    said = long_range(joined, real)
    assert abs(said["samples"]["mean"]) < 4 * said["samples"]["stderr"]
    assert said["difference"]["mean"] < -6 * said["difference"]["stderr"]
    assert said["rms"]["mean"] > 5 * long_range(walks(200, 1).batch(range(200))[0], real)["rms"]["mean"]


def test_long_range_of_signals_goes_to_half_their_length():
    phase = np.random.default_rng(0).uniform(0, 2 * np.pi, (400, 1))
    waves = Arrays(np.sin(phase + np.arange(40) * 2 * np.pi / 20).astype(np.float32), kind="signal", range=(-1, 1))
    said = long_range(waves.batch(range(200))[0], waves)
    assert said["lag"] == 20
    np.testing.assert_allclose(said["curve"]["real"], np.cos(np.arange(1, 21) * 2 * np.pi / 20), atol=0.12)


def test_softer_samples_have_less_detail_and_small_ones_none(means):
    def of(n, seed):
        return Arrays(np.random.default_rng(seed).uniform(-1, 1, (n, 16, 16, 1)).astype(np.float32), range=(-1, 1))

    reference, train = of(60, 0), of(20, 1)
    x = of(50, 2).batch(range(50))[0]
    sharp = sample_quality(x, reference, train, None, means)["detail"]
    soft = sample_quality(0.5 * x, reference, train, None, means)["detail"]
    assert abs(sharp["ratio"] - 1) < 4 * sharp["stderr"]
    assert soft["ratio"] == pytest.approx(0.25 * sharp["ratio"], rel=0.02)  # the sampler's lowest noise counts, too
    small = pictures(60, 0)
    assert sample_quality(small.batch(range(60))[0], small, pictures(20, 1), None, means)["detail"] is None

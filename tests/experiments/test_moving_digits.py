"""Moving MNIST: what is simulated moves as it is said to, and the measures tell what is right from what is not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cli_calls import call
from experiments.benchmark.moving_digits import followed, likeness, measures, position, render, simulate
from experiments.scripts import moving

SIDE, SIZE = 14, 32


def digits(count=12, seed=0):
    """Coherent bars that differ, (count, 14, 14) uint8, with an empty margin as MNIST's digits have."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((SIDE, SIDE)) - (SIDE - 1) / 2
    found = []
    for _ in range(count):
        angle, long, short = rng.uniform(0, np.pi), rng.uniform(3, 4.5), rng.uniform(1.2, 2)
        a, b = rows * np.cos(angle) + columns * np.sin(angle), columns * np.cos(angle) - rows * np.sin(angle)
        found.append(np.clip(3 - 3 * np.hypot(a / long, b / short) + 0.5, 0, 1) * (np.hypot(rows, columns) < 5.5))
    return (255 * np.array(found)).round().astype(np.uint8)


VIDEOS = {each: simulate(digits(), 16, 16, SIZE, seed=0, each=each)[..., 0] / 255 for each in (1, 2)}


@pytest.fixture(scope="module")
def right():
    return {each: measures(videos, each=each) for each, videos in VIDEOS.items()}


def test_positions_are_reflections_at_the_walls():
    p, v, t = np.array([3.0, 8.0]), np.array([-2.0, 3.0]), np.arange(40)
    x = position(p, v, t, 10.0)
    assert x.min() >= 0
    assert x.max() <= 10
    steps = np.abs(np.diff(x, axis=0))
    assert (steps <= np.abs(v) + 1e-12).all()
    # Step by step: go on, and turn round at a wall.
    at, speed = p.copy(), v.copy()
    for k in range(1, 40):
        at = at + speed
        for axis in range(2):
            if not 0 <= at[axis] <= 10:
                at[axis] = -at[axis] if at[axis] < 0 else 20 - at[axis]
                speed[axis] *= -1
        np.testing.assert_allclose(x[k], at)


def test_a_rendered_digit_keeps_its_light_and_its_centre_is_where_it_was_put():
    digit = digits(1)[0].astype(float)
    rows, columns = np.indices((SIZE, SIZE))
    own = [np.sum(digit * axis) / digit.sum() for axis in np.indices(digit.shape)]
    for corner in ([0.0, 0.0], [3.25, 7.5], [18.0, 18.0], [17.9, 0.1]):
        frame = render(digit, np.array(corner), SIZE)
        assert frame.sum() == pytest.approx(digit.sum())
        centre = [np.sum(frame * rows) / frame.sum(), np.sum(frame * columns) / frame.sum()]
        np.testing.assert_allclose(centre, np.add(corner, own))


def test_simulated_videos_are_a_function_of_their_seed():
    a, b, c = (simulate(digits(), 3, 5, SIZE, seed) for seed in (0, 0, 1))
    assert a.shape == (3, 5, SIZE, SIZE, 1)
    assert a.dtype == np.uint8
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


@pytest.mark.parametrize(("each", "tracked"), [(1, 0.99), (2, 0.2)])
def test_real_videos_are_right(each, tracked, right):
    found = right[each]
    assert found["count"]["mean"] == 1
    assert found["tracked"]["mean"] > tracked
    assert found["same"]["mean"] > 0.97
    assert found["off course"]["mean"] < 0.05
    assert found["bounces"]["mean"] > 1


def test_both_are_followed_through_their_meetings():
    """Apart, together, apart: each track stays with its digit."""
    pictures = digits(2, seed=3).astype(float)
    t = np.arange(16)
    starts, speeds = np.array([[2.0, 1.0], [14.0, 17.0]]), np.array([[0.4, 1.4], [-0.3, -1.2]])
    where = position(starts, speeds, t, float(SIZE - SIDE))
    video = np.stack([np.maximum(*(render(pictures[k], where[k, i], SIZE) for k in range(2))) for i in t]) / 255
    found, _ = followed(video, SIDE)
    assert len(found) == 2
    for one in found:
        true = min((where[k][one.at] for k in range(2)), key=lambda x: float(np.abs(x - one.where + 6.5).sum()))
        offset = one.where - true
        np.testing.assert_allclose(offset, np.broadcast_to(offset.mean(0), offset.shape), atol=0.05)


@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize(
    ("wrong", "measure", "least"),
    [
        (lambda x: np.concatenate([x[:, :8], np.roll(x, 1, 0)[:, 8:]], 1), "same", None),
        (lambda x: np.concatenate([x[:, :8], np.roll(x, 1, 0)[:, 8:]], 1), "off course", 1.0),
        (lambda x: np.concatenate([x[:, :8], x[:, 7:8].repeat(8, 1)], 1), "off course", 0.4),  # stands still
        (lambda x: np.concatenate([x[:, 8:], x[:, :8]], 1), "off course", 0.4),  # late first
    ],
    ids=["others go on: pictures", "others go on: course", "stops", "jumps"],
)
def test_wrong_videos_are_found_out(wrong, measure, least, each, right):
    right, found = right[each][measure]["mean"], measures(wrong(VIDEOS[each]), each=each)[measure]["mean"]
    if least is None:
        assert found < right - 0.05
    else:
        assert found > least > 8 * right


def test_what_is_not_two_digits_is_counted():
    assert measures(VIDEOS[2][:5], each=1)["count"]["mean"] < 0.9
    three = np.maximum(VIDEOS[2], np.roll(VIDEOS[2], 5, 0))[:5]
    assert measures(three)["count"]["mean"] < 0.9
    empty = np.zeros((2, 16, SIZE, SIZE))
    found = measures(empty)
    assert found["count"] == {"mean": 0, "stderr": 0, "count": 2}
    assert found["tracked"]["mean"] == 0
    assert np.isnan(found["same"]["mean"])


def test_frames_are_like_real_ones_if_they_are_digits():
    others = simulate(digits(), 20, 8, SIZE, seed=9, each=1)[..., 0] / 255
    right = likeness(VIDEOS[1][:6], others)["mean"]  # the same twelve bars, elsewhere
    assert right > 0.97
    noise = np.random.default_rng(0).uniform(size=VIDEOS[1][:6].shape)
    assert likeness(noise, others)["mean"] < 0.5
    smeared = VIDEOS[1][:6] + np.roll(VIDEOS[1][:6], 6, 3)
    assert likeness(smeared, others)["mean"] < right - 0.05


def test_straight_on_is_right_up_to_the_first_wall():
    digit = digits(1)[0].astype(float)
    t = np.arange(16)
    where = position(np.array([1.0, 2.0]), np.array([1.5, 0.5]), t, float(SIZE - SIDE))  # at the wall after 11.3 frames
    video = np.stack([render(digit, place, SIZE) for place in where]) / 255
    made = moving.straight_on(video[None, :5], 16)[0]
    np.testing.assert_array_equal(made[:5], video[:5])
    near = np.square(made - video).mean((1, 2))
    assert near[5:11].max() < 0.002
    assert near[14:].min() > 5 * near[5:11].max()


@pytest.mark.slow  # trains and draws videos: 4 s
def test_the_script_measures_a_run_and_draws_it(tmp_path, capsys):
    np.savez(
        tmp_path / "moving32.npz", train=simulate(digits(), 30, 8, 16 + SIDE, 1), test=simulate(digits(), 6, 8, 30, 2)
    )
    (tmp_path / "m.yaml").write_text(
        "simulate: {pool: {path: moving32.npz, key: train, kind: video}, full: 8}\n"
        "test: {path: moving32.npz, key: test, kind: video}\n"
        "views: {clips: {view: {kind: frame_window, length: 3}}}\n"
        "backbones: {local: {kind: local, width: 4, depth: 3}}\n"
        "training: {steps: 2, batch: 4, warmup: 0, evaluate_every: 1}\n"
        "levels: [0.2, 0.8, 3.2]\nevaluate: {draws: 1, samples: 0}\nsampling: {count: 3, steps: 3}\ndevice: cpu\n"
    )
    assert call("fit", tmp_path / "m.yaml", "--out", tmp_path / "run", "--arm", "full-only").exit_code == 0
    moving.main(["measure", str(tmp_path / "run"), "--count", "6", "--digits", "2", "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "measures-seed-0.json").read_text())
    assert list(found["found"]) == ["real", "cut", "full_only"]
    assert found["found"]["real"]["count"]["mean"] == 1
    assert "| full-only |" in capsys.readouterr().out
    more = ["--count", "3", "--digits", "2", "--given", "3", "--answers", "2", "--steps", "3"]
    moving.main(["continue", str(tmp_path / "run"), *more, "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "continued-seed-0.json").read_text())
    assert list(found["found"]) == ["real", "last frame held", "straight on", "full_only"]
    assert found["found"]["real"]["psnr"]["mean"] == 100
    assert set(found["found"]["full_only"]) - set(found["found"]["real"]) == {"mean"}
    moving.main(["picture", str(tmp_path / "run"), "--out", str(tmp_path / "moving.png")])
    assert (tmp_path / "moving.png").stat().st_size > 1000

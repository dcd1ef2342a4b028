"""What trackers are told: every network's steps are its own, on whatever counter a tracker has."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from PIL import Image

from bootdiff.errors import BootdiffError
from bootdiff.training.trackers import TRACKERS, log_picture, log_values, start, tracker_options


class Tracker:
    """Notes what it is told."""

    def __init__(self, name):
        self.name, self.told, self.defined = name, [], {}
        self.tracker = SimpleNamespace(define_metric=self._define)

    def _define(self, name, step_metric):
        self.defined[name] = step_metric

    def log(self, values, step=None):
        self.told.append((values, step))

    def log_images(self, values, step=None, **how):
        self.told.append((values, step, how))


def told(name, say):
    tracker = Tracker(name)
    say(SimpleNamespace(trackers=[tracker]))
    return tracker


def test_the_names_are_those_that_accelerate_knows():
    assert set(TRACKERS) == {str(name) for name in LOGGER_TYPE_TO_CLASS}


@pytest.mark.parametrize("name", TRACKERS)
def test_numbers_carry_the_step_of_their_network(name):
    def say(accelerator):
        log_values(accelerator, "full-unet", {"loss": 0.5}, 40)
        log_values(accelerator, "view-a-unet", {"loss": 0.7}, 10)  # a later network begins again

    tracker = told(name, say)
    if name in ("wandb", "trackio"):
        assert tracker.told[1] == ({"view-a-unet/loss": 0.7, "view-a-unet/step": 10}, None)
        assert [step for _, step in tracker.told] == [None, None]
    else:
        assert tracker.told == [({"full-unet/loss": 0.5}, 40), ({"view-a-unet/loss": 0.7}, 10)]
    assert (tracker.defined == {f"{s}/*": f"{s}/step" for s in ("full-unet", "view-a-unet")}) == (name == "wandb")


@pytest.mark.parametrize("name", TRACKERS)
def test_pictures_are_pixels(name):
    picture = Image.fromarray(np.full((4, 6), 200, np.uint8))
    (values, step, *_), *_ = told(name, lambda accelerator: log_picture(accelerator, "full-unet", picture, 9)).told
    (pixels,) = values["full-unet/samples"]
    assert pixels.shape == (4, 6, 3)
    assert (pixels == 200).all()
    assert step == (None if name in ("wandb", "trackio") else 9)


def test_a_run_that_goes_on_is_the_same_one_for_its_tracker(tmp_path):
    begun = []
    accelerator = SimpleNamespace(init_trackers=lambda *arguments: begun.append(arguments))
    for place in ("a", "a", "b"):
        start(accelerator, ["wandb", "tensorboard"], tmp_path / place, {"seed": 0})
    project, about, own = begun[0]
    assert (project, about) == ("bootdiff", {"seed": 0})
    assert own["wandb"]["name"] == "a"
    ids = [arguments[2]["wandb"]["id"] for arguments in begun]
    assert ids[0] == ids[1] != ids[2]
    start(accelerator, [], tmp_path, {})
    assert len(begun) == 3


def test_what_is_unknown_or_not_installed_is_said(tmp_path, monkeypatch):
    with pytest.raises(BootdiffError, match="--track excel: no such tracker is known; known: tensorboard, wandb"):
        tracker_options(["excel"], tmp_path)
    monkeypatch.setattr("accelerate.tracking.filter_trackers", lambda *_: [])
    with pytest.raises(BootdiffError, match=r"--track aim: the package aim is not installed; run pip install aim"):
        tracker_options(["aim"], tmp_path)
    assert tracker_options([], tmp_path) == {}

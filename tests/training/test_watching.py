"""Looking at a network while it is trained changes nothing of it, and is the same after an interruption."""

from __future__ import annotations

from unittest import mock

import torch

from bootdiff.training.run import Run, load_tensors
from bootdiff.training.state import TrainingState
from training_toy import STEPS, train


class Looker:
    """Notes the weights that it is shown, and behaves as badly as a looker can."""

    def __init__(self):
        self.seen = {}

    def __call__(self, model, step):
        assert not model.training
        assert not torch.is_grad_enabled()
        self.seen[step] = {name: p.clone() for name, p in model.state_dict().items()}
        torch.rand(17)
        torch.manual_seed(step)
        model.train()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def outcome(stage):
    return {path.name: load_tensors(path)[0] for path in sorted(stage.path.glob("*.safetensors"))}


def test_nothing_of_a_training_depends_on_being_looked_at(tmp_path):
    at, looker = (1, 17, STEPS), Looker()
    with Run.open(tmp_path / "alone", None) as alone, Run.open(tmp_path / "watched", None) as watched:
        train(alone.stage("toy"))
        train(watched.stage("toy"), look=looker, look_at=at)
        before, after = outcome(alone.stage("toy")), outcome(watched.stage("toy"))
        assert before.keys() == after.keys()
        assert all(equal(before[name], after[name]) for name in before)
        rows = [[{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in run.metrics()]
                for run in (alone, watched)]  # fmt: skip
    assert rows[0] == rows[1]
    assert tuple(looker.seen) == at
    assert equal(looker.seen[STEPS], after["final.safetensors"])


def test_an_interrupted_training_shows_the_same_again(tmp_path):
    at, straight, again = (4, 12, 23, STEPS), Looker(), Looker()

    def stops(model, step):
        if step == 23:
            raise KeyboardInterrupt
        again(model, step)

    with Run.open(tmp_path / "a", None) as run:
        train(run.stage("toy"), look=straight, look_at=at)
    with Run.open(tmp_path / "b", None) as run:
        try:
            train(run.stage("toy"), look=stops, look_at=at)
        except KeyboardInterrupt:
            train(run.stage("toy"), look=again, look_at=at)
    assert tuple(again.seen) == at
    assert all(equal(straight.seen[step], again.seen[step]) for step in at)


def test_other_processes_than_the_first_do_not_look(tmp_path):
    def only_helps(job):
        job.main = False
        looker = Looker()
        job.show(looker)
        job.main = True
        assert not looker.seen

    with Run.open(tmp_path, None) as run, mock.patch.object(
        TrainingState, "checkpoint_due", lambda job: only_helps(job)
    ):  # fmt: skip
        train(run.stage("toy"), checkpoint_every=0, steps=2)


def test_a_stage_knows_its_pictures_and_no_others(tmp_path):
    with Run.open(tmp_path, None) as run:
        stage = run.stage("full-unet")
        for name in ("full-unet-000020.png", "full-unet-000003.png", "full-unet-2-000001.png", "full_only.png"):
            (run.path / "samples").mkdir(exist_ok=True)
            (run.path / "samples" / name).write_bytes(b"")
        assert list(stage.pictures().items()) == [(3, stage.picture(3)), (20, stage.picture(20))]
        stage.clear()
        assert sorted(path.name for path in (run.path / "samples").iterdir()) == [
            "full-unet-2-000001.png", "full_only.png"
        ]  # fmt: skip

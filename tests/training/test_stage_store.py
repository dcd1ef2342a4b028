"""The stages of a run: taken only under the key that they were made with, refused by the names of what differs."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from bootdiff.errors import BootdiffError
from bootdiff.training.run import Run
from bootdiff.training.stages import StageStore
from training_toy import Batches, network, train

ALONE = SimpleNamespace(is_main_process=True, wait_for_everyone=lambda: None)
MADE_WITH = {"data": "abc", "training": {"batch": 8, "noise": {"mean": -0.6}}, "mask": [[1, 0], [1, 1]]}


class Crash(Exception):
    pass


@pytest.fixture
def said():
    return []


@pytest.fixture
def store(tmp_path, said):
    with Run.open(tmp_path / "run", "seed: 0") as run:
        yield StageStore(run, ALONE, (), said.append)


def changed(**more):
    return {**MADE_WITH, **more}


def content(stage):
    return {path.name: path.read_bytes() for path in stage.path.iterdir()}


def half_trained(stage, steps=60):
    def on_step(t):
        if t == 12:
            raise Crash

    with pytest.raises(Crash):
        train(stage, steps=steps, batches=Batches(on_step=on_step))


# --- refused


@pytest.mark.parametrize("how", ["complete", "half trained"])
@pytest.mark.parametrize(
    ("now", "text"),
    [
        (changed(mask=[[0, 0], [1, 1]]), r"mask\.0\.0 \(1 -> 0\)"),
        (
            changed(training={"batch": 5, "noise": {"mean": 1.5}}),
            r"training\.batch \(8 -> 5\), training\.noise\.mean \(-0\.6 -> 1\.5\)",
        ),
        (changed(more=1), r"more \(absent -> 1\)"),
        ({"data": "abc"}, r"training\.batch \(8 -> absent\), .*mask\.1\.1 \(1 -> absent\)"),
        ("all", r"depends_on \(absent -> all\)"),
    ],
)
def test_what_was_made_with_something_else_is_never_taken(store, said, how, now, text):
    """A mask picture that was corrected after the training, or in the middle of it."""
    stage = store.stage("view-t-local", MADE_WITH, steps=60)
    train(stage) if how == "complete" else half_trained(stage)
    before = content(stage)
    with pytest.raises(BootdiffError, match=rf"the stage view-t-local was made with something else: .*{text}") as error:
        store.stage("view-t-local", now, steps=60)
    assert "delete exactly this folder: the stage is then made again" in str(error.value)
    assert str(stage.path) in str(error.value)
    assert content(stage) == before
    assert store.stage("view-t-local", MADE_WITH, steps=60).key == stage.key
    assert said == []


def test_the_remedy_works_and_what_depends_on_it_follows(store, said):
    def make(made_with):
        view = store.stage("view", made_with)
        if not view.done:
            view.finish({"of": made_with["data"]})
        stack = store.stage("stack", {"own": 1}, parents={"view": view.key})
        if not stack.done:
            stack.finish({"of": view.info["of"]})
        return stack.info["of"]

    assert make(MADE_WITH) == "abc"
    assert make(MADE_WITH) == "abc"
    with pytest.raises(BootdiffError, match=r"the stage view .*data \(abc -> new\)"):
        make(changed(data="new"))
    store.run.stage("view").clear()
    store.run.stage("view").path.rmdir()
    assert make(changed(data="new")) == "new"
    assert said == ["stack: made again, since what it is made of has changed (view)"]


def test_a_change_of_its_own_is_refused_even_where_a_parent_changed_too(store):
    store.stage("stack", {"own": 1}, parents={"view": "a"}).finish({})
    with pytest.raises(BootdiffError, match=r"else: own \(1 -> 2\) \(there"):
        store.stage("stack", {"own": 2}, parents={"view": "b"})


@pytest.mark.parametrize("text", ["{", "null", "{}", "flip"])
def test_a_damaged_key_is_refused(store, text):
    stage = store.stage("full-local", MADE_WITH)
    stage.finish({})
    path = stage / "key.json"
    path.write_text(path.read_text().replace("abc", "abd") if text == "flip" else text)
    with pytest.raises(BootdiffError, match=rf"key\.json: .*delete the folder {stage.path}: the same command makes"):
        store.stage("full-local", MADE_WITH)


def test_what_was_made_under_a_lost_key_is_not_taken(store):
    """A result that lies there without a training: nobody knows what it was made of."""
    stage = store.stage("scale", MADE_WITH)
    store.get_or_compute(stage, "scale.json", lambda: [1.0])
    (stage / "key.json").unlink()
    again = store.stage("scale", changed(more=1))
    assert store.get_or_compute(again, "scale.json", lambda: [2.0]) == [2.0]


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "done.json"])
def test_a_training_of_another_key_is_not_gone_on_with(store, name):
    """Whole and undamaged, but put there from a stage that was made with something else."""
    for stage, what in (("a", MADE_WITH), ("b", changed(more=1))):
        made = store.stage(stage, what, steps=60)
        half_trained(made) if name == "checkpoint.safetensors" else train(made, steps=60)
    a, b = (store.run.stage(stage) for stage in "ab")
    (b / name).write_bytes((a / name).read_bytes())
    with pytest.raises(BootdiffError, match=rf"{name}: (the checkpoint|of another stage|of a stage)"):
        train(store.stage("b", changed(more=1), steps=60), steps=60)


def test_a_lost_key_is_refused(store):
    stage = store.stage("full-local", MADE_WITH, steps=60)
    half_trained(stage)
    (stage / "key.json").unlink()
    with pytest.raises(BootdiffError, match=r"its key\.json, .* is lost; restore it from a copy, or delete the folder"):
        store.stage("full-local", MADE_WITH, steps=60)


def test_what_was_only_begun_under_another_key_is_cleared(store, said):
    stage = store.stage("full-local", MADE_WITH)
    assert store.get_or_compute(stage, "scale.json", lambda: [1.0]) == [1.0]
    again = store.stage("full-local", changed(data="new"))
    assert again.key != stage.key
    assert os.listdir(again.path) == ["key.json"]
    assert said == []


def test_the_key_is_of_the_name_and_all_parts(store):
    keys = [
        store.stage("a", MADE_WITH).key,
        store.stage("b", MADE_WITH).key,
        store.stage("c", changed(data="new")).key,
        store.stage("d", MADE_WITH, parents={"x": 1}).key,
        store.stage("e", MADE_WITH, start={"x": 1}).key,
        store.stage("f", MADE_WITH, steps=3).key,
    ]
    assert len(set(keys)) == len(keys)
    assert store.stage("a", dict(reversed(MADE_WITH.items()))).key == keys[0]


# --- more steps


def test_more_steps_go_on_and_are_told_once(store, said):
    stage = store.stage("view-x-unet", MADE_WITH, start={"full-unet": "a"}, steps=60)
    train(stage)
    longer = store.stage("view-x-unet", MADE_WITH, start={"full-unet": "b"}, steps=80)
    rest = "the learning rate's schedule is recomputed for the rest"
    assert said == [f"view-x-unet: goes on from step 60 to 80; {rest}"]
    batches = Batches()
    train(longer, steps=80, batches=batches)
    assert batches.asked == [60]
    again = store.stage("view-x-unet", MADE_WITH, start={"full-unet": "b"}, steps=80)
    assert again.key == longer.key != stage.key
    assert len(said) == 1
    with pytest.raises(BootdiffError, match=r"steps \(80 -> 60\)"):
        store.stage("view-x-unet", MADE_WITH, start={"full-unet": "b"}, steps=60)


def test_a_stopped_training_goes_on_from_where_it_is(store, said):
    half_trained(store.stage("toy", MADE_WITH, steps=60))
    stage = store.stage("toy", MADE_WITH, steps=80)
    assert said[0].startswith("toy: goes on from step 10 to 80;")
    train(stage, steps=80)


def test_what_went_on_has_another_key_than_what_was_trained_at_once(store):
    """Its weights are others, and so are those of all that is made of it."""
    train(store.stage("toy", MADE_WITH, steps=60))
    longer = store.stage("toy", MADE_WITH, steps=80)
    straight = StageStore(Run.open(store.run.path.parent / "other", "seed: 0"), ALONE, (), print)
    with straight.run:
        assert straight.stage("toy", MADE_WITH, steps=80).key != longer.key


def test_parents_may_be_a_list(store, said):
    store.stage("stack", 1, parents=["a", [0.5]]).finish({})
    assert store.stage("stack", 1, parents=["a", [0.5]]).done
    assert not store.stage("stack", 1, parents=["a", [0.25]]).done
    assert said == ["stack: made again, since what it is made of has changed"]
    store.stage("stack", 1, parents=["a", [0.25]]).finish({})
    assert not store.stage("stack", 1).done


def test_changed_parents_make_it_again_also_where_steps_grew(store, said):
    train(store.stage("residual", MADE_WITH, parents={"gains": 1}, steps=60))
    stage = store.stage("residual", MADE_WITH, parents={"gains": 2}, steps=80)
    assert not stage.begun
    assert said == ["residual: made again, since what it is made of has changed (gains)"]


# --- results


def test_a_result_is_made_once_and_again_where_it_is_of_something_else(store):
    stage, made = store.stage("full-local", MADE_WITH), []

    def make():
        made.append(len(made))
        return {"n": made[-1], "nan": float("nan")}

    for of, n in ((60, 0), (60, 0), (80, 1), (80, 1)):
        assert store.get_or_compute(stage, "choice.json", make, of=of) == {"n": n, "nan": None}
    assert store.exists(stage, "choice.json")
    assert not store.exists(stage, "scale.json")
    (stage / "choice.json").write_text("{}")
    with pytest.raises(BootdiffError, match=r"choice\.json: damaged, .*delete the folder"):
        store.get_or_compute(stage, "choice.json", make, of=80)


def test_pruning_removes_unchosen_snapshots_and_races(store):
    stage = store.stage("view.x", MADE_WITH, steps=60)
    for k, name in enumerate(
        ("view.x.start-0", "view.x.start-1", "view-x.start-0", "view.x.start-a", "view.x.start-10")
    ):
        train(store.stage(name, {"candidate": k}, parents={"view.x": stage.key}), steps=3, seed=k, keep=False)
    with pytest.raises(ValueError, match="is not complete"):
        store.prune(stage, [60])
    steps = set(train(stage).snapshots.values())
    assert len(steps) > 1
    for _ in range(2):
        store.prune(stage, [60])
        assert sorted(os.listdir(store.run.stages)) == ["view-x.start-0", "view.x", "view.x.start-a", "weights"]
        assert [path.name for path in stage.path.glob("snapshot-*")] == ["snapshot-60.safetensors"]
        assert len(os.listdir(store.run.pool.path)) == 3
    assert train(stage).snapshots  # still complete


# --- other runs


def test_a_stage_of_the_same_key_is_taken_from_another_run(store, said, tmp_path):
    train(store.stage("toy", MADE_WITH, steps=60))
    store.get_or_compute(store.run.stage("toy"), "choice.json", lambda: [1], of=60)
    second = StageStore(Run.open(tmp_path / "second", "seed: 0"), ALONE, [store.run.path], said.append)
    with second.run:
        assert not second.stage("toy", changed(data="new"), steps=60).begun
        assert len(said) == 1
        assert said[0].startswith(f"toy: not taken from {store.run.path}, made with something else: ")
        assert said[0].endswith("-> new) (there -> now)")
        said.clear()
        stage = second.stage("toy", MADE_WITH, steps=60)
        assert said == [f"toy: taken from {store.run.path}"]
        there = content(store.run.stage("toy"))
        assert content(stage) == there
        assert stage.metrics() == store.run.stage("toy").metrics()
        assert len(os.listdir(second.run.pool.path)) == len({b for n, b in there.items() if n.endswith("tensors")})
        batches = Batches()
        train(stage, batches=batches)
        assert batches.asked == []
        # what is asked for more steps is trained on, here
        longer = second.stage("toy", MADE_WITH, steps=80)
        train(longer, steps=80)
    third = StageStore(Run.open(tmp_path / "third", "seed: 0"), ALONE, [second.run.path], said.append)
    with third.run:
        assert not third.stage("toy", MADE_WITH, steps=80).begun  # it went on: not what a training at once gives


def test_moments_that_differ_by_rounding_are_the_same_stage(store, said, tmp_path):
    """Another number of threads adds up the same data in a different order."""
    one, two = (changed(prior={"sigma_data": value}) for value in (0.3269157976982997, 0.3269157976983))
    stage = store.stage("toy", one, steps=60)
    train(stage)
    child = store.stage("child", 1, parents={"toy": stage.key}).key
    batches = Batches()
    again = store.stage("toy", two, steps=60)
    train(again, batches=batches)
    assert batches.asked == []
    assert again.key == stage.key
    assert store.stage("child", 1, parents={"toy": again.key}).key == child
    second = StageStore(Run.open(tmp_path / "second", "seed: 0"), ALONE, [store.run.path], said.append)
    with second.run:
        taken = second.stage("toy", two, steps=60)
        assert said == [f"toy: taken from {store.run.path}"]
        assert content(taken) == content(store.run.stage("toy"))
        assert taken.key == stage.key
    with pytest.raises(BootdiffError, match="made with something else"):
        store.stage("toy", changed(prior={"sigma_data": 0.32691580}), steps=60)


def test_damaged_weights_are_not_spread(store, tmp_path):
    train(store.stage("toy", MADE_WITH, steps=60))
    path = store.run.stage("toy") / "final.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    second = StageStore(Run.open(tmp_path / "second", "seed: 0"), ALONE, [store.run.path], print)
    with second.run, pytest.raises(BootdiffError, match=r"final\.safetensors: damaged"):
        second.stage("toy", MADE_WITH, steps=60)


def test_a_folder_that_is_no_run_cannot_be_reused(store, tmp_path):
    other = StageStore(store.run, ALONE, [tmp_path / "nowhere"], print)
    with pytest.raises(BootdiffError, match="not a run directory"):
        other.stage("toy", MADE_WITH)


def test_all_processes_refuse_together(store):
    """A refusal comes before the first barrier, in each of them."""
    store.stage("toy", MADE_WITH).finish({})
    for main in (True, False):
        barriers = []
        accelerator = SimpleNamespace(is_main_process=main, wait_for_everyone=lambda met=barriers: met.append(1))
        run = store.run if main else Run.open(store.run.path, "seed: 0", main=False)
        with pytest.raises(BootdiffError, match="something else"):
            StageStore(run, accelerator, (), print).stage("toy", changed(data="new"))
        assert barriers == []


def test_weights_of_a_stage_can_be_loaded_into_any_module_around_the_network(store):
    from bootdiff.training.checkpoint import load_weights

    stage = store.stage("toy", MADE_WITH, steps=60)
    net = network()
    train(stage, model=net)
    wrapped = torch.nn.ModuleDict({"net": network(3)})
    load_weights(wrapped, stage / "final.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(wrapped["net"].parameters(), net.parameters(), strict=True))

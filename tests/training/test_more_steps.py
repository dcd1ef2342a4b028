"""More steps for a training that is complete, or stopped: what they compute, what is kept, what is refused."""

from __future__ import annotations

import copy
import json
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bootdiff.errors import BootdiffError
from bootdiff.training.checkpoint import load_weights
from bootdiff.training.muon import Matrix, Muon
from bootdiff.training.optim import learning_rate
from bootdiff.training.run import Run, load_tensors
from bootdiff.training.state import snapshot_path, step_seed
from training_toy import Batches, evaluate, network, objective, settings, train


@pytest.fixture
def run(tmp_path):
    with Run.open(tmp_path / "run", "seed: 3") as run:
        yield run


class Crash(Exception):
    pass


def crash_at(step):
    def on_step(t):
        if t == step:
            raise Crash

    return Batches(on_step=on_step)


def reference(model, how, start=0):
    """The training of ``how`` from step ``start`` on, written out: its optimizers begin there, model and average are
    ``model``.

    Returns the average. Bit by bit: the same operations in the same order.
    """
    average = copy.deepcopy(model)
    params, averages = list(model.parameters()), list(average.parameters())
    hidden = [model[3].weight] if how.optimizer == "muon" else []
    others = [p for p in params if all(p is not weight for weight in hidden)]
    optimizer = torch.optim.AdamW(others, lr=how.lr, weight_decay=how.weight_decay, fused=True)
    muon = Muon([Matrix(weight) for weight in hidden], how.momentum, how.weight_decay)
    stream = Batches().stream(start)
    for t in range(start, how.steps):
        # The counter of the first step takes operations apart, and the parts round otherwise.
        counter = FlopCounterMode(display=False) if t == 0 else nullcontext()
        with torch.random.fork_rng(devices=[]), counter:
            torch.default_generator.manual_seed(step_seed(3 + 1, t))  # dropout
            loss = objective(model, next(stream), torch.Generator().manual_seed(step_seed(3, t))).mean()
            model.zero_grad()
            loss.backward()
        if how.clip is not None:
            nn.utils.clip_grad_norm_(params, how.clip, foreach=True)
        optimizer.param_groups[0]["lr"] = learning_rate(t, how, start)
        optimizer.step()
        muon.step(learning_rate(t, how, start, how.muon_lr))
        with torch.no_grad():
            torch._foreach_lerp_(averages, params, 1 - min(how.ema, (1 + t) / (10 + t)))
    return average


def same_bits(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == there and torch.equal(a, b) for (name, a), (there, b) in pairs)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule": "cosine", "warmup": 7, "lr": 1e-2},
        {"weight_decay": 0.1, "clip": 0.3, "ema": 0.6},
        {"clip": None, "lr": 1e-2, "steps": 33},
        {"optimizer": "muon", "schedule": "linear", "warmup": 7, "momentum": 0.8},
        {"optimizer": "muon", "weight_decay": 0.1, "clip": 0.3, "muon_lr": 0.1},
    ],
)
def test_a_training_is_the_loop_written_out_bit_by_bit(run, changes):
    model = network()
    train(run.stage("toy"), model=model, **changes)
    assert same_bits(model, reference(network(), settings(**changes)))


@pytest.mark.parametrize(("schedule", "optimizer"), [("constant", "adamw"), ("cosine", "adamw"), ("linear", "muon")])
def test_a_complete_training_goes_on_from_its_average(run, schedule, optimizer):
    """Model and average begin at final.safetensors, the optimizer begins again at step 60, and so does its warmup."""
    how = {"schedule": schedule, "optimizer": optimizer, "warmup": 5, "lr": 1e-2}
    stage, model = run.stage("toy"), network()
    train(stage, model=model, **how)
    ended = copy.deepcopy(model)
    more, batches = network(7), Batches()
    result = train(stage, model=more, batches=batches, steps=90, **how)
    assert batches.asked == [60]
    assert same_bits(more, reference(ended, settings(steps=90, **how), 60))
    assert (result.ledger["steps"], result.ledger["images"], result.ledger["sessions"]) == (90, 720, 2)
    rows = [row for row in result.history if "lr" in row]
    assert [row["step"] for row in rows] == [7, 14, 21, 28, 35, 42, 49, 56, 60, 63, 70, 77, 84, 90]
    expected = [learning_rate(row["step"] - 1, settings(steps=90, **how), 60) for row in rows[-5:]]
    assert [row["lr"] for row in rows[-5:]] == expected
    assert stage.info["settings"]["steps"] == 90
    # and the same command again does nothing
    again = Batches()
    assert train(stage, batches=again, steps=90, **how) == result
    assert again.asked == []


def test_a_stopped_training_goes_on_with_all_that_it_had(run):
    """From a checkpoint nothing begins again: with a constant learning rate the outcome is that of the straight run."""
    with pytest.raises(Crash):
        train(run.stage("toy"), batches=crash_at(32))
    batches, model, straight = Batches(), network(), network()
    train(run.stage("toy"), model=model, batches=batches, steps=90)
    assert batches.asked == [30]
    train(run.stage("straight"), model=straight, steps=90)
    assert same_bits(model, straight)
    assert run.stage("toy").info["snapshots"] == run.stage("straight").info["snapshots"]


@pytest.mark.parametrize("schedule", ["constant", pytest.param("cosine", marks=pytest.mark.slow)])  # 2 s each
def test_more_steps_help(run, schedule):
    """A training that ended long before it had converged: what goes on ends near the straight one of as many steps."""
    how = {"schedule": schedule, "lr": 3e-3, "warmup": 10, "ema": 0.95, "evaluate": None}
    models = {name: network() for name in ("short", "on", "straight")}
    train(run.stage("short"), model=models["short"], steps=100, **how)
    train(run.stage("on"), model=models["on"], steps=100, **how)
    train(run.stage("on"), model=models["on"], steps=400, **how)
    train(run.stage("straight"), model=models["straight"], steps=400, **how)
    losses = {name: evaluate(model.eval())["1.0"] for name, model in models.items()}
    gained = losses["short"] - losses["straight"]
    assert gained > 0.05
    assert losses["short"] - losses["on"] > 0.8 * gained, losses


def test_what_was_best_before_is_compared_with(run):
    """Also where its snapshots were pruned: among those that are left, by the rows of held-out losses."""
    stage = run.stage("toy")
    first = train(stage, lr=0.1)
    held = {row["step"]: row["heldout"] for row in first.history if "heldout" in row}
    assert len(set(first.snapshots.values())) > 1
    kept = max(first.snapshots.values())
    for step in set(first.snapshots.values()) - {kept}:
        snapshot_path(stage, step).unlink()
    second = train(stage, lr=0.1, steps=90)
    held |= {row["step"]: row["heldout"] for row in second.history if "heldout" in row}
    left = [kept, *(step for step in held if step > 60)]
    assert second.snapshots == {key: min(left, key=lambda step: held[step][key]) for key in ("0.1", "1.0", "4.0")}
    assert {p.name for p in stage.path.glob("snapshot-*")} == {
        f"snapshot-{s}.safetensors" for s in second.snapshots.values()
    }
    for key, step in second.snapshots.items():
        model = load_weights(network(1), snapshot_path(stage, step)).eval()
        with torch.no_grad():
            assert evaluate(model)[key] == held[step][key]


def test_killed_while_it_begins_to_go_on_both_commands_find_what_they_need(run, monkeypatch):
    stage, ended = run.stage("toy"), network()
    first = train(stage, model=ended)
    done = (stage / "done.json").read_bytes()
    with pytest.raises(Crash):
        train(stage, steps=90, batches=crash_at(60))
    assert not stage.done
    assert load_tensors(stage / "checkpoint.safetensors")[1]["counts"]["step"] == 60
    (stage / "done.json").write_bytes(done)  # as if the kill had come before it was removed
    model = network(5)
    assert train(stage, model=model) == first
    assert same_bits(model, ended)
    assert not (stage / "checkpoint.safetensors").exists()
    train(stage, model=model, steps=90)
    assert same_bits(model, reference(ended, settings(steps=90), 60))


def test_fewer_steps_than_trained_are_refused_with_the_remedy(run):
    stage = run.stage("toy")
    train(stage)
    before = {path.name: path.read_bytes() for path in stage.path.iterdir()}
    with pytest.raises(
        BootdiffError, match=r"steps \(60 -> 59\) .*another run directory, or delete the folder .*toy to"
    ):
        train(stage, steps=59)
    with pytest.raises(BootdiffError, match=r"lr \(0\.03 -> 0\.02\) \("):
        train(stage, steps=90, lr=0.02)
    assert {path.name: path.read_bytes() for path in stage.path.iterdir()} == before


@pytest.mark.parametrize("name", ["final.safetensors", "snapshot-60.safetensors", "done.json"])
def test_a_damaged_file_is_named_and_the_remedy_works(run, name):
    stage, model = run.stage("toy"), network()
    first = train(stage, model=model)
    path = stage / name
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]
    for damaged in (data[: middle - 1], flipped, None)[: 2 if name == "done.json" else 3]:
        path.unlink(missing_ok=True)
        if damaged is not None:
            path.write_bytes(damaged)
        read = partial(load_weights, network(), path) if name.startswith("snapshot") else partial(train, stage)
        with pytest.raises(BootdiffError, match=rf"{path}: .*delete the folder {stage.path}: the same command makes"):
            read()
    stage.clear()
    again = network()
    second = train(run.stage("toy"), model=again)
    assert same_bits(again, model)
    assert second.snapshots == first.snapshots
    assert [json.dumps(row.get("heldout")) for row in second.history] == [
        json.dumps(row.get("heldout")) for row in first.history
    ]

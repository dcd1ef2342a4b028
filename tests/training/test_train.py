"""The training loop: what it computes, what it keeps, how it stops, and that going on gives the same bits."""

from __future__ import annotations

import copy
import errno
import json
import math
import os
import signal
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import bootdiff.training.files
import training_toy
from bootdiff.errors import BootdiffError
from bootdiff.noise import LogNormal
from bootdiff.training.checkpoint import load_weights
from bootdiff.training.loop import (
    TIMING,
    Diverged,
    Interrupted,
    fit,
    global_draw,
    global_randn,
)
from bootdiff.training.optim import learning_rate
from bootdiff.training.run import Run, load_tensors
from bootdiff.training.settings import TrainingSettings
from bootdiff.training.state import snapshot_path, step_seed
from training_toy import STEPS, Batches, evaluate, network, objective, settings, train


@pytest.fixture
def run(tmp_path):
    with Run.open(tmp_path / "run", "seed: 3") as run:
        yield run


def outcome(stage):
    """All that must not depend on interruptions: every file but done.json bit by bit, its snapshots, the rows."""
    files = {p.name: p.read_bytes() for p in stage.path.iterdir() if p.name != "done.json"}
    rows = [{key: value for key, value in row.items() if key not in TIMING} for row in stage.metrics()]
    ledger = {key: stage.info["ledger"][key] for key in ("images", "flops", "steps", "parameters")}
    return files, stage.info["snapshots"], ledger, [json.dumps(row) for row in rows]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The outcome of the toy training without interruption."""
    with Run.open(tmp_path_factory.mktemp("straight"), "seed: 3") as run:
        train(run.stage("toy"))
        return outcome(run.stage("toy"))


# --- what it computes


def test_it_is_adamw_with_clipping_warmup_and_a_ramped_average(run):
    """Against the same training written out with PyTorch's plain AdamW, clipping and a Python average."""
    model = network()[:2]  # no dropout: the reference need not know how that is seeded
    model.append(nn.Linear(8, 4))
    reference = copy.deepcopy(model)
    options = {"lr": 1e-2, "warmup": 5, "schedule": "cosine", "weight_decay": 0.1, "clip": 0.3}
    train(run.stage("toy"), model=model, steps=20, ema=0.6, **options)

    optimizer = torch.optim.AdamW(reference.parameters(), weight_decay=0.1, foreach=False, fused=False)
    average = [p.detach().clone() for p in reference.parameters()]
    stream = Batches().stream(0)
    for t in range(20):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1, (t + 1) / 5) * (1 + math.cos(math.pi * t / 20)) / 2
        optimizer.zero_grad()
        objective(reference, next(stream), torch.Generator().manual_seed(step_seed(3, t))).mean().backward()
        nn.utils.clip_grad_norm_(reference.parameters(), 0.3)
        optimizer.step()
        beta = min(0.6, (1 + t) / (10 + t))
        average = [beta * a + (1 - beta) * p.detach() for a, p in zip(average, reference.parameters(), strict=True)]
    for ours, theirs in zip(model.parameters(), average, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_rows_hold_the_mean_loss_since_the_last_row(run):
    seen = []

    def watched(model, batch, generator):
        losses = objective(model, batch, generator)
        seen.append(losses.mean().item())
        return losses

    result = train(run.stage("toy"), objective=watched)
    rows = [row for row in result.history if "loss" in row]
    assert [row["step"] for row in rows] == [7, 14, 21, 28, 35, 42, 49, 56, 60]
    for row, start in zip(rows, range(0, 60, 7), strict=True):
        assert row["loss"] == pytest.approx(sum(seen[start : row["step"]]) / (row["step"] - start), rel=1e-12)
        assert row["images"] == 8 * row["step"]
    assert result.history == run.stage("toy").metrics()


def test_snapshots_are_the_best_average_of_each_key(run):
    result = train(run.stage("toy"), steps=48, lr=0.1)
    held = {row["step"]: row["heldout"] for row in result.history if "heldout" in row}
    assert list(held) == [8, 16, 24, 32, 40, 48]
    assert result.snapshots == {key: min(held, key=lambda step: held[step][key]) for key in ("0.1", "1.0", "4.0")}
    kept = {p.name for p in run.stage("toy").path.glob("snapshot-*")}
    assert kept == {f"snapshot-{step}.safetensors" for step in result.snapshots.values()}
    for key, step in result.snapshots.items():
        model = load_weights(network(1), snapshot_path(run.stage("toy"), step)).eval()
        with torch.no_grad():
            assert evaluate(model)[key] == held[step][key]


def test_snapshots_can_be_left_out(run):
    result = train(run.stage("toy"), keep=False)
    assert result.snapshots.keys() == {"0.1", "1.0", "4.0"}
    assert sorted(os.listdir(run.stage("toy").path)) == ["done.json", "final.safetensors"]


def test_the_model_ends_with_the_final_average_also_when_the_stage_was_complete(run):
    stage, model, again, batches = run.stage("toy"), network(), network(5), Batches()
    first = train(stage, model=model)
    assert train(stage, model=again, batches=batches) == first
    assert batches.asked == []
    final, meta = load_tensors(stage / "final.safetensors")
    assert meta == {}
    for name, value in model.state_dict().items():
        assert torch.equal(value, final[name])
        assert torch.equal(value, again.state_dict()[name])


def test_frozen_parameters_stay_and_buffers_follow_the_model(run):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    model[0].weight.requires_grad_(False)
    frozen = model[0].weight.clone()
    result = train(run.stage("toy"), model=model, evaluate=None)
    assert torch.equal(model[0].weight, frozen)
    assert model[1].num_batches_tracked == STEPS
    assert result.snapshots == {}
    assert result.ledger["parameters"] == 4 + 8 + 20


def test_the_ledger(run):
    ledger = train(run.stage("toy")).ledger
    assert ledger["parameters"] == sum(p.numel() for p in network().parameters())
    assert ledger["images"] == STEPS * 8
    # Per linear layer 2 b n m flops forward, the same for the weights' gradient, and, but for the first, the input's.
    assert ledger["flops_per_step"] == 2 * 8 * (2 * 4 * 8 + 3 * 8 * 8 + 3 * 8 * 4)
    assert ledger["flops"] == STEPS * ledger["flops_per_step"]
    assert ledger["processes"] == 1
    assert ledger["device"] == "cpu"
    assert 0 < ledger["evaluation_seconds"] < ledger["seconds"] + ledger["evaluation_seconds"] < 60
    assert 2**24 < ledger["peak_memory"] < 2**36


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="only Linux lets the peak be reset")
def test_the_peak_memory_is_that_of_the_stage(run):
    before = bytearray(b"x" * 2**28)
    first = train(run.stage("first"), steps=2).ledger["peak_memory"]
    del before
    second = train(run.stage("second"), steps=2).ledger["peak_memory"]
    assert second < first - 2**27


def test_progress_is_told_from_start_to_end(run):
    told = []
    train(run.stage("toy"), progress=told.append)
    assert (told[0].step, told[0].loss) == (0, None)
    assert (told[-1].stage, told[-1].step, told[-1].steps, told[-1].seconds_left) == ("toy", STEPS, STEPS, 0)
    assert told[-1].loss > 0
    assert told[-1].images_per_second > 0


def test_training_leaves_torch_and_the_handlers_of_signals_as_they_were(run):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train(run.stage("toy"), steps=3)
    assert torch.equal(torch.rand(3), expected)
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"lr": 0.0}, "lr must be greater than 0"),
        ({"ema": 1.0}, "ema must be less than 1"),
        ({"clip": 0.0}, "clip must be greater than 0"),
        ({"schedule": "step"}, "schedule must be one of constant, linear, cosine; got 'step'"),
        ({"model": nn.Identity()}, "no parameter"),
        ({"objective": lambda m, b, g: objective(m, b, g).mean()}, r"must return \(b,\) losses"),
    ],
)
def test_wrong_arguments(run, changes, text):
    with pytest.raises(ValueError, match=text):
        train(run.stage("toy"), **changes)


def test_batches_must_not_end(run):
    class Short:
        def stream(self, start):
            return iter([next(Batches().stream(t)) for t in range(start, 4)])

    with pytest.raises(ValueError, match="step 4 of 60: the batches ended"):
        train(run.stage("toy"), batches=Short())


def test_a_run_open_for_reading_is_no_place_to_train(run):
    with pytest.raises(ValueError, match="open for reading"):
        train(Run.read(run.path).stage("toy"))


# --- stopping and going on


@pytest.mark.parametrize(
    ("number", "step"),
    [
        *((signal.SIGINT, step) for step in (1, 7, 16, 59)),
        (signal.SIGTERM, 23),
        (signal.SIGHUP, 31),
    ],  # 7: a row, 16: held-out losses
)
def test_a_signal_finishes_the_step_and_the_same_call_goes_on(run, straight, step, number, request):
    before = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    request.addfinalizer(lambda: signal.signal(number, before))  # under nohup, SIGHUP is ignored
    stage = run.stage("toy")

    def on_step(t):
        if t == step - 1:  # while the batch of this step is made
            signal.raise_signal(number)

    with pytest.raises(Interrupted, match=rf"toy, step {step} of 60: stopped as asked.*same command again"):
        train(stage, batches=Batches(on_step=on_step), checkpoint_every=0)
    batches = Batches()
    train(stage, model=network(9), batches=batches)  # other initial weights: they must not matter now
    assert batches.asked == [step]
    assert outcome(stage) == straight
    assert stage.info["ledger"]["sessions"] == 2


def test_a_signal_in_the_last_step_finishes_the_stage_first(run, straight):
    def on_step(t):
        if t == STEPS - 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match="complete"):
        train(run.stage("toy"), batches=Batches(on_step=on_step))
    assert outcome(run.stage("toy")) == straight


def test_a_second_signal_stops_at_once_and_the_last_checkpoint_serves(run, straight):
    stage = run.stage("toy")

    def on_step(t):
        if t == 22:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(stage, batches=Batches(on_step=on_step))
    batches = Batches()
    train(stage, batches=batches)
    assert batches.asked == [20]
    assert outcome(stage) == straight


class Crash(Exception):
    pass


def crash_at(step):
    def on_step(t):
        if t == step:
            raise Crash

    return on_step


def test_crashes_at_every_step_leave_no_trace(run, straight):
    """One crash in each step that is reached; the replays cross rows, evaluations, snapshots and their deletion."""
    stage, crashed = run.stage("toy"), set()

    def on_step(t):
        if t not in crashed:
            crashed.add(t)
            raise Crash

    for _ in range(STEPS):
        with pytest.raises(Crash):
            train(stage, batches=Batches(on_step=on_step))
    train(stage)
    assert crashed == set(range(STEPS))
    assert outcome(stage) == straight


def test_checkpoints_come_by_the_clock_too(run):
    with pytest.raises(Crash):
        train(run.stage("toy"), batches=Batches(on_step=crash_at(3)), checkpoint_every=0, checkpoint_seconds=1e-9)
    _, meta = load_tensors(run.stage("toy") / "checkpoint.safetensors")
    assert meta["counts"]["step"] == 3


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"lr": 0.1}, r"other settings: lr \(0\.03 -> 0\.1\) "),
        ({"steps": 50}, r"other settings: steps \(60 -> 50\) "),
        ({"steps": 70, "ema": 0.8, "seed": 4}, r"other settings: ema \(0\.9 -> 0\.8\), seed \(3 -> 4\) "),
        ({"noise": LogNormal(-1.0, 1.4)}, r"other settings: noise\.mean \(-0\.6 -> -1\.0\) "),
        ({"keep": False, "batch": 4}, r"other settings: batch \(32 -> 4\), keep \(True -> False\) "),
    ],
)
def test_other_settings_do_not_go_on(run, change, text):
    with pytest.raises(Crash):
        train(run.stage("toy"), batches=Batches(on_step=crash_at(12)))
    with pytest.raises(BootdiffError, match=text):
        train(run.stage("toy"), **change)
    train(run.stage("toy"))
    with pytest.raises(BootdiffError, match=text):
        train(run.stage("toy"), **change)


def test_another_network_does_not_go_on(run):
    with pytest.raises(Crash):
        train(run.stage("toy"), batches=Batches(on_step=crash_at(12)))
    with pytest.raises(BootdiffError, match=r"checkpoint\.safetensors: these weights are of another network"):
        train(run.stage("toy"), model=nn.Linear(4, 4))


def test_a_checkpoint_that_is_not_ours_is_refused(run):
    save_file({"x": torch.ones(1)}, run.stage("toy") / "checkpoint.safetensors")
    with pytest.raises(
        BootdiffError, match=r"checkpoint\.safetensors: .* not written by bootdiff; .*delete the folder"
    ):
        train(run.stage("toy"))


# --- failures


def test_nan_stops_with_the_last_good_state(run, straight):
    def poisoned(model, batch, generator):
        losses = objective(model, batch, generator)
        return losses * float("nan") if batch["poison"] else losses

    class Poisoned(Batches):
        def stream(self, start):
            for t, batch in enumerate(super().stream(start), start):
                yield batch | {"poison": t == 22}

    stage = run.stage("toy")
    with pytest.raises(Diverged, match=r"toy, step 23: the loss became NaN.*step 20 is intact.*lower learning rate"):
        train(stage, batches=Poisoned(), objective=poisoned)
    tensors, meta = load_tensors(stage / "checkpoint.safetensors")
    assert meta["counts"]["step"] == 20
    assert all(value.isfinite().all() for value in tensors.values())
    train(stage)  # say the data was repaired
    assert outcome(stage) == straight


def test_weights_that_blow_up_are_not_saved(run):
    """The gradient of sqrt at 0 spoils the weights in the step after which a checkpoint is due; its loss was finite."""

    class Marked(Batches):
        def stream(self, start):
            for t, batch in enumerate(super().stream(start), start):
                yield batch | {"cliff": t == 9}

    def cliff(model, batch, generator):
        losses = objective(model, batch, generator)
        weight = model[0].weight
        return losses + (weight - weight.detach()).sum().abs().sqrt() if batch["cliff"] else losses

    with pytest.raises(Diverged, match=r"step 10: the weights became NaN or infinite \(the checkpoint of step 5 is"):
        train(run.stage("toy"), batches=Marked(), objective=cliff)


def test_nan_before_the_first_checkpoint_says_so(run):
    with pytest.raises(Diverged, match=r"step 1: .*no checkpoint was written yet"):
        train(run.stage("toy"), objective=lambda m, b, g: objective(m, b, g) / 0)


def test_a_full_disk_keeps_the_old_checkpoint(run, straight, monkeypatch):
    stage, fsync = run.stage("toy"), os.fsync

    def full(fd):
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".checkpoint.safetensors.bootdiff.tmp"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(fd)

    with pytest.raises(Crash):
        train(stage, batches=Batches(on_step=crash_at(12)))
    before = (stage / "checkpoint.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(bootdiff.training.files.os, "fsync", full)
        with pytest.raises(BootdiffError, match=r"checkpoint\.safetensors: no room to write it"):
            train(stage)
    assert (stage / "checkpoint.safetensors").read_bytes() == before
    assert not [name for name in os.listdir(stage.path) if "tmp" in name]
    train(stage)
    assert outcome(stage) == straight


# --- randomness


def test_ranks_share_one_global_draw():
    def at(rank, world):
        return global_randn((6 // world, 2, 3), torch.Generator().manual_seed(5), rank, world)

    whole = at(0, 1)
    for world in (2, 3):
        assert torch.equal(torch.cat([at(rank, world) for rank in range(world)]), whole)
    assert torch.equal(global_draw(torch.arange, 3, rank=1, world=2), torch.tensor([3, 4, 5]))


def test_many_ranks_draw_their_own_rows_only(monkeypatch):
    """More than SHARED: each from its own seed, the same law, and none draws for the others."""
    from bootdiff.training import loop

    world, drawn = loop.SHARED + 1, []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 3)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world)
    assert torch.equal(global_draw(lambda n: drawn.append(n) or torch.arange(n), 4), torch.arange(4))
    assert drawn == [4]
    with loop._part(1, 2):  # a part of its rows is the same part of what it draws
        assert torch.equal(global_draw(torch.arange, 4), torch.tensor([4, 5, 6, 7]))
    seeds = {loop._draws_seed(0, t, rank, world) for t in range(50) for rank in range(world)}
    assert len(seeds) == 50 * world
    assert {loop._draws_seed(0, 7, rank, loop.SHARED) for rank in range(loop.SHARED)} == {step_seed(0, 7)}
    x = torch.cat([global_randn((64, 64), torch.Generator().manual_seed(s)) for s in sorted(seeds)[:world]])
    assert float(x.mean()) == pytest.approx(0, abs=0.02)
    assert float((x[:64] * x[64:128]).mean()) == pytest.approx(0, abs=0.08)


def test_seeds_of_steps_differ():
    assert len({step_seed(seed, t) for seed in (0, 1, 2) for t in range(20_000)}) > 59_990
    assert len({step_seed(7, t) for t in range(50_000)}) == 50_000


def test_learning_rate():
    ramp = settings(steps=100, lr=0.4, warmup=4)
    assert [learning_rate(t, ramp) for t in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert [learning_rate(t, ramp, 60) for t in range(60, 65)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    cosine = settings(steps=100, lr=0.4, schedule="cosine")
    assert learning_rate(50, cosine) == pytest.approx(0.2)
    assert learning_rate(0, cosine) == 0.4
    assert 0 < learning_rate(99, cosine) < 0.001


def test_defaults_alone_train(run):
    result = fit(network(), objective, Batches(), run.stage("plain"), TrainingSettings(steps=2))
    assert [row["step"] for row in result.history] == [2]


# --- in parts


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_batch_in_parts_gives_what_it_gives_at_once(run, optimizer):
    models = network(), network()
    for model in models:
        del model[2]  # dropout draws anew for each part
    whole = train(run.stage("whole"), model=models[0], lr=1e-2, optimizer=optimizer)
    parts = train(run.stage("parts"), model=models[1], lr=1e-2, optimizer=optimizer, accumulate=4)
    assert parts.ledger["flops"] == whole.ledger["flops"]
    assert parts.ledger["images"] == whole.ledger["images"]
    for ours, theirs in zip(parts.history, whole.history, strict=True):
        for key in ours.keys() - {"stage", *TIMING}:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-3), key
    for ours, theirs in zip(models[1].parameters(), models[0].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def min_losses(result):
    held_out = [row["heldout"] for row in result.history if "heldout" in row]
    return [min(losses[key] for losses in held_out) for key in held_out[0]]


def test_a_run_goes_on_in_more_parts(run):
    with pytest.raises(Crash):
        train(run.stage("toy"), batches=Batches(on_step=crash_at(12)), checkpoint_every=1, checkpoint_seconds=1e-9)
    result = train(run.stage("toy"), accumulate=2)
    straight = train(run.stage("straight"))
    assert min_losses(result) == pytest.approx(min_losses(straight), rel=0.2)  # dropout draws anew for each part


def test_parts_that_are_not_equal_are_refused(run):
    with pytest.raises(BootdiffError, match=r"8 samples per step and process cannot be computed in 3 equal parts"):
        train(run.stage("toy"), accumulate=3)
    with pytest.raises(BootdiffError, match=r"a batch of 8 cannot be computed in 3 equal parts; .* divides 8"):
        TrainingSettings(accumulate=3).for_samples(10, (3, 256, 256))


# --- two processes


@pytest.mark.slow  # two processes start: 5 s each; a whole run by two is in tests/test_api.py
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_processes_get_what_one_gets(run, tmp_path, optimizer):
    """Two processes as torchrun starts them (it sets these variables), with gloo."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, training_toy.__file__, str(tmp_path / "two"), optimizer]
    ranks = [subprocess.Popen(command, env=shared | {"RANK": r, "LOCAL_RANK": r}) for r in "01"]
    assert [rank.wait(timeout=100) for rank in ranks] == [0, 0]
    model = network()
    del model[2]
    one = train(run.stage("toy"), model=model, lr=1e-2, optimizer=optimizer)
    two = Run.read(tmp_path / "two").stage("toy")
    assert two.info["ledger"]["processes"] == 2
    assert two.info["ledger"]["flops"] == one.ledger["flops"]
    for ours, theirs in zip(two.metrics(), one.history, strict=True):
        for key in ours.keys() - {"stage", *TIMING}:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-3), key
    final, _ = load_tensors(two / "final.safetensors")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(final[name], value, rtol=1e-3, atol=1e-4)


# --- torch.compile


class Wrapped(nn.Module):
    """A module of our own, as trainees are: torch never compiles its own containers."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        return self.net(x)


@pytest.mark.slow  # compiles C++: some 10 to 30 seconds
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of inductor itself
def test_a_compiled_network_trains_alike_goes_on_and_leaves_no_trace_in_files(run, monkeypatch):
    """The first step, whose operations are counted, runs without; all others compiled: kernels round otherwise."""
    frames = []
    backend = torch._dynamo.lookup_backend("inductor")

    def counting(graph, inputs):
        frames.append(graph)
        return backend(graph, inputs)

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compiler(model, backend=counting))
    options = {"steps": 12, "evaluate_every": 6, "log_every": 4, "optimizer": "muon"}
    plain, compiled = run.stage("plain"), run.stage("compiled")
    options["model"] = Wrapped()
    del options["model"].net[2]  # dropout is drawn otherwise in compiled code
    train(plain, **copy.deepcopy(options))
    assert not frames
    stop = Batches(on_step=lambda t: signal.raise_signal(signal.SIGINT) if t == 6 else None)
    with pytest.raises(Interrupted):
        train(compiled, compile=True, batches=stop, **copy.deepcopy(options))
    assert frames
    saved, meta = load_tensors(compiled / "checkpoint.safetensors")
    assert meta["settings"]["compile"] is True
    with pytest.raises(BootdiffError, match=r"other settings: compile \(True -> False\)"):
        train(compiled, **copy.deepcopy(options))
    train(compiled, compile=True, **copy.deepcopy(options))
    assert compiled.info["settings"] == plain.info["settings"] | {"compile": True}
    assert compiled.info["ledger"]["flops"] == plain.info["ledger"]["flops"]
    expected, _ = load_tensors(plain / "final.safetensors")
    final, _ = load_tensors(compiled / "final.safetensors")
    assert set(final) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(final[name], value, rtol=1e-3, atol=1e-4)
    names = [*saved, *final]
    for path in compiled.path.glob("snapshot-*.safetensors"):
        names += load_tensors(path)[0]
    assert not [name for name in names if "_orig_mod" in name]

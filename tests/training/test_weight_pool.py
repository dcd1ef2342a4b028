"""Weights that are the same take their space once, and every folder is complete by itself."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import bootdiff.training.files
from bootdiff.errors import BootdiffError
from bootdiff.training.pool import WeightPool, common_prefix, file_name, network_bytes
from bootdiff.training.run import Run
from training_toy import network, train


def inode(path):
    return path.stat().st_ino


@pytest.fixture
def run(tmp_path):
    with Run.open(tmp_path / "run", "seed: 3") as run:
        yield run


def test_the_same_weights_are_one_file(run):
    pool = run.pool
    data, other = (network_bytes(network(seed).state_dict()) for seed in (0, 1))
    paths = [run.stage(name) / "final.safetensors" for name in "abc"]
    for path, content in zip(paths, (data, data, other), strict=True):
        pool.store(content, path)
    assert sorted(os.listdir(pool.path)) == sorted([file_name(data), file_name(other)])
    assert inode(paths[0]) == inode(paths[1]) == inode(pool.path / file_name(data)) != inode(paths[2])
    pool.store(other, paths[0])  # replaced, the other link is let alone
    assert paths[1].read_bytes() == data
    assert inode(paths[0]) == inode(paths[2])
    pool.store(other, paths[0])
    paths[1].unlink()
    pool.sweep()
    assert os.listdir(pool.path) == [file_name(other)]
    assert not [path for path in run.path.rglob("*") if path.name.startswith(".")]


def test_names_do_not_depend_on_where_a_network_is():
    net = network()
    wrapped = nn.ModuleDict({"expert": nn.ModuleDict({"net": net})})
    assert network_bytes(wrapped.state_dict()) == network_bytes(net.state_dict())
    assert common_prefix(["a.b.weight"]) == "a.b."
    assert common_prefix(["weight", "a.weight"]) == ""
    assert common_prefix([]) == ""


def test_what_is_damaged_is_written_again_not_handed_on(run):
    data = network_bytes(network().state_dict())
    one, two = run.stage("a") / "final.safetensors", run.stage("b") / "final.safetensors"
    run.pool.store(data, one)
    with one.open("r+b") as file:  # in place, so the pool's file is damaged as well
        file.write(b"x")
    run.pool.store(data, two)
    assert two.read_bytes() == (run.pool.path / file_name(data)).read_bytes() == data


def test_without_links_there_are_copies_and_no_pool(run, monkeypatch):
    def refuse(*_):
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(bootdiff.training.files.os, "link", refuse)
    train(run.stage("toy"), keep=True)
    stage = run.stage("toy")
    assert os.listdir(run.pool.path) == []
    assert {"final.safetensors", "snapshot-60.safetensors"} <= set(os.listdir(stage.path))
    assert (stage / "final.safetensors").read_bytes() == (stage / "snapshot-60.safetensors").read_bytes()
    assert inode(stage / "final.safetensors") != inode(stage / "snapshot-60.safetensors")
    assert not list(run.path.rglob("*tmp*"))


def test_no_room_names_the_file_and_leaves_the_old_one(run, monkeypatch):
    path = run.stage("a") / "final.safetensors"
    run.pool.store(network_bytes(network(0).state_dict()), path)
    before = path.read_bytes()

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bootdiff.training.files.os, "fsync", full)
    with pytest.raises(BootdiffError, match=r"a/final\.safetensors: no room to write it"):
        run.pool.store(network_bytes(network(1).state_dict()), path)
    assert path.read_bytes() == before


def test_a_training_shares_its_last_snapshot_and_its_end(run):
    stage = run.stage("toy")
    result = train(stage)
    assert result.snapshots["0.1"] == 60
    assert inode(stage / "final.safetensors") == inode(stage / "snapshot-60.safetensors")
    kept = set(result.snapshots.values())
    assert len(os.listdir(run.pool.path)) == len(kept)  # those that were beaten are gone
    assert load_file(stage / "final.safetensors").keys() == network().state_dict().keys()


def test_a_copied_folder_is_complete_by_itself(run, tmp_path):
    stage = run.stage("toy")
    train(stage)
    shutil.copytree(stage.path, tmp_path / "copy")
    shutil.rmtree(run.pool.path)
    for name, tensor in load_file(tmp_path / "copy" / "final.safetensors").items():
        assert torch.equal(tensor, load_file(stage / "final.safetensors")[name])


def test_opening_a_run_removes_what_nothing_links_to(tmp_path):
    with Run.open(tmp_path / "run", "seed: 3") as run:
        train(run.stage("toy"))
        train(run.stage("other"), seed=4)
        count = len(os.listdir(run.pool.path))
    shutil.rmtree(run.stages / "other")
    with Run.open(tmp_path / "run", "seed: 3") as run:
        assert 0 < len(os.listdir(run.pool.path)) < count
    shutil.copytree(tmp_path / "run", tmp_path / "copy")  # each link becomes a separate file
    with Run.open(tmp_path / "copy", "seed: 3") as run:
        assert os.listdir(run.pool.path) == []
        assert train(run.stage("toy")).snapshots


def test_sweeping_leaves_other_files_alone(tmp_path):
    pool = WeightPool(tmp_path / "weights")
    pool.sweep()  # not there yet
    pool.path.mkdir()
    for name in ("notes.txt", "0123.safetensors", f"{'a' * 24}.safetensors"):
        (pool.path / name).write_text("")
    pool.sweep()
    assert sorted(os.listdir(pool.path)) == ["0123.safetensors", "notes.txt"]

"""The script that measures how fast data are read: it makes what it says, and its table says what was measured."""

from __future__ import annotations

import json
import os
import time

import numpy as np
import pytest
import torch

from bootdiff.data import open_dataset
from experiments.scripts import throughput

ARGUMENTS = ["--count", "70", "--bytes", "900000", "--shards", "3", "--batches", "2", "--rounds", "2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    throughput.main([str(folder), *ARGUMENTS, "--make"])
    return folder


def parsed(folder):
    return throughput.parser().parse_args([str(folder), *ARGUMENTS])


def test_the_same_pictures_lie_in_the_folder_and_in_the_shards(made):
    where = throughput.paths(parsed(made))
    pictures, shards, array = (open_dataset(where[what], kind="image") for what in ("pictures", "shards", "array"))
    assert (len(pictures), len(shards), len(array)) == (70, 70, 73)
    assert pictures.shape == shards.shape == array.shape == (3, 64, 64)
    by_number = {pictures.name(i)[-10:]: pictures[i].x for i in range(70)}
    assert len(by_number) == 70
    assert all(torch.equal(by_number[shards.name(i)[-10:]], shards[i].x) for i in range(70))
    assert len({x.sum().item() for x in by_number.values()}) == 70
    before = where["array"].stat().st_mtime_ns
    throughput.make(parsed(made))
    assert where["array"].stat().st_mtime_ns == before  # what is there is not made again


@pytest.mark.parametrize("what", throughput.WHAT)
def test_bare_and_bootdiff_read_the_same(made, what):
    path = throughput.paths(parsed(made))[what]
    bare, source = throughput.Bare(what, path), open_dataset(path, kind="image")
    assert len(bare) == len(source)
    for i in (0, 33, 69):
        torch.testing.assert_close(bare[i], source[i].x, atol=1e-6, rtol=0)


def test_rates_and_memory(made, capsys):
    args = parsed(made)
    where = {what: str(path) for what, path in throughput.paths(args).items()}
    for what in ("pictures", "array"):
        found = throughput.batches_per_second(what, where[what], args)
        ratios = [a / b for a, b in zip(found["bootdiff"]["rounds"], found["bare"]["rounds"], strict=True)]
        assert found["of_bare"]["median"] == pytest.approx(np.median(ratios))
        assert len(ratios) == 2
        assert ("kept" in found) == (what == "pictures")
    throughput.main([str(made), *ARGUMENTS, "--job", "open", where["shards"], "skip"])
    said = json.loads(capsys.readouterr().out)
    assert said["samples"] == 70
    assert said["cpu_seconds"] > 0
    assert 0 <= said["peak_mib"] < 4096


@pytest.mark.slow
def test_the_whole_names_no_folder(made, tmp_path, capsys):
    for path in made.rglob("*"):
        os.utime(path, (time.time() - 9,) * 2)
    out = tmp_path / "data.json"
    throughput.main([str(made), *ARGUMENTS, "--out", str(out)])
    result = json.loads(out.read_text())
    assert str(made) not in out.read_text()
    assert result["command"].startswith("python -m experiments.scripts.throughput FOLDER --count 70")
    assert throughput.table(result) in capsys.readouterr().out
    assert set(result["rows"]) == set(throughput.WHAT)

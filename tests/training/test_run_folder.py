"""The run directory: atomic files, the lock, the recipe check, metrics that survive a torn line."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading

import pytest
import torch

import bootdiff.training.files
from bootdiff.errors import BootdiffError
from bootdiff.training.files import differences, read_record, row_line, write_record
from bootdiff.training.run import (
    Run,
    atomic_write_bytes,
    atomic_write_json,
    load_tensors,
    read_json,
    read_metrics,
    save_tensors,
)

RECIPE = "seed: 1\nviews:\n  - kind: downsample\n    factor: 2\n"


def open_run(path, recipe=RECIPE, fingerprint="data-a", **more):
    return Run.open(path, recipe, fingerprint, **more)


# --- atomic files


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    atomic_write_json(path, {"x": 1})

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(bootdiff.training.files.os, "fsync", full)
    with pytest.raises(BootdiffError, match=r"a\.json: no room .* needed, .* free .* intact"):
        atomic_write_json(path, {"x": 2})
    assert read_json(path) == {"x": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_errors_other_than_a_full_disk_keep_their_kind(tmp_path):
    with pytest.raises(FileNotFoundError):
        atomic_write_bytes(tmp_path / "absent" / "a", b"")


def test_a_reader_never_sees_a_part_of_a_file(tmp_path):
    path = tmp_path / "a"
    versions = [bytes([i]) * 200_000 for i in range(40)]
    atomic_write_bytes(path, versions[0])
    seen, done = [], threading.Event()

    def read():
        while not done.is_set():
            seen.append(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for version in versions:
        atomic_write_bytes(path, version)
    done.set()
    reader.join()
    assert seen
    assert set(seen) <= set(versions)


def test_json_has_no_nan(tmp_path):
    atomic_write_json(tmp_path / "a.json", {"x": [float("nan"), 1.5, float("inf")]})
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail) == {"x": [None, 1.5, None]}


def test_read_json_says_what_is_wrong(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(BootdiffError, match=r"a\.json: not JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(BootdiffError, match="no such file"):
        read_json(tmp_path / "b.json")


# --- tensors


def test_tensors_round_trip_with_meta_and_give_the_same_bytes(tmp_path):
    base = torch.randn(6, 4)
    tensors = {
        "plain": base,
        "tied": base,
        "rows": base[2:4],
        "transposed": base.t(),
        "half": base.to(torch.bfloat16),
        "index": torch.arange(3),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "weight": torch.nn.Parameter(base),
    }
    meta = {"step": 3, "loss": 0.1 + 0.2, "best": {"0.1": [3, 1e-300]}, "nothing": None}
    for name in ("a", "b"):
        save_tensors(tmp_path / name, tensors, meta)
    loaded, loaded_meta = load_tensors(tmp_path / "a")
    assert loaded_meta == meta
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype, name
        assert torch.equal(loaded[name], tensor), name
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_no_room_for_tensors_keeps_the_old_file(tmp_path):
    """A real limit of the operating system: no file may grow over 64 KiB (the kernel says EFBIG, at once)."""
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.ones(4)}, {"version": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    try:
        with pytest.raises(BootdiffError, match=r"a\.safetensors: no room to write it: 1\.0 MiB needed"):
            save_tensors(path, {"x": torch.ones(2**18)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    tensors, meta = load_tensors(path)
    assert torch.equal(tensors["x"], torch.ones(4))
    assert meta == {"version": 1}
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_a_flipped_bit_in_a_tensor_is_found_and_the_file_named(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.ones(4), "y": torch.zeros(2, 3)}, {"step": 1})
    data = bytearray(path.read_bytes())
    for at in (-1, -20):  # in one tensor, in the other
        damaged = data.copy()
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(BootdiffError, match=r"a\.safetensors: damaged .*; delete it$"):
            load_tensors(path, remedy="delete it")
    path.write_bytes(data)
    assert torch.equal(load_tensors(path)[0]["x"], torch.ones(4))


def test_a_record_is_what_was_written_or_refused(tmp_path):
    path = tmp_path / "a.json"
    write_record(path, {"x": [1, 2.5, float("nan"), "ä"], "y": {}})
    assert read_record(path) == {"x": [1, 2.5, None, "ä"], "y": {}}
    text = path.read_text()
    for damaged in ("null", "[]", "{}", text.replace("2.5", "2.6"), text[:-10], "[" * 100_000):
        path.write_text(damaged)
        with pytest.raises(BootdiffError, match=r"a\.json: (not JSON|damaged).*; restore it from a copy"):
            read_record(path)


def test_differences_by_dotted_path():
    old, new = {"a": {"b": [1, 2]}, "c": {}, "d": 1}, {"a": {"b": [1, 3, 4]}, "c": {"e": None}, "d": 1.0}
    assert differences(old, new) == [
        ("a.b.1", 2, 3), ("c", {}, "absent"), ("a.b.2", "absent", 4), ("c.e", "absent", None)
    ]  # fmt: skip
    assert differences(3, 4) == [("everything", 3, 4)]


def test_load_tensors_says_what_is_wrong(tmp_path):
    with pytest.raises(BootdiffError, match=r"b\.safetensors: no such file"):
        load_tensors(tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(BootdiffError, match=r"c\.safetensors: not a readable safetensors file"):
        load_tensors(tmp_path / "c.safetensors")


# --- the lock


def test_a_second_writer_is_refused_with_the_pid(tmp_path):
    with (
        open_run(tmp_path / "run"),
        pytest.raises(BootdiffError, match=rf"in use by process {os.getpid()} on .*choose another directory"),
    ):
        open_run(tmp_path / "run")
    open_run(tmp_path / "run").close()


HOLDER = """
import os, sys, time
from bootdiff.training.run import Run
run = Run.open(sys.argv[1], "seed: 1", "")
worker = os.fork()
if worker == 0:
    time.sleep(60)  # a data worker that outlives its killed parent for a while
    os._exit(0)
print(os.getpid(), worker, flush=True)
time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_no_obstacle_even_while_its_worker_lives(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        pid, worker = map(int, holder.stdout.readline().split())
        try:
            with pytest.raises(BootdiffError, match=f"in use by process {pid} "):
                Run.open(tmp_path, "seed: 1")
            os.kill(pid, signal.SIGKILL)
            holder.wait()
            os.kill(worker, 0)  # it still lives
            Run.open(tmp_path, "seed: 1").close()
        finally:
            os.kill(worker, signal.SIGKILL)
            holder.kill()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_closing_in_a_child_keeps_the_parents_lock(tmp_path):
    with open_run(tmp_path) as run:
        child = os.fork()
        if child == 0:
            run.close()
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(BootdiffError, match="in use"):
            open_run(tmp_path)


def test_readers_need_no_lock_and_may_not_write(tmp_path):
    with open_run(tmp_path) as run:
        run.append({"stage": "s", "step": 1})
        reader = Run.read(tmp_path)
        assert reader.metrics() == [{"stage": "s", "step": 1}]
        assert reader.recipe_text == RECIPE
        assert reader.fingerprint == "data-a"
        with pytest.raises(RuntimeError, match="opened for reading"):
            reader.append({"stage": "s", "step": 2})
        assert not reader.stage("absent").path.exists()
    with pytest.raises(BootdiffError, match="not a run directory"):
        Run.read(tmp_path / "elsewhere")


def test_other_processes_of_the_same_training_open_without_lock(tmp_path):
    with open_run(tmp_path), open_run(tmp_path, main=False) as other:
        assert not other.writer


# --- what the run was started with


def test_another_recipe_is_refused_by_its_keys(tmp_path):
    open_run(tmp_path).close()
    with pytest.raises(BootdiffError) as error:
        open_run(tmp_path, "seed: 2\nviews:\n  - kind: downsample\n    factor: 4\n    extra: 1\n")
    text = str(error.value)
    assert "seed (1 -> 2)" in text
    assert "views.0.factor (2 -> 4)" in text
    assert "views.0.extra (absent -> 1)" in text
    assert "kind" not in text
    assert "another directory" in text
    open_run(tmp_path).close()  # the refusal gave the lock back


def test_comments_and_order_are_no_difference(tmp_path):
    open_run(tmp_path).close()
    open_run(tmp_path, "# the same\nviews: [{factor: 2, kind: downsample}]\nseed: 1\n").close()
    assert Run.read(tmp_path).recipe_text == RECIPE


TRAINED = "training:\n  steps: 500\n  views: {steps: 300}\nsampling: {steps: 40}\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("steps: 500", "steps: 800"), None),
        (("steps: 300", "steps: 301"), None),
        (("steps: 500", "steps: 400"), r"training\.steps \(500 -> 400\)"),
        (("steps: 500", "steps: true"), r"training\.steps \(500 -> True\)"),
        (("steps: 40", "steps: 50"), r"sampling\.steps \(40 -> 50\)"),
    ],
)
def test_a_recipe_may_ask_for_more_training_steps(tmp_path, change, said):
    open_run(tmp_path, TRAINED).close()
    new = TRAINED.replace(*change)
    if said is None:
        open_run(tmp_path, new).close()
        assert Run.read(tmp_path).recipe_text == new
        with pytest.raises(BootdiffError, match=r"steps \("):
            open_run(tmp_path, TRAINED)
    else:
        with pytest.raises(BootdiffError, match=f"differing in {said} "):
            open_run(tmp_path, new)
        assert Run.read(tmp_path).recipe_text == TRAINED


def test_a_lost_recipe_is_written_again_by_the_same_one_only(tmp_path):
    open_run(tmp_path).close()
    (tmp_path / "recipe.yaml").unlink()
    with pytest.raises(BootdiffError, match=r"its recipe\.yaml is lost, and the run was started with another recipe"):
        open_run(tmp_path, "seed: 2\n")
    open_run(tmp_path).close()
    assert Run.read(tmp_path).recipe_text == RECIPE


def test_a_run_without_a_recipe(tmp_path):
    """From Python: what its stages were made with, each says by itself."""
    open_run(tmp_path / "run", None).close()
    open_run(tmp_path / "run", None).close()
    assert sorted(os.listdir(tmp_path / "run")) == ["lock", "provenance.json", "run.json"]
    with pytest.raises(BootdiffError, match=r"no recipe\.yaml in it \(a run that was made from Python has none\)"):
        _ = Run.read(tmp_path / "run").recipe_text
    with pytest.raises(BootdiffError, match="started from Python, and is now opened from a recipe"):
        open_run(tmp_path / "run")
    with pytest.raises(BootdiffError, match="the data is not what this run was started on"):
        open_run(tmp_path / "run", None, "data-b")
    open_run(tmp_path / "other").close()
    with pytest.raises(BootdiffError, match="started from a recipe, and is now opened from Python"):
        open_run(tmp_path / "other", None)


@pytest.mark.parametrize("text", ["{", "null", "[]", "{}", '{"value": {"fingerprint": "data-b"}, "digest": "0"}'])
def test_a_damaged_run_json_is_refused(tmp_path, text):
    open_run(tmp_path).close()
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(BootdiffError, match=r"run\.json: (not JSON|damaged, or changed by hand)"):
        open_run(tmp_path)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a: [", b"a: {b: \x07}"])
def test_a_damaged_recipe_is_refused(tmp_path, data):
    open_run(tmp_path).close()
    (tmp_path / "recipe.yaml").write_bytes(data)
    with pytest.raises(BootdiffError, match=r"recipe\.yaml: not (a text|YAML).*restore it from a copy"):
        open_run(tmp_path)


@pytest.mark.parametrize("text", ["null", "{}", "[1]", "{"])
def test_a_damaged_provenance_is_refused(tmp_path, text):
    open_run(tmp_path).close()
    (tmp_path / "provenance.json").write_text(text)
    with pytest.raises(BootdiffError, match=r"provenance\.json: not "):
        open_run(tmp_path)


def test_a_run_of_the_first_version_is_named(tmp_path):
    atomic_write_json(tmp_path / "run.json", {"fingerprint": "data-a"})
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    with pytest.raises(BootdiffError, match=r"a run of bootdiff 0\.1, .*the version that began it"):
        open_run(tmp_path)


def test_another_number_of_threads_is_told(tmp_path):
    threads = torch.get_num_threads()
    with open_run(tmp_path) as run:
        assert run.remarks == []
    try:
        torch.set_num_threads(threads + 1)
        with open_run(tmp_path) as run:
            (remark,) = run.remarks
    finally:
        torch.set_num_threads(threads)
    assert f"{threads} thread(s) before" in remark
    assert f"{threads + 1} thread(s) now. What is trained from here on differs by rounding" in remark


def test_another_machine_or_number_of_processes_is_told(tmp_path, monkeypatch):
    with open_run(tmp_path, processes=1, device="cpu") as run:
        assert run.provenance[0]["processes"] == 1
        assert run.provenance[0]["instructions"]
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "OTHER")
    with open_run(tmp_path, processes=2, device="a GPU") as run:
        (remark,) = run.remarks
    for said in (
        "1 process(es) before, 2 process(es) now",
        "device cpu before, device a GPU now",
        "OTHER instructions now",
    ):
        assert said in remark
    with open_run(tmp_path, processes=2, device="a GPU") as run:
        assert run.remarks == []


def test_the_recipe_is_the_one_that_the_run_was_started_with(tmp_path):
    """Samples would be drawn, and arms measured, by the settings of a damaged one."""
    open_run(tmp_path).close()
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("factor: 2", "factor: 3"))
    with pytest.raises(BootdiffError, match=r"recipe\.yaml: damaged, or changed since the run was started"):
        _ = Run.read(tmp_path).recipe_text
    with pytest.raises(BootdiffError, match=r"recipe\.yaml: damaged.*views\.0\.factor \(3 there, 2 now\).*Delete it"):
        open_run(tmp_path)
    (tmp_path / "recipe.yaml").unlink()  # as the message says
    open_run(tmp_path).close()
    assert Run.read(tmp_path).recipe_text == RECIPE


def test_a_run_of_an_unknown_format_is_refused(tmp_path):
    open_run(tmp_path).close()
    note = read_record(tmp_path / "run.json")
    assert note["format"] == 2
    for form in (99, 0, True, "2"):
        write_record(tmp_path / "run.json", note | {"format": form})
        with pytest.raises(BootdiffError, match=r"run\.json: its format .* is not known"):
            open_run(tmp_path)


def test_a_run_of_the_format_before_goes_on_without_the_checksums_that_it_lacks(tmp_path):
    open_run(tmp_path).close()
    note = read_record(tmp_path / "run.json")
    write_record(tmp_path / "run.json", {key: note[key] for key in ("fingerprint", "recipe")})
    (tmp_path / "metrics.jsonl").write_text('{"stage": "s", "step": 1}\n')
    (tmp_path / "data.json").write_text('{"shape": [1]}')
    with open_run(tmp_path) as run:
        run.append({"stage": "s", "step": 2})
        assert [row["step"] for row in run.metrics("s")] == [1, 2]
        assert run.read_json("data.json", dict, "") == {"shape": [1]}
    write_record(tmp_path / "run.json", note)  # of a new one they are lost
    with open_run(tmp_path) as run:
        with pytest.raises(BootdiffError, match=r"metrics\.jsonl, line 1: damaged \(its checksum is lost\)"):
            run.metrics()
        with pytest.raises(BootdiffError, match=r"data\.json: damaged \(its checksum is lost\)"):
            run.read_json("data.json", dict, "")


def test_other_data_is_refused(tmp_path):
    open_run(tmp_path).close()
    with pytest.raises(
        BootdiffError, match=r"the data is not what this run was started on.*'data-a' then, 'data-b' now"
    ):
        open_run(tmp_path, fingerprint="data-b")


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(BootdiffError, match="a file is in the way"):
        open_run(tmp_path / "run")


def test_provenance_grows_by_one_entry_per_session(tmp_path):
    for _ in range(2):
        open_run(tmp_path, seed=5).close()
    sessions = Run.read(tmp_path).provenance
    assert len(sessions) == 2
    assert sessions[0]["versions"]["torch"] == torch.__version__
    assert sessions[0]["seed"] == 5
    assert {"command", "platform", "threads", "python"} <= sessions[0].keys()


# --- metrics


def test_a_torn_last_line_is_left_out_and_cut_off(tmp_path):
    with open_run(tmp_path) as run:
        run.append({"stage": "s", "step": 1, "loss": float("nan")})
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"stage": "s", "st')
    assert read_metrics(path) == [{"stage": "s", "step": 1, "loss": None}]
    with open_run(tmp_path) as run:
        run.append({"stage": "s", "step": 2})
    assert [row["step"] for row in read_metrics(path)] == [1, 2]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"stage": "s", "step": 1}\nnonsense\n{"stage": "s", "step": 3}\n')
    with pytest.raises(BootdiffError, match=r"metrics\.jsonl, line 2: not JSON"):
        read_metrics(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize(
    "line", ["[1]", "null", '{"stage": "s"}', '{"stage": 1, "step": 1}', '{"stage": "s", "step": "1"}']
)
def test_a_line_that_is_no_row_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f'{{"stage": "s", "step": 1}}\n{line}\n')
    with pytest.raises(BootdiffError, match=r"metrics\.jsonl, line 2: not a row with `stage` and `step`; delete"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_truncating_drops_only_later_rows_of_the_stage(tmp_path):
    with open_run(tmp_path) as run:
        for step in (1, 2, 3):
            run.append({"stage": "a", "step": step})
            run.append({"stage": "b", "step": step})
        run.truncate_metrics("a", 1)
        run.stage("a").append({"step": 2, "again": True})
        assert [row["step"] for row in run.metrics("b")] == [1, 2, 3]
        assert run.stage("a").metrics() == [{"stage": "a", "step": 1}, {"stage": "a", "step": 2, "again": True}]


def test_a_row_that_finds_no_room_leaves_no_half_line(tmp_path):
    with open_run(tmp_path) as run:
        run.append({"stage": "s", "step": 1})
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            with pytest.raises(BootdiffError, match=r"metrics\.jsonl: no room"):
                run.append({"stage": "s", "step": 2, "text": "x" * 200})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert (tmp_path / "metrics.jsonl").read_bytes() == row_line({"stage": "s", "step": 1})
        run.append({"stage": "s", "step": 3})
        assert [row["step"] for row in run.metrics()] == [1, 3]


def test_a_row_needs_stage_and_step(tmp_path):
    with open_run(tmp_path) as run, pytest.raises(ValueError, match="'stage' and 'step'"):
        run.append({"step": 1})


# --- stages


def test_a_stage_is_done_when_finished(tmp_path):
    with open_run(tmp_path) as run:
        stage = run.stage("residual-0")
        assert stage.path == tmp_path / "stages" / "residual-0"
        assert not stage.done
        assert not stage.begun
        stage.finish({"loss": 0.5})
        assert stage.begun
    stage = Run.read(tmp_path).stage("residual-0")
    assert stage.done
    assert stage.info == {"loss": 0.5}


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "weights"])
def test_stage_names_stay_inside_the_run(tmp_path, name):
    with open_run(tmp_path) as run, pytest.raises(ValueError, match="stage name"):
        run.stage(name)


def test_opening_a_run_clears_what_a_killed_process_left_in_it(tmp_path):
    """Also beside the stages, where arms and samples lie; a run inside it, which may be in use, is let alone."""
    with open_run(tmp_path / "run"), open_run(tmp_path / "run" / "seed-1"):
        pass
    ours = (
        ".metrics.json.bootdiff.tmp",
        "bootdiff/weights/.x.bootdiff.tmp",
        "stages/full/.final.safetensors.bootdiff.tmp",
    )
    others = (
        "seed-1/.metrics.json.bootdiff.tmp",
        "bootdiff/model.json",
        ".notes.tmp",
        "stages/.tmpAbC123",
        "x.bootdiff.tmp",
    )
    left, kept = ([tmp_path / "run" / name for name in names] for names in (ours, others))
    for path in left + kept:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("")
    with open_run(tmp_path / "run"):
        assert not any(path.exists() for path in left)
        assert all(path.exists() for path in kept)


@pytest.mark.parametrize(
    "names",
    [
        ["notes.txt"],
        [".notes.tmp", "project/.draft.tmp", "project/.tmpAB12CD"],
        [".cache/.x.bootdiff.tmp"],
        ["recipe.yaml"],  # of a person, not of a run
        [".tmp123456/file"],
    ],
)
def test_a_folder_that_is_no_run_is_refused_before_anything_in_it_is_touched(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(BootdiffError, match=r"no run, but not empty \(.*Choose another directory.*nothing was touched"):
        open_run(tmp_path)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    assert all((tmp_path / name).read_text() == "mine" for name in names)


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BootdiffError, match="an empty name"):
        open_run(name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("left", [[], ["lock"], ["lock", ".run.json.bootdiff.tmp"], ["lock", "run.json"]])
def test_a_run_that_was_killed_while_it_began_goes_on(tmp_path, left):
    open_run(tmp_path / "whole").close()
    (tmp_path / "run").mkdir()
    for name in left:
        whole = tmp_path / "whole" / name
        (tmp_path / "run" / name).write_bytes(whole.read_bytes() if whole.exists() else b"{")
    open_run(tmp_path / "run").close()
    assert sorted(os.listdir(tmp_path / "run")) == ["lock", "provenance.json", "recipe.yaml", "run.json"]
    assert Run.read(tmp_path / "run").recipe_text == RECIPE


def test_tensors_are_loaded_to_a_numbered_cpu(tmp_path):
    """What accelerate calls the CPU where there are several processes."""
    save_tensors(tmp_path / "a.safetensors", {"x": torch.ones(2)})
    tensors, _ = load_tensors(tmp_path / "a.safetensors", torch.device("cpu", 0))
    assert torch.equal(tensors["x"], torch.ones(2))

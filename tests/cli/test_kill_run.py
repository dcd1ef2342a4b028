"""A whole run that is killed (SIGKILL) in every stage ends with the same bits as one that is left alone.

A warmed-up process forks one child per attempt; each child makes the same call: open the run, train all arms, write
metrics.json. What a child does to the files of the run is seen by an audit hook, so that an attempt can be killed in a
stage of one's choice: just before one of its file operations, drawn at random, or a random moment after it.
"""

from __future__ import annotations

import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RECIPE = """\
simulate: {pool: {path: digits, limit: 120}, full: 24, test: 16}
full: {holdout: 8}
views:
  thumbnails: {view: {kind: downsample, factor: 2}, backbone: {kind: local, width: 4, depth: 3}}
  halves: {view: {kind: crop, size: [8, 4], offset: [0, 0]}, backbone: {kind: local, width: 4, depth: 3}}
backbones:
  local: {kind: local, width: 4, depth: 3}
training:
  {steps: 7, batch: 8, lr: 0.01, ema: 0.9, warmup: 0, evaluate_every: 3, checkpoint_seconds: 1.0e-6,
   residual: {steps: 24, evaluate_every: 12}}
levels: [0.3, 1.5]
gains: {draws: 1, folds: 2}
evaluate: {draws: 1, samples: 0}
sampling: {count: 2, steps: 2, preview_every: 7}
distill: {samples: 3, backbones: {local: {kind: local, width: 4, depth: 3}}}
device: cpu
"""
TIMING = {
    "seconds", "images_per_second", "evaluation_seconds", "peak_memory", "sessions", "ratio", "seconds_per_step",
    "command", "started", "pid", "checksum", "crc", "digest",  # sums of timing, too
}  # fmt: skip
ARMS = ("full_only", "views_only", "unregularized", "bootdiff", "distilled", "oracle")
FEW = ("full_only", "bootdiff")
"""Of the quick test: a third of the stages less, and none of another kind."""


def attempt(path, reuse=()):
    """The command, without its loss curves, which take the most time and are written like any other file, and without
    report.html, which is written by the clock, tells the time and is made of the other files alone.
    """
    import torch

    from bootdiff.cli.compare import compare
    from bootdiff.cli.console import Console
    from bootdiff.cli.report import curves, live
    from bootdiff.cli.session import open_session
    from bootdiff.recipe.schema import load_recipe_text

    torch.set_num_threads(1)
    curves.loss_curves = curves.level_curves = lambda *_: None
    live.LiveReport.write = lambda _: None
    with open_session(load_recipe_text(RECIPE), path, Console(quiet=True), reuse=reuse) as session:
        compare(session, ARMS if "thorough" in sys.argv else FEW)


def watch(path, told):
    """Call ``told(stage)`` before every file operation and every metrics row of a run.

    stage is a stage, another folder of the run, or a file's name; of the pool of weights no notice is taken: it is
    written in every stage.
    """
    from bootdiff.training.run import Run

    inside, append = f"{path}{os.sep}", Run.append

    def hook(event, arguments):
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate"):
            name = str(arguments[0]) if isinstance(arguments[0], (str, Path)) else ""
            if name.startswith(inside):
                parts = name.removeprefix(inside).split(os.sep)
                name = parts[1 if parts[0] == "stages" and len(parts) > 1 else 0]
                name = name.removeprefix(".").removesuffix(".bootdiff.tmp")
                if parts[0] == "samples":  # a stage's pictures belong to it
                    drawn = re.fullmatch(r"\.?(.+)-\d{6}\.png(\.bootdiff\.tmp)?", parts[-1])
                    name = drawn[1] if drawn else name if parts[1:] else "stages"
                if name not in ("metrics.jsonl", "weights", "stages"):  # these grow in every stage
                    told(name)

    def watched(run, row):
        told(row["stage"])
        append(run, row)

    sys.addaudithook(hook)
    Run.append = watched
    os.fsync = lambda fd: None  # for power cuts; here it only takes time


def forked(path, target, count, order, how, reuse=()):
    """An attempt that is stopped in stage ``target``, at its operation number ``count`` (from 0), or by the next stage.

    ``how``: "exact", it kills itself there; "after", a random moment later. Returns where the kill was, None if there
    was none.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            seen = 0

            def told(stage):
                nonlocal seen
                if stage == target:
                    seen += 1
                beyond = target in order and stage in order[order.index(target) + 1 :]
                if (stage == target and seen == count + 1) or beyond:
                    os.write(writer, json.dumps([stage, beyond]).encode() + b"\n")
                    if how == "exact" or beyond:
                        os.kill(os.getpid(), signal.SIGKILL)

            watch(path, told)
            attempt(path, reuse)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    said = os.read(reader, 4096)
    if said and how == "after":
        time.sleep(random.random() * 0.03)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    while select.select([reader], [], [], 0)[0] and (more := os.read(reader, 4096)):
        said += more
    os.close(reader)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        return json.loads(said.splitlines()[0])
    assert os.WEXITSTATUS(status) == 0, f"the attempt for {target} failed"
    return None


def killed_run(path, counts, draw, kills, reuse=()):
    """Attempts in every stage of ``counts``, in its order, ``kills(stage)`` times each, and a last one left alone."""
    order, landed = list(counts), []
    for stage in order:
        for k in range(kills(stage)):
            at = draw.randrange(counts[stage])
            kill = forked(path, stage, at, order, "after" if k % 2 else "exact", reuse)
            if kill is not None:
                landed.append(f"{stage} {at}" if not kill[1] else f"before {kill[0]}")
    assert forked(path, "", 0, order, "exact", reuse) is None
    return landed


def main(folder, seed, thorough):
    """The straight run and the killed one; `thorough`, also one killed while it takes its stages from the straight one,
    and kills at the files that lie beside the stages.
    """
    draw = random.Random(seed)
    random.seed(seed)
    counts: dict[str, int] = {}
    watching = True

    def count(stage):
        # What is read again after the next stage has begun does not count.
        if watching and (stage not in counts or stage == next(reversed(counts))):
            counts[stage] = counts.get(stage, 0) + 1

    watch(folder / "straight", count)
    begin = time.monotonic()
    attempt(folder / "straight")
    watching = False
    spent = [time.monotonic() - begin]
    # Those of the races are gone when the stage that they were for is complete.
    folders = {stage for stage in counts if (folder / "straight" / "stages" / stage).is_dir() or ".start-" in stage}
    kills = (lambda s: 1 + (s in folders)) if thorough else (lambda s: int(s in folders and ".start-" not in s))
    landed = killed_run(folder / "killed", counts, draw, kills)
    spent.append(time.monotonic() - begin)
    reused = None
    if thorough:
        # A stage that is taken from another run is copied in a few operations.
        trained = {s: min(n, 20) for s, n in counts.items() if s in folders}
        reused = killed_run(folder / "reused", trained, draw, lambda s: 1, reuse=[folder / "straight"])
        spent.append(time.monotonic() - begin)
    asked = [stage for stage in counts if kills(stage)]
    print(json.dumps({"stages": list(counts), "asked": asked, "killed": landed, "reused": reused, "spent": spent}))


def plain(value):
    """A JSON value without what differs from run to run."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in TIMING}
    return [plain(item) for item in value] if isinstance(value, list) else value


def outcome(run):
    """Everything a run leaves, by path: bytes of weights and tables, JSON and rows without timing; and which files are
    links to one another."""
    found, links = {}, {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.is_dir() or name in ("lock", "provenance.json"):
            continue
        links.setdefault(path.stat().st_ino, []).append(name)
        if path.suffix == ".json":
            found[name] = plain(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            found[name] = [plain(json.loads(line)) for line in path.read_text().splitlines()]
        else:
            found[name] = path.read_bytes()
    return found | {"links": sorted(names for names in links.values() if len(names) > 1)}


def without_races(found):
    kept = {path: content for path, content in found.items() if ".start-" not in path}
    return kept | {"metrics.jsonl": [row for row in kept["metrics.jsonl"] if ".start-" not in row["stage"]]}


# At every file, twice in every stage, and while stages are taken from another run: 36 s.
@pytest.mark.timeout(600)
@pytest.mark.parametrize("thorough", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_kills_in_every_stage_leave_no_trace(tmp_path, thorough):
    seed = random.randrange(10**6)
    command = [sys.executable, __file__, str(tmp_path), str(seed), *(["thorough"] if thorough else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=590)
    assert done.returncode == 0, f"seed {seed}"
    said = json.loads(done.stdout.splitlines()[-1])
    print(f"seed {seed}: {said}")
    assert len(said["killed"]) >= (20 if thorough else 12)
    assert {f"residual-local.start-{k}" for k in range(3)} <= set(said["stages"])  # where it starts is raced for
    for stage in said["asked"]:
        assert any(kill.rpartition(" ")[0] == stage for kill in said["killed"]), f"no kill in {stage}, seed {seed}"
    straight = outcome(tmp_path / "straight")
    assert {f"{arm}/model.json" for arm in (ARMS if thorough else FEW)} | {
        "metrics.json",
        "metrics.jsonl",
        "ledger.json",
    } <= set(straight)
    assert {"views.png", "samples/full-local-000007.png", "samples/residual-local-000021.png"} <= set(straight)
    for name in ("killed", "reused") if thorough else ("killed",):
        again, expected = outcome(tmp_path / name), straight
        if name == "reused":
            # What is taken over needs no race; what came of it is among the files of the stage.
            again, expected = without_races(again), without_races(straight)
        assert set(again) == set(expected), f"seed {seed}, {name}"
        different = [path for path in expected if again[path] != expected[path]]
        assert not different, f"seed {seed}, {name}: {different}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), thorough=len(sys.argv) > 3)

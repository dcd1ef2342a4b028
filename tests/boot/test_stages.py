"""The stages of a run: several processes that are not equally fast."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
import torch

from bootdiff.boot.gains import Weights
from bootdiff.boot.stages import Bootstrap
from bootdiff.recipe import load_recipe_text
from bootdiff.runs import Run

RECIPE = """\
simulate: {pool: {path: digits, limit: 60}, full: 12}
views: {thumbnails: {view: {kind: downsample, factor: 2}}}
levels: [0.3, 1.5]
"""


# --- several processes


@pytest.mark.parametrize("slow", ["first", "second"])
def test_processes_of_different_speed_meet_at_the_same_barriers(tmp_path, slow):
    """One process is behind after every barrier: it must not take what the other has written in the meantime for a
    stage that was complete when both began, or they wait for each other at different places."""
    barrier, results, failures = threading.Barrier(2, timeout=10), {}, []

    def process(name):
        def meet():
            barrier.wait()
            if name == slow:
                time.sleep(0.05)

        first = name == "first"
        accelerator = SimpleNamespace(is_main_process=first, wait_for_everyone=meet, device=torch.device("cpu"))
        value = 1.0 if first else 2.0  # what rounding does between processes, made large

        def solve():
            return Weights(torch.full((2, 1), value).double(), torch.zeros(2), torch.zeros(2, 1), 0.0, 0.0)

        try:
            with Run.open(tmp_path / "run", RECIPE, main=first) as run:
                boot = Bootstrap(load_recipe_text(RECIPE), None, run, accelerator, say=lambda _: None)
                got = [boot._weights("gains", ["thumbnails"], solve, []).tolist()]
                stage = boot._stage("full-local", "key")
                got.append(boot._json(stage, "scale.json", lambda: [value]))
                got.append(boot._weights("full-stack", ["thumbnails"], solve, []).tolist())
                meet()
                results[name] = got
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=process, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert results["second"] == results["first"] == [[[1.0], [1.0]], [1.0], [[1.0], [1.0]]]

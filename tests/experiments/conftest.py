"""One tiny run with all arms, trained once, for the tests of all scripts that read a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cli_calls import TINY, call

SHORT = TINY.replace("steps: 20", "steps: 2").replace("evaluate_every: 10", "evaluate_every: 1")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> SimpleNamespace:
    """.recipe (file) and .run (directory) of `bootdiff arms`: two views, one network each, two steps."""
    folder: Path = tmp_path_factory.mktemp("tiny_run")
    recipe = folder / "tiny.yaml"
    recipe.write_text(SHORT)
    result = call("arms", recipe, "--out", folder / "run")
    assert result.exit_code == 0, result.output
    return SimpleNamespace(recipe=recipe, run=folder / "run")

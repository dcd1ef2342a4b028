"""One tiny run with all arms, trained once, for all tests of the command line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cli_calls import TINY, call


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> SimpleNamespace:
    """.recipe (file), .run (directory) and .out (what was printed) of `bootdiff arms`."""
    folder: Path = tmp_path_factory.mktemp("trained")
    recipe = folder / "tiny.yaml"
    recipe.write_text(TINY)
    result = call("arms", recipe, "--out", folder / "run")
    assert result.exit_code == 0, result.output
    return SimpleNamespace(recipe=recipe, run=folder / "run", out=result.stdout)

"""docs/extend.md: its programs run as printed, and what they add is what it says; its files are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from bootdiff.cli.console import Console
from bootdiff.cli.session import open_session
from bootdiff.data import open as door
from bootdiff.nets import BACKBONES
from bootdiff.nets.build import options_of
from bootdiff.sampling import SOLVERS
from bootdiff.views import VIEWS, from_config, to_config
from tiny_benchmark import tiny

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
PARTS = {
    title: (re.findall(r"```python\n(.*?)```", text, re.S), text)
    for title, _, text in (part.partition("\n") for part in PAGE.split("\n## ")[1:])
}
MOST_FILES = {"A regularizer": 3, "A data format": 3}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A part's program in a folder of its own; what it registers is taken out again."""
    for registry in (VIEWS, BACKBONES, SOLVERS):
        for name in [*registry]:
            monkeypatch.setitem(registry, name, registry[name])
    monkeypatch.setattr(door, "_FILES", door._FILES)
    monkeypatch.chdir(tmp_path)

    def execute(title):
        (program,) = PARTS[title][0]
        names = {"__name__": __name__}
        torch.manual_seed(0)
        exec(compile(program, f"docs/extend.md: {title}", "exec", dont_inherit=True), names)
        return names

    yield execute
    for registry, added in ((VIEWS, "every_column"), (BACKBONES, "pointwise"), (SOLVERS, "ancestral")):
        registry.pop(added, None)
    options_of.cache_clear()


@pytest.mark.parametrize("title", PARTS)
def test_few_files_know_of_a_part(title):
    said = re.search(r"\*\*(Two|Three) files\*\*(.*?)(?:\. |\n\n)", PARTS[title][1], re.S)
    assert said is not None
    assert {"Two": 2, "Three": 3}[said[1]] <= MOST_FILES.get(title, 2)
    new = {"nets/pointwise.py", "readers/raw.py"}
    for path in re.findall(r"`((?:src|experiments)/[\w/]+\.py)`", PAGE):
        assert (ROOT / path).is_file() or any(path.endswith(name) for name in new), path


def test_a_view(run):
    view = run("A view")["EveryColumn"](3)
    assert to_config(view) == {"kind": "every_column", "every": 3}
    assert from_config(to_config(view)) == view
    with pytest.raises(ValueError, match="every"):
        from_config({"kind": "every_column", "every": 1})


def test_a_network(run):
    assert list(run("A network")["net"].config) == ["in_channels", "out_channels", "classes", "width"]
    assert list(options_of("pointwise")) == ["width"]


def test_a_regularizer(run):
    found = run("A regularizer")
    expert, x = found["expert"], torch.rand(4, 1, 8, 8)
    assert bool(found["loss"] > 0)
    torch.nn.init.normal_(expert.net.last.weight)

    def loss(variation):
        return expert.loss(x, generator=torch.Generator().manual_seed(0), variation=variation).mean().detach()

    assert float(loss(1.0)) > float(loss(0.0)) > 0


def test_a_data_format(run):
    assert (len(run("A data format")["data"]), run("A data format")["data"].shape) == (10, (1, 8, 8))


def test_a_sampler(run):
    assert float(run("A sampler")["x"].std()) == pytest.approx(0.5, rel=0.05)


def test_a_baseline(run, tmp_path):
    method = run("A baseline")["METHODS"].pop("half_of_it")
    screen = Console()
    screen.quiet = True
    with open_session(tiny(tmp_path).recipe("thumbnails2", 20, 0), tmp_path / "run", screen) as session:
        model = method.train(session.bootstrap, 2e7, **method.trials[1])
        assert model.shape == (1, 8, 8)
        assert sum(cost["flops"] for cost in session.bootstrap.ledger.values()) < 2e7

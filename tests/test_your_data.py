"""The recipes and commands of docs/your-data.md run as printed, with fewer steps, and check says what the page says."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from cli_calls import call

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "your-data.md").read_text(encoding="utf-8")
SITUATIONS = {m[1]: m[2] for m in re.finditer(r"^## .*?`(\w+)/`\n(.*?)(?=^## |\Z)", PAGE, flags=re.M | re.S)}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.M | re.S)
FEWER = "levels: [0.2, 1]\nsampling: {count: 2, steps: 3}\n"


def lowered(recipe: str) -> str:
    recipe, steps = re.subn(r"steps: \d+", "steps: 2", recipe)
    recipe, draws = re.subn(r"evaluate: {", "evaluate: {draws: 1, ", recipe)
    assert steps == draws == 1
    return recipe + FEWER


def flat(text: str) -> str:
    return " ".join(text.split())


def make(name: str, folder: str) -> None:
    spec = importlib.util.spec_from_file_location("your_data", ROOT / "examples" / "your_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.SITUATIONS[name](Path(folder))


def run(line: str) -> str:
    """What a line prints; where it makes files, they are there."""
    words = shlex.split(line, comments=True)
    if words[:2] == ["python", "examples/your_data.py"]:
        make(*words[2:])
        return ""
    assert words[0] == "bootdiff", line
    for option, most in (("-n", 2), ("--samples", 2), ("--held-out", 2)):
        if option in words[1:]:
            words[words.index(option) + 1] = str(most)
    result = call(*words[1:])
    assert result.exit_code == 0, result.output
    if "--out" in words:
        assert Path(words[words.index("--out") + 1]).exists()
    return result.output


def test_all_situations_are_there():
    assert list(SITUATIONS) == ["clinic", "film", "survey"]


def follow(name: str, monkeypatch, only: tuple[str, ...] = ()) -> set[str]:
    """Runs a situation's lines (of `only` these commands); what check prints must be what the page shows."""
    said, verbs = "", []
    for kind, text in BLOCK.findall(SITUATIONS[name]):
        if kind == "yaml":
            file = re.match(r"# (\S+\.yaml)", text)
            Path(file[1]).write_text(lowered(text))
        elif kind == "sh":
            for line in text.splitlines():
                words = shlex.split(line)
                if words[0] == "cd":
                    monkeypatch.chdir(words[1])
                elif words[0] == "python" or not only or words[1] in only:
                    said = run(line)
                    verbs.append(words[1])
        elif kind == "text":
            assert verbs[-1] == "check"
            for row in text.splitlines():
                assert flat(row) in flat(said), row
    return set(verbs)


@pytest.mark.parametrize(
    "name",
    # The film is made, its masks are found and it is read twice: 17 s. The survey's recordings: 5 s.
    [pytest.param(name, marks=[] if name == "clinic" else [pytest.mark.slow]) for name in SITUATIONS],
)
def test_check_says_what_the_page_says(name, tmp_path, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    assert "check" in follow(name, monkeypatch, only=("masks", "check"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SITUATIONS)
def test_a_situation_runs_as_printed(name, tmp_path, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    assert follow(name, monkeypatch) >= {"check", "arms", "sample", "restore"}

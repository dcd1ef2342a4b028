"""What a recipe or a run may not do: run a program, or let a command write where no run is."""

from __future__ import annotations

import os
import warnings

import pytest
import torch

from cli_calls import TINY, call, refused

ARMS = ("--arm", "full_only", "--arm", "bootdiff")


class Overwrites(torch.nn.Module):
    """Features that write a file whenever they are asked for: operations of TorchScript may."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        t = torch.from_file(self.path, True, 8, dtype=torch.uint8)
        t.fill_(88)
        return x.flatten(1)[:, :16] + t.float().mean() * 0


@pytest.fixture
def program(tmp_path):
    """(the program, the file that it overwrites)"""
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Overwrites(str(victim))).save(str(tmp_path / "net.ts"))
    return tmp_path / "net.ts", victim


def with_features(recipe, name):
    return recipe.replace("samples: 0", f"samples: 0, features: {name}")


def test_a_recipe_runs_no_torchscript(program, tmp_path):
    """Before anything is trained; in a recipe of one's own as in a run that was received."""
    net, victim = program
    (tmp_path / "r.yaml").write_text(with_features(TINY, "net.ts"))
    said = refused("arms", tmp_path / "r.yaml", "--out", tmp_path / "run", "--samples", 20)
    assert "net.ts is TorchScript, a program that may do whatever you may do" in said
    assert f"--features {net}" in said
    assert not list((tmp_path / "run").glob("stages/*/*.safetensors"))
    for name in ("net.pt", "net.pth", "net.jit", "net.torchscript"):
        (tmp_path / "r.yaml").write_text(with_features(TINY, name))
        assert "is TorchScript" in refused("arms", tmp_path / "r.yaml", "--out", tmp_path / name, "--samples", 20)
    assert victim.read_text() == "precious"


def test_a_received_run_runs_no_torchscript(program, trained, tmp_path):
    net, victim = program
    # A run whose recipe names the program, as whoever sends it can make it.
    (tmp_path / "r.yaml").write_text(with_features(TINY, str(net)))
    run = tmp_path / "run"
    assert call("fit", tmp_path / "r.yaml", "--out", run, "--reuse", trained.run, *ARMS).exit_code == 0
    assert "is TorchScript" in refused("evaluate", run, "--samples", 20, "--arm", "bootdiff")
    assert "is TorchScript" in refused("evaluate", run, "--swap", "full_only", "--samples", 20)
    assert victim.read_text() == "precious"
    # Named by the user it runs, and does what it does.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = call("evaluate", run, "--samples", 20, "--arm", "bootdiff", "--features", net)
    assert result.exit_code == 0, result.output
    assert victim.read_text() == "XXXXXXXX"


@pytest.mark.parametrize("empty", ["", " "])
@pytest.mark.parametrize(
    "arguments",
    [("fit", "R", "--out", ""), ("fit", "R", "--out="), ("fit", ""), ("sample", ""), ("evaluate", ""), ("report", ""),
     ("verify", ""), ("arms", "R", "--out", ""), ("check", "R", "--out", ""), ("plan", "R", "--out", "")],
)  # fmt: skip
def test_an_empty_argument_is_not_the_current_folder(arguments, empty, tmp_path, monkeypatch):
    """An unset shell variable: Path("") is the current folder."""
    (tmp_path / "r.yaml").write_text(TINY)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    given = [a.replace("R", str(tmp_path / "r.yaml")) or empty for a in arguments]
    assert "empty (an unset variable?)" in refused(*given)
    assert os.listdir() == []


def test_the_home_folder_is_no_run(tmp_path, monkeypatch):
    (tmp_path / "r.yaml").write_text(TINY)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for out in ("~", str(home), str(home / "x" / "..")):
        assert "not a folder for a run" in refused("fit", tmp_path / "r.yaml", "--out", out)
    assert os.listdir(home) == []


@pytest.mark.parametrize(
    "theirs",
    [
        {".notes.tmp": "a", "project/.draft.tmp": "b", ".cache/.x.tmp": "c", "project/.tmpAB12CD": "d"},
        {"lock": "held by a mail program"},
        {"run.json": '{"command": "make"}', "lock": "theirs", ".x.json.bootdiff.tmp": "e"},
        {"recipe.yaml": "full: {path: nowhere"},
        {"stages/notes.txt": "f"},
    ],
    ids=lambda theirs: next(iter(theirs)),
)
def test_a_folder_of_something_else_is_left_as_it_is(theirs, tmp_path):
    (tmp_path / "r.yaml").write_text(TINY)
    out = tmp_path / "out"
    for name, text in theirs.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    refused("fit", tmp_path / "r.yaml", "--out", out)
    found = {p.relative_to(out).as_posix(): p.read_text() for p in out.rglob("*") if p.is_file()}
    assert found == theirs

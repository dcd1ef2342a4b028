"""experiments.scripts.backbones: the default networks are those that the committed table was measured on."""

from __future__ import annotations

import json

import pytest

from bootdiff.nets import default_networks
from experiments.scripts import backbones
from experiments.scripts.results import RESULTS

COMMITTED = json.loads((RESULTS / "backbones.json").read_text())["rows"]


def test_every_default_network_of_every_case_is_in_the_table():
    names = [
        f"{case} {net}" for case, (shape, _) in backbones.CASES.items() for net in default_networks(len(shape) - 1)
    ]
    assert list(COMMITTED) == names
    assert {name: row["batch"] for name, row in COMMITTED.items()} == {
        name: backbones.CASES[name.rsplit(" ", 1)[0]][1] for name in names
    }


@pytest.mark.parametrize("name", [n for n in COMMITTED if n.startswith(("vector", "image", "video 1x12x32x32 "))])
def test_parameters_and_flops_are_those_of_the_committed_table(name):
    case, net = name.rsplit(" ", 1)
    shape, batch = backbones.CASES[case]
    found = backbones.measure(shape, batch, default_networks(len(shape) - 1)[net], steps=1)
    assert found["parameters"] == COMMITTED[name]["parameters"]
    assert found["flops"] == COMMITTED[name]["flops"]
    assert 0 < found["fastest"] <= found["seconds"]


def test_a_call_prints_the_table_and_writes_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(backbones, "CASES", {"vector 6": ((6,), 4), "image 1x8x8, 2": ((1, 8, 8), 2)})
    out = tmp_path / "new" / "backbones.json"
    backbones.main(["--steps", "2", "--out", str(out)])
    result = json.loads(out.read_text())
    assert result["command"] == f"python -m experiments.scripts.backbones --steps 2 --out {out}"
    assert list(result["rows"]) == ["vector 6 mlp", "vector 6 linear", "image 1x8x8, 2 unet", "image 1x8x8, 2 local"]
    printed = capsys.readouterr().out.strip()
    assert printed == backbones.table(result["rows"])
    assert printed.splitlines()[-1].startswith("| image 1 x 8 x 8 | 2 | local |")

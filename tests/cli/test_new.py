"""`bootdiff new`: what it writes can be checked, and nothing that is there is written over."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from PIL import Image

from bootdiff.recipe.schema import load_recipe
from cli_calls import call, refused


def pictures(n, seed, side=32):
    """Smooth random pictures, (n, side, side, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(n, side // 8 + 2, side // 8 + 2, 3))
    at = np.linspace(0, side // 8 + 0.999, side)
    low, share = at.astype(int), (at % 1)
    rows = coarse[:, low] * (1 - share)[:, None, None] + coarse[:, low + 1] * share[:, None, None]
    both = rows[:, :, low] * (1 - share)[:, None] + rows[:, :, low + 1] * share[:, None]
    return np.clip(128 + 60 * both, 0, 255).astype(np.uint8)


def write(folder, arrays):
    folder.mkdir(parents=True)
    for i, x in enumerate(arrays):
        Image.fromarray(x).save(folder / f"{i:03}.png")


@pytest.fixture
def folders(tmp_path):
    write(tmp_path / "full", pictures(30, 0))
    write(tmp_path / "Small ones", pictures(40, 1).reshape(-1, 16, 2, 16, 2, 3).mean((2, 4)).astype(np.uint8))
    logo = pictures(40, 2)
    logo[:, 20:30, 4:24] = 250
    write(tmp_path / "logo", logo)
    return tmp_path


def test_what_it_writes_is_a_recipe_of_what_is_there(folders, monkeypatch):
    monkeypatch.chdir(folders)
    said = call("new", "mine.yaml", "full", "Small ones", "logo")
    assert said.exit_code == 0
    text = (folders / "mine.yaml").read_text()
    assert "# 30 pictures, 3 x 32 x 32" in text
    assert yaml.safe_load(text)["training"] == {"precision": "auto"}
    assert yaml.safe_load(text)["views"] == {
        "small-ones": {"view": {"kind": "downsample", "factor": 2}, "data": {"path": "Small ones"}},
        "logo": {"view": {"kind": "mask", "image": "mine-logo-mask.png"}, "data": {"path": "logo"}},
    }
    with Image.open("mine-logo-mask.png") as mask:
        hidden = np.asarray(mask) == 0
    true = np.zeros((32, 32), bool)
    true[20:30, 4:24] = True
    assert (hidden & true).sum() / (hidden | true).sum() > 0.85
    checked = call(
        "check", "mine.yaml", "--set", "training.steps=4", "--set", "backbones={local: {kind: local, width: 8}}"
    )
    assert checked.exit_code == 0
    assert "mine.yaml is valid" in checked.output


def test_paths_are_those_that_the_recipe_needs(folders, monkeypatch):
    monkeypatch.chdir(folders)
    call("new", "sub/mine.yaml", "full", folders / "Small ones")
    recipe = load_recipe("sub/mine.yaml")
    assert recipe.locate(recipe.full.path) == folders / "full"
    data = recipe.views["small-ones"].data
    assert data.path == str(folders / "Small ones")


def test_masks_beside_files_and_names_that_meet_are_seen_to(folders, monkeypatch):
    monkeypatch.chdir(folders)
    holes = pictures(20, 3)
    for name in ("a/holes", "b/holes", "c/12"):
        write(folders / name, holes)
        for i in range(len(holes)):
            mask = np.full((32, 32), 255, np.uint8)
            mask[i : i + 8, 4:12] = 0
            Image.fromarray(mask).save(folders / name / f"{i:03}.mask.png")
    call("new", "mine.yaml", "full", "a/holes", "b/holes", "c/12")
    views = load_recipe("mine.yaml").views
    assert list(views) == ["holes", "holes-2", "view-12"]
    assert all(v.view[0].kind == "random_mask" and v.data.masks is True for v in views.values())


def test_arrays_need_their_kind(folders, monkeypatch):
    monkeypatch.chdir(folders)
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 255, (20, 8, 16, 16), dtype=np.uint8)
    np.save("long.npy", clips)
    np.save("short.npy", clips[:, :3])
    call("new", "mine.yaml", "long.npy", "short.npy", "--kind", "video")
    read = load_recipe("mine.yaml")
    assert (read.full.kind, read.views["short"].data.kind) == ("video", "video")
    assert read.views["short"].view[0].length == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["full"], "PARTIAL: no folder of partial files was given"),
        ([], "nobody can be asked"),
        (["nowhere", "logo"], "nowhere: no such"),
        (["full", "nowhere"], "nowhere: no such"),
        (["full", "logo", "full"], "full: look like full samples"),
        (["Small ones", "logo"], "logo: have more pixels than the full samples"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(folders, monkeypatch, arguments, message):
    monkeypatch.chdir(folders)
    assert message in refused("new", "mine.yaml", *arguments)
    assert not list(folders.glob("mine*"))


def test_nothing_is_written_over(folders, monkeypatch):
    monkeypatch.chdir(folders)
    (folders / "mine.yaml").write_text("mine")
    assert "mine.yaml: is there already" in refused("new", "mine.yaml", "full", "Small ones")
    assert (folders / "mine.yaml").read_text() == "mine"
    (folders / "other-logo-mask.png").write_text("mine")
    assert "other-logo-mask.png: is there already" in refused("new", "other.yaml", "full", "logo")
    assert not (folders / "other.yaml").exists()


def test_it_asks_where_nothing_was_said(folders, monkeypatch):
    monkeypatch.chdir(folders)
    monkeypatch.setattr("bootdiff.cli.new.sys.stdin.isatty", lambda: True, raising=False)
    answers = iter(["full", "Small ones", ""])
    monkeypatch.setattr("typer.prompt", lambda *_, **__: next(answers))
    from bootdiff.cli.new import _asked

    full, partial = _asked()
    assert (str(full), [str(p) for p in partial]) == ("full", ["Small ones"])

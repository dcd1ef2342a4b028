"""Files of a run that were damaged at rest: named, or without effect; never a traceback, never other results."""

from __future__ import annotations

import hashlib
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import damages
from bootdiff.verification import verify
from cli_calls import TINY, call

RECIPE = (
    TINY.replace("thumbnails:", "thumbs:")
    .replace("steps: 20", "steps: 12")
    .replace("labels: true, limit: 200", "limit: 120")
)
ARMS = ("--arm", "bootdiff", "--arm", "full_only")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """.run, what its arms hold, and what sampling and evaluating it gives."""
    folder = tmp_path_factory.mktemp("damage")
    (folder / "tiny.yaml").write_text(RECIPE)
    found = SimpleNamespace(recipe=folder / "tiny.yaml", run=folder / "run")
    for verb in ("fit", "sample", "evaluate"):
        result = call(*command(found.recipe, found.run, verb, folder))
        assert result.exit_code == 0, result.output
    found.want = {verb: outcome(found.run, verb, folder) for verb in ("fit", "sample", "evaluate")}
    return found


def command(recipe, folder, verb, out):
    return {
        "fit": ("fit", recipe, "--out", folder, *ARMS),
        "sample": ("sample", folder, "-n", 1, "--steps", 2, "--out", out / "x.npy"),
        "evaluate": ("evaluate", folder, "--samples", 0, "--arm", "bootdiff"),
    }[verb]


def outcome(folder, verb, out):
    if verb == "sample":
        x = np.load(out / "x.npy")
        return str(x.dtype), x.tobytes()
    if verb == "evaluate":
        return {
            k: v
            for k, v in json.loads((folder / "metrics.json").read_text()).items()
            if k in ("holdout_loss", "ledger")
        }
    files = [*folder.glob("*/model.json"), *folder.glob("*/weights/*"), *folder.glob("stages/*/*.safetensors")]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.parent.name != "weights" or path.parent.parent.name != "stages"
    }


KINDS = {
    "recipe.yaml": ("fit", "sample", "evaluate"),
    "run.json": ("fit", "sample"),
    "provenance.json": ("fit",),
    "metrics.jsonl": ("fit", "evaluate"),
    "ledger.json": ("fit", "evaluate"),
    "data.json": ("fit", "sample"),
    "trainings.json": ("fit",),
    "metrics.json": ("evaluate",),
    "samples/bootdiff.safetensors": ("evaluate",),
    "stages/residual-local/key.json": ("fit",),
    "stages/residual-local/scale.json": ("fit",),
    "stages/residual-local/start.json": ("fit",),
    "stages/residual-local/choice.json": ("fit",),
    "stages/residual-local/done.json": ("fit",),
    "stages/residual-local/final.safetensors": ("fit",),
    "stages/residual-local/snapshot-*.safetensors": ("fit",),
    "stages/full-stack/done.json": ("fit",),
    "stages/full-gaussian/done.json": ("fit",),
    "stages/full-gaussian/final.safetensors": ("fit",),
    "bootdiff/model.json": ("sample", "fit"),
    "bootdiff/weights/*.safetensors": ("sample", "fit"),
}
CASES = [(kind, damage) for kind in KINDS for damage in damages.of(kind)]

# Files that may be away: what is not there is not wrong.
MAY_BE_AWAY = {
    "provenance.json", "ledger.json", "trainings.json", "metrics.json", "samples/bootdiff.safetensors",
    "stages/residual-local/scale.json", "stages/residual-local/choice.json", "stages/full-stack/done.json",
    "stages/full-gaussian/done.json",
}  # fmt: skip


def damaged(run, tmp_path, kind, damage):
    folder = damages.copy(run.run, tmp_path / "run")
    path = sorted(folder.glob(kind))[0]
    damages.do(path, damage)
    return folder, path


# The others are the same forms: 2 s each.
QUICK = ("run.json", "metrics.jsonl", "data.json", "stages/residual-local/done.json", "bootdiff/model.json")


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_verify_names_every_damaged_file(run, tmp_path, kind):
    for damage in damages.of(kind):
        folder, path = damaged(run, tmp_path, kind, damage)
        named = [found for found in verify(folder).damaged if path.name in found.text]
        harmless = damage == "lost" and kind in MAY_BE_AWAY
        assert bool(named) != harmless, damage
        assert all(path.name in found.text for found in verify(folder).damaged), damage


@pytest.mark.drill  # every kind of file and damage, by every command: minutes
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "damage"), CASES)
def test_no_damage_is_used(run, tmp_path, kind, damage):
    _not_used(run, tmp_path, kind, damage, KINDS[kind])


@pytest.mark.parametrize(
    ("kind", "damage", "verb"),
    [
        ("recipe.yaml", "digit", "evaluate"),
        ("recipe.yaml", "deep", "sample"),
        ("run.json", "lost", "fit"),
        ("metrics.jsonl", "list", "fit"),
        ("ledger.json", "object", "evaluate"),
        ("ledger.json", "digit", "evaluate"),
        ("ledger.json", "null", "fit"),
        ("data.json", "lost", "sample"),
        ("data.json", "object", "sample"),
        ("data.json", "digit", "sample"),
        ("data.json", "bad utf-8", "sample"),
        ("trainings.json", "list", "fit"),
        ("stages/residual-local/key.json", "bit", "fit"),
        ("stages/residual-local/scale.json", "digit", "fit"),
        ("stages/residual-local/start.json", "lost", "fit"),
        ("stages/residual-local/done.json", "lost", "fit"),
        ("stages/residual-local/final.safetensors", "our key", "fit"),
        ("stages/residual-local/snapshot-*.safetensors", "low bit of a value", "fit"),
        ("bootdiff/model.json", "digit", "sample"),
        ("bootdiff/weights/*.safetensors", "low bit of a value", "sample"),
    ],
)
def test_what_was_used_once_is_not(run, tmp_path, kind, damage, verb):
    """One of each kind of fault that such drills have found."""
    _not_used(run, tmp_path, kind, damage, [verb])


def _not_used(run, tmp_path, kind, damage, verbs):
    for verb in verbs:
        folder, path = damaged(run, tmp_path, kind, damage)
        result = call(*command(run.recipe, folder, verb, tmp_path))  # no traceback
        if result.exit_code == 2:
            assert path.name in result.stderr.replace("\n", ""), (verb, result.stderr)
        else:
            assert result.exit_code == 0, result.output
            assert outcome(folder, verb, tmp_path) == run.want[verb], verb


# Two trainings each: one of each remedy is quick enough for every day.
@pytest.mark.parametrize(
    ("kind", "damage", "remedy"),
    [
        pytest.param("recipe.yaml", "digit", "delete", marks=pytest.mark.slow),
        pytest.param("provenance.json", "null", "delete", marks=pytest.mark.slow),
        ("metrics.jsonl", "digit", "delete the line"),
        pytest.param("ledger.json", "digit", "delete", marks=pytest.mark.slow),
        pytest.param("trainings.json", "null", "delete", marks=pytest.mark.slow),
        ("data.json", "lost", "fit"),
        pytest.param(
            "stages/residual-local/final.safetensors", "cut in half", "delete the folder", marks=pytest.mark.slow
        ),
        ("stages/residual-local/done.json", "lost", "delete the folder"),
        pytest.param("stages/residual-local/start.json", "lost", "delete the folder", marks=pytest.mark.slow),
        pytest.param("stages/full-gaussian/final.safetensors", "lost", "delete the folder", marks=pytest.mark.slow),
        pytest.param("stages/full-stack/done.json", "digit", "delete the folder", marks=pytest.mark.slow),
        ("bootdiff/weights/*.safetensors", "high bit of a value", "fit"),
        pytest.param("bootdiff/model.json", "lost", "fit", marks=pytest.mark.slow),
    ],
)
def test_the_remedy_works(run, tmp_path, kind, damage, remedy):
    """What the message says is done, and the same command ends with the same weights."""
    folder, path = damaged(run, tmp_path, kind, damage)
    said = "".join(found.text for found in verify(folder).damaged)
    assert {"fit": "the command that"}.get(remedy, remedy.split()[0]) in said
    if remedy == "delete":
        path.unlink()
    elif remedy == "delete the folder":
        assert f"delete the folder {path.parent}" in said
        shutil.rmtree(path.parent)
    elif remedy == "delete the line":
        number = int(said.partition("line ")[2].partition(":")[0])
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[: number - 1] + lines[number:]))
    result = call(*command(run.recipe, folder, "fit", tmp_path))
    assert result.exit_code == 0, result.output
    assert outcome(folder, "fit", tmp_path) == run.want["fit"]
    left = verify(folder).damaged
    if remedy == "delete the line":  # what was lost is said from then on
        assert len(left) == 1
        assert "rows of the stage" in left[0].text
        assert "no weight depends on them" in " ".join(result.output.split())
    else:
        assert left == []


def test_a_run_without_its_note_is_taken_over_by_another(run, tmp_path):
    folder, _ = damaged(run, tmp_path, "run.json", "lost")
    result = call(*command(run.recipe, folder, "fit", tmp_path))
    assert result.exit_code == 2
    assert f"--reuse {folder}" in result.stderr.replace("\n", "")
    assert not (folder / "run.json").exists()
    result = call(*command(run.recipe, tmp_path / "other", "fit", tmp_path), "--reuse", folder)
    assert result.exit_code == 0, result.output
    assert outcome(tmp_path / "other", "fit", tmp_path) == run.want["fit"]


def test_a_file_of_another_stage_is_not_taken(run, tmp_path):
    """Whole, and with a checksum of its own, but another's."""
    for name in ("final.safetensors", "scale.json", "done.json"):
        folder = damages.copy(run.run, tmp_path / "run")
        path = folder / "stages" / "residual-local" / name
        path.unlink()
        shutil.copy(folder / "stages" / "full-local" / name, path)
        assert any(name in found.text for found in verify(folder).damaged)
        result = call(*command(run.recipe, folder, "fit", tmp_path))
        assert result.exit_code == 2, name
        assert name in result.stderr.replace("\n", "")


def test_the_verb(run, tmp_path):
    result = call("verify", run.run)
    assert result.exit_code == 0
    assert "files are as they were written" in result.stdout
    assert "files are as they were written" in call("verify", run.run / "bootdiff").stdout
    folder, path = damaged(run, tmp_path, "stages/full-local/final.safetensors", "a byte less")
    result = call("verify", folder)
    assert result.exit_code == 2
    assert "1 of" in result.stderr
    assert "stages/full-local/final.safetensors" in result.stderr.replace("\n", "")
    assert (
        f"delete the folder {path.parent}" in result.stdout.replace("\n", " ").replace("  ", " ")
        or "delete" in result.stdout
    )
    result = call("verify", tmp_path)
    assert result.exit_code == 2
    assert "neither a run nor a saved model" in result.stderr

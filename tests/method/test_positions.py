"""A recipe's views that are told where their files lie: from offsets beside the files to the network's input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bootdiff.data import Batches
from bootdiff.errors import BootdiffError
from bootdiff.method.training_set import view_training_set
from bootdiff.recipe.build import build_problem
from bootdiff.recipe.schema import load_recipe_text

RECIPE = """\
full: {path: full.npy, kind: video, holdout: 2}
views:
  clips: {view: {kind: frame_window, length: 2, position_conditioned: true},
          data: {path: clips.npy, kind: video}, offsets: rows.csv}
"""


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "full.npy", rng.integers(0, 256, (6, 6, 4, 4), dtype=np.uint8))
    np.save(tmp_path / "clips.npy", rng.integers(0, 256, (10, 2, 4, 4), dtype=np.uint8))
    (tmp_path / "rows.csv").write_text("".join(f"{i % 5}\n" for i in range(10)))
    return tmp_path


def test_the_networks_see_where_each_file_lies(folder):
    materials = build_problem(load_recipe_text(RECIPE, folder))
    clips, full = materials.views["clips"], materials.shape
    bench = view_training_set(clips, full, "none", torch.device("cpu"))
    assert bench.samples.context.shape[1:] == (1, 2, 4, 4)
    batch = Batches(bench.train, bench.scale, 9, mask=bench.mask).at(0)
    rows = [clips.train.indices[i] % 5 for i in batch["index"].tolist()]
    wanted = torch.stack([clips.view.at_offset(row).position_channels(full) for row in rows])
    assert torch.equal(batch["position_channels"], wanted)
    other = build_problem(
        load_recipe_text(RECIPE.replace(", position_conditioned: true", "").replace(", offsets: rows.csv", ""), folder)
    )
    assert other.fingerprint() != materials.fingerprint()
    assert view_training_set(other.views["clips"], full, "none", torch.device("cpu")).samples.context is None


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("0\n1\n", ["10 x 1 offsets", "there are 2 x 1"]),
        ("0,1\n" * 10, ["10 x 1 offsets", "there are 10 x 2"]),
        ("5\n" * 10, ["offset [5]", "frame 7", "(1, 6, 4, 4)"]),
        ("x\n" * 10, ["rows.csv", "whole numbers"]),
    ],
)
def test_offsets_that_do_not_fit_are_named(folder, rows, said):
    (folder / "rows.csv").write_text(rows)
    with pytest.raises(BootdiffError) as error:
        build_problem(load_recipe_text(RECIPE, folder))
    assert all(words in str(error.value) for words in said), error.value


def test_simulated_clips_are_told_as_well(folder):
    text = "simulate: {pool: {path: full.npy, kind: video}, full: 3}\nfull: {holdout: 1}\n"
    text += "views: {clips: {view: [{kind: stills, position_conditioned: true}, "
    text += "{kind: crop, size: 2, position_conditioned: true}]}}"
    materials = build_problem(load_recipe_text(text, folder))
    samples = view_training_set(materials.views["clips"], materials.shape, "horizontal", torch.device("cpu"))
    assert samples.samples.context.shape[1:] == (3, 2, 2)
    assert samples.flip == "none"  # told how far to the left it looks

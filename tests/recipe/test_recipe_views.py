"""The views' blocks of a recipe: mistakes are named with their line, and every block builds its view."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from bootdiff.errors import BootdiffError
from bootdiff.recipe.schema import load_recipe_text, reference

MINIMAL = """\
full: {path: photos}
views:
  thumbs:
    view: {kind: downsample, factor: 2}
    data: {path: small}
"""


def mistakes(text: str) -> list[str]:
    with pytest.raises(BootdiffError) as caught:
        load_recipe_text(text, source="r.yaml")
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (
            "view: {kind: downsample, factor: 2, axis: []}",
            "line 4: views.v.view.axis: unknown key; known keys: kind",
        ),
        ("view: {kind: downsample, factor: 1}", "line 4: views.v.view.factor: must be at least 2, got 1"),
        ("view: [identity, {kind: crop}]", "line 4: views.v.view[1].size: missing, but required: [height, width]"),
        ("view: {kind: downsmple}", "line 4: views.v.view: unknown kind, got 'downsmple'; known: identity, downsample"),
        ("view: 3", "line 4: views.v.view: must be a block of keys, got 3; known kinds: identity, d"),
        ("view: []", "line 4: views.v.view: must have at least 1 item(s)"),
        ("view: {kind: crop, size: 8, offset: 0, stride: 2}", "line 4: views.v.view.stride: give an offset"),
        ("view: {kind: mask}", "line 4: views.v.view: give exactly one of box, band, image, start and stop"),
        ("view: {kind: mask, start: 4, stop: 4}", "line 4: views.v.view.stop: must be greater than start (4), got 4"),
        ("view: {kind: mask, start: 4}", "line 4: views.v.view: give both: start and stop"),
        ("view: {kind: mask, start: 1, stop: 4, band: [top, 1]}", "line 4: views.v.view: give exactly one of box"),
        ("view: {kind: mask, box: [0, 0, 0, 4, 4]}", "line 4: views.v.view.box: must have 4 numbers, or 6"),
        ("view: {kind: crop, size: [8]}\n    std: x", "line 5: views.v.std: must be a number"),
        (
            "view: {kind: crop, size: [4, 8, 8], offset: [1, 2]}",
            "line 4: views.v.view.offset: must have as many numbers as size (3)",
        ),
        ("view: {kind: crop, size: [4, 8, 8, 8]}", "line 4: views.v.view.size: must have at most 3 item(s), got 4"),
        ("view: {kind: frame_window}", "line 4: views.v.view.length: missing, but required: frames"),
        ("view: {kind: frame_window, length: 4, offset: 0, stride: 2}", "line 4: views.v.view.stride: give an offset"),
        ("view: {kind: frame_window, length: 4, lenght: 4}", "line 4: views.v.view.lenght: unknown key; known keys: "),
        ("view: {kind: window, length: 0}", "line 4: views.v.view.length: must be at least 1, got 0"),
        ("view: {kind: stills, frame: 1, every: 2}", "line 4: views.v.view.every: give a frame (this one) or every"),
        ("view: {kind: frame_stride, every: 2, offset: 2}", "line 4: views.v.view.offset: must be below every (2)"),
        ("view: {kind: pick, indices: [1, 1]}", "line 4: views.v.view.indices: must be different, got [1, 1]"),
        ("view: {kind: pick, indices: []}", "line 4: views.v.view.indices: must have at least 1 item(s), got 0"),
        ("view: {kind: random_mask, hide: gaps}", "line 4: views.v.view.hide: must be one of the known"),
        (
            "view: {kind: stills, position_conditioned: true}",
            "line 3: views.v.offsets: missing, but required with `position_conditioned: true`: where each file lies",
        ),
        (
            "view: gray\n    offsets: o.npy",
            "line 5: views.v.offsets: only for a view with `position_conditioned: true`",
        ),
        (
            "view: [gray, {kind: crop, size: 2, position_conditioned: true}]\n    pretrained: x",
            "line 4: views.v.view[1].position_conditioned: only for a view that is trained on its own files",
        ),
        (
            "view: {kind: stills, position_conditioned: true}\n    data: {path: s}\n"
            "    views: {w: {view: gray, data: {path: small}}}",
            "line 4: views.v.view.position_conditioned: only for views of the full samples",
        ),
        ("view: {kind: random_mask, hide: channels, apart: true}", "line 4: views.v.view.apart: whole channels"),
        ("view: still", "line 4: views.v.view: unknown kind, got 'still'; known: identity"),
        ("view: {kind: mask, band: [left, 2]}", "line 4: views.v.view.band: must be [bottom, rows] or [top, rows]"),
        ("view: {kind: mask, box: [0, 0, 0, 4]}", "line 4: views.v.view.box: must hide at least 1 pixel"),
        ("view: {kind: channel_mix}", "line 4: views.v.view: give exactly one of rows, weights"),
        ("view: {kind: random_mask, fraction: 1.0}", "line 4: views.v.view.fraction: must be less than 1, got 1.0"),
        ("view: gray\n    std: -1", "line 5: views.v.std: must be at least 0, got -1"),
        ("view: gray\n    holdout: 1.0", "line 5: views.v.holdout: must be a count of at least 1 or a share"),
        ("view: gray\n    holdout: true", "line 5: views.v.holdout: must be a count of at least 1 or a share"),
        ("view: gray\n    backbone: unett", "line 5: views.v.backbone: unknown kind, got 'unett'"),
        ("view: identity\n    corruption: {kind: jpeg, quality: 5}", "line 5: views.v.corruption: only for simulated"),
        (
            "view: gray\n    data: {path: x}\n    training: {noise: {std: 0}}",
            "line 6: views.v.training.noise.std: must",
        ),
        ("std: 0.1", "line 3: views.v.view: missing, but required: what the files show"),
    ],
)
def test_a_mistake_in_a_view_is_named_with_its_line(view, expected):
    data = "" if "data:" in view else "\n    data: {path: small}"
    lines = mistakes(f"full: {{path: photos}}\nviews:\n  v:\n    {view}{data}\n")
    assert len(lines) == 1
    assert lines[0].startswith(f"r.yaml, {expected}")


def test_the_picture_of_a_mask_is_read(tmp_path):
    text = MINIMAL.replace("{kind: downsample, factor: 2}", "{kind: mask, image: logo.png}")
    recipe = load_recipe_text(text, tmp_path)
    with pytest.raises(BootdiffError, match=r"views.thumbs.view.image: cannot read .*logo.png"):
        recipe.view_configs("thumbs")
    missing = recipe.fingerprint()
    picture = Image.new("RGB", (3, 2), "white")
    picture.putpixel((2, 0), (0, 0, 0))
    picture.save(tmp_path / "logo.png")
    assert recipe.view_configs("thumbs") == [{"kind": "mask", "image": [[1, 1, 0], [1, 1, 1]]}]
    drawn = recipe.fingerprint()
    Image.new("L", (3, 2), 255).save(tmp_path / "logo.png")
    assert len({missing, drawn, recipe.fingerprint()}) == 3


def test_masks_of_more_or_fewer_axes_are_arrays(tmp_path):
    """(L,) of a signal, (T, H, W) of a video, with anything above 0 observed."""
    recipe = load_recipe_text(MINIMAL.replace("{kind: downsample, factor: 2}", "{kind: mask, image: m.npy}"), tmp_path)
    with pytest.raises(BootdiffError, match=r"views.thumbs.view.image: cannot read .*m.npy"):
        recipe.view_configs("thumbs")
    np.save(tmp_path / "m.npy", np.array([True, False]))
    assert recipe.view_configs("thumbs") == [{"kind": "mask", "image": [1, 0]}]
    np.save(tmp_path / "m.npy", np.array([[[0, 255]], [[255, 255]]], dtype=np.uint8))
    assert recipe.view_configs("thumbs") == [{"kind": "mask", "image": [[[0, 1]], [[1, 1]]]}]
    for wrong in (np.zeros((2, 2)), np.array(1.0), np.array(["a"])):
        np.save(tmp_path / "m.npy", wrong)
        with pytest.raises(BootdiffError, match=r"views.thumbs.view.image"):
            recipe.view_configs("thumbs")


VIEWS = [
    "identity", "{kind: downsample, factor: 2}", "{kind: downsample, factor: 2, axes: [-1]}", "{kind: crop, size: 4}",
    "{kind: crop, size: [4, 2], offset: [0, 1]}", "{kind: crop, size: 4, stride: 3}", "{kind: mask, box: [0, 0, 2, 2]}",
    "{kind: mask, band: [bottom, 2]}", "{kind: random_mask}", "{kind: random_mask, hide: pixels, fraction: 0.5}",
    "gray", "{kind: channel_mix, rows: [[0, 1, 0]]}", "[gray, {kind: downsample, factor: 2}]",
]  # fmt: skip


VIDEO_VIEWS = [
    "stills", "{kind: stills, every: 2}", "{kind: stills, frame: 3, position_conditioned: true}",
    "{kind: frame_window, length: 2}",
    "{kind: frame_window, length: 2, offset: 1}",
    "{kind: frame_window, length: 2, offset: 2, position_conditioned: true}",
    "{kind: frame_stride, every: 2}", "{kind: frame_stride, every: 2, offset: 1}", "{kind: crop, size: [2, 4, 4]}",
    "{kind: crop, size: [2, 4, 4], stride: 2}", "{kind: downsample, factor: 2, axes: [-3]}", "{kind: crop, size: 4}",
    "[{kind: frame_window, length: 2}, {kind: downsample, factor: 2}]", "{kind: mask, box: [1, 0, 0, 2, 4, 8]}",
    "{kind: mask, band: [bottom, 2]}", "{kind: random_mask, hide: moving}", "{kind: random_mask, hide: gap}", "gray",
]  # fmt: skip
SIGNAL_VIEWS = [
    "{kind: window, length: 4}", "{kind: window, length: 4, offset: 3}", "{kind: window, length: 4, stride: 1}",
    "{kind: mask, start: 2, stop: 5}", "{kind: random_mask, hide: gap}", "{kind: random_mask, hide: channels}",
    "{kind: random_mask, hide: gap, apart: true}", "{kind: pick, indices: [2, 0]}",
    "{kind: downsample, factor: 2, axes: [-1]}",
]  # fmt: skip
BLOCKS = [
    *[(v, (3, 8, 8)) for v in VIEWS],
    *[(v, (3, 4, 8, 8)) for v in VIDEO_VIEWS],
    *[(v, (3, 8)) for v in SIGNAL_VIEWS],
    *[(v, (3,)) for v in ("{kind: pick, indices: [1]}", "{kind: mask, start: 2, stop: 3}")],
]


@pytest.mark.parametrize(("text", "full"), BLOCKS)
def test_view_blocks_build_views(text, full):
    views = pytest.importorskip("bootdiff.views")
    recipe = load_recipe_text(MINIMAL.replace("{kind: downsample, factor: 2}", text))
    view = views.from_config(recipe.view_configs("thumbs"))
    assert isinstance(view, views.View)
    assert view.shape(full)
    assert load_recipe_text(recipe.dump()).dump() == recipe.dump()


def test_view_and_corruption_kinds_are_those_of_the_library():
    views = pytest.importorskip("bootdiff.views")
    simulate = pytest.importorskip("bootdiff.data.simulate")
    keys = [entry.key for entry in reference()]
    for kind, cls in views.VIEWS.items():
        known = [key for key in keys if key.startswith(f"views.<name>.view[{kind}].")]
        if kind in ("observed", "compose"):  # `std` and lists stand for them
            assert not known
        else:
            assert {key.rpartition(".")[2] for key in known} == {field.name for field in dataclasses.fields(cls)}
    kinds = {key.partition("[")[2].partition("]")[0] for key in keys if key.startswith("views.<name>.corruption[")}
    assert kinds == set(simulate.CORRUPTIONS)

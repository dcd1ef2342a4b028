"""experiments.scripts.overlay: what is burned into the videos, the naive mix, what is measured and drawn."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cli_calls import call
from experiments.scripts import overlay

pytestmark = pytest.mark.slow  # three arms on videos: 14 s

RECIPE = """\
full: {path: data/full.npz, kind: video, holdout: 4}
test: {path: data/test.npz, kind: video}
oracle: {path: data/before.npz, kind: video}
views:
  broadcast:
    view: {kind: mask, image: logo.png}
    data: {path: data/broadcast.npz, key: videos, kind: video, masks: true}
    start: scratch
residual: {start: full}
backbones: {local: {kind: local, width: 4, depth: 3}}
training: {steps: 2, batch: 4, lr: 0.01, ema: 0.9, warmup: 0, evaluate_every: 1}
levels: [0.2, 0.8, 3.2]
evaluate: {draws: 1, samples: 0}
sampling: {count: 5, steps: 3}
device: cpu
"""


def videos(count: int, seed: int) -> np.ndarray:
    """Smooth moving colours, (count, 16, 32, 32, 3) uint8."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 4, 6, 6, generator=rng)
    x = torch.nn.functional.interpolate(coarse, (16, 32, 32), mode="trilinear", align_corners=True)
    return ((40 * x + 128).clamp(0, 255)).to(torch.uint8).movedim(1, -1).numpy()


@pytest.fixture(scope="module")
def traffic(tmp_path_factory) -> SimpleNamespace:
    """.source (the npz), .data (the folder that `burn` wrote) and .run (three arms, two steps)."""
    folder = tmp_path_factory.mktemp("traffic")
    source, data, run = folder / "traffic32.npz", folder / "data", folder / "run"
    np.savez(source, train=videos(32, 0), test=videos(9, 1))
    overlay.main(["burn", "--source", str(source), "--data", str(data), "--full", "10"])
    Image.fromarray(np.uint8(overlay.logo()[0][..., 0] == 0) * 255).save(folder / "logo.png")
    (folder / "traffic.yaml").write_text(RECIPE)
    arms = [word for arm in overlay.ARMS for word in ("--arm", arm)]
    result = call("fit", folder / "traffic.yaml", "--out", run, *arms)
    assert result.exit_code == 0, result.output
    return SimpleNamespace(source=source, data=data, run=run)


def test_an_overlay_is_logo_and_captions_where_they_are_said_to_be():
    x = videos(6, 2)
    y, seen, top = overlay.burn(x, np.random.default_rng(0))
    a, colours = overlay.logo()
    assert y.shape == x.shape
    assert (seen.shape, top.shape) == ((6, 16, 32, 32), (6, 16))
    free = (seen == 1)[..., None] & (a == 0)
    np.testing.assert_array_equal(np.where(free, y, 0), np.where(free, x, 0))
    # The logo, on pixels that no caption hides: x <- (1 - a) x + a w, rounded.
    marked = (seen == 1)[..., None] & (a > 0)
    exact = (x * (1 - a) + colours * a).round()
    np.testing.assert_array_equal(np.where(marked, y, 0), np.where(marked, exact, 0))
    assert a.max() <= 0.85
    # A caption hides whole rows, seven of them from `top` on, in 7 to 14 frames.
    for i, t in np.ndindex(6, 16):
        rows = np.flatnonzero((seen[i, t] == 0).all(1))
        first = top[i, t]
        assert rows.tolist() == ([] if first < 0 else list(range(first, first + overlay.ROWS)))
    lengths = (top >= 0).sum(1)
    assert set(lengths) <= {0, *range(7, 15)}
    assert (lengths > 0).any()


def test_all_files_are_written_and_no_video_twice(traffic):
    found = {path.stem: dict(np.load(path)) for path in traffic.data.glob("*.npz")}
    assert {name: len(x["videos"]) for name, x in found.items()} == {
        "full": 10, "broadcast": 22, "before": 22, "test": 9, "test-broadcast": 9, "few": 2, "few-broadcast": 2,
    }  # fmt: skip
    with np.load(traffic.source) as z:
        train = {x.tobytes() for x in z["train"]}
    parts = [{x.tobytes() for x in found[name]["videos"]} for name in ("full", "before")]
    assert parts[0] | parts[1] == train
    assert not parts[0] & parts[1]
    assert {name for name, x in found.items() if "videos_mask" in x} == {"broadcast", "test-broadcast", "few-broadcast"}
    np.testing.assert_array_equal(found["few-broadcast"]["videos"], found["test-broadcast"]["videos"][::8])


def test_the_naive_mix_is_trained_measured_and_drawn(traffic, tmp_path, capsys):
    overlay.main(["naive", str(traffic.run)])
    assert (traffic.run / "naive_mix" / "model.json").is_file()
    data = ["--data", str(traffic.data)]
    overlay.main(["measure", str(traffic.run), *data, "--count", "5", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "overlay-seed-0.json").read_text())
    found = result["found"]
    counts = {name: [found[name][what]["count"] for what in ("logo", "caption")] for name in found}
    assert list(counts) == [
        "test", "full", "broadcast", "test-broadcast", "full_only", "bootdiff", "oracle", "naive_mix"
    ]  # fmt: skip
    assert counts["test"] == [9, 9]
    assert counts["full"] == [10, 10]
    assert counts["naive_mix"] == counts["bootdiff"] == [5, 5]
    assert found["broadcast"]["caption"]["count"] + found["broadcast"].get("none", {"count": 0})["count"] == 22
    # The logo is in every broadcast file, at its full strength, and in few of the clean ones.
    assert found["broadcast"]["logo"]["share"] == 1
    assert found["broadcast"]["logo"]["strength"] == pytest.approx(1, abs=0.2)
    assert found["test"]["logo"]["share"] < 0.5
    assert 0 < result["naive_mix"]["mean"] < 2
    ledger = json.loads((traffic.run / "ledger.json").read_text())
    assert result["naive_mix"]["flops"] == ledger["naive_mix-local"]["flops"]
    assert result["command"].startswith(f"python -m experiments.scripts.overlay measure {traffic.run} --data")
    assert "| naive-mix | " in capsys.readouterr().out
    picture = tmp_path / "traffic.png"
    overlay.main(["picture", str(traffic.run), *data, "--out", str(picture)])
    with Image.open(picture) as page:
        assert page.width > 8 * 64
        assert np.asarray(page.convert("L")).std() > 10

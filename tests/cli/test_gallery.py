"""`bootdiff gallery`: every arm's samples on one page that needs nothing else, and a test of what an eye can tell."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from bootdiff.cli.report.gallery import REAL, Sheet, build
from cli_calls import TINY, call, refused


def pictures(page):
    """The sheets, in order, and the test's single pictures with what they are."""
    sheets = re.findall(r'<img src="(data:[^"]+)"', page)
    questions = json.loads(re.search(r"const questions = (.*);", page)[1])
    return [opened(source) for source in sheets], questions


def opened(source):
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))


def sheets(n=5, shape=(1, 8, 8)):
    rng = torch.Generator().manual_seed(0)
    drawn = {name: torch.rand(n, *shape, generator=rng) * 2 - 1 for name in (REAL, "full-only", "bootdiff")}
    return {name: Sheet(x, f"about {name}", f"draw {name}") for name, x in drawn.items()}


def made(found=None, **more):
    how = {"each": 3, "seed": 0, "blind": False, "made": "by me"} | more
    return build("A <b>run</b>", "lead", found or sheets(), **how)


def test_the_page_of_a_run_shows_its_arms_and_real_samples(trained, tmp_path):
    out = tmp_path / "page.html"
    said = call("gallery", trained.run, "--arm", "full-only", "--arm", "bootdiff", "-n", 6, "--each", 4, "--out", out)
    assert said.exit_code == 0, said.output
    page = out.read_text()
    titles = re.findall(r"<h2>(.*)</h2>", page)
    assert titles == ["real", "full-only", "bootdiff"]
    found, questions = pictures(page)
    assert len(found) == 3
    assert sorted(q["of"] for q in questions) == [k for k in range(3) for _ in range(4)]
    assert f"bootdiff sample {trained.run} --arm bootdiff -n 6" in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_a_sheet_holds_the_samples_themselves():
    found = sheets(2)
    sheet = pictures(made(found))[0][1]
    first = (found["full-only"].samples[0, 0] + 1) * 127.5
    side = 96 // 8
    for i, j in ((0, 0), (3, 5), (7, 7)):
        pixel = sheet.convert("L").getpixel((j * side + side // 2, i * side + side // 2))
        assert pixel == round(float(first[i, j]))


def test_the_tests_order_is_drawn_from_its_seed_and_mixes_the_kinds():
    orders = [[q["of"] for q in pictures(made(seed=seed))[1]] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])


def test_videos_move():
    found, questions = pictures(made(sheets(3, (3, 5, 8, 8)), rate=25.0))
    assert (found[0].format, found[0].n_frames) == ("GIF", 5)
    assert opened(questions[0]["source"]).n_frames == 5
    assert found[0].info["duration"] == 40


def test_a_blind_page_hides_the_sheets_until_the_end():
    assert '<div id="sheets" hidden>' in made(blind=True)
    assert '<div id="sheets">' in made()


def test_what_is_from_elsewhere_is_escaped():
    assert "A &lt;b&gt;run&lt;/b&gt;" in made()
    found = sheets()
    found["</script><script>alert(1)"] = found.pop("bootdiff")
    assert "</script><script>alert(1)" not in made(found)


def test_signals_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).uniform(-1, 1, (80, 16)).astype(np.float32))
    pool = TINY.replace("path: digits, labels: true, limit: 200", "path: x.npy, kind: signal, range: [-1, 1]")
    views = "views: {a: {view: {kind: window, length: 8}}}\nbackbones"
    signal = re.sub(r"views:.*?backbones", views, pool, flags=re.DOTALL)
    (tmp_path / "r.yaml").write_text(signal.replace("steps: 20", "steps: 1"))
    said = call("fit", tmp_path / "r.yaml", "--out", tmp_path / "run", "--arm", "full-only")
    assert said.exit_code == 0, said.output
    assert "its samples are signals, which a gallery cannot show" in refused("gallery", tmp_path / "run")


@pytest.mark.parametrize("arguments", [["--arm", "nobody"], ["--arm", "distilled"]])
def test_arms_that_are_not_there_are_named(trained, arguments):
    assert "no trained arm" in refused("gallery", trained.run, *arguments)

"""report.html: what it shows of runs that are whole, empty, under way or damaged; that it is a safe, readable page."""

from __future__ import annotations

import base64
import io
import json
import random
import re
import shutil
from functools import reduce
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import bootdiff as bd
from bootdiff.cli.report import comparison, live, page, svg, words
from bootdiff.cli.report.live import LiveReport
from bootdiff.cli.report.run_facts import RunFacts
from bootdiff.nets import BuiltIn
from bootdiff.training.files import read_json, read_metrics, row_line, stamped, write_stamped
from bootdiff.training.run import Run
from cli_calls import TINY, call, refused

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """The elements of a page, which must be nested rightly."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.headings = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        raise AssertionError(f"<{tag}/>: no such thing in HTML")

    def handle_endtag(self, tag):
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings.append((self.open[-1], data))

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def titles(self):
        return [text for level, text in self.headings if level == "h2"]


def read(path):
    """A page, checked: self-contained, without scripts, readable by all."""
    text = path.read_text(encoding="utf-8")
    found = Page(text)
    assert {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in found.tags} == set()
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    for attributes in found.all("img"):
        assert attributes["alt"].strip()
        kind, _, data = attributes["src"].partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
    for attributes in found.all("svg"):
        assert attributes.get("aria-hidden") == "true" or (attributes["role"], bool(attributes["aria-label"])) == (
            "img",
            True,
        )
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["href"] for attributes in found.all("a")} <= {f"#{name}" for name in ids}
    assert "url(" not in text
    assert "@import" not in text
    assert len([1 for level, _ in found.headings if level == "h1"]) == 1
    assert len(found.all("table")) == len(found.all("caption"))
    assert all(attributes["scope"] in ("col", "row") for attributes in found.all("th"))
    return found


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run that may be damaged."""
    shutil.copytree(trained.run, tmp_path / "run")
    return tmp_path / "run"


def written(folder):
    return read(page.write(folder))


# --- whole ---


def test_training_leaves_a_report_with_the_figures_of_metrics_json(trained, run):
    assert read(trained.run / "report.html").titles()[:2] == ["The data", "The result"]
    found = written(run)  # other tests measure this run, too
    metrics = read_json(run / "metrics.json")
    for arm in ("full_only", "bootdiff", "oracle"):
        assert f"{metrics['holdout_loss'][arm]['mean']:.4f}" in found.text
    assert found.titles()[:2] == ["The data", "The result"]
    assert {"Samples", "Who decides at which noise", "The networks", "Cost", "How to use the model"} <= set(
        found.titles()
    )
    assert "images of 8 x 8, 1 channel; 10 classes" in found.text
    assert "14 / 20" not in found.text
    assert 'bd.load("run/bootdiff")' in found.text
    assert "Not shown" not in found.text
    for caption in ("samples of full only", "samples of bootdiff", "real samples, not trained on"):
        assert caption in found.text


def test_nothing_of_this_machine_is_in_it(trained):
    text = (trained.run / "report.html").read_text()
    assert str(trained.run.parent) not in text


def test_the_folder_lists_what_is_to_be_trained(trained):
    expected = read_json(trained.run / "trainings.json")
    assert expected["full-local"] == {"network": "local", "steps": 20}
    assert next(iter(expected)) == "full-local"
    facts = RunFacts.read(trained.run)
    assert [stage.name for stage in facts.stages] == list(expected)
    assert all((stage.state, stage.step, stage.steps) == ("done", 20, 20) for stage in facts.stages)
    assert facts.finished
    assert facts.seconds_left == 0


def test_the_report_is_small_and_quick(trained):
    assert (trained.run / "report.html").stat().st_size < 300_000


# --- not whole ---


def test_a_run_that_has_just_begun(tmp_path):
    with Run.open(tmp_path / "run", "a: 1\n"):
        found = written(tmp_path / "run")
    assert "nothing trained yet" in found.text
    assert "No network has been trained yet." in found.text
    assert "data.json is not there" in found.text
    assert "There is no finished model yet" in found.text


def test_a_run_under_way_tells_what_is_left(run):
    for name in ("metrics.json", "ledger.json"):
        (run / name).unlink()
    for arm in ("full_only", "views_only", "unregularized", "bootdiff", "oracle"):
        shutil.rmtree(run / arm)
    shutil.rmtree(run / "samples")
    for stage in ("residual-local", "residual-stack", "oracle-local", "oracle-stack"):
        shutil.rmtree(run / "stages" / stage, ignore_errors=True)
    (run / "stages" / "visible-local" / "done.json").unlink()
    rows = read_metrics(run / "metrics.jsonl")
    kept = [
        row for row in rows
        if row["stage"] not in ("residual-local", "oracle-local")
        and (row["stage"], row["step"]) != ("visible-local", 20)
    ]  # fmt: skip
    (run / "metrics.jsonl").write_text(
        "".join(row_line({k: v for k, v in row.items() if k != "crc"}).decode() for row in kept)
    )
    found = written(run)
    assert "in training, or interrupted" in found.text
    assert found.titles()[0] == "Where it stands"
    states = {stage.name: stage.state for stage in RunFacts.read(run).stages}
    assert (states["full-local"], states["visible-local"], states["oracle-local"]) == ("done", "running", "to come")
    assert "10 / 20" in found.text
    assert re.search(r"3 of \d networks are trained, about \d+ s of training left", found.text)
    assert "Not measured yet" in found.text


def test_a_run_of_one_arm_without_a_test_set(run):
    for arm in ("views_only", "unregularized", "bootdiff", "oracle"):
        shutil.rmtree(run / arm)
    metrics, data = (read_json(run / name) for name in ("metrics.json", "data.json"))
    metrics["holdout_loss"] = {"full_only": metrics["holdout_loss"]["full_only"]}
    metrics["evaluated_on"] = "held-out (also used for selection: optimistic)"
    del data["counts"]["test"]
    write_stamped(run / "metrics.json", metrics)
    write_stamped(run / "data.json", data)
    found = written(run)
    assert "There is no test set" in found.text
    assert "held-out (also used for selection: optimistic)" in found.text
    assert 'bd.load("run/full_only")' in found.text
    assert "Not shown" not in found.text


@pytest.mark.parametrize(
    "name",
    ["data.json", "metrics.json", "ledger.json", "provenance.json", "trainings.json", "metrics.jsonl",
     "stages/residual-stack/done.json", "stages/full-local/done.json", "plan/plan.json"],
)  # fmt: skip
@pytest.mark.parametrize(
    "content", ["{", "[1, 2]", '{"shape": 3, "holdout_loss": {"bootdiff": 1}, "words": 7, "full-local": 2}']
)
def test_what_is_damaged_is_said_and_the_rest_is_shown(run, name, content):
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text(content)
    found = written(run)
    assert "How to use the model" in found.titles()
    shown = {"data.json": "The result", "metrics.json": "The data"}.get(name, "The result")
    assert shown in found.titles()
    if content == "{" and not (name.startswith("stages/full") or name == "metrics.jsonl"):
        assert name.rpartition("/")[2] in found.text.partition("Not shown:")[2]


def places(value, path=()):
    """The paths of all values in a JSON value."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


def test_no_value_in_a_file_stops_the_page(run):
    draw = random.Random(0)
    for _ in range(80):
        file = run / draw.choice(["data.json", "metrics.json", "ledger.json", "provenance.json", "trainings.json"])
        before = file.read_text()
        damaged = json.loads(before)
        entries = damaged if isinstance(damaged, list) else [damaged]
        *path, last = draw.choice(list(places(damaged))[1:])
        inside = reduce(lambda value, key: value[key], path, damaged)
        inside[last] = draw.choice([None, [], {}, "x", -1, 10**400, float("nan"), float("inf"), {"a": {"b": None}}])
        again = [stamped(one) if isinstance(one, dict) else one for one in entries]  # what it says is to be met
        file.write_text(json.dumps(again if isinstance(damaged, list) else again[0]))
        facts = RunFacts.read(run)
        for text in (page.build(facts), comparison.build([facts, facts])):
            Page(text)
        file.write_text(before)


def test_what_comes_from_files_is_escaped(run):
    evil = "<script>alert(1)</script>"
    data, metrics, expected = (read_json(run / name) for name in ("data.json", "metrics.json", "trainings.json"))
    data["classes"] = [evil]
    data["counts"][f"view {evil}"] = 3
    metrics["recipe"]["name"] = evil
    metrics["holdout_loss"][f'"{evil}'] = metrics["holdout_loss"]["oracle"]
    ledger = metrics["ledger"]["arms"]
    ledger[evil] = ledger["oracle"]
    for name, content in (("data.json", data), ("metrics.json", metrics)):
        write_stamped(run / name, content)
    write_stamped(run / "trainings.json", expected | {evil: {"steps": 3, "network": evil}})
    write_stamped(run / "ledger.json", {evil: {"device": evil, "steps": 1}})
    (run / "plan").mkdir()
    write_stamped(run / "plan" / "plan.json", {"words": {"x": evil}})
    with (run / "metrics.jsonl").open("a") as file:
        for step in (1, 2):
            row = {"stage": "full-<b>", "step": step, "heldout": {"0.2": 0.5, "0.8": 0.4}}
            file.write(row_line(row).decode())
    text = page.write(run).read_text()
    found = read(run / "report.html")
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 6
    assert evil in found.text


def test_pictures_of_training_are_a_strip_each(run):
    for step in (3, 9):
        shutil.copyfile(run / "views.png", run / "samples" / f"full-local-{step:06d}.png")
    found = written(run)
    assert ("h3", "full-local") in found.headings
    assert "3 steps 9 steps" in found.text
    assert "Samples of full-local after 9 steps" in [attributes["alt"] for attributes in found.all("img")]


def test_large_pictures_are_made_smaller(run):
    noise = Image.effect_noise((1200, 600), 80).convert("RGB")
    noise.save(run / "samples" / "full-local-000009.png")
    noise.save(run / "views.png")
    sizes = {}
    for attributes in written(run).all("img"):
        data = base64.b64decode(attributes["src"].partition(",")[2])
        sizes[attributes["alt"]] = Image.open(io.BytesIO(data)).size
    assert sizes["Samples of full-local after 9 steps"] == (320, 160)
    assert sizes[next(alt for alt in sizes if alt.startswith("Full samples"))] == (1200, 600)


# --- the command ---


def test_report_refreshes_one_run_and_says_where(run):
    (run / "report.html").write_text("old")
    result = call("report", run)
    assert result.exit_code == 0, result.output
    assert f"Look at {run / 'report.html'}" in result.stdout
    read(run / "report.html")


def test_report_compares_several_runs(run, trained, tmp_path):
    metrics = read_json(run / "metrics.json")
    metrics["count"] = 5
    write_stamped(run / "metrics.json", metrics)
    (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text().replace("steps: 20", "steps: 21", 1))
    result = call("report", run, trained.run, "--out", tmp_path / "both.html")
    assert result.exit_code == 0, result.output
    found = read(tmp_path / "both.html")
    assert found.titles() == ["Results", "What differs", "Samples", "Where they stand"]
    assert "training.steps" in found.text
    assert "their figures are not comparable" in found.text


def test_report_writes_nothing_where_there_is_no_run(run, tmp_path):
    (run / "report.html").unlink()
    other = tmp_path / "photos"
    other.mkdir()
    (other / "recipe.yaml").write_text("a: 1\n")
    assert "not a run (no run.json in it)" in refused("report", run, other)
    assert "not a run" in refused("report", tmp_path / "missing")
    assert [path.name for path in other.iterdir()] == ["recipe.yaml"]
    assert not (run / "report.html").exists()
    assert "ends in .html" in refused("report", run, "--out", tmp_path / "page.txt")


# --- while training ---


def test_a_report_that_fails_is_said_once_and_stops_nothing(tmp_path, monkeypatch):
    def fails(folder):
        raise OSError("no room")

    monkeypatch.setattr(live.page, "write", fails)
    said = []
    report = LiveReport(tmp_path, said.append)
    report.write()
    report.write()
    assert said == [f"{tmp_path / 'report.html'}: not written (no room); nothing else depends on it"]


def test_writing_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    now, writes = [100.0], []

    def slow(folder):
        writes.append(now[0])
        now[0] += 1.0

    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(live.page, "write", slow)
    report = LiveReport(tmp_path, print)
    for k in range(2000):
        (report.due if k % 10 == 0 else report.tick)()
        now[0] += 0.2
    assert 0.01 <= len(writes) / (now[0] - 100) <= 0.03
    LiveReport(tmp_path, print, main=False).write()
    assert writes[-1] < now[0]
    before = len(writes)
    LiveReport(tmp_path, print, main=False).due()
    assert len(writes) == before


# --- plots and words ---


def test_plots_leave_out_what_is_not_finite_and_escape_names():
    plot = svg.lines({"<b>": [(0.1, 1.0), (1.0, float("nan"))]}, "<title>", "x<", "y", log=True, at=1.0)
    assert "nan" not in plot
    assert "&lt;title&gt;" in plot
    assert "<b>" not in plot + svg.legend(["<b>"])
    assert svg.lines({"a": []}, "", "", "") == ""
    Page(str(plot) + str(svg.columns({"a": [0.5, 2.0], "b": [0.5, 0.0]}, [0.1, 1], "t", "x", "y")))


def test_shares_of_a_stack_add_up_to_one():
    found = words.shares({"levels": [1, 2], "names": ["full-a", "full-b"], "values": [[0.9, 0.4], [0.1, 0.2]]})
    assert [round(sum(part[i] for part in found.values()), 9) for i in range(2)] == [1, 1]


# --- with what came before the training ---


def test_a_forecast_that_lies_in_the_run_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(TINY)
    assert call("plan", "mine.yaml", "--no-costs").exit_code == 0
    words = read_json(tmp_path / "runs" / "mine" / "plan" / "plan.json")["words"]
    result = call("fit", "mine.yaml", "--arm", "full_only")  # into the folder that `plan` began
    assert result.exit_code == 0, result.output
    found = read(tmp_path / "runs" / "mine" / "report.html")
    assert all(" ".join(text.split()) in found.text for text in words.values())


# --- of a run from Python ---


G = torch.Generator().manual_seed(0)
X = torch.randn(64, 1, 4, 4, generator=G).repeat_interleave(2, 2).repeat_interleave(2, 3).clamp(-2, 2) / 2
SMALL = {"small": (bd.Downsample(2), torch.nn.functional.avg_pool2d(X[16:], 2))}
NOISE = {"noise": (bd.Downsample(2), torch.rand(48, 1, 4, 4, generator=G) * 0.1)}


def fit(views=SMALL, **more):
    training = bd.TrainingSettings(steps=60, batch=32, evaluate_every=20, warmup=0)
    local = BuiltIn("local", {"width": 4, "depth": 3})
    how = {"networks": {"local": local}, "training": training, "levels": (0.3, 1.5), "log": None}
    return bd.fit(X[:16], views, **{**how, **more})


@pytest.fixture(scope="module")
def from_python(tmp_path_factory):
    folder = tmp_path_factory.mktemp("python") / "mine"
    lines = []
    fit(run=folder, log=lines.append)
    return SimpleNamespace(run=folder, lines=lines)


def test_a_run_from_python_has_the_report_of_a_run_from_a_recipe(from_python):
    found = read(from_python.run / "report.html")
    assert "Trained on 13 full samples and 43 partial ones." in found.text
    assert found.titles() == [
        "The data", "The result", "Samples over time", "Who decides at which noise", "What each view is worth",
        "Learning curves", "The networks", "Cost", "How to use the model",
    ]  # fmt: skip
    assert "not shown" not in found.text.lower()
    assert any(attributes["alt"].startswith("Full samples, each view of them") for attributes in found.all("img"))
    assert 'bd.load("mine/bootdiff")' in found.text
    assert any(str(from_python.run / "report.html") in line for line in from_python.lines)
    assert (from_python.run / "losses.png").is_file()
    assert str(from_python.run.parent) not in (from_python.run / "report.html").read_text()


def test_commands_that_need_a_recipe_are_not_recommended_for_it(from_python, trained):
    text = read(from_python.run / "report.html").text
    assert "bootdiff sample mine" in text
    assert "bootdiff evaluate" not in text
    assert "bootdiff plan" not in text
    assert "bootdiff evaluate" in read(trained.run / "report.html").text


def test_the_commands_take_a_run_from_python(from_python, tmp_path, trained):
    shutil.copytree(from_python.run, tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    assert call("sample", tmp_path / "run", "-n", 4, "--steps", 4).exit_code == 0
    assert call("report", tmp_path / "run").exit_code == 0
    assert "samples of bootdiff" in read(tmp_path / "run" / "report.html").text
    both = tmp_path / "both.html"
    assert call("report", tmp_path / "run", trained.run, "--out", both).exit_code == 0
    assert both.is_file()
    assert call("verify", tmp_path / "run").exit_code == 0


def test_a_run_from_python_that_is_stopped_says_so_and_goes_on(tmp_path):
    def stop(line):
        if line.startswith("full-local"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(run=tmp_path / "run", log=stop)
    found = read(tmp_path / "run" / "report.html")
    assert "in training, or interrupted" in found.text
    assert found.titles()[0] == "Where it stands"
    fit(run=tmp_path / "run")
    assert "in training" not in read(tmp_path / "run" / "report.html").text


def test_networks_that_a_run_turned_out_not_to_need_are_not_waited_for(tmp_path):
    fit(NOISE, run=tmp_path / "run")
    facts = RunFacts.read(tmp_path / "run")
    assert facts.left_out
    assert facts.finished
    assert not [stage for stage in facts.stages if stage.part == "residual"]


def test_a_report_that_cannot_be_written_stops_no_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "write", refuse := Refusal())
    lines = []
    fit(run=tmp_path / "run", log=lines.append)
    assert refuse.calls
    assert len([line for line in lines if "not written (no room)" in line]) == 1


class Refusal:
    calls = 0

    def __call__(self, folder):
        self.calls += 1
        raise OSError("no room")


def test_a_fit_without_a_folder_draws_nothing(monkeypatch):
    monkeypatch.setattr(page, "write", refuse := Refusal())
    fit(training=bd.TrainingSettings(steps=2, batch=8, evaluate_every=2, warmup=0))
    assert not refuse.calls

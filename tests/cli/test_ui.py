"""`bootdiff ui`: what its page may touch, what it makes of bad runs and files, how it computes; in a browser,
too, where gradio, playwright and Chromium are installed."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from bootdiff.cli.report.metadata import DataInfo
from bootdiff.cli.webui import drawing, markup, restoring, serve
from bootdiff.cli.webui.drawing import Wish
from bootdiff.cli.webui.models import Models
from bootdiff.cli.webui.processes import Command, Commands
from bootdiff.cli.webui.restoring import HIDE, PAINTED
from bootdiff.cli.webui.site import LISTED, Site, inside
from bootdiff.cli.webui.work import Desk, Stopped
from bootdiff.data.units import Units
from bootdiff.errors import BootdiffError
from bootdiff.recipe.build import build_problem
from bootdiff.recipe.trust import trust_imports
from bootdiff.sampling import sample
from bootdiff.training.lock import in_use, lock
from bootdiff.training.run import Run
from cli.test_restore_kinds import run_of
from cli_calls import refused

CHROMIUM = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)


@pytest.fixture(scope="module")
def site(trained, tmp_path_factory) -> Site:
    """The trained run below a folder, and an empty folder of data."""
    runs = tmp_path_factory.mktemp("runs")
    shutil.copytree(trained.run, runs / "tiny")
    return Site(runs, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(site):
    return Models(site).load("tiny", "bootdiff")


def nothing(*_):
    pass


# --- what it may touch ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["..", "../runs", "a/../../b", "/etc", "/", "", " ", "a\0b", "link", "link/passwd"])
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "link").symlink_to("/etc")
    with pytest.raises(BootdiffError, match=r"is not below home/|no name"):
        inside(tmp_path / "home", name, "run")


def test_names_inside_are_found(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert inside(tmp_path, "a", "run") == inside(tmp_path, "b", "run") == tmp_path / "a"


def test_runs_outside_are_neither_listed_nor_shown(tmp_path, trained):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "sly").symlink_to(trained.run)
    (tmp_path / "runs" / "round").symlink_to(tmp_path / "runs")
    outside = Site(tmp_path / "runs", tmp_path)
    assert outside.listing().found == 0
    with pytest.raises(BootdiffError, match="not below"):
        outside.report("sly")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "-rf", "x" * 200, "a b"])
def test_a_recipe_has_a_plain_name(site, name):
    with pytest.raises(BootdiffError, match="a name has letters"):
        site.recipe(name)


def test_commands_take_folders_of_the_data_alone_and_few_changes(site):
    commands = Commands(site)
    (site.data / "full").mkdir(exist_ok=True)
    (site.data / "there.yaml").write_text("full: {path: full}\n")
    with pytest.raises(BootdiffError, match="not below"):
        commands.new("mine", "/etc", ["full"])
    with pytest.raises(BootdiffError, match="not below"):
        commands.new("mine", "full", ["../" + site.runs.name])
    with pytest.raises(BootdiffError, match="none of that name"):
        commands.new("mine", "full", ["thumbnails"])
    with pytest.raises(BootdiffError, match="is there already"):
        commands.new("there", "full", ["full"])
    for change in ("full.path=/etc", "training.steps=1 --out /", "backbones.unet.kind=os:system"):
        with pytest.raises(BootdiffError, match="change that in the recipe's file"):
            commands.fit("there", changes=[change])
    with pytest.raises(BootdiffError, match="no such recipe"):
        commands.check("nowhere")
    assert commands.running == []


RECIPE = """\
# mine
full: {path: full}
views:
  small: {view: {kind: downsample, factor: 2}, data: {path: small}}
"""


@pytest.fixture
def written(tmp_path):
    """A site with a recipe."""
    for name in ("full", "small"):
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text(RECIPE)
    return Site(tmp_path / "runs", tmp_path / "data")


def test_a_recipe_is_changed_on_the_page(written):
    now = RECIPE.replace("factor: 2", "factor: 4") + "training: {steps: 7}\n"
    Commands(written).save("mine", now)
    assert (written.data / "mine.yaml").read_text() == now == written.recipe_text("mine")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("factor: 2", "factor: two", "views.small.view.factor"),
        ("path: full}", "path: /etc}", "full.path: /etc is not below data/"),
        ("path: full}", "path: ../runs}", "is not below data/"),
        ("path: small", "path: link", "views.small.data.path: .*link is not below data/"),
        (
            "{kind: downsample, factor: 2}",
            "{kind: mask, image: /etc/x.png}",
            "views.small.view.image: /etc/x.png is not",
        ),
        ("path: small}", "path: small}, pretrained: ~/model", "views.small.pretrained"),
        ("views:", "init: {full: /srv/model}\nviews:", "init.full: /srv/model is not below data/"),
        ("views:", "evaluate: {features: /tmp/f.pt}\nviews:", "evaluate.features: /tmp/f.pt is not below data/"),
        (
            "path: full}",
            "path: 'hf://somebody/photos'}",
            "hf://somebody/photos'?: what is elsewhere is named in the file",
        ),
        ("views:", "backbones: {net: {kind: 'os:system'}}\nviews:", "--trust-imports"),
        ("# mine", "#" + 30_000 * "x", "longer than 20,000 characters"),
    ],
)
def test_what_a_page_may_not_write_is_refused_and_nothing_is_written(written, old, new, says):
    (written.data / "link").symlink_to("/etc")
    assert old in RECIPE
    with trust_imports(), pytest.raises(BootdiffError, match=says):  # also of a page that was started with trust
        Commands(written).save("mine", RECIPE.replace(old, new, 1))
    assert (written.data / "mine.yaml").read_text() == RECIPE


def test_what_the_file_itself_names_may_stay(written, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    own = RECIPE.replace("path: full}", f"path: {tmp_path / 'elsewhere'}}}")
    (written.data / "mine.yaml").write_text(own)
    Commands(written).save("mine", own.replace("factor: 2", "factor: 4"))
    assert "factor: 4" in written.recipe_text("mine")
    with pytest.raises(BootdiffError, match="no such recipe"):
        Commands(written).save("other", own)
    (written.data / "mine.yaml").write_text("full: [")  # is mended here
    Commands(written).save("mine", RECIPE)
    (written.data / "mine.yaml").write_text("#" * 30_000)
    with pytest.raises(BootdiffError, match="change it in its file"):
        Commands(written).save("mine", RECIPE)


def test_a_recipe_that_is_in_use_is_not_changed(written, monkeypatch):
    commands = Commands(written)
    monkeypatch.setattr(commands, "of", lambda name: SimpleNamespace(running=True, verb="fit"))
    with pytest.raises(BootdiffError, match="`fit` runs still; wait for it, or stop it, then save"):
        commands.save("mine", RECIPE)


def test_folders_to_choose_from_lie_below_the_data(tmp_path):
    for name in ("photos/full", "photos/small", ".secret", "runs/mine"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "0.png").write_bytes(b"")
    (tmp_path / "clips.npy").write_bytes(b"")
    (tmp_path / "etc").symlink_to("/etc")
    assert Site(tmp_path / "runs", tmp_path).folders_of_data() == ["clips.npy", "photos/full", "photos/small"]


# --- runs -------------------------------------------------------------------------------------------------------------


def test_bad_runs_are_a_line_each(site, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(site.runs / "tiny", runs / "good")
    for name, file, content in (
        ("damaged", "run.json", "{"),
        ("binary", "run.json", "\x00\x01"),
        ("foreign", "bootdiff/model.json", '{"format": 1}'),
        ("later", "bootdiff/model.json", '{"format": 99, "denoiser": {}}'),
        ("<script>alert(1)</script>", "run.json", "[]"),
    ):
        folder = runs / name.replace("/", "")
        shutil.copytree(site.runs / "tiny", folder)
        (folder / file).write_text(content)
    (runs / "no-run").mkdir()
    (runs / "file").write_text("")
    listing = Site(runs, tmp_path).listing()
    assert listing.found == 6
    assert [run.name for run in listing.good] == ["good"]
    said = {run.name: run.line for run in listing.bad}
    assert "not JSON" in said["damaged"]
    assert "0.1" in said["foreign"]
    assert "99" in said["later"]
    gradio_free = markup.bullets(run.line for run in listing.bad)
    assert "<script>" not in gradio_free
    for name in said:  # the report tells what it cannot show
        assert "<html" in Site(runs, tmp_path).report(name)


def test_a_run_being_written_is_in_training(site, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(site.runs / "tiny", runs / "busy")
    assert Site(runs, tmp_path).listing().runs[0].state.startswith("trained: full only")
    assert not in_use(runs / "busy")
    with lock(runs / "busy"):
        assert in_use(runs / "busy")
        assert Site(runs, tmp_path).listing().runs[0].state.endswith("in training")
        assert "<html" in Site(runs, tmp_path).report("busy")
    (runs / "busy" / "lock").write_text("{")
    assert not in_use(runs / "busy")


def test_a_thousand_runs_are_listed_quickly_the_newest_first(tmp_path):
    with Run.open(tmp_path / "first", "a: 1", "data", seed=0):
        pass
    for i in range(1000):
        (tmp_path / "many" / f"run-{i:04d}").mkdir(parents=True)
        shutil.copy(tmp_path / "first" / "run.json", tmp_path / "many" / f"run-{i:04d}")
        os.utime(tmp_path / "many" / f"run-{i:04d}", (i, i))
    start = time.perf_counter()
    listing = Site(tmp_path / "many", tmp_path).listing()
    assert time.perf_counter() - start < 3
    assert (listing.found, len(listing.runs), listing.runs[0].name) == (1000, LISTED, "run-0999")
    assert [run.name for run in Site(tmp_path / "many", tmp_path).listing("0007").runs] == ["run-0007"]


def test_a_run_itself_may_be_given(site, tmp_path):
    alone = Site(site.runs / "tiny", tmp_path)
    assert [run.name for run in alone.listing().runs] == ["."]
    assert "<html" in alone.report(".")
    with pytest.raises(BootdiffError, match="folder of the runs"):
        alone.new_run("mine")


def test_a_report_is_shown_in_a_frame_that_can_do_nothing(site):
    shown = markup.frame(site.report("tiny"), 'of "mine"')
    assert '<iframe sandbox="" srcdoc="&lt;!doctype' in shown
    assert 'title="of &#34;mine&#34;"' in shown


# --- computing --------------------------------------------------------------------------------------------------------


def test_samples_are_those_of_the_command_and_the_last_frame_is_what_was_drawn(model):
    told = []
    drawn = drawing.draw(model, Wish(count=5, seed=3, steps=6), lambda *a: told.append(a))
    sampling = model.run.sampling
    expected = sample(
        model.denoiser, 5, seed=3, steps=6, scheduler=sampling.scheduler, sigma_min=sampling.sigma_min,
        sigma_max=sampling.sigma_max,
    )  # fmt: skip
    assert torch.equal(drawn.x, expected)
    levels = [frame.sigma for frame in drawn.frames]
    assert len(levels) == 6
    assert levels == sorted(levels, reverse=True)
    assert torch.allclose(drawn.frames[-1].x, drawn.x, atol=1e-5)
    assert [done for done, _, _ in told] == [1, 2, 3, 4, 5, 6]
    assert told[0][2] is drawn.frames[0]


@pytest.mark.parametrize("solver", ["heun", "euler"])
def test_every_solver_is_watched(model, solver):
    drawn = drawing.draw(model, Wish(count=2, steps=4, scheduler=solver), nothing)
    assert len(drawn.frames) == 4


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish(count=0), "samples: between 1 and 64"), (Wish(count=10**6), "samples"), (Wish(steps=1), "steps"),
        (Wish(seed=-1), "seed"), (Wish(label="nine"), "no such class"), (Wish(guidance=3.0), "guidance"),
        (Wish(scheduler="no"), "solver no"),
    ],
)  # fmt: skip
def test_wishes_that_make_no_sense_are_refused_in_words(model, wish, said):
    with pytest.raises(BootdiffError, match=said):
        drawing.draw(model, wish, nothing)


@pytest.mark.parametrize("arm", ["bootdiff", "full_only", "views_only", "unregularized", "oracle"])
def test_who_is_heard_is_shown_of_every_arm(site, arm):
    arm_model = Models(site).load("tiny", arm)
    voices = drawing.speaking(arm_model)
    for level in (0.001, 0.5, 80):
        assert sum(voices.at(level).values()) == pytest.approx(1) or not voices.shares
    assert bool(voices.gains) == (arm in ("bootdiff", "views_only", "unregularized"))
    drawn = drawing.draw(arm_model, Wish(count=2, steps=12), nothing)
    film = drawing.film(drawn, voices)
    assert film.count("<img") == film.count('alt="Denoised estimate at noise level')
    assert 2 <= film.count("<img") <= 9
    assert "step 1 of 12" in drawing.level(drawn, voices, 1)


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def steps(begun=None):
    """A computation of many steps."""

    def compute(tick):
        for k in range(2000):
            tick(k, 2000)
            if begun is not None:
                begun.set()
            time.sleep(0.005)
        return "done"

    return compute


def test_a_computation_tells_how_it_stands():
    *_, last = Desk().do("a", lambda tick: [tick(k, 3, k) for k in range(3)] and "result")
    assert (last.done, last.result, last.shown, last.of) == (True, "result", 2, 3)


@pytest.mark.parametrize("error", [BootdiffError("no such class"), ValueError("no such class"), KeyError("class")])
def test_what_goes_wrong_is_told_and_frees_the_desk(error):
    desk = Desk()

    def compute(tick):
        raise error

    with pytest.raises(BootdiffError, match="class"):
        list(desk.do("a", compute))
    assert not desk.busy


def test_who_is_gone_keeps_nothing_running():
    desk = Desk()
    asking = desk.do("a", steps())
    next(asking)
    until(lambda: desk.busy)
    asking.close()  # as a server does whose client is gone
    until(lambda: not desk.busy)


def test_two_browsers_wait_for_each_other_and_stop_their_own():
    desk, begun = Desk(), threading.Event()
    first, second = desk.do("a", steps(begun)), desk.do("b", lambda tick: "mine")
    next(first)
    assert begun.wait(10)
    assert next(second) is not None
    assert next(second).waiting
    desk.stop("b")
    with pytest.raises(Stopped):
        list(second)
    assert desk.busy
    desk.stop("a")
    with pytest.raises(Stopped):
        list(first)
    assert not desk.busy


def test_a_browser_that_asks_for_nothing_is_gone(monkeypatch):
    monkeypatch.setattr("bootdiff.cli.webui.work._AWAY", 0.2)
    desk = Desk()
    asking = desk.do("a", steps())
    next(asking)
    until(lambda: desk.busy)
    until(lambda: not desk.busy)
    with pytest.raises(Stopped):
        list(asking)


# --- restoring --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problem(model):
    return build_problem(model.run.recipe)


@pytest.mark.parametrize("choice", [PAINTED, "thumbnails", "halves"])
def test_examples_are_restored_and_agree(model, problem, choice):
    given = restoring.example(model, problem, choice, 1)
    mask = restoring.hidden_in(model.shape, "left half", []) if choice == PAINTED else None
    found = restoring.answer(model, given, mask, nothing, count=3, steps=3)
    assert found.x.shape == (3, *model.shape)
    assert found.agreement["max"] < 1e-3
    shown = restoring.show(found)
    assert shown.count("<img") == shown.count(' alt="') == 7  # given, mean, spread, truth, three answers
    assert "PSNR" in shown


def test_an_example_that_is_not_there(model, problem):
    with pytest.raises(BootdiffError, match="numbered from 0"):
        restoring.example(model, problem, PAINTED, 10**6)


def test_an_answer_is_of_the_run_it_was_loaded_for(model, problem, site):
    other = SimpleNamespace(run=SimpleNamespace(name="other"))
    with pytest.raises(BootdiffError, match="different run"):
        restoring.answer(other, restoring.example(model, problem, "halves", 0), None, nothing)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def huge(path, side=60_000):
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"0")))


def test_bad_uploads_get_a_clear_message(model, tmp_path):
    def said(name, fit=False, choice=PAINTED):
        with pytest.raises(BootdiffError) as error:
            restoring.of_file(model, choice, tmp_path / name, fit)
        assert str(tmp_path) not in str(error.value)
        return str(error.value)

    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    huge(tmp_path / "huge.png")
    Image.new("L", (40, 30)).save(tmp_path / "large.png")
    Image.new("L", (4, 4)).save(tmp_path / "small.png")
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "model.pt").write_bytes(b"x")
    assert "is no picture" in said("text.png")
    assert "is empty" in said("empty.png")
    assert "more than" in said("huge.png")
    assert "30 x 40 x 1, samples of this run are of 8 x 8 x 1" in said("large.png")
    assert "small.png" in said("small.png", fit=True)
    assert "small.png" in said("small.png", choice="halves")
    assert "ickle" in said("pickled.npy")
    assert said("model.pt")


def test_uploads_of_the_right_size_or_larger_are_taken(model, tmp_path):
    Image.new("L", (8, 8), 200).save(tmp_path / "same.png")
    Image.linear_gradient("L").resize((90, 120)).save(tmp_path / "large.png")
    Image.new("L", (4, 4), 100).save(tmp_path / "thumb.png")
    assert restoring.of_file(model, PAINTED, tmp_path / "same.png", False).partial.stored.shape == (1, 1, 8, 8)
    large = restoring.of_file(model, PAINTED, tmp_path / "large.png", True)
    assert large.partial.stored.shape == (1, 1, 8, 8)
    assert max(restoring.canvas(large).size) == 384
    thumb = restoring.of_file(model, "thumbnails", tmp_path / "thumb.png", False)
    assert restoring.answer(model, thumb, None, nothing, count=1, steps=2).x.shape == (1, 1, 8, 8)


def test_what_is_painted_is_hidden():
    layer = np.zeros((384, 384, 4), dtype=np.uint8)
    layer[0:96, 0:48, 3] = 255  # two rows and a column of 8 x 8
    layer[200:205, 200:205, 3] = 255  # less than half a pixel
    mask = restoring.hidden_in((3, 8, 8), HIDE[0], [layer])
    assert mask.shape == (1, 8, 8)
    assert mask.sum() == 62
    assert mask[0, :2, 0].sum() == 0
    assert restoring.hidden_in((1, 4, 8, 8), "right half", [])[0, :, :, 4:].sum() == 0
    with pytest.raises(BootdiffError, match="nothing is hidden"):
        restoring.hidden_in((3, 8, 8), HIDE[0], [])
    with pytest.raises(BootdiffError, match="everything is hidden"):
        restoring.hidden_in((3, 8, 8), HIDE[0], [np.full((8, 8, 4), 255)])


@pytest.mark.parametrize(
    ("shape", "named", "hidden"),
    [
        ((3, 8, 8), "rows 2-3, columns 0-4", (slice(2, 4), slice(0, 5))),
        ((3, 8, 8), "Row 7", (7,)),
        ((1, 8, 6), "columns 5", (slice(None), 5)),
        ((1, 4, 8, 6), "frames 1-2, rows 0-3", (slice(1, 3), slice(0, 4))),
    ],
)
def test_a_part_is_hidden_without_a_pointing_device(shape, named, hidden):
    mask, right = restoring.hidden_in(shape, restoring.NAMED, [], named), torch.ones(1, *shape[1:])
    right[(0, *hidden)] = 0
    assert torch.equal(mask, right)
    both = restoring.hidden_in(shape, restoring.NAMED, [], f"{named}; rows 0, columns 0")
    assert both[0, ..., 0, 0].sum() == 0
    assert both.sum() <= right.sum()


@pytest.mark.parametrize("named", ["rows 7-9", "rows 3-2", "lines 2", "3-4", "frames 0", "rows -1"])
def test_parts_that_are_not_there_are_refused(named):
    with pytest.raises(BootdiffError, match="rows of 0 to 7, columns of 0 to 5"):
        restoring.hidden_in((1, 8, 6), restoring.NAMED, [], named)


@pytest.mark.parametrize(
    ("view", "kind", "shape", "upload", "between"),
    [
        ("{kind: frame_window, length: 2}", "video", (1, 4, 6, 6), np.zeros((1, 4, 6, 6), dtype=np.uint8), ""),
        ("{kind: window, length: 4}", "signal", (2, 12), np.zeros((1, 12, 2), dtype=np.float32), "3-5, 8"),
        ("{kind: pick, indices: [0]}", "vector", (3,), np.zeros((1, 3), dtype=np.float32), "1"),
    ],
    ids=["video", "signal", "vector"],
)  # fmt: skip
def test_videos_signals_and_vectors(tmp_path, view, kind, shape, upload, between):
    recipe = (
        f"full: {{path: f.npy, kind: {kind}}}\nviews: {{v: {{view: {view}, data: {{path: v.npy, kind: {kind}}}}}}}\n"
    )
    run_of(tmp_path, recipe, shape, DataInfo(Units.of_range(0, 255)) if len(shape) == 4 else DataInfo())
    kind_model = Models(Site(tmp_path, tmp_path)).load("run", None)
    voices, drawn = drawing.speaking(kind_model), drawing.draw(kind_model, Wish(count=3, steps=4), nothing)
    assert not voices.plots
    assert drawing.film(drawn, voices)
    assert drawing.picture(drawn).width > 8
    np.save(tmp_path / "mine.npy", upload)
    given = restoring.of_file(kind_model, PAINTED, tmp_path / "mine.npy", True)
    mask = restoring.hidden_in(shape, "left half", [], between)
    found = restoring.answer(kind_model, given, mask, nothing, count=2, steps=3)
    assert ("<table" if kind == "vector" else "<img") in restoring.show(found)
    if between:
        with pytest.raises(BootdiffError, match="give numbers from 0"):
            restoring.hidden_in(shape, "", [], "7-99")


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_command_is_followed_and_stopped(tmp_path):
    command = Command("--version", "mine", [], tmp_path, trusted=False)
    until(lambda: not command.running, 60)
    assert command.code == 0
    assert command.text().startswith("bootdiff ")
    assert command.shown == "bootdiff --version"
    waiting = Command("new", "mine", ["mine.yaml", "nowhere", "nowhere"], tmp_path, trusted=True)
    assert waiting.shown.startswith("bootdiff --trust-imports new mine.yaml")
    waiting.end()
    assert not waiting.running
    assert waiting.code != 0


def test_a_port_in_use_is_said_or_passed_over(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BootdiffError, match=f"--port {port}: is in use .*leave it"):
            serve.choose_port("127.0.0.1", port)
        monkeypatch.setattr(serve, "PORT", port)
        assert serve.choose_port("127.0.0.1", None) > port
    with pytest.raises(BootdiffError, match="no address of this machine"):
        serve.choose_port("192.0.2.1", None)


def test_without_gradio_the_command_says_what_to_install(monkeypatch, tmp_path):
    found = serve.importlib.util.find_spec
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None if name == "gradio" else found(name))
    assert "pip install 'bootdiff[ui]'" in refused("ui", tmp_path)


def test_folders_that_are_none_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(serve, "need_gradio", lambda: None)
    assert "--data" in refused("ui", tmp_path, "--data", tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "not a folder" in refused("ui", tmp_path / "file")


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture
def browser():
    """Chromium, and the addresses outside this machine that its pages asked for."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as tool:
        chromium = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def gradio():
    """Skips before anything is trained."""
    return pytest.importorskip("gradio", reason="gradio is not installed")


@pytest.fixture
def page(gradio, site, tmp_path, monkeypatch):
    """The page of the site, served."""
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR", "GRADIO_SHARE", "GRADIO_RUN_HISTORY"):
        monkeypatch.setenv(name, "")  # is put back afterwards
    serve.prepare(tmp_path)
    from bootdiff.cli.webui.layout import Page

    served = Page(site, tmp_path)
    port = serve.choose_port("127.0.0.1", None)
    served.launch("127.0.0.1", port)
    yield SimpleNamespace(address=f"http://127.0.0.1:{port}", shared=served.shared)
    served.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_files_beside_the_page_are_not_served(page, site):
    for path in ("/etc/hostname", str(site.runs / "tiny" / "recipe.yaml"), os.path.abspath("pyproject.toml")):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"{page.address}/gradio_api/file={path}", timeout=20)
        assert error.value.code in (403, 404)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_page_draws_restores_and_lets_go(browser, page, tmp_path):
    outside = []

    def opened():
        tab = browser.new_context().new_page()
        tab.on(
            "request", lambda r: None if r.url.startswith((page.address, "data:", "blob:")) else outside.append(r.url)
        )
        tab.goto(page.address)
        tab.wait_for_selector("iframe[title='Report of tiny']")
        return tab

    tab = opened()
    tab.get_by_role("tab", name="Draw").click()
    steps = tab.get_by_label("number input for Steps").first
    steps.fill("6")
    steps.press("Tab")
    tab.get_by_role("button", name="Draw", exact=True).click()
    tab.wait_for_selector("text=Who decides at which noise")
    assert tab.locator("img[alt^='16 samples of bootdiff of tiny']").count() == 1
    assert 2 <= tab.locator(".film img").count() <= 6
    slider = tab.get_by_label("range slider for Watch the denoising")
    slider.focus()
    slider.press("Home")
    tab.wait_for_selector("text=step 1 of 6")

    tab.get_by_label("Class", exact=True).first.click()
    tab.get_by_role("option", name="3", exact=True).click()
    tab.get_by_role("button", name="Draw", exact=True).click()
    tab.wait_for_selector("img[alt='16 samples of bootdiff of tiny, seed 0, 3']")

    tab.get_by_role("tab", name="Restore").click()
    tab.get_by_text("a file of mine").click()
    (tmp_path / "bad.png").write_text("no picture")
    tab.locator("input[type=file]").first.set_input_files(tmp_path / "bad.png")
    tab.wait_for_selector("text=bad.png")
    tab.get_by_role("button", name="Load", exact=True).click()
    tab.wait_for_selector("[role=alert]:has-text('is no picture that can be read')")
    tab.get_by_text("a sample that was not trained on").click()
    tab.get_by_role("button", name="Load", exact=True).click()
    tab.wait_for_selector("text=Loaded: test sample 0")
    tab.get_by_text("right half").click()
    tab.get_by_role("button", name="Restore", exact=True).click()
    tab.wait_for_selector("text=Several answers")

    other = opened()
    other.get_by_role("tab", name="Draw").click()
    many = other.get_by_label("number input for Samples")
    many.fill("64")
    many.press("Tab")
    steps = other.get_by_label("number input for Steps").first
    steps.fill("100")
    steps.press("Tab")
    other.get_by_role("button", name="Draw", exact=True).click()
    other.wait_for_selector("text=Drawing: step")
    assert page.shared.desk.busy
    other.context.close()
    until(lambda: not page.shared.desk.busy, 5)
    assert outside == []

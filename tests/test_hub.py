"""The Hub by a folder that stands in for it: what is pushed can be pulled, the model card, clear errors."""

from __future__ import annotations

import json
import re
import shutil
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import diffusers
import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from torch import nn

import bootdiff
from bootdiff.errors import BootdiffError
from bootdiff.hub import pull
from bootdiff.pipeline import BootdiffPipeline
from bootdiff.sampling import sample
from bootdiff.serialization import save
from bootdiff.training.files import write_record
from small_denoisers import denoiser, two_views

ID = "someone/small-pictures"
FAST = {"num_inference_steps": 3, "output_type": "pt"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder with one folder for each repository, in place of the Hub's three calls."""
    home = tmp_path / "hub"
    calls = []

    def create_repo(repo_id, private=None, token=None, exist_ok=False):
        calls.append(("create", repo_id, private, token))
        (home / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return SimpleNamespace(repo_id=repo_id)

    def file_exists(repo_id, name, token=None):
        return (home / repo_id / name).is_file()

    def upload_folder(*, repo_id, folder_path, token, create_pr, commit_message, ignore_patterns, delete_patterns):
        calls.append(("upload", commit_message, create_pr))
        there = {p.relative_to(folder_path).as_posix() for p in Path(folder_path).rglob("*") if p.is_file()}
        new = {name for name in there if not any(fnmatch(name, pattern) for pattern in ignore_patterns or [])}
        for path in [p for p in (home / repo_id).rglob("*") if p.is_file()]:
            name = path.relative_to(home / repo_id).as_posix()
            if name not in new and any(fnmatch(name, pattern) for pattern in delete_patterns):
                path.unlink()
        for name in new:
            (home / repo_id / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(folder_path) / name, home / repo_id / name)
        return f"https://hub/{repo_id}/commit/1"

    def snapshot_download(repo_id, *, revision, token, cache_dir, local_files_only, allow_patterns):
        target = Path(cache_dir or tmp_path / "cache") / repo_id
        for path in [p for p in (home / repo_id).rglob("*") if p.is_file()]:
            name = path.relative_to(home / repo_id).as_posix()
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target / name)
        return str(target)

    for call in (create_repo, file_exists, upload_folder, snapshot_download):
        monkeypatch.setattr(huggingface_hub, call.__name__, call)
    return SimpleNamespace(home=home, calls=calls)


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file())


def test_what_is_pushed_is_pulled(hub):
    d = two_views()
    pipe = BootdiffPipeline(d, scheduler=diffusers.HeunDiscreteScheduler())
    commit = pipe.push_to_hub(ID, private=True, token="t", commit_message="first", create_pr=True)
    assert commit == f"https://hub/{ID}/commit/1"
    assert hub.calls == [("create", ID, True, "t"), ("upload", "first", True)]
    pushed = files(hub.home / ID)
    assert {Path(name).suffix for name in pushed} == {".json", ".safetensors", ".md"}
    (hub.home / ID / "evil.py").write_text("raise SystemExit")
    (hub.home / ID / "weights.bin").write_bytes(b"a pickle")
    again = quiet(BootdiffPipeline.from_pretrained(ID))
    assert files(again._source) == pushed  # no code, no pickle
    assert type(again.scheduler) is diffusers.HeunDiscreteScheduler
    want = sample(d, 3, seed=2, steps=4)
    assert torch.equal(sample(again.denoiser, 3, seed=2, steps=4), want)


def test_a_second_push_replaces_weights_and_keeps_the_card(hub, tmp_path):
    BootdiffPipeline(two_views()).save_pretrained(tmp_path / "x", push_to_hub=True, repo_id=ID)
    assert f'from_pretrained("{ID}")' in (tmp_path / "x" / "README.md").read_text()
    card = hub.home / ID / "README.md"
    card.write_text("mine")
    d = denoiser((1, 4, 4))
    BootdiffPipeline(d).push_to_hub(ID)
    assert card.read_text() == "mine"
    assert len([name for name in files(hub.home / ID) if name.endswith(".safetensors")]) == 1
    pulled = BootdiffPipeline.from_pretrained(ID)
    assert torch.equal(sample(pulled.denoiser, 2, steps=3), sample(d, 2, steps=3))


def test_save_pretrained_says_what_it_does_not_take(tmp_path):
    pipe = BootdiffPipeline(denoiser((1, 4, 4)))
    with pytest.raises(TypeError, match="variant"):
        pipe.save_pretrained(tmp_path, variant="fp16")
    with pytest.raises(TypeError, match="private"):
        pipe.save_pretrained(tmp_path, private=True)
    with pytest.raises(BootdiffError, match="with its pipeline"):
        pipe.denoiser.push_to_hub(ID)
    with pytest.raises(ValueError, match="float32"):
        BootdiffPipeline.from_pretrained(tmp_path, torch_dtype=torch.float16)


def test_own_classes_come_from_the_caller(hub):
    class Own(nn.Module):
        def __init__(self, c_in, c_out):
            super().__init__()
            self.config = {"c_in": c_in, "c_out": c_out}
            self.conv = nn.Conv2d(c_in, c_out, 1)

        def forward(self, x, c_noise, label=None):
            return self.conv(x)

    prior = bootdiff.IsotropicGaussian((1, 4, 4), [0.0], 0.5)
    expert = bootdiff.ResidualExpert(Own(1, 1), bootdiff.CompositeDenoiser({}, prior))
    BootdiffPipeline(expert).push_to_hub(ID)
    assert "classes=[Own]" in (hub.home / ID / "README.md").read_text()
    with pytest.raises(BootdiffError, match=r"classes=\[Own\]"):
        BootdiffPipeline.from_pretrained(ID)
    again = BootdiffPipeline.from_pretrained(ID, classes=[Own])
    assert torch.equal(sample(again.denoiser, 2, steps=3), sample(expert, 2, steps=3))


# --- errors -----------------------------------------------------------------------------------------------------------


def refused(kind):
    """An error of huggingface_hub as it raises them."""
    response = SimpleNamespace(headers={}, request=None)
    return kind("404 Not Found\nmore", response=response) if issubclass(kind, errors.HfHubHTTPError) else kind("no")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (errors.RepositoryNotFoundError, "no such repository on the Hub, or it is private.*hf auth login"),
        (errors.GatedRepoError, "given on request"),
        (errors.RevisionNotFoundError, "no revision 'v9'"),
        (errors.LocalEntryNotFoundError, "the Hub cannot be reached.*copy the folder"),
        (errors.HfHubHTTPError, r"the Hub refused at revision v9 \(404 Not Found\)"),
    ],
)
def test_errors_of_pulling(monkeypatch, kind, says):
    def fail(*args, **options):
        raise refused(kind)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(BootdiffError, match=f"{ID}: .*{says}"):
        BootdiffPipeline.from_pretrained(ID, revision="v9")


def test_without_a_connection_and_a_cache(tmp_path):
    with pytest.raises(BootdiffError, match=rf"{ID}: .*local_files_only.*cache does not have it"):
        pull(ID, cache_dir=tmp_path, local_files_only=True)


def test_a_repository_of_something_else(hub):
    (hub.home / ID).mkdir(parents=True)
    (hub.home / ID / "config.json").write_text("{}")
    with pytest.raises(BootdiffError, match="not of a bootdiff model"):
        BootdiffPipeline.from_pretrained(ID)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (errors.HfHubHTTPError, r"did not accept the model \(404 Not Found\).*may write there"),
        (errors.HFValidationError, "owner/name"),
        (errors.OfflineModeIsEnabled, "check the connection"),
        (OSError, "check the connection"),
    ],
)
def test_errors_of_pushing(monkeypatch, kind, says):
    def fail(*args, **options):
        raise refused(kind)

    monkeypatch.setattr(huggingface_hub, "create_repo", fail)
    with pytest.raises(BootdiffError, match=says):
        BootdiffPipeline(denoiser((1, 4, 4))).push_to_hub(ID)


# --- the model card ---------------------------------------------------------------------------------------------------


def run_of(folder):
    """The folder of a run with a finished arm, and the records that a command line's run has."""
    save(two_views(), folder / "bootdiff")
    write_record(folder / "run.json", {"fingerprint": "", "recipe": None})
    (folder / "data.json").write_text(json.dumps({"counts": {"full": 90, "view small": 5424}}))
    entry = {"parameters": 1046883, "steps": 1124, "images": 17984, "flops": 6.5e12, "seconds": 86.0, "device": "cpu"}
    stage = folder / "stages" / "view-small-unet"
    stage.mkdir(parents=True)
    write_record(stage / "done.json", {"ledger": entry})
    losses = {"bootdiff": {"mean": 0.31, "stderr": 0.002}, "full_only": {"mean": 0.32, "stderr": 0.003}}
    said = {"count": 500, "evaluated_on": "test", "levels": [0.1, 0.8], "holdout_loss": losses, "command": "/secret/x"}
    (folder / "metrics.json").write_text(json.dumps(said))
    return folder / "bootdiff"


def test_the_card_tells_of_the_model_and_of_its_run(tmp_path):
    arm = run_of(tmp_path / "run")
    BootdiffPipeline.from_pretrained(arm).save_pretrained(tmp_path / "pipe", license="apache-2.0")
    card = (tmp_path / "pipe" / "README.md").read_text()
    BootdiffPipeline.from_pretrained(arm.parent).save_pretrained(tmp_path / "same", license="apache-2.0")
    assert (tmp_path / "same" / "README.md").read_text() == card
    for said in (
        "license: apache-2.0\n", "images of shape 3 x 8 x 8", "- `small`: `Downsample(factor=2", "| full | 90 |",
        "| view small | 5,424 |", "| view-small-unet | 1,046,883 | 1,124 | 17,984 | 6.50e+12 | 86 | cpu |",
        "500 samples (test)", "| bootdiff | 0.3100 | 0.0020 |", "2505.11825",
    ):  # fmt: skip
        assert said in card
    assert str(tmp_path) not in card
    assert "secret" not in card
    metadata = huggingface_hub.ModelCard(card).data
    assert (metadata.library_name, metadata.license) == ("bootdiff", "apache-2.0")


def test_the_program_in_the_card_works(tmp_path, monkeypatch, hub):
    BootdiffPipeline(denoiser((1, 4, 4), classes=3)).save_pretrained(tmp_path / "x")
    card = (tmp_path / "x" / "README.md").read_text()
    assert "yours to choose" in card
    assert "Not chosen yet" in card
    assert huggingface_hub.ModelCard(card).data.license is None
    BootdiffPipeline(denoiser((1, 4, 4), classes=3)).push_to_hub(ID)
    for text in (card, (hub.home / ID / "README.md").read_text()):
        (program,) = re.findall(r"```python\n(.*?)```", text, re.S)
        names = {}
        monkeypatch.chdir(tmp_path / "x")
        exec(compile(program, "README.md", "exec", dont_inherit=True), names)
        assert len(names["images"]) == 4


def test_a_card_that_is_there_is_kept(tmp_path, hub):
    pipe = BootdiffPipeline(denoiser((1, 4, 4)))
    pipe.save_pretrained(tmp_path / "x")
    (tmp_path / "x" / "README.md").write_text("edited")
    pipe.save_pretrained(tmp_path / "x")
    assert (tmp_path / "x" / "README.md").read_text() == "edited"
    again = BootdiffPipeline.from_pretrained(tmp_path / "x")
    again.push_to_hub(ID)
    assert (hub.home / ID / "README.md").read_text() == "edited"
    with pytest.raises(ValueError, match="write the licence into it"):
        again.push_to_hub(ID, license="mit")


# --- by diffusers' own loader -----------------------------------------------------------------------------------------


def test_diffusers_own_loader_runs_the_installed_file(tmp_path, monkeypatch):
    """Nothing of the folder is executed: only a copy of the file of the installed bootdiff."""
    import diffusers.utils.dynamic_modules_utils as dynamic

    import bootdiff.pipeline

    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    d = two_views()
    BootdiffPipeline(d).save_pretrained(tmp_path / "x")
    with pytest.raises(AttributeError, match="BootdiffPipeline"):
        diffusers.DiffusionPipeline.from_pretrained(tmp_path / "x")
    pipe = diffusers.DiffusionPipeline.from_pretrained(
        tmp_path / "x", custom_pipeline=bootdiff.pipeline.__file__, trust_remote_code=True
    )
    images = quiet(pipe)(2, seed=1, **FAST).images
    assert torch.equal(images, (sample(d, 2, seed=1, steps=3) / 2 + 0.5).clamp(0, 1))
    pipe.save_pretrained(tmp_path / "again")
    assert torch.equal(quiet(BootdiffPipeline.from_pretrained(tmp_path / "again"))(2, seed=1, **FAST).images, images)

"""The Dockerfile agrees with what it is made of: versions, extras, files. It is not built: that needs a daemon."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
IGNORED = [
    line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]  # fmt: skip
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
STEPS = [
    (found[1], " ".join(found[2].split()))
    for found in re.finditer(r"^([A-Z]+) ((?:.*\\\n)*.*)$", TEXT.replace("\\\n", " "), re.MULTILINE)
]


def steps(kind):
    return [text for name, text in STEPS if name == kind]


def copied():
    return [name for step in steps("COPY") for name in step.split()[:-1]]


def sent(name):
    """Whether a file or folder at the top is sent to the builder: the last pattern that matches decides."""
    kept = True
    for pattern in IGNORED:
        if fnmatch.fnmatch(name, pattern.lstrip("!")):
            kept = pattern.startswith("!")
    return kept


def test_python_is_one_that_the_project_supports_and_that_the_constraints_are_of():
    (image,) = steps("FROM")
    version = re.fullmatch(r"python:(\d+\.\d+)-slim", image)[1]
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    assert f"(Python {version})" in CONSTRAINTS[0]


def test_everything_installed_is_held_by_the_constraints():
    installs = [step for step in steps("RUN") if "pip install" in step]
    assert len(installs) == 2
    assert "$(grep '^torch==' constraints.txt)" in installs[0]
    assert len([line for line in CONSTRAINTS if line.startswith("torch==")]) == 1
    assert "-c constraints.txt" in installs[1]


def test_extras_are_those_of_the_project_and_need_no_version_that_is_not_held():
    (extras,) = (text.partition("=")[2].strip('"').split(",") for text in steps("ARG") if text.startswith("EXTRAS="))
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in CONSTRAINTS if "==" in line}
    for extra in extras:
        for need in PROJECT["optional-dependencies"][extra]:
            assert re.split(r"[><=\[; ]", need)[0].lower() in pinned | NOT_TESTED_WITH, need


NOT_TESTED_WITH = {"datasets", "imagecodecs"}
"""Of extras, but not of those that the release is tested with."""


@pytest.mark.parametrize("name", copied())
def test_files_that_are_copied_are_there_and_sent(name):
    assert (ROOT / name).exists()
    assert sent(name)


def test_what_the_package_is_built_of_is_copied():
    assert {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", "src"} <= set(copied())


@pytest.mark.parametrize("name", [".git", ".venv", "runs", "experiments", "tests", "docs", "shared"])
def test_nothing_else_is_sent(name):
    assert not sent(name)


def test_it_runs_as_nobody_in_particular_and_starts_the_command():
    names = [name for name, _ in STEPS]
    assert steps("USER") == ["bootdiff"]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")
    (entry,) = steps("ENTRYPOINT")
    assert set(json.loads(entry)) == set(PROJECT["scripts"])


@pytest.mark.parametrize(("index", "said"), [("", ""), ("somewhere", "--index-url somewhere")])
def test_torch_comes_from_the_index_that_is_given_and_from_the_usual_one_otherwise(index, said):
    step = next(step for step in steps("RUN") if "pip install" in step)
    script = f'pip() {{ echo "$@"; }}; {step}'
    done = subprocess.run(
        [shutil.which("sh"), "-c", script], cwd=ROOT, env={"TORCH_INDEX": index, "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert re.search(r" torch==[\d.]+$", done.stdout.rstrip())
    assert ("--index-url" in done.stdout) == bool(said)
    assert said in done.stdout

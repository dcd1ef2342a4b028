"""The documentation as a site: every page is in it, links lead somewhere, examples are code."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import bootdiff

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def module(name):
    spec = importlib.util.spec_from_file_location(f"site_{name}", DOCS / "site" / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


hooks = module("hooks")


def settings():
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def pages(nav):
    for entry in nav:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else pages(value)


def test_every_page_is_in_the_navigation_once():
    listed = list(pages(settings()["nav"]))
    assert len(listed) == len(set(listed))
    assert set(listed) == {path.name for path in DOCS.glob("*.md")} | {"index.md", "changes.md", "reference.md"}


def test_nothing_is_loaded_from_elsewhere():
    assert settings()["theme"]["font"] is False
    assert "extra_javascript" not in settings()
    assert "extra_css" not in settings()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see [data](docs/data.md)", "see [data](data.md)"),
        ("see [that](docs/python.md#a-pipeline)", "see [that](python.md#a-pipeline)"),
        ("![cats](docs/images/demo.png)", "![cats](images/demo.png)"),
        (
            "[licence](LICENSE), [paper](https://arxiv.org/abs/2505.11825)",
            "licence, [paper](https://arxiv.org/abs/2505.11825)",
        ),
        ("[below](#views), [changes](CHANGELOG.md)", "[below](#views), [changes](changes.md)"),
    ],
)
def test_links_of_the_first_page_are_those_of_a_page_beside_the_others(text, expected):
    assert hooks.inside(text, "../") == expected


def test_links_of_pages_lead_to_pages_or_become_text():
    text = "[a](views.md#masks) [b](../experiments/results/backbones.json) [c](../README.md)"
    assert hooks.inside(text) == "[a](views.md#masks) b [c](index.md)"


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))], ids=lambda p: p.name
)
def test_every_link_of_every_page_leads_to_a_file(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith(("#", "mailto:")):
            assert (path.parent / target.partition("#")[0]).exists(), target


def test_the_reference_has_every_public_name_where_it_is_defined():
    text = hooks.reference()
    assert re.findall(r"heading: (\w+)", text) == [name for name in bootdiff.__all__ if name != "__version__"]
    for path in re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE):
        owner, name = path.rpartition(".")[::2]
        assert hasattr(sys.modules[owner], name)


@pytest.mark.parametrize("name", bootdiff.__all__)
def test_every_public_name_is_there(name):
    assert getattr(bootdiff, name) is not None


def test_examples_in_docstrings_become_code():
    pytest.importorskip("griffe")
    text = "Adds.\n\n>>> 1 + 1\n2\n>>> [0]\n[0]\n\nMore."
    assert module("doctests").fenced(text) == "Adds.\n\n```python\n>>> 1 + 1\n2\n>>> [0]\n[0]\n```\n\nMore."


def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "reference.html").read_text()
    assert all(f">{name}<" in page or f"{name}</" in page for name in ("fit", "open", "Downsample", "BootdiffPipeline"))

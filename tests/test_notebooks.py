"""The notebooks: whole files with their outputs, made of names that exist, and programs that run."""

from __future__ import annotations

import ast
import base64
import io
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

import bootdiff as bd

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "notebooks"
NAMES = ("first_run", "own_network_and_operator", "what_is_my_data_worth")
MOST_BYTES = 500_000  # of each


def cells(name):
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def code(name):
    return [("".join(cell["source"]), cell["outputs"]) for cell in cells(name) if cell["cell_type"] == "code"]


def texts(name):
    """Every text of a notebook: sources, and outputs that are no pictures."""
    for cell in cells(name):
        yield "".join(cell["source"])
        for output in cell.get("outputs", ()):
            yield "".join(output.get("text", ""))
            yield from ("".join(data) for kind, data in output.get("data", {}).items() if kind.startswith("text/"))


def unknown_names(source):
    """What a program takes from bootdiff that is not there: attributes of `bd`, imported modules and names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "bd":
            if node.attr not in bd.__all__:
                yield f"bd.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "bootdiff":
            module = import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    try:
                        import_module(f"{node.module}.{alias.name}")
                    except ImportError:
                        yield f"{node.module}.{alias.name}"


def test_names_that_are_not_there_are_found():
    assert list(unknown_names("import bootdiff as bd\nbd.fit(bd.Downsampled(2))")) == ["bd.Downsampled"]
    assert list(unknown_names("from bootdiff.noise import LEVELS, STEPS")) == ["bootdiff.noise.STEPS"]


def test_these_are_all():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_notebook_of_the_current_format_and_small(name):
    path = FOLDER / f"{name}.ipynb"
    book = json.loads(path.read_text(encoding="utf-8"))
    assert book["nbformat"] == 4
    assert book["metadata"]["language_info"]["name"] == "python"
    assert path.stat().st_size < MOST_BYTES
    assert book["cells"][0]["cell_type"] == "markdown"
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])


@pytest.mark.parametrize("name", NAMES)
def test_what_it_takes_from_bootdiff_is_there(name):
    source = "\n".join(text for text, _ in code(name))
    compile(source, name, "exec")
    assert list(unknown_names(source)) == []
    assert "import bootdiff as bd" in source


@pytest.mark.parametrize("name", NAMES)
def test_it_was_run_from_top_to_bottom_without_an_error(name):
    found = [cell for cell in cells(name) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in found] == list(range(1, len(found) + 1))
    kinds = {output["output_type"] for cell in found for output in cell["outputs"]}
    assert kinds <= {"stream", "execute_result", "display_data"}
    assert {output.get("name") for cell in found for output in cell["outputs"]} <= {None, "stdout"}


@pytest.mark.parametrize("name", NAMES)
def test_its_pictures_show_something(name):
    pictures = [output["data"]["image/png"] for _, outputs in code(name) for output in outputs if "data" in output
                and "image/png" in output["data"]]  # fmt: skip
    assert len(pictures) >= 2
    for data in pictures:
        with Image.open(io.BytesIO(base64.b64decode("".join(data)))) as picture:
            low, high = picture.convert("L").getextrema()
            assert high - low > 100
            assert min(picture.size) > 100


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_a_machine_is_in_it(name):
    for text in texts(name):
        assert not re.search(r"(?<![\w.])/(work|tmp|home|root|usr|Users|var)/", text), text
        assert "site-packages" not in text


@pytest.mark.parametrize("name", NAMES)
def test_its_links_lead_to_files(name):
    for cell in cells(name):
        for target in re.findall(r"\]\(([^)\s]+)\)", "".join(cell["source"])):
            if cell["cell_type"] == "markdown" and "://" not in target:
                assert (FOLDER / target.partition("#")[0]).exists(), target


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_its_cells_run_in_a_fresh_process(name, tmp_path):
    """As the kernel would, without one: what shows a written picture is IPython's, which is no dependency."""
    (tmp_path / "runs").mkdir()
    program = "import matplotlib\nmatplotlib.use('agg')\n" + "\n".join(text for text, _ in code(name))
    shows = "def Picture(path, width): assert open(path, 'rb').read(4) == b'\\x89PNG'"
    program = program.replace("from IPython.display import Image as Picture", shows)
    (tmp_path / "program.py").write_text(program)
    paths = os.pathsep.join(map(str, (ROOT / "src", ROOT)))
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # Numbers differ from machine to machine; what is said, and in which order, does not.
    printed = "".join("".join(o["text"]) for _, outputs in code(name) for o in outputs if o["output_type"] == "stream")
    assert len(done.stdout.splitlines()) == len(printed.splitlines())

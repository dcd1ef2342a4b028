"""The examples of docs/data.md print what the page says, and its recipe is valid."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from bootdiff.recipe.schema import load_recipe_text

PAGE = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|text|yaml)\n(.*?)^```", PAGE, flags=re.M | re.S)


def test_examples_print_what_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said, space = "", {}
    for kind, text in BLOCKS:
        if kind == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(text, "data.md", "exec"), space)
            said = out.getvalue()
        elif kind == "text":
            assert said == text


def test_the_recipe_is_valid():
    recipes = [text for kind, text in BLOCKS if kind == "yaml"]
    assert recipes
    for text in recipes:
        assert load_recipe_text(text).views

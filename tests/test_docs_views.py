"""The recipes in the pages on nested views, pretrained views and masks are valid, and their programs compile."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bootdiff.recipe.schema import load_recipe_text

DOCS = Path(__file__).parents[1] / "docs"


def blocks(language):
    return [
        pytest.param(text, id=f"{page}-{i}")
        for page in ("nested", "pretrained", "masks")
        for i, text in enumerate(re.findall(rf"```{language}\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL))
    ]


@pytest.mark.parametrize("text", blocks("yaml"))
def test_recipes_are_valid(text):
    load_recipe_text(text if "full:" in text else f"full: {{path: full}}\n{text}")


@pytest.mark.parametrize("text", blocks("python"))
def test_programs_compile(text):
    compile(text, "docs", "exec")

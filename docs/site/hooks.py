"""Pages of the site that are written elsewhere: README.md, CHANGELOG.md, and the reference, out of docstrings.

They are made while the site is built, so that nothing is written twice. Links to files that the site does not have
(examples, results) become plain text: the site is read without the repository, too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def inside(text: str, folder: str = "") -> str:
    """The text of a page with the links that a page of the site may have.

    folder: where its links start, from docs/: "../" for a page that lies beside docs/.
    """

    def link(found: re.Match[str]) -> str:
        mark, words, target = found.groups()
        if "://" in target or target.startswith(("#", "mailto:")):
            return found[0]
        path, _, anchor = target.partition("#")
        full = (ROOT / "docs" / folder / path).resolve()
        if full in pages:
            return f"{mark}[{words}]({pages[full]}{'#' + anchor if anchor else ''})"
        if not full.is_relative_to(ROOT / "docs"):
            return words
        return f"{mark}[{words}]({full.relative_to(ROOT / 'docs').as_posix()}{'#' + anchor if anchor else ''})"

    pages = {ROOT / "README.md": "index.md", ROOT / "CHANGELOG.md": "changes.md"}
    return re.sub(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s]+)\)", link, text)


def reference() -> str:
    """A page of all public names, in the order of the package."""
    import bootdiff

    lines = ["# Reference", "", "All public names; `import bootdiff as bd` imports each on its first use.", ""]
    for name, module in bootdiff._HOME.items():
        lines += [f"::: {at(name, module)}", "    options:", f"      heading: {name}", ""]
    return "\n".join(lines)


def at(name: str, home: str) -> str:
    """The path where a public name is defined; packages hand on what their modules define."""
    import bootdiff

    thing = getattr(bootdiff, name)
    module, _, other = home.partition(":")
    return f"{getattr(thing, '__module__', module)}.{getattr(thing, '__qualname__', other or name)}"


def on_files(files: Any, config: Any) -> Any:
    """Add the three pages."""
    from mkdocs.structure.files import File

    made = {
        "index.md": inside((ROOT / "README.md").read_text(encoding="utf-8"), "../"),
        "changes.md": inside((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), "../"),
        "reference.md": reference(),
    }
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """What lies in docs/ has such links, too."""
    return markdown if page.file.src_uri in ("index.md", "changes.md", "reference.md") else inside(markdown)

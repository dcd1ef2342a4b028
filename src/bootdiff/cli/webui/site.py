"""What the page may touch: runs below one folder, data and recipes below another, and nothing else.

Names come from a browser, so every one is resolved, symbolic links followed, and refused where it leads out.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bootdiff.cli.report import page, words
from bootdiff.cli.report.run_facts import RunFacts
from bootdiff.cli.session import saved_arms
from bootdiff.errors import BootdiffError
from bootdiff.recipe.schema import load_recipe_text
from bootdiff.recipe.trust import trust_imports
from bootdiff.serialization import read_note
from bootdiff.training.files import atomic_write_text
from bootdiff.training.lock import in_use
from bootdiff.training.run import Run

__all__ = ["LISTED", "Listing", "Site", "Standing", "ago", "inside"]

LISTED = 40
"""Runs that are listed at most."""

_DEEP = 3  # levels of folders in which runs are looked for
_VISITED = 20_000  # folders that are looked into, and of data that are offered, at most
_OFFERED = 300
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,79}")


@dataclass(frozen=True)
class Standing:
    """A run in the list. bad: why it cannot be used, "" where it can."""

    name: str
    changed: float
    state: str
    arms: tuple[str, ...] = ()
    bad: str = ""

    @property
    def line(self) -> str:
        """The run in a line."""
        return f"{self.name}: {self.bad or self.state} ({ago(time.time() - self.changed)})"


@dataclass(frozen=True)
class Listing:
    """Runs, newest first. found: how many there are, of which `runs` are shown."""

    runs: list[Standing] = field(default_factory=list)
    found: int = 0

    @property
    def good(self) -> list[Standing]:
        return [run for run in self.runs if not run.bad]

    @property
    def bad(self) -> list[Standing]:
        return [run for run in self.runs if run.bad]


def inside(root: Path, name: str, what: str) -> Path:
    """The path of a name below a folder.

    Raises:
        BootdiffError: it leads out of the folder, or is none.
    """
    text = str(name).strip()
    if not text or "\0" in text:
        raise BootdiffError(f"{what}: no name was given")
    home = root.resolve()
    try:
        found = (home / text).resolve()
    except (OSError, RuntimeError) as error:  # links in a circle, names that are too long
        raise BootdiffError(f"{what} {text[:80]}: cannot be followed ({error})") from None
    if ".." in Path(text).parts or not found.is_relative_to(home):
        raise BootdiffError(f"{what} {text[:80]}: is not below {home.name}/, the folder that this page was given")
    return found


@dataclass(frozen=True)
class Site:
    """The folders of one page.

    Args:
        runs: with the runs, or a run itself.
        data: with the data, and where recipes are written.
        trusted: whether recipes may name code (`--trust-imports`).
        device: where to compute; None: as each run's recipe says.
    """

    runs: Path
    data: Path
    trusted: bool = False
    device: str | None = None

    def run(self, name: str) -> Path:
        """The folder of a run by its name in the list. Raises BootdiffError: no such run below the folder."""
        path = inside(self.runs, name, "run")
        if not _is_run(path):
            raise BootdiffError(f"run {name}: there is none of that name any more; refresh the list")
        return path

    def listing(self, search: str = "", most: int = LISTED) -> Listing:
        """The newest runs whose names hold the words of `search`."""
        wanted = search.lower().split()
        found = [(path, name) for path, name in self._runs() if all(word in name.lower() for word in wanted)]
        dated = sorted(((_changed(path), name, path) for path, name in found), reverse=True)
        return Listing([_standing(path, name, when) for when, name, path in dated[:most]], len(dated))

    def _runs(self) -> Iterator[tuple[Path, str]]:
        """Every run below the folder, and its name."""
        home = self.runs.resolve()
        if _is_run(home):
            yield home, "."
            return
        left, seen = _VISITED, {home}
        folders = [(home, 0)]
        while folders:
            folder, depth = folders.pop()
            for path in _folders(folder):
                left -= 1
                if left < 0:
                    return
                real = path.resolve() if path.is_symlink() else path
                if real in seen or not real.is_relative_to(home):
                    continue
                seen.add(real)
                if _is_run(path):
                    yield path, str(path.relative_to(home))
                elif depth + 1 < _DEEP:
                    folders.append((path, depth + 1))

    def report(self, name: str) -> str:
        """The report of a run as it stands now, HTML that needs nothing else.

        Raises:
            BootdiffError: it cannot be read.
        """
        return page.build(RunFacts.read(self.run(name)))

    # -- data and recipes ----------------------------------------------------------------------------------------------

    def folder_of_data(self, name: str) -> Path:
        """A folder or file of data by its name. Raises BootdiffError: not there, or outside."""
        path = inside(self.data, name, "folder")
        if not path.exists():
            raise BootdiffError(f"folder {name}: there is none of that name in {self.data.resolve().name}/")
        return path

    def folders_of_data(self) -> list[str]:
        """Folders with files in them, and arrays, by name: to choose from."""
        found: list[str] = []
        home = self.data.resolve()
        folders, left = [(home, 0)], _VISITED
        runs = self.runs.resolve()
        while folders and len(found) < _OFFERED:
            folder, depth = folders.pop()
            for path in sorted(_folders(folder), reverse=True):
                left -= 1
                real = path.resolve()
                if left < 0 or not real.is_relative_to(home) or real == runs or path.name in _NO_DATA:
                    continue
                if depth + 1 < _DEEP + 1:
                    folders.append((path, depth + 1))
            if folder != home and (_has_files(folder)):
                found.append(str(folder.relative_to(home)))
            found += [str(path.relative_to(home)) for path in sorted(folder.glob("*.np[yz]"))[:20]]
        return sorted(found)

    def recipes(self) -> list[str]:
        """The recipes in the folder of data, newest first, by name."""
        paths = [path for path in self.data.resolve().glob("*.yaml") if path.is_file() and _NAME.fullmatch(path.stem)]
        return [path.stem for path in sorted(paths, key=_changed, reverse=True)][:_OFFERED]

    def recipe(self, name: str) -> Path:
        """The file of a recipe by its name. Raises BootdiffError: a name that is none."""
        text = str(name).strip().removesuffix(".yaml")
        if not _NAME.fullmatch(text):
            raise BootdiffError(
                f"recipe {text[:80]!r}: a name has letters, digits, '-', '_' and '.', a letter or digit first"
            )
        return inside(self.data, f"{text}.yaml", "recipe")

    def recipe_text(self, name: str) -> str:
        """A recipe as it is written; BootdiffError: there is none of that name, or it is too long for a page."""
        path = self.recipe(name)
        if not path.is_file():
            raise BootdiffError(f"{path.name}: there is no such recipe in {self.data.resolve().name}/")
        text = path.read_text(encoding="utf-8")
        if len(text) > _LONGEST:
            raise BootdiffError(f"{path.name}: longer than {_LONGEST:,} characters; change it in its file")
        return text

    def write_recipe(self, name: str, text: str) -> None:
        """Write a recipe that is there anew.

        Raises:
            BootdiffError: it is none; it names code, or files outside that the one before did not name.
        """
        before, path, home = self.recipe_text(name), self.recipe(name), self.data.resolve()
        if len(text) > _LONGEST:
            raise BootdiffError(f"{path.name}: longer than {_LONGEST:,} characters; nothing was written")

        def named(text: str) -> dict[str, Path]:
            with trust_imports(False):  # whoever reaches the page may not have it run code
                return load_recipe_text(text, home, source=path.name, name=path.stem).paths()

        try:
            known = set(named(before).values())
        except BootdiffError:  # that is why it is changed
            known = set()
        for key, there in named(text).items():
            if there not in known and not there.resolve().is_relative_to(home):
                raise BootdiffError(
                    f"{path.name}: {key}: {there} is not below {home.name}/, the folder of data that this page was "
                    "given; write that into the file itself. Nothing was written."
                )
        strange = sorted(set(_ADDRESS.findall(text)) - set(_ADDRESS.findall(before)))
        if strange:
            raise BootdiffError(
                f"{path.name}: {strange[0][:80]}: what is elsewhere is named in the file itself. Nothing was written."
            )
        atomic_write_text(path, text)

    def new_run(self, name: str) -> Path:
        """The folder that the run of a recipe goes to. Raises BootdiffError: a name that is none, no room for a run."""
        if _is_run(self.runs):
            raise BootdiffError("this page was given one run; start it with the folder of the runs to train others")
        return inside(self.runs, self.recipe(name).stem, "run")


_LONGEST = 20_000  # characters of a recipe on a page
_ADDRESS = re.compile(r"\w+://[^\s,}\]]*")
_NO_DATA = {"runs", "node_modules", "__pycache__", "site-packages"}


def ago(seconds: float) -> str:
    """A time that has passed, for people.

    >>> ago(20), ago(200), ago(8000), ago(200_000)
    ('just now', '3 min ago', '2 h ago', '2 days ago')
    """
    if seconds < 60:
        return "just now"
    for size, most, unit in ((60, 3600, "min"), (3600, 86400, "h")):
        if seconds < most:
            return f"{int(seconds // size)} {unit} ago"
    days = int(seconds // 86400)
    return f"{days} day{'' if days == 1 else 's'} ago"


def _standing(path: Path, name: str, changed: float) -> Standing:
    """How a run stands; whatever is wrong with it becomes a line."""
    try:
        arms = tuple(saved_arms(path))
        _ = Run.read(path).fingerprint  # checks run.json
        if arms:
            read_note(path / ("bootdiff" if "bootdiff" in arms else arms[0]))
        done = f"trained: {', '.join(map(words.arm, arms))}" if arms else "nothing trained yet"
        state = f"{done}; in training" if in_use(path) else done if arms else "interrupted, nothing trained yet"
        return Standing(name, changed, state, arms)
    except Exception as error:  # a damaged file may hold anything; the other runs are worth listing
        text = str(error).replace(f"{path}/", "").replace(str(path), "the run")
        return Standing(name, changed, "", (), text or type(error).__name__)


def _is_run(path: Path) -> bool:
    return (path / "run.json").is_file()


def _changed(path: Path) -> float:
    """When something happened in a folder, or to a file."""
    latest = 0.0
    for at in (path, path / "metrics.jsonl", path / "metrics.json"):
        try:
            latest = max(latest, at.stat().st_mtime)
        except OSError:
            continue
    return latest


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [folder / entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except OSError:  # not ours to read, or gone
        return []


def _has_files(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entry.is_file() and not entry.name.startswith(".") for entry in entries)
    except OSError:
        return False

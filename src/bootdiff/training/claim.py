"""Whether a folder is a run, and whether it is the run of this recipe and of these data: what run.json is there for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bootdiff.errors import BootdiffError
from bootdiff.training.files import differences, digest, is_temporary, read_json, read_record
from bootdiff.training.forms import RunNote, checked
from bootdiff.training.lock import is_lock

__all__ = ["FORMAT", "check_is_run", "claim", "parsed", "read_note", "recipe_of"]

FORMAT = 2
"""Since 2 every file that is read again has a checksum; runs of format 1 are read without those that they lack."""

# What a run that was killed while it began may consist of, and the folders that `check` and `plan` write before it.
_BEGUN = {"lock", "check", "plan"}
# Training may go on for more steps than a recipe said at first.
_MAY_GROW = re.compile(r"(.*\.)?training\.(.*\.)?steps")


def check_is_run(path: Path) -> None:
    """Refuse a folder with anything in it that is no run, or no longer one."""
    names = {name for name in os.listdir(path) if not is_temporary(name)}
    if "run.json" in names:
        read_note(path)
        return
    if {"recipe.yaml", "stages"} <= names:
        raise BootdiffError(
            f"{path}: its run.json is lost. Restore it from a copy, or choose another directory with --reuse {path}: "
            f"what is trained is taken from here; nothing was touched."
        )
    if not names <= _BEGUN or ("lock" in names and not is_lock(path / "lock")):
        there = f"no run, but not empty ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})"
        raise BootdiffError(f"{path}: {there}. Choose another directory for the run; nothing was touched.")


def read_note(folder: Path) -> RunNote:
    """What run.json says. BootdiffError: lost, damaged, or of another version."""
    path = folder / "run.json"
    remedy = f"restore it from a copy, or begin a run elsewhere with --reuse {folder}: it takes what is trained"
    said = read_json(path, remedy)
    if isinstance(said, dict) and set(said) == {"fingerprint"}:
        raise BootdiffError(
            f"{folder}: a run of bootdiff 0.1, which this version does not go on with. Choose another "
            "directory, or go on with the version that began it"
        )
    about = read_record(path, remedy)
    form = about.setdefault("format", 1) if isinstance(about, dict) else None
    if type(form) is not int or not 1 <= form <= FORMAT:
        raise BootdiffError(f"{path}: its format {form!r} is not known to this version; use the one that began it")
    note: RunNote = checked(RunNote, about, path, remedy)
    return note


def recipe_of(folder: Path) -> str:
    """The text of recipe.yaml. BootdiffError: there is none, or it is no text."""
    path = folder / "recipe.yaml"
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BootdiffError(
            f"{folder}: there is no recipe.yaml in it (a run that was made from Python has none): give the folder of "
            f"its model, {folder / 'bootdiff'}, or open it from Python with bootdiff.load. Where it is lost, run the "
            f"command that began the run: it writes it again"
        ) from None
    except ValueError as error:
        raise BootdiffError(
            f"{path}: not a text ({error}); restore it from a copy, or delete it and run the command that began the run"
        ) from None


def parsed(text: str, where: Any) -> Any:
    """The value of a YAML text."""
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BootdiffError(
            f"{where}: not YAML ({' '.join(str(error).split())}); restore it from a copy, or delete it and run the "
            f"command that began the run: it writes it again"
        ) from None


def claim(
    folder: Path, recipe_text: str | None, fingerprint: str, complete: Callable[[str], str] | None = None
) -> tuple[RunNote | None, str | None]:
    """Whether a run goes on with this recipe and these data: what run.json and recipe.yaml are to say, None as they do.

    Args:
        complete: gives a recipe's text the keys that it lacks, with their defaults: a run of an earlier version goes
            on where it was, though there are more keys now.

    Raises:
        BootdiffError: it does not.
    """
    recipe, data = folder / "recipe.yaml", folder / "run.json"
    new = None if recipe_text is None else parsed(recipe_text, "the recipe")
    asked: RunNote = {
        "format": FORMAT, "fingerprint": fingerprint, "recipe": None if recipe_text is None else digest(new),
    }  # fmt: skip
    about = read_note(folder) if data.exists() else asked
    found: list[tuple[str, Any, Any]] = []
    counted: list[tuple[str, Any, Any]] | None = None
    if (about["recipe"] is None) != (recipe_text is None):
        whence = ("from Python", "from a recipe")
        then, now = whence if about["recipe"] is None else reversed(whence)
        raise BootdiffError(
            f"{folder}: this run was started {then}, and is now opened {now}. Choose another directory (its "
            f"stages can be reused), or go on as it began."
        )
    if recipe_text is not None and recipe.exists():
        text = recipe_of(folder)
        found = differences(parsed(text, recipe), new)
        if found and complete is not None:
            counted = differences(parsed(complete(text), recipe), new)
    elif about["recipe"] != asked["recipe"]:
        raise BootdiffError(
            f"{folder}: its recipe.yaml is lost, and the run was started with another recipe than this one. "
            f"Restore the file from a copy, or choose another directory."
        )
    refused = [key for key in (found if counted is None else counted) if not _grows(*key)]
    if refused and about["recipe"] == asked["recipe"]:
        raise BootdiffError(
            f"{recipe}: damaged, or changed since the run was started with the recipe of now: "
            f"{', '.join(f'{key} ({old} there, {new} now)' for key, old, new in refused)}. Delete it: the same command "
            f"writes it again."
        )
    if refused:
        raise BootdiffError(
            f"{folder}: this run was started with another recipe; differing in "
            f"{', '.join(f'{key} ({old} -> {new})' for key, old, new in refused)} "
            f"(there -> now). Choose another directory for the new recipe, or use the one in {recipe}."
        )
    if about["fingerprint"] != fingerprint:
        raise BootdiffError(
            f"{folder}: the data is not what this run was started on (files added, removed or changed; "
            f"fingerprint {about['fingerprint']!r} then, {fingerprint!r} now). Restore it, or choose another "
            f"directory."
        )
    note: RunNote | None = None
    if found or not data.exists():
        note = {**asked, "format": about["format"]}
    return note, recipe_text if recipe_text is not None and (found or not recipe.exists()) else None


def _grows(key: str, old: Any, new: Any) -> bool:
    """Whether a difference only asks for more training."""
    return bool(_MAY_GROW.fullmatch(key)) and type(old) is type(new) is int and new > old

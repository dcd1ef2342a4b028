"""What lies in a folder, which class each file is of, and how files that cannot be used are reported.

Hidden files and folders are passed over, links are followed (once), but not to a folder around this one: that would be
everything. A sub-folder that cannot be read is a problem: what lies in it would be missing without a word. A file's
class is the first sub-folder on its path.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bootdiff.data.dataset import UnusableFile
from bootdiff.errors import BootdiffError

__all__ = [
    "Problems", "classes_by_folder", "frame_problem", "list_files", "natural_order",
    "nothing_found", "passed_over", "unusable_files",
]  # fmt: skip

# What lies beside data and is none: notes, tables of labels, thumbnails of file managers.
_COMPANIONS = (".txt", ".md", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".xml", ".html", ".pdf", "thumbs.db",
               "desktop.ini")  # fmt: skip


def list_files(folder: Path, what: str, report: Callable[[str, str], None] | None = None) -> list[str]:
    """Sorted paths, with forward slashes, of all files below a folder of `what`.

    report: is told (sub-folder, reason) where a sub-folder cannot be read; None: that is an error.

    Raises BootdiffError where there is no such folder, or it cannot be read.
    """
    if not folder.exists():
        raise BootdiffError(f"{folder}: no such folder; check the path (a recipe's paths start at its folder)")
    if not folder.is_dir():
        raise BootdiffError(f"{folder}: is a file, not a folder of {what}; give the folder")

    def unreadable(error: OSError) -> None:
        inside = Path(error.filename).relative_to(folder).as_posix()
        if report is None or inside == ".":
            raise BootdiffError(
                f"{error.filename}: cannot be read ({error.strerror}); correct its permissions"
            ) from None
        report(inside, f"is a folder that cannot be read ({error.strerror}), whatever lies in it")

    names, visited = [], set()
    around = {str(path) for path in Path(os.path.realpath(folder)).parents}
    for parent, below, files in os.walk(folder, followlinks=True, onerror=unreadable):
        # Links may lead in circles.
        here = os.path.realpath(parent)
        if here in visited:
            below.clear()
            continue
        visited.add(here)
        if here in around:
            below.clear()
            inside = Path(parent).relative_to(folder).as_posix()
            if report is not None:
                report(inside, f"is a link to {here}, around the folder itself; link to what is meant in it")
                continue
            raise BootdiffError(f"{parent}: is a link to {here}, around the folder itself; link to what is meant in it")
        below[:] = [b for b in below if not b.startswith(".")]
        inside = Path(parent).relative_to(folder).as_posix()
        start = "" if inside == "." else f"{inside}/"
        # macOS leaves ._name.jpg beside name.jpg, which is no picture.
        names += [f"{start}{f}" for f in files if not f.startswith(".")]
    return sorted(names)


def nothing_found(
    folder: Path,
    names: Iterable[str],
    what: str,
    one: str,
    need: Sequence[str],
    problems: Sequence[UnusableFile] = (),
) -> BootdiffError:
    """The error for a folder none of whose files (`names`) is one of `what`; problems: what could not be listed."""
    if problems:
        return unusable_files(str(folder), problems, len(problems), 0, "sub-folders")
    others = Counter(Path(name).suffix.lower() or "no suffix" for name in names)
    if not others:
        return BootdiffError(f"{folder}: the folder holds no {what}, it is empty; put {', '.join(need)} files there")
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
    hint = (
        "Give the array's own path, or say kind: image or signal where each is one sample."
        if {".npy", ".npz"} & others.keys()
        else f"Need {', '.join(need)}."
    )
    if ".tar" in others:
        hint += f" Tar files are named one by one, or by braces: {folder}/{{00..19}}.tar."
    if ".parquet" in others and what == "pictures":
        hint += " Parquet tables of pictures are read where they lie in a folder of their own."
    return BootdiffError(f"{folder}: none of its {others.total()} files is {one} (found {kinds}). {hint}")


def passed_over(names: Iterable[str]) -> list[str]:
    """What is to be said of the files in a folder that are not read: nothing of companions such as notes and tables.

    >>> passed_over(["a.psd", "b.PSD", "c.mts", "notes.txt", "Thumbs.db"])
    ['3 file(s) of other suffixes are not read: 2 .psd, 1 .mts']
    """
    others = Counter(
        Path(name).suffix.lower() or "without suffix" for name in names if not name.lower().endswith(_COMPANIONS)
    )
    if not others:
        return []
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(8))
    more = f" and {len(others) - 8} more" if len(others) > 8 else ""
    return [f"{others.total()} file(s) of other suffixes are not read: {kinds}{more}"]


class Problems(list[UnusableFile]):
    """Files that cannot be used, each once, by the first reason that was found. Finding out takes the same time however
    many there are."""

    def __init__(self) -> None:
        super().__init__()
        self.files: set[str] = set()

    def add(self, file: str, reason: str) -> None:
        """Note a file, unless it is noted already."""
        if file not in self.files:
            self.files.add(file)
            self.append(UnusableFile(file, reason))


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sorting key that puts frame2 before frame10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), part) if part.isdigit() else (1, 0, part) for part in parts if part]


def frame_problem(names: Sequence[str]) -> str | None:
    """What is wrong with the frames of a folder, in counting order: one is there twice, or some are missing between
    others. Frames that are numbered in even steps, or by anything else such as times, are not.

    >>> frame_problem(["f0.png", "f1.png", "f7.png", "f8.png"])
    'its frames jump from f1.png to f7.png, most others follow by 1: frames are missing'
    >>> frame_problem(["f0.png", "f5.png", "f10.png"])
    """
    stems = [natural_order(name.rpartition(".")[0].lower()) for name in names]
    # 1 and 01 are one number.
    keys = [tuple(number if kind == 0 else text for kind, number, text in stem) for stem in stems]
    first: dict[tuple[int | str, ...], str] = {}
    for name, key in zip(names, keys, strict=True):
        if key in first:
            return f"holds one frame twice, as {first[key]} and as {name}; remove one"
        first[key] = name
    varying = [field for field in zip(*keys, strict=False) if len(set(field)) > 1]
    if len({len(key) for key in keys}) != 1 or len(varying) != 1:
        return None
    numbers = [number for number in varying[0] if isinstance(number, int)]
    steps = [b - a for a, b in itertools.pairwise(numbers)]
    if len(numbers) < len(names) or len(set(steps)) < 2:
        return None
    usual = min(steps, key=lambda step: (-steps.count(step), step))
    # Of times, as others number frames by, no step is a multiple of another.
    if 2 * steps.count(usual) < len(steps) or any(step % usual for step in steps):
        return None
    k = next(k for k, step in enumerate(steps) if step != usual)
    return f"its frames jump from {names[k]} to {names[k + 1]}, most others follow by {usual}: frames are missing"


def classes_by_folder(
    names: Iterable[str],
    classes: Sequence[str] | None,
    unlabelled: str,
    report: Callable[[str, str], None],
) -> tuple[dict[str, int], list[str]]:
    """Class number by name, and the classes; `report(name, reason)` is told of names without a valid class.

    With unlabelled="keep", names that lie in no sub-folder have no class, which is no mistake.
    """
    top = {name: name.split("/")[0] if "/" in name else None for name in names}
    known = sorted({c for c in top.values() if c is not None}) if classes is None else list(classes)
    labels = {}
    for name, found in top.items():
        if found is None:
            if unlabelled == "refuse":
                report(
                    name,
                    "has no label: it lies in no sub-folder; one sub-folder per class is needed (or unlabelled: keep)",
                )
        elif found not in known:
            report(name, f"lies in {found!r}, which is none of the classes {', '.join(known)}")
        else:
            labels[name] = known.index(found)
    return labels, known


def unusable_files(
    where: str, problems: Sequence[UnusableFile], total: int, usable: int, what: str = "files", more: str = ""
) -> BootdiffError:
    """One error that lists the first ten problems and says how to go on; `more`: what else there is to say of it."""
    lines = [f"  {problem.file}: {problem.reason}" for problem in problems[:10]]
    if len(problems) > 10:
        lines.append(f"  ... and {len(problems) - 10} more")
    hint = "Mend or remove them" + (", or leave them out with on_error: skip." if usable else ".")
    return BootdiffError(
        "\n".join([f"{where}: {len(problems)} of {total} {what} cannot be used:", *lines, hint + more])
    )

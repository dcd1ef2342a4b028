"""Every file of a run or of a saved model against its checksum: what is damaged, and how to make just that again.

Reading finds damage too, where it reads; this looks everywhere, before a run is archived, or after it was copied.
Files of runs and models that an earlier version wrote may have no checksum: they are listed, and accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bootdiff.errors import BootdiffError
from bootdiff.method.plan import ARMS
from bootdiff.saved_scheduler import check_beside
from bootdiff.serialization import read_note
from bootdiff.training.files import load_tensors, read_json, read_record, rows_and_lines, sha256_of
from bootdiff.training.forms import Cost, FileHashes, StageKey, checked
from bootdiff.training.pool import FILE
from bootdiff.training.run import Run, StageDir, rows_are_lost

__all__ = ["Finding", "Verified", "verify"]

_AGAIN = "run the command that trained it again: it writes this model anew, from the run's stages"
_COPY = "copy the folder again"


@dataclass(frozen=True)
class Finding:
    """What is wrong with a file, and what to do. state: "unverified": it has no checksum, and is accepted."""

    state: Literal["damaged", "unverified"]
    file: str
    text: str


@dataclass
class Verified:
    """What `verify` looked at. checked: number of files, the unverified ones among them."""

    folder: Path
    checked: int = 0
    findings: list[Finding] = field(default_factory=list)
    _known: dict[tuple[int, int], str] = field(default_factory=dict)

    @property
    def damaged(self) -> list[Finding]:
        return [found for found in self.findings if found.state == "damaged"]

    def look(self, path: Path, read: Callable[[], Any]) -> Any:
        """What `read` returns; None, and a finding, where it raises BootdiffError."""
        self.checked += 1
        try:
            return read()
        except (BootdiffError, OSError) as error:
            self.damage(path, str(error))
            return None

    def damage(self, path: Path, text: str) -> None:
        self.findings.append(Finding("damaged", self._name(path), text))

    def unverified(self, path: Path) -> None:
        self.findings.append(Finding("unverified", self._name(path), "no checksum: an earlier version wrote it"))

    def sha256(self, path: Path) -> str:
        """SHA-256 of a file, computed once for all its hard links."""
        about = path.stat()
        key = (about.st_dev, about.st_ino)
        if key not in self._known:
            self._known[key] = sha256_of(path)
        return self._known[key]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def verify(folder: str | Path) -> Verified:
    """Check a run, a folder of `save`, or a saved pipeline. Nothing is built, and nothing written.

    Raises:
        BootdiffError: the folder is none of these.
    """
    folder = Path(folder)
    found = Verified(folder)
    if (folder / "model.json").is_file():
        _model(found, folder, _COPY)
    elif (folder / "denoiser").is_dir():
        _model(found, folder / "denoiser", _COPY)
        found.look(folder / "model_index.json", lambda: check_beside(folder, _COPY))
    elif any((folder / name).exists() for name in ("run.json", "recipe.yaml", "stages")):
        _run(found, folder)
    else:
        raise BootdiffError(f"{folder}: neither a run nor a saved model; give a folder that bootdiff wrote")
    return found


def _model(found: Verified, folder: Path, remedy: str) -> None:
    path = folder / "model.json"
    if not path.is_file():
        found.damage(path, f"{path}: lost, or not written yet; {remedy}")
        return
    note = found.look(path, lambda: read_note(folder))
    if note is None:
        return
    if note["format"] < 3:
        found.unverified(path)
    for name, wanted in {entry["file"]: entry["sha256"] for entry in note["weights"].values()}.items():
        _hashed(found, folder / name, wanted, remedy)


def _hashed(found: Verified, path: Path, wanted: str, remedy: str) -> None:
    found.checked += 1
    if not path.is_file():
        found.damage(path, f"{path}: lost; {remedy}")
        return
    try:
        same = found.sha256(path) == wanted
    except OSError as error:
        found.damage(path, f"{path}: cannot be read ({error.strerror}); {remedy}")
        return
    if not same:
        found.damage(path, f"{path}: damaged, or another file (its SHA-256 is not what was written); {remedy}")


def _run(found: Verified, folder: Path) -> None:
    run = Run(folder, None)
    stamps = found.look(folder / "run.json", lambda: run.stamps)
    whole = True if stamps is None else bool(stamps)
    if whole and stamps is not None and run.has_recipe:
        found.look(folder / "recipe.yaml", lambda: run.recipe_text)
        if not (folder / "data.json").is_file():
            again = "restore it from a copy, or run the command that began the run: it writes it anew"
            found.damage(folder / "data.json", f"{folder / 'data.json'}: lost; {again}")
    command = "delete it and run the command that wrote it: it writes it anew"
    for name, form in _JSON.items():
        path = folder / name
        if path.is_file():
            _stamped(found, path, form, command, whole)
    if (folder / "provenance.json").is_file() and stamps is not None:
        found.look(folder / "provenance.json", lambda: run.provenance)
    _rows(found, run, whole)
    for path in sorted(run.stages.iterdir()) if run.stages.is_dir() else ():
        if path.is_dir() and path != run.pool.path:
            _stage(found, StageDir(run, path.name), whole)
    for path in sorted(run.pool.path.iterdir()) if run.pool.path.is_dir() else ():
        if FILE.fullmatch(path.name) and path.stat().st_nlink == 1:
            found.checked += 1
            if not found.sha256(path).startswith(path.stem):
                found.damage(path, f"{path}: damaged; delete it, nothing reads it")
    arms = {path.parent for path in folder.glob("*/model.json")}
    for arm in sorted(arms | {folder / name for name in ARMS if (folder / name / "weights").is_dir()}):
        _model(found, arm, _AGAIN)
    for path in [*sorted(folder.glob("samples/**/*.safetensors")), *sorted(folder.glob("features-*.safetensors"))]:
        found.look(path, lambda path=path: load_tensors(path, remedy="delete it: it is made again where it is needed"))  # type: ignore[misc]


_JSON: Mapping[str, Any] = {
    "data.json": dict[str, Any],
    "ledger.json": dict[str, Cost],
    "trainings.json": dict[str, dict[str, Any]],
    "metrics.json": dict[str, Any],
    "plan/plan.json": dict[str, Any],
}


def _stamped(found: Verified, path: Path, form: Any, remedy: str, whole: bool) -> None:
    whole = whole and path.name != "plan.json"  # it may be older than the run
    if found.look(path, lambda: checked(form, read_json(path, remedy, stamp=whole), path, remedy)) is None:
        return
    if not whole:
        try:
            read_json(path, stamp=True)
        except BootdiffError:
            found.unverified(path)


def _rows(found: Verified, run: Run, whole: bool) -> None:
    path = run.path / "metrics.jsonl"
    if path.is_file():
        rows = found.look(path, lambda: list(rows_and_lines(path, crc=whole)))
        if rows is None:
            return
        if not whole and not all(b'"crc"' in line for _, line in rows):
            found.unverified(path)
    for at in run.lost_rows().items():
        found.damage(path, rows_are_lost(run.path, *at))


def _stage(found: Verified, stage: StageDir, whole: bool) -> None:
    names = {path.name for path in stage.path.iterdir() if not path.name.startswith(".")}
    if names and "key.json" not in names:
        path = stage / "key.json"
        found.damage(path, f"{path}: lost; {stage.remedy}")
    if "choice.json" in names and not stage.begun:
        found.damage(stage / "done.json", f"{stage / 'done.json'}: lost; {stage.remedy}")
    choice = key = None
    for name in sorted(names):
        if name.endswith(".json"):
            form = StageKey if name == "key.json" else None
            value = found.look(stage / name, lambda name=name, form=form: stage.read(name, form))  # type: ignore[misc]
            choice, key = value if name == "choice.json" else choice, value if name == "key.json" else key
    raced = key is not None and isinstance(key["start"], dict) and len(key["start"]) > 1
    if whole and raced and stage.begun and "start.json" not in names:
        found.damage(stage / "start.json", f"{stage / 'start.json'}: lost; {stage.remedy}")
    files = _files(stage) if "done.json" in names else {}
    for name in sorted(n for n in names if n.endswith(".safetensors")):
        if files and name in files:
            _hashed(found, stage / name, files[name], stage.remedy)
        else:
            found.look(stage / name, lambda name=name: stage.tensors(name) if files else _alone(stage, name))  # type: ignore[misc]
    wanted = {f"snapshot-{step}.safetensors" for step in _steps(choice)}
    for name in sorted(set(files) - names):
        if choice is None or name in wanted or not name.startswith("snapshot-"):
            found.checked += 1
            found.damage(stage / name, f"{stage / name}: lost; {stage.remedy}")


def _alone(stage: StageDir, name: str) -> Any:
    return load_tensors(stage / name, remedy=stage.remedy)


def _files(stage: StageDir) -> FileHashes:
    """What done.json says of the weights beside it; nothing where it is damaged, which was found by itself."""
    try:
        read_record(stage / "done.json")
        return dict(stage.files or {})
    except BootdiffError:
        return {}


def _steps(choice: Any) -> list[Any]:
    result = choice.get("result") if isinstance(choice, dict) else None
    steps = result.get("steps") if isinstance(result, dict) else None
    return steps if isinstance(steps, list) else []

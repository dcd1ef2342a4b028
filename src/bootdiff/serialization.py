"""A denoiser in a folder, complete by itself: how it is built, and the weights of its networks.  No pickle.

    model.json                    how it is built (`spec`), and the file of each network's weights with its SHA-256
    weights/<digits>.safetensors  one file per network, named by its content; networks that are the same share it

A part that a denoiser holds twice (one network for two views) is written down once, and where it comes again there is
a reference to the place of the first, {"ref": "composite.denoisers.left"}: loaded, it is one object again.  In a run
the weights are hard links to the run's own (`training.pool`), so that a finished model takes no space of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired

import torch
from pydantic import ConfigDict, Field, with_config
from torch import Tensor, nn
from typing_extensions import TypedDict

from bootdiff import __version__
from bootdiff.denoise import Denoiser, IsotropicGaussian, ScaledDenoiser
from bootdiff.errors import BootdiffError
from bootdiff.guidance import GuidedDenoiser
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.gaussian import GaussianDenoiser
from bootdiff.method.plan import ARMS
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.stack import SnapshotsByNoiseLevel, StackedDenoiser
from bootdiff.nets import NETS
from bootdiff.pretrained import DiffusersDenoiser
from bootdiff.spec import decode, encode
from bootdiff.training.files import atomic_write_bytes, read_json, write_stamped
from bootdiff.training.forms import FileHashes, checked
from bootdiff.training.pool import FILE, WeightPool, common_prefix, file_name, network_bytes

__all__ = ["CLASSES", "ModelNote", "arm_folder", "load", "note_beside", "read_note", "save"]

_PARTS = (
    IsotropicGaussian,
    ScaledDenoiser,
    GuidedDenoiser,
    DiffusersDenoiser,
    CompositeDenoiser,
    GaussianDenoiser,
    ResidualExpert,
    SnapshotsByNoiseLevel,
    StackedDenoiser,
)

CLASSES: dict[str, Any] = {c.__name__: c for c in (*_PARTS, *NETS.values())}  # type: ignore[attr-defined]
"""What a `model.json` may ask for, beside the classes that `load` is given."""

_FORMAT = 3
"""3 is 2 with a checksum of model.json itself."""


def save(denoiser: Denoiser, folder: str | Path) -> None:
    """Write a denoiser into `folder` (made if missing): `model.json` last, each file atomically.

    Raises:
        TypeError: the denoiser holds a part without a config.
        BootdiffError: no room on the disk.
    """
    folder = Path(folder)
    spec = encode(denoiser)  # refuses what cannot be written down, before anything is written
    parts: dict[str, Any] = {}
    spec = _with_references(denoiser, spec, "", parts)
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    stages = folder.absolute().parent / "stages"
    pool = WeightPool(stages / "weights") if stages.is_dir() else None
    weights = {}
    for path, tensors in _own_weights(parts).items():
        data = network_bytes(tensors)
        file = folder / "weights" / file_name(data)
        _write(data, file, pool)
        weights[path] = {"file": f"weights/{file.name}", "sha256": hashlib.sha256(data).hexdigest()}
    said = {"format": _FORMAT, "bootdiff": __version__, "denoiser": spec, "weights": weights}
    write_stamped(folder / "model.json", said)
    used = {Path(entry["file"]).name for entry in weights.values()}
    for file in (folder / "weights").iterdir():
        if FILE.fullmatch(file.name) and file.name not in used:
            file.unlink()  # of what was saved here before


def load(folder: str | Path, device: str | torch.device = "cpu", classes: Iterable[type] = ()) -> Denoiser:
    """The denoiser that `save` wrote, in evaluation mode.

    Args:
        folder: what `save` wrote, or a run: then its arm `bootdiff`, or the only one.
        device: where to.
        classes: classes of your own that it is made of, networks, denoisers and views, known by their names.

    Raises:
        BootdiffError: no such folder, a class that is not known, or files that are damaged or do not go together.
    """
    folder = Path(folder)
    if not (folder / "model.json").is_file() and (folder / "run.json").is_file():
        folder = arm_folder(folder)
    said = read_note(folder)
    known = CLASSES | {c.__name__: c for c in classes}
    parts: dict[str, Any] = {}
    try:
        denoiser = _build(said["denoiser"], "", known, parts)
        if not isinstance(denoiser, Denoiser):
            raise ValueError(f"a {type(denoiser).__name__} is no denoiser")
    except (AttributeError, IndexError, KeyError, RecursionError, RuntimeError, TypeError, ValueError) as error:
        raise BootdiffError(
            f"{folder}/model.json: cannot be built by bootdiff {__version__} ({error}); use the version that wrote it"
        ) from None
    except BootdiffError as error:
        raise BootdiffError(f"{folder}/model.json: {error}") from None
    _fill(_own_weights(parts), said["weights"], folder)
    return denoiser.to(device).eval()


def arm_folder(run: str | Path) -> Path:
    """The folder of a run's finished model: its arm `bootdiff`, or the only one.

    Raises:
        BootdiffError: none yet, or several others.
    """
    run = Path(run)
    arms = sorted(path.parent.name for path in run.glob("*/model.json"))
    lost = [arm for arm in ARMS if arm not in arms and (run / arm / "weights").is_dir()]
    if lost and "bootdiff" not in arms:
        raise BootdiffError(
            f"{run / lost[0]}: its model.json is lost, or not written yet; run the command that trained it again, or "
            f"name another arm (there: {', '.join(arms) or 'none'})"
        )
    if not arms:
        raise BootdiffError(f"{run}: this run has no arm yet; finish its training first")
    if "bootdiff" not in arms and len(arms) > 1:
        raise BootdiffError(
            f"{run}: this run has no arm bootdiff, but {', '.join(arms)}; name one of them: --arm {arms[0]} say, or "
            f"its folder {run / arms[0]}"
        )
    return run / ("bootdiff" if "bootdiff" in arms else arms[0])


# --- how it is built --------------------------------------------------------------------------------------------------


def _is_part(spec: Any) -> bool:
    return isinstance(spec, dict) and set(spec) == {"class", "args"}


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _with_references(value: Any, spec: Any, path: str, parts: dict[str, Any]) -> Any:
    """What `encode` said of `value`, with a reference where a module comes again; `parts` gets each module by path."""
    if isinstance(spec, list):
        return [_with_references(v, s, _join(path, i), parts) for i, (v, s) in enumerate(zip(value, spec, strict=True))]
    if not isinstance(spec, dict):
        return spec
    given: Any = value
    if not isinstance(value, Mapping):
        if isinstance(value, nn.Module):
            first = next((place for place, part in parts.items() if part is value), None)
            if first is not None:
                return {"ref": first}
            parts[path] = value
        config: Any = value.config
        given = config() if callable(config) else config
        spec = spec["args"]
    args = {str(k): _with_references(v, spec[str(k)], _join(path, k), parts) for k, v in given.items()}
    return args if isinstance(value, Mapping) else {"class": type(value).__name__, "args": args}


def _build(spec: Any, path: str, classes: Mapping[str, Any], parts: dict[str, Any]) -> Any:
    """What `_with_references` described; `parts` gets each part by path."""
    if isinstance(spec, list):
        return [_build(s, _join(path, i), classes, parts) for i, s in enumerate(spec)]
    if not isinstance(spec, dict):
        return spec
    if set(spec) == {"ref"}:
        if spec["ref"] not in parts:
            raise ValueError(f"at {path or 'the top'}: nothing stands before it at {spec['ref']!r}")
        return parts[spec["ref"]]
    if not _is_part(spec):
        # A view of one's own is built by its kind.
        return decode({k: _build(s, _join(path, k), classes, parts) for k, s in spec.items()}, classes)
    name = spec["class"]
    if name not in classes:
        raise BootdiffError(
            f"cannot build {name!r}, no class of bootdiff {__version__}; is it your own, pass it: "
            f"load(..., classes=[{name}])"
        )
    args = {k: _build(s, _join(path, k), classes, parts) for k, s in spec["args"].items()}
    parts[path] = decode({"class": name, "args": args}, classes)
    return parts[path]


# --- weights ----------------------------------------------------------------------------------------------------------


def _own_weights(parts: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """The weights of each part that are not those of another part within it, by path; parts without are left out."""
    states = {id(p): p.state_dict(keep_vars=True) for p in parts.values() if isinstance(p, nn.Module)}
    found = {}
    for path, part in parts.items():
        if isinstance(part, nn.Module):
            within = [states[id(m)] for m in part.modules() if m is not part and id(m) in states]
            others = {id(tensor) for state in within for tensor in state.values()}
            own = {name: tensor for name, tensor in states[id(part)].items() if id(tensor) not in others}
            if own:
                found[path] = own
    return found


def _write(data: bytes, file: Path, pool: WeightPool | None) -> None:
    if pool is not None:
        pool.store(data, file)
    else:
        atomic_write_bytes(file, data)


def _fill(own: Mapping[str, Mapping[str, Tensor]], entries: Mapping[str, WeightFile], folder: Path) -> None:
    """Load the files that model.json names into the parts' weights."""
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    strange = sorted(own.keys() ^ entries.keys())
    if strange:
        raise BootdiffError(
            f"{folder}/model.json: names no weights for some of its parts, or weights for parts that it has not "
            f"({', '.join(strange[:3])}); copy the folder again"
        )
    files: dict[str, dict[str, Tensor]] = {}
    for path, tensors in own.items():
        name, wanted = entries[path]["file"], entries[path]["sha256"]
        file = folder / name
        if name not in files:
            try:
                data = file.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                raise BootdiffError(f"{file}: no such file, but model.json names it; copy the folder again") from None
            except OSError as error:
                raise BootdiffError(f"{file}: cannot be read ({error.strerror}); make it readable") from None
            if hashlib.sha256(data).hexdigest() != wanted:
                raise BootdiffError(
                    f"{file}: damaged or another file (its SHA-256 is not what model.json says); copy the folder again"
                )
            try:
                files[name] = parse(data)
            except SafetensorError as error:
                raise BootdiffError(f"{file}: not readable safetensors ({error}); copy the folder again") from None
        _copy(files[name], tensors, file)


def _copy(there: Mapping[str, Tensor], tensors: Mapping[str, Tensor], file: Path) -> None:
    prefix = common_prefix(tensors)
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    missing, unexpected = len(own.keys() - there.keys()), len(there.keys() - own.keys())
    unlike = sum(
        own[k].shape != there[k].shape or own[k].is_floating_point() != there[k].is_floating_point()
        for k in own.keys() & there.keys()
    )
    if missing or unexpected or unlike:
        raise BootdiffError(
            f"{file}: does not go with model.json: {missing} weight(s) missing, {unexpected} unknown, {unlike} of "
            f"another shape; copy all files from one folder"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(there[name])


@with_config(ConfigDict(strict=True, extra="forbid"))
class WeightFile(TypedDict):
    """A file of weights, below the model's folder."""

    file: Annotated[str, Field(pattern=rf"^weights/{FILE.pattern}$")]
    sha256: str


@with_config(ConfigDict(strict=True, extra="forbid"))
class ModelNote(TypedDict):
    """model.json. beside: SHA-256 of the files of a pipeline around it, by their paths from the pipeline's folder."""

    format: int
    bootdiff: NotRequired[str]
    denoiser: dict[str, Any]
    weights: dict[str, WeightFile]
    beside: NotRequired[FileHashes]


def read_note(folder: Path) -> ModelNote:
    """What model.json says, of this format or the one before.

    Raises:
        BootdiffError: missing, damaged, or of another format.
    """
    path, remedy = folder / "model.json", "copy the folder again (an arm of a run: train it again, by the same command)"
    if not path.is_file():
        raise BootdiffError(
            f"{folder}: no model.json in it; give a folder that a finished run or save_pretrained wrote"
        )
    said = read_json(path, remedy)
    form = said.get("format") if isinstance(said, dict) else None
    if type(form) is int and form == 1:
        raise BootdiffError(
            f"{path}: written by bootdiff 0.1 (format 1), which this version does not read. Open it with "
            "that version, or train again"
        )
    if type(form) is not int or form not in (2, _FORMAT):
        raise BootdiffError(
            f"{path}: its format {form!r} is not known to bootdiff {__version__}; use the version that wrote it, or "
            f"{remedy}"
        )
    note: ModelNote = checked(ModelNote, read_json(path, remedy, stamp=form >= 3), path, remedy)
    return note


def note_beside(folder: Path, files: Mapping[str, str]) -> None:
    """Write the SHA-256 of files around a model (`ModelNote.beside`) into its model.json."""
    write_stamped(folder / "model.json", {**read_note(folder), "beside": dict(files)})

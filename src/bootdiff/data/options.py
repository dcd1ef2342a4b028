"""The options of all readers: what each means, its bounds and default, and which kinds of data it is for.

Each meaning is written once, as an annotation; each reader has the dataclass of the options that it understands; and
`DataOptions` is all of them together, which `open_dataset` takes by name and a recipe's data blocks are built from.
Nothing heavy is imported here, so a recipe can be read in milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args

from annotated_types import MaxLen

from bootdiff.settings import Doc, Ge, Gt, MinLen, annotations_of, check, short_repr

__all__ = [
    "EMBEDDED",
    "HUB",
    "MAX_BYTES",
    "MAX_COLUMNS",
    "MAX_FRAMES",
    "MAX_PIXELS",
    "ArrayOptions",
    "DataOptions",
    "EmbeddedOptions",
    "HFOptions",
    "ImageOptions",
    "ParquetOptions",
    "ReaderOptions",
    "ShardOptions",
    "SignalOptions",
    "TableOptions",
    "VideoOptions",
    "conflicts",
    "defaults_of",
    "is_path",
    "kinds_of",
]  # fmt: skip


@dataclass(frozen=True)
class ForKinds:
    """Marks an option that means something for these kinds of data only."""

    kinds: tuple[str, ...]


EMBEDDED = ("digits", "letters")
"""Paths that stand for data that need no files: scikit-learn's digits, letters of matplotlib's fonts."""


HUB = "hf://"
"""Begins the name of a data set on the Hugging Face Hub, hf://owner/name."""


_LONGEST_SIDE = 65_536  # of a picture, that memory is taken for
_LARGEST = 1e30


# --- what each option means ---

Kind = Annotated[
    Literal["image", "video", "signal", "vector"] | None,
    Doc("what one sample is; null: what the files leave no doubt about"),
]
Key = Annotated[str | None, Doc("name of the array in an .npz file, or of the part of a Hugging Face data set")]
Labels = Annotated[
    bool | str,
    Doc(
        "true: sub-folders are classes, in shards the numbers in .cls files; or the name of the array, of the column, "
        "or of the field in .json files, of labels"
    ),
]
Unlabelled = Annotated[Literal["refuse", "keep"], Doc("with labels: what to do with samples without")]
OnError = Annotated[Literal["refuse", "skip"], Doc("what to do with files that cannot be used")]
Channels = Annotated[
    Literal[1, 2, 3, 4] | None,
    ForKinds(("image", "video")),
    Doc("1 gray, 3 colour; of arrays also 2 and 4, none of which is alpha; null: as most of the files"),
]
Alpha = Annotated[
    Literal["refuse", "white", "black", "drop"], ForKinds(("image", "video")), Doc("what to do with transparency")
]
Masks = Annotated[
    bool | str,
    Doc(
        "true: each file has a mask beside it, name.mask.png (white = observed); alpha: what is transparent in a "
        "picture is not observed; or the array's name"
    ),
]
Missing = Annotated[Literal["refuse", "mask"], Doc("NaN, empty cells and pixels without data: damage, or not observed")]
Column = Annotated[str | None, Doc("column of pictures in a Hugging Face data set or a Parquet table")]
Columns = Annotated[
    Annotated[list[str], MinLen(1)] | None,
    ForKinds(("vector", "signal")),
    Doc("columns of a table to use, in this order; null: all, which must hold numbers"),
]
Header = Annotated[
    bool | None,
    ForKinds(("vector", "signal")),
    Doc(
        "first row of a CSV or TSV table: true: names of the columns; false: values, and the columns are called 1, 2, "
        "...; null: names, refused where they are numbers"
    ),
]
Separator = Annotated[
    str | None,
    ForKinds(("vector", "signal")),
    Doc("character between the values of a CSV or TSV table, ' ' for any white space; null: comma, in TSV tab"),
]
Decimal = Annotated[
    Literal[".", ","], ForKinds(("vector", "signal")), Doc("character before the decimals in a CSV or TSV table")
]
MissingValues = Annotated[
    Annotated[list[float | str], MinLen(1)] | None,
    ForKinds(("vector", "signal")),
    Doc("values of tables that stand for a missing one, as [-200, '?'], beside empty cells; see missing"),
]
Limit = Annotated[int | None, Ge(1), Doc("use at most this many samples, evenly spaced over all there are")]
Frames = Annotated[
    int | None, Ge(1), ForKinds(("video",)), Doc("frames of a video to use; longer ones give several windows")
]
Length = Annotated[
    int | None, Ge(1), ForKinds(("signal",)), Doc("values of a signal to use; longer ones give several windows")
]
Stride = Annotated[
    int | None, Ge(1), ForKinds(("video", "signal")), Doc("spacing of such windows; null: one after the other")
]
Fps = Annotated[
    float | None, Gt(0), ForKinds(("video",)), Doc("resample video files to this many frames per second (nearest)")
]
PixelAspect = Annotated[
    Literal["refuse", "ignore"],
    ForKinds(("video",)),
    Doc("what to do with video files whose pixels are not square; ignore: take them as they are stored"),
]
Range = Annotated[
    Annotated[list[float], MinLen(2), MaxLen(2)] | None,
    Doc("[low, high] of the stored values; null: the full samples', or of floats [0, 1] or [-1, 1], of integers all"),
]
Standardize = Annotated[
    bool,
    ForKinds(("vector", "signal")),
    Doc("signals, vectors: scale by each channel's mean and deviation, measured on full samples"),
]
Size = Annotated[
    Annotated[Sequence[int], MinLen(2), MaxLen(2)] | None,
    ForKinds(("image", "video")),
    Doc("[height, width] of the samples; null: what most files have, of a view's files with `fit` what the view says"),
]
Fit = Annotated[
    Literal["refuse", "resize", "crop", "pad"],
    ForKinds(("image", "video")),
    Doc(
        "pictures and frames larger than `size`: refuse them, shrink them to it, shrink and cut, or shrink and hide "
        "what is beyond"
    ),
]
Slices = Annotated[
    Literal["axial", "coronal", "sagittal"],
    ForKinds(("image", "video")),
    Doc("which slices of NIfTI volumes are pictures, or the frames of a video"),
]
# Small files may unpack to fill the memory, or keep a decoder busy for days: what is far from usual is asked for.
MaxPixels = Annotated[
    int, Ge(1), ForKinds(("image", "video")), Doc("a picture or frame of more pixels is a file that cannot be used")
]
MaxFrames = Annotated[
    int, Ge(1), ForKinds(("video",)), Doc("a video file of more frames is a file that cannot be used")
]
MaxColumns = Annotated[
    int, Ge(1), ForKinds(("vector", "signal")), Doc("a table of more columns is a file that cannot be used")
]
MaxBytes = Annotated[
    int, Ge(1), Doc("a packed file (.npz, .nii.gz, Parquet) that unpacks to more bytes is one that cannot be used")
]
# Not in recipes, where one block's classes and units are found for all.
Classes = Annotated[list[str] | None, Doc("names of the classes, which fix their numbers across several folders")]
UnitsOfOthers = Annotated[
    Any, Doc("`Units` of other data of the same quantity, in place of measuring them; nothing to files that say theirs")
]
Std = Annotated[
    float, Ge(0), Doc("deviation of white noise in the values, in [-1, 1]: they may lie that far beyond their range")
]


MAX_PIXELS, MAX_FRAMES, MAX_COLUMNS, MAX_BYTES = 200_000_000, 200_000, 10_000, 2**31


# --- what each reader understands ---


@dataclass(frozen=True, kw_only=True)
class ReaderOptions:
    """What every reader understands."""

    kind: Kind = None
    labels: Labels = False
    on_error: OnError = "refuse"
    limit: Limit = None
    units: UnitsOfOthers = None
    std: Std = 0.0

    def __post_init__(self) -> None:
        check(self)
        for name, problem in conflicts(self):
            raise ValueError(f"{type(self).__name__}.{name}: {problem}")


@dataclass(frozen=True, kw_only=True)
class EmbeddedOptions(ReaderOptions):
    """Of data that need no files; `key` is all, train or test."""

    key: Key = None
    channels: Channels = None


@dataclass(frozen=True, kw_only=True)
class ArrayOptions(ReaderOptions):
    """Of .npy and .npz files."""

    key: Key = None
    unlabelled: Unlabelled = "refuse"
    classes: Classes = None
    channels: Channels = None
    alpha: Alpha = "refuse"
    masks: Masks = False
    missing: Missing = "refuse"
    range: Range = None
    standardize: Standardize = False
    frames: Frames = None
    length: Length = None
    stride: Stride = None
    max_bytes: MaxBytes = MAX_BYTES


@dataclass(frozen=True, kw_only=True)
class TableOptions(ReaderOptions):
    """Of a table whose rows are vectors."""

    unlabelled: Unlabelled = "refuse"
    classes: Classes = None
    columns: Columns = None
    header: Header = None
    separator: Separator = None
    decimal: Decimal = "."
    missing_values: MissingValues = None
    missing: Missing = "refuse"
    range: Range = None
    standardize: Standardize = False
    max_columns: MaxColumns = MAX_COLUMNS
    max_bytes: MaxBytes = MAX_BYTES


@dataclass(frozen=True, kw_only=True)
class SignalOptions(TableOptions):
    """Of a folder of signals, or one."""

    length: Length = None
    stride: Stride = None


@dataclass(frozen=True, kw_only=True)
class PictureOptions(ReaderOptions):
    """Of pictures and of the frames of videos."""

    unlabelled: Unlabelled = "refuse"
    classes: Classes = None
    channels: Channels = None
    alpha: Alpha = "refuse"
    masks: Masks = False
    size: Size = None
    fit: Fit = "refuse"
    max_pixels: MaxPixels = MAX_PIXELS
    max_bytes: MaxBytes = MAX_BYTES


@dataclass(frozen=True, kw_only=True)
class ShardOptions(PictureOptions):
    """Of pictures in tar files."""


@dataclass(frozen=True, kw_only=True)
class ImageOptions(ShardOptions):
    """Of a folder of pictures."""

    range: Range = None
    missing: Missing = "refuse"
    slices: Slices = "axial"


@dataclass(frozen=True, kw_only=True)
class VideoOptions(PictureOptions):
    """Of a folder of videos, or one."""

    frames: Frames = None
    stride: Stride = None
    fps: Fps = None
    pixel_aspect: PixelAspect = "refuse"
    max_frames: MaxFrames = MAX_FRAMES
    range: Range = None
    missing: Missing = "refuse"
    slices: Slices = "axial"


@dataclass(frozen=True, kw_only=True)
class HFOptions(ReaderOptions):
    """Of a Hugging Face data set saved to disk."""

    key: Key = None
    column: Column = None
    channels: Channels = None
    alpha: Alpha = "refuse"
    max_pixels: MaxPixels = MAX_PIXELS


@dataclass(frozen=True, kw_only=True)
class ParquetOptions(ShardOptions):
    """Of pictures in Parquet tables."""

    key: Key = None
    column: Column = None


@dataclass(frozen=True, kw_only=True)
class DataOptions(HFOptions, ImageOptions, VideoOptions, SignalOptions, ArrayOptions):
    """Every option of every reader."""


def is_path(path: str) -> bool:
    """Whether data are named by a path of files: neither `EMBEDDED` nor on the Hub.

    >>> is_path("photos"), is_path("digits"), is_path("hf://owner/name")
    (True, False, False)
    """
    return path not in EMBEDDED and not path.startswith(HUB)


def defaults_of(options: type[ReaderOptions]) -> dict[str, Any]:
    """Names and defaults of a reader's options."""
    return {f.name: f.default for f in fields(options)}


def kinds_of(option: str) -> tuple[str, ...] | None:
    """The kinds of data for which an option means something; None where for all.

    >>> kinds_of("stride"), kinds_of("labels")
    (('video', 'signal'), None)
    """
    marks = get_args(annotations_of(DataOptions)[option])[1:]
    return next((m.kinds for m in marks if isinstance(m, ForKinds)), None)


def conflicts(options: Any) -> Iterator[tuple[str, str]]:
    """Pairs (option, what is wrong with it) of options that exclude or need each other."""
    defaults = defaults_of(DataOptions)
    given = {name: v for name in defaults if (v := getattr(options, name, None)) not in (None, defaults[name])}
    for name in ("labels", "masks"):
        if not isinstance(given.get(name, False), bool | str):
            yield name, f"must be true, false or the name of an array, got {short_repr(given[name])}"
    if given.get("masks") == "alpha" and "alpha" in given:
        yield "alpha", "what is transparent is not observed (masks: alpha), so nothing is put behind it; leave it out"
    if "size" in given and not 1 <= min(given["size"]) <= max(given["size"]) <= _LONGEST_SIDE:
        bounds = f"two numbers from 1 to {_LONGEST_SIDE:,}"
        yield "size", f"must be [height, width], {bounds}, got {short_repr(list(given['size']))}"
    if "range" in given and not given["range"][0] < given["range"][1]:
        yield "range", f"must be [low, high] with low < high, got {list(given['range'])}"
    if "range" in given and max(map(abs, given["range"])) > _LARGEST:
        said = f"must lie within +-{_LARGEST:g}, which floats of 32 bits reach, got {list(given['range'])}"
        yield "range", f"{said}; scale the values"
    if "range" in given and "standardize" in given:
        yield "standardize", "the values have a range already; leave out one of the two"
    if "range" in given and "units" in given:
        yield "units", "the values have a range already; leave out one of the two"
    if len(given.get("separator", ",")) != 1:
        yield "separator", f"must be one character (' ' for any white space), got {short_repr(given['separator'])}"
    if "frames" in given and "length" in given:
        yield "length", "videos have frames, signals have a length; leave out one of the two"
    if "stride" in given and "frames" not in given and "length" not in given:
        yield "stride", "spaces windows, but there is no frames (videos) or length (signals)"
    if given.get("unlabelled") == "keep" and "labels" not in given:
        yield "unlabelled", "there are no labels to lack; say labels, or leave this out"
    for name in given:
        kinds = kinds_of(name)
        if kinds is not None and "kind" in given and given["kind"] not in kinds:
            yield name, f"means nothing for kind: {given['kind']} (only for {' and '.join(kinds)}); leave it out"

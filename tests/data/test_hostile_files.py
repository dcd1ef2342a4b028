"""Files that are damaged, absurd or made to harm: read, or refused with the file and the reason.

Nothing hangs, no device is read, no memory is taken for what a header claims, no other program or file is opened.

Recordings and data sets: `test_hostile_recordings`.
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest

from bootdiff.data import open_dataset
from bootdiff.data.readers.offsets import read_offsets
from bootdiff.errors import BootdiffError
from bootdiff.recipe.schema import read_mask
from hostile_files import EPS, MOST, PLAIN, RED, RNG, bounded, outcome, png, wav


@pytest.fixture(autouse=True)
def _bounded():
    with bounded():
        yield


# --- pictures ---


def saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def ztxt(size):
    packed = b"a\0\0" + zlib.compress(b"\0" * size, 9)
    kind = b"zTXt"
    return struct.pack(">I", len(packed)) + kind + packed + struct.pack(">I", zlib.crc32(kind + packed))


PICTURES = {
    "plain": (png(4, 4, raw=PLAIN), "read"),
    "empty": (b"", "cannot be decoded"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no known format"),
    "postscript": (EPS, "no known format"),
    "html": (b"<html>", "no known format"),
    "header alone": (png(60_000, 60_000, raw=b"\0"), "60000 x 60000 = 3,600,000,000 pixels, more than max_pixels"),
    "16 bits, header alone": (png(60_000, 60_000, 16, raw=b"\0"), "more than max_pixels (200,000,000): raise that"),
    "no pixels": (png(0, 0), "cannot be decoded"),
    "16 bits cut short": (png(4, 4, 16, raw=b"\0" * 10), "cannot be decoded"),
    "16 bits, wrong filter": (png(4, 4, 16, raw=(b"\x09" + b"\0" * 24) * 4), "cannot be decoded"),
    "16 bits, no stream": (png(4, 4, 16, idat=b"garbage"), "cannot be decoded"),
    "text of 300 MB": (png(4, 4, raw=PLAIN, extra=ztxt(300 << 20)), "cannot be decoded"),
    "animated": (saved(RED[0], "PNG", save_all=True, append_images=RED[1:]), "is animated (3 frames)"),
    "TIFF by another name": (saved(RED[0], "TIFF"), "read"),
    "BMP by another name": (saved(RED[0], "BMP"), "read"),
    "JPEG cut short": (saved(RED[0], "JPEG")[:200], "cannot be decoded"),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 40, "no known format"),
    "icon": (b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0" + b"\0" * 40, "no known format"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(tmp_path, monkeypatch, name):
    monkeypatch.setattr("subprocess.Popen", None)  # what Pillow would start Ghostscript with
    data, expected = PICTURES[name]
    (tmp_path / "x.png").write_bytes(data)
    said = outcome(tmp_path)
    assert expected in said
    if said != "read":
        assert "x.png: " in said
        (tmp_path / "a.png").write_bytes(png(4, 4, raw=PLAIN))
        assert outcome(tmp_path, on_error="skip") == "read"


def test_sixteen_bits_are_decoded_in_bounded_memory(tmp_path):
    """6 bytes a pixel stored, 11 while decoded."""
    lines = (b"\0" + b"\1\2" * 3 * 3000) * 2000
    (tmp_path / "x.png").write_bytes(png(3000, 2000, 16, raw=lines))
    now = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now[0] - MOST + (220 << 20), now[1]))
    from bootdiff.data.readers.decode import decode, read_file

    pixels, _ = decode(read_file(tmp_path / "x.png"))
    assert pixels.shape == (2000, 3000, 3)
    assert pixels[0, 0, 0] == pixels[-1, -1, -1] == 258


# --- what lies in a folder and is no file ---


SPECIAL = {
    "pipe": (lambda path: os.mkfifo(path), "is no regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is no regular file"),
    "empty device": (lambda path: path.symlink_to("/dev/null"), "is no regular file"),
    "link to nothing": (lambda path: path.symlink_to("nowhere"), "cannot be read (No such file or directory)"),
    "circle": (lambda path: path.symlink_to(path.name), "cannot be read (Too many levels of symbolic links)"),
    "link": (lambda path: path.symlink_to(path.with_name("good" + path.suffix)), "read"),
}


def film(path):
    RED[0].save(path, save_all=True, append_images=RED[1:], duration=40)


GOOD = {
    ".png": (lambda path: path.write_bytes(png(4, 4, raw=PLAIN)), {}),
    ".tif": (lambda path: path.write_bytes(saved(RED[0], "TIFF")), {}),
    ".dcm": (None, {"kind": "image"}),
    ".nii": (None, {"kind": "image"}),
    ".npy": (lambda path: np.save(path, np.zeros((4, 4), np.uint8)), {"kind": "image"}),
    ".wav": (wav, {}),
    ".csv": (lambda path: path.write_text("a,b\n" + "0.5,0.25\n" * 64), {"kind": "signal"}),
    ".gif": (film, {}),
    ".mp4": (None, {}),
}


@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("suffix", GOOD)
def test_what_is_no_file_is_named_by_every_reader(tmp_path, suffix, name):
    needed = {".tif": "tifffile", ".dcm": "pydicom", ".nii": "nibabel", ".csv": "pandas", ".mp4": "av"}
    if suffix in needed:
        pytest.importorskip(needed[suffix])
    make, options = GOOD[suffix]
    if make is not None:
        make(tmp_path / f"good{suffix}")
    elif name == "link":
        pytest.skip("no good file at hand")
    special, expected = SPECIAL[name]
    special(tmp_path / f"x{suffix}")
    said = outcome(tmp_path, **options)
    assert expected in said.replace("is no regular file or does not exist", expected)
    if said != "read":
        assert f"x{suffix}: " in said


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".wav", ".gif", ".tif"])
def test_a_path_that_is_no_file(tmp_path, suffix):
    os.mkfifo(tmp_path / f"x{suffix}")
    kind = {".csv": "vector", ".npy": "image", ".npz": "image"}.get(suffix)
    assert "is no regular file" in outcome(tmp_path / f"x{suffix}", kind=kind)


def test_a_pipe_without_a_suffix_is_not_asked_whether_it_is_dicom(tmp_path):
    (tmp_path / "a.png").write_bytes(png(4, 4, raw=PLAIN))
    os.mkfifo(tmp_path / "pipe")
    assert outcome(tmp_path) == "read"


def test_masks_and_offsets_that_are_no_files(tmp_path):
    for name, read in (
        ("m.png", lambda path: read_mask(path, "views.t.view.image")),
        ("m.npy", lambda path: read_mask(path, "views.t.view.image")),
        ("o.npy", read_offsets),
        ("o.txt", read_offsets),
    ):
        os.mkfifo(tmp_path / name)
        with pytest.raises(BootdiffError, match=f"{name}.*is no regular file"):
            read(tmp_path / name)
        (tmp_path / name).unlink()
    for path, read in ((tmp_path / "m.npy", lambda p: read_mask(p, "here")), (tmp_path / "o.npy", read_offsets)):
        path.write_bytes(npy((10**12, 8, 8, 3)) + b"\0" * 1000)
        with pytest.raises(BootdiffError, match=f"{path.name}.*cannot"):
            read(path)
        np.save(path, np.array([pickle.loads], object), allow_pickle=True)
        with pytest.raises(BootdiffError, match=path.name):
            read(path)


def test_links_to_folders_are_followed_but_not_around(tmp_path):
    inside, beside = tmp_path / "a" / "data", tmp_path / "b"
    for folder in (inside, beside):
        folder.mkdir(parents=True)
        (folder / "x.png").write_bytes(png(4, 4, raw=PLAIN))
    (inside / "more").symlink_to(beside)
    (inside / "self").symlink_to(".")
    assert len(open_dataset(inside)) == 2
    (inside / "all").symlink_to("/")
    said = outcome(inside)
    assert "all: is a link to /, around the folder itself; link to what is meant in it" in said
    assert len(open_dataset(inside, on_error="skip")) == 2


def test_names_that_a_terminal_would_obey_are_not_printed_raw(tmp_path):
    for name in ("a\nb.png", "-rf.png", "$(touch x).png"):
        (tmp_path / name).write_bytes(png(4, 4, raw=PLAIN))
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb") as file:
        file.write(png(4, 4, raw=PLAIN))
    assert outcome(tmp_path) == "read"


# --- files of several pictures ---


def test_more_pictures_than_a_file_can_hold(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = "1.2", "1.2.3"
    data.Rows = data.Columns = 4
    data.SamplesPerPixel, data.BitsAllocated, data.BitsStored, data.PixelRepresentation = 1, 8, 8, 0
    data.PhotometricInterpretation, data.NumberOfFrames, data.PixelData = "MONOCHROME2", "999999999", bytes(16)
    data.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    assert "x.dcm: says that it holds 999,999,999 pictures; 1 to 200,000 are read of one file" in outcome(tmp_path)


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_volumes_that_are_not_there(tmp_path, packed):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    nibabel.save(image, tmp_path / "a.nii")
    for shape, said in (
        ((1, 1, 32767, 32767), "pictures; 1 to 200,000 are read"),
        ((32767, 32767, 4, 1), "max_pixels"),
    ):
        data = bytearray((tmp_path / "a.nii").read_bytes())
        data[40:56] = struct.pack("<8h", 4, *shape, 1, 1, 1)
        path = tmp_path / f"x.nii{packed}"
        path.write_bytes(gzip.compress(bytes(data)) if packed else bytes(data))
        assert (said if packed else "x.nii: is cut short: its header says") in outcome(tmp_path)
    data[40:56] = struct.pack("<8h", 4, 1000, 1000, 1000, 100, 1, 1, 1)
    path.write_bytes(gzip.compress(bytes(data)) if packed else bytes(data))
    said = outcome(tmp_path)
    assert f"x.nii{packed}: " in said
    assert not packed or "unpacks to 100,000,000,000 bytes, more than max_bytes" in said


def test_a_tiff_that_names_another_file(tmp_path):
    """The metadata of OME-TIFF may: it would be opened, and here waited for."""
    tifffile = pytest.importorskip("tifffile")
    os.mkfifo(tmp_path / "other.ome.tif")
    planes = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="{name}.ome.tif">urn:uuid:{z}</UUID></TiffData>'
        for z, name in enumerate(("x", "other"))
    )
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="4" SizeY="4" '
        f'SizeZ="2" SizeC="1" SizeT="1"><Channel ID="Channel:0:0"/>{planes}</Pixels></Image></OME>'
    )
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "other.ome.tif").symlink_to(tmp_path / "other.ome.tif")
    tifffile.imwrite(folder / "x.ome.tif", np.zeros((4, 4), np.uint8), description=xml, metadata=None)
    assert outcome(folder / "x.ome.tif") == "read"


# --- arrays ---


def npy(shape, descr="<f4"):
    head = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    head += b" " * ((64 - (len(head) + 11) % 64) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def array(value):
    file = io.BytesIO()
    np.save(file, value, allow_pickle=True)
    return file.getvalue()


OK = RNG.integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)
ARRAYS = {
    "plain": (array(OK), {}, "read"),
    "objects": (array(np.array([Evil()] * 8, object)), {}, "never unpickles"),
    "pickle": (pickle.dumps(Evil()), {}, "never unpickles"),
    "claims 10^12": (npy((10**12, 8, 8, 3)) + b"\0" * 1000, {}, "cannot be read"),
    "negative": (npy((-5, 4, 4, 3)) + b"\0" * 1000, {}, "cannot be read"),
    "overflows": (npy((2**62, 4, 4, 3)) + b"\0" * 1000, {}, "cannot be read"),
    "header of 4 GB": (b"\x93NUMPY\x02\x00" + struct.pack("<I", 0xFFFFFFF0) + b"{", {}, "cannot be read"),
    "code for a type": (npy((8, 4, 4, 3), "__import__('os').system('false')"), {}, "cannot be read"),
    "no axis": (array(np.float32(1)), {}, "has shape ()"),
    "no sample": (array(OK[:0]), {}, "is empty"),
    "complex": (array(OK.astype(complex)), {}, "complex128"),
    "text": (array(np.full((8, 4, 4, 3), "a")), {}, "need integers or floats"),
    "times": (array(np.zeros((8, 4, 4, 3), "M8[s]")), {}, "need integers or floats"),
    "structured": (array(np.zeros((8, 4, 4, 3), [("a", "f4")])), {}, "need integers or floats"),
    "infinite": (array(np.full((8, 4, 4, 3), np.inf, "f2")), {}, "holds NaN or infinite values"),
    "1e300": (array(np.full((8, 4, 4, 3), 1e300)), {}, "outside [-1, 1]"),
    "seven axes": (array(np.zeros((8, 2, 2, 2, 2, 2, 3), "u1")), {}, "has shape"),
    "1e300, standardized": (array(RNG.random((8, 4)) * 1e300), {"kind": "vector", "standardize": True}, "beyond"),
    "1e200 signals": (array(RNG.random((8, 40)) * 1e200), {"kind": "signal", "standardize": True}, "beyond +-1e+30"),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_arrays(tmp_path, name):
    data, options, expected = ARRAYS[name]
    (tmp_path / "x.npy").write_bytes(data)
    assert expected in outcome(tmp_path / "x.npy", **options)


def test_a_range_that_floats_of_32_bits_do_not_reach(tmp_path):
    np.save(tmp_path / "x.npy", np.full((8, 4, 4, 3), 1e300))
    with pytest.raises(ValueError, match=r"range: must lie within \+-1e\+30.*scale the values"):
        open_dataset(tmp_path / "x.npy", range=[-1e300, 1e300])


def packed(name, members, method=zipfile.ZIP_DEFLATED):
    def make(path):
        with zipfile.ZipFile(path, "w", method) as archive:
            for member, data in members.items():
                archive.writestr(member, data)

    return pytest.param(make, id=name)


ZEROS = npy((64, 512, 512, 3), "|u1") + bytes(64 * 512 * 512 * 3)


@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        (packed("plain", {"x.npy": array(OK)}).values[0], {}, "read"),
        (packed("text", {"a.txt": "hi"}).values[0], {}, "is no array"),
        (packed("text by its name", {"a.txt": "hi", "x.npy": array(OK)}).values[0], {"key": "a.txt"}, "is no array"),
        (packed("nothing", {}).values[0], {}, "holds 0 arrays"),
        (packed("claims 10^12", {"x.npy": npy((10**12, 8, 8, 3)) + bytes(99)}).values[0], {}, "x.npz[x]"),
        (packed("elsewhere", {"../../x.npy": array(OK)}).values[0], {}, "read"),
        (packed("objects", {"x.npy": array(np.array([Evil()] * 8, object))}).values[0], {}, "never unpickles"),
        (packed("50 MB in 50 kB", {"x.npy": ZEROS}).values[0], {"max_bytes": 2**24}, "unpacks to 50,331,776 bytes"),
        (packed("labels", {"x.npy": array(OK), "y.npy": npy((10**9,)) + bytes(99)}).values[0],
         {"key": "x", "labels": "y"}, "x.npz[y]"),
        (lambda path: path.write_bytes(b"PK\3\4" + bytes(400)), {}, "cannot be read"),
        (lambda path: path.write_bytes(pickle.dumps(Evil())), {}, "never unpickles"),
    ],
)  # fmt: skip
def test_archives(tmp_path, make, options, expected):
    make(tmp_path / "x.npz")
    assert expected in outcome(tmp_path / "x.npz", **options)
    assert sorted(path.name for path in tmp_path.parent.glob("x.npy")) == []


# --- tables ---

ROWS = "a,b\n" + "0.1,0.2\n0.3,0.1\n" * 6
TABLES = {
    "plain": (ROWS, "read"),
    "formula": (ROWS + '=1+1,=HYPERLINK("http://x")\n', "x.csv: "),
    "longer row": (ROWS + "1,2,3,4\n", "x.csv: "),
    "nulls": (ROWS.encode() + b"1,\x00\n", "x.csv: "),
    "latin": ("café,b\n1,2\n".encode("latin-1"), "x.csv: "),
    "utf-16": (ROWS.encode("utf-16"), "x.csv: "),
    "empty": ("", "x.csv: "),
    "header": ("a,b\n", "holds no rows"),
    "1e400": (ROWS + "1e400,1\n", "infinite"),
    "hexadecimal": (ROWS + "0x10,1\n", "x.csv: "),
    "open quote": (ROWS + '"1,2\n', "x.csv: "),
    "20,000 columns": (",".join(f"c{i}" for i in range(20_000)) + "\n" + ",".join("1" * 20_000), "max_columns"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables(tmp_path, name):
    pytest.importorskip("pandas")
    text, expected = TABLES[name]
    (tmp_path / "x.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert expected in outcome(tmp_path / "x.csv")


def test_a_table_packed_into_nothing(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    path = tmp_path / "x.parquet"
    pandas.DataFrame({"a": np.zeros(3_000_000), "b": np.ones(3_000_000)}).to_parquet(path)
    assert path.stat().st_size < 100_000
    assert "unpacks to 48,000,000 bytes, more than max_bytes (1,000,000)" in outcome(path, max_bytes=10**6)
    (tmp_path / "x.parquet").write_bytes(b"PAR1junkPAR1")
    assert "x.parquet: cannot be read as a table" in outcome(path)


# --- in earnest ---


@pytest.mark.slow  # pictures of 170 million pixels
@pytest.mark.timeout(300)
@pytest.mark.parametrize("depth", [8, 16])
def test_the_largest_picture_that_is_opened_fits_into_memory(tmp_path, depth):
    side, wide = 13_000, 3 * depth // 8
    stream = zlib.compressobj(9)
    line = b"\0" * (1 + side * wide)
    idat = b"".join([*(stream.compress(line) for _ in range(side)), stream.flush()])
    (tmp_path / "x.png").write_bytes(png(side, side, depth, idat=idat))
    assert (tmp_path / "x.png").stat().st_size < 2_000_000
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (5 << 30,) * 2)\n"
        "from pathlib import Path\nfrom bootdiff.data.readers.decode import decode\n"
        f"print(decode(Path({str(tmp_path / 'x.png')!r}).read_bytes())[0].shape)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"({side}, {side}, 3)", done.stderr

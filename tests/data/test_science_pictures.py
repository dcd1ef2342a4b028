"""TIFF, DICOM, NIfTI and .npy pictures: exact values, nothing guessed, each bad file and missing library named."""

from __future__ import annotations

import builtins
import copy
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bootdiff.data import measure, open_dataset, split_by_recording
from bootdiff.data.options import ImageOptions
from bootdiff.data.readers.pictures import SciencePictures
from bootdiff.data.units import Units
from bootdiff.errors import BootdiffError

RNG = np.random.default_rng(0)


def stored(sample, low: float, high: float) -> np.ndarray:
    """A sample's values, (H, W, C)."""
    return np.moveaxis((sample.x.double().numpy() + 1) / 2 * (high - low) + low, 0, -1)


def refused(path: Path, **options) -> str:
    with pytest.raises(BootdiffError) as error:
        open_dataset(path, **options)
    return str(error.value)


@pytest.fixture
def no_library(monkeypatch):
    def without(name: str) -> None:
        monkeypatch.delitem(sys.modules, name, raising=False)
        real = builtins.__import__

        def fake(module, *args, **kwargs):
            if module.split(".")[0] == name:
                raise ImportError(name)
            return real(module, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", fake)
        monkeypatch.setattr(
            "bootdiff.data.readers.stacks.import_module",
            lambda module: (_ for _ in ()).throw(ImportError(module)) if module == name else __import__(module),
        )

    return without


class TestTiff:
    @pytest.fixture
    def tifffile(self):
        return pytest.importorskip("tifffile")

    @pytest.mark.parametrize(
        ("dtype", "bounds", "options"),
        [
            ("uint8", (0, 255), {}),
            ("uint16", (0, 65535), {}),
            ("uint16", (0, 4095), {"range": [0, 4095]}),
            ("int16", (-1000, 1000), {"range": [-1000, 1000]}),
            ("uint32", (0, 1000), {"range": [0, 1000]}),
            ("float32", (-2, 2), {"range": [-2, 2]}),
            ("float64", (0, 1), {"range": [0, 1]}),
        ],
    )
    def test_values(self, tifffile, tmp_path, dtype, bounds, options):
        low, high = bounds
        for i, shape in enumerate([(6, 5), (6, 5)]):
            pixels = RNG.uniform(low, high, shape).astype(dtype)
            tifffile.imwrite(tmp_path / f"{i}.tif", pixels)
            np.save(tmp_path / f"{i}.npy", pixels)
        source = open_dataset(tmp_path, **options)
        assert source.shape == (1, 6, 5)
        assert source.kind == "image"
        for i in range(2):
            assert np.abs(stored(source[i], low, high)[..., 0] - np.load(tmp_path / f"{i}.npy")).max() < 1e-3 * (
                high - low
            )
        assert len(open_dataset(tmp_path / "0.tif", **options)) == 1
        if options:
            assert source.units.bounds == bounds
            assert np.allclose(source.restore(source[1].x)[0], pixels, atol=1e-5 * (high - low))
            if dtype != "uint16":
                assert "have no usual range" in refused(tmp_path)

    def test_bands_pages_palettes_and_white_is_zero(self, tifffile, tmp_path):
        bands = RNG.integers(0, 256, (6, 5, 7), dtype=np.uint8)
        tifffile.imwrite(tmp_path / "chunky.tif", bands, photometric="minisblack", planarconfig="contig")
        tifffile.imwrite(tmp_path / "planar.tif", np.moveaxis(bands, -1, 0), photometric="minisblack",
                         planarconfig="separate")  # fmt: skip
        source = open_dataset(tmp_path)
        assert source.shape == (7, 6, 5)
        assert torch.equal(source[0].x, source[1].x)
        assert np.allclose(stored(source[0], 0, 255), bands, atol=1e-4)

        pages = RNG.integers(0, 256, (3, 6, 5), dtype=np.uint8)
        tifffile.imwrite(tmp_path / "pages.tiff", pages, photometric="minisblack")
        tifffile.imwrite(tmp_path / "ij.tif", pages.astype(np.uint16), imagej=True)
        for name, high in (("pages.tiff", 255), ("ij.tif", 65535)):
            several = open_dataset(tmp_path / name)
            assert [several.name(i) for i in range(3)] == [f"{name}[{k}]" for k in range(3)]
            assert all(np.allclose(stored(several[k], 0, high)[..., 0], pages[k], atol=1e-2) for k in (2, 0, 1))

        tifffile.imwrite(tmp_path / "white.tif", pages[0], photometric="miniswhite")
        assert np.allclose(stored(open_dataset(tmp_path / "white.tif")[0], 0, 255)[..., 0], 255 - pages[0], atol=1e-4)
        picture = Image.fromarray(RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)).quantize(8)
        picture.save(tmp_path / "palette.tif")
        looked_up = stored(open_dataset(tmp_path / "palette.tif")[0], 0, 255)
        assert np.abs(looked_up - np.asarray(picture.convert("RGB"))).max() <= 1

    def test_beside_other_pictures(self, tifffile, tmp_path):
        """Six of forty files were once all that was used."""
        pixels = RNG.integers(0, 256, (5, 6, 5, 3), dtype=np.uint8)
        tifffile.imwrite(tmp_path / "0.tif", pixels[0], photometric="rgb")
        for i, name in enumerate(("1.png", "2.bmp", "3.avif", "4.jfif"), 1):
            Image.fromarray(pixels[i]).save(tmp_path / name, format="JPEG" if name.endswith("jfif") else None)
        (tmp_path / "5.cr2").write_bytes(b"?")
        source = open_dataset(tmp_path)
        assert [source.name(i) for i in range(5)] == ["0.tif", "1.png", "2.bmp", "3.avif", "4.jfif"]
        for i in range(3):
            assert np.allclose(stored(source[i], 0, 255), pixels[i], atol=1e-4)
        assert source.notes == ["1 file(s) of other suffixes are not read: 1 .cr2"]
        fitted = open_dataset(tmp_path, size=[3, 3], fit="crop")
        assert fitted.shape == (3, 3, 3)
        assert measure(fitted)["count"] == 5

    def test_geotiff_without_data_somewhere(self, tifffile, tmp_path):
        pixels = RNG.uniform(0, 10, (6, 5, 2)).astype(np.float32)
        pixels[1, 2] = -9999
        pixels[3, 4, 1] = np.nan
        nodata = [(42113, "s", 0, "-9999", True)]
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig", extratags=nodata)
        tifffile.imwrite(tmp_path / "b.tif", np.abs(RNG.normal(size=(6, 5, 2))).astype(np.float32),
                         photometric="minisblack", planarconfig="contig", extratags=nodata)  # fmt: skip
        assert "a.tif: has 2 pixel(s) without data" in refused(tmp_path, range=[0, 10])
        assert "missing: mask" in refused(tmp_path, range=[0, 10])
        source = open_dataset(tmp_path, range=[0, 10], missing="mask")
        assert source.masked
        assert source[0].mask.shape == (1, 6, 5)
        assert source[0].mask.sum() == 28
        assert source[0].mask[0, 1, 2] == source[0].mask[0, 3, 4] == 0
        assert source[1].mask.all()
        there = source[0].mask[0].bool().numpy()
        assert np.allclose(stored(source[0], 0, 10)[there], pixels[there], atol=1e-5)
        assert source[0].x.isfinite().all()
        fitted = open_dataset(tmp_path, range=[0, 10], missing="mask", size=[3, 5], fit="resize")
        assert fitted[0].mask[0, :, 2].tolist() == [0, 1, 1]

    def test_masks_inside_and_beside(self, tifffile, tmp_path):
        pixels = RNG.integers(0, 256, (6, 5), dtype=np.uint8)
        mask = np.full((6, 5), 255, np.uint8)
        mask[0] = 0
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            file.write(pixels, photometric="minisblack")
            file.write(pixels[::2, ::2], photometric="minisblack", subfiletype=1)  # an overview
            file.write(mask > 0, photometric="mask", subfiletype=4)
        source = open_dataset(tmp_path / "a.tif", missing="mask")
        assert len(source) == 1
        assert source[0].mask[0, :, 0].tolist() == [0, 1, 1, 1, 1, 1]
        (tmp_path / "sub").mkdir()
        tifffile.imwrite(tmp_path / "sub" / "b.tif", pixels)
        mask[0], mask[5] = 255, 0
        Image.fromarray(mask).save(tmp_path / "sub" / "b.mask.png")
        assert open_dataset(tmp_path / "sub", masks=True)[0].mask[0, :, 0].tolist() == [1, 1, 1, 1, 1, 0]
        Image.fromarray(mask[:4]).save(tmp_path / "sub" / "b.mask.png")
        assert "its mask b.mask.png is 4 x 5 pixels" in refused(tmp_path / "sub", masks=True)

    def test_alpha(self, tifffile, tmp_path):
        pixels = RNG.integers(1, 256, (6, 5, 4), dtype=np.uint8)
        pixels[..., 3] = 255
        pixels[0, 0, 3] = 0
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"])
        assert "has transparent pixels; say what is behind them" in refused(tmp_path)
        dropped, white = (open_dataset(tmp_path, alpha=a)[0] for a in ("drop", "white"))
        assert np.allclose(stored(dropped, 0, 255), pixels[..., :3], atol=1e-4)
        assert np.allclose(stored(white, 0, 255)[0, 0], 255)
        seen = open_dataset(tmp_path, masks="alpha")[0]
        assert seen.mask[0].sum() == 29
        assert np.allclose(stored(seen, 0, 255)[1:], pixels[1:, :, :3], atol=1e-4)
        # Four bands that nobody calls transparent are bands.
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unspecified"])
        assert open_dataset(tmp_path).shape == (4, 6, 5)

    def test_bad_files_are_named(self, tifffile, tmp_path):
        pixels = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        for i in range(3):
            tifffile.imwrite(tmp_path / f"{i}.tif", pixels, photometric="rgb")
        whole = (tmp_path / "0.tif").read_bytes()
        (tmp_path / "short.tif").write_bytes(whole[:60])
        (tmp_path / "text.tif").write_bytes(b"no picture")
        with tifffile.TiffWriter(tmp_path / "differ.tif") as file:
            file.write(pixels, photometric="rgb")
            file.write(pixels[:4], photometric="rgb")
        tifffile.imwrite(
            tmp_path / "bands.tif", np.dstack([pixels] * 2), photometric="minisblack", planarconfig="contig"
        )
        tifffile.imwrite(tmp_path / "cmyk.tif", np.dstack([pixels, pixels[..., :1]]), photometric="separated")
        said = refused(tmp_path)
        for name, reason in (
            ("short.tif", "damaged"),
            ("text.tif", "no TIFF file"),
            ("differ.tif", "its pages differ: page 0 is 6 x 5 x 3 uint8, page 1 4 x 5 x 3 uint8"),
            ("bands.tif", "has 6 channels, not 3, as most have"),
            ("cmyk.tif", "holds SEPARATED values"),
        ):
            assert re.search(rf"{name}: .*{re.escape(reason)}", said), (name, said)
        source = open_dataset(tmp_path, on_error="skip")
        assert len(source) == 3
        assert {p.file for p in source.problems} == {"short.tif", "text.tif", "differ.tif", "bands.tif", "cmyk.tif"}

    def test_values_that_cannot_be(self, tifffile, tmp_path):
        tifffile.imwrite(tmp_path / "a.tif", np.float32([[0, 3], [1, 2]]))
        said = refused(tmp_path)
        assert "float values have no usual range; a.tif holds 0 to 3. Declare it: range: [low, high]" in said
        assert "a.tif: holds 3, outside the range [0, 2]" in refused(tmp_path, range=[0, 2])
        tifffile.imwrite(tmp_path / "a.tif", np.float32([[0, np.inf], [1, 2]]))
        assert "holds infinite values" in refused(tmp_path, range=[0, 2])

    def test_range_of_the_full_samples(self, tifffile, tmp_path):
        pixels = RNG.integers(0, 4096, (6, 5), dtype=np.uint16)
        (tmp_path / "tif").mkdir()
        (tmp_path / "png").mkdir()
        tifffile.imwrite(tmp_path / "tif" / "a.tif", pixels)
        Image.fromarray(pixels).save(tmp_path / "png" / "a.png")
        full = open_dataset(tmp_path / "tif", range=[0, 4095])
        for path in ("tif", "png"):
            assert torch.equal(open_dataset(tmp_path / path, units=full.units)[0].x, full[0].x)
            assert not torch.equal(open_dataset(tmp_path / path)[0].x, full[0].x)
        # Values of another type say their own range.
        eight = open_dataset(tmp_path / "png", units=Units.of_range(0, 100, "float"))
        assert torch.equal(eight[0].x, open_dataset(tmp_path / "png")[0].x)

    def test_lazily_read(self, tifffile, tmp_path):
        pages = RNG.integers(0, 256, (3, 6, 5), dtype=np.uint8)
        tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
        kept, lazy = (SciencePictures(tmp_path, ImageOptions(size=(3, 3), fit="pad"), memory=m) for m in (1 << 20, 0))
        assert kept.fingerprint() == lazy.fingerprint()
        for i in range(3):
            assert torch.equal(kept[i].x, lazy[i].x)
            assert torch.equal(kept[i].mask, lazy[i].mask)
        # Workers get a copy, without what is open.
        assert torch.equal(copy.deepcopy(lazy)[2].x, kept[2].x)

    def test_without_the_library(self, tifffile, tmp_path, no_library):
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4), np.uint8))
        no_library("tifffile")
        assert "a.tif: is read by tifffile, which is not installed: pip install 'bootdiff[tiff]'" in refused(tmp_path)


class TestDicom:
    @pytest.fixture
    def write(self, tmp_path):
        pydicom = pytest.importorskip("pydicom")
        from pydicom.dataset import FileDataset, FileMetaDataset
        from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

        def save(name: str, pixels: np.ndarray, **tags) -> Path:
            meta = FileMetaDataset()
            meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
            meta.TransferSyntaxUID = ExplicitVRLittleEndian
            data = FileDataset(str(tmp_path / name), {}, file_meta=meta, preamble=b"\0" * 128)
            data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
            data.Modality = "CT"
            frames = pixels.ndim == 4 or (pixels.ndim == 3 and pixels.shape[-1] != 3)
            data.Rows, data.Columns = pixels.shape[1:3] if frames else pixels.shape[:2]
            if frames:
                data.NumberOfFrames = len(pixels)
            data.SamplesPerPixel = 3 if pixels.shape[-1] == 3 else 1
            if data.SamplesPerPixel == 3:
                data.PlanarConfiguration = 0
            data.PhotometricInterpretation = "RGB" if data.SamplesPerPixel == 3 else "MONOCHROME2"
            data.BitsAllocated = data.BitsStored = 8 * pixels.itemsize
            data.HighBit = data.BitsStored - 1
            data.PixelRepresentation = int(pixels.dtype.kind == "i")
            for key, value in tags.items():
                setattr(data, key, value)
            if "BitsStored" in tags:
                data.HighBit = tags["BitsStored"] - 1
            data.PixelData = pixels.tobytes()
            pydicom.dcmwrite(tmp_path / name, data, enforce_file_format=True)
            return tmp_path / name

        return save

    def test_hounsfield_units(self, write, tmp_path):
        raw = RNG.integers(0, 4096, (2, 6, 5), dtype=np.uint16)
        for i in range(2):
            write(f"{i}.dcm", raw[i], RescaleSlope=1, RescaleIntercept=-1024, BitsStored=12, PixelSpacing=[0.5, 0.5])
        assert "float values have no usual range; 0.dcm holds -" in refused(tmp_path)
        source = open_dataset(tmp_path, range=[-1024, 3071])
        assert source.shape == (1, 6, 5)
        for i in range(2):
            assert np.allclose(stored(source[i], -1024, 3071)[..., 0], raw[i] - 1024.0, atol=1e-2)
        assert source.units.bounds == (-1024, 3071)
        assert not source.notes

    def test_bits_inversion_frames_and_colour(self, write, tmp_path):
        raw = RNG.integers(0, 4096, (6, 5), dtype=np.uint16)
        plain = write("plain", raw, BitsStored=12)  # no suffix: known by its letters
        assert np.allclose(stored(open_dataset(tmp_path)[0], 0, 4095)[..., 0], raw, atol=1e-2)
        plain.unlink()
        one = write("a.dcm", raw, BitsStored=12, PhotometricInterpretation="MONOCHROME1")
        assert np.allclose(stored(open_dataset(one)[0], 0, 4095)[..., 0], 4095 - raw, atol=1e-2)
        frames = RNG.integers(0, 256, (4, 6, 5), dtype=np.uint8)
        several = open_dataset(write("frames.dcm", frames))
        assert [several.name(i) for i in range(4)] == [f"frames.dcm[{k}]" for k in range(4)]
        assert all(np.allclose(stored(several[k], 0, 255)[..., 0], frames[k], atol=1e-4) for k in range(4))
        colour = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        assert np.allclose(stored(open_dataset(write("rgb.dcm", colour))[0], 0, 255), colour, atol=1e-4)
        signed = RNG.integers(-900, 900, (6, 5)).astype(np.int16)
        path = write("signed.dcm", signed)
        assert "int16 values have no usual range" in refused(path)
        assert np.allclose(stored(open_dataset(path, range=[-1000, 1000])[0], -1000, 1000)[..., 0], signed, atol=1e-2)

    def test_rescale_of_single_frames(self, write):
        from pydicom.dataset import Dataset
        from pydicom.sequence import Sequence

        frames = RNG.integers(0, 256, (2, 6, 5), dtype=np.uint8)
        groups = []
        for k in range(2):
            transformation = Dataset()
            transformation.RescaleSlope, transformation.RescaleIntercept = k + 1, -10 * k
            group = Dataset()
            group.PixelValueTransformationSequence = Sequence([transformation])
            groups.append(group)
        path = write("enhanced.dcm", frames, PerFrameFunctionalGroupsSequence=Sequence(groups))
        source = open_dataset(path, range=[-10, 500])
        assert np.allclose(stored(source[0], -10, 500)[..., 0], frames[0], atol=1e-3)
        assert np.allclose(stored(source[1], -10, 500)[..., 0], frames[1] * 2.0 - 10, atol=1e-3)

    def test_padding_is_not_observed(self, write, tmp_path):
        raw = RNG.integers(100, 200, (6, 5), dtype=np.uint16)
        raw[0] = 0
        write("a.dcm", raw, PixelPaddingValue=0, BitsStored=12)
        assert "a.dcm: has 5 pixel(s) without data" in refused(tmp_path)
        assert open_dataset(tmp_path, missing="mask")[0].mask[0, :, 0].tolist() == [0, 1, 1, 1, 1, 1]

    def test_pixels_that_are_not_square_are_said(self, write, tmp_path):
        raw = RNG.integers(0, 256, (6, 5), dtype=np.uint8)
        write("a.dcm", raw, PixelSpacing=[1, 0.5])
        write("b.dcm", raw, PixelSpacing=[2, 2])
        notes = open_dataset(tmp_path).notes
        assert notes[0] == "pixels of 1 file(s) are not square (1 x 0.5 mm); they stay as stored"
        assert "files differ in the size of a pixel (" in notes[1]

    def test_bad_files_are_named(self, write, tmp_path):
        raw = RNG.integers(0, 256, (6, 5), dtype=np.uint8)
        good = write("a.dcm", raw)
        (tmp_path / "short.dcm").write_bytes(good.read_bytes()[:-10])
        (tmp_path / "text.dcm").write_bytes(b"no picture")
        report = write("report.dcm", raw, Modality="SR")
        import pydicom

        data = pydicom.dcmread(report)
        for key in ("Rows", "Columns", "PixelData"):
            delattr(data, key)
        data.save_as(report)
        said = refused(tmp_path)
        for name, reason in (
            ("short", "cannot be decoded"),
            ("text", "no DICOM file"),
            ("report", "no picture (it is a SR"),
        ):
            assert re.search(rf"{name}.dcm: .*{re.escape(reason)}", said), said
        assert len(open_dataset(tmp_path, on_error="skip")) == 1

    def test_without_the_library(self, write, tmp_path, no_library):
        write("a.dcm", np.zeros((4, 4), np.uint8))
        no_library("pydicom")
        assert "a.dcm: is read by pydicom, which is not installed: pip install 'bootdiff[medical]'" in refused(tmp_path)

    def test_a_series_of_files_is_a_video(self, write, tmp_path):
        frames = RNG.integers(0, 256, (3, 6, 5), dtype=np.uint8)
        (tmp_path / "series").mkdir()
        for name, k in (("a", 2), ("b", 0), ("c", 1)):
            write(f"series/{name}.dcm", frames[k], InstanceNumber=k + 1)
        source = open_dataset(tmp_path, kind="video")
        assert source.shape == (1, 3, 6, 5)
        assert np.allclose((source[0].x[0].numpy() + 1) * 127.5, frames, atol=1e-4)


class TestNifti:
    @pytest.fixture
    def nibabel(self):
        return pytest.importorskip("nibabel")

    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    def test_slices_lie_as_the_body_does(self, nibabel, tmp_path, suffix):
        right, anterior, superior = np.meshgrid(np.arange(4), np.arange(5), np.arange(6), indexing="ij")
        body = (right + 10 * anterior + 50 * superior).astype(np.uint8)
        # The same body stored as it lies, and mirrored and turned: (superior reversed, right, anterior reversed).
        nibabel.save(nibabel.Nifti1Image(body, np.diag([2.0, 2, 2, 1])), tmp_path / f"a{suffix}")
        turned = body.transpose(2, 0, 1)[::-1, :, ::-1]
        affine = np.array([[0, 2, 0, 0], [0, 0, -2, 8], [-2, 0, 0, 10], [0, 0, 0, 1.0]])
        nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(turned), affine), tmp_path / f"b{suffix}")
        for slices, count, picture in (
            ("axial", 6, lambda k: body[:, ::-1, k].T),
            ("coronal", 5, lambda k: body[:, k, ::-1].T),
            ("sagittal", 4, lambda k: body[k, :, ::-1].T),
        ):
            source = open_dataset(tmp_path, slices=slices)
            assert len(source) == 2 * count
            assert source.name(1) == f"a{suffix}[1]"
            for k in range(count):
                for i in (k, count + k):
                    assert np.allclose(stored(source[i], 0, 255)[..., 0], picture(k), atol=1e-4)
            assert not source.notes

    def test_values_series_and_limit(self, nibabel, tmp_path):
        volume = RNG.integers(-500, 500, (4, 5, 3, 2)).astype(np.int16)
        image = nibabel.Nifti1Image(volume, np.eye(4))
        path = tmp_path / "a.nii.gz"
        nibabel.save(image, path)
        assert "int16 values have no usual range" in refused(path)
        source = open_dataset(path, range=[-500, 500])
        assert [source.name(i) for i in (0, 5)] == ["a.nii.gz[0,0]", "a.nii.gz[1,2]"]
        assert np.allclose(stored(source[5], -500, 500)[..., 0], volume[:, ::-1, 2, 1].T, atol=1e-2)
        assert len(open_dataset(path, range=[-500, 500], limit=2)) == 2
        scaled = nibabel.Nifti1Image(volume[..., 0], np.eye(4))
        scaled.header.set_slope_inter(0.5, 3)
        nibabel.save(scaled, tmp_path / "b.nii")
        read = open_dataset(tmp_path / "b.nii", range=[-300, 300])
        assert read.units.values == "float"
        assert np.allclose(stored(read[1], -300, 300)[..., 0], volume[:, ::-1, 1, 0].T * 0.5 + 3, atol=1e-3)

    def test_voxels_that_are_not_cubes_are_said(self, nibabel, tmp_path):
        volume = RNG.integers(0, 256, (4, 4, 4), dtype=np.uint8)
        nibabel.save(nibabel.Nifti1Image(volume, np.diag([1.0, 1, 5, 1])), tmp_path / "a.nii")
        assert not open_dataset(tmp_path).notes
        assert open_dataset(tmp_path, kind="video").notes == [
            "voxels are not cubes: slices and rows are 5 and 1 mm apart; nothing is resampled"
        ]
        assert open_dataset(tmp_path, slices="coronal").notes == [
            "pixels of 1 file(s) are not square (5 x 1 mm); they stay as stored"
        ]

    def test_bad_files_are_named(self, nibabel, tmp_path):
        volume = RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii.gz")
        (tmp_path / "short.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:100])
        (tmp_path / "text.nii").write_bytes(b"no volume")
        nibabel.save(nibabel.Nifti1Image(volume[:3], np.eye(4)), tmp_path / "other.nii")
        said = refused(tmp_path)
        assert "short.nii.gz: " in said
        assert "text.nii: cannot be read" in said
        assert "other.nii[0]: is 5 x 3 pixels (height x width), not 5 x 4 as most are" in said
        assert "The sizes are" in said
        assert len(open_dataset(tmp_path, on_error="skip")) == 3

    def test_without_the_library(self, nibabel, tmp_path, no_library):
        nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "a.nii")
        no_library("nibabel")
        assert "a.nii: is read by nibabel, which is not installed: pip install 'bootdiff[medical]'" in refused(tmp_path)

    def test_whole_volumes_are_held_out(self, nibabel, tmp_path):
        for i in range(4):
            volume = RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)
            nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / f"{i}.nii")
        source = open_dataset(tmp_path)
        assert source.span(4) == (1, 1, 2)
        held, train = split_by_recording(source, [3, None], seed=1)
        assert len({source.name(i)[0] for i in held}) == 1
        assert not {source.name(i)[0] for i in held} & {source.name(i)[0] for i in train}

    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    def test_in_workers(self, nibabel, tmp_path, suffix):
        volume = RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / f"a{suffix}")
        source = SciencePictures(tmp_path, memory=0)
        assert torch.equal(copy.deepcopy(source)[1].x, source[1].x)


class TestVolumes:
    def test_files_of_several_pictures_as_videos(self, tmp_path):
        nibabel = pytest.importorskip("nibabel")
        volumes = RNG.integers(0, 256, (2, 4, 5, 7), dtype=np.uint8)
        for i, (volume, label) in enumerate(zip(volumes, ("ill", "well"))):
            (tmp_path / label).mkdir()
            nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / label / f"{i}.nii.gz")
        source = open_dataset(tmp_path, kind="video", frames=3, labels=True)
        assert source.shape == (1, 3, 5, 4)
        assert [source.name(i) for i in range(4)] == [
            f"{f}[{a}:{a + 3}]" for f in ("ill/0.nii.gz", "well/1.nii.gz") for a in (0, 3)
        ]
        assert [source[i].label for i in range(4)] == [0, 0, 1, 1]
        frames = (source[3].x[0].numpy() + 1) * 127.5
        assert np.allclose(frames, volumes[1][:, ::-1, 3:6].T, atol=1e-4)
        assert source.span(1) == (0, 3, 6)
        assert open_dataset(tmp_path / "ill" / "0.nii.gz", kind="video").shape == (1, 7, 5, 4)
        assert open_dataset(tmp_path, kind="video", slices="sagittal").shape == (1, 4, 7, 5)
        assert "its frames" not in refused(tmp_path, kind="video", frames=9)
        assert "has 7 frames, frames asks for 9: too short" in refused(tmp_path, kind="video", frames=9)
        assert "fps means nothing" in refused(tmp_path, kind="video", fps=9)

    def test_gaps_and_bad_pages(self, tmp_path):
        tifffile = pytest.importorskip("tifffile")
        pages = RNG.uniform(0, 1, (3, 4, 5, 6)).astype(np.float32)
        pages[0, 1, :2] = np.nan
        pages[1, 2, 0, 0] = 7
        for i in range(3):
            tifffile.imwrite(tmp_path / f"{i}.tif", pages[i], photometric="minisblack")
        said = refused(tmp_path, kind="video", range=[0, 1], missing="mask")
        assert "1.tif[2]: holds 7, outside the range [0, 1]" in said
        source = open_dataset(tmp_path, kind="video", range=[0, 1], missing="mask", on_error="skip")
        assert [source.name(i) for i in range(len(source))] == ["0.tif", "2.tif"]
        assert {p.file for p in source.problems} == {"1.tif[2]", "1.tif"}
        assert source[0].mask.shape == (1, 4, 5, 6)
        assert source[0].mask[0, :, 0, 0].tolist() == [1, 0, 1, 1]

    def test_files_of_one_picture_are_frames_of_their_folder(self, tmp_path):
        tifffile = pytest.importorskip("tifffile")
        frames = RNG.integers(0, 256, (2, 12, 5, 6), dtype=np.uint8)
        for i in range(2):
            (tmp_path / f"film{i}").mkdir()
            for k in range(12):
                tifffile.imwrite(tmp_path / f"film{i}" / f"t{k}.tif", frames[i, k])
        source = open_dataset(tmp_path, kind="video", frames=12)
        assert [source.name(i) for i in range(2)] == ["film0", "film1"]
        assert np.allclose((source[1].x[0].numpy() + 1) * 127.5, frames[1], atol=1e-4)

    def test_what_means_nothing_to_ordinary_videos(self, tmp_path):
        for k in range(2):
            (tmp_path / "a").mkdir(exist_ok=True)
            Image.fromarray(RNG.integers(0, 256, (6, 5), dtype=np.uint8)).save(tmp_path / "a" / f"{k}.png")
        assert "holds ordinary videos, to which range means nothing" in refused(tmp_path, kind="video", range=[0, 1])


class TestNpy:
    def test_pictures(self, tmp_path):
        pixels = RNG.normal(size=(3, 6, 5, 3)).astype(np.float32)
        for i in range(3):
            np.save(tmp_path / f"{i}.npy", pixels[i])
        (tmp_path / "notes.md").write_text("?")
        source = open_dataset(tmp_path, kind="image", range=[-5, 5])
        assert source.shape == (3, 6, 5)
        assert np.allclose(stored(source[1], -5, 5), pixels[1], atol=1e-5)
        assert "say kind: image or signal where each is one sample" in refused(tmp_path)
        np.save(tmp_path / "4.npy", pixels)
        np.save(tmp_path / "5.npy", np.array([["a"]]))
        np.save(tmp_path / "6.npy", np.array([{}], dtype=object), allow_pickle=True)
        said = refused(tmp_path, kind="image", range=[-5, 5])
        assert "4.npy: has the shape (3, 6, 5, 3); a picture is H x W or H x W x C" in said
        assert "5.npy: holds values of type <U1" in said
        assert "6.npy: cannot be read" in said

    def test_beside_pictures_they_are_said_not_read(self, tmp_path):
        for i in range(2):
            Image.fromarray(RNG.integers(0, 256, (6, 5), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        np.save(tmp_path / "a.npy", np.zeros((6, 5), np.uint8))
        source = open_dataset(tmp_path, kind="image")
        assert len(source) == 2
        assert source.notes == ["1 file(s) of other suffixes are not read: 1 .npy"]

    def test_what_means_nothing_to_ordinary_pictures(self, tmp_path):
        Image.fromarray(RNG.integers(0, 256, (6, 5), dtype=np.uint8)).save(tmp_path / "a.png")
        assert "holds ordinary pictures, to which missing means nothing" in refused(tmp_path, missing="mask")
        assert "to which slices means nothing" in refused(tmp_path, slices="coronal")
        half = open_dataset(tmp_path, range=[0, 510])[0].x
        assert torch.allclose(half, open_dataset(tmp_path)[0].x / 2 - 0.5, atol=1e-6)

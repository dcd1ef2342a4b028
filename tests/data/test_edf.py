"""EDF and BDF through pyedflib: physical values window by window, bad files named."""

from __future__ import annotations

import numpy as np
import pytest

from bootdiff.data import open_dataset
from bootdiff.data.readers import stacks
from bootdiff.errors import BootdiffError
from hostile_files import outcome

RNG = np.random.default_rng(0)
NAMES = ("EEG Fz", "EEG Cz")


def header(signals=1, count=10, each=4, label=b"EEG", first=b"0"):
    """The header of an EDF file, written from the definition."""

    def fields(*values):
        return b"".join(str(v).encode()[:size].ljust(size) for v, size in values)

    start = 256 * (signals + 1)
    general = first.ljust(8) + bytes(160).replace(b"\0", b" ")
    general += fields(("01.01.20", 8), ("00.00.00", 8), (start, 8), ("", 44), (count, 8), (1, 8), (signals, 4))
    own = [(label.decode(), 16), ("", 80), ("uV", 8), (-100, 8), (100, 8), (-32768, 8), (32767, 8), ("", 80), (each, 8)]
    return general + b"".join(fields((v, size)) * signals for v, size in [*own, ("", 32)])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is no EDF or BDF file, or its header is damaged"),
        (b"words" * 100, "is no EDF or BDF file, or its header is damaged"),
        (header()[:300], "is no EDF or BDF file, or its header is damaged"),
        (header(signals=-1) + bytes(80), "is no EDF or BDF file, or its header is damaged"),
        (header(count=-1) + bytes(80), "was not finished: its header does not say how long it is"),
        (header() + bytes(79), "is cut short: 591 bytes are there, 592 are announced"),
        (header() + bytes(81), "is longer than its header says"),
        (header(count=99999999) + bytes(80), "is cut short"),
        (header(each=-4) + bytes(80), "is longer than its header says"),
    ],
)
def test_files_that_are_not_as_long_as_they_say(tmp_path, data, said, monkeypatch):
    monkeypatch.setattr(stacks, "import_module", lambda name: None)  # found out before the library is asked
    path = tmp_path / "a.edf"
    path.write_bytes(data)
    assert f"a.edf: {said}" in outcome(path)


def test_without_the_library(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(stacks, "import_module", missing)
    (tmp_path / "a.edf").write_bytes(header() + bytes(80))
    with pytest.raises(BootdiffError, match=r"a\.edf: is read by pyedflib, .*pip install 'bootdiff\[edf\]'"):
        open_dataset(tmp_path)


@pytest.fixture
def library():
    return pytest.importorskip("pyedflib")


def write(library, path, values, rates=(256, 256), names=NAMES, unit="uV", remark=True):
    """values: (signals, L) within +-400."""
    wide = path.suffix == ".bdf"
    kind = library.FILETYPE_BDFPLUS if wide else library.FILETYPE_EDFPLUS
    low = -(2**23) if wide else -(2**15)
    file = library.EdfWriter(str(path), len(names), file_type=kind)
    about = {"dimension": unit, "physical_min": -400, "physical_max": 400, "digital_min": low, "digital_max": -low - 1,
             "transducer": "", "prefilter": ""}  # fmt: skip
    file.setSignalHeaders([{"label": n, "sample_frequency": r, **about} for n, r in zip(names, rates, strict=True)])
    seconds = values.shape[1] // max(rates)
    file.writeSamples([v[: r * seconds] for v, r in zip(values, rates, strict=True)])
    if remark:
        file.writeAnnotation(1, -1, "asleep")
    file.close()


@pytest.mark.parametrize(("suffix", "exact"), [(".edf", 0.013), (".bdf", 1e-4)])
def test_values_are_physical_ones(library, tmp_path, suffix, exact):
    values = RNG.uniform(-300, 300, (3, 2, 2560))
    for i in range(3):
        write(library, tmp_path / f"{i}{suffix}", values[i])
    source = open_dataset(tmp_path, length=512, stride=256, range=[-400, 400])
    assert (source.kind, source.shape, source.rate, source.columns) == ("signal", (2, 512), 256, list(NAMES))
    assert len(source) == 3 * 9
    assert np.abs(source.restore(source[10].x).numpy() - values[1, :, 256:768]).max() < exact
    source = open_dataset(tmp_path / f"2{suffix}", length=2560, standardize=True, columns=["EEG Cz"])
    assert source.shape == (1, 2560)
    assert np.abs(source.restore(source[0].x).numpy()[0] - values[2, 1]).max() < exact


def test_values_need_a_range(library, tmp_path):
    write(library, tmp_path / "a.edf", RNG.uniform(-300, 300, (2, 2560)))
    assert "Declare what they mean: range: [low, high], or say standardize: true" in outcome(tmp_path)


def test_signals_of_several_rates_are_picked(library, tmp_path):
    values = RNG.uniform(-300, 300, (2, 2560))
    write(library, tmp_path / "a.edf", values, rates=(256, 128))
    said = outcome(tmp_path, range=[-400, 400])
    assert "a.edf: holds signals of several rates, EEG Fz (256 Hz), EEG Cz (128 Hz); say columns" in said
    source = open_dataset(tmp_path, range=[-400, 400], columns=["EEG Cz"])
    assert (source.rate, source.shape) == (128, (1, 1280))
    assert "has no signal named 'Oz'; it has EEG Fz, EEG Cz" in outcome(tmp_path, columns=["Oz"])


def test_files_that_differ_are_named(library, tmp_path):
    values = RNG.uniform(-300, 300, (2, 2560))
    write(library, tmp_path / "a.edf", values)
    write(library, tmp_path / "b.edf", values, names=("EEG Fz", "EEG Oz"))
    write(library, tmp_path / "c.edf", values, unit="mV")
    write(library, tmp_path / "d.edf", values, rates=(128, 128))
    write(library, tmp_path / "e.edf", values, names=("EEG Fz", "EEG Fz"))
    said = outcome(tmp_path, range=[-400, 400], length=256)
    for name, reason in (
        ("b", "has the signals EEG Fz (uV), EEG Oz (uV), others have EEG Fz (uV), EEG Cz (uV)"),
        ("c", "has the signals EEG Fz (mV), EEG Cz (mV)"),
        ("d", "has 128 Hz, most have 256"),
        ("e", "has several signals named 'EEG Fz'"),
    ):
        assert f"{name}.edf: {reason}" in said
    assert len(open_dataset(tmp_path, range=[-400, 400], length=256, on_error="skip")) == 10


def test_damage_that_the_length_does_not_tell(library, tmp_path):
    write(library, tmp_path / "a.edf", RNG.uniform(-300, 300, (2, 2560)))
    good = (tmp_path / "a.edf").read_bytes()
    for data, said in (
        (good.replace(b"EDF+C", b"EDF+D"), "discontinuous"),
        (good[:256] + b"\0" * 32 + good[288:], "cannot be read"),
        (good.replace(b"-32768", b"99999 "), "cannot be read"),
    ):
        (tmp_path / "a.edf").write_bytes(data)
        assert said in outcome(tmp_path, range=[-400, 400])

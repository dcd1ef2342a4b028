"""Tables as people save them: what pandas would decide by itself is asked for, and the option that settles it named."""

from __future__ import annotations

import numpy as np
import pytest

from bootdiff.data import open_dataset
from bootdiff.errors import BootdiffError

pandas = pytest.importorskip("pandas")


def opened(path, **options):
    return open_dataset(path, kind="vector", **{"range": [-100, 100], **options})


def values(dataset):
    return dataset.restore(dataset.batch(range(len(dataset)))[0]).numpy().round(4).tolist()


def written(folder, text, name="t.csv"):
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time,temp,wind\n0,20.1,4.9,\n1,20.4,5.1,\n", "rows of 4 values, the last one empty, for 3 names"),
        ("time,temp,wind\n0,20.1,4.9,\n1,20.4,5.1\n", "3 values in line 3 and 3 names"),
        ("time,temp\n0,20,1,4,9\n1,20,4,5,1\n", "5 values in line 2 and 2 names"),
        ("time,temp\n7,0,20.1\n8,1\n", "2 values in line 3"),
        ("a,b\r\n\r\n1,2,\r\n3,4,\r\n", "rows of 3 values, the last one empty, for 2 names"),
    ],
)
@pytest.mark.parametrize("columns", [None, ["time", "temp"]])
def test_rows_longer_than_the_header_are_refused(tmp_path, text, said, columns):
    if columns and not text.startswith("time,temp"):
        columns = ["a"]
    with pytest.raises(BootdiffError, match=said):
        opened(written(tmp_path, text), columns=columns)


def test_row_names_in_front_as_r_writes_them_are_no_column(tmp_path):
    table = opened(written(tmp_path, '"temp","wind"\n"1",20.1,4.9\n"2",20.4,\n'), missing="mask")
    assert table.columns == ["temp", "wind"]
    assert values(table)[0] == [20.1, 4.9]
    assert table[1].mask.tolist() == [1, 0]


@pytest.mark.parametrize(
    "text",
    [
        "0.6369,0.2697,0.0409\n0.0165,0.8132,0.9127\n",
        "5.1,3.5,1.4,Iris-setosa\n4.9,3.0,1.4,Iris-setosa\n",
        "6.369e-01 2.697e-01\n1.65e-02 8.13e-01\n",
        "0.5;0.5\n0.25;0.75\n",
    ],
)
def test_a_header_of_numbers_is_refused_with_its_key(tmp_path, text):
    path = written(tmp_path, text)
    separator = next((s for s in ";, " if s in text), None)
    with pytest.raises(BootdiffError, match=r"has numbers for names .* say header: false; if these are names"):
        opened(path, separator=separator)
    rows = [line.split(separator) for line in text.splitlines()]
    count = sum("Iris" not in field for field in rows[0])
    names = [str(k + 1) for k in range(count)]
    table = opened(path, separator=separator, header=False, columns=names)
    assert table.columns == names
    assert values(table) == [[round(float(v), 4) for v in row[:count]] for row in rows]


def test_years_are_names_where_that_is_said(tmp_path):
    path = written(tmp_path, "1990,1991\n3,4\n5,6\n")
    table = opened(path, header=True, columns=["1991"])
    assert values(table) == [[4], [6]]


def test_headless_recordings_keep_their_first_step(tmp_path):
    rng = np.random.default_rng(0)
    written_values = [rng.uniform(0, 1, (8, 2)) for _ in range(2)]
    for i, v in enumerate(written_values):
        np.savetxt(tmp_path / f"{i}.csv", v, delimiter=",")
    with pytest.raises(BootdiffError, match=r"2 of 2 recordings.*\n.*0.csv: has numbers for names.*header: false"):
        open_dataset(tmp_path, kind="signal", range=[0, 1])
    found = open_dataset(tmp_path, kind="signal", range=[0, 1], header=False)
    assert found.shape == (2, 8)
    np.testing.assert_allclose(found.restore(found[1].x).numpy(), written_values[1].T, atol=1e-6)
    (tmp_path / "1.csv").write_text("a,b\n" + (tmp_path / "1.csv").read_text())
    assert (
        found.fingerprint()
        != open_dataset(tmp_path, kind="signal", range=[0, 1], header=False, on_error="skip").fingerprint()
    )


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("a;b\n1,5;2,5\n3,5;4,5\n", {"separator": ";", "decimal": ","}, r"one column, named 'a;b': .*separator: ';'"),
        ("a\tb\n1.5\t2.5\n3.5\t4.5\n", {"separator": "\t"}, r'separator: "\\t"'),
        ("a|b\n1.5|2.5\n3.5|4.5\n", {"separator": "|"}, r"separator: '\|'"),
        ("a b\n1.5  2.5\n3.5  4.5\n", {"separator": " "}, "holds '1.5  2.5' in row 0.*say separator"),
        ('a,b\n"1,5","2,5"\n"3,5","4,5"\n', {"decimal": ","}, "holds '1,5' in row 0.*say decimal: ','"),
    ],
)
def test_separators_and_decimal_commas_have_keys(tmp_path, text, options, said):
    path = written(tmp_path, text)
    with pytest.raises(BootdiffError, match=said):
        opened(path)
    assert values(opened(path, **options)) == [[1.5, 2.5], [3.5, 4.5]]


def test_what_stands_for_missing_is_named(tmp_path):
    for mark in ("-200", "-200.0", "?", " ?", "n/d"):
        path = written(tmp_path, f"temp,wind\n20.5,{mark}\n21,5\n")
        if "200" not in mark:
            with pytest.raises(BootdiffError, match=r"missing_values: \['.*'\] if it stands"):
                opened(path, missing="mask")
        table = opened(path, missing="mask", missing_values=[-200, "?", "n/d"])
        assert table[0].mask.tolist() == [1, 0]
        assert values(table)[1] == [21, 5]
        with pytest.raises(BootdiffError, match="row 0 holds NaN"):
            opened(path, missing_values=[-200, "?", "n/d"])
    frame = pandas.DataFrame({"temp": [20.5, 21], "wind": [-999, 5], "kind": ["a", "?"]})
    frame.to_parquet(tmp_path / "t.parquet")
    table = opened(tmp_path / "t.parquet", missing="mask", missing_values=[-999, "?"], labels="kind", unlabelled="keep")
    assert table[0].mask.tolist() == [1, 0]
    assert [table[i].label for i in range(2)] == [0, None]


@pytest.mark.parametrize(("column", "said"), [("when", "time stamps"), ("zone", "time stamps"), ("wait", "durations")])
def test_times_are_refused_by_name(tmp_path, column, said):
    when = pandas.date_range("2026-01-01", periods=4, freq="h")
    other = {
        "when": when,
        "zone": when.tz_localize("UTC"),
        "wait": pandas.to_timedelta([1, 2, 3, 4], unit="s"),
    }[column]
    pandas.DataFrame({"temp": [1.0, 2, 3, 4], column: other}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(BootdiffError, match=f"column '{column}' holds {said}.*columns: "):
        opened(tmp_path / "t.parquet")
    with pytest.raises(BootdiffError, match=f"column '{column}' holds {said}"):
        opened(tmp_path / "t.parquet", columns=[column])
    assert values(opened(tmp_path / "t.parquet", columns=["temp"])) == [[1], [2], [3], [4]]
    with pytest.raises(BootdiffError, match="is a Parquet table, to which header means nothing"):
        opened(tmp_path / "t.parquet", header=False)


def test_columns_without_a_name_are_never_channels_unasked(tmp_path):
    frame = pandas.DataFrame({"temp": [20.5, 21], "wind": [4.5, 5]})
    frame.to_csv(tmp_path / "index.csv")
    pandas.read_csv(tmp_path / "index.csv").to_csv(tmp_path / "twice.csv", index=False)  # named "Unnamed: 0"
    pandas.read_csv(tmp_path / "index.csv").to_parquet(tmp_path / "index.parquet")
    written(tmp_path, "temp,wind,\n20.5,4.5,\n21,5,\n", "ends.csv")
    for name in ("index.csv", "twice.csv", "index.parquet", "ends.csv"):
        with pytest.raises(BootdiffError, match=r"column without a name .*columns: \[temp, wind\]"):
            opened(tmp_path / name)
        assert values(opened(tmp_path / name, columns=["temp", "wind"])) == [[20.5, 4.5], [21, 5]]
    assert values(opened(tmp_path / "index.csv", columns=["Unnamed: 0"])) == [[0], [1]]


def test_two_columns_of_one_name_are_refused(tmp_path):
    with pytest.raises(BootdiffError, match="two columns named 'a'"):
        opened(written(tmp_path, "a,b,a\n1,2,3\n"))


def test_pictures_in_a_table_are_named_without_their_bytes(tmp_path):
    rows = [{"bytes": b"\x89PNG" + bytes(900), "path": "0.png"}] * 2
    pandas.DataFrame({"image": rows, "label": [0, 1]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(BootdiffError) as error:
        opened(tmp_path / "t.parquet")
    assert len(str(error.value)) < 600
    assert "x00" not in str(error.value)
    for part in ("column 'image' holds files as bytes", "say kind: image"):
        assert part in str(error.value)

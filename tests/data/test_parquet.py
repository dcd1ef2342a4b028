"""Pictures in Parquet tables, here and on the Hub: copied once, read at any place; what cannot be is named."""

from __future__ import annotations

import io
import json
import os
import time
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pandas
import pytest
import torch
from huggingface_hub import errors
from PIL import Image
from pyarrow import parquet

from bootdiff.data import Images, open_dataset
from bootdiff.data.readers import parquet as reader
from bootdiff.errors import BootdiffError
from bootdiff.recipe.schema import load_recipe_text
from hostile_files import EPS, outcome
from hostile_files import png as large_png

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 8, 10, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOTDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def png(pixels, form="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def write(path, pictures, age=3600, names=None, **columns):
    """A table as `datasets` writes it: records of bytes and a path. names: of the classes in the column label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [None if data is None else {"bytes": data, "path": f"{i}.png"} for i, data in enumerate(pictures)]
    pandas.DataFrame({"image": rows, **columns}).to_parquet(path)
    if names is not None:
        table = parquet.read_table(path)
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        said = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
        parquet.write_table(table.replace_schema_metadata(said), path)
    os.utime(path, (time.time() - age,) * 2)
    return path


def levels(source, i):
    return ((source[i].x + 1) * 127.5).round().byte().movedim(0, -1).numpy()


def test_rows_are_samples(tmp_path, monkeypatch):
    pictures = [png(pixels, "JPEG" if i % 7 == 3 else "PNG") for i, pixels in enumerate(PIXELS)]
    path = write(tmp_path / "t.parquet", pictures, label=[i % 2 for i in range(40)], names=["dog", "cat"])
    source = open_dataset(path, labels=True)
    assert source.classes == ["dog", "cat"]
    assert [source[i].label for i in range(40)] == [i % 2 for i in range(40)]
    for i in (0, 17, 39):
        assert np.array_equal(levels(source, i), PIXELS[i]) or i % 7 == 3
    for i, picture in enumerate(pictures):
        (tmp_path / "f").mkdir(exist_ok=True)
        (tmp_path / "f" / f"{i:02d}.png").write_bytes(picture)
    folder = Images(tmp_path / "f")
    assert all(torch.equal(folder[i].x, source[i].x) for i in range(40))
    assert open_dataset(path, size=[4, 5], fit="crop", channels=1).shape == (1, 4, 5)
    assert source.where == str(path)


def test_the_table_is_read_once_and_again_when_it_changes(tmp_path, cache, monkeypatch):
    path = write(tmp_path / "t.parquet", [png(p) for p in PIXELS[:3]])
    before = open_dataset(path)
    rows = reader._Rows.__iter__
    monkeypatch.setattr(reader._Rows, "__iter__", lambda self: pytest.fail("read again"))
    assert open_dataset(path).fingerprint() == before.fingerprint()
    monkeypatch.setattr(reader._Rows, "__iter__", rows)
    write(path, [png(p) for p in PIXELS[3:6]], age=3000)
    source = open_dataset(path)
    assert np.array_equal(levels(source, 0), PIXELS[3])
    assert len(list((cache / "parquet").iterdir())) == 1  # the copy of what is gone is gone


def test_a_table_that_was_just_written_is_copied_again(tmp_path):
    """Written twice within one tick of the clock, it would have the same time."""
    two = [png(pixels) for pixels in PIXELS[:2]]
    longest = max(map(len, two))
    two = [picture + bytes(longest - len(picture)) for picture in two]
    path = write(tmp_path / "t.parquet", two, age=0)
    assert np.array_equal(levels(open_dataset(path), 0), PIXELS[0])
    before = path.stat()
    write(path, two[::-1], age=0)
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert np.array_equal(levels(open_dataset(path), 0), PIXELS[1])


def test_folders_and_their_parts(tmp_path):
    for part, start in (("train", 0), ("test", 6)):
        for k in range(2):
            at = start + 3 * k
            write(
                tmp_path / "data" / "data" / f"{part}-{k:05d}-of-00002.parquet", [png(p) for p in PIXELS[at : at + 3]]
            )
    (tmp_path / "data" / "README.md").write_text("about")
    with pytest.raises(BootdiffError, match="holds several parts; say key: one of test, train"):
        open_dataset(tmp_path / "data")
    with pytest.raises(BootdiffError, match="has no part 'valid'; say key"):
        open_dataset(tmp_path / "data", key="valid")
    source = open_dataset(tmp_path / "data", key="test")
    assert len(source) == 6
    assert all(np.array_equal(levels(source, i), PIXELS[6 + i]) for i in range(6))
    for name in ("a", "b"):
        write(tmp_path / "plain" / f"{name}.parquet", [png(p) for p in PIXELS[:2]])
    assert len(open_dataset(tmp_path / "plain")) == 4
    with pytest.raises(BootdiffError, match="has no parts, so no key 'train'"):
        open_dataset(tmp_path / "plain", key="train")


def test_tables_of_numbers_stay_tables(tmp_path):
    pandas.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}).to_parquet(tmp_path / "t.parquet")
    assert open_dataset(tmp_path / "t.parquet", standardize=True).kind == "vector"
    with pytest.raises(BootdiffError, match="say which column holds the pictures, column: one of a, b"):
        open_dataset(tmp_path / "t.parquet", kind="image")


def test_columns(tmp_path):
    pictures = [{"bytes": png(p), "path": None} for p in PIXELS[:2]]
    raw = [png(p) for p in PIXELS[4:6]]
    others = {"kind": ["x", "y"], "value": [0.5, 1.5], "n": [1, 0]}
    path = write(tmp_path / "t.parquet", [png(p) for p in PIXELS[2:4]], other=pictures, raw=raw, **others)
    with pytest.raises(BootdiffError, match="say which column holds the pictures"):
        open_dataset(path)
    for column, first in (("image", 2), ("other", 0), ("raw", 4)):
        assert np.array_equal(levels(open_dataset(path, column=column), 0), PIXELS[first])
    source = open_dataset(path, column="image", labels="kind")
    assert (source.classes, source[1].label) == (["x", "y"], 1)
    assert open_dataset(path, column="image", labels="n")[1].label == 0
    with pytest.raises(BootdiffError, match="no column 'label' of whole numbers or words for labels; it has kind, n"):
        open_dataset(path, column="image", labels=True)
    with pytest.raises(BootdiffError, match="has no column 'img'"):
        open_dataset(path, column="img")
    with pytest.raises(BootdiffError, match="its column 'kind' holds no encoded pictures"):
        open_dataset(path, column="kind")
    with pytest.raises(BootdiffError, match="masks: alpha"):
        open_dataset(path, column="image", masks=True)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (EPS, "no known format"),
        (None, "cannot be decoded"),
        (b"", "cannot be decoded"),
        (large_png(60_000, 60_000, raw=b"\0"), "more than max_pixels"),
    ],
)
def test_rows_that_are_no_pictures_are_named(tmp_path, bad, said):
    good = png(PIXELS[0])
    path = write(tmp_path / "t.parquet", [good, bad, good])
    found = outcome(path)
    assert "row/000000001.png: " in found
    assert said in found
    assert len(open_dataset(path, on_error="skip")) == 2


def test_tables_that_cannot_be_used(tmp_path, cache, monkeypatch):
    good = [png(p) for p in PIXELS[:4]]
    path = write(tmp_path / "t.parquet", good)
    rows = [{"bytes": None, "path": "http://127.0.0.1:9/x.png"}]
    pandas.DataFrame({"image": rows}).to_parquet(tmp_path / "elsewhere.parquet")
    assert "names its pictures (http://127.0.0.1:9/x.png) and does not hold them" in outcome(
        tmp_path / "elsewhere.parquet", kind="image"
    )
    data = path.read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[:-100])
    (tmp_path / "junk.parquet").write_bytes(data[:30] + bytes(200) + data[230:])
    for name in ("cut", "junk"):
        assert f"{name}.parquet: cannot be read as Parquet" in outcome(tmp_path / f"{name}.parquet", kind="image")
    assert "max_bytes" in outcome(path, max_bytes=100)
    bomb = write(tmp_path / "bomb.parquet", [bytes(1 << 20)] * 40)
    assert bomb.stat().st_size < 1 << 20
    assert "unpacks to 22,020,096 bytes" in outcome(bomb, max_bytes=20 << 20)
    wrong = write(tmp_path / "names.parquet", good, label=[0, 1, 2, 3], names=["a", "b"])
    assert "its column 'label' holds 2, and names for 0 to 1 alone" in outcome(wrong)
    assert [p.name for p in cache.rglob("*") if p.is_file()] == []  # no part of a copy is left
    monkeypatch.setattr(reader.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    assert "has 10 bytes left" in outcome_of(path)
    monkeypatch.setenv("BOOTDIFF_CACHE", "")
    assert "there is none (BOOTDIFF_CACHE is empty); name one" in outcome(path)


def outcome_of(path):
    with pytest.raises(BootdiffError) as raised:
        open_dataset(path)
    return str(raised.value)


# --- the Hub ---


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder in place of the Hub: what is asked of it is noted."""
    home, calls = tmp_path / "hub", []

    class Api:
        def dataset_info(self, repo_id, revision, files_metadata):
            calls.append(("info", repo_id, revision))
            if isinstance(state.fails, Exception):
                raise state.fails
            names = [path.relative_to(home).as_posix() for path in sorted(home.rglob("*")) if path.is_file()]
            return SimpleNamespace(
                siblings=[SimpleNamespace(rfilename=name, size=(home / name).stat().st_size) for name in names]
            )

    def snapshot_download(repo_id, *, repo_type, revision, allow_patterns, local_files_only):
        calls.append(("pull", repo_type, allow_patterns, local_files_only))
        if local_files_only and state.empty:
            raise errors.LocalEntryNotFoundError("nothing")
        return str(home)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    state = SimpleNamespace(home=home, calls=calls, fails=None, empty=False)
    write(home / "data" / "train-00000-of-00001.parquet", [png(p) for p in PIXELS[:3]], label=[0, 1, 0])
    write(home / "data" / "test-00000-of-00001.parquet", [png(p) for p in PIXELS[3:5]], label=[0, 1])
    return state


def test_a_part_is_pulled_and_read(hub):
    source = open_dataset("hf://owner/name", key="test", labels=True)
    assert hub.calls == [
        ("info", "owner/name", None),
        ("pull", "dataset", ["data/test-00000-of-00001.parquet"], False),
    ]
    assert np.array_equal(levels(source, 1), PIXELS[4])
    assert source.where == "hf://owner/name"
    assert [source[i].label for i in range(2)] == [0, 1]
    open_dataset("hf://datasets/owner/name@v1", key="test")
    assert hub.calls[2] == ("info", "owner/name", "v1")
    with pytest.raises(BootdiffError, match="hf://owner/name: holds several parts; say key: one of test, train"):
        open_dataset("hf://owner/name")


def test_more_than_is_allowed_is_not_pulled(hub):
    with pytest.raises(BootdiffError, match=r"bytes to download, more than max_bytes \(100\): .*nothing is streamed"):
        open_dataset("hf://owner/name", key="test", max_bytes=100)
    assert [call[0] for call in hub.calls] == ["info"]


def test_without_a_connection_the_cache_serves(hub):
    hub.fails = ConnectionError("no route")
    assert len(open_dataset("hf://owner/name", key="train")) == 3
    assert hub.calls[-1] == ("pull", "dataset", ["*.parquet"], True)
    hub.empty = True
    with pytest.raises(
        BootdiffError, match=r"the Hub cannot be reached, and the cache does not have it; connect and open"
    ):
        open_dataset("hf://owner/name", key="train")


def refusal(kind):
    """As the Hub's client raises it."""
    return kind("refused", response=SimpleNamespace(headers={}, status_code=403, request=None, url="x"))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (errors.GatedRepoError, "given on request; ask for it on its page, then log in by `hf auth login`$"),
        (errors.RepositoryNotFoundError, "no such repository on the Hub, or it is private; check the name, or log in"),
        (errors.RevisionNotFoundError, "it has no revision 'v9'; give a branch, a tag or a commit"),
    ],
)
def test_what_the_hub_refuses(hub, kind, said):
    hub.fails = refusal(kind)
    with pytest.raises(BootdiffError, match=f"owner/name: .*{said}"):
        open_dataset("hf://owner/name@v9")


def test_names_that_are_none_and_data_sets_without_tables(hub):
    for name in ("hf://", "hf://name", "hf://a/b/c", "hf://a/b@"):
        with pytest.raises(BootdiffError, match="write hf://owner/name"):
            open_dataset(name)
    for path in hub.home.rglob("*.parquet"):
        path.unlink()
    (hub.home / "a.jpg").write_bytes(b"")
    with pytest.raises(BootdiffError, match=r"no Parquet files; .*hf://owner/name@refs/convert/parquet"):
        open_dataset("hf://owner/name")


def test_recipes_name_the_hub_wherever_they_lie(tmp_path):
    recipe = load_recipe_text(
        "full: {path: hf://owner/name}\nviews: {v: {view: {kind: gray}, data: {path: gray}}}\n", tmp_path
    )
    assert recipe.full.path == "hf://owner/name"
    assert not recipe.full.is_path
    assert "path: hf://owner/name\n" in recipe.dump(absolute=True)
    assert f"path: {tmp_path}/gray\n" in recipe.dump(absolute=True)

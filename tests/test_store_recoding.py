"""export to a .zarr: the copy is the store in another codec, for everybody, whole or not there."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from zarr.storage import LocalStore

import eds_chunked as edc
from eds_chunked import schema
from eds_chunked.cli import main
from eds_chunked.errors import (
    MemoryBudgetError,
    ParameterError,
    StoreBusyError,
    StoreError,
    StoreExistsError,
    StoreFullError,
)
from eds_chunked.store import conversion, layout, recoding, replacement
from eds_chunked.store.backend import delete_dir, list_dir
from eds_chunked.store.calibration import calibrate
from eds_chunked.store.chunks import stored_tiles
from eds_chunked.store.cleaning import clean
from eds_chunked.store.conversion import convert
from eds_chunked.store.export import export
from eds_chunked.store.journal import Journal
from eds_chunked.store.opening import State, open_map, state_of
from eds_chunked.store.results import load, revisions, save
from eds_chunked.store.tile_codecs import TILE_CODECS
from eds_chunked.store.verification import verify
from eds_chunked.store.writer import MapWriter
from tests.made_maps import MadeReader, made_counts, made_draft, made_result

SHAPE = (19, 43, 61)
COUNTS = made_counts(SHAPE, "u2", seed=4)
COUNTS[3, 41, 60] = 777
IMAGE = ("BSE", np.arange(23 * 29, dtype=np.uint16).reshape(23, 29), (0.2, 0.3))
SOURCES = [("counts", False), ("counts", True), ("zstd", True), ("lz4", False)]
NAMED = "{0[0]}-{0[1]}".format


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A calibrated store of each codec with and without shards, with two revisions of a result and one not finished."""
    folder = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "tile_shape", lambda n_channels: (8, 8, n_channels))
        patch.setattr(layout, "_SHARD_TILES", 4)
        for codec, shards in SOURCES:
            store = folder / f"{codec}-{shards}.zarr"
            convert(MadeReader(COUNTS, images=[IMAGE]), store, codec=codec, shards=shards)
            ds = calibrate(store, energy_offset=-0.3, title="Gänge")
            for value in (1.0, 2.0):
                save(made_result(ds, value=value), store)
            shutil.copytree(store / "results" / "nmf" / "k2.r2", store / "results" / "nmf" / "k2.r3")
            (store / "results" / "nmf" / "k2.r3" / "zarr.json").unlink()
    return folder


@pytest.fixture
def store(stores, tmp_path):
    return Path(shutil.copytree(stores / "counts-False.zarr", tmp_path / "map.zarr"))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.zarr"


def default_tree(store):
    """What xarray opens when it is told nothing; it warns where metadata are not consolidated."""
    return xr.open_datatree(str(store), engine="zarr")


def documents(store, group):
    return {path.relative_to(store) for path in (store / group).rglob("zarr.json")}


def content(store):
    files = (path for path in store.rglob("*") if path.is_file() and path.name != "lock" and path.parent.name != "log")
    return {path: path.read_bytes() for path in files}


@pytest.mark.parametrize("codec", sorted(TILE_CODECS))
@pytest.mark.parametrize("way", SOURCES, ids=NAMED)
def test_the_copy_is_the_store_in_another_codec(stores, out, way, codec):
    store = stores / f"{way[0]}-{way[1]}.zarr"
    assert export(store, out, codec=codec) == out
    array, before = (zarr.open_array(place, path="map/counts", mode="r") for place in (out, store))
    np.testing.assert_array_equal(array[...], COUNTS)
    assert stored_tiles(array).codec is TILE_CODECS[codec]
    assert (array.dtype, array.chunks, array.shards, array.attrs.asdict()) == (
        before.dtype, before.chunks, before.shards, before.attrs.asdict(),
    )  # fmt: skip
    assert verify(out) == verify(store).__class__(str(out), 18, int(COUNTS.sum()), (), (), has_journal=True)
    tree, mine = default_tree(out), edc.open_tree(store)
    assert {node.path for node in tree.subtree} == {node.path for node in mine.subtree if "k2.r3" not in node.path}
    for node in tree.subtree:
        xr.testing.assert_identical(node.to_dataset(), mine[node.path].to_dataset())
    assert open_map(out).attrs == open_map(store).attrs
    assert [r.address for r in revisions(out)] == ["nmf/k2.r1", "nmf/k2.r2"]
    assert not (out / "results" / "nmf" / "k2.r3").exists()
    plan, made_by = Journal(zarr.storage.LocalStore(out)).plan, Journal(zarr.storage.LocalStore(store)).plan
    assert (plan.codec, plan.source, plan.selection) == (codec, made_by.source, made_by.selection)


@pytest.mark.parametrize("way", SOURCES, ids=NAMED)
def test_the_bytes_of_the_same_codec_are_the_same(stores, out, way):
    store = stores / f"{way[0]}-{way[1]}.zarr"
    export(store, out, codec=way[0])
    tiles = [path.relative_to(store) for path in store.glob("map/counts/c/*/*/0")]
    assert len(tiles) == 3 * (2 if way[1] else 6)
    for name in (*tiles, *documents(store, "map"), *documents(store, "images"), *documents(out, "results")):
        assert (out / name).read_bytes() == (store / name).read_bytes(), name


@pytest.mark.parametrize(("largest", "dtype"), [(9, "u1"), (60_000, "u2"), (2**31 + 5, "u4")])
@pytest.mark.parametrize("codec", ["zstd", "counts"])
def test_the_dtype_stays(tmp_path, out, largest, dtype, codec):
    counts = made_counts((67, 71, 13), "u4")
    counts[counts > 9] = 9
    counts[66, 70, 12] = largest
    convert(MadeReader(counts), tmp_path / "map.zarr")
    export(tmp_path / "map.zarr", out, codec=codec)
    array = zarr.open_array(out, path="map/counts", mode="r")
    assert array.dtype == dtype
    np.testing.assert_array_equal(array[...], counts)
    assert verify(out).whole


def test_a_salvaged_map_can_be_exported(tmp_path, out):
    class Broken(MadeReader):
        def bands(self, rows, box=None):
            for band in super().bands(1, box):
                if band.y0 == 11:
                    raise edc.errors.SourceError("made.map", found="an end", expected="a row", fix="none")
                yield band

    with pytest.warns(UserWarning, match="is damaged"):
        convert(Broken(COUNTS), tmp_path / "map.zarr", salvage=True)
    export(tmp_path / "map.zarr", out)
    assert verify(out).whole
    np.testing.assert_array_equal(open_map(out)[schema.COUNTS], COUNTS[:11])


# ----------------------------------------------------------------------------------- without the package
_WITHOUT = """
import importlib.metadata, sys
import numpy as np

distributions = importlib.metadata.distributions
importlib.metadata.distributions = lambda **k: (d for d in distributions(**k) if d.metadata["Name"] != "eds-chunked")


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "eds_chunked":
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Blocked())
import warnings, xarray as xr, zarr

warnings.simplefilter("error")
store = folder = sys.argv[1]
"""


def without_the_package(script, place):
    done = subprocess.run([sys.executable, "-c", _WITHOUT + script, str(place)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_others_read_the_copy(stores, tmp_path):
    np.save(tmp_path / "counts.npy", COUNTS)
    for codec in ("zstd", "lz4"):
        export(stores / "counts-True.zarr", tmp_path / f"{codec}.zarr", codec=codec)
    script = """
expected = np.load(f"{folder}/counts.npy")
for store in (f"{folder}/zstd.zarr", f"{folder}/lz4.zarr"):
    assert np.array_equal(zarr.open_group(store, mode="r")["map/counts"][...], expected)
    array = zarr.open_array(store, path="map/counts", mode="r")
    assert np.array_equal(array[5:17, 3:41, 7], expected[5:17, 3:41, 7])
    ds = xr.open_zarr(store, group="map")
    assert np.array_equal(ds["counts"].values, expected)
    assert ds["counts"].dims == ("y", "x", "energy") and ds["energy"].attrs["units"] == "keV"
    assert np.array_equal(ds["total_counts"].values, expected.sum(axis=2))
    tree = xr.open_datatree(store, engine="zarr", chunks={})
    assert tree["results/nmf/k2.r2/loadings"].values[1, 18, 42] == 2 * 2 * 19 * 43
    assert tree["images/0/image"].shape == (23, 29)
    print("read")
"""
    assert without_the_package(script, tmp_path) == "read\nread\n"


def test_others_are_told_what_they_lack_and_read_the_results(stores):
    script = """
for read in (
    lambda: zarr.open_array(store, path="map/counts"),
    lambda: xr.open_zarr(store, group="map", consolidated=False),
):
    try:
        read()
    except Exception as error:
        print(type(error).__name__, error)
warnings.filterwarnings("ignore", "Object at .* is not recognized")
tree = xr.open_datatree(store, engine="zarr", group="results", consolidated=False, chunks={})
print(tree["nmf/k2.r1/loadings"].values[1, 18, 42])
print(zarr.open_group(store, mode="r").attrs["how_to_read"])
"""
    told = without_the_package(script, stores / "counts-False.zarr").splitlines()
    assert told[:2] == ["UnknownCodecError Unknown codec: 'eds_chunked.counts'"] * 2
    assert float(told[2]) == 2 * 19 * 43
    assert "pip install eds-chunked" in told[3]


# ---------------------------------------------------------------------------------------- the copy lives on
def is_consolidated(store):
    return "consolidated_metadata" in json.loads((store / "zarr.json").read_text())


def test_a_store_that_was_converted_is_not_consolidated(store):
    assert not is_consolidated(store)


def test_what_is_saved_later_is_not_hidden(store, out):
    export(store, out)
    assert is_consolidated(out)
    save(made_result(edc.open(out), value=5.0), out)
    assert not is_consolidated(out)
    with pytest.warns(RuntimeWarning, match="consolidated"):
        assert "/results/nmf/k2.r3" in default_tree(out).groups
    assert load(out, "nmf/k2")[schema.FACTORS][0, 0] == 5
    assert verify(out).whole
    assert revisions(store)[-1].address == "nmf/k2.r2"


def test_a_result_that_is_streamed_is_not_hidden(store, out):
    export(store, out)
    save(made_draft(edc.open(out), value=5.0), out)
    assert not is_consolidated(out)
    assert load(out, "nmf/k2")[schema.FACTORS][0, 0] == 5


def test_a_calibration_is_not_hidden(store, out):
    export(store, out)
    calibrate(out, title="of the copy", pixel_size=3)
    with pytest.warns(RuntimeWarning, match="consolidated"):
        assert default_tree(out)["map"].attrs[schema.TITLE] == "of the copy"
    assert open_map(store).attrs[schema.TITLE] == "Gänge"
    assert verify(out).whole


def test_what_is_cleaned_away_is_not_listed(store, out):
    export(store, out)
    clean(out)
    with pytest.warns(RuntimeWarning, match="consolidated"):
        assert "/results/nmf/k2.r1" not in default_tree(out).groups


# ---------------------------------------------------------------------------------------- whole or not there
def test_an_existing_copy_is_replaced_only_when_told(store, out):
    export(store, out)
    save(made_result(edc.open(out), run="mine"), out)
    with pytest.raises(StoreExistsError, match="--overwrite"):
        export(store, out, codec="lz4")
    assert verify(out).whole
    export(store, out, codec="lz4", overwrite=True)
    assert stored_tiles(zarr.open_array(out, path="map/counts", mode="r")).codec.name == "lz4"
    assert [r.address for r in revisions(out)] == ["nmf/k2.r1", "nmf/k2.r2"]
    assert sorted(path.name for path in out.parent.iterdir()) == ["map.zarr", "out.zarr"]


def test_a_failure_half_way_leaves_the_earlier_copy_and_nothing_else(store, out):
    export(store, out)
    before = content(out)
    tile = store / "map" / "counts" / "c" / "2" / "3" / "0"
    tile.write_bytes(tile.read_bytes()[:-3])
    with pytest.raises(StoreError, match=r"tile at y 16:19, x 24:32, energy 0:61 of map/counts .* unreadable"):
        export(store, out, overwrite=True)
    with pytest.raises(StoreError, match="unreadable"):
        export(store, out.with_name("new.zarr"))
    assert content(out) == before
    assert sorted(path.name for path in out.parent.iterdir()) == ["map.zarr", "out.zarr"]


def test_a_full_disk_is_told_and_leaves_nothing(store, out, monkeypatch):
    async def full(self, key, value):
        if "/c/" in key:
            raise OSError(28, "No space left on device")
        await put(self, key, value)

    put = LocalStore.set
    monkeypatch.setattr(LocalStore, "set", full)
    with pytest.raises(StoreFullError, match="no space left"):
        export(store, out)
    assert [path.name for path in out.parent.iterdir()] == ["map.zarr"]


def test_the_document_of_the_map_is_the_last(store, tmp_path, monkeypatch):
    """On an object store, where nothing can be renamed: until it is whole it does not open."""
    url = f"memory://recoding/{tmp_path.name}/out.zarr"
    seen = []
    commit = MapWriter.commit

    def look(self):
        seen.append((state_of(url), len(list_dir(url, "results/nmf"))))
        with pytest.raises(StoreError, match="conversion stopped"):
            open_map(url)
        commit(self)

    monkeypatch.setattr(MapWriter, "commit", look)
    try:
        assert export(store, url) == url
        assert seen == [(State.UNFINISHED, 3)]
        assert verify(url).whole
        np.testing.assert_array_equal(open_map(url)[schema.COUNTS], COUNTS)
        with pytest.raises(StoreExistsError, match="--overwrite"):
            export(store, url)
        export(store, url, codec="lz4", overwrite=True)
        assert verify(url).whole
        monkeypatch.undo()
        # and back again
        back = tmp_path / "back.zarr"
        export(url, back, codec="counts")
        np.testing.assert_array_equal(open_map(back)[schema.COUNTS], COUNTS)
        (store / "map" / "counts" / "c" / "0" / "0" / "0").unlink()
        with pytest.raises(StoreError, match=r"tile at y 0:8, x 0:8, .*map/counts/c/0/0/0"):
            export(store, url, overwrite=True)
        assert list_dir(url, "") == []
    finally:
        delete_dir(url, "")


def test_a_file_that_goes_while_it_is_copied_is_missed(store, out, monkeypatch):
    listed = recoding._keys_beside

    def then_gone(*arguments):
        keys = listed(*arguments)
        shutil.rmtree(store / "results" / "nmf" / "k2.r1")
        return keys

    monkeypatch.setattr(recoding, "_keys_beside", then_gone)
    with pytest.raises(StoreError, match=r"results/nmf/k2.r1/.*, which it had, is gone"):
        export(store, out)
    assert not out.exists()


class CrashError(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("step", range(3))
def test_a_crash_between_the_renames_loses_no_copy(store, out, monkeypatch, step, new):
    if not new:
        export(store, out)
        save(made_result(edc.open(out), run="mine"), out)
    left = [step]

    def crashing(function):
        def do(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise CrashError
            return function(*arguments, **options)

        return do

    with monkeypatch.context() as patch:
        patch.setattr(replacement.os, "rename", crashing(replacement.os.rename))
        patch.setattr(replacement, "_remove", crashing(replacement._remove))
        with pytest.raises(CrashError):
            export(store, out, codec="lz4", overwrite=not new)
    if not new and step == 1:
        with pytest.raises(StoreError, match="a replacement that stopped halfway"):
            open_map(out)
    export(store, out, codec="lz4", overwrite=True)
    assert verify(out).whole
    assert [r.address for r in revisions(out)] == ["nmf/k2.r1", "nmf/k2.r2"]
    assert sorted(path.name for path in out.parent.iterdir()) == ["map.zarr", "out.zarr"]


def test_of_two_exports_to_a_new_place_one_is_refused(store, out, monkeypatch):
    seal = MapWriter.seal

    def impatient(self, *arguments):
        with pytest.raises(StoreBusyError):
            export(store, out, overwrite=True)
        seal(self, *arguments)

    monkeypatch.setattr(MapWriter, "seal", impatient)
    export(store, out)
    assert verify(out).whole


def test_a_copy_through_a_link_goes_where_it_leads_to(store, out):
    (out.parent / "disk").mkdir()
    out.symlink_to(out.parent / "disk" / "real.zarr")
    for codec in ("zstd", "lz4"):
        export(store, out, codec=codec, overwrite=True)
        assert out.is_symlink()
        assert verify(out).whole
        assert [path.name for path in (out.parent / "disk").iterdir()] == ["real.zarr"]


def test_a_store_that_changes_meanwhile_is_not_copied(store, out, monkeypatch):
    seal = MapWriter.seal

    def meddle(self, *arguments):
        calibrate(store, title="other")
        seal(self, *arguments)

    monkeypatch.setattr(MapWriter, "seal", meddle)
    with pytest.raises(StoreError, match="another map than before"):
        export(store, out)
    assert not out.exists()


def test_what_cannot_be_written_is_refused_before_anything_is(store, tmp_path):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ParameterError, match=r"codec for .*map\.hspy.*found 'zstd'"):
        export(store, tmp_path / "map.hspy", codec="zstd")
    with pytest.raises(ParameterError, match=r"codec.*'gzip'"):
        export(store, tmp_path / "out.zarr", codec="gzip")
    with pytest.raises(ParameterError, match=r"suffix '\.tif', expected one of \.hspy, \.zarr"):
        export(store, tmp_path / "map.tif")
    with pytest.raises(ParameterError, match="no folder"):
        export(store, tmp_path / "none" / "out.zarr")
    for target in (store, store / "in.zarr", f"file://{store}"):
        with pytest.raises(ParameterError, match="the store itself"):
            export(store, target, overwrite=True)
    with pytest.raises(MemoryBudgetError, match=r"memory for export.*--memory"):
        export(store, tmp_path / "out.zarr", memory="20MB")
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr" / "thesis.txt").write_text("mine")
    with pytest.raises(StoreExistsError, match="no eds_chunked store"):
        export(store, tmp_path / "mine.zarr", overwrite=True)
    assert (tmp_path / "mine.zarr" / "thesis.txt").read_text() == "mine"
    shutil.rmtree(tmp_path / "mine.zarr")
    assert sorted(tmp_path.iterdir()) == before
    zarr.open_group(store, path="map", mode="r+").attrs[schema.BEFORE_CALIBRATION] = {}
    with pytest.raises(StoreError, match="a calibration that did not finish"):
        export(store, tmp_path / "out.zarr")


def test_the_verb(store, out):
    def call(*arguments, code=0):
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert done.exit_code == code, done.output
        return done

    told = json.loads(call("export", store, out, "--codec", "lz4", "--json").stdout)
    assert told["file"] == str(out)
    assert told["bytes"] == sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    call("verify", out)
    assert "--overwrite" in call("export", store, out, code=2).stderr
    assert "store" in call("export", store, f"file://{out}", "--overwrite").stdout
    assert stored_tiles(zarr.open_array(out, path="map/counts", mode="r")).codec.name == "zstd"
    assert "leave it out" in call("export", store, out.with_suffix(".hspy"), "--codec", "zstd", code=2).stderr

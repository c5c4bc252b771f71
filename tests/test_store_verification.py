"""verify: a store as it was written is whole; any byte that is changed is found, and where it is."""

import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec

import eds_chunked as edc
from eds_chunked import schema
from eds_chunked.cli import main
from eds_chunked.errors import MemoryBudgetError, StoreError, StoreNotFoundError
from eds_chunked.store import conversion, layout, tile_codecs
from eds_chunked.store.calibration import calibrate
from eds_chunked.store.conversion import convert
from eds_chunked.store.results import save
from eds_chunked.store.tile_codecs import TILE_CODECS
from eds_chunked.store.verification import Verification, verify
from tests.made_maps import MadeReader, made_counts, made_draft, made_result

SHAPE = (19, 43, 61)
SIDE = 8
COUNTS = made_counts(SHAPE, "u2", seed=4)
COUNTS[3, 41, 60] = 777
TOTAL = int(COUNTS.sum())
IMAGE = ("BSE", np.arange(23 * 29, dtype=np.uint16).reshape(23, 29), (0.2, 0.3))


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A store of each codec with and without shards, of 3 x 6 tiles; a shard holds 4 of a row."""
    folder = tmp_path_factory.mktemp("stores")
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "tile_shape", lambda n_channels: (SIDE, SIDE, n_channels))
        patch.setattr(layout, "_SHARD_TILES", 4)
        for codec, shards in itertools.product(TILE_CODECS, (False, True)):
            made[codec, shards] = folder / f"{codec}-{shards}.zarr"
            convert(MadeReader(COUNTS, images=[IMAGE]), made[codec, shards], codec=codec, shards=shards)
    return made


@pytest.fixture(scope="module", params=sorted(TILE_CODECS))
def codec(request):
    return request.param


@pytest.fixture(scope="module", params=[False, True], ids=["chunks", "shards"])
def shards(request):
    return request.param


@pytest.fixture
def store(stores, codec, shards, tmp_path):
    return Path(shutil.copytree(stores[codec, shards], tmp_path / "map.zarr"))


@pytest.fixture
def plain(stores, tmp_path):
    """One store, of the count codec without shards."""
    return Path(shutil.copytree(stores["counts", False], tmp_path / "map.zarr"))


def tile_file(store, row, column):
    return store / "map" / "counts" / "c" / str(row) / str(column) / "0"


def marker_file(store, row):
    return store / "map" / "counts" / "__eds" / "rows" / f"{row * SIDE:08d}.json"


def places(found):
    return [(tile.ys.start, tile.ys.stop, tile.xs.start, tile.xs.stop) for tile in found.damaged_tiles]


def flip(file, at, change):
    data = bytearray(file.read_bytes())
    data[at] ^= change
    file.write_bytes(data)


def change_array(store, path, key, value):
    zarr.open_array(store, path=path, mode="r+")[key] = value


# ----------------------------------------------------------------------------------------------- whole stores
def test_an_image_whose_document_is_gone_is_damage(plain):
    (plain / "images" / "0" / "zarr.json").unlink()
    (line,) = verify(plain).other_damage
    assert line.startswith("images/0: unreadable (")


def test_a_store_as_it_was_written_is_whole(store):
    found = verify(store)
    assert found == Verification(str(store), 18, TOTAL, (), (), has_journal=True)
    assert found.whole


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 97, 5), (131, 3, 2), (64, 64, 7), (65, 67, 3)])
def test_maps_of_any_shape_are_whole(tmp_path, shape):
    counts = np.random.default_rng(3).integers(0, 9, shape, dtype=np.uint16)
    counts[-1, -1, -1] = 7
    convert(MadeReader(counts), tmp_path / "map.zarr")
    found = verify(tmp_path / "map.zarr")
    assert found.whole, found
    assert found.counts == counts.sum()
    assert found.n_tiles == -(-shape[0] // 64) * -(-shape[1] // 64)


def test_results_and_calibration_leave_it_whole(plain):
    ds = edc.open(plain)
    save(made_result(ds), plain)
    save(made_result(ds, value=2.0), plain)
    calibrate(plain, pixel_size=(0.7, 0.9), energy_offset=-0.2, title="again")
    made_draft(edc.open(plain), run="open")  # a revision that is being written
    assert verify(plain).whole


def test_a_salvaged_map_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "tile_shape", lambda n_channels: (SIDE, SIDE, n_channels))

    class Broken(MadeReader):
        def bands(self, rows, box=None):
            for band in super().bands(1, box):
                if band.y0 == 11:
                    raise edc.errors.SourceError("made.map", found="an end", expected="a row", fix="none")
                yield band

    with pytest.warns(UserWarning, match="is damaged"):
        convert(Broken(COUNTS), tmp_path / "map.zarr", salvage=True)
    found = verify(tmp_path / "map.zarr")
    assert found.whole, found
    assert (found.n_tiles, found.counts) == (12, COUNTS[:11].sum())


def test_counts_are_never_dense(plain, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a dense block")

    monkeypatch.setattr(tile_codecs, "to_dense", refuse)
    monkeypatch.setattr(tile_codecs, "from_dense", refuse)
    monkeypatch.setattr("eds_chunked.store.verification.from_dense", refuse)
    assert verify(plain).whole


def test_a_budget_that_is_too_small_is_refused(plain):
    with pytest.raises(MemoryBudgetError, match="memory for verify"):
        verify(plain, memory="20MB")


def test_there_must_be_a_whole_store(plain, tmp_path):
    with pytest.raises(StoreNotFoundError, match="found nothing"):
        verify(tmp_path / "none.zarr")
    (plain / "map" / "zarr.json").unlink()
    with pytest.raises(StoreError, match="--resume"):
        verify(plain)


# ------------------------------------------------------------------------------------------- damage to counts
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_a_flipped_byte_in_any_chunk_or_marker_is_found(stores, codec, shards, data):
    original = stores[codec, shards]
    files = sorted(original.glob("map/counts/c/*/*/0")) + sorted(original.glob("map/counts/__eds/rows/*.json"))
    assert len(files) == 3 * (2 if shards else 6) + 3
    name = data.draw(st.sampled_from(files)).relative_to(original)
    at = data.draw(st.integers(0, (original / name).stat().st_size - 1))
    store = original.with_name("flipped.zarr")
    shutil.rmtree(store, ignore_errors=True)
    shutil.copytree(original, store)
    flip(store / name, at, data.draw(st.integers(1, 255)))
    found = verify(store)
    assert not found.whole
    if name.name.endswith(".json"):
        top = int(name.stem)
        assert all(tile.ys.start == top for tile in found.damaged_tiles)
        assert found.damaged_tiles or found.other_damage[0].startswith(f"marker of rows {top}:")
        assert found.counts == TOTAL
    else:
        row, column = (int(part) for part in name.parts[-3:-1])
        columns = range(column * 4, min(6, column * 4 + 4)) if shards else [column]
        assert found.damaged_tiles
        assert {(tile.ys.start, tile.xs.start) for tile in found.damaged_tiles} <= {
            (row * SIDE, c * SIDE) for c in columns
        }


def test_every_byte_of_a_shard_index_matters(stores, tmp_path):
    store = shutil.copytree(stores["counts", True], tmp_path / "map.zarr")
    file = tile_file(store, 1, 1)
    whole = file.read_bytes()
    for at in range(1, 16 * 4 + 4 + 1):
        flip(file, -at, 1 << at % 8)
        found = verify(store)
        # The index is checked as a whole: neither tile of this shard can be found any more.
        assert places(found) == [(8, 16, 32, 40), (8, 16, 40, 43)]
        assert all(
            tile.why.startswith("unreadable (the index of shard map/counts/c/1/1/0") for tile in found.damaged_tiles
        )
        file.write_bytes(whole)
    assert verify(store).whole


def test_an_absent_file_is_damage(store, shards):
    tile_file(store, 1, 0).unlink()
    found = verify(store)
    columns = range(4 if shards else 1)
    assert places(found) == [(8, 16, c * 8, c * 8 + 8) for c in columns]
    assert {tile.why for tile in found.damaged_tiles} == {"absent"}
    assert found.counts == TOTAL - COUNTS[8:16, : 8 * len(columns)].sum()
    assert found.other_damage == ()


@pytest.mark.parametrize("size", [0, 1, 27, 60])
def test_a_truncated_file_is_damage(store, shards, size):
    file = tile_file(store, 2, 1)
    file.write_bytes(file.read_bytes()[:size])
    found = verify(store)
    assert places(found) == ([(16, 19, 32, 40), (16, 19, 40, 43)] if shards else [(16, 19, 8, 16)])
    assert all("unreadable (" in tile.why for tile in found.damaged_tiles)


def test_a_tile_in_the_place_of_another_is_found_with_its_counts(plain):
    shutil.copy(tile_file(plain, 1, 2), tile_file(plain, 0, 4))
    found = verify(plain)
    (tile,) = found.damaged_tiles
    assert (tile.ys, tile.xs) == (slice(0, 8), slice(32, 40))
    other, mine = COUNTS[8:16, 16:24].sum(), COUNTS[0:8, 32:40].sum()
    assert tile.why.startswith(f"other bytes than were written, {other} counts where {mine} were written, ")
    assert tile.why.endswith(" pixels with other counts than total_counts says")
    assert str(tile).startswith("y 0:8, x 32:40: other bytes")


def rewrite(store, row, column, counts):
    """Put other counts into a tile, in bytes as good as those before."""
    array = zarr.open_array(store, path="map/counts", mode="r+")
    array[row * SIDE : row * SIDE + counts.shape[0], column * SIDE : column * SIDE + counts.shape[1]] = counts


def test_other_counts_with_the_same_sums_are_found(store):
    tile = COUNTS[8:16, 16:24].copy()
    channels = np.array([tile[2, 3].argmax(), tile[2, 3].argmin()])
    tile[2, 3, channels] = tile[2, 3, channels[::-1]]
    rewrite(store, 1, 2, tile)
    found = verify(store)
    assert (8, 16, 16, 24) in places(found)
    assert {t.why for t in found.damaged_tiles} == {"other bytes than were written"}
    assert "map/sum_spectrum: other than the counts in 2 channels" in found.other_damage


@pytest.mark.parametrize(
    "array", ["results/nmf/k2.r1/loadings", "results/nmf/k2.r1/factors", "images/0/image", "map/x"]
)
def test_any_flipped_bit_of_what_is_not_counts_is_found(plain, array):
    save(made_result(edc.open(plain)), plain)
    files = [file for file in (plain / array / "c").rglob("*") if file.is_file()]
    rng = np.random.default_rng(0)
    for _ in range(12):
        file = files[rng.integers(len(files))]
        whole = file.read_bytes()
        flip(file, int(rng.integers(len(whole))), int(2 ** rng.integers(8)))
        assert [line.split(": ")[0] for line in verify(plain).other_damage][:1] == [array]
        file.write_bytes(whole)
    assert verify(plain).whole


def test_all_damage_is_listed_and_the_rest_is_counted(plain):
    save(made_result(edc.open(plain)), plain)
    tile_file(plain, 0, 0).unlink()
    flip(tile_file(plain, 2, 5), 40, 8)
    marker_file(plain, 1).write_text("{")
    (plain / "images" / "0" / "image" / "zarr.json").unlink()
    loadings = next((plain / "results" / "nmf" / "k2.r1" / "loadings" / "c").rglob("0"))
    loadings = next(file for file in loadings.rglob("*") if file.is_file())
    loadings.write_bytes(loadings.read_bytes()[:-7])
    found = verify(plain)
    assert places(found) == [(0, 8, 0, 8), (16, 19, 40, 43)]
    assert [tile.why.split(" (")[0] for tile in found.damaged_tiles] == [
        "absent",
        "other bytes than were written, unreadable",
    ]
    assert found.counts == TOTAL - COUNTS[:8, :8].sum() - COUNTS[16:, 40:].sum()
    assert [line.split(": ")[0] for line in found.other_damage] == [
        "marker of rows 8:16",
        "images/0/image",
        "results/nmf/k2.r1/loadings",
    ]


# ---------------------------------------------------------------------------------------- damage to the journal
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(total=m["total"] + 1), "counts, where its tiles have"),
        (lambda m: m["tiles"].pop(), "counts, where its tiles have|of rows .* and 5 tiles"),
        (lambda m: m.update(rows=[8, 15]), r"of rows \(8, 15\) and 6 tiles"),
        (lambda m: m.update(total=float(m["total"])), "unreadable"),
        (lambda m: m.update(more=1), "unreadable"),
        (lambda m: m.pop("rows"), "unreadable"),
    ],
)
def test_a_marker_that_says_something_else_is_damage(plain, change, says):
    marker = json.loads(marker_file(plain, 1).read_text())
    change(marker)
    marker_file(plain, 1).write_text(json.dumps(marker))
    found = verify(plain)
    assert found.other_damage[0].startswith("marker of rows 8:16: ")
    assert any(re.search(says, line) for line in found.other_damage)
    assert found.damaged_tiles == ()


def test_a_marker_of_other_counts_names_the_tile(plain):
    marker = json.loads(marker_file(plain, 1).read_text())
    marker["tiles"][3]["total"] += 5
    marker["total"] += 5
    marker_file(plain, 1).write_text(json.dumps(marker))
    (tile,) = verify(plain).damaged_tiles
    n = COUNTS[8:16, 24:32].sum()
    assert (tile.xs, tile.why) == (slice(24, 32), f"{n} counts where {n + 5} were written")


def test_markers_that_are_not_there_or_not_of_the_map(plain):
    marker_file(plain, 0).rename(marker_file(plain, 7))
    (plain / "map" / "counts" / "__eds" / "plan.json").unlink()
    assert verify(plain).other_damage == (
        "plan of the journal: absent",
        "marker of rows 0:8: absent",
        "marker 00000056.json: of rows that the map has not",
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"codec": "zstd"}, "codec zstd, where the counts have counts"),
        ({"tile": [8, 16, 61]}, r"tiles \(8, 16, 61\), where the counts have \(8, 8, 61\)"),
        ({"shape": [27, 43, 61]}, r"shape \(27, 43, 61\), where the counts have \(19, 43, 61\)"),
        ({"shard": [8, 32, 61]}, "shards"),
        ({"tile": 3}, "unreadable"),
        ({"more": 3}, "unreadable"),
    ],
)
def test_a_plan_that_says_something_else_is_damage(plain, change, says):
    file = plain / "map" / "counts" / "__eds" / "plan.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    found = verify(plain)
    assert found.damaged_tiles == ()
    (line,) = found.other_damage
    assert line.startswith("plan of the journal: ")
    assert re.search(says, line)


def test_without_a_journal_the_survey_tells(store, shards):
    shutil.rmtree(store / "map" / "counts" / "__eds")
    found = verify(store)
    assert found.whole
    assert not found.has_journal
    assert found.counts == TOTAL
    tile = COUNTS[8:16, 16:24].copy()
    tile[2, 3, 5] += 1
    rewrite(store, 1, 2, tile)
    found = verify(store)
    assert places(found) == [(8, 16, 16, 24)]
    assert found.damaged_tiles[0].why == "1 pixels with other counts than total_counts says"


def test_a_store_of_an_early_version_is_read_by_zarr(plain):
    shutil.rmtree(plain / "map" / "counts")
    early = zarr.create_array(
        plain, name="map/counts", shape=SHAPE, chunks=(8, 8, 61), dtype="u2", compressors=BloscCodec(cname="zstd"),
        config={"write_empty_chunks": True}, dimension_names=schema.VARIABLES[schema.COUNTS].dims,
    )  # fmt: skip
    early[...] = COUNTS
    found = verify(plain)
    assert (found.whole, found.has_journal, found.counts, found.n_tiles) == (True, False, TOTAL, 18)
    tile_file(plain, 2, 5).unlink()
    assert places(verify(plain)) == [(16, 19, 40, 43)]


# ------------------------------------------------------------------------------------ damage beside the counts
@pytest.mark.parametrize("name", [schema.SUM_SPECTRUM, schema.MAX_SPECTRUM, schema.MAX_SPECTRUM_PIXEL])
def test_a_survey_that_does_not_fit_is_damage(plain, name):
    array = zarr.open_array(plain, path=f"map/{name}", mode="r+")
    array[7] = array[7] + 1
    found = verify(plain)
    assert found.damaged_tiles == ()
    assert f"map/{name}: other than the counts in 1 channels" in found.other_damage


def test_totals_that_do_not_fit_name_the_tile(plain):
    change_array(plain, "map/total_counts", (17, 42), 3)
    found = verify(plain)
    assert places(found) == [(16, 19, 40, 43)]
    assert "fingerprint" in found.other_damage[0]


def test_an_array_of_the_survey_that_is_gone(plain):
    shutil.rmtree(plain / "map" / "sum_spectrum")
    assert any("sum_spectrum" in line for line in verify(plain).other_damage)


@pytest.mark.parametrize("axis", [schema.Y, schema.X, schema.ENERGY])
def test_a_coordinate_that_was_changed_is_damage(plain, axis):
    change_array(plain, f"map/{axis}", 3, 5.5)
    assert verify(plain).other_damage == (
        "map: survey, coordinates or calibration do not fit the fingerprint of the map",
    )


def test_a_calibration_that_was_broken_off_is_named(plain):
    group = zarr.open_group(plain, path="map", mode="r+")
    group.attrs[schema.BEFORE_CALIBRATION] = {}
    (line,) = verify(plain).other_damage
    assert "a calibration that did not finish" in line


@pytest.mark.parametrize("text", ["{", "[]"])
@pytest.mark.parametrize(
    "document", ["map/counts", "map/energy", "map", "images/0", "images", "results/nmf/k2.r1", "results/nmf"]
)
def test_a_damaged_document_is_named(plain, document, text):
    save(made_result(edc.open(plain)), plain)
    (plain / document / "zarr.json").write_text(text)
    found = verify(plain)
    assert any(line.startswith(f"{document}: unreadable (") for line in found.other_damage)
    if not document.startswith("map"):
        assert (len(found.other_damage), found.counts) == (1, TOTAL)


# --------------------------------------------------------------------------------------------------- the verb
def call(*arguments, code):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done.stdout


def test_the_verb_says_that_a_store_is_whole(plain):
    assert "18, none damaged" in call("verify", plain, code=0)
    told = json.loads(call("verify", plain, "--json", code=0))
    assert told.pop("seconds") > 0
    assert told == {
        "store": str(plain), "whole": True, "tiles": 18, "counts": TOTAL, "journal": True, "damaged_tiles": [],
        "other_damage": [],
    }  # fmt: skip
    shutil.rmtree(plain / "map" / "counts" / "__eds")
    assert "No journal of what was written" in call("verify", plain, code=0)


def test_the_verb_names_what_is_damaged_and_leaves_with_1(plain):
    flip(tile_file(plain, 1, 3), 50, 1)
    marker_file(plain, 2).unlink()
    text = call("verify", plain, code=1)
    assert "1 of 18 damaged" in text
    assert "8:16  24:32" in text
    assert "marker of rows 16:19: absent" in text
    told = json.loads(call("verify", plain, "--json", code=1))
    assert not told["whole"]
    (tile,) = told["damaged_tiles"]
    assert (tile["y"], tile["x"]) == ([8, 16], [24, 32])
    assert tile["why"].startswith("other bytes than were written")
    assert told["other_damage"] == ["marker of rows 16:19: absent"]
    assert call("verify", plain, "--quiet", code=1).startswith("y 8:16, x 24:32: other bytes")


def test_the_verb_leaves_with_2_where_there_is_no_store(tmp_path):
    call("verify", tmp_path / "none.zarr", code=2)


def test_a_map_is_mended_by_converting_again(plain, monkeypatch):
    save(made_result(edc.open(plain)), plain)
    flip(tile_file(plain, 1, 3), 50, 1)
    assert not verify(plain).whole
    convert(MadeReader(COUNTS, images=[IMAGE]), plain, overwrite=True)
    assert verify(plain).whole
    assert isinstance(edc.load(plain, "nmf/k2"), xr.Dataset)

"""Results: immutable revisions that are there whole or not at all, found again by name, fresh or stale."""

import errno
import itertools
import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from zarr.storage import LocalStore

from eds_chunked import schema
from eds_chunked.engine.blocks import blocks_of
from eds_chunked.engine.output import begin_result
from eds_chunked.errors import MissingResultError, ParameterError, StaleResultError, StoreFullError, StoreNotFoundError
from eds_chunked.store import drafts
from eds_chunked.store.backend import HeldBackStore
from eds_chunked.store.conversion import convert
from eds_chunked.store.drafts import Draft
from eds_chunked.store.opening import open_map
from eds_chunked.store.results import load, load_fresh, newest, revisions, save, why_stale
from tests.failing_store import KilledError, failing_after
from tests.made_maps import MadeReader, made_counts, made_draft, made_result

COUNTS = made_counts((31, 23, 13))


@pytest.fixture
def store(tmp_path):
    convert(MadeReader(COUNTS), tmp_path / "map.zarr")
    yield tmp_path / "map.zarr"
    for draft in list(drafts._open_drafts.values()):
        draft.discard()


def addresses(store):
    return [revision.address for revision in revisions(store)]


def equal(left, right):
    """The same variables with the same values; attributes of a stored result say more."""
    return left.drop_attrs().equals(right.drop_attrs())


def test_a_saved_result_comes_back(store):
    result = made_result(open_map(store), parameters={"n_components": 2, "noise": "poisson"})
    assert save(result, store) == "nmf/k2.r1"
    for address in ("nmf", "nmf/k2", "nmf/k2.r1"):
        again = load(store, address)
        assert equal(again, result)
        assert again[schema.LOADINGS].chunks is not None
        assert again[schema.LOADINGS].dtype == np.float32
        assert set(again.coords) == set(result.coords)
    assert again.attrs["parameters"] == {"n_components": 2, "noise": "poisson"}
    assert again.attrs["versions"]["numpy"] == np.__version__
    assert (again.attrs["step"], again.attrs["run"], again.attrs["revision"]) == ("nmf", "k2", 1)
    assert again.encoding["source"] == str(store)
    # Readable without this package.
    assert equal(xr.open_zarr(store, group="results/nmf/k2.r1", consolidated=False), result)


def test_a_later_save_is_a_new_revision_and_leaves_the_earlier(store):
    ds = open_map(store)
    for value in (1, 2, 3):
        save(made_result(ds, value=value), store)
    save(made_result(ds, value=9, run="other"), store)
    assert addresses(store) == ["nmf/k2.r1", "nmf/k2.r2", "nmf/k2.r3", "nmf/other.r1"]
    firsts = {address: float(load(store, address)[schema.FACTORS][0, 0]) for address in ("nmf", "nmf/k2", "nmf/k2.r2")}
    assert firsts == {"nmf": 9, "nmf/k2": 3, "nmf/k2.r2": 2}


def test_ten_revisions_are_in_the_order_of_numbers(store):
    ds = open_map(store)
    for _ in range(11):
        save(made_result(ds)[[schema.FACTORS]], store)
    assert newest(store, "nmf/k2").number == 11


def test_numpy_values_in_attributes_are_saved(store):
    result = made_result(
        open_map(store), parameters={"tolerance": np.float32(0.5), "window": np.arange(2)}, wall=np.int64(3)
    )
    assert load(store, save(result, store)).attrs["parameters"] == {"tolerance": 0.5, "window": [0, 1]}


@pytest.mark.parametrize("address", ["umap", "nmf/", "nmf/K2", "nmf/k2.r", "nmf/k2.r1.r2", "../nmf", ""])
def test_an_address_that_makes_no_sense_is_refused(store, address):
    with pytest.raises(ParameterError, match="result: found"):
        load(store, address)


def test_a_result_that_is_not_there_lists_what_is(store):
    with pytest.raises(MissingResultError, match=r"found no results, expected a saved nmf.*eds-chunked nmf"):
        load(store, "nmf/k2")
    save(made_result(open_map(store)), store)
    for address in ("pca", "nmf/k3", "nmf/k2.r7"):
        with pytest.raises(MissingResultError, match=rf"result {address} in {store}: found nmf/k2.r1"):
            load(store, address)


def test_what_is_no_result_is_not_saved(store):
    with pytest.raises(ParameterError, match="expected the result of a step"):
        save(open_map(store), store)
    with pytest.raises(ParameterError, match="run name"):
        save(made_result(open_map(store)), store, name="A/B")
    with pytest.raises(StoreNotFoundError):
        save(made_result(open_map(store)), store.parent / "none.zarr")
    assert addresses(store) == []


def test_a_result_of_another_map_is_refused(store, tmp_path):
    other = convert(MadeReader(COUNTS[:30]), tmp_path / "other.zarr")
    with pytest.raises(StaleResultError, match=rf"nmf result: found a result of another map.*of the map in {store}"):
        save(made_result(other), store)
    with pytest.raises(StaleResultError):
        save(made_draft(other), store)
    assert addresses(store) == []


# ------------------------------------------------------------------------------------------------------ drafts
def test_a_draft_is_seen_by_nobody_until_it_is_saved(store):
    draft = made_draft(open_map(store))
    assert equal(draft, made_result(open_map(store)))
    assert addresses(store) == []
    with pytest.raises(MissingResultError):
        load(store, "nmf")
    assert save(draft, store) == "nmf/k2.r1"
    # Saving put one document: the Dataset in hand and the stored one are the same.
    assert equal(draft, made_result(open_map(store)))
    assert equal(load(store, "nmf"), draft)
    # Once more is another revision.
    assert save(draft, store) == "nmf/k2.r2"
    assert equal(load(store, "nmf/k2.r2"), draft)


def test_saving_a_draft_writes_no_values(store, monkeypatch):
    draft = made_draft(open_map(store))
    monkeypatch.setattr(Draft, "copy", lambda self, result: pytest.fail("the values were written again"))
    save(draft, store)
    assert equal(load(store, "nmf"), made_result(open_map(store)))


def replaced(ds):
    return ds.assign({schema.LOADINGS: ds[schema.LOADINGS] * 2})


def in_place(ds):
    ds[schema.LOADINGS][0] = 7
    return ds


def times_in_place(ds):
    ds[schema.FACTORS] *= 3
    return ds


def other_data(ds):
    ds[schema.FACTORS].data = ds[schema.FACTORS].data + 1
    return ds


def swapped_axis(ds):
    return ds.assign_coords({schema.COMPONENT: [2, 1]})


CHANGES = {
    "a variable replaced": replaced,
    "values set in place": in_place,
    "multiplied in place": times_in_place,
    "its array replaced": other_data,
    "a coordinate replaced": swapped_axis,
    "a selection": lambda ds: ds.isel(component=[1]),
    "a part": lambda ds: ds.isel(y=slice(2, 9)),
    "a variable dropped": lambda ds: ds.drop_vars(schema.FACTORS),
    "a variable added": lambda ds: ds.assign({schema.THRESHOLD: (schema.PHASE, [1.5])}),
    "loaded and changed": lambda ds: in_place(ds.load()),
    "sorted": lambda ds: ds.sortby(schema.COMPONENT, ascending=False),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_result_is_saved_as_it_is_now(store, change):
    expected = change(made_draft(open_map(store))).compute()
    assert not equal(expected, made_result(open_map(store)))
    changed = change(made_draft(open_map(store)))
    again = load(store, save(changed, store))
    assert equal(again, expected)
    assert set(again.coords) == set(expected.coords)


def test_changed_attributes_are_saved(store):
    draft = made_draft(open_map(store))
    draft.attrs["note"] = "bright"
    draft[schema.LOADINGS].attrs["note"] = "dark"
    again = load(store, save(draft, store))
    assert again.attrs["note"] == "bright"
    assert again[schema.LOADINGS].attrs["note"] == "dark"


def test_saving_under_another_name_copies(store):
    draft = made_draft(open_map(store))
    assert save(draft, store, name="mine") == "nmf/mine.r1"
    assert addresses(store) == ["nmf/mine.r1"]
    assert equal(load(store, "nmf/mine"), made_result(open_map(store)))
    assert load(store, "nmf/mine").attrs["run"] == "mine"


def test_a_draft_in_a_scratch_store_can_be_saved_to_a_store(store):
    ds = open_map(store)
    loaded = ds.load()
    del loaded.encoding["source"]
    template = made_result(ds)
    draft = begin_result(
        loaded,
        schema.NMF,
        "k2",
        template.assign({schema.LOADINGS: template[schema.LOADINGS].chunk(y=16)}),
        {},
        blocks_of(loaded),
    )
    assert draft.location != str(store)
    draft.put(schema.LOADINGS, template[schema.LOADINGS].values)
    result = draft.open()
    assert save(result, store) == "nmf/k2.r1"
    assert equal(load(store, "nmf"), template)


def test_a_failure_while_saving_leaves_the_earlier_revision_and_no_rest(store, monkeypatch):
    ds = open_map(store)
    save(made_result(ds), store)
    broken = made_result(ds, value=5).chunk(y=16)
    calls = []

    def fail_late(block):
        calls.append(1)
        raise RuntimeError("worker lost")

    broken[schema.LOADINGS].data = broken[schema.LOADINGS].data.map_blocks(
        fail_late, dtype="f4", meta=np.zeros((0, 0, 0), "f4")
    )
    with pytest.raises(RuntimeError, match="worker lost"):
        save(broken, store)
    assert calls
    assert equal(load(store, "nmf"), made_result(ds))
    assert sorted(p.name for p in (store / "results/nmf").iterdir()) == ["k2.r1", "zarr.json"]
    # Its number is not given again: somebody may have heard of it.
    assert save(made_result(ds, value=6), store) == "nmf/k2.r3"


def test_a_full_disk_is_one_clear_error_and_the_earlier_revision_stays(store, monkeypatch):
    save(made_result(open_map(store)), store)
    put, room = LocalStore.set, [4]

    async def set_while_there_is_room(self, key, value):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device", key)
        await put(self, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "set", set_while_there_is_room)
        with pytest.raises(StoreFullError, match=r"found no space left on the device.*free space"):
            save(made_result(open_map(store), value=2.0), store)
    assert addresses(store) == ["nmf/k2.r1"]
    assert equal(load(store, "nmf"), made_result(open_map(store)))


def test_a_crash_while_writing_leaves_the_earlier_revision(store, monkeypatch):
    ds = open_map(store)
    save(made_result(ds), store)
    with monkeypatch.context() as patch:
        # All is written but the last document, as a kill leaves it.
        patch.setattr(HeldBackStore, "commit", lambda self: None)
        save(made_result(ds, value=5), store)
    assert (store / "results/nmf/k2.r2/loadings/zarr.json").exists()
    assert addresses(store) == ["nmf/k2.r1"]
    assert equal(load(store, "nmf"), made_result(ds))
    assert save(made_result(ds, value=6), store) == "nmf/k2.r3"


@pytest.mark.parametrize("kind", ["disk", "memory"])
@pytest.mark.parametrize("way", ["copied", "streamed"])
def test_a_kill_at_any_write_leaves_the_earlier_revision(tmp_path, monkeypatch, kind, way):
    store = f"{tmp_path}/map.zarr" if kind == "disk" else f"memory://results/{tmp_path.name}/map.zarr"
    ds = convert(MadeReader(COUNTS[:5, :7]), store)
    earlier = made_result(ds)
    assert save(earlier, store) == "nmf/k2.r1"
    for n_writes in itertools.count():
        try:
            with failing_after(monkeypatch, kind, n_writes):
                # One variable and its coordinates where all goes through xarray, both of them where a step streams.
                made = made_result(ds, value=2)[[schema.FACTORS]] if way == "copied" else made_draft(ds, value=2)
                address = save(made, store)
            break
        except KilledError:
            drafts._open_drafts.clear()
        assert addresses(store) == ["nmf/k2.r1"]
        assert equal(load(store, "nmf"), earlier)
    # The claim, a document and a chunk of each variable and coordinate, and the document of the revision.
    assert n_writes >= 2 + 2 * len(made.variables)
    assert addresses(store) == ["nmf/k2.r1", address]
    assert equal(load_fresh(store, "nmf"), made)


def test_an_open_result_stays_when_a_later_one_is_saved(store):
    ds = open_map(store)
    save(made_result(ds), store)
    opened = load(store, "nmf/k2")
    save(made_result(ds, value=2), store)
    assert equal(opened, made_result(ds))


SCRIPT = """
import sys
from eds_chunked.store.opening import open_map
from eds_chunked.store.results import save
from tests.failing_store import KilledError, failing_after
from tests.made_maps import made_draft
ds = open_map(sys.argv[1])
left = made_draft(ds)
kept = made_draft(ds, value=3)
save(kept, sys.argv[1])
half = made_draft(ds, run="half")
# No variable holds this one, and it was never opened.
from eds_chunked.store.drafts import Draft
Draft(sys.argv[1], "pca", "main").declare(kept.compute())
print("end", flush=True)
"""


def test_drafts_that_were_not_saved_are_removed_at_exit(store):
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(store)], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "end\n"
    assert done.stderr == ""
    assert addresses(store) == ["nmf/k2.r2"]
    assert sorted(p.name for p in (store / "results").glob("*/*") if p.is_dir()) == ["k2.r2"]
    assert float(load(store, "nmf")[schema.FACTORS][0, 0]) == 3


AT_EXIT = """
import sys
from eds_chunked.store.conversion import convert
from eds_chunked.store.opening import open_map
from tests.made_maps import MadeReader, made_counts, made_draft
places = ["memory://exit/map.zarr", sys.argv[1]]
for place in places:
    convert(MadeReader(made_counts((11, 7, 13))), place)
left = [made_draft(open_map(place)) for place in places]
print("end", flush=True)
"""


def test_drafts_that_cannot_be_removed_at_exit_are_left_in_silence(tmp_path):
    root, store = Path(__file__).parents[1], tmp_path / "local.zarr"
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT, str(store)], cwd=root, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("end\n", "")
    assert not list((store / "results").glob("*/k2*"))


def _claim_some(location, out):
    out.put([Draft(location, schema.NMF, "k2").number for _ in range(20)])


def test_processes_that_save_at_once_get_different_numbers(store):
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    processes = [context.Process(target=_claim_some, args=(str(store), out)) for _ in range(2)]
    for process in processes:
        process.start()
    numbers = [out.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(numbers[0] + numbers[1]) == list(range(1, 41))


# ------------------------------------------------------------------------------------------------------- stale
def made_child(ds, parent, step=schema.PHASES):
    child = made_result(ds)[[schema.FACTORS]]
    return child.assign_attrs({schema.STEP: step, schema.PARENT: parent})


def test_a_result_is_stale_when_its_parent_was_made_again(store):
    ds = open_map(store)
    save(made_result(ds), store)
    save(made_child(ds, "nmf/k2.r1"), store)
    save(made_child(ds, "phases/k2.r1", schema.GRAINS), store)
    assert [why_stale(store, revision) for revision in revisions(store)] == [None] * 3
    assert load_fresh(store, "grains").attrs["parent"] == "phases/k2.r1"
    save(made_result(ds, value=2), store)
    reasons = {revision.address: why_stale(store, revision) for revision in revisions(store)}
    assert reasons["nmf/k2.r1"] is None
    assert reasons["nmf/k2.r2"] is None
    assert reasons["phases/k2.r1"] == "its parent nmf/k2.r1 was made again since"
    assert reasons["grains/k2.r1"] == "its parent phases/k2.r1 is stale: its parent nmf/k2.r1 was made again since"
    with pytest.raises(
        StaleResultError, match=r"result phases/k2.r1 .*made again since.*Fix: eds-chunked phases .* --name k2"
    ):
        load_fresh(store, "phases")
    # It can be looked at all the same, and another run of the parent changes nothing.
    assert load(store, "phases").sizes[schema.COMPONENT] == 2
    save(made_child(ds, "nmf/k2.r2"), store)
    save(made_result(ds, run="k3"), store)
    assert load_fresh(store, "phases").attrs["parent"] == "nmf/k2.r2"


def test_a_result_without_its_parent_is_stale(store):
    ds = open_map(store)
    save(made_child(ds, "nmf/k2.r1"), store)
    assert why_stale(store, newest(store, "phases")) == "its parent nmf/k2.r1 is not in the store"


def test_a_result_is_stale_when_the_map_is_another(store):
    ds = open_map(store)
    save(made_result(ds), store)
    document = store / "map/zarr.json"
    content = json.loads(document.read_text())
    content["attributes"][schema.FINGERPRINT] = "of another state"
    document.write_text(json.dumps(content))
    assert why_stale(store, newest(store, "nmf")) == "the map was converted or calibrated again since"
    with pytest.raises(StaleResultError, match="calibrated again"):
        load_fresh(store, "nmf")


def test_overwriting_the_map_keeps_its_results(store):
    save(made_result(open_map(store)), store)
    convert(MadeReader(COUNTS), store, overwrite=True)
    assert addresses(store) == ["nmf/k2.r1"]
    assert save(made_result(open_map(store)), store) == "nmf/k2.r2"

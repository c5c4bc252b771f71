"""What a user may do to the counts and still have them read tile by tile, and what makes them computed first."""

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from eds_chunked import schema
from eds_chunked.engine import window
from eds_chunked.engine.window import find_window
from eds_chunked.store import conversion
from eds_chunked.store.conversion import convert
from eds_chunked.store.opening import open_map
from eds_chunked.store.source import CountsSource
from tests.made_maps import MadeReader, made_counts

SHAPE = (31, 47, 13)
COUNTS = made_counts(SHAPE)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = tmp_path_factory.mktemp("window") / "map.zarr"
    with pytest.MonkeyPatch.context() as patch:
        for module in (conversion,):
            patch.setattr(module, "tile_shape", lambda n_channels: (8, 8, n_channels))
        convert(MadeReader(COUNTS), store)
    return store


@pytest.fixture
def ds(store, monkeypatch):
    """The map, of which not one count may be read."""
    opened = open_map(store)

    def none(self, key):
        elements = np.prod([len(range(*k.indices(n))) for k, n in zip(key, self.shape, strict=True)])
        return np.zeros((0, 0, 0), self.dtype) if elements == 0 else pytest.fail("find_window read the map")

    monkeypatch.setattr(CountsSource, "__getitem__", none)
    return opened


class CountingArray:
    """Another array than ours, which counts how often it is read."""

    def __init__(self):
        self.reads, self.shape, self.dtype, self.ndim = 0, SHAPE, np.dtype("u1"), 3

    def __getitem__(self, key):
        # dask asks for an array of no elements to learn its type.
        part = COUNTS[key]
        self.reads += bool(part.size)
        return part


def joined(ds, dim, *parts):
    return xr.concat([ds.isel({dim: slice(*part)}) for part in parts], dim)


SELECTIONS = {
    "all": (lambda ds: ds, (0, 0, 0), SHAPE),
    "isel": (lambda ds: ds.isel(y=slice(3, 20)), (3, 0, 0), (20, 47, 13)),
    "isel from the end": (lambda ds: ds.isel(x=slice(-5, None)), (0, 42, 0), SHAPE),
    "isel twice": (lambda ds: ds.isel(y=slice(3, 20)).isel(y=slice(2, 9), energy=slice(1, 4)), (5, 0, 1), (12, 47, 4)),
    "one pixel": (lambda ds: ds.isel(y=slice(4, 5), x=slice(9, 10)), (4, 9, 0), (5, 10, 13)),
    "sel": (lambda ds: ds.sel(y=slice(1, 4), energy=slice(-0.075, 0.011)), (2, 0, 3), (9, 47, 12)),
    "head": (lambda ds: ds.head(y=5), (0, 0, 0), (5, 47, 13)),
    "chunk smaller": (lambda ds: ds.chunk(y=3, x=5), (0, 0, 0), SHAPE),
    "chunk across": (lambda ds: ds.chunk(y=7, x=13), (0, 0, 0), SHAPE),
    "chunk whole": (lambda ds: ds.chunk(y=-1, x=-1), (0, 0, 0), SHAPE),
    "chunk energy": (lambda ds: ds.chunk(energy=5), (0, 0, 0), SHAPE),
    "all of it": (
        lambda ds: ds.isel(y=slice(1, 30)).chunk(y=5, x=47, energy=7).isel(x=slice(2, 9)).chunk(y=-1),
        (1, 2, 0),
        (30, 9, 13),
    ),
    "neighbours joined": (lambda ds: joined(ds, "y", (2, 9), (9, 20)), (2, 0, 0), (20, 47, 13)),
    "channels joined": (lambda ds: joined(ds, "energy", (0, 4), (4, 9), (9, 12)), (0, 0, 0), (31, 47, 12)),
    "blocks joined": (
        lambda ds: xr.concat(
            [joined(ds.isel(y=slice(a, b)), "x", (0, 11), (11, 40)) for a, b in ((0, 5), (5, 30))], "y"
        ),
        (0, 0, 0),
        (30, 40, 13),
    ),
    "attributes": (lambda ds: ds.assign_attrs(note=1).assign_coords(x=ds.x * 2), (0, 0, 0), SHAPE),
    "copied": (lambda ds: ds.copy(deep=True).unify_chunks(), (0, 0, 0), SHAPE),
    "the dtype it has": (lambda ds: ds.astype(np.uint8), (0, 0, 0), SHAPE),
}


@pytest.mark.parametrize(("select", "start", "stop"), SELECTIONS.values(), ids=SELECTIONS)
def test_a_selection_is_a_window_and_reads_nothing(ds, select, start, stop):
    counts = select(ds[[schema.COUNTS]])[schema.COUNTS]
    found = find_window(counts.data)
    assert found is not None
    assert (found.start, found.stop) == (start, stop)
    assert found.shape == counts.shape


OTHERS = {
    "times two": lambda ds: ds * 2,
    "plus itself": lambda ds: ds + ds,
    "where": lambda ds: ds.where(ds[schema.COUNTS] > 3),
    "where of its sum": lambda ds: ds.where(ds[schema.COUNTS].sum("energy") > 3, 0),
    "where a mask in memory": lambda ds: ds.where(xr.DataArray(COUNTS[:, :, 0] > 1, dims=("y", "x")), 0),
    "reversed": lambda ds: ds.isel(y=slice(None, None, -1)),
    "strided": lambda ds: ds.isel(x=slice(None, None, 2)),
    "fancy": lambda ds: ds.isel(y=[1, 2, 3]),
    "a boolean mask": lambda ds: ds.isel(x=np.arange(47) > 4),
    "one row dropped": lambda ds: ds.drop_isel(y=[4]),
    "transposed": lambda ds: ds.transpose("x", "y", "energy"),
    "transposed and renamed": lambda ds: ds.transpose("x", "y", "energy").rename(x="y", y="x"),
    "swapped halves": lambda ds: joined(ds, "y", (9, 20), (0, 9)),
    "an overlap": lambda ds: joined(ds, "y", (0, 9), (8, 20)),
    "a gap": lambda ds: joined(ds, "x", (0, 9), (10, 20)),
    "twice": lambda ds: xr.concat([ds, ds], "energy"),
    "rolled": lambda ds: ds.roll(y=3),
    "shifted": lambda ds: ds.shift(x=1, fill_value=0),
    "padded": lambda ds: ds.pad(y=1, constant_values=0),
    "rebinned": lambda ds: ds.coarsen(y=2, x=2, boundary="trim").sum(),
    "floats": lambda ds: ds.astype(float),
    "clipped": lambda ds: ds.clip(max=3),
    "sorted": lambda ds: ds.sortby("y", ascending=False),
    "mapped": lambda ds: ds.map(lambda v: v.copy(data=v.data.map_blocks(np.sqrt, dtype=float))),
    "doubled in a block": lambda ds: ds.map(
        lambda v: v.copy(data=v.data.map_blocks(lambda b: np.concatenate([b, b], -1)[..., : b.shape[2]], dtype="u1"))
    ),
    "flipped in a block": lambda ds: ds.map(lambda v: v.copy(data=v.data.map_blocks(lambda b: b[::-1], dtype="u1"))),
    "cut in a block": lambda ds: ds.map(lambda v: v.copy(data=v.data.map_blocks(lambda b: b[1:], dtype="u1"))),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_anything_else_is_no_window_and_reads_nothing(ds, change):
    counts = change(ds[[schema.COUNTS]])[schema.COUNTS]
    assert isinstance(counts.data, da.Array)
    assert find_window(counts.data) is None


def test_joining_one_window_with_itself_along_the_last_axis_is_none(ds):
    data = ds[schema.COUNTS].data
    for axis in (-1, 2, None):

        def twice(block, axis=axis):
            return np.concatenate([block, block], axis=axis)

        chunks = (data.chunks[0], data.chunks[1], (26,))
        assert find_window(data.map_blocks(twice, dtype="u1", chunks=chunks, meta=np.zeros((0, 0, 0), "u1"))) is None


@pytest.mark.parametrize("place", [0, 1, 2])
def test_another_library_s_array_is_read_once_at_most(ds, place):
    other = CountingArray()
    parts = [ds[schema.COUNTS].data] * 2
    parts.insert(place, da.from_array(other, chunks=(8, 8, 13), asarray=False))
    assert find_window(da.concatenate(parts)) is None
    assert other.reads <= 1
    other.reads = 0
    assert find_window(ds[schema.COUNTS].data * da.from_array(other, chunks=(8, 8, 13), asarray=False)) is None
    assert other.reads <= 1
    assert find_window(da.from_array(COUNTS)) is None


def test_two_maps_are_not_one_window(ds, store, tmp_path):
    other = open_map(convert(MadeReader(COUNTS), tmp_path / "other.zarr").encoding["source"])
    halves = [ds[schema.COUNTS].data[:9], other[schema.COUNTS].data[9:20]]
    assert find_window(da.concatenate(halves)) is None
    assert find_window(da.concatenate([halves[0], ds[schema.COUNTS].data[9:20]])) is not None


def test_a_progress_bar_of_the_user_does_not_see_it(ds):
    class Seen(dask.callbacks.Callback):
        def _start(self, graph):
            pytest.fail("a computation was started")

    with Seen():
        assert find_window(ds[schema.COUNTS].data) is not None


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_drawn_slices_and_chunks(store, data):
    counts = open_map(store)[schema.COUNTS].data
    expected = [range(n) for n in SHAPE]
    for _ in range(data.draw(st.integers(1, 4))):
        if data.draw(st.booleans()):
            key = []
            for axis in range(3):
                first = data.draw(st.integers(0, len(expected[axis]) - 1))
                last = data.draw(st.integers(first + 1, len(expected[axis])))
                key.append(slice(first, last))
                expected[axis] = expected[axis][first:last]
            counts = counts[tuple(key)]
        else:
            counts = counts.rechunk(tuple(data.draw(ragged(len(e))) for e in expected))
    found = find_window(counts)
    assert found is not None
    assert found.start == tuple(e.start for e in expected)
    assert found.stop == tuple(e.stop for e in expected)


def ragged(length):
    """Chunk lengths that add up to ``length``."""
    cuts = st.sets(st.integers(1, length - 1), max_size=4) if length > 1 else st.just(set())
    return cuts.map(lambda inner: tuple(np.diff([0, *sorted(inner), length]).tolist()))


def test_a_window_can_only_be_cut_and_joined(ds):
    whole = find_window(ds[schema.COUNTS].data)
    assert whole.dtype == np.uint8
    assert whole.ndim == 3
    assert whole[2:5, :, 3:].shape == (3, 47, 10)
    assert window.join([whole[:4], whole[4:9]], 0) == whole[:9]
    for wrong in (
        lambda: np.asarray(whole),
        lambda: np.add(whole, 1),
        lambda: np.sum(whole),
        lambda: whole[0],
        lambda: whole[..., 1],
    ):
        with pytest.raises(window.NotAWindowError):
            wrong()

"""``xr.open_dataset(file, engine="eds_chunked")`` against the arrays that the files were made of, and what it holds."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import eds_chunked as edc
from eds_chunked import xarray_engine
from eds_chunked.errors import SourceError, SourceNotFoundError
from eds_chunked.xarray_engine import EdsChunkedBackend
from tests import bcf_files
from tests.ripple_files import random_counts, write_ripple
from tests.test_bruker_memory import MAKER, made

SHAPE = (23, 17, 61)
MB = 10**6


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return bcf_files.counts(SHAPE, seed=3)


@pytest.fixture(scope="module")
def bcf(truth: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bcf_files.write(tmp_path_factory.mktemp("engine") / "map.bcf", [truth], scale=0.01, offset=-0.1)


def test_the_entry_point_is_known_and_guesses_the_format(bcf: Path, truth: np.ndarray) -> None:
    assert "eds_chunked" in xr.backends.list_engines()
    with xr.open_dataset(bcf) as ds:
        np.testing.assert_array_equal(ds.counts.values, truth)
    with xr.open_dataset(bcf, engine="eds_chunked") as ds:
        assert ds.counts.dims == ("y", "x", "energy")
        assert ds.energy.attrs["units"] == "keV"
        np.testing.assert_allclose(ds.energy.values, -0.1 + 0.01 * np.arange(SHAPE[2]))
        assert hasattr(ds, "eds")


def test_a_ripple_pair(tmp_path: Path) -> None:
    counts = random_counts((7, 11, 31))
    with xr.open_dataset(write_ripple(tmp_path / "map.rpl", counts), engine="eds_chunked") as ds:
        np.testing.assert_array_equal(ds.counts.isel(y=slice(2, 5)).values, counts[2:5])


@st.composite
def keys(draw: st.DrawFn) -> tuple:
    def axis(n: int) -> st.SearchStrategy:
        # xarray itself fails on an empty slice of negative step.
        some = st.slices(n).filter(lambda part: len(range(*part.indices(n))) > 0)
        return st.one_of(some, st.integers(-n, n - 1), st.lists(st.integers(-n, n - 1), min_size=1, max_size=4))

    return tuple(draw(axis(n)) for n in SHAPE)


@settings(max_examples=40, deadline=None)
@given(key=keys())
def test_any_selection_is_that_of_the_array(bcf: Path, truth: np.ndarray, key: tuple) -> None:
    with xr.open_dataset(bcf, engine="eds_chunked") as ds:
        found = ds.counts.isel(y=key[0], x=key[1], energy=key[2]).values
    wanted = truth
    for axis in (2, 1, 0):
        wanted = wanted[(slice(None),) * axis + (key[axis],)]
    np.testing.assert_array_equal(found, wanted)


def test_an_empty_selection_reads_nothing(bcf: Path) -> None:
    with xr.open_dataset(bcf, engine="eds_chunked") as ds:
        assert ds.counts.isel(y=slice(5, 5)).values.shape == (0, *SHAPE[1:])


def test_opening_and_selecting_reads_no_rows(bcf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    from eds_chunked.readers.bruker import BrukerReader

    real = BrukerReader.bands
    monkeypatch.setattr(BrukerReader, "bands", lambda self, rows, box: asked.append(box) or real(self, rows, box))
    with xr.open_dataset(bcf, engine="eds_chunked") as ds:
        part = ds.counts.isel(y=slice(4, 9), energy=slice(10, 20))
        assert asked == []
        part.load()
    assert [(box.ys, box.xs, box.channels) for box in asked] == [(slice(4, 9), slice(0, 17), slice(10, 20))]


def test_lazy_with_dask_and_in_other_processes(bcf: Path, truth: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xarray_engine, "_CHUNK_BYTES", 5 * SHAPE[1] * SHAPE[2] * truth.itemsize)
    with xr.open_dataset(bcf, engine="eds_chunked", chunks={}) as ds:
        assert len(ds.chunksizes["y"]) == 5
        assert int(ds.counts.sum()) == truth.sum(dtype=np.int64)
        sent = pickle.loads(pickle.dumps(ds))
    np.testing.assert_array_equal(sent.counts.values, truth)


def test_the_steps_take_such_a_map(bcf: Path, truth: np.ndarray) -> None:
    with xr.open_dataset(bcf, engine="eds_chunked", chunks={}) as ds:
        found = edc.pca(ds, n_components=2)
    x = truth.reshape(-1, SHAPE[2]).astype(float)
    a, b = (np.where(sums > 0, sums, 1) for sums in (x.sum(1), x.sum(0)))
    singular = np.linalg.svd(x / np.sqrt(np.outer(a, b)), compute_uv=False)
    np.testing.assert_allclose(found.explained_variance.values, singular[:2] ** 2 / len(x), rtol=1e-9)


def test_one_map_of_several_and_variables_left_out(tmp_path: Path, truth: np.ndarray) -> None:
    second = truth[::-1]
    path = bcf_files.write(tmp_path / "two.bcf", [truth, second])
    with xr.open_dataset(path, engine="eds_chunked", pick=2) as ds:
        np.testing.assert_array_equal(ds.counts.values, second)
    with xr.open_dataset(path, engine="eds_chunked", pick=1, drop_variables="counts") as ds:
        assert "counts" not in ds


def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="no such file"):
        xr.open_dataset(tmp_path / "none.bcf", engine="eds_chunked")
    edc.convert(edc.synthetic.rock((13, 11, 61), energy_scale=0.3), tmp_path / "map.zarr")
    with pytest.raises(SourceError, match=r"found a Zarr store.*Fix: eds_chunked.open"):
        xr.open_dataset(tmp_path / "map.zarr", engine="eds_chunked")


@pytest.mark.parametrize(
    ("name", "can"), [("a.bcf", True), ("A.RPL", True), ("a.zarr", False), ("a.nc", False), ("a.raw", False)]
)
def test_guesses(name: str, can: bool) -> None:
    assert EdsChunkedBackend().guess_can_open(name) is can
    assert EdsChunkedBackend().guess_can_open(object()) is False


TEN_ROWS = """
import json, sys
import xarray as xr
from eds_chunked import memory
ds = xr.open_dataset(sys.argv[1], engine="eds_chunked")
total = int(ds.counts.isel(y=slice(0, 10)).sum())
print(json.dumps([memory.peak_resident(), total, ds.counts.nbytes]))
"""


def sum_of_ten_rows(path: Path) -> tuple[int, int, int]:
    command = [sys.executable, "-W", "ignore", "-c", TEN_ROWS, os.fspath(path)]
    peak, total, dense = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return peak, total, dense


def test_ten_rows_take_the_memory_of_ten_rows(tmp_path: Path) -> None:
    # As .rpl, which is made in a moment: 1.2 GB dense, in a file that is mostly a hole.
    shape = (509, 1153, 2048)
    first = np.arange(10 * shape[1] * shape[2], dtype=np.uint32).astype(np.uint8).reshape(10, *shape[1:]) % 5
    path = write_ripple(tmp_path / "large.rpl", first, keys={"height": shape[0]})
    os.truncate(path.with_suffix(".raw"), np.prod(shape))
    peak, total, dense = sum_of_ten_rows(path)
    assert dense == np.prod(shape)
    assert total == first.sum(dtype=np.int64)
    assert peak < 500 * MB


@pytest.mark.long
@pytest.mark.skipif(not MAKER.exists(), reason="the writer of made .bcf files is not there")
def test_ten_rows_of_the_full_size_bcf(tmp_path: Path) -> None:
    path, _ = made(tmp_path, 1295, 1820, 400)
    peak, total, _ = sum_of_ten_rows(path)
    assert total > 0
    assert peak < 500 * MB

"""Chunks, workers and the place of the counts never change a bit of an answer."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eds_chunked import memory, schema
from eds_chunked.decomposition.nonnegative import nmf
from eds_chunked.decomposition.principal import pca
from eds_chunked.phases.segment import segment_phases
from eds_chunked.phases.sums import phase_spectra
from eds_chunked.store.conversion import convert
from tests.decomposition_maps import ArrayReader, as_map, assert_same_bits, made_counts, ragged_chunks, with_dead

STEPS = {
    "pca": lambda ds: pca(ds, n_components=3),
    "unscaled pca": lambda ds: pca(ds, n_components=3, noise=None),
    "centred pca": lambda ds: pca(ds, n_components=3, centre=True),
    "randomized pca": lambda ds: pca(ds, n_components=3, solver="randomized"),
    "incremental pca": lambda ds: pca(ds, n_components=3, solver="incremental"),
    "nmf": lambda ds: nmf(ds, n_components=3),
    "nmf of a sample": lambda ds: nmf(ds, n_components=3, fit_pixels=500, max_epochs=1),
}
SMALL = with_dead(made_counts((31, 47, 61)))
# Two lanes of several tiles, none of them whole but one.
WIDE = made_counts((67, 269, 31), dose=9)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return convert(ArrayReader(WIDE), tmp_path_factory.mktemp("chunks") / "wide.zarr")


@pytest.fixture(scope="module")
def wide_answers():
    ds = as_map(WIDE)
    return {name: step(ds).load() for name, step in STEPS.items()}


def phases_of(ds):
    return segment_phases(nmf(ds, n_components=3), min_size=5)


@pytest.mark.parametrize("step", STEPS)
def test_ragged_chunks_give_the_same_bits(step):
    expected = STEPS[step](as_map(SMALL))

    @settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ragged_chunks(SMALL.shape))
    def check(chunks):
        assert_same_bits(STEPS[step](as_map(SMALL, chunks=chunks)), expected)

    check()


@pytest.mark.parametrize("source", ["label", "mask"])
def test_ragged_chunks_give_the_same_phase_spectra(source):
    phases = phases_of(as_map(SMALL))
    expected = phase_spectra(as_map(SMALL), phases=phases, source=source)

    @settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ragged_chunks(SMALL.shape))
    def check(chunks):
        ds = as_map(SMALL, chunks=chunks)
        assert_same_bits(phase_spectra(ds, phases=phases, source=source), expected)

    check()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("chunks", [None, {"y": 13, "x": (5, 250, 14)}, {"energy": 7, "x": 31}])
def test_stored_map_gives_the_bits_of_the_array(step, chunks, store, wide_answers):
    ds = store if chunks is None else store.chunk(chunks)
    found, expected = STEPS[step](ds), wide_answers[step]
    for name in expected.data_vars:
        np.testing.assert_array_equal(found[name].values, expected[name].values, err_msg=name)


def test_stored_map_gives_the_phase_spectra_of_the_array(store):
    phases = phases_of(as_map(WIDE)).assign_attrs({schema.FINGERPRINT: store.attrs[schema.FINGERPRINT]})
    phases = phases.assign_coords(y=store[schema.Y], x=store[schema.X])
    expected = phase_spectra(store, phases=phases)
    found = phase_spectra(store.chunk({"x": 100, "energy": 11}), phases=phases)
    assert_same_bits(found, expected)
    for number in (1, 2, 3):
        own = WIDE[phases[schema.LABEL].values == number].sum(axis=0, dtype=np.uint64)
        np.testing.assert_array_equal(found[schema.SPECTRUM].sel(phase=number), own)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_number_of_workers_does_not_matter(step, workers, store, wide_answers, monkeypatch):
    monkeypatch.setattr(memory, "n_cpus", lambda: workers)
    assert memory.plan(memory.Need("test", 0, 1)).workers == workers
    found, expected = STEPS[step](store), wide_answers[step]
    for name in expected.data_vars:
        np.testing.assert_array_equal(found[name].values, expected[name].values, err_msg=name)


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(top=st.integers(0, 30), left=st.integers(0, 90))
def test_window_of_a_stored_map_is_that_of_the_array(top, left, store):
    # Tiles of the store lie otherwise in the window than those of the array, so sums are rounded otherwise.
    window = {"y": slice(top, 61), "x": slice(left, 201), "energy": slice(2, 29)}
    found, expected = (pca(ds.isel(window), n_components=2) for ds in (store, as_map(WIDE)))
    for name in (schema.EXPLAINED_VARIANCE, schema.EIGENVALUES, schema.NOISE_RATIO):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-11)
    np.testing.assert_allclose(found[schema.FACTORS], expected[schema.FACTORS], atol=1e-9)
    np.testing.assert_allclose(found[schema.LOADINGS], expected[schema.LOADINGS], rtol=1e-5, atol=1e-4)

"""Every step of the workflow on a small map in a store, to be run on threads, on clusters, and under faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from eds_chunked import schema, workflow
from eds_chunked.kernels.sparse import to_dense
from eds_chunked.store import conversion
from eds_chunked.store.opening import open_map
from eds_chunked.store.results import load
from eds_chunked.synthetic import rock
from tests.ripple_files import write_ripple

SHAPE = (83, 107, 131)

STEPS: dict[str, Callable[[Path], str]] = {
    "pca": lambda store: workflow.pca_step(store, n_components=5),
    "pca incremental": lambda store: workflow.pca_step(store, n_components=3, solver="incremental", name="incremental"),
    "nmf": lambda store: workflow.nmf_step(store, n_components=3, max_epochs=5),
    "nmf blockwise": lambda store: workflow.nmf_step(
        store, n_components=3, solver="blockwise", max_epochs=5, early_stop=False, name="blockwise"
    ),
    "cluster": lambda store: workflow.cluster_step(store, n_clusters=3, name="clusters"),
    "phases": lambda store: workflow.phases_step(store, parent="nmf/k3", min_size=9),
    "spectra": lambda store: workflow.spectra_step(store, parent="phases/k3"),
    "residual": lambda store: workflow.model_step(store, parent="nmf/k3"),
    "grains": lambda store: workflow.grains_step(store, parent="phases/k3", min_size=5),
    "grain spectra": lambda store: workflow.spectra_step(store, of_grains=True),
}


def make_source(folder: Path) -> Path:
    """Write the map as a Lispix file."""
    made = rock(SHAPE, counts_per_pixel=40, n_phases=3, grain_size=17, energy_scale=0.1, seed=5)
    counts = np.concatenate([to_dense(band.counts).reshape(band.rows, *SHAPE[1:]) for band in made.bands(32)])
    return write_ripple(folder / "map.rpl", counts, keys={"ev-per-chan": 100})


def prepare(store: Path, source: Path) -> dict[str, xr.Dataset]:
    """Convert in tiles of 16 x 16 pixels (a few lanes), run every step on threads, and return the answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "tile_shape", lambda n_channels: (16, 16, n_channels))
        conversion.convert(source, store)
    return {name: load(store, step(store)).load() for name, step in STEPS.items()}


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    """Integers are equal, floats to 1e-9 of the largest."""
    assert set(found.variables) == set(expected.variables)
    for name in expected.variables:
        one, other = found[name].values, expected[name].values
        if other.dtype.kind == "f":
            scale = np.nanmax(np.abs(other), initial=1e-300)
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-9 * scale, err_msg=str(name))
        else:
            np.testing.assert_array_equal(one, other, err_msg=str(name))


def assert_same_map(store: Path, other: Path) -> None:
    one, two = open_map(store), open_map(other)
    for name in (schema.COUNTS, schema.SUM_SPECTRUM, schema.MAX_SPECTRUM, schema.MAX_SPECTRUM_PIXEL):
        np.testing.assert_array_equal(one[name].values, two[name].values)

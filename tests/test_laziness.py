"""Lazy means zero computes: a scheduler that refuses to run stands in for dask's."""

import warnings
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr

import eds_chunked as edc

SHAPE = (31, 47, 61)


def refuse(*args: object, **kwargs: object) -> None:
    raise AssertionError("something was computed")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("lazy") / "map.zarr")
    rock = edc.synthetic.rock(SHAPE, counts_per_pixel=80, n_phases=3, grain_size=9, energy_scale=0.3)
    ds = edc.convert(rock, path)
    edc.save(edc.nmf(ds.eds.window(0.2, 20), n_components=3), path)
    return path


def test_open_and_select_compute_nothing(store: str) -> None:
    with dask.config.set(scheduler=refuse):
        ds = edc.open(store).sel(energy=slice(0.2, 12)).isel(x=slice(3, 40)).chunk(y=7)
        assert ds.sizes["x"] == 37
        part = ds.eds.exclude(energy=[(1, 2)], min_counts=3).eds.rebin(y=2, x=2)
        assert part["counts"].chunks is not None
        assert part["analysed_pixel"].chunks is not None
        assert xr.open_zarr(store, group="map", consolidated=False).sizes["energy"] == SHAPE[2]
        edc.open_tree(store)


def test_load_computes_nothing(store: str) -> None:
    with dask.config.set(scheduler=refuse):
        nmf = edc.load(store, "nmf/k3")
        assert nmf["loadings"].chunks is not None


def test_reconstruct_computes_nothing(store: str) -> None:
    nmf = edc.load(store, "nmf")
    # The factors are a few spectra: they may be read, the loadings and the model may not.
    nmf["factors"] = nmf["factors"].compute()
    with dask.config.set(scheduler=refuse):
        model = edc.reconstruct(nmf).isel(y=slice(2, 9)).sel(energy=slice(1, 3))
    expected = np.einsum("kyx,ke->yxe", nmf["loadings"].values, nmf["factors"].values)
    whole = xr.DataArray(expected, dims=("y", "x", "energy"), coords={"energy": nmf["energy"]})
    np.testing.assert_allclose(model.values, whole.isel(y=slice(2, 9)).sel(energy=slice(1, 3)), rtol=1e-4, atol=1e-6)


def test_a_step_returns_maps_that_are_lazy(store: str) -> None:
    pca = edc.pca(edc.open(store), n_components=2)
    assert pca["loadings"].chunks is not None


def test_interchange_computes_no_counts(store: str, tmp_path: Path) -> None:
    ds = edc.open(store).eds.window(0.2, 20)
    path = edc.write_learning_results(edc.load(store, "nmf"), tmp_path / "k3.npz")
    with dask.config.set(scheduler=refuse), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Importing .* is deprecated")  # of eXSpy's own imports
        signal = edc.to_hyperspy(ds, results=edc.load(store, "nmf"))
        assert edc.from_hyperspy(signal)["counts"].chunks is not None
        assert edc.read_learning_results(ds, path)["loadings"].chunks is not None
    np.testing.assert_array_equal(edc.read_learning_results(ds, path)["loadings"], edc.load(store, "nmf")["loadings"])


LAZY = {"open", "open_tree", "load", "read_log", "reconstruct", "exclude", "rebin"}
LAZY |= {"to_hyperspy", "from_hyperspy", "read_learning_results", "mean_spectra"}
COMPUTES = {
    "write_learning_results",
    *("run", "plan", "convert", "calibrate", "clean", "save", "export", "verify", "write_report", "write_results"),
    *("decompose", "residual", "pca", "nmf", "advise_components", "segment_phases", "modal_table", "phase_spectra"),
    *("association", "merge_phases", "grain_spectra", "write_spectra"),
    *("component_stability", "cluster", "identify_elements"),
    *("separate_grains", "grain_table", "grain_size_statistics", "compare_phases", "write_grain_files"),
    *("saltykov", "two_step_stereology", "explore", "explore_components"),
}


def test_every_function_is_known_to_be_lazy_or_to_compute() -> None:
    """A new public function has to be put into one of the two lists, and into the tests above if it is lazy."""
    classes = {name for name in edc.__all__ if isinstance(getattr(edc, name), type)}
    assert set(edc.__all__) - classes - {"synthetic", "figures"} == LAZY | COMPUTES


def test_the_environment_is_left_as_it_was(store: str, tmp_path: Path) -> None:
    before = dict(dask.config.config)
    edc.pca(edc.open(store), n_components=2)
    assert dask.config.config == before

"""to_hyperspy: HyperSpy finds what the Dataset has, plots it, and no count was read on the way."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import eds_chunked as edc
from eds_chunked import schema
from eds_chunked.errors import ChunkLayoutError, ParameterError
from tests.decomposition_maps import as_map, made_counts
from tests.hyperspy_api import exspy, hs
from tests.made_maps import MadeReader
from tests.real_data import real_data

Array = np.ndarray[Any, Any]

SHAPE = (7, 11, 61)
COUNTS = made_counts(SHAPE, dose=200)


def refuse(*args: object, **kwargs: object) -> None:
    raise AssertionError("something was computed")


class Untouchable:
    """Counts that nobody may read."""

    shape, dtype, ndim = SHAPE, np.dtype(np.uint16), 3

    def __getitem__(self, key: object) -> None:
        raise AssertionError("counts were read")


def untouchable() -> da.Array:
    return da.from_array(Untouchable(), chunks=(4, 5, 61), asarray=False, meta=np.empty((0, 0, 0), np.uint16))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("signals") / "map.zarr")
    edc.convert(MadeReader(COUNTS, live_time=12.5, real_time=15.0), path)
    edc.calibrate(path, beam_energy=15, elements=["Si", "Al"], signal_type="TEM", title="dacite")
    return path


@pytest.fixture(scope="module")
def nmf(store: str) -> xr.Dataset:
    return edc.nmf(edc.open(store), n_components=3)


@pytest.fixture
def no_window() -> Iterator[None]:
    before = matplotlib.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(before)


# ---------------------------------------------------------------------------------------------------- a map
def test_a_map_is_lazy_with_its_axes_and_metadata(store: str) -> None:
    ds = edc.open(store).isel(y=slice(2, 7), energy=slice(10, 50))
    with dask.config.set(scheduler=refuse):
        signal = edc.to_hyperspy(ds)
        assert type(signal) is exspy.signals.LazyEDSTEMSpectrum
        assert isinstance(signal.data, da.Array)
    np.testing.assert_array_equal(signal.data.compute(), COUNTS[2:, :, 10:50])
    assert signal.axes_manager.navigation_shape == (11, 5)  # x first, as HyperSpy has it
    for axis, name, units in zip(signal.axes_manager._axes, ("y", "x", "energy"), ("µm", "µm", "keV"), strict=True):
        assert axis.name.lower() == name
        assert axis.units == units
        assert axis.navigate == (name != "energy")
        np.testing.assert_allclose(axis.axis, ds[name], rtol=0, atol=1e-12)
    found = signal.metadata
    assert (found.General.title, found.Signal.signal_type) == ("dacite", "EDS_TEM")
    assert list(found.Sample.elements) == ["Al", "Si"]
    instrument = found.Acquisition_instrument.TEM
    assert (instrument.beam_energy, instrument.Detector.EDS.live_time, instrument.Detector.EDS.real_time) == (
        15,
        12.5,
        15,
    )
    assert signal.original_metadata.eds_chunked.history[1]["what"] == "calibrate"
    # HyperSpy's and eXSpy's own work on it
    np.testing.assert_array_equal(signal.sum().data, COUNTS[2:, :, 10:50].sum(axis=(0, 1)))
    np.testing.assert_array_equal(signal.inav[3, 1].data.compute(), COUNTS[3, 3, 10:50])
    np.testing.assert_array_equal(signal.isig[5:9].data.compute(), COUNTS[2:, :, 15:19])


def test_a_map_in_memory_is_plain_and_shared() -> None:
    counts = COUNTS.copy()
    signal = edc.to_hyperspy(as_map(counts))
    assert type(signal) is exspy.signals.EDSSEMSpectrum
    assert np.shares_memory(signal.data, counts)


def test_a_map_without_coordinates_or_with_odd_ones(store: str) -> None:
    plain = as_map(COUNTS).drop_vars(["y", "x", "energy"])
    axes = edc.to_hyperspy(plain).axes_manager._axes
    assert [str(axis.units) for axis in axes] == ["<undefined>"] * 3
    assert [(axis.offset, axis.scale) for axis in axes] == [(0, 1)] * 3
    chosen = edc.open(store).isel(y=[0, 1, 5])
    axis = edc.to_hyperspy(chosen).axes_manager._axes[0]
    assert not axis.is_uniform
    np.testing.assert_allclose(axis.axis, chosen["y"])
    one = edc.open(store).isel(y=[3], x=[4])
    signal = edc.to_hyperspy(one)
    assert [axis.scale for axis in signal.axes_manager._axes[:2]] == [0.5, 0.25]


@pytest.mark.parametrize("name", ["P45_the_default_job.bcf", "88_ES-LP_G8_selection2_cropped2.hspy"])
def test_a_real_map_is_as_hyperspy_reads_its_source(tmp_path: Path, name: str) -> None:
    source = real_data(name)
    ours = edc.to_hyperspy(edc.convert(source, tmp_path / "map.zarr"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Loading old file version", category=UserWarning)
        theirs = hs.load(source)
    if isinstance(theirs, list):
        (theirs,) = [signal for signal in theirs if "EDS" in type(signal).__name__]
    assert type(ours).__name__ == f"Lazy{type(theirs).__name__}"
    np.testing.assert_array_equal(ours.data.compute(), theirs.data)
    for mine, other in zip(ours.axes_manager._axes, theirs.axes_manager._axes, strict=True):
        assert (mine.size, mine.units, mine.navigate) == (other.size, other.units, other.navigate)
        np.testing.assert_allclose(mine.axis, other.axis, rtol=1e-9, atol=1e-12)
    kind = "SEM" if "SEM" in type(theirs).__name__ else "TEM"
    for place in ("beam_energy", "Detector.EDS.elevation_angle", "Detector.EDS.azimuth_angle"):
        mine, other = (s.metadata.get_item(f"Acquisition_instrument.{kind}.{place}") for s in (ours, theirs))
        assert mine == pytest.approx(other)
    elements = [list(signal.metadata.get_item("Sample.elements", [])) for signal in (ours, theirs)]
    assert elements[0] == elements[1]


# ------------------------------------------------------------------------------------------------ its results
def test_results_are_learning_results(store: str, nmf: xr.Dataset, no_window: None) -> None:
    ds = edc.open(store)
    counts = untouchable()
    with dask.config.set(scheduler=refuse):
        signal = edc.to_hyperspy(ds.assign(counts=(ds.counts.dims, counts)), results=nmf)
    found = signal.learning_results
    assert found.loadings.shape == (77, 3)
    assert isinstance(found.loadings, np.memmap)
    np.testing.assert_array_equal(signal.get_decomposition_loadings().data, nmf[schema.LOADINGS])
    np.testing.assert_array_equal(signal.get_decomposition_factors().data, nmf[schema.FACTORS])
    assert type(signal.get_decomposition_factors()).__name__.endswith("EDSTEMSpectrum")
    np.testing.assert_allclose(
        signal.get_decomposition_model().data.compute(), edc.reconstruct(nmf).values, rtol=1e-4, atol=1e-7
    )
    assert (found.decomposition_algorithm, found.output_dimension) == ("NMF", 3)
    signal.plot_decomposition_results()
    signal.plot_decomposition_loadings()
    signal.plot_decomposition_factors()
    assert len(plt.get_fignums()) >= 4


def test_a_pca_plots_its_variance_and_is_separated_further(store: str, no_window: None) -> None:
    ds = edc.open(store).sel(energy=slice(0.0, 0.4))
    pca = edc.pca(ds, n_components=4)
    signal = edc.to_hyperspy(ds, results=pca)
    scree = signal.plot_scree_plot()
    drawn = np.concatenate([np.atleast_1d(line.get_ydata()) for line in scree.lines if len(line.get_ydata()) > 2])
    np.testing.assert_allclose(drawn[:4], pca[schema.EXPLAINED_VARIANCE_RATIO])
    signal.plot_decomposition_results()
    signal.blind_source_separation(number_of_components=2, algorithm="orthomax", print_info=False)
    assert signal.get_bss_loadings().data.shape == (2, 7, 11)


def test_results_in_memory_are_shared(nmf: xr.Dataset) -> None:
    loaded = nmf.compute()
    signal = edc.to_hyperspy(as_map(COUNTS).assign_coords(nmf.coords), results=loaded)
    assert np.shares_memory(signal.learning_results.loadings, loaded[schema.LOADINGS].values)
    np.testing.assert_array_equal(signal.get_decomposition_loadings().data, loaded[schema.LOADINGS])


def test_what_was_left_out_follows_hyperspys_convention() -> None:
    mask = np.zeros(SHAPE[:2], np.bool_)
    mask[2, 3:9] = mask[6, 0] = True
    ds = edc.exclude(as_map(COUNTS), pixels=mask, energy=[(0.3, 0.4)])
    channels = ~ds[schema.ANALYSED_CHANNEL].values
    pca = edc.pca(ds, n_components=3)
    found = edc.to_hyperspy(ds, results=pca).learning_results
    theirs = exspy.signals.EDSSEMSpectrum(COUNTS.astype(np.float64))
    theirs.decomposition(
        True,
        output_dimension=3,
        print_info=False,
        svd_solver="full",
        navigation_mask=hs.signals.BaseSignal(mask).T,
        signal_mask=channels,
    )
    expected = theirs.learning_results
    np.testing.assert_array_equal(found.navigation_mask.ravel(), expected.navigation_mask.ravel())
    np.testing.assert_array_equal(found.signal_mask, expected.signal_mask)
    np.testing.assert_allclose(found.explained_variance, expected.explained_variance, rtol=1e-5)
    signs = np.sign(np.nansum(found.factors * expected.factors, axis=0))
    for mine, other, rtol in ((found.factors, expected.factors, 1e-6), (found.loadings, expected.loadings, 1e-4)):
        np.testing.assert_array_equal(np.isnan(mine), np.isnan(other))
        # A component of HyperSpy has its own length: loadings and factors share it in another way.
        lengths = np.sqrt(np.nansum(mine**2, axis=0) / np.nansum(other**2, axis=0))
        np.testing.assert_allclose(mine, other * signs * lengths, rtol=rtol, atol=rtol * np.nanmax(np.abs(mine)))


def test_a_signal_with_results_is_saved_by_hyperspy(store: str, nmf: xr.Dataset, tmp_path: Path) -> None:
    signal = edc.to_hyperspy(edc.open(store), results=nmf)
    signal.save(tmp_path / "map.hspy", show_progressbar=False)
    back = hs.load(tmp_path / "map.hspy")
    np.testing.assert_array_equal(back.data, COUNTS)
    np.testing.assert_array_equal(back.get_decomposition_loadings().data, nmf[schema.LOADINGS])


# --------------------------------------------------------------------------------- spectra, loadings, masks
def test_spectra_loadings_masks_and_models(store: str, nmf: xr.Dataset) -> None:
    ds = edc.open(store)
    phases = edc.segment_phases(nmf, min_size=1)
    spectra = edc.phase_spectra(ds, phases=phases)
    with dask.config.set(scheduler=refuse):
        loadings = edc.to_hyperspy(nmf, variable="loadings")
        model = edc.to_hyperspy(edc.reconstruct(nmf).to_dataset().assign_attrs(nmf.attrs), variable="model")
        summed = edc.to_hyperspy(spectra)
        factors = edc.to_hyperspy(nmf, variable="factors")
        mask = edc.to_hyperspy(phases, variable="mask")
        label = edc.to_hyperspy(phases, variable="label")
        total = edc.to_hyperspy(ds, variable="sum_spectrum")

    assert type(loadings).__name__ == "LazySignal2D"
    assert loadings.axes_manager.navigation_shape == (3,)
    np.testing.assert_array_equal(loadings.inav[1].data.compute(), nmf[schema.LOADINGS][1])
    assert loadings.axes_manager.signal_axes[0].units == "µm"
    assert "dacite" in loadings.metadata.General.title

    assert type(summed).__name__ == type(factors).__name__ == "EDSTEMSpectrum"
    np.testing.assert_array_equal(summed.data, spectra[schema.SPECTRUM])
    assert [axis.name for axis in summed.axes_manager._axes] == ["phase", "Energy"]
    assert list(summed.axes_manager["phase"].axis) == [1, 2, 3]
    assert summed.original_metadata.eds_chunked.n_pixels == spectra[schema.N_PIXELS].values.tolist()
    assert summed.metadata.get_item("Acquisition_instrument.TEM.Detector.EDS.live_time") is None
    np.testing.assert_allclose(summed.axes_manager["Energy"].axis, ds["energy"], atol=1e-12)

    np.testing.assert_array_equal(factors.data, nmf[schema.FACTORS])
    np.testing.assert_array_equal(total.data, COUNTS.sum(axis=(0, 1)))
    assert type(model).__name__ == "LazyEDSTEMSpectrum"
    np.testing.assert_allclose(model.inav[4, 2].data.compute(), edc.reconstruct(nmf)[2, 4], rtol=1e-5)

    # A mask that HyperSpy can take: transposed, as HyperSpy has it.
    assert mask.data.dtype == bool
    np.testing.assert_array_equal(label.data, phases[schema.LABEL])
    whole = exspy.signals.EDSSEMSpectrum(COUNTS.astype(np.float64))
    left_out = ~phases[schema.MASK].values[0]
    whole.decomposition(
        output_dimension=2,
        print_info=False,
        navigation_mask=edc.to_hyperspy(~phases[["mask"]], variable="mask").inav[0].T,
    )
    np.testing.assert_array_equal(whole.learning_results.navigation_mask.reshape(SHAPE[:2]), left_out)


def test_what_is_no_spectrum_and_no_image_is_refused(store: str, nmf: xr.Dataset) -> None:
    ds = edc.open(store)
    with pytest.raises(ParameterError, match=r"none given, expected one of .*factors, loadings.*variable='"):
        edc.to_hyperspy(nmf)
    with pytest.raises(ParameterError, match=r"'mask', expected one of .*counts"):
        edc.to_hyperspy(ds, variable="mask")
    with pytest.raises(ParameterError, match=r"last dimension is energy, or the last two are y and x"):
        edc.to_hyperspy(ds, variable="max_spectrum_pixel")
    with pytest.raises(ChunkLayoutError, match=r"'counts'.*ds\.transpose"):
        edc.to_hyperspy(ds.transpose("energy", "y", "x", ...))
    with pytest.raises(ParameterError, match="results beside the map"):
        edc.to_hyperspy(ds, variable="total_counts", results=nmf)
    with pytest.raises(ChunkLayoutError, match="along energy"):
        edc.to_hyperspy(ds.isel(energy=slice(3, 40)), results=nmf)
    with pytest.raises(ChunkLayoutError, match="along x"):
        edc.to_hyperspy(ds.isel(x=slice(1, None)), results=nmf)
    with pytest.raises(ChunkLayoutError, match="'factors'"):
        edc.to_hyperspy(ds, results=ds)
    with pytest.raises(ChunkLayoutError, match="an xarray Dataset"):
        edc.to_hyperspy(ds["counts"])

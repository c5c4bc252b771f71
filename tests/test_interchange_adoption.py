"""from_hyperspy and DatasetReader: a signal is a map like any other, and goes into a store."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import eds_chunked as edc
from eds_chunked import schema
from eds_chunked.errors import ChunkLayoutError, CountsError, MemoryBudgetError, ParameterError, SourceError
from tests.decomposition_maps import as_map, made_counts
from tests.hyperspy_api import exspy, hs
from tests.made_maps import MadeReader
from tests.real_data import real_data

Array = np.ndarray[Any, Any]

SHAPE = (13, 17, 61)
COUNTS = made_counts(SHAPE, dose=200)


def refuse(*args: object, **kwargs: object) -> None:
    raise AssertionError("something was computed")


def made_signal(kind: Any = None, *, lazy: bool = False, dtype: Any = np.uint16) -> Any:
    """The counts as a signal, with axes that do not begin at 0."""
    signal = (kind or exspy.signals.EDSSEMSpectrum)(COUNTS.astype(dtype))
    y, x, energy = signal.axes_manager._axes
    for axis, name, scale, offset, units in (
        (y, "y", 0.5, 3.0, "µm"),
        (x, "x", 250.0, -750.0, "nm"),
        (energy, "Energy", 20.0, -100.0, "eV"),
    ):
        axis.name, axis.scale, axis.offset, axis.units = name, scale, offset, units
    signal.metadata.General.title = "dacite"
    return signal.as_lazy(chunks=(4, 5, 61)) if lazy else signal


@pytest.mark.parametrize("lazy", [False, True])
def test_a_signal_is_a_map(lazy: bool) -> None:
    signal = made_signal(lazy=lazy)
    signal.set_microscope_parameters(beam_energy=15.0, live_time=12.5)
    signal.add_elements(["Si", "Al"])
    with dask.config.set(scheduler=refuse):
        ds = edc.from_hyperspy(signal)
        assert (ds[schema.COUNTS].chunks is not None) == lazy
    np.testing.assert_array_equal(ds[schema.COUNTS], COUNTS)
    assert ds[schema.COUNTS].dims == ("y", "x", "energy")
    np.testing.assert_allclose(ds["y"], 3 + 0.5 * np.arange(13), rtol=1e-12)
    np.testing.assert_allclose(ds["x"], -0.75 + 0.25 * np.arange(17), rtol=1e-12)
    np.testing.assert_allclose(ds["energy"], -0.1 + 0.02 * np.arange(61), rtol=1e-12, atol=1e-15)
    assert [ds[axis].attrs["units"] for axis in ("y", "x", "energy")] == ["um", "um", "keV"]
    expected = {"title": "dacite", "signal_type": "EDS_SEM", "beam_energy_kev": 15.0, "elements": ["Al", "Si"]}
    assert {name: ds.attrs[name] for name in expected} == expected
    assert (ds.attrs["live_time_s"], ds.attrs["pixel_size"]) == (12.5, [0.5, 0.25])
    assert ds.attrs[schema.HISTORY][0]["what"] == "from_hyperspy"
    assert "_HyperSpy" not in ds.attrs[schema.SOURCE_METADATA]
    if not lazy:
        assert np.shares_memory(ds[schema.COUNTS].values, signal.data)


def test_other_kinds_of_signals() -> None:
    ds = edc.from_hyperspy(made_signal(exspy.signals.EDSTEMSpectrum, lazy=True))
    assert ds.attrs["signal_type"] == "EDS_TEM"
    plain = hs.signals.Signal1D(COUNTS)
    ds = edc.from_hyperspy(plain)
    assert [ds[axis].attrs["units"] for axis in ("y", "x", "energy")] == ["pixel", "pixel", "channel"]
    np.testing.assert_array_equal(ds["energy"], np.arange(61))
    plain.axes_manager[0].scale, plain.axes_manager[0].offset = 2.0, 6.0
    np.testing.assert_array_equal(edc.from_hyperspy(plain)["x"], 3 + np.arange(17))


def test_the_order_of_the_array_does_not_matter() -> None:
    signal = made_signal(lazy=True)
    turned = signal.transpose(signal_axes=["Energy"], navigation_axes=["y", "x"])  # data is (x, y, energy) now
    assert turned.data.shape == (17, 13, 61)
    ds = edc.from_hyperspy(turned)
    np.testing.assert_array_equal(ds[schema.COUNTS], COUNTS)
    np.testing.assert_allclose(ds["y"], 3 + 0.5 * np.arange(13))
    turned.change_dtype("float64")
    turned.compute()
    mask = np.zeros((13, 17), np.bool_)
    mask[4, 2:11] = True
    turned.decomposition(output_dimension=2, print_info=False, navigation_mask=hs.signals.BaseSignal(mask.T).T)
    result = edc.from_hyperspy(turned, results="decomposition")
    np.testing.assert_array_equal(~result[schema.ANALYSED_PIXEL], mask)
    np.testing.assert_array_equal(np.isnan(result[schema.LOADINGS]).any("component"), mask)
    model = edc.reconstruct(result).values
    np.testing.assert_allclose(model, turned.get_decomposition_model().data.swapaxes(0, 1), rtol=1e-4, atol=1e-4)


def test_what_is_no_spectrum_image_is_refused() -> None:
    signal = made_signal()

    def refused(what: Any, match: str) -> None:
        with pytest.raises(ParameterError, match=match):
            edc.from_hyperspy(what)

    refused(signal.inav[2, 3], r"a single spectrum \(61,\).*give the spectrum image")
    refused(signal.inav[2], r"a line scan \(13, 61\).*a line is a map of one row")
    refused(hs.stack([signal, signal]), r"a stack of maps \(3 navigation axes\).*signal\.inav\[:, :, 0\]")
    refused(signal.as_signal2D(("x", "y")), r"images .*as_signal1D\('Energy'\)")
    refused(signal.T, "signal of|images")
    refused(as_map(COUNTS), "Dataset, expected a HyperSpy signal")
    refused(COUNTS, "ndarray, expected a HyperSpy signal")
    refused(hs.signals.ComplexSignal1D(COUNTS.astype(complex)), "values of type complex128")
    eels = exspy.signals.EELSSpectrum(COUNTS)
    refused(eels, "an EELS signal")
    uneven = hs.signals.Signal1D(COUNTS, axes=[{"size": 13}, {"size": 17}, {"axis": np.arange(61) ** 2.0}])
    refused(uneven, "energy axis is not uniform")
    with pytest.raises(ParameterError, match="None, 'decomposition', 'bss'"):
        edc.from_hyperspy(signal, results="pca")
    with pytest.raises(ParameterError, match=r"no factors and no loadings.*s\.decomposition"):
        edc.from_hyperspy(signal, results="decomposition")


def test_a_fix_that_is_offered_works(tmp_path: Path) -> None:
    made_signal().inav[2].save(tmp_path / "line.hspy", show_progressbar=False)
    line = edc.convert(tmp_path / "line.hspy", tmp_path / "line.zarr")
    np.testing.assert_array_equal(line[schema.COUNTS], COUNTS[:, 2][np.newaxis])


# ------------------------------------------------------------------------------------------- in the analysis
@pytest.mark.parametrize(("lazy", "dtype"), [(False, np.uint16), (True, np.uint16), (True, np.float64)])
def test_pca_and_nmf_take_it_like_any_map(lazy: bool, dtype: Any) -> None:
    ds = edc.from_hyperspy(made_signal(lazy=lazy, dtype=dtype))
    same = as_map(COUNTS.astype(dtype))
    for found, expected in (
        (edc.pca(ds, n_components=3), edc.pca(same, n_components=3)),
        (edc.nmf(ds, n_components=3), edc.nmf(same, n_components=3)),
    ):
        np.testing.assert_array_equal(found[schema.FACTORS], expected[schema.FACTORS])
        np.testing.assert_array_equal(found[schema.LOADINGS], expected[schema.LOADINGS])


def test_pca_is_hyperspys() -> None:
    signal = made_signal(dtype=np.float64)
    ds = edc.from_hyperspy(made_signal(lazy=True))
    signal.decomposition(True, print_info=False)
    ours, theirs = edc.pca(ds, n_components=5), signal.learning_results
    ratio = theirs.explained_variance_ratio
    np.testing.assert_allclose(ours[schema.EXPLAINED_VARIANCE], theirs.explained_variance[:5], rtol=1e-5)
    np.testing.assert_allclose(ours[schema.EXPLAINED_VARIANCE_RATIO], ratio[:5], rtol=1e-5)
    np.testing.assert_allclose(ours[schema.EIGENVALUES], theirs.explained_variance, rtol=1e-5, atol=1e-12)
    adopted = edc.from_hyperspy(signal, results="decomposition")
    np.testing.assert_allclose(ours[schema.EIGENVALUES], adopted[schema.EIGENVALUES], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("lazy", [False, True])
def test_what_hyperspy_decomposed_is_a_result(lazy: bool) -> None:
    signal = made_signal(lazy=lazy, dtype=np.float64)
    mask = np.zeros(SHAPE[:2], np.bool_)
    mask[2, 3:9] = True
    channels = np.arange(61) % 13 == 4
    left_out = {"navigation_mask": hs.signals.BaseSignal(mask).T, "signal_mask": channels}
    signal.decomposition(True, output_dimension=4, print_info=False, **left_out)
    theirs = signal.learning_results
    result = edc.from_hyperspy(signal, results="decomposition", name="theirs")
    np.testing.assert_array_equal(result[schema.FACTORS].values.T, np.asarray(theirs.factors))
    expected = np.asarray(theirs.loadings).T.reshape(4, *SHAPE[:2])
    np.testing.assert_allclose(result[schema.LOADINGS], expected, rtol=1e-6)
    np.testing.assert_array_equal(~result[schema.ANALYSED_PIXEL], mask)
    np.testing.assert_array_equal(~result[schema.ANALYSED_CHANNEL], channels)
    assert (result.attrs[schema.STEP], result.attrs[schema.RUN]) == ("pca", "theirs")
    np.testing.assert_allclose(
        edc.reconstruct(result), np.asarray(signal.get_decomposition_model().data), rtol=1e-4, atol=1e-4
    )


def test_lazy_loadings_and_a_source_separation() -> None:
    signal = made_signal(dtype=np.float64)
    signal.decomposition(True, output_dimension=4, print_info=False)
    signal.blind_source_separation(number_of_components=3, algorithm="orthomax", print_info=False)
    bss = edc.from_hyperspy(signal, results="bss")
    np.testing.assert_allclose(bss[schema.LOADINGS], signal.get_bss_loadings().data, rtol=1e-6)
    np.testing.assert_array_equal(bss[schema.FACTORS], signal.get_bss_factors().data)
    eager = signal.learning_results.loadings
    signal.learning_results.loadings = da.from_array(eager, chunks=(50, 3))
    result = edc.from_hyperspy(signal, results="decomposition")
    assert result[schema.LOADINGS].chunks is not None
    np.testing.assert_array_equal(
        result[schema.LOADINGS], eager.T.reshape(4, *SHAPE[:2]).astype(np.float32), strict=False
    )


def test_there_and_back(tmp_path: Path) -> None:
    edc.convert(MadeReader(COUNTS, live_time=12.5, beam_energy=15.0, elements=("Al", "Si")), tmp_path / "map.zarr")
    ds = edc.open(tmp_path / "map.zarr").isel(y=slice(2, 12), energy=slice(5, 50))
    back = edc.from_hyperspy(edc.to_hyperspy(ds))
    np.testing.assert_array_equal(back[schema.COUNTS], ds[schema.COUNTS])
    for axis in ("y", "x", "energy"):
        np.testing.assert_allclose(back[axis], ds[axis], rtol=0, atol=1e-12)
        assert back[axis].attrs["units"] == ds[axis].attrs["units"]
    for name in ("title", "signal_type", "beam_energy_kev", "elements", "live_time_s"):
        assert back.attrs[name] == ds.attrs[name]
    np.testing.assert_allclose(back.attrs["pixel_size"], ds.attrs["pixel_size"], rtol=1e-12)


def test_a_real_map_is_as_our_own_reader_has_it(tmp_path: Path) -> None:
    source = real_data("88_ES-LP_G8_selection2_cropped2.hspy")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Loading old file version", category=UserWarning)
        ds = edc.from_hyperspy(hs.load(source, lazy=True))
    ours = edc.convert(source, tmp_path / "map.zarr")
    np.testing.assert_array_equal(ds[schema.COUNTS], ours[schema.COUNTS])
    for axis in ("x", "energy"):
        np.testing.assert_allclose(ds[axis] - ds[axis][0], ours[axis] - ours[axis][0], rtol=1e-9)
    np.testing.assert_allclose(ds["energy"], ours["energy"], rtol=1e-12)
    for name in ("title", "signal_type", "beam_energy_kev", "elements"):
        assert ds.attrs[name] == ours.attrs[name]
    converted = edc.convert(edc.DatasetReader(ds), tmp_path / "other.zarr")
    for name in (schema.SUM_SPECTRUM, schema.TOTAL_COUNTS, schema.COUNTS):
        np.testing.assert_array_equal(converted[name], ours[name])


# ------------------------------------------------------------------------------------------- into a store
@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int64])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_signal_goes_into_a_store(tmp_path: Path, lazy: bool, dtype: Any) -> None:
    signal = made_signal(lazy=lazy, dtype=dtype)
    signal.set_microscope_parameters(beam_energy=15.0)
    ds = edc.from_hyperspy(signal)
    stored = edc.convert(edc.DatasetReader(ds), tmp_path / "map.zarr")
    np.testing.assert_array_equal(stored[schema.COUNTS], COUNTS)
    assert stored[schema.COUNTS].dtype == np.uint8
    for axis in ("y", "x", "energy"):
        np.testing.assert_allclose(stored[axis], ds[axis], rtol=0, atol=1e-12)
        assert stored[axis].attrs["units"] == ds[axis].attrs["units"]
    for name in ("title", "signal_type", "beam_energy_kev", "pixel_size"):
        assert stored.attrs[name] == ds.attrs[name]
    assert stored.attrs[schema.SOURCE_METADATA]["Acquisition_instrument"]["SEM"]["beam_energy"] == 15.0


def test_any_part_of_a_map_goes_into_a_store(tmp_path: Path) -> None:
    reader = MadeReader(COUNTS, metadata={"header_total_counts": int(COUNTS.sum())})
    ds = edc.convert(reader, tmp_path / "map.zarr")
    part = ds.isel(y=slice(1, 12, 2), x=slice(4, 15), energy=slice(7, 50))
    part[schema.COUNTS] = 2 * part[schema.COUNTS]
    stored = edc.convert(edc.DatasetReader(part), tmp_path / "part.zarr", rebin=(2, 1, 1))
    expected = 2 * COUNTS[1:12:2, 4:15, 7:50].reshape(3, 2, 11, 43).sum(axis=1)
    np.testing.assert_array_equal(stored[schema.COUNTS], expected)
    np.testing.assert_allclose(stored["energy"], part["energy"])
    np.testing.assert_allclose(stored["y"], part["y"].values.reshape(3, 2).mean(axis=1))
    plain = as_map(COUNTS).drop_vars(["y", "x", "energy"])
    assert edc.convert(edc.DatasetReader(plain), tmp_path / "plain.zarr")["y"].attrs["units"] == "pixel"


def test_only_some_rows_are_computed_at_a_time(tmp_path: Path) -> None:
    made: list[int] = []

    def block(_: Array, block_info: Any = None) -> Array:
        (ys, xs, _) = block_info[None]["array-location"]
        made.append(ys[0])
        return COUNTS[slice(*ys), slice(*xs)]

    counts = da.zeros(SHAPE, chunks=(3, 8, 61), dtype=np.uint16).map_blocks(block, dtype=np.uint16)
    ds = as_map(COUNTS)
    ds[schema.COUNTS] = ds[schema.COUNTS].dims, counts
    made.clear()
    reader = edc.DatasetReader(ds)
    bands = reader.bands(4)
    first = next(bands)
    assert max(made) == 3  # the second row of chunks, and no more
    found = [first, *bands]
    np.testing.assert_array_equal(np.concatenate([band.counts for band in found]), COUNTS)
    assert len(made) == 5 * 3  # each chunk once
    assert reader.peak_bytes(4) < COUNTS.nbytes + 2 * 2**20
    np.testing.assert_array_equal(edc.convert(reader, tmp_path / "map.zarr")[schema.COUNTS], COUNTS)


def test_an_array_of_one_chunk_says_what_it_takes(tmp_path: Path) -> None:
    whole = as_map(np.zeros((1, 1, 1), np.uint16))
    counts = da.zeros((4000, 4000, 64), chunks=-1, dtype=np.uint16)
    ds = xr.Dataset({schema.COUNTS: (whole[schema.COUNTS].dims, counts)})
    assert edc.DatasetReader(ds).peak_bytes(16) > 2 * counts.nbytes
    with pytest.raises(MemoryBudgetError, match="memory for convert"):
        edc.convert(edc.DatasetReader(ds), tmp_path / "map.zarr", memory="1GB")
    assert edc.DatasetReader(ds.chunk(y=64, x=64)).peak_bytes(16) < 200e6


def test_what_is_no_map_of_counts_is_refused(tmp_path: Path) -> None:
    negative = COUNTS.astype(np.int32)
    negative[5, 3, 2] = -1
    with pytest.raises(CountsError, match="-1 at y=5, x=3, channel=2"):
        edc.convert(edc.DatasetReader(as_map(negative, chunks=(4, 5, 61))), tmp_path / "map.zarr")
    with pytest.raises(CountsError, match=r"0\.5 at"):
        edc.convert(edc.DatasetReader(as_map(COUNTS * 0.5)), tmp_path / "map.zarr")
    assert not (tmp_path / "map.zarr").exists()
    with pytest.raises(ChunkLayoutError, match="equal steps"):
        edc.DatasetReader(as_map(COUNTS).isel(y=[0, 1, 5]))
    with pytest.raises(ChunkLayoutError, match="equal steps"):
        edc.DatasetReader(as_map(COUNTS).isel(x=slice(None, None, -1)))
    with pytest.raises(ChunkLayoutError, match="'counts'"):
        edc.DatasetReader(as_map(COUNTS).drop_vars("counts"))
    with pytest.raises(SourceError, match="complex128"):
        edc.DatasetReader(as_map(COUNTS.astype(complex)))

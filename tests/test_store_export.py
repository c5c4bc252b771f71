"""export: HyperSpy and our own reader find the map in the file as it is in the store."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from eds_chunked import schema, synthetic
from eds_chunked.errors import MemoryBudgetError, ParameterError, StoreError, StoreExistsError
from eds_chunked.readers.base import Band, Box, MapHeader
from eds_chunked.readers.hspy import HspyReader
from eds_chunked.store.calibration import calibrate
from eds_chunked.store.conversion import convert
from eds_chunked.store.export import export
from eds_chunked.store.opening import open_map
from tests.real_data import real_data

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def hs() -> Any:
    with warnings.catch_warnings():
        # eXSpy imports HyperSpy's classes from where they no longer are.
        warnings.filterwarnings("ignore", message="Importing .* is deprecated", category=UserWarning)
        import exspy  # noqa: F401
        import hyperspy.api as hs
    return hs


class Made:
    """A reader over an array, with any header."""

    def __init__(self, counts: Array, **header: Any) -> None:
        self.counts = counts
        known = {"source": "made", "energy_scale": 0.0123, "energy_offset": -0.21, "pixel_size": (0.3, 0.7)}
        self.header = MapHeader(shape=counts.shape, dtype=counts.dtype, **known | header)

    def peak_bytes(self, rows: int, box: Box | None = None) -> int:
        return self.counts.nbytes

    def bands(self, rows: int, box: Box | None = None) -> Any:
        ys, xs, channels = box or Box.whole(self.header.shape)
        for y0 in range(ys.start, ys.stop, rows):
            band = self.counts[y0 : min(ys.stop, y0 + rows), xs, channels]
            yield Band(y0, len(band), band)

    def images(self) -> Any:
        return iter(())


def counts_of(shape: tuple[int, int, int], largest: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.4, shape).astype(np.uint32)
    counts[-1, -1, -1] = largest
    return counts.astype(np.min_scalar_type(largest))


def read_all(path: Path) -> tuple[MapHeader, Array]:
    reader = HspyReader(path)
    return reader.header, np.concatenate([np.asarray(band.counts) for band in reader.bands(5)])


# ----------------------------------------------------------------------------------------------- the counts
@pytest.mark.parametrize(
    ("shape", "largest"),
    [
        ((67, 131, 61), 200),  # tiles cut by both edges of the map
        ((67, 13, 1031), 60_000),  # more than one chunk a tile
        ((7, 11, 61), 100_000),
        ((1, 3, 7), 5),
        ((5, 1, 1), 9),
    ],
)
def test_hyperspy_finds_the_same_counts(hs: Any, tmp_path: Path, shape: tuple[int, int, int], largest: int) -> None:
    counts = counts_of(shape, largest)
    convert(Made(counts), tmp_path / "map.zarr")
    path = export(tmp_path / "map.zarr", tmp_path / "map.hspy")
    assert path == tmp_path / "map.hspy"
    signal = hs.load(path)
    assert type(signal).__name__ == "EDSSEMSpectrum"
    assert signal.data.dtype == counts.dtype
    np.testing.assert_array_equal(signal.data, counts)
    lazy = hs.load(path, lazy=True)
    np.testing.assert_array_equal(lazy.inav[-1, -1].data.compute(), counts[-1, -1])
    with h5py.File(path) as file:
        data = file["Experiments/map/data"]
        assert data.compression == "gzip"
        assert data.chunks[2] == shape[2]
        assert np.prod(data.chunks) * data.dtype.itemsize <= 2**20
    header, read = read_all(path)
    assert header.shape == shape
    np.testing.assert_array_equal(read, counts)


def test_hyperspy_finds_the_same_axes_and_metadata(hs: Any, tmp_path: Path) -> None:
    metadata = {
        "detector_type": "XFlash 6|10",
        "elevation_angle_deg": 35.0,
        "azimuth_angle_deg": 90.0,
        "energy_resolution_mn_ka_ev": 125.97,
        "stage_x_um": 62409.2,
        "working_distance_mm": 7.5,
        "a/b": {".": [1, None, {"/": "x\0y"}], "empty": [], "": "nameless"},
    }
    reader = Made(counts_of((7, 11, 61), 9), energy_scale=0.04, live_time=12.5, real_time=15.0, metadata=metadata)
    convert(reader, tmp_path / "map.zarr")
    ds = calibrate(tmp_path / "map.zarr", beam_energy=15, elements=["Si", "Al"], signal_type="TEM", title="dacite")
    signal = hs.load(export(tmp_path / "map.zarr", tmp_path / "map.hspy"))
    assert type(signal).__name__ == "EDSTEMSpectrum"
    y, x, energy = signal.axes_manager._axes
    for axis, name, units in ((y, "y", "µm"), (x, "x", "µm"), (energy, "Energy", "keV")):
        assert (axis.name, axis.units) == (name, units)
        np.testing.assert_allclose(axis.axis, ds[name.lower()], rtol=0, atol=1e-12)
    assert energy.is_binned
    assert not y.is_binned
    found = signal.metadata
    assert found.General.title == "dacite"
    assert list(found.Sample.elements) == ["Al", "Si"]
    instrument = found.Acquisition_instrument.TEM
    assert (instrument.beam_energy, instrument.working_distance, instrument.Stage.x) == (15.0, 7.5, 62.4092)
    assert instrument.Detector.EDS.as_dictionary() == {
        "detector_type": "XFlash 6|10", "elevation_angle": 35.0, "azimuth_angle": 90.0,
        "energy_resolution_MnKa": 125.97, "live_time": 12.5, "real_time": 15.0,
    }  # fmt: skip
    original = signal.original_metadata
    assert original.get_item("detector_type") == "XFlash 6|10"
    assert original.eds_chunked.history[1]["what"] == "calibrate"
    signal.add_lines()  # eXSpy's own work on a map with elements and a beam energy
    assert list(signal.metadata.Sample.xray_lines) == ["Al_Ka", "Si_Ka"]


def test_an_axis_without_calibration_has_no_units(hs: Any, tmp_path: Path) -> None:
    reader = Made(
        counts_of((3, 5, 7), 4), pixel_size=None, energy_scale=1.0, energy_offset=0.0, energy_calibrated=False
    )
    convert(reader, tmp_path / "map.zarr")
    path = export(tmp_path / "map.zarr", tmp_path / "map.hspy")
    assert [str(axis.units) for axis in hs.load(path).axes_manager._axes] == ["<undefined>"] * 3
    header, _ = read_all(path)
    assert header.pixel_size is None
    assert not header.energy_calibrated


@pytest.mark.parametrize("title", ["", "7/3 of a/rock", "/", ".", "..", "a\0b", "Gänge µ 岩", "x" * 70_000])
def test_any_title_will_do(hs: Any, tmp_path: Path, title: str) -> None:
    convert(Made(counts_of((3, 5, 7), 4), title=title), tmp_path / "map.zarr")
    path = export(tmp_path / "map.zarr", tmp_path / "map.hspy")
    assert hs.load(path).metadata.General.title == title.replace("\0", "")
    with h5py.File(path) as file:
        assert list(file) == ["Experiments"]
        assert list(file["Experiments"]) == ["map"]


@pytest.mark.parametrize("name", ["P45_12bit_packed_8bit_compressed.bcf", "88_ES-LP_G8_selection2_cropped2.hspy"])
def test_a_real_map_is_as_hyperspy_reads_its_source(hs: Any, tmp_path: Path, name: str) -> None:
    source = real_data(name)
    convert(source, tmp_path / "map.zarr")
    ours = hs.load(export(tmp_path / "map.zarr", tmp_path / "map.hspy"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Loading old file version", category=UserWarning)
        theirs = hs.load(source)
    if isinstance(theirs, list):
        (theirs,) = [signal for signal in theirs if "EDS" in type(signal).__name__]
    assert type(ours) is type(theirs)
    np.testing.assert_array_equal(ours.data, theirs.data)
    for mine, other in zip(ours.axes_manager._axes, theirs.axes_manager._axes, strict=True):
        assert (mine.size, mine.units, mine.navigate) == (other.size, other.units, other.navigate)
        np.testing.assert_allclose(mine.axis, other.axis, rtol=1e-9, atol=1e-12)
    kind = "SEM" if "SEM" in type(ours).__name__ else "TEM"
    instruments = [signal.metadata.Acquisition_instrument.get_item(kind) for signal in (ours, theirs)]
    for item in ("beam_energy", "magnification"):
        assert instruments[0].get_item(item) == pytest.approx(instruments[1].get_item(item))
    for item in ("elevation_angle", "azimuth_angle", "detector_type", "real_time"):
        assert instruments[0].Detector.EDS.get_item(item) == instruments[1].Detector.EDS.get_item(item)
    assert list(ours.metadata.Sample.elements) == list(theirs.metadata.Sample.elements)


def test_the_file_can_be_converted_back(tmp_path: Path) -> None:
    before = convert(synthetic.rock((13, 17, 331), pixel_size=(1.5, 2.5)), tmp_path / "map.zarr")
    export(tmp_path / "map.zarr", tmp_path / "map.hspy")
    after = convert(tmp_path / "map.hspy", tmp_path / "back.zarr")
    for name in (*before.data_vars, *before.coords):
        np.testing.assert_allclose(after[name], before[name], rtol=0, atol=1e-12)
    for name in (schema.TITLE, schema.SIGNAL_TYPE, schema.BEAM_ENERGY, schema.ELEMENTS):
        assert after.attrs[name] == before.attrs[name]
    np.testing.assert_allclose(after.attrs[schema.PIXEL_SIZE], [1.5, 2.5], rtol=1e-12)


# -------------------------------------------------------------------------------------------------- refusals
@pytest.fixture
def store(tmp_path: Path) -> Path:
    convert(Made(counts_of((67, 5, 61), 9)), tmp_path / "map.zarr")
    return tmp_path / "map.zarr"


def test_what_cannot_be_written_is_refused_before_anything_is(store: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ParameterError, match=r"suffix '\.tif', expected one of \.hspy"):
        export(store, tmp_path / "map.tif")
    with pytest.raises(ParameterError, match="suffix ''"):
        export(store, tmp_path / "map")
    with pytest.raises(ParameterError, match="no folder"):
        export(store, tmp_path / "none" / "map.hspy")
    with pytest.raises(MemoryBudgetError, match=r"memory for export.*--memory"):
        export(store, tmp_path / "map.hspy", memory="20MB")
    (tmp_path / "folder.hspy").mkdir()
    with pytest.raises(StoreExistsError, match="a folder"):
        export(store, tmp_path / "folder.hspy", overwrite=True)
    (tmp_path / "folder.hspy").rmdir()
    assert sorted(tmp_path.iterdir()) == before


def test_an_existing_file_is_replaced_only_when_told(store: Path, tmp_path: Path) -> None:
    target = tmp_path / "map.HSPY"
    target.write_text("mine")
    with pytest.raises(StoreExistsError, match="--overwrite"):
        export(store, target)
    assert target.read_text() == "mine"
    export(store, target, overwrite=True)
    np.testing.assert_array_equal(read_all(target)[1], open_map(store)[schema.COUNTS])


def test_a_failure_half_way_leaves_the_earlier_file_and_nothing_else(store: Path, tmp_path: Path) -> None:
    target = export(store, tmp_path / "map.hspy")
    before = target.read_bytes()
    (store / "map" / "counts" / "c" / "1" / "0" / "0").write_bytes(b"damage")
    with pytest.raises(StoreError, match="unreadable bytes"):
        export(store, target, overwrite=True)
    assert target.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.hspy", "map.zarr"]

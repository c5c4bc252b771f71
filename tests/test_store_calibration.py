"""calibrate: coordinates and metadata change, counts do not, results become stale; where the zero peak is."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from eds_chunked import schema, synthetic
from eds_chunked.decomposition.principal import pca
from eds_chunked.errors import ParameterError, StoreBusyError, StoreError, StoreNotFoundError
from eds_chunked.store.calibration import calibrate
from eds_chunked.store.conversion import convert
from eds_chunked.store.layout import LOG
from eds_chunked.store.lock import locked
from eds_chunked.store.opening import open_map
from eds_chunked.store.provenance import fingerprint
from eds_chunked.store.results import load_fresh, revisions, save, why_stale
from eds_chunked.store.zero_peak import zero_peak_channel
from tests.failing_store import KilledError, failing_after
from tests.made_maps import MadeReader, made_counts
from tests.real_data import real_data

Array = np.ndarray[Any, Any]

SHAPE = (7, 11, 331)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "rock.zarr"
    convert(synthetic.rock(SHAPE, counts_per_pixel=2000, pixel_size=(1.5, 2.5)), path)
    return path


def digests(folder: Path) -> dict[Path, str]:
    files = [p for p in folder.rglob("*") if p.is_file() and "__eds" not in p.parts]
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def gauss(channel: Array, height: float, centre: float, sigma: float) -> Array:
    return np.asarray(height * np.exp(-0.5 * ((channel - centre) / sigma) ** 2))


# ------------------------------------------------------------------------------------------ axes and metadata
def test_all_that_is_given_is_set_and_the_counts_are_the_same_bytes(store: Path) -> None:
    before = open_map(store).compute()
    counts = digests(store / "map" / "counts")
    returned = calibrate(
        store,
        energy_scale=0.02,
        energy_offset=-1.9,
        pixel_size=(0.25, 0.75),
        beam_energy=15,
        signal_type="TEM",
        elements=["Si", "Al", "Si", "O"],
        title=" dacite\n7/3 ",
    )
    ds = open_map(store)
    xr.testing.assert_identical(returned, ds)
    np.testing.assert_array_equal(ds[schema.ENERGY], -1.9 + 0.02 * np.arange(331))
    np.testing.assert_array_equal(ds[schema.Y], 0.25 * np.arange(7))
    np.testing.assert_array_equal(ds[schema.X], 0.75 * np.arange(11))
    assert {axis: ds[axis].attrs["units"] for axis in ("y", "x", "energy")} == {"y": "um", "x": "um", "energy": "keV"}
    assert ds.attrs[schema.PIXEL_SIZE] == [0.25, 0.75]
    assert ds.attrs[schema.BEAM_ENERGY] == 15.0
    assert ds.attrs[schema.SIGNAL_TYPE] == schema.TEM
    assert ds.attrs[schema.ELEMENTS] == ["Al", "O", "Si"]
    assert ds.attrs[schema.TITLE] == "dacite 7/3"
    assert digests(store / "map" / "counts") == counts
    for name in before.data_vars:
        np.testing.assert_array_equal(ds[name], before[name])


def test_what_is_not_given_stays(store: Path) -> None:
    before = open_map(store)
    ds = calibrate(store, beam_energy=12.5)
    for axis in (schema.Y, schema.X, schema.ENERGY):
        xr.testing.assert_identical(ds[axis], before[axis])
    changed = {name for name in ds.attrs if ds.attrs[name] != before.attrs[name]}
    assert changed == {schema.BEAM_ENERGY, schema.HISTORY, schema.FINGERPRINT}


def test_one_pixel_size_is_for_both_axes(store: Path) -> None:
    ds = calibrate(store, pixel_size=3)
    assert schema.pixel_size(ds) == (3.0, 3.0, "um")


def test_scale_alone_keeps_the_offset_and_offset_alone_the_scale(store: Path) -> None:
    ds = calibrate(store, energy_scale=0.005)
    np.testing.assert_allclose(ds[schema.ENERGY], -0.47 + 0.005 * np.arange(331), rtol=0, atol=1e-12)
    ds = calibrate(store, energy_offset=0.1)
    np.testing.assert_allclose(ds[schema.ENERGY], 0.1 + 0.005 * np.arange(331), rtol=0, atol=1e-12)


def test_history_and_fingerprint_tell_of_it(store: Path) -> None:
    first = open_map(store).attrs
    calibrate(store, title="a")
    ds = calibrate(store, pixel_size=(1, 2), zero_peak="auto")
    history = ds.attrs[schema.HISTORY]
    assert [event["what"] for event in history] == ["convert", "calibrate", "calibrate"]
    assert history[1]["parameters"] == {"title": "a"}
    parameters = history[2]["parameters"]
    assert parameters["pixel_size"] == [1.0, 2.0]
    assert parameters["energy_offset"] == ds[schema.ENERGY].values[0]
    assert ds.attrs[schema.FINGERPRINT] == fingerprint(ds) != first[schema.FINGERPRINT]


def test_the_same_calibration_twice_is_the_same_map(store: Path) -> None:
    once = calibrate(store, pixel_size=(0.3, 0.7), energy_scale=0.0123, energy_offset=-0.4)
    twice = calibrate(store, pixel_size=(0.3, 0.7), energy_scale=0.0123, energy_offset=-0.4)
    assert twice.attrs[schema.FINGERPRINT] == once.attrs[schema.FINGERPRINT]
    other = calibrate(store, elements=["Fe"])
    assert other.attrs[schema.FINGERPRINT] != once.attrs[schema.FINGERPRINT]


def test_a_result_that_was_saved_before_is_stale(store: Path) -> None:
    attrs = {schema.STEP: schema.PCA, schema.FINGERPRINT: open_map(store).attrs[schema.FINGERPRINT]}
    save(xr.Dataset({schema.EIGENVALUES: (schema.RANK, [3.0, 2.0, 1.0])}, attrs=attrs), store)
    (revision,) = revisions(store)
    assert why_stale(store, revision) is None
    calibrate(store, energy_offset=-0.471)
    assert "calibrated again" in str(why_stale(store, revision))


def test_coordinates_are_written_between_two_puts_of_the_document_of_the_map(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []
    put = zarr.storage.LocalStore.set

    async def record(self: Any, key: str, value: Any) -> None:
        if not key.startswith(LOG):
            keys.append(key)
        await put(self, key, value)

    monkeypatch.setattr(zarr.storage.LocalStore, "set", record)
    calibrate(store, energy_scale=0.02, pixel_size=2, title="t")
    assert keys[0] == keys[-1] == "map/zarr.json"
    assert keys.count("map/zarr.json") == 2
    assert {key.split("/")[1] for key in keys[1:-1]} == {"energy", "y", "x"}
    keys.clear()
    calibrate(store, title="u")
    assert keys == ["map/zarr.json"]


# ------------------------------------------------------------------------------------------ broken off
def state(location: str) -> tuple[Any, ...]:
    """The axes with their units and what is said of the map, but for when it was said."""
    ds = open_map(location)
    axes = [(ds[axis].values.tolist(), ds[axis].attrs["units"]) for axis in (schema.Y, schema.X, schema.ENERGY)]
    return axes, {name: value for name, value in ds.attrs.items() if name != schema.HISTORY}


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_a_calibration_broken_off_at_any_put_leaves_nothing_fresh_and_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Axes that count from 5, not calibrated: taking a half-written axis for the old one would show."""
    reader = MadeReader(made_counts((7, 11, 31)), pixel_size=None, energy_calibrated=False)
    reader.header = replace(reader.header, energy_offset=5.0, energy_scale=1.0)
    values: dict[str, Any] = {"energy_scale": 0.02, "pixel_size": (0.25, 0.75), "title": "t"}

    def made(name: object) -> str:
        place = f"{tmp_path}/{name}.zarr" if kind == "disk" else f"memory://calibrate/{tmp_path.name}/{name}.zarr"
        ds = convert(reader, place)
        result = {schema.STEP: schema.PCA, schema.FINGERPRINT: ds.attrs[schema.FINGERPRINT]}
        save(xr.Dataset({schema.EIGENVALUES: (schema.RANK, [3.0, 2.0, 1.0])}, attrs=result), place)
        return place

    whole = made("whole")
    before = state(whole)
    calibrate(whole, **values)
    wanted = state(whole)
    n_puts = 0
    while True:
        store = made(n_puts)
        try:
            with failing_after(monkeypatch, kind, n_puts):
                calibrate(store, **values)
            break
        except KilledError:
            pass
        now = state(store)
        (revision,) = revisions(store)
        if n_puts == 0:
            assert now == before
            assert why_stale(store, revision) is None
        else:
            assert schema.BEFORE_CALIBRATION in now[1]
            assert why_stale(store, revision) == "the map is being calibrated"
            with pytest.raises(StoreError, match=r"a calibration that did not finish.*eds-chunked calibrate .*again"):
                load_fresh(store, schema.PCA)
            made_of_it = xr.Dataset(attrs={schema.STEP: schema.PCA, schema.FINGERPRINT: now[1][schema.FINGERPRINT]})
            with pytest.raises(StoreError, match="did not finish"):
                save(made_of_it, store)
            with pytest.raises(StoreError, match="did not finish"):
                pca(open_map(store), n_components=2)
        if n_puts % 2:
            # Another calibration than the one that was broken off: of that one nothing stays.
            calibrate(store, title="other")
            axes, attrs = state(store)
            assert axes == before[0]
            assert attrs[schema.PIXEL_SIZE] == before[1][schema.PIXEL_SIZE]
        calibrate(store, **values)
        assert state(store) == wanted
        n_puts += 1
    assert n_puts == 8  # the document, three axes with their documents, the document
    assert state(store) == wanted


def test_only_one_process_at_a_time_calibrates(store: Path) -> None:
    with locked(store), pytest.raises(StoreBusyError):
        calibrate(store, title="t")
    assert calibrate(store, title="t").attrs[schema.TITLE] == "t"


def test_a_map_of_one_pixel_can_be_calibrated(tmp_path: Path) -> None:
    convert(synthetic.rock((1, 1, 331), counts_per_pixel=500), tmp_path / "one.zarr")
    ds = calibrate(tmp_path / "one.zarr", pixel_size=(2, 3), energy_scale=0.02)
    assert schema.pixel_size(ds) == (2.0, 3.0, "um")


def uncalibrated(store: Path) -> Path:
    """Make the energies of a store count channels and its pixels pixels, as a file without calibration gives."""
    group = zarr.open_group(store, path=schema.MAP_GROUP, mode="r+")
    for axis, unit in ((schema.Y, "pixel"), (schema.X, "pixel"), (schema.ENERGY, "channel")):
        group[axis][:] = np.arange(group[axis].shape[0])
        group[axis].attrs["units"] = unit
    group.update_attributes({schema.PIXEL_SIZE: [1.0, 1.0]})
    return store


def test_an_axis_without_calibration_gets_its_units(store: Path) -> None:
    uncalibrated(store)
    for parameters in ({"energy_offset": -0.47}, {"zero_peak": "auto"}):
        with pytest.raises(ParameterError, match=r"energies count channels.*--energy-scale"):
            calibrate(store, **parameters)  # type: ignore[arg-type]
    ds = calibrate(store, energy_scale=0.01, zero_peak="auto")
    assert ds[schema.ENERGY].attrs["units"] == "keV"
    assert ds[schema.Y].attrs["units"] == "pixel"
    np.testing.assert_allclose(ds[schema.ENERGY][0], -0.47, rtol=0, atol=0.001)
    assert calibrate(store, pixel_size=4)[schema.X].attrs["units"] == "um"


# ------------------------------------------------------------------------------- parts and bins of the channels
PARTS: list[tuple[tuple[float, float] | None, int]] = [(None, 1), ((0.6, 5.2), 1), (None, 4), ((0.6, 5.2), 3)]


def strobed(*, scale: float = 0.02, offset: float = -0.94) -> MadeReader:
    """A map with a zero peak in channel 47, whose file says twice the keV a channel that it has."""
    counts = np.zeros((5, 7, 331), np.uint16)
    counts += np.rint(gauss(np.arange(331), 900, 47, 2)).astype(np.uint16)
    counts[1, 2, 60:] = 3
    reader = MadeReader(counts)
    reader.header = replace(reader.header, energy_scale=scale, energy_offset=offset)
    return reader


def whole_and_part(tmp_path: Path, energy: Any, bins: int, reader: MadeReader) -> tuple[Path, Path]:
    convert(reader, tmp_path / "whole.zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of channels that fill no bin
        convert(reader, tmp_path / "part.zarr", energy=energy, rebin=(1, 1, bins))
    return tmp_path / "whole.zarr", tmp_path / "part.zarr"


def check_is_part(part: xr.Dataset, whole: xr.Dataset, of_file: Array, bins: int) -> None:
    """Check that a bin lies at the mean of its channels in the whole map."""
    n = part.sizes[schema.ENERGY]
    expected = whole[schema.ENERGY].values[of_file][: n * bins].reshape(n, bins).mean(1)
    np.testing.assert_allclose(part[schema.ENERGY].values, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize(("energy", "bins"), PARTS)
def test_a_part_is_calibrated_as_the_whole_map_is(
    tmp_path: Path, energy: tuple[float, float] | None, bins: int, calibrated: bool
) -> None:
    reader = strobed()
    if not calibrated:
        energy = None
        reader.header = replace(reader.header, energy_scale=1.0, energy_offset=5.0, energy_calibrated=False)
    whole, part = whole_and_part(tmp_path, energy, bins, reader)
    centres = reader.header.energy_offset + reader.header.energy_scale * np.arange(331)
    low, high = energy or (-np.inf, np.inf)
    of_file = np.flatnonzero((centres > low - 1e-9) & (centres < high + 1e-9))
    steps: list[dict[str, Any]] = [
        {"energy_scale": 0.01},
        {"energy_offset": -0.4724},
        {"energy_scale": 0.005},
        {"energy_scale": 0.011, "energy_offset": 0.25},
    ]
    for values in steps:
        both = calibrate(whole, **values)
        of_bins = {name: value * bins if name == "energy_scale" else value for name, value in values.items()}
        cut = calibrate(part, **of_bins)
        check_is_part(cut, both, of_file, bins)
        assert cut.attrs[schema.HISTORY][-1]["parameters"]["energy_offset"] == pytest.approx(
            both.attrs[schema.HISTORY][-1]["parameters"]["energy_offset"], abs=1e-9
        )
        # Once more the same: the same map.
        assert calibrate(part, **of_bins).attrs[schema.FINGERPRINT] == cut.attrs[schema.FINGERPRINT]


def test_a_scale_that_the_file_has_wrong_is_mended_after_a_crop(tmp_path: Path) -> None:
    reader = strobed(scale=0.02, offset=0.0)
    convert(reader, tmp_path / "part.zarr", energy=(1, 3))
    ds = calibrate(tmp_path / "part.zarr", energy_scale=0.01)
    assert ds[schema.ENERGY].values[[0, -1]] == pytest.approx([0.5, 1.5])  # channels 50 and 150 of the file


@pytest.mark.parametrize("offset", [0.0, -0.94])  # not known, and known
@pytest.mark.parametrize("first", [0, 20])
@pytest.mark.parametrize("bins", [1, 2])
def test_the_zero_peak_of_a_part(tmp_path: Path, offset: float, first: int, bins: int) -> None:
    reader = strobed(scale=0.01 if offset == 0 else 0.02, offset=offset)
    low = offset + reader.header.energy_scale * first
    whole, part = whole_and_part(tmp_path, (low, 9.0), bins, reader)
    scale = {} if offset == 0 else {"energy_scale": 0.01}
    before = calibrate(whole, zero_peak="auto", **scale)
    assert before[schema.ENERGY].values[0] == pytest.approx(-0.47, abs=1e-4)
    after = calibrate(part, zero_peak="auto", **{name: bins * value for name, value in scale.items()})
    centres = -0.47 + 0.01 * (first + (bins - 1) / 2 + bins * np.arange(after.sizes[schema.ENERGY]))
    np.testing.assert_allclose(after[schema.ENERGY].values, centres, rtol=0, atol=4e-4)


def test_a_line_far_up_a_file_is_no_zero_peak_because_the_map_begins_there(tmp_path: Path) -> None:
    reader = strobed()
    reader.counts[:] = np.rint(gauss(np.arange(331), 900, 190, 2)).astype(np.uint16)
    convert(reader, tmp_path / "part.zarr", energy=(-0.94 + 0.02 * 150, 9.0))
    with pytest.raises(ParameterError, match="no such peak in the first 128 channels"):
        calibrate(tmp_path / "part.zarr", energy_scale=0.01, zero_peak="auto")
    with pytest.raises(ParameterError, match=r"but one at 2\.86 keV. *.*Fix: energy_offset=-3\.8"):
        calibrate(tmp_path / "part.zarr", zero_peak="auto")


def test_a_map_of_one_channel_out_of_many_needs_both(tmp_path: Path) -> None:
    convert(strobed(), tmp_path / "one.zarr", energy=(0.06, 0.06))
    for values in ({"energy_scale": 0.01}, {"energy_offset": -0.47}):
        with pytest.raises(ParameterError, match=r"one channel that was cut out.*expected both"):
            calibrate(tmp_path / "one.zarr", **values)  # type: ignore[arg-type]
    ds = calibrate(tmp_path / "one.zarr", energy_scale=0.01, energy_offset=-0.47)
    assert ds[schema.ENERGY].values == pytest.approx([0.03])


def test_a_scale_in_ev_is_refused_and_that_of_wide_bins_is_not(tmp_path: Path) -> None:
    _, part = whole_and_part(tmp_path, None, 32, strobed())
    before = digests(part)
    for scale in (10, 6.41, 0.01):
        with pytest.raises(
            ParameterError, match=rf"energy_scale: found {scale:g} keV a channel, expected 0\.016 to 6\.4"
        ):
            calibrate(part, energy_scale=scale)
    assert digests(part) == before
    assert calibrate(part, energy_scale=0.32)[schema.ENERGY].diff("energy").values == pytest.approx(0.32)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "nothing to set"),
        (
            {"energy_scale": 10},
            r"found 10 keV a channel, expected 0\.0005 to 0\.2\. Fix: --energy-scale 0\.01 \(10 eV\)",
        ),
        ({"energy_scale": 0}, "energy_scale: found 0, expected a number above 0"),
        ({"energy_scale": "wide"}, "energy_scale: found 'wide'"),
        ({"energy_offset": float("nan")}, "energy_offset: found nan"),
        ({"energy_offset": True}, "energy_offset: found True"),
        ({"energy_offset": 0.0, "zero_peak": "auto"}, "leave one out"),
        ({"zero_peak": "manual"}, "zero_peak: found 'manual'"),
        ({"pixel_size": -1}, "pixel_size: found -1"),
        ({"pixel_size": (1, float("inf"))}, "pixel_size: found inf"),
        ({"pixel_size": (1, 2, 3)}, r"one size or \(height, width\)"),
        ({"beam_energy": 0}, "beam_energy: found 0"),
        ({"signal_type": "XRF"}, "signal_type: found 'XRF', expected SEM or TEM"),
        ({"elements": ["Si", "fe"]}, "elements: found 'fe'.*write Fe"),
        ({"elements": "SiO"}, "elements: found 'SiO'"),
        ({"elements": ["Xx"]}, "elements: found 'Xx'"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(store: Path, parameters: dict[str, Any], message: str) -> None:
    before = digests(store)
    with pytest.raises(ParameterError, match=message):
        calibrate(store, **parameters)
    assert digests(store) == before


def test_there_must_be_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="expected an eds_chunked store"):
        calibrate(tmp_path / "none.zarr", title="a")


# ------------------------------------------------------------------------------------------------ zero peak
@pytest.mark.parametrize("wrong_by", [0.0, 0.093, -0.111])
def test_the_zero_peak_comes_to_lie_at_zero(store: Path, wrong_by: float) -> None:
    calibrate(store, energy_offset=-0.47 + wrong_by)
    ds = calibrate(store, zero_peak="auto")
    # 7700 counts of the peak: its centroid is known to 0.025 channels of 10 eV.
    np.testing.assert_allclose(ds[schema.ENERGY][0], -0.47, rtol=0, atol=0.001)
    again = calibrate(store, zero_peak="auto")
    np.testing.assert_allclose(again[schema.ENERGY], ds[schema.ENERGY], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["P45_8bit_compressed_80keV_range.bcf", "P45_12bit_packed_8bit_compressed.bcf", "P45_the_default_job.bcf"]
)
def test_the_zero_peak_of_the_dacite_is_where_a_gaussian_fit_puts_it(tmp_path: Path, name: str) -> None:
    before = convert(real_data(name), tmp_path / "map.zarr")
    energy, spectrum = before[schema.ENERGY].values, before[schema.SUM_SPECTRUM].values.astype(float)
    ds = calibrate(tmp_path / "map.zarr", zero_peak="auto")
    scale = (energy[-1] - energy[0]) / (len(energy) - 1)
    shift = (ds[schema.ENERGY].values[0] - energy[0]) / scale
    # The microscope's own calibration is right to half a channel.
    assert abs(shift) < 0.5
    near = np.abs(energy) < 0.08
    channels = np.arange(len(energy))[near]
    start = (spectrum[near].max(), channels[spectrum[near].argmax()], 0.02 / scale)
    (_, centre, _), _ = curve_fit(gauss, channels, spectrum[near], start)
    assert ds[schema.ENERGY].values[0] / scale == pytest.approx(-centre, abs=0.05)


def test_a_map_that_starts_above_zero_has_no_zero_peak(tmp_path: Path) -> None:
    convert(real_data("88_ES-LP_G8_selection2_cropped2.hspy"), tmp_path / "map.zarr")
    before = digests(tmp_path)
    with pytest.raises(ParameterError, match=r"none within 0\.15 keV of 0 on an axis from 0\.8315 to 20 keV"):
        calibrate(tmp_path / "map.zarr", zero_peak="auto")
    assert digests(tmp_path) == before


def test_without_a_strobe_no_x_ray_line_is_taken_for_it(tmp_path: Path) -> None:
    rock = synthetic.rock((23, 29, 1024), counts_per_pixel=300, zero_peak=False)
    convert(rock, tmp_path / "map.zarr")
    with pytest.raises(ParameterError, match="zero_peak: found none"):
        calibrate(tmp_path / "map.zarr", zero_peak="auto")
    calibrate(tmp_path / "map.zarr", energy_offset=0)  # as of a file that states no offset
    with pytest.raises(ParameterError, match="no such peak in the first 128 channels"):
        calibrate(tmp_path / "map.zarr", zero_peak="auto")


def test_a_file_without_an_offset_gets_one(store: Path) -> None:
    calibrate(store, energy_offset=0)
    ds = calibrate(store, zero_peak="auto")
    np.testing.assert_allclose(ds[schema.ENERGY][0], -0.47, rtol=0, atol=0.001)


def test_a_peak_far_from_zero_is_named_but_not_taken(store: Path) -> None:
    calibrate(store, energy_offset=-0.2)
    with pytest.raises(ParameterError, match=r"but one at 0\.2\d* keV.*Fix: energy_offset=-0\.4[67]"):
        calibrate(store, zero_peak="auto")


@given(
    centre=st.floats(20, 110),
    sigma=st.floats(0.6, 4.5),
    height=st.floats(1e3, 1e7),
    above=st.floats(0, 0.01),
)
def test_the_centroid_is_that_of_the_gaussian(centre: float, sigma: float, height: float, above: float) -> None:
    channel = np.arange(500)
    continuum = above * height * (channel > centre + 5 * sigma)
    spectrum = np.round(gauss(channel, height, centre, sigma) + continuum).astype(np.uint64)
    assert zero_peak_channel(spectrum, scale=0.01, offset=None) == pytest.approx(centre, abs=0.02)


@pytest.mark.parametrize(
    "spectrum",
    [
        np.zeros(300),
        np.full(300, 1000.0),
        np.arange(300.0),
        gauss(np.arange(300), 20, 50, 2),  # so few counts that it may be chance
        gauss(np.arange(300), 1e5, 0, 2),  # cut by the start of the axis
        gauss(np.arange(300), 1e5, 50, 9),  # as wide as no electronics makes it
        gauss(np.arange(300), 1e5, 50, 2) + 4e3,  # on a continuum, as X-ray lines are
        np.where(np.arange(300) < 50, 0, 1e5 * np.exp(-(np.arange(300) - 50.0) / 3)),  # a noise edge, one-sided
        np.where(np.arange(300) == 299, 1e5, 0.0),
    ],
)
def test_what_is_no_zero_peak(spectrum: Array) -> None:
    for offset in (None, -0.5):
        with pytest.raises(ParameterError, match=r"^zero_peak: found no.*Fix: "):
            zero_peak_channel(spectrum, scale=0.01, offset=offset)

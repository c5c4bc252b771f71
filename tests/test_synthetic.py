"""The synthetic rock says what it draws, and draws the same for every choice of rows."""

from __future__ import annotations

import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import cKDTree

from eds_chunked.errors import ParameterError
from eds_chunked.kernels.poisson import alias_tables, draw_counts
from eds_chunked.kernels.sparse import Csr, concatenate, to_dense
from eds_chunked.synthetic import Rock, minerals, rock, texture

COARSE: dict[str, Any] = {"energy_scale": 0.2, "energy_offset": -0.2}
TINY = {"energy_scale": 0.3, "energy_offset": -0.3, "grain_size": 3.5}


def read(source: Rock, rows: int) -> Csr:
    return concatenate([band.counts for band in source.bands(rows)])  # type: ignore[misc]


def dense(source: Rock, rows: int = 16) -> np.ndarray[Any, Any]:
    return to_dense(read(source, rows), np.int64).reshape(source.header.shape)


def truth(source: Rock) -> np.ndarray[Any, Any]:
    """Expected counts of every pixel."""
    return source.mixture(0, source.header.shape[0]) @ source.spectra


# ------------------------------------------------------------------------------------------- the statistics
@pytest.mark.parametrize("counts", [3.0, 30.0, 900.0], ids=["few", "some", "many"])
@pytest.mark.parametrize("blur", [0.0, 0.8], ids=["sharp", "blurred"])
def test_counts_are_poisson_about_the_truth(counts: float, blur: float) -> None:
    source = rock((67, 131, 61), counts_per_pixel=counts, grain_size=9, blur=blur, brightness=(0.5, 2.2), **COARSE)
    expected, found = truth(source), dense(source)
    # Sums of Poisson numbers are Poisson numbers: of the map, of every channel of every phase, of every pixel.
    assert abs(found.sum() - expected.sum()) < 4.5 * np.sqrt(expected.sum())
    label = source.labels(0, 67)
    for phase in range(1, 5):
        of_phase = expected[label == phase].sum(axis=0)
        seen = of_phase > 25
        z2 = (found[label == phase].sum(axis=0) - of_phase)[seen] ** 2 / of_phase[seen]
        assert 1e-4 < stats.chi2.sf(z2.sum(), seen.sum()) < 1 - 1e-4
    total, mean = found.sum(axis=2), expected.sum(axis=2)
    dispersion = ((total - mean) ** 2 / mean).mean()
    assert abs(dispersion - 1) < 5 * np.sqrt((2 + 1 / mean.mean()) / total.size)


@pytest.mark.parametrize("mean", [0.2, 4.0, 9.99, 10.0, 60.0, 5000.0])
def test_totals_have_the_poisson_distribution(mean: float) -> None:
    n = 200_000
    cut, alias = alias_tables(np.ones((1, 2)))
    indptr, _, value = draw_counts(
        np.ones((n, 1)),
        y0=0,
        nx=500,
        seed=3,
        totals=np.array([mean]),
        cut=cut,
        alias=alias,
        capacity=2 * n + 2,
        channel_dtype=np.dtype(np.uint16),
        value_dtype=np.dtype(np.uint32),
    )
    total = np.diff(np.concatenate([[0], np.cumsum(value, dtype=np.int64)])[indptr])
    edges = np.unique(stats.poisson.ppf(np.linspace(0.02, 0.98, 25), mean))
    chance = np.diff(np.concatenate([[0], stats.poisson.cdf(edges, mean), [1]]))
    found = np.diff(np.concatenate([[0], np.searchsorted(np.sort(total), edges, side="right"), [n]]))
    keep = chance * n > 5
    assert stats.chisquare(found[keep], chance[keep] / chance[keep].sum() * found[keep].sum()).pvalue > 1e-4
    # Pixels are independent of their neighbours, on the row and across rows.
    z = (total - mean) / np.sqrt(mean)
    for lag in (1, 500):
        assert abs((z[:-lag] * z[lag:]).mean()) < 5 / np.sqrt(n)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1e3, allow_subnormal=False), min_size=1, max_size=67).filter(lambda w: sum(w) > 1e-3))
def test_alias_tables_hold_the_weights(weights: list[float]) -> None:
    row = np.array(weights)
    cut, alias = alias_tables(row[None])
    held = cut[0] / 2**32
    np.add.at(held, alias[0], 1 - cut[0] / 2**32)
    np.testing.assert_allclose(held / len(row), row / row.sum(), atol=1e-9)
    assert (cut[0][row == 0] == 0).all()
    assert row[alias[0][cut[0] < 2**32]].all()


def test_no_counts_where_none_are_expected() -> None:
    source = rock((23, 29, 113), zero_peak=False, beam_energy=10.0, **COARSE)
    energy = -0.2 + 0.2 * np.arange(113)
    spectrum = dense(source).sum(axis=(0, 1))
    assert spectrum[energy < -0.1].sum() == 0
    assert spectrum[energy > 10.1].sum() == 0
    assert spectrum[(energy > 0.4) & (energy < 9)].all()


# ----------------------------------------------------------------------------------------- always the same
@settings(max_examples=25, deadline=None)
@given(
    ny=st.integers(1, 19),
    nx=st.integers(1, 23),
    n_channels=st.sampled_from([7, 61, 64, 128]),
    rows=st.integers(1, 20),
    banded=st.booleans(),
    blur=st.sampled_from([0.0, 0.4, 1.3]),
    seed=st.integers(0, 2**64 - 1),
)
def test_rows_per_band_change_nothing(
    ny: int, nx: int, n_channels: int, rows: int, banded: bool, blur: float, seed: int
) -> None:
    source = rock(
        (ny, nx, n_channels),
        counts_per_pixel=25,
        texture="banded" if banded else "grains",
        blur=blur,
        one_pixel_mineral=True,
        seed=seed,
        **TINY,
    )
    bands = list(source.bands(rows))
    assert [(band.y0, band.rows) for band in bands] == [(y, min(rows, ny - y)) for y in range(0, ny, rows)]
    found, whole = read(source, rows), read(source, ny)
    for part, reference in zip(found[:3], whole[:3], strict=True):
        np.testing.assert_array_equal(part, reference)
    for view in (source.labels, source.grains, source.mixture):
        parts = np.concatenate([view(y, min(y + rows, ny)) for y in range(0, ny, rows)])
        np.testing.assert_array_equal(parts, view(0, ny))

    # A valid CSR: every pixel, channels rising, no zeros, within the dtype of the header.
    assert found.n_pixels == ny * nx
    assert found.value.dtype == source.header.dtype
    assert found.value.all()
    inner = np.ones(len(found.channel), bool)
    inner[found.indptr[:-1][np.diff(found.indptr) > 0]] = False
    assert (np.diff(found.channel.astype(int))[inner[1:]] > 0).all()
    assert (found.channel < n_channels).all()


def test_a_seed_gives_one_rock_and_two_give_two() -> None:
    shape = (37, 41, 61)
    first, again, other = (dense(rock(shape, seed=seed, **TINY)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert (first.sum(axis=2) != other.sum(axis=2)).mean() > 0.9
    assert (rock(shape, seed=5, **TINY).labels(0, 37) != rock(shape, seed=6, **TINY).labels(0, 37)).mean() > 0.4


def test_rows_of_pixels_differ() -> None:
    # A stream that forgot its row or its column would repeat itself.
    total = dense(rock((31, 43, 61), n_phases=1, **COARSE)).sum(axis=2)
    assert len({tuple(row) for row in total}) == 31
    assert len({tuple(column) for column in total.T}) == 43


def test_a_larger_rock_holds_the_smaller() -> None:
    small, large = rock((11, 13, 61), **TINY), rock((29, 31, 61), **TINY)
    np.testing.assert_array_equal(dense(large)[:11, :13], dense(small))


def test_a_low_capacity_changes_nothing() -> None:
    source = rock((13, 17, 61), counts_per_pixel=200, brightness=(0.5, 2.0), blur=0.7, **TINY)
    reference = read(source, 13)
    source._capacity = lambda expected: 61  # type: ignore[method-assign]
    for part, expected in zip(read(source, 13)[:3], reference[:3], strict=True):
        np.testing.assert_array_equal(part, expected)


def test_the_rock_travels_between_processes() -> None:
    source = rock((5, 7, 61), **TINY)
    np.testing.assert_array_equal(dense(pickle.loads(pickle.dumps(source))), dense(source))


# --------------------------------------------------------------------------------------------- the texture
def test_grains_are_the_voronoi_cells_of_their_points() -> None:
    # Many small cells: squares two away hold the nearest point for one pixel in 1e5.
    size, seed, ny, nx = 3.0, 0, 401, 397
    squares = np.arange(-5, 139)
    at_y, at_x = (squares[:, None] + 0 * squares).ravel(), (squares + 0 * squares[:, None]).ravel()
    point_y = (at_y + texture._fraction(texture._hash(seed, 1, at_y, at_x))) * size
    point_x = (at_x + texture._fraction(texture._hash(seed, 2, at_y, at_x))) * size
    pixels = np.stack(np.mgrid[:ny, :nx], axis=-1).reshape(-1, 2)
    _, nearest = cKDTree(np.stack([point_y, point_x], axis=1)).query(pixels)
    expected = texture.grain_number(at_y, at_x)[nearest].reshape(ny, nx)
    found = rock((ny, nx, 61), grain_size=size, seed=seed, **COARSE).grains(0, ny)
    np.testing.assert_array_equal(found, expected)


def test_every_grain_is_of_one_phase_and_phases_have_their_shares() -> None:
    source = rock((701, 997, 61), grain_size=11, n_phases=5, **COARSE)
    label, grain = source.labels(0, 701), source.grains(0, 701)
    numbers, first, index = np.unique(grain, return_index=True, return_inverse=True)
    np.testing.assert_array_equal(label.ravel()[first][index.reshape(grain.shape)], label)
    assert numbers.min() > 0
    assert grain.size / len(numbers) == pytest.approx(11**2, rel=0.05)
    share = np.bincount(label.ravel(), minlength=6)[1:] / label.size
    np.testing.assert_allclose(share, source.shares, atol=0.03)
    assert (np.diff(source.shares) < 0).all()


def test_bands_of_phases_lie_below_each_other() -> None:
    source = rock((101, 13, 61), texture="banded", n_phases=4, **COARSE)
    label = source.labels(0, 101)
    assert (label == label[:, :1]).all()
    assert (np.diff(label[:, 0].astype(int)) >= 0).all()
    np.testing.assert_allclose(np.bincount(label[:, 0])[1:] / 101, source.shares, atol=0.011)
    np.testing.assert_array_equal(source.grains(0, 101)[:, 0] - source.grains(0, 1)[0, 0], label[:, 0] - 1)


def test_blur_mixes_borders_only() -> None:
    shape = (83, 89, 61)
    sharp, soft = (rock(shape, grain_size=20, blur=blur, **COARSE) for blur in (0.0, 1.0))
    assert set(np.unique(sharp.mixture(0, 83))) == {0.0, 1.0}
    mixture = soft.mixture(0, 83)
    np.testing.assert_allclose(mixture.sum(axis=2), 1)
    pure = mixture.max(axis=2) > 0.999
    assert 0.3 < pure.mean() < 0.95
    np.testing.assert_array_equal(soft.labels(0, 83)[pure], sharp.labels(0, 83)[pure])
    assert (soft.labels(0, 83) == sharp.labels(0, 83)).mean() > 0.97


def test_blur_is_the_gaussian_filter_of_scipy() -> None:
    from scipy.ndimage import gaussian_filter

    soft, sharp = (rock((61, 67, 61), grain_size=9, blur=blur, **COARSE) for blur in (1.0, 0.0))
    expected = gaussian_filter(sharp.mixture(0, 61), (1.0, 1.0, 0), truncate=3.0)
    inside = slice(3, -3)
    np.testing.assert_allclose(soft.mixture(0, 61)[inside, inside], expected[inside, inside], atol=1e-12)


@pytest.mark.parametrize("texture_name", ["grains", "banded"])
def test_the_rare_mineral_is_one_pixel_large(texture_name: Any) -> None:
    shape = (43, 37, 128)
    plain, source = (
        rock(shape, counts_per_pixel=2000, texture=texture_name, blur=0.8, one_pixel_mineral=rare, **COARSE)
        for rare in (False, True)
    )
    label, y_x = source.labels(0, 43), source.rare_pixel
    assert source.phase_names[-1] == "chromite"
    assert len(source.spectra) == 5
    assert (label == 5).sum() == 1
    assert y_x is not None
    assert label[y_x] == 5
    assert (source.grains(0, 43) == source.grains(0, 43)[y_x]).sum() == 1
    elsewhere = label != 5
    np.testing.assert_array_equal(label[elsewhere], plain.labels(0, 43)[elsewhere])
    # The maximum-pixel spectrum finds it: no other pixel has chromium.
    counts = dense(source)
    chromium = round((5.415 + 0.2) / 0.2)
    assert np.unravel_index(counts[:, :, chromium].argmax(), (43, 37)) == y_x


# --------------------------------------------------------------------------------------------- the spectra
def test_peaks_are_at_their_lines_and_as_wide_as_the_detector_makes_them() -> None:
    source = rock((3, 5, 2048), n_phases=8, counts_per_pixel=1e5)
    energy = -0.47 + 0.01 * np.arange(2048)

    def height(name: str, at: float) -> float:
        spectrum = source.spectra[source.phase_names.index(name)]
        return float(spectrum[np.abs(energy - at).argmin()])

    for name, at, empty in [
        ("quartz", 1.740, 3.0),
        ("albite", 1.041, 3.0),
        ("K-feldspar", 3.313, 4.5),
        ("biotite", 6.403, 5.5),
        ("ilmenite", 4.510, 3.5),
        ("apatite", 2.013, 3.0),
        ("calcite", 3.691, 3.0),
        ("pyrite", 2.307, 3.0),
    ]:
        spectrum = source.spectra[source.phase_names.index(name)]
        near = np.abs(energy - at) < 0.06
        assert energy[near][spectrum[near].argmax()] == pytest.approx(at, abs=0.0051)
        assert height(name, at) > 4 * height(name, empty)
    assert height("quartz", 0.0) > 5 * height("quartz", 0.15)
    shape = minerals.peak(1.740, energy - 0.005 + np.zeros(2048))
    wide = energy[:-1][shape > shape.max() / 2]
    assert wide[-1] - wide[0] == pytest.approx(0.0806, abs=0.011)


@pytest.mark.filterwarnings("ignore")  # of HyperSpy, while it is imported
def test_elements_lines_and_resolution_are_those_of_exspy() -> None:
    from exspy._misc.eds.utils import get_FWHM_at_Energy
    from exspy.material import elements

    for symbol, element in minerals.ELEMENTS.items():
        reference = elements[symbol]
        assert element.number == reference["General_properties"]["Z"]
        assert element.weight == pytest.approx(reference["General_properties"]["atomic_weight"], abs=0.01)
        for name, energy, _ in element.lines:
            line = reference["Atomic_properties"]["Xray_lines"][name]
            assert energy == pytest.approx(line["energy (keV)"], abs=0.006)
    for energy in (0.0, 0.525, 1.740, 6.403, 15.0):
        assert float(minerals.fwhm(energy)) == pytest.approx(get_FWHM_at_Energy(130, energy), rel=1e-3)


def test_expected_totals() -> None:
    even = rock((3, 5, 2048), counts_per_pixel=400)
    np.testing.assert_allclose(even.spectra.sum(axis=1), 400)
    uneven = rock((3, 5, 2048), counts_per_pixel=400, brightness=(0.5, 2.2), zero_peak=False)
    np.testing.assert_allclose(uneven.spectra.sum(axis=1), 400 * np.linspace(0.5, 2.2, 4))
    strobe = even.spectra - rock((3, 5, 2048), counts_per_pixel=380, zero_peak=False).spectra
    np.testing.assert_allclose(strobe.sum(axis=1), 20)
    assert (np.abs((-0.47 + 0.01 * np.arange(2048))[strobe[0] > 1e-3]) < 0.2).all()


def test_header_and_image_describe_the_rock() -> None:
    source = rock((31, 37, 2048), n_phases=6, pixel_size=(0.5, 0.25), energy_scale=0.005, beam_energy=7.0)
    header = source.header
    assert header.shape == (31, 37, 2048)
    assert (header.energy_scale, header.energy_offset, header.beam_energy) == (0.005, -0.47, 7.0)
    assert header.pixel_size == (0.5, 0.25)
    assert {"Si", "K", "Fe", "Ca", "P"} <= set(header.elements)
    assert "quartz" in header.title
    assert "Fe_Ka" in source.lines[3]
    assert "Fe_Kb" not in source.lines[3]
    (image,) = source.images()
    assert image.pixels.shape == (31, 37)
    label = source.labels(0, 31)
    levels = [np.unique(image.pixels[label == phase]) for phase in np.unique(label)]
    assert all(len(level) == 1 for level in levels)


@pytest.mark.parametrize(("counts", "dtype"), [(20, np.uint8), (5000, np.uint16), (2e8, np.uint32)])
def test_dtype_holds_the_counts(counts: float, dtype: type) -> None:
    source = rock((3, 5, 128), counts_per_pixel=counts, **COARSE)
    assert source.header.dtype == dtype
    if counts < 1e6:
        assert dense(source).sum() == pytest.approx(truth(source).sum(), rel=0.5)


def test_no_counts_at_all() -> None:
    source = rock((5, 7, 61), counts_per_pixel=0, **COARSE)
    assert dense(source).sum() == 0
    assert source.header.dtype == np.uint8


# ---------------------------------------------------------------------------------------------- the memory
@pytest.mark.parametrize("blur", [0.0, 1.2])
def test_memory_is_that_of_a_band(blur: float) -> None:
    def peak(ny: int) -> tuple[int, int]:
        source = rock((ny, 401, 512), counts_per_pixel=600, energy_scale=0.04, blur=blur, grain_size=13)
        tracemalloc.start()
        for band in source.bands(31):
            assert band.rows
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found, source.peak_bytes(31)

    peak(31)
    (low, _), (high, promised) = peak(93), peak(372)
    assert high < 1.1 * low
    assert high < promised < 2 * high


# -------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"n_phases": 0}, "n_phases"),
        ({"n_phases": 9}, "the minerals known"),
        ({"n_phases": 2.5}, "n_phases"),
        ({"shape": (0, 5, 61)}, "shape"),
        ({"shape": (5, 5, -1)}, "shape"),
        ({"shape": (5, 5)}, "shape"),
        ({"counts_per_pixel": -1}, "counts_per_pixel"),
        ({"counts_per_pixel": float("nan")}, "counts_per_pixel"),
        ({"grain_size": 0}, "grain_size"),
        ({"blur": -0.5}, "blur"),
        ({"texture": "stripes"}, "'grains' or 'banded'"),
        ({"brightness": (2.0, 0.5)}, "brightness"),
        ({"brightness": (0.0, 0.5)}, "brightness"),
        ({"pixel_size": (1.0, 0.0)}, "pixel width"),
        ({"energy_scale": 0.0}, "energy_scale"),
        ({"beam_energy": float("inf")}, "beam_energy"),
        ({"seed": -1}, "seed"),
        ({"energy_offset": 30.0}, "energy range"),
        ({"energy_offset": -90.0}, "energy range"),
    ],
)
def test_bad_parameters_are_named(wrong: dict[str, Any], match: str) -> None:
    parameters: dict[str, Any] = {"shape": (5, 7, 61), **COARSE, **wrong}
    with pytest.raises(ParameterError, match=match):
        rock(parameters.pop("shape"), **parameters)


def test_bad_rows_are_named() -> None:
    source = rock((5, 7, 61), **COARSE)
    with pytest.raises(ParameterError, match="rows"):
        next(source.bands(0))
    for view in (source.labels, source.grains, source.mixture):
        with pytest.raises(ParameterError, match="0:5"):
            view(3, 6)


# -------------------------------------------------------------------------------- area shares, fluctuating strobe
def test_phases_cover_the_shares_that_were_asked_for() -> None:
    source = rock((301, 307, 61), n_phases=3, shares=(3, 1, 0.01), grain_size=2.0, energy_scale=0.2)
    area = np.bincount(source.labels(0, 301).ravel(), minlength=4)[1:] / (301 * 307)
    expected = np.array([3, 1, 0.01]) / 4.01
    np.testing.assert_allclose(source.shares, expected)
    # A grain is four pixels.
    np.testing.assert_array_less(abs(area - expected), 5 * np.sqrt(expected / (301 * 307 / 4)))
    assert source.header.metadata["synthetic"]["shares"] == [3, 1, 0.01]


@pytest.mark.parametrize("counts", [30.0, 900.0])
def test_strobe_fluctuates_by_what_was_asked_for_and_the_rest_does_not(counts: float) -> None:
    given: dict[str, Any] = {"counts_per_pixel": counts, "grain_size": 9, "brightness": (0.5, 2.2), **COARSE}
    steady, source = rock((67, 131, 61), **given), rock((67, 131, 61), strobe_fluctuation=0.4, **given)
    np.testing.assert_array_equal(source.spectra, steady.spectra)
    energy = -0.2 + 0.2 * np.arange(61)
    strobe = abs(energy) < 0.1
    found, expected = dense(source), truth(source)
    assert abs(found.sum() - expected.sum()) < 5 * np.sqrt(expected.sum() + (0.4 * 0.05 * counts) ** 2 * 67 * 131)
    for channels, excess in ((strobe, 0.4**2), (energy > 0.4, 0.0)):
        total, mean = found[..., channels].sum(axis=2), expected[..., channels].sum(axis=2)
        # Over Poisson's, the variance that the expectation itself has.
        relative = (((total - mean) ** 2 - mean) / mean**2).mean()
        spread = np.sqrt((2 / mean**2 + 1 / mean**3 + 6 * excess / mean + excess**2).mean() / total.size)
        assert abs(relative - excess) < 5 * spread + 1e-9


def test_a_strobe_that_fluctuates_is_the_same_for_every_choice_of_rows() -> None:
    source = rock((19, 23, 61), counts_per_pixel=200, strobe_fluctuation=0.5, blur=0.8, seed=3, **TINY)
    for part, reference in zip(read(source, 4)[:3], read(source, 19)[:3], strict=True):
        np.testing.assert_array_equal(part, reference)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"shares": (1, 2)}, "shares: found .* expected 4 numbers above 0"),
        ({"shares": (1, 2, 0, 1)}, "shares: found"),
        ({"strobe_fluctuation": 0.7}, "strobe_fluctuation: found 0.7, expected a number from 0 to 0.57"),
    ],
)
def test_shares_and_fluctuations_out_of_range(given: dict[str, Any], match: str) -> None:
    with pytest.raises(ParameterError, match=match):
        rock((7, 11, 61), **given)

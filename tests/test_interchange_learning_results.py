"""Learning results as files: HyperSpy reads ours and we read HyperSpy's, and nothing that a file says is believed."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings

import eds_chunked as edc
from eds_chunked import memory, schema
from eds_chunked.cli import main
from eds_chunked.errors import (
    ChunkLayoutError,
    MemoryBudgetError,
    ParameterError,
    SourceError,
    SourceNotFoundError,
    StoreExistsError,
)
from eds_chunked.interchange import npz
from tests.decomposition_maps import as_map, made_counts, ragged_chunks
from tests.hyperspy_api import exspy, hs
from tests.made_maps import MadeReader

Array = np.ndarray[Any, Any]

SHAPE = (7, 11, 61)
N_PIXELS = SHAPE[0] * SHAPE[1]
COUNTS = made_counts(SHAPE, dose=200)
MAP = as_map(COUNTS)


def made_result(k: int = 3, *, shape: tuple[int, int, int] = SHAPE, chunks: Any = None) -> xr.Dataset:
    """A result whose numbers are all different; no spectrum or map is like another."""
    height, width, n_channels = shape
    loadings = np.arange(k * height * width, dtype=np.float32).reshape(k, height, width) ** 1.5
    factors = (1 + np.arange(k * n_channels, dtype=np.float64)).reshape(k, n_channels) ** -0.7
    result = as_map(np.zeros(shape, np.uint8)).drop_vars(schema.COUNTS)
    result[schema.FACTORS] = schema.VARIABLES[schema.FACTORS].dims, factors
    result[schema.LOADINGS] = schema.VARIABLES[schema.LOADINGS].dims, loadings
    result = result.assign_coords({schema.COMPONENT: np.arange(1, k + 1)})
    if chunks is not None:
        result[schema.LOADINGS] = result[schema.LOADINGS].chunk(chunks)
    return result.assign_attrs({schema.STEP: schema.NMF, schema.PARAMETERS: {"noise": "poisson"}})


def decomposed(
    algorithm: str = "SVD", *, lazy: bool = False, masked: bool = False, poisson: bool = True, **options: Any
) -> Any:
    """The map as HyperSpy decomposes it."""
    signal = exspy.signals.EDSSEMSpectrum(COUNTS.astype(np.float64))
    if lazy:
        signal = signal.as_lazy()
    if masked:
        mask = np.zeros(SHAPE[:2], np.bool_)
        mask[2, 3:9] = mask[6, 0] = True
        options |= {"navigation_mask": hs.signals.BaseSignal(mask).T, "signal_mask": np.arange(SHAPE[2]) % 13 == 4}
    if algorithm == "NMF":
        options = {"max_iter": 2000, "init": "nndsvda"} | options
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Maximum number of iterations")
        signal.decomposition(poisson, algorithm=algorithm, output_dimension=3, print_info=False, **options)
    return signal


def saved(signal: Any, path: Path) -> dict[str, Array]:
    signal.learning_results.save(path, overwrite=True)
    with np.load(path, allow_pickle=True) as file:  # written a line above
        return {name: file[name] for name in file}


def read(path: Path, ds: xr.Dataset = MAP, **options: Any) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*left out members", category=UserWarning)
        return edc.read_learning_results(ds, path, **options)


def as_hyperspy(result: xr.Dataset) -> Array:
    loadings = result[schema.LOADINGS].values
    return loadings.reshape(len(loadings), -1).T


# -------------------------------------------------------------------------------------------------- writing
@pytest.mark.parametrize("step", ["pca", "nmf"])
def test_members_have_the_names_and_shapes_of_hyperspy(tmp_path: Path, step: str) -> None:
    theirs = saved(decomposed("SVD" if step == "pca" else "NMF"), tmp_path / "theirs.npz")
    result = edc.pca(MAP, n_components=3) if step == "pca" else edc.nmf(MAP, n_components=3)
    edc.write_learning_results(result, tmp_path / "ours.npz")
    with np.load(tmp_path / "ours.npz", allow_pickle=False) as file:
        ours = {name: file[name] for name in file}
    assert set(ours) == {name for name, value in theirs.items() if value.dtype != object}
    for name, value in ours.items():
        assert value.dtype.kind == theirs[name].dtype.kind
        # Of the eigenvalues left out, too: as HyperSpy has it where all were found and some kept.
        if name != "explained_variance_ratio":
            assert value.shape == theirs[name].shape, name
    for name in ("decomposition_algorithm", "output_dimension", "poissonian_noise_normalized", "original_shape"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    if step == "pca":
        exact = saved(decomposed("SVD", svd_solver="full"), tmp_path / "theirs.npz")
        np.testing.assert_allclose(ours["explained_variance"], exact["explained_variance"], rtol=1e-5)
        every = exspy.signals.EDSSEMSpectrum(COUNTS.astype(np.float64))
        every.decomposition(True, print_info=False)
        np.testing.assert_allclose(
            ours["explained_variance_ratio"], every.learning_results.explained_variance_ratio, rtol=1e-5, atol=1e-12
        )


@pytest.mark.parametrize("lazy", [False, True])
def test_hyperspy_loads_it_and_has_the_same_model(tmp_path: Path, lazy: bool) -> None:
    result = made_result(chunks={"y": 3, "x": 4})
    path = edc.write_learning_results(result, tmp_path / "k3.npz")
    signal = exspy.signals.EDSSEMSpectrum(COUNTS.astype(np.float64))
    signal = signal.as_lazy() if lazy else signal
    signal.learning_results.load(path)
    model = np.asarray(signal.get_decomposition_model().data)
    np.testing.assert_allclose(model, edc.reconstruct(result).values, rtol=1e-5)
    np.testing.assert_array_equal(signal.get_decomposition_loadings().data, result[schema.LOADINGS])
    np.testing.assert_array_equal(signal.get_decomposition_factors().data, result[schema.FACTORS])
    assert signal.learning_results.decomposition_algorithm == "NMF"
    assert signal.learning_results.poissonian_noise_normalized is True


def test_what_was_left_out_is_nan_and_masked(tmp_path: Path) -> None:
    pixels = np.zeros(SHAPE[:2], np.bool_)
    pixels[2, 3:9] = True
    part = edc.exclude(MAP, pixels=pixels, energy=[(0.3, 0.4)])
    result = edc.nmf(part, n_components=2)
    path = edc.write_learning_results(result, tmp_path / "masked.npz")
    with np.load(path) as file:
        np.testing.assert_array_equal(file["navigation_mask"], pixels)
        np.testing.assert_array_equal(np.isnan(file["loadings"]).all(axis=1), pixels.ravel())
        assert file["signal_mask"].sum() == (~part[schema.ANALYSED_CHANNEL]).sum() > 0
        np.testing.assert_array_equal(np.isnan(file["factors"]).all(axis=1), file["signal_mask"])
    xr.testing.assert_equal(
        read(path)[[schema.FACTORS, schema.LOADINGS]].load(), result[[schema.FACTORS, schema.LOADINGS]].load()
    )


@given(chunks=ragged_chunks((7, 11, 3)))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_same_file_for_every_chunking(tmp_path: Path, chunks: Any) -> None:
    plain = edc.write_learning_results(made_result(), tmp_path / "plain.npz", overwrite=True)
    lazy = made_result(chunks=dict(zip(("y", "x", "component"), chunks, strict=True)))
    edc.write_learning_results(lazy, tmp_path / "lazy.npz", overwrite=True)
    with np.load(plain) as left, np.load(tmp_path / "lazy.npz") as right:
        assert sorted(left) == sorted(right)
        for name in left:
            np.testing.assert_array_equal(left[name], right[name], strict=True)


def test_loadings_pass_in_pieces_as_large_as_the_budget_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = made_result(shape=(701, 997, 5), chunks={"y": 256, "x": 256})
    pieces: list[int] = []
    whole = npz.write_npz

    def noted(path: Path, members: Any) -> None:
        rows = members["loadings"]
        kept = [piece for piece in rows.pieces if pieces.append(len(piece)) is None]
        whole(path, members | {"loadings": npz.Rows(rows.shape, rows.dtype, kept)})

    monkeypatch.setattr("eds_chunked.interchange.learning_results.write_npz", noted)
    monkeypatch.setattr(memory, "resident", lambda: 100 * memory.MB)
    edc.write_learning_results(result, tmp_path / "wide.npz", memory="1GB")
    assert set(pieces[:-1]) == {256 * 997}
    pieces.clear()
    edc.write_learning_results(result, tmp_path / "narrow.npz", memory="190MB")
    assert max(pieces) < 256 * 997
    with np.load(tmp_path / "wide.npz") as left, np.load(tmp_path / "narrow.npz") as right:
        np.testing.assert_array_equal(left["loadings"], right["loadings"])
    with pytest.raises(MemoryBudgetError, match="memory for learning results"):
        edc.write_learning_results(result, tmp_path / "none.npz", memory="150MB")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "narrow.npz", tmp_path / "wide.npz"]


def test_memory_is_flat_in_the_size_of_the_map(tmp_path: Path) -> None:
    program = """
import sys
import dask.array as da, numpy as np, xarray as xr
import eds_chunked as edc
from eds_chunked import memory
height, width, k = 1200, 1800, 12
loadings = da.ones((k, height, width), chunks=(k, 256, 256), dtype="f4")
grid = {"y": np.arange(height), "x": np.arange(width), "energy": np.arange(16) / 50}
result = xr.Dataset(
    {"factors": (("component", "energy"), np.ones((k, 16))), "loadings": (("component", "y", "x"), loadings)}, grid
)
ds = xr.Dataset({"counts": (("y", "x", "energy"), da.zeros((height, width, 16), dtype="u1"))}, grid)
edc.write_learning_results, edc.read_learning_results
memory.return_freed_memory_to_the_system()
idle = memory.resident()
path = edc.write_learning_results(result, sys.argv[1], memory=idle + 200 * memory.MB)
written = memory.peak_resident() - idle
edc.read_learning_results(ds, path)
print(path.stat().st_size, written, memory.peak_resident() - idle)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "large.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    size, written, read_too = map(int, done.stdout.split())
    assert size > 100 * memory.MB
    assert written < 200 * memory.MB
    # Reading needs a fixed amount: some 20 MB of loadings and their copies, and no part that grows with the file.
    assert read_too < max(written, 60 * memory.MB)


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    result = made_result()
    with pytest.raises(ParameterError, match=r"suffix '\.txt', expected \.npz"):
        edc.write_learning_results(result, tmp_path / "k3.txt")
    with pytest.raises(ParameterError, match="no folder"):
        edc.write_learning_results(result, tmp_path / "none" / "k3.npz")
    (tmp_path / "k3.npz").write_text("mine")
    with pytest.raises(StoreExistsError, match="--overwrite"):
        edc.write_learning_results(result, tmp_path / "k3.npz")
    assert (tmp_path / "k3.npz").read_text() == "mine"
    edc.write_learning_results(result, tmp_path / "k3.npz", overwrite=True)
    with pytest.raises(ChunkLayoutError, match="'factors'"):
        edc.write_learning_results(MAP, tmp_path / "map.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["k3.npz"]


# -------------------------------------------------------------------------------------------------- reading
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("algorithm", "lazy"), [("SVD", False), ("SVD", True), ("NMF", False)])
def test_what_hyperspy_saved_is_read(tmp_path: Path, algorithm: str, lazy: bool, masked: bool) -> None:
    theirs = saved(decomposed(algorithm, lazy=lazy, masked=masked), tmp_path / "theirs.npz")
    result = read(tmp_path / "theirs.npz")
    np.testing.assert_array_equal(result[schema.FACTORS].values.T, theirs["factors"])
    np.testing.assert_allclose(as_hyperspy(result), theirs["loadings"], rtol=1e-7)
    assert result.attrs[schema.STEP] == ("pca" if algorithm == "SVD" else "nmf")
    assert result.attrs[schema.RUN] == "hs3"
    assert result.attrs[schema.PARAMETERS]["noise"] == "poisson"
    if algorithm == "SVD":
        np.testing.assert_array_equal(result[schema.EXPLAINED_VARIANCE], theirs["explained_variance"])
        np.testing.assert_array_equal(result[schema.EXPLAINED_VARIANCE_RATIO], theirs["explained_variance_ratio"])
        assert "as HyperSpy states it" in result[schema.EXPLAINED_VARIANCE_RATIO].attrs["long_name"]
    if masked:
        left_out = theirs["navigation_mask"].reshape(SHAPE[:2])
        assert left_out.sum() == 7
        np.testing.assert_array_equal(~result[schema.ANALYSED_PIXEL], left_out)
        np.testing.assert_array_equal(~result[schema.ANALYSED_CHANNEL], theirs["signal_mask"])
    else:
        assert schema.ANALYSED_PIXEL not in result.coords


def test_the_model_of_what_was_read_is_hyperspys(tmp_path: Path) -> None:
    signal = decomposed("NMF")
    saved(signal, tmp_path / "theirs.npz")
    model = edc.reconstruct(read(tmp_path / "theirs.npz"))
    np.testing.assert_allclose(model, signal.get_decomposition_model().data, rtol=1e-5, atol=1e-6)


def test_pixels_that_were_projected_keep_their_loadings(tmp_path: Path) -> None:
    # HyperSpy 2.5 cannot scale and project together.
    theirs = saved(decomposed(masked=True, reproject="navigation", poisson=False), tmp_path / "theirs.npz")
    result = read(tmp_path / "theirs.npz")
    assert np.isfinite(result[schema.LOADINGS].values).all()
    np.testing.assert_array_equal(~result[schema.ANALYSED_PIXEL].values.ravel(), theirs["navigation_mask"].ravel())


def test_all_eigenvalues_come_back_from_a_cropped_decomposition(tmp_path: Path) -> None:
    signal = exspy.signals.EDSSEMSpectrum(COUNTS.astype(np.float64))
    signal.decomposition(True, print_info=False)
    eigenvalues = signal.learning_results.explained_variance.copy()
    signal.learning_results.crop_decomposition_dimension(3)
    saved(signal, tmp_path / "cropped.npz")
    result = read(tmp_path / "cropped.npz")
    np.testing.assert_allclose(result[schema.EIGENVALUES], eigenvalues, rtol=1e-12, atol=1e-18)
    assert result.sizes[schema.COMPONENT] == 3
    assert result[schema.EXPLAINED_VARIANCE_RATIO].attrs["long_name"].startswith("share of the true total")
    ours = edc.pca(MAP, n_components=3)
    np.testing.assert_allclose(
        result[schema.EXPLAINED_VARIANCE_RATIO], ours[schema.EXPLAINED_VARIANCE_RATIO], rtol=1e-5
    )


def test_a_source_separation_is_read(tmp_path: Path) -> None:
    signal = decomposed("SVD")
    signal.blind_source_separation(number_of_components=2, algorithm="orthomax", print_info=False)
    theirs = saved(signal, tmp_path / "bss.npz")
    result = read(tmp_path / "bss.npz", results="bss")
    np.testing.assert_array_equal(result[schema.FACTORS].values.T, theirs["bss_factors"])
    np.testing.assert_allclose(as_hyperspy(result), theirs["bss_loadings"], rtol=1e-7)
    assert (result.attrs[schema.STEP], result.attrs[schema.RUN]) == ("decompose", "hs2")
    assert read(tmp_path / "bss.npz").sizes[schema.COMPONENT] == 3
    saved(decomposed("SVD"), tmp_path / "bss.npz")
    with pytest.raises(ParameterError, match=r"no bss_factors and no bss_loadings.*blind_source_separation"):
        read(tmp_path / "bss.npz", results="bss")
    with pytest.raises(ParameterError, match="'decomposition' or 'bss'"):
        read(tmp_path / "bss.npz", results="ica")


def numbers(k: int = 3) -> tuple[Array, Array]:
    result = made_result(k)
    return result[schema.FACTORS].values.T, as_hyperspy(result)


@pytest.mark.parametrize(
    "names",
    [
        {"pc": "factors", "v": "loadings", "V": "explained_variance", "pca_algorithm": "decomposition_algorithm"},
        {"factors": "factors", "scores": "loadings", "algorithm": "decomposition_algorithm"},
        {"factors": "factors", "pc": "loadings", "variance2one": None, "centered": None},
        {"ica_factors": "bss_factors", "ica_scores": "bss_loadings", "ica_algorithm": "bss_algorithm", "w": None},
    ],
)
def test_names_of_earlier_versions_are_known(tmp_path: Path, names: dict[str, str | None]) -> None:
    factors, loadings = numbers()
    values = {
        **{"factors": factors, "loadings": loadings, "explained_variance": np.array([3.0, 2.0, 1.0])},
        **{"decomposition_algorithm": np.array("svd"), "bss_factors": factors, "bss_loadings": loadings},
        **{"bss_algorithm": np.array("CuBICA"), None: np.array(1.0)},
    }
    path = tmp_path / "early.npz"
    np.savez(path, **{early: values[today] for early, today in names.items()})  # type: ignore[arg-type]
    bss = "ica_factors" in names
    result = edc.read_learning_results(MAP, path, results="bss" if bss else "decomposition")
    np.testing.assert_array_equal(result[schema.FACTORS].values.T, factors)
    np.testing.assert_array_equal(as_hyperspy(result), loadings)
    if "V" in names:
        np.testing.assert_array_equal(result[schema.EXPLAINED_VARIANCE], [3, 2, 1])
        np.testing.assert_allclose(result[schema.EXPLAINED_VARIANCE_RATIO], [1 / 2, 1 / 3, 1 / 6])
    if not bss:  # HyperSpy agrees
        signal = exspy.signals.EDSSEMSpectrum(COUNTS.astype(np.float64))
        signal.learning_results.load(path)
        if "pc" not in names or names["pc"] == "loadings":
            np.testing.assert_array_equal(signal.learning_results.loadings, loadings)


@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", "<i4"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_any_order_and_type_of_numbers(tmp_path: Path, save: Any, order: str, dtype: str) -> None:
    factors, loadings = numbers()
    stored = np.asarray(loadings, dtype, order=order)
    save(tmp_path / "any.npz", factors=np.asarray(factors, order=order), loadings=stored)
    result = read(tmp_path / "any.npz")
    np.testing.assert_array_equal(as_hyperspy(result), stored.astype(np.float32))
    assert result[schema.LOADINGS].chunks is not None
    assert result[schema.LOADINGS].dtype == np.float32


def test_one_warning_lists_what_is_no_number(tmp_path: Path) -> None:
    theirs = saved(decomposed("NMF"), tmp_path / "theirs.npz")
    with pytest.warns(UserWarning, match="left out members that are Python objects") as caught:
        edc.read_learning_results(MAP, tmp_path / "theirs.npz")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    for name, value in theirs.items():
        assert (f" {name}" in str(caught[0].message).replace(",", " ")) == (value.dtype == object), name


def test_our_own_file_is_read_without_a_warning(tmp_path: Path) -> None:
    result = edc.pca(MAP, n_components=4)
    edc.write_learning_results(result, tmp_path / "ours.npz")
    back = edc.read_learning_results(MAP, tmp_path / "ours.npz", name="again")
    for name in (schema.FACTORS, schema.LOADINGS, schema.EXPLAINED_VARIANCE):
        np.testing.assert_array_equal(back[name], result[name])
    for name in (schema.EXPLAINED_VARIANCE_RATIO, schema.EIGENVALUES):
        np.testing.assert_allclose(back[name], result[name], rtol=1e-12)
    assert back.attrs[schema.RUN] == "again"


def test_centred_results_without_their_mean_have_no_model(tmp_path: Path) -> None:
    signal = exspy.signals.EDSSEMSpectrum(COUNTS.astype(np.float64))
    signal.decomposition(centre="navigation", output_dimension=3, print_info=False)
    theirs = saved(signal, tmp_path / "centred.npz")
    np.savez(tmp_path / "without.npz", **{name: theirs[name] for name in ("factors", "loadings", "centre")})
    result = read(tmp_path / "without.npz")
    np.testing.assert_allclose(as_hyperspy(result), theirs["loadings"], rtol=1e-6)
    with pytest.raises(ParameterError, match="model"):
        edc.reconstruct(result)


# ------------------------------------------------------------------------------------------ what may be wrong
def test_results_of_another_map_are_refused(tmp_path: Path) -> None:
    factors, loadings = numbers()
    good = {"factors": factors, "loadings": loadings}
    path = tmp_path / "wrong.npz"

    def refused(match: str, **changed: Any) -> None:
        np.savez(path, **(good | changed))
        with pytest.raises(ChunkLayoutError, match=match):
            edc.read_learning_results(MAP, path)

    refused(r"factors in .*shape \(60, 3\), expected \(61 channels, 3 components\).*--energy", factors=factors[1:])
    refused(r"loadings in .*shape \(76, 3\).*\(77 pixels, 3 components\) for a map of 7 x 11", loadings=loadings[1:])
    refused(r"loadings in .*shape \(77, 2\)", loadings=loadings[:, :2])
    refused(r"loadings in .*shape \(3, 77\)", loadings=loadings.T)
    refused(r"factors in .*1 to 61 components", factors=factors[:, 0])
    refused(r"factors in .*1 to 61 components", factors=factors[:, :0], loadings=loadings[:, :0])
    refused(r"factors in .*1 to 61 comp", factors=np.zeros((61, 62)), loadings=np.zeros((77, 62)))
    refused(r"navigation_mask in .*shape \(11, 7\), expected \(7 rows, 11 ", navigation_mask=np.zeros((11, 7), bool))
    refused(r"signal_mask in .*shape \(60,\)", signal_mask=np.zeros(60, bool))
    refused(r"explained_variance in .*shape \(2,\), expected 3 to 61 values", explained_variance=np.ones(2))
    with pytest.raises(ChunkLayoutError, match="'counts'"):
        edc.read_learning_results(MAP.drop_vars(schema.COUNTS), path)


def test_values_that_cannot_be_are_refused(tmp_path: Path) -> None:
    factors, loadings = numbers()
    good = {"factors": factors, "loadings": loadings}
    path = tmp_path / "wrong.npz"

    def refused(match: str, error: type[Exception] = ParameterError, **changed: Any) -> None:
        np.savez(path, **(good | changed))
        with pytest.raises(error, match=match):
            read(path)

    infinite = loadings.copy()
    infinite[13, 1] = np.inf
    refused("loadings in .*infinite value at pixel y=1, x=2", loadings=infinite)
    refused("loadings in .*infinite value at pixel y=0, x=0", loadings=np.full((77, 3), 1e300))
    refused("factors in .*infinite value at channel 4", factors=np.where(np.arange(61)[:, None] == 4, -np.inf, factors))
    refused("no pixel that is not masked", loadings=np.full_like(loadings, np.nan))
    refused("no channel that is not masked", signal_mask=np.ones(61, bool))
    refused("no loadings", loadings=loadings.astype(complex))
    refused("no factors", factors=factors.astype(object))
    refused("factors in .*bool values", SourceError, factors=factors > 0)
    refused("navigation_mask in .*float64 values", SourceError, navigation_mask=np.zeros((7, 11)))
    refused(
        r"poissonian_noise_normalized in .*bool values of shape \(2,\)",
        SourceError,
        poissonian_noise_normalized=np.array([True, False]),
    )


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    factors, loadings = numbers()
    trap = tmp_path / "sprung"
    np.savez(tmp_path / "evil.npz", factors=factors, loadings=loadings, mean=np.array(Trap(trap), object))
    with pytest.warns(UserWarning, match="mean"):
        edc.read_learning_results(MAP, tmp_path / "evil.npz")
    assert not trap.exists()
    pickle.loads(pickle.dumps(Trap(trap))).close()  # the trap works
    assert trap.exists()


def header(shape: tuple[int, ...], descr: str = "<f8", *, version: tuple[int, int] = (1, 0), pad: int = 0) -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode() + b" " * pad + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text


def zipped(path: Path, members: dict[str, bytes], *, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def npy(values: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (header((10**9, 3)) + b"\0" * 10**7, "10000.* bytes for 1000000000 x 3 values"),
        (header((77, 3)) + b"\0" * 10**7, "bytes for 77 x 3 values"),
        (header((77, 3)) + b"\0" * 8, "bytes for 77 x 3 values"),
        (header((-77, 3)), "bytes for -77 x 3"),
        (header((77, 3), "<f99999999"), "no header of an array"),
        (header((77, 3), version=(2, 0), pad=10**7), "no header of an array"),
        (header((77, 3), version=(9, 9)), "no header of an array"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 10**7, "no header of an array"),
        (b"\x93NUMPY\x01\x00\xff\x7f" + b"(" * 2**15, "no header of an array"),
        (b"", "no header of an array"),
    ],
)
def test_members_that_lie_are_refused_before_they_are_inflated(
    tmp_path: Path, content: bytes, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors, _ = numbers()
    path = zipped(tmp_path / "bomb.npz", {"factors.npy": npy(factors), "loadings.npy": content})

    def inflated(*arguments: Any) -> None:
        raise AssertionError("values were read")

    monkeypatch.setattr(npz.NpzFile, "read", inflated)
    monkeypatch.setattr(npz.NpzFile, "mapped", inflated)
    with pytest.raises(SourceError, match=f"loadings in .*{match}"):
        edc.read_learning_results(MAP, path)


def test_every_truncation_and_every_damaged_byte_is_told(tmp_path: Path) -> None:
    factors, loadings = numbers()
    whole = tmp_path / "whole.npz"
    np.savez_compressed(whole, factors=factors, loadings=loadings)
    content = whole.read_bytes()
    path = tmp_path / "damaged.npz"
    for length in range(0, len(content) - 1, 37):
        path.write_bytes(content[:length])
        with pytest.raises(SourceError, match=r"no \.npz, or only a part of one"):
            edc.read_learning_results(MAP, path)
    right = read(whole)
    rng = np.random.default_rng(0)
    told = 0
    for place in rng.integers(0, len(content), 150):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = edc.read_learning_results(MAP, path)
        except (SourceError, ParameterError):
            told += 1
        else:  # dates, attributes and the like
            np.testing.assert_array_equal(found[schema.LOADINGS], right[schema.LOADINGS])
            np.testing.assert_array_equal(found[schema.FACTORS], right[schema.FACTORS])
    assert told > 100


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="no file"):
        edc.read_learning_results(MAP, tmp_path / "none.npz")
    with pytest.raises(SourceNotFoundError, match="no file"):
        edc.read_learning_results(MAP, tmp_path)
    (tmp_path / "text.npz").write_text("no results")
    with pytest.raises(SourceError, match=r"no \.npz"):
        edc.read_learning_results(MAP, tmp_path / "text.npz")
    with pytest.raises(ParameterError, match=r"no factors and no loadings.*s\.decomposition"):
        edc.read_learning_results(MAP, zipped(tmp_path / "empty.npz", {"readme.txt": b"nothing"}))
    encrypted = bytearray(zipped(tmp_path / "locked.npz", {"factors.npy": npy(numbers()[0])}).read_bytes())
    for start in (b"PK\x03\x04", b"PK\x01\x02"):
        encrypted[encrypted.index(start) + (6 if start.endswith(b"\x04") else 8)] |= 1
    (tmp_path / "locked.npz").write_bytes(encrypted)
    with pytest.raises(SourceError, match="encrypted"):
        edc.read_learning_results(MAP, tmp_path / "locked.npz")


# ------------------------------------------------------------------------------------------- on a store
@pytest.fixture
def store(tmp_path: Path) -> str:
    path = str(tmp_path / "map.zarr")
    edc.convert(MadeReader(COUNTS), path)
    return path


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.stderr
    return result


def test_a_decomposition_goes_out_of_a_store_and_back(store: str, tmp_path: Path) -> None:
    ds = edc.open(store)
    edc.save(edc.nmf(ds, n_components=3), store)
    file = tmp_path / "k3.npz"
    out = json.loads(call("export", store, file, "--from", "nmf/k3", "--json").stdout)
    assert out["bytes"] == file.stat().st_size
    assert json.loads(call("import", store, file, "--json").stdout)["address"] == "nmf/hs3.r1"
    left, right = edc.load(store, "nmf/k3"), edc.load(store, "nmf/hs3")
    np.testing.assert_array_equal(left[schema.LOADINGS], right[schema.LOADINGS])
    np.testing.assert_array_equal(left[schema.FACTORS], right[schema.FACTORS])
    call("phases", store, "--from", "nmf/hs3")
    # An imported result that went stale is imported again.
    call("calibrate", store, "--pixel-size", "2")
    stale = call("phases", store, "--from", "nmf/hs3", code=2).stderr
    assert f"eds-chunked import {store} {file} --energy" in stale
    call(*stale.split("Fix: eds-chunked ")[1].split())
    call("phases", store, "--from", "nmf/hs3")


def test_bad_input_of_the_verbs_is_one_line(store: str, tmp_path: Path) -> None:
    window = edc.open(store).isel(energy=slice(20, 50))
    edc.save(edc.nmf(window, n_components=2, name="part"), store)
    target = tmp_path / "part.npz"
    energies = f"{float(window.energy[0])}:{float(window.energy[-1])}"
    for arguments, match in (
        (("export", store, target), None),
        (("export", store, target), "add --overwrite"),
        (("export", store, tmp_path / "map.hspy", "--from", "nmf"), "a result only for .npz"),
        (("export", store, target, "--codec", "zstd"), ".npz has no counts"),
        (("export", store, target, "--from", "pca"), "result pca"),
        (("import", store, target), "(61 channels, 2 components)"),
        (("import", store, target, "--energy", energies), None),
        (("import", store, target, "--energy", energies, "--bss"), "no bss_factors"),
        (("import", store, target, "--energy", energies, "--name", "A b"), "run name"),
        (("import", store, tmp_path / "none.npz"), "no file"),
    ):
        done = call(*arguments, code=0 if match is None else 2)
        if match is not None:
            assert match in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1
    assert edc.load(store, "nmf/hs2").sizes["energy"] == 30


def test_files_are_read_and_written_without_hyperspy(store: str, tmp_path: Path) -> None:
    edc.save(edc.nmf(edc.open(store), n_components=2), store)
    program = (
        "import sys, eds_chunked as edc\n"
        f"path = edc.write_learning_results(edc.load({store!r}, 'nmf'), {str(tmp_path / 'k2.npz')!r})\n"
        f"edc.read_learning_results(edc.open({store!r}), path)\n"
        "print([name for name in ('hyperspy', 'exspy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=os.getcwd())
    assert done.stdout.strip() == "[]"

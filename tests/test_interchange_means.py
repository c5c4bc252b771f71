"""The mean of a centred decomposition goes to HyperSpy and comes back: the model is the same on both sides."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from sklearn.decomposition import PCA

import eds_chunked as edc
from eds_chunked import schema
from eds_chunked.decomposition.low_rank import with_mean
from eds_chunked.errors import ChunkLayoutError, ParameterError
from tests.decomposition_maps import as_map, assert_same_bits, made_counts, matrix, poisson_scaled
from tests.hyperspy_api import exspy, hs

Array = np.ndarray[Any, Any]

SHAPE = (7, 11, 61)
COUNTS = made_counts(SHAPE, dose=200)
MAP = as_map(COUNTS)
MASK = np.zeros(SHAPE[:2], np.bool_)
MASK[2, 3:9] = MASK[6, 0] = True
BAND = np.arange(SHAPE[2]) % 13 == 4


def decomposed(*, lazy: bool = False, masked: bool = False, turned: bool = False, **options: Any) -> Any:
    """The map as HyperSpy decomposes it; turned, its array is (x, y, energy)."""
    counts = COUNTS.astype(np.float64)
    if turned:
        axes = [
            {"name": name, "size": size, "navigate": name != "Energy", "index_in_array": number}
            for number, (name, size) in enumerate(zip(("x", "y", "Energy"), (11, 7, 61), strict=True))
        ]
        signal = exspy.signals.EDSSEMSpectrum(np.ascontiguousarray(counts.swapaxes(0, 1)), axes=axes)
    else:
        signal = exspy.signals.EDSSEMSpectrum(counts)
    signal = signal.as_lazy() if lazy else signal
    if masked:
        mask = MASK.T if turned else MASK
        options |= {"navigation_mask": hs.signals.BaseSignal(mask).T, "signal_mask": BAND}
    signal.decomposition(**({"output_dimension": 3, "print_info": False} | options))
    return signal


def model_of(signal: Any) -> Array:
    """HyperSpy's numbers put together by hand: pixels and channels that it masked are NaN."""
    found = signal.learning_results
    product = np.asarray(found.loadings) @ np.asarray(found.factors).T
    mean = np.asarray(found.mean)
    if found.centre == "signal":
        mean = mean.reshape(-1, 1)
        product[np.isfinite(product).any(axis=1)] += mean
    else:
        product[:, np.isfinite(product).any(axis=0)] += mean.reshape(1, -1)
    model: Array = product.reshape(signal.data.shape)
    return model


def read(signal: Any, path: Path) -> xr.Dataset:
    signal.learning_results.save(path, overwrite=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*left out members", category=UserWarning)
        return edc.read_learning_results(MAP, path)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("centre", ["navigation", "signal"])
def test_what_hyperspy_took_off_is_added_again(tmp_path: Path, centre: str, lazy: bool, masked: bool) -> None:
    signal = decomposed(lazy=lazy, masked=masked, centre=centre)
    expected = model_of(signal)
    assert np.isnan(expected).any() == masked
    for result in (read(signal, tmp_path / "theirs.npz"), edc.from_hyperspy(signal, results="decomposition")):
        np.testing.assert_allclose(edc.reconstruct(result), expected, rtol=1e-4, atol=1e-3)
        assert result.sizes[schema.COMPONENT] == 3
        assert result.attrs[schema.PARAMETERS]["centre"] == centre
    if (centre, masked) == ("signal", False):
        # The one case that HyperSpy 2.5 can rebuild itself.
        np.testing.assert_allclose(signal.get_decomposition_model().data, expected, rtol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("centre", ["navigation", "signal"])
def test_pixels_column_by_column_keep_their_mean(centre: str, masked: bool) -> None:
    signal = decomposed(turned=True, masked=masked, centre=centre)
    expected = model_of(signal).swapaxes(0, 1)
    result = edc.from_hyperspy(signal, results="decomposition")
    np.testing.assert_allclose(edc.reconstruct(result), expected, rtol=1e-4, atol=1e-3)


def test_a_centred_pca_is_hyperspys() -> None:
    ours = edc.pca(MAP, n_components=3, noise=None, solver="gram", centre=True)
    signal = decomposed(centre="navigation", svd_solver="full")
    theirs = signal.learning_results
    np.testing.assert_allclose(ours[schema.EXPLAINED_VARIANCE], theirs.explained_variance, rtol=1e-8)
    np.testing.assert_allclose(ours[schema.MEAN_SPECTRUM], theirs.mean[0], rtol=1e-10)
    signs = np.sign(np.sum(ours[schema.FACTORS].values.T * theirs.factors, axis=0))
    np.testing.assert_allclose(ours[schema.FACTORS].values.T, theirs.factors * signs, atol=1e-6)
    handed_over = edc.to_hyperspy(MAP, results=ours)
    np.testing.assert_allclose(handed_over.get_decomposition_model().data, model_of(signal), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("solver", "noise"), [("gram", "poisson"), ("gram", None), ("randomized", "poisson"), ("incremental", "poisson")]
)
def test_hyperspys_model_is_ours(tmp_path: Path, solver: Any, noise: Any, masked: bool) -> None:
    ds = edc.exclude(MAP, pixels=MASK, energy=[(0.3, 0.4)]) if masked else MAP
    result = edc.pca(ds, n_components=3, noise=noise, solver=solver, centre=True)
    expected = edc.reconstruct(result).values
    assert np.isnan(expected).any() == masked
    path = edc.write_learning_results(result, tmp_path / "centred.npz")
    loaded = exspy.signals.EDSSEMSpectrum(COUNTS)
    loaded.learning_results.load(path)
    for signal in (loaded, loaded.as_lazy(), edc.to_hyperspy(ds, results=result)):
        if signal._lazy:
            signal.learning_results = loaded.learning_results
        model = np.asarray(signal.get_decomposition_model().data)
        np.testing.assert_allclose(model, expected, rtol=1e-4, atol=1e-4)
        # The first HyperSpy component is the mean, so two of them are the mean and a component.
        two = np.asarray(signal.get_decomposition_model(2).data)
        np.testing.assert_allclose(two, edc.reconstruct(result, components=[1]), rtol=1e-4, atol=1e-4)
        assert signal.learning_results.centre == "navigation"
        # As many values as components, and of the whole: the mean stands at the place of its component.
        found = signal.learning_results
        assert len(found.explained_variance) == found.factors.shape[1] == 4
        drawn = signal.get_scree_plot_data().data
        assert drawn.sum() == pytest.approx(1, rel=1e-9) or solver != "gram"
        of_components = drawn[1:4] / drawn[1]
        np.testing.assert_allclose(of_components * result[schema.EXPLAINED_VARIANCE_RATIO].values[0],
                                   result[schema.EXPLAINED_VARIANCE_RATIO], rtol=1e-9)  # fmt: skip
        assert drawn[0] / drawn[1] == pytest.approx(float(result[schema.MEAN_VARIANCE] / result.explained_variance[0]))


def test_the_variance_of_the_mean_is_what_it_explains() -> None:
    X = matrix(COUNTS)
    for noise, scaled in ((None, X), ("poisson", poisson_scaled(X))):
        expected = np.sum(scaled.mean(axis=0) ** 2)
        for solver in ("gram", "randomized", "incremental"):
            result = edc.pca(MAP, n_components=3, noise=noise, solver=solver, centre=True)
            assert float(result[schema.MEAN_VARIANCE]) == pytest.approx(expected, rel=1e-9)
    signal = decomposed(centre="signal", masked=True)
    theirs = edc.from_hyperspy(signal, results="decomposition")
    mean_map = COUNTS[~MASK][:, ~BAND].mean(axis=1)
    assert float(theirs[schema.MEAN_VARIANCE]) == pytest.approx(56 * np.mean(mean_map**2), rel=1e-6)


def test_there_and_back_to_the_last_bit(tmp_path: Path) -> None:
    ds = edc.exclude(MAP, pixels=MASK, energy=[(0.3, 0.4)])
    result = edc.pca(ds, n_components=3, centre=True).load()
    path = edc.write_learning_results(result, tmp_path / "centred.npz")
    signal = edc.to_hyperspy(MAP, results=result)
    backs = [
        edc.read_learning_results(MAP, path),
        edc.from_hyperspy(signal, results="decomposition"),
        read(signal, tmp_path / "by_hyperspy.npz"),
    ]
    wanted = [schema.FACTORS, schema.LOADINGS, schema.MEAN_SPECTRUM, schema.MEAN_LOADING]
    wanted += [schema.MEAN_VARIANCE, schema.EXPLAINED_VARIANCE]
    for back in backs:
        assert_same_bits(back[wanted].load(), result[wanted])
        assert_same_bits(edc.reconstruct(back).to_dataset(), edc.reconstruct(result).to_dataset())
        assert back.attrs[schema.PARAMETERS]["noise"] == "poisson"
        for name in (schema.EXPLAINED_VARIANCE_RATIO, schema.EIGENVALUES):
            np.testing.assert_allclose(back[name], result[name], rtol=1e-12, atol=1e-15)
    # What HyperSpy crops are its own components, of which the mean is one.
    signal.learning_results.crop_decomposition_dimension(3)
    cropped = edc.from_hyperspy(signal, results="decomposition")
    np.testing.assert_array_equal(cropped[schema.FACTORS], result[schema.FACTORS][:2])
    np.testing.assert_array_equal(cropped[schema.MEAN_SPECTRUM], result[schema.MEAN_SPECTRUM])
    signal.learning_results.crop_decomposition_dimension(1)
    with pytest.raises(ParameterError, match="a mean and no component"):
        edc.from_hyperspy(signal, results="decomposition")


@pytest.mark.parametrize("centre", [False, True])
def test_as_many_components_as_there_can_be(tmp_path: Path, centre: bool) -> None:
    ds = as_map(COUNTS[:2, :3])
    result = edc.pca(ds, n_components=6, centre=centre)
    assert result.sizes[schema.RANK] == 61
    back = edc.read_learning_results(ds, edc.write_learning_results(result, tmp_path / "all.npz"))
    assert back.sizes[schema.COMPONENT] == 6
    np.testing.assert_array_equal(back[schema.FACTORS], result[schema.FACTORS])
    assert (schema.MEAN_SPECTRUM in back) == centre


def test_another_decomposition_of_the_same_signal_has_a_mean_of_its_own() -> None:
    signal = exspy.signals.EDSSEMSpectrum(COUNTS.astype(np.float64))
    ours = edc.to_hyperspy(MAP, results=edc.pca(MAP, n_components=3, centre=True)).learning_results
    for name, value in vars(ours).items():
        setattr(signal.learning_results, name, value)
    signal.decomposition(output_dimension=4, print_info=False)
    plain = edc.from_hyperspy(signal, results="decomposition")
    assert schema.MEAN_SPECTRUM not in plain
    assert plain.sizes[schema.COMPONENT] == 4
    signal.decomposition(output_dimension=4, centre="navigation", print_info=False)
    centred = edc.from_hyperspy(signal, results="decomposition")
    assert centred.sizes[schema.COMPONENT] == 4
    np.testing.assert_allclose(edc.reconstruct(centred), model_of(signal), rtol=1e-4, atol=1e-3)


def test_a_source_separation_has_the_mean_too() -> None:
    signal = decomposed(centre="signal")
    signal.blind_source_separation(number_of_components=2, algorithm="orthomax", print_info=False)
    result = edc.from_hyperspy(signal, results="bss")
    np.testing.assert_allclose(edc.reconstruct(result), signal.get_bss_model().data, rtol=1e-4, atol=1e-3)
    # Of ours the mean is one of the sources that are mixed anew.
    signal = edc.to_hyperspy(MAP, results=edc.pca(MAP, n_components=3, centre=True))
    signal.blind_source_separation(number_of_components=4, algorithm="orthomax", print_info=False)
    result = edc.from_hyperspy(signal, results="bss")
    assert schema.MEAN_SPECTRUM not in result
    np.testing.assert_allclose(edc.reconstruct(result), signal.get_bss_model().data, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("lazy", [False, True])
def test_estimators_leave_a_mean_without_a_word_of_centring(lazy: bool) -> None:
    # HyperSpy's lazy PCA and any centred estimator of scikit-learn.
    signal = decomposed(lazy=lazy, algorithm="PCA" if lazy else PCA(3))
    assert signal.learning_results.centre in (None, "samples")
    result = edc.from_hyperspy(signal, results="decomposition")
    np.testing.assert_allclose(edc.reconstruct(result), model_of(signal), rtol=1e-4, atol=1e-3)


def test_the_mean_of_scaled_counts_is_lost() -> None:
    signal = decomposed(normalize_poissonian_noise=True, algorithm=PCA(3))
    result = edc.from_hyperspy(signal, results="decomposition")
    assert schema.MEAN_SPECTRUM not in result
    with pytest.raises(ParameterError, match="model"):
        edc.reconstruct(result)


def test_a_mean_of_another_map_is_refused(tmp_path: Path) -> None:
    loadings, factors = np.ones((77, 3)), np.ones((61, 3))
    for mean, message in (
        (np.ones((1, 60)), r"mean in .*: found 60 values, expected 61, one for each channel"),
        (np.ones((78, 1)), r"mean in .*: found shape \(78, 1\), expected .*77 at most"),
    ):
        np.savez(tmp_path / "wrong.npz", factors=factors, loadings=loadings, mean=mean, centre="navigation")
        with pytest.raises(ChunkLayoutError, match=message):
            edc.read_learning_results(MAP, tmp_path / "wrong.npz")
    np.savez(tmp_path / "wrong.npz", factors=factors, loadings=loadings, mean=np.ones((61, 1)), centre="signal")
    with pytest.raises(ChunkLayoutError, match="found 61 values, expected 77, one for each pixel"):
        edc.read_learning_results(MAP, tmp_path / "wrong.npz")


def test_a_result_without_a_mean_stays_as_it_is() -> None:
    result = edc.pca(MAP, n_components=3)
    assert with_mean(result) is result
    once = with_mean(edc.pca(MAP, n_components=3, centre=True))
    assert with_mean(once) is once

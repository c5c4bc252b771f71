"""PCA of real maps, in ragged chunks and with masks, against HyperSpy and scikit-learn on the matrix in memory."""

import functools
import importlib
import warnings

import numpy as np
import pytest
from sklearn.decomposition import PCA, TruncatedSVD

from eds_chunked import schema
from eds_chunked.decomposition.low_rank import reconstruct
from eds_chunked.decomposition.principal import pca
from eds_chunked.engine.exclusion import exclude
from tests.decomposition_maps import as_map, matrix, poisson_scaled, rows_of, weights
from tests.real_data import real_data

# Channels around the lines of the light elements, and to silicon: so that a full SVD takes a second.
MAPS = {
    "P45_12bit_packed_8bit_compressed.bcf": ("rsciio.bruker", slice(95, 345)),
    "88_ES-LP_G8_selection2_cropped2.hspy": ("rsciio.hspy", slice(20, 270)),
}
K = 8


@functools.cache
def real_counts(name):
    """Return counts, one row and some columns less than the file's, so that no axis is like another."""
    reader, channels = MAPS[name]
    path = real_data(name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Importing `Lazy")
        images = importlib.import_module(reader).file_reader(str(path))
    counts = next(image["data"] for image in images if image["data"].ndim == 3)
    return np.ascontiguousarray(counts[:75, :, channels])


def ragged(counts):
    """Return a map in two-dimensional, ragged chunks, cut through the energies too."""
    height, width, _ = counts.shape
    return as_map(counts, chunks=((31, 7, height - 38), (64, 11, width - 75), (101, 149)))


def hyperspy_decomposition(counts, **parameters):
    """Decompose in memory by HyperSpy with Poisson scaling; all components."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Importing `Lazy")
        exspy = importlib.import_module("exspy")
    signal = exspy.signals.EDSSEMSpectrum(counts.astype(np.float64))
    signal.decomposition(True, algorithm="SVD", output_dimension=None, print_info=False, **parameters)
    return signal.learning_results


def assert_equal_but_for_signs(result, factors, loadings, atol):
    """Compare components one by one: of the pair of spectrum and map the sign is free."""
    found, maps = result[schema.FACTORS].values, rows_of(result[schema.LOADINGS])
    signs = np.sign(np.nansum(found * factors, axis=1))[:, None]
    for ours, theirs in ((found, factors * signs), (maps, loadings * signs)):
        scale = np.nanmax(np.abs(theirs), axis=1)[:, None]
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=atol)


@pytest.mark.parametrize("name", MAPS)
def test_hyperspy_gives_the_same_components_of_a_real_map(name):
    counts = real_counts(name)
    theirs = hyperspy_decomposition(counts)
    result = pca(ragged(counts), n_components=K)
    np.testing.assert_allclose(result[schema.EXPLAINED_VARIANCE], theirs.explained_variance[:K], rtol=1e-9)
    np.testing.assert_allclose(result[schema.EXPLAINED_VARIANCE_RATIO], theirs.explained_variance_ratio[:K], rtol=1e-9)
    np.testing.assert_allclose(result[schema.EIGENVALUES], theirs.explained_variance, rtol=1e-7, atol=1e-18)
    assert_equal_but_for_signs(result, theirs.factors.T[:K], theirs.loadings.T[:K], atol=1e-5)


def test_hyperspy_gives_the_same_components_of_a_real_map_with_masks():
    counts = real_counts("P45_12bit_packed_8bit_compressed.bcf")
    rows, columns = np.indices(counts.shape[:2])
    left_out = (rows - 20) ** 2 + (columns - 71) ** 2 < 14**2
    channels = np.zeros(counts.shape[2], bool)
    channels[[*range(30, 52), 249]] = True
    # HyperSpy's masks of NumPy are in the order (x, y).
    theirs = hyperspy_decomposition(counts, navigation_mask=left_out.T, signal_mask=channels)
    ds = ragged(counts)
    energy = ds[schema.ENERGY].values
    windows = [(energy[30], energy[51]), (energy[249] - 1e-9, np.inf)]
    result = pca(exclude(ds, pixels=left_out, energy=windows), n_components=4)
    np.testing.assert_array_equal(np.isnan(result[schema.FACTORS][0]), channels)
    np.testing.assert_array_equal(np.isnan(result[schema.LOADINGS][0]), left_out)
    np.testing.assert_allclose(result[schema.EXPLAINED_VARIANCE], theirs.explained_variance[:4], rtol=1e-9)
    assert_equal_but_for_signs(result, theirs.factors.T[:4], theirs.loadings.T[:4], atol=1e-5)


@pytest.mark.parametrize("name", MAPS)
def test_scikit_learn_gives_the_same_components_of_a_real_map_with_dead_parts(name):
    counts = real_counts(name).copy()
    counts[..., [0, 77, 249]] = 0
    counts[11:13, 60:67] = 0
    X, N = matrix(counts), counts.shape[0] * counts.shape[1]
    a, b = weights(X)
    scaled = poisson_scaled(X)
    ds = ragged(counts)

    result = pca(ds, n_components=K)
    truncated = TruncatedSVD(K, algorithm="arpack", random_state=0).fit(scaled)
    np.testing.assert_allclose(result[schema.EXPLAINED_VARIANCE] * N, truncated.singular_values_**2, rtol=1e-9)
    projected = truncated.transform(scaled).T * a
    assert_equal_but_for_signs(result, truncated.components_ * b, projected, atol=1e-5)

    centred = pca(ds, n_components=K, centre=True)
    oracle = PCA(K, svd_solver="covariance_eigh").fit(scaled)
    np.testing.assert_allclose(centred[schema.EXPLAINED_VARIANCE] * N, oracle.singular_values_**2, rtol=1e-9)
    np.testing.assert_allclose(centred[schema.EXPLAINED_VARIANCE_RATIO], oracle.explained_variance_ratio_, rtol=1e-9)
    # An empty pixel weighs nothing.
    projected = oracle.transform(scaled).T * np.sqrt(X.sum(axis=1))
    assert_equal_but_for_signs(centred, oracle.components_ * b, projected, atol=1e-5)
    model = oracle.inverse_transform(oracle.transform(scaled)) * np.sqrt(X.sum(axis=1))[:, None] * b
    np.testing.assert_allclose(matrix(reconstruct(centred).values), model, atol=1e-5 * model.max())


@pytest.mark.parametrize("name", MAPS)
def test_randomized_solver_gives_the_exact_components_of_a_real_map(name):
    ds = ragged(real_counts(name))
    exact, found = (pca(ds, n_components=4, solver=solver) for solver in ("gram", "randomized"))
    n_signal = int((exact[schema.NOISE_RATIO][:4] > 1).sum())
    assert n_signal >= 2
    error = np.abs(found[schema.EXPLAINED_VARIANCE] / exact[schema.EXPLAINED_VARIANCE] - 1).values
    assert error[:n_signal].max() < 1e-6
    assert error.max() < 0.02

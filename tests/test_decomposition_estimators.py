"""Any estimator on a map: fed as promised, equal to scikit-learn fed by hand, the same for every chunking."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import Birch, KMeans, MiniBatchKMeans
from sklearn.decomposition import (
    PCA,
    IncrementalPCA,
    LatentDirichletAllocation,
    MiniBatchDictionaryLearning,
    MiniBatchNMF,
)
from sklearn.linear_model import SGDClassifier
from sklearn.preprocessing import StandardScaler

from eds_chunked import memory, schema
from eds_chunked.decomposition.estimators import decompose
from eds_chunked.decomposition.low_rank import reconstruct
from eds_chunked.engine.blocks import blocks_of
from eds_chunked.engine.exclusion import exclude
from eds_chunked.engine.shuffle import shuffled_batches
from eds_chunked.errors import CountsError, MemoryBudgetError, MissingResultError, ParameterError
from eds_chunked.store.conversion import convert
from eds_chunked.store.results import load, revisions, save
from eds_chunked.synthetic import rock
from tests.decomposition_maps import (
    ArrayReader,
    as_map,
    assert_same_bits,
    cosines,
    made_counts,
    matrix,
    poisson_scaled,
    ragged_chunks,
    rows_of,
    weights,
    with_dead,
)

COUNTS = made_counts((67, 139, 31), dose=9)
ESTIMATORS = {
    "incremental pca": IncrementalPCA(3),
    "nmf": MiniBatchNMF(3, random_state=0),
    "dictionary": MiniBatchDictionaryLearning(3, alpha=1e-4, transform_algorithm="threshold", random_state=0),
    "topics": LatentDirichletAllocation(3, random_state=0),
    "k-means": MiniBatchKMeans(3, n_init=1, random_state=0),
}
SINGLE = ("nmf", "dictionary", "topics")
SPARSE = ("nmf", "topics", "k-means")


class Watching(TransformerMixin, BaseEstimator):
    """Keeps what it was given, and gives two values a pixel."""

    def __init__(self, takes_sparse=False, fails_at=None):
        self.takes_sparse = takes_sparse
        self.fails_at = fails_at

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self.takes_sparse
        return tags

    def partial_fit(self, X):
        self.seen_ = [*getattr(self, "seen_", []), X.copy()]
        if self.fails_at is not None and len(self.seen_) > self.fails_at:
            raise RuntimeError("matrix is\nsingular")
        return self

    def transform(self, X):
        total = np.asarray(X.sum(axis=1)).ravel()
        return np.stack([total, 2 * total], axis=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return convert(ArrayReader(COUNTS), tmp_path_factory.mktemp("estimators") / "wide.zarr")


def places(ds, *, size=4096, seed=0, epoch=0):
    blocks = blocks_of(ds)
    how = memory.plan(memory.Need("test", 0, blocks.bytes_of_a_block))
    return [batch.place for batch in shuffled_batches(blocks, size=size, seed=seed, epoch=epoch, plan=how)]


# ------------------------------------------------------------------------------------------------ what it is given
@pytest.mark.parametrize("takes_sparse", [False, True])
@pytest.mark.parametrize("epochs", [1, 3])
def test_an_estimator_sees_every_pixel_once_an_epoch(takes_sparse, epochs):
    # Every pixel is a number of its own: its first channel counts the rows, the others the columns.
    counts = np.zeros((97, 131, 3), np.uint8)
    counts[..., 0], counts[..., 1], counts[..., 2] = (
        np.arange(97)[:, None] + 1,
        np.arange(131) % 100,
        np.arange(131) // 100,
    )
    _, fitted = decompose(as_map(counts), Watching(takes_sparse), epochs=epochs, batch_size=1000)
    assert all(sparse.issparse(X) == takes_sparse for X in fitted.seen_)
    seen = [X.toarray() if takes_sparse else X for X in fitted.seen_]
    assert len(seen) == epochs * 13
    orders = []
    for epoch in range(epochs):
        own = np.concatenate(seen[epoch * 13 : epoch * 13 + 13]).astype(int)
        orders.append((own[:, 0] - 1) * 131 + own[:, 1] + 100 * own[:, 2])
        np.testing.assert_array_equal(np.sort(orders[-1]), np.arange(97 * 131))
    assert len({tuple(order) for order in orders}) == epochs


def test_single_precision_only_where_it_is_kept():
    ds = as_map(COUNTS[:20, :20])
    (seen,) = decompose(ds, Watching()).estimator.seen_
    assert seen.dtype == np.float64
    assert decompose(ds, MiniBatchNMF(2, random_state=0)).estimator.components_.dtype == np.float32


def test_the_estimator_is_left_as_it_is():
    mine = MiniBatchNMF(2, random_state=0)
    before = dict(vars(mine))
    result, fitted = decompose(as_map(COUNTS[:20, :20]), mine)
    assert vars(mine) == before
    assert fitted is not mine
    np.testing.assert_array_equal(result[schema.FACTORS], fitted.components_)


# ------------------------------------------------------------------------------------- equal to scikit-learn by hand
def by_hand(name, X, *, size, epochs):
    """Return the estimator fed with the rows of X in the promised batches, and what it says of tiles of 64 x 64."""
    from sklearn.base import clone

    ds = as_map(COUNTS)
    rows = X.astype(np.float32 if name in SINGLE else np.float64)
    rows = sparse.csr_array(rows) if name in SPARSE else rows
    oracle = clone(ESTIMATORS[name])
    for epoch in range(epochs):
        for place in places(ds, size=size, epoch=epoch):
            oracle.partial_fit(rows[place])
    height, width, _ = COUNTS.shape
    index = np.arange(height * width).reshape(height, width)
    loadings = np.empty((height * width, oracle.transform(rows[:1]).shape[1]))
    for y in range(0, height, 64):
        for x in range(0, width, 64):
            tile = index[y : y + 64, x : x + 64].ravel()
            loadings[tile] = oracle.transform(rows[tile])
    return oracle, loadings.T


@pytest.mark.parametrize("noise", [None, "poisson"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_equal_to_scikit_learn_fed_by_hand(name, noise):
    X = matrix(COUNTS)
    scaled, (a, b) = (poisson_scaled(X), weights(X)) if noise else (X, (np.ones(len(X)), np.ones(X.shape[1])))
    epochs = 2 if name == "nmf" else 1
    result, fitted = decompose(as_map(COUNTS), ESTIMATORS[name], noise=noise, batch_size=1500, epochs=epochs)
    oracle, loadings = by_hand(name, scaled, size=1500, epochs=epochs)
    assert type(fitted) is type(oracle)
    tolerance = 1e-3 if name in SINGLE else 1e-6
    if name == "k-means":
        assert schema.FACTORS not in result
        np.testing.assert_allclose(fitted.cluster_centers_, oracle.cluster_centers_, rtol=1e-6, atol=1e-9)
        expected = loadings  # distances, of the scaled counts if they are scaled
    else:
        expected = loadings * a
        scale = np.abs(oracle.components_).max(axis=1)[:, None]
        np.testing.assert_allclose(result[schema.FACTORS] / b / scale, oracle.components_ / scale, atol=tolerance)
    scale = np.abs(expected).max(axis=1)[:, None]
    np.testing.assert_allclose(rows_of(result[schema.LOADINGS]) / scale, expected / scale, atol=tolerance)
    assert result[schema.LOADINGS].dtype == np.float32
    assert result[schema.LOADINGS].chunks is not None


def test_dead_pixels_and_channels_stay_finite():
    ds = as_map(with_dead(made_counts((31, 47, 61))))
    for name, estimator in ESTIMATORS.items():
        result = decompose(ds, estimator, noise="poisson", batch_size=400).result
        for variable in result.data_vars.values():
            assert np.isfinite(variable.values).all(), name


def test_phases_in_bands_are_all_found():
    """Fed tile by tile, this map loses phases: the last ones overwrite the first."""
    rng = np.random.default_rng(0)
    spectra = rng.gamma(0.3, 1, (4, 31))
    spectra *= 40 / spectra.sum(axis=1)[:, None]
    counts = rng.poisson(np.repeat(spectra, 128, axis=0)[:, None], (512, 70, 31)).astype(np.uint8)
    found = decompose(as_map(counts), MiniBatchKMeans(4, n_init=3, random_state=0), batch_size=1024).estimator
    assert cosines(found.cluster_centers_, spectra).min() > 0.999
    in_order = MiniBatchKMeans(4, n_init=3, random_state=0)
    for rows in np.array_split(matrix(counts), 35):
        in_order.partial_fit(rows)
    assert cosines(in_order.cluster_centers_, spectra).min() < 0.99


# ------------------------------------------------------------------------------------------------------- the model
def test_a_product_has_a_model_and_others_have_none():
    counts = made_counts((41, 67, 61), dose=200)
    ds = as_map(counts)
    result, fitted = decompose(ds, MiniBatchNMF(3, random_state=0), noise="poisson", epochs=3, batch_size=500)
    expected = np.einsum("kyx,ke->yxe", result[schema.LOADINGS].values, result[schema.FACTORS].values)
    np.testing.assert_allclose(reconstruct(result), expected, rtol=1e-4, atol=1e-4)
    X = matrix(counts)
    a, b = weights(X)
    back = fitted.inverse_transform(rows_of(result[schema.LOADINGS]).T / a[:, None]) * b * a[:, None]
    np.testing.assert_allclose(matrix(expected), back, rtol=1e-3, atol=1e-3)
    # The scaling is undone: the model has the counts of the map.
    assert expected.sum() == pytest.approx(counts.sum(), rel=0.05)
    for name in ("incremental pca", "topics"):
        other = decompose(ds, ESTIMATORS[name]).result
        with pytest.raises(ParameterError, match=r"model: found loadings of .*, which times its factors are not"):
            reconstruct(other)


# --------------------------------------------------------------------------------- chunks, workers, what is left out
@pytest.mark.parametrize("name", ["incremental pca", "nmf", "k-means"])
def test_chunks_workers_and_place_do_not_change_a_bit(name, store, monkeypatch):
    def run(ds):
        return decompose(ds, ESTIMATORS[name], noise="poisson", batch_size=1000).result

    expected = run(as_map(COUNTS)).load()

    @settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ragged_chunks(COUNTS.shape))
    def check(chunks):
        assert_same_bits(run(as_map(COUNTS, chunks=chunks)), expected)

    check()
    for workers in (3,):
        monkeypatch.setattr(memory, "n_cpus", lambda workers=workers: workers)
        found = run(store)
        for variable in expected.data_vars:
            np.testing.assert_array_equal(found[variable], expected[variable])


def test_what_is_left_out_is_neither_fitted_nor_transformed(store):
    pixels = np.zeros(COUNTS.shape[:2], bool)
    pixels[:, :70] = True
    pixels[40:, 100:111] = True
    low, high = (float(store[schema.ENERGY][channel]) for channel in (4, 9))
    ds = exclude(store, pixels=pixels, energy=[(low, high)])
    result, fitted = decompose(ds, Watching(), batch_size=700)
    kept = np.delete(COUNTS, slice(4, 10), axis=2)[~pixels].astype(float)
    seen = np.concatenate(fitted.seen_)
    np.testing.assert_array_equal(seen[np.lexsort(seen.T)], kept[np.lexsort(kept.T)])
    loadings = result[schema.LOADINGS].values
    assert np.isnan(loadings[:, pixels]).all()
    np.testing.assert_array_equal(loadings[0, ~pixels], kept.sum(axis=1))
    factors = decompose(ds, IncrementalPCA(2)).result[schema.FACTORS].values
    assert factors.shape == (2, COUNTS.shape[2])
    np.testing.assert_array_equal(np.isnan(factors).all(axis=0), np.isin(np.arange(31), range(4, 10)))


# ------------------------------------------------------------------------------------------------------- the store
def test_a_result_is_saved_and_says_what_made_it(store):
    place = store.encoding["source"]
    result, _ = decompose(store, IncrementalPCA(2), batch_size=2000, seed=3)
    assert result.encoding["source"] == place
    address = save(result, place)
    assert re.fullmatch(r"decompose/incrementalpca\.r[0-9]+", address)
    said = load(place, "decompose").attrs[schema.PARAMETERS]
    assert said["estimator"] == "IncrementalPCA(n_components=2)"
    assert (said["batch_size"], said["seed"], said["epochs"], said["noise"]) == (2000, 3, 1, None)
    assert save(decompose(store, IncrementalPCA(2), name="mine").result, place).startswith("decompose/mine.r")
    assert {revision.run for revision in revisions(place)} >= {"incrementalpca", "mine"}


def test_a_missing_result_names_the_call(tmp_path):
    ds = convert(ArrayReader(COUNTS[:9, :9]), tmp_path / "map.zarr")
    with pytest.raises(MissingResultError, match=r"eds_chunked\.decompose\(eds_chunked\.open\("):
        load(ds.encoding["source"], "decompose/mine")


# ------------------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (KMeans(3), "estimator KMeans: found no partial_fit,"),
        (PCA(3), "estimator PCA: found no partial_fit,"),
        (SGDClassifier(), "estimator SGDClassifier: found no transform,"),
        (MiniBatchNMF, r"estimator: found the class MiniBatchNMF.* Fix: MiniBatchNMF\(\)"),
        ("nmf", "estimator str: found no get_params and no partial_fit and no transform"),
        (MiniBatchNMF(-1), "estimator MiniBatchNMF, partial_fit: found InvalidParameterError: .*n_components"),
        (IncrementalPCA(30), "estimator IncrementalPCA, partial_fit: found ValueError: .*n_components=30"),
        (Watching(fails_at=2), "estimator Watching, partial_fit: found RuntimeError: matrix is singular"),
        (StandardScaler(), "estimator StandardScaler: found 31 values a pixel for 31 channels, expected a few"),
    ],
)
def test_what_is_no_batch_learner_or_fails_is_named(estimator, message):
    with pytest.raises(ParameterError, match=message):
        decompose(as_map(COUNTS[:20, :20]), estimator, batch_size=25)


@pytest.mark.parametrize(
    "given", [{"epochs": 0}, {"epochs": 1.5}, {"batch_size": 0}, {"seed": -1}, {"noise": "gaussian"}, {"name": "K 4"}]
)
def test_wrong_parameters_are_refused(given):
    with pytest.raises(ParameterError, match=f"{next(iter(given)).replace('name', 'run name')}: found"):
        decompose(as_map(COUNTS[:9, :9]), Watching(), **given)


def test_map_without_counts_is_refused():
    with pytest.raises(CountsError, match="zero in every pixel"):
        decompose(as_map(np.zeros((7, 11, 13), np.uint8)), Watching())


def test_clusters_that_grow_are_taken(store):
    # Birch finds out how many values a pixel has as it learns.
    result, fitted = decompose(store, Birch(threshold=6.0, n_clusters=None), batch_size=3000)
    assert result.sizes[schema.COMPONENT] == len(fitted.subcluster_centers_)


# --------------------------------------------------------------------------------------------------------- memory
def test_budget_is_refused_before_reading_and_does_not_grow_with_the_map(monkeypatch):
    def refuse(*args):
        raise AssertionError("something was read")

    figures = []
    for side in (256, 1024):
        ds = as_map(np.ones((side, side, 64), np.uint8))
        monkeypatch.setattr(type(blocks_of(ds).source), "load", refuse)
        with pytest.raises(MemoryBudgetError, match="memory for decompose") as caught:
            decompose(ds, IncrementalPCA(3), memory="100MB")
        figures.append(re.findall(r"(\d+) MB (?:once|for a block)", str(caught.value)))
        with pytest.raises(MemoryBudgetError, match="memory for decompose"):
            decompose(ds, MiniBatchKMeans(50_000), memory="2GB")
    assert figures[0] == figures[1]


PEAK = """
import json, re, sys
import numpy as np
import eds_chunked as edc
from eds_chunked import memory
from sklearn.base import BaseEstimator
from sklearn.decomposition import MiniBatchNMF

class Holding(BaseEstimator):
    # Holds its batch as often as an estimator may.
    def __init__(self, n_components=3):
        self.n_components = n_components
    def partial_fit(self, X):
        copies = [X.copy() for _ in range(7)]
        return self
    def transform(self, X):
        return np.concatenate([X, X, X])[:len(X), :3]

memory.return_freed_memory_to_the_system()
ds = edc.open(sys.argv[1]).sel(energy=slice(0.2, None))
estimator = {"dense": Holding(), "sparse": MiniBatchNMF(4, random_state=0)}[sys.argv[2]]
try:
    edc.decompose(ds, estimator, memory="100MB")
except memory.MemoryBudgetError as error:
    # What the first call leaves behind in the process comes on top.
    smallest = int(re.search(r"expected at least (\\d+) MB", str(error))[1]) + 20
memory.release()
edc.decompose(ds, estimator, memory=f"{smallest}MB")
print(json.dumps({"peak": memory.peak_resident(), "smallest": smallest * 10**6}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_the_peak_stays_under_the_smallest_budget(kind, tmp_path):
    place = str(tmp_path / "map.zarr")
    convert(rock((150, 190, 2048), counts_per_pixel=60, n_phases=4), place)
    done = subprocess.run([sys.executable, "-c", PEAK, place, kind], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["peak"] <= found["smallest"]

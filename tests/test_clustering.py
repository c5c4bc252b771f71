"""Phases by clustering: against scikit-learn in memory, against the truth, and the same for every chunking."""

import json

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from eds_chunked import memory, schema, workflow
from eds_chunked.cli import main
from eds_chunked.decomposition.advice import advise_components
from eds_chunked.decomposition.nonnegative import nmf
from eds_chunked.decomposition.principal import pca
from eds_chunked.decomposition.sample import Draw
from eds_chunked.engine.blocks import Lane
from eds_chunked.engine.exclusion import exclude
from eds_chunked.errors import ChunkLayoutError, MemoryBudgetError, ParameterError
from eds_chunked.grains.split import separate_grains
from eds_chunked.phases import clustering
from eds_chunked.phases.clustering import cluster
from eds_chunked.phases.modal import modal_table
from eds_chunked.phases.sums import phase_spectra
from eds_chunked.report.assemble import write_report
from eds_chunked.report.findings import Findings
from eds_chunked.report.pictures import pictures
from eds_chunked.store.conversion import convert
from eds_chunked.store.results import load, newest, refresh_command, save, why_stale
from tests.decomposition_maps import ArrayReader, as_map, assert_same_bits, ragged_chunks, rock_counts, small_rock

METHODS = ("kmeans", "gaussian")
ROCK = small_rock((67, 83, 131), n_phases=4, counts_per_pixel=100, brightness=(0.5, 2.2))


def made_loadings(shape=(37, 53), n=3, *, seed=1, dtype=np.float32, step=schema.NMF):
    """Return a result whose pixels lie about ``n`` directions, at any brightness; some are dead, NaN or infinite."""
    rng = np.random.default_rng(seed)
    height, width = shape
    phase = np.add.outer(np.arange(height) ** 2 // 50, np.arange(width)) // 11 % n
    directions = rng.gamma(0.6, 1, (n, 4)) + 0.05
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    loadings = np.moveaxis(directions[phase], -1, 0) * rng.uniform(0.2, 9, shape)
    loadings = (loadings + rng.normal(0, 0.03, loadings.shape)).astype(dtype)
    loadings[:, 5, 7:11] = 0
    loadings[:, 0, 0] = np.nan
    loadings[2, -1, -1] = np.inf
    factors = rng.gamma(1, 1, (4, 17))
    return xr.Dataset(
        {
            schema.LOADINGS: (schema.VARIABLES[schema.LOADINGS].dims, loadings),
            schema.FACTORS: (schema.VARIABLES[schema.FACTORS].dims, factors),
        },
        coords={schema.COMPONENT: [1, 2, 3, 4], schema.Y: np.arange(height) * 0.5, schema.X: np.arange(width) * 0.25},
        attrs={schema.STEP: step, schema.RUN: "k4", schema.RESULT_ID: "made"},
    )


def rows_by_hand(result):
    """Return float32 rows of unit length (pixels, components), and which pixels have one."""
    rows = np.moveaxis(result[schema.LOADINGS].values.astype(np.float64), 0, -1).reshape(-1, 4)
    if result.attrs[schema.STEP] == schema.NMF:
        rows = rows * result[schema.FACTORS].values.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        length = np.sqrt((rows**2).sum(axis=1))
        rows = rows / length[:, None]
    lit = np.isfinite(length) & (length > 0)
    return rows.astype(np.float32).astype(np.float64), lit


def sampled(result, rows, lit, *, fit_pixels, seed):
    height, width = result.sizes[schema.Y], result.sizes[schema.X]
    draw = Draw(width, seed, share_drawn=min(1, fit_pixels / (height * width)), share_held_out=0)
    keys = draw.keys(Lane(slice(0, height), slice(0, width)))
    drawn = draw.drawn(keys)
    drawn = drawn[np.argsort(keys[drawn])]
    return rows[drawn[lit[drawn]]]


def estimator(method, n_clusters, seed):
    if method == "gaussian":
        return GaussianMixture(n_clusters, max_iter=300, random_state=seed)
    return MiniBatchKMeans(n_clusters, batch_size=4096, n_init=10, reassignment_ratio=0, random_state=seed)


# ------------------------------------------------------------------------------------------------------ oracles
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", [schema.NMF, schema.PCA])
@pytest.mark.parametrize(("n_clusters", "seed", "fit_pixels"), [(3, 0, 131072), (5, 7, 131072), (3, 2, 800)])
def test_labels_are_those_of_scikit_learn_in_memory(method, step, n_clusters, seed, fit_pixels):
    result = made_loadings(step=step)
    rows, lit = rows_by_hand(result)
    fitted = estimator(method, n_clusters, seed).fit(sampled(result, rows, lit, fit_pixels=fit_pixels, seed=seed))
    expected = np.full(lit.size, -1)
    expected[lit] = fitted.predict(rows[lit])
    if method == "gaussian":
        parts = np.sort(fitted.predict_proba(rows[lit]), axis=1)
        margin = parts[:, -1] - parts[:, -2]
    else:
        parts = np.sort(fitted.transform(rows[lit]), axis=1)
        margin = 1 - parts[:, 0] / parts[:, 1]
    area = np.bincount(expected[lit], minlength=n_clusters)
    number = np.zeros(n_clusters + 1, int)
    number[np.argsort(-area, kind="stable")] = np.arange(1, n_clusters + 1)

    found = cluster(result, n_clusters=n_clusters, method=method, seed=seed, fit_pixels=fit_pixels)
    np.testing.assert_array_equal(found[schema.LABEL].values.ravel(), number[expected])
    np.testing.assert_allclose(found[schema.MARGIN].values.ravel()[lit], margin, atol=1e-6)
    assert found[schema.LABEL].dtype == np.uint8
    assert found[schema.MARGIN].dtype == np.float32


@pytest.fixture(scope="module")
def decomposed():
    ds = as_map(rock_counts(ROCK))
    return {"pca": pca(ds).load(), "nmf": nmf(ds, n_components=4).load()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("which", ["pca", "nmf"])
def test_clusters_are_the_minerals(decomposed, which, method):
    found = cluster(decomposed[which], n_clusters=4, method=method)
    truth = ROCK.labels(0, 67)
    assert adjusted_rand_score(truth.ravel(), found[schema.LABEL].values.ravel()) > 0.95
    if method == "gaussian":
        return  # Posterior probabilities are near 1 whatever they are worth.
    # Pixels that it gets wrong are less clear.
    label, margin = found[schema.LABEL].values, found[schema.MARGIN].values
    own = np.array([np.bincount(label[truth == number]).argmax() for number in range(1, 5)])
    right = label == own[truth - 1]
    assert margin[~right].mean() < 0.7 * margin[right].mean()


# -------------------------------------------------------------------------------------------- what comes out
@pytest.mark.parametrize("method", METHODS)
def test_what_comes_out_fits_together(method):
    result = made_loadings()
    found = cluster(result, n_clusters=3, method=method)
    label = found[schema.LABEL].values
    dark = [(5, 7), (5, 10), (0, 0), (36, 52)]
    assert [label[at] for at in dark] == [schema.UNASSIGNED] * 4
    assert [found[schema.MARGIN].values[at] for at in dark] == [0] * 4
    assert (label == schema.UNASSIGNED).sum() == 4 + 2
    assert np.isfinite(found[schema.MARGIN]).all()
    assert 0 <= float(found[schema.MARGIN].min()) <= float(found[schema.MARGIN].max()) <= 1
    counted = np.bincount(label.ravel(), minlength=4)[1:]
    assert (np.diff(counted) <= 0).all()
    np.testing.assert_array_equal(found[schema.N_PIXELS], counted)
    np.testing.assert_allclose(found[schema.AREA_FRACTION], counted / label.size)
    for number in (1, 2, 3):
        np.testing.assert_array_equal(found[schema.MASK].sel(phase=number), label == number)
    for name in found.data_vars:
        spec = schema.VARIABLES[name]
        assert (found[name].dims, found[name].dtype.kind) == (spec.dims, spec.kind)
    np.testing.assert_array_equal(found[schema.X], result[schema.X])
    assert found.attrs[schema.STEP] == schema.PHASES
    assert found.attrs[schema.RUN] == f"k4-{method}3"
    assert found.attrs[schema.PARENT_ID] == "made"


def test_brightness_does_not_count():
    result = made_loadings()
    powers = 2.0 ** np.random.default_rng(5).integers(-3, 4, (37, 53))
    brighter = result.assign({schema.LOADINGS: result[schema.LOADINGS] * powers.astype(np.float32)})
    assert_same_bits(cluster(brighter, n_clusters=3), cluster(result, n_clusters=3))


def test_scale_of_a_factor_does_not_count():
    # What a component has in its loadings, another may have in its factor.
    result = made_loadings()
    scale = np.array([0.25, 8, 1, 0.5], np.float32)
    other = result.assign(
        {
            schema.LOADINGS: result[schema.LOADINGS] * scale[:, None, None],
            schema.FACTORS: result[schema.FACTORS] / scale[:, None].astype(np.float64),
        }
    )
    assert_same_bits(cluster(other, n_clusters=3), cluster(result, n_clusters=3))
    changed = result.assign({schema.FACTORS: other[schema.FACTORS]})
    assert not np.array_equal(cluster(changed, n_clusters=5)[schema.LABEL], cluster(result, n_clusters=5).label)


def test_components_are_chosen():
    result = made_loadings(step=schema.PCA)
    found = cluster(result, n_clusters=3, components=[3, 1])
    expected = cluster(result.isel(component=[2, 0]), n_clusters=3)
    assert_same_bits(found, expected)
    assert found.attrs[schema.PARAMETERS]["components"] == [3, 1]
    assert not np.array_equal(found.label, cluster(result, n_clusters=3).label)


def test_of_a_pca_the_components_above_the_noise_edge_are_taken(decomposed):
    made = decomposed["pca"]
    above = advise_components(made).decided()
    assert above == 4 < made.sizes[schema.COMPONENT]
    found = cluster(made, n_clusters=4)
    assert_same_bits(found, cluster(made, n_clusters=4, components=[1, 2, 3, 4]))
    assert found.attrs[schema.PARAMETERS]["components"] == [1, 2, 3, 4]
    # Noise would only add to the distances.
    whole = cluster(made, n_clusters=4, components=range(1, 21))
    truth = ROCK.labels(0, 67).ravel()
    scores = [adjusted_rand_score(truth, phases.label.values.ravel()) for phases in (found, whole)]
    assert scores[0] > scores[1]


def test_pixels_that_are_left_out_are_unassigned():
    ds = as_map(rock_counts(ROCK))
    mask = np.zeros((67, 83), bool)
    mask[11:31, 5:29] = True
    found = cluster(nmf(exclude(ds, pixels=mask, energy=[(1.6, 1.9)]), n_components=3), n_clusters=3)
    np.testing.assert_array_equal(found[schema.LABEL] == 0, mask)
    assert schema.ANALYSED_PIXEL in found.coords


# ----------------------------------------------------------------------------------------- always the same
@pytest.mark.parametrize("method", METHODS)
def test_ragged_chunks_give_the_same_bits(method):
    # More than a block of the grid, to both sides.
    result = made_loadings((263, 277), seed=3)
    expected = cluster(result, n_clusters=4, method=method, fit_pixels=5000)

    @settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ragged_chunks((4, 263, 277)))
    def check(chunks):
        lazy = da.from_array(result[schema.LOADINGS].values, chunks=chunks)
        ragged = result.assign({schema.LOADINGS: (result[schema.LOADINGS].dims, lazy)})
        assert_same_bits(cluster(ragged, n_clusters=4, method=method, fit_pixels=5000), expected)

    check()


@pytest.mark.parametrize("workers", [1, 3])
def test_number_of_workers_does_not_matter(workers, monkeypatch):
    result = made_loadings((263, 277), seed=3).chunk({schema.Y: 100})
    expected = cluster(result, n_clusters=3)
    monkeypatch.setattr(memory, "n_cpus", lambda: workers)
    assert_same_bits(cluster(result, n_clusters=3), expected)


def test_a_sample_is_a_function_of_seed_and_pixel():
    result = made_loadings(n=3)
    few = [cluster(result, n_clusters=6, fit_pixels=300, seed=seed) for seed in (0, 0, 1)]
    assert_same_bits(few[0], few[1])
    assert not np.array_equal(few[0].label, few[2].label)


# ------------------------------------------------------------------------------------ what takes the phases
@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("cluster") / "map.zarr"
    ds = convert(ArrayReader(rock_counts(ROCK)), path)
    save(nmf(ds.isel(energy=slice(10, 131)), n_components=4), path)
    save(pca(ds, n_components=6), path)
    return path


def test_every_step_after_phases_takes_clusters(store):
    address = workflow.cluster_step(store, parent="nmf/k4", n_clusters=4)
    assert address == "phases/k4-kmeans4.r1"
    assert newest(store, address).attrs[schema.PARENT] == "nmf/k4.r1"
    phases = load(store, address)
    table = modal_table(phases)
    assert table["area_percent"].sum() == pytest.approx(100)
    np.testing.assert_array_equal(table["n_pixels"][:4], phases[schema.N_PIXELS])
    np.testing.assert_allclose(table["mask_percent"][:4], table["area_percent"][:4])

    counts = rock_counts(ROCK)
    label = phases[schema.LABEL].values
    assert workflow.spectra_step(store, parent=address) == "spectra/k4-kmeans4.r1"
    for source in ("label", "mask"):
        spectra = phase_spectra(as_map_of(store), phases=phases, source=source)
        for number in (1, 2, 3, 4):
            own = counts[label == number].sum(axis=0, dtype=np.uint64)
            np.testing.assert_array_equal(spectra[schema.SPECTRUM].sel(phase=number), own)
    grains = separate_grains(phases, min_size=9)
    assert set(np.unique(grains[schema.PHASE])) == {1, 2, 3, 4}
    np.testing.assert_array_equal(grains[schema.GRAIN_LABEL] > 0, label > 0)
    assert workflow.grains_step(store, parent=address) == "grains/k4-kmeans4.r1"


def as_map_of(store):
    return workflow.open_map(store)


@pytest.mark.filterwarnings("ignore::eds_chunked.grains.statistics.FewGrainsWarning")
@pytest.mark.usefixtures("unrendered")
def test_report_shows_clusters_without_thresholds(store, tmp_path):
    workflow.cluster_step(store, parent="pca/main", n_clusters=4, method="gaussian", name="mixture")
    names = [picture.name for picture in pictures(Findings(store))]
    assert "phase_map" in names
    assert not [name for name in names if name.startswith("threshold")]
    page = write_report(store, tmp_path / "report.html").read_text()
    assert "phases/mixture.r" in page


def test_refresh_command_is_that_of_cluster(store):
    address = workflow.cluster_step(
        store, parent="pca/main", n_clusters=3, components=[1, 2, 4], seed=5, fit_pixels=2000, name="again"
    )
    revision = newest(store, address)
    assert why_stale(store, revision) is None
    command = refresh_command(store, revision).split()
    assert command[:2] == ["eds-chunked", "cluster"]
    options = "--from pca/main -k 3 --method kmeans --components 1,2,4 --seed 5 --fit-pixels 2000 --name again"
    assert command[3:] == options.split()
    done = CliRunner().invoke(main, [*command[1:], "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["address"] == "phases/again.r2"
    assert_same_bits(load(store, "phases/again.r2").load(), load(store, address).load())


def test_verb_prints_the_modal_table(store):
    done = CliRunner().invoke(main, ["cluster", str(store), "-k", "4", "--name", "verb"])
    assert done.exit_code == 0, done.output
    assert "phases/verb.r1" in done.stdout
    assert "unassigned" in done.stdout
    done = CliRunner().invoke(main, ["cluster", str(store), "-k", "1"])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert "n_clusters: found 1, expected a whole number from 2" in done.stderr


# -------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"n_clusters": 1}, "n_clusters: found 1, expected a whole number from 2 to 254"),
        ({"n_clusters": 255}, "n_clusters: found 255"),
        ({"n_clusters": 2.5}, r"n_clusters: found 2\.5"),
        ({"method": "ward"}, "method: found 'ward', expected 'kmeans' or 'gaussian'"),
        ({"components": [1, 5]}, r"components: found \[5\], expected different numbers of 1 to 4"),
        ({"components": []}, "components: found none"),
        ({"components": [2, 2]}, "components: found"),
        ({"seed": -1}, "seed: found -1"),
        ({"fit_pixels": 0}, "fit_pixels: found 0, expected at least 1"),
    ],
)
def test_parameters_out_of_range(given, match):
    with pytest.raises(ParameterError, match=match):
        cluster(made_loadings(), **{"n_clusters": 3} | given)


def test_fewer_kinds_of_pixels_than_clusters():
    result = made_loadings()
    result[schema.LOADINGS][:] = np.float32([1, 2, 3, 4])[:, None, None]
    result[schema.LOADINGS][:, :9] = np.float32([4, 3, 2, 1])[:, None, None]
    assert set(np.unique(cluster(result, n_clusters=2).label)) == {1, 2}
    for method in METHODS:
        with pytest.raises(ParameterError, match="n_clusters: found 3, expected at most 2"):
            cluster(result, n_clusters=3, method=method)
    result[schema.LOADINGS][:] = 0
    with pytest.raises(ParameterError, match="at most 0"):
        cluster(result, n_clusters=2)


def test_centred_pca_and_empty_selection_are_refused():
    ds = as_map(rock_counts(ROCK))
    with pytest.raises(ParameterError, match="result to cluster: found a centred PCA"):
        cluster(pca(ds, n_components=3, centre=True), n_clusters=3)
    with pytest.raises(ParameterError, match="selection of loadings: found 0 x 53 pixels"):
        cluster(made_loadings().isel(y=slice(0)), n_clusters=3)
    with pytest.raises(ChunkLayoutError, match="variable 'factors': found a Dataset with"):
        cluster(ds, n_clusters=3)


def test_budget_is_checked_first():
    with pytest.raises(MemoryBudgetError, match="memory for cluster"):
        cluster(made_loadings(), n_clusters=3, memory="20MB")


@pytest.mark.parametrize("method", METHODS)
def test_a_large_map_is_kept_on_disk_and_is_the_same(monkeypatch, method):
    result = made_loadings((300, 271))
    expected = cluster(result, n_clusters=3, method=method)
    monkeypatch.setattr(clustering, "IN_MEMORY", 300 * 271 - 1)
    found = cluster(result, n_clusters=3, method=method)
    assert {name for name in found if found[name].chunks} == {schema.MASK, schema.LABEL, schema.MARGIN}
    assert {name for name in expected if expected[name].chunks} == set()
    xr.testing.assert_identical(found.compute(), expected)

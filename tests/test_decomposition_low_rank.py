"""The low-rank model: lazy, and equal to the product of loadings and factors."""

import dask
import numpy as np
import pytest

from eds_chunked import schema
from eds_chunked.decomposition.low_rank import reconstruct
from eds_chunked.decomposition.nonnegative import nmf
from eds_chunked.decomposition.principal import pca
from eds_chunked.errors import ChunkLayoutError, ParameterError
from tests.decomposition_maps import as_map, made_counts

COUNTS = made_counts((31, 97, 61))


@pytest.fixture(scope="module", params=["pca", "nmf"])
def result(request):
    return {"pca": pca, "nmf": nmf}[request.param](as_map(COUNTS), n_components=3)


def product(result):
    return np.einsum("kyx,ke->yxe", result[schema.LOADINGS].values.astype(float), result[schema.FACTORS].values)


def test_model_computes_nothing_until_asked(result):
    def refuse(*args, **kwargs):
        raise AssertionError("computed")

    with dask.config.set(scheduler=refuse):
        model = reconstruct(result)
        part = model.isel(y=3, x=5)
        with pytest.raises(AssertionError, match="computed"):
            part.compute()
    assert model.name == schema.MODEL
    assert model.dims == schema.VARIABLES[schema.COUNTS].dims
    assert model.shape == COUNTS.shape
    assert model.dtype == np.float32
    for axis in model.dims:
        np.testing.assert_array_equal(model[axis], result[axis])


def test_model_is_loadings_times_factors(result):
    expected = product(result)
    np.testing.assert_allclose(reconstruct(result), expected, rtol=1e-5, atol=1e-5 * expected.max())


def test_model_of_in_memory_results_is_lazy_as_well(result):
    model = reconstruct(result.load())
    assert model.chunks is not None
    np.testing.assert_allclose(model, product(result), rtol=1e-5, atol=1e-4)


def test_model_can_be_indexed(result):
    expected = product(result)
    scale = 1e-5 * expected.max()
    model = reconstruct(result)
    np.testing.assert_allclose(model.isel(y=30, x=66), expected[30, 66], rtol=1e-5, atol=scale)
    window = model.sel(energy=slice(0.1, 0.3)).isel(x=slice(60, 70))
    energies = result[schema.ENERGY].values
    channels = (energies >= 0.1) & (energies <= 0.3)
    np.testing.assert_allclose(window, expected[:, 60:70][..., channels], rtol=1e-5, atol=scale)


def test_one_block_of_the_model_is_one_tile(result):
    model = reconstruct(result)
    assert model.chunks == ((31,), (64, 33), (61,))


def test_chosen_components_add_up(result):
    one, rest = reconstruct(result, components=[2]), reconstruct(result, components=[3, 1])
    expected = product(result.sel(component=[2]))
    np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(one + rest, reconstruct(result), rtol=1e-4, atol=1e-4)


def test_components_keep_their_numbers_after_a_selection(result):
    part = result.isel(component=[2])
    np.testing.assert_array_equal(reconstruct(part, components=[3]), reconstruct(result, components=[3]))
    with pytest.raises(ParameterError, match=r"components: found \[1\]"):
        reconstruct(part, components=[1])


def test_full_pca_gives_the_counts_back():
    counts = made_counts((7, 11, 13))
    np.testing.assert_allclose(reconstruct(pca(as_map(counts), n_components=13)), counts, atol=1e-4)


@pytest.mark.parametrize("components", [[0], [4], [1, 2, 7], [], [-1]])
def test_wrong_components_are_refused(result, components):
    with pytest.raises(ParameterError, match=r"components: found .* expected some of 1 to 3"):
        reconstruct(result, components=components)


def test_other_datasets_are_refused():
    with pytest.raises(ChunkLayoutError, match="variable 'factors'"):
        reconstruct(as_map(COUNTS))

"""Opening and closing against scikit-image on the whole map, for drawn chunks."""

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.morphology import closing, diamond, opening

from eds_chunked.errors import ParameterError
from eds_chunked.phases.morphology import close_mask, open_mask

HEIGHT, WIDTH = 31, 47


def noisy_mask(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    coarse = np.kron(random.random((8, 12)) > 0.45, np.ones((4, 4), bool))[:HEIGHT, :WIDTH]
    return coarse ^ (random.random((HEIGHT, WIDTH)) > 0.9)


def cuts(length: int) -> st.SearchStrategy[tuple[int, ...]]:
    points = st.sets(st.integers(1, length - 1), max_size=4).map(sorted)
    return points.map(lambda at: tuple(np.diff([0, *at, length]).tolist()))


@settings(max_examples=25, deadline=None)
@given(rows=cuts(HEIGHT), columns=cuts(WIDTH), size=st.integers(1, 3), seed=st.integers(0, 99))
def test_equal_to_scikit_image_for_every_chunking(rows, columns, size, seed) -> None:
    mask = noisy_mask(seed)
    chunked = da.from_array(mask, chunks=(rows, columns))
    assert np.array_equal(open_mask(chunked, size=size).compute(), opening(mask, diamond(size), mode="ignore"))
    assert np.array_equal(close_mask(chunked, size=size).compute(), closing(mask, diamond(size), mode="ignore"))


def test_an_object_at_the_edge_is_not_worn_away() -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:7, :11] = True
    opened = open_mask(mask, size=2).compute()
    # Only the corner inside the map is rounded, by the diamond.
    assert opened[0, 0]
    assert opened[6, 0]
    assert not opened[6, 10]


def test_size_zero_leaves_the_mask() -> None:
    mask = noisy_mask(3)
    assert np.array_equal(open_mask(mask, size=0).compute(), mask)
    assert np.array_equal(close_mask(mask, size=0).compute(), mask)


@pytest.mark.parametrize("size", [-1, 1.5, True])
def test_wrong_size(size) -> None:
    with pytest.raises(ParameterError, match="opening"):
        open_mask(noisy_mask(0), size=size)

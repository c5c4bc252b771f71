"""Exclusive labels: a pixel-by-pixel reference in plain Python, for every chunking."""

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eds_chunked import schema
from eds_chunked.errors import ChunkLayoutError, ParameterError
from eds_chunked.kernels.shares import decide_by_share
from eds_chunked.phases.labels import exclusive_labels

SUMS = np.array([3.0, 100.0, 0.5])


def ragged(length):
    """Chunk lengths that add up to ``length``."""
    cuts = st.sets(st.integers(1, length - 1), max_size=5)
    return cuts.map(lambda inner: tuple(np.diff([0, *sorted(inner), length]).tolist()))


def reference(loadings, masks, sums, mixed_margin):
    label, margin = np.zeros(loadings.shape[1:], np.uint8), np.zeros(loadings.shape[1:])
    for pixel in np.ndindex(label.shape):
        counts = [max(float(v), 0.0) * s for v, s in zip(loadings[:, *pixel], sums, strict=True)]
        if sum(counts) == 0:
            continue
        shares = [c / sum(counts) for c in counts]
        second, best = sorted([0.0, *shares])[-2:]
        margin[pixel] = best - second
        held = [k for k in range(len(shares)) if masks[:, *pixel][k]]
        if held:
            label[pixel] = 1 + max(held, key=shares.__getitem__)
        if len(held) > 1 and best - second < mixed_margin:
            label[pixel] = 255
    return label, margin


def maps(seed):
    rng = np.random.default_rng(seed)
    loadings = rng.normal(1, 1, (3, 31, 47)).astype(np.float32) / SUMS[:, None, None].astype(np.float32)
    loadings[:, 4:9, 30:41] = 0
    return loadings, rng.random((3, 31, 47)) < 0.6


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 999),
    mixed_margin=st.sampled_from([0, 0.2, 1]),
    chunks=st.tuples(ragged(3), ragged(31), ragged(47)),
    mask_chunks=st.tuples(ragged(3), ragged(31), ragged(47)),
)
def test_labels_equal_the_reference_for_every_chunking(seed, mixed_margin, chunks, mask_chunks):
    loadings, masks = maps(seed)
    label, margin = exclusive_labels(
        da.from_array(loadings, chunks=chunks),
        masks=da.from_array(masks, chunks=mask_chunks),
        factor_sums=SUMS,
        mixed_margin=mixed_margin,
    )
    expected_label, expected_margin = reference(loadings, masks, SUMS, mixed_margin)
    label, margin = dask.compute(label, margin)
    np.testing.assert_array_equal(label, expected_label)
    np.testing.assert_allclose(margin, expected_margin, atol=1e-6)  # the margin is stored as float32
    assert (label.dtype, margin.dtype) == (np.uint8, np.float32)
    assert {0, 1, 2, 3} <= set(np.unique(label))


def twin(loadings, masks, factor_sums, mixed_margin):
    """Decide by arrays of NumPy, a component after the other."""
    n_pixels = loadings.shape[1]
    total, best, second, best_in_mask = np.zeros((4, n_pixels))
    winner, n_masks = np.zeros(n_pixels, np.uint8), np.zeros(n_pixels, int)
    for number, (loading, mask, factor_sum) in enumerate(zip(loadings, masks, factor_sums, strict=True), start=1):
        counts = np.where(np.isfinite(loading) & (loading > 0), loading, 0).astype(np.float64) * factor_sum
        total += counts
        second = np.maximum(second, np.minimum(best, counts))
        best = np.maximum(best, counts)
        n_masks += mask
        wins = mask & ((winner == 0) | (counts > best_in_mask))
        winner[wins], best_in_mask[wins] = number, counts[wins]
    margin = np.divide(best - second, total, out=np.zeros(n_pixels), where=total > 0)
    winner[(n_masks > 1) & (margin < mixed_margin)] = schema.MIXED
    winner[total == 0] = schema.UNASSIGNED
    return winner, margin.astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    n=st.sampled_from([1, 2, 5, 11]),
    dtype=st.sampled_from([np.float32, np.float64]),
    mixed_margin=st.sampled_from([0, 0.2, 0.5, 1]),
    strided=st.booleans(),
)
def test_the_kernel_equals_its_twin_to_the_last_bit(seed, n, dtype, mixed_margin, strided):
    rng = np.random.default_rng(seed)
    loadings = rng.normal(0.5, 1, (n, 331)).astype(dtype)
    # Equal shares, no counts, and what is no number.
    loadings[:, 7:29] = np.round(loadings[:, 7:29])
    loadings[:, 40:44] = 0
    loadings[rng.random(loadings.shape) < 0.03] = np.nan
    loadings[rng.random(loadings.shape) < 0.03] = np.inf
    masks, sums = rng.random(loadings.shape) < 0.6, np.where(rng.random(n) < 0.2, 0, rng.gamma(1, 9, n))
    if strided:
        loadings, masks, sums = loadings[:, ::3], masks[:, ::3], np.repeat(sums, 2)[::2]
    label, margin = decide_by_share(loadings, masks, sums, mixed_margin=mixed_margin, mixed=schema.MIXED)
    expected_label, expected_margin = twin(loadings, masks, sums, mixed_margin)
    np.testing.assert_array_equal(label, expected_label)
    np.testing.assert_array_equal(margin, expected_margin)
    assert (label.dtype, margin.dtype) == (np.uint8, np.float32)


def test_masks_of_another_grid_are_an_error():
    loadings, masks = maps(1)
    with pytest.raises(ChunkLayoutError, match=r"masks: found \(3, 31, 46\) .*expected \(3, 31, 47\)"):
        exclusive_labels(loadings, masks=masks[..., :-1], factor_sums=SUMS, mixed_margin=0.2)


def one_pixel(loadings, masks, *, sums=None, mixed_margin=0.2):
    label, margin = exclusive_labels(
        np.array(loadings, np.float32).reshape(-1, 1, 1),
        masks=np.array(masks, bool).reshape(-1, 1, 1),
        factor_sums=np.ones(len(loadings)) if sums is None else np.array(sums, np.float64),
        mixed_margin=mixed_margin,
    )
    return int(label.compute()[0, 0]), float(margin.compute()[0, 0])


def test_shares_are_of_counts_and_not_of_loadings():
    assert one_pixel([9, 1], [1, 1], sums=[1, 100])[0] == 2
    assert one_pixel([9, 1], [1, 1], sums=[1, 1])[0] == 1


def test_only_masks_that_hold_the_pixel_compete_but_the_margin_is_over_all():
    label, margin = one_pixel([6, 3, 1], [0, 1, 1])
    assert label == 2
    assert margin == pytest.approx(0.3)


def test_mixed_needs_several_masks_and_a_small_margin():
    assert one_pixel([5, 4, 1], [1, 1, 0])[0] == schema.MIXED
    assert one_pixel([5, 4, 1], [1, 0, 0])[0] == 1
    assert one_pixel([7, 2, 1], [1, 1, 0])[0] == 1
    assert one_pixel([5, 4, 1], [0, 0, 0])[0] == schema.UNASSIGNED


def test_a_single_component_has_all_the_counts():
    assert one_pixel([0.3], [1]) == (1, 1.0)
    assert one_pixel([0.0], [1]) == (schema.UNASSIGNED, 0.0)


@pytest.mark.parametrize("dead", [[0, 0, 0], [-1, 0, -2], [np.nan] * 3, [np.nan, np.inf, -np.inf]])
def test_a_pixel_without_counts_is_unassigned_with_margin_zero(dead):
    assert one_pixel(dead, [1, 1, 0]) == (schema.UNASSIGNED, 0.0)


def test_negative_loadings_take_no_counts_from_the_others():
    assert one_pixel([3, 1, -2], [1, 0, 0]) == (1, pytest.approx(0.5))


def test_254_phases_are_possible_and_255_are_an_error():
    loadings = np.zeros((255, 2, 3), np.float32)
    loadings[253, 1, 2] = 1
    label, _ = exclusive_labels(loadings[:254], masks=loadings[:254] > 0, factor_sums=np.ones(254), mixed_margin=0.2)
    assert label.compute().tolist() == [[0, 0, 0], [0, 0, 254]]
    with pytest.raises(ParameterError, match="number of phases: found 255, expected at most 254"):
        exclusive_labels(loadings, masks=loadings > 0, factor_sums=np.ones(255), mixed_margin=0.2)


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_signed_factors_are_an_error_that_names_the_factor(wrong):
    with pytest.raises(ParameterError, match="factor number 2: found"):
        one_pixel([1, 1, 1], [1, 1, 1], sums=[1, wrong, 1])


@pytest.mark.parametrize("margin", [-0.1, 1.1, np.nan])
def test_a_margin_outside_zero_to_one_is_an_error(margin):
    with pytest.raises(ParameterError, match="mixed_margin: found"):
        one_pixel([1, 1], [1, 1], mixed_margin=margin)


def test_labels_are_lazy_and_read_each_block_once():
    reads = []

    def read(block):
        reads.append(block.shape)
        return block

    loadings, masks = maps(1)
    source = da.from_array(loadings, chunks=(3, 16, 24)).map_blocks(read, dtype=np.float32, meta=np.empty((0, 0, 0)))
    both = exclusive_labels(source, masks=masks, factor_sums=SUMS, mixed_margin=0.2)
    assert reads == []
    dask.compute(*both)
    assert len(reads) == 4

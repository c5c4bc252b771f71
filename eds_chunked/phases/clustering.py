"""From component maps to phases by clustering: another road to labels, without thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import dask
import dask.array as da
import numpy as np
import xarray as xr
from sklearn.cluster import MiniBatchKMeans
from sklearn.mixture import GaussianMixture

from eds_chunked import schema
from eds_chunked.dask_cluster import losses_told
from eds_chunked.decomposition.advice import advise_components
from eds_chunked.decomposition.elbow import is_centred
from eds_chunked.decomposition.sample import Draw
from eds_chunked.engine.blocks import Lane
from eds_chunked.engine.planning import plan
from eds_chunked.engine.scratch import IN_MEMORY, kept_on_disk
from eds_chunked.errors import ParameterError
from eds_chunked.in_order import one_thread_each
from eds_chunked.memory import Need
from eds_chunked.phases.labels import MAX_PHASES
from eds_chunked.store.provenance import result_attributes
from eds_chunked.store.results import reads_of

__all__ = ["cluster"]

Array = np.ndarray[Any, Any]
Distinguish = Callable[[Array], tuple[Array, Array]]
"""Turns features (pixels, components) into the number of the nearest cluster, from 0, and how clear that was."""

Method = Literal["kmeans", "gaussian"]
KMEANS: Method = "kmeans"
GAUSSIAN: Method = "gaussian"
METHODS = (KMEANS, GAUSSIAN)

# Blocks lie on a grid of their own, so that the chunks of the loadings cannot change a sum.
_SIDE = 256
_BATCH = 4096
_RESTARTS = 10
_MOST_STEPS = 300


def cluster(
    result: xr.Dataset,
    *,
    n_clusters: int,
    method: Method = KMEANS,
    components: Sequence[int] | None = None,
    seed: int = 0,
    fit_pixels: int = 131072,
    memory: str | int | None = None,
) -> xr.Dataset:
    """Compute the phase of every pixel by clustering the pixels in the space of the components.

    Pixels are compared by direction: the loadings of a pixel are divided by their length, so that brightness does not
    count. Those of an NMF are counts of the component, those of a PCA stay as they are (of Poisson-scaled counts, they
    are in units of about the same noise; whitened, the faintest component would weigh as much as the first). The
    clusters are fitted to a random sample of the pixels by scikit-learn, then every pixel takes the nearest. There are
    no thresholds: a pixel on the border of two phases belongs to one of them, with a small margin. A phase that covers
    a few pixels in a thousand is rarely a cluster of its own. A mixture of Gaussians needs loadings without many exact
    zeros: at low dose take those of a PCA for it, as non-negative ones pile up at zero.

    Parameters
    ----------
    result
        Result of :func:`eds_chunked.nmf` or :func:`eds_chunked.pca`, with ``loadings`` (component, y, x).
    n_clusters
        Number of phases, 2 to 254.
    method
        ``"kmeans"`` (MiniBatchKMeans: round clusters of about equal size) or ``"gaussian"`` (GaussianMixture: each with
        its own shape and share).
    components
        Numbers of the components to use, from 1; default: all, and of a PCA with a noise edge those above it.
    seed
        Seed of the sample and of the start of the clusters.
    fit_pixels
        Pixels that the clusters are fitted to, drawn at random over the whole map.
    memory
        Budget for the resident memory of the whole process, such as ``"1GB"``.

    Returns
    -------
    xarray.Dataset
        In memory up to 4 million pixels, else lazy on a scratch store that lives as long as the process: ``label``
        (y, x) uint8, 1 to n in the order of falling area and 0 for pixels without loadings (empty or left out);
        ``margin`` (y, x) float32 from 0 to 1: for k-means how much nearer the best cluster is than the second,
        (second - best) / second, for the mixture the difference of the two posterior probabilities (close to 1 for most
        pixels, wrong ones included, since clusters are no true Gaussians); ``mask`` (phase, y, x), where the label is
        the phase; ``n_pixels`` and ``area_fraction`` (phase).

    Raises
    ------
    ChunkLayoutError, MemoryBudgetError
    ParameterError
        A parameter out of range, a centred PCA, a component that there is none of, or fewer different pixels than
        clusters.

    Notes
    -----
    Memory: the sample in float64 a few times, 14 bytes a pixel of what stays in memory and one more for each phase, and
    for each worker a block of 256 x 256 pixels. The loadings are read twice, in blocks.

    The same seed gives the same labels for every chunking and number of workers.

    References
    ----------
    Sculley (2010), Web-scale k-means clustering, WWW, 1177; Dempster, Laird & Rubin (1977), J. R. Stat. Soc. B 39, 1.
    """
    schema.require(result, schema.FACTORS, schema.LOADINGS)
    _check(n_clusters, method, seed, fit_pixels)
    if is_centred(result):
        raise ParameterError(
            "result to cluster",
            found="a centred PCA",
            expected="an NMF, or a PCA that is not centred: from the mean, brightness and direction are no two things",
            fix="cluster(pca(ds), ...), with the solver gram or randomized and without centre",
        )
    chosen = _chosen_components(result, components)
    part = result if chosen is None else result.sel({schema.COMPONENT: chosen})
    n_components, height, width = part[schema.LOADINGS].shape
    if height * width == 0:
        raise ParameterError(
            "selection of loadings",
            found=f"{height} x {width} pixels",
            expected="at least one",
            fix="check the ranges of result.sel(y=..., x=...)",
        )
    scale = _scale(part)
    how = plan(
        _need(n_clusters, n_components, height * width, fit_pixels),
        memory=memory,
        reads=[reads_of(result, schema.LOADINGS, 2)],
        writes=(n_clusters + 6) * height * width + 8 * (height + width + 3 * n_clusters),
    )
    loadings = da.asarray(part[schema.LOADINGS].data).rechunk((-1, _SIDE, _SIDE))
    # On a cluster the number of workers is its own. One thread each in the fit too: with several, sums come in the
    # order in which the threads end.
    with dask.config.set(num_workers=how.workers), one_thread_each(), losses_told("clusters"):
        draw = Draw(width, seed, share_drawn=min(1.0, fit_pixels / (height * width)), share_held_out=0.0)
        distinguish = _fit(_sample(loadings, scale, draw), n_clusters, method, seed)
        both = loadings.map_blocks(
            _label_block,
            scale=scale,
            distinguish=distinguish,
            chunks=((2,), *loadings.chunks[1:]),
            dtype=np.float32,
            meta=np.empty((0, 0, 0), np.float32),
        )
        label, margin = both[0].astype(np.uint8), both[1]
        if height * width <= IN_MEMORY:
            label, margin = (da.from_array(values, chunks=_SIDE) for values in dask.compute(label, margin))
        else:
            label, margin = kept_on_disk({schema.LABEL: label, schema.MARGIN: margin})
        new, n_pixels = _by_falling_area(label, n_clusters)
        label = label.map_blocks(_renumbered, new=new, dtype=np.uint8)
        numbers = np.arange(1, n_clusters + 1)
        mask = label[None] == numbers[:, None, None].astype(np.uint8)
        if height * width <= IN_MEMORY:
            mask, label, margin = dask.compute(mask, label, margin)
    variables = {
        schema.MASK: mask,
        schema.LABEL: label,
        schema.MARGIN: margin,
        schema.N_PIXELS: n_pixels,
        schema.AREA_FRACTION: n_pixels / label.size,
    }
    coords = {
        name: result[name].variable.compute()
        for name in (schema.Y, schema.X, schema.ANALYSED_PIXEL)
        if name in result.coords
    }
    parameters: dict[str, Any] = {"n_clusters": int(n_clusters), "method": method}
    if chosen is not None:
        parameters["components"] = chosen
    parameters |= {"seed": int(seed), "fit_pixels": int(fit_pixels)}
    attrs = result_attributes(result, schema.PHASES, parameters)
    # Not the parent's name alone: that is the name of what segment_phases made of it.
    attrs[schema.RUN] = "-".join([*([attrs[schema.RUN]] if schema.RUN in attrs else []), f"{method}{n_clusters}"])
    phases = xr.Dataset(
        {name: (schema.VARIABLES[name].dims, values, schema.attributes(name)) for name, values in variables.items()},
        coords={**coords, schema.PHASE: numbers},
        attrs=attrs,
    )
    phases[schema.MASK].attrs["long_name"] = "pixels whose label is the phase"
    phases[schema.MARGIN].attrs["long_name"] = _MARGINS[method]
    return phases


_MARGINS = {
    KMEANS: "distance to the second cluster minus that to the best, over the former",
    GAUSSIAN: "posterior probability of the best cluster minus that of the second",
}


def _check(n_clusters: int, method: str, seed: int, fit_pixels: int) -> None:
    if not isinstance(n_clusters, int | np.integer) or not 2 <= n_clusters <= MAX_PHASES:
        raise ParameterError(
            "n_clusters", found=n_clusters, expected=f"a whole number from 2 to {MAX_PHASES}", fix="n_clusters=4"
        )
    if method not in METHODS:
        raise ParameterError("method", found=repr(method), expected=" or ".join(map(repr, METHODS)), fix="'kmeans'")
    if not 0 <= seed < 2**32:
        raise ParameterError("seed", found=seed, expected="0 to 2**32 - 1", fix="seed=0")
    if fit_pixels < 1:
        raise ParameterError("fit_pixels", found=fit_pixels, expected="at least 1", fix="leave it out for the default")


def _chosen_components(result: xr.Dataset, components: Sequence[int] | None) -> list[int] | None:
    """Return the numbers of the components to use, or None for all."""
    known = [int(number) for number in result[schema.COMPONENT].values]
    if components is None:
        if schema.NOISE_RATIO not in result:
            return None
        # Beyond the edge a PCA goes on with components of noise, as long as the first ones.
        above = advise_components(result).n_components or len(known)
        return known[:above] if above < len(known) else None
    missing = [number for number in components if number not in known]
    if missing or len(components) == 0 or len(set(components)) < len(components):
        raise ParameterError(
            "components",
            found=missing or list(components) or "none",
            expected=f"different numbers of 1 to {len(known)}",
            fix=f"components={known[:2]}",
        )
    return [int(number) for number in components]


def _scale(result: xr.Dataset) -> Array:
    """Return what loadings (component,) are multiplied by: for non-negative factors the counts of a unit loading."""
    if result.attrs.get(schema.STEP) != schema.NMF:
        return np.ones(result.sizes[schema.COMPONENT])
    sums: Array = result[schema.FACTORS].sum(schema.ENERGY, dtype=np.float64).values
    return sums


def _need(n_clusters: int, n_components: int, n_pixels: int, fit_pixels: int) -> Need:
    # scikit-learn holds the sample, its distances or probabilities, and a copy of either.
    sample = 8 * min(fit_pixels, n_pixels) * 3 * (n_components + n_clusters)
    block = 8 * _SIDE**2 * (3 * n_components + 3 * n_clusters)
    return Need("cluster", sample + min(n_pixels, IN_MEMORY) * (14 + n_clusters), block)


def _features(loadings: Array, scale: Array) -> tuple[Array, Array]:
    """Return rows of unit length (pixels, components) of loadings (components, pixels), and which pixels have one."""
    with np.errstate(invalid="ignore"):
        values = loadings.astype(np.float64) * scale[:, None]
    # One component after the other: the order of a sum along an axis can depend on the shape of the block.
    squares = np.zeros(values.shape[1])
    for row in values:
        squares += row * row
    lit = np.isfinite(squares) & (squares > 0)
    directions = values[:, lit] / np.sqrt(squares[lit])
    # Rounded as features are kept, then wide again, so that distances of one pixel never depend on its neighbours.
    return np.ascontiguousarray(directions.T.astype(np.float32)).astype(np.float64), lit


def _sample(loadings: da.Array, scale: Array, draw: Draw) -> Array:
    """Return the features of the pixels that are drawn, in the order of their hash."""
    ends = [np.cumsum([0, *sizes]).tolist() for sizes in loadings.chunks[1:]]
    lanes = [
        Lane(slice(y0, y1), slice(x0, x1))
        for y0, y1 in zip(ends[0], ends[0][1:], strict=False)
        for x0, x1 in zip(ends[1], ends[1][1:], strict=False)
    ]
    drawn: Any = dask.delayed(_drawn_of_block)
    blocks = loadings.to_delayed().ravel()
    pieces = dask.compute(*(drawn(block, lane, scale, draw) for block, lane in zip(blocks, lanes, strict=True)))
    keys, features = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    return np.asarray(features[np.argsort(keys, kind="stable")])


def _drawn_of_block(block: Array, lane: Lane, scale: Array, draw: Draw) -> tuple[Array, Array]:
    keys = draw.keys(lane)
    places = draw.drawn(keys)
    features, lit = _features(block.reshape(len(block), -1)[:, places], scale)
    return keys[places][lit], features


def _fit(features: Array, n_clusters: int, method: str, seed: int) -> Distinguish:
    n_kinds = len(np.unique(features, axis=0))
    if n_kinds < n_clusters:
        raise ParameterError(
            "n_clusters",
            found=n_clusters,
            expected=f"at most {n_kinds}, the number of different pixels among those that clusters are fitted to",
            fix="ask for fewer clusters, or for a larger fit_pixels",
        )
    if method == GAUSSIAN:
        mixture = GaussianMixture(n_clusters, max_iter=_MOST_STEPS, random_state=seed)
        return _ByProbability(mixture.fit(features))
    # No reassignment: it takes small clusters for failed ones and starts them anew.
    means = MiniBatchKMeans(
        n_clusters, batch_size=_BATCH, n_init=_RESTARTS, reassignment_ratio=0, random_state=seed
    ).fit(features)
    return _ByDistance(means.cluster_centers_)


@dataclass(frozen=True, eq=False)
class _ByDistance:
    centres: Array

    def __call__(self, features: Array) -> tuple[Array, Array]:
        distances = np.zeros((len(self.centres), len(features)))
        for row, centre in zip(distances, self.centres, strict=True):
            for values, position in zip(features.T, centre, strict=True):
                row += (values - position) ** 2
        np.sqrt(distances, out=distances)
        nearest = distances.argmin(axis=0)
        best, second = np.partition(distances, 1, axis=0)[:2]
        return nearest, np.divide(second - best, second, out=np.zeros(len(features)), where=second > 0)


@dataclass(frozen=True, eq=False)
class _ByProbability:
    mixture: Any

    def __call__(self, features: Array) -> tuple[Array, Array]:
        posterior = self.mixture.predict_proba(features)
        second, best = np.partition(posterior, -2, axis=1)[:, -2:].T
        return posterior.argmax(axis=1), best - second


def _label_block(block: Array, *, scale: Array, distinguish: Distinguish) -> Array:
    """Return label and margin as one float32 block (labels up to 255 are exact), so that the work is done once."""
    features, lit = _features(block.reshape(len(block), -1), scale)
    out = np.zeros((2, lit.size), np.float32)
    if len(features):
        nearest, margin = distinguish(features)
        out[0, lit], out[1, lit] = nearest + 1, margin
    return out.reshape(2, *block.shape[1:])


def _by_falling_area(label: da.Array, n_clusters: int) -> tuple[Array, Array]:
    """Return the new number of each label, largest cluster first, and the pixels of each cluster."""
    pieces = label.map_blocks(_counted, most=n_clusters, chunks=(1, 1, n_clusters + 1), new_axis=2, dtype=np.int64)
    counted = np.asarray(pieces.sum(axis=(0, 1)))[1:]
    order = np.argsort(-counted, kind="stable")
    new = np.zeros(n_clusters + 1, np.uint8)
    new[order + 1] = np.arange(1, n_clusters + 1)
    return new, counted[order].astype(np.int64)


def _counted(block: Array, *, most: int) -> Array:
    return np.bincount(block.ravel(), minlength=most + 1)[None, None, :]


def _renumbered(block: Array, *, new: Array) -> Array:
    numbered: Array = new[block]
    return numbered

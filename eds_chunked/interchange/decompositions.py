"""A decomposition as HyperSpy keeps it, and as a result of this package."""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.decomposition.advice import advise_components
from eds_chunked.decomposition.elbow import is_centred
from eds_chunked.decomposition.low_rank import with_mean
from eds_chunked.decomposition.result import variable
from eds_chunked.errors import ChunkLayoutError, ParameterError
from eds_chunked.interchange.means import (
    CENTRE,
    MEAN,
    MEAN_IS_FIRST,
    NAVIGATION_MASK,
    OVER_PIXELS,
    POISSON_SCALED,
    SIGNAL_MASK,
    Mean,
    is_first_component,
    is_lost,
    mean_of,
)
from eds_chunked.interchange.variances import (
    EXPLAINED_VARIANCE,
    EXPLAINED_VARIANCE_RATIO,
    variances_for_hyperspy,
    variances_of,
)
from eds_chunked.store.layout import tile_shape
from eds_chunked.store.provenance import result_attributes

Array = np.ndarray[Any, Any]
Results = Literal["decomposition", "bss"]
KINDS: tuple[Results, ...] = ("decomposition", "bss")

FACTORS = {"decomposition": "factors", "bss": "bss_factors"}
LOADINGS = {"decomposition": "loadings", "bss": "bss_loadings"}
ALGORITHM = {"decomposition": "decomposition_algorithm", "bss": "bss_algorithm"}
# Names that HyperSpy gives to what a decomposition, or the source separation after it, leaves behind.

_ALGORITHMS = {schema.PCA: "SVD", schema.NMF: "NMF"}
_OTHER_ALGORITHM = "custom"
_BAND_VALUES = 2**20
"""Loadings that are looked at together."""
_TILES_OF_A_CHUNK = 4


def names_of(results: Results) -> tuple[str, ...]:
    """Return the names of what is read of HyperSpy's results; a source separation explains no variance."""
    masks_and_mean = (POISSON_SCALED, NAVIGATION_MASK, SIGNAL_MASK, CENTRE, MEAN, MEAN_IS_FIRST)
    both = (FACTORS[results], LOADINGS[results], ALGORITHM[results], *masks_and_mean)
    return both if results == "bss" else (*both, EXPLAINED_VARIANCE, EXPLAINED_VARIANCE_RATIO)


# ----------------------------------------------------------------------------------------------- to HyperSpy
def hyperspy_members(result: xr.Dataset) -> dict[str, Any]:
    """Return what HyperSpy keeps of a PCA or NMF, except the loadings: factors (channels, components), masks, numbers.

    A mask of HyperSpy says what is left out; what is not known is not there. The mean of a centred PCA is the first of
    its components (:data:`eds_chunked.interchange.means.MEAN_IS_FIRST`); loadings that go with these factors are those
    of :func:`eds_chunked.decomposition.low_rank.with_mean`.
    """
    schema.require(result, schema.FACTORS, schema.LOADINGS)
    parameters = result.attrs.get(schema.PARAMETERS, {})
    factors = np.ascontiguousarray(with_mean(result)[schema.FACTORS].values.T)
    members: dict[str, Any] = {
        ALGORITHM["decomposition"]: str(
            _ALGORITHMS.get(str(result.attrs.get(schema.STEP))) or parameters.get("estimator") or _OTHER_ALGORITHM
        ),
        FACTORS["decomposition"]: factors,
        "original_shape": np.array([result.sizes[axis] for axis in schema.VARIABLES[schema.COUNTS].dims]),
        "output_dimension": factors.shape[1],
        POISSON_SCALED: parameters.get("noise") == "poisson",
        "unfolded": True,
    }
    members |= variances_for_hyperspy(result)
    if schema.NOISE_RATIO in result:
        advice = advise_components(result)
        if advice.n_components or advice.elbow:
            members["number_significant_components"] = advice.n_components or advice.elbow
    if is_centred(result) or CENTRE in parameters:
        members[CENTRE] = str(parameters.get(CENTRE, OVER_PIXELS))
    if schema.MEAN_SPECTRUM in result:
        members[MEAN_IS_FIRST] = True
    if schema.ANALYSED_PIXEL in result.coords:
        members[NAVIGATION_MASK] = ~result[schema.ANALYSED_PIXEL].values
    left_out = np.isnan(factors).any(axis=1)
    if schema.ANALYSED_CHANNEL in result.coords:
        left_out |= ~result[schema.ANALYSED_CHANNEL].values
    if left_out.any():
        members[SIGNAL_MASK] = left_out
    return members


# --------------------------------------------------------------------------------------------- from HyperSpy
@dataclass(frozen=True)
class MappedLoadings:
    """Loadings (pixels, components) in a file on disk, as maps (component, y, x) of float32; read chunk by chunk."""

    path: str
    stored: tuple[int, int]
    stored_dtype: np.dtype[Any]
    order: Literal["C", "F"]
    grid: tuple[int, int]

    dtype = np.dtype(np.float32)
    ndim = 3

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.stored[1], *self.grid

    def __getitem__(self, key: Any) -> Array:
        values = np.memmap(self.path, self.stored_dtype, mode="r", shape=self.stored, order=self.order)
        return np.asarray(_as_maps(values, self.grid)[key], np.float32)


def _as_maps(loadings: Array, grid: tuple[int, int]) -> Array:
    """View loadings (pixels, components) as maps (component, y, x): HyperSpy's pixels are in raster order."""
    return loadings.reshape(*grid, loadings.shape[1]).transpose(2, 0, 1)


def check_shapes(ds: xr.Dataset, shapes: Mapping[str, tuple[int, ...]], *, results: Results, where: str) -> None:
    """Check the shapes of what was found against the map ``ds``, before any value is read.

    Raises
    ------
    ParameterError
        There are no factors or no loadings.
    ChunkLayoutError
        A shape that cannot be of this map.
    """
    height, width, n_channels = (ds.sizes[axis] for axis in schema.VARIABLES[schema.COUNTS].dims)
    n_pixels, most = height * width, min(height * width, n_channels)
    missing = [name for name in (FACTORS[results], LOADINGS[results]) if name not in shapes]
    if missing:
        raise ParameterError(
            where,
            found=f"no {' and no '.join(missing)}",
            expected=f"the results of a {'decomposition' if results == 'decomposition' else 'source separation'}",
            fix="save them in HyperSpy after s.decomposition(...)"
            + (" and s.blind_source_separation(...)" if results == "bss" else ""),
        )
    factors = shapes[FACTORS[results]]
    mean_first = results == "decomposition" and MEAN_IS_FIRST in shapes
    k = factors[1] if len(factors) == 2 and 1 <= factors[1] <= most + mean_first else 0

    def check(name: str, fits: bool, expected: str, fix: str) -> None:
        if not fits:
            raise ChunkLayoutError(f"{name} in {where}", found=f"shape {shapes[name]}", expected=expected, fix=fix)

    of_k = f"{k or f'1 to {most}'} components"
    window = "select the energies that were analysed: ds.sel(energy=slice(0.2, 12)), or --energy 0.2:12"
    region = "select the region that was analysed: ds.isel(y=slice(0, 64), x=slice(0, 64))"
    check(FACTORS[results], k > 0 and factors == (n_channels, k), f"({n_channels} channels, {of_k})", window)
    fits = shapes[LOADINGS[results]] == (n_pixels, k)
    check(LOADINGS[results], fits, f"({n_pixels} pixels, {of_k}) for a map of {height} x {width} pixels", region)
    if NAVIGATION_MASK in shapes:
        fits = shapes[NAVIGATION_MASK] in ((n_pixels,), (height, width))
        check(NAVIGATION_MASK, fits, f"({height} rows, {width} columns)", region)
    if SIGNAL_MASK in shapes:
        check(SIGNAL_MASK, shapes[SIGNAL_MASK] == (n_channels,), f"({n_channels} channels,)", window)
    for name in (EXPLAINED_VARIANCE, EXPLAINED_VARIANCE_RATIO):
        if name in shapes:
            # A map of few pixels has more eigenvalues than components: the others are zero.
            last = n_channels + mean_first
            fits = len(shapes[name]) == 1 and k <= shapes[name][0] <= last
            check(name, fits, f"{k} to {last} values", "save the learning results again")
    if MEAN in shapes:
        largest = max(n_pixels, n_channels)
        fits = 1 <= math.prod(shapes[MEAN]) <= largest
        check(MEAN, fits, f"a value a channel or a pixel, {largest} at most", "save the learning results again")


def adopt(
    ds: xr.Dataset, found: Mapping[str, Any], *, results: Results, name: str | None, where: str, source: str
) -> xr.Dataset:
    """Make a result of the map ``ds`` of what HyperSpy found; the shapes were checked.

    Loadings that are mapped from a file stay there; the Dataset is lazy on them.

    Parameters
    ----------
    ds
        The map.
    found
        HyperSpy's members, the mean as :func:`eds_chunked.interchange.means.with_whole_mean` has it.

    Raises
    ------
    ParameterError
        A value that is infinite, or nothing that was analysed.
    """
    height, width = grid = ds.sizes[schema.Y], ds.sizes[schema.X]
    stored = found[LOADINGS[results]]
    factors = np.asarray(found[FACTORS[results]], np.float64).T
    if np.isinf(factors).any():
        raise _infinite(FACTORS[results], where, f"channel {int(np.argwhere(np.isinf(factors))[0, 1])}")
    scan = _scan(stored, width, name=LOADINGS[results], where=where)
    pixels = scan.used & ~np.asarray(found.get(NAVIGATION_MASK, False), np.bool_).reshape(-1)
    channels = ~np.isnan(factors).any(axis=0) & ~np.asarray(found.get(SIGNAL_MASK, False), np.bool_)
    for what, used in (("pixel", pixels), ("channel", channels)):
        if not used.any():
            raise ParameterError(
                where, found=f"no {what} that is not masked or NaN", expected="at least one", fix="mask less"
            )
    mean_first = results == "decomposition" and is_first_component(found)
    k = len(factors) - mean_first
    if k == 0:
        raise ParameterError(
            where, found="a mean and no component", expected="at least one component", fix="keep more components"
        )
    algorithm = str(found.get(ALGORITHM[results], ""))
    non_negative = bool(np.nanmin(factors) >= 0) and scan.least >= 0
    step = schema.PCA if EXPLAINED_VARIANCE in found else schema.DECOMPOSE
    if "NMF" in algorithm or (step != schema.PCA and not algorithm and non_negative):
        step = schema.NMF
    coords: dict[str, Any] = {axis: ds[axis].variable for axis in (schema.Y, schema.X, schema.ENERGY)}
    coords[schema.COMPONENT] = np.arange(1, k + 1)
    if not pixels.all():
        coords[schema.ANALYSED_PIXEL] = variable(schema.ANALYSED_PIXEL, pixels.reshape(grid))
    if not channels.all():
        coords[schema.ANALYSED_CHANNEL] = variable(schema.ANALYSED_CHANNEL, channels)
    maps = _loadings(stored, (height, width), ds.sizes[schema.ENERGY])
    mean = mean_of(found, pixels=scan.used, channels=np.asarray(np.isfinite(factors).all(axis=0)))
    if mean_first:
        mean = Mean(factors[0], maps[0])
    variables = {
        schema.FACTORS: variable(schema.FACTORS, factors[-k:]),
        schema.LOADINGS: variable(schema.LOADINGS, maps[-k:]),
        **variances_of(found, k),
    }
    if mean is not None:
        variables[schema.MEAN_SPECTRUM] = variable(schema.MEAN_SPECTRUM, mean.spectrum)
        loading = mean.loading.reshape(height, width).astype(np.float32)
        variables[schema.MEAN_LOADING] = variable(schema.MEAN_LOADING, loading)
        if not mean_first:
            variables[schema.MEAN_VARIANCE] = variable(schema.MEAN_VARIANCE, mean.variance)
    energy = ds[schema.ENERGY].values
    half = abs(float(energy[-1] - energy[0])) / max(1, 2 * (len(energy) - 1))
    parameters = {
        "n_components": k,
        "noise": "poisson" if found.get(POISSON_SCALED) else None,
        "estimator": algorithm or "HyperSpy",
        "results": results,
        schema.IMPORTED_FROM: source,
        "energy": [float(energy.min()) - half, float(energy.max()) + half],
    }
    content = hashlib.sha256(np.ascontiguousarray(factors).tobytes()).hexdigest() + scan.digest
    if mean is not None or is_lost(found):
        # The sources of a mean that was a component are products, as if nothing had been taken off.
        parameters[CENTRE] = str(found[CENTRE])
    if mean is not None and not mean_first:
        content += hashlib.sha256(mean.spectrum.tobytes() + mean.loading.tobytes()).hexdigest()
    if is_lost(found):
        parameters["is_product"] = False
    attrs = result_attributes(ds, step, parameters, content)
    return xr.Dataset(variables, coords, attrs | {schema.RUN: schema.check_run_name(name or f"hs{k}")})


class _Scan(NamedTuple):
    """What a pass over loadings says: pixels without NaN, the least value, and a digest of all values."""

    used: Array
    least: float
    digest: str


def _scan(loadings: Array, width: int, *, name: str, where: str) -> _Scan:
    n_pixels, k = loadings.shape
    used, least, digest = np.ones(n_pixels, np.bool_), np.inf, hashlib.sha256()
    step = max(1, _BAND_VALUES // k)
    for first in range(0, n_pixels, step):
        with np.errstate(over="ignore"):
            band = np.ascontiguousarray(_mapped_anew(loadings)[first : first + step], np.float32)
        if np.isinf(band).any():
            pixel = first + int(np.argwhere(np.isinf(band))[0, 0])
            raise _infinite(name, where, f"pixel y={pixel // width}, x={pixel % width}")
        used[first : first + step] = ~np.isnan(band).any(axis=1)
        least = min(least, float(band.min(initial=np.inf, where=~np.isnan(band))))
        digest.update(band.tobytes())
    return _Scan(used, least, digest.hexdigest())


def _mapped_anew(values: Array) -> Array:
    """Map a file again: what was read of it through another mapping would stay in memory as long as that one lives."""
    if not isinstance(values, np.memmap):
        return values
    path: Any = values.filename
    again: Array = np.memmap(path, values.dtype, mode="r", shape=values.shape, order=_order(values))
    return again


def _order(values: Array) -> Literal["C", "F"]:
    return "C" if values.flags.c_contiguous else "F"


def _infinite(name: str, where: str, place: str) -> ParameterError:
    return ParameterError(
        f"{name} in {where}",
        found=f"an infinite value at {place}",
        expected="finite numbers, or NaN where it was left out",
        fix="decompose again in HyperSpy",
    )


def _loadings(stored: Array, grid: tuple[int, int], n_channels: int) -> Any:
    if not isinstance(stored, np.memmap):
        return np.ascontiguousarray(_as_maps(stored, grid), np.float32)
    k = stored.shape[1]
    source = MappedLoadings(str(stored.filename), (stored.shape[0], k), stored.dtype, _order(stored), grid)
    side = _TILES_OF_A_CHUNK * tile_shape(n_channels)[0]
    return da.from_array(
        source,
        chunks=(k, side, side),
        name=f"learning-results-{uuid.uuid4().hex}",  # else dask would read all of it to name it
        asarray=False,
        fancy=False,
        meta=np.empty((0, 0, 0), np.float32),
    )

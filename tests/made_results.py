"""Made results for the figures: Voronoi grains of known phases, spectra with peaks, loadings that follow the phases."""

from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from scipy.spatial import cKDTree
from scipy.stats import gaussian_kde

from eds_chunked import schema

ELEMENTS = ["O", "Na", "Mg", "Al", "Si", "P", "Cl", "K", "Ca", "Ti", "Fe"]
PEAKS = {
    "O": 0.525, "Na": 1.041, "Mg": 1.254, "Al": 1.487, "Si": 1.740, "P": 2.014, "Cl": 2.622, "K": 3.314, "Ca": 3.692,
    "Ti": 4.511, "Fe": 6.404,
}  # fmt: skip
TITLE = "P45 dacite, 20 kV"


@dataclass(frozen=True)
class Made:
    """The results of every step for one made rock."""

    map: xr.Dataset
    pca: xr.Dataset
    nmf: xr.Dataset
    phases: xr.Dataset
    spectra: xr.Dataset
    grains: xr.Dataset


@dataclass(frozen=True)
class Sizes:
    """What a size distribution holds."""

    values: np.ndarray[Any, Any]
    bin_edges: np.ndarray[Any, Any]
    bin_density: np.ndarray[Any, Any]
    kde_grid: np.ndarray[Any, Any]
    kde_density: np.ndarray[Any, Any]
    arithmetic_mean: float
    geometric_mean: float
    median: float
    kde_mode: float
    unit: str
    scale: str
    title: str
    n: int


def make(
    shape: tuple[int, int] = (151, 211),
    *,
    n: int = 4,
    pixel: tuple[float, float] | None = (8.7, 8.7),
    channels: int = 600,
    seeds: int = 260,
    title: str = TITLE,
    lazy: bool = False,
) -> Made:
    """Return results of ``n`` phases on a map of ``shape``; the last phase has a handful of pixels if n > 2."""
    rng = np.random.default_rng(7)
    rows, columns = shape
    points = rng.random((seeds, 2)) * shape
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2)
    grain = (cKDTree(points).query(grid)[1] + 1).reshape(shape).astype(np.int32)
    weights = np.linspace(1.0, 0.3, n)
    of_seed = rng.choice(np.arange(1, n + 1), size=seeds, p=weights / weights.sum())
    label = of_seed[grain - 1].astype(np.uint8)
    if n > 2:
        label[label == n] = 1
        label[:2, :2] = n
    truth = label.copy()
    edge = np.zeros(shape, bool)
    edge[1:] |= grain[1:] != grain[:-1]
    edge[:, 1:] |= grain[:, 1:] != grain[:, :-1]
    label[edge & (rng.random(shape) < 0.5)] = schema.MIXED
    label[edge & (rng.random(shape) < 0.3)] = schema.UNASSIGNED
    grain[(label == schema.MIXED) | (label == schema.UNASSIGNED)] = 0

    energy = -0.4724 + 0.02 * np.arange(channels)
    spectra = np.array([_spectrum(energy, rng) for _ in range(n)])
    masks = np.stack([truth == phase for phase in range(1, n + 1)])
    loadings = (masks * rng.gamma(20, 0.05, masks.shape) + rng.gamma(2, 0.06, masks.shape)).astype(np.float32)
    pixels = np.array([np.count_nonzero(label == phase) for phase in range(1, n + 1)])
    per_phase = rng.poisson(pixels[:, None] * spectra).astype(np.uint64)
    signed = np.stack([loadings.sum(0), *(loadings[i] - loadings[i + 1] for i in range(n - 1))])

    coords = _coords(shape, pixel)
    attrs = {schema.TITLE: title, schema.ELEMENTS: ELEMENTS}
    energies = {schema.ENERGY: (schema.ENERGY, energy, {"units": schema.KEV})}
    eigenvalues = np.sort(
        np.concatenate([[1.0], 0.05 / 2.0 ** np.arange(n - 1), 4e-4 * (2 - np.linspace(0, 1.9, 500))])
    )
    eigenvalues = eigenvalues[::-1]
    ratio = eigenvalues / eigenvalues.sum()
    chunked = da.from_array(loadings, chunks=(1, 64, 64)) if lazy else loadings
    thresholds = np.full(n, 0.55)
    return Made(
        map=_dataset(
            {
                schema.SUM_SPECTRUM: per_phase.sum(axis=0),
                schema.MAX_SPECTRUM: (per_phase.sum(axis=0) ** 0.3).astype(np.uint64) // 4,
            },
            {**coords, **energies},
            {**attrs, schema.BEAM_ENERGY: 20.0},
        ),
        pca=_dataset(
            {
                schema.FACTORS: np.concatenate([spectra[:1], np.diff(spectra, axis=0)]),
                schema.LOADINGS: signed,
                schema.EXPLAINED_VARIANCE_RATIO: ratio[:n],
                schema.EIGENVALUES: eigenvalues,
                schema.NOISE_RATIO: eigenvalues / 9e-4,
            },
            {**coords, **energies},
            {**attrs, schema.STEP: schema.PCA},
        ),
        nmf=_dataset(
            {schema.FACTORS: spectra, schema.LOADINGS: chunked},
            {**coords, **energies},
            {**attrs, schema.STEP: schema.NMF},
        ),
        phases=_dataset(
            {
                schema.MASK: masks,
                schema.LABEL: label,
                schema.THRESHOLD: thresholds,
                schema.N_PIXELS: masks.sum(axis=(1, 2)),
                schema.AREA_FRACTION: masks.mean(axis=(1, 2)),
            },
            {**coords, schema.PHASE: np.arange(1, n + 1)},
            {**attrs, schema.STEP: schema.PHASES},
        ),
        spectra=_dataset(
            {schema.SPECTRUM: per_phase, schema.N_PIXELS: pixels},
            {**energies, schema.PHASE: np.arange(1, n + 1)},
            {**attrs, schema.STEP: schema.SPECTRA, schema.BEAM_ENERGY: 20.0},
        ),
        grains=_dataset({schema.GRAIN_LABEL: grain}, coords, {**attrs, schema.STEP: schema.GRAINS}),
    )


def sizes(scale: str = "linear", *, title: str = TITLE, unit: str = schema.MICROMETRE) -> Sizes:
    """Return a log-normal size distribution."""
    values = np.random.default_rng(1).lognormal(np.log(20), np.log(1.5), 500)
    axis = np.log(values) if scale == "log" else values
    density, edges = np.histogram(axis, bins="auto", density=True)
    estimate = gaussian_kde(axis, bw_method="silverman")
    grid = np.linspace(axis.min(), axis.max(), 300)
    back = np.exp if scale == "log" else np.asarray
    return Sizes(
        values=values,
        bin_edges=back(edges),
        bin_density=density,
        kde_grid=back(grid),
        kde_density=estimate(grid),
        arithmetic_mean=float(values.mean()),
        geometric_mean=float(np.exp(np.log(values).mean())),
        median=float(np.median(values)),
        kde_mode=float(back(grid)[estimate(grid).argmax()]),
        unit=unit,
        scale=scale,
        title=title,
        n=len(values),
    )


def _spectrum(energy: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    strength = rng.choice([0.02, 0.3, 1.0, 3.0], size=len(PEAKS))
    peaks = [s * np.exp(-0.5 * ((energy - e) / 0.045) ** 2) for s, e in zip(strength, PEAKS.values(), strict=True)]
    background = 0.05 * np.exp(-0.35 * np.clip(energy, 0.3, None)) * (energy > 0.1)
    strobe = 2.0 * np.exp(-0.5 * (energy / 0.03) ** 2)
    return np.asarray(np.sum(peaks, axis=0) + background + strobe)


def _coords(shape: tuple[int, int], pixel: tuple[float, float] | None) -> dict[str, Any]:
    units = {"units": schema.MICROMETRE if pixel else schema.UNCALIBRATED}
    steps = pixel or (1.0, 1.0)
    return {
        axis: (axis, step * np.arange(size), units)
        for axis, step, size in zip((schema.Y, schema.X), steps, shape, strict=True)
    }


def _dataset(variables: dict[str, Any], coords: dict[str, Any], attrs: dict[str, Any]) -> xr.Dataset:
    named = {name: (schema.VARIABLES[name].dims, values, schema.attributes(name)) for name, values in variables.items()}
    return xr.Dataset(named, coords=coords, attrs=attrs)

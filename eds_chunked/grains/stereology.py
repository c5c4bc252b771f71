"""From apparent diameters to those of spheres: Saltykov's unfolding, and a log-normal population fitted to it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from scipy.optimize import OptimizeWarning, curve_fit

from eds_chunked import schema
from eds_chunked.errors import ParameterError
from eds_chunked.grains.usable import UsableGrains, chosen_sizes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]

GRAINSIZETOOLS = "grainsizetools"
PER_VOLUME = "per_volume"
METHODS = (GRAINSIZETOOLS, PER_VOLUME)
FEWEST_CLASSES, MOST_CLASSES = 2, 1000
CLASSES_TO_TRY = range(10, 21)
_FEWEST_FITS = 0.9

_ASSUMPTIONS = (
    "grains are spheres, or nearly: elongated or flat grains are unfolded to wrong sizes",
    "the section is random, and grains are not arranged by size",
    "sections of all sizes were seen: spheres whose sections are too small to be seen or counted are missing",
)


@dataclass(frozen=True)
class VolumeFraction:
    """Per cent of the grains' volume in spheres up to ``diameter``, and the range over the readings of the method."""

    diameter: float
    percent: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class UnfoldedSizes:
    """Spheres by diameter, in classes of equal width from 0 to the largest section.

    ``frequencies`` are per cent of the number of spheres, ``volume`` the cumulated per cent of their volume, which is
    reached at the diameters ``volume_at``; both (classes,). ``method`` says what was divided and where.
    """

    n: int
    unit: str
    title: str
    method: str
    n_classes: int
    class_width: float
    edges: Array = field(repr=False)
    midpoints: Array = field(repr=False)
    frequencies: Array = field(repr=False)
    volume: Array = field(repr=False)
    volume_at: Array = field(repr=False)
    edge_rule: str
    size_rule: str
    boundary_width_um: float | None
    assumptions: tuple[str, ...]
    _readings: tuple[tuple[Array, Array], ...] = field(repr=False)

    def volume_fraction(self, diameter: float) -> VolumeFraction:
        """Return the per cent of volume in spheres up to ``diameter``, with what other readings of the method give.

        The range is over spheres counted per area or per volume, and volumes cumulated at midpoints or at upper edges
        of classes. It is the uncertainty of the method, not of the sample, and wide: sections say little of volumes.

        Raises
        ------
        ParameterError
            ``diameter`` is not over 0.
        """
        if not 0 < diameter < np.inf:
            raise ParameterError("diameter", found=repr(diameter), expected="a size over 0", fix="50")
        low, high = self.volume_range(np.array([diameter]))
        here = float(np.interp(diameter, self.volume_at, self.volume))
        return VolumeFraction(float(diameter), here, float(low[0]), float(high[0]))

    def volume_range(self, diameters: Array) -> tuple[Array, Array]:
        """Return the least and the most per cent of volume up to ``diameters`` (n,) over the readings, (n,) each."""
        every = np.array([np.interp(diameters, at, volume) for at, volume in self._readings])
        return every.min(axis=0), every.max(axis=0)

    def table(self) -> pd.DataFrame:
        """Return a row a class: ``from_um``, ``to_um``, ``midpoint_um``, % of spheres, and volume up to its upper edge.

        The unit in the names is that of the diameters. Volumes are in per cent, with the range over the readings of the
        method.
        """
        volumes = [self.volume_fraction(edge) for edge in self.edges[1:]]
        return pd.DataFrame(
            {
                schema.measured("from", self.unit): self.edges[:-1],
                schema.measured("to", self.unit): self.edges[1:],
                schema.measured("midpoint", self.unit): self.midpoints,
                "frequency_percent": self.frequencies,
                "volume_percent": [volume.percent for volume in volumes],
                "volume_low_percent": [volume.low for volume in volumes],
                "volume_high_percent": [volume.high for volume in volumes],
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON types."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
            if not name.startswith("_")
        }

    def plot(self) -> Figure:
        """Draw the spheres by diameter and their cumulated volume."""
        from eds_chunked.figures.unfolded import draw_unfolded_sizes

        return draw_unfolded_sizes(self)

    def _repr_html_(self) -> str:
        return str(self.table().to_html(index=False, float_format="{:.4g}".format))


@dataclass(frozen=True, eq=False)
class TwoStepFit:
    """A log-normal population of spheres fitted to unfolded sizes.

    ``multiplicative_sd`` is the shape, ``geometric_mean`` (of spheres, in ``unit``) the place. Intervals are of 95 %,
    by the bootstrap over grains with the number of classes held; ``n_failed`` of its samples could not be fitted.
    """

    unfolded: UnfoldedSizes
    multiplicative_sd: float
    multiplicative_sd_ci: tuple[float, float]
    geometric_mean: float
    geometric_mean_ci: tuple[float, float]
    ci_method: str
    n_failed: int
    assumptions: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """Return rows of measure, value, unit, ci_low, ci_high and method."""
        rows = [
            ("multiplicative SD", self.multiplicative_sd, "1", *self.multiplicative_sd_ci, self.ci_method),
            ("geometric mean", self.geometric_mean, self.unfolded.unit, *self.geometric_mean_ci, self.ci_method),
            ("classes", self.unfolded.n_classes, "1", np.nan, np.nan, "least error of the multiplicative SD"),
        ]
        return pd.DataFrame(rows, columns=["measure", "value", "unit", "ci_low", "ci_high", "method"])

    def density(self, diameters: Array) -> Array:
        """Return the fitted density of spheres by number at ``diameters`` (n,), per unit of diameter."""
        return _log_normal(np.asarray(diameters, dtype=np.float64), self.multiplicative_sd, self.geometric_mean)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON types."""
        return {**vars(self), "unfolded": self.unfolded.to_dict()}

    def plot(self) -> Figure:
        """Draw the spheres by diameter with the fitted population, and their cumulated volume."""
        from eds_chunked.figures.unfolded import draw_unfolded_sizes

        return draw_unfolded_sizes(self.unfolded, fitted=self.density)

    def _repr_html_(self) -> str:
        return str(self.table().to_html(index=False, na_rep="", float_format="{:.4g}".format))


def saltykov(
    diameters: xr.Dataset | npt.ArrayLike,
    *,
    classes: int = 10,
    method: str = GRAINSIZETOOLS,
    phase: int | None = None,
    boundary_width_um: float | None = None,
    include_edge: bool = False,
    min_pixels: int | None = None,
    unit: str | None = None,
) -> UnfoldedSizes:
    """Unfold apparent diameters into diameters of spheres, and give their share of the volume.

    A plane cuts most spheres off their centre, so that large grains have small sections too. From the largest class
    down, the sections that its spheres have in smaller classes are taken from those. Grains must be nearly
    equiaxed; the result depends on the number of classes, so that 10 to 20 of them should be tried.

    Parameters
    ----------
    diameters
        What :func:`eds_chunked.separate_grains` returned, or diameters (n,).
    classes
        Number of classes between 0 and the largest diameter.
    method
        ``"grainsizetools"``: the figures of that toolbox. Frequencies are not divided by diameter and probability, so
        that they stay those of sections, and volumes are cumulated at midpoints of classes. ``"per_volume"``: spheres
        per volume, that is divided by both, and volumes cumulated at upper edges, which recovers known spheres best.
    phase, boundary_width_um, include_edge, min_pixels, unit
        As in :func:`eds_chunked.grain_size_statistics`.

    Returns
    -------
    UnfoldedSizes
        With ``volume_fraction(diameter)``, ``table()``, ``to_dict()``, ``plot()`` and its ``assumptions``.

    Raises
    ------
    ParameterError
        Fewer than 3 grains, diameters that are not positive and finite, or a parameter out of its range.

    Notes
    -----
    Memory: some bytes a grain.

    References
    ----------
    Saltykov, Stereology (1967) 163; Sahagian and Proussevitch, J. Volcanol. Geotherm. Res. 84 (1998) 173.

    Examples
    --------
    >>> import numpy as np
    >>> unfolded = saltykov(np.random.default_rng(0).lognormal(3, 0.4, 1000), classes=12)
    >>> found = unfolded.volume_fraction(40)
    >>> f"{found.percent:.0f} % of the volume, {found.low:.0f}-{found.high:.0f} % with other readings"
    '78 % of the volume, 72-83 % with other readings'
    """
    usable = chosen_sizes(
        diameters,
        phase=phase,
        include_edge=include_edge,
        min_pixels=min_pixels,
        boundary_width_um=boundary_width_um,
        unit=unit,
    )
    return _unfold(usable, classes=classes, method=method)


def two_step_stereology(
    diameters: xr.Dataset | npt.ArrayLike,
    *,
    classes: int | None = None,
    method: str = GRAINSIZETOOLS,
    phase: int | None = None,
    boundary_width_um: float | None = None,
    include_edge: bool = False,
    min_pixels: int | None = None,
    unit: str | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> TwoStepFit:
    """Unfold apparent diameters and fit a log-normal population of spheres to the result.

    The fit smooths what unfolding leaves ragged, and says in two numbers what the population of spheres is, provided
    that it is unimodal and log-normal.

    Parameters
    ----------
    diameters
        What :func:`eds_chunked.separate_grains` returned, or diameters (n,).
    classes
        Number of classes; by default the one from 10 to 20 whose fit has the least standard error of the
        multiplicative SD.
    method
        As in :func:`eds_chunked.saltykov`. On known log-normal spheres the geometric mean came out 4 to 9 % too large
        with ``"grainsizetools"`` and 1 to 6 % too small with ``"per_volume"``, and the multiplicative SD 1 to 5 % too
        large with either.
    phase, boundary_width_um, include_edge, min_pixels, unit
        As in :func:`eds_chunked.grain_size_statistics`.
    resamples, seed
        Number of bootstrap samples for the confidence intervals, 20 at least, and the seed they are drawn with.

    Returns
    -------
    TwoStepFit
        With ``table()``, ``to_dict()``, ``plot()`` and its ``assumptions``.

    Raises
    ------
    ParameterError
        As :func:`eds_chunked.saltykov`, or no log-normal population fits.

    Notes
    -----
    Memory: some tens of bytes a grain.

    References
    ----------
    M. A. Lopez-Sanchez and S. Llana-Funez, An extension of the Saltykov method to quantify 3D grain size distributions
    in mylonites, J. Struct. Geol. 93 (2016) 149.

    Examples
    --------
    >>> import numpy as np
    >>> fit = two_step_stereology(np.random.default_rng(0).lognormal(3, 0.4, 1000), method="per_volume")
    >>> f"{fit.geometric_mean:.1f} {fit.unfolded.unit}, multiplicative SD {fit.multiplicative_sd:.2f}"
    '20.4 um, multiplicative SD 1.38'
    """
    usable = chosen_sizes(
        diameters,
        phase=phase,
        include_edge=include_edge,
        min_pixels=min_pixels,
        boundary_width_um=boundary_width_um,
        unit=unit,
    )
    if isinstance(resamples, bool) or not 20 <= resamples <= 10_000:
        raise ParameterError("resamples", found=repr(resamples), expected="a number from 20 to 10000", fix="200")
    values = np.sort(usable.diameters)
    tried = {}
    for number in CLASSES_TO_TRY if classes is None else [classes]:
        fit = _fit(_unfold(usable, classes=number, method=method))
        if fit is not None:
            tried[number] = fit
    if not tried:
        raise ParameterError(
            f"two-step stereology{' of ' + usable.title if usable.title else ''}",
            found=f"{len(values)} diameters that no log-normal population of spheres fits",
            expected="a unimodal population of different sizes",
            fix="look at .plot('quantiles') of grain_size_statistics, or use saltykov",
        )
    best = min(tried, key=lambda number: tried[number][2])
    rng = np.random.default_rng(seed)
    fits = []
    for _ in range(resamples):
        sample = values[rng.integers(0, len(values), len(values))]
        again = _log_normal_fit(*_spheres(sample, best, method)[:2])
        if again is not None:
            fits.append(again[:2])
    enough = len(fits) >= _FEWEST_FITS * resamples
    low, high = np.quantile(fits, [0.025, 0.975], axis=0) if enough else np.full((2, 2), np.nan)
    shape, place, _ = tried[best]
    unfolded = _unfold(usable, classes=best, method=method)
    return TwoStepFit(
        unfolded=unfolded,
        multiplicative_sd=shape,
        multiplicative_sd_ci=(float(low[0]), float(high[0])),
        geometric_mean=place,
        geometric_mean_ci=(float(low[1]), float(high[1])),
        ci_method=f"of the sample, not of the method: bootstrap, percentiles of {resamples} samples, seed {seed}",
        n_failed=resamples - len(fits),
        assumptions=(*unfolded.assumptions, "the population of spheres is unimodal and log-normal"),
    )


def _unfold(usable: UsableGrains, *, classes: int, method: str) -> UnfoldedSizes:
    if method not in METHODS:
        raise ParameterError(
            "method", found=repr(method), expected=f"one of {', '.join(METHODS)}", fix=f"method={GRAINSIZETOOLS!r}"
        )
    whole = isinstance(classes, int | np.integer) and not isinstance(classes, bool)
    if not whole or not FEWEST_CLASSES <= classes <= MOST_CLASSES:
        raise ParameterError(
            "classes",
            found=repr(classes),
            expected=f"a whole number from {FEWEST_CLASSES} to {MOST_CLASSES}",
            fix="classes=10",
        )
    values = np.sort(usable.diameters)
    readings, chosen = [], {}
    for name in METHODS:
        midpoints, frequencies, edges = _spheres(values, int(classes), name)
        volume = np.cumsum(frequencies * midpoints**3)
        volume = np.minimum(100 * volume / volume[-1], 100)
        at_midpoints, at_edges = (midpoints, volume), (edges, np.concatenate([[0.0], volume]))
        readings += [at_midpoints, at_edges]
        chosen[name] = at_midpoints if name == GRAINSIZETOOLS else (edges[1:], volume)
    midpoints, frequencies, edges = _spheres(values, int(classes), method)
    return UnfoldedSizes(
        n=len(values),
        unit=usable.unit,
        title=usable.title,
        method=method,
        n_classes=int(classes),
        class_width=float(edges[1]),
        edges=edges,
        midpoints=midpoints,
        frequencies=100 * frequencies,
        volume=chosen[method][1],
        volume_at=chosen[method][0],
        edge_rule=usable.edge_rule,
        size_rule=usable.size_rule,
        boundary_width_um=usable.boundary_width_um,
        assumptions=(*_ASSUMPTIONS, usable.edge_rule, usable.size_rule),
        _readings=tuple(readings),
    )


def _spheres(values: Array, classes: int, method: str) -> tuple[Array, Array, Array]:
    """Return midpoints (n,), frequencies of spheres (n,), which sum to one, and edges (n + 1,) of the classes.

    Sections in a class are thought to come from spheres as large as its upper edge, but their sections in smaller
    classes are those of spheres of its middle size: the convention that GrainSizeTools documents its figures for.
    """
    frequencies, edges = np.histogram(values, bins=classes, range=(0.0, values.max()), density=True)
    frequencies = frequencies.copy()
    midpoints = (edges[:-1] + edges[1:]) / 2
    own = _section_probability(edges[1:], edges[:-1], edges[1:])
    for i in range(classes - 1, 0, -1):
        if frequencies[i] > 0:
            below = _section_probability(midpoints[i], edges[:i], edges[1 : i + 1])
            frequencies[:i] -= frequencies[i] * below / own[i]
    frequencies = np.maximum(frequencies, 0)
    if method == PER_VOLUME:
        frequencies = frequencies / (own * edges[1:])
    return midpoints, frequencies / frequencies.sum(), edges


def _section_probability(diameter: Any, low: Array, high: Array) -> Array:
    """Return how likely a plane that cuts a sphere gives a section between ``low`` and ``high`` in diameter."""
    squared = np.square(diameter)
    return np.asarray((np.sqrt(squared - low**2) - np.sqrt(squared - high**2)) / diameter)


def _log_normal(diameter: Array, multiplicative_sd: float, geometric_mean: float) -> Array:
    log_sd = np.log(multiplicative_sd)
    steps = np.log(diameter / geometric_mean) / log_sd
    return np.asarray(np.exp(-0.5 * steps**2) / (diameter * log_sd * np.sqrt(2 * np.pi)))


def _fit(unfolded: UnfoldedSizes) -> tuple[float, float, float] | None:
    return _log_normal_fit(unfolded.midpoints, unfolded.frequencies / 100)


def _log_normal_fit(midpoints: Array, frequencies: Array) -> tuple[float, float, float] | None:
    """Return multiplicative SD, geometric mean and standard error of the first; None where no population fits."""
    density = frequencies / (2 * midpoints[0])
    logs = np.log(midpoints)
    centre = float(np.sum(frequencies * logs))
    spread = float(np.sqrt(np.sum(frequencies * (logs - centre) ** 2)))
    # Less than a class wide: no shape can be told from it.
    if spread < 1e-3:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", OptimizeWarning)
            found, covariance = curve_fit(
                _log_normal,
                midpoints,
                density,
                p0=(np.exp(spread), np.exp(centre)),
                bounds=([1 + 1e-6, midpoints[0] / 10], [100.0, 10 * midpoints[-1]]),
            )
    except (OptimizeWarning, RuntimeError):
        return None
    error = float(np.sqrt(covariance[0, 0]))
    return (float(found[0]), float(found[1]), error) if np.isfinite(error) else None

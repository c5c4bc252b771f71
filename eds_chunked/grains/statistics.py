"""Size statistics of grains: averages with confidence intervals, spread, histogram and density."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from eds_chunked import schema
from eds_chunked.errors import ParameterError
from eds_chunked.grains import intervals
from eds_chunked.grains.density import NORMALISED, SCALES, histogram, kernel_density
from eds_chunked.grains.described import GrainSizeStatistics
from eds_chunked.grains.intervals import ARITHMETIC_MEAN, GEOMETRIC_MEAN, MEDIAN, Interval
from eds_chunked.grains.lognormality import log_normality, normal_quantiles
from eds_chunked.grains.usable import (
    FEWEST_GRAINS,
    UsableGrains,
    chosen_sizes,
    name_of_phase,
    phases_of,
    usable_grains,
    with_boundary,
)

ENOUGH_GRAINS = 433
MEAN_DIAMETER = "mean diameter"
MOST_RESAMPLES = 100_000


class FewGrainsWarning(UserWarning):
    """There are too few grains for averages that are good to some per cent."""


def grain_size_statistics(
    diameters: xr.Dataset | npt.ArrayLike,
    *,
    phase: int | None = None,
    scale: str = "linear",
    bins: str | int | float = "auto",
    bandwidth: str | float = "silverman",
    precision: float | None = None,
    boundary_width_um: float | None = None,
    include_edge: bool = False,
    min_pixels: int | None = None,
    unit: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> GrainSizeStatistics:
    """Describe the sizes of grains: averages with confidence intervals, spread, classes and density.

    Diameters are apparent: of sections through grains, not of grains. Grains that touch the map's edge are left out,
    since their size is unknown; that favours small grains when grains are large beside the map.

    Parameters
    ----------
    diameters
        What :func:`eds_chunked.separate_grains` returned, or diameters (n,).
    phase
        Phase 1..n of a grains Dataset; all phases together by default.
    scale
        ``"linear"``, ``"log"`` (natural), ``"log10"``, ``"sqrt"``: where classes are equally wide and the density is
        estimated. ``"normalised"``: everything divided by the arithmetic mean, to compare samples. Averages and spread
        are those of the diameters on every scale.
    bins
        A rule of ``numpy.histogram_bin_edges``, a number of classes (int) or their width on the scale (float).
    bandwidth
        ``"silverman"``, ``"scott"`` or the kernel's standard deviation on the scale.
    precision
        Largest step of the density's grid, in the unit of the diameters; at most their range. By default 0.1, with 512
        to 2048 points. The time grows with the number of points.
    boundary_width_um
        Width of a grain boundary, um, which is added to every diameter: segmentation often takes boundaries from the
        grains. None is added by default.
    include_edge
        Count the grains of a Dataset that touch the map's edge.
    min_pixels
        Smallest grain of a Dataset that counts; by default the ``min_size`` that it was made with.
    unit
        Unit of an array of diameters, ``um`` by default; a Dataset knows its own.
    resamples, seed
        Number of samples of the bootstrap intervals and the seed they are drawn with; 0 samples leave them out.

    Returns
    -------
    GrainSizeStatistics
        With ``table()``, ``to_dict()`` and ``plot()``.

    Raises
    ------
    ParameterError
        Fewer than 3 grains, diameters that are not positive and finite, or a parameter out of its range.

    Warns
    -----
    FewGrainsWarning
        Fewer than 433 grains: averages of a log-normal population may be off by more than 4 %.

    Notes
    -----
    Memory: some tens of bytes a grain, and about 40 MB for the bootstrap.

    References
    ----------
    M. A. Lopez-Sanchez, Which average, how many grains, and how to estimate robust confidence intervals in unimodal
    grain size populations, J. Struct. Geol. 135 (2020) 104042. Silverman, Density Estimation (1986), section 3.4.

    Examples
    --------
    >>> import numpy as np
    >>> sizes = grain_size_statistics(np.random.default_rng(0).lognormal(3, 0.4, 1000))
    >>> f"{sizes.geometric_mean:.1f} {sizes.unit}, n = {sizes.n}"
    '19.7 um, n = 1000'
    """
    usable = chosen_sizes(
        diameters,
        phase=phase,
        include_edge=include_edge,
        min_pixels=min_pixels,
        boundary_width_um=boundary_width_um,
        unit=unit,
    )
    if isinstance(resamples, bool) or not 0 <= resamples <= MOST_RESAMPLES:
        raise ParameterError(
            "resamples", found=repr(resamples), expected=f"a number from 0 to {MOST_RESAMPLES}", fix="resamples=1000"
        )
    statistics = _describe(
        usable, scale=scale, bins=bins, bandwidth=bandwidth, precision=precision, resamples=resamples, seed=seed
    )
    title = statistics.title
    if statistics.n < ENOUGH_GRAINS:
        warnings.warn(
            f"{title + ': ' if title else ''}{statistics.n} grains; {ENOUGH_GRAINS} are needed for averages of a "
            "log-normal population that are good to 4 %.",
            FewGrainsWarning,
            stacklevel=2,
        )
    return statistics


def _describe(
    usable: UsableGrains,
    *,
    scale: str,
    bins: str | int | float,
    bandwidth: str | float,
    precision: float | None,
    resamples: int,
    seed: int,
) -> GrainSizeStatistics:
    if scale not in SCALES and scale != NORMALISED:
        expected = ", ".join([*SCALES, NORMALISED])
        raise ParameterError("scale", found=repr(scale), expected=f"one of {expected}", fix="scale='linear'")
    # In ascending order sums and random samples are the same however the grains were numbered.
    values = np.sort(usable.diameters)
    if scale == NORMALISED:
        mean = values.mean()
        values = values / mean
        precision = None if precision is None else precision / mean
    steps = SCALES.get(scale, SCALES["linear"])
    logs = np.log(values)
    d10, q25, median, q75, d90 = (float(q) for q in np.percentile(values, [10, 25, 50, 75, 90]))
    classes = histogram(values, bins=bins, scale=steps)
    density = kernel_density(values, bandwidth=bandwidth, precision=precision, scale=steps)
    modal = int(classes.counts.argmax())
    of_class = np.repeat(np.arange(len(classes.counts)), classes.counts)
    bin_area = np.bincount(of_class, weights=values**2, minlength=len(classes.counts))
    return GrainSizeStatistics(
        n=len(values),
        unit=MEAN_DIAMETER if scale == NORMALISED else usable.unit,
        scale=scale,
        title=usable.title,
        minimum=float(values.min()),
        maximum=float(values.max()),
        arithmetic_mean=float(values.mean()),
        geometric_mean=float(np.exp(logs.mean())),
        rms_mean=float(np.sqrt(np.mean(values**2))),
        area_weighted_mean=float(np.sum(values**3) / np.sum(values**2)),
        median=median,
        kde_mode=density.mode,
        sd_ddof0=float(values.std()),
        sd_ddof1=float(values.std(ddof=1)),
        iqr=q75 - q25,
        multiplicative_sd=float(np.exp(logs.std(ddof=1))),
        d10=d10,
        d50=median,
        d90=d90,
        n_bins=len(classes.counts),
        bin_width=classes.width,
        bin_rule=classes.rule,
        modal_interval=(float(classes.edges[modal]), float(classes.edges[modal + 1])),
        bandwidth=density.bandwidth,
        bandwidth_rule=density.rule,
        precision=density.precision,
        log_normality=log_normality(values),
        confidence_intervals=(
            intervals.mean_by_clt(values, ARITHMETIC_MEAN),
            intervals.mean_by_modified_cox(values, ARITHMETIC_MEAN),
            intervals.geometric_mean_by_clt(values, GEOMETRIC_MEAN),
            intervals.median_by_binomial(values, MEDIAN),
            intervals.median_by_rule_of_thumb(values, MEDIAN),
            *(intervals.by_bootstrap(values, resamples=resamples, seed=seed) if resamples else ()),
        ),
        n_edge_excluded=usable.n_edge_excluded,
        n_small_excluded=usable.n_small_excluded,
        n_unmeasured=usable.n_unmeasured,
        edge_rule=usable.edge_rule,
        size_rule=usable.size_rule,
        boundary_width_um=usable.boundary_width_um,
        values=values,
        bin_edges=classes.edges,
        bin_counts=classes.counts,
        bin_density=classes.density,
        bin_area=bin_area / bin_area.sum(),
        kde_grid=density.grid,
        kde_density=density.density,
        normal_quantiles=normal_quantiles(len(values)),
    )


_COMPARED = (
    "arithmetic_mean", "geometric_mean", "median", "kde_mode", "rms_mean", "area_weighted_mean", "sd_ddof1", "iqr",
    "minimum", "d10", "d90", "maximum",
)  # fmt: skip


def compare_phases(
    grains: xr.Dataset,
    *,
    bandwidth: str | float = "silverman",
    precision: float | None = None,
    boundary_width_um: float | None = None,
    include_edge: bool = False,
    min_pixels: int | None = None,
) -> pd.DataFrame:
    """Compare the grain sizes of all phases in one table, a row a phase.

    Parameters
    ----------
    grains
        What :func:`eds_chunked.separate_grains` returned.
    bandwidth, precision, boundary_width_um, include_edge, min_pixels
        As in :func:`eds_chunked.grain_size_statistics`.

    Returns
    -------
    DataFrame
        ``phase`` and its ``name`` (its number where it has none), numbers of grains (all, used, left out at the edge,
        as too small and without a size; they add up), ``enough_grains`` (433 are used, or more), averages and spread
        with the unit in the column's name, confidence intervals of geometric mean (CLT of logarithms) and median
        (binomial), multiplicative SD, the p-value of the test of log-normality, the boundary width in um that was added
        (0 if none), ``edge_rule`` and ``size_rule`` in words, and ``reason``: why a phase with fewer than 3 usable
        grains has NaN; empty otherwise.

    Raises
    ------
    ParameterError
        A parameter out of its range.

    Notes
    -----
    Memory: some hundred bytes a grain of the largest phase.
    """
    rows = []
    for phase in phases_of(grains):
        usable = with_boundary(
            usable_grains(grains, phase=phase, include_edge=include_edge, min_pixels=min_pixels), boundary_width_um
        )
        n = len(usable.diameters)
        row: dict[str, object] = {
            schema.PHASE: phase,
            "name": name_of_phase(grains, phase),
            "n_grains": n + usable.n_edge_excluded + usable.n_small_excluded + usable.n_unmeasured,
            "n_used": n,
            "n_edge_excluded": usable.n_edge_excluded,
            "n_small_excluded": usable.n_small_excluded,
            "n_unmeasured": usable.n_unmeasured,
            "enough_grains": n >= ENOUGH_GRAINS,
        }
        found = (
            None
            if usable.too_few
            else _describe(
                usable,
                scale="linear",
                bins="auto",
                bandwidth=bandwidth,
                precision=precision,
                resamples=0,
                seed=0,
            )
        )
        for name in _COMPARED:
            row[schema.measured(name, usable.unit)] = np.nan if found is None else getattr(found, name)
        for name, measure, method in (("geometric_mean", GEOMETRIC_MEAN, "CLT"), ("median", MEDIAN, "binomial")):
            for end in ("low", "high"):
                row[schema.measured(f"{name}_ci_{end}", usable.unit)] = (
                    np.nan if found is None else getattr(_interval(found, measure, method), end)
                )
        row["multiplicative_sd"] = np.nan if found is None else found.multiplicative_sd
        row["log_normality_p"] = np.nan if found is None else found.log_normality.p_value
        row["boundary_width_um"] = boundary_width_um or 0.0
        row["edge_rule"], row["size_rule"] = usable.edge_rule, usable.size_rule
        row["reason"] = "" if found is not None else f"{n} usable grains, {FEWEST_GRAINS} are needed"
        rows.append(row)
    return pd.DataFrame(rows)


def _interval(statistics: GrainSizeStatistics, measure: str, method: str) -> Interval:
    return next(i for i in statistics.confidence_intervals if i.measure == measure and i.method.startswith(method))

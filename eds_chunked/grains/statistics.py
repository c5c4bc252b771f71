"""Size statistics of grains: averages with confidence intervals, spread, histogram and density."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from eds_chunked import schema
from eds_chunked.errors import ParameterError
from eds_chunked.grains import intervals
from eds_chunked.grains.density import SCALES, histogram, kernel_density
from eds_chunked.grains.intervals import Interval
from eds_chunked.grains.usable import UsableGrains, phases_of, usable_grains

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]

FEWEST_GRAINS = 3
ENOUGH_GRAINS = 433
NORMALISED = "normalised"
MEAN_DIAMETER = "mean diameter"

ARITHMETIC_MEAN = "arithmetic mean"
GEOMETRIC_MEAN = "geometric mean"
MEDIAN = "median"


class FewGrainsWarning(UserWarning):
    """There are too few grains for averages that are good to some per cent."""


@dataclass(frozen=True, eq=False)
class GrainSizeStatistics:
    """Statistics of apparent diameters, all in ``unit``; densities are per unit of ``scale``.

    ``scale`` says where classes are equally wide and the density was estimated: edges, grid and mode are diameters in
    ``unit`` on every scale, while ``bin_width`` and ``bandwidth`` are steps on the scale (of ln d for ``"log"``).
    Percentiles count grains, not areas or masses. Confidence intervals are of 95 %.
    """

    n: int
    unit: str
    scale: str
    title: str
    minimum: float
    maximum: float
    arithmetic_mean: float
    geometric_mean: float
    rms_mean: float
    area_weighted_mean: float
    median: float
    kde_mode: float
    sd_ddof0: float
    sd_ddof1: float
    iqr: float
    multiplicative_sd: float
    d10: float
    d50: float
    d90: float
    n_bins: int
    bin_width: float
    bin_rule: str
    modal_interval: tuple[float, float]
    bandwidth: float
    bandwidth_rule: str
    confidence_intervals: tuple[Interval, ...]
    n_edge_excluded: int
    n_small_excluded: int
    edge_rule: str
    size_rule: str
    values: Array = field(repr=False)
    bin_edges: Array = field(repr=False)
    bin_counts: Array = field(repr=False)
    bin_density: Array = field(repr=False)
    kde_grid: Array = field(repr=False)
    kde_density: Array = field(repr=False)

    def table(self) -> pd.DataFrame:
        """Return rows of measure, value, unit, ci_low, ci_high and method; NaN where there is no interval."""
        low, high = self.modal_interval
        on_scale = self.unit if self.scale in ("linear", NORMALISED) else f"{self.scale} of {self.unit}"
        rows: list[tuple[str, float, str, float, float, str]] = []

        def add(measure: str, value: float, unit: str = self.unit, method: str = "") -> None:
            rows.append((measure, value, unit, np.nan, np.nan, method))

        add("grains", self.n, "1", f"{self.edge_rule}; {self.size_rule}")
        averages = (
            (ARITHMETIC_MEAN, self.arithmetic_mean),
            (GEOMETRIC_MEAN, self.geometric_mean),
            (MEDIAN, self.median),
        )
        for measure, value in averages:
            rows.extend(
                (measure, value, self.unit, interval.low, interval.high, interval.method)
                for interval in self.confidence_intervals
                if interval.measure == measure
            )
        add("KDE mode", self.kde_mode, method=f"Gaussian kernel, {self.scale} scale")
        add("RMS mean", self.rms_mean)
        add("area-weighted mean", self.area_weighted_mean)
        add("minimum", self.minimum)
        add("maximum", self.maximum)
        add("SD", self.sd_ddof0, method="ddof 0")
        add("SD", self.sd_ddof1, method="ddof 1")
        add("IQR", self.iqr)
        add("multiplicative SD", self.multiplicative_sd, "1", "of logarithms, ddof 1")
        add("D10", self.d10, method="by number of grains")
        add("D50", self.d50, method="by number of grains")
        add("D90", self.d90, method="by number of grains")
        add("modal interval, from", low, method="class with most grains")
        add("modal interval, to", high, method="class with most grains")
        add("classes", self.n_bins, "1", self.bin_rule)
        add("class width", self.bin_width, on_scale, self.bin_rule)
        add("bandwidth", self.bandwidth, on_scale, self.bandwidth_rule)
        return pd.DataFrame(rows, columns=["measure", "value", "unit", "ci_low", "ci_high", "method"])

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics as JSON types: all but the single diameters and the density curve."""
        skipped = ("values", "kde_grid", "kde_density", "bin_density", "confidence_intervals")
        found = {name: value for name, value in vars(self).items() if name not in skipped}
        found["modal_interval"] = list(self.modal_interval)
        found["bin_edges"], found["bin_counts"] = self.bin_edges.tolist(), self.bin_counts.tolist()
        found["confidence_intervals"] = [vars(interval) for interval in self.confidence_intervals]
        return found

    def plot(self) -> Figure:
        """Draw the histogram and the density with the averages."""
        from eds_chunked.figures.distribution import draw_size_distribution

        return draw_size_distribution(self)

    def _repr_html_(self) -> str:
        """Show the table in a notebook."""
        return str(self.table().to_html(index=False, na_rep="", float_format="{:.4g}".format))


def grain_size_statistics(
    diameters: xr.Dataset | npt.ArrayLike,
    *,
    phase: int | None = None,
    scale: str = "linear",
    bins: str | int | float = "auto",
    bandwidth: str | float = "silverman",
    precision: float = 0.1,
    include_edge: bool = False,
    min_pixels: int | None = None,
    unit: str | None = None,
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
        Largest step of the density's grid, in the unit of the diameters; the grid has 512 to 2048 points.
    include_edge
        Count the grains of a Dataset that touch the map's edge.
    min_pixels
        Smallest grain of a Dataset that counts; by default the ``min_size`` that it was made with.
    unit
        Unit of an array of diameters, ``um`` by default; a Dataset knows its own.

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
    if isinstance(diameters, xr.Dataset):
        if unit is not None:
            raise ParameterError(
                "unit",
                found=repr(unit),
                expected="no unit with a grains Dataset, which has its own",
                fix="leave it out",
            )
        usable = usable_grains(diameters, phase=phase, include_edge=include_edge, min_pixels=min_pixels)
        title = _title(diameters, phase)
    else:
        if phase is not None or include_edge or min_pixels is not None:
            raise ParameterError(
                "phase, include_edge, min_pixels",
                found="set beside an array of diameters",
                expected="a grains Dataset, since an array does not know its grains' phase, place and pixels",
                fix="grain_size_statistics(separate_grains(phases), phase=1)",
            )
        usable = _given(diameters, unit or schema.MICROMETRE)
        title = ""
    statistics = _describe(usable, title=title, scale=scale, bins=bins, bandwidth=bandwidth, precision=precision)
    if statistics.n < ENOUGH_GRAINS:
        warnings.warn(
            f"{title + ': ' if title else ''}{statistics.n} grains; {ENOUGH_GRAINS} are needed for averages of a "
            "log-normal population that are good to 4 %.",
            FewGrainsWarning,
            stacklevel=2,
        )
    return statistics


def _title(grains: xr.Dataset, phase: int | None) -> str:
    # The phase first: a figure cuts a long title at its end.
    parts = [f"phase {phase}" if phase is not None else "", schema.text(grains.attrs.get(schema.TITLE, ""))]
    return ", ".join(part for part in parts if part)


def _given(diameters: npt.ArrayLike, unit: str) -> UsableGrains:
    try:
        values = np.array(diameters, dtype=np.float64)
        found = f"numbers of shape {values.shape}"
    except (TypeError, ValueError):
        values = np.empty((0, 0))
        found = f"{type(diameters).__name__} that does not hold numbers"
    if values.ndim != 1:
        raise ParameterError(
            "diameters",
            found=found,
            expected="numbers in one dimension, or a grains Dataset",
            fix="pass one diameter a grain, such as table['ecd_um']",
        )
    return UsableGrains(values, unit, 0, 0, "edge grains unknown: diameters without places", "minimum size unknown")


def _describe(
    usable: UsableGrains, *, title: str, scale: str, bins: str | int | float, bandwidth: str | float, precision: float
) -> GrainSizeStatistics:
    if scale not in SCALES and scale != NORMALISED:
        expected = ", ".join([*SCALES, NORMALISED])
        raise ParameterError("scale", found=repr(scale), expected=f"one of {expected}", fix="scale='linear'")
    values = usable.diameters
    wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if len(wrong):
        raise ParameterError(
            "diameters",
            found=f"{len(wrong)} of {len(values)} not positive and finite, first {values[wrong[0]]} at {wrong[0]}",
            expected="sizes over 0",
            fix="diameters[diameters > 0], after asking where the others come from",
        )
    if len(values) < FEWEST_GRAINS:
        raise ParameterError(
            f"grains{' of ' + title if title else ''}",
            found=f"{len(values)} usable ({usable.edge_rule}; {usable.size_rule})",
            expected=f"at least {FEWEST_GRAINS}",
            fix="take a larger map, include_edge=True, or a smaller min_pixels",
        )
    if scale == NORMALISED:
        values = values / values.mean()
    steps = SCALES.get(scale, SCALES["linear"])
    logs = np.log(values)
    d10, q25, median, q75, d90 = (float(q) for q in np.percentile(values, [10, 25, 50, 75, 90]))
    classes = histogram(values, bins=bins, scale=steps)
    density = kernel_density(values, bandwidth=bandwidth, precision=precision, scale=steps)
    modal = int(classes.counts.argmax())
    return GrainSizeStatistics(
        n=len(values),
        unit=MEAN_DIAMETER if scale == NORMALISED else usable.unit,
        scale=scale,
        title=title,
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
        confidence_intervals=(
            intervals.mean_by_clt(values, ARITHMETIC_MEAN),
            intervals.mean_by_modified_cox(values, ARITHMETIC_MEAN),
            intervals.geometric_mean_by_clt(values, GEOMETRIC_MEAN),
            intervals.median_by_binomial(values, MEDIAN),
            intervals.median_by_rule_of_thumb(values, MEDIAN),
        ),
        n_edge_excluded=usable.n_edge_excluded,
        n_small_excluded=usable.n_small_excluded,
        edge_rule=usable.edge_rule,
        size_rule=usable.size_rule,
        values=values,
        bin_edges=classes.edges,
        bin_counts=classes.counts,
        bin_density=classes.density,
        kde_grid=density.grid,
        kde_density=density.density,
    )


_COMPARED = (
    "arithmetic_mean", "geometric_mean", "median", "kde_mode", "area_weighted_mean", "sd_ddof1", "iqr", "minimum",
    "d10", "d90", "maximum",
)  # fmt: skip


def compare_phases(
    grains: xr.Dataset,
    *,
    bandwidth: str | float = "silverman",
    precision: float = 0.1,
    include_edge: bool = False,
    min_pixels: int | None = None,
) -> pd.DataFrame:
    """Compare the grain sizes of all phases in one table, a row a phase.

    Parameters
    ----------
    grains
        What :func:`eds_chunked.separate_grains` returned.
    bandwidth, precision, include_edge, min_pixels
        As in :func:`eds_chunked.grain_size_statistics`.

    Returns
    -------
    DataFrame
        Phase, numbers of grains (all, used, left out at the edge and as too small), averages and spread with the unit
        in the column's name, confidence intervals of geometric mean and median, multiplicative SD, and ``reason``:
        why a phase with fewer than 3 usable grains has NaN; empty otherwise.
    """
    rows = []
    for phase in phases_of(grains):
        usable = usable_grains(grains, phase=phase, include_edge=include_edge, min_pixels=min_pixels)
        n = len(usable.diameters)
        row: dict[str, object] = {
            schema.PHASE: phase,
            "n_grains": n + usable.n_edge_excluded + usable.n_small_excluded,
            "n_used": n,
            "n_edge_excluded": usable.n_edge_excluded,
            "n_small_excluded": usable.n_small_excluded,
        }
        found = (
            None
            if n < FEWEST_GRAINS
            else _describe(
                usable,
                title=_title(grains, phase),
                scale="linear",
                bins="auto",
                bandwidth=bandwidth,
                precision=precision,
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
        row["reason"] = "" if found is not None else f"{n} usable grains, {FEWEST_GRAINS} are needed"
        rows.append(row)
    return pd.DataFrame(rows)


def _interval(statistics: GrainSizeStatistics, measure: str, method: str) -> Interval:
    return next(i for i in statistics.confidence_intervals if i.measure == measure and i.method.startswith(method))

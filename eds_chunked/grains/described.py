"""What size statistics say: the figures of one sample, as a table, as JSON types and drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from eds_chunked import schema
from eds_chunked.errors import ParameterError
from eds_chunked.grains.density import NORMALISED
from eds_chunked.grains.intervals import ARITHMETIC_MEAN, GEOMETRIC_MEAN, MEDIAN, Interval
from eds_chunked.grains.lognormality import LogNormality

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class GrainSizeStatistics:
    """Statistics of apparent diameters, all in ``unit``; densities are per unit of ``scale``.

    ``scale`` says where classes are equally wide and the density was estimated: edges, grid and mode are diameters in
    ``unit`` on every scale, while ``bin_width`` and ``bandwidth`` are steps on the scale (of ln d for ``"log"``).
    ``precision`` is the largest step of the density's grid, in ``unit``. Percentiles count grains, not areas or masses.
    ``bin_area`` is each class's share of the area of all grains, as circles. Confidence intervals are of 95 %.
    ``values`` are in ascending order, ``boundary_width_um`` (None if none was given) is in them.
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
    precision: float
    log_normality: LogNormality
    confidence_intervals: tuple[Interval, ...]
    n_edge_excluded: int
    n_small_excluded: int
    n_unmeasured: int
    edge_rule: str
    size_rule: str
    boundary_width_um: float | None
    values: Array = field(repr=False)
    bin_edges: Array = field(repr=False)
    bin_counts: Array = field(repr=False)
    bin_density: Array = field(repr=False)
    bin_area: Array = field(repr=False)
    kde_grid: Array = field(repr=False)
    kde_density: Array = field(repr=False)
    normal_quantiles: Array = field(repr=False)

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
        add("precision", self.precision, method="largest step of the density's grid")
        if self.boundary_width_um is not None:
            add("boundary width", self.boundary_width_um, schema.MICROMETRE, "added to every diameter")
        if np.isfinite(self.log_normality.p_value):
            add("log-normality, statistic", self.log_normality.statistic, "1", self.log_normality.test)
            add("log-normality, p", self.log_normality.p_value, "1", self.log_normality.test)
        return pd.DataFrame(rows, columns=["measure", "value", "unit", "ci_low", "ci_high", "method"])

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics as JSON types: all but the single diameters and the density curve.

        ``log_normality`` is None for sizes that are all equal.
        """
        skipped = ("values", "normal_quantiles", "kde_grid", "kde_density", "bin_density", "confidence_intervals")
        found = {name: value for name, value in vars(self).items() if name not in skipped}
        found["modal_interval"] = list(self.modal_interval)
        for name in ("bin_edges", "bin_counts", "bin_area"):
            found[name] = found[name].tolist()
        known = np.isfinite(self.log_normality.p_value)
        found["log_normality"] = vars(self.log_normality) if known else None
        found["confidence_intervals"] = [vars(interval) for interval in self.confidence_intervals]
        return found

    def plot(self, kind: str = "distribution") -> Figure:
        """Draw a figure of the sizes.

        ``"distribution"``: histogram and density with the averages. ``"area"``: the share of the area that each class
        of sizes has, which shows coarse grains. ``"quantiles"``: sizes against those of a log-normal population.
        """
        from eds_chunked.figures.distribution import draw_size_distribution
        from eds_chunked.figures.size_shares import draw_area_weighted_sizes, draw_size_quantiles

        draw: dict[str, Callable[[Any], Figure]] = {
            "distribution": draw_size_distribution,
            "area": draw_area_weighted_sizes,
            "quantiles": draw_size_quantiles,
        }
        if kind not in draw:
            raise ParameterError(
                "kind", found=repr(kind), expected=f"one of {', '.join(draw)}", fix=".plot('distribution')"
            )
        return draw[kind](self)

    def _repr_html_(self) -> str:
        """Show the table in a notebook."""
        return str(self.table().to_html(index=False, na_rep="", float_format="{:.4g}".format))

"""The search for the elements of one spectrum: added, exchanged and removed by what the counts say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter1d

from eds_chunked.kernels.active_set import active_set
from eds_chunked.phases.spectrum_model import (
    N_ABSORBED,
    N_FALSE_PEAKS,
    Channels,
    Detector,
    Fit,
    dispersion_of,
    fit_counts,
)
from eds_chunked.phases.xray_families import ABUNDANCE, DISPERSED, MARGIN, Families, Line

Array = np.ndarray[Any, Any]

# One-sided 95 % of a normal distribution: what is expected at the significance asked for is seen above this much less.
_ONE_SIDED_95 = 1.645
# Where errors of the model are all that varies, this much of the significance asked for is needed.
_BEYOND_ERRORS = 1.5
# Of what is accepted, what an element is thought of from; in between it is possible.
_CANDIDATE = 0.9
# Elements of at least this abundance (ppm) are equal before any count is seen; the rarest are this far behind.
_COMMON_PPM = 1000.0
_RAREST_PPM = 0.01
# As common as these on a sample: what does not conduct is coated with it, and the beam cracks oil to it.
_COAT = "C"
# Deviance by which an element has to fit better than another that could take its place: 3 standard deviations.
_CLEAR = 9.0
_TRIED = 5
_ROUNDS = 10
_MOST_ELEMENTS = 30
# A line is measured this far to each side, in widths at half maximum.
_HALF_WINDOW = 0.6
_OVERLAP_FWHM = 0.6
# Lines this close are one peak, whatever the counts.
_SAME_FWHM = 0.25
_TOLERANCE_KEV = 0.010
_TOLERANCE_SIGMA = 3.0
# The background under a line comes from more channels than the line has: its error is this much of its own noise.
_BACKGROUND_ERROR = 0.15
# A harder shell should be seen where it is expected by this many standard deviations, with this share of it in reach.
_SEEN = 3.0
_IN_WINDOW = 0.8
# Columns have length 1.
_RIDGE = 1e-9


@dataclass(frozen=True)
class Evidence:
    """What speaks for an element: of its best line, and (``sigma``) of all its lines together.

    ``lines`` stand out by themselves; ``alternatives`` could take the place of the element. ``dispersion`` is how many
    times over counting noise what lies under the line varies about the model.
    """

    element: str
    line: Line
    net: float
    background: float
    line_sigma: float
    sigma: float
    offset: float
    tolerance: float
    dispersion: float = 1.0
    lines: tuple[str, ...] = ()
    overlaps: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()
    artefact: str = ""


def line_significance(counts: float, background: float, error: float) -> float:
    """Return the standard deviations by which ``counts`` exceed a background known to within ``error``.

    Cowan, Cranmer, Gross & Vitells (2011), with the sign of the excess; Poisson, so also for few counts.
    """
    b = max(background, 1e-6)
    variance = max(error, 1e-6 * b) ** 2
    n = max(counts, 1e-12)
    first = n * math.log(n * (b + variance) / (b * b + n * variance))
    second = b * b / variance * math.log1p(variance * (n - b) / (b * (b + variance)))
    return math.copysign(math.sqrt(max(0.0, 2 * (first - second))), counts - background)


def head_start(element: str) -> float:
    """Return by how much deviance (at most 0) an element is behind those that are common in the Earth's crust."""
    if element == _COAT:
        return 0.0
    return 2 * math.log(min(max(ABUNDANCE.get(element, _RAREST_PPM), _RAREST_PPM), _COMMON_PPM) / _COMMON_PPM)


def accepted(significance: float) -> float:
    """Return the standard deviations from which an element counts that 19 times of 20 is to be found.

    What is expected to stand out by ``significance`` does so by a standard deviation more or less.
    """
    return significance - _ONE_SIDED_95


def needed(evidence: Evidence, significance: float) -> tuple[float, float]:
    """Return the standard deviations from which an element counts, and from which one of its abundance does.

    Those of :func:`accepted` where counting is all that varies. Errors of a model are not normal and do not average
    out, and the share of them that ``evidence`` may consist of has to be exceeded by more.
    """
    counted = accepted(significance) ** 2
    unsure = 1 - 1 / max(evidence.dispersion, 1.0)
    square = counted + unsure * ((_BEYOND_ERRORS * significance) ** 2 - counted)
    return math.sqrt(square), math.sqrt(square - head_start(evidence.element))


class Reduced:
    """Least squares at fixed weights over any choice of columns, by normal equations that are made once."""

    def __init__(self, columns: Array, counts: Array, variance: Array, prior: Array) -> None:
        root = 1 / np.sqrt(variance)
        rows = columns * root[:, None]
        size = np.maximum(np.sqrt((rows**2).sum(axis=0)), 1e-30)
        rows /= size
        self._gram = rows.T @ rows
        # What columns that are almost alike lack for a definite matrix.
        self._gram[np.diag_indices(len(size))] += (1 / (prior * size)) ** 2 + _RIDGE
        self._target = rows.T @ (counts * root)
        self._square = float((counts * root) @ (counts * root))
        self._positive = np.zeros(len(size), bool)
        self._solved: dict[bytes, tuple[float, Array, Array]] = {}

    def solve(self, chosen: Array) -> tuple[float, Array, Array]:
        """Return chi-square, the columns that are used, and their weights."""
        key = chosen.tobytes()
        if key not in self._solved:
            # The last answer is a good guess: choices that follow each other differ by an element.
            weights = active_set(self._gram, self._target, chosen, self._positive)
            self._positive[chosen] = weights > 0
            used, weights = chosen[weights > 0], weights[weights > 0]
            slope = 2 * self._target[used] - weights @ self._gram[np.ix_(used, used)]
            self._solved[key] = self._square - float(weights @ slope), used, weights
        return self._solved[key]

    def gains(self, chosen: Array) -> Array:
        """Return by how much chi-square would fall with each column beside ``chosen``, if they were free to follow."""
        _, used, weights = self.solve(chosen)
        shared = self._gram[used]
        slope = self._target - weights @ shared
        outside = np.diag(self._gram) - (shared * np.linalg.solve(shared[:, used], shared)).sum(axis=0)
        return np.asarray(np.maximum(slope, 0.0) ** 2 / np.maximum(outside, 1e-9))


class Search:
    """The elements of one spectrum.

    Parameters
    ----------
    counts
        (channels,) counts.
    channels, detector
        Their energies, and what a line looks like there.
    known
        The lines of every element that is thought of.
    columns
        What spans the spectrum of each (channels, columns): its generators and its soft lines, as
        :meth:`Channels.columns` gives them, and last its :meth:`Channels.absorbed`.
    significance
        Standard deviations by which an element has to stand out.
    """

    def __init__(
        self,
        counts: Array,
        channels: Channels,
        detector: Detector,
        known: Mapping[str, Families],
        columns: Mapping[str, Array],
        *,
        significance: float,
        beam: float,
    ) -> None:
        self._counts, self._channels, self._detector = counts, channels, detector
        self._known, self._significance = known, significance
        self._least = (_CANDIDATE * accepted(significance)) ** 2
        self._barred: set[str] = set()
        continuum, artefacts = channels.continuum(detector, beam=beam), channels.artefacts(counts, detector)
        self._n_continuum, self._n_base = continuum.shape[1], continuum.shape[1] + artefacts.shape[1]
        blocks = [continuum, artefacts, *(columns[element] for element in known)]
        self._columns = np.concatenate(blocks, axis=1)
        self._prior = np.full(self._columns.shape[1], np.inf)
        self._prior[self._n_continuum : self._n_base] = 1.0
        ends = np.cumsum([self._n_base, *(columns[element].shape[1] for element in known)])
        self._places, self._soft, self._absorbed = {}, {}, {}
        for first, last, (element, families) in zip(ends[:-1], ends[1:], known.items(), strict=True):
            continua = last - N_ABSORBED
            own = continua - len(families.soft)
            self._places[element] = np.arange(first, own)
            self._soft[element], self._absorbed[element] = np.arange(own, continua), np.arange(continua, last)

    def run(self) -> list[Evidence]:
        """Return what was found, in the order of ``known``, also what is only possible; then artefacts."""
        chosen, fit, dispersion = self.choose()
        return self._evidence(chosen, dispersion, dispersion * fit.expected + 0.02)

    def choose(self) -> tuple[list[str], Fit, Array]:
        """Return the elements that the counts demand, the fit with them, and its dispersion (channels,).

        It takes several rounds: by how much counts stray depends on the peaks that were found.
        """
        counts = self._counts
        smooth = gaussian_filter1d(counts, float(self._detector.sigma(2.0)) / self._channels.width, mode="nearest")
        variance = smooth + (0.03 * smooth) ** 2 + 0.02
        chosen: list[str] = []
        expected, dispersion = counts, np.ones(len(counts))
        for _ in range(_ROUNDS):
            reduced = Reduced(self._columns, counts, variance, self._prior)
            before, chosen = chosen, self._settle(reduced, chosen)
            fit = self._fit(chosen, dispersion, expected)
            dispersion = self._dispersion(chosen, fit)
            fit = self._fit(chosen, dispersion, fit.expected)
            expected, variance = fit.expected, dispersion * fit.expected + 0.02
            silent = self._silent(chosen, dispersion, expected)
            self._barred |= silent
            chosen = [element for element in chosen if element not in silent]
            if chosen == before and not silent:
                break
        return chosen, self._fit(chosen, dispersion, expected), dispersion

    # -------------------------------------------------------------------------------------------- the choice
    def _at(self, chosen: Sequence[str], *, without: str = "", false_peaks: bool = True) -> Array:
        """Return the columns of ``chosen``; of an element ``without`` those that are no evidence for it."""
        base = np.arange(self._n_base)
        if not false_peaks:
            base = np.delete(base, np.arange(self._n_continuum, self._n_continuum + N_FALSE_PEAKS))
        soft = [self._soft[without], self._absorbed[without]] if without else []
        absorbed = (self._absorbed[element] for element in chosen)
        return np.concatenate([base, *absorbed, *(self._places[element] for element in chosen), *soft])

    def _dispersion(self, chosen: Sequence[str], fit: Fit) -> Array:
        at, lines = self._at(chosen), self._n_base + N_ABSORBED * len(chosen)
        artefacts, peaks = (
            self._columns[:, at[part]] @ fit.weights[part]
            for part in (slice(self._n_continuum, self._n_base), slice(lines, None))
        )
        return dispersion_of(
            self._counts,
            fit.expected,
            peaks=peaks,
            artefacts=artefacts,
            channels=self._channels,
            detector=self._detector,
        )

    def _candidates(self, reduced: Reduced, chosen: Sequence[str], least: float, without: str = "") -> list[str]:
        """Return the elements that could best take what ``chosen`` leave unexplained, the best first.

        What their columns gain one by one adds up to ``least``: together they seldom gain more.
        """
        gains = reduced.gains(self._at(chosen))
        rated = {
            element: float(gains[places].max()) + head_start(element)
            for element, places in self._places.items()
            if element not in chosen
            and element != without
            and element not in self._barred
            and gains[places].sum() >= least
        }
        return sorted(rated, key=lambda element: -rated[element])[:_TRIED]

    def _gain(self, reduced: Reduced, chosen: Sequence[str], element: str) -> float:
        """Return what ``element``, one of ``chosen``, explains that the others and its soft lines alone do not."""
        others = [other for other in chosen if other != element]
        return reduced.solve(self._at(others, without=element))[0] - reduced.solve(self._at(chosen))[0]

    def _settle(self, reduced: Reduced, chosen: list[str]) -> list[str]:
        least, seen = self._least, set()
        while frozenset(chosen) not in seen:
            seen.add(frozenset(chosen))
            chosen = self._grown(reduced, chosen, least)
            chosen = self._exchanged(reduced, chosen, least)
            chosen = self._pruned(reduced, chosen, least)
        return [element for element in self._known if element in chosen]

    def _grown(self, reduced: Reduced, chosen: list[str], least: float) -> list[str]:
        chosen = list(chosen)
        while len(chosen) < _MOST_ELEMENTS:
            tried = {
                element: self._gain(reduced, [*chosen, element], element)
                for element in self._candidates(reduced, chosen, least)
            }
            tried = {element: gain for element, gain in tried.items() if gain >= least}
            if not tried:
                break
            chosen.append(max(tried, key=lambda element: tried[element] + head_start(element)))
        return chosen

    def _exchanged(self, reduced: Reduced, chosen: list[str], least: float) -> list[str]:
        chosen = list(chosen)
        for element in list(chosen):
            others = [other for other in chosen if other != element]
            now = reduced.solve(self._at(chosen))[0] - head_start(element) - 0.1
            missing = reduced.solve(self._at(others))[0] - now
            tried = {
                instead: reduced.solve(self._at([*others, instead]))[0] - head_start(instead)
                for instead in self._candidates(reduced, others, max(least, missing), without=element)
            }
            for instead in sorted(tried, key=lambda instead: tried[instead]):
                if tried[instead] < now and self._gain(reduced, [*others, instead], instead) >= least:
                    chosen = [*others, instead]
                    break
        return chosen

    def _pruned(self, reduced: Reduced, chosen: list[str], least: float) -> list[str]:
        chosen = list(chosen)
        while chosen:
            lost = {element: self._gain(reduced, chosen, element) for element in chosen}
            weakest = min(chosen, key=lambda element: lost[element])
            if lost[weakest] >= least:
                break
            chosen.remove(weakest)
        return chosen

    # ------------------------------------------------------------------------------------------ the evidence
    def _fit(self, chosen: Sequence[str], dispersion: Array, start: Array, *, without: str = "") -> Fit:
        at = self._at(chosen, without=without)
        return fit_counts(self._columns[:, at], self._counts, dispersion=dispersion, start=start, prior=self._prior[at])

    def _replaces(self, reduced: Reduced, others: Sequence[str], element: str, instead: str) -> bool:
        """Return whether ``element`` hardly explains what ``instead``, of which there is evidence, does not."""
        if self._gain(reduced, [*others, instead], instead) < self._least:
            return False
        missed = self._gain(reduced, [*others, instead, element], element)
        return missed + head_start(element) - head_start(instead) < _CLEAR

    def _silent(self, chosen: Sequence[str], dispersion: Array, start: Array) -> set[str]:
        """Return the elements whose harder shell should be seen beside a softer one, and is not.

        The fit itself allows for softer lines up to a generous bound. What is lacking there costs it little where the
        softer lines only mend a continuum or a tail that is not quite as modelled.
        """
        fit = self._fit(chosen, dispersion, start)
        weights = dict(zip(self._at(chosen).tolist(), fit.weights.tolist(), strict=True))
        silent = set()
        for element in chosen:
            families = self._known[element]
            places = self._places[element].tolist()
            # A column of a bound group has one count of the leading line, so MARGIN counts are what is usual.
            followers = places[len(families.leading) : len(places) - len(families.soft)]
            usual = MARGIN * sum(weights[at] for at in followers)
            if not usual:
                continue
            own = self._columns[:, places] @ np.array([weights[place] for place in places])
            hard = self._measured(families.lines[0], own, fit.expected, dispersion)
            if hard.line_sigma < _SEEN and usual * _IN_WINDOW >= _SEEN * math.sqrt(hard.background + usual):
                silent.add(element)
        return silent

    def _evidence(self, chosen: list[str], dispersion: Array, variance: Array) -> list[Evidence]:
        fit = self._fit(chosen, dispersion, self._counts + 1.0)
        reduced = Reduced(self._columns, self._counts, variance, self._prior)
        weights = dict(zip(self._at(chosen).tolist(), fit.weights.tolist(), strict=True))
        found = []
        for element in chosen:
            others = [other for other in chosen if other != element]
            lost = self._fit(others, dispersion, fit.expected, without=element).deviance - fit.deviance
            places = self._places[element]
            own = self._columns[:, places] @ np.array([weights[place] for place in places.tolist()])
            evidence = self._best_line(element, chosen, own, fit.expected, dispersion)
            alternatives = tuple(
                instead
                for instead in self._candidates(reduced, others, self._least, without=element)
                if self._replaces(reduced, others, element, instead)
                and instead not in self._silent([*others, instead], dispersion, fit.expected)
            )
            found.append(replace(evidence, sigma=math.sqrt(max(0.0, lost)), alternatives=alternatives))
        found = [self._beside_soft_lines(evidence, found) for evidence in found]
        return [*found, *self._artefacts(reduced, chosen, fit, dispersion)]

    def _beside_soft_lines(self, evidence: Evidence, found: Sequence[Evidence]) -> Evidence:
        """Return ``evidence``, ambiguous if soft lines of another element lie where its only line does.

        How strong those are is bounded, not known: the fit takes for them what is within the bound, whatever is there.
        """
        if len(evidence.lines) > 1:
            return evidence
        near = _SAME_FWHM * float(self._detector.fwhm(evidence.line.energy))
        others = []
        for other in found:
            families = self._known[other.element]
            soft = {line.name for group in families.soft for line in group}
            most = sum(
                group[-1].weight
                for group in families.following
                if group[-1].name in soft and abs(group[-1].energy - evidence.line.energy) <= near
            )
            if other.element != evidence.element and evidence.net < most * max(0.0, other.net):
                others.append(other.element)
        return replace(evidence, alternatives=(*evidence.alternatives, *others))

    def _best_line(
        self, element: str, chosen: Sequence[str], own: Array, expected: Array, dispersion: Array
    ) -> Evidence:
        """Return the evidence of the line of ``element`` that stands out most; ``own`` is its share of ``expected``."""
        families = self._known[element]
        uncertain = {line.name for group in families.soft for line in group}
        lines = [line for line in families.lines if line.name not in uncertain]
        measured = [self._measured(line, own, expected, dispersion) for line in lines]
        best = max(measured, key=lambda evidence: evidence.line_sigma)
        seen = sorted((each.line for each in measured if each.line_sigma >= _SEEN), key=lambda line: line.energy)
        names = tuple(line.name for line in seen)
        return replace(best, element=element, lines=names, overlaps=self._overlaps(element, best.line, chosen))

    def _measured(self, line: Line, own: Array, expected: Array, dispersion: Array) -> Evidence:
        """Return what a line has over the rest of the model, ``expected`` without ``own``."""
        energy = self._channels.true(self._detector)
        window = np.abs(energy - line.energy) <= _HALF_WINDOW * self._detector.fwhm(line.energy)
        others = np.maximum(expected - own, 0.0)[window]
        counts, there = self._counts[window], energy[window]
        background = float(others.sum())
        error = math.hypot(
            math.sqrt(float((others * (dispersion[window] - 1)).sum())), _BACKGROUND_ERROR * math.sqrt(background)
        )
        net = float(counts.sum()) - background
        offset, tolerance = 0.0, math.inf
        if net > 0 and own[window].sum() > 0:
            middle = float(own[window] @ there / own[window].sum())
            offset = float((counts - others) @ there) / net - middle
            spread = math.sqrt(float((counts + (dispersion[window] - 1) * others) @ (there - middle) ** 2)) / net
            tolerance = _TOLERANCE_KEV + _TOLERANCE_SIGMA * spread
        sigma = line_significance(net + background, background, error)
        strays = float(others @ dispersion[window]) / background if background > 0 else 1.0
        return Evidence("", line, net, background, sigma, 0.0, offset, tolerance, strays)

    def _overlaps(self, element: str, line: Line, chosen: Sequence[str]) -> tuple[str, ...]:
        """Return main lines of other elements that the detector does not part from ``line``, the nearest first.

        Of those that are ``chosen``, or that have minerals of their own; not lines that nobody would think of.
        """
        reach = _OVERLAP_FWHM * float(self._detector.fwhm(line.energy))
        near = [
            (abs(main.energy - line.energy), f"{other} {main.name}")
            for other, families in self._known.items()
            if other != element and (other in chosen or (ABUNDANCE.get(other, 0.0) >= 1.0 and other not in DISPERSED))
            for main in families.lines
            if main.name in ("Ka", "La", "Ma") and abs(main.energy - line.energy) <= reach
        ]
        return tuple(name for _, name in sorted(near)[:4])

    def _artefacts(self, reduced: Reduced, chosen: list[str], fit: Fit, dispersion: Array) -> list[Evidence]:
        """Return the elements that escape and sum peaks alone would have made believe in, one for each such peak."""
        alone = self._at(chosen, false_peaks=False)
        base, gains = reduced.solve(alone)[0], reduced.gains(alone)
        least = self._significance**2
        peaks = slice(self._n_continuum, self._n_continuum + N_FALSE_PEAKS)
        artefacts = self._columns[:, peaks] * fit.weights[peaks]
        tried = {
            element: base - reduced.solve(self._at([*chosen, element], false_peaks=False))[0]
            for element, places in self._places.items()
            if element not in chosen and gains[places].max() >= least and ABUNDANCE.get(element, 0.0) >= 1.0
        }
        found: list[Evidence] = []
        for element in sorted(tried, key=lambda element: -(tried[element] + head_start(element))):
            line = self._known[element].lines[0]
            near = 2 * float(self._detector.fwhm(line.energy))
            if tried[element] < least or any(abs(line.energy - other.line.energy) < near for other in found):
                continue
            own = artefacts.sum(axis=1)
            evidence = self._best_line(element, chosen, own, fit.expected, dispersion)
            why = self._explained(chosen, evidence.line, artefacts)
            if why and evidence.line_sigma >= self._significance:
                found.append(replace(evidence, sigma=math.sqrt(tried[element]), artefact=why))
        return [evidence for element in self._known for evidence in found if evidence.element == element]

    def _explained(self, chosen: Sequence[str], line: Line, artefacts: Array) -> str:
        """Return which lines of ``chosen`` make an escape or sum peak at ``line``; empty for none."""
        energy = self._channels.true(self._detector)
        reach = _OVERLAP_FWHM * float(self._detector.fwhm(line.energy))
        strong = []
        for element in chosen:
            for own in self._known[element].lines:
                if own.weight >= 0.5:
                    height = float(np.interp(own.energy, energy, self._counts))
                    strong.append((height, own.energy, f"{element} {own.name}"))
        at = artefacts[int(np.argmin(np.abs(energy - line.energy)))]
        if at[0] > at[1:].sum():
            parents = [(h, name) for h, e, name in strong if abs(e - 1.740 - line.energy) <= reach]
            return f"silicon escape peak of {max(parents)[1]}" if parents else ""
        pairs = [
            (h1 * h2, f"{first} and {second}")
            for i, (h1, e1, first) in enumerate(strong)
            for h2, e2, second in strong[i:]
            if abs(e1 + e2 - line.energy) <= reach
        ]
        return f"sum peak of {max(pairs)[1]}" if pairs else ""

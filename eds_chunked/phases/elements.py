"""Candidate elements of phase spectra: which elements the counts demand, which they cannot tell apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from threadpoolctl import threadpool_limits

from eds_chunked import schema
from eds_chunked.errors import CountsError, ParameterError
from eds_chunked.phases.element_search import Evidence, Search, accepted, head_start, needed
from eds_chunked.phases.spectrum_model import N_ARTEFACTS, Channels, Detector, adjusted, dispersion_of, fit_counts
from eds_chunked.phases.xray_families import ABUNDANCE, Families, families_of

__all__ = ["identify_elements"]

Array = np.ndarray[Any, Any]

FOUND = "found"
POSSIBLE = "possible"
AMBIGUOUS = "ambiguous"
ARTEFACT = "artefact"
NONE = "none"

LOWEST_KEV = 0.2
"""Below lie the zero (strobe) peak, electronic noise, and lines that few detectors see."""

# A line whose peak the axis cuts is not looked for.
_MARGIN_KEV = 0.03
_FEWEST_COUNTS = 50
# Of what all lines of an element need, what one of them has to have.
_BY_ITSELF = 0.6
_ADJUSTMENTS = 6
_SAME_AXIS_KEV = 0.005
# Their K lines set the axis and the resolution right before rarer elements are thought of.
_FAMILIAR = ("C", "O", "F", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "K", "Ca", "Ti", "Cr", "Mn", "Fe", "Ni", "Cu", "Zn")


def identify_elements(
    spectra: xr.Dataset,
    *,
    phase: int | Sequence[int] | None = None,
    elements: Iterable[str] | None = None,
    significance: float = 5.0,
    beam_energy: float | None = None,
    resolution: float = 130.0,
) -> pd.DataFrame:
    """Say which elements the spectrum of each phase shows, with the evidence; computes.

    A spectrum is fitted, by the likelihood of Poisson counts, as a continuum (smooth, with the steps at the
    absorption edges of its elements), the X-ray lines of elements (weights known within a subshell, softer shells bound
    to harder ones that the beam must excite too) and what the detector adds (silicon escape peaks, sum peaks, tails).
    The zero (strobe) peak lies below 0.2 keV, where nothing is looked for. An element counts if the fit gets worse
    without it, by so many standard deviations that one expected to stand out by ``significance`` is found 19 times of
    20, and by more where the model may be wrong. If it adds less than 3 to another element that could take its
    place, the answer is ambiguous; of two that fit alike the one more abundant in the Earth's crust has an advantage of
    twice the logarithm of their ratio, and what is rare there has to stand out by more. Candidates are named, nothing
    is quantified: light elements (Z < 6), traces under a strong peak, and C, N and O where the L lines of Ca to Cr lie,
    are beyond it.

    Parameters
    ----------
    spectra
        ``spectrum`` (phase, energy) in counts, as :func:`eds_chunked.phase_spectra` gives it; energy in keV.
    phase
        Phase, or phases, to look at; None is all.
    elements
        The only elements that are thought of, such as ``["Si", "O"]``; None is all that a solid can hold.
    significance
        Standard deviations by which an element is expected to stand out that is to be found 19 times of 20. What is
        counted varies by one of them, so that it counts from 1.64 less (3.4), and from up to 1.5 times as much (7.5)
        where errors of the model, not counts, are what varies. The square of that grows by 4.6 for each power of ten
        that an element is rarer than 0.1 % of the crust (from 3.4: 3.9 for Zr, 4.5 for Pb). Less, down to 3.0, is
        "possible".
    beam_energy
        keV; None takes that of the map.
    resolution
        Full width at half maximum at Mn Ka, eV, from which the fit starts: it is adjusted, as are the offset (up to 50
        eV) and the scale (up to 1 %) of the energy axis, from the sum of all phases.

    Returns
    -------
    pandas.DataFrame
        A row for each phase and element: ``phase``, ``element``, ``line`` and its ``energy_kev``, where it stands out
        best; ``lines``, all that stand out by 3 sigma by themselves; of ``line`` the ``net_counts`` over ``background``
        (continuum and other elements) within 0.6 widths of it, and ``line_sigma``; ``sigma``, the significance of all
        lines of the element together; ``offset_kev``, how far the peak lies from the line; ``decision``; ``overlaps``,
        lines of other elements under it; ``reason``. Decisions are "found"; "ambiguous", where ``reason`` names the
        elements that it is not separable from, or how far the peak is off; "possible"; and "artefact": an element that
        would have been found if escape and sum peaks were not known. A phase without any has one row, "none", that says
        why.

    Raises
    ------
    ParameterError
        The energy axis is not calibrated, the beam energy is not known, or a phase or element does not exist.
    CountsError
        The spectra are not whole numbers of counts, or have none at all.

    Notes
    -----
    Memory: some 10 MB for 2048 channels, beside 60 MB for the table of lines.

    References
    ----------
    Cowan, Cranmer, Gross & Vitells (2011), Eur. Phys. J. C 71, 1554 (significance of a line over a background that
    is uncertain); Fiori & Newbury (1978), SEM 1, 401 (resolution); Reed & Ware (1972), J. Phys. E 5, 582 (escape
    peaks); Newbury (2009), Scanning 31, 91 (mistakes of automatic identification that this tries not to make).
    """
    schema.require(spectra, schema.SPECTRUM)
    _check_axis(spectra)
    beam = _beam_of(spectra, beam_energy)
    if not 3 <= significance <= 100:
        raise ParameterError("significance", found=significance, expected="3 to 100", fix="significance=5")
    if not 50 <= resolution <= 300:
        raise ParameterError("resolution", found=resolution, expected="50 to 300 eV at Mn Ka", fix="resolution=130")
    numbers = _phases_of(spectra, phase)
    channels, inside = _channels(spectra, beam)
    table = _checked(spectra)[:, inside]
    low, high = float(channels.energy[0]), float(channels.energy[-1])
    if not table.any():
        raise CountsError(
            schema.SPECTRUM,
            found=f"no count in any phase from {low:.4g} to {high:.4g} keV",
            expected="counts",
            fix="eds-chunked info STORE says what the map holds; sum the spectra over the whole energy axis",
        )
    every = [int(number) for number in spectra[schema.PHASE].values]
    known = {
        element: families
        for element in (ABUNDANCE if elements is None else _checked_elements(elements))
        if (families := families_of(element, low=low + _MARGIN_KEV, high=high - _MARGIN_KEV, beam=beam)) is not None
    }
    if not known:
        raise ParameterError(
            "elements",
            found=f"none with a line from {low:.4g} to {high:.4g} keV",
            expected="elements that the spectra can show",
            fix="elements=None thinks of all",
        )
    rows: list[dict[str, Any]] = []
    # Matrices are small: threads of BLAS would only wait for each other.
    with threadpool_limits(1, user_api="blas"):
        detector = _fitted_detector(table.sum(axis=0), channels, Detector.with_resolution(resolution), known, beam)
        columns = _columns(channels, detector, known, beam)
        for number in numbers:
            counts = table[every.index(number)]
            n = int(counts.sum())
            if n < _FEWEST_COUNTS:
                why = "no counts" if n == 0 else f"{n} counts, fewer than {_FEWEST_COUNTS}"
                rows.append(_row(number, decision=NONE, reason=f"{why} from {low:.4g} to {high:.4g} keV"))
                continue
            found = Search(counts, channels, detector, known, columns, significance=significance, beam=beam).run()
            rows += [_evidence_row(number, evidence, significance) for evidence in found]
            if not found:
                rows.append(_row(number, decision=NONE, reason=f"no line stands out by {significance:g} sigma"))
    return pd.DataFrame(rows, columns=list(_row(0, decision="", reason="")))


def _row(phase: int, *, decision: str, reason: str) -> dict[str, Any]:
    return {
        schema.PHASE: phase,
        "element": "",
        "line": "",
        "energy_kev": math.nan,
        "lines": "",
        "net_counts": math.nan,
        "background": math.nan,
        "line_sigma": math.nan,
        "sigma": math.nan,
        "offset_kev": math.nan,
        "decision": decision,
        "overlaps": "",
        "reason": reason,
    }


def _evidence_row(phase: int, evidence: Evidence, significance: float) -> dict[str, Any]:
    decision, reason = FOUND, ""
    common, rare = needed(evidence, significance)
    if evidence.artefact:
        decision, reason = ARTEFACT, evidence.artefact
    elif evidence.sigma < common:
        decision, reason = POSSIBLE, f"{evidence.sigma:.1f} sigma are less than {common:.1f}"
    elif evidence.alternatives:
        decision, reason = AMBIGUOUS, f"not separable from {' or '.join(evidence.alternatives)} by these counts"
    elif evidence.sigma < rare:
        decision, reason = POSSIBLE, f"{evidence.sigma:.1f} sigma; what is this rare needs {rare:.1f}"
    elif abs(evidence.offset) > evidence.tolerance:
        decision = AMBIGUOUS
        reason = (
            f"the peak lies {1000 * evidence.offset:+.0f} eV from the line, tolerated {1000 * evidence.tolerance:.0f}"
        )
    elif evidence.line_sigma < _BY_ITSELF * accepted(significance):
        decision, reason = POSSIBLE, "no line stands out by itself"
    return _row(phase, decision=decision, reason=reason) | {
        "element": evidence.element,
        "line": evidence.line.name,
        "energy_kev": evidence.line.energy,
        "lines": ", ".join(evidence.lines),
        "net_counts": evidence.net,
        "background": evidence.background,
        "line_sigma": evidence.line_sigma,
        "sigma": evidence.sigma,
        "offset_kev": evidence.offset,
        "overlaps": ", ".join(evidence.overlaps),
    }


def _check_axis(spectra: xr.Dataset) -> None:
    axis = spectra[schema.ENERGY] if schema.ENERGY in spectra.coords else None
    unit = schema.CHANNEL if axis is None else str(axis.attrs.get("units", schema.KEV))
    if unit != schema.KEV:
        raise ParameterError(
            "energy axis",
            found=f"in units of {unit!r}",
            expected="keV: lines have energies, not channels",
            fix="eds-chunked calibrate STORE --energy-scale KEV --energy-offset KEV, then sum the spectra again",
        )


def _beam_of(spectra: xr.Dataset, beam_energy: float | None) -> float:
    beam = spectra.attrs.get(schema.BEAM_ENERGY) if beam_energy is None else beam_energy
    if not beam:
        raise ParameterError(
            "beam energy",
            found="none stated by the map",
            expected="keV, which decides which lines can be there",
            fix="beam_energy=20, or eds-chunked calibrate STORE --beam-energy 20",
        )
    if not 1 <= float(beam) <= 1000:
        raise ParameterError("beam energy", found=beam, expected="1 to 1000 keV", fix="beam_energy=20")
    return float(beam)


def _phases_of(spectra: xr.Dataset, phase: int | Sequence[int] | None) -> list[int]:
    every = [int(number) for number in spectra[schema.PHASE].values]
    if phase is None:
        return every
    wanted = [phase] if isinstance(phase, int | np.integer) else list(phase)
    if not wanted or not set(wanted) <= set(every):
        raise ParameterError("phase", found=phase, expected=f"of {every}", fix=f"phase={every[0] if every else None}")
    return [int(number) for number in wanted]


def _checked_elements(elements: Iterable[str]) -> list[str]:
    wanted = [str(element) for element in ([elements] if isinstance(elements, str) else elements)]
    unknown = [element for element in wanted if element not in schema.PERIODIC_TABLE]
    if unknown or not wanted:
        raise ParameterError(
            "elements", found=unknown or "none", expected="chemical symbols", fix='elements=["Si", "O"]'
        )
    return sorted(set(wanted), key=schema.PERIODIC_TABLE.index)


def _channels(spectra: xr.Dataset, beam: float) -> tuple[Channels, Array]:
    energy = spectra[schema.ENERGY].values.astype(np.float64)
    width = float(energy[-1] - energy[0]) / max(1, len(energy) - 1)
    inside = (energy >= LOWEST_KEV) & (energy <= beam)
    if inside.sum() < 32 or not 0 < width <= 0.1:
        raise ParameterError(
            "energy axis",
            found=f"{len(energy)} channels of {1000 * width:.4g} eV from {energy[0]:.4g} to {energy[-1]:.4g} keV",
            expected=f"at least 32 of at most 100 eV from {LOWEST_KEV} keV to the beam energy, {beam:g} keV",
            fix="sum the spectra over the whole energy axis, not binned",
        )
    return Channels(energy[inside], width), inside


def _checked(spectra: xr.Dataset) -> Array:
    table = spectra[schema.SPECTRUM].values
    if table.dtype.kind == "f" and not (np.isfinite(table).all() and (table == np.round(table)).all()):
        raise CountsError(
            schema.SPECTRUM,
            found="values that are not whole",
            expected="counts, whose noise is known",
            fix="pass the sums of eds_chunked.phase_spectra, not means",
        )
    if (table < 0).any():
        raise CountsError(schema.SPECTRUM, found="negative counts", expected="0 or more", fix="sum the spectra again")
    return np.asarray(table, np.float64)


def _fitted_detector(
    total: Array, channels: Channels, start: Detector, known: dict[str, Families], beam: float
) -> Detector:
    """Return the detector that fits the sum of all phases, by the lines of the elements that are found there.

    Elements are sought on the axis as it is, which is adjusted by what was found. Where the lines that most solids have
    say the same, that is it. Otherwise the axis may be far off: elements are sought on theirs as well, and the one that
    explains more is taken.
    """
    if total.sum() < _FEWEST_COUNTS:
        return start
    familiar = [known[element] for element in _FAMILIAR if element in known]
    trials = [start, *([_adjusted(total, channels, start, familiar, beam)] if familiar else [])]
    detectors: list[Detector] = []
    for trial in trials:
        if detectors and _apart(detectors[0], trial) < _SAME_AXIS_KEV:
            break
        chosen = _search(total, channels, trial, known, beam).choose()[0]
        if len(chosen) < 2:
            # One peak fits any line that an axis may be moved to.
            return start
        detectors.append(_adjusted(total, channels, trial, [known[element] for element in chosen], beam))
    if len(detectors) == 1:
        return detectors[0]
    rated = []
    for detector in detectors:
        chosen, fit, _ = _search(total, channels, detector, known, beam).choose()
        rated.append((fit.deviance - sum(map(head_start, chosen)), detector))
    return min(rated, key=lambda pair: pair[0])[1]


def _apart(one: Detector, other: Detector) -> float:
    """Return by how much (keV) two axes differ at most from 0 to 10 keV."""
    offset, gain = one.offset - other.offset, one.gain - other.gain
    return max(abs(offset), abs(offset + 10 * gain))


def _columns(channels: Channels, detector: Detector, known: dict[str, Families], beam: float) -> dict[str, Array]:
    return {
        element: np.column_stack(
            [
                channels.columns((*families.generators, *families.soft), detector),
                channels.absorbed(detector, beam=beam, element=element),
            ]
        )
        for element, families in known.items()
    }


def _search(total: Array, channels: Channels, detector: Detector, known: dict[str, Families], beam: float) -> Search:
    columns = _columns(channels, detector, known, beam)
    return Search(total, channels, detector, known, columns, significance=5.0, beam=beam)


def _adjusted(total: Array, channels: Channels, detector: Detector, lines_of: list[Families], beam: float) -> Detector:
    """Return the detector with which the lines of some elements fit best: offset, scale and noise."""
    dispersion = np.ones(len(total))
    for _ in range(_ADJUSTMENTS):
        absorbed = [channels.absorbed(detector, beam=beam, element=families.element) for families in lines_of]
        base = np.column_stack(
            [channels.continuum(detector, beam=beam), *absorbed, channels.artefacts(total, detector)]
        )
        n_continuum, n_base = base.shape[1] - N_ARTEFACTS, base.shape[1]
        lines = np.concatenate([channels.columns(families.generators, detector) for families in lines_of], axis=1)
        columns = np.concatenate([base, lines], axis=1)
        prior = np.full(columns.shape[1], np.inf)
        prior[n_continuum:n_base] = 1.0
        fit = fit_counts(columns, total, dispersion=dispersion, start=total + 1.0, prior=prior)
        weights = fit.weights[n_base:]

        def peaks_of(trial: Detector, weights: Array = weights) -> Array:
            every = np.concatenate([channels.columns(families.generators, trial) for families in lines_of], axis=1)
            return np.asarray(every @ weights)

        peaks = lines @ weights
        artefacts = base[:, n_continuum:] @ fit.weights[n_continuum:n_base]
        dispersion = dispersion_of(
            total, fit.expected, peaks=peaks, artefacts=artefacts, channels=channels, detector=detector
        )
        moved = adjusted(detector, channels, total, fit, peaks, peaks_of, dispersion=dispersion)
        still = abs(moved.offset - detector.offset) < 2e-4 and abs(moved.noise - detector.noise) < 2e-5
        detector = moved
        if still:
            break
    return detector

"""A spectrum as continuum, X-ray lines and detector artefacts: columns, and their fit to counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.interpolate import BSpline
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import nnls
from scipy.special import ndtr

from eds_chunked import schema
from eds_chunked.phases.xray_families import Group
from eds_chunked.xray_table import absorption

Array = np.ndarray[Any, Any]

_FWHM_TO_SIGMA = 1 / 2.3548
_MN_KA_KEV = 5.8988
# Fiori & Newbury (1978): FWHM^2 (eV) grows by 2.5 eV an eV, which is 8 ln 2 x Fano factor x 3.6 eV a pair in silicon.
_SPREAD_KEV = 2.5e-3
_SILICON_KA_KEV = 1.740
_SILICON_EDGE_KEV = 1.839
# Knots of the continuum, in widths of a peak: far enough apart that it cannot follow a peak.
_KNOTS_FWHM = 6.0
# g/cm2 of a detector's window, contact and dead layer; and the way out of the sample over its depth, at 35 degrees.
# The window is 0.3 um of polyimide, C22H10N2O5, under 30 nm of aluminium.
_WINDOW = (("C", 2.9e-5), ("N", 3e-6), ("O", 9e-6), ("Al", 8e-6), ("Si", 2e-5))
_LONG_WAY = 1.74
_SOFT_CONTINUUM_KEV = 1.0
# Mean loss of pulses of which some charge is lost in the dead layer.
_TAIL_KEV = 0.08
_BENT_KEV = (0.6, 2.5)
# What a pulse that comes late within the same count can lack.
_LATE_KEV = 0.06
# Beyond, a line has less than 1e-15 of its counts.
_REACH_SIGMA = 8.0
_LEAST_MU = 1e-3
_ITERATIONS = 20
_CONVERGED = 1e-3

N_ARTEFACTS, N_FALSE_PEAKS, N_ABSORBED = 7, 5, 3
# A model of peaks is not exact: tails, energies and relative weights of tables. Taken as an error of each peak's width,
# as a share of the peaks within one standard deviation of the detector.
_PEAK_ERROR = 0.012
# Satellites and the fine structure of edges: a share of the peaks within 0.2 keV.
_HALO_KEV, _HALO_ERROR = 0.2, 0.008
# Energies and shapes of soft lines depend on bonds and absorption: here their error is twice as large.
_SOFT_KEV = 0.5
_ARTEFACT_ERROR = 0.12
_CONTINUUM_ERROR = 0.0025
# Of what a continuum differs from its mean within 0.1 keV; not where it rises steeply.
_EDGE_KEV, _EDGE_ERROR, _STEEP_KEV = 0.1, 0.5, 0.8


@dataclass(frozen=True)
class Detector:
    """Resolution, and how far the energies of the axis are off: true energy = offset + (1 + gain) x axis.

    ``noise`` is the square of the electronic noise's FWHM, keV^2.
    """

    noise: float
    offset: float = 0.0
    gain: float = 0.0

    @classmethod
    def with_resolution(cls, fwhm_mn_ka: float) -> Detector:
        """Return a detector of this resolution (eV) at Mn Ka, its axis as it is."""
        return cls((fwhm_mn_ka / 1000) ** 2 - _SPREAD_KEV * _MN_KA_KEV)

    @property
    def resolution(self) -> float:
        """FWHM at Mn Ka, eV."""
        return 1000 * float(self.fwhm(_MN_KA_KEV))

    def fwhm(self, energy: Array | float) -> Any:
        """Return the full width at half maximum (keV) of a line at ``energy`` (keV)."""
        return np.sqrt(np.maximum(self.noise, 0.02**2) + _SPREAD_KEV * np.maximum(energy, 0.0))

    def sigma(self, energy: Array | float) -> Any:
        """Return the standard deviation (keV) of a line at ``energy`` (keV)."""
        return self.fwhm(energy) * _FWHM_TO_SIGMA


@dataclass(frozen=True)
class Channels:
    """The channels that are looked at: energies of their centres, keV, and their width."""

    energy: Array
    width: float

    def true(self, detector: Detector) -> Array:
        """Return the energies as the detector's calibration has them."""
        return np.asarray(detector.offset + (1 + detector.gain) * self.energy)

    def columns(self, groups: Sequence[Group], detector: Detector) -> Array:
        """Return the spectra (channels, groups) of groups of lines: the shares of each that fall into the channels."""
        centre, half = self.true(detector), (1 + detector.gain) * self.width / 2
        shares = {}
        # Lines of a leading shell are part of several groups.
        for energy in {line.energy for group in groups for line in group}:
            sigma = float(detector.sigma(energy))
            first, last = np.searchsorted(centre, (energy - _REACH_SIGMA * sigma, energy + _REACH_SIGMA * sigma))
            away = centre[first:last] - energy
            shares[energy] = slice(first, last), ndtr((away + half) / sigma) - ndtr((away - half) / sigma)
        out = np.zeros((len(groups), len(centre)))
        for row, group in zip(out, groups, strict=True):
            for line in group:
                near, share = shares[line.energy]
                row[near] += line.weight * share
        return out.T

    def continuum(self, detector: Detector, *, beam: float) -> Array:
        """Return what a window leaves of a continuum, times cubic B-splines (channels, splines) wider than any peak."""
        # Closer where edges and tails make it bend.
        finer = np.where((self.energy > _BENT_KEV[0]) & (self.energy < _BENT_KEV[1]), 1.5, 1.0)
        steps = np.concatenate([[0.0], np.cumsum(self.width * finer[1:] / detector.fwhm(self.energy[1:]))])
        n = max(2, round(float(steps[-1]) / _KNOTS_FWHM))
        inner = np.linspace(0.0, steps[-1], n + 1)
        knots = np.concatenate([[0.0] * 3, inner, [steps[-1]] * 3])
        splines = BSpline.design_matrix(np.clip(steps, 0, steps[-1]), knots, 3).toarray()
        shape = self._bremsstrahlung(detector, beam=beam)
        return np.asarray(splines * (shape / shape.max())[:, None])

    def absorbed(self, detector: Detector, *, beam: float, element: str) -> Array:
        """Return continua (channels, 3) that left ``element``: of harder X-rays, of soft ones, of soft ones its oxide.

        Splines cannot follow steps at edges. What is seen of several elements is close to a sum of such continua, but
        not where the edges of two lie side by side, as those of tin and oxygen. Soft X-rays come from so much less deep
        that how many there are does not follow from the harder ones.
        """
        energy = np.maximum(self.true(detector), 0.05)
        number = schema.PERIODIC_TABLE.index(element) + 1
        # C to F are never alone, and one by one the steps of their edges would take the place of their lines.
        pure = absorption(element, energy) if number > 9 else np.zeros(len(energy))
        # Three atoms of oxygen for two: an atom weighs some 2.2 Z.
        oxygen = 24 / (24 + 2.2 * number) if number > 9 else 0.0
        h = 1.2 * 2.2 / number
        soft = 1 / (1 + (np.maximum(self.energy, 0.0) / _SOFT_CONTINUUM_KEV) ** 4)
        alone, oxide = (
            self._bremsstrahlung(detector, beam=beam, coefficient=coefficient, h=h)
            for coefficient in (pure, oxygen * absorption("O", energy) + (1 - oxygen) * pure)
        )
        columns = np.stack([alone * (1 - soft), alone * soft, oxide * soft], axis=1)
        return np.asarray(columns / columns.sum(axis=0))

    def _bremsstrahlung(
        self, detector: Detector, *, beam: float, coefficient: Array | float = 0.0, h: float = 0.0
    ) -> Array:
        """Return the shape (channels,) of a continuum that left what absorbs by ``coefficient`` (channels, cm2/g).

        Philibert (1963), Proc. 3rd Int. Symp. X-ray Optics and X-ray Microanalysis, 379.
        """
        energy = np.maximum(self.true(detector), 0.05)
        shape = np.maximum(beam - energy, 0.0) / energy * np.exp(-sum(t * absorption(e, energy) for e, t in _WINDOW))
        sigma = 4.5e5 / np.maximum(beam**1.65 - energy**1.65, 1.0)
        way = _LONG_WAY * coefficient / sigma
        shape = shape / ((1 + way) * (1 + h / (1 + h) * way))
        return np.asarray(gaussian_filter1d(shape, float(detector.sigma(1.0)) / self.width, mode="nearest"))

    def artefacts(self, counts: Array, detector: Detector) -> Array:
        """Return what a detector makes of a spectrum ``counts`` (channels, 7), each as strong as it can be expected.

        Silicon escape peaks; pulses that arrived together, of any energy and with one below 1 keV (which pile-up
        rejection misses most), 1 % of all, counted whole and with 60 eV of the second pulse lost; tails of pulses that
        lost charge, 5 %, and 20 % below 1 keV.
        """
        energy = self.true(detector)
        # Reed & Ware (1972), fitted: 1.5 % above the edge, 0.1 % at iron.
        share = np.where(energy > _SILICON_EDGE_KEV, 0.015 * (_SILICON_EDGE_KEV / np.maximum(energy, 0.1)) ** 2, 0.0)
        escape = np.interp(energy, energy - _SILICON_KA_KEV, share * counts, left=0.0, right=0.0)
        total = max(float(counts.sum()), 1.0)
        soft = np.where(energy < 1.0, counts, 0.0)
        # Channel i + j of the convolution lies at the sum of two energies of the axis.
        place = 2 * energy[0] + (energy[1] - energy[0]) * np.arange(2 * len(counts) - 1)
        pairs = [0.01 * np.convolve(one, counts) / total for one in (counts, soft)]
        sums = [
            np.interp(energy, place - late, both, left=0.0, right=0.0) for late in (0.0, _LATE_KEV) for both in pairs
        ]
        lost = _TAIL_KEV / self.width
        fall = np.exp(-np.arange(1, math.ceil(8 * lost)) / lost) / lost
        tails = [
            share * np.convolve(one[::-1], np.concatenate([[0.0], fall]))[: len(one)][::-1]
            for share, one in ((0.05, counts - soft), (0.2, soft))
        ]
        return np.stack([escape, *sums, *tails], axis=1)


@dataclass(frozen=True)
class Fit:
    """What explains a spectrum best.

    Attributes
    ----------
    weights
        Of every column, >= 0.
    expected
        (channels,) counts.
    deviance
        Twice the log-likelihood lost against a model that is right in every channel.
    """

    weights: Array
    expected: Array
    deviance: float


def fit_counts(columns: Array, counts: Array, *, dispersion: Array, start: Array, prior: Array) -> Fit:
    """Fit columns >= 0 to counts by maximum likelihood.

    Poisson, each channel's variance ``dispersion`` (>= 1) times what is expected there: quasi-likelihood (Wedderburn
    1974) by iteratively reweighted non-negative least squares (Lawson & Hanson 1974).

    Parameters
    ----------
    columns
        (channels, columns).
    counts, dispersion, start
        (channels,); ``start`` is what the first weights are made of.
    prior
        (columns,) standard deviation about 0 that a weight may have; infinite leaves it free.
    """
    expected = np.maximum(start, _LEAST_MU)
    penalty = np.diag(1 / prior)[np.isfinite(prior)]
    target = np.concatenate([counts, np.zeros(len(penalty))])
    size = np.maximum(columns.max(axis=0), 1e-30)
    scaled = columns / size
    before, fit = np.inf, None
    for _ in range(_ITERATIONS):
        root = 1 / np.sqrt(dispersion * expected)
        rows = np.concatenate([scaled * root[:, None], penalty / size])
        gram = rows.T @ rows
        # Channels are many and columns few: the triangle of the normal equations has the same solution.
        ridge = 1e-10 * np.diag(gram).max() * np.eye(len(gram))
        upper = np.linalg.cholesky(gram + ridge).T
        right = np.linalg.solve(upper.T, rows.T @ np.concatenate([counts * root, target[len(counts) :]]))
        weights = nnls(upper, right, maxiter=50 * len(right))[0] / size
        expected = np.maximum(columns @ weights, _LEAST_MU)
        deviance = deviance_of(counts, expected, dispersion) + float(((penalty @ weights) ** 2).sum())
        if fit is None or deviance < fit.deviance:
            fit = Fit(weights, expected, deviance)
        if abs(before - deviance) < _CONVERGED * max(1.0, deviance / 1000):
            break
        before = deviance
    assert fit is not None
    return fit


def deviance_of(counts: Array, expected: Array, dispersion: Array) -> float:
    """Return the Poisson deviance, each channel's divided by its dispersion."""
    ratio = np.where(counts > 0, counts, 1.0) / expected
    terms = np.where(counts > 0, counts * np.log(np.where(counts > 0, ratio, 1.0)), 0.0) - (counts - expected)
    return float((2 * terms / dispersion).sum())


def dispersion_of(
    counts: Array, expected: Array, *, peaks: Array, artefacts: Array, channels: Channels, detector: Detector
) -> Array:
    """Return how many times over counting noise the counts of each channel vary about a model.

    ``expected`` are all counts of the model, ``peaks`` those of lines and ``artefacts`` those that the detector adds.
    Errors of a model are alike in all channels of a peak's width. Taken as those of single channels they are larger by
    the root of their number, which makes them the same for every width of channels.
    """
    peak, far = float(detector.sigma(2.0)) / channels.width, _HALO_KEV / channels.width
    alike = np.maximum(detector.fwhm(channels.energy) / channels.width, 1.0)
    continuum = expected - peaks - artefacts
    wide = _EDGE_KEV / channels.width
    # Half way up a step a continuum is its mean, where a step that is a little off is most so.
    edges = gaussian_filter1d((continuum - gaussian_filter1d(continuum, wide, mode="nearest")) ** 2, wide)
    # An artefact far larger than what is counted would excuse itself.
    left = gaussian_filter1d(counts - peaks - continuum, peak, mode="nearest")
    error = (
        (_PEAK_ERROR * (1 + (_SOFT_KEV / channels.energy) ** 2) * gaussian_filter1d(peaks, peak, mode="nearest")) ** 2
        + (_HALO_ERROR * gaussian_filter1d(peaks, far, mode="nearest")) ** 2
        + (_ARTEFACT_ERROR * np.clip(left, 0.0, artefacts)) ** 2
        + (_CONTINUUM_ERROR * expected) ** 2
        + np.where(channels.energy > _STEEP_KEV, _EDGE_ERROR**2 * edges, 0.0)
    )
    return np.asarray(1 + alike * error / np.maximum(expected, _LEAST_MU))


def adjusted(
    detector: Detector, channels: Channels, counts: Array, fit: Fit, peaks: Array, peaks_of: Any, *, dispersion: Array
) -> Detector:
    """Return the detector whose axis and resolution fit better: one step of Gauss and Newton.

    ``peaks_of(detector)`` gives the peaks of the model, all else the same. Steps are held back by how well the file is
    trusted: 20 eV, 0.3 % and 15 % of the noise.
    """
    trials = {"offset": 1e-3, "gain": 1e-4, "noise": 2e-4}
    trust = np.array([0.02, 0.003, 2e-3])
    weight = 1 / np.sqrt(dispersion * fit.expected)
    slopes = np.stack(
        [
            (peaks_of(replace(detector, **{name: getattr(detector, name) + step})) - peaks) / step * weight
            for name, step in trials.items()
        ],
        axis=1,
    )
    now = np.array([detector.offset, detector.gain, 0.0])
    rows = np.concatenate([slopes, np.diag(1 / trust)])
    right = np.concatenate([(counts - fit.expected) * weight, -now / trust])
    step = np.clip(np.linalg.lstsq(rows, right, rcond=None)[0], -trust, trust)
    offset, gain, noise = np.array([detector.offset, detector.gain, detector.noise]) + step
    return Detector(
        noise=float(np.clip(noise, 0.02**2, 0.2**2)),
        offset=float(np.clip(offset, -0.05, 0.05)),
        gain=float(np.clip(gain, -0.01, 0.01)),
    )

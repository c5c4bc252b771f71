"""How true is a result, beside the rock that was drawn or the counts of its file?"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from scipy.linalg import subspace_angles
from scipy.optimize import linear_sum_assignment

import eds_chunked as edc
from benchmarks.contest import Quality
from benchmarks.rocks import N_PHASES, STORE, Case, n_counts
from eds_chunked import schema

Array = np.ndarray[Any, Any]


def _unit(rows: Array) -> Array:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1))


def true_spectra(case: Case, energy: Array | None = None) -> Array:
    """Return the spectra of the phases (phases, channels), in all channels or those of the given energies (keV)."""
    rock = case.rock()
    first, last = 0, case.shape[2]
    if energy is not None:
        first = round((float(energy[0]) - rock.header.energy_offset) / rock.header.energy_scale)
        last = first + len(energy)
    return np.asarray(rock.spectra[:N_PHASES, first:last])


def worst_angle(factors: Any, case: Case) -> Quality:
    """Match spectra (components, channels) with the true ones; the widest angle, in rad."""
    found, truth = _unit(np.asarray(factors, float)), _unit(true_spectra(case))
    table = truth @ found.T
    matched = table[linear_sum_assignment(-table)]
    return {"worst angle": float(np.arccos(np.clip(matched, -1, 1)).max())}


def subspace_angle(factors: Any, case: Case) -> Quality:
    """Return the widest angle between the span of the first components and that of the true spectra, in rad."""
    first = np.asarray(factors, float)[:N_PHASES]
    return {"subspace angle": float(subspace_angles(true_spectra(case).T, first.T).max())}


def centred_subspace_angle(factors: Any, case: Case) -> Quality:
    """Return the same of a PCA that takes the mean away: what is left of the true spectra are their differences."""
    truth = true_spectra(case)
    first = np.asarray(factors, float)[: N_PHASES - 1]
    return {"subspace angle": float(subspace_angles((truth[1:] - truth[0]).T, first.T).max())}


def pixels_right(label: Array, spectra: Array, truth: Array, case: Case) -> float:
    """Return the share of pixels with their true phase in per cent, phases matched by their spectra."""
    table = _unit(truth) @ _unit(np.asarray(spectra, float)).T
    truth_at, found_at = linear_sum_assignment(-table)
    name = np.zeros(256, np.uint8)  # Unassigned and mixed pixels are wrong.
    name[found_at + 1] = truth_at + 1
    return float(100 * np.mean(name[label] == case.label()))


def phases_right(masks_and_label: tuple[Array, Array], case: Case) -> Quality:
    """Judge masks beside scikit-image's of the whole map, and labels beside the truth."""
    from benchmarks.peers import whole_map_masks

    masks, label = masks_and_label
    nmf = edc.load(case.path(STORE), f"{schema.NMF}/k{N_PHASES}")
    differ = int(np.count_nonzero(masks != whole_map_masks(nmf[schema.LOADINGS].values)))
    right = pixels_right(label, nmf[schema.FACTORS].values, true_spectra(case), case)
    return {"mask pixels unlike scikit-image's": differ, "pixels right %": right}


def counts_kept(spectra: Any, case: Case, label: Array) -> Quality:
    """Compare summed spectra (labels, channels) with the counts of the labelled pixels in the map's survey."""
    total = edc.open(case.path(STORE))[schema.TOTAL_COUNTS].values
    return {"counts off": float(abs(np.asarray(spectra, float).sum() - float(total[label].sum(dtype=np.uint64))))}


def all_counts(spectrum: Any, case: Case) -> Quality:
    """Compare a sum over the whole map with what was drawn."""
    return {"counts off": abs(float(np.asarray(spectrum, float).sum()) - n_counts(case))}


def grains_found(n: int, case: Case) -> Quality:
    """Tell how many grains were found, and how many the rock shows: neighbours may be of one phase."""
    return {"grains": n, "grains drawn": case.drawn_grains()}


def whole_run(results: dict[str, xr.Dataset], case: Case) -> Quality:
    """Judge what a whole run left in its store."""
    nmf, phases = results[schema.NMF], results[schema.PHASES]
    truth = true_spectra(case, nmf[schema.ENERGY].values)
    right = pixels_right(phases[schema.LABEL].values, nmf[schema.FACTORS].values, truth, case)
    return {"phases": nmf.sizes[schema.COMPONENT], "pixels right %": right}

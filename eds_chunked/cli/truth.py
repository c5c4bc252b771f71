"""How well the phases that were found are those of a synthetic rock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy.optimize import linear_sum_assignment

from eds_chunked import schema
from eds_chunked.synthetic import Rock

_ROWS = 64


@dataclass(frozen=True)
class FoundMineral:
    """A mineral of the rock and the phase that matches it best; 0 where none was left for it."""

    mineral: str
    phase: int
    cosine: float
    true_percent: float
    found_percent: float
    right_percent: float


@dataclass(frozen=True)
class Agreement:
    """Found against true: a row a mineral, and the share of all pixels (and of the labelled ones) that are right."""

    minerals: tuple[FoundMineral, ...]
    accuracy_percent: float
    accuracy_of_labelled_percent: float


def compare_with_truth(rock: Rock, *, nmf: xr.Dataset, phases: xr.Dataset) -> Agreement:
    """Match components with minerals one to one, by the largest sum of cosines, and count pixels that are right.

    Parameters
    ----------
    rock
        Where the map came from.
    nmf, phases
        Results of the map, phase i made from component i.
    """
    energies = nmf[schema.ENERGY].values
    channels = np.rint((energies - rock.header.energy_offset) / rock.header.energy_scale).astype(int)
    cosines = _directions(rock.spectra[:, channels]) @ _directions(nmf[schema.FACTORS].values).T
    phase_of = np.zeros(len(cosines), dtype=int)
    minerals, components = linear_sum_assignment(-cosines)
    phase_of[minerals] = phases[schema.PHASE].values[components]

    table = _cross_table(rock, phases[schema.LABEL].values)
    right = np.array([table[i + 1, phase] if phase else 0 for i, phase in enumerate(phase_of)])
    true = table[1 : len(cosines) + 1].sum(axis=1)
    found = table.sum(axis=0)
    n_labelled = found.sum() - found[schema.UNASSIGNED] - found[schema.MIXED]
    return Agreement(
        tuple(
            FoundMineral(
                mineral=name,
                phase=int(phase),
                cosine=float(cosines[i, components[list(minerals).index(i)]]) if phase else 0.0,
                true_percent=100 * float(true[i] / table.sum()),
                found_percent=100 * float(found[phase] / table.sum()) if phase else 0.0,
                right_percent=100 * float(right[i] / max(1, true[i])),
            )
            for i, (name, phase) in enumerate(zip(rock.phase_names, phase_of, strict=True))
        ),
        accuracy_percent=100 * float(right.sum() / table.sum()),
        accuracy_of_labelled_percent=100 * float(right.sum() / max(1, n_labelled)),
    )


def _directions(spectra: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    lengths = np.linalg.norm(spectra, axis=1, keepdims=True)
    unit: np.ndarray[Any, Any] = spectra / np.where(lengths > 0, lengths, 1)
    return unit


def _cross_table(rock: Rock, label: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Count pixels by true phase (rows) and found label (columns)."""
    n_labels = schema.MIXED + 1
    table = np.zeros(n_labels * n_labels, dtype=np.int64)
    for y0 in range(0, len(label), _ROWS):
        found = label[y0 : y0 + _ROWS]
        true = rock.labels(y0, y0 + len(found)).astype(np.int64)
        table += np.bincount((true * n_labels + found).ravel(), minlength=table.size)
    return table.reshape(n_labels, n_labels)

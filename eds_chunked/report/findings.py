"""What a store has to report: its newest results, and the small tables that are computed from them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import pandas as pd
import xarray as xr

from eds_chunked import schema
from eds_chunked.engine.binning import rebin
from eds_chunked.errors import EdsError, MissingResultError
from eds_chunked.grains.statistics import FewGrainsWarning, compare_phases
from eds_chunked.grains.usable import FEWEST_GRAINS
from eds_chunked.phases.contacts import Association, association
from eds_chunked.phases.elements import FOUND, identify_elements
from eds_chunked.phases.modal import modal_table
from eds_chunked.phases.naming import MERGES
from eds_chunked.store.backend import Location
from eds_chunked.store.opening import check_store, open_map
from eds_chunked.store.results import load


class Findings:
    """The newest results of a store, each opened when it is asked for; None where there is none."""

    def __init__(self, store: Location) -> None:
        check_store(store)
        self.store = store

    def result(self, step: str) -> xr.Dataset | None:
        """Return the last result of a step, or None if there is none yet."""
        try:
            return load(self.store, step)
        except MissingResultError:
            return None

    def parent_of(self, result: xr.Dataset, otherwise: xr.Dataset | None) -> xr.Dataset | None:
        """Return what a result was made from, which need not be the newest of its step."""
        return load(self.store, result.attrs[schema.PARENT]) if schema.PARENT in result.attrs else otherwise

    @cached_property
    def map(self) -> xr.Dataset:
        """The map."""
        return open_map(self.store)

    @cached_property
    def title(self) -> str:
        """Title of the map on one line."""
        return schema.text(self.map.attrs.get(schema.TITLE, ""))

    @cached_property
    def pca(self) -> xr.Dataset | None:
        """The newest PCA."""
        return self.result(schema.PCA)

    @cached_property
    def nmf(self) -> xr.Dataset | None:
        """The newest NMF."""
        return self.result(schema.NMF)

    @cached_property
    def model(self) -> xr.Dataset | None:
        """The newest comparison with a low-rank model."""
        return self.result(schema.MODEL)

    @cached_property
    def phases(self) -> xr.Dataset | None:
        """The newest phases."""
        return self.result(schema.PHASES)

    @cached_property
    def grains(self) -> xr.Dataset | None:
        """The newest grains."""
        return self.result(schema.GRAINS)

    @cached_property
    def spectra(self) -> xr.Dataset | None:
        """The newest phase spectra; elements that were found count among those whose lines are labelled."""
        spectra = self.result(schema.SPECTRA)
        if spectra is None:
            return None
        if self.elements is None:
            return spectra
        stated = [str(element) for element in spectra.attrs.get(schema.ELEMENTS, ())]
        found = self.elements.loc[self.elements["decision"] == FOUND, "element"].tolist()
        return spectra.assign_attrs({schema.ELEMENTS: list(dict.fromkeys([*stated, *found]))})

    @cached_property
    def cut(self) -> tuple[xr.Dataset, xr.Dataset, dict[int, int]] | None:
        """Loadings, the phases that thresholds made of them, and the number that each phase has now.

        None where there are no thresholds, as of clusters.
        """
        phases, phase_of = self.phases, None
        # Thresholds are those of the phases before they were merged.
        while phases is not None and MERGES in phases.attrs.get(schema.PARAMETERS, {}):
            before = self.parent_of(phases, None)
            if before is None:
                return None
            now = _numbers_after(phases.attrs[schema.PARAMETERS][MERGES], before.sizes[schema.PHASE])
            phase_of = now if phase_of is None else {old: phase_of[new] for old, new in now.items()}
            phases = before
        if phases is None or schema.THRESHOLD not in phases:
            return None
        source = self.parent_of(phases, self.nmf)
        if source is None or schema.LOADINGS not in source:
            return None
        return source, phases, phase_of or {}

    @cached_property
    def modal(self) -> pd.DataFrame | None:
        """The modal table."""
        return None if self.phases is None else modal_table(self.phases)

    @cached_property
    def association(self) -> Association | None:
        """Which phases touch."""
        return None if self.phases is None else association(self.phases)

    @cached_property
    def sizes(self) -> pd.DataFrame | None:
        """Grain sizes of all phases, a row a phase."""
        return None if self.grains is None else compare_phases(self.grains)

    @property
    def phases_with_sizes(self) -> list[int]:
        """Phases with grains enough for statistics."""
        if self.sizes is None:
            return []
        return [int(number) for number in self.sizes.loc[self.sizes["n_used"] >= FEWEST_GRAINS, schema.PHASE]]

    @cached_property
    def _elements(self) -> tuple[pd.DataFrame | None, str]:
        spectra = self.result(schema.SPECTRA)
        if spectra is None:
            return None, ""
        try:
            return identify_elements(spectra), ""
        except EdsError as error:
            # No energy axis, no beam energy: a map has its phases all the same.
            return None, str(error)

    @property
    def elements(self) -> pd.DataFrame | None:
        """The evidence for elements in the phase spectra, or None."""
        return self._elements[0]

    @property
    def why_no_elements(self) -> str:
        """Why elements could not be looked for; empty where they were, or where there are no spectra."""
        return self._elements[1]

    @cached_property
    def counted(self) -> xr.Dataset | None:
        """Total counts of the pixels of the grains, in their bins and of their region; None where they do not fit."""
        if self.grains is None:
            return None
        down, across, _ = self.grains.attrs.get(schema.REBIN, (1, 1, 1))
        ds = self.map
        if (down, across) != (1, 1):
            ds = rebin(ds, y=int(down), x=int(across))
        own = {axis: self.grains[axis] for axis in (schema.Y, schema.X)}
        counts = ds[[schema.TOTAL_COUNTS]].sel(own, method="nearest")
        half = [abs(size) / 2 for size in schema.pixel_size(self.grains)[:2]]
        apart = [np.abs(counts[axis].values - own[axis].values).max() for axis in own]
        return counts.assign_attrs(ds.attrs) if all(a < h for a, h in zip(apart, half, strict=True)) else None


def word(result: xr.Dataset, number: int) -> str:
    """Return what a phase is called in words: its name, else ``phase 3``."""
    return schema.phase_name(result.attrs, number, f"phase {number}")


@contextmanager
def few_grains_are_listed() -> Iterator[None]:
    """Keep a phase with few grains from warning of it for every figure and table: the report lists it once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewGrainsWarning)
        yield


def _numbers_after(merges: dict[str, list[int]], n_before: int) -> dict[int, int]:
    """Return the number that each phase has after a merge: that of the first of its members, counted anew."""
    first = {int(number): min(map(int, members)) for members in merges.values() for number in members}
    group = [first.get(number, number) for number in range(1, n_before + 1)]
    kept = sorted(set(group))
    return {number: kept.index(own) + 1 for number, own in enumerate(group, start=1)}

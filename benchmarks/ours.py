"""Our steps, as a user calls them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import eds_chunked as edc
from benchmarks import quality
from benchmarks.contest import OURS, Contestant, Quality, Run
from benchmarks.rocks import N_PHASES, RAW, STORE, Case
from eds_chunked import schema, workflow

Array = np.ndarray[Any, Any]

DRAW, CONVERT, SURVEY, RUN = "draw", "convert", "sum spectrum", "run"
NMF_FROBENIUS, NMF_POISSON = "nmf, blockwise frobenius", "nmf, blockwise poisson"
GRAIN_SPECTRA, SIZES_OF_GRAINS, RESIDUAL, REPORT = "grain spectra", "sizes", "residual", "report"
N_COMPONENTS = 20

PUBLISHED = {"arithmetic mean": 22.130, "geometric mean": 20.438, "median": 20.317}
"""What GrainSizeTools publishes of its made sample, in um, beside which ours is judged."""


def _map(case: Case) -> xr.Dataset:
    return edc.open(case.path(STORE))


def _apart_from_the_store(ds: xr.Dataset) -> xr.Dataset:
    """Have results go to a scratch store: the rock is used again."""
    ds.encoding.pop("source", None)
    return ds


def result(case: Case, step: str) -> xr.Dataset:
    """Open the saved result of a step."""
    return edc.load(case.path(STORE), f"{step}/k{N_PHASES}")


def label_of(case: Case) -> Array:
    """Return the exclusive phase of every pixel as the store has it (rows, columns), 1..4, all else 0."""
    label = np.asarray(result(case, schema.PHASES)[schema.LABEL])
    return np.where(label <= N_PHASES, label, 0).astype(np.uint8)


def grain_label_of(case: Case) -> Array:
    """Return the grain of every pixel as the store has it (rows, columns), 0 for none."""
    return np.asarray(result(case, schema.GRAINS)[schema.GRAIN_LABEL])


def _made(case: Case, name: str) -> Path:
    """Return where a step writes, empty."""
    path = case.path(STORE).with_name(f"made-{name}-{case.path(STORE).name}")
    for old in (path, workflow.results_folder(path)):
        shutil.rmtree(old, ignore_errors=True)
    return path


# ------------------------------------------------------------------------------------------------ steps
def _draw(case: Case) -> Run:
    """Make the counts and drop them: what reading costs where the source is the rock itself."""

    def run() -> None:
        for band in case.rock().bands(64):
            del band

    return run


def _convert(case: Case) -> Run:
    target = _made(case, CONVERT)
    return lambda: edc.convert(case.path(RAW), target, memory=case.memory, overwrite=True)


def _survey(case: Case) -> Run:
    return lambda: edc.open(case.path(STORE))[[schema.SUM_SPECTRUM, schema.MAX_SPECTRUM_PIXEL]].load()


def _judge_survey(case: Case, found: xr.Dataset) -> Quality:
    rare = case.rock().rare_pixel
    owners = np.unique(found[schema.MAX_SPECTRUM_PIXEL].values.reshape(case.shape[2], -1), axis=0)
    channels = float(any(tuple(pixel) == rare for pixel in owners))
    return quality.all_counts(found[schema.SUM_SPECTRUM], case) | {"one-pixel mineral found": channels}


def _pca(case: Case) -> Run:
    ds = _apart_from_the_store(_map(case))
    return lambda: edc.pca(ds, n_components=N_COMPONENTS, memory=case.memory)


def _nmf(**how: Any) -> Callable[[Case], Run]:
    def prepare(case: Case) -> Run:
        ds = _apart_from_the_store(_map(case))
        return lambda: edc.nmf(ds, n_components=N_PHASES, memory=case.memory, **how)

    return prepare


def _phases(case: Case) -> Run:
    nmf = _apart_from_the_store(result(case, schema.NMF))
    return lambda: edc.segment_phases(nmf, memory=case.memory)


def _judge_phases(case: Case, found: xr.Dataset) -> Quality:
    return quality.phases_right((found[schema.MASK].values, found[schema.LABEL].values), case)


def _spectra(case: Case) -> Run:
    ds, phases = _apart_from_the_store(_map(case)), result(case, schema.PHASES)
    return lambda: edc.phase_spectra(ds, phases=phases, source=schema.LABEL, memory=case.memory)


def _judge_spectra(case: Case, found: xr.Dataset) -> Quality:
    spectra = found[schema.SPECTRUM]
    return quality.counts_kept(spectra, case, label_of(case) > 0) | quality.worst_angle(spectra, case)


def _grains(case: Case) -> Run:
    ds, phases = _apart_from_the_store(_map(case)), _apart_from_the_store(result(case, schema.PHASES))
    return lambda: edc.separate_grains(phases, ds=ds, memory=case.memory)


def _grain_spectra(case: Case) -> Run:
    ds, grains = _apart_from_the_store(_map(case)), result(case, schema.GRAINS)
    return lambda: edc.grain_spectra(ds, grains=grains, memory=case.memory)


def _judge_grain_spectra(case: Case, found: xr.Dataset) -> Quality:
    table = found[schema.GRAIN_SPECTRUM]
    return quality.counts_kept(table.sum(schema.GRAIN, dtype=np.uint64), case, grain_label_of(case) > 0)


def _sizes(case: Case) -> Run:
    sample = np.random.RandomState(1).lognormal(np.log(20), np.log(1.5), 500)
    return lambda: edc.grain_size_statistics(sample)


def _judge_sizes(case: Case, found: Any) -> Quality:
    ours = {name: getattr(found, name.replace(" ", "_")) for name in PUBLISHED}
    return {"off the published, most": max(abs(ours[name] - value) for name, value in PUBLISHED.items())}


def _residual(case: Case) -> Run:
    ds, nmf = _apart_from_the_store(_map(case)), result(case, schema.NMF)
    return lambda: edc.residual(ds, nmf, memory=case.memory).load()


def _report(case: Case) -> Run:
    target = case.path(STORE).with_name("made-report")
    return lambda: workflow.report_step(case.path(STORE), target, memory=case.memory)


def _run(case: Case) -> Run:
    target = _made(case, RUN)
    return lambda: workflow.run(case.path(RAW), target, memory=case.memory, overwrite=True)


def _judge_run(case: Case, found: workflow.RunSummary) -> Quality:
    return quality.whole_run({step: edc.load(found.store, step) for step in (schema.NMF, schema.PHASES)}, case)


def _factors(judge: Callable[[Any, Case], Quality]) -> Callable[[Case, xr.Dataset], Quality]:
    return lambda case, found: judge(found[schema.FACTORS], case)


STEPS = (
    Contestant(DRAW, OURS, _draw, "the synthetic rock's counts, made and dropped", needs=()),
    Contestant(
        CONVERT,
        OURS,
        _convert,
        "convert(.rpl)",
        lambda case, found: quality.all_counts(found[schema.SUM_SPECTRUM], case),
        needs=(RAW,),
    ),
    Contestant(SURVEY, OURS, _survey, "open: the survey of the conversion", _judge_survey, needs=(STORE, RAW)),
    Contestant(schema.PCA, OURS, _pca, f"pca(n_components={N_COMPONENTS})", _factors(quality.subspace_angle)),
    Contestant(schema.NMF, OURS, _nmf(), f"nmf(n_components={N_PHASES})", _factors(quality.worst_angle)),
    Contestant(
        NMF_FROBENIUS,
        OURS,
        _nmf(solver="blockwise", loss="frobenius"),
        'nmf(solver="blockwise", loss="frobenius")',
        _factors(quality.worst_angle),
    ),
    Contestant(
        NMF_POISSON,
        OURS,
        _nmf(solver="blockwise", loss="poisson"),
        'nmf(solver="blockwise", loss="poisson")',
        _factors(quality.worst_angle),
    ),
    Contestant(schema.PHASES, OURS, _phases, "segment_phases(nmf)", _judge_phases),
    Contestant(schema.SPECTRA, OURS, _spectra, 'phase_spectra(phases, source="label")', _judge_spectra),
    Contestant(
        schema.GRAINS,
        OURS,
        _grains,
        "separate_grains(phases), with its table",
        lambda case, found: quality.grains_found(found.sizes[schema.GRAIN], case),
    ),
    Contestant(GRAIN_SPECTRA, OURS, _grain_spectra, "grain_spectra(grains)", _judge_grain_spectra),
    Contestant(
        SIZES_OF_GRAINS,
        OURS,
        _sizes,
        "grain_size_statistics(500 diameters), beside GrainSizeTools' figures of them",
        _judge_sizes,
        needs=(),
    ),
    Contestant(
        RESIDUAL,
        OURS,
        _residual,
        "residual(nmf)",
        lambda case, found: {"mean chi-square": float(found[schema.CHI_SQUARE].mean())},
    ),
    Contestant(REPORT, OURS, _report, "report: pictures, tables and the page of the store"),
    Contestant(RUN, OURS, _run, "run(.rpl): everything, from file to report", _judge_run, needs=(RAW,)),
)

"""Processes that read one store while another one makes a result in it again; for test_soak.

Usage: python -m tests.shared_store FOLDER READERS RUNS

Prints a line of JSON a reader: how often it looked, which revisions of the PCA it met, and what was wrong. Processes
are forked, so that the libraries are imported once.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from eds_chunked import schema, workflow
from eds_chunked.cli import main as cli
from eds_chunked.phases.sums import phase_spectra
from eds_chunked.store.conversion import convert
from eds_chunked.store.opening import open_map
from eds_chunked.store.results import load
from tests.made_maps import MadeReader, made_counts

COUNTS = made_counts((71, 101, 61))
WINDOW = slice(0.05, 0.4)
KEPT = (schema.LOADINGS, schema.FACTORS, schema.EIGENVALUES)


def in_a_process(work):
    """Fork, and return the number of the process."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return pid


def code_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def make(store, expected):
    convert(MadeReader(COUNTS), store)
    pca(store)
    workflow.phases_step(store, parent=workflow.nmf_step(store, n_components=2, solver="minibatch"), min_size=1)
    found = load(store, schema.PCA)
    np.savez(expected, **{name: found[name].values for name in KEPT})


def pca(store):
    workflow.pca_step(store, n_components=3, memory="4GB")


def write(store, runs, end):
    try:
        for _ in range(runs):
            pca(store)
    finally:
        end.touch()


def read(store, expected, end, number):
    looks, met, wrong = 0, set(), []
    right = np.load(expected)
    last = False
    while not last:
        last = end.exists()  # and once more after the end
        looks += 1
        found = load(store, schema.PCA)
        met.add(found.attrs[schema.REVISION])
        wrong += [name for name in KEPT if not np.array_equal(found[name].values, right[name])]
        if (looks + number) % 3 == 0:
            ds, phases = open_map(store).sel(energy=WINDOW), load(store, schema.PHASES)
            label, channels = phases[schema.LABEL].values, np.isin(open_map(store)[schema.ENERGY], ds[schema.ENERGY])
            sums = phase_spectra(ds, phases=phases, memory="4GB")[schema.SPECTRUM].values
            counted = [COUNTS[label == phase][:, channels].sum(axis=0, dtype=np.uint64) for phase in (1, 2)]
            wrong += [] if np.array_equal(sums, counted) else ["spectra"]
        if (looks + number) % 3 == 1:
            told = CliRunner().invoke(cli, ["info", store, "--json"])
            results = json.loads(told.stdout)["results"]
            wrong += [result["address"] for result in results if result["stale"] and result["address"][:3] == "pca"]
            met |= {int(result["address"].rpartition(".r")[2]) for result in results if result["address"][:3] == "pca"}
    sys.stdout.write(json.dumps({"looks": looks, "met": sorted(met), "wrong": wrong}) + "\n")


def main():
    folder, readers, runs = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    store, expected, end = str(folder / "map.zarr"), folder / "expected.npz", folder / "end"
    # Nothing has run in this process before it forks: threads do not come along.
    codes = [code_of(in_a_process(lambda: make(store, expected)))]
    pids = [in_a_process(lambda number=number: read(store, expected, end, number)) for number in range(readers)]
    pids.append(in_a_process(lambda: write(store, runs, end)))
    codes += [code_of(pid) for pid in pids]
    sys.exit(any(codes))


if __name__ == "__main__":
    main()

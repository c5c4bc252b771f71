"""A run through convert, pca, nmf, phases and spectra under a budget; prints what it took as JSON.

Started as a process of its own by the memory tests: a peak belongs to a process.
"""

import json
import sys
from time import perf_counter

import eds_chunked as edc
from eds_chunked import memory

MB = 10**6


def main(folder: str, height: int, width: int, counts: float, budget: str) -> None:
    store = f"{folder}/map.zarr"
    memory.return_freed_memory_to_the_system()
    laps, last = {}, perf_counter()

    def lap(step: str) -> None:
        nonlocal last
        now = perf_counter()
        laps[step], last = (round(now - last, 2), memory.peak_resident() // MB), now
        print(step, *laps[step], file=sys.stderr, flush=True)

    rock = edc.synthetic.rock((height, width, 2048), counts_per_pixel=counts, n_phases=4)
    ds = edc.convert(rock, store, memory=budget)
    lap("convert")
    window = ds.sel(energy=slice(0.2, None))
    edc.save(edc.pca(window, n_components=20, memory=budget), store)
    lap("pca")
    nmf = edc.nmf(window, n_components=4, memory=budget)
    edc.save(nmf, store)
    lap("nmf")
    phases = edc.segment_phases(nmf)
    edc.save(phases, store)
    lap("phases")
    edc.save(edc.phase_spectra(ds, phases=phases, memory=budget), store)
    lap("spectra")
    print(json.dumps({"peak_bytes": memory.peak_resident(), "dense_bytes": ds.counts.nbytes, "laps": laps}))


if __name__ == "__main__":
    folder, height, width, counts, budget = sys.argv[1:]
    main(folder, int(height), int(width), float(counts), budget)

"""The whole workflow again and again in one process; for test_soak.

Usage: python -m tests.soak FOLDER ROUNDS [PICTURES]

Prints a line of JSON a round: resident bytes, open files, threads, objects that Python keeps track of, scratch files
and processor time, each as it is after the round. PICTURES limits the pictures of the report, which take most of the
time.
"""

import gc
import json
import os
import shutil
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import psutil

from eds_chunked import memory, workflow
from eds_chunked.report import assemble
from eds_chunked.synthetic import rock


def sample(scratch):
    process = psutil.Process()
    gc.collect()
    memory.release()
    return {
        "resident": process.memory_info().rss,
        "files": process.num_fds(),
        "threads": process.num_threads(),
        "objects": len(gc.get_objects()),
        "scratch": len(os.listdir(scratch)),
        "seconds": time.process_time(),
    }


def main():
    folder, rounds, *pictures = sys.argv[1:]
    scratch = Path(folder, "scratch")
    scratch.mkdir()
    tempfile.tempdir = str(scratch)
    if pictures:
        every = assemble.pictures
        assemble.pictures = lambda found: islice(every(found), int(pictures[0]))
    true = rock((23, 31, 128), counts_per_pixel=200, n_phases=2, seed=1)
    for number in range(int(rounds)):
        # A place of its own: what is remembered of a store by its name must be forgotten, too.
        place = Path(folder, f"round-{number}")
        workflow.run(true, place / "map.zarr", folder=place / "results", n_phases=2, n_components=3)
        shutil.rmtree(place)
        sys.stdout.write(json.dumps(sample(scratch)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

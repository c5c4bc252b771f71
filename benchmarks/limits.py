"""What the machine can do at best: reading the bytes of the store, copying those of the map, multiplying its pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from scipy.linalg.blas import sgemm

import eds_chunked as edc
from benchmarks.contest import LIMIT, Contestant, Run
from benchmarks.machine import THREADS
from benchmarks.rocks import STORE, Case
from eds_chunked import schema

Array = np.ndarray[Any, Any]

READ, COPY, GEMM, SYRK = "read the store", "copy the dense map", "gemm", "syrk"
_DENSE_ROWS = 16384
"""Pixels of a dense block: 134 MB at 2048 channels. Smaller ones are slower a pixel."""
_COPIED = 2**26


def _read(case: Case) -> Run:
    """Read every file of the counts, on as many threads as the steps have."""
    files = sorted(file for file in (case.path(STORE) / schema.MAP_GROUP).rglob("*") if file.is_file())

    def run() -> int:
        with ThreadPoolExecutor(THREADS) as pool:
            return sum(pool.map(lambda file: len(file.read_bytes()), files))

    return run


def _copy(case: Case) -> Run:
    """Copy a touched block so often that it stands for the dense map, on one thread."""
    n_bytes = math.prod(case.shape) * case.rock().header.dtype.itemsize
    source, target = np.ones(_COPIED, np.uint8), np.zeros(_COPIED, np.uint8)

    def run() -> None:
        for first in range(0, n_bytes, _COPIED):
            np.copyto(target[: n_bytes - first], source[: n_bytes - first])

    return run


def _dense_block(case: Case) -> Array:
    """Return the first pixels of the map, dense."""
    rows = math.ceil(_DENSE_ROWS / case.shape[1])
    counts = edc.open(case.path(STORE)).isel({schema.Y: slice(0, rows)})[schema.COUNTS]
    return np.asarray(counts).reshape(-1, case.shape[2])[:_DENSE_ROWS].astype(np.float32)


def over_all_pixels(n_pixels: int, block: Array, multiply: Callable[[Array], object]) -> Run:
    """Return what multiplies the block so often that it stands for all pixels."""

    def run() -> None:
        for first in range(0, n_pixels, len(block)):
            multiply(block[: n_pixels - first])

    return run


def add_product(X: Array, total: Array) -> None:
    """Add X.T @ X to a float32 matrix in Fortran's order, by BLAS's general product."""
    # The transposes are columns in memory, as Fortran wants them: nothing is copied.
    sgemm(1.0, X.T, X.T, beta=1.0, c=total, trans_b=True, overwrite_c=True)


def _gemm(case: Case) -> Run:
    total = np.zeros((case.shape[2], case.shape[2]), np.float32, order="F")
    return over_all_pixels(case.pixels, _dense_block(case), lambda X: add_product(X, total))


def _syrk(case: Case) -> Run:
    """NumPy's X.T @ X, which sees that both are the same array and takes half of the products (BLAS syrk)."""
    product = np.zeros((case.shape[2], case.shape[2]), np.float32)
    return over_all_pixels(case.pixels, _dense_block(case), lambda X: np.matmul(X.T, X, out=product))


LIMITS = (
    Contestant(READ, LIMIT, _read, "all files of the counts, from the page cache once warm, two threads"),
    Contestant(COPY, LIMIT, _copy, "as many bytes as the dense map, between two touched blocks, one thread"),
    Contestant(GEMM, LIMIT, _gemm, "X.T @ X of all pixels, dense float32, by BLAS's general product"),
    Contestant(SYRK, LIMIT, _syrk, "the same as NumPy does it, with half of the products"),
)

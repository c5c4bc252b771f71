"""A space of vectors that grows towards the leading eigenvectors of a matrix that is only ever multiplied by."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg

Array = np.ndarray[Any, Any]

MOST_PASSES = 40

SIGNAL_CHANGE, NOISE_CHANGE = 4e-7, 5e-3
"""Change of an eigenvalue from one pass to the next at which it stands still, as a share of it.

The error shrinks to two thirds a pass or less, so what is left is at most twice the change: under 1e-6 and 2 %.
"""


class UnsettledComponentsWarning(UserWarning):
    """Components of a randomized PCA still moved when its passes were used up."""


class Space(NamedTuple):
    """Orthonormal vectors V (channels, any number), the last ``newest`` of them new, and their images G V."""

    vectors: Array
    images: Array
    newest: int
    projected: Array
    """V' G V."""

    @classmethod
    def of(cls, vectors: Array, images: Array) -> Space:
        """Make vectors orthonormal, and their images those of the new ones; what depends on others is left out."""
        left, sizes, right = np.linalg.svd(vectors, full_matrices=False)
        kept = sizes > 1e-8 * sizes[0]
        basis = left[:, kept]
        images = images @ (right[kept].T / sizes[kept])
        return cls(basis, images, basis.shape[1], _symmetric(basis.T @ images))

    def grown(self, vectors: Array, images: Array) -> Space:
        beside = self.vectors.T @ images
        projected = np.block([[self.projected, beside], [beside.T, _symmetric(vectors.T @ images)]])
        return Space(np.hstack([self.vectors, vectors]), np.hstack([self.images, images]), vectors.shape[1], projected)

    def components(self, n_components: int) -> tuple[Array, Array]:
        """Return the leading eigenvalues, falling, and vectors; where the space is smaller, zeros and what fills up."""
        values, within = np.linalg.eigh(self.projected)
        vectors = self.vectors @ within[:, ::-1][:, :n_components]
        values = values[::-1][:n_components]
        missing = n_components - len(values)
        if missing > 0:
            spare, _ = linalg.qr(self.vectors)
            vectors = np.hstack([vectors, spare[:, self.vectors.shape[1] :][:, :missing]])
            values = np.concatenate([values, np.zeros(missing)])
        return values, vectors

    def next_block(self) -> Array:
        """Return an orthonormal basis of what the newest images have beyond the space."""
        beyond = self._beyond(self.images[:, -self.newest :])
        basis, triangle, _ = linalg.qr(beyond, mode="economic", pivoting=True)
        largest = float(np.abs(self.projected).max())
        kept = np.abs(np.diagonal(triangle)) > 1e-13 * largest
        room = len(beyond) - self.vectors.shape[1]
        # Of what was nearly nothing rounding has left a part in the space.
        return np.asarray(linalg.qr(self._beyond(basis[:, kept][:, :room]), mode="economic")[0])

    def _beyond(self, block: Array) -> Array:
        for _ in range(2):
            block = block - self.vectors @ (self.vectors.T @ block)
        return block


def _symmetric(matrix: Array) -> Array:
    return (matrix + matrix.T) / 2


class Stop:
    """Tells when the leading eigenvalues stand still: those that may be signal, and the others.

    Parameters
    ----------
    n_values
        Eigenvalues that must.
    n_signal
        Says of a space, its leading eigenvalues and their last changes how many may be signal; None: all are.
    signal_change
        Change at which those stand still.
    """

    def __init__(
        self,
        n_values: int,
        n_signal: Callable[[Space, Array, Array], int] | None,
        *,
        signal_change: float = SIGNAL_CHANGE,
    ) -> None:
        self.n_values, self.n_signal, self.signal_change = n_values, n_signal, signal_change
        self.values = np.zeros(n_values)
        self.changes = np.full(n_values, np.inf)
        self.limits = np.full(n_values, signal_change)

    def reached(self, space: Space) -> bool:
        values = np.zeros(self.n_values)
        found = np.linalg.eigvalsh(space.projected)[::-1][: self.n_values]
        values[: len(found)] = np.maximum(found, 0)
        # An eigenvalue that is nothing beside the first has nothing to settle.
        self.changes = np.abs(values - self.values) / np.maximum(values, 1e-12 * values[0] or 1.0)
        self.values = values
        if self.n_signal is not None:
            signal = np.arange(self.n_values) < self.n_signal(space, values, self.changes)
            self.limits = np.where(signal, self.signal_change, NOISE_CHANGE)
        return bool((self.changes <= self.limits).all())

    def complaint(self, what: str) -> str:
        worst = int(np.argmax(self.changes / self.limits))
        return (
            f"{what} {worst + 1} still moved by {self.changes[worst]:.1e} of its variance after {MOST_PASSES} "
            f"passes, expected {self.limits[worst]:.0e} at most; for an exact answer: solver='gram'"
        )


def settled(space: Space, image_of: Callable[[Array], Array], stop: Stop, *, what: str, stacklevel: int) -> Space:
    """Let a space grow until its leading eigenvalues stand still; ``image_of`` multiplies by the matrix, in a pass.

    Block Krylov iteration: what comes out for the newest vectors, made orthogonal to all before, is the next block.
    Where the passes are used up first, a warning names the eigenvalue of ``what`` that moved most, at ``stacklevel``.
    """
    for _ in range(MOST_PASSES - 1):
        if stop.reached(space):
            return space
        newest = space.next_block()
        if newest.shape[1] == 0:
            return space  # The vectors hold all that the matrix has: the eigenvalues are exact.
        space = space.grown(newest, image_of(newest))
    if not stop.reached(space):
        warnings.warn(stop.complaint(what), UnsettledComponentsWarning, stacklevel=stacklevel)
    return space

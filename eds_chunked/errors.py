"""The errors that a user can meet.

Every error says four things in one line: what it is about, what was found, what was expected and what to do.
Each class also is the builtin that a caller would guess, so ``except ValueError`` or ``FileNotFoundError`` works.
"""

from __future__ import annotations

from errno import ENOSPC

__all__ = [
    "ChunkLayoutError",
    "ClusterError",
    "CountsError",
    "EdsError",
    "MemoryBudgetError",
    "MissingResultError",
    "ParameterError",
    "SourceError",
    "SourceNotFoundError",
    "StaleResultError",
    "StoreBusyError",
    "StoreError",
    "StoreExistsError",
    "StoreFullError",
    "StoreNotFoundError",
]


class EdsError(Exception):
    """Base of all errors raised on purpose by eds_chunked.

    Parameters
    ----------
    what
        The thing that is wrong: a parameter, a file, a variable.
    found, expected
        What was met and what would have been right.
    fix
        What to do, as a command or a call where there is one.
    """

    def __init__(self, what: str, *, found: object, expected: object, fix: str) -> None:
        self.what, self.found, self.expected, self.fix = what, found, expected, fix
        super().__init__(f"{what}: found {found}, expected {expected}. Fix: {fix}")

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling, and errors do travel from workers.
        return _rebuild, (type(self), self.what, str(self.found), str(self.expected), self.fix)


def _rebuild(cls: type[EdsError], what: str, found: str, expected: str, fix: str) -> EdsError:
    return cls(what, found=found, expected=expected, fix=fix)


class ParameterError(EdsError, ValueError):
    """A parameter has a value that cannot work."""


class ChunkLayoutError(EdsError, ValueError):
    """An array has dimensions or chunks that the function cannot take."""


class CountsError(EdsError, ValueError):
    """The counts are not counts: negative, fractional, NaN, or all zero."""


class SourceError(EdsError, ValueError):
    """A microscope file cannot be read: unknown format, damaged, truncated or ambiguous."""


class SourceNotFoundError(EdsError, FileNotFoundError):
    """There is no such microscope file."""


class StoreError(EdsError, ValueError):
    """A Zarr store is not one of ours, is incomplete or damaged."""


class StoreNotFoundError(EdsError, FileNotFoundError):
    """There is no such store."""


class StoreExistsError(EdsError, FileExistsError):
    """The store exists already and was not to be replaced."""


class StoreBusyError(EdsError, BlockingIOError):
    """Another process is writing into the store."""


class StoreFullError(EdsError, OSError):
    """The disk of the store is full; what was written before is whole, and the work can go on from there."""

    errno: int | None = ENOSPC


class MissingResultError(EdsError, LookupError):
    """A step needs the result of an earlier step, and the store has none."""


class StaleResultError(EdsError, RuntimeError):
    """A result was made from another state of the map or of its parent."""


class MemoryBudgetError(EdsError, MemoryError):
    """The work cannot be done within the memory budget."""


class ClusterError(EdsError, ConnectionError):
    """The cluster cannot do the work: nobody answers, workers are lost, or have another version."""

"""Errors say four things, are the builtins that a caller would guess, and survive the way from a worker."""

import copy
import pickle

import pytest

from eds_chunked import errors
from eds_chunked.errors import EdsError

CLASSES = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_says_what_was_found_what_was_expected_and_what_to_do(cls):
    error = cls("energy window", found=(3, 1), expected="from low to high", fix="ds.sel(energy=slice(1, 3))")
    text = "energy window: found (3, 1), expected from low to high. Fix: ds.sel(energy=slice(1, 3))"
    assert str(error) == text
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is cls
        assert str(twin) == text
        assert (twin.what, twin.found, twin.expected, twin.fix) == (
            "energy window", "(3, 1)", "from low to high", "ds.sel(energy=slice(1, 3))",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.ParameterError, ValueError),
        (errors.ChunkLayoutError, ValueError),
        (errors.CountsError, ValueError),
        (errors.SourceError, ValueError),
        (errors.SourceNotFoundError, FileNotFoundError),
        (errors.StoreError, ValueError),
        (errors.StoreNotFoundError, FileNotFoundError),
        (errors.StoreExistsError, FileExistsError),
        (errors.StoreBusyError, BlockingIOError),
        (errors.StoreFullError, OSError),
        (errors.MissingResultError, LookupError),
        (errors.StaleResultError, RuntimeError),
        (errors.MemoryBudgetError, MemoryError),
    ],
)
def test_an_error_is_the_builtin_that_a_caller_would_guess(cls, builtin):
    assert issubclass(cls, builtin)
    assert issubclass(cls, EdsError)


def test_all_errors_are_public():
    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, EdsError)}
    assert defined == set(errors.__all__)

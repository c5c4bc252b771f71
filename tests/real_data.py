"""Where the real maps are; they are not part of the project."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "shared" / "data"


def real_data(name: str) -> Path:
    """Return the path of a real data file, or skip the test that asks for it."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"real data {name} is not here (looked in ../shared/data)")
    return path

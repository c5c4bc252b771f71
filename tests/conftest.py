"""What every test can use: drawn examples by profile, and figures that are made but not rendered."""

import pytest
from hypothesis import settings
from matplotlib.figure import Figure

from eds_chunked import figures

# No deadlines: an example takes as long as the machine is busy. `make test` takes "repeatable", so that a test fails
# there because of a change, never because of the draw; pytest alone draws new examples each time.
settings.register_profile("drawn", deadline=None)
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("drawn")


@pytest.fixture
def unrendered(monkeypatch):
    """Let figures be made but not rendered, which takes a second each: for tests that look at no picture.

    That every figure can be rendered and is readable is for ``tests/test_figures.py`` and ``tests/test_report.py``.
    """
    picture = figures.png(Figure(figsize=(0.1, 0.1)))
    monkeypatch.setattr(figures, "png", lambda figure: picture)

"""Which solver of a PCA takes less time, by arithmetic: it follows from the map alone, never from memory or threads."""

from __future__ import annotations

from eds_chunked.decomposition.randomized import block_width

MOST_CHANNELS_OF_GRAM = 8192
"""At this many the matrix is 0.5 GB, and its eigenvalues take minutes."""

WORTH_WAITING = 30.0
"""Seconds that the whole eigenvalue spectrum, which only the exact solver has, is worth."""

# Seconds of one processor: a non-zero value (measured at 18 to 1500 counts a pixel, 1981 channels), and all
# eigenvalues of two matrices of 2048 channels.
_READ, _GRAM, _PRODUCT = 1e-8, 5e-8, 5e-10
_EIGENVALUES = 1.3
_PASSES = 17


def choose_solver(n_pixels: int, n_channels: int, filled: float, n_components: int) -> tuple[str, str]:
    """Return ``"gram"`` or ``"randomized"``, and the arithmetic behind it as text.

    Parameters
    ----------
    n_pixels, n_channels
        What is analysed.
    filled
        Mean number of channels of a pixel that are not zero.
    n_components
        Components wanted.
    """
    values = n_pixels * filled
    gram = values * (_READ + _GRAM) + _EIGENVALUES * (n_channels / 2048) ** 3
    randomized = _PASSES * values * (_READ + _PRODUCT * block_width(n_channels, n_components))
    said = (
        f"{n_pixels} pixels x {n_channels} channels, about {filled:.0f} of them filled: "
        f"gram {gram:.2g} s, randomized {randomized:.2g} s of one processor"
    )
    if n_channels > MOST_CHANNELS_OF_GRAM:
        return "randomized", f"{said}; gram stops at {MOST_CHANNELS_OF_GRAM} channels"
    if gram <= max(WORTH_WAITING, randomized):
        return "gram", said
    return "randomized", said

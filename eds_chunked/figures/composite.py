"""Three component maps in one: red, green and blue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from eds_chunked.errors import ParameterError
from eds_chunked.figures.maps import area_of, map_with_legend, show_map
from eds_chunked.figures.reading import block_means
from eds_chunked.figures.style import PAGE_MM, page_inches, phase_colours, styled
from eds_chunked.schema import COMPONENT, EXPLAINED_VARIANCE_RATIO, LOADINGS, UNASSIGNED, require

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

_TALLEST = 6.0
_SHOWN = (0.005, 0.995)
_CHANNELS = (("red", "#e00000"), ("green", "#00a000"), ("blue", "#0000e0"))


@styled
def draw_composite(
    result: xr.Dataset, *, components: tuple[int, int, int] = (1, 2, 3), width_mm: float = PAGE_MM
) -> Figure:
    """Draw three loading maps as the red, green and blue of one picture: a check on phases that no threshold made.

    Each map is scaled from the 0.5 to the 99.5 % quantile of what is shown. Pixels of one colour have one composition,
    as far as these components tell; a phase map that draws a border through them, or none between two colours, is to
    be doubted. The colours are no phases' colours, and not all of them are told apart by colour-blind readers.

    Parameters
    ----------
    result
        ``loadings`` (component, y, x) of a PCA or NMF.
    components
        Numbers of the components, from 1, in red, green and blue.
    width_mm
        Largest width of the figure on paper.

    Raises
    ------
    ChunkLayoutError
        ``result`` has no ``loadings``, or with other dimensions.
    ParameterError
        ``components`` are not three of those that there are, or ``width_mm`` is less than 80 or more than 500.

    Notes
    -----
    Memory: of a map that is not in memory, a row of its chunks at a time, and pictures of at most 1500 x 1500 pixels.

    References
    ----------
    Buse and Kearns (2018), Microsc. Microanal. 24, 1 (principal components as colours beside a phase map).
    """
    require(result, LOADINGS)
    n = result.sizes[COMPONENT]
    if len(components) != len(_CHANNELS) or not all(1 <= number <= n for number in components):
        raise ParameterError(
            "components",
            found=components,
            expected=f"three numbers of 1 to {n}",
            fix="components=(1, 2, 3), of a result with at least three components",
        )
    entries = [
        area_of(colour, f"{name}: {_words(result, number)}")
        for (name, colour), number in zip(_CHANNELS, components, strict=True)
    ]
    figure, axes = map_with_legend(
        result, entries, what="Composite of components", width=page_inches(width_mm), tallest=_TALLEST
    )
    channels = [_scaled(block_means(result[LOADINGS].isel({COMPONENT: number - 1}))) for number in components]
    picture = np.stack([np.ma.filled(channel, 0) for channel in channels], axis=-1)
    picture[np.any([np.ma.getmaskarray(channel) for channel in channels], axis=0)] = phase_colours()[UNASSIGNED]
    show_map(axes, picture, ds=result)
    return figure


def _words(result: xr.Dataset, number: int) -> str:
    words = f"component {number}"
    if EXPLAINED_VARIANCE_RATIO in result:
        words += f" ({100 * float(result[EXPLAINED_VARIANCE_RATIO][number - 1]):.2g} % of variance)"
    return words


def _scaled(image: np.ma.MaskedArray[Any, Any]) -> np.ma.MaskedArray[Any, Any]:
    shown = np.ma.compressed(image)
    low, high = (float(q) for q in np.quantile(shown, _SHOWN)) if shown.size else (0.0, 1.0)
    part = (np.clip(image.filled(low), low, high) - low) / ((high - low) or 1.0)
    return np.ma.masked_array(np.round(255 * part).astype(np.uint8), np.ma.getmaskarray(image))

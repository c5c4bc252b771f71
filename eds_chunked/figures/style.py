"""One look for all figures: sizes, fonts, the colour of a phase, and how a figure is written."""

from __future__ import annotations

import functools
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import matplotlib.colors
import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from eds_chunked.errors import ParameterError
from eds_chunked.schema import LEFT_OUT_LABEL, MIXED, TITLE, UNASSIGNED, phase_name, text

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.legend import Legend

Colours = np.ndarray[Any, np.dtype[np.uint8]]

COLUMN_MM = 89.0
PAGE_MM = 183.0
"""Widths of one and of two columns of a journal. Figures are drawn as wide as on paper: text keeps its size."""

PRINT_DPI = 200
_LETTERS_PER_INCH = 11
_LINE_INCHES = 0.16
# A name of a phase is anybody's text: what needs more lines than this is cut.
_MOST_LINES = 3
_NARROWEST_MM, _WIDEST_MM = 80.0, 500.0
# From here on a figure is too narrow for two things side by side.
_NARROW_INCHES = 5.0
INK = "#222222"
FAINT = "#b4b4b4"
# An exponent is 0.7 of it.
_SIZE_OF_POWERS = 8

_RC: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    # A power of ten that stands somewhere beside an axis is overlooked: numbers are written out.
    "axes.formatter.limits": (-6, 7),
    "axes.formatter.use_mathtext": True,
    "axes.formatter.useoffset": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 1.8,
    "ytick.minor.size": 1.8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "lines.linewidth": 0.9,
    "figure.titlesize": 9,
    "figure.constrained_layout.h_pad": 0.05,
    "figure.constrained_layout.w_pad": 0.05,
    "savefig.dpi": "figure",
    "svg.hashsalt": "eds_chunked",
}

# Okabe and Ito's colours without black, then five more that were searched so that each two of all these, and of the
# greys below, are at least 11 apart (CIEDE2000) with normal, red-blind and green-blind eyes. They are for areas: a
# yellow line on white is no line.
_PHASES = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#f0e442",
    "#0f0fb4",
    "#963c1e",
    "#4b004b",
    "#b4e1a5",
    "#5a000f",
)
BLUE, GREEN, PURPLE, VERMILION = (_PHASES[index] for index in (0, 2, 3, 5))
_UNASSIGNED = "#d2d2d2"
_MIXED = "#5a5a5a"
_LEFT_OUT = "#ffffff"


@contextmanager
def _style() -> Iterator[None]:
    # From the defaults, so that neither a user's matplotlibrc nor an earlier rcParams edit changes a figure.
    with matplotlib.style.context([_RC], after_reset=True):
        yield


class StyledFigure(Figure):
    """A Figure drawn in this package's style whoever draws it, that a notebook shows without pyplot."""

    def draw(self, renderer: Any) -> None:
        """Draw in the package's style: ticks are made at this moment and would else follow the global rcParams."""
        with _style(), warnings.catch_warnings():
            # A title in a script that the font does not have is drawn as boxes; nobody can act on a warning about it.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
            super().draw(renderer)

    def _repr_png_(self) -> bytes:
        return png(self)


P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a drawing function in the package's style and leave the global one as it was."""

    @functools.wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> R:
        with _style():
            return draw(*args, **kwargs)

    return in_style


def page_inches(width_mm: float) -> float:
    """Return the width of a figure in inches.

    Raises
    ------
    ParameterError
        The width is none that text of a readable size fits in.
    """
    if not _NARROWEST_MM <= width_mm <= _WIDEST_MM:
        raise ParameterError(
            "width_mm",
            found=width_mm,
            expected=f"{_NARROWEST_MM:g} to {_WIDEST_MM:g}",
            fix=f"width_mm={COLUMN_MM:g} for one column of a journal, {PAGE_MM:g} for two",
        )
    return width_mm / 25.4


def is_narrow(width: float) -> bool:
    """Tell whether a figure of ``width`` inches has no room for two things side by side."""
    return width < _NARROW_INCHES


def new_figure(width: float, height: float, *, what: str, title: str) -> Figure:
    """Return an empty figure (inches) headed by ``what`` and ``title``, if there is one.

    Where both have no room on one line the title gets lines of its own, two at most.
    """
    title = text(title)
    room = int(_LETTERS_PER_INCH * width)
    heading = f"{what}: {title}" if title else what
    if len(heading) > room:
        heading = wrapped(what, room) + (f"\n{wrapped(title, room, lines=2)}" if title else "")
        height += _LINE_INCHES * heading.count("\n")
    figure = StyledFigure(figsize=(width, height), dpi=PRINT_DPI, layout="constrained")
    # The user's words are never mathtext: a single $ in a title would end the drawing with an error.
    figure.suptitle(heading, x=0.01, ha="left", fontweight="bold", parse_math=False)
    return figure


def map_title(ds: xr.Dataset) -> str:
    """Return the title of the map that ``ds`` is, or was made from."""
    return str(ds.attrs.get(TITLE, ""))


def phase_word(ds: xr.Dataset, number: int, *, most: int = 24) -> str:
    """Return what figures call a phase, on lines of ``most`` letters: the name in ``ds``, else ``phase 3``."""
    return wrapped(phase_name(ds.attrs, number, f"phase {number}"), most)


def short(name: str, most: int) -> str:
    """Return a name on one line, cut to ``most`` letters."""
    name = text(name)
    return name if len(name) <= most else name[: most - 1].rstrip() + "…"


def wrapped(name: str, most: int = 24, *, lines: int = _MOST_LINES) -> str:
    """Return a name on as many lines of ``most`` letters as it needs; what has no room on ``lines`` of them is cut."""
    broken = textwrap.wrap(text(name), most, break_on_hyphens=False)
    if len(broken) > lines:
        broken[lines - 1 :] = [broken[lines - 1][: most - 1] + "…"]
    return "\n".join(broken)


def words_inches(words: str) -> float:
    """Return about how long small text is on paper: its longest line."""
    return 0.06 * max(map(len, words.split("\n")))


def scale_by_tens(axes: Axes) -> None:
    """Make the y axis logarithmic, its numbers as large as makes their exponents readable."""
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", labelsize=_SIZE_OF_POWERS)


def plain_legend(legend: Legend) -> None:
    """Let no ``$`` in the labels of ``legend`` start mathtext."""
    for label in legend.get_texts():
        label.set_parse_math(False)


def phase_colour(phase: int) -> str:
    """Return the colour of ``phase`` (1..n) in every figure, as #rrggbb.

    Unassigned (0) is light grey, mixed (255) dark grey, and left out of the analysis (256) white. The first twelve are
    told apart by colour-blind readers. From the 13th on they come again, darker.

    References
    ----------
    Okabe and Ito (2008), Color Universal Design; Machado, Oliveira and Fernandes (2009), IEEE Trans. Vis. Comput.
    Graph. 15, 1291 (the eyes that they were tried with).
    """
    greys = {UNASSIGNED: _UNASSIGNED, MIXED: _MIXED, LEFT_OUT_LABEL: _LEFT_OUT}
    if phase in greys:
        return greys[phase]
    again, index = divmod(phase - 1, len(_PHASES))
    rgb = np.asarray(matplotlib.colors.to_rgb(_PHASES[index])) * 0.7**again
    return matplotlib.colors.to_hex(tuple(rgb))


def phase_colours() -> Colours:
    """Return the table (257, 3) from label to red, green, blue; 256 is left out."""
    return np.array([_rgb(phase) for phase in range(LEFT_OUT_LABEL + 1)], dtype=np.uint8)


def _rgb(phase: int) -> list[int]:
    return [round(255 * part) for part in matplotlib.colors.to_rgb(phase_colour(phase))]


def png(figure: Figure) -> bytes:
    """Return ``figure`` as the bytes of a PNG file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=PRINT_DPI)
    return buffer.getvalue()


def save(figure: Figure, path: str | Path) -> Path:
    """Write ``figure`` to ``path`` in the format of its suffix (.png, .pdf, .svg, ...) and return the path.

    Raises
    ------
    ParameterError
        The suffix names no format that matplotlib writes.
    """
    path = Path(path)
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix.lower().lstrip(".") not in formats:
        raise ParameterError(
            "figure path",
            found=repr(path.name),
            expected="a suffix of " + ", ".join(f".{name}" for name in sorted(formats)),
            fix=f"save as {path.stem}.png",
        )
    figure.savefig(path, dpi=PRINT_DPI)
    return path

"""Association: which phases touch, along what length, what lies inside what, and how much surface is free."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from eds_chunked import schema
from eds_chunked.errors import ParameterError
from eds_chunked.phases.modal import (
    LEFT_OUT_LABEL,
    LEFT_OUT_ROW,
    UNASSIGNED_ROW,
    check_labels,
    label_rows,
    labels_of_rows,
)
from eds_chunked.phases.pieces import PiecesOfStrips

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Association", "association", "boundary_bias"]

Array = np.ndarray[Any, Any]

_N_LABELS = LEFT_OUT_LABEL + 1
_STRIP_PIXELS = 2**21
# Steps (y, x) from a pixel to its neighbour, in the order of the angles of _directions.
_STEPS = ((0, 1), (1, 1), (1, 0), (1, -1))

NEIGHBOUR = "neighbour"
HOST = "host"


@dataclass(frozen=True)
class Association:
    """What touches what, as tables; lengths in ``unit`` (``um``, or ``px`` on a map without pixel size).

    Parameters
    ----------
    contacts
        A row for each ordered pair of different rows of the modal table that touch: ``phase``, ``neighbour``,
        ``boundary_um``, ``percent`` (of the whole boundary of ``phase``), ``n_contacts`` (pairs of connected pieces,
        one of each, that share a pixel side: 0 where they meet at corners only).
    surfaces
        A row for each row of the modal table: ``phase``, ``n_pixels``, ``area_um2``, ``perimeter_um``, ``free_um`` and
        ``free_percent`` (liberation: the share of the perimeter that touches what counts as free),
        ``specific_surface_per_um`` (surface over volume, 4 / pi times perimeter over area), ``n_pieces`` (connected by
        pixel sides), ``n_enclosed`` and ``enclosed_percent`` (pieces that are inclusions, and their share of the
        phase's area), and ``reason``: why something is NaN.
    inclusions
        A row for each pair with inclusions: ``phase``, ``host``, ``n_pieces``, ``n_pixels``, ``area_um2``, ``percent``
        (of the phase's area).
    bias
        Smallest and largest relative error of the length of a long straight boundary, by its direction.
    labels
        Label of each row of ``surfaces``: 1..n phase, 0 unassigned, 255 mixed, 256 left out.
    """

    contacts: pd.DataFrame
    surfaces: pd.DataFrame
    inclusions: pd.DataFrame
    unit: str
    bias: tuple[float, float]
    labels: tuple[int, ...]
    title: str = field(default="", repr=False)

    def matrix(self, *, lengths: bool = False) -> pd.DataFrame:
        """Return the percent of the boundary of each row that touches each column; rows add up to 100.

        With ``lengths`` the boundary itself, in ``unit``: a symmetric table whose rows add up to perimeters. A row
        without boundary is NaN.
        """
        rows = self.surfaces[schema.PHASE].tolist()
        table = pd.DataFrame(0.0, index=pd.Index(rows, name=schema.PHASE), columns=pd.Index(rows, name=NEIGHBOUR))
        column = f"boundary_{self.unit}" if lengths else "percent"
        for phase, neighbour, value in self.contacts[[schema.PHASE, NEIGHBOUR, column]].itertuples(index=False):
            table.loc[phase, neighbour] = value
        none = self.surfaces[f"perimeter_{self.unit}"].to_numpy() == 0
        table.loc[none] = np.nan
        return table

    def plot(self) -> Figure:
        """Draw the association as a heat map."""
        from eds_chunked.figures.contacts import draw_association

        return draw_association(self)


def association(phases: xr.Dataset, *, free: Sequence[str] = (UNASSIGNED_ROW, LEFT_OUT_ROW)) -> Association:
    """Compute boundary lengths between phases, inclusions, free surface and specific surface; computes.

    Lengths come from Crofton's formula: pairs of neighbouring pixels of different labels are counted in four directions
    (along rows, columns and both diagonals), each weighted with the distance of its lines and its share of the half
    circle, so that pixels may be higher than wide. Counting pixel sides alone would be 27 % too long for boundaries of
    all directions (a factor of 4 / pi). A mean over all directions has no bias; a long straight boundary of square
    pixels is found 5.2 % too short along rows, columns and diagonals and up to 2.6 % too long between, see ``bias``.
    Where three phases meet, about a quarter of a pixel is lost: 0.5 % of all boundaries of grains of 50 pixels across
    that fill the map. Grains of few pixels are rougher than that, and two phases that meet at one corner of pixels only
    count as touching for 0.28 of a pixel.

    The map's border is no boundary: what lies beyond is not known. Unassigned, mixed and left-out pixels are neighbours
    like any phase. Where they form a film between two phases, these do not touch.

    An inclusion is a piece of a phase (connected by pixel sides) that the map's border does not cut and that has one
    phase around it, whatever lies in its own holes.

    Parameters
    ----------
    phases
        ``label`` (y, x) and the dimension ``phase``, as :func:`eds_chunked.segment_phases` and
        :func:`eds_chunked.dask_cluster` return them, or a selection of rows and columns. See
        :func:`eds_chunked.merge_phases` for names, and for phases that are one mineral.
    free
        Rows of the modal table whose contact makes a perimeter free, such as a resin's: names, or numbers of phases as
        text. Default: unassigned and left out.

    Returns
    -------
    Association

    Raises
    ------
    ChunkLayoutError
        ``phases`` lacks a variable or has other dimensions.
    ParameterError
        A label that is none of the phases, a selection without pixels, or ``free`` with a name that there is none of.

    Notes
    -----
    Memory: 50 MB for a strip of rows of 2 million pixels, and about 450 bytes for each connected piece of the map.
    Counts are integers: tables are the same to the last bit for every chunking.

    References
    ----------
    Legland, Kieu & Devaux (2007), Computation of Minkowski measures on 2D and 3D binary images, Image Anal. Stereol.
    26, 83; Underwood (1970), Quantitative Stereology (S_V = 4 / pi B_A); Fandrich et al. (2007), Modern SEM-based
    mineral liberation analysis, Int. J. Miner. Process. 84, 310.
    """
    schema.require(phases, schema.LABEL)
    if schema.PHASE not in phases.sizes or phases[schema.LABEL].size == 0:
        raise ParameterError(
            f"selection of {schema.LABEL!r}",
            found=dict(phases.sizes),
            expected="pixels, and the dimension phase",
            fix="pass what segment_phases or cluster returned, and check the ranges of ds.sel(y=..., x=...)",
        )
    n_phases = phases.sizes[schema.PHASE]
    height, width, unit = schema.pixel_size(phases)
    # Before the map is read. What is left out is known only then, so its name is always allowed.
    free_labels = _labels_called(free, phases)

    pairs = np.zeros((len(_STEPS), _N_LABELS, _N_LABELS), np.int64)
    n_pixels = np.zeros(_N_LABELS, np.int64)
    pieces_of_strips = PiecesOfStrips()
    above: Array | None = None
    for strip in _strips(phases):
        n_pixels += np.bincount(strip.ravel(), minlength=_N_LABELS)
        check_labels(n_pixels, n_phases)
        _count_pairs(pairs, strip if above is None else np.concatenate([above, strip]), repeated=above is not None)
        pieces_of_strips.add(strip)
        above = strip[-1:].copy()
    pieces = pieces_of_strips.join()

    weights = _weights(height, width)
    # A pair counts for both sides, whichever came first.
    lengths = sum((weight * (count + count.T) for weight, count in zip(weights, pairs, strict=True)), np.zeros(()))
    touching = np.zeros((_N_LABELS, _N_LABELS), np.int64)
    one, other = pieces.label[pieces.contacts].T
    np.add.at(touching, (one, other), 1)
    touching += touching.T
    order, rows = label_rows(phases, left_out=bool(n_pixels[LEFT_OUT_LABEL]))
    short = "px" if unit == schema.UNCALIBRATED else unit
    inclusions = _inclusions(pieces.label, pieces.host, pieces.n_pixels, n_phases)
    name = dict(zip(order, rows, strict=True))
    return Association(
        _contact_table(lengths, touching, name, short),
        _surface_table(
            lengths, n_pixels, pieces.label, inclusions, name, free_labels, n_phases, height * width, short, unit
        ),
        _inclusion_table(inclusions, n_pixels, name, height * width, unit),
        short,
        boundary_bias(height, width),
        tuple(order),
        str(phases.attrs.get(schema.TITLE, "")),
    )


def boundary_bias(height: float, width: float) -> tuple[float, float]:
    """Return the smallest and largest relative error of a long straight boundary, over all its directions.

    Parameters
    ----------
    height, width
        Size of a pixel.
    """
    angles, shares = _directions(height, width)
    # The error has its minima where a boundary is parallel to a direction, and one maximum between each two.
    along = np.sort(np.concatenate([angles, np.linspace(0, math.pi, 3601)]))
    found = 0.5 * (shares * np.abs(np.sin(along[:, None] - angles))).sum(axis=1)
    return float(found.min() - 1), float(found.max() - 1)


def _directions(height: float, width: float) -> tuple[Array, Array]:
    """Return the angles of rows, diagonals and columns, and the part of the half circle that each stands for."""
    diagonal = math.atan2(height, width)
    angles = np.array([0, diagonal, math.pi / 2, math.pi - diagonal])
    return angles, np.array([diagonal, math.pi / 4, math.pi / 2 - diagonal, math.pi / 4])


def _weights(height: float, width: float) -> Array:
    """Return the length of boundary that a pair of pixels stands for, in each direction."""
    _, shares = _directions(height, width)
    between_diagonals = height * width / math.hypot(height, width)
    weights: Array = 0.5 * shares * np.array([height, between_diagonals, width, between_diagonals])
    return weights


def _strips(phases: xr.Dataset) -> Iterator[Array]:
    n_rows, n_columns = phases[schema.LABEL].shape
    rows = max(1, _STRIP_PIXELS // n_columns)
    for top in range(0, n_rows, rows):
        yield labels_of_rows(phases, top, min(n_rows, top + rows))


def _count_pairs(pairs: Array, strip: Array, *, repeated: bool) -> None:
    """Add the pairs of neighbours with different labels; the first row of a strip may be the last of the one before."""
    n_rows, n_columns = strip.shape
    for place, (down, right) in enumerate(_STEPS):
        first = 1 if repeated and not down else 0
        left = max(0, -right)
        one = strip[first : n_rows - down, left : n_columns - max(0, right)]
        other = strip[first + down :, left + right : n_columns + min(0, right)]
        differ = one != other
        code = one[differ].astype(np.int64) * _N_LABELS + other[differ]
        pairs[place] += np.bincount(code, minlength=_N_LABELS**2).reshape(_N_LABELS, _N_LABELS)


def _labels_called(free: Sequence[str], phases: xr.Dataset) -> list[int]:
    order, rows = label_rows(phases, left_out=True)
    called = dict(zip(rows, order, strict=True)) | {
        str(number): number for number in order[: phases.sizes[schema.PHASE]]
    }
    names = [free] if isinstance(free, str) else [str(name) for name in free]
    wrong = [name for name in names if name not in called]
    if wrong:
        raise ParameterError("free", found=wrong, expected=f"some of {rows}", fix=f"free=[{UNASSIGNED_ROW!r}]")
    return [called[name] for name in names]


def _inclusions(label: Array, host: Array, size: Array, n_phases: int) -> dict[tuple[int, int], tuple[int, int]]:
    """Return pieces and pixels by phase and host."""
    inside = (label >= 1) & (label <= n_phases) & (host >= 1) & (host <= n_phases)
    pair, place = np.unique(np.stack([label[inside], host[inside]]), axis=1, return_inverse=True)
    counts = np.bincount(place.ravel(), minlength=pair.shape[1])
    pixels = np.zeros(pair.shape[1], np.int64)
    np.add.at(pixels, place.ravel(), size[inside])
    return {
        (int(phase), int(around)): (int(count), int(n))
        for phase, around, count, n in zip(*pair, counts, pixels, strict=True)
    }


def _contact_table(lengths: Array, touching: Array, name: dict[int, str], short: str) -> pd.DataFrame:
    perimeter = lengths.sum(axis=1)
    found = [
        (name[one], name[other], lengths[one, other], 100 * lengths[one, other] / perimeter[one], touching[one, other])
        for one in name
        for other in name
        if lengths[one, other] > 0
    ]
    return pd.DataFrame(found, columns=[schema.PHASE, NEIGHBOUR, f"boundary_{short}", "percent", "n_contacts"])


def _surface_table(
    lengths: Array,
    n_pixels: Array,
    label_of_piece: Array,
    inclusions: dict[tuple[int, int], tuple[int, int]],
    name: dict[int, str],
    free: list[int],
    n_phases: int,
    pixel_area: float,
    short: str,
    unit: str,
) -> pd.DataFrame:
    n_pieces = np.bincount(label_of_piece, minlength=_N_LABELS)
    rows = []
    for label, called in name.items():
        area, perimeter = float(n_pixels[label] * pixel_area), float(lengths[label].sum())
        is_phase = 1 <= label <= n_phases
        inside = [found for (phase, _), found in inclusions.items() if phase == label]
        open_to = float(lengths[label, [other for other in free if other != label]].sum())
        reason = "" if perimeter else "no pixels" if not area else "no boundary within the map"
        rows.append(
            {
                schema.PHASE: called,
                schema.N_PIXELS: n_pixels[label],
                schema.measured(schema.AREA, unit): area,
                f"perimeter_{short}": perimeter,
                f"free_{short}": open_to,
                "free_percent": 100 * open_to / perimeter if perimeter else np.nan,
                f"specific_surface_per_{short}": 4 / math.pi * perimeter / area if area else np.nan,
                "n_pieces": n_pieces[label],
                "n_enclosed": sum(count for count, _ in inside),
                "enclosed_percent": 100 * sum(n for _, n in inside) / n_pixels[label]
                if is_phase and n_pixels[label]
                else np.nan,
                "reason": reason or ("" if is_phase else "no phase"),
            }
        )
    return pd.DataFrame(rows)


def _inclusion_table(
    inclusions: dict[tuple[int, int], tuple[int, int]],
    n_pixels: Array,
    name: dict[int, str],
    pixel_area: float,
    unit: str,
) -> pd.DataFrame:
    found = [
        (name[phase], name[host], count, n, n * pixel_area, 100 * n / n_pixels[phase])
        for (phase, host), (count, n) in inclusions.items()
    ]
    columns = [schema.PHASE, HOST, "n_pieces", schema.N_PIXELS, schema.measured(schema.AREA, unit), "percent"]
    return pd.DataFrame(found, columns=columns)

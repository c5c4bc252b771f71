"""Discs and polygons drawn on a grid of pixels, with the areas, diameters and contacts that geometry gives them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.spatial import Voronoi, cKDTree

from eds_chunked import schema
from eds_chunked.errors import ParameterError

Array = np.ndarray[Any, Any]

_MOST_TRIES = 400
_MOST_OVERLAP = 0.2


@dataclass(frozen=True, eq=False)
class KnownShapes:
    """A phase map whose grains are known, and what is known of them. Made by ``discs`` and ``polygons``.

    Parameters
    ----------
    phases
        ``label`` and ``mask`` with coordinates in um, as :func:`eds_chunked.segment_phases` returns them.
    shape_number
        (y, x) number of the shape that the centre of each pixel lies in, from 1; 0 between shapes.
    table
        A row a shape: ``shape``, ``phase``, ``area_um2``, ``ecd_um``, ``centroid_y_um``, ``centroid_x_um``,
        ``perimeter_um`` and ``touches_edge``. Of the shapes themselves, not of their pixels.
    contacts
        A row a pair of shapes that touch along a line: ``shape``, ``neighbour`` (the larger number), and
        ``boundary_um``.
    """

    phases: xr.Dataset
    shape_number: Array = field(repr=False)
    table: pd.DataFrame = field(repr=False)
    contacts: pd.DataFrame = field(repr=False)

    def phase_contacts(self) -> pd.DataFrame:
        """Return phase, neighbour (the larger number), ``boundary_um`` and number of contacts of different phases."""
        phase = self.table.set_index("shape")[schema.PHASE]
        pair = np.sort([phase.loc[self.contacts["shape"]], phase.loc[self.contacts["neighbour"]]], axis=0)
        found = self.contacts.assign(phase=pair[0], neighbour=pair[1], n=1)
        found = found[found[schema.PHASE] != found["neighbour"]]
        return found.groupby([schema.PHASE, "neighbour"], as_index=False)[["boundary_um", "n"]].sum()


def discs(
    shape: tuple[int, int],
    *,
    diameters_um: tuple[float, float],
    n_discs: int,
    overlap: float | None = None,
    pixel_size: tuple[float, float] = (1.0, 1.0),
    seed: int = 0,
) -> KnownShapes:
    """Draw discs of one phase at random places; what is between them has no phase.

    Parameters
    ----------
    shape
        Rows and columns.
    diameters_um
        Smallest and largest diameter; they are drawn evenly between.
    n_discs
        Number of discs.
    overlap
        None: discs stay two pixels apart. Otherwise each new disc is moved until it reaches into its nearest neighbour,
        by this part (0 to 0.2) of the smaller radius, so that discs form clusters; what two discs share is divided
        between them by the chord through the points where they meet.
    pixel_size
        Height and width of a pixel in um.
    seed
        Of sizes and places.

    Returns
    -------
    KnownShapes
        All discs lie whole in the map.

    Raises
    ------
    ParameterError
        An overlap that is not 0 to 0.2, or more discs than find a place.

    Notes
    -----
    Memory: some 20 bytes a pixel.
    """
    if overlap is not None and not 0 <= overlap <= _MOST_OVERLAP:
        raise ParameterError(
            "overlap", found=overlap, expected=f"a part of the radius from 0 to {_MOST_OVERLAP}", fix="overlap=0.1"
        )
    extent = np.multiply(shape, pixel_size)
    centre, radius = _places(extent, np.divide(diameters_um, 2), n_discs, overlap, 2 * max(pixel_size), seed)
    y, x = ((np.arange(n) + 0.5) * size for n, size in zip(shape, pixel_size, strict=True))
    number = np.zeros(shape, np.int32)
    # The chord between two discs is where the powers of a point to both circles are equal.
    power = np.zeros(shape)
    for i, ((cy, cx), r) in enumerate(zip(centre, radius, strict=True), start=1):
        rows, columns = (slice(*np.searchsorted(axis, (c - r, c + r + size)))
                         for axis, c, size in ((y, cy, pixel_size[0]), (x, cx, pixel_size[1])))  # fmt: skip
        here = (y[rows, None] - cy) ** 2 + (x[columns] - cx) ** 2 - r**2
        inside = here < power[rows, columns]
        number[rows, columns][inside] = i
        power[rows, columns][inside] = here[inside]

    pairs = np.array([(i, j, *_chord(centre[i], radius[i], centre[j], radius[j]))
                      for i, j in sorted(cKDTree(centre).query_pairs(2 * radius.max()))]).reshape(-1, 7)  # fmt: skip
    pairs = pairs[pairs[:, 2] > 0]
    area, perimeter = np.pi * radius**2, 2 * np.pi * radius
    for end, (segment, arc) in enumerate(((3, 5), (4, 6))):
        which = pairs[:, end].astype(int)
        np.subtract.at(area, which, pairs[:, segment])
        np.add.at(perimeter, which, pairs[:, 2] - pairs[:, arc])
    table = _table(np.ones(n_discs, int), area, perimeter, centre, np.zeros(n_discs, bool))
    return KnownShapes(_phases(number > 0, 1, pixel_size), number, table, _contacts(pairs))


def polygons(
    shape: tuple[int, int],
    *,
    n_polygons: int,
    n_phases: int = 6,
    pixel_size: tuple[float, float] = (1.0, 1.0),
    seed: int = 0,
) -> KnownShapes:
    """Draw the Voronoi polygons of random points, which fill the map; no two of one phase share a side.

    Parameters
    ----------
    shape
        Rows and columns.
    n_polygons
        Number of polygons. Their points keep a distance, so that polygons are of similar size.
    n_phases
        Number of phases, 6 at least: with fewer two of one phase might have to touch.
    pixel_size
        Height and width of a pixel in um.
    seed
        Of the places.

    Returns
    -------
    KnownShapes
        The map's border is no part of any perimeter.

    Raises
    ------
    ParameterError
        Fewer than 6 phases, or fewer polygons than phases.

    Notes
    -----
    Memory: some 30 bytes a pixel.
    """
    if not 6 <= n_phases <= n_polygons:
        raise ParameterError("n_phases", found=n_phases, expected=f"6 to n_polygons={n_polygons}", fix="n_phases=6")
    extent = np.multiply(shape, pixel_size)
    points = _apart(extent, n_polygons, seed)
    # Mirrored points give polygons that end at the map's border.
    mirrors = [points * flip + 2 * extent * shift for flip, shift in (
        ((-1, 1), (0, 0)), ((1, -1), (0, 0)), ((-1, 1), (1, 0)), ((1, -1), (0, 1)))]  # fmt: skip
    diagram = Voronoi(np.concatenate([points, *mirrors]))
    pairs, perimeter, at_edge = [], np.zeros(n_polygons), np.zeros(n_polygons, bool)
    for both, ends in zip(diagram.ridge_points, diagram.ridge_vertices, strict=True):
        one, other = sorted(map(int, both))
        if one >= n_polygons:
            continue
        if other >= n_polygons:
            at_edge[one] = True
            continue
        length = float(np.linalg.norm(np.subtract(*diagram.vertices[ends])))
        perimeter[[one, other]] += length
        pairs.append((one, other, length))
    area, centroid = np.empty(n_polygons), np.empty((n_polygons, 2))
    for i in range(n_polygons):
        area[i], centroid[i] = _area(diagram.vertices[diagram.regions[diagram.point_region[i]]], points[i])
    y, x = ((np.arange(n) + 0.5) * size for n, size in zip(shape, pixel_size, strict=True))
    number = np.empty(shape, np.int32)
    tree = cKDTree(points)
    for row, at in enumerate(y):
        number[row] = tree.query(np.column_stack([np.full(len(x), at), x]))[1] + 1
    phase = _colours(n_polygons, pairs, n_phases)
    table = _table(phase, area, perimeter, centroid, at_edge)
    return KnownShapes(_phases(phase[number - 1], n_phases, pixel_size), number, table, _contacts(np.array(pairs)))


def _places(
    extent: Array, radii: Array, n_discs: int, overlap: float | None, gap: float, seed: int
) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    centre, radius = np.empty((n_discs, 2)), np.empty(n_discs)
    for i in range(n_discs):
        r = rng.uniform(*radii)
        for _ in range(_MOST_TRIES):
            at = rng.uniform(r + gap, extent - r - gap)
            way = at - centre[:i]
            apart = np.hypot(*way.T) - radius[:i] - r
            if overlap is not None and i:
                near = int(apart.argmin())
                target = radius[near] + r - overlap * min(r, radius[near])
                at = centre[near] + way[near] * target / np.hypot(*way[near])
                apart = np.hypot(*(at - centre[:i]).T) - radius[:i] - r
                # No third disc may come so near that it is unclear whether it touches.
                apart[near] = np.inf
            if (apart > gap).all() and (at > r + gap).all() and (at < extent - r - gap).all():
                centre[i], radius[i] = at, r
                break
        else:
            raise ParameterError(
                "n_discs", found=n_discs, expected=f"at most {i}, which found a place", fix="a larger shape"
            )
    return centre, radius


def _chord(one: Array, r: float, other: Array, s: float) -> tuple[float, float, float, float, float]:
    """Return the length of the chord of two circles, and of each its segment and arc beyond the chord; 0 if apart."""
    d = float(np.hypot(*(one - other)))
    # Circles that only touch meet in a point, whatever rounding makes of it.
    if d >= (r + s) * (1 - 1e-9):
        return (0.0,) * 5
    angles = [math.acos((d * d + a * a - b * b) / (2 * d * a)) for a, b in ((r, s), (s, r))]
    segments = [a * a * (angle - math.sin(angle) * math.cos(angle)) for a, angle in zip((r, s), angles, strict=True)]
    return 2 * r * math.sin(angles[0]), segments[0], segments[1], 2 * r * angles[0], 2 * s * angles[1]


def _apart(extent: Array, n: int, seed: int) -> Array:
    """Return ``n`` random points, each the one of 20 that is furthest from those before it (Mitchell 1991)."""
    rng = np.random.default_rng(seed)
    points = np.empty((n, 2))
    for i in range(n):
        tried = rng.uniform(0, extent, (20, 2))
        free = np.array([np.inf] * 20) if not i else ((tried[:, None] - points[:i]) ** 2).sum(axis=2).min(axis=1)
        points[i] = tried[free.argmax()]
    return points


def _area(corners: Array, middle: Array) -> tuple[float, Array]:
    """Return the area and the centroid of a convex polygon around ``middle``, whatever the order of its corners."""
    off = corners - middle
    off = off[np.argsort(np.arctan2(off[:, 0], off[:, 1]))]
    following = np.roll(off, -1, axis=0)
    twice = off[:, 1] * following[:, 0] - off[:, 0] * following[:, 1]
    area = float(twice.sum() / 2)
    return area, middle + ((off + following) * twice[:, None]).sum(axis=0) / (6 * area)


def _colours(n: int, pairs: list[tuple[int, int, float]], n_phases: int) -> Array:
    """Return phases 1..n_phases, different on both sides of each contact, and about equally often used."""
    near: list[set[int]] = [set() for _ in range(n)]
    for one, other, _ in pairs:
        near[one].add(other)
        near[other].add(one)
    # A planar graph always has a node with at most five neighbours left: taken off last to first, six colours do.
    order, left = [], [set(those) for those in near]
    todo = set(range(n))
    while todo:
        node = min(todo, key=lambda i: (len(left[i]), i))
        todo.remove(node)
        order.append(node)
        for other in left[node]:
            left[other].discard(node)
    phase, used = np.zeros(n, int), np.zeros(n_phases + 1, int)
    for node in reversed(order):
        taken = {int(phase[other]) for other in near[node]}
        phase[node] = min((p for p in range(1, n_phases + 1) if p not in taken), key=lambda p: (used[p], p))
        used[phase[node]] += 1
    return phase


def _phases(label: Array, n_phases: int, pixel_size: tuple[float, float]) -> xr.Dataset:
    label = label.astype(np.uint8)
    numbers = np.arange(1, n_phases + 1)
    dims = (schema.Y, schema.X)
    axes = {
        axis: (axis, (np.arange(n) + 0.5) * size, {"units": schema.MICROMETRE})
        for axis, n, size in zip(dims, label.shape, pixel_size, strict=True)
    }
    variables: dict[str, tuple[tuple[str, ...], Array, dict[str, str]]] = {
        schema.LABEL: (dims, label, schema.attributes(schema.LABEL)),
        schema.MASK: ((schema.PHASE, *dims), label == numbers[:, None, None], schema.attributes(schema.MASK)),
    }
    return xr.Dataset(
        variables, coords={**axes, schema.PHASE: numbers}, attrs={schema.PIXEL_SIZE: [float(s) for s in pixel_size]}
    )


def _table(phase: Array, area: Array, perimeter: Array, centroid: Array, at_edge: Array) -> pd.DataFrame:
    um = schema.MICROMETRE
    return pd.DataFrame(
        {
            "shape": np.arange(1, len(phase) + 1),
            schema.PHASE: phase,
            schema.measured(schema.AREA, um): area,
            schema.measured(schema.ECD, um): 2 * np.sqrt(area / np.pi),
            schema.measured(schema.CENTROID_Y, um): centroid[:, 0],
            schema.measured(schema.CENTROID_X, um): centroid[:, 1],
            "perimeter_um": perimeter,
            schema.TOUCHES_EDGE: at_edge,
        }
    )


def _contacts(pairs: Array) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "shape": pairs[:, 0].astype(int) + 1,
            "neighbour": pairs[:, 1].astype(int) + 1,
            "boundary_um": pairs[:, 2].astype(float),
        }
    )

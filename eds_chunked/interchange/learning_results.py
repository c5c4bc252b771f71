"""HyperSpy's learning results as a file: read and written without HyperSpy, and without pickles."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from eds_chunked import progress, schema
from eds_chunked.decomposition.low_rank import with_mean
from eds_chunked.engine.planning import plan
from eds_chunked.engine.scratch import scratch_folder
from eds_chunked.errors import ParameterError
from eds_chunked.interchange.decompositions import (
    ALGORITHM,
    FACTORS,
    KINDS,
    LOADINGS,
    Results,
    adopt,
    check_shapes,
    hyperspy_members,
    names_of,
)
from eds_chunked.interchange.means import (
    CENTRE,
    MEAN_IS_FIRST,
    NAVIGATION_MASK,
    POISSON_SCALED,
    SIGNAL_MASK,
    with_whole_mean,
)
from eds_chunked.interchange.npz import Member, NpzFile, Rows, open_npz, write_npz
from eds_chunked.interchange.variances import EXPLAINED_VARIANCE
from eds_chunked.memory import Need, n_cpus
from eds_chunked.store.backend import room_at
from eds_chunked.store.results import reads_of
from eds_chunked.store.whole_files import written_whole

Array = np.ndarray[Any, Any]

_SUFFIX = ".npz"
_EARLIER_NAMES = {
    "algorithm": ALGORITHM["decomposition"],
    "pca_algorithm": ALGORITHM["decomposition"],
    "V": EXPLAINED_VARIANCE,
    "v": LOADINGS["decomposition"],
    "scores": LOADINGS["decomposition"],
    "ica_algorithm": ALGORITHM["bss"],
    "ica_scores": LOADINGS["bss"],
    "ica_factors": FACTORS["bss"],
}
"""What earlier versions of HyperSpy called the same."""
_COMPONENTS = "pc"
"""An early name of the components: of their maps or, by its shape, of their spectra."""
_SINGLE = {
    ALGORITHM["decomposition"]: "U",
    ALGORITHM["bss"]: "U",
    CENTRE: "U",
    POISSON_SCALED: "b",
    MEAN_IS_FIRST: "b",
}
_MASKS = (NAVIGATION_MASK, SIGNAL_MASK)
"""The members that are no arrays of real numbers: of what kind a single value is, and the masks."""
_ROWS = 256
"""Rows of a map that is in memory to write at once."""


def write_learning_results(
    result: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    memory: str | int | None = None,
) -> Path:
    """Write a PCA or NMF as HyperSpy's learning results (.npz); computes, streams the loadings.

    ``signal.learning_results.load(path)`` reads it in HyperSpy, for a signal of the same pixels and channels. Names,
    shapes and units are HyperSpy's: ``factors`` (channels, components) and ``loadings`` (pixels, components), pixels
    row by row, such that ``loadings @ factors.T`` is the model of the counts; NaN and a mask where pixels or channels
    were left out. All members are plain arrays. What is not known is not in the file, so a signal that already has
    other results should be a fresh one.

    The mean of a centred PCA is the first of HyperSpy's components, and no member ``mean``: HyperSpy 2.5 cannot make a
    model with a mean spectrum. So ``get_decomposition_model()`` is :func:`reconstruct`. Its explained variance is the
    square of the mean, and ratios are of the whole then.

    Parameters
    ----------
    result
        Dataset with ``factors`` (component, energy) and ``loadings`` (component, y, x).
    path
        File to write; its name ends in .npz.
    overwrite
        Replace an existing file.
    memory
        Budget for the resident memory of the whole process, such as ``"1GB"``.

    Returns
    -------
    The path of the file, which is there when it is whole.

    Raises
    ------
    ParameterError
        Another suffix, or the folder does not exist.
    StoreExistsError
        The file exists and ``overwrite`` is false.
    StoreFullError
        The disk is full.
    MemoryBudgetError
        A row of the loadings does not fit the budget.

    Notes
    -----
    Memory: some rows of the loadings, as many as the budget allows, and one chunk of them for each thread.

    References
    ----------
    HyperSpy user guide, "Multivariate analysis", saving and loading results.
    """
    target = Path(path)
    if target.suffix.lower() != _SUFFIX:
        raise ParameterError(
            f"learning results {target}",
            found=f"suffix {target.suffix!r}",
            expected=_SUFFIX,
            fix=f"{target.stem}{_SUFFIX}",
        )
    members = hyperspy_members(result)
    whole = with_mean(result)
    rows = _rows_at_once(whole, memory)
    height, width, k = (whole.sizes[axis] for axis in (schema.Y, schema.X, schema.COMPONENT))
    dtype = whole[schema.LOADINGS].dtype
    members[LOADINGS["decomposition"]] = Rows((height * width, k), dtype, loading_rows(whole, rows))
    with written_whole(target, overwrite=overwrite) as draft:
        write_npz(draft, {name: members[name] for name in sorted(members)})
    return target


def loading_rows(result: xr.Dataset, rows: int) -> Iterator[Array]:
    """Yield the loadings as (pixels, components), ``rows`` rows of the map at a time."""
    loadings = result[schema.LOADINGS].transpose(schema.Y, schema.X, schema.COMPONENT)
    with progress.step("loadings", loadings.sizes[schema.Y], unit="rows") as done:
        for first in range(0, loadings.sizes[schema.Y], rows):
            # Here, whatever cluster is active: they pass through this process anyway.
            piece = loadings.isel({schema.Y: slice(first, first + rows)}).compute(scheduler="threads").values
            yield piece.reshape(-1, piece.shape[2])
            done(len(piece))


def _rows_at_once(result: xr.Dataset, memory: str | int | None) -> int:
    """Return the rows to read at once: a row of chunks, or as much of it as the budget allows."""
    loadings = result[schema.LOADINGS].variable
    height, width, k = (result.sizes[axis] for axis in (schema.Y, schema.X, schema.COMPONENT))
    itemsize = loadings.dtype.itemsize
    chunk = 0
    rows = _ROWS
    if loadings.chunks is not None:
        sides = {axis: max(sizes) for axis, sizes in zip(loadings.dims, loadings.chunks, strict=True)}
        chunk, rows = itemsize * int(np.prod(list(sides.values()))), sides[schema.Y]
    # A row is there as it was read, with the mean, joined, with its components last, and on its way into the file.
    need = Need("learning results", 2 * n_cpus() * chunk, 5 * width * k * itemsize)
    how = plan(
        need,
        memory=memory,
        max_workers=min(rows, height),
        reads=[reads_of(result, schema.LOADINGS)],
        writes=result.nbytes,
    )
    return how.workers


def read_learning_results(
    ds: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    results: Results = "decomposition",
    name: str | None = None,
) -> xr.Dataset:
    """Read HyperSpy's learning results (.npz) as a result of a map; reads the file, and none of the counts.

    What HyperSpy 2 writes with ``signal.learning_results.save`` and what its earlier versions wrote. Nothing is
    unpickled: members that hold Python objects, which HyperSpy makes of all that it does not know, are left out, and
    one warning lists them. Components keep their order and sign.

    Parameters
    ----------
    ds
        The map that was decomposed, with the same pixels and channels: ``eds_chunked.open(store)``, or a selection.
    path
        The file.
    results
        ``"decomposition"``, or ``"bss"`` for the blind source separation that followed it.
    name
        Name of the run when the result is saved; default ``hs<number of components>``.

    Returns
    -------
    Dataset of step ``nmf`` (by the algorithm, or where that is not known: nothing is negative), ``pca`` (it explains
    variance) or ``decompose`` (the rest), with ``factors`` (component, energy) and ``loadings`` (component, y, x;
    float32, lazy), and where there are such ``explained_variance``, ``explained_variance_ratio`` and ``eigenvalues``,
    and of centred results ``mean_spectrum`` (energy), ``mean_loading`` (y, x) and ``mean_variance``.
    HyperSpy's masks, and what is NaN, become ``analysed_pixel`` and ``analysed_channel``.

    Raises
    ------
    SourceError, SourceNotFoundError
        The file is not there, damaged, or no .npz.
    ChunkLayoutError
        The results are of another map, region or window.
    ParameterError
        There are no such results in the file, or infinite values.

    Notes
    -----
    Memory: the factors and one million loadings. The loadings are unpacked into a scratch file, as large as they are;
    its size is checked against the map before.

    Examples
    --------
    >>> import eds_chunked as edc  # doctest: +SKIP
    >>> result = edc.read_learning_results(edc.open("map.zarr"), "results.npz")
    >>> edc.save(result, "map.zarr", name="hs4")
    """
    if results not in KINDS:
        raise ParameterError(
            "results", found=repr(results), expected=" or ".join(map(repr, KINDS)), fix=f"results={KINDS[0]!r}"
        )
    schema.require(ds, schema.COUNTS)
    place = Path(path)
    with open_npz(place) as file:
        if file.objects:
            warnings.warn(
                f"{place}: left out members that are Python objects (None, most of them) or no numbers: "
                f"{', '.join(file.objects)}",
                stacklevel=2,
            )
        members = _by_todays_names(file.members, ds)
        wanted = {name: members[name] for name in names_of(results) if name in members}
        for known, member in wanted.items():
            kinds = _SINGLE.get(known, "b" if known in _MASKS else "iuf")
            if member.dtype.kind not in kinds or (known in _SINGLE and member.shape):
                file.refuse(member.name, f"{member.dtype} values of shape {member.shape}")
        shapes = {known: member.shape for known, member in wanted.items()}
        check_shapes(ds, shapes, results=results, where=str(place))
        height, width, n_channels = (ds.sizes[axis] for axis in schema.VARIABLES[schema.COUNTS].dims)
        found = _read(file, wanted, LOADINGS[results])
        found = with_whole_mean(found, n_pixels=height * width, n_channels=n_channels, where=str(place))
    source = os.path.abspath(place)
    return adopt(ds, found, results=results, name=name, where=str(place), source=source)


def _by_todays_names(members: Mapping[str, Member], ds: xr.Dataset) -> dict[str, Member]:
    """Return members by the names that HyperSpy 2 gives them."""
    found: dict[str, Member] = {}
    for name, member in members.items():
        if name in _EARLIER_NAMES:
            found.setdefault(_EARLIER_NAMES[name], member)
    found |= {name: member for name, member in members.items() if name not in _EARLIER_NAMES}
    if _COMPONENTS in found:
        spectra = found[_COMPONENTS].shape[:1] == (ds.sizes[schema.ENERGY],)
        found.setdefault((FACTORS if spectra else LOADINGS)["decomposition"], found[_COMPONENTS])
    return found


def _read(file: NpzFile, wanted: Mapping[str, Member], mapped: str) -> dict[str, Any]:
    """Read the members that are small, and unpack one to be mapped."""
    found: dict[str, Any] = {}
    for known, member in wanted.items():
        if known == mapped:
            scratch = Path(scratch_folder()) / "loadings"
            with room_at(scratch):
                found[known] = file.mapped(member.name, scratch)
        else:
            values = file.read(member.name)
            found[known] = values if values.ndim else values.item()
    return found

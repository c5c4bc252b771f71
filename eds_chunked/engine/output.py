"""Where the results of a step go while they are computed."""

from __future__ import annotations

import os
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.engine.blocks import Blocks
from eds_chunked.engine.scratch import scratch_folder
from eds_chunked.store.backend import is_remote
from eds_chunked.store.drafts import Draft
from eds_chunked.store.opening import is_ours, open_map
from eds_chunked.store.provenance import result_attributes


def analysed(ds: xr.Dataset, blocks: Blocks) -> dict[str, Any]:
    """Return what a result says of its counts: the window of energies, and whether they were changed before."""
    energy = ds[schema.ENERGY].values if schema.ENERGY in ds.coords else np.arange(blocks.n_channels)
    half = abs(float(energy[-1] - energy[0])) / max(1, 2 * (len(energy) - 1))
    said: dict[str, Any] = {"energy": [float(energy.min()) - half, float(energy.max()) + half]}
    if blocks.channels is not None:
        said["exclude_energy"] = [
            [float(energy[first]) - half, float(energy[last]) + half] for first, last in _runs(~blocks.channels)
        ]
    return said | changed(ds, blocks)


def changed(ds: xr.Dataset, blocks: Blocks) -> dict[str, Any]:
    """Return what a result says of its counts beside the energies: rebinned, transformed, with parts left out."""
    said: dict[str, Any] = {}
    if schema.REBIN in ds.attrs:
        said[schema.REBIN] = list(ds.attrs[schema.REBIN])
    elif blocks.are_transformed:
        said["counts"] = "transformed before the step"
    digests = blocks.mask_digests
    if blocks.pixels is not None:
        said["pixels_left_out"] = blocks.n_pixels - blocks.n_used
        said["pixel_mask"] = digests[schema.ANALYSED_PIXEL]
    if blocks.channels is not None:
        said["channels_left_out"] = blocks.shape[2] - blocks.n_channels
        said["channel_mask"] = digests[schema.ANALYSED_CHANNEL]
    return said


def _runs(mask: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    """Return the first and last index of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(first), int(stop) - 1) for first, stop in edges.reshape(-1, 2)]


def begin_result(
    ds: xr.Dataset,
    step: str,
    run: str,
    template: xr.Dataset,
    parameters: dict[str, Any],
    blocks: Blocks,
    *,
    parent: xr.Dataset | None = None,
) -> Draft:
    """Start a result of the map ``ds`` like ``template``, whose lazy variables will be filled piece by piece.

    It goes to the store that ``ds`` came from; where there is none, or it is read-only or holds another map by now,
    to a scratch store. With a ``parent`` it is made from that result too, which says what energies it is of.
    """
    home = _home(ds)
    draft = Draft(scratch_folder() if home is None else home, step, run)
    said = parameters | (analysed(ds, blocks) if parent is None else changed(ds, blocks))
    attrs = result_attributes(ds if parent is None else parent, step, said, blocks.identity) | {schema.RUN: run}
    draft.declare(template.assign_attrs(attrs))
    return draft


def empty_maps(blocks: Blocks, n_layers: int) -> da.Array:
    """Declare float32 maps (layers, y, x) whose chunks are the lanes of ``blocks``; there is nothing to compute."""
    side = blocks.lane_side
    shape = (n_layers, *blocks.shape[:2])
    return da.empty(shape, dtype=np.float32, chunks=(n_layers, *(min(side, size) for size in shape[1:])))


def _home(ds: xr.Dataset) -> str | None:
    home = ds.encoding.get("source")
    if home is None or schema.FINGERPRINT not in ds.attrs:
        return None
    if not is_remote(home) and not os.access(home, os.W_OK):
        return None
    if not is_ours(home) or open_map(home).attrs[schema.FINGERPRINT] != ds.attrs[schema.FINGERPRINT]:
        return None
    return str(home)
